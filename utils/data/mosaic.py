"""Four images on one canvas, seen through a warp: only the pixels of the final view are computed.

The canvas itself is never built. Each tile is warped straight into its part of the output, and a tile that the view
does not show is not even loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from utils.augmentations import PAD_VALUE, Warp, warp_points
from utils.boxes import xyn2xy, xywhn2xyxy
from utils.data.training_image import TrainingImage

Rect = tuple[int, int, int, int]
_SUBPIXEL_BITS = 8


class Tile(NamedTuple):
    """A rectangle of an image and its place on the canvas.

    Attributes:
        canvas: (x1, y1, x2, y2) on the canvas.
        source: (x1, y1) of the same rectangle in the image.
    """

    canvas: Rect
    source: tuple[int, int]

    @property
    def offset(self) -> tuple[int, int]:
        """Return where the image's own corner would lie on the canvas, (x, y)."""
        return self.canvas[0] - self.source[0], self.canvas[1] - self.source[1]


def place_tiles(shapes: Sequence[tuple[int, int]], centre: tuple[int, int], size: int) -> list[Tile]:
    """Place four images around a point of a square canvas: top left, top right, bottom left, bottom right.

    Args:
        shapes: four (height, width).
        centre: (x, y) where the four meet.
        size: side of the canvas; what reaches beyond it is cut off.
    """
    cx, cy = centre
    tiles = []
    for k, (h, w) in enumerate(shapes):
        x1, x2 = (cx - w, cx) if k % 2 == 0 else (cx, cx + w)
        y1, y2 = (cy - h, cy) if k < 2 else (cy, cy + h)
        left, top = max(x1, 0), max(y1, 0)
        canvas = left, top, min(x2, size), min(y2, size)
        tiles.append(Tile(canvas, (left - x1, top - y1)))
    return tiles


