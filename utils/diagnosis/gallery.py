"""Crops for the report: which errors and findings are shown, cut from their images, with the boxes that lie in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.diagnosis.data import GroundTruth
from utils.diagnosis.operating import (
    BADLY_LOCATED,
    GT_STATES,
    LOCATION,
    MISCLASSIFIED,
    MISSED,
    PRED_TYPES,
    RIGHT,
    OperatingResult,
)
from utils.logs import LOGGER

if TYPE_CHECKING:
    from utils.diagnosis.audit import Finding

LONGEST_SIDE = 320  # pixels of a crop
MARGIN = 0.2  # of the boxes' size, on each side
LEAST_SIDE = 48  # pixels of the image, so that a tiny object keeps some of its surroundings
JPEG_QUALITY = 80
MOST_NEIGHBOURS = 12  # other labelled objects drawn in a crop
LARGEST_PAGE = 20 * 1024 * 1024  # bytes; crops beyond are files
RESERVED = 2 * 1024 * 1024  # of these, for everything but crops
BASE64_GROWTH = 4 / 3

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Limits:
    """How many crops are shown: of each confused pair, of each other type of error, of each audit code, in all.

    ``total`` None sets no limit.
    """

    per_pair: int = 16
    per_type: int = 40
    per_code: int = 24
    total: int | None = 500


@dataclass(frozen=True)
class Crop:
    """One picture of the report. Boxes are in pixels of the crop, x1, y1, x2, y2; class numbers are -1 for none.

    group: "errors" or "labels". kind: a type of error (utils.diagnosis.operating) or an audit code. image: the file.
    line: row of the label file, 0 for none. truth, found: the label's and the prediction's box. others: labels beside.
    window: the part of the image that is shown, in its pixels. native: the box that the crop is about, in pixels of the
    image: the prediction's, else the label's. jpeg: b"" when the crop lies in a file, ``link``.
    """

    group: str
    kind: str
    image: str
    true: int = -1
    predicted: int = -1
    conf: float | None = None
    iou: float | None = None
    line: int = 0
    note: str = ""
    truth: Box | None = None
    found: Box | None = None
    others: tuple[Box, ...] = ()
    window: tuple[int, int, int, int] = (0, 0, 0, 0)
    native: Box | None = None
    size: tuple[int, int] = (0, 0)
    jpeg: bytes = b""
    link: str = ""


# Which crops ----------------------------------------------------------------------------------------------------------


def error_crops(gt: GroundTruth, result: OperatingResult, limits: Limits | None = None) -> list[Crop]:
    """Return the errors to show, without pixels: confused pairs first, the most frequent pair first.

    Within a pair or type the most confident come first; missed objects have no confidence and come largest first.

    Args:
        gt: the labelled objects.
        result: of the operating view.
        limits: how many.
    """
    limits = limits or Limits()
    pred = result.predictions
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for row in np.argsort(-pred.conf, kind="stable").tolist():
        code = int(result.pred_type[row])
        if code == MISCLASSIFIED:
            groups[code, int(pred.cls[row]), int(gt.cls[result.pred_target[row]])].append(row)
        elif code != RIGHT:
            groups[(code,)].append(row)
    order = sorted(groups, key=lambda key: (key[0] != MISCLASSIFIED, -len(groups[key]) if len(key) > 1 else key[0]))
    crops = [
        _of_prediction(gt, result, row)
        for key in order
        for row in groups[key][: limits.per_pair if len(key) > 1 else limits.per_type]
    ]
    sizes = (gt.boxes[:, 2:] - gt.boxes[:, :2]).clip(0).prod(1)
    shown = np.unique(result.pred_target[result.pred_type == LOCATION])  # their objects are in those crops already
    for state in (MISSED, BADLY_LOCATED):
        rows = np.setdiff1d(np.flatnonzero(result.gt_state == state), shown)
        rows = rows[np.argsort(-sizes[rows], kind="stable")][: limits.per_type]
        crops += [_of_object(gt, result, row, GT_STATES[state]) for row in rows.tolist()]
    return crops[: limits.total]


def _of_prediction(gt: GroundTruth, result: OperatingResult, row: int) -> Crop:
    pred, target = result.predictions, int(result.pred_target[row])
    aims = target >= 0
    return Crop(
        "errors", PRED_TYPES[result.pred_type[row]], gt.images[pred.image[row]].path,
        int(gt.cls[target]) if aims else -1, int(pred.cls[row]), float(pred.conf[row]), float(result.pred_iou[row]),
        int(gt.line[target]) if aims else 0, truth=_box(gt.boxes[target]) if aims else None,
        found=_box(pred.boxes[row]), others=_neighbours(gt, int(pred.image[row]), target),
    )  # fmt: skip


def _of_object(gt: GroundTruth, result: OperatingResult, row: int, kind: str) -> Crop:
    """Return the crop of an object that was not found; of a badly located one with the best box that aims at it."""
    image = int(gt.image[row])
    aims = np.flatnonzero((result.pred_target == row) & (result.predictions.cls == gt.cls[row]))
    best = int(aims[result.pred_iou[aims].argmax()]) if kind == GT_STATES[BADLY_LOCATED] and len(aims) else None
    found: dict[str, Any] = {}
    if best is not None:
        pred = result.predictions
        found = {"predicted": int(pred.cls[best]), "conf": float(pred.conf[best]), "iou": float(result.pred_iou[best]),
                 "found": _box(pred.boxes[best])}  # fmt: skip
    return Crop(
        "errors", kind, gt.images[image].path, int(gt.cls[row]), line=int(gt.line[row]), truth=_box(gt.boxes[row]),
        others=_neighbours(gt, image, row), **found,
    )  # fmt: skip


def finding_crops(findings: Iterable[Finding], limits: Limits | None = None) -> list[Crop]:
    """Return the audit's findings that have a box and an image, without pixels, in their order."""
    limits = limits or Limits()
    shown: dict[str, int] = defaultdict(int)
    crops = []
    for finding in findings:
        if finding.box is None or not finding.image or shown[finding.code] >= limits.per_code:
            continue
        shown[finding.code] += 1
        box = {"found" if finding.code == "L20" else "truth": _box(finding.box)}
        cls = {"predicted" if finding.code == "L20" else "true": finding.cls}
        crops.append(
            Crop("labels", finding.code, finding.image, line=finding.line, note=finding.message, conf=finding.score,
                 **cls, **box)
        )  # fmt: skip
    return crops[: limits.total]


