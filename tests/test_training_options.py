"""Options of a run: what is said about them, and what a resumed run takes over."""

import argparse
import logging
from pathlib import Path

import pytest
import yaml

import train
from utils.checkpoint import save_checkpoint
from utils.errors import InputError
from utils.training import options


def _saved_run(folder: Path, *, in_yaml: dict | None, in_checkpoint: dict) -> Path:
    checkpoint = folder / "weights" / "last.pt"
    checkpoint.parent.mkdir(parents=True)
    save_checkpoint(checkpoint, {"epoch": 4, "model": {}, "opt": in_checkpoint})
    if in_yaml is not None:
        (folder / "opt.yaml").write_text(yaml.safe_dump(in_yaml))
    return checkpoint


@pytest.mark.parametrize(
    ("in_yaml", "in_checkpoint", "expected"),
    [
        ({"epochs": 3, "imgsz": 64}, {"epochs": 6, "imgsz": 64}, {"epochs": 6, "imgsz": 64}),
        ({"epochs": 9, "imgsz": 64}, {"epochs": 6, "imgsz": 64}, {"epochs": 9, "imgsz": 64}),
        (None, {"epochs": 6, "imgsz": 32}, {"epochs": 6, "imgsz": 32}),
        ({"imgsz": 64}, {}, {"imgsz": 64}),
    ],
    ids=["resumed with more epochs", "opt.yaml edited by hand", "opt.yaml lost", "neither tells"],
)
def test_a_run_resumed_twice_keeps_the_greater_number_of_epochs(tmp_path, in_yaml, in_checkpoint, expected):
    checkpoint = _saved_run(tmp_path / "exp", in_yaml=in_yaml, in_checkpoint=in_checkpoint)
    assert options.saved_options(checkpoint) == expected


@pytest.fixture
def saved(tmp_path) -> dict:
    """Options as opt.yaml of ``train.py --cfg yolov5n.yaml --hyp hyp.yaml --batch-size -1 ...`` holds them."""
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01\nmosaic: 1.0\n")
    (tmp_path / "other.yaml").write_text("lr0: 0.02\nmosaic: 1.0\n")
    return {
        "cfg": str(train.ROOT / "models" / "yolov5n.yaml"),
        "data": "coco128.yaml",
        "hyp": {"lr0": 0.01, "mosaic": 1.0, "label_smoothing": 0.1},
        "batch_size": 24,
        "project": str(tmp_path / "runs"),
        "exist_ok": False,
        "epochs": 3,
    }


def test_the_command_of_a_run_with_resume_added_resumes_it(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {
        "cfg": "yolov5n.yaml", "data": str(train.ROOT / "data" / "coco128.yaml"), "hyp": "hyp.yaml", "batch_size": -1,
        "project": "runs", "exist_ok": True, "epochs": 3, "resume": True,
    }  # fmt: skip
    merged = options.resumed_options(argparse.Namespace(), Path("last.pt"), saved, given)
    assert (merged.hyp, merged.batch_size, merged.project) == (saved["hyp"], 24, saved["project"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("cfg", "yolov5s.yaml"), ("hyp", "other.yaml"), ("batch_size", 16), ("project", "else")],
)
def test_an_option_that_changes_the_result_is_refused_on_one_line(saved, tmp_path, monkeypatch, name, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value}: the run of last.pt was") as error:
        options.resumed_options(argparse.Namespace(), Path("last.pt"), saved, {name: value})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(("device", "is_said"), [("0,1", True), ("0", False), ("", False), ("cpu", False)])
def test_devices_beyond_the_first_are_not_left_idle_in_silence(device, is_said, caplog, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    opt = train.build_parser().parse_args(["--device", device])
    with caplog.at_level(logging.WARNING, logger="yolov5"):
        options.warn_unused(opt)
    assert ("torchrun --nproc_per_node 2" in caplog.text) is is_said


def test_under_torchrun_all_listed_devices_are_in_use(caplog, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    options.warn_unused(train.build_parser().parse_args(["--device", "0,1"]))
    assert not caplog.text


def test_options_without_effect_are_switched_off_aloud(caplog, monkeypatch):
    """As in YOLOv5: --image-weights draws the order, and a single process has no batch norm to share."""
    monkeypatch.delenv("RANK", raising=False)
    opt = train.build_parser().parse_args(["--rect", "--image-weights", "--sync-bn"])
    with caplog.at_level(logging.WARNING, logger="yolov5"):
        options.warn_unused(opt)
    assert "--rect: has no effect" in caplog.text and "--sync-bn: has no effect" in caplog.text
    assert (opt.rect, opt.image_weights, opt.sync_bn) == (False, True, False)
