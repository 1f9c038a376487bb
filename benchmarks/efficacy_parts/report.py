"""What the comparison writes: tables between the markers of docs/evidence.md, and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficacy_parts.analysis import ArmResult, Difference
from efficacy_parts.arms import ARMS, NONE, in_order
from efficacy_parts.figures import FIGURES
from efficacy_parts.sets import SETS
from utils.errors import InputError
from utils.safe_write import make_whole, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEGIN, END = "<!-- {}: written by benchmarks/{} -->", "<!-- end of {} -->"
SCRIPT = "efficacy.py"
MARKS = {"above": "**+**", "below": "**−**", "within": ""}
TITLES = {
    "map50": "mAP50", "map": "mAP50-95", "rare": "rare", "frequent": "frequent", "worst": "worst",
    "misclassified": "misclassified", "rare_misclassified": "rare misclassified", "f1": "F1",
}  # fmt: skip
OVERVIEW = {"rare": "rare", "map": "all"}  # figures of the first table and their heads
CLASS_ERRORS = {"misclassified": "misclassified", "f1": "F1"}  # of the second
SHOWN = {"rare": "AP of the rare third", "map": "mAP50-95"}  # figures of the picture
WIDTH, ROW_HEIGHT, DPI = 10.0, 0.27, 88  # inches, inches, dots per inch


def signed(value: float) -> str:
    """Return a number with its sign and one decimal; a true minus."""
    return f"{value:+.1f}".replace("-", "−")


def with_spread(mean: float, spread: float) -> str:
    """Return mean and spread, the mean alone where there is no spread."""
    text = f"{mean:.1f}"
    return text if math.isnan(spread) else f"{text} ± {spread:.1f}"


def change(found: Difference | None) -> str:
    """Return a difference with its spread and the mark of its verdict, '' for none."""
    if found is None:
        return ""
    text = signed(found.mean) + ("" if math.isnan(found.spread) else f" ± {found.spread:.1f}")
    return f"{text} {MARKS[found.verdict]}".strip()


def differences(results: Sequence[ArmResult], figures: Mapping[str, str]) -> list[str]:
    """Return the table of differences in some figures, given with their heads: an arm a row, all figures of a set."""
    sets = list(dict.fromkeys(result.data for result in results))
    arms = in_order(result.arm for result in results if result.arm != NONE)
    cell = {(result.data, result.arm): result for result in results}
    heads = [f"{name}: {what}" for name in sets for what in figures.values()]
    lines = [f"| arm | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for arm in arms:
        texts = []
        for name in sets:
            found = cell[name, arm].difference if (name, arm) in cell else {}
            texts += [change(found.get(figure)) for figure in figures]
        lines.append(f"| {arm} | {' | '.join(texts)} |")
    return lines


def full_tables(results: Sequence[ArmResult], of: str = "") -> list[str]:
    """Return for each set a heading, which ends with ``of``, and the table of all figures with the intervals."""
    lines: list[str] = []
    heads = [*TITLES.values(), "rare by seeds", "mAP50 by images", "rarest AP50 by images", "seconds"]
    for name in dict.fromkeys(result.data for result in results):
        about = SETS[name].about if name in SETS else f"{name}.yaml"
        lines += [f"### {name}{of}", "", f"{about[:1].upper()}{about[1:]}.", ""]
        lines += [f"| arm | seeds | {' | '.join(heads)} |", f"|---|---|{'---|' * len(heads)}"]
        lines += [_full_row(result, list(TITLES)) for result in results if result.data == name]
        lines.append("")
    return lines[:-1]


def _full_row(result: ArmResult, figures: Sequence[str]) -> str:
    rare = result.difference.get("rare")
    cells = [result.arm, str(len(result.seeds))]
    cells += [with_spread(result.mean[figure], result.spread[figure]) for figure in figures]
    cells.append("" if rare is None else _interval((rare.low, rare.high)))
    cells += [_interval(result.images[name]) for name in ("map50", "rarest")]
    return f"| {' | '.join([*cells, f'{result.seconds:.0f}'])} |"


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"


def arm_table() -> list[str]:
    """Return the table of arms: name, what it is, the keys that it sets."""
    lines = ["| arm | what it is | keys |", "|---|---|---|"]
    for arm in ARMS.values():
        keys = ", ".join(f"`{key}: {_shown(value)}`" for key, value in arm.hyp.items())
        lines.append(f"| {arm.name}{' (core)' if arm.core else ''} | {arm.about} | {keys} |")
    return lines


def _shown(value: Any) -> str:
    return "[...]" if isinstance(value, list) else str(value)


def runs_table(rows: Sequence[dict[str, Any]], left_out: int) -> list[str]:
    """Return what was run: a line for each set, what the doctor advised, which cells were run again."""
    lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        here = [row for row in rows if row["set"] == name]
        seen = sorted({(row["images_seen"], row["epochs"], row["img"]) for row in here})
        budgets = "; ".join(f"{images} images ({epochs} epochs) at {img} px" for images, epochs, img in seen)
        rare = ", ".join(sorted({row["rare_classes"] for row in here}))
        lines.append(f"- {name}: {len(here)} runs, each sees {budgets}; rare third: {rare}.")
    for row in rows:
        if row["note"]:
            lines.append(f"- {row['set']}, seed {row['seed']}, the doctor: {row['note']}.")
    again = [row for row in rows if row["again"]]
    lines += [f"- {row['set']}, {row['arm']}, seed {row['seed']}, run again: {row['again']}." for row in again]
    if left_out:
        lines.append(f"- {left_out} rows of the CSV file have other settings and are left out.")
    return lines


def updated(page: str, parts: dict[str, Sequence[str]], script: str = SCRIPT) -> str:
    """Return the page with what lies between the markers of each part replaced; the markers name a script.

    Raises:
        InputError: a marker is missing or comes twice.
    """
    for name, lines in parts.items():
        begin, end = BEGIN.format(name, script), END.format(name)
        if page.count(begin) != 1 or page.count(end) != 1:
            raise InputError(f"the page must hold '{begin}' and '{end}' once each")
        before, rest = page.split(begin)
        after = rest.split(end)[1]
        page = "\n".join([f"{before}{begin}", *lines, f"{end}{after}"])
    return page


def write_page(
    page: Path, results: Sequence[ArmResult], rows: Sequence[dict[str, Any]], left_out: int, picture: Path
) -> None:
    """Write the tables into the page, and the picture.

    Raises:
        InputError: the page is missing, or a marker in it.
    """
    if not page.is_file():
        raise InputError(f"--page {page}: no such file; it needs the markers of docs/evidence.md")
    figures = [f"- {name}: {about}." for name, about in FIGURES.items()]
    parts = {
        "arms": arm_table(), "figures": figures, "runs": runs_table(rows, left_out),
        "overview": differences(results, OVERVIEW), "errors": differences(results, CLASS_ERRORS),
        "tables": full_tables(results),
    }  # fmt: skip
    write_whole(page, updated(page.read_text(encoding="utf-8"), parts))
    draw(picture, results)


def write_peer_section(page: Path, results: Sequence[ArmResult], rows: Sequence[dict[str, Any]]) -> None:
    """Write the tables of Ultralytics' cls_pw into the page.

    Raises:
        InputError: the page is missing, or a marker in it.
    """
    if not page.is_file():
        raise InputError(f"--page {page}: no such file; it needs the markers of docs/evidence.md")
    programs = ", ".join(sorted({row["note"] for row in rows}))
    table = differences(results, OVERVIEW | CLASS_ERRORS)
    lines = [f"Measured with {programs}.", "", *table, "", *full_tables(results, ", yolov5nu")]
    write_whole(page, updated(page.read_text(encoding="utf-8"), {"peer": lines}, "efficacy_peer.py"))


# The picture ----------------------------------------------------------------------------------------------------------


def draw(path: Path, results: Sequence[ArmResult]) -> None:
    """Draw the differences from no remedy: a column for each figure of SHOWN and set, a row for each arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = list(dict.fromkeys(result.data for result in results if result.difference))
    arms = in_order(result.arm for result in results if result.difference)
    if not arms:
        return
    size = (WIDTH * max(1, len(sets) / 3), 1.2 + 2 * ROW_HEIGHT * (len(arms) + 2))
    figure, axes = plt.subplots(
        len(SHOWN), len(sets), figsize=size, dpi=DPI, sharey=True, squeeze=False, layout="constrained"
    )
    for line, (what, title) in zip(axes, SHOWN.items(), strict=True):
        for axis, name in zip(line, sets, strict=True):
            axis.set_title(f"{name}: {title}", fontsize=9)
            _dots(axis, {r.arm: r.difference[what] for r in results if r.data == name and r.difference}, arms)
    figure.supxlabel("difference from no remedy, points; small dots: seeds, bars: their standard deviation", fontsize=9)
    make_whole(path, figure.savefig)
    plt.close(figure)


def _dots(axis: Axes, found: dict[str, Difference], arms: Sequence[str]) -> None:
    axis.axvline(0, color="0.6", linewidth=1)
    for height, arm in enumerate(arms):
        if arm in found:
            it = found[arm]
            colour = {"above": "tab:green", "below": "tab:red", "within": "0.35"}[it.verdict]
            axis.plot(it.values, [height] * len(it.values), ".", color=colour, markersize=4, alpha=0.6)
            spread = 0.0 if math.isnan(it.spread) else it.spread
            axis.errorbar(it.mean, height, xerr=spread, fmt="o", color=colour, markersize=6, capsize=2)
    axis.set_yticks(range(len(arms)), arms, fontsize=8)
    axis.set_ylim(len(arms) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", alpha=0.3)
