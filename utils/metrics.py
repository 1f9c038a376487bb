"""Average precision per class, the matching below it, and fitness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.boxes import bbox_ioa, bbox_iou, box_iou, mask_iou, wh_iou
from utils.confusion import ConfusionMatrix, to_array
from utils.hit_curves import HitCurves, over_confidence, sorted_by_class
from utils.logs import LOGGER

__all__ = [
    "LOGGER", "ApCurves", "ConfusionMatrix", "ap_per_class", "bbox_ioa", "bbox_iou", "box_iou", "compute_ap", "fitness",
    "mask_iou", "match_predictions", "precision_recall_curves", "process_batch", "smooth", "wh_iou",
]  # fmt: skip

FITNESS_WEIGHTS = (0.0, 0.0, 0.1, 0.9)  # of P, R, mAP50, mAP50-95
CONFIDENCES = np.linspace(0, 1, 1000)  # where the curves over confidence are sampled
RECALLS = np.linspace(0, 1, 101)  # COCO's recall levels
_CURVES = "utils.plotting.curves"
_MOVED = {"plot_pr_curve": _CURVES, "plot_mc_curve": _CURVES, "TryExcept": "utils.helpers"}

Names = Mapping[int, str] | Sequence[str]


def __getattr__(name: str) -> Any:
    """Return a name that lives in a module which is only needed for drawing or for old callers."""
    if name in _MOVED:
        return getattr(import_module(_MOVED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def fitness(x: np.ndarray) -> np.ndarray:
    """Return 0.1 mAP50 + 0.9 mAP50-95 (n,) of rows (n, ≥ 4) that begin P, R, mAP50, mAP50-95."""
    return (x[:, :4] * np.array(FITNESS_WEIGHTS)).sum(1)


def smooth(y: np.ndarray, f: float = 0.05) -> np.ndarray:
    """Return a curve (n,) after a box filter about 2 f n wide, its ends held.

    A width that is even gives n + 1 values.
    """
    width = round(len(y) * f * 2) // 2 + 1
    ends = np.ones(width // 2)
    return np.convolve(np.concatenate((ends * y[0], y, ends * y[-1])), np.ones(width) / width, mode="valid")


# Matching -------------------------------------------------------------------------------------------------------------


def match_predictions(iou: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Match labels and detections one to one at several IoU thresholds.

    Each detection asks for the label it overlaps most; the label goes to the first detection that asks.

    Args:
        iou: (labels, detections), 0 where the classes differ.
        thresholds: (t,), above 0.

    Returns:
        bool (detections, t).
    """
    labels, detections = iou.shape
    if not labels or not detections:
        return np.zeros((detections, len(thresholds)), bool)
    label = iou.argmax(0)
    asks = iou[label, np.arange(detections)][:, None] >= thresholds
    order = label.argsort(kind="stable")
    asks_by_label = asks[order]
    asked = asks_by_label.cumsum(0)
    grouped = label[order]
    start = np.searchsorted(grouped, grouped)
    before = np.concatenate((np.zeros((1, len(thresholds)), asked.dtype), asked))[start]
    matched = np.empty_like(asks)
    matched[order] = asks_by_label & (asked - before == 1)
    return matched


def process_batch(  # noqa: PLR0913 (inherited signature)
    detections: torch.Tensor,
    labels: torch.Tensor,
    iouv: torch.Tensor,
    pred_masks: torch.Tensor | None = None,
    gt_masks: torch.Tensor | None = None,
    overlap: bool = False,
    masks: bool = False,
) -> torch.Tensor:
    """Return which detections of an image match a label of their class, one to one, at each IoU: bool (n, t).

    Args:
        detections: (n, 6) x1, y1, x2, y2, conf, class, by falling confidence.
        labels: (m, 5) class, x1, y1, x2, y2.
        iouv: (t,) IoU thresholds.
        pred_masks: (n, h, w) masks of the detections, needed with masks.
        gt_masks: (m, h, w) masks of the labels, or with overlap (1, h, w) label numbers from 1.
        overlap: gt_masks holds one map of numbers.
        masks: match by masks in place of boxes.
    """
    if masks:
        iou = _masks_overlap(pred_masks, gt_masks, len(labels), overlap)
    else:
        iou = box_iou(labels[:, 1:5], detections[:, :4])
    same_class = labels[:, 0:1] == detections[:, 5]
    matched = match_predictions(to_array(iou * same_class), to_array(iouv))
    return torch.as_tensor(matched, device=iouv.device)


def _masks_overlap(
    pred_masks: torch.Tensor | None, gt_masks: torch.Tensor | None, count: int, overlap: bool
) -> torch.Tensor:
    """Return the IoU matrix (labels, detections) of masks, the labels' brought to the detections' size."""
    if pred_masks is None or gt_masks is None:
        raise ValueError("matching by masks needs pred_masks and gt_masks")
    if overlap:
        numbers = torch.arange(1, count + 1, device=gt_masks.device).view(count, 1, 1)
        gt_masks = (gt_masks == numbers).float()
    if gt_masks.shape[1:] != pred_masks.shape[1:]:
        size = tuple(pred_masks.shape[1:])
        gt_masks = torch.nn.functional.interpolate(gt_masks[None].float(), size, mode="bilinear", align_corners=False)
        gt_masks = gt_masks[0].gt(0.5).float()
    return mask_iou(gt_masks.flatten(1).float(), pred_masks.flatten(1).float())


# Average precision ----------------------------------------------------------------------------------------------------


