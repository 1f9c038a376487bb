"""Worker processes that stay prepared between turns, and whole commands with their time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_SAMPLE_SECONDS = 0.1  # reading takes the system many milliseconds of a core
# python -m, with the name that newer releases of NumPy took from under older programs, which import NumPy anyway
_START_PACKAGE = """
import runpy, sys
import numpy
if not hasattr(numpy, "trapz"):
    numpy.trapz = numpy.trapezoid
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Program:
    """One of the compared programs.

    Attributes:
        name: for the tables.
        python: interpreter of its environment.
        prefix: of its modules, '' for a clone's layout.
    """

    name: str
    python: str
    prefix: str

    def command(self, script: str, *words: object) -> list[str]:
        """Return the command line of one of its scripts."""
        start = ["-c", _START_PACKAGE, f"{self.prefix}{script}"] if self.prefix else [str(ROOT / f"{script}.py")]
        return [self.python, *start, *map(str, words)]


class Worker:
    """A process in which one layer of one program waits for its turns.

    Args:
        program: whose layer.
        layer: its name.
        settings: of the layer.
        log: file that takes what the program writes.
    """

    def __init__(self, program: Program, layer: str, settings: dict[str, Any], log: Path):
        words = [program.python, HERE / "worker.py", program.name, program.prefix, layer, json.dumps(settings)]
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True,
                cwd=settings["work"],
            )  # fmt: skip
        self.facts = self._answer()

    def turn(self) -> dict[str, float]:
        """Run the layer once; return seconds, cpu seconds and peak bytes."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        self.process.kill()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            end = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise SystemExit(f"{self.log}: the worker ended: {' | '.join(end)}")
        return json.loads(line)


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Let processes of one thread each compute all the while; they end with this process, too."""
    loop = "import os\nstarter = os.getppid()\nwhile os.getppid() == starter: pass"
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Ended:
    """A command that has ended: seconds, peak bytes of its whole process tree (shared pages once), 0 where these were
    not watched, and its output.
    """

    seconds: float
    peak: int
    output: str


def run_command(words: Sequence[str], cwd: Path, watch: bool) -> Ended:
    """Run a command to its end.

    Args:
        words: the command.
        cwd: its working folder.
        watch: follow its memory, which slows down what has many pages.

    Raises:
        SystemExit: it failed.
    """
    quiet = {"COMET_MODE": "disabled", "WANDB_MODE": "disabled", "YOLO_OFFLINE": "1"}
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", **quiet}
    begin = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    peak, stop = [0], threading.Event()
    watcher = threading.Thread(target=_watch_memory, args=(process.pid, peak, stop)) if watch else None
    if watcher is not None:
        watcher.start()
    try:
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    seconds = time.perf_counter() - begin
    stop.set()
    if watcher is not None:
        watcher.join()
    if process.returncode:
        raise SystemExit(f"status {process.returncode} of {' '.join(words)}: {output.strip()[-600:]}")
    return Ended(seconds, peak[0], output)


def _watch_memory(pid: int, peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(_SAMPLE_SECONDS):
        peak[0] = max(peak[0], sum(map(_proportional_bytes, _tree(pid))))


def _tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, task.read_text().split())
    return found


def _proportional_bytes(pid: int) -> int:
    """Return a process's resident bytes, pages that n processes share counted by an n-th."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


OURS = Program("ours", sys.executable, "")
