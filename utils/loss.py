"""The training loss: box, objectness and class terms over YOLOv5's target assignment.

Glossary: bs batch size, nl output layers, na anchors per layer, nc classes, no = nc + 5, nt targets, n matches of a
layer; (b, a, gj, gi) image, anchor, grid row, grid column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.balance.class_weights import first_weighted_epoch
from utils.balance.losses import balance_factor, build_head_loss, full_precision, power, probability_missed
from utils.boxes import bbox_iou
from utils.target_assignment import last_match_of_cell, match_layer
from utils.torch_utils import de_parallel

LAYER_BALANCE = {3: [4.0, 1.0, 0.4]}  # objectness weight per output layer, finest first
DEFAULT_LAYER_BALANCE = [4.0, 1.0, 0.25, 0.06, 0.02]
BALANCE_MOMENTUM = 0.9999
REFERENCE_STRIDE = 16  # the layer that keeps weight 1 under autobalance


def smooth_bce(eps: float = 0.1) -> tuple[float, float]:
    """Return the targets of positives and negatives under label smoothing, ``(1 − eps/2, eps/2)``."""
    return 1.0 - 0.5 * eps, 0.5 * eps


smooth_BCE = smooth_bce  # noqa: N816  (the name up to v7.0)


class Batch(NamedTuple):
    """How much of a batch this process holds.

    images: batch size, over all processes. part: this process's share of the images. rows: per layer, the number of
    matches over all processes. ``part`` and ``rows`` are None without ``world_sum``.
    """

    images: int | Tensor
    part: Tensor | None
    rows: Tensor | Sequence[None]


class ComputeLoss:
    """Total loss of a batch, times the batch size.

    Args:
        model: a detection model, whose last layer gives ``na, nc, nl, anchors`` (nl, na, 2, grid units) and ``stride``.
        autobalance: adapt the layers' objectness weights to their losses.
        hyp: hyperparameters, scaled to the model; by default ``model.hyp``.
        class_weights: (nc,) weight of a matched anchor by its class, in the class term; None leaves them out.
        world_sum: sums a small tensor over all processes. With it, box and class terms are divided by the matches of
            the whole batch, and losses, items and gradients added (not averaged) over the processes are those of one
            process with the whole batch. Every process calls the loss equally often; one whose share of a short batch
            is but a stand-in image sets ``is_filler`` and then adds 0 and counts no image.
    """

    sort_obj_iou = False

    def __init__(
        self,
        model: nn.Module,
        autobalance: bool = False,
        *,
        hyp: Mapping[str, Any] | None = None,
        class_weights: Tensor | Sequence[float] | None = None,
        world_sum: Callable[[Tensor], Tensor] | None = None,
    ):
        head = de_parallel(model).model[-1]
        self.device = next(model.parameters()).device
        self.hyp = de_parallel(model).hyp if hyp is None else hyp
        self.na, self.nc, self.nl, self.anchors = head.na, head.nc, head.nl, head.anchors
        self.BCEcls = build_head_loss(self.hyp, "cls").to(self.device)
        self.BCEobj = build_head_loss(self.hyp, "obj").to(self.device)
        self.cp, self.cn = smooth_bce(self.hyp.get("label_smoothing", 0.0))
        self.gr = 1.0
        self.is_filler = False
        self.autobalance = autobalance
        strides = [int(stride) for stride in head.stride]
        self.ssi = strides.index(REFERENCE_STRIDE) if autobalance and REFERENCE_STRIDE in strides else 0
        self.balance = LAYER_BALANCE.get(self.nl, DEFAULT_LAYER_BALANCE)
        self.world_sum = world_sum
        self.class_weights = self._checked_weights(class_weights)
        self.set_epoch(0, 1)

    @property
    def balance(self) -> list[float]:
        """Objectness weight of each layer (further entries are unused); reading waits for the device."""
        return self._balance.tolist()

    @balance.setter
    def balance(self, values: Sequence[float] | Tensor) -> None:
        precise = torch.float32 if self.device.type == "mps" else torch.float64  # which MPS lacks
        self._balance = torch.as_tensor(values, dtype=precise).to(self.device)

    def __call__(self, p: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch.

        Args:
            p: per layer (bs, na, gj, gi, no) raw outputs.
            targets: (nt, 6) image, class, cx, cy, w, h, box 0 to 1.

        Returns:
            (1,) total times the batch size, and (3,) detached box, obj and cls terms for one image.
        """
        tcls, tbox, indices, anchors = self.build_targets(p, targets[:0] if self.is_filler else targets)
        batch = self._batch([len(classes) for classes in tcls], 0 if self.is_filler else p[0].shape[0])
        lbox, lcls = (torch.zeros(1, device=p[0].device) for _ in range(2))
        layer_obj = []
        for i, raw in enumerate(p):
            tobj = torch.zeros(raw.shape[:4], device=raw.device)
            if len(tcls[i]):
                cells = flat_cells(indices[i], raw.shape)
                matched = full_precision(raw.reshape(-1, raw.shape[-1])[cells])  # (n, no)
                iou = box_ciou(matched[:, :4], anchors[i], tbox[i])
                lbox = lbox + mean_over(1.0 - iou, batch.rows[i])
                lcls = lcls + self.class_term(matched[:, 5 : 5 + self.nc], tcls[i], batch.rows[i])
                tobj = self.objectness_targets(tobj, cells, iou)
            layer_obj.append(self.BCEobj(full_precision(raw[..., 4]), tobj))
        lobj = self.objectness_term(torch.stack(layer_obj), batch.part)
        items = torch.cat((lbox * self.hyp["box"], lobj * self.hyp["obj"], lcls * self.hyp["cls"]))
        return items.sum(0, keepdim=True) * batch.images, items.detach()

    def class_term(self, logits: Tensor, classes: Tensor, rows: Tensor | None = None) -> Tensor | float:
        """Return the mean class loss of one layer's matches, 0 for a single class.

        Args:
            logits: (n, nc), n above 0.
            classes: (n,) int64.
            rows: matches over all processes, None for this one alone.
        """
        if self.nc == 1:
            return 0.0
        targets = torch.full_like(logits, self.cn).scatter_(1, classes[:, None], self.cp)
        weighted = self.class_weights is not None and self.weights_in_force
        if rows is None and not weighted:
            return self.BCEcls(logits, targets)
        elements = self.BCEcls.elements(logits, targets)
        return mean_over(elements * self.class_weights[classes][:, None] if weighted else elements, rows)

    def objectness_targets(self, tobj: Tensor, cells: Tensor, iou: Tensor) -> Tensor:
        """Return ``tobj`` with the IoU of every matched cell; the later of several matches in one cell counts.

        Args:
            tobj: (bs, na, ny, nx) zeros, filled in place.
            cells: (n,) int64 flat positions in ``tobj``.
            iou: (n,) of the predicted boxes, used detached and from 0.
        """
        iou = iou.detach().clamp(min=0).to(tobj.dtype)
        if self.sort_obj_iou:
            order = iou.argsort()
            cells, iou = cells[order], iou[order]
        if self.gr < 1:
            iou = (1.0 - self.gr) + self.gr * iou
        tobj.view(-1)[cells] = iou[last_match_of_cell(cells, tobj.numel())]
        return tobj

    def objectness_term(self, layers: Tensor, part: Tensor | None = None) -> Tensor:
        """Return the weighted sum of the layers' objectness losses, (1,), and adapt the weights under autobalance.

        Args:
            layers: (nl,) mean loss per layer.
            part: this process's share of the images, None for all.
        """
        layers = layers if part is None else layers * part
        total = (layers * self._balance[: self.nl].to(layers.dtype)).sum(0, keepdim=True)
        if self.autobalance:
            current = layers.detach() if part is None else self.world_sum(layers.detach().clone())
            balance = self._balance.clone()
            balance[: self.nl] = balance[: self.nl] * BALANCE_MOMENTUM + (1 - BALANCE_MOMENTUM) / current
            self._balance = balance / balance[self.ssi]
        return total

    def build_targets(
        self, p: Sequence[Tensor], targets: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor, Tensor, Tensor]], list[Tensor]]:
        """Match targets with anchors and cells.

        Args:
            p: per layer (bs, na, ny, nx, no); only the shapes are used.
            targets: (nt, 6) image, class, cx, cy, w, h, box 0 to 1.

        Returns:
            Per layer: classes (n,); boxes (n, 4) dx dy w h in grid units; (b, a, gj, gi), each (n,); anchors (n, 2).
        """
        matches = [
            match_layer(targets, anchors, (raw.shape[2], raw.shape[3]), self.hyp["anchor_t"])
            for raw, anchors in zip(p, self.anchors, strict=True)
        ]
        indices = [(m.image, m.anchor, m.row, m.column) for m in matches]
        return [m.classes for m in matches], [m.boxes for m in matches], indices, [m.anchors for m in matches]

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Say which epoch begins, for class weights that start later (``cls_weights_start``).

        Args:
            epoch: its number, from 0.
            epochs: epochs of the run.
        """
        self.weights_in_force = epoch >= first_weighted_epoch(self.hyp.get("cls_weights_start") or 0, epochs)

    def state_dict(self) -> dict[str, list[float]]:
        """Return what changes during training, for an exact resume."""
        return {"balance": self.balance}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Take over the state of another run's loss."""
        self.balance = state["balance"]

    def _batch(self, matches: list[int], images: int) -> Batch:
        """Count matches per layer and images over all processes, in one exchange."""
        if self.world_sum is None:
            return Batch(images, None, [None] * len(matches))
        local = torch.tensor([*matches, images], dtype=torch.float32).to(self.device, non_blocking=True)
        total = self.world_sum(local.clone())
        return Batch(total[-1], images / total[-1], total[:-1])

    def _checked_weights(self, weights: Tensor | Sequence[float] | None) -> Tensor | None:
        if weights is None:
            return None
        weights = torch.as_tensor(weights, dtype=torch.float32).to(self.device)
        if weights.shape != (self.nc,):
            raise ValueError(f"class_weights: shape {tuple(weights.shape)}, expected ({self.nc},), one per class")
        return weights


