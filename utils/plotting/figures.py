"""Matplotlib figures without its global state: Agg canvas, no pyplot, no settings changed; safe in threads."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import WorkError
from utils.plotting.fonts import default_font, drawable_names, find_font, is_right_to_left, say_once
from utils.safe_write import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    from utils.annotator import Color

LONGEST_NAME = 24
PNG_LEVEL = 2  # of 9: a quarter of the usual time for files that are hardly larger, as figures are mostly white
SHAPING_MATPLOTLIB = (3, 11)  # the first release that joins and orders right-to-left letters


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, its parts kept from overlapping."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write_file(path: str | Path, data: bytes) -> None:
    """Write a picture's bytes so that the file is complete or absent.

    Raises:
        WorkError: the folder is read-only, missing or full.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise WorkError(f"{path}: the picture cannot be written ({error.strerror})") from error


def save_figure(figure: Figure, path: str | Path, dpi: int) -> None:
    """Write a figure in the format of the path's suffix."""
    buffer = io.BytesIO()
    suffix = Path(path).suffix.lower().lstrip(".") or "png"
    quick = {"pil_kwargs": {"compress_level": PNG_LEVEL}} if suffix == "png" else {}
    figure.savefig(buffer, format="jpeg" if suffix == "jpg" else suffix, dpi=dpi, **quick)
    write_file(path, buffer.getvalue())


def unit_color(color: Color) -> tuple[float, float, float]:
    """Turn a 0-255 colour into matplotlib's 0-1."""
    return color[0] / 255, color[1] / 255, color[2] / 255


def shorten(name: str, longest: int = LONGEST_NAME) -> str:
    """Cut a long class name, marking the cut."""
    name = " ".join(name.split())
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def shown_name(name: str, number: int, longest: int = LONGEST_NAME) -> str:
    """Return a class name as a figure can show it: shortened, or its number where no font draws it."""
    import matplotlib

    version = tuple(map(int, matplotlib.__version__.split(".")[:2]))
    if is_right_to_left(name) and version < SHAPING_MATPLOTLIB:
        say_once("matplotlib", f"matplotlib below 3.11 cannot write {name!r}: figures show such classes by number")
        return f"class {number}"
    return shorten(drawable_names({number: name})[number], longest)


def style_name(text: Text) -> None:
    """Let a matplotlib text stand literally ('$' is no formula) and in a font that has its letters."""
    from matplotlib.font_manager import FontProperties

    text.set_parse_math(False)
    path = find_font(text.get_text())
    if path and path != default_font():
        text.set_fontproperties(FontProperties(fname=path, size=text.get_fontsize()))


def name_ticks(axes: Axes, axis: str, names: Iterable[tuple[int, str]], fontsize: float) -> None:
    """Put class names at the ticks 0, 1, 2 ... of one axis, 'x' or 'y'; crowded ones below are written upwards."""
    shown = [shown_name(name, number) for number, name in names]
    set_ticks, which = (axes.set_xticks, axes.xaxis) if axis == "x" else (axes.set_yticks, axes.yaxis)
    crowded = axis == "x" and len(shown) * max(map(len, shown), default=0) > 110
    set_ticks(range(len(shown)), shown, fontsize=fontsize, rotation=90 if crowded else 0)
    for label in which.get_ticklabels():
        style_name(label)


class LegendEntry(NamedTuple):
    """One line of a legend: a class (its number, or -1 for any other text), and text after its name."""

    line: Line2D
    number: int
    name: str
    ending: str = ""


def named_legend(axes: Axes, entries: list[LegendEntry], fontsize: float, **options: object) -> None:
    """Add a legend with class names; ``options`` are further arguments of matplotlib's legend."""
    legend = axes.legend([entry.line for entry in entries], ["-"] * len(entries), fontsize=fontsize, **options)
    for text, entry in zip(legend.get_texts(), entries, strict=True):
        name = shown_name(entry.name, entry.number) if entry.number >= 0 else entry.name
        text.set_text(name + entry.ending)
        style_name(text)