def canvas_labels(
    images: Sequence[TrainingImage], tiles: Sequence[Tile], canvas: int, shifts: Sequence[tuple[float, float]] = ()
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the labels (n, 5) class, xyxy and outlines of all tiles in canvas pixels, clipped to the canvas.

    Columns behind the box are carried along.

    Args:
        images: of the tiles.
        tiles: their places.
        canvas: side of the canvas.
        shifts: canvas pixels (x, y) by which each tile lies beside its place.
    """
    places = [
        (image.hw[1], image.hw[0], tile.offset[0] + dx, tile.offset[1] + dy)
        for image, tile, (dx, dy) in zip(images, tiles, shifts or [(0.0, 0.0)] * len(tiles), strict=True)
    ]
    labels = np.concatenate([image.labels for image in images], 0)
    of_rows = np.repeat(np.array(places), [len(image.labels) for image in images], 0)
    labels[:, 1:5] = xywhn2xyxy(labels[:, 1:5], *of_rows.T)
    segments = [
        xyn2xy(outline, *place).clip(0, canvas)
        for image, place in zip(images, places, strict=True)
        for outline in image.segments
    ]
    np.clip(labels[:, 1:5], 0, canvas, out=labels[:, 1:5])
    return labels, segments


def render(out: np.ndarray, tiles: Sequence[Tile], load: Callable[[int], np.ndarray], matrix: np.ndarray) -> None:
    """Write the warped view of a canvas of tiles on grey.

    Args:
        out: (h, w, 3) uint8, overwritten.
        tiles: the tiles, which do not overlap.
        load: number of a tile → its image (h, w, 3) uint8; called for visible tiles only.
        matrix: (3, 3), canvas pixels to output pixels.
    """
    out.fill(PAD_VALUE)
    if matrix[2, 0] or matrix[2, 1]:
        _render_projective(out, tiles, load, matrix)
    elif matrix[0, 1] or matrix[1, 0] or matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
        _render_affine(out, tiles, load, matrix)
    else:
        _render_upright(out, tiles, load, matrix)


def paste_polygons(
    out: np.ndarray,
    tiles: Sequence[Tile],
    load: Callable[[int], np.ndarray],
    warp: Warp,
    polygons: Sequence[np.ndarray],
    size: int,
) -> None:
    """Write mirrored objects of the canvas over its warped view.

    Args:
        out: the view that ``render`` wrote.
        tiles: as given to ``render``.
        load: as given to ``render``.
        warp: the warp of the view.
        polygons: outlines (points, 2) of the objects on the canvas, before mirroring.
        size: side of the canvas.
    """
    mirror = np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]])
    mirrored = Warp(warp.matrix @ mirror, warp.scale)
    mask = np.zeros(out.shape[:2], np.uint8)
    for polygon in polygons:
        _fill(mask, warp_points(polygon.astype(np.int32), mirrored))
    x, y, w, h = cv2.boundingRect(mask)
    if not w:
        return
    view = np.empty((h, w, 3), np.uint8)
    render(view, tiles, load, _shift(-x, -y) @ mirrored.matrix)
    cv2.copyTo(view, mask[y : y + h, x : x + w], out[y : y + h, x : x + w])


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def _crop(tile: Tile, image: np.ndarray) -> np.ndarray:
    (x1, y1, x2, y2), (left, top) = tile
    return image[top : top + y2 - y1, left : left + x2 - x1]


def _span(low: int, high: int, scale: float, move: float, limit: int) -> tuple[int, int]:
    """Return the output pixels whose canvas coordinate is nearest to low … high-1, as a half-open range."""
    first, last = (int(np.ceil(scale * (edge - 0.5) + move)) for edge in (low, high))
    return max(first, 0), min(last, limit)


def _render_upright(
    out: np.ndarray, tiles: Sequence[Tile], load: Callable[[int], np.ndarray], matrix: np.ndarray
) -> None:
    """Zoom and translation only: every tile fills a rectangle of the output, and the rectangles do not overlap."""
    (sx, _, tx), (_, sy, ty) = matrix[:2].tolist()
    for k, tile in enumerate(tiles):
        x1, y1, x2, y2 = tile.canvas
        left, right = _span(x1, x2, sx, tx, out.shape[1])
        top, bottom = _span(y1, y2, sy, ty, out.shape[0])
        if x1 >= x2 or y1 >= y2 or left >= right or top >= bottom:
            continue
        local = np.array([[sx, 0, sx * x1 + tx - left], [0, sy, sy * y1 + ty - top]])
        cv2.warpAffine(
            _crop(tile, load(k)), local, (right - left, bottom - top), dst=out[top:bottom, left:right],
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip


def _render_affine(
    out: np.ndarray, tiles: Sequence[Tile], load: Callable[[int], np.ndarray], matrix: np.ndarray
) -> None:
    """Rotation, shear or mirroring: every tile fills a parallelogram; where two meet, the later one wins the seam."""
    warp = Warp(matrix, 1.0)
    for k, tile in enumerate(tiles):
        x1, y1, x2, y2 = tile.canvas
        if x1 >= x2 or y1 >= y2:
            continue
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) - 0.5
        outline = warp_points(corners, warp)
        left, top = np.floor(outline.min(0)).astype(int).clip(0).tolist()
        right, bottom = (np.ceil(outline.max(0)).astype(int) + 1).clip(None, out.shape[1::-1]).tolist()
        if left >= right or top >= bottom:
            continue
        mask = np.zeros((bottom - top, right - left), np.uint8)
        _fill(mask, outline - (left, top))
        if not mask.any():
            continue
        local = (_shift(-left, -top) @ matrix @ _shift(x1, y1))[:2]
        pixels = cv2.warpAffine(
            _crop(tile, load(k)), local, (right - left, bottom - top), flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        cv2.copyTo(pixels, mask, out[top:bottom, left:right])


def _render_projective(
    out: np.ndarray, tiles: Sequence[Tile], load: Callable[[int], np.ndarray], matrix: np.ndarray
) -> None:
    """Perspective: each output pixel is looked up on the canvas, so that points behind the horizon do no harm."""
    h, w = out.shape[:2]
    inverse = np.linalg.inv(matrix)
    columns, rows = np.arange(w), np.arange(h)[:, None]
    depth = inverse[2, 0] * columns + (inverse[2, 1] * rows + inverse[2, 2])
    depth[depth == 0] = np.inf
    x = (inverse[0, 0] * columns + (inverse[0, 1] * rows + inverse[0, 2])) / depth
    y = (inverse[1, 0] * columns + (inverse[1, 1] * rows + inverse[1, 2])) / depth
    for k, tile in enumerate(tiles):
        x1, y1, x2, y2 = tile.canvas
        mask = ((x >= x1 - 0.5) & (x < x2 - 0.5) & (y >= y1 - 0.5) & (y < y2 - 0.5)).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        local = _shift(-left, -top) @ matrix @ _shift(x1, y1)
        pixels = cv2.warpPerspective(
            _crop(tile, load(k)), local, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        part = slice(top, top + height), slice(left, left + width)
        cv2.copyTo(pixels, np.ascontiguousarray(mask[part]), out[part])


def _fill(mask: np.ndarray, polygon: np.ndarray) -> None:
    """Set the pixels of a polygon (n, 2), its outline included, to 1."""
    points = np.round(np.clip(polygon, -1e5, 1e5) * 2**_SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(mask, [points], 1, lineType=cv2.LINE_8, shift=_SUBPIXEL_BITS)
