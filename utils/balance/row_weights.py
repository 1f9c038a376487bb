"""Class weights and weights per label as factors of a loss's elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MODES = ("row", "pos", "column")
TINY = 1e-30


def class_factor(weights: Tensor, mode: str, logits: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
    """Return what the elements (n, nc) of matched anchors are multiplied by.

    "row": every term of an anchor by the weight of its class, (n, 1). "column": both terms of a column by the weight of
    the column's class, (1, nc). "pos": the positive part of a term by the weight of its column, (n, nc), which is a pos
    weight per class.

    Args:
        weights: (nc,) weight of each class.
        mode: as above.
        logits: (n, nc).
        targets: (n, nc), 0 to 1.
        classes: (n,) int64.
    """
    if mode == "row":
        return weights[classes][:, None]
    if mode == "column":
        return weights[None]
    return 1.0 + (weights - 1.0) * positive_share(logits, targets)


def positive_share(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the share of t·softplus(−z) in t·softplus(−z) + (1 − t)·softplus(z), the shape of ``logits``.

    It is t itself for targets of 0 and 1, without gradient then.
    """
    positive = targets * F.softplus(-logits)
    share = positive / (positive + (1.0 - targets) * F.softplus(logits)).clamp(min=TINY)
    return torch.where((targets == 0) | (targets == 1), targets, share)


def checked_weights(weights: Any, nc: int, device: torch.device) -> Tensor | None:  # noqa: ANN401
    """Return class weights as a float32 tensor (nc,), None when there are none.

    Args:
        weights: a tensor, a sequence, or an object with such ``values`` (ClassWeights).
        nc: classes.
        device: where they are wanted.

    Raises:
        ValueError: not one weight per class.
    """
    if weights is None:
        return None
    values: Tensor | Sequence[float] = weights if isinstance(weights, (Tensor, list, tuple)) else _values_of(weights)
    found = torch.as_tensor(values, dtype=torch.float32).to(device)
    if found.shape != (nc,):
        raise ValueError(f"class_weights: shape {tuple(found.shape)}, expected ({nc},), one per class")
    return found


def checked_mode(mode: str) -> str:
    """Return a mode of class weights, or raise ValueError for an unknown one."""
    if mode not in MODES:
        raise ValueError(f"cls_weights_mode: {mode!r} is not one of {', '.join(MODES)}")
    return mode


def _values_of(weights: Any) -> Any:  # noqa: ANN401
    values = getattr(weights, "values", weights)
    return weights if callable(values) else values
