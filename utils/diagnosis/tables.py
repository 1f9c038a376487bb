"""The CSV files of a diagnosis: one row for each error, and the numbers of the report."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.diagnosis.class_table import write_csv
from utils.diagnosis.data import GroundTruth, Predictions
from utils.diagnosis.operating import BADLY_LOCATED, GT_STATES, MISSED, PRED_TYPES, RIGHT, OperatingResult
from utils.diagnosis.tide import MISS, TP, TYPES, TideResult
from utils.errors import WorkError

ERROR_COLUMNS = (
    "image", "type", "pred_class", "true_class", "conf", "iou", "pred_x1", "pred_y1", "pred_x2", "pred_y2", "true_x1",
    "true_y1", "true_x2", "true_y2",
)  # fmt: skip
NO_BOX = ("", "", "", "")


def write_errors(path: str | Path, gt: GroundTruth, result: OperatingResult) -> int:
    """Write a row for each error at the operating point and return their number.

    Wrong predictions come with their types, then objects that were missed or badly located; their numbers by type are
    those of the operating view.

    Raises:
        WorkError: the file cannot be written.
    """
    wrong = np.flatnonzero(result.pred_type != RIGHT)
    kinds = [PRED_TYPES[code] for code in result.pred_type[wrong].tolist()]
    rows = list(_prediction_rows(gt, result.predictions, wrong, kinds, result.pred_target, result.pred_iou))
    for state in (BADLY_LOCATED, MISSED):
        rows += _object_rows(gt, np.flatnonzero(result.gt_state == state), GT_STATES[state])
    return _write_rows(path, rows)


def write_ap_errors(path: str | Path, gt: GroundTruth, pred: Predictions, result: TideResult) -> int:
    """Write a row for each error of the AP view, types as ``tide.ERRORS``, and return their number.

    Raises:
        WorkError: the file cannot be written.
    """
    wrong = np.flatnonzero(result.types > TP)
    kinds = [TYPES[code] for code in result.types[wrong].tolist()]
    rows = list(_prediction_rows(gt, pred, wrong, kinds, result.target, result.iou))
    rows += _object_rows(gt, np.flatnonzero(result.miss), TYPES[MISS])
    return _write_rows(path, rows)


def _prediction_rows(  # noqa: PLR0913  (the columns of the table)
    gt: GroundTruth, pred: Predictions, places: np.ndarray, kinds: Sequence[str], target: np.ndarray, iou: np.ndarray
) -> Iterable[tuple[Any, ...]]:
    names, true_boxes, boxes = gt.names, gt.boxes.round(2).tolist(), pred.boxes[places].round(2).tolist()
    true_classes, files = gt.cls.tolist(), [info.path for info in gt.images]
    columns = (pred.image[places], pred.cls[places], target[places], pred.conf[places].round(6), iou[places].round(4))
    for kind, box, *row in zip(kinds, boxes, *(column.tolist() for column in columns), strict=True):
        image, cls, aim, conf, overlap = row
        true, true_box = (names[true_classes[aim]], true_boxes[aim]) if aim >= 0 else ("", NO_BOX)
        yield files[image], kind, names.get(cls, cls), true, conf, overlap, *box, *true_box


def _object_rows(gt: GroundTruth, places: np.ndarray, kind: str) -> list[tuple[Any, ...]]:
    return [
        (gt.images[image].path, kind, "", gt.names[cls], "", "", *NO_BOX, *box)
        for image, cls, box in zip(
            gt.image[places].tolist(), gt.cls[places].tolist(), gt.boxes[places].round(2).tolist(), strict=True
        )
    ]


def _write_rows(path: str | Path, rows: Sequence[tuple[Any, ...]]) -> int:
    try:
        with Path(path).open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(ERROR_COLUMNS)
            writer.writerows(rows)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({error.strerror})") from error
    return len(rows)


def write_numbers(folder: Path, summary: Mapping[str, Any]) -> dict[str, str]:
    """Write the report's tables as CSV and return file name -> what it holds.

    Raises:
        WorkError: a file cannot be written.
    """
    written = {}
    for name, (meaning, rows) in _number_tables(summary).items():
        if rows:
            write_csv(folder / name, list(rows[0]), rows)
            written[name] = meaning
    return written


def _number_tables(summary: Mapping[str, Any]) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    errors, balance = summary.get("errors"), summary.get("balance")
    tables: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    if errors:
        delta, counts = errors["tide"]["delta"], errors["tide"]["counts"]
        types = [{"view": "A", "type": kind, "count": counts[kind], "delta_map50": delta[kind]} for kind in delta]
        types += [{"view": "A", "type": kind, "count": None, "delta_map50": value}
                  for kind, value in errors["tide"]["special"].items()]  # fmt: skip
        types += [{"view": "B", "type": kind, "count": n, "delta_map50": None}
                  for kind, n in errors["operating"]["counts"].items()]  # fmt: skip
        tables["types.csv"] = "types of errors in both views", types
        tables["pairs.csv"] = "confused pairs of classes", errors["pairs"]
    if balance:
        rows = [{"split": split, **row} for split, facts in balance["splits"].items() for row in facts["classes"]]
        tables["balance.csv"] = "boxes and images of each class", rows
    if summary.get("agreement"):
        tables["agreement.csv"] = "annotators, two at a time", summary["agreement"]["pairs"]
        tables["disagreements.csv"] = "classes that annotators disagree on", summary["agreement"]["disagreements"]
    if summary.get("capacity"):
        tables["capacity.csv"] = "what model sizes cost here", summary["capacity"]["costs"]
    if summary.get("advice"):
        lines = [{key: line[key] for key in ("rule", "title", "about", "evidence", "suggestion", "command")}
                 for line in summary["advice"]["lines"]]  # fmt: skip
        tables["advice.csv"] = "the lines of advice", lines
    return tables
