"""Folders, files and disks that refuse: one line that names them, and nothing left out in silence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
import diagnose
import val
from models.yolo import DetectionModel
from utils.augmentations import letterbox
from utils.data.archives import is_archive
from utils.dataset_yaml import find_images
from utils.errors import InputError, WorkError
from utils.outputs.detection_output import open_for_appending
from utils.paths import increment_path
from utils.training.build import freeze_layers
from utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]


def test_a_subfolder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a data set must not vanish."""
    for name in ("a.png", "closed/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    assert len(find_images(tmp_path)) == 2
    scan = os.scandir

    def closed(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InputError, match=r"closed: the folder cannot be read \(Permission denied\)"):
        find_images(tmp_path)


@pytest.mark.parametrize("name", ["file/exp", "n" * 300])
def test_a_run_folder_that_cannot_be_made_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for exist_ok in (False, True):
        with pytest.raises(InputError, match="the folder cannot be made"):
            increment_path(tmp_path / name, exist_ok=exist_ok, mkdir=True)


@pytest.mark.parametrize("command", [detect, val], ids=["detect", "val"])
def test_commands_refuse_a_project_that_is_a_file(
    command: object, tmp_path: Path, tiny_data: Path, tiny_weights: Path
) -> None:
    (tmp_path / "file").write_text("")
    options = {"weights": str(tiny_weights), "imgsz": 64, "project": str(tmp_path / "file"), "device": "cpu"}
    with pytest.raises(InputError, match=r"file/exp: the folder cannot be made \((Not a directory|File exists)\)"):
        if command is detect:
            detect.run(source=str(tiny_data.parent / "tiny/images/val"), **options)
        else:
            val.run(data=str(tiny_data), workers=0, task="val", **options)


def test_a_diagnosis_refuses_its_folder_before_anything_is_measured(
    tmp_path: Path, tiny_data: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("utils.diagnosis.runs.predictions_of", lambda *_: pytest.fail("measured"))
    with pytest.raises(InputError, match="file"):
        diagnose.run(data=str(tiny_data), weights=str(tiny_weights), project=str(tmp_path / "file"), imgsz=64)


@pytest.mark.parametrize("read", [read_yaml, is_archive])
def test_files_that_cannot_be_read_are_named(read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.yaml").write_text("a: 1")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr("tarfile.open", refuse)
    with pytest.raises(InputError, match=r"secret\.yaml: cannot be read \(Permission denied\)"):
        read(tmp_path / "secret.yaml")


def test_a_disk_that_fills_up_while_text_is_written_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(WorkError, match=r"x\.txt: cannot be written \(No space left on device\)"),
        open_for_appending(tmp_path / "labels/x.txt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with open_for_appending(tmp_path / "labels/x.txt") as stream:
        stream.write("0 1\n")
    assert (tmp_path / "labels/x.txt").read_text() == "0 1\n"


def test_the_text_of_a_validation_on_a_full_disk_names_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.eval_batch import BatchResult
    from utils.outputs import detection_text

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(detection_text, "save_one_txt", full)
    fields = dict.fromkeys(BatchResult.__dataclass_fields__)
    fields |= {"paths": ["a.png"], "detections": [torch.zeros(1, 6)], "shapes": [((8, 8), None)]}
    with pytest.raises(WorkError, match=r"labels: cannot be written \(No space"):
        detection_text.TextFiles(tmp_path / "labels", False)(BatchResult(**fields))


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (20, 12000)])
def test_needles_of_images_keep_a_pixel(shape: tuple[int, int]) -> None:
    boxed, _, (pad_w, pad_h) = letterbox(np.full((*shape, 3), 200, np.uint8), 96)
    assert max(boxed.shape[:2]) == 96 and min(boxed.shape[:2]) == 32 and boxed.max() == 200
    assert max(pad_w, pad_h) == pytest.approx(15.5)


def test_a_broken_link_among_the_pictures_is_counted(
    tmp_path: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "c.png")  # nothing is ever written to it: opened, it would be waited for without end
    detect.run(weights=str(tiny_weights), source=str(tmp_path), imgsz=64, project=str(tmp_path / "runs"), device="cpu")
    assert "skipped" in caplog.text and "b.png" in caplog.text and "c.png" not in caplog.text


@pytest.mark.parametrize(("freeze", "words"), [([25], "all 25 layers"), ([-1], "layer -1 is not in the model")])
def test_freezing_everything_or_nothing_at_all_is_refused(freeze: list[int], words: str) -> None:
    model = DetectionModel(str(ROOT / "models/yolov5n.yaml"), nc=2)
    assert len(model.model) == 25
    with pytest.raises(InputError, match=words):
        freeze_layers(model, freeze)
