"""One cell of the grid: an arm trained on a set with a seed, then diagnosed; resumable after any stop."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from efficacy_parts.arms import ADVICE, NONE, Arm
from efficacy_parts.figures import advised, image_intervals, run_figures
from efficacy_parts.sets import DataSet
from utils.errors import WorkError
from utils.parts_drawing.settings import VERSION
from utils.yaml_files import read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "data" / "diagnosis_rules.yaml"
TRAINED = "trained"  # empty file in the folder of a run whose training has ended
RULES_READ = "rules.sha256"  # in the folder of a diagnosis: of the rules that its advice follows
RULE_TEXTS = {"title", "evidence", "suggestion", "command"}
LONGEST_LINE = 300  # characters of a log line that an error message repeats

Runner = Callable[[Sequence[str], Path, dict[str, str]], int]


@functools.cache
def digest_of(path: Path) -> str:
    """Return the sha256 of a file, which must not change while this program runs."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def digest_of_rules(path: Path) -> str:
    """Return the sha256 of what the rules of a file decide; their texts may change."""
    rules = [{key: value for key, value in rule.items() if key not in RULE_TEXTS} for rule in read_yaml(path)["rules"]]
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Setup:
    """What all runs of a grid share.

    Attributes:
        work: folder of data, runs and logs.
        weights: initial weights.
        img: image size in pixels.
        batch: images a step.
        threads: of each process on the CPU.
        workers: loader processes of each training.
        training: further options of train.py.
        run: starts a command: (words, log file, variables) -> exit status.
    """

    work: Path
    weights: Path
    img: int = 256
    batch: int = 16
    threads: int = 1
    workers: int = 0
    training: tuple[str, ...] = ()
    run: Runner | None = None

    def common(self) -> dict[str, Any]:
        """Return what a run's figures depend on beside set, arm and seed."""
        return {
            "weights": digest_of(self.weights),
            "img": self.img,
            "batch": self.batch,
            "training": list(self.training),
        }


@dataclass(frozen=True)
class PreparedSet:
    """A data set laid out below the work folder: its YAML, its training images, the epochs of a training on it."""

    entry: DataSet
    yaml: Path
    images: int
    epochs: int


@dataclass(frozen=True)
class Cell:
    """One run: what is trained on what, with which seed.

    Attributes:
        data: the set.
        arm: the arm.
        seed: of the training.
        setup: what all runs share.
        hyp: the arm's settings; empty for the advice, which another run gives.
    """

    data: PreparedSet
    arm: Arm
    seed: int
    setup: Setup
    hyp: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Return set, arm and seed in words."""
        return f"{self.data.entry.name} {self.arm.name} {self.seed}"

    def settings(self) -> str:
        """Return eight digits that stand for all that the figures depend on: another budget or hyp file, others.

        The advice stands for itself: what it changes follows from the run without remedy and from the rules.
        """
        if self.arm.name == ADVICE:
            return self.digits({"hyp": ["advice", self.plain().settings(), digest_of_rules(RULES)]})
        return self.digits({})

    def digits(self, more: dict[str, Any]) -> str:
        """Return eight digits that stand for the cell's facts and ``more``, which may replace some."""
        facts = {
            **self.setup.common(), "epochs": self.data.epochs, "hyp": self.hyp, "flags": self.arm.flags,
            "recipe": self.data.entry.recipe and [VERSION, asdict(self.data.entry.recipe)],
            "images": self.data.images, **more,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]

    def plain(self) -> Cell:
        """Return the run without remedy that this one is compared with."""
        from efficacy_parts.arms import ARMS

        arm = ARMS[NONE]
        return Cell(self.data, arm, self.seed, self.setup, arm.settings())

    @property
    def folder(self) -> Path:
        """The run folder of the training."""
        return self.setup.work / "runs" / self.data.entry.name / f"{self.arm.name}-{self.seed}-{self.settings()}"

    @property
    def last(self) -> Path:
        """The weights of the last epoch, which are measured: every arm has had as many images by then."""
        return self.folder / "weights" / "last.pt"

    @property
    def measured(self) -> tuple[str, Path]:
        """The option of diagnose.py for what is measured, and its value."""
        return "--weights", self.last

    @property
    def diagnosis(self) -> Path:
        """The folder of the diagnosis."""
        return self.folder.with_name(f"{self.folder.name}-diagnosis")

    def summary(self) -> dict[str, Any] | None:
        """Return the diagnosis's summary, None before it is whole: the report is written after it."""
        if not (self.diagnosis / "report.html").exists():
            return None
        return json.loads((self.diagnosis / "summary.json").read_text(encoding="utf-8"))


