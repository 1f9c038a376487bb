"""Label errors by the weight of evidence: what confident predictions say for and against each label.

ObjectLab asks how similar a label is to the nearest prediction. For a one-stage detector, whose confidences differ from
class to class and seldom come near 1, that leaves most errors unseen (benchmarks/label_errors.py). Three things help:
confidences count relative to what is usual for the class, what speaks for a label is weighed against what speaks
against it, and a prediction testifies about one label alone, the one that it overlaps most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.diagnosis.audit_boxes import overlapping_pairs
from utils.diagnosis.audit_scores import ModelScores, image_scores, quality
from utils.diagnosis.data import GroundTruth, Predictions
from utils.diagnosis.overlaps import Overlaps, find_overlaps

SAME_PLACE = 0.95  # IoU from which two labels of different classes are one object's
FAINT = 0.01  # evidence that is always there, so that a faint doubt does not weigh as much as a strong one
DOUBT = 0.15  # what a score of L22 keeps when nothing speaks for the label, for want of evidence against it
CONFUSED_SHARE, CONFUSED_LABELS = 0.25, 3  # of a class's labels, against which the same other class speaks
UNDECIDED = 0.5
LOOSE, TIGHT = 0.2, 0.8  # IoU at which a box is as badly placed as can be; IoU that no model is asked to exceed
FEW, LEAST_TIGHT = 5, 0.3  # confident predictions of a class, for its own usual IoU to hold; its smallest value


@dataclass(frozen=True)
class Evidence:
    """Parameters.

    Attributes:
        name: for reports.
        low: confidence above which a prediction testifies about a label's box, or about an object without a label.
        contradicts: confidence above which it testifies against a label's class; for the class, every one testifies.
        same_object: IoU from which a prediction speaks about a label's class.
        apart: IoU with every label up to which a prediction shows an object without one.
        least_overlooked: least confidence of such a prediction for a finding; it must also reach the median confidence
            of its class's true positives.
        well_placed: IoU from which a prediction confirms a label's box.
        touching: IoU from which a prediction may mean a label's object.
        badly_located: score up to which a box is a finding.
        swapped: score up to which a class is a finding.
    """

    name: str = "ours"
    low: float = 0.1
    contradicts: float = 0.05
    same_object: float = 0.5
    apart: float = 0.3
    least_overlooked: float = 0.4
    well_placed: float = 0.6
    touching: float = 0.1
    badly_located: float = 0.4
    swapped: float = 0.1


def weigh_evidence(
    truth: GroundTruth, pred: Predictions, settings: Evidence | None = None, *, in_sample: bool = False
) -> ModelScores:
    """Score labels and predictions; c' below is a prediction's confidence over the median of its class, at most 1.

    - Overlooked (L20), of predictions that overlap every label by less than 0.3 and are no witness of L21: 1 - c.
    - Badly located (L21), of labels that no prediction of their class confirms (IoU 0.6 and above): 1 - c' t for the
      most confident prediction of their class that overlaps this label more than others and no other by half, where t
      falls from 1 at an IoU of 0.2 to 0 at 0.8, or at the IoU that is usual for confident predictions of the class
      where that is less; without such a prediction 1.
    - Swapped (L22), of labels: s / (s + a), at least 0.15 (1 - a), s and a the largest c' of predictions of the same
      and of other classes that overlap the label by half; 1 where none speaks against it, 0 where a label of another
      class has the same box. Where one class speaks against more than a quarter of another's labels, and three at
      least, the model confuses the two: that says nothing about single labels, whose score is then 0.5.

    Args:
        truth: labels.
        pred: predictions as val makes them (view a).
        settings: parameters.
        in_sample: whether the model was trained on these labels, so that the result is optimistic.
    """
    settings = settings or Evidence()
    right, ap = quality(truth, pred)
    usual = usual_confidence(pred, right & (pred.conf > settings.low), truth.nc)
    relative = np.minimum(1, pred.conf / usual[pred.cls])
    every = find_overlaps(truth, pred)
    overlaps = every.select(pred.conf[every.pred] > settings.low)
    best, nearest = overlaps.best()
    overlooked = np.where((best < settings.apart) & (pred.conf > settings.low), 1 - pred.conf, np.nan)
    badly, witness = _badly_located(overlaps, best, nearest, pred, relative, truth.nc, settings)
    overlooked[witness[badly <= settings.badly_located]] = np.nan  # what shows a label's right place is not overlooked
    swapped, spoken = _swapped(every, truth, pred, relative, settings)
    swapped[_confused(truth, swapped <= settings.swapped, spoken)] = UNDECIDED
    for i, j, _ in overlapping_pairs(truth.boxes, truth.image, SAME_PLACE):
        if truth.cls[i] != truth.cls[j]:
            swapped[[i, j]] = 0
    nc = truth.nc
    limits = {
        "L20": 1 - np.maximum(usual, settings.least_overlooked), "L21": np.full(nc, settings.badly_located),
        "L22": np.full(nc, settings.swapped),
    }  # fmt: skip
    return ModelScores(
        settings.name, overlooked, badly, swapped, image_scores(truth, pred, overlooked, badly, swapped), limits, ap,
        np.full(nc, settings.contradicts), settings.low, in_sample,
    )  # fmt: skip


def usual_confidence(pred: Predictions, right: np.ndarray, nc: int) -> np.ndarray:
    """Return the median confidence (nc,) of each class's true positives; the classes' median where one has none."""
    usual = np.full(nc, np.nan)
    for c in np.unique(pred.cls[right]).tolist():
        usual[c] = np.median(pred.conf[right & (pred.cls == c)])
    known = usual[~np.isnan(usual)]
    return np.where(np.isnan(usual), np.median(known) if len(known) else 1.0, usual)


def usual_overlap(overlap: np.ndarray, cls: np.ndarray, nc: int) -> np.ndarray:
    """Return the median IoU (nc,), 0.3 to 0.8, of confident predictions (n,) with their labels; 0.8 for fewer than 5.

    A model that places boxes loosely is no witness against boxes a little beside its own.
    """
    usual = np.full(nc, TIGHT)
    for c in np.flatnonzero(np.bincount(cls, minlength=nc) >= FEW).tolist():
        usual[c] = np.clip(np.median(overlap[cls == c]), LEAST_TIGHT, TIGHT)
    return usual


def _badly_located(
    overlaps: Overlaps,
    best: np.ndarray,
    nearest: np.ndarray,
    pred: Predictions,
    relative: np.ndarray,
    nc: int,
    settings: Evidence,
) -> tuple[np.ndarray, np.ndarray]:
    """Return L21's scores (G,), and of each label the prediction that its score is by, -1 without one."""
    scores, witness = np.ones(overlaps.n_gt), np.full(overlaps.n_gt, -1)
    second = np.zeros(overlaps.n_pred)
    place = np.arange(len(overlaps.pred)) - np.searchsorted(overlaps.pred, overlaps.pred)
    second[overlaps.pred[place == 1]] = overlaps.iou[place == 1]
    own = np.zeros(overlaps.n_pred, bool)  # whether a prediction's nearest label is of its class
    own[overlaps.pred[(place == 0) & overlaps.same]] = True
    means = np.flatnonzero(own & (best >= settings.touching) & (second < settings.same_object))
    means = means[np.argsort(pred.conf[means], kind="stable")]  # so that the most confident is written last
    sure = np.flatnonzero(own & (best >= settings.touching) & (relative >= 1))
    tight = usual_overlap(best[sure], pred.cls[sure], nc)[pred.cls[means]]
    aside = np.clip((tight - best[means]) / (tight - LOOSE), 0, 1)
    scores[nearest[means]], witness[nearest[means]] = 1 - relative[means] * aside, means
    scores[overlaps.gt[overlaps.same & (overlaps.iou >= settings.well_placed)]] = 1
    return scores, witness


