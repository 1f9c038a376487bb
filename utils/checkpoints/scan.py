"""What a checkpoint file holds, read without running any of it: container, class paths, claimed tensor sizes."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first pickle of files written before torch 1.6
LEGACY_PARTS = 5  # magic number, protocol, system facts, the object, storage keys
LEGACY_OBJECT = 3
ZIP_MAGIC = b"PK"
MODULE_TAG = "module"
STORAGE_TAG = "storage"
PASS_CLASS = "checkpoint.pass_class"  # stand-in that turns an old file's ("module", class, ...) into the class
ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip


class Damaged(Exception):
    """The file is not a whole checkpoint; the message says what it is instead."""


class Refused(Exception):
    """The file asks for something that is not allowed; the message names it."""


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    path: str


@dataclass
class PickleFacts:
    """What one pickle asks for.

    Attributes:
        globals: dotted paths of every class and function it names.
        storages: (key, storage class path, number of items) of every tensor storage it claims.
        module_marks: byte ranges (position of the opening mark, position of the persistent-id opcode) where a file
            written before torch 1.6 wraps a class together with its source text.
    """

    globals: set[str] = field(default_factory=set)
    storages: list[tuple[str, str, int]] = field(default_factory=list)
    module_marks: list[tuple[int, int]] = field(default_factory=list)


class _Unknown:
    """Any value that this scan does not follow."""


_UNKNOWN = _Unknown()
_MARK = object()
_LITERALS = {
    "UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING", "INT",
    "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4",
}  # fmt: skip
_STORE = {"PUT", "BINPUT", "LONG_BINPUT"}
_FETCH = {"GET", "BINGET", "LONG_BINGET"}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_TO_MARK = {"LIST", "DICT", "FROZENSET", "OBJ"}
_DROP_TO_MARK = {"APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK"}
_EFFECT = {
    "NONE": (0, 1), "NEWTRUE": (0, 1), "NEWFALSE": (0, 1), "EMPTY_TUPLE": (0, 1), "EMPTY_LIST": (0, 1),
    "EMPTY_DICT": (0, 1), "EMPTY_SET": (0, 1), "BINFLOAT": (0, 1), "FLOAT": (0, 1), "BINBYTES": (0, 1),
    "SHORT_BINBYTES": (0, 1), "BINBYTES8": (0, 1), "BYTEARRAY8": (0, 1), "APPEND": (1, 0), "SETITEM": (2, 0),
    "BUILD": (1, 0), "REDUCE": (2, 1), "NEWOBJ": (2, 1), "NEWOBJ_EX": (3, 1), "POP": (1, 0), "PROTO": (0, 0),
    "FRAME": (0, 0), "STOP": (1, 0),
}  # fmt: skip


class _Machine:
    """Follows the strings, numbers, classes and tuples of one pickle; everything else is opaque."""

    def __init__(self) -> None:
        self.stack: list[tuple[Any, int]] = []  # value, position where it began
        self.memo: dict[int, Any] = {}
        self.facts = PickleFacts()
        self._handlers: dict[str, Callable[[Any, int], None]] = {
            "MARK": lambda _, at: self.stack.append((_MARK, at)),
            "TUPLE": self._tuple,
            "GLOBAL": lambda argument, at: self._global(argument.replace(" ", "."), at),
            "STACK_GLOBAL": self._stack_global,
            "INST": self._inst,
            "BINPERSID": self._persistent_id,
            "DUP": lambda _, at: self.stack.append((self.stack[-1][0], at)),
            "MEMOIZE": lambda _, at: self.memo.update({len(self.memo): self.stack[-1][0]}),
        }

    def step(self, name: str, argument: Any, at: int) -> None:
        """Follow one opcode that stands at byte ``at``."""
        if name in self._handlers:
            self._handlers[name](argument, at)
        elif name in _LITERALS:
            self.stack.append((argument, at))
        elif name in _STORE:
            self.memo[argument] = self.stack[-1][0]
        elif name in _FETCH:
            self.stack.append((self.memo[argument], at))
        elif name in _FIXED_TUPLES:
            self._fixed_tuple(_FIXED_TUPLES[name], at)
        elif name in _TO_MARK or name in _DROP_TO_MARK:
            self._pop_to_mark()
            if name in _TO_MARK:
                self.stack.append((_UNKNOWN, at))
        elif name in _EFFECT:
            self._apply(*_EFFECT[name], at)
        else:
            raise Refused(f"the pickle instruction {name}")

    def _apply(self, pops: int, pushes: int, at: int) -> None:
        for _ in range(pops):
            self.stack.pop()
        if pushes:
            self.stack.append((_UNKNOWN, at))

    def _pop_to_mark(self) -> tuple[list[Any], int]:
        values: list[Any] = []
        while True:
            value, at = self.stack.pop()
            if value is _MARK:
                return values[::-1], at
            values.append(value)

    def _tuple(self, _: Any, at: int) -> None:
        values, start = self._pop_to_mark()
        self.stack.append((tuple(values), start))

    def _fixed_tuple(self, count: int, at: int) -> None:
        values = [self.stack.pop()[0] for _ in range(count)][::-1]
        self.stack.append((tuple(values), at))

    def _global(self, path: str, at: int) -> None:
        self.facts.globals.add(path)
        self.stack.append((Global(path), at))

    def _stack_global(self, _: Any, at: int) -> None:
        name, module = self.stack.pop()[0], self.stack.pop()[0]
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Refused("a class whose name is computed")
        self._global(f"{module}.{name}", at)

    def _inst(self, argument: str, at: int) -> None:
        self._pop_to_mark()
        self._global(argument.replace(" ", "."), at)

    def _persistent_id(self, _: Any, at: int) -> None:
        value, start = self.stack.pop()
        if not isinstance(value, tuple) or not value or value[0] not in (STORAGE_TAG, MODULE_TAG):
            raise Refused("a persistent id that is not a tensor storage")
        if value[0] == MODULE_TAG and len(value) == 4 and isinstance(value[1], Global):
            self.facts.module_marks.append((start, at))
            self.stack.append((value[1], at))
            return
        well_formed = len(value) in (5, 6) and isinstance(value[1], Global) and type(value[4]) is int
        if value[0] != STORAGE_TAG or not well_formed or value[4] < 0:
            raise Refused("a tensor storage with a malformed description")
        self.facts.storages.append((str(value[2]), value[1].path, value[4]))
        self.stack.append((_UNKNOWN, at))


def scan_pickle(stream: BinaryIO) -> PickleFacts:
    """Follow one pickle from the stream's position to its end, importing and running nothing.

    Raises:
        Damaged: the pickle ends too early or makes no sense.
        Refused: an instruction or persistent id that no checkpoint needs.
    """
    machine, start = _Machine(), stream.tell()
    try:
        for opcode, argument, at in pickletools.genops(stream):
            machine.step(opcode.name, argument, at - start)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise Damaged("truncated or damaged") from error
    return machine.facts


@dataclass
class Scan:
    """What a checkpoint file asks for, and where torch can read it.

    Attributes:
        globals: dotted paths of every class and function named in it.
        source: the file's path, or its rewritten bytes for a layout that torch no longer reads safely.
    """

    globals: set[str]
    source: Path | io.BytesIO


def scan_file(path: Path) -> Scan:
    """Check that a file is a whole checkpoint and list what it names.

    Raises:
        Damaged: not a checkpoint, truncated, a checksum that differs, or sizes beyond the file's own.
        Refused: something in it that no checkpoint needs.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise Damaged("empty (0 bytes), not a checkpoint")
    if head.startswith(ZIP_MAGIC):
        return Scan(_scan_zip(path).globals, path)
    if head.startswith(LEGACY_MAGIC):
        return _scan_legacy(path)
    if len(head) < len(LEGACY_MAGIC) and LEGACY_MAGIC.startswith(head):
        raise Damaged("truncated")
    raise Damaged(_name_the_content(head))


