"""Labels on their way from a file's fractions to an image's pixels and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.augmentations import LetterboxFit
from utils.boxes import xywhn2xyxy, xyxy2xywhn


def letterboxed_labels(labels: np.ndarray, hw: tuple[int, int], fit: LetterboxFit) -> np.ndarray:
    """Return labels (n, 5) class, normalised xywh of an image as class, xyxy in pixels of its letterbox."""
    rows = labels.copy()
    rows[:, 1:5] = xywhn2xyxy(rows[:, 1:5], fit.ratio[0] * hw[1], fit.ratio[1] * hw[0], *fit.pad)
    return rows


def normalised_labels(labels: np.ndarray, w: int, h: int) -> np.ndarray:
    """Turn labels (n, 5) class, xyxy in pixels into class, normalised xywh, clipped to the image."""
    if len(labels):
        labels[:, 1:5] = xyxy2xywhn(labels[:, 1:5], w=w, h=h, clip=True, eps=1e-3)
    return labels


def flip_outlines(outlines: Sequence[np.ndarray], shape: Sequence[int], upside_down: bool, mirror: bool) -> None:
    """Flip outlines (points, 2) along with an image of ``shape`` (height, width, ...), in place."""
    for points in outlines:
        if mirror:
            points[:, 0] = shape[1] - points[:, 0]
        if upside_down:
            points[:, 1] = shape[0] - points[:, 1]


def shapes_of(hw0: tuple[int, int], hw: tuple[int, int], pad: tuple[float, float]) -> Any:
    """Return a sample's shapes: (h0, w0), ((h / h0, w / w0), (pad_w, pad_h))."""
    return hw0, ((hw[0] / hw0[0], hw[1] / hw0[1]), pad)
