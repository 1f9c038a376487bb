"""summary.json: every number of a diagnosis, under a schema with a version (docs/diagnosis.md lists the keys)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.diagnosis.data import plain
from utils.diagnosis.judge import CONF_REASONS, Judged
from utils.diagnosis.train_facts import TrainFacts
from utils.errors import WorkError

if TYPE_CHECKING:
    from utils.diagnosis.agreement import Agreement
    from utils.diagnosis.audit import Audit
    from utils.diagnosis.compare import Comparison

SCHEMA, VERSION = "yolov5-diagnosis", 1
LEAST_DELTA = 0.05  # mAP points from which a pair without a confusion at the operating point is listed
LEAST_COST = 0.1  # mAP points below which no type of error counts as the largest
SYMMETRIC, RARE = 0.5, 0.2
NAMED_PAIRS = 3
LISTED_FINDINGS = 1000
KEYS = ("schema", "version", "created", "tasks", "data", "run", "settings", "verdict", "errors", "balance", "audit",
        "agreement", "advice", "comparison", "capacity", "notes", "files")  # fmt: skip


def write_summary(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Write the summary as JSON without NaN.

    Raises:
        WorkError: it cannot be written.
    """
    text = json.dumps(plain(dict(summary)), indent=1, ensure_ascii=False, allow_nan=False)
    try:
        Path(path).write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({error.strerror})") from error


