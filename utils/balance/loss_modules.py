"""Loss modules of upstream's interface, which other code imports from ``utils.loss``; training does not use them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.balance.losses import balance_factor, power, probability_missed


class FocalLoss(nn.Module):
    """Focal weights around a BCE-with-logits loss; reduction as that loss had it.

    Args:
        loss_fcn: an nn.BCEWithLogitsLoss, set to elementwise results.
        gamma, alpha: as in ``sigmoid_focal_loss``.
    """

    def __init__(self, loss_fcn: nn.Module, gamma: float = 1.5, alpha: float = 0.25):
        super().__init__()
        self.loss_fcn = loss_fcn
        self.gamma, self.alpha = gamma, alpha
        self.reduction = loss_fcn.reduction
        self.loss_fcn.reduction = "none"

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return the loss of logits ``pred`` against ``true``: mean or sum, shape (), or elementwise."""
        loss = self.loss_fcn(pred, true) * balance_factor(true, self.alpha) * self.modulation(pred, true)
        return {"mean": loss.mean, "sum": loss.sum}.get(self.reduction, lambda: loss)()

    def modulation(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return (1 − p_t)^γ per element."""
        return power(probability_missed(pred, true), self.gamma)


class QFocalLoss(FocalLoss):
    """The quality focal variant, |t − p|^γ, for soft targets (https://arxiv.org/abs/2006.04388)."""

    def modulation(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return |t − p|^γ per element."""
        return power((true - pred.sigmoid()).abs(), self.gamma)


class BCEBlurWithLogitsLoss(nn.Module):
    """BCE that counts confident detections without a label less, as such labels are often missing.

    ℓ · (1 − exp((p − t − 1) / (alpha + 1e-4))), mean.
    """

    def __init__(self, alpha: float = 0.05):
        super().__init__()
        self.loss_fcn = nn.BCEWithLogitsLoss(reduction="none")
        self.alpha = alpha

    def forward(self, pred: Tensor, true: Tensor) -> Tensor:
        """Return the mean loss of logits ``pred`` against ``true``, shape ()."""
        excess = pred.sigmoid() - true
        return (self.loss_fcn(pred, true) * (1 - torch.exp((excess - 1) / (self.alpha + 1e-4)))).mean()
