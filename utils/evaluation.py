"""Evaluation: run a model over labelled images and measure it. Files and pictures are made by observers of it."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.boxes import iou_matrix
from utils.class_thresholds import best_thresholds
from utils.confusion import ConfusionMatrix
from utils.errors import InputError
from utils.eval_batch import BatchResult, Observer, in_original_pixels
from utils.eval_result import HEADER, EvalResult
from utils.logs import LOGGER, TQDM_BAR_FORMAT
from utils.metrics import match_predictions, precision_recall_curves
from utils.nms import non_max_suppression
from utils.torch_utils import time_sync

IOU_THRESHOLDS = torch.linspace(0.5, 0.95, 10).numpy()
PICTURED_BATCHES = 3
IMAGES_AT_ONCE = 2  # through a network on the CPU; the maps of more leave its caches
EPS = 1e-16


@dataclass
class Tally:
    """What is gathered image by image."""

    nc: int
    matrix: ConfusionMatrix
    correct: list[np.ndarray] = field(default_factory=list)
    scored: list[np.ndarray] = field(default_factory=list)
    targets: list[np.ndarray] = field(default_factory=list)
    images: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    seen: int = 0
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(3))
    loss: torch.Tensor | None = None
    batches: int = 0

    def add(self, detections: np.ndarray, labels: np.ndarray) -> None:
        """Add one image.

        Args:
            detections: (k, 6) x1, y1, x2, y2, conf, class, by falling confidence.
            labels: (m, 5) class, x1, y1, x2, y2 in the same pixels.
        """
        self.seen += 1
        if len(labels):
            self.matrix.process_batch(detections if len(detections) else None, labels)
        same_class = labels[:, 0:1] == detections[:, 5]
        iou = iou_matrix(labels[:, 1:5], detections[:, :4]) * same_class
        self.correct.append(match_predictions(iou, IOU_THRESHOLDS))
        self.scored.append(detections[:, 4:6])
        self.targets.append(labels[:, 0])

    def result(self, names: dict[int, str]) -> EvalResult:
        """Work out the measures."""
        losses = (0.0, 0.0, 0.0) if self.loss is None else tuple((self.loss.cpu() / max(self.batches, 1)).tolist())
        return self.measures(self.correct, losses, names)

    def measures(self, of_images: list[np.ndarray], losses: tuple[float, ...], names: dict[int, str]) -> EvalResult:
        """Work out the measures from which detections of each image are right, (k, t) bool."""
        correct = np.concatenate(of_images) if of_images else np.zeros((0, len(IOU_THRESHOLDS)), bool)
        scored = np.concatenate(self.scored) if self.scored else np.zeros((0, 2), np.float32)
        targets = np.concatenate(self.targets) if self.targets else np.zeros(0)
        curves = precision_recall_curves(correct, scored[:, 0], scored[:, 1], targets, EPS)
        best = curves.best()
        p, r, f1 = curves.p[:, best], curves.r[:, best], curves.f1[:, best]
        tp = (r * curves.labels).round()
        ap50, ap = curves.ap[:, 0], curves.ap.mean(1)
        means = [float(x.mean()) if len(x) else float("nan") for x in (p, r, ap50, ap)]
        speed = tuple((1e3 * self.seconds / max(self.seen, 1)).tolist())
        return EvalResult(
            *means, curves.classes, p, r, f1, ap50, ap, tp, (tp / (p + EPS) - tp).round(),
            np.bincount(targets.astype(int), minlength=self.nc), self.images, self.seen, losses, speed, self.matrix,
            curves, names, best_thresholds(correct[:, 0], scored[:, 0], scored[:, 1], curves.classes, curves.labels),
        )  # fmt: skip


def evaluate(  # noqa: PLR0913 (the parts of one evaluation, all by name)
    model: nn.Module,
    loader: Iterable[Any],
    *,
    names: Mapping[int, str] | Sequence[str],
    nc: int | None = None,
    conf_thres: float = 0.001,
    iou_thres: float = 0.6,
    max_det: int = 300,
    single_cls: bool = False,
    augment: bool = False,
    half: bool = False,
    save_hybrid: bool = False,
    compute_loss: Callable[..., Any] | None = None,
    callbacks: Any = None,
    save_dir: str | Path | None = None,
    plots: bool = False,
    observers: Sequence[Observer] = (),
    class_thres: torch.Tensor | None = None,
    parts: Parts | None = None,
) -> Any:
    """Run a model over a loader's labelled images and measure precision, recall and AP.

    The model comes back as it was: it is put into evaluation mode for the time, and a copy is used where its precision
    does not suit.

    Args:
        model: a detection model or backend; returns decoded predictions (bs, rows, 5 + nc), or a sequence of them and
            the raw outputs.
        loader: yields images (bs, 3, h, w) uint8, targets (n, 6) image, class, xywh 0 to 1, paths, shapes.
        names: class names.
        nc: number of classes; by default as many as names, or 1 with single_cls.
        conf_thres: smallest confidence.
        iou_thres: NMS threshold.
        max_det: most detections per image.
        single_cls: all objects are class 0.
        augment: test-time augmentation.
        half: float16 where the device is CUDA.
        save_hybrid: let the labels take part in NMS as certain detections.
        compute_loss: (raw outputs, targets) -> (loss, items (3,)).
        callbacks: hooks on_val_start, on_val_batch_start, on_val_image_end, on_val_batch_end, on_val_end.
        save_dir: folder of the pictures, needed with plots.
        plots: save pictures of the first batches, the curves and the confusion matrix.
        observers: called with each BatchResult.
        class_thres: (nc,) smallest confidence of each of the model's classes, in place of conf_thres.
        parts: what the evaluation is made of, by default that of boxes.

    Returns:
        An EvalResult, or what the tally of ``parts`` makes.

    Raises:
        InputError: a label's class is not one of the nc classes.
    """
    names = dict(names) if isinstance(names, Mapping) else dict(enumerate(names))
    nc = nc or (1 if single_cls else len(names))
    parts = parts or Parts()
    run_hook = callbacks.run if callbacks is not None else _no_hook
    drawing = Background(parts.pictures(Path(save_dir or "."), names)) if plots else contextlib.nullcontext()
    if plots:
        observers = [*observers, drawing]
    tally = parts.tally(nc, ConfusionMatrix(nc), images=np.zeros(nc, np.int64))
    device = _device_of(model)
    non_max_suppression(torch.zeros((1, 0, 6)))  # imports what it needs, so that no batch's time holds that
    run_hook("on_val_start")
    with drawing, _prepared(model, half and device.type == "cuda") as (network, is_half), torch.no_grad():
        step = parts.step(
            network, device, is_half, tally, augment, save_hybrid, single_cls, _loss_for_validation(compute_loss),
            {"conf_thres": conf_thres, "iou_thres": iou_thres, "max_det": max_det, "class_thres": class_thres},
        )  # fmt: skip
        for index, loaded in enumerate(_with_progress(loader, parts.header)):
            run_hook("on_val_batch_start")
            batch = step(index, *loaded)
            _report_batch(batch, observers, run_hook, names)
    result = tally.result(names)
    if plots:
        result.save_plots(save_dir or ".")
    run_hook("on_val_end", *result.for_hook())
    return result


@dataclass
class Pass:
    """Takes a batch from the loader to counted detections."""

    network: nn.Module
    device: torch.device
    is_half: bool
    tally: Any
    augment: bool
    save_hybrid: bool
    single_cls: bool
    loss: Any
    nms: dict[str, Any]

    def __call__(
        self, index: int, images: torch.Tensor, targets: torch.Tensor, paths: Sequence[str], shapes: Sequence[Any],
        *more: Any,
    ) -> BatchResult:  # fmt: skip
        """Evaluate one batch of the loader; ``more`` are further parts of a batch, such as masks."""
        _count_images(self.tally, targets, paths)
        height, width = images.shape[2:]
        in_pixels = targets * torch.tensor((1, 1, width, height, width, height), dtype=targets.dtype)
        predictions: list[torch.Tensor] = []
        kept: list[Any] = []
        step = self._images_at_once(len(images))
        for first in range(0, len(images), step):
            part = images[first : first + step]
            started = time_sync(self.device)
            pixels = part.to(self.device, non_blocking=True)
            pixels = (pixels.half() if self.is_half else pixels.float()).div_(255)
            rows = (targets, in_pixels) if len(part) == len(images) else (None, _rows_of(in_pixels, first, len(part)))
            on_device = [x if x is None else x.to(self.device, non_blocking=True) for x in rows]
            loaded = time_sync(self.device)
            with_augment = self.augment and self.loss is None
            output = self.network(pixels, augment=True) if with_augment else self.network(pixels)
            inferred = time_sync(self.device)
            if on_device[0] is not None:
                self._add_loss(output, on_device[0], *more)
            before_nms = time_sync(self.device)
            predictions += self._suppress(output, on_device[1], len(part))
            suppressed = time_sync(self.device)
            self.tally.seconds += np.array((loaded - started, inferred - loaded, suppressed - before_nms))
            kept.append(self._kept(output))
        whole = pixels if len(pixels) == len(images) else images
        return self._count(index, whole, in_pixels, paths, shapes, predictions, kept, *more)

    def _images_at_once(self, count: int) -> int:
        """Return how many of a batch's images go through the network together.

        On the CPU a few at a time are both quicker and need a fraction of the memory. A loss looks at whole batches,
        and so may whoever listens to the network.
        """
        alone = self.device.type != "cpu" or self.loss is not None or getattr(self.network, "_forward_hooks", None)
        if alone or not _is_own_network(self.network):
            return max(count, 1)
        return getattr(self.network, "batch_size", 0) or IMAGES_AT_ONCE

    def _kept(self, output: Any) -> Any:
        """Return what is needed of a network's output after suppression: nothing."""

    def _count(self, *facts: Any) -> BatchResult:
        """Add a batch to the tally: the arguments of ``in_original_pixels``, and what ``_kept`` gave of its parts."""
        batch = in_original_pixels(*facts[:6])
        for detections, labels in zip(batch.detections, batch.labels, strict=True):
            self.tally.add(detections.numpy(), labels)
        return batch

    def _add_loss(self, output: Any, targets: torch.Tensor, *more: Any) -> None:
        """Add a batch's loss items, computed in float32, without waiting for the device."""
        self.tally.batches += 1
        if self.loss is not None:
            items = self._loss_items(output, targets, *more)
            self.tally.loss = items if self.tally.loss is None else self.tally.loss + items

    def _loss_items(self, output: Any, targets: torch.Tensor, *_: Any) -> torch.Tensor:
        return self.loss([raw.float() for raw in output[1]], targets)[1]

    def _suppress(self, output: Any, targets: torch.Tensor, count: int) -> list[torch.Tensor]:
        """Return each of ``count`` images' detections; targets (n, 6) are in pixels."""
        known = [targets[targets[:, 0] == i, 1:] for i in range(count)] if self.save_hybrid else ()
        predictions = non_max_suppression(output, labels=known, multi_label=True, agnostic=self.single_cls, **self.nms)
        if self.single_cls:
            for detections in predictions:
                detections[:, 5] = 0
        return predictions


