"""The verdict: three sentences on how good the run is, what costs most, and what to do first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.diagnosis.advice import Facts
from utils.diagnosis.page_parts import number, percent, plural
from utils.diagnosis.summary import named_pairs

ERROR_TEXTS = {
    "Cls": "giving objects the wrong class",
    "Loc": "badly placed boxes",
    "Both": "boxes of the wrong class in the wrong place",
    "Dupe": "second boxes on one object",
    "Bkg": "detections where nothing is labelled",
    "Miss": "missed objects",
}
IMBALANCED = 10


def verdict(summary: Mapping[str, Any], facts: Facts) -> list[str]:
    """Return three sentences."""
    return [_state(summary), _cause(summary, facts), _remedy(summary)]


def _state(summary: Mapping[str, Any]) -> str:
    data, errors, audit = summary["data"], summary.get("errors"), summary.get("audit")
    if errors:
        counts = errors["operating"]["counts"]
        return (
            f"mAP at IoU {errors['tide']['settings']['t_f']:g} is {number(errors['tide']['map'])} on "
            f"{plural(data['images'], 'image')}; at confidence {errors['conf_text']} the model finds "
            f"{counts['TP']:,} of {plural(counts['objects'], 'object')} with their class, and {_shown(counts)}."
        )
    if audit:
        return (
            f"The audit of {plural(audit['boxes_checked'], 'label')} found {plural(audit['errors'], 'error')} and "
            f"{plural(audit['warnings'], 'warning')}."
        )
    agreement = summary.get("agreement")
    if agreement:
        alpha = agreement.get("alpha")
        return f"Annotators agree on classes with alpha {number(alpha, 3)} over {plural(agreement['images'], 'image')}."
    if data["images"] is None and summary.get("capacity"):
        return summary["capacity"]["answer"]
    return f"The data set has {plural(data['images'] or 0, 'image')} with {plural(data['objects'] or 0, 'object')}."


def _shown(counts: Mapping[str, int]) -> str:
    """Return in words how much of what the model shows is right."""
    if not counts["predictions"]:
        return "shows nothing"
    if not counts["objects"]:
        return f"shows {counts['predictions']:,}"
    return f"{percent(counts['TP'] / counts['predictions'])} of what it shows is right"


def _cause(summary: Mapping[str, Any], facts: Facts) -> str:
    run = facts.run
    uneven = _imbalance(run)
    kind = run.get("largest_error")
    if kind and kind != "none":
        text = f"Most is lost by {ERROR_TEXTS[kind]} ({number(run['largest_delta'])} points of mAP)"
        pairs = named_pairs(
            [pair for pair in summary["errors"]["pairs"] if pair["count"] > 1], 3 if kind == "Cls" else 1
        )
        if pairs:
            text += f"; confused most: {pairs}"
        return f"{text}{uneven and f'; {uneven}'}."
    if summary.get("errors"):
        if not summary["data"]["objects"]:
            unknown = "No object is labelled in this split, so that mAP, misses and wrong classes are unknown"
            return f"{unknown}{uneven and f'; {uneven}'}."
        return f"No type of error costs as much as 0.1 points of mAP{uneven and f'; {uneven}'}."
    audit = summary.get("audit")
    if audit and audit["codes"]:
        top = max((row for row in audit["codes"] if row["severity"] != "info"), key=lambda r: r["count"], default=None)
        if top:
            finding = f"The most frequent finding is {top['code']}, {top['meaning']} ({top['count']:,})"
            return f"{finding}{uneven and f'; {uneven}'}."
    agreement = summary.get("agreement")
    if agreement and agreement["disagreements"]:
        top = agreement["disagreements"][0]
        return f"Most disputed: {top['name_a']} or {top['name_b']}, {plural(top['objects'], 'object')}."
    return f"{uneven[:1].upper()}{uneven[1:]}." if uneven else "Nothing stands out."


def _imbalance(run: Mapping[str, Any]) -> str:
    """Return the imbalance of the training set in words, '' when it is none."""
    ratio = run.get("imbalance")
    if ratio is None or ratio <= IMBALANCED:
        return ""
    return (
        f"the classes are imbalanced, {run['most_frequent']} has {number(ratio, 0)} times the boxes of {run['rarest']}"
    )


def _remedy(summary: Mapping[str, Any]) -> str:
    lines = (summary.get("advice") or {}).get("lines", [])
    if not lines:
        return "No rule of advice applies."
    first = lines[0]
    about = f" ({first['about']})" if first["about"] else ""
    what = first["suggestion"].split(". ")[0].rstrip(".")
    text = f"First: {first['title'][:1].lower()}{first['title'][1:]}{about}. {what}."
    more = len(lines) - 1
    return text + (f" {plural(more, 'more line')} of advice below." if more else "")
