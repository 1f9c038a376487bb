"""One conversion: labels are written to a hidden folder and renamed into place when all of it is there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from utils.data.converters.readers import shown
from utils.errors import InputError

MARK = ".unfinished-conversion.json"
PARTIAL_SUFFIX = ".partial"
MOST_REASONS = 100  # kinds of skipped things that are told apart
SPLITS = ("train", "val", "test")

Row = tuple[int, float, float, float, float]  # class id, then centre x, centre y, width, height as fractions


@dataclass
class Noted:
    """How often something was seen, and where first."""

    count: int = 0
    first: str = ""


@dataclass
class Report:
    """What a conversion did.

    Attributes:
        name: data set.
        images: label files written, one per image.
        boxes: rows written.
        made: folders and lists that are new, relative to the data set.
        kept: those that were there before and were left alone.
        skipped: reason -> how many, and the first place.
        notes: changes that lose nothing, such as boxes cut at the image's edge; as ``skipped``.
    """

    name: str
    images: int = 0
    boxes: int = 0
    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    skipped: dict[str, Noted] = field(default_factory=dict)
    notes: dict[str, Noted] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the report as text."""
        text = [f"{self.name}: made {', '.join(self.made)}: {self.images} label files with {self.boxes} boxes"]
        if not self.made:
            text = [f"{self.name}: nothing to convert, already there: {', '.join(self.kept)}"]
        elif self.kept:
            text[0] += f"; left as they were: {', '.join(self.kept)}"
        for title, noted in (("skipped", self.skipped), ("note", self.notes)):
            text += [f"  {title}: {n.count} {reason} (first: {n.first})" for reason, n in noted.items()]
        return text


class _Step(NamedTuple):
    source: Path
    target: Path


