"""The running average of a network's weights, and the decision to stop early."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from utils.checkpoints.model_copy import unwrapped
from utils.logs import LOGGER
from utils.model_ops import copy_attr


class ModelEMA:
    """Exponential moving average of every floating-point weight and buffer: ema += (1 - d) (model - ema).

    The decay d(n) = decay (1 - exp(-n / tau)) grows with the number n of updates, so early averages follow the model.
    Integer buffers keep the value they had at the start.

    Args:
        model: the network in training, with or without a parallel wrapper; a copy of it starts the average.
        decay: d for many updates.
        tau: updates after which d has reached 63 % of ``decay``.
        updates: updates so far, when a run goes on.

    Attributes:
        ema: the averaged network, in evaluation mode and without gradients.
        updates: number of updates.
        decay: number of updates -> d.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999, tau: float = 2000, updates: int = 0):
        self.ema = deepcopy(unwrapped(model)).eval().requires_grad_(False)
        self.updates = updates
        self.decay: Callable[[float], float] = lambda x: decay * (1 - math.exp(-x / tau))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model`` by one step."""
        self.updates += 1
        source = unwrapped(model).state_dict()
        pairs = [
            (average, source[name]) for name, average in self.ema.state_dict().items() if average.is_floating_point()
        ]
        averages, weights = [pair[0] for pair in pairs], [pair[1].to(pair[0].dtype) for pair in pairs]
        torch._foreach_lerp_(averages, weights, 1 - self.decay(self.updates))

    def update_attr(
        self, model: nn.Module, include: Iterable[str] = (), exclude: Iterable[str] = ("process_group", "reducer")
    ) -> None:
        """Copy plain attributes (names, class weights, ...) of ``model`` to the averaged network."""
        copy_attr(self.ema, model, include, exclude)


class EarlyStopping:
    """Tells a run to stop once its fitness has not improved for ``patience`` epochs.

    Epochs before the first fitness above 0 do not count, and a fitness that is not a number never is an improvement.

    Args:
        patience: epochs without improvement; 0 means never stop.

    Attributes:
        best_fitness, best_epoch: the best so far.
        possible_stop: whether the next epoch may be the last.
        stop: what the last call returned.
    """

    def __init__(self, patience: int = 30):
        self.best_fitness = 0.0
        self.best_epoch = 0
        self.patience: float = patience or math.inf
        self.possible_stop = False
        self.stop = False

    def __call__(self, epoch: int, fitness: Any) -> bool:
        """Take the fitness (a number or an array of one) of ``epoch`` and return whether to stop."""
        if fitness is None:
            return False
        fitness = float(fitness.item() if hasattr(fitness, "item") else fitness)
        if fitness > self.best_fitness or (self.best_fitness == 0 and not math.isnan(fitness)):
            self.best_epoch, self.best_fitness = epoch, fitness
        waited = epoch - self.best_epoch
        self.possible_stop = waited >= self.patience - 1
        self.stop = waited >= self.patience
        if self.stop:
            LOGGER.info(
                f"Stopping early: no better result in the last {self.patience} epochs. The best is of epoch "
                f"{self.best_epoch}, saved as best.pt. --patience sets how many epochs to wait, 0 for no limit"
            )
        return self.stop

    def state_dict(self) -> dict[str, float | int | bool]:
        """Return what a resumed run needs."""
        return {
            "best_fitness": self.best_fitness,
            "best_epoch": self.best_epoch,
            "possible_stop": self.possible_stop,
            "stop": self.stop,
        }

    def load_state_dict(self, state: dict[str, float | int | bool]) -> None:
        """Take over ``state_dict()`` of an earlier run; the patience stays that of this one."""
        for name in ("best_fitness", "best_epoch", "possible_stop", "stop"):
            setattr(self, name, state[name])
