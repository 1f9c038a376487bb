"""Signals that ask a run to end: SIGTERM from schedulers, SIGINT from the keyboard.

The first one is only noted while the run works; the run finishes its step, saves, and ends with status 128 + signal
number (143, 130). Before and after the work it ends the command at once, and so does a second signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from utils.errors import WorkError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STATUS_BASE = 128


class Interrupted(WorkError):
    """The run was asked to end by a signal and has saved what it needs to go on.

    Args:
        number: of the signal.
        message: what was saved and how to go on, one line.
    """

    kind = "stopped"

    def __init__(self, number: int, message: str = ""):
        super().__init__(message or f"by {signal.Signals(number).name}")
        self.number = number
        self.exit_status = STATUS_BASE + number


class StopSignals:
    """Notes the first SIGTERM or SIGINT of a run, and lets all its processes stop after the same step.

    Outside the main thread Python can handle no signals, and nothing is noted.

    Attributes:
        number: the signal that came, 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._working = False
        self._group: Any = None
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._exchange: Any = None
        self._found = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[StopSignals]:
        """Handle the signals within the block; what handled them before does so again after it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def begin_work(self) -> None:
        """From here on the first signal waits until the run can save. Every process of the run has to call it."""
        self._working = True
        if dist.is_available() and dist.is_initialized() and self._group is None:
            self._group = dist.new_group(backend="gloo")  # on the CPU, beside the gradients' exchange

    def end_work(self) -> None:
        """Wait for the exchange under way; from here on a signal ends the process at once."""
        self._finish_exchange()
        self._working = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._working and not self.number:
            self.number = number
            return
        name = signal.Signals(number).name
        with contextlib.suppress(AttributeError, OSError, ValueError):  # no stderr, or one that is not a file
            os.write(sys.stderr.fileno(), f"stopped: by {name}\n".encode())
        if self._working:  # the second signal: whatever is being written is replaced in one step or not at all
            os._exit(STATUS_BASE + number)
        raise SystemExit(STATUS_BASE + number)

    def agreed(self, last: bool = False) -> int:
        """Return the signal after which all processes stop now, 0 to go on; called by each after every step.

        Several processes exchange their flags in the background: what one notes before a step, all learn after the
        next.

        Args:
            last: no step follows in this epoch, so that the exchange under way is completed at once.
        """
        if self._group is None:
            return self.number
        self._finish_exchange()
        if not self._found:
            self._flag[0] = self.number
            self._exchange = dist.all_reduce(self._flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
            if last:
                self._finish_exchange()
        return self._found

    def _finish_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.wait()
            self._exchange, self._found = None, int(self._flag)

    def check(self, *_: Any, message: str = "") -> None:
        """Raise when a signal came, between two pieces of work that can be done again.

        Raises:
            Interrupted: a signal came.
        """
        if self.number:
            raise Interrupted(self.number, f"by {signal.Signals(self.number).name}{message}")
