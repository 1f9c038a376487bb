"""Errors that a user can cause, and how a command ends when one reaches it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable

from utils.openmp import limit_spinning

BAD_INPUT_STATUS = 2
FAILED_WORK_STATUS = 1
INTERRUPTED_STATUS = 130
TRACEBACK_VARIABLE = "YOLOV5_TRACEBACK"


class InputError(ValueError):
    """A wrong argument, file or setting found before work starts: one line, exit status 2.

    The message names the file, key or option, what was found and what is allowed.
    """

    exit_status = BAD_INPUT_STATUS


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that the user named does not exist."""

    def __str__(self) -> str:
        """Return the message alone (OSError would format it with an errno)."""
        return str(self.args[0]) if self.args else ""


class _Several(Exception):
    """Several problems reported together, one line each.

    Args:
        problems: the messages, at least one.
    """

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class InputErrors(_Several, InputError):
    """Several problems of one file."""


class WorkError(RuntimeError):
    """Work that started and cannot go on: one line, exit status 1."""

    exit_status = FAILED_WORK_STATUS
    kind = "error"  # what its line on stderr begins with


class WorkErrors(_Several, WorkError):
    """Several things that went wrong together."""


def printable(text: object) -> str:
    """Return a text on one line, with every character escaped that a terminal would not show as itself."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def run_command(main: Callable[[], object]) -> None:
    """Call ``main`` and end the process as the project promises for every command.

    An InputError or WorkError becomes its message on stderr and its exit status, without a traceback unless the
    environment variable YOLOV5_TRACEBACK is set. An interrupt from the keyboard becomes status 130, and changes nothing
    once the work is done. Anything else is a defect and keeps its traceback. What torch reads from the environment when
    it is loaded is settled first.
    """
    limit_spinning()
    try:
        main()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        print("stopped: by SIGINT", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    except (InputError, WorkError) as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        for problem in error.problems if isinstance(error, _Several) else [str(error)]:
            print(f"{getattr(error, 'kind', 'error')}: {printable(problem)}", file=sys.stderr)
        sys.exit(error.exit_status)
