"""The grid: in which order runs come, and several of them at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from efficacy_parts.again import with_second
from efficacy_parts.arms import NONE, Arm
from efficacy_parts.cells import ROOT, Cell, PreparedSet, Setup
from efficacy_parts.results import Key, Results
from utils.errors import WorkError

Finish = Callable[[Cell, str], dict[str, Any]]


def ordered_cells(sets: Sequence[PreparedSet], arms: Sequence[Arm], seeds: Sequence[int], setup: Setup) -> list[Cell]:
    """Return every run, so that what is finished first can be compared.

    All core arms come before the others, seed after seed; of a seed the runs without remedy come first, then arm after
    arm on every set.
    """
    cells = []
    for is_core in (True, False):
        group = [arm for arm in arms if arm.core == is_core]
        group.sort(key=lambda arm: arm.name != NONE)
        hyps = {arm.name: arm.settings() for arm in group}
        cells += [Cell(data, arm, seed, setup, hyps[arm.name]) for seed in seeds for arm in group for data in sets]
    return cells


def key(cell: Cell) -> Key:
    """Return the key of a cell's row."""
    return cell.data.entry.name, cell.arm.name, cell.seed, cell.settings()


class Stopped(WorkError):
    """The grid was asked to end by SIGTERM; what was under way goes on when the command is given again."""

    kind = "stopped"
    exit_status = 128 + signal.SIGTERM


class Children:
    """Commands under way, which can be stopped together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopping = False

    def run(self, words: Sequence[str], log: Path, variables: dict[str, str], python: str = sys.executable) -> int:
        """Run a script with its output added to a file; return its exit status.

        It has a session of its own: of an interrupt from the keyboard it hears through ``stop`` alone, for a second
        signal would end a training before it has saved.
        """
        with log.open("ab") as stream:
            with self._lock:
                if self.stopping:
                    return Stopped.exit_status
                process = subprocess.Popen(
                    [python, *words], cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=stream,
                    stderr=stream, start_new_session=os.name == "posix",
                )  # fmt: skip
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self) -> None:
        """Ask every command to end, and start none any more; trainings save where they stand."""
        with self._lock:
            self.stopping = True
            for process in self._running:
                process.terminate()


class Grid:
    """Works through cells with several threads; a cell waits for its run without remedy.

    Args:
        cells: in the order wanted.
        results: finished runs, which are not repeated.
        finish: does one cell on a device and returns its row.
        say: is given a line for each cell that ends.
        stopping: tells whether no cell is to be begun any more.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        results: Results,
        finish: Finish,
        say: Callable[[str], None] = print,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.results, self.finish, self.say, self.stopping = results, finish, say, stopping
        self.pending = unfinished(cells, results)
        self.asked, self.total = len(cells), len(self.pending)
        self.failed: dict[Key, str] = {}
        self.ended = 0
        self._running: set[Key] = set()
        self._threads: list[threading.Thread] = []
        self._change = threading.Condition()

    def start(self, devices: Sequence[str]) -> None:
        """Begin to work, with one thread for each of ``devices``, which may repeat."""
        self._threads = [threading.Thread(target=self._work, args=(device,), daemon=True) for device in devices]
        for thread in self._threads:
            thread.start()

    def wait(self) -> dict[Key, str]:
        """Wait for all threads and return what failed, by run."""
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.2)  # a wait without end would not let the keyboard interrupt it
        return self.failed

    def _work(self, device: str) -> None:
        while (cell := self._next()) is not None:
            try:
                row = {**self.finish(cell, device), "device": "cpu" if device == "cpu" else "cuda"}
            except Exception as error:  # whatever it is, the other cells go on; it is said, and fails the command
                self._end(cell, str(error) if isinstance(error, WorkError) else f"{cell.title}: {error!r}")
                continue
            first = self.results.find(key(cell))
            if first is not None:
                row = with_second(first, row)
                self.say(f"{cell.title}: {row['again']}")
            self.results.add(row)
            self._end(cell, "")

    def _next(self) -> Cell | None:
        """Return the next cell whose run without remedy is finished, waiting for one; None when nothing is left."""
        with self._change:
            while not self.stopping():
                self._drop_hopeless()
                waited_for = {key(cell) for cell in self.pending if cell.arm.name == NONE} | self._running
                ready = (c for c in self.pending if c.arm.name == NONE or key(c.plain()) not in waited_for)
                cell = next(ready, None)
                if cell is not None:
                    self.pending.remove(cell)
                    self._running.add(key(cell))
                    return cell
                if not self._running:
                    return None
                self._change.wait(0.5)
        return None

    def _drop_hopeless(self) -> None:
        """Give up cells whose run without remedy failed."""
        for cell in [one for one in self.pending if one.arm.name != NONE and key(one.plain()) in self.failed]:
            self.pending.remove(cell)
            self.failed[key(cell)] = f"{cell.title}: not run, its run without remedy failed"
            self.ended += 1

    def _end(self, cell: Cell, problem: str) -> None:
        with self._change:
            self._running.discard(key(cell))
            self.ended += 1
            if problem and not self.stopping():
                self.failed[key(cell)] = problem
            if not (problem and self.stopping()):
                self.say(f"[{self.ended}/{self.total}] {problem or cell.title}")
            self._change.notify_all()


def unfinished(cells: Sequence[Cell], results: Results) -> list[Cell]:
    """Return the cells without a row, and the runs without remedy whose weights these need and that are gone."""
    missing = [cell for cell in cells if results.find(key(cell)) is None]
    needed = {key(cell.plain()) for cell in missing}
    return [
        cell
        for cell in cells
        if results.find(key(cell)) is None
        or (cell.arm.name == NONE and key(cell) in needed and (not cell.last.exists() or cell.summary() is None))
    ]