def _swapped(
    overlaps: Overlaps, truth: GroundTruth, pred: Predictions, relative: np.ndarray, settings: Evidence
) -> tuple[np.ndarray, np.ndarray]:
    """Return L22's scores (G,), and of each label the class that speaks loudest against its own, -1 for none."""
    there = overlaps.select(overlaps.iou >= settings.same_object)
    weight = relative[there.pred]
    confirms, against = np.zeros(len(truth)), np.zeros(len(truth))
    np.maximum.at(confirms, there.gt[there.same], weight[there.same])
    other = np.flatnonzero(~there.same & (pred.conf[there.pred] > settings.contradicts))
    other = other[np.argsort(weight[other], kind="stable")]  # so that the loudest is written last
    against[there.gt[other]] = weight[other]
    spoken = np.full(len(truth), -1)
    spoken[there.gt[other]] = pred.cls[there.pred[other]]
    ratio = (confirms + FAINT) / (confirms + against + 2 * FAINT)
    return np.where(against > 0, np.maximum(ratio, DOUBT * (1 - against)), 1.0), spoken


def _confused(truth: GroundTruth, suspicious: np.ndarray, spoken: np.ndarray) -> np.ndarray:
    """Return which labels (G,) are suspicious because the model confuses their class with the one spoken for."""
    pair = truth.cls * truth.nc + spoken
    count = np.bincount(pair[suspicious], minlength=truth.nc**2)
    often = (count >= CONFUSED_LABELS) & (count > CONFUSED_SHARE * np.repeat(truth.counts(), truth.nc))
    return suspicious & often[np.maximum(pair, 0)]
