"""How often each training image is drawn: one pure function per sampler, labels in, weights per image out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from utils.balance.label_counts import Labels, class_counts, classes_held, image_and_class, image_counts
from utils.data.flat_rows import row_counts
from utils.hyperparameter_table import class_names

Names = Mapping[int, str] | Iterable[str]
REPLACING = "image_weights"  # the sampler whose draws are independent and whose weights follow the mAP


@dataclasses.dataclass(frozen=True)
class RepeatFactors:
    """Repeat factors of images and classes.

    images: (N,) float64, at least 1. classes: (nc,) float64, at least 1. threshold: share below which a class is
    repeated. images_with: (nc,) images that hold the class.
    """

    images: np.ndarray
    classes: np.ndarray
    threshold: float
    images_with: np.ndarray


@dataclasses.dataclass(frozen=True)
class SamplerWeights:
    """What a sampler draws by.

    scheme: the sampler's name. images: (N,) float64 from 0, the weight of each image; repeat factors, or on average 1
    (image_weights: any scale). classes: (nc,) float64, the class's repeat factor, or how much more often than in plain
    shuffling its boxes are drawn. settings: what the settings resolved to, for the log.
    """

    scheme: str
    images: np.ndarray
    classes: np.ndarray
    settings: str = ""

    @property
    def follows_maps(self) -> bool:
        """Whether the weights change with the mAP of the last validation."""
        return self.scheme == REPLACING

    def summary(self, names: Names) -> str:
        """Return one line for the run log."""
        changed = np.abs(self.classes - 1) > 5e-5
        named = zip(class_names(names), self.classes, changed, strict=True)
        text = ", ".join(f"{name} {factor:.4g}" for name, factor, shown in named if shown) or "every class 1"
        return f"sampler: {self.scheme}{self.settings}, times drawn: {text}"


def sampler_weights(
    hyp: Mapping[str, Any], labels: Labels, nc: int, maps: np.ndarray | None = None
) -> SamplerWeights | None:
    """Return what the hyperparameters' ``sampler`` draws by, None when it is off.

    Args:
        hyp: hyperparameters (``sampler`` and its companions).
        labels: per image.
        nc: classes.
        maps: (nc,) mAP50-95 of the last validation, for image_weights; None before the first.
    """
    scheme = hyp.get("sampler")
    if scheme in (None, "none"):
        return None
    if scheme in ("repeat_factor", "instance_repeat_factor"):
        reduce = hyp.get("sampler_reduce") or "max"
        factors = image_repeat_factors(
            labels, nc, hyp.get("sampler_t", "auto"), reduce, by_instances=scheme == "instance_repeat_factor"
        )
        settings = f", t {factors.threshold:.4g}, {reduce} over an image's classes"
        return SamplerWeights(scheme, factors.images, factors.classes, settings + _length_text(hyp))
    if scheme == REPLACING:
        background = hyp.get("sampler_bg") or 0.0
        images = map_weights(labels, nc, np.zeros(nc) if maps is None else maps, background)
        settings = f", with replacement, by 1/instances and (1 - mAP)², images without labels {background:g}"
    else:
        count = hyp.get("sampler_count") or "instances"
        shares = class_balanced(labels, nc) if scheme == "class_balanced" else square_root(labels, nc, count)
        images = shares * len(labels)
        settings = (f", by {count}" if scheme == "sqrt" else "") + _length_text(hyp)
    return SamplerWeights(scheme, images, drawing_factors(images, labels, nc), settings)


def repeat_factors(hyp: Mapping[str, Any], labels: Labels, nc: int) -> RepeatFactors:
    """Return the repeat factors by the hyperparameters' ``sampler_t`` and ``sampler_reduce``, whatever the sampler."""
    return image_repeat_factors(labels, nc, hyp.get("sampler_t", "auto"), hyp.get("sampler_reduce") or "max")


