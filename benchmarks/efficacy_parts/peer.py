"""Ultralytics' own remedy, ``cls_pw``, on its yolov5nu: the same data, budget, seeds and measuring, another program."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficacy_parts.arms import NONE, Arm
from efficacy_parts.cells import TRAINED, Cell, PreparedSet, Runner, Setup, call, diagnose, row_of
from efficacy_parts.sets import prepare
from utils.errors import InputError
from utils.safe_write import make_whole, write_whole

WORKER = Path(__file__).with_name("peer_worker.py")
INFERENCE = {"conf": 0.001, "iou": 0.6, "max_det": 300}  # those of diagnose.py
POWER = "cls_pw"
PEER_DATA = "peer"  # below the work folder: data for the peer alone, because its label caches have our names
ARMS = {
    NONE: Arm(NONE, "Ultralytics' yolov5nu with its own settings"),
    POWER: Arm(POWER, "the same with classes weighed by 1/n", {POWER: 1.0}),
}


@dataclass(frozen=True)
class PeerSetup(Setup):
    """What all runs of the peer share.

    Attributes:
        version: of Ultralytics.
        run_peer: starts a script in the peer's environment, as ``run`` does in this one.
    """

    version: str = ""
    run_peer: Runner | None = None

    @property
    def state(self) -> Path:
        """The initial tensors, in a file that another program can read."""
        return self.work / "state.npz"


@dataclass(frozen=True)
class PeerCell(Cell):
    """One run of the peer; its hyp are options of Ultralytics."""

    setup: PeerSetup

    def settings(self) -> str:
        """Return eight digits that stand for all that the figures depend on."""
        return self.digits({"ultralytics": self.setup.version, "inference": INFERENCE})

    def plain(self) -> PeerCell:
        """Return the run without cls_pw that this one is compared with."""
        return PeerCell(self.data, ARMS[NONE], self.seed, self.setup, ARMS[NONE].hyp)

    @property
    def measured(self) -> tuple[str, Path]:
        """The option of diagnose.py for what is measured, and its value."""
        return "--pred", self.predictions

    @property
    def predictions(self) -> Path:
        """The folder of label files with confidences that the peer writes for the validation images."""
        return self.folder.with_name(f"{self.folder.name}-val") / "labels"


def version_of(python: str) -> str:
    """Return the version of Ultralytics in another environment.

    Raises:
        InputError: it cannot be imported there; repeats the last line of the message.
    """
    words = [python, "-c", "import ultralytics; print(ultralytics.__version__)"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise InputError(f"--peer {python}: {error.strerror}; expected the python of an environment") from None
    if done.returncode:
        problem = (done.stderr.strip() or "no message").splitlines()[-1]
        raise InputError(f"--peer {python}: Ultralytics cannot be imported there: {problem}")
    return done.stdout.split()[-1]


def write_state(weights: Path, file: Path) -> None:
    """Write the tensors of a checkpoint's network as plain data, for a program that cannot unpickle its classes."""
    import numpy as np

    from utils.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(weights)
    network = (checkpoint.get("ema") or checkpoint["model"]).float()
    tensors: dict[str, Any] = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    make_whole(file, lambda path: np.savez(path, **tensors))


def finish(cell: PeerCell, device: str) -> dict[str, Any]:
    """Train and measure a cell unless that was done, and return its row; a stopped training begins anew.

    Raises:
        WorkError: a command failed, or was stopped by a signal.
    """
    begun = time.monotonic()
    train(cell, device)
    compared = None if cell.arm.name == NONE else cell.plain().predictions
    summary = diagnose(cell, device, compared)
    return {**row_of(cell, summary, time.monotonic() - begun), "note": f"ultralytics {cell.setup.version}"}


def train(cell: PeerCell, device: str) -> None:
    """Train a cell and write its predictions; nothing happens where that was done.

    Raises:
        WorkError: the peer failed.
    """
    if (cell.folder / TRAINED).exists():
        return
    for folder in (cell.folder, cell.predictions.parent):  # of a training that was stopped
        shutil.rmtree(folder, ignore_errors=True)
    file = cell.folder.with_name(f"{cell.folder.name}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(job(cell, device), indent=1))
    # its settings file goes below the work folder, and it is not to look for news of itself
    variables = {"YOLO_CONFIG_DIR": str(cell.setup.work), "YOLO_OFFLINE": "true"}
    call(cell, [str(WORKER), str(file)], device, cell.setup.run_peer, variables)
    (cell.folder / TRAINED).touch()


def job(cell: PeerCell, device: str) -> dict[str, Any]:
    """Return what the worker reads."""
    setup, entry = cell.setup, cell.data.entry
    return {
        "state": str(setup.state), "data": str(setup.work / PEER_DATA / "data" / f"{entry.name}.yaml"),
        "folder": str(cell.folder), "img": setup.img, "batch": setup.batch, "epochs": cell.data.epochs,
        "seed": cell.seed, "device": device, "threads": setup.threads, "workers": setup.workers, "hyp": cell.hyp,
        "inference": INFERENCE,
    }  # fmt: skip


def prepare_for_peer(data: PreparedSet, datasets: Path, setup: PeerSetup) -> None:
    """Lay out the copy of a set that the peer reads."""
    prepare(data.entry, datasets, setup.work / PEER_DATA)
