"""Random numbers of the data path: a function of (seed, epoch, position), never of a process or a worker."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for, so that two uses at the same place never share a sequence."""

    SAMPLE = 0
    ORDER = 1
    MULTI_SCALE = 2
    QUAD = 3
    PASTE = 4
    ALBUM = 5
    ANCHORS = 6
    EVOLUTION = 7


def make_rng(seed: int, epoch: int = 0, position: int = 0, stream: Stream = Stream.SAMPLE) -> np.random.Generator:
    """Return the generator of one place in a run.

    Args:
        seed: the run's seed, ≥ 0.
        epoch: epoch number, ≥ 0.
        position: the draw's position within the epoch's global order (a step number for step-wise uses), ≥ 0.
        stream: what the numbers are for.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, position, int(stream)))))
