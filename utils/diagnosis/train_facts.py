"""What the training set tells about its classes: how many boxes and images each has, and beside which others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from utils.balance.image_weights import image_repeat_factors
from utils.balance.label_counts import class_counts, classes_held
from utils.data.flat_rows import row_counts


@dataclass(frozen=True)
class TrainFacts:
    """Labels of the training images: per image an array (n, 5) class, cx, cy, w, h.

    Attributes:
        labels: per image.
        nc: classes.
    """

    labels: Sequence[np.ndarray]
    nc: int

    @cached_property
    def boxes(self) -> np.ndarray:
        """Boxes of each class, int64 (nc,)."""
        return class_counts(self.labels, self.nc)

    @cached_property
    def repeat(self) -> np.ndarray:
        """How often ``sampler: repeat_factor`` with ``sampler_t: auto`` would draw each class's images, (nc,)."""
        return image_repeat_factors(self.labels, self.nc, "auto", "max").classes

    @cached_property
    def held(self) -> np.ndarray:
        """Which image holds which class, bool (images, nc)."""
        held = np.zeros((len(self.labels), self.nc), bool)
        held[classes_held(self.labels, self.nc)] = True
        return held

    @property
    def background(self) -> int:
        """Number of images without objects."""
        return int((row_counts(self.labels) == 0).sum())

    def image_share(self, c: int) -> float:
        """Return the share of images that hold class ``c``."""
        return float(self.held[:, c].mean()) if len(self.labels) else 0.0

    def together(self, c: int, other: int) -> float | None:
        """Return the share of the images with class ``c`` that also hold ``other``; None without such images."""
        own = self.held[:, c]
        return float(self.held[own, other].mean()) if own.any() else None

    @property
    def median_boxes(self) -> float:
        """Boxes of the median class among those that have any."""
        present = self.boxes[self.boxes > 0]
        return float(np.median(present)) if len(present) else 0.0
