"""What a model says about labels: scores of suspicion, from which scores on they are findings, and their words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.diagnosis.ap import class_aps
from utils.diagnosis.audit_findings import FROM_MODEL, Finding
from utils.diagnosis.audit_pairs import pairs_between
from utils.diagnosis.data import GroundTruth, Predictions, iou
from utils.diagnosis.overlaps import find_overlaps

TEMPERATURE = 0.1
AP_IOUS = np.linspace(0.5, 0.95, 10)
SAME_OBJECT = 0.5
PAIRS_AT_ONCE = 400_000


@dataclass(frozen=True)
class ModelScores:
    """Scores, 0 to 1, low for suspicious.

    Attributes:
        settings: name of the settings that they were made with.
        overlooked: (P,) of predictions; NaN for those that have no score.
        badly_located: (G,) of labels.
        swapped: (G,) of labels.
        images: (N,) of images, the three kinds together.
        limits: code -> up to which score (nc,) a box of each class is a finding.
        ap: (nc,) AP over IoU 0.5 to 0.95 of each class, 0 to 1, NaN without labels.
        high: (nc,) confidence above which predictions of each class count against labels.
        low: confidence above which a prediction may confirm a label.
        in_sample: whether the predicting model was trained on these labels.
    """

    settings: str
    overlooked: np.ndarray
    badly_located: np.ndarray
    swapped: np.ndarray
    images: np.ndarray
    limits: dict[str, np.ndarray]
    ap: np.ndarray
    high: np.ndarray
    low: float
    in_sample: bool = False

    def flagged(self, truth: GroundTruth, pred: Predictions) -> dict[str, np.ndarray]:
        """Return the places that are findings: L20 of predictions, L21 and L22 of labels, the most suspicious first.

        Of several predictions of one overlooked object the most suspicious stands for all.
        """
        with np.errstate(invalid="ignore"):
            over = np.flatnonzero(self.overlooked <= self.limits["L20"][pred.cls])
        over = over[np.lexsort((-pred.conf[over], self.overlooked[over]))]
        found = {"L20": one_each(over, pred)}
        for code, scores in (("L21", self.badly_located), ("L22", self.swapped)):
            places = np.flatnonzero(scores <= self.limits[code][truth.cls])
            found[code] = places[np.argsort(scores[places], kind="stable")]
        return found

    def label_weights(self, truth: GroundTruth) -> np.ndarray:
        """Return a weight (G,) for every label: 1 unless it is a finding, then score / limit, the lower of both."""
        weights = np.ones(len(truth))
        for code, scores in (("L21", self.badly_located), ("L22", self.swapped)):
            limits = self.limits[code][truth.cls]
            weights = np.minimum(weights, np.divide(scores, limits, out=np.ones(len(truth)), where=limits > 0))
        return weights.clip(0, 1)

    def label_scores(self) -> np.ndarray:
        """Return the lower of both scores (G,) of each label."""
        return np.minimum(self.badly_located, self.swapped)

    def facts(self) -> dict[str, Any]:
        """Return the parameters and the image scores' quartiles for the report."""
        quartiles = np.quantile(self.images, (0, 0.25, 0.5, 0.75, 1)).tolist() if len(self.images) else []
        return {
            "settings": self.settings, "optimistic": self.in_sample, "high": self.high.tolist(), "low": self.low,
            "ap": self.ap.tolist(), "limits": {code: limit.tolist() for code, limit in self.limits.items()},
            "image_score_quartiles": quartiles,
        }  # fmt: skip


def image_scores(
    truth: GroundTruth, pred: Predictions, overlooked: np.ndarray, badly: np.ndarray, swapped: np.ndarray
) -> np.ndarray:
    """Return a score (N,) for every image: the geometric mean of its softmin over each kind of score."""
    count, some = len(truth.images), ~np.isnan(overlooked)
    kinds = ((overlooked[some], pred.image[some]), (badly, truth.image), (swapped, truth.image))
    return np.prod([softmin(values, place, count) for values, place in kinds], axis=0) ** (1 / len(kinds))


def softmin(scores: np.ndarray, image: np.ndarray, count: int) -> np.ndarray:
    """Return sum s softmax(-s / 0.1) of each image's scores (count,), 1 for an image without any.

    Args:
        scores: (n,) 0 to 1.
        image: (n,) image of each.
        count: number of images.
    """
    weight = np.exp(-scores / TEMPERATURE)  # scores lie in 0 to 1: nothing overflows
    total = np.bincount(image, weight, minlength=count)
    summed = np.bincount(image, weight * scores, minlength=count)
    return np.divide(summed, total, out=np.ones(count), where=total > 0)


