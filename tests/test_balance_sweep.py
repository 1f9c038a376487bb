"""Every loss and every sampler on the aquarium set: three epochs through train.py, killed and resumed, two processes.

pytest -m slow tests/test_balance_sweep.py     # about half an hour on two cores
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.checkpoint import load_checkpoint
from utils.hyperparameters import CLS_LOSSES, OBJ_LOSSES, SAMPLERS
from utils.yaml_files import read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tests" / "balance_worker.py"
LOW = ROOT / "data/hyps/hyp.scratch-low.yaml"
IMAGES, BATCH, EPOCHS = 448, 16, 3
STEPS = IMAGES // BATCH
RUN = [
    "--weights", "", "--cfg", "yolov5n.yaml", "--imgsz", "96", "--batch-size", BATCH, "--epochs", EPOCHS,
    "--device", "cpu", "--noplots", "--workers", "0", "--cache", "ram",
]  # fmt: skip
DRAWN = [name for name in SAMPLERS if name != "none"]

LOSSES: dict[str, dict[str, Any]] = {
    **{f"cls {name}": {"cls_loss": name} for name in CLS_LOSSES},
    **{f"obj {name}": {"obj_loss": name} for name in OBJ_LOSSES},
    "cls and obj dyn adaptive": {"cls_dyn": 1.0, "obj_dyn": 1.0, "dyn_mode": "adaptive"},
    "focal scale ema": {"cls_loss": "focal", "obj_loss": "focal", "cls_fl_norm": "ema", "obj_fl_norm": "ema"},
    "weights effective, deferred": {"cls_weights": "effective_number", "cls_weights_start": 0.5},
}
SAMPLING: dict[str, dict[str, Any]] = {
    **{name: {"sampler": name} for name in DRAWN},
    **{f"{name} expand": {"sampler": name, "sampler_len": "expand"} for name in DRAWN if "repeat" in name},
    "rare_paste": {"rare_paste": 0.5},
    "album_rare": {"album_rare": [{"RandomRotate90": 0.5}], "rare_aug_p": 0.5},
}
SMALL_BOXES = r"AutoAnchor: .*WARNING \d+ of 3324 boxes are below 3 pixels"  # true at 96 px
EXPECTED_WARNINGS: dict[str, str] = {}  # case -> pattern of the warnings it earns beside that


pytestmark = pytest.mark.slow


def _start(command: list[Any], expected: int = 0) -> str:
    """Run a command and return its log without progress bars."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, check=False
    )
    log = done.stdout + done.stderr
    assert done.returncode == expected, log[-3000:]
    return log


def _train(folder: Path, name: str, settings: dict[str, Any], data: Path, *, kill: int = -1, processes: int = 1) -> str:
    hyp = folder / "hyp.yaml"
    write_yaml(hyp, {**read_yaml(LOW), **settings})
    draws = folder / f"{name}_draws"
    draws.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes] if processes > 1 else []
    command = [*launcher, WORKER, kill, draws, "--data", data, *RUN, "--hyp", hyp, "--project", folder, "--name", name]
    return _start(command, expected=-signal.SIGKILL if kill >= 0 else 0)


def _warnings(log: str) -> list[str]:
    """Return the lines that warn, of this project or of a library."""
    return [line for line in log.splitlines() if re.search("warn", line, re.IGNORECASE)]


def _draws(folder: Path) -> dict[int, Counter]:
    """Return how often each image was drawn by all processes together, by epoch."""
    epochs: dict[int, Counter] = {}
    for path in folder.glob("*.json"):
        epoch = int(re.match(r"epoch(\d+)", path.name)[1])
        epochs.setdefault(epoch, Counter()).update(json.loads(path.read_text()))
    return epochs


def _same_weights(one: Path, other: Path) -> None:
    ours, theirs = (load_checkpoint(path)["model"].state_dict() for path in (one, other))
    assert ours.keys() == theirs.keys() and len(ours) > 300
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.fixture
def aquarium(shared: Path) -> Path:
    return shared / "datasets" / "aquarium" / "aquarium.yaml"


@pytest.mark.parametrize("case", [*LOSSES, *SAMPLING])
def test_trains_without_unexplained_warnings_and_resumes_bit_for_bit(case: str, aquarium: Path, tmp_path: Path) -> None:
    """SIGKILL strikes in the middle of the second epoch; the run goes on from the end of the first."""
    settings = {**LOSSES, **SAMPLING}[case]
    log = _train(tmp_path, "whole", settings, aquarium)
    pattern = "|".join(filter(None, (SMALL_BOXES, EXPECTED_WARNINGS.get(case))))
    unexplained = [line for line in _warnings(log) if not re.search(pattern, line)]
    assert not unexplained
    _train(tmp_path, "cut", settings, aquarium, kill=STEPS + STEPS // 2)
    _start([ROOT / "train.py", "--resume", tmp_path / "cut/weights/last.pt"])
    _same_weights(tmp_path / "whole/weights/last.pt", tmp_path / "cut/weights/last.pt")
    for name in ("results.csv", "per_class.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()


@pytest.mark.parametrize("case", SAMPLING)
def test_two_processes_draw_each_image_as_often_as_one(case: str, aquarium: Path, tmp_path: Path) -> None:
    settings = SAMPLING[case]
    _train(tmp_path, "one", settings, aquarium)
    _train(tmp_path, "two", settings, aquarium, processes=2)
    one, two = _draws(tmp_path / "one_draws"), _draws(tmp_path / "two_draws")
    assert sorted(one) == list(range(EPOCHS))
    if case == "image_weights":  # later epochs follow the mAP per class, which depends on the sums' order
        one, two = ({0: draws[0]} for draws in (one, two))
    assert one == two
