"""The loss of a head as the training loss uses it: elementwise, with the targets and scores it works on.

The formulas are in ``base_losses``; weights, modifiers and reductions belong to the caller, whose step is::

    values = loss.elements(logits, targets, context)          # per layer, unreduced
    loss.update(logits, targets, weights, context)            # per layer, once the final weights are known
    loss.step()                                               # once, by every process, after the last layer
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.balance.base_losses import bce, full_precision, log_prior, logit_adjusted_loss, softmax_focal_loss
from utils.errors import WorkError


class HeadContext(NamedTuple):
    """What a loss may know about its rows besides logits and targets.

    classes: (n,) int64 class of each matched anchor (class head), before label smoothing. iou: the shape of the rows,
    (n,), detached IoU of the predicted boxes, from 0. Both None where they do not apply.
    """

    classes: Tensor | None = None
    iou: Tensor | None = None


class HeadLoss(nn.Module):
    """A loss of a head, elementwise; calling it gives the mean. This one is what losses without state share.

    ``state_dict()`` holds exactly what changes during training (nothing here), the same on every process.

    Args:
        function: (logits, targets, pos_weight=...) → elementwise loss.
        pos_weight: a number, or one per class; None is 1.
        iou_targets: the true class's target is the box's IoU, taken from the context.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        pos_weight: float | Sequence[float] | None = None,
        iou_targets: bool = False,
    ):
        super().__init__()
        self.function = function
        self.iou_targets = iou_targets
        self.register_buffer("pos_weight", pos_weight_tensor(pos_weight), persistent=False)

    @property
    def has_elements(self) -> bool:
        """Whether ``elements`` works."""
        return True

    def elements(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return the unreduced loss in float32, the shape of ``logits``; (n, 1) when rows are scored as a whole.

        Args:
            logits: (n, nc), or any shape (objectness).
            targets: same shape, 0 to 1.
            context: what else is known about the rows; losses that need it say so when it is missing.
        """
        return self.function(logits, self.targets(targets, context), pos_weight=self.pos_weight)

    def targets(self, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return the targets that the loss compares with, same shape."""
        if not self.iou_targets:
            return targets
        classes = needed(context, "classes")
        iou = needed(context, "iou").detach().clamp(min=0).to(targets.dtype)
        return targets.scatter(1, classes[:, None], iou[:, None])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the scores that the loss trains, the shape of ``logits``."""
        return torch.sigmoid(full_precision(logits))

    def hardness(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return |t − p| without gradient, the shape of ``elements``."""
        targets = self.targets(targets, context).detach()
        return (targets - self.probabilities(logits.detach())).abs()

    def update(
        self,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor | float = 1.0,
        context: HeadContext | None = None,
    ) -> None:
        """Note what this process has seen of a layer; without gradients (validation) nothing is noted.

        Args:
            logits, targets, context: as for ``elements``.
            weights: what each element is multiplied by in the total loss, broadcastable to ``logits``.
        """

    def step(self) -> None:
        """Add up over the processes what was noted since the last step; call it equally often on each."""

    def forward(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return the mean over all elements, shape (); 0 without any, still part of the graph."""
        return self.elements(logits, targets, context).mean() if logits.numel() else logits.sum() * 0


class GivenLoss(HeadLoss):
    """A loss that the caller put in the place of a head's, such as ``FocalLoss(nn.BCEWithLogitsLoss())``.

    Args:
        given: (logits, targets) → loss, a mean or its elements. What it holds is the caller's: it is neither moved to
            a device nor saved.
    """

    def __init__(self, given: Callable[[Tensor, Tensor], Tensor]):
        super().__init__(bce)
        object.__setattr__(self, "given", given)  # not as a part of this module

    @property
    def has_elements(self) -> bool:
        """Whether ``elements`` works: the loss can be told not to reduce."""
        return hasattr(self.given, "reduction")

    def elements(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:  # noqa: ARG002
        """Return the unreduced loss, the shape of ``logits``.

        Raises:
            WorkError: it gives means alone, and something has to weight its elements.
        """
        if not self.has_elements:
            raise WorkError(
                f"{type(self.given).__name__} in the place of a head's loss gives no elements, which class or label "
                "weights, modifiers or several processes ask for; expected is a loss with the attribute 'reduction'"
            )
        before, self.given.reduction = self.given.reduction, "none"
        try:
            return self.given(logits, targets)
        finally:
            self.given.reduction = before

    def forward(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:  # noqa: ARG002
        """Return the mean over all elements, shape (); 0 without any, still part of the graph."""
        return self.given(logits, targets).mean() if logits.numel() else logits.sum() * 0


def own_loss(loss: HeadLoss) -> Callable[..., Tensor]:
    """Return what was put in the place of a head's loss, or the head's own."""
    return loss.given if isinstance(loss, GivenLoss) else loss


class BCELoss(HeadLoss, nn.BCEWithLogitsLoss):
    """PyTorch's loss itself, bit for bit, which also gives its elements.

    Args:
        pos_weight: a number, or one per class; None is 1.
    """

    def __init__(self, pos_weight: float | Sequence[float] | None = None):
        super().__init__(bce, pos_weight)

    def forward(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:  # noqa: ARG002
        """Return the mean over all elements, shape (); 0 without any, still part of the graph."""
        return nn.BCEWithLogitsLoss.forward(self, logits, targets) if logits.numel() else logits.sum() * 0


class VarifocalLoss(HeadLoss):
    """``varifocal_loss``, in whose class head the true class is the positive, also under label smoothing."""

    def elements(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return the unreduced loss, the shape of ``logits``."""
        targets = self.targets(targets, context)
        positive = targets > 0
        if context is not None and context.classes is not None:
            positive = positive & true_class(targets, context.classes)
        return self.function(logits, targets, pos_weight=self.pos_weight, positive=positive)


class LogitAdjustedLoss(HeadLoss):
    """``logit_adjusted_loss`` with the prior of the training set.

    Args:
        counts: (nc,) training instances of each class.
        tau: τ, above 0 to 2.
        pos_weight: as for HeadLoss.
    """

    def __init__(self, counts: Tensor, tau: float, pos_weight: float | Sequence[float] | None = None):
        super().__init__(logit_adjusted_loss, pos_weight)
        self.register_buffer("shift", tau * log_prior(counts), persistent=False)

    def elements(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return the unreduced loss, the shape of ``logits``."""
        return logit_adjusted_loss(logits, self.targets(targets, context), self.shift, self.pos_weight)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the scores of the adjusted logits, which are what the loss trains."""
        return torch.sigmoid(full_precision(logits) + self.shift)


class SoftmaxFocalLoss(HeadLoss):
    """``softmax_focal_loss``: one value per row; the network's class scores are a softmax.

    Args:
        gamma: focusing strength, 0 to 5.
    """

    def __init__(self, gamma: float):
        super().__init__(softmax_focal_loss)
        self.gamma = gamma

    def elements(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return the unreduced loss of each row, (n, 1)."""
        return softmax_focal_loss(logits, self.targets(targets, context), self.gamma)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax, (n, nc)."""
        return full_precision(logits).softmax(-1)

    def hardness(self, logits: Tensor, targets: Tensor, context: HeadContext | None = None) -> Tensor:
        """Return 1 − p of each row's class, (n, 1), without gradient."""
        p = self.probabilities(logits.detach())
        return 1 - p.gather(1, classes_of(targets, context)[:, None])


def needed(context: HeadContext | None, name: str) -> Tensor:
    """Return a field of the context, or raise ValueError when it is missing."""
    value = None if context is None else getattr(context, name)
    if value is None:
        raise ValueError(f"this loss needs context.{name}")
    return value


def classes_of(targets: Tensor, context: HeadContext | None) -> Tensor:
    """Return the class of each row, (n,) int64: the context's, or the largest target's."""
    return targets.argmax(1) if context is None or context.classes is None else context.classes


def true_class(targets: Tensor, classes: Tensor) -> Tensor:
    """Return (n, nc) bool, true in each row's class (n,)."""
    return torch.zeros_like(targets, dtype=torch.bool).scatter_(1, classes[:, None], True)


def pos_weight_tensor(pos_weight: float | Sequence[float] | None) -> Tensor | None:
    """Return weights of positives as a tensor (1,) or (k,), None when all are 1."""
    weights = [1.0] if pos_weight is None else pos_weight if isinstance(pos_weight, (list, tuple)) else [pos_weight]
    return None if all(weight == 1 for weight in weights) else torch.tensor(weights, dtype=torch.float32)
