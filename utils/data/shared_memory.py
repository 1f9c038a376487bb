"""Memory that the processes of one run on one machine share, filled by the first of them that comes.

It is a file in the system's folder of such memory. Who comes first locks it and fills it; the others wait for the lock,
and should the first die, the next takes its place. Each then holds a lock of readers, which the system takes away from
a process however it ends, so that a file which nobody has locked is known to be left over, and is removed by the next
run. As soon as all processes have it, its name is removed: then the memory goes with the last of them.

Nothing here exchanges messages, so it does not matter whether the processes come at once or one after the other.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import stat
import sys
import time
import weakref
from pathlib import Path

import numpy as np

from utils.errors import WorkError

FOLDER = Path("/dev/shm")
PREFIX = "yolov5-images-"
_HEAD = mmap.PAGESIZE  # a byte for each process after the first, which says whether the memory is filled
_POLL_SECONDS = 0.05


class SharedMemory:
    """One piece of memory, locked by this process.

    Attributes:
        to_fill: this process has to fill it; the others wait for ``finish`` or ``abandon``.
    """

    def __init__(self, path: Path, fd: int, nbytes: int, to_fill: bool):
        self.path, self.nbytes, self.to_fill = path, nbytes, to_fill
        self._fd = fd

    def buffer(self) -> np.ndarray:
        """Return the memory (nbytes,) uint8, to be written by who fills it alone, after ``reserve``.

        Raises:
            OSError: there is not so much of it.
        """
        size = _HEAD + self.nbytes
        if self.to_fill:
            if free_bytes() < size:
                raise OSError(errno.ENOSPC, f"{FOLDER} has {free_bytes()} of {size} bytes")
            os.ftruncate(self._fd, size)
        pages = mmap.mmap(self._fd, size, prot=mmap.PROT_READ | (mmap.PROT_WRITE if self.to_fill else 0))
        return np.frombuffer(pages, np.uint8)[_HEAD:]

    def reserve(self, begin: int, end: int) -> None:
        """Have the system provide these bytes: what it lacks is an error now, where writing would end the process.

        Raises:
            WorkError: it has not so many.
        """
        try:
            os.posix_fallocate(self._fd, _HEAD + begin, end - begin)
        except OSError as error:
            raise WorkError(f"{FOLDER}: {error.strerror}: no room for the images, --cache disk takes none") from None

    def finish(self) -> None:
        """Say that the memory is filled, or, where another process did so, that this one has it too."""
        import fcntl

        if self.to_fill:
            os.pwrite(self._fd, b"\1", 0)
            fcntl.flock(self._fd, fcntl.LOCK_SH)
        rank, processes = _local_place()
        os.pwrite(self._fd, b"\1", 1 + rank)
        if os.pread(self._fd, processes, 1) == bytes([1]) * processes:
            self._unlink()
        weakref.finalize(self, _leave, self._fd, self.path, os.getpid())

    def abandon(self) -> None:
        """Give the memory up: the next process that waits for it tries to fill it."""
        self._unlink()
        os.close(self._fd)

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def shared_memory(key: bytes, nbytes: int) -> SharedMemory | None:
    """Return the memory that the processes of this run on this machine share, filled or to be filled by this one.

    Args:
        key: what it is filled with; the same on all processes.
        nbytes: its size.

    Returns:
        None where there are no other processes, or no such memory.
    """
    if not _has_neighbours() or not sys.platform.startswith("linux") or not os.access(FOLDER, os.W_OK):
        return None
    path = FOLDER / f"{PREFIX}{hashlib.sha256(_run_name() + key).hexdigest()[:24]}"
    _remove_leftovers(path)
    while True:
        fd, is_alone = _locked(path)
        if fd is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                size = os.fstat(fd).st_size
                if is_alone and not size:
                    return SharedMemory(path, fd, nbytes, to_fill=True)
                if is_alone:  # of a process that is gone; not emptied, since somebody may still look at its pixels
                    path.unlink()
                elif size == _HEAD + nbytes and os.pread(fd, 1, 0) == b"\1":
                    return SharedMemory(path, fd, nbytes, to_fill=False)
        os.close(fd)  # its name has been removed meanwhile, or nobody has filled it
        time.sleep(_POLL_SECONDS)


def free_bytes() -> int:
    """Return how much memory may still be shared."""
    found = os.statvfs(FOLDER)
    return found.f_bavail * found.f_frsize


def _locked(path: Path) -> tuple[int | None, bool]:
    """Open the file and wait for a lock; return it, None where it cannot be ours, and whether nobody else has one."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None, False
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
        os.close(fd)
        return None, False
    while True:
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            with contextlib.suppress(OSError):
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                return fd, kind == fcntl.LOCK_EX
        time.sleep(_POLL_SECONDS)


def _leave(fd: int, path: Path, pid: int) -> None:
    """Remove the file where nobody else has it; processes forked from this one are none of its users."""
    import fcntl

    if os.getpid() != pid:
        return
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            path.unlink()
    os.close(fd)


def _remove_leftovers(own: Path) -> None:
    """Remove this user's files that no process has locked."""
    import fcntl

    with contextlib.suppress(OSError):
        for path in FOLDER.glob(f"{PREFIX}*"):
            if path == own:
                continue
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_uid == os.geteuid():
                        path.unlink()
                finally:
                    os.close(fd)


def _has_neighbours() -> bool:
    """Say whether several processes of a group run on this machine."""
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized() and _local_place()[1] > 1


def _local_place() -> tuple[int, int]:
    """Return this process's number among those of this machine, and how many they are."""
    import torch.distributed as dist

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or dist.get_world_size()
    rank = int(os.environ.get("LOCAL_RANK", "-1"))
    return (rank if rank >= 0 else dist.get_rank() % processes), processes


def _run_name() -> bytes:
    """Return what the processes of this run have in common and those of another do not."""
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    values = [os.environ.get(name, "") for name in names]
    return "\0".join([*values, "" if values[1] else str(os.getppid()), ""]).encode()
