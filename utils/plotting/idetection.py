"""Curves of the logs that the phone app iDetection writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.errors import InputError, MissingFileError
from utils.plotting.figures import new_figure, save_figure
from utils.plotting.run_plots import LINE_COLORS

TITLES = (
    "Images", "Free Storage (GB)", "RAM Usage (GB)", "Battery", "dt_raw (ms)", "dt_smooth (ms)", "real-world FPS",
)  # fmt: skip
SKIPPED_FIRST, SKIPPED_LAST = 90, 30  # rows in which the app starts and stops


def profile_idetection(start: int = 0, stop: int = 0, labels: Sequence[str] = (), save_dir: str | Path = "") -> None:
    """Save idetection_profile.png: one curve per column of each log ``frames*.txt`` in a folder.

    Args:
        start: first row, after the 90 rows in which the app starts.
        stop: row to end before, 0 for all but the last 30.
        labels: names of the logs in the order of their file names, by default from those.
        save_dir: the folder.

    Raises:
        MissingFileError: the folder has no such log.
        InputError: a log that is no table of numbers, or too short.
    """
    folder = Path(save_dir)
    files = sorted(folder.glob("frames*.txt"))
    if not files:
        raise MissingFileError(f"{folder}: has no log frames*.txt")
    figure = new_figure(12, 6)
    grid = figure.subplots(2, 4).ravel()
    for number, file in enumerate(files):
        table = _read(file, start, stop)
        label = labels[number] if number < len(labels) else file.stem.replace("frames_", "")
        for axes, title, values in zip(grid, TITLES, table[1:], strict=False):
            color = LINE_COLORS[number % len(LINE_COLORS)]
            axes.plot(table[0], values, ".-", label=label, linewidth=1, markersize=4, color=color)
            axes.set(title=title, xlabel="time (s)")
            axes.spines[["top", "right"]].set_visible(False)
    for axes in grid:
        if not axes.lines:
            axes.remove()
    grid[0].legend(loc="upper right", fontsize=8)
    save_figure(figure, folder / "idetection_profile.png", 200)


def _read(file: Path, start: int, stop: int) -> np.ndarray:
    """Return the log's columns (1 + columns, rows): seconds from the first row on, then row numbers and the rest."""
    try:
        rows = np.loadtxt(file, ndmin=2)
    except ValueError as error:
        raise InputError(f"{file}: is no table of numbers ({error})") from None
    kept = rows[SKIPPED_FIRST : len(rows) - SKIPPED_LAST]
    numbers = np.arange(start, min(stop, len(kept)) if stop else len(kept))
    if not len(numbers):
        raise InputError(
            f"{file}: {len(rows)} rows, none of them between the first {SKIPPED_FIRST + start} and the last "
            f"{SKIPPED_LAST}"
        )
    columns = kept[numbers].T
    return np.vstack((columns[0] - columns[0].min(), numbers, columns[1:]))
