"""What keeps numbers that are not finite out of weights, running statistics and averages.

A batch whose loss is not finite, or an optimizer step whose gradient is not, changes nothing and is counted. All
processes of a run see the same gradients, so all of them skip the same steps. On CUDA all is decided on the device;
the host looks now and then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MAX_IN_A_ROW = (
    3  # bad batches without a good optimizer step between them after which a run goes back to its last checkpoint
)
MAX_RETURNS = 2  # returns after which it gives up
RATE_AFTER_RETURN = 0.5
LOOK_EVERY = 50  # steps between two looks at the count on CUDA: each look waits for the device


class NotFinite(RuntimeError):
    """Too many steps in a row were not finite, or the weights are not: the run has to go back."""


class RunningStatistics:
    """Mean and variance of all batch norms as views of one tensor, so that a bad batch can be undone in one operation.

    Args:
        model: the network, before any wrapper for parallel training is put around it.
    """

    def __init__(self, model: nn.Module):
        places = [
            (module, name)
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for name in ("running_mean", "running_var")
            if module._buffers.get(name) is not None
        ]
        buffers = [module._buffers[name] for module, name in places]
        shared = torch.cat([b.detach().flatten().float() for b in buffers]) if buffers else torch.zeros(0)
        begin = 0
        for (module, name), buffer in zip(places, buffers, strict=True):
            module._buffers[name] = shared[begin : begin + buffer.numel()].view(buffer.shape)
            begin += buffer.numel()
        self.values = shared.data  # the same memory, but a write is none that a backward pass would object to
        self.kept = self.values.clone()

    def keep(self) -> None:
        """Remember the values before a forward pass."""
        self.kept.copy_(self.values)

    def undo(self, bad: Tensor | None = None) -> None:
        """Put the remembered values back; with ``bad``, a bool of no dimensions, only where it is true."""
        self.values.copy_(self.kept if bad is None else torch.where(bad, self.kept, self.values))

    def is_bad(self) -> Tensor:
        """Return whether a value is not finite, a bool of no dimensions on the device."""
        return ~torch.isfinite(self.values).all()


@dataclass
class Tally:
    """Counts of what was not finite, on the device that decides about it.

    Attributes:
        in_a_row: () int64 bad batches, and bad steps of good batches, since the last good optimizer step; of several
            processes bad steps alone, which all of them see.
        skipped: () int64 skipped optimizer steps of the run.
        bad_batches: () int64 batches of this epoch whose loss was not finite in this process.
    """

    in_a_row: Tensor
    skipped: Tensor
    bad_batches: Tensor

    @classmethod
    def on(cls, device: torch.device, counts: Sequence[int] = (0, 0, 0)) -> Tally:
        """Return a tally on ``device`` that begins at ``counts``, in the order of the attributes."""
        return cls(*(torch.tensor(count, dtype=torch.int64, device=device) for count in counts))

    def note_batch(self, bad: Tensor, alone: bool) -> None:
        """Count a batch, ``bad`` a bool of no dimensions; ``alone`` for one process."""
        self.bad_batches += bad
        if alone:
            self.in_a_row += bad

    def note_step(self, bad: Tensor, bad_before: Tensor) -> None:
        """Count an optimizer step, ``bad`` a bool of no dimensions.

        ``bad_before`` is ``in_a_row`` after the step before: where it has grown, the step's batches have been counted.
        """
        self.in_a_row.copy_((self.in_a_row + (self.in_a_row == bad_before)) * bad)
        self.skipped += bad

    def read(self) -> tuple[int, int, int]:
        """Return the counts; waits for the device."""
        in_a_row, skipped, bad_batches = torch.stack([self.in_a_row, self.skipped, self.bad_batches]).tolist()
        return in_a_row, skipped, bad_batches


def weights_are_finite(model: nn.Module) -> bool:
    """Return whether every floating-point weight and buffer is finite; waits for the device."""
    tensors = [t for t in model.state_dict().values() if t.is_floating_point() and t.numel()]
    norms = torch._foreach_norm(tensors, float("inf"))
    return bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all())
