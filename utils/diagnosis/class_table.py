"""One row for each class: what became of its objects and predictions, with intervals that tell how sure a rate is."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.diagnosis.ap import class_aps
from utils.diagnosis.data import GroundTruth, Predictions, plain
from utils.diagnosis.operating import MISCLASSIFIED, RIGHT, OperatingResult
from utils.diagnosis.overlaps import find_overlaps
from utils.diagnosis.tide import TideResult
from utils.errors import WorkError

Z_95 = 1.959963984540054  # normal quantile of a two-sided 95 % interval
FEW_OBJECTS = 30
TOO_FEW = "too few to judge"
LISTED = 3
COCO_IOUS = np.linspace(0.5, 0.95, 10)
NAN = float("nan")


@dataclass(frozen=True)
class ClassTable:
    """The table of classes.

    Attributes:
        table: one dictionary for each class, in order. Counts at the operating point: n_val objects are tp +
            misclassified + missed + badly_located, predictions are tp + wrong_class + fp, fp is background + duplicate
            + location + extra_class + other. Rates precision, recall and f1 (0 to 1, NaN without cases) each with
            _low and _high; ap50 and ap (IoU 0.5 to 0.95) 0 to 100; best_conf and best_f1; conf_tp and conf_fp, mean
            confidence of right and of all wrong predictions; taken_for and taken_from as text; few and note.
        thresholds: (nc,) confidence with the best F1, NaN where no prediction is right.
    """

    table: list[dict[str, Any]]
    thresholds: np.ndarray

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows with plain values, None for what is undefined."""
        return [plain(row) for row in self.table]

    def to_dict(self) -> dict[str, Any]:
        """Return rows and thresholds for JSON."""
        return {"rows": self.rows(), "thresholds": plain(self.thresholds)}

    def save(self, path: str | Path) -> None:
        """Write the rows as CSV, empty cells for what is undefined.

        Raises:
            WorkError: the file cannot be written.
        """
        write_csv(path, list(self.table[0]) if self.table else ["class"], self.rows())


def class_table(  # noqa: PLR0913  (what the table joins)
    gt: GroundTruth,
    ap_view: TideResult,
    operating: OperatingResult,
    a: Predictions,
    b: Predictions,
    n_train: np.ndarray | None = None,
) -> ClassTable:
    """Join both views into one row for each class.

    Args:
        gt: the labelled objects.
        ap_view: the AP view of ``a``.
        operating: the operating view of ``b``.
        a: all predictions as val makes them.
        b: predictions as detect makes them, before the threshold.
        n_train: (nc,) objects of each class in training, where known.
    """
    thresholds, best_f1 = best_f1_thresholds(gt, b, operating.t_f)
    ap = ap_over_ious(gt, a)
    used, kinds = operating.predictions, operating.pred_type
    wrong = kinds != RIGHT
    confused = _confused(operating, gt.nc)
    table = []
    for c in range(gt.nc):
        mine = used.cls == c
        count = {name: int(numbers[c]) for name, numbers in operating.per_class.items()}
        few = count["objects"] < FEW_OBJECTS
        table.append(
            {
                "class": c,
                "name": gt.names[c],
                "n_train": None if n_train is None else int(n_train[c]),
                "n_val": count["objects"],
                "predictions": count["predictions"],
                "tp": count["TP"],
                "fp": count["FP"],
                **{key: count[key.replace("_", " ")] for key in FALSE_COLUMNS},
                "wrong_class": int((mine & (kinds == MISCLASSIFIED)).sum()),
                "fn": count["FN"],
                "missed": count["missed"],
                "badly_located": count["badly located"],
                "misclassified": count["misclassified"],
                "taken_for": _listed(confused[:, c], gt.names),
                "taken_from": _listed(confused[c], gt.names),
                **_rates(count["TP"], count["predictions"], count["objects"]),
                "ap50": float(ap_view.ap[c]),
                "ap": float(ap[c]),
                "best_conf": float(thresholds[c]),
                "best_f1": float(best_f1[c]),
                "conf_tp": _mean(used.conf[mine & ~wrong]),
                "conf_fp": _mean(used.conf[mine & wrong]),
                "few": few,
                "note": TOO_FEW if few else "",
            }
        )
    return ClassTable(table, thresholds)


