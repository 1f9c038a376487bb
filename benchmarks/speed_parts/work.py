"""What a layer hands to the clock. Runs in either side's process, so it imports nothing of the project."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Work:
    """One layer, ready to be timed.

    Attributes:
        run: does the work once; its return value is thrown away.
        units: images (or other things) that one run handles.
        check: name -> number that both sides must agree on within 0.1 %, so that equal work is compared.
        limits: name -> amount of one run that the machine's ceilings bound: ``flops``, ``bytes``.
        before: called before each run, outside the clock.
    """

    run: Callable[[], Any]
    units: int = 1
    check: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    before: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Side:
    """One of the two compared programs, by the prefix of its modules: '' for a clone's layout, 'yolov5.' for PyPI's.

    Attributes:
        prefix: of module names.
        name: ``ours``, or the peer's.
    """

    prefix: str
    name: str

    @property
    def is_ours(self) -> bool:
        """Whether settings that only this project has may be used."""
        return self.name == "ours"

    def module(self, name: str) -> Any:
        """Import a module by its name in a clone, such as ``utils.loss``."""
        return importlib.import_module(self.prefix + name)
