"""L18, boxes unusual for their class, and L19, how often each class occurs and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.balance.class_weights import effective_number
from utils.balance.label_counts import class_counts, classes_held
from utils.diagnosis.audit_boxes import Labelled, training_pixels, usable
from utils.diagnosis.audit_findings import Finding

MIN_BOXES = 30  # of a class, for its outliers to be named
OUTLIER = 4.0  # median absolute deviations
SMALLEST_DEVIATION = 0.01  # of the logarithm: boxes that agree to the pixel must not make all others outliers
IMBALANCE = 10.0
DRIFT_P = 0.01
MIN_EXPECTED = 5.0  # boxes, for a class to count in the test of drift by itself
BETA = 0.999  # of the effective number
FREQUENT = 5.0  # a class with so many times the boxes of another is frequent beside it
MOST_PAIRS = 100
BLOCK = 1 << 16  # images counted at a time


def size_outliers(labelled: Labelled, imgsz: int) -> list[Finding]:
    """Return L18: boxes whose logarithm of area or aspect is over 4 median absolute deviations off their class.

    Sizes are in pixels at training size, so that images of any size compare.
    """
    fit = np.flatnonzero(usable(labelled))
    width, height = training_pixels(labelled, imgsz)[fit].T
    known = ~np.isnan(width)
    fit, width, height = fit[known], width[known], height[known]
    cls = labelled.rows.values[fit, 0].astype(np.int64)
    findings = []
    measures = {"area": np.log(width * height), "width / height": np.log(width / height)}
    for c in np.flatnonzero(np.bincount(cls, minlength=len(labelled.names)) >= MIN_BOXES).tolist():
        own = np.flatnonzero(cls == c)
        for what, values in measures.items():
            middle = np.median(values[own])
            deviation = max(float(np.median(np.abs(values[own] - middle))), SMALLEST_DEVIATION)
            for k in own[np.abs(values[own] - middle) > OUTLIER * deviation].tolist():
                text = f"{what} is {np.exp(values[k] - middle):.3g} times the median of {labelled.names[c]}"
                findings.append(labelled.finding(int(fit[k]), "L18", "info", text))
    return findings


def class_balance(
    labels: Mapping[str, Sequence[np.ndarray]], names: Mapping[int, str]
) -> tuple[dict[str, Any], list[Finding]]:
    """Return L19 as numbers for the report, and its findings (whose file is left to the caller).

    Args:
        labels: split -> per image (n, 5) class, cx, cy, w, h.
        names: class names.

    Returns:
        Mapping with ``splits`` (split -> classes, ratio, pairs of classes in the same images) and ``drift`` (split ->
        chi2, degrees, p against train), and findings.
    """
    splits = {split: split_balance(images, names) for split, images in labels.items()}
    findings = []
    for split, facts in splits.items():
        if facts["ratio"] is not None and facts["ratio"] > IMBALANCE:
            most, least = facts["most"], facts["least"]
            text = f"{split}: {names[most]} has {facts['ratio']:.3g} times the boxes of {names[least]}"
            findings.append(Finding("L19", "warning", "", cls=least, message=text))
    drift = {}
    first = next(iter(labels), None)
    for split in list(labels)[1:]:
        counts = [np.array([c["instances"] for c in splits[s]["classes"]]) for s in (first, split)]
        drift[split] = split_drift(*counts)
        p = drift[split]["p"]
        if p is not None and p < DRIFT_P:
            text = f"{split} holds the classes in other shares than {first} (chi-squared test, p {p:.2g})"
            findings.append(Finding("L19", "warning", "", message=text))
    return {"splits": splits, "drift": drift}, findings


def split_balance(images: Sequence[np.ndarray], names: Mapping[int, str]) -> dict[str, Any]:
    """Return the balance of one split.

    Returns:
        Mapping: ``images``; ``classes``, one mapping each with id, name, instances, images, share_of_boxes,
        share_of_images, effective_number ((1 - beta^n) / (1 - beta), beta 0.999) and beside_frequent (share of its
        images that also hold a class with 5 times its boxes); ``ratio`` of the most to the fewest boxes among classes
        that occur (``most`` and ``least``), None with fewer than two; ``pairs`` of classes by images that hold both.
    """
    nc = len(names)
    counts = class_counts(images, nc)
    place, cls = classes_held(images, nc)
    held = np.zeros((len(images), nc), bool)
    held[place, cls] = True
    together = np.zeros((nc, nc), np.int64)
    for begin in range(0, len(held), BLOCK):
        block = held[begin : begin + BLOCK].astype(np.float32)  # multiplies fast, and counts exactly up to 2^24
        together += (block.T @ block).astype(np.int64)
    rows = []
    for c, name in sorted(names.items()):
        own = int(together[c, c])
        frequent = counts > FREQUENT * counts[c]
        beside = int(held[held[:, c]][:, frequent].any(1).sum())
        rows.append({
            "id": c, "name": name, "instances": int(counts[c]), "images": own,
            "share_of_boxes": float(counts[c] / max(counts.sum(), 1)), "share_of_images": own / max(len(images), 1),
            "effective_number": float(1 / effective_number(counts[c], BETA)) if counts[c] else 0.0,
            "beside_frequent": beside / own if own else None,
        })  # fmt: skip
    present = np.flatnonzero(counts)
    facts: dict[str, Any] = {"images": len(images), "classes": rows, "ratio": None, "most": None, "least": None}
    if len(present) > 1:
        most, least = int(present[counts[present].argmax()]), int(present[counts[present].argmin()])
        facts |= {"ratio": float(counts[most] / counts[least]), "most": most, "least": least}
    facts["pairs"] = _pairs(together)
    return facts


def split_drift(first: np.ndarray, second: np.ndarray) -> dict[str, float | int | None]:
    """Return Pearson's test of whether two splits hold the classes in the same shares.

    Classes that would be expected less than 5 times in a split are counted together.

    Args:
        first: boxes of each class (nc,).
        second: likewise.

    Returns:
        Mapping with chi2, degrees and p; all None where there is nothing to compare.
    """
    table = np.stack((first, second)).astype(np.float64)
    none: dict[str, float | int | None] = {"chi2": None, "degrees": None, "p": None}
    if not table.sum(1).all():
        return none
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    rare = (expected < MIN_EXPECTED).any(0)
    table = np.column_stack((table[:, ~rare], table[:, rare].sum(1)))
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return none
    expected = table.sum(0) * table.sum(1, keepdims=True) / table.sum()
    chi2, degrees = float(((table - expected) ** 2 / expected).sum()), table.shape[1] - 1
    return {"chi2": chi2, "degrees": degrees, "p": chi2_tail(chi2, degrees)}


def chi2_tail(chi2: float, degrees: int) -> float:
    """Return the probability of a chi-squared value as large or larger."""
    import torch

    half = torch.tensor((degrees / 2, chi2 / 2), dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _pairs(together: np.ndarray) -> list[dict[str, int]]:
    """Return the pairs of classes that most images hold both of."""
    a, b = np.nonzero(np.triu(together, 1))
    order = np.argsort(-together[a, b], kind="stable")[:MOST_PAIRS]
    return [{"a": int(a[k]), "b": int(b[k]), "images": int(together[a[k], b[k]])} for k in order]
