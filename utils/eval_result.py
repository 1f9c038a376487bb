"""What an evaluation measured, as numbers, table and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.class_thresholds import save_thresholds
from utils.confusion import ConfusionMatrix
from utils.logs import LOGGER
from utils.metrics import ApCurves

HEADER = ("%22s" + "%11s" * 6) % ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95")
ROW = "%22s" + "%11i" * 2 + "%11.3g" * 4
UNDEFINED_ROW = "%22s" + "%11i" * 2 + "%11s" * 4


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation measured; k classes have labels.

    Attributes:
        p: mean precision at the best confidence; like r, map50 and map NaN where no label exists.
        r: mean recall at that confidence.
        map50: mean AP at IoU 0.5.
        map: mean AP over IoU 0.5 to 0.95.
        classes: (k,) class numbers, rising.
        class_p: (k,) precision of each; class_r, class_f1, class_ap50, class_ap, class_tp and class_fp likewise.
        instances: (nc,) labels of each class.
        images: (nc,) images that hold each class.
        seen: number of images.
        losses: validation losses box, obj, cls; zeros without a loss.
        speed: milliseconds per image of pre-processing, inference and NMS.
        confusion_matrix: at confidence 0.25 and IoU 0.45.
        curves: precision, recall and F1 over confidence, precision over recall, AP at each IoU.
        names: class names by number.
        class_thres: (k,) confidence threshold with the best F1 of each; NaN where no detection is right.
    """

    p: float
    r: float
    map50: float
    map: float
    classes: np.ndarray
    class_p: np.ndarray
    class_r: np.ndarray
    class_f1: np.ndarray
    class_ap50: np.ndarray
    class_ap: np.ndarray
    class_tp: np.ndarray
    class_fp: np.ndarray
    instances: np.ndarray
    images: np.ndarray
    seen: int
    losses: tuple[float, float, float]
    speed: tuple[float, float, float]
    confusion_matrix: ConfusionMatrix
    curves: ApCurves
    names: dict[int, str]
    class_thres: np.ndarray

    @property
    def is_defined(self) -> bool:
        """Whether there was a label to be found."""
        return len(self.classes) > 0

    def as_tuple(self) -> tuple[float, ...]:
        """Return P, R, mAP50, mAP50-95, box, obj and cls loss; 0 stands for what is undefined."""
        means = (self.p, self.r, self.map50, self.map)
        return (*(means if self.is_defined else (0.0,) * 4), *self.losses)

    def maps(self, nc: int | None = None) -> np.ndarray:
        """Return mAP50-95 of every class (nc,); a class without labels gets the mean."""
        maps = np.full(len(self.instances) if nc is None else nc, self.map if self.is_defined else 0.0)
        maps[self.classes] = self.class_ap
        return maps

    def per_class(
        self, balance: Any = None, training_stats: Mapping[str, Any] | None = None
    ) -> dict[str, np.ndarray | dict[int, float]]:
        """Return columns by class number for the log: images, instances, p, r, ap50, ap, weight and training's own.

        Args:
            balance: something whose ``weights`` are the loss's class weights (nc,) or None.
            training_stats: what an epoch of training tells, each (nc,): ``weight`` in force (in place of the
                balance's), ``drawn`` samples, ``loss_share``.
        """
        columns: dict[str, Any] = {"images": self.images, "instances": self.instances}
        measured = {"p": self.class_p, "r": self.class_r, "ap50": self.class_ap50, "ap": self.class_ap}
        for key, values in measured.items():
            columns[key] = dict(zip(self.classes.tolist(), values.tolist(), strict=True))
        weights = getattr(balance, "weights", None)
        if weights is not None:
            columns["weight"] = weights
        return {**columns, **(training_stats or {})}

    def save_thresholds(self, path: str | Path, origin: str) -> None:
        """Write class_thres as a thresholds.yaml; ``origin`` tells of which run and data."""
        thresholds = dict(zip(self.classes.tolist(), self.class_thres.tolist(), strict=True))
        save_thresholds(path, thresholds, self.names, origin)

    def for_hook(self) -> tuple[Any, ...]:
        """Return what on_val_end gets: instances, tp, fp, p, r, f1, AP, AP50 and numbers of the classes, matrix."""
        return (
            self.instances, self.class_tp, self.class_fp, self.class_p, self.class_r, self.class_f1, self.class_ap,
            self.class_ap50, self.classes, self.confusion_matrix,
        )  # fmt: skip

    def log_table(self, per_class: bool = False) -> None:
        """Log the row of all classes and, with per_class, one for each class that has labels."""
        total = int(self.instances.sum())
        if not self.is_defined:
            LOGGER.info(UNDEFINED_ROW % ("all", self.seen, total, *["undefined"] * 4))
            LOGGER.warning("no labelled object among the evaluated images: P, R and mAP are undefined")
            return
        LOGGER.info(ROW % ("all", self.seen, total, self.p, self.r, self.map50, self.map))
        if not per_class:
            return
        columns = (self.class_p, self.class_r, self.class_ap50, self.class_ap)
        for i, c in enumerate(self.classes):
            values = [column[i] for column in columns]
            LOGGER.info(ROW % (self.names.get(int(c), str(c)), self.seen, self.instances[c], *values))

    def save_plots(self, save_dir: str | Path) -> None:
        """Save the confusion matrix and the PR, F1, P and R curves."""
        self.confusion_matrix.plot(save_dir=save_dir, names=list(self.names.values()))
        self.curves.save(f"{save_dir}/", self.names)
