"""The reference run TINY for the stress commands: its data, how it is started and stopped, how its ends are compared.

TINY is yolov5n from scratch, 32 images of 96x64, imgsz 64, batch 4, 6 epochs of 8 steps, on the CPU: 10 to 20 s.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("child.py")
LOW_HYP = ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"
NAMES = ("green", "blue")
EPOCHS, BATCH, IMAGES = 6, 4, 32
RUN_LIMIT = 600.0  # seconds; a run that takes longer hangs
TEMPORARY = (".tmp", ".part")  # endings of files that a save has not named yet


def draw_data(folder: Path, train: int = IMAGES, val: int = 8) -> Path:
    """Draw TINY's data set (flat rectangles of two classes; PNG and JPEG in turn) and return its YAML."""
    import cv2

    rng = np.random.default_rng(0)
    root = folder / "tiny"
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            image, rows = np.full((64, 96, 3), 90, np.uint8), []
            for cls in (0, 1) if number % 2 else (0,):
                w, h = rng.integers(16, 32, 2)
                x, y = rng.integers(0, 96 - w), rng.integers(0, 64 - h)
                image[y : y + h, x : x + w] = (240, 30, 30) if cls else (30, 240, 30)
                rows.append(f"{cls} {(x + w / 2) / 96:.6f} {(y + h / 2) / 64:.6f} {w / 96:.6f} {h / 64:.6f}")
            cv2.imwrite(str(root / "images" / split / f"{number}.{'jpg' if number % 3 == 2 else 'png'}"), image)
            (root / "labels" / split / f"{number}.txt").write_text("\n".join(rows) + "\n")
    path = folder / "tiny.yaml"
    path.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [{', '.join(NAMES)}]\n")
    return path


def write_hyp(path: Path, **changes: float) -> Path:
    """Write hyp.scratch-low.yaml with some values changed and return its path."""
    lines = {line.split(":")[0]: line for line in LOW_HYP.read_text().splitlines() if line and line[0] != "#"}
    lines.update({key: f"{key}: {value}" for key, value in changes.items()})
    path.write_text("\n".join(lines.values()) + "\n")
    return path


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder but the caches that the program may write there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith((".npz", ".npy"))
    }


