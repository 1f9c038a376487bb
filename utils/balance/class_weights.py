"""From class counts to the weights of the class loss: numpy alone, nothing of a model.

Labels are what data sets hold: one array per image, (n, 5) class, cx, cy, w, h.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.balance.image_weights import RepeatFactors, image_repeat_factors, repeat_factors
from utils.balance.label_counts import Labels, class_counts, classes_held, image_and_class, image_counts
from utils.data.flat_rows import row_counts
from utils.errors import InputErrors
from utils.hyperparameter_table import class_names, weights_problems

if TYPE_CHECKING:
    import torch

__all__ = [
    "ClassWeights", "RepeatFactors", "class_counts", "class_weights", "classes_held", "effective_number",
    "first_weighted_epoch", "image_and_class", "image_counts", "image_repeat_factors", "inverse",
    "labels_to_class_weights", "labels_to_image_weights", "limit_weights", "median_frequency", "normalise_weights",
    "repeat_factors", "sqrt_inverse",
]  # fmt: skip

Names = Mapping[int, str] | Iterable[str]


@dataclasses.dataclass(frozen=True)
class ClassWeights:
    """Weights of the class loss and how they came about.

    values: (nc,) float64, what a matched anchor's class terms are multiplied by. raw: before the limit and the
    normalisation. scheme: the formula's name, "list" or "by name". norm: instance, class or none. clipped: classes that
    the limit lowered. start: epoch (1 and above) or fraction of the run from which they hold.
    """

    values: np.ndarray
    raw: np.ndarray
    scheme: str
    norm: str
    clipped: tuple[int, ...] = ()
    start: float = 0.0

    def summary(self, names: Names) -> str:
        """Return one line for the run log."""
        names = class_names(names)
        text = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, self.values, strict=True))
        limited = f"; limited by cls_weights_max: {', '.join(names[c] for c in self.clipped)}" if self.clipped else ""
        begin = f", from {_start_text(self.start)}" if self.start else ""
        return f"cls_weights: {self.scheme}, norm {self.norm}{begin}: {text}{limited}"


def class_weights(
    hyp: Mapping[str, Any],
    counts: np.ndarray,
    names: Names,
    labels: Labels | None = None,
    dataset_weights: Sequence[float] | Mapping[str, float] | None = None,
) -> ClassWeights | None:
    """Return the class weights that the hyperparameters ask for, None when they are off.

    Steps: the scheme's formula or the given numbers; ``cls_weights_power``; a limit of ``cls_weights_max`` times the
    smallest; the norm. Classes without instances have 1 and no part in limit and norm.

    Args:
        hyp: hyperparameters (``cls_weights`` and its companions).
        counts: (nc,) training instances per class.
        names: class names, as a list or {id: name}.
        labels: labels per image, for median_frequency.
        dataset_weights: weights that came with the data set, used when ``cls_weights`` is not set.

    Raises:
        InputErrors: weights for unknown classes, or a list of another length.
    """
    chosen = hyp.get("cls_weights")
    chosen = dataset_weights if chosen is None else chosen
    if chosen is None:
        return None
    counts = np.asarray(counts, dtype=np.int64)
    problems = weights_problems("cls_weights", chosen, class_names(names), len(counts))
    if problems:
        raise InputErrors(problems)
    raw = _raw_weights(chosen, counts, class_names(names), hyp.get("cls_weights_beta", 0.999), labels)
    present = counts > 0
    raw = np.where(present, raw ** hyp.get("cls_weights_power", 1.0), 1.0)
    values, clipped = limit_weights(raw, present, hyp.get("cls_weights_max", 10.0))
    norm = hyp.get("cls_weights_norm", "auto")
    if norm == "auto":
        norm = "instance" if isinstance(chosen, str) else "none"
    scheme = chosen if isinstance(chosen, str) else "by name" if isinstance(chosen, Mapping) else "list"
    start = hyp.get("cls_weights_start", 0.0) or 0.0
    return ClassWeights(normalise_weights(values, counts, norm), raw, scheme, norm, clipped, start)


def inverse(counts: np.ndarray) -> np.ndarray:
    """Return 1/n for instances n (k,), all above 0."""
    return 1.0 / counts


def sqrt_inverse(counts: np.ndarray) -> np.ndarray:
    """Return n^−½ for instances n (k,), all above 0."""
    return counts**-0.5


def effective_number(counts: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """Return (1 − β)/(1 − β^n) for instances n (k,), all above 0: Cui et al., https://arxiv.org/abs/1901.05555."""
    return (1.0 - beta) / (1.0 - beta**counts)


