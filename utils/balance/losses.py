"""Losses of the class and objectness heads: pure functions, elementwise, and the table that maps hyp names to them.

Symbols: z logit, p = sigmoid(z), t target in [0, 1], p_t = t·p + (1 − t)(1 − p). Every function takes logits and
targets of one shape and returns one value per element in float32 (float64 stays); reductions and weights belong to the
caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UPSTREAM_FOCAL_ALPHA = 0.25  # what fl_gamma > 0 uses on both heads
MIN_BASE = 1e-6  # of a power below 1, whose slope at 0 is infinite


def bce(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, ℓ = w·t·softplus(−z) + (1 − t)·softplus(z).

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1.
        pos_weight: w, (1,) or (k,), above 0; None is 1.
    """
    logits = full_precision(logits)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), pos_weight=pos_weight, reduction="none")


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float | None = None,
    gamma: float = 1.5,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Focal loss α_t · (1 − p_t)^γ · ℓ(z, t) of Lin et al., https://arxiv.org/abs/1708.02002.

    α_t = α·t + (1 − α)(1 − t). With γ = 0 and α None this is ``bce``, bit for bit.

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1. Soft targets do not have their minimum at p = t.
        alpha: weight of positives against negatives, between 0 and 1; None leaves it out.
        gamma: focusing strength, 0 to 5.
        pos_weight: of ℓ, as in ``bce``.
    """
    logits = full_precision(logits)
    targets = targets.to(logits.dtype)
    loss = bce(logits, targets, pos_weight)
    if gamma:
        loss = loss * power(probability_missed(logits, targets), gamma)
    return loss if alpha is None else loss * balance_factor(targets, alpha)


def probability_missed(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 − p_t, without the cancellation of 1 − sigmoid(z) at confident logits; same shape as the inputs."""
    return targets * torch.sigmoid(-logits) + (1 - targets) * torch.sigmoid(logits)


def balance_factor(targets: Tensor, alpha: float) -> Tensor:
    """Return α_t = α·t + (1 − α)(1 − t), same shape as ``targets``."""
    return targets * alpha + (1 - targets) * (1 - alpha)


def power(base: Tensor, exponent: float) -> Tensor:
    """Return base^exponent for base in [0, 1] and exponent above 0, with a finite gradient at 0."""
    if exponent == 1:
        return base
    return base.clamp(min=MIN_BASE) ** exponent if exponent < 1 else base**exponent


def full_precision(logits: Tensor) -> Tensor:
    """Return half and bfloat16 logits as float32, wider ones unchanged."""
    return logits.float() if logits.dtype in {torch.float16, torch.bfloat16} else logits


class BCELoss(nn.BCEWithLogitsLoss):
    """PyTorch's loss itself, bit for bit, which also gives its elements.

    Args:
        pos_weight: a number, or one per class; None is 1.
    """

    def __init__(self, pos_weight: float | Sequence[float] | None = None):
        super().__init__(pos_weight=pos_weight_tensor(pos_weight))

    def elements(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every element, the shape of ``logits``."""
        return bce(logits, targets, self.pos_weight)


class MeanLoss(nn.Module):
    """An elementwise loss whose call is the mean.

    Args:
        function: (logits, targets, pos_weight=...) → elementwise loss.
        pos_weight: a number, or one per class; None is 1.
    """

    def __init__(self, function: Callable[..., Tensor], pos_weight: float | Sequence[float] | None = None):
        super().__init__()
        self.function = function
        self.register_buffer("pos_weight", pos_weight_tensor(pos_weight))

    def elements(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of every element, the shape of ``logits``."""
        return self.function(logits, targets, pos_weight=self.pos_weight)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over all elements, shape ()."""
        return self.elements(logits, targets).mean()


HeadLoss = BCELoss | MeanLoss


def pos_weight_tensor(pos_weight: float | Sequence[float] | None) -> Tensor | None:
    """Return weights of positives as a tensor (1,) or (k,), None when all are 1."""
    weights = [1.0] if pos_weight is None else pos_weight if isinstance(pos_weight, (list, tuple)) else [pos_weight]
    return None if all(weight == 1 for weight in weights) else torch.tensor(weights, dtype=torch.float32)


def build_bce(hyp: Mapping[str, Any], head: str) -> HeadLoss:
    """Return binary cross-entropy with the head's pos weight."""
    return BCELoss(hyp.get(f"{head}_pw"))


def build_focal(hyp: Mapping[str, Any], head: str) -> HeadLoss:
    """Return the focal loss with the head's gamma, alpha and pos weight; BCE itself when they change nothing."""
    return _focal(hyp, head, hyp.get(f"{head}_alpha"), hyp.get(f"{head}_gamma", 1.5))


def _focal(hyp: Mapping[str, Any], head: str, alpha: float | None, gamma: float) -> HeadLoss:
    if alpha is None and not gamma:
        return build_bce(hyp, head)
    return MeanLoss(partial(sigmoid_focal_loss, alpha=alpha, gamma=gamma), hyp.get(f"{head}_pw"))


BASE_LOSSES: dict[str, Callable[[Mapping[str, Any], str], HeadLoss]] = {"bce": build_bce, "focal": build_focal}


def build_head_loss(hyp: Mapping[str, Any], head: str) -> HeadLoss:
    """Return the loss of a head as the hyperparameters choose it.

    ``<head>_loss`` picks from BASE_LOSSES; without it ``fl_gamma`` decides: 0 is BCE, above 0 focal with alpha 0.25.

    Args:
        hyp: hyperparameters, an object or a plain dict.
        head: "cls" or "obj".

    Raises:
        ValueError: an unknown loss name (plain dicts are not checked earlier).
    """
    name = hyp.get(f"{head}_loss")
    fl_gamma = hyp.get("fl_gamma", 0.0)
    if name is None and fl_gamma > 0:
        return _focal(hyp, head, UPSTREAM_FOCAL_ALPHA, fl_gamma)
    name = name or "bce"
    if name not in BASE_LOSSES:
        raise ValueError(f"{head}_loss: {name!r} is not one of {', '.join(BASE_LOSSES)}")
    return BASE_LOSSES[name](hyp, head)
