"""What several processes on one folder need: locks that die with their holder, and knowledge of who is still there."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEAT_SECONDS = 20.0  # between two signs of life
SILENT_SECONDS = 300.0  # without one, after which a process of another machine counts as dead
STALE_SECONDS = 60.0  # after which a lock file is broken, where the system has no locks of its own
_open: set[int] = set()  # file descriptors of locks, closed in forked children


class FileLock:
    """A lock between processes, also of several machines on a shared disk; a killed holder frees it.

    It fulfils the interface of Optuna's journal locks. Where the system or the disk knows no locks (Windows, some
    network disks), a file that exists exclusively stands for it.

    Args:
        path: of the lock file; it stays.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._descriptor: int | None = None
        self._has_file = False

    def acquire(self) -> bool:
        """Wait for the lock."""
        if fcntl is not None:
            descriptor = _opened(self.path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:
                _closed(descriptor)
            else:
                self._descriptor = descriptor
                return True
        self._create()
        return True

    def _create(self) -> None:
        own = self.path.with_name(f"{self.path.name}.held")
        while True:
            try:
                os.close(os.open(own, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                break
            except FileExistsError:
                with contextlib.suppress(OSError):
                    if time.time() - own.stat().st_mtime > STALE_SECONDS:
                        own.unlink()
                time.sleep(0.02)
        self._has_file = True

    def release(self) -> None:
        """Free the lock."""
        if self._descriptor is not None:
            _closed(self._descriptor)
            self._descriptor = None
        if self._has_file:
            self.path.with_name(f"{self.path.name}.held").unlink(missing_ok=True)
            self._has_file = False

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class JournalLock(FileLock):
    """The lock of a journal file; a line that a killed process left unfinished is cut off when it is taken.

    Args:
        journal: the file whose lines are appended under the lock.
    """

    def __init__(self, journal: str | Path):
        super().__init__(Path(journal).with_name(f".{Path(journal).name}.lock"))
        self.journal = Path(journal)

    def acquire(self) -> bool:
        """Wait for the lock and mend the journal's end."""
        super().acquire()
        with self.journal.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            place = size
            while place and not _ends_line(file, place):
                place -= 1
            if place < size:
                file.truncate(place)
        return True


def _ends_line(file: object, place: int) -> bool:
    file.seek(place - 1)  # type: ignore[attr-defined]
    return file.read(1) == b"\n"  # type: ignore[attr-defined]


class Worker:
    """This process's sign of life in a shared folder, for as long as it lives.

    Args:
        folder: of the signs; made when missing.

    Attributes:
        name: tells this process from all others, of other machines as well.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = f"{machine_name()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._path = folder / self.name
        self._descriptor = _opened(self._path)
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="sign of life", daemon=True).start()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def is_alive(self, name: str) -> bool:
        """Tell whether the process of that name may still be at work."""
        if name == self.name:
            return True
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            return False
        try:
            if fcntl is not None and name.startswith(f"{machine_name()}-"):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return False
                return True
            os.utime(self._path)  # the disk's clock, which may differ from this machine's
            return self._path.stat().st_mtime - os.fstat(descriptor).st_mtime < SILENT_SECONDS
        except OSError:
            return True
        finally:
            os.close(descriptor)

    def end(self) -> None:
        """Take the sign away."""
        self._ended.set()
        _closed(self._descriptor)
        with contextlib.suppress(OSError):
            self._path.unlink()


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[Worker]:
    """Show a sign of life within the block."""
    worker = Worker(folder)
    try:
        yield worker
    finally:
        worker.end()


def machine_name() -> str:
    """Return a name that no other running machine has; containers of one machine share it, as they share its locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:16]
    except OSError:
        return "".join(c if c.isalnum() else "_" for c in platform.node()) or "machine"


def _opened(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _open.add(descriptor)
    return descriptor


def _closed(descriptor: int) -> None:
    if descriptor in _open:
        _open.discard(descriptor)
        os.close(descriptor)


def _leave_to_parent() -> None:
    """Close the locks in a forked child: a killed run's loader processes outlive it by seconds."""
    while _open:
        with contextlib.suppress(OSError):
            os.close(_open.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
