"""Let a pasted object run into its new surroundings: soft masks, light and tint."""

from __future__ import annotations

import math

import cv2
import numpy as np

FEATHER = 3  # pixels over which a box crop fades out
_MATCH = 0.5  # how far the crop's light is drawn to its new place: 0 not at all, 1 fully
_GAIN_LIMITS = 0.75, 1.33
_TINT_REACH = 0.5  # of a box crop's shorter side
_TINT_SIDE = 96  # pixels of the longer side at which the tint of large crops is worked out
_LIKENESS = 25.0  # levels of 255 by which the background of a crop may differ from what surrounds it
_FINENESS = 4  # outlines are drawn on pixels of a quarter

Rect = tuple[int, int, int, int]


def feathered(rect: Rect, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask (h, w) float32: 1 inside ``rect`` (x1, y1, x2, y2), fading to 0 over the 3 pixels around it."""
    x1, y1, x2, y2 = rect
    columns, rows = np.arange(shape[1]), np.arange(shape[0])
    along_x = 1 - np.maximum(np.maximum(x1 - columns, columns - x2 + 1), 0) / (FEATHER + 1)
    along_y = 1 - np.maximum(np.maximum(y1 - rows, rows - y2 + 1), 0) / (FEATHER + 1)
    return np.outer(along_y.clip(0), along_x.clip(0)).astype(np.float32)


def outline_mask(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask (h, w) float32 of an outline (n, 2), pixel edges at whole numbers, with a soft border."""
    h, w = shape
    fine = np.zeros((h * _FINENESS, w * _FINENESS), np.uint8)
    cv2.fillPoly(fine, [np.round(points * _FINENESS - 0.5).astype(np.int32)], 255)
    mask = cv2.resize(fine, (w, h), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(mask, (3, 3), 0).astype(np.float32) / 255


def light_gain(pixels: np.ndarray, ground: np.ndarray, rect: Rect) -> np.ndarray:
    """Return factors (3,) that draw a crop's light and tint halfway to those of its new surroundings.

    Compared are the few pixels around the object, there and here, so that the object's own colour plays no part.

    Args:
        pixels: (h, w, 3) uint8, the object with some ground around it.
        ground: (h, w, 3) uint8, what it is going to cover.
        rect: the object within both, x1, y1, x2, y2.
    """
    ring = around(rect, pixels.shape[:2])
    if not ring.any():
        return np.ones(3, np.float32)
    there, here = (np.array(cv2.mean(im, mask=ring)[:3]) + 8 for im in (pixels, ground))
    return np.clip((here / there) ** _MATCH, *_GAIN_LIMITS).astype(np.float32)


def edge_tint(pixels: np.ndarray, ground: np.ndarray, rect: Rect) -> np.ndarray:
    """Return what to add to a box crop, (h, w, 3) float32, so that its background runs into its new surroundings.

    A box crop brings some of its old background, and a network could learn to look for that rectangle. The difference
    of the pixels just around the box, there and here, is smoothed along the edge and added in full at the edge, falling
    to nothing in the middle, to pixels that look like the old surroundings; the object keeps its colours. Large crops
    are worked on at a reduced size.

    Args:
        pixels: (h, w, 3) uint8 or float32, the object with some ground around it.
        ground: (h, w, 3) uint8, what it is going to cover.
        rect: the object within both, x1, y1, x2, y2.
    """
    h, w = pixels.shape[:2]
    scale = min(1.0, _TINT_SIDE / max(h, w))
    size = max(round(w * scale), 1), max(round(h * scale), 1)
    old, new, ring = (
        cv2.resize(im, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        for im in (pixels, ground, around(rect, (h, w)) * np.uint8(255))
    )
    ring = ring[..., None] / 255
    reach = max(min(rect[2] - rect[0], rect[3] - rect[1]) * _TINT_REACH * scale, 1.0)
    kernel = (2 * math.ceil(reach + FEATHER * scale) + 1,) * 2
    amount = np.maximum(cv2.blur(ring, kernel, borderType=cv2.BORDER_CONSTANT), 1e-6)[..., None]
    there = cv2.blur(old * ring, kernel, borderType=cv2.BORDER_CONSTANT) / amount
    here = cv2.blur(new * ring, kernel, borderType=cv2.BORDER_CONSTANT) / amount
    alike = cv2.blur(np.exp(np.square(old - there).mean(2) / (-2 * _LIKENESS**2)), (3, 3))
    fade = 1 - np.minimum(inside_depth(rect, (h, w), size), reach / scale) / (reach / scale)
    tint = (here - there) * (fade * alike)[..., None]
    return tint if scale == 1 else cv2.resize(tint, (w, h), interpolation=cv2.INTER_LINEAR)


def around(rect: Rect, shape: tuple[int, int]) -> np.ndarray:
    """Return a mask (h, w) uint8: 1 outside ``rect`` (x1, y1, x2, y2)."""
    mask = np.ones(shape, np.uint8)
    mask[rect[1] : rect[3], rect[0] : rect[2]] = 0
    return mask


def inside_depth(rect: Rect, shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return how far points lie inside ``rect`` (x1, y1, x2, y2), 0 outside; edges with nothing beyond do not count.

    Args:
        rect: within an image of ``shape``.
        shape: height and width.
        size: width and height of the grid of points that is laid over the image, (height, width) of the result.
    """
    x1, y1, x2, y2 = rect
    h, w = shape
    columns = (np.arange(size[0], dtype=np.float32) + 0.5) * (w / size[0]) - 0.5
    rows = (np.arange(size[1], dtype=np.float32) + 0.5) * (h / size[1]) - 0.5
    far = np.float32(max(h, w))
    along_x = np.minimum(columns - x1 if x1 > 0 else far, x2 - 1 - columns if x2 < w else far)
    along_y = np.minimum(rows - y1 if y1 > 0 else far, y2 - 1 - rows if y2 < h else far)
    across, down = np.broadcast_to(along_x, size[0]), np.broadcast_to(along_y, size[1])
    return np.minimum(across[None], down[:, None]).clip(0).astype(np.float32)
