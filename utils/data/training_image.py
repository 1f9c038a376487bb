"""One image of the training set on its way into a sample: its labels now, its pixels when they are needed."""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from utils.rng import Stream, make_rng


class Load(Protocol):
    """Loads the pixels of an image."""

    def __call__(self, rows: int | None = None) -> np.ndarray:
        """Return (h, w, 3) BGR uint8, of which only the first ``rows`` are needed: those below may be missing."""


class TrainingImage(NamedTuple):
    """An image before it is placed on a canvas.

    Attributes:
        hw: height and width of the pixels that ``load`` returns.
        labels: (n, 5 or more) float32: class, cx, cy, w, h normalised; further columns are carried along.
        segments: n outlines (points, 2), normalised, or [] where labels are boxes.
        load: returns the pixels (h, w, 3) BGR uint8; they may belong to a cache and must not be changed.
        pasted: (n,) bool, which labels belong to objects that were pasted in.
    """

    hw: tuple[int, int]
    labels: np.ndarray
    segments: list[np.ndarray]
    load: Load
    pasted: np.ndarray


class SampleRandomness:
    """The random numbers of one sample; each use has a sequence of its own, so that none disturbs another.

    Args:
        seed: the run's seed.
        epoch: epoch number.
        position: the draw's position in the epoch's order.
        pool: the images from which partners are taken, () for all.
    """

    def __init__(self, seed: int, epoch: int, position: int, pool: tuple[int, ...] = ()):
        self._place = seed, epoch, position
        self.pool = pool

    @cached_property
    def sample(self) -> np.random.Generator:
        """Mosaic, warp, colour, flips and the light pixel effects."""
        return make_rng(*self._place)

    @cached_property
    def paste(self) -> np.random.Generator:
        """Rare objects pasted into images."""
        return make_rng(*self._place, Stream.PASTE)

    @cached_property
    def album(self) -> np.random.Generator:
        """The hyp file's Albumentations pipelines."""
        return make_rng(*self._place, Stream.ALBUM)

    @classmethod
    def unseeded(cls, sample: np.random.Generator | None = None) -> SampleRandomness:
        """Return fresh random numbers; ``sample`` is used for what it names."""
        randomness = cls(int(np.random.default_rng().integers(2**63)), 0, 0)
        if sample is not None:
            randomness.__dict__["sample"] = sample
        return randomness


def fit_to(im: np.ndarray, longest: int) -> np.ndarray:
    """Return an image (h, w, 3) with its longest side at ``longest`` pixels, itself where it is already."""
    h, w = im.shape[:2]
    if max(h, w) == longest:
        return im
    ratio = longest / max(h, w)
    size = min(math.ceil(w * ratio), longest), min(math.ceil(h * ratio), longest)
    return cv2.resize(im, size, interpolation=cv2.INTER_LINEAR)
