"""Fixtures that all test modules share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))

if crew := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // crew)))


def _shared_folder(*parts: str) -> Path:
    folder = SHARED.joinpath(*parts)
    if not folder.exists():
        pytest.skip(f"needs {folder}, which is not part of this repository")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference data beside the repository, or skip."""
    return _shared_folder()


@pytest.fixture(scope="session")
def contract() -> Path:
    """Return the folder that describes upstream's interface, or skip."""
    return _shared_folder("contract")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Return a reader: ``golden("loss")`` gives (json, arrays) of one set of reference numbers, or skip."""
    folder = _shared_folder("contract", "golden")

    def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        facts = json.loads((folder / f"{name}.json").read_text())
        arrays = folder / f"{name}.npz"
        return facts, dict(np.load(arrays)) if arrays.exists() else {}

    return read


@pytest.fixture(scope="session")
def golden_inputs() -> Any:
    """Return the module that builds the inputs of the reference numbers, or skip."""
    import importlib.util

    path = _shared_folder("contract", "golden") / "inputs.py"
    spec = importlib.util.spec_from_file_location("golden_inputs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """Return the YAML of a drawn set: 8 training and 4 validation images of 96x64, two classes, flat colours."""
    import cv2

    rng = np.random.default_rng(0)
    root = tmp_path / "tiny"
    for split, count in (("train", 8), ("val", 4)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for number in range(count):
            image = np.full((64, 96, 3), 90, np.uint8)
            rows = []
            for cls in (0, 1) if number % 2 else (0,):
                w, h = rng.integers(16, 32, 2)
                x, y = rng.integers(0, 96 - w), rng.integers(0, 64 - h)
                image[y : y + h, x : x + w] = (240, 30, 30) if cls else (30, 240, 30)
                rows.append(f"{cls} {(x + w / 2) / 96:.6f} {(y + h / 2) / 64:.6f} {w / 96:.6f} {h / 64:.6f}")
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
            (root / "labels" / split / f"{number}.txt").write_text("\n".join(rows) + "\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [green, blue]\n")
    return path


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of an untrained network for green and blue."""
    import torch

    from models.yolo import DetectionModel
    from utils.checkpoint import build_checkpoint, save_checkpoint

    torch.manual_seed(0)
    model = DetectionModel(str(ROOT / "models/yolov5n.yaml"), ch=3, nc=2)
    model.names = {0: "green", 1: "blue"}
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    contents = build_checkpoint(
        model=model, ema=model, updates=0, optimizer_state=None, epoch=0, best_fitness=0.0, opt={}
    )  # fmt: skip
    save_checkpoint(path, contents)
    return path
