"""Helpers of the training, validation and detection scripts. Importing this package does nothing."""

from __future__ import annotations

import importlib
from typing import Any

_OWNERS = {
    "LOGGER": "utils.logs",
    "TryExcept": "utils.helpers",
    "emojis": "utils.helpers",
    "join_threads": "utils.helpers",
    "notebook_init": "utils.notebook",
    "threaded": "utils.helpers",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import the owner of a name at its first use."""
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OWNERS[name]), name)
