"""Outlines drawn as masks, one by one or all in one map of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

MOST_OF_A_BYTE = 255  # objects that an 8-bit map of numbers tells apart


def polygon2mask(
    img_size: Sequence[int], polygons: np.ndarray | Sequence[np.ndarray], color: int = 1, downsample_ratio: int = 1
) -> np.ndarray:
    """Draw polygons as one mask.

    Args:
        img_size: (height, width) of the image.
        polygons: (n, 2 points) x, y, x, y ... in pixels of the image.
        color: value of their pixels.
        downsample_ratio: the mask is smaller than the image by this factor.

    Returns:
        (height / ratio, width / ratio) uint8.
    """
    mask = np.zeros(tuple(img_size[:2]), np.uint8)
    points = np.floor(np.clip(np.asarray(polygons, dtype=np.float64), -1e5, 1e5)).astype(np.int32)  # pixels they lie in
    cv2.fillPoly(mask, points.reshape(len(points), -1, 2), color=color)
    height, width = mask.shape[0] // downsample_ratio, mask.shape[1] // downsample_ratio
    return mask if downsample_ratio == 1 else cv2.resize(mask, (width, height))


def polygons2masks(
    img_size: Sequence[int], polygons: Sequence[np.ndarray], color: int, downsample_ratio: int = 1
) -> np.ndarray:
    """Draw n polygons (points, 2) as n masks (n, height / ratio, width / ratio) uint8; as ``polygon2mask``."""
    if not len(polygons):
        height, width = (int(side) // downsample_ratio for side in img_size[:2])
        return np.zeros((0, height, width), np.uint8)
    return np.stack([polygon2mask(img_size, [p.reshape(-1)], color, downsample_ratio) for p in polygons])


def polygons2masks_overlap(
    img_size: Sequence[int], segments: Sequence[np.ndarray], downsample_ratio: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Draw n polygons (points, 2) into one map, the larger first, so that smaller ones lie on top.

    Returns:
        (height / ratio, width / ratio) map: 0, or 1 + the place of the object in the order; and that order (n,), object
        numbers by falling area.
    """
    masks = polygons2masks(img_size, segments, 1, downsample_ratio)
    order = np.argsort(-masks.sum((1, 2), dtype=np.int64), kind="stable")
    numbers = np.zeros(masks.shape[1:], np.uint8 if len(masks) <= MOST_OF_A_BYTE else np.int32)
    for place, i in enumerate(order, 1):
        numbers[masks[i] > 0] = place
    return numbers, order
