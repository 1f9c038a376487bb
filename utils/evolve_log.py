"""The files that hyperparameter evolution keeps: every generation, and the best one as a hyp file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError, WorkError
from utils.logs import LOGGER
from utils.safe_write import write_whole
from utils.yaml_files import write_yaml

FITNESS_WEIGHTS = (0.0, 0.0, 0.1, 0.9)  # precision, recall, mAP50, mAP50-95
WIDTH = 20


def append_generation(
    keys: Sequence[str], results: Sequence[float], hyp: Mapping[str, Any], save_dir: Path, prefix: str = ""
) -> None:
    """Append a row to ``evolve.csv`` (columns 20 wide) and rewrite ``hyp_evolve.yaml`` with the best row's values.

    Args:
        keys: names of the results, precision, recall, mAP50 and mAP50-95 first.
        results: their values.
        hyp: hyperparameters of this generation; the same keys in every row. Those that are no numbers have no column
            and go into the hyp file as they are.
        save_dir: folder of both files.
        prefix: start of the log lines.

    Raises:
        InputError: evolve.csv has other columns.
        WorkError: a file cannot be written.
    """
    columns = evolve_columns(keys, hyp)
    table = save_dir / "evolve.csv"
    lines = table.read_text(encoding="utf-8").split("\n")[:-1] if table.exists() else []  # an unfinished one is cut
    if lines and [name.strip() for name in lines[0].split(",")] != [name.strip() for name in columns]:
        raise InputError(f"{table}: has other columns than {', '.join(columns[:8])} ...; move it to begin a new one")
    lines = [*(lines or [header_line(columns)]), row_line(results, hyp)]
    write_table(table, lines)
    rows = np.array([[float(value) for value in line.split(",")] for line in lines[1:]])
    fitness = rows[:, :4] @ np.array(FITNESS_WEIGHTS)
    best = int(np.argmax(fitness))
    numbers = dict(zip(numeric(hyp), rows[best, len(keys) :].tolist(), strict=True))
    write_yaml(save_dir / "hyp_evolve.yaml", {key: numbers.get(key, value) for key, value in hyp.items()})
    LOGGER.info("%s%d generations, best: %d with fitness %.5g", prefix, len(rows), best, fitness[best])
    log_values(prefix, columns, [*results, *numeric(hyp).values()])


def evolve_columns(keys: Sequence[str], hyp: Mapping[str, Any]) -> list[str]:
    """Return the columns of evolve.csv: the results' names and those of all hyperparameters that are numbers."""
    return [*keys, *numeric(hyp)]


def header_line(columns: Sequence[str]) -> str:
    """Return the first line of evolve.csv, without its end."""
    return ",".join(f"{name.strip():>{WIDTH}}" for name in columns)


def row_line(results: Sequence[float], hyp: Mapping[str, Any]) -> str:
    """Return a generation's line of evolve.csv, without its end."""
    return ",".join(f"{value:>{WIDTH}.5g}" for value in [*results, *numeric(hyp).values()])


def write_table(path: Path, lines: Sequence[str]) -> None:
    """Write evolve.csv whole.

    Raises:
        WorkError: it cannot be written.
    """
    try:
        write_whole(path, "".join(f"{line}\n" for line in lines), durable=True)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({error.strerror})") from error


def numeric(hyp: Mapping[str, Any]) -> dict[str, float]:
    """Return the hyperparameters that are plain numbers."""
    return {key: value for key, value in hyp.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}


def log_values(prefix: str, columns: Sequence[str], values: Sequence[float]) -> None:
    """Log names and values of a generation in one line."""
    pairs = (f"{name.strip()} {value:.5g}" for name, value in zip(columns, values, strict=True))
    LOGGER.info("%s%s", prefix, ", ".join(pairs))
