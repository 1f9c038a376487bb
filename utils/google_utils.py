"""The name of utils.downloads in releases before 6.0; every name is forwarded there."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Fetch a name from its owner."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("utils.downloads"), name)
