"""What a grid will cost: two short trainings tell the time of an image and of a run's beginning and end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from efficacy_parts.cells import Cell, PreparedSet, diagnose, hyp_file, train
from utils.yaml_files import read_yaml, write_yaml

IMAGES = 64  # of the short training set
EPOCHS = (1, 4)


@dataclass(frozen=True)
class Cost:
    """Seconds of a run while as many are under way as there are devices: for each image seen, and beside the images."""

    image: float
    run: float

    def seconds(self, cells: Sequence[Cell]) -> float:
        """Return the seconds of all cells one after the other."""
        return sum(self.run + self.image * cell.data.epochs * cell.data.images for cell in cells)


def measure(cell: Cell, devices: Sequence[str]) -> tuple[Cost, Cost]:
    """Train the run without remedy on a few images of a cell's set, on all devices at once, then diagnose.

    Returns:
        The cost by the clock, and that in CPU time, which is the clock's on an idle machine with a thread a run.

    Raises:
        WorkError: a command failed.
    """
    work = cell.setup.work / "estimate"
    shutil.rmtree(work, ignore_errors=True)
    data, plain = short_set(cell.data, work), cell.plain()
    trained: list[np.ndarray] = []
    for epochs in EPOCHS:
        shorts = [
            replace(
                plain, data=replace(data, epochs=epochs), setup=replace(cell.setup, work=work / f"{epochs}-{number}")
            )
            for number in range(len(devices))
        ]
        trained.append(
            _seconds(shorts, devices, lambda short, device: train(short, hyp_file(short, device)[0], device))
        )
    closing = _seconds(shorts, devices, lambda short, device: diagnose(short, device, short.last))
    image = (trained[1] - trained[0]).clip(0) / ((EPOCHS[1] - EPOCHS[0]) * data.images)
    run = (trained[0] - EPOCHS[0] * data.images * image).clip(0) + closing
    shutil.rmtree(work, ignore_errors=True)
    clock, cpu = (Cost(float(a), float(b)) for a, b in zip(image, run, strict=True))
    return clock, cpu


def _seconds(cells: Sequence[Cell], devices: Sequence[str], work: Callable[[Cell, str], object]) -> np.ndarray:
    """Do something for each cell, all at once; return (2,) seconds until the last is done, and of CPU time for each."""
    begun, before = time.monotonic(), os.times()
    with ThreadPoolExecutor(len(cells)) as pool:
        list(pool.map(work, cells, devices))
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return np.array([time.monotonic() - begun, cpu / len(cells)])


def short_set(data: PreparedSet, work: Path) -> PreparedSet:
    """Write a YAML whose training split is a list of the first images of a set; validation is the set's own."""
    from utils.dataset_yaml import check_dataset, find_images

    facts = check_dataset(data.yaml, autodownload=False)
    work.mkdir(parents=True, exist_ok=True)
    lists = {}
    for split in ("train", "val"):
        images = find_images(facts[split])[: IMAGES if split == "train" else None]
        lists[split] = work / f"{split}.txt"
        lists[split].write_text("".join(f"{path}\n" for path in images), encoding="utf-8")
    yaml = work / "short.yaml"
    write_yaml(yaml, {"path": str(work), **{split: str(path) for split, path in lists.items()},
                      "names": read_yaml(data.yaml)["names"]})  # fmt: skip
    return replace(data, yaml=yaml, images=len(find_images(lists["train"])), epochs=1)
