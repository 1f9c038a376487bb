"""Fonts for class names on pictures: the one matplotlib ships, else one the system has; nothing is fetched."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from utils.logs import LOGGER

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

PROBE_SIZE = 16
UNASSIGNED = "\U0010ffff"  # no font has a glyph for it, so it shows how a font draws a missing one
FONT_SUFFIXES = {".ttf", ".otf", ".ttc"}
LIKELY_WIDE = ("cjk", "unifont", "unicode", "droidsansfallback", "wqy", "msyh", "yahei", "pingfang", "gothic", "noto")


def font_folders() -> list[Path]:
    """Return the folders where this operating system keeps fonts."""
    home = Path.home()
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", home / "AppData/Local/Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    return [
        home / ".local/share/fonts",
        home / ".fonts",
        Path("/usr/local/share/fonts"),
        Path("/usr/share/fonts"),
    ]


@lru_cache(maxsize=1)
def system_fonts() -> tuple[str, ...]:
    """Return the paths of the installed fonts, those with many scripts first."""
    files = {
        path
        for folder in font_folders()
        if folder.is_dir()
        for path in folder.rglob("*")
        if path.suffix.lower() in FONT_SUFFIXES
    }

    def likelihood(path: Path) -> tuple[bool, bool, str]:
        name = path.stem.lower()
        return (not any(word in name for word in LIKELY_WIDE), "bold" in name or "italic" in name, str(path))

    return tuple(str(path) for path in sorted(files, key=likelihood))


@lru_cache(maxsize=1)
def default_font() -> str:
    """Return the path of DejaVu Sans in matplotlib's data (matplotlib is not imported), or ''."""
    spec = find_spec("matplotlib")
    path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec and spec.origin else None
    return str(path) if path and path.is_file() else ""


@lru_cache(maxsize=256)
def load_font(path: str, size: int) -> FreeTypeFont:
    """Open a font file at a size in pixels; '' opens Pillow's built-in font.

    Raises:
        OSError: the file is no font, or has no outlines at this size (colour bitmaps).
    """
    from PIL import ImageFont

    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)  # type: ignore[return-value]


@lru_cache(maxsize=8192)
def _draws(path: str, character: str) -> bool:
    """Tell whether a font has its own glyph for a character."""
    try:
        font = load_font(path, PROBE_SIZE)
        glyph, missing = font.getmask(character), font.getmask(UNASSIGNED)
    except OSError:
        return False
    return glyph.size != missing.size or bytes(glyph) != bytes(missing)


def _visible(text: str) -> set[str]:
    """Return the characters that need a glyph: no blanks, joiners, variation selectors or combining marks."""
    return {c for c in text if not c.isspace() and unicodedata.category(c) not in {"Cf", "Mn", "Me", "Cc"}}


@lru_cache(maxsize=1)
def _shapes_text() -> bool:
    from PIL import features

    return bool(features.check("raqm"))


def is_right_to_left(text: str) -> bool:
    """Tell whether a text holds letters of a script written from right to left."""
    return any(unicodedata.bidirectional(c) in {"R", "AL"} for c in text)


def can_draw(path: str, text: str) -> bool:
    """Tell whether one font ('' = Pillow's own) draws every character of a text."""
    if is_right_to_left(text) and not _shapes_text():
        return False
    return all(_draws(path, c) for c in _visible(text))


def _wanted_font(font: str) -> str:
    """Turn the caller's font (a path or a file name) into a path; the customary Arial.ttf means the default."""
    if not font or Path(font).name == "Arial.ttf" and not Path(font).is_file():
        return default_font()
    if Path(font).is_file():
        return str(font)
    named = [path for path in system_fonts() if Path(path).name.lower() == Path(font).name.lower()]
    if not named:
        say_once(font, f"font {font} not found: text on pictures uses DejaVu Sans")
    return named[0] if named else default_font()


@lru_cache(maxsize=256)
def find_font(text: str, font: str = "") -> str | None:
    """Return the first font that draws all of a text: the wanted one, the default, then the system's.

    Args:
        text: what will be drawn.
        font: a font file's path or name.

    Returns:
        a path ('' = Pillow's built-in font), or None when no font has all the characters.
    """
    for path in dict.fromkeys((_wanted_font(font), default_font(), "")):
        if can_draw(path, text):
            return path
    return next((path for path in system_fonts() if can_draw(path, text)), None)


_said: set[str] = set()


def say_once(topic: str, message: str) -> None:
    """Log a warning, only the first of its topic in this process."""
    if topic not in _said:
        _said.add(topic)
        LOGGER.warning(message)


def name_table(names: Mapping[int, str] | Iterable[str] | None) -> dict[int, str]:
    """Return class names as a dict by class number, whichever way they were given."""
    if names is None:
        return {}
    return {int(k): str(v) for k, v in (names.items() if isinstance(names, Mapping) else enumerate(names))}


def drawable_names(names: Mapping[int, str] | Sequence[str] | None, font: str = "") -> dict[int, str]:
    """Return class names by number, with the number in place of each name that no font here can draw.

    Args:
        names: class names as a list or a dict by class number.
        font: a font file's path or name to try first.
    """
    table = name_table(names)
    lost = [i for i, name in table.items() if find_font(name, font) is None]
    if lost:
        say_once(
            "names",
            f"no installed font draws the names of classes {', '.join(map(str, lost))}: "
            "pictures show their numbers (install a font with these characters, for example Noto Sans)",
        )
    return {i: f"class {i}" if i in lost else name for i, name in table.items()}


def drawable_text(text: str, font: str = "") -> tuple[str, str]:
    """Return (text, font path) for drawing; characters that no font draws become '?'."""
    path = find_font(text, font)
    if path is not None:
        return text, path
    say_once("characters", f"no installed font draws all of {text!r}: missing characters become '?'")
    path = _wanted_font(font)
    lost = {c for c in _visible(text) if not can_draw(path, c)}
    return "".join("?" if c in lost else c for c in text), path
