"""Pictures of runs: results over epochs, learning rates, evolution, speed studies."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import InputError, MissingFileError
from utils.logs import LOGGER
from utils.plotting.figures import new_figure, save_figure

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes

RESULT_COLUMNS = (1, 2, 3, 4, 5, 8, 9, 10, 6, 7)  # of results.csv, in the picture's order
LINE_COLORS = ("#1f6fc4", "#e8601c", "#009e73", "#cc79a7", "#9e8500", "#6e7f80")
STUDY_COLUMNS = 10


def read_table(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read a CSV file of numbers.

    Returns:
        the column names and (rows, columns) float64, NaN where a field is empty.

    Raises:
        MissingFileError: there is no such file.
        InputError: a row that is not numbers, or has another length than the header.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    header = [name.strip() for name in rows[0]] if rows else []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise InputError(f"{path}: row {number} has {len(row)} fields, the header {len(header)}")
    try:
        values = [[float(field) if field.strip() else np.nan for field in row] for row in rows[1:]]
    except ValueError as error:
        raise InputError(f"{path}: a field is no number ({error})") from error
    return header, np.array(values, dtype=np.float64).reshape(len(values), len(header))


def smoothed(y: np.ndarray, sigma: float = 3.0) -> np.ndarray:
    """Return (n,) values averaged with Gaussian weights, ends mirrored, NaN left out."""
    radius = min(round(4 * sigma), max(len(y) - 1, 0))
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    known = np.pad(np.isfinite(y).astype(float), radius, mode="symmetric")
    values = np.pad(np.where(np.isfinite(y), y, 0.0), radius, mode="symmetric")
    total = np.convolve(known, weights, mode="valid")
    return np.divide(np.convolve(values, weights, mode="valid"), total, out=np.full(len(y), np.nan), where=total > 0)


def plot_results(file: str | Path = "path/to/results.csv", dir: str | Path = "") -> None:  # noqa: A002 (inherited)
    """Save results.png (2400 x 1200 pixels): losses and metrics of each epoch, and smoothed.

    Args:
        file: a results.csv; the picture goes into its folder.
        dir: instead, a folder whose results*.csv are drawn together.

    Raises:
        MissingFileError: no results.csv there.
        InputError: a file of another form.
    """
    draw_results(file, dir, RESULT_COLUMNS, (12, 6))


def draw_results(
    file: str | Path,
    dir: str | Path,  # noqa: A002 (as plot_results calls it)
    columns: Sequence[int],
    size: tuple[float, float],
    best: Callable[[np.ndarray], int] | None = None,
) -> None:
    """Save results.png: columns of results*.csv over the epochs in two rows; as ``plot_results``.

    Args:
        file, dir: as of ``plot_results``.
        columns: numbers of the columns, an even count.
        size: of the picture in units of 200 pixels.
        best: (rows, columns) -> the row to mark, None for no mark.
    """
    folder = Path(dir) if dir else Path(file).parent
    files = sorted(folder.glob("results*.csv")) if dir else [Path(file)]
    if not files:
        raise MissingFileError(f"{folder}: no results*.csv in this folder")
    figure = new_figure(*size)
    grid = figure.subplots(2, len(columns) // 2).ravel()
    for number, path in enumerate(files):
        header, table = read_table(path)
        if len(header) <= max(columns):
            raise InputError(f"{path}: {len(header)} columns, at least {max(columns) + 1} needed")
        color = LINE_COLORS[number % len(LINE_COLORS)]
        marked = best(table) if best is not None and len(table) else None
        for axes, column in zip(grid, columns, strict=True):
            _plot_column(axes, table[:, 0], table[:, column], (path.stem, color))
            title = header[column]
            if marked is not None:
                axes.plot(table[marked, 0], table[marked, column], "k*", markersize=9)
                title += f"\n{table[marked, column]:.4g} at epoch {table[marked, 0]:g}"
            axes.set_title(title, fontsize=11 if best is None else 9)
    grid[1].legend(loc="lower right", fontsize=8)
    save_figure(figure, folder / "results.png", 200)


def _plot_column(axes: Axes, epochs: np.ndarray, values: np.ndarray, style: tuple[str, str]) -> None:
    """Draw one column over the epochs (n,): points as measured, a line through their smoothed course."""
    from matplotlib.ticker import MaxNLocator

    label, color = style
    values = np.where(np.isfinite(values), values, np.nan)
    axes.plot(epochs, values, marker=".", label=label, linewidth=1.5, markersize=6, color=color)
    if len(epochs) > 3:
        axes.plot(epochs, smoothed(values), ":", label="smooth", linewidth=2, color="#e8601c")
    axes.grid(color="#ececec", linewidth=0.6)
    axes.tick_params(labelsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))


def plot_lr_scheduler(
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    epochs: int = 300,
    save_dir: str | Path = "",
) -> None:
    """Save LR.png: the first group's learning rate over the epochs; optimizer and scheduler stay as they are."""
    import warnings

    trial = copy.deepcopy(scheduler)  # brings its optimizer along
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the copied scheduler steps without its optimizer
        for _ in range(epochs):
            trial.step()
            rates.append(trial.optimizer.param_groups[0]["lr"])
    figure = new_figure(6, 4)
    axes = figure.add_subplot()
    axes.plot(rates, ".-", color=LINE_COLORS[0])
    axes.set(xlabel="epoch", ylabel="LR", xlim=(0, epochs), ylim=(0, None))
    axes.grid(color="#ececec")
    save_figure(figure, Path(save_dir) / "LR.png", 200)


