"""The commands of classification end to end: training, exact resume, measuring, predicting, and what they refuse."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from classify_folders import COLOURS, make_folders

from classify import predict, train, val
from models.experimental import attempt_load
from utils.callbacks import Callbacks
from utils.checkpoint import load_checkpoint
from utils.errors import InputError
from utils.training.preemption import Interrupted
from utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"model": "yolov5n.yaml", "cutoff": 5, "imgsz": 32, "batch_size": 4, "device": "cpu", "workers": 0}
COLUMNS = "epoch,train/loss,val/loss,metrics/accuracy_top1,metrics/accuracy_top5,lr/0"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folders(tmp_path_factory.mktemp("data") / "set", {"train": 4, "val": 2})


@pytest.fixture(scope="module")
def trained(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of three epochs."""
    opt = train.run(data=str(folders), epochs=3, project=tmp_path_factory.mktemp("runs"), **SMALL)
    return Path(opt.save_dir)


def test_a_run_leaves_what_the_description_says(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert names >= {"train_images.jpg", "test_images.jpg", "confusion_matrix.png", "opt.yaml", "results.csv"}
    assert {path.name for path in (trained / "weights").iterdir()} == {"best.pt", "last.pt"}
    lines = (trained / "results.csv").read_text().splitlines()
    assert {len(field) for line in lines for field in line.split(",")} == {23}
    assert lines[0].replace(" ", "") == COLUMNS and len(lines) == 4
    rates = [float(line.split(",")[-1]) for line in lines[1:]]
    assert rates == pytest.approx([0.001 * ((1 - e / 3) * 0.99 + 0.01) for e in range(3)], rel=1e-4)
    rows = list(csv.DictReader((trained / "per_class_best.csv").open()))
    assert [row["class"] for row in rows] == sorted(COLOURS) and {row["images"] for row in rows} == {"2"}


def test_the_checkpoint_is_a_stripped_classification_model(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "weights/best.pt")
    assert checkpoint["epoch"] == -1 and checkpoint["optimizer"] is None and "resume" not in checkpoint
    model = attempt_load(trained / "weights/best.pt")
    assert model.names == dict(enumerate(sorted(COLOURS))) and model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert checkpoint["opt"]["model"] == "yolov5n.yaml" and read_yaml(trained / "opt.yaml")["lr0"] == 0.001


def _struck(options: dict[str, Any], count: int) -> Path:
    """Train until SIGTERM comes in the ``count``-th batch; return the run's last.pt."""
    seen: list[int] = []

    def strike(*_: object) -> None:
        seen.append(0)
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGTERM)

    callbacks = Callbacks()
    callbacks.register_action("on_train_batch_end", callback=strike)
    opt = train.build_parser().parse_args([])
    vars(opt).update(options)
    with pytest.raises(Interrupted, match=r"go on with: python classify/train.py --resume .*last.pt"):
        train.main(opt, callbacks, given=options)
    return Path(opt.project) / opt.name / "weights" / "last.pt"


@pytest.mark.parametrize("hyp", [{}, {"cls_loss": "focal", "cls_weights": "inverse", "sampler": "class_balanced"}])
def test_stopped_and_resumed_ends_with_the_same_bits(folders: Path, tmp_path: Path, hyp: dict[str, Any]) -> None:
    options = {"data": str(folders), "epochs": 3, "project": str(tmp_path), "noplots": True, "hyp": hyp, **SMALL}
    whole = Path(train.run(**options, name="whole").save_dir)
    last = _struck({**options, "name": "cut"}, 5)  # the second of three batches of the second epoch
    assert load_checkpoint(last)["resume"]["batch"] == 2
    train.run(resume=str(last))
    states = [load_checkpoint(run / "weights/last.pt")["model"].state_dict() for run in (whole, last.parents[1])]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    for name in ("results.csv", "per_class.csv"):
        assert (whole / name).read_text() == (last.parents[1] / name).read_text()


def test_a_resume_with_other_images_is_refused(tmp_path: Path) -> None:
    folders = make_folders(tmp_path / "set", {"train": 4, "val": 2})
    options = {"data": str(folders), "epochs": 2, "project": str(tmp_path), "name": "cut", "noplots": True, **SMALL}
    last = _struck(options, 2)
    (folders / "train/red/0.png").unlink()
    with pytest.raises(InputError, match="images was 12 and is 11"):
        train.run(resume=str(last))


def test_a_torchvision_network_trains_resumes_and_is_measured(folders: Path, tmp_path: Path) -> None:
    options = {
        **SMALL, "data": str(folders), "epochs": 2, "project": str(tmp_path), "name": "vision", "noplots": True,
        "model": "squeezenet1_1", "pretrained": False, "cutoff": None, "imgsz": 64,
    }  # fmt: skip
    last = _struck(options, 4)
    train.run(resume=str(last))
    top1, top5, loss = val.run(
        str(folders), last.with_name("best.pt"), imgsz=64, device="cpu", workers=0, project=tmp_path / "val"
    )  # fmt: skip
    assert 0 <= top1 <= 1 and top5 == 1 and loss == 0


