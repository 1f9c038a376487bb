"""A diagnosis in TensorBoard: counts and costs of each type of error, and pictures of the most confused pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.diagnosis.gallery import Box, Crop

if TYPE_CHECKING:
    from utils.loggers.tensorboard_log import TensorBoardLog

CELL, GAP, COLUMNS, ROWS = 200, 4, 4, 2  # pixels of a picture's cells and between them
TOP_PAIRS = 5
GREEN, RED, DARK, GROUND = (80, 161, 18), (59, 56, 229), (30, 30, 30), 245  # BGR
DASH = 7  # pixels


def log_diagnosis(log: TensorBoardLog, summary: Mapping[str, Any], crops: Sequence[Crop], step: int) -> None:
    """Write ``errors/<type>/count``, ``errors/<type>/delta_map50``, counts at the operating point, and pictures.

    Args:
        log: of the run; without a writer nothing happens.
        summary: with the part "errors".
        crops: with pixels, from ``gallery.cut_crops``.
        step: the epoch.
    """
    errors = summary.get("errors")
    if not errors or log.writer is None:
        return
    log.scalars(error_scalars(errors), step)
    from utils.loggers.run_logger import class_tags

    names = {int(c): name for c, name in summary["data"]["names"].items()}
    tags = class_tags(names)
    for (true, predicted), members in top_pairs(crops).items():
        log.pixels(f"confusions/{tags[true]}_taken_for_{tags[predicted]}", draw_grid(members), step)


def error_scalars(errors: Mapping[str, Any]) -> dict[str, float]:
    """Return tag -> value of the numbers that are followed over epochs."""
    tide, counts = errors["tide"], errors["operating"]["counts"]
    scalars = {f"errors/{kind}/count": tide["counts"][kind] for kind in tide["delta"]}
    scalars |= {f"errors/{kind}/delta_map50": value for kind, value in tide["delta"].items()}
    scalars |= {f"errors/{kind}/delta_map50": value for kind, value in tide["special"].items()}
    scalars |= {f"operating/{name.replace(' ', '_')}": count for name, count in counts.items()}
    if not isinstance(errors["conf"], (list, tuple)):
        scalars["operating/confidence"] = errors["conf"]
    return {tag: float(value) for tag, value in scalars.items() if value is not None}


def top_pairs(crops: Sequence[Crop], most: int = TOP_PAIRS) -> dict[tuple[int, int], list[Crop]]:
    """Return (true, predicted) -> crops of the most frequent confusions, in the crops' order."""
    pairs: dict[tuple[int, int], list[Crop]] = {}
    for crop in crops:
        if crop.kind == "misclassified" and crop.jpeg:
            pairs.setdefault((crop.true, crop.predicted), []).append(crop)
    return dict(list(pairs.items())[:most])


def draw_grid(crops: Sequence[Crop]) -> np.ndarray:
    """Return crops side by side with their boxes, (h, w, 3) BGR: labels green and solid, predictions red and dashed."""
    shown = list(crops[: COLUMNS * ROWS])
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // COLUMNS)
    grid = np.full((rows * (CELL + GAP) + GAP, columns * (CELL + GAP) + GAP, 3), GROUND, np.uint8)
    for place, crop in enumerate(shown):
        row, column = divmod(place, COLUMNS)
        top, left = GAP + row * (CELL + GAP), GAP + column * (CELL + GAP)
        grid[top : top + CELL, left : left + CELL] = _cell(crop)
    return grid


def _cell(crop: Crop) -> np.ndarray:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(crop.jpeg, np.uint8), cv2.IMREAD_COLOR)
    scale = CELL / max(pixels.shape[:2])
    size = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    cell = np.full((CELL, CELL, 3), DARK, np.uint8)
    x, y = (CELL - size[0]) // 2, (CELL - size[1]) // 2
    cell[y : y + size[1], x : x + size[0]] = small
    if crop.truth:
        first, last = _corners(crop.truth, scale, x, y)
        cv2.rectangle(cell, first, last, GREEN, 2)
    if crop.found:
        _dashed(cell, *_corners(crop.found, scale, x, y))
    if crop.conf is not None:
        cv2.putText(cell, f"{crop.conf:.2f}", (4, CELL - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, DARK, 3, cv2.LINE_AA)
        cv2.putText(cell, f"{crop.conf:.2f}", (4, CELL - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,) * 3, 1, cv2.LINE_AA)
    return cell


def _corners(box: Box, scale: float, x: int, y: int) -> tuple[tuple[int, int], tuple[int, int]]:
    x1, y1, x2, y2 = (round(v * scale) for v in box)
    return (x1 + x, y1 + y), (x2 + x, y2 + y)


def _dashed(image: np.ndarray, first: tuple[int, int], last: tuple[int, int]) -> None:
    """Draw a dashed rectangle in place."""
    import cv2

    (x1, y1), (x2, y2) = first, last
    for start in range(x1, x2, 2 * DASH):
        for y in (y1, y2):
            cv2.line(image, (start, y), (min(start + DASH, x2), y), RED, 2)
    for start in range(y1, y2, 2 * DASH):
        for x in (x1, x2):
            cv2.line(image, (x, start), (x, min(start + DASH, y2)), RED, 2)