def image_repeat_factors(
    labels: Labels, nc: int, threshold: float | str = "auto", reduce: str = "max", *, by_instances: bool = False
) -> RepeatFactors:
    """Return repeat factors.

    1. f_c, the share of images that hold class c (Gupta et al., LVIS, https://arxiv.org/abs/1908.03195, section 4), or
    the geometric mean of that and the class's share of the instances (https://arxiv.org/abs/2305.08069).
    2. r_c = max(1, √(t/f_c)), 1 for a class without images. 3. per image the largest (or the mean) r_c of its classes,
    1 without labels.

    Args:
        labels: per image.
        nc: classes.
        threshold: t above 0, or "auto": the median f_c of the classes that occur.
        reduce: "max" or "mean".
        by_instances: take instances into account.
    """
    held_in, held = classes_held(labels, nc)
    images_with = np.bincount(held, minlength=nc)
    share = images_with / max(len(labels), 1)
    if by_instances:
        instances = class_counts(labels, nc)
        share = np.sqrt(share * instances / max(instances.sum(), 1))
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


def class_balanced(labels: Labels, nc: int) -> np.ndarray:
    """Return the share (N,) of each image when every class is as likely: p_i = Σ_{c in i} 1/(C·N_c).

    C counts the classes that occur, N_c the images with class c. Images without labels keep their share of the images.
    """
    present = image_counts(labels, nc) > 0
    return _shares(labels, nc, present / max(present.sum(), 1))


def square_root(labels: Labels, nc: int, count: str = "instances") -> np.ndarray:
    """Return the share (N,) of each image when a class is as likely as the root of its count: p_i = Σ_{c in i} q_c/N_c.

    Args:
        labels: per image.
        nc: classes.
        count: what q_c ∝ √n_c counts, "instances" or "images".
    """
    roots = np.sqrt(class_counts(labels, nc) if count == "instances" else image_counts(labels, nc))
    return _shares(labels, nc, roots / max(roots.sum(), 1e-12))


def map_weights(labels: Labels, nc: int, maps: np.ndarray, background: float = 0.0) -> np.ndarray:
    """Return upstream's weight (N,) of each image: Σ_c w_c·count_ic, w_c = (1/n_c)/Σ(1/n) · (1 − mAP_c)².

    Args:
        labels: per image.
        nc: classes.
        maps: (nc,) mAP, 0 to 1.
        background: how often an image without labels is drawn, in units of plain shuffling; 0 never, as upstream.

    Where no class is left to improve, all images weigh the same.
    """
    inverse = 1.0 / np.maximum(class_counts(labels, nc), 1)
    by_class = inverse / inverse.sum() * (1.0 - np.asarray(maps, dtype=np.float64)) ** 2
    images, classes = image_and_class(labels)
    weights = np.bincount(images, weights=by_class[classes], minlength=len(labels))
    if not weights.any():
        return np.ones(len(labels))
    empty = row_counts(labels) == 0
    part = min(background * empty.mean(), 1 - 1 / len(labels))  # of all draws
    if part > 0:
        weights[empty] = weights.sum() * part / (1 - part) / empty.sum()
    return weights


def expected_instances(images: np.ndarray, labels: Labels, nc: int, *, expand: bool = False) -> np.ndarray:
    """Return (nc,): the boxes per class in an epoch of draws by ``images`` (N,), on average.

    An epoch is as many draws as there are images, with ``expand`` each image as often as its weight says.
    """
    share = images if expand else images / images.sum() * len(labels)
    numbers, classes = image_and_class(labels)
    return np.bincount(classes, weights=share[numbers], minlength=nc)


def drawing_factors(images: np.ndarray, labels: Labels, nc: int) -> np.ndarray:
    """Return (nc,): how many times as often as in plain shuffling a box of each class is drawn, 1 without boxes."""
    counts = class_counts(labels, nc)
    return np.where(counts > 0, expected_instances(images, labels, nc) / np.maximum(counts, 1), 1.0)


def _shares(labels: Labels, nc: int, by_class: np.ndarray) -> np.ndarray:
    """Share each class's part (nc,) among its images; images without labels keep 1/N each, the others the rest."""
    held_in, held = classes_held(labels, nc)
    images_with = np.bincount(held, minlength=nc)
    n = len(labels)
    shares = np.bincount(held_in, weights=by_class[held] / images_with[held], minlength=n)
    empty = np.ones(n, dtype=bool)
    empty[held_in] = False
    return np.where(empty, 1.0 / n, shares * (1.0 - empty.mean()))


def _length_text(hyp: Mapping[str, Any]) -> str:
    return f", length {hyp.get('sampler_len') or 'fixed'}"
