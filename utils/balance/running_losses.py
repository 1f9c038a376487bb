"""Losses of the class head whose shape follows what the training has seen so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from utils.balance.base_losses import (
    EqualizedFocus,
    bce,
    equalized_focal_gradient,
    equalized_focal_loss,
    equalized_focus,
    seesaw_loss,
)
from utils.balance.head_loss import HeadContext, HeadLoss, classes_of, true_class

WorldSum = Callable[[Tensor], Tensor]


class RunningLoss(HeadLoss):
    """A loss whose shape follows sums over the training so far, one column per class.

    Args:
        sums: (k, nc) what the sums start from.
        world_sum: sums a small tensor over all processes, None for one process.
        pos_weight: as for HeadLoss.
    """

    def __init__(self, sums: Tensor, world_sum: WorldSum | None, pos_weight: float | Sequence[float] | None = None):
        super().__init__(bce, pos_weight)
        self.world_sum = world_sum
        self.register_buffer("sums", sums.float())
        self.register_buffer("noted", torch.zeros_like(self.sums), persistent=False)

    def update(
        self,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor | float = 1.0,
        context: HeadContext | None = None,
    ) -> None:
        """Note one layer of this process; see HeadLoss."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                self.noted += self.layer_sums(logits.detach(), self.targets(targets, context), weights, context)

    def step(self) -> None:
        """Add up over the processes what was noted since the last step; nothing without gradients."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                self.sums += self.noted if self.world_sum is None else self.world_sum(self.noted.clone())
                self.noted.zero_()

    def layer_sums(
        self, logits: Tensor, targets: Tensor, weights: Tensor | float, context: HeadContext | None
    ) -> Tensor:
        """Return what a layer adds to the sums, (k, nc)."""
        raise NotImplementedError


class EqualizedFocalLoss(RunningLoss):
    """``equalized_focal_loss``, whose sums are |dL/dz| over each class's positives and negatives, (2, nc).

    Negatives of a class are matched anchors of other classes; background belongs to objectness.

    Args:
        nc: classes.
        world_sum, pos_weight: as for RunningLoss.
        parameters: gamma (γ_b), efl_scale (s) and alpha.
    """

    def __init__(
        self,
        nc: int,
        world_sum: WorldSum | None,
        pos_weight: float | Sequence[float] | None,
        parameters: Mapping[str, Any],
    ):
        super().__init__(torch.zeros(2, nc), world_sum, pos_weight)
        self.gamma, self.scale, self.alpha = (parameters[key] for key in ("gamma", "efl_scale", "alpha"))

    def focus(self) -> EqualizedFocus:
        """Return the classes' present focus."""
        return equalized_focus(*self.sums, self.gamma, self.scale)

    def elements(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return the unreduced loss, (n, nc)."""
        targets = self.targets(targets, context)
        return equalized_focal_loss(logits, targets, self.focus(), self.alpha, self.pos_weight)

    def layer_sums(
        self, logits: Tensor, targets: Tensor, weights: Tensor | float, context: HeadContext | None
    ) -> Tensor:
        """Return the sums of |weights · dL/dz| over positives and over negatives, (2, nc)."""
        gradient = equalized_focal_gradient(logits, targets, self.focus(), self.alpha, self.pos_weight)
        size = (gradient * weights).abs().float()
        positive = size * true_class(targets, classes_of(targets, context))
        return torch.stack((positive.sum(0), (size - positive).sum(0)))


class SeesawLoss(RunningLoss):
    """``seesaw_loss``, whose sums are the matched anchors of each class so far, (1, nc).

    Args:
        counts: (nc,) instances to begin with, e.g. of the training set.
        world_sum, pos_weight: as for RunningLoss.
        parameters: seesaw_p (p) and seesaw_q (q).
    """

    def __init__(
        self,
        counts: Tensor,
        world_sum: WorldSum | None,
        pos_weight: float | Sequence[float] | None,
        parameters: Mapping[str, Any],
    ):
        super().__init__(counts[None], world_sum, pos_weight)
        self.p, self.q = parameters["seesaw_p"], parameters["seesaw_q"]

    def elements(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return the unreduced loss, (n, nc)."""
        classes = classes_of(targets, context)
        return seesaw_loss(
            logits, self.targets(targets, context), classes, self.sums[0], self.p, self.q, self.pos_weight
        )

    def layer_sums(
        self,
        logits: Tensor,  # noqa: ARG002
        targets: Tensor,
        weights: Tensor | float,  # noqa: ARG002
        context: HeadContext | None,
    ) -> Tensor:
        """Return the rows of each class, (1, nc)."""
        return true_class(targets, classes_of(targets, context)).float().sum(0, keepdim=True)