def median_frequency(labels: Labels, nc: int) -> np.ndarray:
    """Return median(f)/f_c, (nc,), f_c the share of class c among all instances of the images that hold it.

    The median is over classes with instances; the others get 1.
    """
    counts, sizes = class_counts(labels, nc), row_counts(labels)
    images, classes = classes_held(labels, nc)
    totals = np.bincount(classes, weights=sizes[images], minlength=nc)
    present = counts > 0
    weights = np.ones(nc)
    if present.any():
        frequency = counts[present] / totals[present]
        weights[present] = np.median(frequency) / frequency
    return weights


def limit_weights(
    weights: np.ndarray, present: np.ndarray, largest: float | None
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return weights (nc,) of at most ``largest`` times the smallest among ``present`` classes, and who was lowered."""
    if largest is None or not present.any():
        return weights, ()
    top = weights[present].min() * largest
    over = present & (weights > top * (1 + 1e-12))
    return np.where(over, top, weights), tuple(np.flatnonzero(over).tolist())


def normalise_weights(weights: np.ndarray, counts: np.ndarray, norm: str) -> np.ndarray:
    """Return weights (nc,) scaled over the classes with instances, the others unchanged.

    Args:
        weights: (nc,).
        counts: (nc,) instances.
        norm: "instance" Σ n·w / Σ n = 1, "class" mean w = 1, "none".
    """
    present = counts > 0
    if norm == "none" or not present.any():
        return weights
    share = counts[present] / counts[present].sum() if norm == "instance" else 1.0 / present.sum()
    return np.where(present, weights / (share * weights[present]).sum(), weights)


def first_weighted_epoch(start: float, epochs: int) -> int:
    """Return the first epoch, from 0, in which weights hold: ``start`` from 1 on, else that fraction of the run."""
    return int(start) if start >= 1 else math.ceil(start * epochs - 1e-9)


def labels_to_class_weights(labels: Labels, nc: int = 80) -> torch.Tensor:
    """Return a float tensor (nc,) proportional to 1/n, summing to 1; classes without labels count as n = 1."""
    import torch

    if len(labels) == 0 or labels[0] is None:
        return torch.empty(0)
    weights = 1.0 / np.maximum(class_counts(labels, nc), 1)
    return torch.from_numpy(weights / weights.sum()).float()


def labels_to_image_weights(labels: Labels, nc: int = 80, class_weights: np.ndarray | None = None) -> np.ndarray:
    """Return (images,): the sum of each image's class counts times ``class_weights`` (nc,), by default ones."""
    weights = np.ones(nc) if class_weights is None else np.asarray(class_weights).reshape(nc)
    images, classes = image_and_class(labels)
    return np.bincount(images, weights=weights[classes], minlength=len(labels))


def _raw_weights(
    chosen: str | Sequence[float] | Mapping[str, float],
    counts: np.ndarray,
    names: list[str],
    beta: float,
    labels: Labels | None,
) -> np.ndarray:
    if isinstance(chosen, Mapping):
        by_name = {str(name): float(weight) for name, weight in chosen.items()}
        return np.array([by_name.get(name, 1.0) for name in names])
    if not isinstance(chosen, str):
        return np.array(chosen, dtype=np.float64)
    if chosen == "median_frequency":
        if labels is None:
            raise ValueError("cls_weights: median_frequency needs the labels of every image")
        return median_frequency(labels, len(counts))
    formulas = {
        "inverse": inverse,
        "sqrt_inverse": sqrt_inverse,
        "effective_number": lambda n: effective_number(n, beta),
    }
    raw = np.ones(len(counts))
    present = counts > 0
    raw[present] = formulas[chosen](counts[present].astype(np.float64))
    return raw


def _start_text(start: float) -> str:
    return f"epoch {int(start)}" if start >= 1 else f"{100 * start:.4g} % of the epochs"
