"""The loss of classification: cross-entropy with label smoothing, and its class-balanced forms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.balance.base_losses import full_precision, log_prior, power
from utils.balance.class_weights import first_weighted_epoch
from utils.balance.loss_names import loss_parameters
from utils.classification.balance import LOSSES


class ClassificationLoss:
    """Loss of class logits, averaged over the images of a batch.

    Per image CE = −Σ_j t_j·ln softmax(z)_j with t = 1 − ε + ε/nc for the true class and ε/nc for the others. Without
    class balance the mean is ``F.cross_entropy`` with label smoothing ε, bit for bit. Otherwise, in this order:

    - ``logit_adjust``: z + τ·a in place of z, a_j = ln π_j − max ln π (Menon et al., https://arxiv.org/abs/2007.07314);
    - ``focal``, ``softmax_focal``: CE·(1 − p)^γ, p the score of the true class (https://arxiv.org/abs/1708.02002);
    - ``cls_weights``: times the true class's weight. The sum is divided by the number of images, not by the sum of
      their weights, so that a rare image counts more in whichever batch it comes.

    Args:
        label_smoothing: ε, 0 to 1.
        nc: classes, needed by ``track_loss_share``.
        device: of the logits.
        hyp: class balance settings; empty for none.
        weights: (nc,) class weights, or None.
        counts: (nc,) training images, needed by ``logit_adjust``.
        world_sum: sums a tensor over all processes, in place; None where one works alone.

    Attributes:
        is_filler: the batch of this process is but a stand-in and counts nothing.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        *,
        nc: int = 0,
        device: torch.device | str = "cpu",
        hyp: Mapping[str, Any] | None = None,
        weights: Sequence[float] | None = None,
        counts: Sequence[float] | None = None,
        world_sum: Callable[[Tensor], Tensor] | None = None,
    ):
        hyp = hyp or {}
        self.label_smoothing = label_smoothing
        self.nc, self.device = nc, torch.device(device)
        self.form = LOSSES[hyp.get("cls_loss")]
        parameters = loss_parameters(hyp, "cls")
        self.gamma = float(parameters["gamma"]) if self.form == "focal" else 0.0
        self.shift: Tensor | None = None
        if self.form == "logit_adjust":
            if counts is None:
                raise ValueError("counts: the training images of each class are needed by logit_adjust")
            self.shift = parameters["tau"] * log_prior(torch.as_tensor(counts, dtype=torch.float32)).to(device)
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float32).to(device)
        self.start = hyp.get("cls_weights_start") or 0.0
        self.weights_in_force = True
        self.world_sum = world_sum
        self.is_filler = False
        self._share: Tensor | None = None

    def __call__(self, outputs: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss (1,) with gradient and (1,) without.

        Args:
            outputs: (b, nc) logits; of networks with auxiliary outputs a tuple that begins with them.
            targets: (b,) class numbers.
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        if self.world_sum is None and self._share is None and not self.is_filler and self._is_plain:
            loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)[None]
            return loss, loss.detach()
        rows = self.rows(logits, targets)
        images = rows.new_full((1,), 0.0 if self.is_filler else float(len(rows)))
        total = images.clone() if self.world_sum is None else self.world_sum(images.clone())
        loss = rows.sum()[None] / total.clamp(min=1)
        if self.is_filler:
            loss = loss * 0.0
        elif self._share is not None:
            self._share.index_add_(0, targets, rows.detach())
        return loss, loss.detach()

    @property
    def _is_plain(self) -> bool:
        return self.form == "cross_entropy" and (self.weights is None or not self.weights_in_force)

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each image, (b,) float32."""
        logits = full_precision(logits)
        if self.shift is not None:
            logits = logits + self.shift
        rows = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")
        if self.gamma:
            true = F.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
            rows = rows * power(-torch.expm1(true), self.gamma)
        if self.weights is not None and self.weights_in_force:
            rows = rows * self.weights[targets]
        return rows

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Say which epoch begins, for ``cls_weights_start``."""
        self.weights_in_force = epoch >= first_weighted_epoch(self.start, epochs)

    def for_validation(self) -> ClassificationLoss:
        """Return the plain cross-entropy that validation reports, whatever training balances."""
        local = copy.copy(self)
        local.world_sum, local.weights, local.shift, local.gamma = None, None, None, 0.0
        local.form, local.is_filler, local._share = "cross_entropy", False, None
        return local

    def track_loss_share(self) -> None:
        """Begin to add up, or begin anew, how much of the loss each true class makes up."""
        self._share = torch.zeros(self.nc, device=self.device)

    def loss_share(self) -> Tensor | None:
        """Return each class's share of the loss since ``track_loss_share``, (nc,); None without it.

        Every process has to call it.
        """
        if self._share is None:
            return None
        total = self._share.clone() if self.world_sum is None else self.world_sum(self._share.clone())
        return total / total.sum().clamp(min=1e-30)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes during training, for an exact resume."""
        return {} if self._share is None else {"loss_share": self._share.to("cpu", copy=True)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another run's loss with the same settings."""
        if "loss_share" in state:
            self._share = state["loss_share"].to(self.device, copy=True)

    def running_tensors(self) -> list[Tensor]:
        """Return the tensors that training changes in place, so that a bad batch can be undone."""
        return [] if self._share is None else [self._share]
