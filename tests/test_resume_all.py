"""All interrupted runs below a folder go on, and nothing else."""

import os
import subprocess
import sys

import pytest
import torch

from models.yolo import ClassificationModel, DetectionModel
from utils.aws import resume
from utils.checkpoint import save_checkpoint
from utils.errors import MissingFileError, WorkError


@pytest.fixture(scope="module")
def network():
    return DetectionModel("yolov5n.yaml", nc=2)


@pytest.fixture
def runs(tmp_path, network):
    """Runs: interrupted (four processes; a first epoch; a clone's classifier on two GPUs), finished, damaged."""
    states = {
        "exp": (
            {"model": network, "epoch": 3, "optimizer": {"state": {}}, "resume": {"facts": {"world_size": 4}}},
            "device: ''\n",
        ),
        "exp2": ({"model": network, "epoch": -1, "optimizer": None}, None),
        "cls/exp": (
            {"model": ClassificationModel(model=DetectionModel("yolov5n.yaml", nc=2), nc=3), "epoch": 0,
             "optimizer": {"state": {}}},
            "device: 0,1\n",
        ),
        "exp3": (
            {"model": network, "epoch": -1, "optimizer": {"state": {}}, "resume": {"facts": {"world_size": 1}}},
            None,
        ),
    }  # fmt: skip
    for number, (name, (contents, options)) in enumerate(states.items()):
        folder = tmp_path / name / "weights"
        folder.mkdir(parents=True)
        save_checkpoint(folder / "last.pt", contents)
        os.utime(folder / "last.pt", (number, number))
        if options:
            (tmp_path / name / "opt.yaml").write_text(options)
    (tmp_path / "bad" / "weights").mkdir(parents=True)
    (tmp_path / "bad" / "weights" / "last.pt").write_bytes(b"no checkpoint")
    return tmp_path


def test_interrupted_runs_and_their_scripts(runs):
    found = resume.interrupted_runs(runs)
    assert [(str(path.relative_to(runs)), *rest) for path, *rest in found] == [
        ("exp/weights/last.pt", "train.py", 4), ("cls/exp/weights/last.pt", "classify/train.py", 2),
        ("exp3/weights/last.pt", "train.py", 1),
    ]  # fmt: skip


def test_commands(runs, monkeypatch):
    started = []

    def run(words, **_):
        started.append(words)
        return subprocess.CompletedProcess(words, returncode=int("classify" in words[-3]))

    monkeypatch.setattr(resume.subprocess, "run", run)
    resume.main(resume.parse_opt([str(runs), "--dry-run"]))
    assert not started
    with pytest.raises(WorkError, match=r"1 of 3 runs failed: .*cls/exp"):
        resume.main(resume.parse_opt([str(runs)]))
    first, second, third = started
    assert third == resume.command(runs / "exp3" / "weights" / "last.pt", "train.py", 1)
    for words, script, processes in ((first, "train.py", "4"), (second, "classify/train.py", "2")):
        assert words[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
        assert words[6:8] == [str(resume.ROOT / script), "--resume"]
    assert all((resume.ROOT / script).is_file() for script in (*resume.SCRIPTS.values(), "train.py"))
    with pytest.raises(MissingFileError, match="no such folder"):
        resume.main(resume.parse_opt([str(runs / "none")]))


@pytest.mark.parametrize("device", ["", "cpu", "0", "mps", "None", "0,1"])
def test_what_trained_in_one_process_needs_no_torchrun(tmp_path, device):
    (tmp_path / "opt.yaml").write_text(f"device: '{device}'\n")
    last = tmp_path / "weights" / "last.pt"
    told = {"resume": {"facts": {"world_size": 1}}}
    assert resume._processes(told, last) == 1
    assert resume._processes({}, last) == (2 if device == "0,1" else 1)
    assert resume.command(last, "train.py", 1) == [sys.executable, str(resume.ROOT / "train.py"), "--resume", str(last)]
    assert torch.distributed.is_available()  # the module that the command names


def test_networks_of_torchvision_are_classifiers():
    assert resume._head({"model": torch.nn.Linear(1, 1)}) == "Classify" and resume._head({"model": None}) == ""
