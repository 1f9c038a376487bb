"""Size and sha256 of each checkpoint that training writes, in a file beside it that ``sha256sum -c`` reads.

``last.pt.sha256`` holds the digest of last.pt, and as comments its size and two other states: the file kept as
last.pt.prev ("before") and, while a save is at work, the file about to take the name ("coming"). A save first announces
the coming file, then renames it, then settles the record, so that a process killed at any moment leaves a record that
fits what it left. A checkpoint without a record is not checked against one: YOLOv5 writes none.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from utils.checkpoints.scan import Damaged
from utils.logs import LOGGER
from utils.safe_write import write_whole

SUFFIX = ".sha256"
PREVIOUS_SUFFIX = ".prev"
_SHOWN = 12  # digits of a digest in messages
_MOST_BYTES = 4096
_CHUNK = 1 << 20
_LINE = re.compile(r"(?:# (?P<state>before|coming): )?(?P<digest>[0-9a-f]{64})  (?:\S.*)")
_SIZE = re.compile(r"# (?:(?P<state>before|coming) )?size: (?P<size>\d{1,18})")


@dataclass(frozen=True)
class Digest:
    """One content: its size in bytes and its sha256 in hexadecimal digits."""

    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.sha256[:_SHOWN]}... ({self.size} bytes)"


@dataclass
class Record:
    """The contents that may lie under one checkpoint's name.

    Attributes:
        present: the one that does, unless a save was killed.
        before: the one that it replaced, kept as .prev.
        coming: the one that a save at work is about to put there.
    """

    present: Digest | None = None
    before: Digest | None = None
    coming: Digest | None = None

    def known(self) -> list[Digest]:
        """Return the contents that count as undamaged."""
        return [digest for digest in (self.present, self.coming, self.before) if digest is not None]


@dataclass
class HashingFile:
    """Hashes what is written to a binary file, for torch.save."""

    file: IO[bytes]
    size: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> int:
        """Write and hash."""
        self._hash.update(data)
        self.size += memoryview(data).nbytes
        return self.file.write(data)

    def flush(self) -> None:
        """Hand what waits to the system."""
        self.file.flush()

    def digest(self) -> Digest:
        """Return size and sha256 of what was written so far."""
        return Digest(self.size, self._hash.hexdigest())


def record_path(path: str | Path) -> Path:
    """Return where the record of a checkpoint lies: ``last.pt.sha256``."""
    return Path(f"{path}{SUFFIX}")


def measure(path: Path) -> Digest:
    """Return size and sha256 of a file."""
    size, whole = 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            whole.update(chunk)
            size += len(chunk)
    return Digest(size, whole.hexdigest())


def read_record(path: Path) -> Record | None:
    """Return the record of a checkpoint, None without one; one that cannot be read is said and does not count."""
    place = record_path(path)
    try:
        with place.open("rb") as file:
            text = file.read(_MOST_BYTES).decode("ascii")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        LOGGER.warning("WARNING %s: cannot be read (%s), so %s is not checked against it", place, error, path.name)
        return None
    digests, sizes = {}, {}
    for line in text.splitlines():
        if found := _LINE.fullmatch(line):
            digests[found["state"] or "present"] = found["digest"]
        elif found := _SIZE.fullmatch(line):
            sizes[found["state"] or "present"] = int(found["size"])
    known = {state: Digest(sizes[state], digest) for state, digest in digests.items() if state in sizes}
    if not known:
        LOGGER.warning("WARNING %s: holds no digest, so %s is not checked against it", place, path.name)
        return None
    return Record(**known)


def check(path: Path) -> None:
    """Compare a checkpoint with its record, or one kept as .prev with the record of the file that replaced it.

    Raises:
        Damaged: it is none of the contents that the record knows.
        OSError: it cannot be read.
    """
    record = read_record(path)
    known = record.known() if record else []
    if record is None and path.name.endswith(PREVIOUS_SUFFIX):
        record = read_record(path.with_name(path.name.removesuffix(PREVIOUS_SUFFIX)))
        known = [d for d in (record.before, record.present) if d] if record and record.before else []
    if not known:
        return
    found = measure(path)
    if found not in known:
        raise Damaged(f"damaged: its sha256 is {found}, on record is {known[0]}")


def announce(path: Path, coming: Digest) -> Digest | None:
    """Add to a checkpoint's record the content that is about to take its name.

    Returns:
        The content that has the name now; None where no record tells.

    Raises:
        OSError: the record cannot be written.
    """
    record = read_record(path)
    if record is None or not path.exists():
        drop(path)
        return None
    present, before = record.present, record.before
    if record.coming is not None or present is None:  # a save was killed: look what it left under both names
        present = _one_of(record.known(), path)
        before = _one_of(record.known(), Path(f"{path}{PREVIOUS_SUFFIX}"))
        if present is None:
            drop(path)  # it was replaced by other hands
            return None
    _write(path, Record(present, before, coming))
    return present


def _one_of(known: list[Digest], path: Path) -> Digest | None:
    """Return which of the known contents a file holds, if any."""
    found = measure(path) if path.is_file() else None
    return found if found in known else None


def settle(path: Path, present: Digest, before: Digest | None) -> None:
    """Write the record of a checkpoint that has just taken its name; ``before`` as in Record.

    A failure is said and not raised: the checkpoint is whole, and an announced record fits it as well.
    """
    try:
        _write(path, Record(present, before))
    except OSError as error:
        LOGGER.warning("WARNING %s: cannot be written (%s)", record_path(path), error.strerror)


def drop(path: Path) -> None:
    """Remove the record of a checkpoint, if there is one."""
    record_path(path).unlink(missing_ok=True)


def drop_all(folder: Path) -> None:
    """Remove the records of all checkpoints in a folder, and those alone."""
    for place in folder.glob(f"*.pt{SUFFIX}"):
        with contextlib.suppress(OSError):
            place.unlink()


def _write(path: Path, record: Record) -> None:
    """Write a record; durably, because the checkpoint's rename that follows is durable too."""
    lines = []
    for state in ("present", "before", "coming"):
        digest = getattr(record, state)
        if digest is not None:
            plain = state == "present"
            lines.append(f"# {'' if plain else f'{state} '}size: {digest.size}\n")
            lines.append(f"{'' if plain else f'# {state}: '}{digest.sha256}  {path.name}\n")
    place = record_path(path)
    write_whole(place, "".join(lines), durable=True, temporary=place.with_name(f".{place.name}.tmp"))