def temporary_files(folder: Path) -> list[str]:
    """Return the names below a folder that only an unfinished write leaves."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(p.name for p in found if p.name.startswith(".") or any(part in p.name for part in TEMPORARY))


@dataclass
class Process:
    """A train.py at work.

    Attributes:
        popen: the process, leader of a group that holds its loader workers too.
        log: file of its stdout and stderr.
        marks: file to which it writes "seconds hook number" at each hook.
        began: time.monotonic() of its start.
    """

    popen: subprocess.Popen
    log: Path
    marks: Path
    began: float

    def read_marks(self) -> list[tuple[str, int]]:
        """Return the (hook, number) pairs so far; the number is a step or epoch, -1 for hooks without."""
        lines = self.marks.read_text().splitlines() if self.marks.exists() else []
        return [(parts[1], int(parts[2])) for parts in (line.split() for line in lines) if len(parts) == 3]

    def steps_done(self) -> int | None:
        """Return how many steps of the run are done, None before this process's first."""
        numbers = [number for hook, number in self.read_marks() if hook == "on_train_batch_end"]
        return numbers[-1] + 1 if numbers else None

    def stage(self, last_epoch: int) -> str:
        """Return what the process is at: start-up, steps, validation, saving or closing."""
        marks = self.read_marks()
        if ("on_model_save", last_epoch) in marks:
            return "closing"
        hook = marks[-1][0] if marks else ""
        if hook.startswith("on_val") or hook == "on_train_epoch_end":
            return "validation"
        if hook in {"on_fit_epoch_end", "saving"}:
            return "saving"
        return "steps" if hook.startswith(("on_train", "on_model_save", "saved")) else "start-up"

    def wait(self, limit: float = RUN_LIMIT) -> int:
        """Wait for the end and return the exit code; what is left of its group is ended.

        Raises:
            TimeoutError: it hangs; it has been killed.
        """
        try:
            return self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still at work after {limit:.0f} s: {self.tail()}") from None
        finally:
            self.end_group()

    def end_group(self) -> None:
        """Kill the process and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def sleep(self, seconds: float) -> bool:
        """Wait until ``seconds`` after the start; return whether the process still runs."""
        while time.monotonic() < self.began + seconds:
            if self.popen.poll() is not None:
                return False
            time.sleep(min(0.01, max(0.0, self.began + seconds - time.monotonic())))
        return self.popen.poll() is None

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.began

    def output(self) -> str:
        """Return everything that it has printed."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """Return the last line that it printed, shortened."""
        lines = [line.strip() for line in self.output().replace("\r", "\n").splitlines() if line.strip()]
        return lines[-1][-200:] if lines else ""


class Whole(NamedTuple):
    """An undisturbed run to compare with, and how long it took."""

    folder: Path
    seconds: float


@dataclass
class Bench:
    """A work folder with the data set, in which runs of one size are started.

    Attributes:
        folder: where everything goes.
        data: the data YAML.
        epochs: of each run.
        cfg: model YAML.
        base: options that all runs share beside those.
        count: runs that were started.
        wholes: undisturbed runs by the name of their settings.
    """

    folder: Path
    data: Path
    epochs: int = EPOCHS
    cfg: str = "yolov5n.yaml"
    base: tuple[str, ...] = ("--noplots",)
    count: int = field(default=0, init=False)
    wholes: dict[str, Whole] = field(default_factory=dict, init=False)

    def options(self, name: str, *more: str, project: Path | None = None) -> list[str]:
        """Return the command line of the run ``name``; it starts in its folder again where that exists."""
        project = self.folder / "runs" if project is None else project
        return [
            "--data", str(self.data), "--weights", "", "--cfg", self.cfg, "--imgsz", "64", "--device", "cpu",
            "--batch-size", str(BATCH), "--epochs", str(self.epochs), "--project", str(project), "--name", name,
            "--exist-ok", *self.base, *more,
        ]  # fmt: skip

    def run_folder(self, name: str) -> Path:
        """Return the folder of the run ``name``."""
        return self.folder / "runs" / name

    def start(
        self, arguments: Sequence[str], faults: Sequence[dict[str, Any]] = (), environment: dict[str, str] | None = None
    ) -> Process:
        """Start train.py by way of child.py, which marks the hooks and injects ``faults``."""
        self.count += 1
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        stem = logs / f"{self.count:04d}-{os.getpid()}-{time.monotonic_ns() % 10**9}"
        log, marks = stem.with_suffix(".log"), stem.with_suffix(".marks")
        command = [sys.executable, str(CHILD), "--marks", str(marks), "--faults", json.dumps(list(faults)), "--"]
        began = time.monotonic()
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [*command, *arguments], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                cwd=self.folder, env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
                start_new_session=True,
            )  # fmt: skip
        return Process(popen, log, marks, began)

    def whole(self, name: str, *more: str) -> Whole:
        """Run to the end undisturbed.

        Raises:
            RuntimeError: it failed.
        """
        process = self.start(self.options(name, *more))
        code = process.wait()
        if code:
            raise RuntimeError(f"the undisturbed run {name} ended with {code}: {process.output()[-3000:]}")
        return Whole(self.run_folder(name), time.monotonic() - process.began)

    def start_or_resume(self, name: str, *more: str, faults: Sequence[dict[str, Any]] = ()) -> Process:
        """Resume the run where it has a checkpoint, else start it again, as a job scheduler would."""
        last = self.run_folder(name) / "weights" / "last.pt"
        arguments = ["--resume", str(last)] if last.exists() else self.options(name, *more)
        return self.start(arguments, faults)

    def resume_to_end(self, name: str, *more: str) -> Process:
        """Resume or start again, and wait for the end."""
        process = self.start_or_resume(name, *more)
        process.wait()
        return process


def checkpoint_step(path: Path) -> int:
    """Return the number of steps that a resumable checkpoint stands at.

    Raises:
        InputError: it cannot be read.
        KeyError: it is a finished one.
    """
    from utils.checkpoint import load_checkpoint

    return int(load_checkpoint(path)["resume"]["step"])


def is_finished(path: Path) -> bool:
    """Tell whether a checkpoint is stripped, so that its run is over; one from within epoch 0 has epoch -1 as well."""
    from utils.checkpoint import load_checkpoint

    content = load_checkpoint(path)
    return content["epoch"] == -1 and "resume" not in content


def differences(found: Path, whole: Path, epochs: int = EPOCHS) -> list[str]:
    """Compare two finished runs: weights bit for bit, tables byte for byte, each epoch's events once, nothing left."""
    problems = [f"{name} differs" for name in ("last.pt", "best.pt") if not _same_weights(found, whole, name)]
    for name in ("results.csv", "per_class.csv", "thresholds.yaml"):
        one, other = found / name, whole / name
        if other.exists() and (not one.exists() or _lines(one) != _lines(other)):
            problems.append(f"{name} differs")
    steps = event_epochs(found)
    if steps != list(range(epochs)):
        problems.append(f"TensorBoard has epochs {steps}")
    problems += [f"left {name}" for name in temporary_files(found)]
    extra = {p.name for p in (found / "weights").iterdir()} - {p.name for p in (whole / "weights").iterdir()}
    return problems + [f"left {name}" for name in sorted(extra) if not name.startswith(".")]


def _lines(path: Path) -> list[bytes]:
    """Return a file's lines without YAML comments, which name the run's folder."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if not line.startswith(b"#")]


def _same_weights(found: Path, whole: Path, name: str) -> bool:
    from utils.checkpoint import load_checkpoint

    one, other = (load_checkpoint(folder / "weights" / name) for folder in (found, whole))
    return one["epoch"] == other["epoch"] == -1 and same_tensors(one, other)


def same_tensors(one: Any, other: Any) -> bool:
    """Tell whether two checkpoints' contents hold the same tensors, bit for bit."""
    import torch

    pairs = list(zip(tensors(one), tensors(other), strict=False))
    same = all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    return same and len(pairs) > 0 and len(list(tensors(one))) == len(list(tensors(other)))


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, tensor) for all of a checkpoint's content, networks included."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, torch.nn.Module):
        yield from tensors(value.state_dict(), name)
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(item, f"{name}.{key}")


def event_epochs(folder: Path, tag: str = "metrics/mAP_0.5") -> list[int]:
    """Return the epochs that TensorBoard shows for a scalar, as often as it shows them."""
    import logging

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars(tag)] if tag in events.Tags()["scalars"] else []


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns; the last column is not padded."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[k]) for line in [list(columns), *texts]) for k in range(len(columns))]
    print(f"\n{title}")
    for line in [list(columns), ["-" * width for width in widths], *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    sys.stdout.flush()
