"""Sums of one training step, added over all processes in a single exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

WorldSum = Callable[[Tensor], Tensor]


class Sums:
    """Named sums: every process adds its own under the same names in the same order, then reads everybody's.

    Args:
        world_sum: adds a small tensor over all processes; None for one process alone.
        counts: false for a process whose share of the batch is but a stand-in image, which adds zeros.
    """

    def __init__(self, world_sum: WorldSum | None = None, counts: bool = True):
        self.world_sum = world_sum
        self.counts = counts
        self._values: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add ``values``, of any shape, detached; under a known name they are added to what is there."""
        values = values.detach() if self.counts else torch.zeros_like(values)
        self._values[name] = self._values[name] + values if name in self._values else values

    def exchange(self) -> None:
        """Replace the sums by those over all processes."""
        if self.world_sum is None or not self._values:
            return
        flat = torch.cat([values.float().flatten() for values in self._values.values()])
        parts = self.world_sum(flat).split([values.numel() for values in self._values.values()])
        for (name, values), part in zip(self._values.items(), parts, strict=True):
            self._values[name] = part.view(values.shape)

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]


def as_saved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
