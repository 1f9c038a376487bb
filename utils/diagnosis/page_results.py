"""Sections of the report about what follows: advice, comparison of runs, model sizes, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from utils.diagnosis.page_parts import (
    Cell,
    Column,
    Markup,
    chip,
    details,
    join,
    number,
    plain_text,
    section,
    signed,
    table,
    tag,
)

CHANGED = ("better", "worse")
COUNT_NAMES = {
    "TP": "found rightly", "misclassified": "given another class", "location": "badly placed boxes",
    "extra class": "second class on a found object", "duplicate": "duplicates", "background": "on background",
    "other": "wrong class and badly placed", "badly located": "objects with a badly placed box only",
    "missed": "missed",
}  # fmt: skip


def advice_section(advice: Mapping[str, Any]) -> Markup:
    """Return what to do, in order of importance, with the evidence of each line."""
    items = _cards(advice["lines"])
    body = tag("ol", *items, class_="advice") if items else tag("p", "No rule applies: nothing that was measured asks "
                                                                "for a change.")  # fmt: skip
    held = _cards(advice["held_back"])
    later = details("Held back until that is done", tag("ol", *held, class_="advice")) if held else None
    return section(
        "advice", "What to do", body, later, _changes(advice),
        lead="In order of importance. Change one thing, train with three seeds, and believe a difference only when it "
        "is larger than that between seeds. The rules are a table that you can edit (--rules).",
    )  # fmt: skip


def _cards(lines: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Return a card for each rule; what it says about several classes or pairs stands together."""
    rules: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        rules.setdefault(line["rule"], []).append(line)
    return [_card(members) for members in rules.values()]


def _card(lines: Sequence[Mapping[str, Any]]) -> Markup:
    first = lines[0]
    held = chip(f"after {first['held_back_by']}", "warning") if first["held_back_by"] else None
    if len(lines) == 1:
        about = chip(first["about"]) if first["about"] else None
        evidence = tag("p", first["evidence"], class_="soft")
    else:
        about = None
        evidence = tag("ul", *(tag("li", tag("b", line["about"]), ": ", line["evidence"]) for line in lines))
    texts = list(dict.fromkeys(line["suggestion"] for line in lines))
    commands = list(dict.fromkeys(line["command"] for line in lines if line["command"]))
    return tag(
        "li", tag("h3", tag("span", first["title"]), about, held, tag("small", first["rule"])), evidence,
        *(tag("p", text) for text in texts), *(tag("pre", tag("code", command)) for command in commands),
    )  # fmt: skip


def _changes(advice: Mapping[str, Any]) -> Markup | None:
    changes, notes = advice["changes"], [tag("p", note, class_="note") for note in advice["notes"]]
    if not changes:
        return join(notes) if notes else None
    columns = [Column("key", False), Column("before", False), Column("suggested", False), Column("rule", False)]
    rows = [
        [tag("code", c["key"]), tag("code", plain_text(c["before"])), tag("code", plain_text(c["after"])), c["rule"]]
        for c in changes
    ]
    return join(
        [tag("h3", "Suggested settings: advice.yaml"), table(columns, rows, label="Suggested settings"), *notes]
    )


def comparison_section(comparisons: Sequence[Mapping[str, Any]]) -> Markup:
    """Return what is better and worse in the other runs."""
    parts: list[Markup] = []
    for run in comparisons:
        parts += [tag("h3", f"{run['name']} against {run['first']}"), tag("p", run["sentence"]),
                  _differences(run["rows"], f"Comparison with {run['name']}"), _costs(run)]  # fmt: skip
        changed = [row for row in run["classes"] if row["measure"] == "AP50" or row["verdict"] in CHANGED]
        if changed:
            parts.append(details("Class by class", _differences(changed, f"Classes compared with {run['name']}")))
    return section(
        "comparison", "Against other runs", *parts,
        lead="Differences are the other run less this one, with 95 % intervals from a paired bootstrap over images. "
        "Where an interval holds 0, no difference was measured. It knows nothing of the spread between training seeds.",
    )  # fmt: skip