def box_ciou(raw: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return the complete IoU of predicted and target boxes, (n,).

    Args:
        raw: (n, 4) outputs: centre 2·sigmoid − 0.5 from the cell's corner, sides (2·sigmoid)² anchors.
        anchors: (n, 2) w h in grid units.
        boxes: (n, 4) dx dy w h in grid units.
    """
    activated = raw.sigmoid() * 2
    predicted = torch.cat((activated[:, :2] - 0.5, activated[:, 2:] ** 2 * anchors), 1)
    return bbox_iou(predicted, boxes, CIoU=True).squeeze(-1)


def flat_cells(indices: tuple[Tensor, Tensor, Tensor, Tensor], shape: Sequence[int]) -> Tensor:
    """Return positions (n,) of (b, a, gj, gi) in a flattened layer of shape (bs, na, ny, nx, ...)."""
    b, a, gj, gi = indices
    return ((b * shape[1] + a) * shape[2] + gj) * shape[3] + gi


def mean_over(values: Tensor, rows: Tensor | None) -> Tensor:
    """Return the mean of all elements, or this process's part of the mean over all processes.

    Args:
        values: (n, ...), n above 0.
        rows: what n is over all processes, (); None for this process alone.
    """
    if rows is None:
        return values.mean()
    return values.sum() / (rows * (values.numel() // len(values)))


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
