"""Parse one label file: boxes or polygons, with every problem named by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import InputError, printable

UNREADABLE_CLASS = -1  # key of lost rows whose class could not be read
MAX_LABEL_BYTES = 32 << 20  # of one file: about half a million boxes
_PLAIN = b"0123456789.e+- \t\r\n"
_QUICK_CLASSES = 1 << 20
_QUICK_SIDE = 1e-30  # as float32 still above 0
_BOX_FIELDS = ("class", "centre x", "centre y", "width", "height")


class Problem(NamedTuple):
    """Something wrong in the data: file, line (0: the file as a whole) and what was found."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        file = printable(self.file)
        return f"{file}, line {self.line}: {self.text}" if self.line else f"{file}: {self.text}"


@dataclass
class LabelFile:
    """Content of one label file.

    Attributes:
        labels: (n, 5) float32: class, cx, cy, w, h, normalised to 0-1; (0, 5) when the file is unusable.
        segments: one (k, 2) float32 array of normalised points per row, or [] for a file of boxes.
        problems: what was wrong, dropped or worth knowing.
        usable: False when the image has to be left out.
        lost: rows that do not reach training, per class id (UNREADABLE_CLASS where there is none).
        places: (rows of the file,) place of each row in ``labels``, -1 where it was dropped; None when all are kept.
    """

    labels: np.ndarray
    segments: list[np.ndarray] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    usable: bool = True
    lost: Counter[int] = field(default_factory=Counter)
    places: np.ndarray | None = None


class _Row(NamedTuple):
    line: int
    values: list[str]


def read_label_file(path: str | Path, nc: int | None = None) -> LabelFile:
    """Read and check a label file.

    Each line is ``class cx cy w h``. When any line has more than 6 values the file holds polygons: every line is then a
    class and x y pairs. A line that breaks the rules (wrong number of values, not a number, below 0, a coordinate
    above 1, a class that is not a whole number) makes the whole file unusable; repeated rows and boxes without area are
    dropped alone.

    Args:
        path: label file, UTF-8.
        nc: number of classes; None accepts any class id.

    Raises:
        InputError: a class id of nc or more.
        OSError: the file cannot be read.
    """
    return parse_labels(Path(path).read_bytes(), str(path), nc)


def parse_labels(data: bytes, source: str, nc: int | None = None) -> LabelFile:
    """Parse the bytes of a label file; as ``read_label_file``."""
    if len(data) > MAX_LABEL_BYTES:
        return _unusable([Problem(source, 0, f"{len(data)} bytes, at most {MAX_LABEL_BYTES} are read")], [])
    quick = _quick_boxes(data, nc)
    if quick is not None:
        return LabelFile(quick)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        return _unusable([Problem(source, line, f"byte 0x{data[error.start]:02x} is not UTF-8 text")], [])
    lines = [line for line in text.strip().splitlines() if line]
    if not lines:
        return LabelFile(np.zeros((0, 5), np.float32))
    rows = [line.split() for line in lines]
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite or NaN is refused below
            labels, segments = _convert(rows)
    except (ValueError, IndexError):
        labels, segments = None, []
    if labels is None or not _is_valid(labels):
        return _explain(text, source)
    if nc is not None and labels[:, 0].max() >= nc:
        _refuse_class(labels, _numbered_rows(text), source, nc)
    return _clean(labels, segments, text, source)


def _quick_boxes(data: bytes, nc: int | None) -> np.ndarray | None:
    """Return the labels (n, 5) of a file of sound boxes alone, None where anything at all wants a closer look."""
    numbers = _plain_numbers(data)
    if not numbers or min(numbers) < 0 or min(*numbers[3::5], *numbers[4::5]) < _QUICK_SIDE:
        return None
    classes = numbers[::5]
    most = _QUICK_CLASSES if nc is None else min(nc, _QUICK_CLASSES)
    if max(classes) >= most or not all(map(float.is_integer, classes)):
        return None
    if max(max(numbers[k::5]) for k in (1, 2, 3, 4)) > 1:
        return None
    labels = np.array(numbers, np.float32).reshape(-1, 5) + np.float32(0)  # + 0 turns -0 into 0
    rows, step = labels.tobytes(), labels.strides[0]
    is_distinct = len({rows[at : at + step] for at in range(0, len(rows), step)}) == len(labels)
    return labels if is_distinct else None


