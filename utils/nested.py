"""A network's outputs: a tensor, or lists and tuples of outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def flat_tensors(outputs: Any) -> list[Tensor]:
    """Return the tensors of a network's outputs, in their order."""
    return [outputs] if isinstance(outputs, Tensor) else [t for part in outputs for t in flat_tensors(part)]


def arranged_like(outputs: Any, tensors: Iterator[Tensor]) -> Any:
    """Return other tensors in the lists and tuples of ``outputs``."""
    if isinstance(outputs, Tensor):
        return next(tensors)
    return type(outputs)(arranged_like(part, tensors) for part in outputs)
