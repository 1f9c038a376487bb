"""Resuming with other settings or on changed data: what may change is said, what would change the result is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml

import train
from utils.checkpoint import load_checkpoint
from utils.errors import InputError
from utils.training.folder_lock import release_folders
from utils.training.resume_settings import data_facts, fact_differences, hyp_differences, newer_files
from utils.training.run import Run


class Killed(BaseException):
    """Stands for a signal that ends the process."""


def _draw(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / "tiny" / kind / split).mkdir(parents=True)
        for number in range(count):
            image = np.full((64, 96, 3), 90, np.uint8)
            image[10:40, 10:50] = rng.integers(0, 255, 3)
            cv2.imwrite(str(folder / "tiny" / "images" / split / f"{number}.png"), image)
            text = f"{number % 2} 0.3125 0.390625 0.416667 0.46875\n"
            (folder / "tiny" / "labels" / split / f"{number}.txt").write_text(text)


def _with_data_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run's facts hold the digests of its data."""
    facts = Run._facts

    def more(self: Run) -> dict:
        val = data_facts(self.val_loader.dataset, "val_") if self.val_loader else {}
        return {**facts(self), **data_facts(self.dataset), **val}

    monkeypatch.setattr(Run, "_facts", more)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    """Return a folder whose entry ``now`` leads to a data set and a run that was killed after one of two epochs."""
    top = tmp_path_factory.mktemp("resume")
    (top / "base").mkdir()
    (top / "now").symlink_to(top / "base")
    _draw(top / "base")
    now = top / "now"
    (now / "tiny.yaml").write_text(f"path: {now / 'tiny'}\ntrain: images/train\nval: images/val\nnames: [a, b]\n")
    facts = yaml.safe_load((train.ROOT / "models" / "yolov5n.yaml").read_text())
    (now / "narrow.yaml").write_text(yaml.safe_dump({**facts, "width_multiple": 0.0625}))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        _with_data_facts(patch)
        patch.setattr(Run, "share_maps", lambda _: (_ for _ in ()).throw(Killed))
        train.run(
            weights="", cfg=str(now / "narrow.yaml"), imgsz=64, batch_size=4, device="cpu", workers=0, epochs=2,
            noplots=True, data=str(now / "tiny.yaml"), project=str(now / "runs"), save_steps=0,
        )  # fmt: skip
    release_folders()
    return top


@pytest.fixture
def case(interrupted: Path, tmp_path: Path):
    """Return the folder of a fresh copy, which lies under the name that the run's settings tell."""
    copy = tmp_path / "copy"
    shutil.copytree(interrupted / "base", copy)
    (interrupted / "now").unlink()
    (interrupted / "now").symlink_to(copy)
    yield interrupted / "now"
    release_folders()


def _resume(case: Path, **options: object) -> Path:
    return Path(train.run(resume=str(case / "runs/exp/weights/last.pt"), **options).save_dir)


def _edit_yaml(path: Path, **changes: object) -> None:
    facts = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        target = facts["hyp"] if key in facts.get("hyp", {}) or key == "anchors" else facts
        target[key] = value
    path.write_text(yaml.safe_dump(facts, sort_keys=False))


def _names(case: Path, names: list[str]) -> None:
    _edit_yaml(case / "tiny.yaml", names=names)


def _hyp_file(case: Path, **changes: object) -> str:
    hyp = yaml.safe_load((train.ROOT / "data/hyps/hyp.scratch-low.yaml").read_text())
    (case / "other.yaml").write_text(yaml.safe_dump({**hyp, **changes}))
    return str(case / "other.yaml")