def pairs_by_image(truth: GroundTruth, pred: Predictions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places (labels, predictions) of all pairs of the same image, in pieces of whole images."""
    edges = np.arange(len(truth.images) + 1)
    of_truth, of_pred = np.searchsorted(truth.image, edges), np.searchsorted(pred.image, edges)
    labels, predictions = np.diff(of_truth), np.diff(of_pred)
    piece = np.cumsum(labels * predictions) // PAIRS_AT_ONCE
    for images in np.split(np.arange(len(truth.images)), np.flatnonzero(np.diff(piece)) + 1):
        count = labels[images] * predictions[images]
        g, p = pairs_between(labels[images], predictions[images])
        yield np.repeat(of_truth[images], count) + g, np.repeat(of_pred[images], count) + p


def quality(truth: GroundTruth, pred: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return which predictions (P,) find a label at IoU 0.5, and the AP (nc,) over IoU 0.5 to 0.95, 0 to 1."""
    overlaps = find_overlaps(truth, pred)
    overlaps = overlaps.select(overlaps.same & (overlaps.iou >= AP_IOUS[0]))
    by_conf = np.argsort(-pred.conf, kind="stable")
    aps, found = [], np.zeros(len(pred), bool)
    for least in AP_IOUS:
        right = overlaps.select(overlaps.iou >= least).match() >= 0
        found |= right if least == AP_IOUS[0] else False
        aps.append(class_aps(pred.cls[by_conf], right[by_conf], truth.counts()))
    return found, np.mean(aps, axis=0) / 100


def findings(scores: ModelScores, truth: GroundTruth, pred: Predictions) -> list[Finding]:
    """Return L20 to L22, the most suspicious first within each code."""
    places = scores.flagged(truth, pred)
    hint = " (optimistic: the model was trained on these labels)" if scores.in_sample else ""
    found = []
    for p in places["L20"].tolist():
        info, name = truth.images[pred.image[p]], truth.names[int(pred.cls[p])]
        text = f"{name} with confidence {pred.conf[p]:.2f}, but no label there{hint}"
        found.append(
            Finding("L20", "warning", info.label_path, 0, int(pred.cls[p]), _box(pred.boxes[p]), text, "",
                    float(scores.overlooked[p]), info.path)
        )  # fmt: skip
    values = {"L21": scores.badly_located, "L22": scores.swapped}
    for code in FROM_MODEL[1:]:
        for g in places[code].tolist():
            info, name = truth.images[truth.image[g]], truth.names[int(truth.cls[g])]
            text = f"{name}, but {_against(code, g, truth, pred, scores)}{hint}"
            found.append(
                Finding(code, "warning", info.label_path, int(truth.line[g]), int(truth.cls[g]), _box(truth.boxes[g]),
                        text, "", float(values[code][g]), info.path)
            )  # fmt: skip
    return found


def one_each(places: np.ndarray, pred: Predictions) -> np.ndarray:
    """Return the places without those that overlap an earlier one of their image by half."""
    kept: dict[int, list[int]] = {}
    chosen = []
    for p in places.tolist():
        others = kept.setdefault(int(pred.image[p]), [])
        if not others or iou(pred.boxes[p], pred.boxes[others]).max() < SAME_OBJECT:
            others.append(p)
            chosen.append(p)
    return np.array(chosen, np.int64)


def _against(code: str, g: int, truth: GroundTruth, pred: Predictions, scores: ModelScores) -> str:
    """Return in words what speaks against a label."""
    own = np.arange(len(pred))[pred.of_image(int(truth.image[g]))]
    overlap = iou(truth.boxes[g], pred.boxes[own])[0]
    same = pred.cls[own] == truth.cls[g]
    if code == "L21":
        fits = same & (pred.conf[own] > scores.low) & (overlap > 0)
        best = overlap[fits].max(initial=0)
        return f"the best box that the model has for it fits with IoU {best:.2f}"
    fits = ~same & (pred.conf[own] > scores.high[pred.cls[own]]) & (overlap >= SAME_OBJECT)
    if not fits.any():
        return "another label has the same box and another class"
    best = int(np.where(fits, pred.conf[own], -1).argmax())
    name = truth.names[int(pred.cls[own[best]])]
    return f"the model sees {name} there with confidence {pred.conf[own[best]]:.2f} (IoU {overlap[best]:.2f})"


def _box(box: np.ndarray) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box.tolist()
    return x1, y1, x2, y2
