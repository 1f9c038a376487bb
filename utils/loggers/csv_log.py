"""CSV files of a run that hold each epoch exactly once, however often the run is stopped and resumed."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.errors import InputError, WorkError
from utils.logs import LOGGER
from utils.safe_write import write_whole

RESULT_COLUMNS = (
    "epoch",
    "train/box_loss",
    "train/obj_loss",
    "train/cls_loss",
    "metrics/precision",
    "metrics/recall",
    "metrics/mAP_0.5",
    "metrics/mAP_0.5:0.95",
    "val/box_loss",
    "val/obj_loss",
    "val/cls_loss",
    "x/lr0",
    "x/lr1",
    "x/lr2",
)
Row = Sequence[object]


def aligned_row(values: Row, width: int = 20) -> str:
    """Format a row in right-aligned columns: numbers with five significant digits, text as it is."""
    return ",".join(f"{v:>{width}}" if isinstance(v, str) else f"{float(v):{width}.5g}" for v in values)  # type: ignore[arg-type]


def quoted_row(values: Row) -> str:
    """Format a row as plain CSV: numbers with five significant digits, None empty, text quoted where needed."""
    buffer = io.StringIO()
    texts = ["" if v is None else " ".join(v.split()) if isinstance(v, str) else f"{float(v):.5g}" for v in values]  # type: ignore[arg-type]
    csv.writer(buffer, lineterminator="").writerow(texts)
    return buffer.getvalue()


class EpochCsv:
    """A CSV file with the epoch in its first column.

    A run that goes on from epoch e keeps the rows of earlier epochs and cuts the others, as well as a line that a
    killed process left unfinished. A new run keeps nothing: a file with rows, or one of another kind, is kept under
    another name (results.csv.1, .2 ...). Rows are on the disk when ``append`` returns.

    Args:
        path: the file, made when missing.
        columns: names, 'epoch' first.
        first_epoch: the epoch that the run starts or goes on with.
        form: turns a row of values into a line.
        resumed: the run goes on; by default told by ``first_epoch`` being above 0.

    Raises:
        InputError: the run goes on and the file has another header.
        WorkError: it cannot be read or written.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str],
        first_epoch: int = 0,
        form: Callable[[Row], str] = aligned_row,
        resumed: bool | None = None,
    ):
        self.path = Path(path)
        self.columns = list(columns)
        self.form = form
        resumed = first_epoch > 0 if resumed is None else resumed
        if not resumed:
            self._set_aside()
        kept = self._kept_lines(first_epoch) if self.path.exists() else []
        if first_epoch > 0 and not kept:
            LOGGER.warning("%s: no rows of the epochs before %d, it starts there", self.path, first_epoch)
        self._rewrite([self.form(self.columns), *kept])

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of one epoch and wait until they are on the disk.

        Raises:
            WorkError: they cannot be written; the file is left as it was.
        """
        data = "".join(f"{self.form(row)}\n" for row in rows).encode()
        size = None
        try:
            with self.path.open("ab") as file:
                size = file.seek(0, os.SEEK_END)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._cut(size)
            raise WorkError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _set_aside(self) -> None:
        """Give a file of another run another name, unless it holds this one's header at most."""
        try:
            header = f"{self.form(self.columns)}\n".encode()
            if not self.path.exists() or header.startswith(self.path.read_bytes()[: len(header) + 1]):
                return
            number = next(n for n in range(1, sys.maxsize) if not self.path.with_name(f"{self.path.name}.{n}").exists())
            aside = self.path.with_name(f"{self.path.name}.{number}")
            os.replace(self.path, aside)
        except OSError as error:
            raise WorkError(f"{self.path}: cannot be moved aside ({error.strerror})") from error
        LOGGER.warning("%s: an earlier run's file, kept as %s", self.path, aside.name)

    def _cut(self, size: int | None) -> None:
        """Return the file to its size before a failed write, as far as the disk allows."""
        try:
            if size is not None:
                os.truncate(self.path, size)
        except OSError:
            LOGGER.warning("%s: its last line is incomplete", self.path)

    def _kept_lines(self, first_epoch: int) -> list[str]:
        """Return the complete lines of epochs before ``first_epoch``; of an epoch written twice, the later block."""
        lines = self._read().split("\n")
        unfinished = lines.pop()
        header = lines[0] if lines else unfinished
        if self._fields(header) != self.columns and (lines or not self.form(self.columns).startswith(header)):
            raise InputError(f"{self.path}: {_header_problem(self._fields(header), self.columns)}")
        if unfinished:
            LOGGER.warning("%s: cut an unfinished last line", self.path)
        blocks: dict[int, list[str]] = {}
        previous = None
        for number, line in enumerate(lines[1:], 2):
            epoch = self._epoch(line, number)
            if epoch is None or epoch >= first_epoch:
                previous = None
                continue
            if epoch != previous:
                blocks.pop(epoch, None)
            blocks.setdefault(epoch, []).append(line)
            previous = epoch
        return [line for _, block in sorted(blocks.items()) for line in block]

    def _read(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8").replace("\r\n", "\n")
        except OSError as error:
            raise WorkError(f"{self.path}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}: not a text file (byte {error.start})") from error

    def _epoch(self, line: str, number: int) -> int | None:
        """Return a line's epoch, or None for an empty or damaged line, which is said."""
        fields = self._fields(line)
        if not fields:
            return None
        try:
            if len(fields) == len(self.columns) and float(fields[0]) >= 0 and float(fields[0]).is_integer():
                return int(float(fields[0]))
        except (ValueError, OverflowError):
            pass
        LOGGER.warning("%s: cut line %d, which is no row of this file: %.60r", self.path, number, line.strip())
        return None

    @staticmethod
    def _fields(line: str) -> list[str]:
        try:
            return [field.strip() for field in next(csv.reader([line]), [])]
        except csv.Error:  # for example a zero byte
            return [line]

    def _rewrite(self, lines: list[str]) -> None:
        """Replace the file by these lines in one step, unless it holds just them."""
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            if not self.path.exists() or self.path.read_bytes() != data:
                write_whole(self.path, data, durable=True)
        except OSError as error:
            raise WorkError(f"{self.path}: cannot be written ({error.strerror})") from error


def _header_problem(found: list[str], expected: list[str]) -> str:
    """Return what is wrong with a header, and the way out."""
    missing = [column for column in expected if column not in found]
    unknown = [column[:80] for column in found if column not in expected]
    parts = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has {_listed(unknown)}"] * bool(unknown)
    problem = " and ".join(parts) or "has its columns in another order"
    return (
        f"its header {problem}, expected {','.join(expected)[:80]}...: another kind of run or version wrote it; "
        "rename it to begin a new one"
    )


def _listed(columns: list[str], most: int = 4) -> str:
    return ", ".join(columns[:most]) + (f" and {len(columns) - most} more" if len(columns) > most else "")
