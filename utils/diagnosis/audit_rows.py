"""All rows of all label files as they stand there, readable or not: what training would drop, the audit has to name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from utils.data.label_files import MAX_LABEL_BYTES
from utils.diagnosis.audit_findings import Severity
from utils.errors import printable

MISSING, EMPTY, ROWS, UNREADABLE = range(4)
BOX_VALUES = 5
_LARGEST = 1e9  # so that no later arithmetic overflows
_SHOWN = 60


class RowNote(NamedTuple):
    """A row (line 0: a file) that could not be read, or not as one would expect."""

    file: int
    line: int
    code: str
    severity: Severity
    message: str


@dataclass(frozen=True)
class LabelRows:
    """The rows of a list of label files.

    Attributes:
        files: F label files.
        state: (F,) MISSING, EMPTY, ROWS or UNREADABLE.
        file: (R,) place of each row's file, never falling; only rows that hold finite numbers are listed.
        line: (R,) its line in the file, from 1.
        row: (R,) its number among the rows of the file, from 0, as label weights count.
        values: (R, 5) class, cx, cy, w, h: float64 with the precision of float32, in which training compares them.
        span: (R, 2) smallest and largest coordinate written: cx, cy (and w, h for the largest) or a polygon's x and y.
        notes: about rows that are not listed, and files.
        unlisted: number of rows that are not listed.
    """

    files: list[str]
    state: np.ndarray
    file: np.ndarray
    line: np.ndarray
    row: np.ndarray
    values: np.ndarray
    span: np.ndarray
    notes: list[RowNote]
    unlisted: int

    def __len__(self) -> int:
        return len(self.file)

    def corners(self) -> np.ndarray:
        """Return the boxes (R, 4) as x1, y1, x2, y2, fractions of the image."""
        centre, half = self.values[:, 1:3], self.values[:, 3:5] / 2
        return np.concatenate((centre - half, centre + half), 1)

    def sizes(self) -> np.ndarray:
        """Return the number of rows (F,) of each file."""
        return np.bincount(self.file, minlength=len(self.files))


@dataclass
class _Collected:
    files: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    values: list[list[float]] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    notes: list[RowNote] = field(default_factory=list)
    unlisted: int = 0


def read_rows(files: list[str]) -> LabelRows:
    """Read label files row by row; nothing is raised for their content."""
    state = np.full(len(files), MISSING, np.int8)
    found = _Collected()
    for i, path in enumerate(files):
        state[i] = _read_file(i, path, found)
    columns = (np.array(column, np.int64) for column in (found.files, found.lines, found.rows))
    values, span = _as_trained(found.values, BOX_VALUES), _as_trained(found.spans, 2)
    return LabelRows(list(files), state, *columns, values, span, found.notes, found.unlisted)


def _as_trained(rows: list, width: int) -> np.ndarray:
    """Return numbers with the precision of float32, (n, width) float64."""
    numbers = np.array(rows, np.float64).reshape(-1, width).clip(-_LARGEST, _LARGEST)
    return numbers.astype(np.float32).astype(np.float64)


def _read_file(i: int, path: str, found: _Collected) -> int:
    """Add the rows of one file; return its state."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_LABEL_BYTES + 1)
        if len(data) > MAX_LABEL_BYTES:
            raise ValueError(f"has more than {MAX_LABEL_BYTES} bytes")
        text = data.decode("utf-8")
    except FileNotFoundError:
        return MISSING
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found.notes.append(RowNote(i, line, "L01", "error", f"byte 0x{data[error.start]:02x} is not UTF-8 text"))
        return UNREADABLE
    except (OSError, ValueError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        found.notes.append(RowNote(i, 0, "L01", "error", f"label file cannot be read: {reason}"))
        return UNREADABLE
    lines = text.splitlines()
    filled = [k for k, line in enumerate(lines) if line.strip()]
    if not filled:
        return EMPTY
    numbered = [(k + 1, lines[k].split()) for k in range(filled[0], filled[-1] + 1) if lines[k]]
    if not _add_boxes(i, numbered, found):
        _add_one_by_one(i, numbered, found)
    return ROWS


def _add_boxes(i: int, numbered: list[tuple[int, list[str]]], found: _Collected) -> bool:
    """Add a file whose rows are all boxes with finite numbers; return whether it is one."""
    if any(len(values) != BOX_VALUES for _, values in numbered):
        return False
    try:
        table = [list(map(float, values)) for _, values in numbered]
    except ValueError:
        return False
    if not np.isfinite(table).all():
        return False
    found.files += [i] * len(table)
    found.lines += [line for line, _ in numbered]
    found.rows += range(len(table))
    found.values += table
    found.spans += [(min(x, y), max(x, y, w, h)) for _, x, y, w, h in table]
    return True


def _add_one_by_one(i: int, numbered: list[tuple[int, list[str]]], found: _Collected) -> None:
    """Add the rows that can be read, and notes about the others."""
    polygons = any(len(values) > BOX_VALUES + 1 for _, values in numbered)
    for row, (line, texts) in enumerate(numbered):
        code, complaint, numbers = _numbers(texts, polygons)
        if complaint:
            found.notes.append(RowNote(i, line, code, "error", complaint))
            found.unlisted += 1
            continue
        if polygons and len(texts) == BOX_VALUES:
            note = "4 values after the class in a file with polygons: training reads two corner points, not a box"
            found.notes.append(RowNote(i, line, "L02", "warning", note))
        found.files.append(i)
        found.lines.append(line)
        found.rows.append(row)
        found.values.append(_enclosing_box(numbers) if polygons else numbers)
        found.spans.append((min(numbers[1:]), max(numbers[1:])) if polygons else (min(numbers[1:3]), max(numbers[1:])))


def _numbers(texts: list[str], polygons: bool) -> tuple[str, str, list[float]]:
    """Return a row's numbers, or the code and the words for what is wrong with it."""
    numbers = []
    for text in texts:
        try:
            numbers.append(float(text))
        except ValueError:
            return "L02", f"'{_short(text)}' is not a number", []
    if not polygons and len(numbers) != BOX_VALUES:
        hint = "; is the last one a confidence?" if len(numbers) == BOX_VALUES + 1 else ""
        return "L02", f"{len(numbers)} values, expected 5: class, centre x, centre y, width, height{hint}", []
    if polygons and (len(numbers) < BOX_VALUES or len(numbers) % 2 == 0):
        return "L02", f"{len(numbers)} values in a file with polygons, expected a class and pairs of x y", []
    wrong = next((text for text, number in zip(texts, numbers, strict=True) if not np.isfinite(number)), None)
    return ("", "", numbers) if wrong is None else ("L03", f"'{_short(wrong)}' is not a finite number", [])


def _enclosing_box(numbers: list[float]) -> list[float]:
    """Return class, cx, cy, w, h of a polygon's row."""
    x, y = numbers[1::2], numbers[2::2]
    return [
        numbers[0], (min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y),
    ]  # fmt: skip


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
