"""All labels of a data set as flat arrays, and what was wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from utils.data.label_files import UNREADABLE_CLASS, Problem


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

    im_files: list[str]
    label_files: list[str]
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
    def labels(self) -> list[np.ndarray]:
        """N views (n, 5) float32 of ``boxes``: class, cx, cy, w, h, normalised."""
        edges = self.box_offsets.tolist()
        return [self.boxes[a:b] for a, b in zip(edges, edges[1:], strict=False)]

    @cached_property
    def segments(self) -> list[list[np.ndarray]]:
        """Per image the list of its polygons, views (k, 2) float32 of ``points``; [] for images with boxes alone."""
        edges = self.point_offsets.tolist()
        polygons = [self.points[a:b] for a, b in zip(edges, edges[1:], strict=False)]
        edges = self.segment_offsets.tolist()
        return [polygons[a:b] for a, b in zip(edges, edges[1:], strict=False)]

    def class_counts(self) -> Counter[int]:
        """Return the number of boxes per class id."""
        values, counts = np.unique(self.boxes[:, 0], return_counts=True)
        return Counter(dict(zip(map(int, values.tolist()), counts.tolist(), strict=True)))


def build_table(im_files: list[str], label_files: list[str], checked: list[CheckedImage]) -> LabelTable:
    """Join the checked images into flat arrays; images that are not kept leave only their traces in the report."""
    keep = [i for i, item in enumerate(checked) if item.kept]
    kept = [checked[i] for i in keep]
    polygons = [points for item in kept for points in item.segments]
    return LabelTable(
        im_files=[im_files[i] for i in keep],
        label_files=[label_files[i] for i in keep],
        shapes=np.array([item.shape for item in kept], np.int64).reshape(-1, 2),
        boxes=_joined([item.labels for item in kept], 5),
        box_offsets=_offsets(len(item.labels) for item in kept),
        points=_joined(polygons, 2),
        point_offsets=_offsets(len(points) for points in polygons),
        segment_offsets=_offsets(len(item.segments) for item in kept),
        report=_report(checked),
    )


def _report(checked: list[CheckedImage]) -> ScanReport:
    report = ScanReport(total=len(checked))
    states = Counter(item.label_state for item in checked if item.kept)
    report.found, report.missing, report.empty = states["found"], states["missing"], states["empty"]
    report.corrupt = sum(not item.kept for item in checked)
    for item in checked:
        report.problems += item.problems
        report.lost.update(item.lost)
    return report


def _offsets(lengths: Iterable[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, np.int64))]).astype(np.int64)


def _joined(arrays: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros((0, width), np.float32)
