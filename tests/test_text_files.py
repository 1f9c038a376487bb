"""val.py --save-txt: one file per image, and results that no clock changes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from command_bench import weights_content

import val
from utils.logs import LOGGER
from utils.outputs.coco_json import CocoJson
from utils.outputs.detection_text import TextFiles


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    path.write_bytes(weights_content())
    return path


def options(tmp_path: Path, data: Path, weights: Path, name: str) -> dict:
    return {
        "data": data, "weights": weights, "imgsz": 64, "batch_size": 2, "device": "cpu", "workers": 0, "plots": False,
        "project": tmp_path / "runs", "name": name,
    }  # fmt: skip


def test_images_of_one_name_in_several_folders_get_a_file_each(tiny_data: Path, tmp_path: Path, weights: Path) -> None:
    """Four images, three of which are called 1.png and one 1.jpg, in folders of two depths."""
    root = tmp_path / "tiny"
    places = {"0": "a/1.png", "1": "b/1.png", "2": "b/deep/1.png", "3": "b/1.jpg"}
    for number, place in places.items():
        for kind, suffix in (("images", Path(place).suffix), ("labels", ".txt")):
            target = root / kind / "val" / Path(place).with_suffix(suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = root / kind / "val" / f"{number}{'.png' if kind == 'images' else '.txt'}"
            shutil.move(source, target)
    val.run(**options(tmp_path, tiny_data, weights, "exp"), save_txt=True, max_det=5)
    labels = tmp_path / "runs/exp/labels"
    found = {path.relative_to(labels).as_posix(): path.read_text().splitlines() for path in labels.rglob("*.txt")}
    assert set(found) == {"a/1.txt", "b/1.png.txt", "b/1.jpg.txt", "b/deep/1.txt"}
    assert all(len(lines) == 5 for lines in found.values())


def test_an_image_that_was_not_announced_never_takes_anothers_file(tmp_path: Path) -> None:
    writer = TextFiles(tmp_path, False, ["/d/a.jpg", "/d/b.jpg"])
    paths = ["/d/a.jpg", "/x/y/a.jpg", "/z/y/a.jpg", "/z/y/a.jpg", "/x/y/A.jpg", "/a.jpg", "/d/b.jpg"]
    files = [writer._file_for(path).relative_to(tmp_path).as_posix() for path in paths]
    assert files[:4] == ["a.txt", "y/a.jpg.txt", "z/y/a.jpg.txt", "z/y/a.jpg.txt"] and files[-1] == "b.txt"
    assert len({file.lower() for file in files}) == len(set(paths))


def test_images_that_share_an_id_in_the_json_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LOGGER.propagate = True
    coco = CocoJson(range(2), {0: "a", 1: "b"})
    coco.paths = ["/x/1.jpg", "/y/1.jpg", "/y/2.jpg"]
    with caplog.at_level("WARNING", logger="yolov5"):
        coco.save(tmp_path / "a.json")
    assert "1 images have the id (the stem) of another" in caplog.text


def test_a_slow_machine_measures_the_same(
    tiny_data: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock on which every look takes an hour, metrics and boxes are the same bits."""
    first = val.run(**options(tmp_path, tiny_data, weights, "fast"), save_txt=True)
    ticks = iter(range(int(time.time()), 10**12, 3600))
    for name in ("time", "perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, lambda: float(next(ticks)))
    second = val.run(**options(tmp_path, tiny_data, weights, "slow"), save_txt=True)
    monkeypatch.undo()
    assert first[0] == second[0] and (first[1] == second[1]).all() and first[2] != second[2]
    texts = [
        {path.name: path.read_text() for path in (tmp_path / "runs" / name / "labels").iterdir()}
        for name in ("fast", "slow")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 4
