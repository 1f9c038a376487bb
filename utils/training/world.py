"""This process's place among those that torchrun started."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """This process's place among those that torchrun started.

    Attributes:
        rank: global rank, -1 without distribution.
        local_rank: rank on this machine, -1 without distribution.
        size: number of processes, 1 without distribution.
    """

    rank: int = -1
    local_rank: int = -1
    size: int = 1

    @classmethod
    def from_environment(cls) -> World:
        """Read RANK, LOCAL_RANK and WORLD_SIZE as torchrun sets them."""
        read = os.environ.get
        return cls(int(read("RANK", "-1")), int(read("LOCAL_RANK", "-1")), int(read("WORLD_SIZE", "1")))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank in {-1, 0}

    @property
    def is_distributed(self) -> bool:
        """Whether several processes may be at work (torchrun was used)."""
        return self.rank != -1