def _box(values: Sequence[float] | np.ndarray) -> Box:
    x1, y1, x2, y2 = (float(v) for v in values)
    return x1, y1, x2, y2


def _neighbours(gt: GroundTruth, image: int, but: int) -> tuple[Box, ...]:
    """Return the other labels' boxes of an image, the largest first."""
    rows = np.arange(len(gt))[gt.of_image(image)]
    return tuple(_box(gt.boxes[row]) for row in rows.tolist() if row != but)


# Their pixels ---------------------------------------------------------------------------------------------------------


def cut_crops(
    crops: Sequence[Crop], read: Callable[[str], np.ndarray] | None = None, sides: int = LONGEST_SIDE
) -> list[Crop]:
    """Return the crops with their pixels, in their order; those of unreadable images are left out, and named.

    Args:
        crops: from ``error_crops`` and ``finding_crops``.
        read: returns the pixels (h, w, 3) BGR of an image file; by default ``utils.images.imread``.
        sides: longest side of a crop in pixels.
    """
    from utils.errors import InputError
    from utils.images import imread

    read = read or imread
    places = defaultdict(list)
    for place, crop in enumerate(crops):
        places[crop.image].append(place)
    done: dict[int, Crop] = {}
    for image, members in places.items():
        try:
            pixels = read(image)
        except InputError as error:
            LOGGER.warning("WARNING no crops of %s", error)
            continue
        done |= {place: cut_crop(crops[place], pixels, sides) for place in members}
    return [done[place] for place in sorted(done)]


def cut_crop(crop: Crop, pixels: np.ndarray, sides: int = LONGEST_SIDE) -> Crop:
    """Return a crop with its JPEG, its boxes moved into it.

    Args:
        crop: with boxes in pixels of the image.
        pixels: (h, w, 3) BGR of the image.
        sides: longest side in pixels; larger windows are scaled down.
    """
    import cv2

    window = crop_window([box for box in (crop.truth, crop.found) if box], pixels.shape[1], pixels.shape[0])
    x1, y1, x2, y2 = window
    scale = min(sides / max(x2 - x1, y2 - y1), 1.0)
    size = max(round((x2 - x1) * scale), 1), max(round((y2 - y1) * scale), 1)
    part = np.ascontiguousarray(pixels[y1:y2, x1:x2])
    part = part if scale == 1 else cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])

    def moved(box: Box) -> Box:
        return (box[0] - x1) * scale, (box[1] - y1) * scale, (box[2] - x1) * scale, (box[3] - y1) * scale

    beside = [box for box in crop.others if box[0] < x2 and box[2] > x1 and box[1] < y2 and box[3] > y1]
    return replace(
        crop, window=window, native=crop.found or crop.truth, size=size, jpeg=jpeg.tobytes(),
        truth=moved(crop.truth) if crop.truth else None,
        found=moved(crop.found) if crop.found else None, others=tuple(map(moved, beside[:MOST_NEIGHBOURS])),
    )  # fmt: skip


def crop_window(boxes: Sequence[Box], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the part of an image (whole pixels, x1, y1, x2, y2) that shows the boxes with a margin: square, unless
    the image ends before.

    Args:
        boxes: at least one, in pixels of the image; they may reach over its edge.
        width, height: of the image.
    """
    low, high = np.min([b[:2] for b in boxes], 0), np.max([b[2:] for b in boxes], 0)
    low, high = np.clip(low, 0, (width, height)), np.clip(high, 0, (width, height))
    wanted = np.maximum((high - low) * (1 + 2 * MARGIN), LEAST_SIDE)
    wanted = np.full(2, wanted.max())  # square, so that crops of one page look alike
    half = wanted / 2
    centre = np.clip((low + high) / 2, np.minimum(half, (width / 2, height / 2)),
                     np.maximum((width, height) - half, (width / 2, height / 2)))  # fmt: skip
    first = np.floor(np.clip(centre - half, 0, (width - 1, height - 1))).astype(int)
    last = np.ceil(np.minimum(centre + half, (width, height))).astype(int)
    last = np.maximum(last, first + 1)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])


def place_crops(crops: Sequence[Crop], folder: Path, largest: int = LARGEST_PAGE) -> list[Crop]:
    """Return the crops, those that the page has no room for as files in ``folder/crops``.

    Args:
        crops: with their pixels.
        folder: of the page.
        largest: bytes of the page.
    """
    left = largest - RESERVED
    placed = []
    for number, crop in enumerate(crops):
        left -= int(len(crop.jpeg) * BASE64_GROWTH)
        if left >= 0:
            placed.append(crop)
            continue
        path = folder / "crops" / f"{number:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(crop.jpeg)
        placed.append(replace(crop, jpeg=b"", link=f"crops/{path.name}"))
    return placed
