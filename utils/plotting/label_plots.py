"""Pictures of a data set's labels: how many of each class, where and how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.annotator import colors
from utils.plotting.figures import name_ticks, new_figure, save_figure, unit_color
from utils.plotting.fonts import name_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES_NAMED = 60
BOXES_DRAWN = 1000
CANVAS = 1000  # pixels of the picture that all boxes are drawn on
DENSITY = "Blues"


def hist2d(x: np.ndarray, y: np.ndarray, n: int = 100) -> np.ndarray:
    """Return the logarithm of the number of points in each point's cell of an n by n grid.

    Args:
        x: (k,) values.
        y: (k,) values.
        n: grid lines per axis.

    Returns:
        (k,) float64.
    """
    edges_x, edges_y = np.linspace(x.min(), x.max(), n), np.linspace(y.min(), y.max(), n)
    counts = np.histogram2d(x, y, (edges_x, edges_y))[0]
    column = np.clip(np.digitize(x, edges_x) - 1, 0, counts.shape[0] - 1)
    row = np.clip(np.digitize(y, edges_y) - 1, 0, counts.shape[1] - 1)
    return np.log(counts[column, row])


def plot_labels(
    labels: np.ndarray, names: Mapping[int, str] | Sequence[str] = (), save_dir: str | Path = Path()
) -> None:
    """Save labels.jpg (classes, boxes, places, sizes) and labels_correlogram.jpg (each of cx, cy, w, h by each).

    Args:
        labels: (n, 5) class, cx, cy, w, h as shares of the image.
        names: class names.
        save_dir: folder of the pictures.

    Raises:
        WorkError: the pictures cannot be written.
    """
    labels = np.asarray(labels, dtype=np.float64).reshape(-1, 5)
    classes, boxes = labels[:, 0].astype(int), labels[:, 1:]
    table = name_table(names)
    count = max(len(table), classes.max(initial=-1) + 1, 1)
    _plot_overview(classes, boxes, {i: table.get(i, str(i)) for i in range(count)}, Path(save_dir) / "labels.jpg")
    _plot_correlogram(boxes, Path(save_dir) / "labels_correlogram.jpg")


def _plot_overview(classes: np.ndarray, boxes: np.ndarray, names: dict[int, str], path: Path) -> None:
    """Draw the four parts of labels.jpg from classes (n,) and boxes (n, 4) xywhn."""
    figure = new_figure(10, 10)
    (top_left, top_right), (left, right) = figure.subplots(2, 2)
    _plot_counts(top_left, np.bincount(classes, minlength=len(names)), names)
    frame = max(_limits(boxes))
    top_right.imshow(_overlaid_boxes(classes, boxes[:, 2:] / frame))
    top_right.set(title=f"boxes about one centre (frame: {frame:.0%} of the image)", xticks=[], yticks=[])
    _plot_density(left, boxes[:, 0], boxes[:, 1], (1.0, 1.0))
    left.set(xlabel="centre x", ylabel="centre y", title="where: shares of the image")
    left.invert_yaxis()
    _plot_density(right, boxes[:, 2], boxes[:, 3], _limits(boxes))
    right.set(xlabel="width", ylabel="height", title="how large: shares of the image")
    save_figure(figure, path, 200)


def _limits(boxes: np.ndarray) -> tuple[float, float]:
    """Return upper limits of width and height that show small objects large, at least 0.1 and at most 1."""
    largest = boxes[:, 2:].max(0) * 1.05 if len(boxes) else np.ones(2)
    width, height = np.clip(largest, 0.1, 1.0)
    return float(width), float(height)


def _plot_counts(axes: Axes, counts: np.ndarray, names: dict[int, str]) -> None:
    """Draw one bar per class; a rare class beside a frequent one stays visible on a logarithmic scale."""
    bars = axes.bar(range(len(counts)), counts, color=[unit_color(colors(i)) for i in range(len(counts))], width=0.85)
    largest, smallest = counts.max(initial=1), counts[counts > 0].min(initial=counts.max(initial=1))
    uneven = largest > 50 * max(smallest, 1)
    if uneven:
        axes.set_yscale("log", nonpositive="clip")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylim((0.7, largest * 2) if uneven else (0, largest * 1.08))
    axes.set_ylabel("instances (logarithmic)" if uneven else "instances")
    axes.set_title(f"{int(counts.sum())} instances, {len(counts)} class{'es' if len(counts) > 1 else ''}")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.6, len(counts) - 0.4)
    if len(counts) <= CLASSES_NAMED * 2:
        name_ticks(axes, "x", names.items(), fontsize=float(np.clip(320 / len(counts), 4, 10)))
    if len(counts) <= 15:
        axes.bar_label(bars, fontsize=8, padding=1)


def _overlaid_boxes(classes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return a white picture with up to 1000 boxes about its centre, taken evenly over the data.

    Args:
        classes: (n,) class numbers.
        sizes: (n, 2) width and height as shares of the picture.
    """
    canvas = np.full((CANVAS, CANVAS, 3), 255, np.uint8)
    chosen = np.linspace(0, len(sizes) - 1, min(len(sizes), BOXES_DRAWN)).astype(int)
    for i in sorted(chosen, key=lambda i: -sizes[i].prod()):
        width, height = sizes[i] * CANVAS
        corner = (round((CANVAS - width) / 2), round((CANVAS - height) / 2))
        opposite = (round((CANVAS + width) / 2), round((CANVAS + height) / 2))
        cv2.rectangle(canvas, corner, opposite, colors(classes[i]), 1)
    return canvas


