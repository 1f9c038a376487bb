"""How runs end, and go on after they were stopped close to their end."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

import train
import val
from utils.checkpoint import load_checkpoint
from utils.ema import EarlyStopping
from utils.errors import InputError
from utils.training.run import Run


class Killed(BaseException):
    """Stands for a signal that ends the process."""


@pytest.fixture
def run(tiny_data, tmp_path, narrow_model):
    """Train for two epochs without pictures; keywords as for train.run."""

    def call(**options):
        small = {
            "weights": "", "cfg": str(narrow_model), "imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0,
            "epochs": 2, "noplots": True, "data": str(tiny_data), "project": str(tmp_path / "runs"),
        }  # fmt: skip
        return Path(train.run(**({} if "resume" in options else small) | options).save_dir)

    return call


@pytest.fixture
def narrow_model(tmp_path):
    facts = yaml.safe_load((train.ROOT / "models" / "yolov5n.yaml").read_text())
    path = tmp_path / "narrow.yaml"
    path.write_text(yaml.safe_dump({**facts, "width_multiple": 0.0625}))
    return path


def _killed_at(monkeypatch, owner, name):
    """Let the next call of a method end in Killed instead."""
    monkeypatch.setattr(owner, name, lambda *_, **__: (_ for _ in ()).throw(Killed))


def _weights(folder, name):
    return load_checkpoint(folder / "weights" / name)["model"].float().state_dict()


def _assert_same_end(one, other):
    assert (one / "results.csv").read_text() == (other / "results.csv").read_text()
    for name in ("last.pt", "best.pt"):
        ours, theirs = _weights(one, name), _weights(other, name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert load_checkpoint(one / "weights" / name)["epoch"] == -1


def test_a_run_killed_in_its_final_validation_can_be_resumed(run, monkeypatch):
    whole = run(name="whole")
    _interrupted(run, monkeypatch, Run, "_validate_best", name="cut")
    cut = whole.with_name("cut")
    run(resume=str(cut / "weights" / "last.pt"))
    _assert_same_end(cut, whole)


def test_a_run_killed_after_it_had_stopped_early_trains_no_further(run, monkeypatch):
    monkeypatch.setattr(EarlyStopping, "__call__", _stops_after_the_first_epoch)
    whole = run(name="whole", epochs=4)
    _interrupted(run, monkeypatch, Run, "finish", name="cut", epochs=4)
    cut = whole.with_name("cut")
    run(resume=str(cut / "weights" / "last.pt"))
    assert len((whole / "results.csv").read_text().splitlines()) == 2
    _assert_same_end(cut, whole)


def _stops_after_the_first_epoch(stopper, epoch, fitness):
    stopper.stop = True
    return True


def _interrupted(run, monkeypatch, owner, method, **options):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        _killed_at(patch, owner, method)
        run(**options)


def test_a_run_resumed_twice_ends_at_its_later_number_of_epochs(run, monkeypatch, tmp_path):
    folder = tmp_path / "runs" / "exp"
    last = str(folder / "weights" / "last.pt")
    _interrupted(run, monkeypatch, Run, "finish")
    _interrupted(run, monkeypatch, Run, "share_maps", resume=last, epochs=4)  # killed after epoch 2 was saved
    run(resume=last)
    assert len((folder / "results.csv").read_text().splitlines()) == 1 + 4


def test_keywords_that_contradict_the_saved_run_are_refused(run, monkeypatch, tmp_path):
    _interrupted(run, monkeypatch, Run, "finish")
    last = str(tmp_path / "runs" / "exp" / "weights" / "last.pt")
    with pytest.raises(InputError, match="--imgsz 96: the run of .* was started with 64"):
        run(resume=last, imgsz=96)


def test_the_latest_run_is_looked_for_below_the_working_folder(run, monkeypatch, tmp_path):
    _interrupted(run, monkeypatch, Run, "finish")
    monkeypatch.chdir(tmp_path)
    assert run(resume=True).resolve() == tmp_path / "runs" / "exp"


def test_noplots_holds_for_the_pictures_of_bbox_interval(run):
    folder = run(bbox_interval=1)
    assert not [path.name for path in folder.rglob("*") if path.suffix in {".jpg", ".png"}]


def test_an_archive_as_data_and_quotes_around_nothing(run, tmp_path, tiny_data, monkeypatch):
    """Windows' command line passes --weights '' on with its quotes."""
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "sets"))
    (tmp_path / "tiny" / "tiny.yaml").write_text("train: images/train\nval: images/val\nnames: [green, blue]\n")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "tiny")
    weights = run(data=archive, epochs=1, weights="''") / "weights" / "last.pt"
    arguments = ["--data", archive, "--weights", str(weights), "--imgsz", "64", "--device", "cpu", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["val.py", *arguments, "--project", str(tmp_path / "val"), "--task", "speed"])
    val.main(val.parse_opt())
    assert (tmp_path / "val" / "exp").is_dir()
