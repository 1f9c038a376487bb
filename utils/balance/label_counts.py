"""How many boxes and images each class has; labels are one array (n, 5) class, cx, cy, w, h per image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.data.flat_rows import flat_rows, row_counts

Labels = Sequence[np.ndarray]


def image_and_class(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Return the image number and the class of every box, two (boxes,) int64 arrays."""
    images = np.repeat(np.arange(len(labels)), row_counts(labels))
    return images, flat_rows(labels)[:, 0].astype(np.int64)


def classes_held(labels: Labels, nc: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image number and class, two (pairs,) int64 arrays, of every class that an image holds, once each."""
    images, classes = image_and_class(labels)
    pairs = np.sort(images * nc + classes)  # in order already but for the classes of an image
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    return pairs // nc, pairs % nc


def class_counts(labels: Labels, nc: int) -> np.ndarray:
    """Return the instances of every class, (nc,) int64."""
    return np.bincount(image_and_class(labels)[1], minlength=nc)


def image_counts(labels: Labels, nc: int) -> np.ndarray:
    """Return the images that hold each class, (nc,) int64."""
    return np.bincount(classes_held(labels, nc)[1], minlength=nc)


def drawn_counts(order: np.ndarray, labels: Labels, nc: int) -> np.ndarray:
    """Return the boxes per class of the images of an epoch, (nc,) int64, an image counting as often as it is drawn.

    Args:
        order: image numbers in the order of drawing.
        labels: per image.
        nc: classes.
    """
    times = np.bincount(order, minlength=len(labels))
    images, classes = image_and_class(labels)
    return np.bincount(np.repeat(classes, times[images]), minlength=nc)