# Steps ----------------------------------------------------------------------------------------------------------------


def _is_own_network(network: nn.Module) -> bool:
    """Say whether a network is one of the project's, in which images of a batch have no influence on one another."""
    from models.backends import DetectMultiBackend
    from models.experimental import Ensemble
    from models.yolo import BaseModel

    return isinstance(network, (DetectMultiBackend, BaseModel, Ensemble))


def _rows_of(targets: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """Return the targets (k, 6) of ``count`` images from ``first`` on, these numbered from 0."""
    mine = targets[(targets[:, 0] >= first) & (targets[:, 0] < first + count)]  # a copy
    mine[:, 0] -= first
    return mine


def _no_hook(*_: Any) -> None:
    """Stand for the hooks where nobody listens."""


def _device_of(model: nn.Module) -> torch.device:
    """Return where a model or backend computes."""
    device = getattr(model, "device", None)
    return device if isinstance(device, torch.device) else next(model.parameters()).device


def _with_progress(loader: Iterable[Any], header: str) -> Iterator[Any]:
    """Iterate under a progress bar that carries the table's heading."""
    quiet = not LOGGER.isEnabledFor(logging.INFO)
    return iter(tqdm(loader, desc=header, bar_format=TQDM_BAR_FORMAT, disable=quiet))


@contextlib.contextmanager
def _prepared(model: nn.Module, half: bool) -> Iterator[tuple[nn.Module, bool]]:
    """Give a network in evaluation mode and the wanted precision, and whether that is float16.

    A backend keeps the precision it was loaded with. A model of the other precision is copied, never converted.
    """
    if hasattr(model, "fp16"):
        yield model, bool(model.fp16)
        return
    parameter = next(model.parameters(), None)
    wanted = torch.float16 if half else torch.float32
    network = model
    if parameter is not None and parameter.dtype != wanted:
        network = copy.deepcopy(model).to(wanted)
    was_training = network.training
    network.eval()
    try:
        yield network, half
    finally:
        network.train(was_training)


def _loss_for_validation(compute_loss: Any) -> Any:
    """Return a loss that talks to no other process and adapts nothing: only one process validates."""
    if not hasattr(compute_loss, "world_sum"):
        return compute_loss
    local = copy.copy(compute_loss)
    local.world_sum, local.autobalance = None, False
    return local


def _count_images(tally: Tally, targets: torch.Tensor, paths: Sequence[str]) -> None:
    """Count in how many images of a batch each class occurs.

    Raises:
        InputError: a class number is not below nc.
    """
    rows = targets[:, :2].numpy().astype(int)
    wrong = (rows[:, 1] < 0) | (rows[:, 1] >= tally.nc)
    if wrong.any():
        image, found = rows[wrong][0]
        raise InputError(f"{paths[image]}: its label has class {found}, allowed are 0 to {tally.nc - 1}")
    tally.images += np.bincount(np.unique(rows, axis=0)[:, 1], minlength=tally.nc)


def _report_batch(
    batch: BatchResult, observers: Sequence[Observer], run_hook: Callable[..., Any], names: dict[int, str]
) -> None:
    """Tell everybody about a counted batch."""
    for i, detections in enumerate(batch.detections if run_hook is not _no_hook else ()):
        if len(detections):
            path = Path(batch.paths[i])
            run_hook("on_val_image_end", batch.predictions[i], detections, path, names, batch.images[i])
    for observer in observers:
        observer(batch)
    if run_hook is not _no_hook:
        facts = (batch.index, batch.images, batch.targets, batch.paths, batch.shapes, batch.predictions)
        run_hook("on_val_batch_end", *facts)


class Background:
    """Lets an observer work in a thread beside the evaluation, a batch after the other; use as a context manager.

    Its end waits for the thread. An error of the observer is raised at the next batch or at the end.

    Args:
        observer: takes each BatchResult; of the first batches alone, so that few are held in memory.
    """

    def __init__(self, observer: Observer):
        self.observer = observer
        self._thread = ThreadPoolExecutor(1, "pictures")
        self._coming: list[Future[None]] = []

    def __enter__(self) -> Background:
        """Return itself."""
        return self

    def __call__(self, batch: BatchResult) -> None:
        """Hand over a batch."""
        self._raise_errors([future for future in self._coming if future.done()])
        if batch.index < PICTURED_BATCHES:
            self._coming.append(self._thread.submit(self.observer, batch))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the thread, for what it has begun alone where the evaluation has failed."""
        self._thread.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self._raise_errors(self._coming)

    @staticmethod
    def _raise_errors(futures: Sequence[Future[None]]) -> None:
        for future in futures:
            future.result()


class Pictures:
    """Save pictures of the first batches, with labels and with predictions."""

    def __init__(self, save_dir: Path, names: dict[int, str]):
        self.save_dir, self.names = save_dir, names

    def __call__(self, batch: BatchResult) -> None:
        """Save the pictures of one batch."""
        if batch.index >= PICTURED_BATCHES:
            return
        from utils.plots import output_to_target, plot_images

        stem = self.save_dir / f"val_batch{batch.index}"
        predicted = output_to_target(batch.predictions)
        plot_images(batch.pixels, batch.targets, batch.paths, f"{stem}_labels.jpg", self.names)
        plot_images(batch.pixels, predicted, batch.paths, f"{stem}_pred.jpg", self.names)


class Parts(NamedTuple):
    """What an evaluation is made of: here of boxes.

    Attributes:
        step: takes a batch from the loader to counted detections.
        tally: gathers image by image.
        pictures: draws the first batches.
        header: heading of the table.
    """

    step: Callable[..., Pass] = Pass
    tally: Callable[..., Any] = Tally
    pictures: Callable[..., Observer] = Pictures
    header: str = HEADER
