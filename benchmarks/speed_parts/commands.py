"""Whole commands as users type them: help, one training epoch, validation, detection."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speed_parts.processes import Ended, Program, run_command

EPOCHS = 4  # of one training; the first and the last one are not counted


@dataclass(frozen=True)
class Measured:
    """What one run of a command gave: seconds of each counted part, peak bytes, numbers both sides must agree on."""

    seconds: list[float]
    peak: int
    check: dict[str, float]


@dataclass(frozen=True)
class Command:
    """A command that is timed as a whole.

    Attributes:
        run: (program, settings, folder for outputs, further words, whether to watch memory) -> what it gave.
        unit: what is counted.
        units: how many of them one run handles.
        about: one line for the table's legend.
    """

    run: Callable[[Program, dict[str, Any], Path, list[str], bool], Measured]
    unit: str
    units: Callable[[dict[str, Any]], int]
    about: str


def help_page(program: Program, settings: dict[str, Any], folder: Path, words: list[str], watch: bool) -> Measured:
    """Print a command's options."""
    ended = run_command(program.command("train", "--help"), folder, watch)
    return Measured([ended.seconds], ended.peak, {"--imgsz": float("--imgsz" in ended.output)})


def import_torch(program: Program, settings: dict[str, Any], folder: Path, words: list[str], watch: bool) -> Measured:
    """Import torch, the yardstick for start-up."""
    ended = run_command([program.python, "-c", "import torch"], folder, watch)
    return Measured([ended.seconds], ended.peak, {})


def epoch(program: Program, settings: dict[str, Any], folder: Path, words: list[str], watch: bool) -> Measured:
    """Train for a few epochs, from scratch, and take the times between the rows of results.csv."""
    command = program.command(
        "train", "--data", settings["train_data"], "--weights", "", "--cfg", "yolov5n.yaml", "--imgsz", 320,
        "--batch-size", 16,
        "--epochs", EPOCHS, "--device", settings["device"], "--workers", settings["workers"], "--nosave",
        "--project", folder, "--name", "train", *words,
    )  # fmt: skip
    rows, stop = [], threading.Event()
    watcher = threading.Thread(target=_watch_rows, args=(folder / "train" / "results.csv", rows, stop))
    watcher.start()
    try:
        ended = run_command(command, folder, watch)
    finally:
        stop.set()
        watcher.join()
    times = [later - earlier for earlier, later in zip(rows[:-2], rows[1:-1], strict=True)]
    if len(times) != EPOCHS - 2:
        raise SystemExit(f"{folder}: {len(rows)} rows of results.csv were seen, {EPOCHS} expected")
    return Measured(times, ended.peak, {"rows": len(rows)})


def val(program: Program, settings: dict[str, Any], folder: Path, words: list[str], watch: bool) -> Measured:
    """Validate the released weights on coco128."""
    weights = [] if "--weights" in words else ["--weights", settings["weights"]]
    ended = run_command(
        program.command(
            "val", *weights, "--data", settings["val_data"], "--imgsz", 640, "--device", settings["device"],
            "--workers", settings["workers"], "--project", folder, "--name", "val", *words,
        ),
        folder, watch,
    )  # fmt: skip
    return Measured([ended.seconds], ended.peak, _map_of(ended))


def detect(program: Program, settings: dict[str, Any], folder: Path, words: list[str], watch: bool) -> Measured:
    """Detect on 128 images and write the pictures."""
    weights = [] if "--weights" in words else ["--weights", settings["weights"]]
    ended = run_command(
        program.command(
            "detect", *weights, "--source", settings["images"], "--imgsz", 640, "--device", settings["device"],
            "--project", folder, "--name", "detect", *words,
        ),
        folder, watch,
    )  # fmt: skip
    return Measured([ended.seconds], ended.peak, {"pictures": len(list((folder / "detect").glob("*.jpg")))})


COMMANDS = {
    "import-torch": Command(import_torch, "start", lambda s: 1, "python -c 'import torch', for comparison"),
    "help": Command(help_page, "start", lambda s: 1, "train.py --help"),
    "epoch": Command(
        epoch, "epoch", lambda s: 1, "an epoch of train.py on aquarium at 320, batch 16, yolov5n, with its validation"
    ),
    "val": Command(val, "command", lambda s: 1, "val.py on coco128 at 640, from start to end"),
    "detect": Command(detect, "command", lambda s: 1, "detect.py on 128 images, pictures written, from start to end"),
}


def _watch_rows(path: Path, rows: list[float], stop: threading.Event) -> None:
    """Note when each row of a results.csv appears."""
    while not stop.wait(0.03):
        try:
            count = max(path.read_text(encoding="utf-8").count("\n") - 1, 0)
        except OSError:
            continue
        rows += [time.perf_counter()] * (count - len(rows))


def _map_of(ended: Ended) -> dict[str, float]:
    """Return mAP50 and mAP50-95 of a validation's table."""
    row = re.findall(r"^\s*all\s+(.*)$", ended.output, re.MULTILINE)
    numbers = [float(x) for x in row[-1].split()]
    return {"mAP50": numbers[-2], "mAP50-95": numbers[-1]}
