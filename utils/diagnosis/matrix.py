"""The confusion matrix of the operating view: rows predicted, columns true, as CSV and pictures."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.diagnosis.data import GroundTruth, Predictions, plain
from utils.diagnosis.operating import GT_STATES, OperatingResult
from utils.errors import WorkError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BACKGROUND, NOT_FOUND, PER_IMAGE = "background", "not found", "background per image"
FORMS = ("counts", "col", "row")
NUMBERED = 30  # classes up to which cells carry numbers
DPI = 150
NOTE = (
    "Matched first within the class, then across classes, at the operating point: every object stands in one column "
    "once and every prediction in one row once. The last column counts the predictions that no object is left for "
    "(on background, badly placed, duplicates), as numbers and per image, never as a share of 1. YOLOv5's own matrix "
    "differs: it matches by overlap without regard to class, leaves out false predictions on images without labels "
    "and on images where nothing matches, and makes shares of the background column. --confusion upstream gives it."
)


@dataclass(frozen=True)
class Confusion:
    """Counts of (predicted, true).

    Attributes:
        counts: (nc + 1, nc + 1) int64; the last row is objects not found, the last column predictions that found no
            object. Columns add up to the objects of a class, rows to the predictions of a class.
        names: class number -> name.
        images: number of images.
    """

    counts: np.ndarray
    names: dict[int, str]
    images: int

    @property
    def by_column(self) -> np.ndarray:
        """Shares (nc + 1, nc) of each true class's objects; NaN for a class without objects."""
        part = self.counts[:, :-1].astype(np.float64)
        return _shares(part, part.sum(0, keepdims=True))

    @property
    def by_row(self) -> np.ndarray:
        """Shares (nc, nc) of each class's predictions; what is missing to 1 found no object."""
        part = self.counts[:-1].astype(np.float64)
        return _shares(part[:, :-1], part.sum(1, keepdims=True))

    @property
    def background_per_image(self) -> np.ndarray:
        """Predictions of each class (nc,) that found no object, per image."""
        return self.counts[:-1, -1] / max(self.images, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the matrix in all forms for JSON."""
        names = [self.names[c] for c in sorted(self.names)]
        return plain(
            {
                "names": names,
                "counts": self.counts,
                "by_column": self.by_column,
                "by_row": self.by_row,
                "background_per_image": self.background_per_image,
                "images": self.images,
                "note": NOTE,
            }
        )

    def save(self, folder: str | Path, pictures: bool = True) -> list[Path]:
        """Write confusion_counts, confusion_col and confusion_row as .csv and, unless switched off, .png.

        Raises:
            WorkError: a file cannot be written.
        """
        written = []
        for form in FORMS:
            path = Path(folder) / f"confusion_{form}.csv"
            self.save_csv(path, form)
            written.append(path)
            if pictures:
                self._save_picture(path.with_suffix(".png"), form)
                written.append(path.with_suffix(".png"))
        return written

    def _shown(self, form: str) -> np.ndarray:
        """Return the cells (nc + 1, nc) of one form, without the last column."""
        if form == "counts":
            return self.counts[:, :-1].astype(np.float64)
        if form == "col":
            return self.by_column
        return np.vstack((self.by_row, np.full((1, len(self.names)), np.nan)))

    def save_csv(self, path: Path, form: str) -> None:
        """Write one form; "counts" is the plain matrix, the others end with the last column as counts and per image.

        Raises:
            WorkError: the file cannot be written.
        """
        names = [self.names[c] for c in sorted(self.names)]
        cells = [["" if np.isnan(value) else f"{value:.6g}" for value in row] for row in self._shown(form)]
        header = ["predicted \\ true", *names, BACKGROUND]
        last = [[str(n)] for n in self.counts[:, -1].tolist()]
        if form != "counts":
            header.append(PER_IMAGE)
            last = [[*n, f"{rate:.6g}"] for n, rate in zip(last[:-1], self.background_per_image, strict=True)] + [[]]
        rows = [[name, *row, *end] for name, row, end in zip([*names, NOT_FOUND], cells, last, strict=True)]
        try:
            with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
                csv.writer(stream, lineterminator="\n").writerows([header, *rows])
        except OSError as error:
            raise WorkError(f"{path}: cannot be written ({error.strerror})") from error

    def _save_picture(self, path: Path, form: str) -> None:
        from utils.plotting.figures import name_ticks, new_figure, save_figure

        values, nc = self._shown(form), len(self.names)
        side = 9.0 if nc < NUMBERED else min(9 + (nc - NUMBERED) * 0.06, 18)
        figure = new_figure(side * 4 / 3, side)
        left, right = figure.subplots(1, 2, width_ratios=[nc, max(1.0, 0.05 * nc)])
        limit = 1.0 if form != "counts" else max(float(values.max(initial=0)), 1.0)
        background = self.counts[:, -1:].astype(np.float64)
        _draw(left, values, "Blues", limit)
        _draw(right, background, "Reds", max(float(background.max(initial=0)), 1.0))
        if nc < NUMBERED:
            _number(left, values, "{:.0f}" if form == "counts" else "{:.2f}", limit)
            for row, (number, rate) in enumerate(zip(self.counts[:-1, -1], self.background_per_image, strict=True)):
                is_dark = number > 0.55 * background.max()
                _write(right, 0, row, f"{number}\n{rate:.2g}/img", is_dark, nc + 1)
        size = float(np.clip(400 / (nc + 1), 5, 11))
        ticks = [(c, self.names[c]) for c in sorted(self.names)]
        name_ticks(left, "x", ticks, size)
        name_ticks(left, "y", [*ticks, (nc, NOT_FOUND)], size)
        right.set_yticks([])
        right.set_xticks([0], [BACKGROUND], fontsize=size, rotation=90 if nc >= NUMBERED else 0)
        titles = {"counts": "objects", "col": "share of each true class", "row": "share of each predicted class"}
        left.set(xlabel="True", ylabel="Predicted", title=f"Confusion matrix ({titles[form]})")
        save_figure(figure, path, DPI)


def confusion(gt: GroundTruth, operating: OperatingResult) -> Confusion:
    """Return the confusion matrix of an operating view."""
    nc, pred = gt.nc, operating.predictions
    counts = np.zeros((nc + 1, nc + 1), np.int64)
    taken = operating.gt_pred >= 0
    np.add.at(counts, (pred.cls[operating.gt_pred[taken]], gt.cls[taken]), 1)
    lost = operating.gt_state >= GT_STATES.index("badly located")
    counts[nc, :nc] = np.bincount(gt.cls[lost], minlength=nc)
    counts[:nc, nc] = operating.per_class["FP"]
    return Confusion(counts, gt.names, len(gt.images))


def upstream_confusion(gt: GroundTruth, a: Predictions, conf: float = 0.25, iou_thres: float = 0.45) -> Any:
    """Return the matrix as val draws it (utils.confusion.ConfusionMatrix), from all predictions of the AP view."""
    from utils.confusion import ConfusionMatrix

    matrix = ConfusionMatrix(gt.nc, conf, iou_thres)
    for i in range(len(gt.images)):
        objects, rows = gt.of_image(i), a.of_image(i)
        labels = np.column_stack((gt.cls[objects], gt.boxes[objects])).astype(np.float32)
        found = np.column_stack((a.boxes[rows], a.conf[rows], a.cls[rows])).astype(np.float32)
        if len(labels):
            matrix.process_batch(found if len(found) else None, labels)
    return matrix


def save_upstream_confusion(folder: str | Path, gt: GroundTruth, a: Predictions) -> list[Path]:
    """Write val's matrix as confusion_upstream.csv (counts) and confusion_upstream.png (shares of each column).

    Raises:
        WorkError: a file cannot be written.
    """
    from utils.plotting.curves import plot_confusion_matrix

    matrix = upstream_confusion(gt, a).matrix
    table = Confusion(matrix.astype(np.int64), gt.names, len(gt.images))
    path = Path(folder) / "confusion_upstream.csv"
    table.save_csv(path, "counts")
    plot_confusion_matrix(matrix, gt.names, path.with_suffix(".png"))
    return [path, path.with_suffix(".png")]


def _shares(part: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return np.divide(part, totals, out=np.full(part.shape, np.nan), where=totals > 0)


def _draw(axes: Axes, values: np.ndarray, colors: str, limit: float) -> None:
    shown = np.ma.masked_invalid(np.where(values < 0.005, np.nan, values))
    axes.imshow(shown, cmap=colors, vmin=0, vmax=limit, aspect="auto")
    rows, columns = values.shape
    axes.set_xticks(np.arange(columns - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#e3e7ee", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_color("#c5ccd6")


def _number(axes: Axes, values: np.ndarray, form: str, limit: float) -> None:
    """Write each value that does not round to nothing into its cell."""
    for row, column in zip(*np.nonzero(np.nan_to_num(values) >= 0.005), strict=True):
        value = values[row, column]
        _write(axes, column, row, form.format(value), value > 0.55 * limit, len(values))


def _write(axes: Axes, column: int, row: int, text: str, dark: bool, cells: int) -> None:
    size = float(np.clip(180 / cells, 5, 13))
    axes.text(column, row, text, ha="center", va="center", fontsize=size, color="white" if dark else "#222222")