def compute_ap(
    recall: Sequence[float] | np.ndarray, precision: Sequence[float] | np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the AP of a curve (n,) by 101-point interpolation, and its precision envelope and recall (n + 2,)."""
    full_recall = np.concatenate(([0.0], recall, [1.0]))
    envelope = np.concatenate(([1.0], precision, [0.0]))
    envelope = np.maximum.accumulate(envelope[::-1])[::-1]
    sampled = np.interp(RECALLS, full_recall, envelope)
    return float(_integrate(sampled)), envelope, full_recall


def _integrate(sampled: np.ndarray) -> np.ndarray:
    """Return the area below precision (..., 101) at RECALLS, by trapezoids."""
    return ((sampled[..., 1:] + sampled[..., :-1]) * np.diff(RECALLS)).sum(-1) / 2


@dataclass(frozen=True)
class ApCurves:
    """Curves of the k classes that have labels.

    Attributes:
        classes: (k,) class numbers, rising.
        labels: (k,) labels of each.
        ap: (k, t) average precision at each IoU threshold.
        p: (k, 1000) precision over CONFIDENCES at the first threshold.
        r: (k, 1000) recall, likewise.
        f1: (k, 1000) F1, likewise.
        pr: (k, 1000) precision over recall 0 to 1, likewise.
    """

    classes: np.ndarray
    labels: np.ndarray
    ap: np.ndarray
    p: np.ndarray
    r: np.ndarray
    f1: np.ndarray
    pr: np.ndarray

    def best(self) -> int:
        """Return the place in CONFIDENCES of the best smoothed mean F1."""
        return int(smooth(self.f1.mean(0), 0.1).argmax()) if len(self.classes) else 0

    def save(self, stem: str, names: Names) -> None:
        """Save PR_curve.png, F1_curve.png, P_curve.png and R_curve.png, each path beginning with stem."""
        if not len(self.classes):
            return
        from utils.plotting.curves import plot_mc_curve, plot_pr_curve

        known = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
        shown = {i: known[int(c)] for i, c in enumerate(self.classes) if int(c) in known}
        plot_pr_curve(CONFIDENCES, list(self.pr), self.ap, Path(f"{stem}PR_curve.png"), shown)
        for name, values, label in (("F1", self.f1, "F1"), ("P", self.p, "Precision"), ("R", self.r, "Recall")):
            plot_mc_curve(CONFIDENCES, values, Path(f"{stem}{name}_curve.png"), shown, ylabel=label)


def precision_recall_curves(
    tp: np.ndarray, conf: np.ndarray, pred_cls: np.ndarray, target_cls: np.ndarray, eps: float = 1e-16
) -> ApCurves:
    """Return the curves of every class that has labels.

    Args:
        tp: bool (n, t), which predictions are right at each IoU threshold, 0.5 first.
        conf: (n,) confidences, in any order; equal ones keep theirs.
        pred_cls: (n,) predicted classes.
        target_cls: (m,) classes of the labels.
        eps: keeps the divisions finite.
    """
    classes, counts = np.unique(target_cls, return_counts=True)
    order, bounds = sorted_by_class(conf, pred_cls, classes)
    tp, conf = np.ascontiguousarray(tp[order].astype(bool, copy=False).T), conf[order]
    some = np.diff(bounds) > 0  # classes with predictions
    curves = HitCurves.of(tp, bounds, counts, eps)
    ap = np.where(some, _integrate(curves.precision_at(RECALLS)).reshape(len(tp), -1), 0.0).T
    first = HitCurves.of(tp[:1], bounds, counts, eps)
    pr = np.where(some[:, None], first.precision_at(CONFIDENCES), 0.0)
    p, r = np.zeros((2, len(classes), len(CONFIDENCES)))
    for i in np.flatnonzero(some):
        part = slice(bounds[i], bounds[i + 1])
        r[i], p[i] = over_confidence(tp[0, part].cumsum(), conf[part], counts[i] + eps, CONFIDENCES)
    return ApCurves(classes.astype(int), counts, ap, p, r, 2 * p * r / (p + r + eps), pr)


def ap_per_class(  # noqa: PLR0913, PLR0917 (inherited signature)
    tp: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    target_cls: np.ndarray,
    plot: bool = False,
    save_dir: str | Path = ".",
    names: Names = (),
    eps: float = 1e-16,
    prefix: str = "",
) -> tuple[np.ndarray, ...]:
    """Return precision, recall and AP of every class that has labels.

    Args:
        tp: bool (n, t), which predictions are right at each IoU threshold, 0.5 first.
        conf: (n,) confidences, in any order.
        pred_cls: (n,) predicted classes.
        target_cls: (m,) classes of the labels.
        plot: save the PR, F1, P and R curves.
        save_dir: folder of the curves.
        names: class names, by number.
        eps: keeps the divisions finite.
        prefix: begins the file names of the curves.

    Returns:
        tp, fp, p, r, f1, each (classes,), at the confidence with the best smoothed mean F1; AP (classes, t); class
        numbers (classes,).
    """
    curves = precision_recall_curves(tp, conf, pred_cls, target_cls, eps)
    if plot:
        curves.save(f"{save_dir}/{prefix}", names)
    best = curves.best()
    p, r, f1 = curves.p[:, best], curves.r[:, best], curves.f1[:, best]
    right = (r * curves.labels).round()
    wrong = (right / (p + eps) - right).round()
    return right, wrong, p, r, f1, curves.ap, curves.classes
