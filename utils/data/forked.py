"""Work on the parts of a list in processes that need nothing but what this one holds, where the system can fork."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from utils.errors import WorkError

Part = TypeVar("Part")
Result = TypeVar("Result")


def can_fork() -> bool:
    """Say whether this process may start others by forking; macOS has fork, but its frameworks crash thereafter."""
    return sys.platform.startswith("linux") and not multiprocessing.current_process().daemon


def cpu_count() -> int:
    """Return the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_forked(work: Callable[[Part], Result], parts: Sequence[Part], workers: int) -> Iterator[Result]:
    """Yield ``work(part)`` of each part in order, worked on in ``workers`` forked processes.

    They end when this process does, however it ends: their next answer finds nobody who would take it.

    Raises:
        WorkError: one of them was killed.
        Exception: what ``work`` raised.
    """
    context = multiprocessing.get_context("fork")
    workers = min(workers, len(parts))
    crew = []
    try:
        for first in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(work, parts, first, workers, ours, theirs), daemon=True)
            process.start()
            theirs.close()
            crew.append((process, ours))
        for number in range(len(parts)):
            process, answers = crew[number % workers]
            try:
                failed, found = answers.recv()
            except (EOFError, OSError):
                process.join()
                raise WorkError(f"a process that checks files ended early (status {process.exitcode})") from None
            if failed:
                raise found
            yield found
    finally:
        for process, answers in crew:
            answers.close()
            process.kill()
            process.join()


def _answer(work: Callable[[Any], Any], parts: Sequence[Any], first: int, step: int, ours: Any, theirs: Any) -> None:
    """Send the results of every ``step``-th part from the ``first`` on."""
    import cv2

    ours.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)  # OpenCV's threads did not come along
    try:
        for part in parts[first::step]:
            try:
                answer = False, work(part)
            except Exception as error:
                answer = True, error
            theirs.send(answer)
    except BrokenPipeError:
        pass  # nobody waits any more