def _differences(rows: Sequence[Mapping[str, Any]], label: str) -> Markup:
    columns = [Column("measure", False), Column("this run"), Column("other run"), Column("difference"),
               Column("95 % interval"), Column("verdict", False)]  # fmt: skip
    return table(columns, [_difference(row) for row in rows], label=label)


def _costs(run: Mapping[str, Any]) -> Markup:
    this, other = run["costs"]["this"], run["costs"]["other"]
    columns = [Column("type of error", False), Column("this run"), Column("other run"), Column("difference")]
    rows = [
        [kind, Cell(number(this[kind], 2), this[kind]), Cell(number(other[kind], 2), other[kind]),
         number(None) if None in (this[kind], other[kind]) else signed(other[kind] - this[kind], 2)]
        for kind in this
    ]  # fmt: skip
    return details("What each type of error costs, points of mAP", table(columns, rows, label="Costs by type"))


def _difference(row: Mapping[str, Any]) -> list[object]:
    low, high, digits = row["low"], row["high"], 0 if row["measure"] == "count" else 2
    bounds = "" if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"
    kind = {"better": "good", "worse": "error"}.get(row["verdict"], "info")
    what = COUNT_NAMES.get(row["type"], row["type"]) or row["measure"]
    name = what if row["class"] < 0 else f"{row['name']}: {what}"
    few = join([" ", chip("too few to judge", "warning")]) if row["few"] else None
    return [
        Cell(join([name, few]), name), Cell(number(row["first"], digits), row["first"]),
        Cell(number(row["other"], digits), row["other"]),
        Cell(signed(row["difference"], digits), row["difference"]), bounds, chip(row["verdict"], kind),
    ]  # fmt: skip


def capacity_section(capacity: Mapping[str, Any]) -> Markup:
    """Return what model sizes cost here, and what a larger one would cure."""
    columns = [Column("model", False), Column("parameters"), Column("GFLOPs"), Column("ms per image"),
               Column("memory, MiB"), Column("", False)]  # fmt: skip
    rows = [
        [
            c["model"], Cell(f"{c['parameters'] / 1e6:.1f} M", c["parameters"]),
            Cell(number(c["gflops"], 1), c["gflops"]),
            Cell(number(c["ms"], 1), c["ms"]), Cell(number(c["memory"], 0), c["memory"]),
            chip("this size", "good") if c["current"] else "",
        ]
        for c in capacity["costs"]
    ]  # fmt: skip
    signs = [Column("symptom", False), Column("measured", False), Column("present", False),
             Column("a larger model helps", False), Column("why", False)]  # fmt: skip
    found = [
        [s["name"], s["measured"], chip("yes", "warning") if s["present"] else "no", s["helps"], s["why"]]
        for s in capacity["symptoms"]
    ]
    place = f"{capacity['device']}" + (f", {capacity['threads']} threads" if capacity["device"] == "CPU" else "")
    return section(
        "capacity", "Would a larger model help?", tag("p", capacity["answer"]),
        table(signs, found, label="Symptoms", sortable=False) if found else None,
        tag("h3", f"What each size costs on this machine ({place})"), table(columns, rows, label="Model sizes"),
        tag("p", f"One image of {capacity['imgsz']} pixels, float32, median time without suppression; memory is what "
            "the process or device holds more at its peak. Training takes several times as much.", class_="soft"),
    )  # fmt: skip


def method_section(summary: Mapping[str, Any]) -> Markup:
    """Return how the numbers came about, and the files beside the page."""
    notes = [tag("li", note) for note in summary.get("notes", [])]
    files = [tag("li", tag("a", name, href=name), f": {meaning}") for name, meaning in summary.get("files", {}).items()]
    settings = [
        tag("li", f"{key}: ", tag("code", plain_text(value))) for key, value in summary.get("settings", {}).items()
    ]
    return section(
        "method", "How this was measured",
        tag("ul", *notes) if notes else None,
        tag("h3", "Files beside this page") if files else None, tag("ul", *files, class_="files") if files else None,
        details("Settings", tag("ul", *settings, class_="files")) if settings else None,
    )  # fmt: skip
