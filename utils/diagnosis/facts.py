"""From a summary to the facts that the rules of advice look at, by the names of ``fact_table``."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from utils.diagnosis.advice import Facts
from utils.diagnosis.summary import confusion_shares, largest_error, named_pairs

WRONG_LABELS = ("L12", "L15", "L17", "L22")
GRID = 32
LARGER = 1.5
SIZES = "nsmlx"
SEEN = 2  # a single confused object tells nothing of a class


def collect_facts(summary: Mapping[str, Any]) -> Facts:
    """Return what a summary tells the rules; what was not measured is None."""
    run: dict[str, Any] = {**_setting_facts(summary), **_label_facts(summary)}
    errors = summary.get("errors")
    if not errors:
        return Facts(run, _train_classes(summary), [], _comparisons(summary))
    run |= _error_facts(errors)
    run["map50_train"] = summary["run"].get("map50_train")
    if run["map50_train"] is not None and run["map50"] is not None:
        run["map_gap"] = run["map50_train"] - run["map50"]
    return Facts(run, _class_facts(errors), _pair_facts(errors["pairs"]), _comparisons(summary))


def _setting_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    run, data = summary["run"], summary["data"]
    imgsz = run.get("imgsz")
    model = str(run.get("model") or "")
    larger = None
    if model.startswith("yolov5") and model[-1:] in SIZES and model[-1:] != SIZES[-1]:
        larger = f"{model[:-1]}{SIZES[SIZES.index(model[-1]) + 1]}.yaml"
    return {
        "images": data.get("images"), "objects": data.get("objects"), "data": data.get("yaml"),
        "weights": run.get("weights"), "model": run.get("model"), "larger_model": larger, "imgsz": imgsz,
        "larger_imgsz": None if not imgsz else round(imgsz * LARGER / GRID) * GRID,
        "train_options": None if run.get("train_options") is None else shlex.join(run["train_options"]),
        **{key: run.get(key) for key in ("cls", "class_gain", "cls_loss", "folder", "advice_file", "thresholds_file")},
    }  # fmt: skip


def _label_facts(summary: Mapping[str, Any]) -> dict[str, Any]:
    audit, agreement = summary.get("audit"), summary.get("agreement")
    facts: dict[str, Any] = {}
    if audit:
        counts = {row["code"]: row["count"] for row in audit["codes"]}
        checked = audit["boxes_checked"]
        wrong, overlooked, loose = (
            sum(counts.get(code, 0) for code in codes) for codes in (WRONG_LABELS, ("L20",), ("L21",))
        )
        facts |= {
            "label_errors": audit["errors"], "label_warnings": audit["warnings"], "labels_checked": checked,
            "wrong_labels": wrong, "wrong_label_share": wrong / checked if checked else None,
        }  # fmt: skip
        if any(item["near_duplicates"] is not None for item in audit["images"].values()):  # pixels were read
            facts |= {"leaked_images": counts.get("L15", 0), "near_leaked_images": counts.get("L16", 0)}
        if audit.get("from_model"):
            facts |= {"overlooked": overlooked, "loose_labels": loose,
                      "overlooked_share": overlooked / checked if checked else None,
                      "loose_share": loose / checked if checked else None}  # fmt: skip
    if agreement:
        facts |= {"alpha": agreement.get("alpha"), "alpha_detect": agreement.get("alpha_detect")}
    train = _train_balance(summary)
    if train and train["ratio"]:
        names = {row["id"]: row["name"] for row in train["classes"]}
        facts |= {"imbalance": train["ratio"], "rarest": names[train["least"]], "most_frequent": names[train["most"]]}
    return facts


def _train_balance(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the balance of the training set: of "train", else of the only split that was looked at."""
    splits = (summary.get("balance") or {}).get("splits") or {}
    return splits.get("train") or next(iter(splits.values()), None)


