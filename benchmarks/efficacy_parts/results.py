"""The CSV file of the comparison: a row for each finished run, the file whole at every moment."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficacy_parts.figures import FIGURES, INTERVALS
from utils.errors import InputError
from utils.safe_write import write_whole

WHOLE = ("seed", "epochs", "images_seen", "img", "seconds")
NUMBERS = (*FIGURES, *INTERVALS, "conf")
COLUMNS = ("set", "arm", "seed", "settings", "epochs", "images_seen", "img", *FIGURES, "conf", *INTERVALS,
           "rare_classes", "worst_class", "device", "seconds", "note", "again")  # fmt: skip
Key = tuple[str, str, int, str]


class Results:
    """Rows of finished runs, by set, arm, seed and settings; several threads may add to them.

    Args:
        path: the CSV file, which need not exist.

    Raises:
        InputError: it holds something else.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()
        self.rows = read_rows(path)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, or replace the one of the same run, and write the file."""
        with self._lock:
            self.rows = read_rows(self.path)  # another command may have added to it
            kept = [one for one in self.rows if key_of(one) != key_of(row)]
            self.rows = [*kept, {column: row.get(column) for column in COLUMNS}]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, as_text(self.rows), durable=True)

    def find(self, key: Key) -> dict[str, Any] | None:
        """Return the row of a run, None when it is not finished."""
        return next((row for row in self.rows if key_of(row) == key), None)


def key_of(row: dict[str, Any]) -> Key:
    """Return what tells a run from others."""
    return row["set"], row["arm"], row["seed"], row["settings"]


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV: numbers with four decimals, empty cells for None."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = (row[column] for column in COLUMNS)
        writer.writerow(
            "" if value is None else f"{value:.4f}" if isinstance(value, float) else value for value in values
        )
    return stream.getvalue()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file with numbers as numbers, [] where there is no file.

    Raises:
        InputError: other columns, or a number that is none; names the file and line.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f"{path}: its columns are not those of this comparison: {', '.join(COLUMNS)}")
        rows = []
        for row in reader:
            try:
                rows.append(_typed(row))
            except (TypeError, ValueError):
                raise InputError(f"{path}, line {reader.line_num}: not a row of this comparison") from None
    return rows


def _typed(row: dict[str, str]) -> dict[str, Any]:
    typed: dict[str, Any] = dict(row)
    for column in WHOLE:
        typed[column] = int(row[column])
    for column in NUMBERS:
        typed[column] = float(row[column]) if row[column] else None
    return typed
