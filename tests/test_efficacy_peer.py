"""benchmarks/efficacy_peer.py: what the peer is asked for, how it is measured, and that stopped runs begin anew."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.yolo import DetectionModel
from utils.checkpoint import save_checkpoint
from utils.errors import InputError, WorkError

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from efficacy_parts import analysis, cells, figures, grid, peer, report, results, sets  # noqa: E402

HEAD = {"model.24.m.weight": np.ones(1, np.float32)}
FAKE_ULTRALYTICS = """
import json, torch
__version__ = "8.9.9"
settings = {"mlflow": True}

class YOLO:
    def __init__(self, file):
        self.file = str(file)
        self.model = torch.nn.Module()
        if self.file.endswith(".yaml"):
            self.model.add_module("model", torch.nn.ModuleList([torch.nn.Linear(2, 3)]))
            self.model.model.add_module("24", torch.nn.Linear(3, 4))
    def save(self, file):
        torch.save(self.model.state_dict(), file)
    def _note(self, what, options):
        seen = {"file": self.file, "settings": settings, **options}
        with open(options["project"] + "/" + what + ".json", "w") as stream:
            json.dump(seen, stream)
    def train(self, **options): self._note("train", options)
    def val(self, **options): self._note("val", options)
"""


class Programs:
    """Stand for the peer and for diagnose.py: note what they are asked for and leave what they would leave."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.diagnoses: list[dict[str, str]] = []
        self.status = 0

    def peer(self, words: Sequence[str], log: Path, variables: dict[str, str]) -> int:
        job = json.loads(Path(words[1]).read_text())
        self.jobs.append(job)
        assert words[0] == str(peer.WORKER) and variables["YOLO_OFFLINE"] == "true"
        assert not Path(job["folder"]).exists(), "a run that was stopped is in the way"
        labels = Path(f"{job['folder']}-val", "labels")
        assert not labels.exists(), "the peer would add to predictions of a run that was stopped"
        labels.mkdir(parents=True)
        Path(job["folder"]).mkdir()
        return self.status

    def ours(self, words: Sequence[str], log: Path, variables: dict[str, str]) -> int:
        options = dict(zip(words, words[1:], strict=False))
        self.diagnoses.append(options)
        folder = Path(options["--project"], options["--name"])
        folder.mkdir(parents=True)
        classes = [
            {"name": name, "n_train": n, "n_val": 10, "ap50": ap, "ap": ap, "f1": 0.5, "misclassified": 1}
            for name, n, ap in (("bolt", 100, 60.0), ("coupling", 5, 20.0))
        ]
        summary = {"errors": {"classes": classes, "conf": 0.3}, "comparison": None}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "report.html").write_text("report")
        return 0


@pytest.fixture
def programs() -> Programs:
    return Programs()


@pytest.fixture
def pair(tmp_path: Path, programs: Programs) -> list[peer.PeerCell]:
    """The two arms on parts with seed 3."""
    weights = tmp_path / "start.pt"
    weights.write_bytes(b"start")
    setup = peer.PeerSetup(tmp_path / "work", weights, run=programs.ours, version="8.9.9", run_peer=programs.peer)
    data = cells.PreparedSet(sets.SETS["parts"], tmp_path / "parts.yaml", 400, 11)
    return [peer.PeerCell(data, arm, 3, setup, arm.hyp) for arm in peer.ARMS.values()]


def test_arms_differ_in_cls_pw_alone_and_are_measured_alike(pair: list[peer.PeerCell], programs: Programs) -> None:
    rows = [peer.finish(cell, "cpu") for cell in pair]
    first, second = programs.jobs
    assert {key for key in first if first[key] != second[key]} == {"hyp", "folder"}
    assert (first["hyp"], second["hyp"]) == ({}, {"cls_pw": 1.0})
    assert (first["epochs"], first["seed"], first["img"], first["batch"], first["device"]) == (11, 3, 256, 16, "cpu")
    plain, weighed = programs.diagnoses
    assert plain["--pred"] == f"{first['folder']}-val/labels" and weighed["--pred"] == f"{second['folder']}-val/labels"
    assert "--compare" not in plain and weighed["--compare"] == plain["--pred"]
    assert "--weights" not in plain and plain["--data"] == weighed["--data"] != first["data"]
    assert [(row["arm"], row["images_seen"], row["rare"], row["note"]) for row in rows] == [
        ("none", 4400, 20.0, "ultralytics 8.9.9"), ("cls_pw", 4400, 20.0, "ultralytics 8.9.9")
    ]  # fmt: skip


def test_what_is_done_is_not_repeated_and_what_was_stopped_begins_anew(
    pair: list[peer.PeerCell], programs: Programs
) -> None:
    cell = pair[0]
    programs.status = 143
    with pytest.raises(WorkError, match="parts none 3: .*peer_worker.py ended with status 143"):
        peer.finish(cell, "cpu")
    assert programs.diagnoses == []
    programs.status = 0
    for _ in range(2):
        peer.finish(cell, "cpu")
    assert (len(programs.jobs), len(programs.diagnoses)) == (2, 1)


def test_another_release_is_another_run(pair: list[peer.PeerCell]) -> None:
    plain, weighed = pair
    assert weighed.plain() == plain
    other = replace(plain, setup=replace(plain.setup, version="9.0.0"))
    ours = cells.Cell(plain.data, plain.arm, plain.seed, plain.setup, plain.hyp)
    assert len({cell.settings() for cell in (plain, weighed, other, ours)}) == 4


def test_the_grid_waits_for_the_run_compared_with(
    pair: list[peer.PeerCell], programs: Programs, tmp_path: Path
) -> None:
    found = results.Results(tmp_path / "rows.csv")
    work = grid.Grid(pair[::-1], found, peer.finish, lambda _: None)
    work.start(["cpu", "cpu"])
    assert work.wait() == {}
    assert [job["hyp"] for job in programs.jobs] == [{}, {"cls_pw": 1.0}]
    assert [row["arm"] for row in found.rows] == ["none", "cls_pw"]


