"""One run at a time in a folder: two would overwrite each other's checkpoints."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from utils.errors import InputError

PATIENCE = 3.0  # seconds that a killed run's youngest children may take to let go
_BUSY = {errno.EAGAIN, errno.EACCES}
_held: dict[Path, int] = {}


def hold_folder(folder: str | Path) -> None:
    """Hold a run's folder until ``release_folders`` or the end of the process, however it ends; nothing is written.

    Where the system or its network folders know no locks (Windows, some NFS), folders are not held.

    Raises:
        InputError: another process holds it.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        return
    try:
        import fcntl
    except ImportError:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno in _BUSY and time.monotonic() < end:
                time.sleep(PATIENCE / 30)
                continue
            os.close(descriptor)
            if error.errno in _BUSY:
                raise InputError(
                    f"{folder}: another run is at work in this folder; wait for its end, or choose another --name"
                ) from None
            return
    _held[folder] = descriptor


def release_folders() -> None:
    """Let other processes have the folders that this one holds."""
    while _held:
        os.close(_held.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release_folders)  # loader processes outlive a killed run by seconds
