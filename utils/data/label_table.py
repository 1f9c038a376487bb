"""All labels of a data set as flat arrays, and what was wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from utils.data.flat_rows import Names, Outlines, Rows
from utils.data.label_files import UNREADABLE_CLASS, Problem

NO_FILE = b"absent"  # in the place of a label file's digest


@dataclass
class ScanReport:
    """Outcome of checking a list of images.

    Attributes:
        found: usable images whose label file holds at least one line.
        missing: images without a label file.
        empty: images whose label file is empty.
        corrupt: images left out.
        total: images looked at.
        problems: everything skipped, changed or worth knowing.
        lost: rows of labels that do not reach training, per class id (-1: class unreadable).
    """

    found: int = 0
    missing: int = 0
    empty: int = 0
    corrupt: int = 0
    total: int = 0
    problems: list[Problem] = field(default_factory=list)
    lost: Counter[int] = field(default_factory=Counter)

    def summary(self) -> str:
        """Return the counts as one phrase."""
        return f"{self.found} images, {self.missing + self.empty} backgrounds, {self.corrupt} corrupt"

    def lost_text(self, names: dict[int, str] | list[str] | None = None) -> str:
        """Return the lost boxes per class as one phrase, '' when none is lost."""

        def label(c: int) -> str:
            if c == UNREADABLE_CLASS:
                return "class unreadable"
            known = names is not None and (c in names if isinstance(names, dict) else c < len(names))
            return f"class {c} ({names[c]})" if known else f"class {c}"

        return ", ".join(f"{label(c)}: {n}" for c, n in sorted(self.lost.items()))


class CheckedImage(NamedTuple):
    """One image and its labels after checking."""

    labels: np.ndarray  # (n, 5)
    segments: list[np.ndarray]
    shape: tuple[int, int]  # width, height
    kept: bool
    label_state: str  # "found", "missing" or "empty"
    label_digest: bytes  # sha256 of the label file, empty when there is none
    problems: list[Problem]
    lost: Counter[int]


class Checked(NamedTuple):
    """Some images and their labels after checking, as arrays: k images, m boxes, s polygons, p points.

    kept: (k,) bool. states: k of "found", "missing" or "empty", by their first letters. shapes: (k, 2) int64 width,
    height. boxes: (m, 5) float32, counted by box_counts (k,). points: (p, 2) float32, counted by point_counts (s,);
    polygon_counts: (k,). digests: of the label files, joined. problems, lost: of all of them.
    """

    kept: np.ndarray
    states: bytes
    shapes: np.ndarray
    boxes: np.ndarray
    box_counts: np.ndarray
    points: np.ndarray
    point_counts: np.ndarray
    polygon_counts: np.ndarray
    digests: bytes
    problems: list[Problem]
    lost: Counter[int]


def join_checked(images: list[CheckedImage]) -> Checked:
    """Return checked images as arrays; labels and sizes of those that are not kept are left out, not their traces."""
    kept = [item for item in images if item.kept]
    polygons = [points for item in kept for points in item.segments]
    lost: Counter[int] = Counter()
    for item in images:
        if item.lost:
            lost.update(item.lost)
    return Checked(
        kept=np.array([item.kept for item in images], bool),
        states="".join(item.label_state[0] for item in images).encode(),
        shapes=np.array([item.shape for item in kept], np.int64).reshape(-1, 2),
        boxes=_joined([item.labels for item in kept], 5),
        box_counts=_lengths([item.labels for item in kept]),
        points=_joined(polygons, 2),
        point_counts=_lengths(polygons),
        polygon_counts=_lengths([item.segments for item in kept]),
        digests=b"".join(item.label_digest or NO_FILE for item in images),
        problems=[problem for item in images for problem in item.problems],
        lost=lost,
    )


@dataclass
class LabelTable:
    """Labels of the usable images.

    Attributes:
        im_files: N image paths.
        label_files: N label paths (the files need not exist).
        shapes: (N, 2) int64, width and height after EXIF orientation.
        boxes: (M, 5) float32, the rows of all images one after the other.
        box_offsets: (N + 1,) int64, image i owns boxes[box_offsets[i]:box_offsets[i + 1]].
        points: (P, 2) float32, the points of all polygons one after the other.
        point_offsets: (S + 1,) int64, polygon s owns points[point_offsets[s]:point_offsets[s + 1]].
        segment_offsets: (N + 1,) int64, image i owns those polygons.
        report: what the check found.
    """

    im_files: Sequence[str]
    label_files: Sequence[str]
    shapes: np.ndarray
    boxes: np.ndarray
    box_offsets: np.ndarray
    points: np.ndarray
    point_offsets: np.ndarray
    segment_offsets: np.ndarray
    report: ScanReport

    def __len__(self) -> int:
        return len(self.im_files)

    @cached_property
    def labels(self) -> Rows:
        """N views (n, 5) float32 of ``boxes``: class, cx, cy, w, h, normalised."""
        return Rows(self.boxes, self.box_offsets)

    @cached_property
    def segments(self) -> Outlines:
        """Per image the list of its polygons, views (k, 2) float32 of ``points``; [] for images with boxes alone."""
        return Outlines(self.points, self.point_offsets, self.segment_offsets)

    def class_counts(self) -> Counter[int]:
        """Return the number of boxes per class id."""
        values, counts = np.unique(self.boxes[:, 0], return_counts=True)
        return Counter(dict(zip(map(int, values.tolist()), counts.tolist(), strict=True)))


def build_table(im_files: Sequence[str], label_files: Sequence[str], parts: Sequence[Checked]) -> LabelTable:
    """Join parts of a data set; images that are not kept leave only their traces in the report."""
    kept = _all([part.kept for part in parts], np.zeros(0, bool))
    numbers, none = np.zeros(0, np.int64), np.zeros((0, 2), np.float32)
    return LabelTable(
        im_files=kept_names(im_files, kept),
        label_files=kept_names(label_files, kept),
        shapes=_all([part.shapes for part in parts], np.zeros((0, 2), np.int64)),
        boxes=_all([part.boxes for part in parts], np.zeros((0, 5), np.float32)),
        box_offsets=_offsets(_all([part.box_counts for part in parts], numbers)),
        points=_all([part.points for part in parts], none),
        point_offsets=_offsets(_all([part.point_counts for part in parts], numbers)),
        segment_offsets=_offsets(_all([part.polygon_counts for part in parts], numbers)),
        report=_report(parts, kept),
    )


def kept_names(names: Sequence[str], kept: np.ndarray) -> Names:
    """Return the names of the images that are kept (N,)."""
    return Names(names if kept.all() else [names[i] for i in np.flatnonzero(kept).tolist()])


def _report(parts: Sequence[Checked], kept: np.ndarray) -> ScanReport:
    states = np.frombuffer(b"".join(part.states for part in parts), np.uint8)[kept]
    found, missing, empty = (int((states == ord(letter)).sum()) for letter in "fme")
    report = ScanReport(found, missing, empty, int((~kept).sum()), len(kept))
    for part in parts:
        report.problems += part.problems
        report.lost.update(part.lost)
    return report


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _lengths(arrays: list[Any]) -> np.ndarray:
    return np.fromiter(map(len, arrays), np.int64, len(arrays))


def _all(arrays: list[np.ndarray], none: np.ndarray) -> np.ndarray:
    return np.concatenate(arrays) if arrays else none


def _joined(arrays: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros((0, width), np.float32)
