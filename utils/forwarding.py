"""Names that YOLOv5 users import from one module and that another one owns, fetched when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def forwarding(module: str, owners: Mapping[str, str | Callable[[], Any]]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module that offers names of others; importing these with it would be slow.

    Args:
        module: its name.
        owners: name -> the module that defines it, or a function that returns the value.
    """

    def fetch(name: str) -> Any:
        if name not in owners:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        owner = owners[name]
        return getattr(importlib.import_module(owner), name) if isinstance(owner, str) else owner()

    return fetch


def owner_function(module: str, function: str, *args: Any) -> Callable[[], Any]:
    """Return a value for ``forwarding``: what a module's function returns, imported and called when it is asked for."""
    return lambda: getattr(importlib.import_module(module), function)(*args)