def test_measuring_gives_the_figures_of_the_run(trained: Path, folders: Path, tmp_path: Path) -> None:
    """val.py, the network at work in Python, and results.csv's best row agree."""
    top1, top5, loss = val.run(
        folders, trained / "weights/best.pt", imgsz=32, device="cpu", workers=0, project=tmp_path, verbose=True
    )  # fmt: skip
    rows = [list(map(float, line.split(","))) for line in (trained / "results.csv").read_text().splitlines()[1:]]
    assert top1 == pytest.approx(max(row[3] for row in rows), abs=1e-4) and top5 == 1 and loss == 0
    assert {path.name for path in (tmp_path / "exp").iterdir()} == {"per_class.csv", "confusion_matrix.png"}
    model = attempt_load(trained / "weights/best.pt")
    loader = train_loader(folders)
    assert val.run(model=model, dataloader=loader, criterion=torch.nn.CrossEntropyLoss())[0] == pytest.approx(top1)


def train_loader(folders: Path) -> Any:
    from utils.dataloaders import create_classification_dataloader

    return create_classification_dataloader(folders / "val", 32, 4, augment=False, workers=0, shuffle=False)


def test_predicting_writes_pictures_and_five_lines_of_text(trained: Path, folders: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in COLOURS:
        cv2.imwrite(str(source / f"{name}.jpg"), cv2.imread(str(folders / "val" / name / "0.png")))
    (source / "junk.png").write_bytes(b"no image")
    weights = trained / "weights/best.pt"
    predict.run(weights, source, imgsz=32, device="cpu", project=tmp_path / "runs", save_txt=True)
    folder = tmp_path / "runs/exp"
    assert {path.name for path in folder.iterdir()} == {*(f"{name}.jpg" for name in COLOURS), "labels"}
    for name in COLOURS:
        lines = [line.split(" ", 1) for line in (folder / "labels" / f"{name}.txt").read_text().splitlines()]
        scores = [float(score) for score, _ in lines]
        assert sorted(text for _, text in lines) == sorted(COLOURS)
        assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1, abs=0.02)
        assert all(len(score) == 4 for score, _ in lines)


def test_what_commands_refuse_leaves_no_folder(trained: Path, folders: Path, tmp_path: Path, tiny_data: Path) -> None:
    runs, weights = tmp_path / "runs", trained / "weights/best.pt"
    common = {"project": runs, "device": "cpu"}
    one = make_folders(tmp_path / "one", {"train": 2, "val": 1})
    for split in ("train", "val"):
        for name in ("red", "green"):
            (one / split / name).rename(tmp_path / f"{split}{name}")
    trainings = [
        ({"lr0": -1.0}, "--lr0 -1.0: allowed are 0 to 10"),
        ({"data": str(tiny_data)}, "crops --data"),
        ({"data": str(one)}, "one class folder found"),
        ({"pretrained": "x"}, "--pretrained x: allowed"),
        ({"label_smoothing": 2.0}, "--label-smoothing 2.0"),
        ({"hyp": {"cls_loss": "efl"}}, "cls_loss efl: allowed with classification"),
        ({"model": "yolov5n.yaml", "cutoff": 99}, "cutoff 99: the model has 25 layers"),
    ]
    for options, said in trainings:
        with pytest.raises(InputError, match=said):
            train.run(**{**SMALL, **common, "data": str(folders), **options})
    cases = [
        (lambda: val.run(folders, weights, batch_size=0, **common), "--batch-size 0"),
        (lambda: val.run(tmp_path / "one" / "val", weights, **common), "neither"),
        (lambda: predict.run(weights, folders / "val/red", imgsz=(32, 64), **common), "allowed is one side"),
    ]
    for call, said in cases:
        with pytest.raises(InputError, match=said):
            call()
    assert not runs.exists()


def test_the_command_s_help_is_quick_and_a_wrong_option_ends_with_status_2(tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, str(ROOT / "classify" / arguments[0]), *arguments[1:]], capture_output=True, text=True,
            cwd=tmp_path, check=False,
        )  # fmt: skip

    for name in ("train.py", "val.py", "predict.py"):
        assert command(name, "--help").returncode == 0
    done = command("train.py", "--data", "nowhere", "--model", "yolov5n.yaml", "--device", "cpu")
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error: --data nowhere: no such folder")
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_train_what_one_trains(folders: Path, tmp_path: Path) -> None:
    """A network without batch norm, which would see half of each batch, and without dropout: the same figures."""
    options = {
        **SMALL, "data": str(folders), "model": "squeezenet1_1", "pretrained": False, "dropout": 0.0, "cutoff": None,
        "imgsz": 64, "epochs": 2, "project": str(tmp_path), "noplots": True, "batch_size": 10,  # and one of 2 images
    }  # fmt: skip
    given = {name: value for name, value in options.items() if name not in {"cutoff", "noplots"}}
    texts = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(ROOT / "classify/train.py")]
    done = subprocess.run(
        [sys.executable, *command, *texts, "--noplots", "--name=two"], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    train.run(**options, name="one")
    two, one = ((tmp_path / name / "results.csv").read_text().splitlines()[1:] for name in ("two", "one"))
    for left, right in zip(two, one, strict=True):
        assert [float(x) for x in left.split(",")] == pytest.approx([float(x) for x in right.split(",")], rel=1e-3)
