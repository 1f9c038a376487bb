"""Findings about single rows and about boxes of one image: codes L01 to L12 of label files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from utils.diagnosis.audit_findings import Finding, Severity
from utils.diagnosis.audit_pairs import pairs_within
from utils.diagnosis.audit_rows import LabelRows
from utils.diagnosis.data import paired_iou

TOLERANCE = 1e-3  # of the image's side: what rounding in other tools does
LEFT_OUT = "training leaves the image out"
TINY = 2.0  # pixels
MAX_ASPECT = 20.0
MAX_AREA = 0.95
SAME_OBJECT = 0.9  # IoU
CLIP, DROP = "clip to 0..1", "drop this row"


@dataclass(frozen=True)
class Labelled:
    """Rows with what they belong to.

    Attributes:
        rows: of all label files.
        images: (F) image of each label file.
        sizes: (F, 2) its width and height, NaN where unknown.
        names: class names.
    """

    rows: LabelRows
    images: list[str]
    sizes: np.ndarray
    names: dict[int, str]

    def finding(self, r: int, code: str, severity: Severity, message: str, fix: str = "") -> Finding:
        """Return a finding about row ``r``."""
        rows = self.rows
        f = int(rows.file[r])
        return Finding(
            code, severity, rows.files[f], int(rows.line[r]), int(rows.values[r, 0]), self.box(r), message, fix,
            image=self.images[f],
        )  # fmt: skip

    def box(self, r: int) -> tuple[float, float, float, float] | None:
        """Return a row's box in pixels, None where the image's size is unknown."""
        size = self.sizes[self.rows.file[r]]
        if np.isnan(size).any():
            return None
        _, cx, cy, w, h = self.rows.values[r]
        x1, y1, x2, y2 = (float(v) for v in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
        return x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]

    def class_text(self, number: float) -> str:
        """Return a class's name, or its number where the data set has no such class."""
        return self.names.get(int(number), f"class {number:g}") if number == int(number) else f"class {number:g}"


def check_rows(labelled: Labelled, imgsz: int) -> list[Finding]:
    """Return what is wrong with rows, by code and then by file and line.

    Args:
        labelled: the rows.
        imgsz: training size, the longest side in pixels.
    """
    findings = _notes(labelled)
    repeated, first = _repeated(labelled.rows)
    for found in (
        _classes(labelled), _coordinates(labelled), _edges(labelled), _flat(labelled), _tiny(labelled, imgsz),
        _extreme(labelled), _repeats(labelled, repeated, first), _same_object(labelled, repeated),
    ):  # fmt: skip
        findings += found
    place = {file: i for i, file in enumerate(labelled.rows.files)}
    return sorted(findings, key=lambda f: (f.code, place[f.file], f.line))


def usable(labelled: Labelled) -> np.ndarray:
    """Return which rows (R,) hold a box of a known class with an area."""
    values = labelled.rows.values
    known = (values[:, 0] >= 0) & (values[:, 0] < len(labelled.names)) & (values[:, 0] == np.floor(values[:, 0]))
    return known & (values[:, 3:5] > 0).all(1)


def _notes(labelled: Labelled) -> list[Finding]:
    files, images = labelled.rows.files, labelled.images
    return [
        Finding(note.code, note.severity, files[note.file], note.line, message=note.message, image=images[note.file])
        for note in labelled.rows.notes
    ]


def _each(
    labelled: Labelled, where: np.ndarray, code: str, severity: Severity, text: Callable[[int], str], fix: str = ""
) -> list[Finding]:
    return [labelled.finding(r, code, severity, text(r), fix) for r in np.flatnonzero(where).tolist()]


def _classes(labelled: Labelled) -> list[Finding]:
    cls, nc = labelled.rows.values[:, 0], len(labelled.names)
    wrong = (cls < 0) | (cls >= nc) | (cls != np.floor(cls))
    allowed = f"allowed are whole numbers from 0 to {nc - 1}"
    return _each(labelled, wrong, "L04", "error", lambda r: f"class {cls[r]:g}, {allowed}")


def _over(labelled: Labelled) -> np.ndarray:
    """Return by how much (R,) a coordinate leaves 0 to 1."""
    low, high = labelled.rows.span.T
    return np.maximum(np.maximum(-low, high - 1), 0)


def _coordinates(labelled: Labelled) -> list[Finding]:
    over = _over(labelled)
    numbers = labelled.rows.values[:, 1:]
    refused = ((numbers < 0) | (numbers > 1)).any(1)  # a polygon's are those of the box around it

    def text(r: int) -> str:
        low, high = labelled.rows.span[r]
        then = LEFT_OUT if refused[r] else "training takes the box around the polygon as it is"
        return f"coordinate {low if low < 0 else high:.6g} is outside 0 to 1: {then}"

    rounding = (over > 0) & (over <= TOLERANCE)
    return [
        *_each(labelled, rounding, "L05", "warning", text, CLIP),
        *_each(labelled, over > TOLERANCE, "L05", "error", text),
    ]


