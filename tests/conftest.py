"""Fixtures that all test modules share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))


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
