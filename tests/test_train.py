"""The training command: outputs, refusals, exact resume."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from models.yolo import ClassificationModel, DetectionModel
from utils.checkpoint import load_checkpoint, pickled_globals, save_checkpoint
from utils.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--weights", "", "--cfg", "yolov5n.yaml", "--imgsz", "64", "--batch-size", "4", "--device", "cpu"]
TINY = {
    "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0, "epochs": 1,
}  # fmt: skip

KILL_SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train
from utils.callbacks import Callbacks

def stop(model, step, *rest):
    if step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

callbacks = Callbacks()
callbacks.register_action("on_train_batch_end", callback=stop)
opt = train.build_parser().parse_args({arguments!r})
train.main(opt, callbacks)
"""


def _environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _command(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def _weights(path):
    return load_checkpoint(path)["model"].float().state_dict()


def test_a_run_writes_every_file_of_the_contract(tiny_data, tmp_path):
    opt = train.run(data=str(tiny_data), project=str(tmp_path / "runs"), **{**TINY, "epochs": 2})
    folder = Path(opt.save_dir)
    expected = {
        "opt.yaml", "hyp.yaml", "results.csv", "results.png", "labels.jpg", "labels_correlogram.jpg",
        "train_batch0.jpg", "train_batch1.jpg", "train_batch2.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg",
        "confusion_matrix.png", "F1_curve.png", "PR_curve.png", "P_curve.png", "R_curve.png", "per_class.csv",
        "thresholds.yaml",
    }  # fmt: skip
    found = {path.name for path in folder.iterdir()}
    assert expected <= found, expected - found
    assert any(name.startswith("events.out.tfevents") for name in found)
    assert {path.name for path in (folder / "weights").iterdir()} == {"last.pt", "best.pt"}
    with (folder / "results.csv").open() as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    assert [row[0] for row in rows] == ["epoch", "0", "1"]
    assert len(rows[0]) == 14
    checkpoint = load_checkpoint(folder / "weights" / "last.pt")
    assert checkpoint["epoch"] == -1 and checkpoint["optimizer"] is None and checkpoint["ema"] is None
    assert checkpoint["model"].names == {0: "green", 1: "blue"}
    assert checkpoint["opt"]["imgsz"] == 64


def test_checkpoints_pickle_only_what_upstream_has(tiny_data, tmp_path, contract):
    import json

    facts = json.loads((contract / "modules.json").read_text())
    allowed = set(facts["classes"]) | {name for c in facts["checkpoints"].values() for name in c["globals"]}
    opt = train.run(data=str(tiny_data), project=str(tmp_path / "runs"), save_period=1, noplots=True, **TINY)
    weights = Path(opt.save_dir) / "weights"
    for name in ("epoch0.pt", "last.pt", "best.pt"):
        found = pickled_globals(weights / name)
        assert "models.yolo.DetectionModel" in found
        assert found <= allowed, found - allowed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": -1}, ["epochs", "-1"]),
        ({"batch_size": 0}, ["batch-size", "0"]),
        ({"imgsz": 8}, ["imgsz", "8"]),
        ({"weights": "", "cfg": ""}, ["cfg", "weights"]),
        ({"label_smoothing": 2.0}, ["label-smoothing", "2.0"]),
        ({"cache": "tape"}, ["cache", "tape"]),
        ({"epohcs": 3}, ["epohcs", "epochs"]),
        ({"freeze": [400]}, ["freeze", "400"]),
        ({"resume": "nowhere/last.pt"}, ["nowhere/last.pt"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused_before_a_folder_is_made(options, words, tiny_data, tmp_path):
    with pytest.raises(InputError) as caught:
        train.run(**{**TINY, "data": str(tiny_data), "project": str(tmp_path / "runs"), **options})
    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "runs").exists()


def test_the_command_exits_with_2_and_one_line(tiny_data, tmp_path):
    done = _command(
        "--data", str(tiny_data), *SMALL, "--epochs", "-1", "--project", str(tmp_path / "runs"), check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: --epochs -1")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_and_resumed_ends_with_the_same_bits(workers, tiny_data, tmp_path):
    """8 images in batches of 4: two steps an epoch; SIGKILL strikes in the middle of epoch 1."""
    arguments = ["--data", str(tiny_data), *SMALL, "--epochs", "3", "--noplots", "--workers", workers]
    arguments += ["--project", str(tmp_path / "runs")]
    _command(*arguments, "--name", "whole")
    script = KILL_SCRIPT.format(root=str(ROOT), step=2, arguments=[*arguments, "--name", "cut"])
    killed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=_environment(), check=False
    )
    assert killed.returncode == -9, killed.stderr[-3000:]
    cut, whole = tmp_path / "runs" / "cut", tmp_path / "runs" / "whole"
    assert (cut / "results.csv").read_text().count("\n") == 2
    _command("--resume", str(cut / "weights" / "last.pt"))
    assert (cut / "results.csv").read_text() == (whole / "results.csv").read_text()
    for name in ("last.pt", "best.pt"):
        ours, theirs = _weights(cut / "weights" / name), _weights(whole / "weights" / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_resume_refuses_options_that_change_the_result(tiny_data, tmp_path):
    from utils.training.options import resumed_options

    opt = train.build_parser().parse_args([])
    with pytest.raises(InputError, match="imgsz 640.*320"):
        resumed_options(opt, Path("last.pt"), {"imgsz": 320, "epochs": 3}, {"imgsz": 640})
    with pytest.raises(InputError, match="epochs 2"):
        resumed_options(opt, Path("last.pt"), {"imgsz": 320, "epochs": 3}, {"epochs": 2})
    merged = resumed_options(opt, Path("last.pt"), {"imgsz": 320, "epochs": 3}, {"epochs": 5, "workers": 1})
    assert (merged.imgsz, merged.epochs, merged.workers, merged.exist_ok) == (320, 5, 1, True)


def test_a_finished_run_is_not_resumed(tiny_data, tmp_path):
    opt = train.run(data=str(tiny_data), project=str(tmp_path / "runs"), noplots=True, **TINY)
    with pytest.raises(InputError, match="finished"):
        train.run(resume=str(Path(opt.save_dir) / "weights" / "last.pt"))


def test_weights_of_another_task_are_named(tiny_data, tmp_path):
    network = ClassificationModel(model=DetectionModel("yolov5n.yaml", nc=2), nc=3)
    save_checkpoint(tmp_path / "cls.pt", {"epoch": -1, "model": network.half(), "ema": None, "optimizer": None})
    options = {"data": str(tiny_data), "project": str(tmp_path / "runs"), **TINY, "cfg": ""}
    with pytest.raises(InputError, match="--weights: its network ends in Classify; allowed here are detection"):
        train.run(**options | {"weights": str(tmp_path / "cls.pt")})


def test_names_that_clones_import_from_the_script():
    assert train.one_cycle(1, 0.1, 10)(10) == pytest.approx(0.1)
    assert set(train.GIT_INFO) == {"remote", "branch", "commit"}
    for name in ("get_latest_run", "intersect_dicts", "smart_amp_autocast", "torch_load"):
        assert callable(getattr(train, name))
