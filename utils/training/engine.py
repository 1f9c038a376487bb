"""The training loop: one epoch of forward, loss, backward and optimizer steps. Knows no options and no files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from utils.errors import WorkError
from utils.logs import LOGGER, TQDM_BAR_FORMAT
from utils.nested import arranged_like, flat_tensors
from utils.rng import Stream, make_rng
from utils.training.distributed import World, world_sum
from utils.training.guard import LOOK_EVERY, MAX_IN_A_ROW, NotFinite, RunningStatistics, Tally, weights_are_finite
from utils.training.schedule import Schedule

# Column of the console's table -> name of the loss term.
DETECTION_LOSSES = {"box_loss": "box", "obj_loss": "objectness", "cls_loss": "classification"}
MAX_GRADIENT_NORM = 10.0
MAX_PIECES = 16  # a batch that does not fit into memory is halved at most four times

BatchHook = Callable[[int, torch.Tensor, Sequence[Any], torch.Tensor], None]
Feed = Callable[[Sequence[Any], torch.device], tuple[torch.Tensor, tuple[torch.Tensor, ...]]]


@dataclass
class StepState:
    """What changes from step to step beside weights, optimizer and EMA; saved and resumed.

    Attributes:
        step: batches of the run that are done.
        epoch: the epoch at work, or the next one when it is complete.
        batch: batches of that epoch that are done.
        last_optimizer_step: number of the step at which the optimizer last moved, -1 before the first.
        loss_sum: (terms,) sum over this epoch's batches of the loss's terms, for detection box, objectness and
            classification, without those that were not finite.
        bad_batches: batches of this epoch whose loss was not finite.
        skipped: optimizer steps of the run that were skipped, because a loss or gradient was not finite.
        in_a_row: those since the last good step.
        returns: how often the run went back to its last checkpoint.
        rate_factor: what all learning rates are multiplied by, less than 1 after a return.
        pieces: into how many parts a batch is cut to fit into memory.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    last_optimizer_step: int = -1
    loss_sum: torch.Tensor = field(default_factory=lambda: torch.zeros(3))
    bad_batches: int = 0
    skipped: int = 0
    in_a_row: int = 0
    returns: int = 0
    rate_factor: float = 1.0
    pieces: int = 1

    def start_epoch(self, epoch: int, device: torch.device) -> None:
        """Begin ``epoch`` at its first batch, unless it is the one that a resumed run stands in."""
        if epoch == self.epoch and self.batch:
            return
        self.epoch, self.batch, self.bad_batches = epoch, 0, 0
        self.loss_sum = torch.zeros(len(self.loss_sum), device=device)