def _plot_density(axes: Axes, x: np.ndarray, y: np.ndarray, limits: tuple[float, float]) -> None:
    """Draw how many points (n,) fall into each cell of a 50 by 50 grid."""
    from matplotlib.colors import PowerNorm

    edges = [np.linspace(0, limit, 51) for limit in limits]
    counts = np.histogram2d(x, y, edges)[0].T
    shade = PowerNorm(0.5, vmin=0, vmax=max(counts.max(), 1))
    axes.pcolormesh(*edges, np.ma.masked_equal(counts, 0), cmap=DENSITY, norm=shade, rasterized=True)
    axes.set(xlim=(0, limits[0]), ylim=(0, limits[1]))


def _plot_correlogram(boxes: np.ndarray, path: Path) -> None:
    """Draw histograms of cx, cy, w, h (n, 4) on the diagonal and each pair's density below it."""
    figure = new_figure(10, 10)
    grid = figure.subplots(4, 4)
    titles = ("centre x", "centre y", "width", "height")
    for row in range(4):
        for column in range(4):
            axes = grid[row, column]
            if column > row:
                axes.axis("off")
                continue
            if row == column:
                axes.hist(boxes[:, row], bins=50, range=(0, 1), color="#3b78b5")
                axes.set_xlim(0, 1)
            else:
                _plot_density(axes, boxes[:, column], boxes[:, row], (1.0, 1.0))
            axes.tick_params(labelsize=7, labelbottom=row == 3, labelleft=column in {0, row})
            axes.set_xlabel(titles[column] if row == 3 else "")
            axes.set_ylabel(titles[row] if column == 0 else "")
    save_figure(figure, path, 200)


def plot_val_txt() -> None:
    """Draw the boxes of val.txt (rows of xyxy in pixels) in this folder as hist2d.png and hist1d.png."""
    xyxy = np.loadtxt("val.txt", dtype=np.float32, ndmin=2)
    centres = (xyxy[:, :2] + xyxy[:, 2:4]) / 2
    figure = new_figure(6, 6)
    axes = figure.add_subplot(aspect="equal")
    axes.hist2d(centres[:, 0], centres[:, 1], bins=600, cmax=10, cmin=0)
    save_figure(figure, "hist2d.png", 300)
    figure = new_figure(12, 6)
    for axes, values in zip(figure.subplots(1, 2), centres.T, strict=True):
        axes.hist(values, bins=600)
    save_figure(figure, "hist1d.png", 200)


def plot_targets_txt() -> None:
    """Draw the matched targets of targets.txt (rows of x, y, w, h) in this folder as targets.jpg."""
    values = np.loadtxt("targets.txt", dtype=np.float32, ndmin=2)
    figure = new_figure(8, 8)
    titles = ("x targets", "y targets", "width targets", "height targets")
    for axes, column, title in zip(figure.subplots(2, 2).flat, values.T, titles, strict=False):
        axes.hist(column, bins=100, label=f"{column.mean():.3g} ± {column.std():.3g}")
        axes.legend(loc="upper right")
        axes.set_title(title)
    save_figure(figure, "targets.jpg", 200)
