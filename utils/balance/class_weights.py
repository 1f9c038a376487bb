"""From class counts to class weights, repeat factors and image weights: numpy alone, nothing of a model.

Labels are what data sets hold: one array per image, (n, 5) class, cx, cy, w, h.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.errors import InputErrors
from utils.hyperparameter_table import class_names, weights_problems

if TYPE_CHECKING:
    import torch

Labels = Sequence[np.ndarray]
Names = Mapping[int, str] | Iterable[str]


def image_and_class(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Return the image number and the class of every box, two (boxes,) int64 arrays."""
    images = np.repeat(np.arange(len(labels)), [len(image) for image in labels])
    classes = [np.asarray(image)[:, 0].astype(np.int64) for image in labels if len(image)]
    return images, np.concatenate(classes) if classes else np.zeros(0, np.int64)


def classes_held(labels: Labels, nc: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image number and class, two (pairs,) int64 arrays, of every class that an image holds, once each."""
    images, classes = image_and_class(labels)
    pairs = np.unique(images * nc + classes)
    return pairs // nc, pairs % nc


def class_counts(labels: Labels, nc: int) -> np.ndarray:
    """Return the instances of every class, (nc,) int64."""
    return np.bincount(image_and_class(labels)[1], minlength=nc)


def image_counts(labels: Labels, nc: int) -> np.ndarray:
    """Return the images that hold each class, (nc,) int64."""
    return np.bincount(classes_held(labels, nc)[1], minlength=nc)


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
    smallest; the norm. Classes without instances stay out of limit and norm, and a scheme gives them 1.

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
    raw = raw ** hyp.get("cls_weights_power", 1.0)
    present = counts > 0
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
    counts, sizes = class_counts(labels, nc), np.array([len(image) for image in labels])
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


@dataclasses.dataclass(frozen=True)
class RepeatFactors:
    """How often images are drawn relative to each other.

    images: (N,) float64, at least 1. classes: (nc,) float64, at least 1. threshold: image share below which a class
    is repeated. images_with: (nc,) images that hold the class.
    """

    images: np.ndarray
    classes: np.ndarray
    threshold: float
    images_with: np.ndarray

    def summary(self, names: Names) -> str:
        """Return one line for the run log."""
        pairs = zip(class_names(names), self.classes, strict=True)
        text = ", ".join(f"{name} {factor:.4g}" for name, factor in pairs if factor > 1) or "no class is below it"
        return f"sampler: repeat_factor, threshold {self.threshold:.4g}, factors above 1: {text}"


def image_repeat_factors(
    labels: Labels, nc: int, threshold: float | str = "auto", reduce: str = "max"
) -> RepeatFactors:
    """Return the repeat factors of Gupta et al. (LVIS), https://arxiv.org/abs/1908.03195, section 4.

    1. f_c, the share of images that hold class c. 2. r_c = max(1, √(t/f_c)), 1 for a class without images.
    3. per image the largest (or the mean) r_c of its classes, 1 without labels.

    Args:
        labels: per image.
        nc: classes.
        threshold: t above 0, or "auto": the median f_c of the classes that occur.
        reduce: "max" or "mean".
    """
    held_in, held = classes_held(labels, nc)
    images_with = np.bincount(held, minlength=nc)
    share = images_with / max(len(labels), 1)
    present = images_with > 0
    if threshold == "auto":
        threshold = float(np.median(share[present])) if present.any() else 1.0
    classes = np.ones(nc)
    classes[present] = np.maximum(1.0, np.sqrt(threshold / share[present]))
    images = np.ones(len(labels))
    if reduce == "max":
        np.maximum.at(images, held_in, classes[held])
    else:
        number = np.bincount(held_in, minlength=len(labels))
        total = np.bincount(held_in, weights=classes[held], minlength=len(labels))
        images = np.where(number > 0, total / np.maximum(number, 1), 1.0)
    return RepeatFactors(images, classes, float(threshold), images_with)


def repeat_factors(hyp: Mapping[str, Any], labels: Labels, nc: int) -> RepeatFactors | None:
    """Return the repeat factors that the hyperparameters ask for, None when no sampler is on."""
    if hyp.get("sampler") in (None, "none"):
        return None
    return image_repeat_factors(labels, nc, hyp.get("sampler_t", "auto"), hyp.get("sampler_reduce", "max"))


def expected_instances(factors: RepeatFactors, labels: Labels) -> np.ndarray:
    """Return (nc,): the boxes per class among as many draws as there are images, on average."""
    share = factors.images / factors.images.sum() * len(labels)
    images, classes = image_and_class(labels)
    return np.bincount(classes, weights=share[images], minlength=len(factors.classes))


def double_correction(weights: ClassWeights | None, factors: RepeatFactors | None, names: Names) -> str | None:
    """Return a warning when weights and sampler both favour rare classes, with the product per class, else None."""
    if weights is None or factors is None or np.ptp(weights.values) == 0 or np.ptp(factors.classes) == 0:
        return None
    product = weights.values * factors.classes
    text = ", ".join(f"{name} {value:.4g}" for name, value in zip(class_names(names), product, strict=True))
    return f"cls_weights and sampler both correct the class balance, weight × repeat factor: {text}"


def balance_table(
    names: Names,
    counts: np.ndarray,
    images: np.ndarray,
    weights: ClassWeights | None = None,
    factors: RepeatFactors | None = None,
    labels: Labels | None = None,
) -> str:
    """Return a table with a line per class: instances, images, class weight, repeat factor ('-' where off), and with
    a sampler the boxes of the class that an epoch of as many draws as images holds on average.

    Args:
        names: class names, as a list or {id: name}.
        counts: (nc,) training instances.
        images: (nc,) training images that hold the class.
        weights: of the class loss.
        factors: of the sampler.
        labels: per image, for the last column.
    """
    names = class_names(names)
    drawn = np.asarray(counts) if factors is None or labels is None else expected_instances(factors, labels)
    width = max(len("class"), *map(len, names))
    total = max(int(np.sum(counts)), 1)
    head = f"{'class':<{width}}{'instances':>11}{'share':>8}{'images':>9}{'weight':>9}{'repeat':>9}{'per epoch':>11}"
    lines = [head]
    for c, name in enumerate(names):
        weight = "-" if weights is None else f"{weights.values[c]:.4g}"
        factor = "-" if factors is None else f"{factors.classes[c]:.4g}"
        share = f"{100 * counts[c] / total:.1f}%"
        lines.append(f"{name:<{width}}{counts[c]:>11}{share:>8}{images[c]:>9}{weight:>9}{factor:>9}{drawn[c]:>11.0f}")
    return "\n".join(lines)


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
