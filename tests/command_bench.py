"""Runs the commands on a small data set with something wrong in it, and checks the rules that hold for all of them.

Status 0 is for work that was done, 2 for what is refused before work starts; one line on stderr names the culprit,
without a traceback; inputs stay byte for byte; a refused run leaves no folder and has trained no step; nothing connects
to a network and no code out of a file runs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import detect
import preview
import train
import val
from models.yolo import DetectionModel
from utils.errors import run_command
from utils.logs import LOGGER
from utils.training.engine import Engine

ROOT = Path(__file__).resolve().parents[1]
LOW_HYP = ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"
COMMANDS = {"train": train, "val": val, "detect": detect, "preview": preview}


@dataclass
class Outcome:
    """How a command ended: its status, what stderr showed, and whether training began."""

    status: int
    stderr: str
    trained: bool = False

    @property
    def errors(self) -> list[str]:
        """The lines that say why."""
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]


@dataclass
class Bench:
    """A small data set, a checkpoint, and the commands on them."""

    root: Path
    data: Path
    weights: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    trained: list[int] = field(default_factory=list)
    connections: list[object] = field(default_factory=list)

    @property
    def canary(self) -> Path:
        """A file that only code hidden in an input would make."""
        return self.root / "canary"

    def image(self, number: int, split: str = "train") -> Path:
        """Return an image of the set."""
        return self.root / "tiny" / "images" / split / f"{number}.png"

    def label(self, number: int, split: str = "train") -> Path:
        """Return a label file of the set."""
        return self.root / "tiny" / "labels" / split / f"{number}.txt"

    def edit(self, old: str, new: str) -> None:
        """Change the data YAML."""
        text = self.data.read_text()
        assert old in text
        self.data.write_text(text.replace(old, new))

    def hyp(self, changes: dict[str, str], without: tuple[str, ...] = ()) -> list[str]:
        """Write hyp.scratch-low.yaml with other or more lines and return the option that names the file.

        Args:
            changes: key -> what follows its colon, as text.
            without: keys to leave out.
        """
        lines = {line.split(":")[0]: line for line in LOW_HYP.read_text().splitlines() if line and line[0] != "#"}
        lines.update({key: f"{key}: {value}" for key, value in changes.items()})
        path = self.root / "h.yaml"
        path.write_text("\n".join(line for key, line in lines.items() if key not in without) + "\n")
        return ["--hyp", str(path)]

    def arguments(self, command: str, *more: str) -> list[str]:
        """Return a command line with every option that the case does not give itself."""
        if command == "preview":
            target = str(self.root / "runs" / "exp" / "preview.png")
            return ["--data", str(self.data), "--out", target, "--imgsz", "64", "--cell", "64", "--count", "8", *more]
        small = ["--imgsz", "64", "--device", "cpu", "--project", str(self.root / "runs")]
        usual = {
            "train": ["--data", str(self.data), "--weights", "", "--cfg", "yolov5n.yaml", "--epochs", "1",
                      "--batch-size", "4", "--workers", "0", "--noplots"],
            "val": ["--data", str(self.data), "--weights", str(self.weights), "--workers", "0"],
            "detect": ["--weights", str(self.weights), "--source", str(self.root / "tiny" / "images" / "val")],
        }[command]  # fmt: skip
        return [*usual, *small, *more]

    def run(self, command: str, *more: str) -> Outcome:
        """Run a command in this process and return how it ended, with its stderr."""
        module = COMMANDS[command]
        self.monkeypatch.setattr(sys, "argv", [str(ROOT / f"{command}.py"), *self.arguments(command, *more)])
        self.monkeypatch.setattr(LOGGER, "handlers", [logging.StreamHandler(sys.stderr)])
        self.trained.clear()
        self.capsys.readouterr()
        try:
            read_options = getattr(module, "parse_opt", None) or module.build_parser().parse_args
            run_command(lambda: module.main(read_options()))
            status = 0
        except SystemExit as end:
            status = end.code
        return Outcome(status, self.capsys.readouterr().err, bool(self.trained))

    def run_apart(self, command: str, *more: str, start: Sequence[str] = ()) -> Outcome:
        """Run a command as a process of its own, ``start`` being what its command line begins with."""
        done = subprocess.run(
            [*start, sys.executable, str(ROOT / f"{command}.py"), *self.arguments(command, *more)],
            check=False, capture_output=True, text=True, cwd=self.root, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return Outcome(done.returncode, done.stderr)

    def inputs(self) -> dict[str, str]:
        """Return a digest of every file but our label caches and what runs wrote."""
        files = [p for p in self.root.rglob("*") if p.is_file() and self.root / "runs" not in p.parents]
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if not p.name.endswith(".cache.npz")}


@functools.cache
def weights_content() -> bytes:
    """Return a checkpoint that finds class 1 nearly everywhere, so that detections can be compared."""
    from utils.checkpoint import build_checkpoint

    torch.manual_seed(0)
    model = DetectionModel(str(ROOT / "models" / "yolov5n.yaml"), ch=3, nc=2)
    model.names = {0: "green", 1: "blue"}
    for conv in model.model[-1].m:
        bias = conv.bias.detach().view(3, -1)
        bias[:, 4], bias[:, 5], bias[:, 6] = 2.0, -4.0, 4.0
    contents = build_checkpoint(
        model=model, ema=model, updates=0, optimizer_state=None, epoch=0, best_fitness=0.0, opt={"epochs": 3}
    )
    content = io.BytesIO()
    torch.save(contents, content)
    return content.getvalue()


@contextlib.contextmanager
def opened_bench(
    data: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Bench]:
    """Give a bench in ``root``; epochs of training and connections are noted, the log goes to the captured stderr."""
    weights = root / "yolov5n.pt"
    weights.write_bytes(weights_content())
    bench = Bench(root, data, weights, monkeypatch, capsys)
    train_epoch = Engine.train_epoch

    def noted(*args: object, **kwargs: object) -> object:
        bench.trained.append(1)
        return train_epoch(*args, **kwargs)

    def refused(*args: object, **_: object) -> None:
        bench.connections.append(args)
        raise OSError("no network")

    monkeypatch.setattr(Engine, "train_epoch", noted)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(LOGGER, "propagate", False)
    monkeypatch.chdir(root)
    yield bench
    assert not bench.connections
    assert not bench.canary.exists()


def check_refused(outcome: Outcome, before: dict[str, str], bench: Bench, words: list[str], status: int = 2) -> None:
    """Check the rules for a refusal whose one line holds all of ``words``."""
    assert outcome.status == status, outcome.stderr
    assert len(outcome.errors) == 1, outcome.stderr
    assert all(word in outcome.errors[0] for word in words), outcome.errors
    assert "Traceback" not in outcome.stderr
    assert not outcome.trained
    assert bench.inputs() == before
    assert not [p for p in (bench.root / "runs").rglob("*") if p.name.startswith("exp")]


def check_done(outcome: Outcome, before: dict[str, str], bench: Bench, words: list[str], *more: list[str]) -> None:
    """Check the rules for work done in spite of a fault: for each list of words one line of the log holds them all."""
    assert outcome.status == 0, outcome.stderr
    assert not outcome.errors and "Traceback" not in outcome.stderr
    lines = outcome.stderr.splitlines()
    for wanted in (words, *more):
        assert any(all(word in line for word in wanted) for line in lines), (wanted, outcome.stderr)
    assert bench.inputs() == before
    assert (bench.root / "runs" / "exp").is_dir()
