"""Files that are whole or absent, whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path

LEFTOVERS = (".*.part", ".*.part.*", ".*.tmp")  # temporary files of this project; a killed process leaves them behind
_LONGEST_PART = 40  # last characters of a name that its temporary file repeats: names may have 255 bytes
_numbers = itertools.count()


def write_whole(
    path: str | Path, data: bytes | memoryview | str, *, durable: bool = False, temporary: Path | None = None
) -> None:
    """Write a file so that at every moment its name holds the old content or all of the new one.

    The data goes to a temporary file in the same folder, which then takes the name in one step. What a link points to
    is replaced, not the link; a device or pipe is written as it is.

    Args:
        path: the file to write or replace; its folder exists.
        data: the content; text is written as UTF-8 with its line ends as they are.
        durable: return only when the content is on the disk, so that it also survives a power cut.
        temporary: the temporary file, by default one that no other process uses.

    Raises:
        OSError: it cannot be written; what was there before is left as it was, and no temporary file stays.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    part = temporary or part_beside(path)
    try:
        with part.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_new(path: Path, data: bytes) -> bool:
    """Write a file that is not there yet, whole or not at all; return False when the name is taken.

    Raises:
        OSError: it cannot be written.
    """
    part = part_beside(path)
    try:
        part.write_bytes(data)
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: the empty file claims the name
            with contextlib.suppress(FileExistsError):
                path.open("xb").close()
                os.replace(part, path)
                return True
            return False
        return True
    finally:
        part.unlink(missing_ok=True)


def make_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under a temporary name with the same suffix, which then takes the name ``path``."""
    part = part_beside(path, path.suffix)
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def part_beside(path: Path, suffix: str = "") -> Path:
    """Return the name of a temporary file in the folder of ``path`` that no other process or thread uses.

    Args:
        path: the file to be.
        suffix: ends the temporary name, for writers that choose the format by it.
    """
    return path.with_name(f".{path.name[-_LONGEST_PART:]}.{os.getpid()}-{next(_numbers)}.part{suffix}")


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_leftovers(run: Path) -> list[Path]:
    """Remove the temporary files that a killed run left in its folder and its weights folder, and return them.

    To be called before the run's own process writes there; a file that cannot be removed stays.
    """
    swept = []
    for folder in (run, run / "weights"):
        for pattern in LEFTOVERS:
            for path in folder.glob(pattern):
                with contextlib.suppress(OSError):
                    path.unlink()
                    swept.append(path)
    return swept
