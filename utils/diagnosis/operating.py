"""The operating view: what a user of the detector sees at one confidence threshold, as counts that add up.

Right + misclassified + badly located + missed objects are all objects; right + misclassified + all kinds of false
predictions are all predictions; on every image and so in total.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.diagnosis.data import GroundTruth, Predictions, plain
from utils.diagnosis.overlaps import Overlaps, find_overlaps
from utils.diagnosis.tide import BKG, BOTH, CLS, DUPE, LOC, wrong_types
from utils.metrics import CONFIDENCES, precision_recall_curves

# What a prediction can be; codes are places. "extra class": a second class on an object that another prediction found.
PRED_TYPES = ("TP", "misclassified", "location", "extra class", "duplicate", "background", "other")
RIGHT, MISCLASSIFIED, LOCATION, EXTRA, DUPLICATE, BACKGROUND, OTHER = range(len(PRED_TYPES))
FALSE_TYPES = PRED_TYPES[LOCATION:]
# What can become of an object.
GT_STATES = ("TP", "misclassified", "badly located", "missed")
BADLY_LOCATED, MISSED = 2, 3
_FROM_TIDE = {LOC: LOCATION, CLS: EXTRA, DUPE: DUPLICATE, BKG: BACKGROUND, BOTH: OTHER}


@dataclass(frozen=True)
class OperatingResult:
    """What became of every prediction above a threshold and of every object.

    Attributes:
        conf: the threshold, one number or (nc,); predictions lie above it.
        predictions: the P' predictions above it.
        pred_type: (P',) int8 places in PRED_TYPES.
        pred_target: (P',) object found, taken for another class, or aimed at; -1 for none.
        pred_iou: (P',) IoU with that object, for background the best IoU with any.
        gt_state: (G,) int8 places in GT_STATES.
        gt_pred: (G,) place in ``predictions`` of what found it or took it for another class, -1 for none.
        counts: name -> total: objects, predictions, TP, misclassified, FP and each of FALSE_TYPES, FN, badly located,
            missed.
        per_class: the same names -> (nc,): of the object's class for objects, TP, misclassified, FN, badly located and
            missed, of the predicted one for the others.
        pairs: (predicted, true) -> misclassifications.
        t_f: IoU from which a prediction finds an object.
        t_b: IoU up to which a prediction lies on background.
    """

    conf: float | np.ndarray
    predictions: Predictions
    pred_type: np.ndarray
    pred_target: np.ndarray
    pred_iou: np.ndarray
    gt_state: np.ndarray
    gt_pred: np.ndarray
    counts: dict[str, int]
    per_class: dict[str, np.ndarray]
    pairs: dict[tuple[int, int], int]
    t_f: float
    t_b: float

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON, without the columns of single predictions and objects."""
        pairs = sorted(self.pairs.items(), key=lambda item: (-item[1], item[0]))
        return plain(
            {
                "conf": self.conf,
                "counts": self.counts,
                "per_class": self.per_class,
                "pairs": [{"predicted": k, "true": g, "count": n} for (k, g), n in pairs],
                "settings": {"t_f": self.t_f, "t_b": self.t_b},
            }
        )


def operate(
    gt: GroundTruth, pred: Predictions, conf: float | np.ndarray | None = None, t_f: float = 0.5, t_b: float = 0.1
) -> OperatingResult:
    """Count what is right and wrong above a confidence threshold, in three passes over each image.

    1. Predictions take the free object of their class with the highest IoU of at least t_f. 2. Those left over take
    free objects of any class in the same way: misclassifications. 3. Those still left over are false; an object still
    free is badly located where a prediction of its class overlaps it by t_b or more (less than t_f), else missed.

    Args:
        gt: the labelled objects.
        pred: predictions as detect makes them: suppressed with a single label for each box.
        conf: the threshold, one number or (nc,); by default that of the best mean F1.
        t_f: IoU from which a prediction finds an object.
        t_b: IoU up to which a prediction lies on background.
    """
    conf = best_confidence(gt, pred, t_f) if conf is None else conf
    used = pred.above(conf)
    overlaps = find_overlaps(gt, used)
    near = overlaps.select(overlaps.iou >= t_f)
    right = near.select(near.same).match()
    taken = np.zeros(len(gt), bool)
    taken[right[right >= 0]] = True
    wrong = near.select((right[near.pred] < 0) & ~taken[near.gt]).match()

    types, target, iou = wrong_types(overlaps, t_f, t_b)
    types = _renamed(types)
    gt_state, gt_pred = np.full(len(gt), MISSED, np.int8), np.full(len(gt), -1)
    located = overlaps.same & (overlaps.iou >= t_b) & (overlaps.iou < t_f)
    gt_state[overlaps.gt[located]] = BADLY_LOCATED
    for code, matched in ((MISCLASSIFIED, wrong), (RIGHT, right)):
        rows = np.flatnonzero(matched >= 0)
        types[rows], target[rows] = code, matched[rows]
        gt_state[matched[rows]], gt_pred[matched[rows]] = code, rows
        iou = _with_iou_of(overlaps, matched, iou)
    pairs = _pairs(used.cls[wrong >= 0], gt.cls[wrong[wrong >= 0]])
    per_class = _per_class(gt, used, types, gt_state)
    counts = {name: int(numbers.sum()) for name, numbers in per_class.items()}
    return OperatingResult(conf, used, types, target, iou, gt_state, gt_pred, counts, per_class, pairs, t_f, t_b)


def best_confidence(gt: GroundTruth, pred: Predictions, t_f: float = 0.5) -> float:
    """Return the confidence with the best mean F1 over the classes with objects, smoothed as val does it.

    0 without objects. A prediction is right when it matches in view of all predictions.
    """
    overlaps = find_overlaps(gt, pred)
    right = overlaps.select(overlaps.same & (overlaps.iou >= t_f)).match() >= 0
    curves = precision_recall_curves(right[:, None], pred.conf, pred.cls, gt.cls)
    return float(CONFIDENCES[curves.best()])


def single_label(pred: Predictions) -> Predictions:
    """Return predictions with one label a box: of those of an image with equal boxes the most confident.

    This brings results of multi-label suppression (val's) near to what detect gives. It is not the same: a box that
    single-label suppression would have dropped may be left with its second class.
    """
    columns = np.column_stack((pred.image, pred.boxes))
    _, first = np.unique(columns, axis=0, return_index=True)  # the first of equals is the most confident
    return pred.select(np.sort(first))


def _renamed(types: np.ndarray) -> np.ndarray:
    """Return places in PRED_TYPES for the types of the AP view."""
    table = np.full(max(_FROM_TIDE) + 1, OTHER, np.int8)
    for tide_code, code in _FROM_TIDE.items():
        table[tide_code] = code
    return table[types]


def _with_iou_of(overlaps: Overlaps, matched: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Return the IoUs (P,) with those of matched pairs filled in."""
    pair = overlaps.select(matched[overlaps.pred] == overlaps.gt)
    iou[pair.pred] = pair.iou
    return iou


def _pairs(predicted: np.ndarray, true: np.ndarray) -> dict[tuple[int, int], int]:
    found, numbers = np.unique(np.stack((predicted, true), 1), axis=0, return_counts=True)
    return {(int(k), int(g)): int(n) for (k, g), n in zip(found, numbers, strict=True)}


def _per_class(gt: GroundTruth, used: Predictions, types: np.ndarray, states: np.ndarray) -> dict[str, np.ndarray]:
    def objects(state: int) -> np.ndarray:
        return np.bincount(gt.cls[states == state], minlength=gt.nc)

    def predictions(code: int) -> np.ndarray:
        return np.bincount(used.cls[types == code], minlength=gt.nc)

    false = {PRED_TYPES[code]: predictions(code) for code in range(LOCATION, len(PRED_TYPES))}
    lost = {GT_STATES[state]: objects(state) for state in (BADLY_LOCATED, MISSED)}
    return {
        "objects": gt.counts(),
        "predictions": np.bincount(used.cls, minlength=gt.nc),
        "TP": objects(RIGHT),
        "misclassified": objects(MISCLASSIFIED),
        "FP": sum(false.values()),
        **false,
        "FN": sum(lost.values()),
        **lost,
    }
