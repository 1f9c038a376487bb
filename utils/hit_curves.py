"""Precision and recall curves of all classes and IoU thresholds at once, from the positions of the right predictions.

A curve bends at its hits alone: between two of them recall stands still and precision falls. So a curve over n
predictions of which h are right is worked out from h numbers, and those of all classes and thresholds together without
a loop over them. Numbers equal those of the plain way, ``utils.metrics.compute_ap``, but for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LARGEST_CLASS = 1 << 16  # up to here numpy sorts class numbers by counting


def sorted_by_class(conf: np.ndarray, pred_cls: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the predictions of some classes, by class and then by falling confidence.

    Args:
        conf: (n,) confidences; equal ones keep their order.
        pred_cls: (n,) predicted classes.
        classes: (k,) class numbers, rising; predictions of others are left out.

    Returns:
        (m,) positions, and (k + 1,) where each class's run starts and the last one ends.
    """
    place = np.searchsorted(classes, pred_cls)
    known = place < len(classes)
    known[known] = classes[place[known]] == pred_cls[known]
    if len(classes) < _LARGEST_CLASS:
        place = place.astype(np.uint16)
    chosen = np.flatnonzero(known)
    order = chosen[place[chosen].argsort(kind="stable")]
    bounds = np.concatenate(([0], np.bincount(place[chosen], minlength=len(classes)).cumsum()))
    falling = conf[order]
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        order[start:end] = order[start:end][_falling_order(falling[start:end])]
    return order, bounds


def _falling_order(values: np.ndarray) -> np.ndarray:
    """Return what sorts values (n,) from the largest on; equal ones keep their order.

    numpy's quickest sort is not stable, so equal values of float32 are told apart by their positions, and those of
    other types are looked for afterwards.
    """
    if values.dtype == np.float32 and len(values) and values.min() >= 0:
        keys = (values + np.float32(0)).view(np.uint32).astype(np.uint64) ^ np.uint64(0xFFFFFFFF)
        keys = (keys << np.uint64(32)) | np.arange(len(values), dtype=np.uint64)
        keys.sort()
        return (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)
    order = (-values).argsort()
    found = values[order]
    return (-values).argsort(kind="stable") if (found[1:] == found[:-1]).any() else order


@dataclass(frozen=True)
class HitCurves:
    """Curves of s sets of predictions, each sorted by falling confidence: of every class at every IoU threshold.

    The hits of a set are followed by one more entry, which stands for the curve's end at recall 1 and precision 0.

    Attributes:
        start: (s,) a set's first entry.
        hits: (s,) its right predictions.
        position: (entries,) how many predictions come before a hit, all of them at the end entry.
        precision: (entries,) at a hit, 0 at the end entry.
        labels: (s,) how many labels there are to find.
        eps: added to the labels.
    """

    start: np.ndarray
    hits: np.ndarray
    position: np.ndarray
    precision: np.ndarray
    labels: np.ndarray
    eps: float

    @classmethod
    def of(cls, tp: np.ndarray, bounds: np.ndarray, labels: np.ndarray, eps: float) -> HitCurves:
        """Take the hits out of a table.

        Args:
            tp: bool (t, n), sorted by class and then by falling confidence.
            bounds: (k + 1,) where the classes' runs start and end.
            labels: (k,) labels of each class.
            eps: keeps recall finite.

        Returns:
            The curves of t x k sets, threshold by threshold.
        """
        t, k = len(tp), len(labels)
        row, column = tp.nonzero()
        ends = (np.arange(t)[:, None] * tp.shape[1] + bounds[1:]).ravel()
        until = np.searchsorted(row * tp.shape[1] + column, ends)  # hits up to the end of each set
        hits = np.diff(until, prepend=0)
        sets = np.arange(t * k)
        start = until - hits + sets
        where = np.arange(len(column)) + np.repeat(sets, hits)
        position = np.empty(len(column) + t * k, np.int64)
        position[where] = column - np.repeat(np.tile(bounds[:-1], t), hits)
        position[until + sets] = np.tile(np.diff(bounds), t)
        precision = np.zeros(len(position))
        number = np.arange(len(position)) - np.repeat(start, hits + 1) + 1
        precision[where] = number[where] / (position[where] + 1)
        return cls(start, hits, position, precision, np.tile(labels, t), eps)

    def precision_at(self, recalls: np.ndarray) -> np.ndarray:
        """Return the precision envelope (s, m) at recalls (m,), which rise from 0 to 1.

        The envelope at a recall is the greatest precision at this recall or a greater one, between points a straight
        line.
        """
        total = (self.labels + self.eps)[:, None]
        found = np.floor(recalls * total).astype(np.int64)  # hits that recall stands for, but for rounding
        found += (found + 1) / total <= recalls
        found -= found / total > recalls
        found = np.minimum(found, self.hits[:, None])
        coming = self.start[:, None] + found  # entry of the next hit
        chunks = np.maximum.reduceat(self.precision, coming.ravel()).reshape(coming.shape)
        after = np.maximum.accumulate(chunks[:, ::-1], axis=1)[:, ::-1]
        passed = self.position[coming]
        before = np.divide(
            found, passed, out=np.ones(found.shape), where=passed > 0
        )  # at the last point of this recall
        before = np.maximum(before, after)
        recall = found / total
        ended = found == self.hits[:, None]
        following = np.where(ended, 1.0, (found + 1) / total)
        width = np.where(following > recall, following - recall, 1.0)
        return np.where(ended & (recalls >= 1), 0.0, (after - before) / width * (recalls - recall) + before)


def over_confidence(
    hits: np.ndarray, conf: np.ndarray, labels: float, confidences: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision (m,) of one class at confidences (m,), between its predictions by straight lines.

    Above the most confident prediction recall is 0 and precision 1, below the least confident one both stay.

    Args:
        hits: (n,) right predictions among the first 1, 2 ... n; n is at least 1.
        conf: (n,), falling.
        labels: how many there are to find.
        confidences: where to look.
    """
    rising = -conf.astype(np.float64)
    at = -confidences
    last = np.searchsorted(rising, at, "right") - 1
    first = np.maximum(last, 0)
    following = np.minimum(first + 1, len(conf) - 1)
    width = rising[following] - rising[first]
    step = (at - rising[first]) / np.where(width > 0, width, 1.0)
    out = []
    for before, count in ((0.0, labels), (1.0, None)):
        low, high = (hits[i] / (i + 1 if count is None else count) for i in (first, following))
        out.append(np.where(last < 0, before, (high - low) * step + low))
    return out[0], out[1]