def images_and_targets(batch: Sequence[Any], device: torch.device) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return a batch (images (b, 3, h, w) uint8, targets (n, 6), ...) on the device: images 0 to 1, (targets,)."""
    images = batch[0].to(device, non_blocking=True)  # bytes travel; one pass makes floats of them where they are used
    images = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
    return images, (batch[1].to(device, non_blocking=True),)


def multi_scale(images: torch.Tensor, imgsz: int, stride: int, seed: int, step: int) -> torch.Tensor:
    """Resize a batch (b, 3, h, w) to a size drawn from 0.5 to 1.5 times ``imgsz``, a multiple of ``stride``.

    Two strides are the least, as of --img: a map of one place has no variance for the normalisation to take from a
    single image. The draw depends on (seed, step) alone, so every process of a run resizes alike.
    """
    rng = make_rng(seed, 0, step, Stream.MULTI_SCALE)
    size = int(rng.integers(int(imgsz * 0.5), int(imgsz * 1.5) + stride)) // stride * stride
    size = max(size, 2 * stride)
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
        criterion: (outputs, *targets as ``feed`` returns them) -> (loss (1,), items (terms,)).
        optimizer: groups in the order biases, decayed weights, normalisation weights.
        schedule: rates, momentum and accumulation of each step.
        scaler: gradient scaler of fp16 training, disabled otherwise.
        ema: running average of the weights; None on all but the main process.
        device: where the step runs.
        world: this process's place.
        amp_dtype: autocast type, None for float32.
        loss_factor: 4 with the quad loader, else 1.
        resize: (images, step number) -> images, for multi-scale training.
        statistics: the running statistics of the model's batch norms, by default found in ``model``.
        feed: (loader's batch, device) -> images for the model, further arguments of the criterion.
        losses: column of the console's table -> name of each of the criterion's items.
    """

    model: nn.Module
    criterion: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: Any
    device: torch.device
    world: World = field(default_factory=World)
    amp_dtype: torch.dtype | None = None
    loss_factor: float = 1.0
    resize: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    statistics: RunningStatistics | None = None
    feed: Feed = images_and_targets
    losses: Mapping[str, str] = field(default_factory=lambda: DETECTION_LOSSES)

    def __post_init__(self) -> None:
        if self.statistics is None:
            self.statistics = RunningStatistics(self.model)
        self.tally = Tally.on(self.device)
        self._in_backward = False

    def train_epoch(
        self, loader: Any, state: StepState, epochs: int, after_batch: BatchHook | None = None
    ) -> list[float]:
        """Train from ``state.batch`` to the end of ``state.epoch``.

        Args:
            loader: gives batches that begin with images (b, 3, h, w), targets, paths; set to the epoch and batch.
            state: moved along, one batch at a time.
            epochs: number of epochs of the run, for the progress bar.
            after_batch: called with (step, images, loader's batch, mean losses (terms,)).

        Returns:
            Mean of each loss term over the epoch and all processes.

        Raises:
            NotFinite: several batches in a row were not finite, or the weights at the end are not.
            WorkError: the device's memory does not hold even a small part of a batch.
        """
        self.model.train()
        total = len(loader)
        if state.batch == 0:
            self.optimizer.zero_grad()  # a run that goes on within an epoch has restored its gradients
        self.tally = Tally.on(self.device, (state.in_a_row, state.skipped, state.bad_batches))
        self._bad_before = self.tally.in_a_row.clone()
        for batch in self._with_progress(loader, state, epochs, total):
            step = state.step
            images, targets = self.feed(batch, self.device)
            if self.resize is not None:
                images = self.resize(images, step)
            items, moves = self._step(images, targets, step, state, loader)
            if moves:
                state.last_optimizer_step = step
            state.batch, state.step = state.batch + 1, step + 1
            self._look(state, total, items, batch[2])
            if after_batch is not None:
                after_batch(step, images, batch, state.loss_sum / max(state.batch - state.bad_batches, 1))
        if not weights_are_finite(self.model):
            raise NotFinite(f"epoch {state.epoch}: a weight is not finite after its last step")
        return (world_sum(state.loss_sum.clone()) / max(state.batch - state.bad_batches, 1)).tolist()

    def _step(
        self, images: torch.Tensor, targets: tuple[torch.Tensor, ...], step: int, state: StepState, loader: Any
    ) -> tuple[torch.Tensor, bool]:
        """Run one batch forward and backward; return its losses (terms,) and whether the optimizer was due."""
        accumulate = self.schedule.apply(self.optimizer, step, state.epoch)
        if state.rate_factor != 1:
            for group in self.optimizer.param_groups:
                group["lr"] *= state.rate_factor
        moves = step - state.last_optimizer_step >= accumulate
        self.criterion.is_filler = loader.batch_sampler.real_count(state.batch) == 0
        self._keep()
        while True:
            try:
                items, bad = self._forward_backward(images, targets, moves, state.pieces)
                break
            except torch.OutOfMemoryError as error:
                reason = str(error).splitlines()[0]
            self._halve(state, len(images), step, reason)  # outside, where the failed pass has let go of its memory
        state.loss_sum += torch.where(bad, 0.0, items)
        self.tally.note_batch(bad, alone=self.world.size == 1)
        if moves:
            self._optimizer_step()
        return items, moves

    # Forward and backward ----------------------------------------------------------------------------------------

    def _forward_backward(
        self, images: torch.Tensor, targets: tuple[torch.Tensor, ...], moves: bool, pieces: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses (terms,) of one batch and whether it is bad, () bool; its gradients are added up."""
        if pieces > 1:
            return self._in_pieces(images, targets, pieces)
        with self._gradient_exchange(moves), self._autocast():
            outputs = self.model(images)
            loss, items = self.criterion(outputs, *targets)
        bad = self._judge(loss)
        with self._gradient_exchange(moves):
            self._backward(loss, bad)
        return items, bad

    def _in_pieces(
        self, images: torch.Tensor, targets: tuple[torch.Tensor, ...], pieces: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Do what ``_forward_backward`` does with the activations of one piece of the batch in memory at a time.

        The loss of the whole batch is taken from outputs without a graph, and its gradient is led through each piece in
        a second forward pass. So any loss has the gradient of the whole batch; batch norm alone sees the pieces.
        """
        chunks = images.chunk(pieces)
        with torch.no_grad(), self._autocast():
            parts = [self.model(chunk) for chunk in chunks]
        self.statistics.undo()  # the second pass moves them
        levels = zip(*map(flat_tensors, parts), strict=True)
        outputs = [torch.cat(level).requires_grad_() for level in levels]
        arranged = arranged_like(parts[0], iter(outputs))
        del levels, parts
        with self._autocast():
            loss, items = self.criterion(arranged, *targets)
        bad = self._judge(loss)
        self._backward(loss, bad)
        gradients = [output.grad.split([len(chunk) for chunk in chunks]) for output in outputs]
        for number, chunk in enumerate(chunks):
            with self._autocast():
                again = self.model(chunk)
            self._in_backward = True
            torch.autograd.backward(flat_tensors(again), [level[number] for level in gradients])
            self._in_backward = False
        self.statistics.undo(bad)
        return items, bad

    def _backward(self, loss: torch.Tensor, bad: torch.Tensor) -> None:
        """Add up the gradients; those of a bad loss are made NaN, so that every process skips the step."""
        factor = torch.where(bad, math.nan, self.world.size * self.loss_factor)
        self._in_backward = True
        self.scaler.scale(loss * factor).backward()
        self._in_backward = False

    def _keep(self) -> None:
        """Remember what a bad batch or a lack of memory would have to undo."""
        self.statistics.keep()
        running = getattr(self.criterion, "running_tensors", list)()
        self._kept_running = [(tensor, tensor.clone()) for tensor in running]

    def _judge(self, loss: torch.Tensor) -> torch.Tensor:
        """Return whether a batch is bad, () bool, and undo what its forward pass did to running statistics."""
        bad = ~torch.isfinite(loss.detach()).all() | self.statistics.is_bad()
        self.statistics.undo(bad)
        for tensor, kept in self._kept_running:
            tensor.data.copy_(torch.where(bad, kept, tensor))
        return bad

    def _halve(self, state: StepState, batch: int, step: int, reason: str) -> None:
        """Let batches be cut into twice as many pieces after the device ran out of memory.

        Raises:
            WorkError: they are too small already, or several processes are at work, of which each would have to.
        """
        size = math.ceil(batch / state.pieces)
        fits = max(size // 2, 1) * self.world.size
        if self.world.size > 1 or state.pieces >= MAX_PIECES or size == 1:
            raise WorkError(
                f"out of memory with {size} images at a time ({reason}); allowed is what fits, perhaps --batch-size "
                f"{fits}, a smaller --imgsz or a smaller model"
            )
        state.pieces *= 2
        self.statistics.undo()
        for tensor, kept in self._kept_running:
            tensor.data.copy_(kept)
        lost = 0
        if self._in_backward:  # part of this batch's gradients is in already, and cannot be told from the others
            lost, self._in_backward = step - state.last_optimizer_step - 1, False
            self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        dropped = f"; the gradients of the {lost} batches before it in this optimizer step are lost" if lost else ""
        LOGGER.warning(
            f"WARNING epoch {state.epoch}, batch {state.batch}: out of memory ({reason}). Batches go on in "
            f"{state.pieces} pieces of {math.ceil(batch / state.pieces)} images with the gradients of {batch}, batch "
            f"norm sees the pieces{dropped}. --batch-size {fits} would fit without"
        )

    # Optimizer ---------------------------------------------------------------------------------------------------

    def _optimizer_step(self) -> None:
        """Move the weights and their average, unless a gradient is not finite."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=MAX_GRADIENT_NORM)
        bad, moved = ~torch.isfinite(norm), True
        if self.scaler.is_enabled():  # it skips the step itself; its own doing while it has not come down to 1
            self.tally.note_step(bad & (self.scaler._scale <= 1), self._bad_before)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.tally.note_step(bad, self._bad_before)
            moved = self._move(bad)
        self._bad_before.copy_(self.tally.in_a_row)
        self.optimizer.zero_grad()
        if self.ema is not None and moved:
            self.ema.update(self.model)

    def _move(self, bad: torch.Tensor) -> bool:
        """Step the optimizer where ``bad``, () bool, is false; return whether it may have moved.

        Fused optimizers, those of CUDA, leave the weights alone by themselves, as they do for a gradient scaler. Others
        (RMSProp) are asked to step or not, which waits for the device.
        """
        if not getattr(self.optimizer, "_step_supports_amp_scaling", False):
            if not bool(bad):
                self.optimizer.step()
                return True
            return False
        self.optimizer.found_inf, self.optimizer.grad_scale = bad.float(), None
        self.optimizer.step()
        del self.optimizer.found_inf, self.optimizer.grad_scale
        return True

    def _look(self, state: StepState, total: int, items: torch.Tensor, paths: list[str]) -> None:
        """Read the tally where it is due: after every step on the CPU, now and then on CUDA.

        Raises:
            NotFinite: too many were bad in a row.
        """
        if self.device.type == "cuda" and state.batch % LOOK_EVERY and state.batch != total:
            return
        in_a_row, skipped, bad_batches = self.tally.read()
        worse = skipped > state.skipped or bad_batches > state.bad_batches
        state.in_a_row, state.skipped, state.bad_batches = in_a_row, skipped, bad_batches
        if not worse:
            return
        terms = ", ".join(f"{name} {value:g}" for name, value in zip(self.losses.values(), items.tolist(), strict=True))
        since = f"batch {state.batch - 1}" if self.device.type != "cuda" else f"batches up to {state.batch - 1}"
        LOGGER.warning(
            f"WARNING epoch {state.epoch}, {since}: a loss or gradient is not finite ({terms}); its optimizer step is "
            f"skipped ({skipped} so far, {in_a_row} in a row). Images: {', '.join(paths[:4])}"
            f"{' ...' if paths[4:] else ''}"
        )
        if in_a_row >= MAX_IN_A_ROW:
            what = "losses or gradients in a row were not finite"
            raise NotFinite(f"epoch {state.epoch}, batch {state.batch - 1}: {in_a_row} {what}")

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(
            self.device.type, dtype=self.amp_dtype or torch.bfloat16, enabled=self.amp_dtype is not None
        )

    def _gradient_exchange(self, moves: bool) -> contextlib.AbstractContextManager:
        """Let processes exchange gradients only in the batch before an optimizer step."""
        waits = not moves and hasattr(self.model, "no_sync")
        return self.model.no_sync() if waits else contextlib.nullcontext()

    def _with_progress(self, loader: Any, state: StepState, epochs: int, total: int) -> Iterable:
        if not self.world.is_main:
            yield from loader
            return
        header = ("Epoch", "GPU_mem", *self.losses, "Instances", "Size")
        LOGGER.info("\n" + "%11s" * len(header), *header)
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
        numbers = (*means, batch[1].shape[0], batch[0].shape[-1])
        return ("%11s" * 2 + "%11.4g" * len(numbers)) % (place, f"{memory:.3g}G", *numbers)
