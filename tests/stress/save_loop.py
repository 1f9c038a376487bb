"""A process that saves one checkpoint over and over until it is killed, and what must hold afterwards."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stress.reference import same_tensors, temporary_files

Result = tuple[str, list[object], list[str]]  # what was killed, table cells, problems
SHARE_IN_SAVE = 0.75  # of the kills; the others strike at any time


def killed_loops(sample: Path, folder: Path, count: int, rng: random.Random) -> Result:
    """Kill ``count`` loops of saves in ``folder``, load what they leave, and let the next go on.

    Args:
        sample: a resumable checkpoint, the content that is saved.
        folder: made anew.
        count: number of kills.
        rng: chooses the moments.
    """
    from utils.checkpoint import load_checkpoint

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    contents = load_checkpoint(sample)
    problems: list[str] = []
    usual, inside, stands, number = _usual_seconds(contents, folder), 0, 0, 1
    for kill in range(1, count + 1):
        said = _Said(stands)
        read_end, write_end = os.pipe()
        process = multiprocessing.get_context("fork").Process(
            target=_save_for_ever, args=(contents, folder, number, read_end, write_end)
        )
        process.start()
        os.close(write_end)
        _kill_at_random(process, read_end, said, usual, rng)
        inside += said.begun > said.done
        stands, found = _check(contents, folder, said)
        problems += [f"loop kill {kill}: {text}" for text in found]
        number = max(number, said.begun + 1)
    for k in range(3):  # one of three saves best.pt too
        _save(contents, folder, number + k)
    problems += [f"after the last save: left {name}" for name in temporary_files(folder)]
    return "loop of saves", [count, inside, len(problems)], problems


class _Said:
    """What the loop has said: the numbers of the last save that it began and of the last that it ended."""

    def __init__(self, before: int) -> None:
        self.begun = self.done = before
        self.count = 0

    def read(self, descriptor: int) -> bool:
        """Take in what has been written; False at the end of the pipe."""
        data = os.read(descriptor, 4096)
        for word in data.decode().split():
            if word[0] == "b":
                self.begun, self.count = int(word[1:]), self.count + 1
            else:
                self.done = int(word[1:])
        return bool(data)


def _usual_seconds(contents: dict[str, Any], folder: Path) -> float:
    """Save twice, so that all three files are there, and return the seconds of the second."""
    _save(contents, folder, 0)
    began = time.monotonic()
    _save(contents, folder, 0)
    return time.monotonic() - began


def _save(contents: dict[str, Any], folder: Path, number: int) -> None:
    """Save as a run does: sometimes best.pt, then last.pt; ``number`` marks tensors all over the file."""
    from utils.checkpoint import save_checkpoint

    contents["epoch"] = number
    contents["resume"]["step"] = number
    for tensor in _marked(contents):
        tensor.fill_(number)
    if number % 3 == 0:
        save_checkpoint(folder / "best.pt", contents)
    save_checkpoint(folder / "last.pt", contents, keep_previous=True)


def _marked(contents: dict[str, Any]) -> Iterator[Any]:
    """Return tensors of the first, middle and last part of the checkpoint, float32."""
    tensors = [tensor for tensor in contents["resume"]["model"].values() if tensor.is_floating_point()]
    return iter([tensors[0], tensors[len(tensors) // 2], tensors[-1]])


def _save_for_ever(contents: dict[str, Any], folder: Path, first: int, read_end: int, write_end: int) -> None:
    os.close(read_end)
    for number in itertools.count(first):
        os.write(write_end, f"b{number} ".encode())
        _save(contents, folder, number)
        os.write(write_end, f"d{number} ".encode())


def _kill_at_random(process: Any, read_end: int, said: _Said, usual: float, rng: random.Random) -> None:
    """Let a few saves pass, kill within the next or at any time, and read the rest of what the loop said."""
    if rng.random() < SHARE_IN_SAVE:
        saves = rng.randint(1, 3)
        while said.count < saves and said.read(read_end):
            pass
        time.sleep(rng.uniform(0, 1.05 * usual))
    else:
        time.sleep(rng.uniform(0, 3 * usual))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while said.read(read_end):
        pass
    os.close(read_end)


def _check(contents: dict[str, Any], folder: Path, said: _Said) -> tuple[int, list[str]]:
    """Load last.pt, the one before it and best.pt; return the number of last.pt's save, and the problems.

    Each must hold the tensors of one save throughout; last.pt those of the save at work or of the one before.
    """
    from utils.checkpoint import load_checkpoint, previous_path
    from utils.errors import InputError

    stands, problems = said.done, []
    for path in (folder / "last.pt", previous_path(folder / "last.pt"), folder / "best.pt"):
        if not path.exists():
            problems.append(f"no {path.name}")
            continue
        try:
            found = load_checkpoint(path)
        except InputError as error:
            problems.append(str(error))
            continue
        number = found["resume"]["step"]
        if path.name == "last.pt":
            stands = number
            if not said.done <= number <= said.begun:
                problems.append(f"last.pt is of save {number}, {said.done} was done and {said.begun} begun")
        for tensor in _marked(contents):
            tensor.fill_(number)
        if not same_tensors(contents, found):
            problems.append(f"{path.name}: other tensors than those saved as number {number}")
    return stands, problems
