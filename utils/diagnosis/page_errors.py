"""Sections of the report about errors: what costs AP, what happens at the operating point, confusions, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    signed,
    table,
    tag,
)

MOST_PAIRS = 40
LEAST_DISPUTED = 3  # objects that annotators disagree on, for a pair to be called ambiguous
LARGEST_MATRIX = 24  # classes; of more the most confused are shown
AP_NAMES = {  # type -> (name, meaning)
    "Cls": ("Wrong class", "a box on an object that carries another class"),
    "Loc": ("Badly placed", "the right class, but the box overlaps too little"),
    "Both": ("Class and place", "wrong class and too little overlap"),
    "Dupe": ("Duplicate", "a second box on an object that is already found"),
    "Bkg": ("Background", "a box where nothing is labelled"),
    "Miss": ("Missed", "an object that no box comes near"),
}
STATE_NAMES = {
    "TP": ("found", "good"),
    "misclassified": ("given another class", "bad"),
    "badly located": ("badly placed box", "quiet"),
    "missed": ("missed", "quiet"),
}
FALSE_NAMES = {
    "background": "on background",
    "duplicate": "duplicates",
    "extra class": "another class on a found object",
    "location": "badly placed",
    "other": "wrong class and badly placed",
}


def errors_section(errors: Mapping[str, Any]) -> Markup:
    """Return what each type of error costs (AP view) and what happens at the operating point."""
    delta, counts = errors["tide"]["delta"], errors["tide"]["counts"]
    largest = max([value for value in delta.values() if value] or [1.0])
    special = errors["tide"]["special"]
    rows = [
        (
            name,
            meaning,
            delta.get(kind),
            largest,
            plural(counts.get(kind, 0), "object" if kind == "Miss" else "box", "boxes" if kind != "Miss" else ""),
            "",
        )
        for kind, (name, meaning) in AP_NAMES.items()
    ]
    top = max([value for value in special.values() if value] or [1.0])
    extra = [
        (
            "All false predictions",
            "if every wrong box ranked below every right one",
            special.get("FP"),
            top,
            "",
            "quiet",
        ),
        (
            "All unfound objects",
            "if every object without a right box were left out",
            special.get("FN"),
            top,
            "",
            "quiet",
        ),
    ]
    ap_view = join([
        tag("h3", "View A: what each type of error costs"),
        tag("p", f"mAP at IoU {errors['tide']['settings']['t_f']:g} is {number(errors['tide']['map'])}. The bars show "
            "how many points it would gain if this type of error alone were mended, over all predictions (confidence "
            "from 0.001). The gains do not add up to what is missing to 100: each is counted with all other errors in "
            "place.",
            class_="soft"),
        _bars(rows),
        details("All false predictions, all unfound objects", _bars(extra)),
        _absent(errors),
    ])  # fmt: skip
    return section(
        "errors", "What goes wrong", tag("div", tag("div", ap_view), tag("div", _operating(errors)), class_="two"),
        lead="Two views that are never mixed: A ranks all predictions as mAP does, B counts what a user sees.",
    )  # fmt: skip


def _bars(rows: Sequence[tuple[str, str, float | None, float, str, str]]) -> Markup:
    parts: list[Markup] = []
    for name, meaning, value, largest, count, kind in rows:
        amount = tag("span", signed(value), tag("small", count) if count else None, class_="amount")
        what = tag("span", tag("b", name), tag("small", meaning), class_="what")
        parts.append(tag("div", what, bar((value or 0) / largest, "", kind), amount, class_="row"))
    return tag("div", *parts, class_="bars")


def _absent(errors: Mapping[str, Any]) -> Markup | None:
    """Return a note on predictions of classes without objects, which no AP counts."""
    absent = {name: count for name, count in errors.get("absent", {}).items() if count}
    if not absent:
        return None
    listed = ", ".join(f"{name} {count:,}" for name, count in sorted(absent.items(), key=lambda item: -item[1])[:8])
    return tag("p", f"Classes without objects here are left out of mAP, wrong predictions of them too: {listed}.",
               class_="note")  # fmt: skip


def _operating(errors: Mapping[str, Any]) -> Markup:
    counts = errors["operating"]["counts"]
    objects, predictions = counts["objects"] or 1, counts["predictions"] or 1
    states = [(name, "", counts[key], objects, kind) for key, (name, kind) in STATE_NAMES.items()]
    false = [("right", "", counts["TP"], predictions, "good"),
             ("wrong class", "", counts["misclassified"], predictions, "bad"),
             *((name, "", counts[key], predictions, "quiet") for key, name in FALSE_NAMES.items())]  # fmt: skip
    return join([
        tag("h3", f"View B: what a user sees at confidence {errors['conf_text']}"),
        tag("p", "One label a box, as detect.py shows it. " + errors["conf_reason"], class_="soft"),
        tag("p", tag("b", plural(counts["objects"], "object")), " became:"),
        _counts(states),
        tag("p", tag("b", plural(counts["predictions"], "prediction")), " are:"),
        _counts(false),
    ])  # fmt: skip


def _counts(rows: Sequence[tuple[str, str, int, int, str]]) -> Markup:
    parts = [
        tag(
            "div",
            tag("span", name, class_="what"),
            bar(count / whole, "", kind),
            tag("span", f"{count:,}", tag("small", percent(count / whole)), class_="amount"),
            class_="row",
        )  # fmt: skip
        for name, _, count, whole, kind in rows
    ]
    return tag("div", *parts, class_="bars")


# Confusions -----------------------------------------------------------------------------------------------------------


def confusions_section(errors: Mapping[str, Any], has_crops: bool) -> Markup:
    """Return the confused pairs, the most frequent first, and the confusion matrix."""
    pairs = errors["pairs"]
    if not pairs:
        body = tag("p", "No object was given another class at the operating point, and none costs AP.")
        return section("confusions", "Which classes are confused", body)
    columns = [
        Column("object is", False), Column("taken for", False), Column("times (B)", hint="at the operating point"),
        Column("of its objects"), Column("mAP cost (A)", hint="points that mending this pair alone would bring"),
        Column("other way round"), Column("training boxes", hint="of the true and of the predicted class"),
        Column("crops", False),
    ]  # fmt: skip
    rows = [_pair_row(pair, has_crops) for pair in pairs[:MOST_PAIRS]]
    rest = len(pairs) - MOST_PAIRS
    more = tag("p", f"{rest} more pairs are in summary.json.", class_="soft") if rest > 0 else None
    return section(
        "confusions", "Which classes are confused", table(columns, rows, label="Confused pairs of classes"), more,
        tag("h3", "Confusion matrix"), *_matrix(errors["matrix"]),
        lead="Each row is one direction. The crops are one click away, the most confident first.",
    )  # fmt: skip


def _pair_row(pair: Mapping[str, Any], has_crops: bool) -> list[object]:
    share = percent(pair["share"])
    show = f"pair={pair['true']}>{pair['predicted']}"
    button = tag("button", "show", type="button", class_="open", data_show=show,
                 aria_label=f"show crops of {pair['true_name']} taken for {pair['predicted_name']}")  # fmt: skip
    mark = chip("annotators too", "warning") if (pair["annotators_disagree"] or 0) >= LEAST_DISPUTED else None
    both = f"{number(pair.get('n_true'))} / {number(pair.get('n_pred'))}"
    return [
        Cell(pair["true_name"]), join([pair["predicted_name"], " " if mark else None, mark]),
        Cell(f"{pair['count']:,}", pair["count"]), Cell(share, pair["share"]),
        Cell(signed(pair["delta"], 2), pair["delta"]), Cell(f"{pair['reverse_count']:,}", pair["reverse_count"]),
        Cell(both, pair.get("n_true")), button if has_crops and pair["count"] else "",
    ]  # fmt: skip


def _matrix(matrix: Mapping[str, Any]) -> list[Markup]:
    """Return the matrix as a table, of many classes those that are confused most, and what it counts."""
    names, counts = matrix["names"], matrix["counts"]
    shown = _busiest(counts, len(names))
    lost, background = len(names), len(names)
    heads = [Column("predicted ↓ true →", False), *(Column(names[c]) for c in shown), Column("background")]
    totals = [max(sum(row[c] for row in counts), 1) for c in range(len(counts))]
    body = []
    for r in [*shown, lost]:
        cells = [_heat(counts[r][c], totals[c], r == c) for c in shown]
        last = "" if r == lost else tag("td", f"{counts[r][background]:,}")
        body.append(
            tag("tr", tag("th", "not found" if r == lost else names[r], scope="row"), *cells, last or tag("td"))
        )
    head = tag("tr", *(tag("th", c.title, scope="col") for c in heads))
    inner = tag("table", tag("caption", "Confusion matrix", class_="unseen"), tag("thead", head), tag("tbody", *body),
                class_="matrix")  # fmt: skip
    parts = [tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label="Confusion matrix")]
    if len(shown) < len(names):
        parts.append(tag("p", f"The {len(shown)} classes with most confusions of {len(names)}; all are in "
                         "confusion_counts.csv.", class_="soft"))  # fmt: skip
    parts.append(tag("p", matrix["note"], class_="note"))
    return parts


def _heat(count: int, total: int, right: bool) -> Markup:
    share = count / total
    level = 0 if right or not count else 1 + (share >= 0.1) + (share >= 0.25)
    kind = "right" if right else f"h{level}" if level else None
    return tag("td", f"{count:,}" if count else tag("span", "·", class_="soft"), class_=kind)


def _busiest(counts: Sequence[Sequence[int]], nc: int) -> list[int]:
    """Return the classes to show: all, or those with most confusions, in their order."""
    if nc <= LARGEST_MATRIX:
        return list(range(nc))
    wrong = [
        sum(counts[r][c] + counts[c][r] for r in range(nc) if r != c) + 1e-3 * sum(counts[r][c] for r in range(nc))
        for c in range(nc)
    ]
    return sorted(sorted(range(nc), key=lambda c: -wrong[c])[:LARGEST_MATRIX])


# Classes --------------------------------------------------------------------------------------------------------------


def classes_section(errors: Mapping[str, Any]) -> Markup:
    """Return the table of classes with intervals, and what could not be judged."""
    rows = errors["classes"]
    columns = [
        Column("class", False), Column("train", hint="training boxes"), Column("objects", hint="in the judged split"),
        Column("AP50"), Column("AP", hint="mean over IoU 0.5 to 0.95"), Column("precision"), Column("recall"),
        Column("taken for", False, "the classes that its objects are given, with how often"),
        Column("taken from", False, "the classes whose objects are given this one"), Column("F1"),
        Column("best conf", hint="confidence with the best F1"), Column("right"),
        Column("wrong class"), Column("badly placed"), Column("missed"), Column("background"), Column("duplicate"),
        Column("conf right / wrong", hint="mean confidence of right and of false predictions"),
    ]  # fmt: skip
    few = sum(1 for row in rows if row["few"])
    note = f"{plural(few, 'class has', 'classes have')} fewer than 30 objects: too few to judge." if few else None
    return section(
        "classes", "Class by class", table(columns, [_class_row(row) for row in rows], label="Classes"),
        tag("p", note, class_="note") if note else None,
        lead="At the operating point, with 95 % Wilson intervals of precision and recall. A click on a heading sorts.",
    )  # fmt: skip


def _class_row(row: Mapping[str, Any]) -> list[object]:
    mark = join([" ", chip("too few to judge", "warning")]) if row["few"] else None
    confidences = f"{number(row['conf_tp'], 2)} / {number(row['conf_fp'], 2)}"
    return [
        Cell(join([row["name"], mark]), row["name"]), *(_plain(row[key], 0) for key in ("n_train", "n_val")),
        *(_plain(row[key], 1) for key in ("ap50", "ap")), *(_rate(row, key) for key in ("precision", "recall")),
        row["taken_for"], row["taken_from"], _plain(row["f1"], 2), _plain(row["best_conf"], 2),
        *(_plain(row[key], 0) for key in ("tp", "misclassified", "badly_located", "missed", "background", "duplicate")),
        Cell(confidences, row["conf_tp"]),
    ]  # fmt: skip


def _plain(value: float | None, digits: int) -> Cell:
    return Cell(number(value, digits), "" if value is None else value)


def _rate(row: Mapping[str, Any], key: str) -> Cell:
    value = row[key]
    return Cell(interval(value, row[f"{key}_low"], row[f"{key}_high"]), "" if value is None else value)


def thresholds_section(errors: Mapping[str, Any], weights: str) -> Markup:
    """Return the confidence with the best F1 of each class."""
    found = [row for row in errors["classes"] if row["best_conf"] is not None]
    columns = [Column("class", False), Column("threshold"), Column("F1 there"), Column("share of 0 to 1", False)]
    rows = [
        [row["name"], _plain(row["best_conf"], 3), _plain(row["best_f1"], 2), bar(row["best_conf"])] for row in found
    ]
    missing = [row["name"] for row in errors["classes"] if row["best_conf"] is None and row["n_val"]]
    note = None
    if missing:
        note = tag("p", f"Without a right prediction, and so without a threshold: {', '.join(missing)}.", class_="note")
    import shlex

    command = f"python detect.py --weights {shlex.quote(weights)} --class-thres thresholds.yaml" if weights else ""
    return section(
        "thresholds", "Thresholds", table(columns, rows, label="Thresholds of the classes"), note,
        tag("pre", tag("code", command)) if command else None,
        lead="The confidence with the best F1 of each class. thresholds.yaml holds them for val.py and detect.py; they "
        "are chosen on these images, so expect a little less on others.",
    )  # fmt: skip