# what changes, options of the resuming command, words of the refusal
CASES = {
    "a class more": (lambda case: _names(case, ["a", "b", "c"]), {}, ["nc was 2 and is 3", "'c'"]),
    "a class renamed": (lambda case: _names(case, ["a", "x"]), {}, ["names: 1 was 'b' and is 'x'"]),
    "hyp edited in opt.yaml": (
        lambda case: _edit_yaml(case / "runs/exp/opt.yaml", lr0=0.5, mosaic=0.0), {},
        ["opt.yaml", "hyp: lr0 was 0.01 and is 0.5", "hyp: mosaic was 1.0 and is 0.0"],
    ),
    "hyp.yaml edited": (
        lambda case: _edit_yaml(case / "runs/exp/hyp.yaml", lr0=0.5), {}, ["hyp.yaml: hyp: lr0 was 0.01 and is 0.5"],
    ),
    "anchors edited in opt.yaml": (
        lambda case: _edit_yaml(case / "runs/exp/opt.yaml", anchors=4), {}, ["anchors was None and is 4"],
    ),
    "an option edited in opt.yaml": (
        lambda case: _edit_yaml(case / "runs/exp/opt.yaml", imgsz=96), {}, ["imgsz was 64 and is 96"],
    ),
    "another hyp file": (
        lambda _: None, {"hyp": lambda case: _hyp_file(case, cls=0.9)}, ["--hyp", "cls was 0.5 and is 0.9"],
    ),
    "a key more in the hyp file": (
        lambda _: None, {"hyp": lambda case: _hyp_file(case, anchors=4)}, ["--hyp", "anchors was None and is 4"],
    ),
    "fewer epochs": (lambda _: None, {"epochs": 1}, ["--epochs 1", "saved run has 2"]),
    "another batch size": (lambda _: None, {"batch_size": 8}, ["--batch-size 8", "started with 4"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_changes_the_result_is_refused(case: Path, name: str) -> None:
    change, options, words = CASES[name]
    change(case)
    before = (case / "runs/exp/weights/last.pt").read_bytes()
    with pytest.raises(InputError) as caught:
        _resume(case, **{key: value(case) if callable(value) else value for key, value in options.items()})
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert all(len(line) < 500 for line in str(caught.value).splitlines())
    assert (case / "runs/exp/weights/last.pt").read_bytes() == before


def test_moved_data_are_named_by_an_option_and_found_again_without_it(case: Path, monkeypatch) -> None:
    """The run goes on with the same weights as where the data had stayed; its opt.yaml still names the old place."""
    there = Path(os.path.realpath(case))
    shutil.copytree(there, there.parent / "stayed")
    (there / "moved").mkdir()
    for name in ("tiny", "tiny.yaml"):
        os.rename(there / name, there / "moved" / name)
    text = (there / "moved/tiny.yaml").read_text().replace(str(case / "tiny"), str(there / "moved/tiny"))
    (there / "moved/tiny.yaml").write_text(text)
    with pytest.raises(
        InputError, match=r"tiny\.yaml: no such file.*where the data has moved, name its place with --data"
    ):
        _resume(case)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, "share_maps", lambda _: (_ for _ in ()).throw(Killed))
        _resume(case, data=str(there / "moved/tiny.yaml"), epochs=3)
    release_folders()
    folder = _resume(case)
    case.unlink()
    case.symlink_to(there.parent / "stayed")
    stayed = _resume(case, epochs=3)
    ours, theirs = (load_checkpoint(Path(run) / "weights/last.pt")["model"].state_dict() for run in (folder, stayed))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_another_data_set_is_refused_whatever_its_name(case: Path) -> None:
    shutil.copytree(os.path.realpath(case / "tiny"), case / "other")
    _relabel(case / "other/labels/train/3.txt")
    text = (case / "tiny.yaml").read_text().replace(str(case / "tiny"), str(case / "other"))
    (case / "other.yaml").write_text(text)
    with pytest.raises(InputError, match="training labels are not the same"):
        _resume(case, data=str(case / "other.yaml"))


def test_a_run_goes_on_in_its_folder_from_wherever_the_command_is_given(case: Path, monkeypatch) -> None:
    monkeypatch.chdir(case / "runs/exp/weights")
    folder = Path(train.run(resume="last.pt").save_dir)
    assert folder.samefile(case / "runs/exp") and (folder / "results.csv").read_text().count("\n") == 3
    assert not (folder / "weights/results.csv").exists()


def test_a_run_folder_is_answered_with_its_checkpoint(case: Path) -> None:
    with pytest.raises(InputError, match=r"runs/exp: is a folder, its checkpoint is .*weights/last\.pt"):
        train.run(resume=str(case / "runs/exp"))


def test_another_number_of_processes_is_refused(case: Path, monkeypatch) -> None:
    facts = Run._facts
    monkeypatch.setattr(Run, "_facts", lambda self: {**facts(self), "world_size": 2})
    with pytest.raises(InputError, match="world_size was 1 and is 2"):
        _resume(case)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda case: _relabel(case / "tiny/labels/train/3.txt"), ["training labels are not the same"]),
        (lambda case: _add_image(case, "train"), ["training images", "images was 8 and is 9"]),
        (lambda case: _relabel(case / "tiny/labels/val/1.txt"), ["validation labels are not the same"]),
        (lambda case: os.rename(case / "tiny/images/train/0.png", case / "tiny/images/train/9.png"), ["images"]),
    ],
    ids=["class of a box", "an image more", "class of a validation box", "an image renamed"],
)
def test_changed_data_are_refused_and_named(case: Path, monkeypatch, change, words) -> None:
    _with_data_facts(monkeypatch)
    change(case)
    with pytest.raises(InputError) as caught:
        _resume(case)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def _relabel(path: Path) -> None:
    """Give a box another class, in as many bytes."""
    text = path.read_text()
    path.write_text(f"{1 - int(text[0])}{text[1:]}")


