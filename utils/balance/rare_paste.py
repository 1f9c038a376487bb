"""Rare-class copy-paste: objects of classes found in few images, pasted into other images (after arXiv 2012.07177).

The bank holds no pixels, only which label of which image; crops come from the image store when they are drawn.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.boxes import bbox_ioa, xywhn2xyxy, xyxy2xywhn
from utils.data.blending import FEATHER, edge_tint, feathered, light_gain, outline_mask
from utils.data.flat_rows import flat_rows, row_counts
from utils.data.training_image import TrainingImage

LEAST_SIDE = 10  # pixels of the training image: smaller pastes are given up
TRIES = 10  # places tried for one object
RIDES_ALONG = 0.3  # another object joins a box crop, label and all, when more than this share of it is inside
_EDGE = 1.0  # pixels within which an object counts as cut off by its image's edge
_ROUNDING = 1e-2  # pixels by which float32 labels miss whole numbers
_CLASSES_SHOWN = 20
_CROP_CACHE_BYTES = 16 << 20

LoadImage = Callable[[int], np.ndarray]


class Cutout(NamedTuple):
    """One object of the bank.

    Attributes:
        image: number of its image.
        row: its label there.
        cls: its class.
        box: (4,) xyxy in pixels of its image.
        hw: height and width of its image.
        outline: (points, 2) in pixels, None where the label is a box.
    """

    image: int
    row: int
    cls: int
    box: np.ndarray
    hw: tuple[int, int]
    outline: np.ndarray | None

    @property
    def rect(self) -> tuple[int, int, int, int]:
        """Return the whole pixels that hold the box, x1, y1, x2, y2."""
        (x1, y1), (x2, y2) = np.floor(self.box[:2] + _ROUNDING), np.ceil(self.box[2:] - _ROUNDING)
        return int(x1), int(y1), int(x2), int(y2)


class Placement(NamedTuple):
    """Where an object goes: source pixel coordinates (x, y) become (ax·x + bx, ay·y + by), edges at whole numbers.

    Attributes:
        cutout: the object.
        ax, bx, ay, by: the map; negative factors mirror.
        rect: x1, y1, x2, y2 of the object's pixels in the new image.
    """

    cutout: Cutout
    ax: float
    bx: float
    ay: float
    by: float
    rect: tuple[int, int, int, int]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes (n, 4) xyxy of the source image, clipped to the pasted pixels."""
        x = np.sort(boxes[:, [0, 2]] * self.ax + self.bx, axis=1).clip(self.rect[0], self.rect[2])
        y = np.sort(boxes[:, [1, 3]] * self.ay + self.by, axis=1).clip(self.rect[1], self.rect[3])
        return np.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), 1)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Map points (n, 2) of the source image."""
        return points * (self.ax, self.ay) + (self.bx, self.by)


class RareBank:
    """Which objects may be pasted, and how often each class is drawn.

    Args:
        labels: N arrays (n, 5 or more): class, xywh normalised.
        segments: N lists of outlines, [] where the labels are boxes.
        hw: (N, 2) height and width of the images as the store returns them.
        factors: (nc,) repeat factors r_c; classes above 1 are in the bank and drawn in proportion to r_c - 1.
        least_side: objects with a shorter side, in pixels, can never be pasted and stay out, as do those that two
            opposite edges of their image cut off.

    Attributes:
        classes: (k,) class ids with objects in the bank.
        chances: (k,) their probabilities.
        found: (k,) labels of each class, in the bank or not.
        images, rows: (m,) where each object is, class after class.
    """

    def __init__(
        self,
        labels: Sequence[np.ndarray],
        segments: Sequence[Sequence[np.ndarray]],
        hw: np.ndarray,
        factors: np.ndarray,
        least_side: float = 0.0,
    ):
        self.labels, self.segments, self.hw = labels, segments, hw
        counts, flat = row_counts(labels), flat_rows(labels)
        images = np.repeat(np.arange(len(labels)), counts)
        rows = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
        classes = flat[:, 0].astype(np.int64)
        rare = np.asarray(factors)[classes] > 1
        usable = rare & _can_be_pasted(flat[:, 1:5], hw[images], least_side)
        order = np.flatnonzero(usable)
        order = order[np.argsort(classes[order], kind="stable")]
        self.images, self.rows = images[order].astype(np.int32), rows[order].astype(np.int32)
        self.classes, starts = np.unique(classes[order], return_index=True)
        self._edges = np.append(starts, len(order)).tolist()
        self.found = np.bincount(classes, minlength=len(factors))[self.classes]
        excess = np.asarray(factors, dtype=np.float64)[self.classes] - 1
        self.chances = excess / excess.sum() if len(excess) else excess
        self._cumulative = np.cumsum(self.chances)

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.images)

    def counts(self) -> list[int]:
        """Return the objects per class of ``classes``."""
        return np.diff(self._edges).tolist()

    def draw(self, rng: np.random.Generator) -> Cutout:
        """Return one object: the class in proportion to r_c - 1, the object uniformly within it."""
        k = min(int(np.searchsorted(self._cumulative, rng.random(), side="right")), len(self.classes) - 1)
        return self.cutout(int(rng.integers(self._edges[k], self._edges[k + 1])))

    def cutout(self, number: int) -> Cutout:
        """Return object ``number`` of the bank."""
        image, row = int(self.images[number]), int(self.rows[number])
        h, w = self.hw[image].tolist()
        label = self.labels[image][row].astype(np.float64)
        box = xywhn2xyxy(label[None, 1:5], w, h)[0].clip(0, (w, h, w, h))
        outlines = self.segments[image]
        outline = outlines[row] * np.array([w, h], np.float64) if len(outlines) == len(self.labels[image]) else None
        return Cutout(image, row, int(label[0]), box, (h, w), outline)

    def riders(self, cutout: Cutout) -> np.ndarray:
        """Return the labels that come with a box crop: its own first, then (n,) others mostly inside it."""
        if cutout.outline is not None:
            return np.array([cutout.row])
        h, w = cutout.hw
        boxes = xywhn2xyxy(self.labels[cutout.image][:, 1:5].astype(np.float64), w, h)
        inside = bbox_ioa(np.array(cutout.rect, np.float64), boxes) > RIDES_ALONG
        inside[cutout.row] = False
        return np.append(cutout.row, np.flatnonzero(inside))


def _can_be_pasted(xywhn: np.ndarray, hw: np.ndarray, least_side: float) -> np.ndarray:
    """Say which boxes (n, 4) of images of sizes (n, 2) are large enough and not cut off on opposite sides."""
    wh = hw[:, ::-1]
    low, high = (xywhn[:, :2] - xywhn[:, 2:] / 2) * wh, (xywhn[:, :2] + xywhn[:, 2:] / 2) * wh
    spanning = ((low <= _EDGE) & (high >= wh - _EDGE)).any(1)
    return ((high - low).min(1) >= least_side) & ~spanning


class RarePaste:
    """Pastes objects of a bank into images.

    Args:
        bank: the objects, at least one.
        hyp: ``rare_paste`` probability per image, ``rare_paste_max`` objects, ``rare_paste_scale`` range of zoom,
            ``rare_paste_ioa`` share of another object that may be covered, ``fliplr`` and ``flipud``.
        load: image number → pixels (h, w, 3) BGR as the bank's sizes say.
    """

    def __init__(self, bank: RareBank, hyp: Mapping[str, Any], load: LoadImage):
        self.bank = bank
        self.chance = float(hyp["rare_paste"])
        self.most = int(hyp.get("rare_paste_max", 3))
        self.scale = tuple(map(float, hyp.get("rare_paste_scale", (0.5, 1.5))))
        self.ioa = float(hyp.get("rare_paste_ioa", 0.3))
        self.flips = float(hyp.get("fliplr", 0.5)), float(hyp.get("flipud", 0.0))
        self._load = load
        self._crops: OrderedDict[tuple[int, int], tuple[np.ndarray, int, int]] = OrderedDict()
        self._crop_bytes = 0

    def __call__(self, image: TrainingImage, rng: np.random.Generator) -> TrainingImage:
        """Return the image with objects pasted in, or as it is; pixels are pasted when they are loaded."""
        if rng.random() >= self.chance:
            return image
        placements = self.choose(image, rng)
        if not placements:
            return image
        labels, segments = self._labels(image, placements)
        pasted = np.append(image.pasted, np.ones(len(labels) - len(image.labels), bool))

        def load(rows: int | None = None) -> np.ndarray:
            im = image.load().copy()
            for placement in placements:
                self._paste(im, placement)
            return im

        return TrainingImage(image.hw, labels, segments, load, pasted)

    # Labels ---------------------------------------------------------------------------------------------------------

    def choose(self, image: TrainingImage, rng: np.random.Generator) -> list[Placement]:
        """Draw up to ``rare_paste_max`` objects and a place for each that covers no other object too much."""
        h, w = image.hw
        boxes = xywhn2xyxy(image.labels[:, 1:5].astype(np.float64), w, h)
        chosen: list[Placement] = []
        for _ in range(int(rng.integers(1, self.most + 1))):
            cutout = self.bank.draw(rng)
            for _ in range(TRIES):
                placement = place(cutout, image.hw, self.scale, self.flips, rng)
                if placement and not (bbox_ioa(np.array(placement.rect, np.float64), boxes) > self.ioa).any():
                    chosen.append(placement)
                    boxes = np.concatenate((boxes, placement.boxes(cutout.box[None])))
                    break
        return chosen

    def _labels(self, image: TrainingImage, placements: list[Placement]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the image's labels and outlines with those of the placed objects added."""
        h, w = image.hw
        outlined = len(image.segments) == len(image.labels) and (
            len(image.labels) > 0 or all(p.cutout.outline is not None for p in placements)
        )
        added, outlines = [], list(image.segments)
        for placement in placements:
            source = self.bank.labels[placement.cutout.image][self.bank.riders(placement.cutout)].copy()
            source_h, source_w = placement.cutout.hw
            boxes = placement.boxes(xywhn2xyxy(source[:, 1:5].astype(np.float64), source_w, source_h))
            source[:, 1:5] = xyxy2xywhn(boxes, w, h)
            added.append(source)
            if outlined and placement.cutout.outline is not None:
                outlines.append((placement.points(placement.cutout.outline) / (w, h)).astype(np.float32))
            elif outlined:
                outlines += [_corners(box / (w, h, w, h)) for box in boxes]
        return np.concatenate([image.labels, *added]), outlines

    # Pixels ---------------------------------------------------------------------------------------------------------

    def _paste(self, im: np.ndarray, placement: Placement) -> None:
        """Draw an object into ``im`` (h, w, 3)."""
        h, w = im.shape[:2]
        x1, y1, x2, y2 = placement.rect
        left, top, right, bottom = (
            max(x1 - FEATHER, 0),
            max(y1 - FEATHER, 0),
            min(x2 + FEATHER, w),
            min(y2 + FEATHER, h),
        )
        region = im[top:bottom, left:right]
        crop, crop_x, crop_y = self._crop(placement.cutout)
        ax, bx, ay, by = placement.ax, placement.bx - left, placement.ay, placement.by - top
        matrix = np.array([  # centres of pixels lie at whole numbers for warpAffine, their edges for the placement
            [ax, 0, ax * (crop_x + 0.5) + bx - 0.5],
            [0, ay, ay * (crop_y + 0.5) + by - 0.5],
        ])  # fmt: skip
        old = cv2.warpAffine(
            crop, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        rect = x1 - left, y1 - top, x2 - left, y2 - top
        pixels = np.multiply(old, light_gain(old, region, rect), dtype=np.float32)
        if placement.cutout.outline is None:
            pixels += edge_tint(pixels, region, rect)
            mask = feathered(rect, region.shape[:2])
        else:
            mask = outline_mask(placement.points(placement.cutout.outline) - (left, top), region.shape[:2])
        ground = region.astype(np.float32)
        pixels -= ground
        pixels *= mask[..., None]
        pixels += ground
        np.copyto(region, cv2.convertScaleAbs(np.maximum(pixels, 0, out=pixels)))

    def _crop(self, cutout: Cutout) -> tuple[np.ndarray, int, int]:
        """Return the object's pixels with some ground around them, and the place of their corner, x and y."""
        key = cutout.image, cutout.row
        if key in self._crops:
            self._crops.move_to_end(key)
            return self._crops[key]
        margin = math.ceil(FEATHER / self.scale[0]) + 1
        x1, y1, x2, y2 = cutout.rect
        x, y = max(x1 - margin, 0), max(y1 - margin, 0)
        found = self._load(cutout.image)[y : y2 + margin, x : x2 + margin].copy(), x, y
        self._crops[key] = found
        self._crop_bytes += found[0].nbytes
        while self._crop_bytes > _CROP_CACHE_BYTES and len(self._crops) > 1:
            self._crop_bytes -= self._crops.popitem(last=False)[1][0].nbytes
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave the crops behind when the data set is sent to another process."""
        return {**self.__dict__, "_crops": OrderedDict(), "_crop_bytes": 0}

    def describe(self, names: Mapping[int, str]) -> str:
        """Return the settings and the bank as one line."""
        parts = zip(self.bank.classes.tolist(), self.bank.counts(), self.bank.found.tolist(), self.bank.chances,
                    strict=True)  # fmt: skip
        shown = [f"{names.get(c, c)} {share:.0%} ({count} of {all_})" for c, count, all_, share in parts]
        more = f" and {len(shown) - _CLASSES_SHOWN} more classes" if len(shown) > _CLASSES_SHOWN else ""
        bank = ", ".join(shown[:_CLASSES_SHOWN]) + more
        low, high = self.scale
        return f"rare_paste {self.chance:g}: 1-{self.most} objects at {low:g}-{high:g} of their size, from {bank}"


def place(
    cutout: Cutout,
    hw: tuple[int, int],
    scale: tuple[float, float],
    flips: tuple[float, float],
    rng: np.random.Generator,
) -> Placement | None:
    """Draw zoom, mirroring and a place wholly inside an image; None when the object is too small or too large there.

    A side that its own image cut off goes to that edge of the new one, so that no half object hangs in the middle.

    Args:
        cutout: the object.
        hw: height and width of the image it goes into.
        scale: range of the zoom.
        flips: probabilities of mirroring in x and in y.
        rng: source of the draws, always five.
    """
    zoom, mirror_x, mirror_y, across, down = rng.random(5)
    zoom = scale[0] + zoom * (scale[1] - scale[0])
    x1, y1, x2, y2 = cutout.rect
    box_w, box_h = (cutout.box[2:] - cutout.box[:2]) * zoom
    if min(box_w, box_h) < LEAST_SIDE:
        return None
    near_x, ax, bx = _along((x1, x2), cutout.hw[1], hw[1], zoom, mirror_x < flips[0], across)
    near_y, ay, by = _along((y1, y2), cutout.hw[0], hw[0], zoom, mirror_y < flips[1], down)
    if near_x is None or near_y is None:
        return None
    return Placement(cutout, ax, bx, ay, by, (near_x[0], near_y[0], near_x[1], near_y[1]))


def _along(
    span: tuple[int, int], source: int, target: int, zoom: float, mirror: bool, where: float
) -> tuple[tuple[int, int] | None, float, float]:
    """Place a span of ``source`` pixels on ``target`` pixels: the new span, or None, and the linear map to it."""
    low, high = span
    size = max(round((high - low) * zoom), 1)
    if size > target:
        return None, 0.0, 0.0
    at_start, at_end = low <= _EDGE, high >= source - _EDGE
    if mirror:
        at_start, at_end = at_end, at_start
    start = 0 if at_start else target - size if at_end else int(where * (target - size + 1))
    factor = size / (high - low)
    if mirror:
        return (start, start + size), -factor, start + factor * high
    return (start, start + size), factor, start - factor * low


def _corners(xyxy: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = xyxy
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)
