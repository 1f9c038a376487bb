"""The report: one HTML file that holds everything and asks nothing of any network.

Its Content-Security-Policy allows the one style sheet and the one script in it, by their hashes, and pictures that are
part of the file; nothing else can run or load, whatever a class or file is called.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.diagnosis import page_checks, page_errors, page_results
from utils.diagnosis.gallery import LARGEST_PAGE, Crop
from utils.diagnosis.page_gallery import gallery_section
from utils.diagnosis.page_parts import Markup, esc, join, number, percent, tag
from utils.errors import WorkError

ASSETS = Path(__file__).parent / "assets"
SECTION_TITLES = {  # id -> what the bar on top calls it
    "verdict": "Verdict", "errors": "Errors", "confusions": "Confusions", "gallery": "Pictures", "classes": "Classes",
    "thresholds": "Thresholds", "balance": "Balance", "audit": "Labels", "agreement": "Agreement", "advice": "Advice",
    "comparison": "Comparison", "capacity": "Model size", "method": "Method",
}  # fmt: skip


def write_page(path: str | Path, summary: Mapping[str, Any], crops: Sequence[Crop] = ()) -> int:
    """Write the report and return its size in bytes.

    Args:
        path: the HTML file.
        summary: what ``utils.diagnosis.summary`` builds.
        crops: with pixels or links; those of group "errors" fill the gallery, those of "labels" the audit.

    Raises:
        WorkError: it cannot be written.
    """
    text = page(summary, crops)
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({error.strerror})") from error
    return len(text.encode())


def page(summary: Mapping[str, Any], crops: Sequence[Crop] = ()) -> str:
    """Return the report as HTML text."""
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    sections = _sections(summary, crops)
    head = join([
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"Diagnosis of {_subject(summary)}"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    ])  # fmt: skip
    body = join([
        tag("a", "Skip to the verdict", href="#verdict", class_="skip"), _header(summary), _bar(sections),
        tag("main", *sections.values()), _footer(summary), tag("script", Markup(script)),
    ])  # fmt: skip
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>{body}</body>\n</html>\n'


def _sections(summary: Mapping[str, Any], crops: Sequence[Crop]) -> dict[str, Markup]:
    """Return the sections that there is something for, in the page's order."""
    names = {int(c): name for c, name in summary["data"]["names"].items()}
    errors, own = summary.get("errors"), [crop for crop in crops if crop.group == "errors"]
    sections: dict[str, Markup] = {"verdict": _verdict(summary)}
    if errors:
        sections["errors"] = page_errors.errors_section(errors)
        sections["confusions"] = page_errors.confusions_section(errors, bool(own))
        if own:
            sections["gallery"] = gallery_section(own, names)
        sections["classes"] = page_errors.classes_section(errors)
        sections["thresholds"] = page_errors.thresholds_section(errors, summary["run"].get("weights") or "")
    makers = {
        "balance": page_checks.balance_section,
        "audit": lambda audit: page_checks.audit_section(audit, [c for c in crops if c.group == "labels"], names),
        "agreement": page_checks.agreement_section,
        "advice": page_results.advice_section,
        "comparison": page_results.comparison_section,
        "capacity": page_results.capacity_section,
    }
    for key, make in makers.items():
        if summary.get(key):
            sections[key] = make(summary[key])
    sections["method"] = page_results.method_section(summary)
    return sections


def _header(summary: Mapping[str, Any]) -> Markup:
    data, run = summary["data"], summary["run"]
    facts = {
        "data": data.get("yaml"), "split": data.get("split"), "images": _count(data.get("images")),
        "objects": _count(data.get("objects")), "classes": number(len(data["names"])),
        "model": run.get("weights") or run.get("predictions"), "image size": run.get("imgsz"),
        "made": summary.get("created"),
    }  # fmt: skip
    items = [tag("li", f"{key} ", tag("b", value)) for key, value in facts.items() if value not in (None, "")]
    return tag("header", tag("h1", f"Diagnosis of {_subject(summary)}"), tag("ul", *items, class_="facts"))


def _count(value: int | None) -> str | None:
    return None if value is None else number(value)


def _subject(summary: Mapping[str, Any]) -> str:
    run, data = summary["run"], summary["data"]
    source = run.get("weights") or run.get("predictions") or data.get("yaml") or "labels"
    return Path(str(source)).name


def _bar(sections: Mapping[str, Markup]) -> Markup:
    links = [tag("li", tag("a", SECTION_TITLES[key], href=f"#{key}")) for key in sections]
    return tag("nav", tag("ul", *links), class_="bar", aria_label="Sections")


def _verdict(summary: Mapping[str, Any]) -> Markup:
    tiles = [tag("div", tag("dt", title), tag("dd", value), class_="tile") for title, value in _tiles(summary)]
    sentences = tag("div", *(tag("p", sentence) for sentence in summary["verdict"]), class_="verdict")
    return tag(
        "section", tag("h2", "Verdict", id="verdict-title"), sentences,
        tag("dl", *tiles, class_="tiles") if tiles else None, id="verdict", aria_labelledby="verdict-title",
    )  # fmt: skip


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the few numbers that stand under the verdict."""
    tiles: list[tuple[str, object]] = []
    errors, audit, agreement = summary.get("errors"), summary.get("audit"), summary.get("agreement")
    if errors:
        counts = errors["operating"]["counts"]
        objects, predictions = counts["objects"] or 1, counts["predictions"] or 1
        tiles += [
            ("mAP50", number(errors["tide"]["map"])),
            ("objects found", join([percent(counts["TP"] / objects), tag("small", f" of {counts['objects']:,}")])),
            ("right predictions",
             join([percent(counts["TP"] / predictions), tag("small", f" of {counts['predictions']:,}")])),
            ("given another class", number(counts["misclassified"])),
            ("missed", number(counts["missed"])),
        ]  # fmt: skip
    if audit:
        tiles += [("label errors", number(audit["errors"])), ("label warnings", number(audit["warnings"]))]
    if agreement:
        tiles.append(("annotators' alpha", number(agreement.get("alpha"), 3)))
    return tiles


def _footer(summary: Mapping[str, Any]) -> Markup:
    size = f"{summary['schema']} {summary['version']}"
    return tag("footer", tag("p", f"Every number of this page is in summary.json ({size}). This file loads nothing."))


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


__all__ = ["LARGEST_PAGE", "esc", "page", "write_page"]
