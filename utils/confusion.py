"""The confusion matrix of detections against labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from utils.boxes import iou_matrix
from utils.logs import LOGGER


def to_array(x: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return a tensor or array as a numpy array in main memory."""
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


class ConfusionMatrix:
    """Counts of (predicted class, true class); the last row means not found, the last column found on background.

    Boxes are paired by IoU alone, best pair first, so a wrong class on the right place shows off the diagonal. False
    detections are counted only on images where some pair was found.

    Args:
        nc: number of classes.
        conf: detections of lower or equal confidence are left out.
        iou_thres: pairs of lower or equal IoU are no pairs.
    """

    def __init__(self, nc: int, conf: float = 0.25, iou_thres: float = 0.45):
        self.matrix = np.zeros((nc + 1, nc + 1))
        self.nc = nc
        self.conf = conf
        self.iou_thres = iou_thres

    def process_batch(self, detections: torch.Tensor | np.ndarray | None, labels: torch.Tensor | np.ndarray) -> None:
        """Add one image.

        Args:
            detections: (n, 6) x1, y1, x2, y2, conf, class; None for an image without any.
            labels: (m, 5) class, x1, y1, x2, y2; the classes (m,) alone do where detections is None.
        """
        labels = to_array(labels)
        true = (labels if labels.ndim == 1 else labels[:, 0]).astype(int)
        if detections is None:
            np.add.at(self.matrix, (self.nc, true), 1)
            return
        detections = to_array(detections)
        detections = detections[detections[:, 4] > self.conf]
        predicted = detections[:, 5].astype(int)
        label, detection = _best_pairs(iou_matrix(labels[:, 1:5], detections[:, :4]), self.iou_thres)
        np.add.at(self.matrix, (predicted[detection], true[label]), 1)
        np.add.at(self.matrix, (self.nc, np.delete(true, label)), 1)
        if len(label):
            np.add.at(self.matrix, (np.delete(predicted, detection), self.nc), 1)

    def tp_fp(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the true and false positives (nc,) of each class, background left out."""
        hits = self.matrix.diagonal()
        return hits[:-1], (self.matrix.sum(1) - hits)[:-1]

    def plot(self, normalize: bool = True, save_dir: str | Path = "", names: Iterable[str] = ()) -> None:
        """Draw the matrix into save_dir/confusion_matrix.png, each column divided by its sum if normalize is set."""
        from utils.plotting.curves import plot_confusion_matrix

        names = list(names.values() if isinstance(names, Mapping) else names)
        plot_confusion_matrix(self.matrix, names, Path(save_dir) / "confusion_matrix.png", normalize=normalize)

    def print(self) -> None:
        """Log the matrix, a line for each predicted class."""
        for row in self.matrix:
            LOGGER.info(" ".join(f"{value:g}" for value in row))


def _best_pairs(iou: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return paired row numbers and column numbers of an IoU matrix (labels, detections).

    Every column keeps its best row; among the columns that chose it a row keeps the best.
    """
    row, column = (iou > threshold).nonzero()
    by_overlap = iou[row, column].argsort(kind="stable")[::-1]
    row, column = row[by_overlap], column[by_overlap]
    for first in (1, 0):
        keep = np.sort(np.unique((row, column)[first], return_index=True)[1])
        row, column = row[keep], column[keep]
    return row, column