def new_summary(created: str, tasks: Sequence[str], data: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary without results: every key of the schema is there, None where nothing was measured."""
    empty: dict[str, Any] = dict.fromkeys(KEYS)
    return empty | {
        "schema": SCHEMA, "version": VERSION, "created": created, "tasks": list(tasks), "data": dict(data),
        "run": dict(run), "settings": {}, "verdict": [], "notes": [], "files": {},
    }  # fmt: skip


# Errors ---------------------------------------------------------------------------------------------------------------


def errors_summary(
    judged: Judged, train: TrainFacts | None = None, disputed: Mapping[tuple[int, int], int] | None = None
) -> dict[str, Any]:
    """Return the part about errors.

    Args:
        judged: both views.
        train: of the training set, where known.
        disputed: (class, class) -> objects to which annotators gave both; either order.
    """
    names = judged.gt.names
    conf = judged.operating.conf
    absent = {names.get(c, str(c)): count for c, count in judged.ap_view.absent.items()}
    return plain(
        {
            "tide": judged.ap_view.to_dict(),
            "operating": judged.operating.to_dict(),
            "conf": conf,
            "conf_text": f"{judged.conf:.3g}" if np.ndim(conf) == 0 else "by class",
            "conf_reason": CONF_REASONS[judged.conf_source],
            "exact_view_b": judged.views.b_exact,
            "pairs": pair_rows(judged, train, disputed or {}),
            "classes": class_rows(judged, train),
            "matrix": judged.matrix.to_dict(),
            "missed_small_share": judged.missed_small_share(),
            "absent": absent,
            "train": None if train is None else train_summary(train, names),
        }
    )  # type: ignore[return-value]


def train_summary(train: TrainFacts, names: Mapping[int, str]) -> dict[str, Any]:
    """Return counts of the training set, and its rarest and most frequent class among those that occur."""
    present = np.flatnonzero(train.boxes)
    facts: dict[str, Any] = {
        "images": len(train.labels), "boxes": int(train.boxes.sum()), "background": train.background,
        "median_boxes": train.median_boxes, "imbalance": None, "rarest": None, "most_frequent": None,
    }  # fmt: skip
    if len(present) > 1:
        least, most = (int(present[place(train.boxes[present])]) for place in (np.argmin, np.argmax))
        facts |= {"imbalance": float(train.boxes[most] / train.boxes[least]), "rarest": names[least],
                  "most_frequent": names[most]}  # fmt: skip
    return facts


def pair_rows(
    judged: Judged, train: TrainFacts | None, disputed: Mapping[tuple[int, int], int]
) -> list[dict[str, Any]]:
    """Return confused pairs, the most frequent at the operating point first, then those that only view A knows."""
    counts, delta = judged.operating.pairs, judged.ap_view.delta_cls_pairs
    objects = judged.gt.counts()
    chosen = set(counts) | {pair for pair, cost in delta.items() if cost >= LEAST_DELTA}
    rows = []
    for k, g in chosen:
        share = counts.get((k, g), 0) / max(int(objects[g]), 1)
        back = counts.get((g, k), 0) / max(int(objects[k]), 1)
        rows.append(
            {
                "predicted": k, "true": g, "predicted_name": judged.gt.names[k], "true_name": judged.gt.names[g],
                "count": counts.get((k, g), 0), "share": share, "delta": delta.get((k, g), 0.0),
                "reverse_count": counts.get((g, k), 0), "reverse_share": back,
                "symmetry": min(share, back) / max(share, back) if max(share, back) else None,
                "annotators_disagree": disputed.get((k, g), 0) + disputed.get((g, k), 0) if disputed else None,
                **_train_pair(train, k, g),
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: (-row["count"], -row["delta"], row["true"], row["predicted"]))


def _train_pair(train: TrainFacts | None, k: int, g: int) -> dict[str, Any]:
    if train is None:
        keys = ("n_true", "n_pred", "frequency_ratio", "image_share", "together", "repeat_factor")
        return dict.fromkeys(keys)
    n_true, n_pred = int(train.boxes[g]), int(train.boxes[k])
    return {
        "n_true": n_true, "n_pred": n_pred, "frequency_ratio": n_true / n_pred if n_pred else None,
        "image_share": train.image_share(g), "together": train.together(g, k), "repeat_factor": float(train.repeat[g]),
    }  # fmt: skip


def class_rows(judged: Judged, train: TrainFacts | None) -> list[dict[str, Any]]:
    """Return the rows of the table of classes with what the training set adds."""
    rows = judged.table.rows()
    for row in rows:
        c = row["class"]
        row["image_share"] = None if train is None else train.image_share(c)
        row["repeat_factor"] = None if train is None else float(train.repeat[c])
    return rows


def confusion_shares(pairs: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Return the shares of the class errors that go both ways about equally, and from a rare to a frequent class."""
    total = sum(pair["count"] for pair in pairs)
    if not total:
        return None, None
    both = sum(pair["count"] for pair in pairs if (pair["symmetry"] or 0) >= SYMMETRIC)
    known = [pair for pair in pairs if pair["frequency_ratio"] is not None]
    rare = sum(pair["count"] for pair in known if pair["frequency_ratio"] < RARE)
    return both / total, rare / total if known else None


def largest_error(delta: Mapping[str, float | None]) -> tuple[str, float]:
    """Return the type that costs most and its cost; "none" when all cost under LEAST_COST."""
    known = {kind: cost for kind, cost in delta.items() if cost is not None}
    kind = max(known, key=lambda name: known[name], default="none")
    cost = known.get(kind, 0.0)
    return (kind, cost) if cost >= LEAST_COST else ("none", cost)


def named_pairs(pairs: Sequence[Mapping[str, Any]], most: int = NAMED_PAIRS) -> str:
    """Return the most frequent confusions in words."""
    seen = [pair for pair in pairs if pair["count"]][:most]
    return ", ".join(f"{pair['true_name']} taken for {pair['predicted_name']} ({pair['count']})" for pair in seen)


# Labels and comparisons -----------------------------------------------------------------------------------------------


def audit_summary(audit: Audit) -> dict[str, Any]:
    """Return the audit's counts and its first findings, the gravest first; all of them are in audit.csv."""
    from utils.diagnosis.audit_findings import CODES

    order = {"error": 0, "warning": 1, "info": 2}
    gravest: dict[str, str] = {}
    for finding in audit.findings:
        gravest[finding.code] = min(gravest.get(finding.code, "info"), finding.severity, key=lambda s: order[s])
    codes = [
        {"code": code, "meaning": CODES[code], "count": audit.counts[code], "severity": severity}
        for code, severity in sorted(gravest.items())
    ]
    ranked = sorted(audit.findings, key=lambda f: (order[f.severity], f.code, 2.0 if f.score is None else f.score))
    severities = audit.severities()
    return plain(
        {
            "boxes_checked": audit.boxes_checked, "codes": codes, "errors": severities["error"],
            "warnings": severities["warning"], "infos": severities["info"], "total": len(audit.findings),
            "notes": audit.notes, "images": audit.images, "from_model": audit.objectlab is not None,
            "objectlab": audit.objectlab, "findings": [finding_row(f) for f in ranked[:LISTED_FINDINGS]],
        }
    )  # type: ignore[return-value]  # fmt: skip


def finding_row(finding: Any) -> dict[str, Any]:
    """Return a finding as a mapping of plain values."""
    keys = ("code", "severity", "file", "line", "cls", "box", "message", "fix", "score")
    return {key: getattr(finding, key) for key in keys}


def comparison_summary(comparison: Comparison) -> list[dict[str, Any]]:
    """Return a part for each other run: a sentence, differences over all classes, AP50 by class, costs by type."""
    table = comparison.rows()
    parts = []
    for name in comparison.others:
        rows = [row for row in table if row["run"] == name]
        overall = next(row for row in rows if row["measure"] == "mAP50")
        parts.append(
            {
                "name": name, "first": comparison.first, "resamples": comparison.resamples, "seed": comparison.seed,
                "sentence": f"{next(line for line in comparison.lines() if line.startswith(f'{name} against'))}.",
                "map50": overall, "rows": [row for row in rows if row["class"] < 0],
                "classes": [row for row in rows if row["class"] >= 0],
                "costs": {"this": comparison.costs[comparison.first], "other": comparison.costs[name]},
            }
        )  # fmt: skip
    return parts


def agreement_summary(agreement: Agreement, judged: Judged | None = None) -> dict[str, Any]:
    """Return the agreement as plain values; disputed pairs of classes with what the model confuses, where known."""
    from utils.diagnosis.agreement import ambiguous_pairs

    facts = agreement.to_dict()
    if judged is not None:
        both = {(pair["a"], pair["b"]): pair["model"] for pair in ambiguous_pairs(agreement, judged.operating.pairs)}
        for row in facts["disagreements"]:
            row["model"] = both.get((row["a"], row["b"]), 0)
    return facts
