"""Which predictions overlap which objects, for all images at once, and the greedy matching on top of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.diagnosis.data import GroundTruth, Predictions, check_classes, paired_iou

PAIRS_AT_ONCE = 400_000  # bounds the memory: about 100 MB


@dataclass(frozen=True)
class Overlaps:
    """All pairs (prediction, object) of the same image with an IoU above 0.

    Attributes:
        pred: (k,) int64 rising; places in the predictions.
        gt: (k,) int64 places in the ground truth.
        iou: (k,) float64, for each prediction falling; of equal ones the first object comes first.
        same: (k,) bool, both are of one class.
        n_pred: number of predictions.
        n_gt: number of objects.
    """

    pred: np.ndarray
    gt: np.ndarray
    iou: np.ndarray
    same: np.ndarray
    n_pred: int
    n_gt: int

    def select(self, keep: np.ndarray) -> Overlaps:
        """Return the pairs that bool (k,) names."""
        return Overlaps(self.pred[keep], self.gt[keep], self.iou[keep], self.same[keep], self.n_pred, self.n_gt)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each prediction's best IoU (P,), 0 without a pair, and that object (P,), -1 without one."""
        iou, gt = np.zeros(self.n_pred), np.full(self.n_pred, -1)
        pred, first = np.unique(self.pred, return_index=True)
        iou[pred], gt[pred] = self.iou[first], self.gt[first]
        return iou, gt

    def match(self) -> np.ndarray:
        """Return the object (P,) that each prediction takes, -1 where none is left.

        Predictions choose in their order, that is by falling confidence within an image; each takes the free object
        of highest IoU among its pairs.
        """
        matched = [-1] * self.n_pred
        taken = bytearray(self.n_gt)
        for pred, gt in zip(self.pred.tolist(), self.gt.tolist(), strict=True):
            if matched[pred] < 0 and not taken[gt]:
                matched[pred], taken[gt] = gt, 1
        return np.array(matched, dtype=np.int64)


def find_overlaps(gt: GroundTruth, pred: Predictions) -> Overlaps:
    """Return the pairs of predictions and objects that overlap.

    Raises:
        ValueError: a prediction has an image or a class that the ground truth lacks.
    """
    check_classes(pred.cls, gt.nc)
    if len(pred) and not 0 <= pred.image[0] <= pred.image[-1] < len(gt.images):
        raise ValueError(f"predictions on images {pred.image[0]} to {pred.image[-1]}, there are {len(gt.images)}")
    start = np.searchsorted(gt.image, pred.image, "left")
    count = np.searchsorted(gt.image, pred.image, "right") - start
    ends = count.cumsum()
    parts = []
    first = 0
    while first < len(pred):
        before = ends[first] - count[first]
        last = max(int(np.searchsorted(ends, before + PAIRS_AT_ONCE, "right")), first + 1)
        parts.append(_pairs(gt, pred, np.arange(first, last), start[first:last], count[first:last]))
        first = last
    p, g, iou = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else np.zeros((3, 0))
    p, g = p.astype(np.int64), g.astype(np.int64)
    return Overlaps(p, g, iou, pred.cls[p] == gt.cls[g], len(pred), len(gt))


def _pairs(
    gt: GroundTruth, pred: Predictions, rows: np.ndarray, start: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (prediction, object, IoU) of some predictions (n,), each with ``count`` objects from ``start``."""
    p = np.repeat(rows, count)
    g = np.arange(len(p)) + np.repeat(start - (count.cumsum() - count), count)
    iou = paired_iou(pred.boxes[p], gt.boxes[g])
    some = iou > 0
    p, g, iou = p[some], g[some], iou[some]
    order = np.lexsort((-iou, p))
    return p[order], g[order], iou[order]
