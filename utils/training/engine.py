"""The training loop: one epoch of forward, loss, backward and optimizer steps. Knows no options and no files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from utils.errors import WorkError
from utils.logs import LOGGER, TQDM_BAR_FORMAT
from utils.rng import Stream, make_rng
from utils.training.distributed import World, world_sum
from utils.training.schedule import Schedule

LOSS_NAMES = ("box", "objectness", "classification")
MAX_GRADIENT_NORM = 10.0
CHECK_EVERY = 50  # steps between two looks at the loss on an accelerator: each look waits for it
HEADER = ("Epoch", "GPU_mem", "box_loss", "obj_loss", "cls_loss", "Instances", "Size")

BatchHook = Callable[[int, torch.Tensor, torch.Tensor, list[str], torch.Tensor], None]


@dataclass
class StepState:
    """What changes from step to step beside weights, optimizer and EMA; saved and resumed.

    Attributes:
        step: batches of the run that are done.
        epoch: the epoch at work, or the next one when it is complete.
        batch: batches of that epoch that are done.
        last_optimizer_step: number of the step at which the optimizer last moved, -1 before the first.
        loss_sum: (3,) sum over this epoch's batches of the box, objectness and classification losses.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    last_optimizer_step: int = -1
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros(3))

    def start_epoch(self, epoch: int, device: torch.device) -> None:
        """Begin ``epoch`` at its first batch."""
        self.epoch, self.batch = epoch, 0
        self.loss_sum = torch.zeros(3, device=device)


def multi_scale(images: torch.Tensor, imgsz: int, stride: int, seed: int, step: int) -> torch.Tensor:
    """Resize a batch (b, 3, h, w) to a size drawn from 0.5 to 1.5 times ``imgsz``, a multiple of ``stride``.

    The draw depends on (seed, step) alone, so every process of a run resizes alike.
    """
    rng = make_rng(seed, 0, step, Stream.MULTI_SCALE)
    size = int(rng.integers(int(imgsz * 0.5), int(imgsz * 1.5) + stride)) // stride * stride
    factor = size / max(images.shape[2:])
    if factor == 1:
        return images
    shape = [math.ceil(side * factor / stride) * stride for side in images.shape[2:]]
    return nn.functional.interpolate(images, size=shape, mode="bilinear", align_corners=False)


@dataclass
class Engine:
    """Everything one training step uses.

    Attributes:
        model: the network, possibly wrapped for distributed training.
        criterion: (outputs, targets (n, 6)) -> (loss (1,), items (3,)).
        optimizer: groups in the order biases, decayed weights, normalisation weights.
        schedule: rates, momentum and accumulation of each step.
        scaler: gradient scaler of fp16 training, disabled otherwise.
        ema: running average of the weights; None on all but the main process.
        device: where the step runs.
        world: this process's place.
        amp_dtype: autocast type, None for float32.
        loss_factor: 4 with the quad loader, else 1.
        resize: (images, step number) -> images, for multi-scale training.
    """

    model: nn.Module
    criterion: Callable[[Any, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: Any
    device: torch.device
    world: World = field(default_factory=World)
    amp_dtype: torch.dtype | None = None
    loss_factor: float = 1.0
    resize: Callable[[torch.Tensor, int], torch.Tensor] | None = None

    def train_epoch(
        self, loader: Any, state: StepState, epochs: int, after_batch: BatchHook | None = None
    ) -> list[float]:
        """Train from ``state.batch`` to the end of ``state.epoch``.

        Args:
            loader: gives (images uint8 (b, 3, h, w), targets (n, 6), paths, shapes), set to the epoch and batch.
            state: moved along, one batch at a time.
            epochs: number of epochs of the run, for the progress bar.
            after_batch: called with (step, images, targets, paths, mean losses (3,)).

        Returns:
            Mean box, objectness and classification losses over the epoch and all processes.

        Raises:
            WorkError: a loss is not finite.
        """
        self.model.train()
        total = len(loader)
        self.optimizer.zero_grad()
        for images, targets, paths, _ in self._with_progress(loader, state, epochs, total):
            step = state.step
            images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last).float() / 255
            if self.resize is not None:
                images = self.resize(images, step)
            moves = self._step(images, targets, step, state, loader)
            if moves:
                state.last_optimizer_step = step
            state.batch, state.step = state.batch + 1, step + 1
            self._check_finite(state, total)
            if after_batch is not None:
                after_batch(step, images, targets, paths, state.loss_sum / state.batch)
        return (world_sum(state.loss_sum.clone()) / max(state.batch, 1)).tolist()

    def _step(self, images: torch.Tensor, targets: torch.Tensor, step: int, state: StepState, loader: Any) -> bool:
        """Run one batch forward and backward; return whether the optimizer moved."""
        accumulate = self.schedule.apply(self.optimizer, step, state.epoch)
        moves = step - state.last_optimizer_step >= accumulate
        with self._gradient_exchange(moves), self._autocast():
            outputs = self.model(images)
            self.criterion.is_filler = loader.batch_sampler.real_count(state.batch) == 0
            loss, items = self.criterion(outputs, targets.to(self.device, non_blocking=True))
            loss = loss * (self.world.size * self.loss_factor)
        with self._gradient_exchange(moves):
            self.scaler.scale(loss).backward()
        state.loss_sum += items
        if moves:
            self._optimizer_step()
        return moves

    def _optimizer_step(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model)

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(
            self.device.type, dtype=self.amp_dtype or torch.bfloat16, enabled=self.amp_dtype is not None
        )

    def _gradient_exchange(self, moves: bool) -> contextlib.AbstractContextManager:
        """Let processes exchange gradients only in the batch before an optimizer step."""
        waits = not moves and hasattr(self.model, "no_sync")
        return self.model.no_sync() if waits else contextlib.nullcontext()

    def _check_finite(self, state: StepState, total: int) -> None:
        due = self.device.type == "cpu" or state.batch % CHECK_EVERY == 0 or state.batch == total
        if due and not torch.isfinite(state.loss_sum).all():
            terms = ", ".join(
                f"{name} {value:g}" for name, value in zip(LOSS_NAMES, state.loss_sum.tolist(), strict=True)
            )
            raise WorkError(
                f"epoch {state.epoch}, batch {state.batch - 1}: the loss is not finite ({terms}); allowed are finite "
                "losses. The last checkpoint is from before it; a lower lr0 or cleaner labels may help"
            )

    def _with_progress(self, loader: Any, state: StepState, epochs: int, total: int) -> Iterable:
        if not self.world.is_main:
            yield from loader
            return
        LOGGER.info("\n" + "%11s" * 7, *HEADER)
        bar = tqdm(total=total, initial=state.batch, bar_format=TQDM_BAR_FORMAT, mininterval=1.0)
        with bar:
            for batch in loader:
                yield batch
                bar.update()
                if bar.n in {total, bar.last_print_n}:  # just refreshed, so at most once a second
                    bar.set_description(self._describe(state, epochs, batch), refresh=bar.n == total)

    def _describe(self, state: StepState, epochs: int, batch: tuple) -> str:
        memory = torch.cuda.memory_reserved() / 1e9 if self.device.type == "cuda" else 0.0
        means = (state.loss_sum * self.world.size / max(state.batch, 1)).tolist()  # the others' are about the same
        place = f"{state.epoch}/{epochs - 1}"
        return ("%11s" * 2 + "%11.4g" * 5) % (place, f"{memory:.3g}G", *means, batch[1].shape[0], batch[0].shape[-1])