# The worker -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A job for the worker, beside a fake ultralytics whose network is one layer and a head."""
    (tmp_path / "ultralytics.py").write_text(FAKE_ULTRALYTICS)
    state = {"model.0.weight": np.ones((3, 2), np.float32), "model.0.bias": np.zeros(3, np.float32)}
    np.savez(tmp_path / "state.npz", **state, **HEAD)
    return {
        "state": str(tmp_path / "state.npz"), "data": "parts.yaml", "folder": str(tmp_path / "run"), "img": 64,
        "batch": 4, "epochs": 2, "seed": 5, "device": "cpu", "threads": 1, "workers": 0, "hyp": {"cls_pw": 1.0},
        "inference": peer.INFERENCE,
    }  # fmt: skip


def run_worker(tmp_path: Path, job: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run the worker with the fake in its path."""
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, str(peer.WORKER), str(file)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_the_worker_begins_with_the_body_of_the_weights(tmp_path: Path, job: dict[str, Any]) -> None:
    done = run_worker(tmp_path, job)
    assert done.returncode == 0, done.stderr
    begun = torch.load(tmp_path / "run" / "begun.pt", weights_only=True)
    assert torch.equal(begun["model.0.weight"], torch.ones(3, 2)) and begun["model.24.weight"].shape == (4, 3)
    training, validation = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("train", "val"))
    assert training["file"] == str(tmp_path / "run" / "begun.pt")
    assert (training["cls_pw"], training["epochs"], training["seed"]) == (1.0, 2, 5)
    assert training["settings"] == {"mlflow": False}
    assert validation["file"] == str(tmp_path / "run" / "weights" / "last.pt")
    assert (validation["conf"], validation["iou"], validation["name"]) == (0.001, 0.6, "run-val")
    assert validation["save_txt"] and validation["save_conf"] and "cls_pw" not in validation


@pytest.mark.parametrize("change", [{"model.0.weight": np.ones((3, 3))}, {"model.1.bias": np.ones(1)}, None])
def test_the_worker_refuses_other_weights(
    tmp_path: Path, job: dict[str, Any], change: dict[str, np.ndarray] | None
) -> None:
    state = {} if change is None else {**np.load(job["state"]), **change}
    np.savez(job["state"], **{**state, **HEAD})
    done = run_worker(tmp_path, job)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith("before its head; expected is a yolov5n.pt")


def test_state_is_plain_tensors_under_the_names_of_the_layers(tmp_path: Path) -> None:
    model = DetectionModel("yolov5n.yaml", nc=2)
    save_checkpoint(tmp_path / "w.pt", {"model": model, "epoch": -1})
    peer.write_state(tmp_path / "w.pt", tmp_path / "state.npz")
    state = np.load(tmp_path / "state.npz")
    own = {name: value.numpy() for name, value in model.state_dict().items()}
    assert {name: state[name].dtype for name in state.files} == {name: value.dtype for name, value in own.items()}
    assert all(np.allclose(state[name], value, rtol=1e-3, atol=1e-6) for name, value in own.items())  # was float16


# The command ----------------------------------------------------------------------------------------------------------


def test_the_version_is_asked_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ultralytics.py").write_text("print('news')\n__version__ = '8.9.9'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert peer.version_of(sys.executable) == "8.9.9"
    (tmp_path / "ultralytics.py").write_text("import not_there\n")
    with pytest.raises(InputError, match=r"--peer .*: Ultralytics cannot be imported there: .*not_there"):
        peer.version_of(sys.executable)
    with pytest.raises(InputError, match=r"--peer .*nowhere: No such file"):
        peer.version_of(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("options", "problem"), [([], "--peer: missing"), (["--peer", "none/python"], "--peer .*: No such file")]
)
def test_the_command_wants_a_peer(tmp_path: Path, options: list[str], problem: str) -> None:
    (tmp_path / "w.pt").write_bytes(b"weights")
    words = [sys.executable, str(ROOT / "benchmarks" / "efficacy_peer.py"), "--weights", "w.pt", *options]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(problem, done.stderr.strip().splitlines()[-1])


def test_the_section_is_written_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = report.BEGIN.format("peer", "efficacy_peer.py"), report.END.format("peer")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    row = {**dict.fromkeys((*figures.FIGURES, "conf"), 10.0), **dict.fromkeys(figures.INTERVALS)}
    row |= {"set": "parts", "arm": "none", "seed": 0, "seconds": 5, "note": "ultralytics 8.9.9"}
    rows = [row, {**row, "arm": "cls_pw", "rare": 12.5}]
    report.write_peer_section(page, analysis.arm_results(rows, ["parts"], list(peer.ARMS)), rows)
    text = page.read_text()
    assert text.startswith(f"before\n{begin}\nMeasured with ultralytics 8.9.9.") and text.endswith(f"{end}\nafter\n")
    assert "| cls_pw | +2.5 | +0.0 | +0.0 | +0.0 |" in text and "### parts, yolov5nu" in text and "old" not in text


def test_the_report_needs_neither_peer_nor_weights(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_bytes((ROOT / "docs" / "evidence.md").read_bytes())
    words = [sys.executable, str(ROOT / "benchmarks" / "efficacy_peer.py"), "--report", "--page", str(page)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert page.read_bytes() == (ROOT / "docs" / "evidence.md").read_bytes(), "the page and the CSV file disagree"


def test_the_page_has_room_for_the_section() -> None:
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert text.count(report.BEGIN.format("peer", "efficacy_peer.py")) == 1