# Commands -------------------------------------------------------------------------------------------------------------


def train_words(cell: Cell, hyp: Path, device: str) -> list[str]:
    """Return the command that trains a cell from its beginning."""
    setup = cell.setup
    options: dict[str, Any] = {
        "--data": cell.data.yaml, "--weights": setup.weights, "--hyp": hyp, "--img": setup.img,
        "--batch-size": setup.batch, "--epochs": cell.data.epochs, "--seed": cell.seed, "--patience": 0,
        "--workers": setup.workers, "--device": device, "--cache": "ram",
        "--project": cell.folder.parent, "--name": cell.folder.name,
    }  # fmt: skip
    words = ["train.py", *(str(word) for pair in options.items() for word in pair), "--exist-ok", "--noplots"]
    return [*words, *(() if cell.arm.validates else ("--noval",)), *cell.arm.flags, *setup.training]


def diagnose_words(cell: Cell, device: str, compared: Path | None) -> list[str]:
    """Return the command that measures a trained cell.

    Args:
        cell: the cell.
        device: where to measure.
        compared: weights that it is compared with image by image, which costs one more inference; None for the run
            without remedy, whose diagnosis gives the advice and looks at training images, too.
    """
    setup = cell.setup
    options: dict[str, Any] = {
        "--data": cell.data.yaml, cell.measured[0]: cell.measured[1], "--imgsz": setup.img,
        "--batch-size": setup.batch, "--workers": setup.workers, "--device": device, "--max-crops": 0,
        "--project": cell.diagnosis.parent, "--name": cell.diagnosis.name,
    }  # fmt: skip
    words = ["diagnose.py", *(str(word) for pair in options.items() for word in pair), "--exist-ok", "--noplots"]
    words += ["--task", "balance", "errors"]
    return words if compared is None else [*words, "--train-images", "0", "--compare", str(compared)]


def run_logged(words: Sequence[str], log: Path, variables: dict[str, str]) -> int:
    """Run a command of the project with its output added to a file; return its exit status."""
    with log.open("ab") as stream:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=ROOT, env=variables, stdout=stream, stderr=stream, check=False).returncode


