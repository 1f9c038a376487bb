"""Learning rates, momentum and gradient accumulation of every step, as functions of the step's number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

NOMINAL_BATCH_SIZE = 64
MIN_WARMUP_STEPS = 100


def linear_lr(epochs: int, lrf: float) -> Callable[[float], float]:
    """Return the factor of the initial rate that falls in a line from 1 to ``lrf`` over ``epochs``."""
    return lambda epoch: (1 - epoch / epochs) * (1.0 - lrf) + lrf


def accumulation_steps(batch_size: int) -> int:
    """Return how many batches add up to about the nominal batch of 64 images."""
    return max(round(NOMINAL_BATCH_SIZE / batch_size), 1)


def scaled_weight_decay(weight_decay: float, batch_size: int) -> float:
    """Return the weight decay in proportion to the images of one optimizer step."""
    return weight_decay * batch_size * accumulation_steps(batch_size) / NOMINAL_BATCH_SIZE


@dataclass(frozen=True)
class Schedule:
    """What every training step uses.

    Attributes:
        lr_factor: epoch number -> factor of the initial rate.
        warmup_steps: number of the last warm-up step.
        warmup_bias_lr: rate of the biases at step 0; the other groups start at 0.
        warmup_momentum: momentum at step 0.
        momentum: momentum after warm-up.
        batch_size: images per step over all processes.
    """

    lr_factor: Callable[[float], float]
    warmup_steps: int
    warmup_bias_lr: float
    warmup_momentum: float
    momentum: float
    batch_size: int

    @staticmethod
    def count_warmup_steps(warmup_epochs: float, batches_per_epoch: int) -> int:
        """Return the number of the last warm-up step: as many as ``warmup_epochs`` hold, at least 100."""
        return max(round(warmup_epochs * batches_per_epoch), MIN_WARMUP_STEPS)

    def apply(self, optimizer: torch.optim.Optimizer, step: int, epoch: int) -> int:
        """Set the rates and momenta of one step and return after how many batches the optimizer steps.

        Args:
            optimizer: its groups in the order biases, decayed weights, normalisation weights.
            step: the step's number since the run began (epoch * batches + batch).
            epoch: the epoch's number.
        """
        span = [0, self.warmup_steps]
        warming = step <= self.warmup_steps
        for number, group in enumerate(optimizer.param_groups):
            rate = group["initial_lr"] * self.lr_factor(epoch)
            start = self.warmup_bias_lr if number == 0 else 0.0
            group["lr"] = float(np.interp(step, span, [start, rate])) if warming else rate
            if warming and "momentum" in group:
                group["momentum"] = float(np.interp(step, span, [self.warmup_momentum, self.momentum]))
        if not warming:
            return accumulation_steps(self.batch_size)
        return max(1, round(float(np.interp(step, span, [1, NOMINAL_BATCH_SIZE / self.batch_size]))))