class Job:
    """What a converter works with: the data set's folder, its classes, and a safe way to write.

    A converter finds its sources below ``root``, asks ``is_there`` before it makes anything, writes through
    ``write_labels``, ``link_image`` and ``write_list`` and orders whole folders with ``move``. Nothing shows up in the
    data set before ``commit``, which renames in the order of these calls: write a split's labels before its images, for
    an image folder that exists counts as usable.

    Args:
        name: data set, for messages.
        root: folder of the data set; everything stays below it.
        names: class id -> name, as the data YAML has them.
    """

    def __init__(self, name: str, root: Path, names: Mapping[int, str]):
        self.name, self.root = name, root.resolve()
        self.names = dict(names)
        self._ids = {text: number for number, text in self.names.items()}
        loose = Counter(map(_key, self._ids))
        self._loose_ids = {_key(text): number for text, number in self._ids.items() if loose[_key(text)] == 1}
        self.report = Report(name)
        self._unknown = 0
        self._steps: list[_Step] = []
        self._staged: dict[Path, Path] = {}
        self._staging: Path | None = None

    @property
    def staging(self) -> Path:
        """The hidden folder of this conversion."""
        if self._staging is None:
            self._staging = Path(tempfile.mkdtemp(PARTIAL_SUFFIX, f".{self.name}.", self.root))
            self._staging.chmod(0o755)
        return self._staging

    def skip(self, reason: str, where: object, count: int = 1) -> None:
        """Count something that does not reach the labels."""
        _note(self.report.skipped, reason, where, count)

    def is_there(self, target: str) -> bool:
        """Return whether a folder or list of the converted set exists and is not empty; it is then left alone."""
        if not is_filled(self.root / target):
            return False
        if target not in self.report.kept:
            self.report.kept.append(target)
        return True

    def row(self, name: str, xyxy: Sequence[float], size: tuple[float, float], where: str) -> Row | None:
        """Return one label row, or None when it is skipped (and counted).

        Args:
            name: class name.
            xyxy: left, top, right, bottom in pixels.
            size: the image's width and height in pixels.
            where: file and place, for the report.

        Raises:
            InputError: the image's size is not positive.
        """
        number = self._ids.get(name, self._loose_ids.get(_key(name)))
        if number is None:
            self._unknown += 1
            self.skip(f"boxes of the class {shown(name)}, which the names lack", where)
            return None
        width, height = size
        if not (width > 0 and height > 0):
            raise InputError(f"{where}: the image's size is {shown(width)} x {shown(height)}, expected more than 0")
        left, right = (min(max(x, 0.0), width) / width for x in (xyxy[0], xyxy[2]))
        top, bottom = (min(max(y, 0.0), height) / height for y in (xyxy[1], xyxy[3]))
        row = (number, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
        if round(row[3], 6) <= 0 or round(row[4], 6) <= 0:
            self.skip("boxes without area in the image", where)
            return None
        if min(xyxy) < 0 or xyxy[2] > width or xyxy[3] > height:
            _note(self.report.notes, "boxes cut at the image's edge", where)
        return row

    def write_labels(self, folder: str, stem: str | Path, rows: Iterable[Row]) -> None:
        """Write ``stem``.txt into a label folder that ``is_there`` denied; no rows make an empty file (background).

        Raises:
            InputError: there is one of this name already.
        """
        lines = [f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in rows]
        path = self._stage(folder) / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8", newline="\n") as stream:
                stream.writelines(lines)
        except FileExistsError:
            raise InputError(f"{self.root / folder}: two images would get the labels {path.name}") from None
        self.report.images += 1
        self.report.boxes += len(lines)

    def link_image(self, folder: str, source: Path) -> None:
        """Put an image into a folder that ``is_there`` denied, as a hard link, or a copy where there are no links."""
        target = self._stage(folder) / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except FileExistsError:
            return
        except OSError:
            shutil.copy2(source, target)

    def write_list(self, target: str, images: Iterable[str]) -> None:
        """Write a list of images, one path a line."""
        path = self._stage(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{image}\n" for image in images), encoding="utf-8", newline="\n")

    def move(self, source: str, target: str) -> None:
        """Order a folder of the data set to be renamed, unless that is done already.

        Raises:
            InputError: both exist.
        """
        old, new = self.root / source, self.root / target
        if old.exists() and is_filled(new):
            raise InputError(f"{old}: to become {new}, which exists, too; move or delete one of them")
        if old.exists():
            self._steps.append(_Step(old, new))
            self.report.made.append(target)

    def commit(self) -> None:
        """Rename everything into place; a mark stands in the data set's folder meanwhile.

        Raises:
            InputError: a folder leads out of the data set through a link, or no box has a class of the names.
        """
        if self._unknown and not self.report.boxes:
            first = next(iter(self.report.skipped.items()))
            raise InputError(
                f"{self.name}: the names fit no box: {first[1].count} {first[0]} (first: {first[1].first})"
            )
        for step in self._steps:
            self.check_inside(step.target)
        if self._steps:
            mark_unfinished(self.root, self.name)
        for source, target in self._steps:
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                target.rmdir()  # an empty folder; where it is not, another program has just filled it
            os.replace(source, target)
        (self.root / MARK).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the hidden folder."""
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)

    def check_inside(self, target: Path) -> None:
        """Refuse a place that a link leads out of the data set."""
        if not target.parent.resolve().is_relative_to(self.root) or target.is_symlink():
            raise InputError(f"{target}: a link leads out of {self.root}; nothing is written there")

    def _stage(self, target: str) -> Path:
        """Return the hidden place of a folder or list, and order its renaming."""
        final = self.root / target
        if final not in self._staged:
            self._staged[final] = self.staging / "made" / target
            self._steps.append(_Step(self._staged[final], final))
            self.report.made.append(target)
        return self._staged[final]


def is_filled(path: Path) -> bool:
    """Return whether a file exists, or a folder with anything in it."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def mark_unfinished(root: Path, name: str, **facts: object) -> None:
    """Write the mark of a conversion under way, with facts for whoever goes on with it."""
    temporary = root / f"{MARK}.new"
    temporary.write_text(json.dumps({**unfinished(root), "converter": name, **facts}), encoding="utf-8")
    os.replace(temporary, root / MARK)


def unfinished(root: Path) -> dict[str, object]:
    """Return what the mark of an unfinished conversion says, {} where there is none."""
    try:
        facts = json.loads((root / MARK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        facts = None
    return facts if isinstance(facts, dict) and facts else {"converter": ""}


def _note(noted: dict[str, Noted], reason: str, where: object, count: int = 1) -> None:
    if reason not in noted and len(noted) >= MOST_REASONS:
        reason = "of other kinds"
    entry = noted.setdefault(reason, Noted(first=str(where)))
    entry.count += count


def _key(name: str) -> str:
    """Return a class name for comparing: case and outer spaces do not count."""
    return str(name).strip().casefold()