def _add_image(case: Path, split: str) -> None:
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        folder = case / "tiny" / kind / split
        (folder / f"8.{suffix}").write_bytes((folder / f"0.{suffix}").read_bytes())


def test_what_may_change_is_said_and_more_epochs_are_trained(case: Path, caplog, monkeypatch) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger("yolov5"), "propagate", True)
    monkeypatch.setattr(
        "utils.training.command.setup_logging", lambda *_: logging.getLogger("yolov5").setLevel(logging.INFO)
    )
    _edit_yaml(case / "runs/exp/opt.yaml", save_period=5)
    with caplog.at_level(logging.INFO, logger="yolov5"):
        folder = _resume(case, epochs=3, workers=1, device="cpu")
    assert len((folder / "results.csv").read_text().splitlines()) == 1 + 3
    assert "epochs 2 -> 3, workers 0 -> 1; all else as the run was started" in caplog.text
    assert "save_period -1 -> 5" in caplog.text and "device" not in caplog.text.split("all else")[0].splitlines()[-1]


# The words and digests ---------------------------------------------------------------------------------------------


def _data(root: str = "/data", classes=(0, 1), sizes=((96, 64), (96, 64)), names=("images/a.png", "images/b.png")):
    labels = [np.array([[c, 0.5, 0.5, 0.1, 0.1]], np.float32) for c in classes]
    return SimpleNamespace(im_files=[f"{root}/{name}" for name in names], labels=labels, shapes=np.array(sizes))


def test_digests_follow_what_training_sees_and_not_where_it_lies() -> None:
    facts = data_facts(_data())
    assert data_facts(_data("/elsewhere/deep")) == facts
    assert data_facts(_data(classes=(0, 0)))["labels"] != facts["labels"]
    assert data_facts(_data(classes=(0, 0)))["image_files"] == facts["image_files"]
    assert data_facts(_data(sizes=((96, 64), (64, 96))))["image_files"] != facts["image_files"]
    assert data_facts(_data(names=("images/a.png", "images/c.png")))["image_files"] != facts["image_files"]
    moved = _data()
    moved.labels = [np.concatenate(moved.labels), np.zeros((0, 5), np.float32)]
    assert data_facts(moved)["labels"] != facts["labels"], "the same rows of other images"
    assert set(data_facts(_data(), "val_")) == {"val_image_files", "val_labels"}


def test_differences_in_words() -> None:
    assert fact_differences({"imgsz": 64, "old": 1}, {"imgsz": 96, "new": 2}) == ["imgsz was 64 and is 96"]
    names = {number: f"class{number}" for number in range(80)}
    text = fact_differences({"names": names}, {"names": {n: f"x{n}" for n in names}})
    assert text == [
        "names: 0 was 'class0' and is 'x0', 1 was 'class1' and is 'x1', 2 was 'class2' and is 'x2' and 77 more"
    ]
    assert hyp_differences({"lr0": "1e-2", "cls": 0.5}, {"cls": 0.5, "lr0": 0.01, "sampler": "none"}) == []
    assert hyp_differences({"lr0": 0.01}, {"lr0": 0.01, "mixup_unknown": 1}) == ["mixup_unknown was None and is 1"]


def test_files_changed_after_a_checkpoint_are_named(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.txt" for number in range(6)]
    for file in files:
        file.write_text("0")
        os.utime(file, (1000, 1000))
    (tmp_path / "last.pt").write_text("")
    os.utime(tmp_path / "last.pt", (2000, 2000))
    assert newer_files(tmp_path / "last.pt", files) == ""
    for file in files[:4]:
        os.utime(file, (3000, 3000))
    text = newer_files(tmp_path / "last.pt", [*files, tmp_path / "gone.txt"])
    assert text == f"changed after the checkpoint: {files[0]}, {files[1]}, {files[2]} and 1 more"
    assert newer_files(tmp_path / "none.pt", files) == ""