def _edges(labelled: Labelled) -> list[Finding]:
    corners = labelled.rows.corners()
    over = np.maximum(-corners.min(1, initial=0), corners.max(1, initial=1) - 1)
    wrong = (over > TOLERANCE) & (_over(labelled) == 0) & (labelled.rows.values[:, 3:5] > 0).all(1)
    return _each(labelled, wrong, "L06", "warning", lambda r: f"the box leaves the image by {100 * over[r]:.2g} %")


def _flat(labelled: Labelled) -> list[Finding]:
    width, height = labelled.rows.values[:, 3:5].T
    return _each(
        labelled, (width <= 0) | (height <= 0), "L07", "error", lambda r: f"width {width[r]:g}, height {height[r]:g}"
    )


def _pixels(labelled: Labelled) -> np.ndarray:
    """Return widths and heights (R, 2) in pixels of the image, NaN where unknown or not above 0."""
    pixels = labelled.rows.values[:, 3:5] * labelled.sizes[labelled.rows.file]
    pixels[~(labelled.rows.values[:, 3:5] > 0).all(1)] = np.nan
    return pixels


def training_pixels(labelled: Labelled, imgsz: int) -> np.ndarray:
    """Return widths and heights (R, 2) in pixels at the training size, NaN where unknown or without area."""
    longest = labelled.sizes[labelled.rows.file].max(1, keepdims=True, initial=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _pixels(labelled) * imgsz / longest


def _tiny(labelled: Labelled, imgsz: int) -> list[Finding]:
    pixels = training_pixels(labelled, imgsz)
    return _each(
        labelled, (pixels < TINY).any(1), "L08", "warning",
        lambda r: f"{pixels[r, 0]:.2g} x {pixels[r, 1]:.2g} pixels at training size {imgsz}",
    )  # fmt: skip


def _extreme(labelled: Labelled) -> list[Finding]:
    pixels = _pixels(labelled)
    with np.errstate(invalid="ignore"):
        aspect = pixels.max(1, initial=0) / pixels.min(1, initial=np.inf)
    area = labelled.rows.values[:, 3:5].prod(1)
    long, vast = aspect > MAX_ASPECT, (area > MAX_AREA) & (_over(labelled) == 0)
    return [
        *_each(labelled, long, "L09", "warning", lambda r: f"one side is {aspect[r]:.3g} times the other"),
        *_each(labelled, vast & ~long, "L09", "warning", lambda r: f"covers {100 * area[r]:.3g} % of the image"),
    ]


def _repeated(rows: LabelRows) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows (R,) equal an earlier one of their file, and the first of their equals (R,)."""
    first = np.arange(len(rows))
    order = np.lexsort((*rows.values.T, rows.file))
    keys = np.column_stack((rows.file, rows.values))[order]
    new = np.ones(len(rows), bool)
    new[1:] = (keys[1:] != keys[:-1]).any(1)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
    return first != np.arange(len(rows)), first


def _repeats(labelled: Labelled, repeated: np.ndarray, first: np.ndarray) -> list[Finding]:
    line = labelled.rows.line
    return _each(labelled, repeated, "L10", "warning", lambda r: f"repeats line {line[first[r]]}", DROP)


def _same_object(labelled: Labelled, repeated: np.ndarray) -> list[Finding]:
    """Return L11 and L12: boxes of an image with an IoU of 0.9 and above."""
    rows, findings = labelled.rows, []
    fit = np.flatnonzero(usable(labelled) & ~repeated)
    corners, cls = rows.corners()[fit], rows.values[fit, 0]
    dropped: set[int] = set()
    for i, j, overlap in overlapping_pairs(corners, rows.file[fit], SAME_OBJECT):
        a, b, line = int(fit[i]), int(fit[j]), int(rows.line[fit[i]])
        if cls[i] != cls[j]:
            text = f"{labelled.class_text(cls[j])} on the same object as {labelled.class_text(cls[i])} in line {line}"
            findings.append(labelled.finding(b, "L12", "error", f"{text} (IoU {overlap:.2f})"))
        elif a not in dropped and b not in dropped:
            dropped.add(b)
            text = f"a second box of {labelled.class_text(cls[j])} on the object of line {line} (IoU {overlap:.2f})"
            findings.append(labelled.finding(b, "L11", "warning", text, DROP))
    return findings


def overlapping_pairs(corners: np.ndarray, group: np.ndarray, least: float) -> Iterator[tuple[int, int, float]]:
    """Yield (i, j, IoU), i < j, of boxes of the same group that overlap by ``least`` or more.

    Args:
        corners: (n, 4) x1, y1, x2, y2.
        group: (n,) never falling.
        least: smallest IoU, above 0.
    """
    for i, j in pairs_within(np.unique(group, return_counts=True)[1]):
        overlap = paired_iou(corners[i], corners[j])
        close = overlap >= least
        yield from zip(i[close].tolist(), j[close].tolist(), overlap[close].tolist(), strict=True)
