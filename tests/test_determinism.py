"""Two runs of one setting end with the same bits, however many workers load their images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import train
from utils.checkpoint import load_checkpoint

TABLES = ("results.csv", "per_class.csv", "thresholds.yaml")


def run_once(tmp_path: Path, data: Path, name: str, workers: int, epochs: int, hyp: str) -> dict[str, object]:
    """Train; return the weights of last.pt and best.pt and the tables."""
    opt = train.run(
        data=str(data), weights="", cfg="yolov5n.yaml", imgsz=64, batch_size=4, device="cpu", workers=workers, hyp=hyp,
        epochs=epochs, project=str(tmp_path / "runs"), name=name, noplots=True, seed=3,
    )  # fmt: skip
    folder = Path(opt.save_dir)
    ends: dict[str, object] = {
        f"{file} {key}": value
        for file in ("last.pt", "best.pt")
        for key, value in load_checkpoint(folder / "weights" / file)["model"].state_dict().items()
    }
    for table in TABLES:
        lines = (folder / table).read_text().splitlines()
        ends[table] = [line for line in lines if not line.startswith("#")]  # a comment names the run
    return ends


def assert_same(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        assert same, key


def test_runs_are_equal_with_and_without_workers(tiny_data: Path, tmp_path: Path) -> None:
    first = run_once(tmp_path, tiny_data, "a", 0, 2, "hyp.scratch-high.yaml")
    assert_same(first, run_once(tmp_path, tiny_data, "b", 2, 2, "hyp.scratch-high.yaml"))


@pytest.mark.slow
def test_the_reference_run_is_equal_with_0_1_and_2_workers(tiny_data: Path, tmp_path: Path) -> None:
    """32 images, 6 epochs: once more with 0 workers, with 1 and with 2."""
    folder = tiny_data.parent / "tiny"
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):
        for number in range(8, 32):
            shutil.copy(
                folder / kind / "train" / f"{number % 8}{suffix}", folder / kind / "train" / f"{number}{suffix}"
            )
    first = run_once(tmp_path, tiny_data, "first", 0, 6, "hyp.scratch-low.yaml")
    for name, workers in (("again", 0), ("one", 1), ("two", 2)):
        assert_same(first, run_once(tmp_path, tiny_data, name, workers, 6, "hyp.scratch-low.yaml"))
