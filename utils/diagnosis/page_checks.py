"""Sections of the report about the data: class balance, label audit, annotators' agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from utils.diagnosis.gallery import Crop
from utils.diagnosis.page_errors import LEAST_DISPUTED
from utils.diagnosis.page_gallery import figure
from utils.diagnosis.page_parts import (
    Cell,
    Column,
    Markup,
    bar,
    chip,
    details,
    interval,
    join,
    number,
    percent,
    plural,
    section,
    table,
    tag,
)

MOST_LISTED = 200
MOST_TOGETHER = 10
MOST_DISPUTED = 50
GOOD_ALPHA, TENTATIVE_ALPHA = 0.8, 0.667


def balance_section(balance: Mapping[str, Any]) -> Markup:
    """Return how often each class occurs, split by split."""
    parts: list[Markup] = []
    for split, facts in balance["splits"].items():
        largest = max([row["instances"] for row in facts["classes"]] or [1]) or 1
        columns = [
            Column("class", False), Column("boxes"), Column("share of boxes", False), Column("images"),
            Column("share of images"), Column("beside frequent ones", hint="share of its images that also hold a class "
                                              "with five times its boxes"),
            Column("effective number", hint="(1 − β^n) / (1 − β) with β 0.999"),
        ]  # fmt: skip
        rows = [
            [
                row["name"], Cell(f"{row['instances']:,}", row["instances"]), bar(row["instances"] / largest),
                Cell(f"{row['images']:,}", row["images"]),
                Cell(percent(row["share_of_images"], 1), row["share_of_images"]),
                Cell(percent(row["beside_frequent"]), row["beside_frequent"]),
                Cell(number(row["effective_number"], 0), row["effective_number"]),
            ]
            for row in facts["classes"]
        ]  # fmt: skip
        body = join([_ratio(facts), table(columns, rows, label=f"Classes in {split}"), _together(facts)])
        heading = f"{split}: {plural(facts['images'], 'image')}"
        parts.append(join([tag("h3", heading), body]) if not parts else details(heading, body))
    drift = [
        tag("p", f"{split} holds the classes in other shares (chi-squared test, p {found['p']:.2g}).",
            class_="note")
        for split, found in balance.get("drift", {}).items() if found["p"] is not None and found["p"] < 0.01
    ]  # fmt: skip
    return section("balance", "How the classes are balanced", *parts, *drift)


def _ratio(facts: Mapping[str, Any]) -> Markup | None:
    if not facts.get("ratio"):
        return None
    names = {row["id"]: row["name"] for row in facts["classes"]}
    text = f"{names[facts['most']]} has {number(facts['ratio'], 1)} times the boxes of {names[facts['least']]}."
    mark = chip("imbalanced", "warning") if facts["ratio"] > 10 else chip("balanced enough", "good")
    return tag("p", text, " ", mark)


def _together(facts: Mapping[str, Any]) -> Markup | None:
    pairs = facts.get("pairs", [])[:MOST_TOGETHER]
    if not pairs:
        return None
    names = {row["id"]: row["name"] for row in facts["classes"]}
    rows = [[names[p["a"]], names[p["b"]], Cell(f"{p['images']:,}", p["images"])] for p in pairs]
    columns = [Column("class", False), Column("together with", False), Column("images")]
    return details("Classes in the same images", table(columns, rows, label="Classes in the same images"))


# Audit ----------------------------------------------------------------------------------------------------------------


def audit_section(audit: Mapping[str, Any], crops: Sequence[Crop], names: Mapping[int, str]) -> Markup:
    """Return the label audit: counts by code, the findings, and crops of those that have a box."""
    columns = [Column("code", False), Column("what", False), Column("severity", False), Column("findings")]
    rows = [
        [row["code"], row["meaning"], chip(row["severity"], row["severity"]), Cell(f"{row['count']:,}", row["count"])]
        for row in audit["codes"]
    ]
    if not rows:
        body = tag("p", f"Nothing found in {plural(audit['boxes_checked'], 'label')}.")
        return section("audit", "What is wrong with the labels", body)
    figures = [figure(crop, names, place) for place, crop in enumerate(crops)]
    pictures = details(f"{plural(len(crops), 'finding')} in pictures", tag("div", *figures, class_="crops still"))
    return section(
        "audit", "What is wrong with the labels", table(columns, rows, label="Findings by code"),
        *(tag("p", note, class_="note") for note in audit["notes"]), pictures if crops else None,
        _findings(audit, names),
        lead=f"{plural(audit['boxes_checked'], 'label')} checked: {plural(audit['errors'], 'error')}, "
        f"{plural(audit['warnings'], 'warning')}. Nothing in the data set is changed; --fix writes corrected copies.",
    )  # fmt: skip


def _findings(audit: Mapping[str, Any], names: Mapping[int, str]) -> Markup:
    listed = audit["findings"][:MOST_LISTED]
    columns = [Column("code", False), Column("severity", False), Column("file", False), Column("row"),
               Column("class", False), Column("found", False), Column("score")]  # fmt: skip
    rows = [
        [
            f["code"], chip(f["severity"], f["severity"]), tag("span", PurePath(f["file"]).name, title=f["file"]),
            Cell(f["line"] or "", f["line"]), names.get(f["cls"], ""), f["message"],
            Cell("" if f["score"] is None else number(f["score"], 3), f["score"]),
        ]
        for f in listed
    ]  # fmt: skip
    total = audit["total"]
    title = f"List of {plural(total, 'finding')}" + ("" if total <= len(listed) else f", the first {len(listed)}")
    more = None if total <= len(listed) else tag("p", "All are in audit.csv.", class_="soft")
    return details(title, table(columns, rows, label="Findings"), more)


# Agreement ------------------------------------------------------------------------------------------------------------


def agreement_section(agreement: Mapping[str, Any]) -> Markup:
    """Return how far annotators agree, and on which classes they do not."""
    forms = [
        ("on classes", agreement.get("alpha"), agreement.get("alpha_low"), agreement.get("alpha_high")),
        ("on classes and presence", agreement.get("alpha_detect"), agreement.get("alpha_detect_low"),
         agreement.get("alpha_detect_high")),
    ]  # fmt: skip
    rows = [[name, Cell(_alpha(value, low, high), value), _reading(value)] for name, value, low, high in forms]
    columns = [Column("Krippendorff's alpha", False), Column("value"), Column("reading", False)]
    shares = [
        ("objects", number(agreement["objects"])),
        ("drawn by all", percent(agreement["seen_by_all"])),
        ("mean IoU", number(agreement["mean_iou"], 2)),
        ("Fleiss' kappa", number(agreement["fleiss"], 3)),
    ]
    tiles = [tag("div", tag("dt", name), tag("dd", value), class_="tile") for name, value in shares]
    return section(
        "agreement", "How far annotators agree", table(columns, rows, label="Agreement", sortable=False),
        tag("dl", *tiles, class_="tiles"), _annotators(agreement), _disputed(agreement),
        lead=f"{plural(agreement['images'], 'image')}, {plural(len(agreement['annotators']), 'annotator')}; boxes are "
        "matched by place alone (IoU from 0.5). 0.80 and above is good, 0.667 to 0.80 tentative; below, mend the "
        "guideline first.",
    )  # fmt: skip


def _alpha(value: float | None, low: float | None, high: float | None) -> Markup:
    if value is None:
        return tag("span", "undefined: one class only")
    return interval(value, low, high) if low is None or low >= 0 else tag("span", f"{value:.3f} ({low:.2f}–{high:.2f})")


def _reading(alpha: float | None) -> Markup:
    if alpha is None:
        return chip("not to be had", "info")
    if alpha >= GOOD_ALPHA:
        return chip("good", "good")
    return chip("tentative", "warning") if alpha >= TENTATIVE_ALPHA else chip("mend the guideline", "error")


def _annotators(agreement: Mapping[str, Any]) -> Markup | None:
    pairs = agreement.get("pairs", [])
    if not pairs:
        return None
    columns = [Column("annotators", False), Column("precision"), Column("recall"), Column("kappa"), Column("mean IoU")]
    keys = ("precision", "recall", "kappa", "mean_iou")
    rows = [[f"{p['a']} and {p['b']}", *(Cell(number(p[key], 3), p[key]) for key in keys)] for p in pairs]
    return table(columns, rows, label="Pairs of annotators")


def _disputed(agreement: Mapping[str, Any]) -> Markup | None:
    disputed = agreement["disagreements"]
    if not disputed:
        return None
    columns = [Column("class", False), Column("or", False), Column("objects"), Column("confused by the model"),
               Column("reading", False)]  # fmt: skip
    rows = [
        [d["name_a"], d["name_b"], Cell(f"{d['objects']:,}", d["objects"]),
         Cell(number(d.get("model")), d.get("model")),
         chip("ambiguous classes", "warning") if min(d["objects"], d.get("model") or 0) >= LEAST_DISPUTED else ""]
        for d in disputed[:MOST_DISPUTED]
    ]  # fmt: skip
    return join([
        tag("h3", "Classes that annotators disagree on"), table(columns, rows, label="Disputed classes"),
        tag("p", "What both annotators and the model confuse is ambiguous: no fault of the model.", class_="soft"),
    ])  # fmt: skip