def _name_the_content(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        return "a web page, not a checkpoint (the download failed)"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not a checkpoint (run git lfs pull)"
    return "not a checkpoint (neither a torch zip archive nor torch's older format)"


def _scan_zip(path: Path) -> PickleFacts:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            prefix = _check_entries(entries, path.stat().st_size)
            broken = archive.testzip()
            if broken is not None:
                raise Damaged(f"damaged: the checksum of its part {broken} differs")
            with archive.open(f"{prefix}/data.pkl") as pickled:
                facts = scan_pickle(io.BytesIO(pickled.read()))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OverflowError, ValueError) as error:
        raise Damaged("truncated or damaged: it begins like a checkpoint and its archive cannot be read") from error
    sizes = {entry.filename: entry.file_size for entry in entries}
    _check_storages(facts, lambda key: sizes.get(f"{prefix}/data/{key}", -1))
    return facts


def _check_entries(entries: list[zipfile.ZipInfo], file_size: int) -> str:
    """Return the folder inside the archive that holds the pickle, after refusing archives torch never writes."""
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise Damaged("damaged: a part of its archive is there twice")
    if sum(entry.file_size for entry in entries) > file_size or any(entry.compress_type for entry in entries):
        raise Damaged("not a checkpoint: its archive claims more bytes than the file has")
    folders = {name.split("/", 1)[0] for name in names}
    if any(name.endswith("constants.pkl") for name in names):
        raise Damaged("a TorchScript archive, not a checkpoint (rename it to .torchscript to run it)")
    if len(folders) != 1 or f"{(prefix := folders.pop())}/data.pkl" not in names:
        raise Damaged("a zip archive, not a checkpoint")
    return prefix


