"""NCNN folders: written by export.py with pnnx, run again by ncnn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import export
from models.backends import DetectMultiBackend
from tests.export_model import NAMES, SIZE, save_network
from utils.errors import InputError, InputErrors, WorkError


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("ncnn", reason="needs ncnn")
    pytest.importorskip("pnnx", reason="needs pnnx")
    folder = tmp_path_factory.mktemp("networks")
    return {task: save_network(folder / f"{task}.pt", task) for task in ("detect", "segment", "classify")}


def write(networks, folder: Path, task: str = "detect", **options: object) -> Path:
    file = Path(shutil.copy(networks[task], folder / "net.pt"))
    return Path(export.run(weights=file, imgsz=[SIZE], include=["ncnn"], **options)[0])


def run(path: Path, im: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        y = DetectMultiBackend(path)(im)
    return [part for part in (y if isinstance(y, (list, tuple)) else [y]) if isinstance(part, torch.Tensor)]


@pytest.mark.parametrize("task", ["detect", "segment", "classify"])
def test_every_task(networks, tmp_path, task) -> None:
    path = write(networks, tmp_path, task)
    assert path.name == "net_ncnn_model"
    assert sorted(p.name for p in path.iterdir()) == ["metadata.yaml", "model.ncnn.bin", "model.ncnn.param"]
    backend = DetectMultiBackend(path)
    assert backend.ncnn and (backend.names, backend.stride, backend.task) == (NAMES, 32, task)
    im = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(run(path, im), run(tmp_path / "net.pt", im), strict=False):
        assert mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=2e-3, rtol=1e-4)


def test_half_is_half_the_size(networks, tmp_path) -> None:
    full = (write(networks, tmp_path) / "model.ncnn.bin").stat().st_size
    half = (write(networks, tmp_path, half=True) / "model.ncnn.bin").stat().st_size
    assert half < 0.6 * full


def test_refusals(networks, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputErrors, match="--include ncnn with --batch-size 2: allowed is 1"):
        write(networks, tmp_path, batch_size=2)
    path = write(networks, tmp_path)
    with pytest.raises(InputError, match="made for images of 64x64, 96x96 found; pass --imgsz 64"):
        run(path, torch.rand(1, 3, 96, 96))
    (path / "model.ncnn.param").write_text("7767517\n1 1\nNoSuchLayer a 0 1 x\n")
    with pytest.raises(InputError, match="truncated or not an NCNN network"):
        DetectMultiBackend(path)
    (path / "model.ncnn.bin").unlink()
    with pytest.raises(InputError, match=r"no file model\.ncnn\.bin in it"):
        DetectMultiBackend(path)
    monkeypatch.setattr("pnnx.EXEC_PATH", "/no/such/program")
    with pytest.raises(WorkError, match="pnnx could not be run"):
        write(networks, tmp_path)
