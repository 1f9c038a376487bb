"""What a checkpoint file holds, read without running any of it: its container, and a clean copy of it for torch."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from utils.checkpoints.complaints import Damaged, Refused
from utils.checkpoints.pickle_walk import ITEM_BYTES, PickleFacts, scan_pickle

__all__ = ["LEGACY_MAGIC", "PASS_CLASS", "Damaged", "PickleFacts", "Refused", "Scan", "scan_file", "scan_pickle"]

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first pickle of files written before torch 1.6
LEGACY_PARTS = 5  # magic number, protocol, system facts, the object, storage keys
ZIP_MAGIC = b"PK"
PASS_CLASS = "checkpoint.pass_class"  # stand-in that turns an old file's ("module", class, ...) into the class
SPARE_ELEMENTS = 1 << 24  # numbers of tensors beyond what is stored: grids of one head's last image, for instance
SHARED_BY = 4  # and so many tensors may show the same storage
_UNREADABLE_ZIP = "truncated or damaged: it begins like a checkpoint and its archive cannot be read"
_ZIP_ERRORS = (
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    ValueError,
    LookupError,
    struct.error,
    zlib.error,
)


@dataclass
class Scan:
    """What a checkpoint file asks for, and where torch can read it.

    Attributes:
        globals: dotted paths of every class and function named in it.
        source: an archive with the parts that were checked and no others: torch's own reader finds parts by other
            rules (it ignores the case of names, for one) and might load what was never looked at.
    """

    globals: set[str]
    source: io.BytesIO


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
        return _scan_zip(path)
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


def _scan_zip(path: Path) -> Scan:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            prefix = _check_entries(entries, path.stat().st_size)
            pickled = archive.read(f"{prefix}/data.pkl")
            facts = scan_pickle(io.BytesIO(pickled))
            sizes = {entry.filename: entry.file_size for entry in entries}
            _check_storages(facts, lambda key: sizes.get(f"{prefix}/data/{key}", -1))
            return Scan(facts.globals, _clean_archive(archive, prefix, pickled, facts))
    except zipfile.BadZipFile as error:
        if "CRC-32" in str(error):
            raise Damaged(f"damaged: the checksum of one of its parts differs ({error})") from error
        raise Damaged(_UNREADABLE_ZIP) from error
    except _ZIP_ERRORS as error:
        raise Damaged(_UNREADABLE_ZIP) from error


def _clean_archive(archive: zipfile.ZipFile, prefix: str, pickled: bytes, facts: PickleFacts) -> io.BytesIO:
    """Return a new archive of the pickle and the storages that it claims, each read once with its checksum."""
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as clean:
        clean.writestr("archive/data.pkl", pickled)
        clean.writestr("archive/version", b"3\n")
        if f"{prefix}/byteorder" in archive.namelist():
            order = archive.read(f"{prefix}/byteorder")
            if order not in (b"little", b"big"):
                raise Damaged("damaged: its byte order is neither little nor big")
            clean.writestr("archive/byteorder", order)
        for key in dict.fromkeys(key for key, _, _ in facts.storages):
            clean.writestr(f"archive/data/{key}", archive.read(f"{prefix}/data/{key}"))
    result.seek(0)
    return result


def _check_entries(entries: list[zipfile.ZipInfo], file_size: int) -> str:
    """Return the folder inside the archive that holds the pickle, after refusing archives torch never writes."""
    names = [entry.filename for entry in entries]
    if any(name.endswith("constants.pkl") for name in names):
        raise Damaged("a TorchScript archive, not a checkpoint (rename it to .torchscript to run it)")
    if len({name.lower() for name in names}) != len(names):
        raise Damaged("damaged: a part of its archive is there twice")
    if sum(entry.file_size for entry in entries) > file_size or any(entry.compress_type for entry in entries):
        raise Damaged("not a checkpoint: its archive claims more bytes than the file has")
    folders = {name.split("/", 1)[0] for name in names}
    if len(folders) != 1 or folders & {"", ".", ".."} or f"{(prefix := folders.pop())}/data.pkl" not in names:
        raise Damaged("a zip archive, not a checkpoint")
    pickles = [name for name in names if name.lower().endswith((".pkl", ".pickle"))]
    if len(pickles) > 1:
        raise Refused(f"{len(pickles)} pickles in one archive")
    return prefix


def _check_storages(facts: PickleFacts, stored_bytes: Callable[[str], int]) -> None:
    """Refuse tensor storages that claim more bytes than the file holds, and tensors far larger than their storages."""
    stored = 0
    for key, kind, items in set(facts.storages):
        item_bytes = ITEM_BYTES.get(kind.rsplit(".", 1)[-1])
        if item_bytes is None:
            raise Refused(kind)
        if items * item_bytes > stored_bytes(key):
            raise Damaged(f"truncated or damaged: tensor data {key} claims {items} items, more than it holds")
        stored += items
    if facts.elements > SHARED_BY * stored + SPARE_ELEMENTS:
        raise Refused(f"tensors of {facts.elements} numbers made of {stored} stored ones")


def _scan_legacy(path: Path) -> Scan:
    data = path.read_bytes()
    stream, found = io.BytesIO(data), PickleFacts()
    pieces: list[bytes] = []
    for facts, start, end in _legacy_pickles(stream):
        found.globals |= facts.globals
        found.storages += facts.storages
        found.elements += facts.elements
        pieces.append(_without_sources(data[start:end], facts.module_marks))
    if _texts(data[start:end]) != {key for key, _, _ in found.storages}:
        raise Damaged("truncated or damaged: it does not hold the tensor data that it claims")
    _check_storages(found, lambda _: len(data))
    if sum(items * ITEM_BYTES[kind.rsplit(".", 1)[-1]] for _, kind, items in set(found.storages)) > len(data):
        raise Damaged("truncated: its tensors claim more bytes than the file has")
    return Scan(found.globals, io.BytesIO(b"".join([*pieces, data[stream.tell() :]])))


def _legacy_pickles(stream: io.BytesIO) -> Iterator[tuple[PickleFacts, int, int]]:
    for _ in range(LEGACY_PARTS):
        start = stream.tell()
        yield scan_pickle(stream), start, stream.tell()


def _texts(pickled: bytes) -> set[str]:
    """Return the texts in a pickle: the keys of the tensor data that follow, in the last part of a file."""
    return {argument for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)}


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
