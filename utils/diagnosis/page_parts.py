"""Small pieces of the report page: escaped text, numbers, tables, bars. Every text that comes from data is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

NO_VALUE = "–"
BAR_HEIGHT = 10


class Markup(str):
    """Text that is HTML already; everything else is escaped by ``esc``."""

    __slots__ = ()


def esc(value: object) -> Markup:
    """Return a value as HTML text, safe in elements and in quoted attributes; control characters become spaces."""
    if isinstance(value, Markup):
        return value
    text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(value))
    return Markup(html.escape(text, quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element.

    Args:
        name: the element's name.
        children: text (escaped) or Markup; None is left out.
        attributes: ``class_`` for class, ``data_x`` for data-x; None and False are left out, True is a bare name.
    """
    parts = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{esc(value)}"')
    opening = f"<{name}{''.join(parts)}"
    if name in {"img", "input", "rect", "line", "circle", "path", "meta", "link", "br"}:
        return Markup(f"{opening}/>")
    return Markup(f"{opening}>{join(children)}</{name}>")


def join(children: Iterable[object], between: str = "") -> Markup:
    """Return the children one after the other, escaped where they are no Markup."""
    return Markup(between.join(esc(child) for child in children if child is not None))


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """Return a number for people: digits after the point, thousands apart, a dash when unknown."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NO_VALUE
    if isinstance(value, int) or digits == 0:
        return f"{round(value):,}{unit}"
    return f"{value:,.{digits}f}{unit}"


def percent(value: float | None, digits: int = 0) -> str:
    """Return a share of 1 as per cent."""
    return NO_VALUE if value is None else number(100 * value, digits, " %")


def signed(value: float | None, digits: int = 1) -> str:
    """Return a number with its sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and text != NO_VALUE and value >= 0 else text.replace("-", "−")


def bar(share: float, label: str = "", kind: str = "") -> Markup:
    """Return a horizontal bar, ``share`` 0 to 1 of the width; the label is for screen readers, '' hides the bar."""
    width = 100 * min(max(share if math.isfinite(share) else 0.0, 0.0), 1.0)
    filled = tag("rect", width=f"{width:.2f}", height=BAR_HEIGHT, class_=f"fill {kind}".strip())
    track = tag("rect", width=100, height=BAR_HEIGHT, class_="track")
    named = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return tag("svg", track, filled, class_="bar", viewBox=f"0 0 100 {BAR_HEIGHT}", preserveAspectRatio="none", **named)


def interval(value: float | None, low: float | None, high: float | None) -> Markup:
    """Return a share with its 95 % interval, as text and as a small picture of both on 0 to 1."""
    if value is None:
        return tag("span", NO_VALUE)
    text = tag("span", f"{value:.2f}", class_="value")
    if low is None or high is None:
        return text
    picture = tag(
        "svg",
        tag("line", x1=0, x2=100, y1=5, y2=5, class_="track"),
        tag("line", x1=f"{100 * low:.1f}", x2=f"{100 * high:.1f}", y1=5, y2=5, class_="span"),
        tag("line", x1=f"{100 * value:.1f}", x2=f"{100 * value:.1f}", y1=1, y2=9, class_="mark"),
        class_="ci", viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true",
    )  # fmt: skip
    return join([text, " ", tag("small", f"{low:.2f}–{high:.2f}"), picture])


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, whether it holds numbers, and what the heading means."""

    title: str
    numeric: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell: what is shown, and what it is sorted by (None: the text)."""

    shown: object
    key: float | str | None = None


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, label: str, sortable: bool = True) -> Markup:
    """Return a table in a region that scrolls by itself; the first cell of each row is its heading."""
    heads = [
        tag(
            "th",
            tag("button", c.title, type="button", title=c.hint or None) if sortable else c.title,
            scope="col",
            class_="num" if c.numeric else None,
            aria_sort="none" if sortable else None,
        )  # fmt: skip
        for c in columns
    ]
    body = [
        tag("tr", *(_cell(cell, c, i) for i, (cell, c) in enumerate(zip(row, columns, strict=True)))) for row in rows
    ]
    inner = tag("table", tag("caption", label, class_="unseen"), tag("thead", tag("tr", *heads)), tag("tbody", *body))
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=label)


def _cell(cell: object, column: Column, place: int) -> Markup:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    kind = "num" if column.numeric else None
    key = cell.key if cell.key is not None else (None if isinstance(cell.shown, Markup) else str(cell.shown))
    if place == 0:
        return tag("th", cell.shown, scope="row", data_key=key)
    return tag("td", cell.shown, class_=kind, data_key=key)


def section(name: str, title: str, *children: object, lead: object = None) -> Markup:
    """Return a section of the page with its heading and a first sentence."""
    heading = tag("h2", title, id=f"{name}-title")
    return tag(
        "section", heading, tag("p", lead, class_="lead") if lead else None, *children,
        id=name, aria_labelledby=f"{name}-title",
    )  # fmt: skip


def chip(text: object, kind: str = "") -> Markup:
    """Return a short mark."""
    return tag("span", text, class_=f"chip {kind}".strip())


def details(summary: object, *children: object) -> Markup:
    """Return a part that opens on demand."""
    return tag("details", tag("summary", summary), *children)


def plural(count: int, word: str, many: str = "") -> str:
    """Return "1 object" or "2 objects"."""
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def shown_names(names: Sequence[str], most: int = 12) -> str:
    """Return names in a line, cut after ``most``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plain_text(value: Any) -> str:
    """Return a setting's value as people write it."""
    if value is None:
        return "none"
    return ", ".join(map(plain_text, value)) if isinstance(value, (list, tuple)) else str(value)