FALSE_COLUMNS = ("background", "duplicate", "location", "extra_class", "other")


def wilson(successes: int, cases: int, z: float = Z_95) -> tuple[float, float]:
    """Return Wilson's score interval of a share, (NaN, NaN) without cases.

    (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n) with p = successes / cases (Wilson 1927).
    """
    if cases <= 0:
        return NAN, NAN
    share = successes / cases
    centre, scale = share + z * z / (2 * cases), 1 + z * z / cases
    half = z * math.sqrt(share * (1 - share) / cases + z * z / (4 * cases * cases))
    low = 0.0 if successes == 0 else (centre - half) / scale
    return low, 1.0 if successes == cases else (centre + half) / scale


def _rates(tp: int, predictions: int, objects: int) -> dict[str, float]:
    """Return precision, recall and F1 with intervals.

    F1 is no share of cases, but 2J/(1 + J) of one: J = tp / (all predictions and objects, right pairs once).
    """
    rates: dict[str, float] = {}
    for name, cases in (("precision", predictions), ("recall", objects), ("f1", predictions + objects - tp)):
        values = (tp / cases if cases else NAN, *wilson(tp, cases))
        if name == "f1":
            values = tuple(2 * j / (1 + j) for j in values)
        rates[name], rates[f"{name}_low"], rates[f"{name}_high"] = values
    return rates


def best_f1_thresholds(gt: GroundTruth, pred: Predictions, t_f: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return each class's confidence with the best F1 and that F1, both (nc,), NaN where nothing is right.

    Predictions must lie above their threshold. What is right is decided in view of all predictions.
    """
    from utils.class_thresholds import best_thresholds

    overlaps = find_overlaps(gt, pred)
    right = overlaps.select(overlaps.same & (overlaps.iou >= t_f)).match() >= 0
    conf = pred.conf.astype(np.float32)  # as NMS compares
    classes, n_gt = np.arange(gt.nc), gt.counts()
    thresholds = best_thresholds(right, conf, pred.cls, classes, n_gt)
    kept = conf > np.nan_to_num(thresholds, nan=np.inf).astype(np.float32)[pred.cls]
    hits = np.bincount(pred.cls[kept & right], minlength=gt.nc)
    f1 = 2 * hits / np.maximum(np.bincount(pred.cls[kept], minlength=gt.nc) + n_gt, 1)
    return thresholds, np.where(np.isnan(thresholds), NAN, f1)


def ap_over_ious(gt: GroundTruth, pred: Predictions, ious: np.ndarray = COCO_IOUS) -> np.ndarray:
    """Return the mean AP of each class (nc,) over IoU thresholds, 0 to 100; NaN for a class without objects."""
    overlaps = find_overlaps(gt, pred)
    near = overlaps.select(overlaps.same & (overlaps.iou >= ious.min()))
    order = np.argsort(-pred.conf, kind="stable")
    aps = [
        class_aps(pred.cls[order], near.select(near.iou >= t).match()[order] >= 0, gt.counts()) for t in ious.tolist()
    ]
    return np.mean(aps, axis=0)


def save_class_thresholds(path: str | Path, table: ClassTable, names: dict[int, str], origin: str) -> None:
    """Write the thresholds as a thresholds.yaml for --class-thres; ``origin`` tells of which run and data.

    Raises:
        WorkError: the file cannot be written.
    """
    from utils.class_thresholds import save_thresholds

    save_thresholds(path, dict(enumerate(table.thresholds.tolist())), names, origin)


def write_csv(path: str | Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV in UTF-8, numbers with six significant digits.

    Raises:
        WorkError: the file cannot be written.
    """
    try:
        with Path(path).open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            writer = csv.DictWriter(stream, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({error.strerror})") from error


def _cell(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _confused(operating: OperatingResult, nc: int) -> np.ndarray:
    """Return the misclassifications (nc, nc), rows predicted, columns true."""
    table = np.zeros((nc, nc), np.int64)
    for (k, g), number in operating.pairs.items():
        table[k, g] = number
    return table


def _listed(numbers: np.ndarray, names: dict[int, str]) -> str:
    """Return the most frequent classes with their numbers as text."""
    order = np.argsort(-numbers, kind="stable")[:LISTED]
    return ", ".join(f"{names[c]} {numbers[c]}" for c in order.tolist() if numbers[c])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else NAN