def call(
    cell: Cell, words: Sequence[str], device: str, run: Runner | None = None, more: dict[str, str] | None = None
) -> None:
    """Run a command of a cell.

    Args:
        cell: the cell, whose log is added to.
        words: a script and its options.
        device: where it runs.
        run: starts it, by default what the setup has for this.
        more: variables of its environment.

    Raises:
        WorkError: it failed; names the log and its last line.
    """
    log = cell.folder.with_name(f"{cell.folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(cell.setup.threads)} if device == "cpu" else {}
    status = (run or cell.setup.run or run_logged)(words, log, {**os.environ, **threads, **(more or {})})
    if status:
        raise WorkError(f"{cell.title}: {words[0]} ended with status {status}; {_last_line(log)} ({log})")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")[-LONGEST_LINE:]


# A cell from beginning to end -----------------------------------------------------------------------------------------


def finish(cell: Cell, device: str) -> dict[str, Any]:
    """Train and diagnose a cell, or go on with it where it was stopped, and return its row.

    Raises:
        WorkError: a command failed, or was stopped by a signal.
    """
    begun = time.monotonic()
    hyp, note = hyp_file(cell, device)
    if cell.arm.name == ADVICE and not note:
        summary = cell.plain().summary()
        assert summary is not None
        return {**row_of(cell, summary, 0.0), "note": "nothing advised: the run without remedy stands for it"}
    train(cell, hyp, device)
    summary = diagnose(cell, device, None if cell.arm.name == NONE else cell.plain().last)
    return {**row_of(cell, summary, time.monotonic() - begun), "note": note}


def diagnose(cell: Cell, device: str, compared: Path | None) -> dict[str, Any]:
    """Measure a trained cell, unless that was done, and return the summary.

    Raises:
        WorkError: the diagnosis failed.
    """
    if cell.summary() is None:
        call(cell, diagnose_words(cell, device, compared), device)
        (cell.diagnosis / "errors_ap.csv").unlink(missing_ok=True)  # megabytes that nothing reads
        (cell.diagnosis / RULES_READ).write_text(digest_of_rules(RULES), encoding="ascii")
    summary = cell.summary()
    assert summary is not None
    return summary


def diagnose_by_present_rules(plain: Cell, device: str) -> dict[str, Any]:
    """Return the summary of a run without remedy, diagnosed again where its advice follows other rules than today's.

    Raises:
        WorkError: it is not trained, or the diagnosis failed.
    """
    if state_of(plain) != "trained":
        raise WorkError(f"{plain.title}: it is not trained, so that there is no advice from it")
    read = plain.diagnosis / RULES_READ
    if not read.exists() or read.read_text(encoding="ascii") != digest_of_rules(RULES):
        shutil.rmtree(plain.diagnosis, ignore_errors=True)
    return diagnose(plain, device, None)


def hyp_file(cell: Cell, device: str) -> tuple[Path, str]:
    """Return the hyp file of a cell and what was advised, '' where nothing was.

    Raises:
        WorkError: it is the advice, and there is no run without remedy to diagnose.
    """
    if cell.arm.name == ADVICE:
        plain = cell.plain()
        summary = diagnose_by_present_rules(plain, device)
        return plain.diagnosis / "advice.yaml", advised(summary)
    file = cell.setup.work / "hyps" / f"{cell.arm.name}-{cell.settings()}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(file, cell.hyp, comment=[f"arm {cell.arm.name}: {cell.arm.about}"])
    return file, ""


def train(cell: Cell, hyp: Path, device: str) -> None:
    """Train a cell, or go on with it; nothing happens where it is trained.

    Raises:
        WorkError: the training failed.
    """
    state = state_of(cell)
    if state == "trained":
        return
    if state == "stopped":
        call(cell, ["train.py", "--resume", str(cell.last), "--device", device], device)
    else:
        shutil.rmtree(cell.folder, ignore_errors=True)  # killed before its first checkpoint
        call(cell, train_words(cell, hyp, device), device)
    (cell.folder / TRAINED).touch()


def state_of(cell: Cell) -> str:
    """Return "trained", "stopped" (with a checkpoint to go on from) or "new"."""
    if (cell.folder / TRAINED).exists():
        return "trained"
    if not cell.last.exists():
        return "new"
    from utils.checkpoint import is_finished, load_checkpoint

    return "trained" if is_finished(load_checkpoint(cell.last)) else "stopped"


def row_of(cell: Cell, summary: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return a cell's row of the CSV file but for its note."""
    return {
        "set": cell.data.entry.name, "arm": cell.arm.name, "seed": cell.seed, "settings": cell.settings(),
        "epochs": cell.data.epochs, "images_seen": cell.data.epochs * cell.data.images, "img": cell.setup.img,
        **run_figures(summary), **image_intervals(summary), "seconds": round(seconds),
    }  # fmt: skip