def _plain_numbers(data: bytes) -> list[float]:
    """Return the numbers of lines that hold five each in plain digits, [] where any line does not."""
    if data.translate(None, _PLAIN):
        return []
    words: list[bytes] = []
    for line in data.splitlines():
        fields = line.split()
        if len(fields) == 5:
            words += fields
        elif line:
            return []
    try:
        return list(map(float, words))
    except ValueError:
        return []


def _convert(rows: list[list[str]]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Turn rows of text into (n, 5) boxes and, for a polygon file, points; ValueError when they do not fit."""
    if not any(len(row) > 6 for row in rows):
        return np.array(rows, dtype=np.float32) + np.float32(0), []  # + 0 turns -0 into 0
    segments = [np.array(row[1:], dtype=np.float32).reshape(-1, 2) for row in rows]
    labels = np.empty((len(rows), 5), np.float32)
    labels[:, 0] = [row[0] for row in rows]
    for label, points in zip(labels, segments, strict=True):
        low, high = points.min(0), points.max(0)  # ValueError for a row without points
        label[1:3], label[3:5] = (low + high) / 2, high - low
    return labels + np.float32(0), segments


def _is_valid(labels: np.ndarray) -> bool:
    """Whether (n, 5) rows hold whole class ids ≥ 0 and coordinates in 0-1; False for NaN and infinity."""
    if labels.ndim != 2 or labels.shape[1] != 5:
        return False
    classes = labels[:, 0]
    inside = (labels >= 0).all() and (labels[:, 1:] <= 1).all()
    return bool(inside and np.isfinite(classes).all() and (classes == np.floor(classes)).all())


def _clean(labels: np.ndarray, segments: list[np.ndarray], text: str, source: str) -> LabelFile:
    """Drop repeated rows and boxes without area; note box rows that a polygon file turns into two corners."""
    result = LabelFile(labels, segments)
    if segments and any(len(points) == 2 for points in segments):
        numbers = [row.line for row in _numbered_rows(text) if len(row.values) == 5]
        note = "4 values after the class in a file with polygons: read as two corner points, not as a box"
        result.problems += [Problem(source, line, note) for line in numbers]
    keep = _first_of_equal_rows(labels)
    if keep is not None:
        lines = _numbered_rows(text)
        repeated = sorted(set(range(len(labels))) - set(keep.tolist()))
        result.problems += [Problem(source, lines[i].line, "repeats an earlier row: dropped") for i in repeated]
    flat = (labels[:, 3] <= 0) | (labels[:, 4] <= 0)
    if flat.any():
        lines = _numbered_rows(text)
        for i in np.flatnonzero(flat if keep is None else flat & np.isin(np.arange(len(flat)), keep)):
            size = f"width {labels[i, 3]:g}, height {labels[i, 4]:g}"
            result.problems.append(Problem(source, lines[i].line, f"box without area ({size}): row dropped"))
            result.lost[int(labels[i, 0])] += 1
        keep = np.arange(len(labels)) if keep is None else keep
        keep = keep[~flat[keep]]
    if keep is not None:
        result.labels = labels[keep]
        result.segments = [segments[i] for i in keep] if segments else []
        result.places = np.full(len(labels), -1)
        result.places[keep] = np.arange(len(keep))
    return result


def _first_of_equal_rows(labels: np.ndarray) -> np.ndarray | None:
    """Return the indices of distinct rows in sorted order of their values, or None when no row repeats."""
    whole_rows = np.ascontiguousarray(labels).view(np.dtype((np.void, labels.itemsize * labels.shape[1])))
    if len(set(whole_rows.ravel().tolist())) == len(labels):
        return None
    return np.unique(labels, axis=0, return_index=True)[1]


def _numbered_rows(text: str) -> list[_Row]:
    """Return the rows with their line numbers: blank lines at both ends and empty lines anywhere do not count."""
    lines = text.splitlines()
    filled = [i for i, line in enumerate(lines) if line.strip()]
    first, last = (filled[0], filled[-1]) if filled else (0, -1)
    return [_Row(i + 1, lines[i].split()) for i in range(first, last + 1) if lines[i]]


def _refuse_class(labels: np.ndarray, rows: list[_Row], source: str, nc: int) -> None:
    i = int(np.flatnonzero(labels[:, 0] >= nc)[0])
    raise InputError(
        f"{source}, line {rows[i].line}: class {int(labels[i, 0])}, but the data set has {nc} "
        f"{'class' if nc == 1 else 'classes'}: allowed {'0' if nc == 1 else f'0-{nc - 1}'}"
    )


def _explain(text: str, source: str) -> LabelFile:
    """Name the line and value behind every broken rule of an unusable file."""
    rows = _numbered_rows(text)
    polygons = any(len(row.values) > 6 for row in rows)
    problems = [Problem(source, row.line, complaint) for row in rows if (complaint := _complaint(row.values, polygons))]
    if not problems:  # every row is fine alone: cannot happen while _convert and _complaint hold the same rules
        problems = [Problem(source, 0, "rows do not form a table")]
    return _unusable(problems, rows)


def _unusable(problems: list[Problem], rows: Iterable[_Row]) -> LabelFile:
    lost = Counter(_class_of(row.values) for row in rows)
    return LabelFile(np.zeros((0, 5), np.float32), [], problems, usable=False, lost=lost)


def _complaint(values: list[str], polygons: bool) -> str:
    """Return what is wrong with one row, '' when nothing is."""
    numbers = [_number(value) for value in values]
    if None in numbers:
        return f"'{_short(values[numbers.index(None)])}' is not a number"
    if polygons and (len(values) < 3 or len(values) % 2 == 0):
        return f"{len(values)} values, expected a class and pairs of x y"
    if not polygons and len(values) != 5:
        return f"{len(values)} values, expected 5: class, centre x, centre y, width, height"
    if not (np.isfinite(numbers[0]) and numbers[0] >= 0 and numbers[0] == np.floor(numbers[0])):
        return f"class {_short(values[0])} is not a whole number of at least 0"
    if not polygons:
        return next(filter(None, map(_box_complaint, _BOX_FIELDS[1:], numbers[1:], map(_short, values[1:]))), "")
    with np.errstate(over="ignore", invalid="ignore"):
        box = _convert([values])[0][0, 1:]
    return next(
        (f"polygon's {text}" for text in map(_box_complaint, _BOX_FIELDS[1:], box, (f"{v:g}" for v in box)) if text), ""
    )


def _box_complaint(name: str, value: float, shown: object) -> str:
    """Return what is wrong with one normalised coordinate, compared as float32 like the labels themselves."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    if not single >= 0:
        return f"{name} {shown} is not a number of at least 0"
    if not single <= 1:
        return f"{name} {shown} is above 1 (values are fractions of the image's size)"
    return ""


def _class_of(values: list[str]) -> int:
    """Return a row's class id, UNREADABLE_CLASS when it has none."""
    number = _number(values[0]) if values else None
    if number is None or not np.isfinite(number) or number < 0 or number != int(number):
        return UNREADABLE_CLASS
    return int(number)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _short(text: str, limit: int = 40) -> str:
    """Return text fit for a one-line message."""
    text = printable(text)
    return text if len(text) <= limit else f"{text[:limit]}..."
