"""A weight per label from a CSV file: read, checked, and joined with the labels of a data set."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np

from utils.data.flat_rows import Rows, row_counts
from utils.data.label_files import read_label_file
from utils.errors import InputErrors, MissingFileError
from utils.logs import LOGGER

COLUMNS = ("image", "row", "weight")
MAX_PROBLEMS = 20
MAX_DIGITS = 9  # of a row's number


class LabelWeight(NamedTuple):
    """One line of the file: where it stands, which label it is about, and the label's weight."""

    line: int
    image: str
    row: int
    weight: float


def find_label_weights(path: str, folder: Path | None = None) -> Path:
    """Return the file that ``label_weights`` names, looked for in the working folder and in ``folder``.

    Raises:
        MissingFileError: it is in neither.
    """
    places = [Path(path), *([folder / path] if folder is not None else [])]
    for place in places:
        if os.path.isfile(place):
            return place
    raise MissingFileError(f"label_weights: {path}: no such file; looked for {', '.join(map(str, places))}")


def read_label_weights(path: Path) -> list[LabelWeight]:
    """Return the lines of a CSV file with the columns image, row (of its label file, from 0) and weight (0 to 1).

    Further columns are left alone.

    Raises:
        InputErrors: no such columns, or one of them twice; or values that are no numbers or out of range, all of them.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            _check_header(path, header)
            lines = [(reader.line_num, fields) for fields in reader]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise InputErrors([f"{path}: cannot be read as a CSV file in UTF-8: {error}"]) from None
    found, problems = [], []
    for number, fields in lines:
        parsed = _parse(number, fields)
        (problems if isinstance(parsed, str) else found).append(parsed)
    _refuse(path, problems)
    return found


def _check_header(path: Path, header: list[str]) -> None:
    shown, expected = ",".join(header)[:80], ",".join(COLUMNS)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise InputErrors([f"{path}: its header {shown!r} lacks {', '.join(missing)}; expected are {expected}"])
    repeated = [name for name in COLUMNS if header.count(name) > 1]
    if repeated:
        raise InputErrors([f"{path}: its header {shown!r} has {', '.join(repeated)} twice; expected are {expected}"])


def join_label_weights(
    path: Path, weights: Sequence[LabelWeight], im_files: Sequence[str], label_files: Sequence[str],
    labels: Sequence[np.ndarray],
) -> Rows:  # fmt: skip
    """Return the weight of every label, one float32 array (n,) per image; 1 for labels that the file does not name.

    An image is named by its path or the end of it, down to its file name, as long as one image alone fits.

    Args:
        path: the CSV file, for messages.
        weights: its lines.
        im_files: N image paths.
        label_files: their label files.
        labels: per image (n, 5), as cleaned: rows of the label file that were dropped there count as known, but weigh
            nothing.

    Raises:
        InputErrors: unknown or ambiguous images, rows that the label file does not have, labels named twice.
    """
    by_name = _by_name(im_files)
    offsets = np.concatenate([[0], np.cumsum(row_counts(labels))])
    joined = Rows(np.ones(offsets[-1], np.float32), offsets)
    places: dict[int, list[int]] = {}
    seen: dict[tuple[int, int], int] = {}
    problems, dropped = [], 0
    for item in weights:
        fitting = [i for i in by_name.get(PurePath(item.image).name, []) if _ends_with(im_files[i], item.image)]
        if len(fitting) != 1:
            what = "no image of the training set" if not fitting else f"{len(fitting)} images, give more of the path"
            problems.append(f"line {item.line}: image {item.image!r} is the name of {what}")
            continue
        i = fitting[0]
        if i not in places:
            places[i] = _places(label_files[i], len(labels[i]))
        problem = _row_problem(item, label_files[i], len(places[i]), seen.get((i, item.row)))
        if problem:
            problems.append(problem)
            continue
        seen[i, item.row] = item.line
        place = places[i][item.row]
        dropped += place < 0
        if place >= 0:
            joined[i][place] = item.weight
    _refuse(path, problems)
    if dropped:
        LOGGER.warning("WARNING %s: %d weights are for rows that label cleaning dropped: without effect", path, dropped)
    return joined


def _row_problem(item: LabelWeight, label_file: str, rows: int, earlier: int | None) -> str:
    """Return what is wrong with the row that a line names, '' when nothing is."""
    if item.row >= rows:
        allowed = f"allowed {'0' if rows == 1 else f'0-{rows - 1}'}" if rows else "which has no labels"
        return f"line {item.line}: row {item.row} is not in {label_file}, {allowed}"
    return "" if earlier is None else f"line {item.line}: image {item.image!r}, row {item.row} repeats line {earlier}"


def _parse(number: int, fields: dict[str, str]) -> LabelWeight | str:
    """Return a line's values, or what is wrong with it."""
    texts = {name: (fields.get(name) or "").strip() for name in COLUMNS}
    if not texts["image"]:
        return f"line {number}: no image"
    if not texts["row"].isdecimal() or len(texts["row"]) > MAX_DIGITS:
        return f"line {number}: row {texts['row'][:40]!r} is not a whole number of at least 0"
    try:
        weight = float(texts["weight"])
    except ValueError:
        weight = math.nan
    if not 0 <= weight <= 1:
        return f"line {number}: weight {texts['weight'][:40]!r} is not a number from 0 to 1"
    return LabelWeight(number, texts["image"], int(texts["row"]), weight)


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        more = len(problems) - MAX_PROBLEMS
        shown = problems[:MAX_PROBLEMS] + ([f"and {more} more problems"] if more > 0 else [])
        raise InputErrors(f"{path}: {problem}" for problem in shown)


def _by_name(im_files: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for i, file in enumerate(im_files):
        found.setdefault(PurePath(file).name, []).append(i)
    return found


def _ends_with(file: str, end: str) -> bool:
    """Whether the last parts of a path are those of ``end``."""
    parts, last = PurePath(file).parts, PurePath(end).parts
    return parts[-len(last) :] == last or os.path.abspath(file) == os.path.abspath(end) or _is_same_file(file, end)


def _is_same_file(file: str, other: str) -> bool:
    try:
        return os.path.samefile(file, other)
    except (OSError, ValueError):  # one is not there, or is no path at all
        return False


def _places(label_file: str, count: int) -> list[int]:
    """Return the place among ``count`` cleaned labels of each row of a label file, -1 for a row that was dropped."""
    if not os.path.isfile(label_file):
        return []
    places = read_label_file(label_file).places
    return list(range(count)) if places is None else places.tolist()
