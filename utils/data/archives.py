"""Unpack zip and tar files without letting a member leave the target folder or fill the disk."""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, NamedTuple

from utils.errors import InputError, MissingFileError, printable

MAX_EXPANSION = 100  # times the archive's own size
ALWAYS_ALLOWED = 1024 * 1024  # bytes that any archive may expand to
MAX_BYTES = 1 << 40
MAX_MEMBERS = 5_000_000
HEADER_BYTES = 512  # what each member counts for beside its content, so that empty ones have an end too
LEFT_OUT = (".DS_Store", "__MACOSX")
_CHUNK = 1 << 20
# What the readers of zip, tar and their compressions raise on damaged bytes.
_DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError,
    RuntimeError, ValueError, OverflowError, LookupError,
)  # fmt: skip


class _Member(NamedTuple):
    name: str
    size: int
    kind: str  # "file", "folder" or what is refused
    handle: zipfile.ZipInfo | tarfile.TarInfo


class _CheckedTarInfo(tarfile.TarInfo):
    """A header whose size is no negative number: Python's reader would go backwards and never end."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        """Return the header of 512 bytes, refusing a negative size."""
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0:
            raise ValueError("a member of negative size")
        return info


def is_archive(path: str | Path) -> bool:
    """Return whether a file is a zip or tar file by its content.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return Path(path).is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def unpack(archive: str | Path, target: str | Path, exclude: Iterable[str] = LEFT_OUT) -> list[Path]:
    """Unpack a zip or tar file; nothing appears in the target before every member was checked and read whole.

    Args:
        archive: file.
        target: folder, made if needed; existing files of the same names are replaced.
        exclude: members whose path contains one of these texts are left out.

    Returns:
        The files written.

    Raises:
        MissingFileError: no such archive.
        InputError: neither zip nor tar, damaged, a member that is absolute, climbs out, is a link or a device, or is
            there twice; expands the archive more than a hundredfold; or the target cannot be written.
    """
    archive, target = Path(archive), Path(target)
    if not archive.is_file():
        raise MissingFileError(f"{archive}: no such file")
    try:
        with _opened(archive) as (members, open_member):
            return _unpack_members(archive, target, members, open_member, tuple(exclude))
    except InputError:
        raise
    except _DAMAGED as error:
        reason = printable(error) or type(error).__name__
        raise InputError(f"{archive}: not a zip or tar file that can be read ({reason})") from None
    except OSError as error:
        place = f" at {error.filename}" if error.filename else ""
        raise InputError(f"{archive}: cannot be unpacked ({error.strerror or error}{place})") from None


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tuple[Iterable[_Member], Callable[..., BinaryIO]]]:
    """Give the members of an archive and a function that opens one."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(opened), opened.open
    else:
        with tarfile.open(archive, tarinfo=_CheckedTarInfo) as opened:
            yield _tar_members(opened), opened.extractfile


def _zip_members(opened: zipfile.ZipFile) -> Iterable[_Member]:
    for info in opened.infolist():
        mode = info.external_attr >> 16
        special = stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}
        kind = "a link or device" if special else "folder" if info.is_dir() else "file"
        yield _Member(info.orig_filename, info.file_size, kind, info)


def _tar_members(opened: tarfile.TarFile) -> Iterable[_Member]:
    for info in opened:
        kind = "file" if info.isfile() else "folder" if info.isdir() else "a link or device"
        yield _Member(info.name, info.size, kind, info)


def _unpack_members(
    archive: Path, target: Path, members: Iterable[_Member], open_member: Callable[..., BinaryIO], exclude: tuple
) -> list[Path]:
    chosen = [m for m in _checked(archive, members) if not any(text in m.name for text in exclude)]
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    try:
        for member in chosen:
            _check_place(archive, target, member)
        with tempfile.TemporaryDirectory(prefix=".unpacking.", dir=target) as staging:
            for member in chosen:
                _write_member(archive, Path(staging), member, open_member)
            return [path for member in chosen if (path := _move(Path(staging), target, member))]
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                target.rmdir()  # unless something stands in it
        raise


def _checked(archive: Path, members: Iterable[_Member]) -> Iterator[_Member]:
    """Yield the members, each checked before the next one is looked at."""
    limit = min(MAX_BYTES, max(ALWAYS_ALLOWED, MAX_EXPANSION * archive.stat().st_size))
    total = count = 0
    kinds: dict[PurePosixPath, str] = {}
    for member in members:
        _check_member(archive, member)
        total, count = total + member.size + HEADER_BYTES, count + 1
        if total > limit or count > MAX_MEMBERS:
            raise InputError(
                f"{archive}: expands to more than {limit} bytes ({MAX_EXPANSION} times its own size) or "
                f"{MAX_MEMBERS} members; nothing was unpacked"
            )
        place = PurePosixPath(member.name)
        if kinds.setdefault(place, "new") != "new" and "file" in (kinds[place], member.kind):
            raise InputError(f"{archive}: member {member.name!r} is there twice; nothing was unpacked")
        kinds[place] = member.kind
        yield member


def _check_member(archive: Path, member: _Member) -> None:
    name = member.name
    outside = (
        PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).is_absolute()
        or bool(PureWindowsPath(name).drive)
        or ".." in PureWindowsPath(name).parts  # splits at both kinds of slash
        or "\0" in name
    )
    if outside:
        raise InputError(f"{archive}: member {name!r} would leave the target folder; nothing was unpacked")
    if member.kind not in {"file", "folder"}:
        raise InputError(f"{archive}: member {name!r} is {member.kind}; only files and folders are unpacked")
    if member.size < 0 or (member.kind == "file" and not PurePosixPath(name).name):
        raise InputError(f"{archive}: member {name!r} has no name or no size; nothing was unpacked")


def _check_place(archive: Path, target: Path, member: _Member) -> None:
    if not _path_of(target, member).resolve().is_relative_to(target.resolve()):  # through a link that was there before
        raise InputError(f"{archive}: member {member.name!r} would leave the target folder; nothing was unpacked")


def _path_of(folder: Path, member: _Member) -> Path:
    return folder / PurePosixPath(member.name)


def _write_member(archive: Path, staging: Path, member: _Member, open_member: Callable[..., BinaryIO]) -> None:
    """Write one member; its header's size is a promise that is held to."""
    path = _path_of(staging, member)
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_member(member.handle) as source, open(path, "wb") as copy:
        shutil.copyfileobj(source, copy, _CHUNK)
        written = copy.tell()
    if written != member.size:
        raise InputError(f"{archive}: member {member.name!r} has {written} bytes, its header says {member.size}")


def _move(staging: Path, target: Path, member: _Member) -> Path | None:
    """Give a member its place; return the path of a file."""
    path = _path_of(target, member)
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(_path_of(staging, member), path)
    return path
