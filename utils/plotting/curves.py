"""Pictures of a validation: precision-recall and metric-confidence curves, confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.annotator import colors
from utils.plotting.figures import LegendEntry, name_ticks, named_legend, new_figure, save_figure, unit_color
from utils.plotting.fonts import name_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Names = Mapping[int, str] | Iterable[str]

CLASSES_DRAWN = 20  # with more, one line per class cannot be told apart
CELLS_NUMBERED = 30  # with more classes, numbers in the cells cannot be read
MEAN_COLOR = "#1f3fd0"
DPI = 250


def plot_pr_curve(
    px: np.ndarray,
    py: Sequence[np.ndarray],
    ap: np.ndarray,
    save_dir: str | Path = Path("pr_curve.png"),
    names: Names = (),
) -> None:
    """Draw precision against recall at IoU 0.5, one line per class up to 20 classes, and the mean.

    Args:
        px: (k,) recall.
        py: per class (k,) precision.
        ap: (classes, thresholds) average precision, IoU 0.5 first.
        save_dir: the picture's path (the name is inherited).
        names: names of these classes, in the order of ``py``.
    """
    curves = np.asarray(py, dtype=np.float64).reshape(-1, len(px))
    ap50 = np.asarray(ap, dtype=np.float64).reshape(len(curves), -1)[:, 0] if len(curves) else np.zeros(0)
    mean = f"all classes {ap50.mean():.3f} mAP@0.5" if len(curves) else "no labelled class"
    endings = [f" {value:.3f}" for value in ap50]
    labels = ("Recall", "Precision", "Precision-Recall Curve")
    _plot_curves(px, curves, curves.mean(0) if len(curves) else None, (mean, endings), labels, (save_dir, names))


def plot_mc_curve(  # noqa: PLR0913 (inherited signature)
    px: np.ndarray,
    py: np.ndarray,
    save_dir: str | Path = Path("mc_curve.png"),
    names: Names = (),
    xlabel: str = "Confidence",
    ylabel: str = "Metric",
) -> None:
    """Draw a metric against the confidence threshold, one line per class up to 20 classes, and the smoothed mean.

    Args:
        px: (k,) confidence.
        py: (classes, k) metric.
        save_dir: the picture's path (the name is inherited).
        names: names of these classes, in the order of ``py``.
        xlabel: text below.
        ylabel: the metric's name.
    """
    curves = np.asarray(py, dtype=np.float64).reshape(-1, len(px))
    mean = _smooth(curves.mean(0)) if len(curves) else None
    text = "no labelled class"
    if mean is not None:
        text = f"all classes {mean.max():.2f} at {np.asarray(px)[mean.argmax()]:.3f}"
    labels = (xlabel, ylabel, f"{ylabel}-Confidence Curve")
    _plot_curves(px, curves, mean, (text, [""] * len(curves)), labels, (save_dir, names))


def _smooth(y: np.ndarray, fraction: float = 0.05) -> np.ndarray:
    """Average a curve (k,) over a window of about ``fraction`` of it, its ends continued; same length."""
    width = round(len(y) * fraction * 2) // 2 + 1
    padded = np.pad(y, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")[: len(y)]


def _plot_curves(
    px: np.ndarray,
    curves: np.ndarray,
    mean: np.ndarray | None,
    texts: tuple[str, list[str]],
    labels: tuple[str, str, str],
    target: tuple[str | Path, Names],
) -> None:
    """Draw lines, their mean and a legend beside them.

    Args:
        px: (k,) x values.
        curves: (classes, k) y values.
        mean: (k,) the emphasised line, None without classes.
        texts: legend of the mean, and what follows each class name.
        labels: below, left, above.
        target: the picture's path and the classes' names.
    """
    figure = new_figure(9, 6)
    axes = figure.add_subplot()
    names = name_table(target[1])
    entries: list[LegendEntry] = []
    if 0 < len(curves) <= min(len(names), CLASSES_DRAWN):
        for i, (curve, (number, name)) in enumerate(zip(curves, names.items(), strict=False)):
            (line,) = axes.plot(px, curve, linewidth=1.2, color=unit_color(colors(number)))
            entries.append(LegendEntry(line, number, name, texts[1][i]))
    elif len(curves):
        axes.plot(px, curves.T, linewidth=0.7, color="#aab2bf", alpha=0.5)
    if mean is None:
        axes.text(0.5, 0.5, texts[0], ha="center", va="center", color="#666666")
    else:
        (line,) = axes.plot(px, mean, linewidth=3, color=MEAN_COLOR)
        entries.append(LegendEntry(line, -1, texts[0]))
        named_legend(axes, entries, 9 if len(entries) < 16 else 8, loc="upper left", bbox_to_anchor=(1.02, 1))
    axes.set(xlabel=labels[0], ylabel=labels[1], title=labels[2], xlim=(0, 1), ylim=(0, 1.005))
    axes.grid(color="#e6e6e6", linewidth=0.6)
    save_figure(figure, target[0], DPI)


def column_normalised(matrix: np.ndarray) -> np.ndarray:
    """Return a (n, n) matrix with each column divided by its sum; a column of zeros stays zero."""
    totals = matrix.sum(0, keepdims=True)
    return np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)


def plot_confusion_matrix(
    matrix: np.ndarray, names: Mapping[int, str] | Sequence[str], path: str | Path, normalize: bool = True
) -> None:
    """Draw a confusion matrix: true classes below, predicted ones at the left, background last.

    Args:
        matrix: (nc + 1, nc + 1) counts, rows predicted, columns true.
        names: class names, as a list or a dict by class number; numbers where there are none.
        path: the picture's path.
        normalize: show shares of each column, so that every true class adds up to 1.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    values = column_normalised(matrix) if normalize else matrix
    nc = len(matrix) - 1
    table = name_table(names)
    ticks = [(i, table.get(i, str(i))) for i in range(nc)] + [(nc, "background")]
    side = 9.0 if nc < CELLS_NUMBERED else min(9 + (nc - CELLS_NUMBERED) * 0.06, 18)
    figure = new_figure(side * 4 / 3, side)
    axes = figure.add_subplot()
    limit = 1.0 if normalize else max(values.max(), 1.0)
    edges = np.arange(nc + 2) - 0.5
    # a mesh of cells: as an image the matrix would be enlarged to the picture's pixels, in time and 300 MB of memory
    cells = axes.pcolormesh(edges, edges, np.ma.masked_less(values, 0.005), cmap="Blues", vmin=0, vmax=limit)
    if nc < CELLS_NUMBERED:
        _number_cells(axes, values, "{:.2f}" if normalize else "{:.0f}", limit)
    _separate_cells(axes, nc + 1)
    fontsize = float(np.clip(400 / (nc + 1), 5, 11))
    name_ticks(axes, "x", ticks, fontsize)
    name_ticks(axes, "y", ticks, fontsize)
    title = "Confusion Matrix" + (" (share of each true class)" if normalize else " (objects)")
    axes.set(xlabel="True", ylabel="Predicted", title=title)
    figure.colorbar(cells, ax=axes, fraction=0.04, pad=0.02).outline.set_visible(False)
    save_figure(figure, path, DPI)


def _number_cells(axes: Axes, values: np.ndarray, form: str, limit: float) -> None:
    """Write each value (n, n) that does not round to nothing into its cell."""
    size = float(np.clip(180 / len(values), 5, 13))
    for row, column in zip(*np.nonzero(values >= 0.005), strict=True):
        value = values[row, column]
        shade = "white" if value > 0.55 * limit else "#222222"
        axes.text(column, row, form.format(value), ha="center", va="center", fontsize=size, color=shade)


def _separate_cells(axes: Axes, n: int) -> None:
    """Draw thin lines between the cells and remove the frame."""
    between, ends = np.arange(n - 1) + 0.5, (-0.5, n - 0.5)
    style = {"colors": "#e3e7ee", "linewidth": 0.5, "zorder": 1.5}
    axes.vlines(between, *ends, **style)
    axes.hlines(between, *ends, **style)
    axes.set(xlim=ends, ylim=ends[::-1])
    axes.spines[:].set_color("#c5ccd6")
