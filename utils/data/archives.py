"""Unpack zip and tar files without letting a member leave the target folder or fill the disk."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, NamedTuple

from utils.errors import InputError, MissingFileError

MAX_EXPANSION = 100  # times the archive's own size
ALWAYS_ALLOWED = 1024 * 1024  # bytes that any archive may expand to
MAX_BYTES = 1 << 40
LEFT_OUT = (".DS_Store", "__MACOSX")
_CHUNK = 1 << 20


class _Member(NamedTuple):
    name: str
    size: int
    kind: str  # "file", "folder" or what is refused
    handle: zipfile.ZipInfo | tarfile.TarInfo


def is_archive(path: str | Path) -> bool:
    """Return whether a file is a zip or tar file by its content."""
    return Path(path).is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(archive: str | Path, target: str | Path, exclude: Iterable[str] = LEFT_OUT) -> list[Path]:
    """Unpack a zip or tar file; every member is checked before the first one is written.

    Args:
        archive: file.
        target: folder, made if needed; existing files of the same names are replaced.
        exclude: members whose path contains one of these texts are left out.

    Returns:
        The files written.

    Raises:
        MissingFileError: no such archive.
        InputError: neither zip nor tar, damaged, or a member that is absolute, climbs out, is a link or a device, or
            expands the archive more than a hundredfold.
    """
    archive, target = Path(archive), Path(target)
    if not archive.is_file():
        raise MissingFileError(f"{archive}: no such file")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return _unpack_members(archive, target, _zip_members(opened), opened.open, tuple(exclude))
        with tarfile.open(archive) as opened:
            return _unpack_members(archive, target, _tar_members(opened), opened.extractfile, tuple(exclude))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{archive}: not a zip or tar file that can be read ({error})") from None


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
    archive: Path, target: Path, members: Iterable[_Member], opener, exclude: tuple[str, ...]
) -> list[Path]:  # noqa: ANN001
    limit = min(MAX_BYTES, max(ALWAYS_ALLOWED, MAX_EXPANSION * archive.stat().st_size))
    chosen, total = [], 0
    for member in members:
        _check_member(archive, member)
        total += member.size
        if total > limit:
            raise InputError(f"{archive}: expands to more than {limit} bytes ({MAX_EXPANSION} times its own size)")
        if not any(text in member.name for text in exclude):
            chosen.append(member)
    target.mkdir(parents=True, exist_ok=True)
    return [path for member in chosen if (path := _write_member(archive, target, member, opener))]


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


def _write_member(archive: Path, target: Path, member: _Member, opener) -> Path | None:  # noqa: ANN001
    path = target / PurePosixPath(member.name)
    if not path.resolve().is_relative_to(target.resolve()):  # through a link that was in the target before
        raise InputError(f"{archive}: member {member.name!r} would leave the target folder")
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(member.handle) as source, open(path, "wb") as copy:
        _copy(archive, source, copy, member)
    return path


def _copy(archive: Path, source: BinaryIO, copy: BinaryIO, member: _Member) -> None:
    """Copy one member; its header's size is a promise that is held to."""
    shutil.copyfileobj(source, copy, _CHUNK)
    if copy.tell() != member.size:
        raise InputError(f"{archive}: member {member.name!r} has {copy.tell()} bytes, its header says {member.size}")
