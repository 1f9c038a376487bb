"""Average precision as COCO scoring takes it: precision sampled at 101 levels of recall."""

from __future__ import annotations

import numpy as np

LEVELS = np.arange(101) / 100  # of recall; hits / objects that equal a level are the same float


def average_precision(right: np.ndarray, n_gt: int) -> float:
    """Return the AP, 0 to 100, of one class; NaN without objects.

    At each of 101 recall levels counts the best precision at that recall or a higher one, 0 beyond the last. COCO's
    code compares with 35 * 0.01, a float above 35 / 100, and with some more like it, and so misses a level of recall
    that is reached exactly; TIDE's does not, nor does this.

    Args:
        right: bool (n,), which predictions are right, by falling confidence.
        n_gt: number of objects.
    """
    return _sampled(np.flatnonzero(right) + 1, n_gt)


def _sampled(ranks: np.ndarray, n_gt: int) -> float:
    """Return the AP of the right predictions' ranks (n,), from 1, rising.

    Between two right predictions precision only falls, so that the ranks of the right ones say everything.
    """
    if n_gt <= 0:
        return float("nan")
    hits = np.arange(1, len(ranks) + 1)
    envelope = np.maximum.accumulate((hits / ranks)[::-1])[::-1]
    at = np.searchsorted(hits / n_gt, LEVELS)
    return 100 * float(envelope[at[at < len(ranks)]].sum()) / len(LEVELS)


def class_aps(cls: np.ndarray, right: np.ndarray, n_gt: np.ndarray) -> np.ndarray:
    """Return the AP (nc,) of every class, 0 to 100; NaN for a class without objects.

    Args:
        cls: (n,) classes of the predictions of all images, by falling confidence.
        right: bool (n,).
        n_gt: (nc,) objects of each class.
    """
    order = np.argsort(cls, kind="stable")
    right = right[order]
    edges = np.searchsorted(cls[order], np.arange(len(n_gt) + 1)).tolist()
    return np.array([average_precision(right[a:b], n) for a, b, n in zip(edges, edges[1:], n_gt, strict=False)])


def mean_ap(aps: np.ndarray) -> float:
    """Return the mean over the classes that have an AP; NaN where none has one."""
    known = aps[~np.isnan(aps)]
    return float(known.mean()) if len(known) else float("nan")
