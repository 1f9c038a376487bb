"""Label errors that a model sees: overlooked objects (L20), badly placed boxes (L21), swapped classes (L22).

``ours`` weighs the evidence of confident predictions (audit_evidence); ``objectlab`` and ``paper`` are the scores of
ObjectLab (Tkachenko, Thyagarajan, Mueller, 2023, https://arxiv.org/abs/2309.00832) with parameters for detectors whose
confidences are low, and with the published ones. benchmarks/label_errors.py measures all three.

The predictions must be out of sample: a model that was trained on a wrong label has learnt to repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from utils.diagnosis.audit_boxes import overlapping_pairs
from utils.diagnosis.audit_evidence import Evidence, weigh_evidence
from utils.diagnosis.audit_findings import FROM_MODEL
from utils.diagnosis.audit_scores import ModelScores, image_scores, pairs_by_image, quality
from utils.diagnosis.data import GroundTruth, Predictions, areas, paired_iou

IOU_WEIGHT = 0.9
DISTANCE_DECAY = 0.1
SAME_PLACE = 0.95  # IoU from which two labels of different classes are one object's
HIGH_FLOOR, HIGH_QUANTILE = 0.5, 0.8


@dataclass(frozen=True)
class Settings:
    """Parameters of ObjectLab.

    Attributes:
        name: for reports.
        high: confidence above which a prediction speaks against the labels; None takes, for each class, the larger of
            0.5 and the 80 % quantile of its true positives' confidences.
        low: confidence above which a prediction may confirm a label.
        distance: in which unit the distance of centres counts: pixels, or the mean side of the two boxes.
        flagged_below: share of its class's AP (0 to 1, mean over IoU 0.5 to 0.95) up to which a score is a finding.
    """

    name: str
    high: float | None
    low: float
    distance: Literal["pixels", "boxes"]
    flagged_below: float = 0.2


OURS = Evidence()
OBJECTLAB = Settings("objectlab", None, 0.25, "boxes")
PAPER = Settings("paper", 0.95, 0.5, "pixels")
SETTINGS: dict[str, Settings | Evidence] = {settings.name: settings for settings in (OURS, OBJECTLAB, PAPER)}


def objectlab(
    truth: GroundTruth, pred: Predictions, settings: Settings | Evidence = OURS, *, in_sample: bool = False
) -> ModelScores:
    """Score labels and predictions.

    Args:
        truth: labels.
        pred: predictions as val makes them (view a).
        settings: one of SETTINGS, or others.
        in_sample: whether the model was trained on these labels, so that the result is optimistic.
    """
    if isinstance(settings, Evidence):
        return weigh_evidence(truth, pred, settings, in_sample=in_sample)
    right, ap = quality(truth, pred)
    high = _high(pred, right, truth.nc, settings)
    sums = _Similarities(len(truth), len(pred))
    for g, p in pairs_by_image(truth, pred):
        sums.add(g, p, similarity(truth.boxes[g], pred.boxes[p], settings.distance), truth, pred, high, settings)
    overlooked = np.full(len(pred), np.nan)
    free = (pred.conf >= high[pred.cls]) & ~sums.touched
    overlooked[free] = np.where(sums.of_pred > 0, sums.of_pred, sums.smallest * (1 - pred.conf))[free]
    badly = np.where(sums.confirmed > 0, sums.confirmed, 1.0)
    swapped = np.where(sums.against > 0, np.maximum(sums.smallest, 1 - sums.against), 1.0)
    for i, j, _ in overlapping_pairs(truth.boxes, truth.image, SAME_PLACE):
        if truth.cls[i] != truth.cls[j]:
            swapped[[i, j]] = sums.smallest
    limit = settings.flagged_below * np.nan_to_num(ap)
    return ModelScores(
        settings.name, overlooked, badly, swapped, image_scores(truth, pred, overlooked, badly, swapped),
        dict.fromkeys(FROM_MODEL, limit), ap, high, settings.low, in_sample,
    )  # fmt: skip


def similarity(a: np.ndarray, b: np.ndarray, distance: str = "boxes") -> np.ndarray:
    """Return 0.9 IoU + 0.1 exp(-0.1 d) of box pairs (n, 4) xyxy, d the distance of their centres.

    Args:
        a: boxes.
        b: boxes.
        distance: unit of d: "pixels", or "boxes": the geometric mean of both boxes' mean sides.
    """
    apart = np.hypot(*((a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]) / 2).T)
    if distance == "boxes":
        side = np.sqrt(np.sqrt(areas(a) * areas(b)))
        apart = np.divide(apart, side, out=np.full(len(apart), np.inf), where=side > 0)
    return IOU_WEIGHT * paired_iou(a, b) + (1 - IOU_WEIGHT) * np.exp(-DISTANCE_DECAY * apart)


class _Similarities:
    """The largest similarities of labels and predictions, gathered piece by piece."""

    def __init__(self, labels: int, predictions: int):
        self.confirmed = np.zeros(labels)  # with predictions of the same class
        self.against = np.zeros(labels)  # with confident predictions of other classes
        self.of_pred = np.zeros(predictions)  # with labels of the same class
        self.touched = np.zeros(predictions, bool)
        self.smallest = 1.0

    def add(  # noqa: PLR0913  (one piece of the pairs)
        self, g: np.ndarray, p: np.ndarray, sim: np.ndarray, truth: GroundTruth, pred: Predictions, high: np.ndarray,
        settings: Settings,
    ) -> None:  # fmt: skip
        """Take in pairs of labels ``g`` and predictions ``p`` with their similarities (k,)."""
        overlap = paired_iou(truth.boxes[g], pred.boxes[p]) > 0
        same, conf = truth.cls[g] == pred.cls[p], pred.conf[p]
        if (sim > 0).any():
            self.smallest = min(self.smallest, float(sim[sim > 0].min()))
        self.touched[p[overlap]] = True
        confirms = same & overlap & (conf > settings.low)
        np.maximum.at(self.confirmed, g[confirms], sim[confirms])
        contradicts = ~same & (conf > high[pred.cls[p]])
        np.maximum.at(self.against, g[contradicts], sim[contradicts])
        np.maximum.at(self.of_pred, p[same], sim[same])


def _high(pred: Predictions, right: np.ndarray, nc: int, settings: Settings) -> np.ndarray:
    """Return the confidence (nc,) above which predictions of each class count against the labels."""
    if settings.high is not None:
        return np.full(nc, settings.high)
    high = np.full(nc, HIGH_FLOOR)
    for c in np.unique(pred.cls[right]).tolist():
        high[c] = max(HIGH_FLOOR, float(np.quantile(pred.conf[right & (pred.cls == c)], HIGH_QUANTILE)))
    return high
