"""Upright views of tiles by resizing, which takes a fifth of a warp's time.

Resizing zooms exactly but begins at whole pixels, of the image and of the view, so a tile lies up to half a pixel of
the view beside the place that the matrix gives it. The shift is known and its labels move along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.data.finish import Finish, buffer
from utils.data.mosaic import PAD_VALUE, Tile

_MARGIN = 2  # source pixels beyond what the view shows, so that its edge is interpolated and not repeated


class Span(NamedTuple):
    """One axis of a tile's visible part.

    Attributes:
        source: first and last + 1 pixel of the image that is resized.
        place: where its first pixel comes to lie in the view, perhaps before its beginning.
        view: first and last + 1 pixel of the view that it fills.
        shift: canvas pixels by which it lies further than the matrix says, at most half a pixel of the view.
    """

    source: tuple[int, int]
    place: int
    view: tuple[int, int]
    shift: float


class Cut(NamedTuple):
    """The visible part of a tile; ``x`` and ``y`` are None where nothing of it shows."""

    x: Span | None
    y: Span | None

    @property
    def shift(self) -> tuple[float, float]:
        """Return canvas pixels (x, y) by which the tile and its labels lie beside their place."""
        return (0.0 if self.x is None else self.x.shift), (0.0 if self.y is None else self.y.shift)


def is_upright(matrix: np.ndarray) -> bool:
    """Say whether a matrix (3, 3) zooms and moves, but neither turns, shears, mirrors nor tilts."""
    (sx, bx, _), (by, sy, _), (px, py, _) = matrix.tolist()
    return not (bx or by or px or py) and sx > 0 and sy > 0


def cut_tiles(tiles: Sequence[Tile], matrix: np.ndarray, out_wh: tuple[int, int]) -> list[Cut]:
    """Return the visible part of each tile.

    Args:
        tiles: on the canvas; they do not overlap.
        matrix: (3, 3) upright, canvas pixels to output pixels.
        out_wh: width and height of the view.
    """
    (sx, _, tx), (_, sy, ty) = matrix[:2].tolist()
    cuts = []
    for (x1, y1, x2, y2), (left, top) in tiles:
        cuts.append(Cut(_span((x1, x2), left, sx, tx, out_wh[0]), _span((y1, y2), top, sy, ty, out_wh[1])))
    return cuts


class ZoomedTiles(NamedTuple):
    """The upright view of a canvas of tiles, not painted yet.

    Attributes:
        cuts: of the tiles, what shows.
        zoom: output pixels per canvas pixel, (x, y).
        load: (number of a tile, how many rows of it show) → its image (h, w, 3) uint8, or at least these rows; called
            for visible tiles only.
    """

    cuts: Sequence[Cut]
    zoom: tuple[float, float]
    load: Callable[[int, int], np.ndarray]

    @classmethod
    def of(
        cls, tiles: Sequence[Tile], matrix: np.ndarray, out_wh: tuple[int, int], load: Callable[[int, int], np.ndarray]
    ) -> ZoomedTiles:
        """Cut tiles for a view; arguments as of ``cut_tiles``."""
        return cls(cut_tiles(tiles, matrix, out_wh), (matrix[0, 0], matrix[1, 1]), load)

    @property
    def shifts(self) -> list[tuple[float, float]]:
        """Return for each tile canvas pixels (x, y) by which it and its labels lie beside their place."""
        return [cut.shift for cut in self.cuts]

    def render(self, out: np.ndarray) -> np.ndarray:
        """Write the view on grey into ``out`` (h, w, 3) BGR and return it."""
        out.fill(PAD_VALUE)
        self._write(out, lambda pixels: pixels, lambda pixels, place: np.copyto(place, pixels))
        return out

    def paint(self, out: np.ndarray, finish: Finish) -> None:
        """Write the finished view's RGB planes into ``out`` (3, h, w); ``finish`` has no effects.

        Colours are changed where there are fewer pixels, before tiles are enlarged or after they are made smaller, and
        the grey around them once. After making smaller this equals rendering and finishing the whole, but for the last
        digit, which OpenCV's conversion rounds differently at the end of a row.
        """
        view = buffer((*out.shape[1:], 3), "view")
        grey = np.full((1, 1, 3), PAD_VALUE, np.uint8)
        finish.colour(grey, grey)
        view.fill(grey.flat[0])  # grey stays grey, whatever its value becomes
        if self.zoom[0] * self.zoom[1] > 1:
            self._write(view, finish.coloured, lambda pixels, place: np.copyto(place, pixels))
        else:
            self._write(view, lambda pixels: pixels, finish.colour)
        finish.write(view, out)

    def _write(
        self, view: np.ndarray, before: Callable[[np.ndarray], np.ndarray], put: Callable[[np.ndarray, np.ndarray], Any]
    ) -> None:
        """Zoom each visible tile into its place.

        Args:
            view: (h, w, 3).
            before: visible part of a tile's image → pixels to be zoomed; the image itself must not be changed.
            put: (zoomed pixels, their place in the view) writes them.
        """
        for k, (x, y) in enumerate(self.cuts):
            if x is None or y is None:
                continue
            (left, right), (top, bottom) = x.view, y.view
            part = before(self.load(k, y.source[1])[slice(*y.source), slice(*x.source)])
            size = round(part.shape[0] * self.zoom[1]), round(part.shape[1] * self.zoom[0]), 3
            zoomed = cv2.resize(
                part, None, buffer(size, "zoom"), fx=self.zoom[0], fy=self.zoom[1], interpolation=cv2.INTER_LINEAR
            )
            first_row = min(top - y.place, zoomed.shape[0] - 1)
            first_column = min(left - x.place, zoomed.shape[1] - 1)
            shown = zoomed[first_row : bottom - y.place, first_column : right - x.place]
            missing = bottom - top - shown.shape[0], right - left - shown.shape[1]
            if any(missing):  # rounding may leave out the last row or column, or the only one that shows
                shown = cv2.copyMakeBorder(shown, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE)
            put(shown, view[top:bottom, left:right])


def _span(canvas: tuple[int, int], start: int, scale: float, move: float, limit: int) -> Span | None:
    """Return one axis of a tile's visible part, None where nothing shows.

    Args:
        canvas: first and last + 1 pixel on the canvas.
        start: the image's pixel at the first of them.
        scale, move: pixel i of the canvas lies at scale · i + move in the view.
        limit: size of the view.
    """
    low, high = canvas
    first, last = max(math.ceil(scale * (low - 0.5) + move), 0), min(math.ceil(scale * (high - 0.5) + move), limit)
    if low >= high or first >= last:
        return None
    # Resizing puts pixel i of a part that begins at a to scale·(i - a) + (scale - 1)/2 from the part's place.
    origin = scale * (low - start) + move - (scale - 1) / 2
    begin = min(max(math.floor((first - origin) / scale) - _MARGIN, start), start + high - low - 1)
    end = max(min(math.ceil((last - origin) / scale) + _MARGIN, start + high - low), begin + 1)
    exact = scale * begin + origin
    place = math.ceil(exact - 0.5)
    return Span((begin, end), place, (first, last), (place - exact) / scale)