def plot_evolve(evolve_csv: str | Path = "path/to/evolve.csv") -> None:
    """Save evolve.png beside evolve.csv: fitness against each hyperparameter, the best one marked.

    Raises:
        MissingFileError: there is no such file.
        InputError: the file has no hyperparameter columns or no rows.
    """
    path = Path(evolve_csv)
    header, table = read_table(path)
    if len(header) < 8 or not len(table):
        raise InputError(f"{path}: expected 7 result columns, hyperparameters after them and at least one row")
    score = table[:, 2] * 0.1 + table[:, 3] * 0.9
    best = int(np.nanargmax(score))
    LOGGER.info("Best results from row %d of %s:", best, path)
    names = header[7:]
    rows = -(-len(names) // 5)
    figure = new_figure(12, 2.4 * rows)
    grid = figure.subplots(rows, 5, squeeze=False).ravel()
    for axes, name, values in zip(grid, names, table[:, 7:].T, strict=False):
        axes.scatter(values, score, c=np.arange(len(score)), cmap="viridis", s=14, alpha=0.8, edgecolors="none")
        axes.plot(values[best], score[best], "k+", markersize=14)
        axes.set_title(f"{name} = {values[best]:.3g}", fontsize=9)
        axes.tick_params(labelsize=7)
        LOGGER.info("%15s: %.3g", name, values[best])
    for axes in grid[len(names) :]:
        axes.axis("off")
    save_figure(figure, path.with_suffix(".png"), 200)


def plot_val_study(file: str | Path = "", dir: str | Path = "", x: Iterable[float] | None = None) -> None:  # noqa: A002
    """Save study.png: mAP against milliseconds per image, from the study_*.txt files of ``val.py --task study``.

    Args:
        file: a study file whose folder holds the others.
        dir: that folder, instead.
        x: the image sizes measured, written at the points.

    Raises:
        MissingFileError: no study file there.
        InputError: a file of another form.
    """
    folder = Path(file).parent if file else Path(dir)
    files = sorted(folder.glob("study*.txt"))
    if not files:
        raise MissingFileError(f"{folder}: no study*.txt in this folder")
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    for number, path in enumerate(files):
        table = np.loadtxt(path, dtype=np.float64, ndmin=2)
        if table.shape[1] < STUDY_COLUMNS:
            raise InputError(f"{path}: {table.shape[1]} columns, expected {STUDY_COLUMNS}")
        name = path.stem.removeprefix("study_")
        axes.plot(table[:, 8], table[:, 3] * 100, ".-", label=name, color=LINE_COLORS[number % len(LINE_COLORS)])
        for size, row in zip([] if x is None else x, table, strict=False):
            axes.annotate(f"{size:g}", (row[8], row[3] * 100), fontsize=7, xytext=(3, -8), textcoords="offset points")
    axes.set(xlabel="inference (ms / image)", ylabel="mAP50-95 (%)")
    axes.set_xlim(left=0)
    axes.grid(color="#ececec")
    axes.legend(loc="lower right", fontsize=9)
    save_figure(figure, folder / "study.png", 300)


def butter_lowpass_filtfilt(data: np.ndarray, cutoff: float = 1500, fs: float = 50000, order: int = 5) -> np.ndarray:
    """Filter a signal (n,) with a Butterworth low pass forwards and backwards; needs SciPy.

    Args:
        data: samples.
        cutoff: frequency in Hz.
        fs: samples per second.
        order: of the filter.
    """
    from scipy.signal import butter, filtfilt

    return filtfilt(*butter(order, cutoff / (fs / 2), btype="low", analog=False), data)