def _error_facts(errors: Mapping[str, Any]) -> dict[str, Any]:
    tide, counts = errors["tide"], errors["operating"]["counts"]
    kind, cost = largest_error(tide["delta"])
    both, rare = confusion_shares(errors["pairs"])
    train = errors.get("train") or {}
    conf = errors["conf"]
    facts = {
        "map50": tide["map"], "largest_error": kind, "largest_delta": cost,
        **{f"delta_{name.lower()}": value for name, value in tide["delta"].items()},
        "symmetric_share": both, "rare_share": rare, "top_pairs": named_pairs(errors["pairs"]) or None,
        "largest_pair_share": max((p["share"] for p in errors["pairs"] if p["count"] >= SEEN), default=0.0),
        "background_errors": counts["background"], "missed": counts["missed"], "duplicates": counts["duplicate"],
        "missed_share": _share(counts["missed"], counts["objects"]),
        "missed_small_share": errors["missed_small_share"],
        "extra_share": _share(counts["extra class"], counts["predictions"]),
        "conf": statistics.fmean(conf) if isinstance(conf, Sequence) else conf,
    }  # fmt: skip
    if train:
        facts |= {"background_images": train["background"],
                  "background_share": _share(train["background"], train["images"])}  # fmt: skip
        if train["imbalance"]:
            facts |= {key: train[key] for key in ("imbalance", "rarest", "most_frequent")}
    return facts


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _class_facts(errors: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each class that occurs anywhere, the rarest in training first."""
    rows = [row for row in errors["classes"] if row["n_val"] or row["n_train"]]
    n_median = _median(row["n_train"] for row in rows if row["n_train"])
    ap_median = _median(row["ap50"] for row in rows if row["ap50"] is not None)
    conf_median = _median(row["best_conf"] for row in rows if row["best_conf"] is not None)
    facts = [
        {
            "name": row["name"], "n_val": row["n_val"], **_frequency(row["n_train"], n_median),
            "image_share": row["image_share"], "repeat_factor": row["repeat_factor"],
            "class_ap50": row["ap50"], "ap50_median": ap_median, "ap50_ratio": _ratio(row["ap50"], ap_median),
            "best_conf": row["best_conf"], "best_conf_median": conf_median,
            "conf_ratio": _ratio(row["best_conf"], conf_median), "class_recall": row["recall"],
            "class_missed_share": _share(row["missed"], row["n_val"]),
        }
        for row in rows
    ]  # fmt: skip
    return _rarest_first(facts)


def _train_classes(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows of what the balance of the training set alone tells about classes."""
    train = _train_balance(summary)
    if not train:
        return []
    n_median = _median(row["instances"] for row in train["classes"] if row["instances"])
    rows = [
        {"name": row["name"], **_frequency(row["instances"], n_median), "image_share": row["share_of_images"]}
        for row in train["classes"]
    ]
    return _rarest_first(rows)


def _frequency(count: int | None, median: float | None) -> dict[str, Any]:
    known = count is not None and median is not None
    return {
        "n_train": count, "n_median": median, "frequency_ratio": _ratio(count, median),
        "n_lacking": max(round(median - count), 0) if known else None,
    }  # type: ignore[operator]  # fmt: skip


def _rarest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: float("inf") if row["n_train"] is None else row["n_train"])


def _median(values: Any) -> float | None:
    known = list(values)
    return float(statistics.median(known)) if known else None


def _ratio(value: float | None, whole: float | None) -> float | None:
    return None if value is None or not whole else value / whole


def _pair_facts(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    same = ("reverse_count", "reverse_share", "symmetry", "n_true", "n_pred", "frequency_ratio", "image_share",
            "together", "repeat_factor", "annotators_disagree")  # fmt: skip
    return [
        {
            "predicted": pair["predicted_name"], "true": pair["true_name"], "pair_count": pair["count"],
            "pair_share": pair["share"], "pair_delta": pair["delta"], **{key: pair[key] for key in same},
        }
        for pair in pairs
    ]  # fmt: skip


def _comparisons(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "compare_name": run["name"], "compare_map50": run["map50"]["other"],
            "compare_difference": run["map50"]["difference"], "compare_low": run["map50"]["low"],
            "compare_high": run["map50"]["high"],
        }
        for run in summary.get("comparison") or []
    ]  # fmt: skip
