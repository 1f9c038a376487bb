"""The figures of one run, all of them read from the summary.json that diagnose.py writes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# column -> what it is, as the page explains it; AP and rates in points (0 to 100)
FIGURES = {
    "map50": "mean AP at IoU 0.5",
    "map": "mean AP over IoU 0.5 to 0.95",
    "rare": "mean AP (0.5 to 0.95) of the third of the classes with the fewest training boxes",
    "frequent": "the same of the third with the most",
    "worst": "AP (0.5 to 0.95) of the worst class",
    "misclassified": "objects taken for another class at the threshold with the best mean F1, % of all objects",
    "rare_misclassified": "the same of the rare third, % of its objects",
    "f1": "mean F1 of the classes at that threshold",
}
INTERVALS = ("map50_low", "map50_high", "rarest_low", "rarest_high")


def thirds(classes: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the rows of the rare and of the frequent third of the classes that occur in training and validation.

    A third of n classes is n // 3, at least one. Classes with equally many training boxes keep their order.

    Raises:
        ValueError: there are fewer than two such classes.
    """
    known = sorted((row for row in classes if row["n_val"] and row["n_train"]), key=lambda row: row["n_train"])
    if len(known) < 2:
        raise ValueError(f"{len(known)} classes occur in training and validation, at least 2 are needed")
    size = max(1, len(known) // 3)
    return known[:size], known[-size:]


def run_figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of FIGURES, the threshold, the rare third's and the worst class's names.

    Args:
        summary: of a diagnosis with the tasks balance and errors.
    """
    errors = summary["errors"]
    classes = [row for row in errors["classes"] if row["n_val"]]
    rare, frequent = thirds(errors["classes"])
    worst = min(classes, key=lambda row: row["ap"])
    return {
        "map50": _mean(classes, "ap50"), "map": _mean(classes, "ap"),
        "rare": _mean(rare, "ap"), "frequent": _mean(frequent, "ap"), "worst": worst["ap"],
        "misclassified": _share(classes), "rare_misclassified": _share(rare), "f1": 100 * _mean(classes, "f1"),
        "conf": errors["conf"], "rare_classes": " ".join(row["name"] for row in rare), "worst_class": worst["name"],
    }  # fmt: skip


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.fmean(row[key] or 0.0 for row in rows)


def _share(rows: Sequence[Mapping[str, Any]]) -> float:
    return 100 * sum(row["misclassified"] for row in rows) / sum(row["n_val"] for row in rows)


def image_intervals(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the 95 % intervals of (this run - the run compared with) of mAP50 and of the rarest class's AP50.

    They come from the diagnosis's paired bootstrap over the validation images, which counts the run compared with minus
    this one. None where nothing was compared.
    """
    if not summary.get("comparison"):
        return dict.fromkeys(INTERVALS)
    part = summary["comparison"][0]
    rarest = thirds(summary["errors"]["classes"])[0][0]["name"]
    row = next(row for row in part["classes"] if row["measure"] == "AP50" and row["name"] == rarest)
    values = (-part["map50"]["high"], -part["map50"]["low"], -row["high"], -row["low"])
    return dict(zip(INTERVALS, values, strict=True))


def advised(summary: Mapping[str, Any]) -> str:
    """Return what the diagnosis would change in the hyp file, '' for nothing."""
    return ", ".join(f"{change['key']} {change['after']}" for change in summary["advice"]["changes"])