def _check_storages(facts: PickleFacts, stored_bytes: Callable[[str], int]) -> None:
    """Refuse tensor storages that claim more bytes than the file holds: torch would read past their end."""
    for key, kind, items in facts.storages:
        item_bytes = ITEM_BYTES.get(kind.rsplit(".", 1)[-1])
        if item_bytes is None:
            raise Refused(kind)
        if items * item_bytes > stored_bytes(key):
            raise Damaged(f"truncated or damaged: tensor data {key} claims {items} items, more than it holds")


def _scan_legacy(path: Path) -> Scan:
    data = path.read_bytes()
    stream, found = io.BytesIO(data), PickleFacts()
    pieces: list[bytes] = []
    for facts, start, end in _legacy_pickles(stream):
        found.globals |= facts.globals
        found.storages += facts.storages
        pieces.append(_without_sources(data[start:end], facts.module_marks))
    _check_storages(found, lambda _: len(data))
    if sum(items * ITEM_BYTES[kind.rsplit(".", 1)[-1]] for _, kind, items in _distinct(found)) > len(data):
        raise Damaged("truncated: its tensors claim more bytes than the file has")
    return Scan(found.globals, io.BytesIO(b"".join([*pieces, data[stream.tell() :]])))


def _distinct(facts: PickleFacts) -> set[tuple[str, str, int]]:
    return set(facts.storages)


def _legacy_pickles(stream: io.BytesIO) -> Iterator[tuple[PickleFacts, int, int]]:
    for _ in range(LEGACY_PARTS):
        start = stream.tell()
        yield scan_pickle(stream), start, stream.tell()


def _without_sources(pickled: bytes, marks: list[tuple[int, int]]) -> bytes:
    """Rewrite each ("module", class, file, source text) persistent id as a call that returns the class.

    Files written before torch 1.6 carry every class's source that way, which torch's weights-only loader refuses.
    """
    calls = {start for start, _ in marks}
    ends = {end for _, end in marks}
    function = b"c" + PASS_CLASS.replace(".", "\n").encode() + b"\n"
    result, previous = [], 0
    for at in sorted(calls | ends):
        result.append(pickled[previous:at])
        result.append(function if at in calls else b"R")
        previous = at + (at in ends)
    return b"".join([*result, pickled[previous:]])
