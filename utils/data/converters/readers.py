"""Read annotation files of any size and origin: XML without entities, JSON element by element, CSV line by line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from utils.data.image_headers import read_header
from utils.errors import InputError, MissingFileError

MAX_XML_BYTES = 16 << 20
MAX_XML_DEPTH = 100
MAX_TABLE_BYTES = 4 << 30
MAX_JSON_BYTES = 64 << 30
MAX_JSON_VALUE = 16 << 20  # characters of one element; elements are held one at a time
_CHUNK = 1 << 20
_NUMBER_TAIL = 2  # a value counts as whole with more behind it: "1", "1." and "1e+" at the window's edge may go on


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file; a document type is refused, so no entity can expand or reach another file.

    Raises:
        MissingFileError: no such file.
        InputError: not XML, with a document type, nested deeper than 100 or larger than 16 MiB.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise InputError(f"{path}, line {parser.CurrentLineNumber}: nested deeper than {MAX_XML_DEPTH}")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise InputError(f"{path}, line {parser.CurrentLineNumber}: document types and entities in XML are refused")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(_checked(path, MAX_XML_BYTES).read_bytes(), True)
    except expat.ExpatError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid XML ({expat.ErrorString(error.code)})") from None
    except (ValueError, LookupError) as error:  # an encoding that its first line names and nobody knows
        raise error if isinstance(error, InputError) else InputError(f"{path}: not valid XML ({error})") from None
    return builder.close()


def read_json_items(path: Path, wanted: Container[str]) -> Iterator[tuple[str, Any]]:
    """Yield (key, element) for the elements of the wanted lists of a JSON object, in the order of the file.

    One element is in memory at a time, so a file of any size up to 64 GiB can be read; other values are passed over.

    Raises:
        MissingFileError: no such file.
        InputError: not JSON with an object at its top, cut off, or an element of more than 16 Mi characters.
    """
    with open(_checked(path, MAX_JSON_BYTES), encoding="utf-8-sig") as stream:
        reader = _JsonReader(path, stream)
        try:
            reader.take("{")
            more = reader.peek() != "}"
            while more:
                key = reader.value()
                reader.take(":")
                if reader.peek() == "[":
                    yield from ((key, item) for item in reader.elements() if key in wanted)
                else:
                    reader.value()
                more = reader.take(",}") == ","
        except UnicodeDecodeError:
            raise InputError(f"{path}: not valid JSON: holds bytes that are not UTF-8") from None
        except RecursionError:
            raise InputError(f"{path}: not valid JSON: nested too deeply") from None


class _JsonReader:
    """A window that moves over JSON text."""

    def __init__(self, path: Path, stream: Any):  # noqa: ANN401
        self.path, self.stream = path, stream
        self.text, self.place, self.before, self.ended = "", 0, 0, False
        self.decoder = json.JSONDecoder()

    def grow(self) -> None:
        """Read on: at least as much as is held, so that a long value is not parsed again and again."""
        chunk = self.stream.read(max(_CHUNK, len(self.text) - self.place))
        self.ended = not chunk
        self.before += self.place
        self.text, self.place = self.text[self.place :] + chunk, 0

    def peek(self) -> str:
        """Return the next character that is no space."""
        while True:
            while self.place < len(self.text) and self.text[self.place] in " \t\r\n":
                self.place += 1
            if self.place < len(self.text):
                return self.text[self.place]
            if self.ended:
                raise self.error("it ends too early")
            self.grow()

    def take(self, allowed: str) -> str:
        """Return the next character, which has to be an allowed one."""
        found = self.peek()
        if found not in allowed:
            raise self.error(f"found {found!r}, expected {' or '.join(map(repr, allowed))}")
        self.place += 1
        return found

    def value(self) -> Any:  # noqa: ANN401
        """Return the next value."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
                if len(self.text) - end > _NUMBER_TAIL or self.ended:
                    self.place = end
                    return value
            except json.JSONDecodeError as error:
                if self.ended:
                    raise self.error(error.msg) from None
            except ValueError as error:
                raise self.error(str(error)) from None
            if len(self.text) - self.place > MAX_JSON_VALUE:
                raise self.error(f"a value of more than {MAX_JSON_VALUE} characters, or a broken one")
            self.grow()

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the list that begins here."""
        self.take("[")
        if self.peek() == "]":
            self.place += 1
            return
        more = True
        while more:
            yield self.value()
            more = self.take(",]") == ","

    def error(self, text: str) -> InputError:
        """Return the error for the place that was reached."""
        return InputError(f"{self.path}, character {self.before + self.place}: not valid JSON: {text}")


def read_table(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield ("FILE, line N", fields) for each line of a comma-separated file that is not empty.

    Raises:
        MissingFileError: no such file.
        InputError: not text, or larger than 4 GiB, or a field of more than 128 KiB.
    """
    with open(_checked(path, MAX_TABLE_BYTES), encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream)
        try:
            for fields in rows:
                if fields:
                    yield f"{path}, line {rows.line_num}", fields
        except csv.Error as error:
            raise InputError(f"{path}, line {rows.line_num}: not valid CSV ({error})") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}: not valid CSV: holds bytes that are not UTF-8") from None


def numbers(values: Sequence[Any], where: str, what: str, count: int) -> list[float]:
    """Return ``count`` finite numbers from text or numbers.

    Raises:
        InputError: another count, or something that is no finite number.
    """
    if not isinstance(values, (list, tuple)) or len(values) != count:
        found = f"{len(values)} values" if isinstance(values, (list, tuple)) else shown(values)
        raise InputError(f"{where}: {what} is {found}, expected {count} numbers")
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise InputError(f"{where}: {what} is {shown(list(values))}, expected {count} finite numbers")
    return found


def image_size(path: Path) -> tuple[int, int]:
    """Return an image's upright (width, height) in pixels from its header.

    Raises:
        InputError: the file is no image.
    """
    try:
        with open(path, "rb") as stream:
            return read_header(stream).upright_size
    except ValueError as error:
        raise InputError(f"{path}: not an image that can be read ({error})") from None


def plain_path(text: Any, where: str) -> Path:  # noqa: ANN401
    """Return a relative path that an annotation file gives.

    Raises:
        InputError: it is no text, absolute, or climbs with '..'.
    """
    from pathlib import PureWindowsPath  # splits at both kinds of slash and knows drives

    parts = PureWindowsPath(text) if isinstance(text, str) else None
    if parts is None or not parts.name or parts.drive or parts.root or ".." in parts.parts or "\0" in text:
        raise InputError(f"{where}: {shown(text)} is not a path below the data set")
    return Path(*parts.parts)


def shown(value: object, limit: int = 60) -> str:
    """Return a value from a file fit for a one-line message."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _checked(path: Path, most: int) -> Path:
    """Return the path of an existing file that is not too large."""
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file")
    if path.stat().st_size > most:
        raise InputError(f"{path}: {path.stat().st_size} bytes, at most {most} are read")
    return path
