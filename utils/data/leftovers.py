"""Temporary files of caches beside a data set, which a killed process leaves behind."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_SUFFIX = ".part"  # as utils.safe_write.part_beside names them: .NAME.PID-NUMBER.part


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove the temporary files of processes that are gone; to be called before this process makes its own.

    Args:
        folder: where they lie.
        name: what the names of their targets contain.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and entry.name.endswith(_SUFFIX) and name in entry.name:
                _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    pid, _, number = entry.name.removesuffix(_SUFFIX).rpartition(".")[2].partition("-")
    if pid.isdecimal() and number.isdecimal() and not _is_other_process(int(pid)):
        with contextlib.suppress(OSError):
            os.unlink(entry.path)


def _is_other_process(pid: int) -> bool:
    """Tell whether another process has this number. In containers a restarted run has the number of the killed one."""
    if os.name != "posix":
        return False  # Windows deletes no file that a process has open
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()
