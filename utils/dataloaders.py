"""Loaders: batches of the data set in an order that any number of workers and processes reproduces."""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from utils.augmentations import (
    Albumentations,
    augment_hsv,
    classify_albumentations,
    classify_transforms,
    copy_paste,
    letterbox,
    mixup,
    random_perspective,
)
from utils.balance.samplers import EpochBatchSampler, replacement_order, sequential_order, shuffled_order
from utils.boxes import segments2boxes, xyn2xy, xywhn2xyxy, xyxy2xywhn
from utils.dataset import LoadImagesAndLabels
from utils.errors import InputError, WorkError
from utils.images import IMG_FORMATS, VID_FORMATS, exif_size
from utils.labels import get_hash, img2label_paths, verify_image_label
from utils.logs import LOGGER

__all__ = [
    "IMG_FORMATS", "LOCAL_RANK", "LOGGER", "PIN_MEMORY", "RANK", "VID_FORMATS", "WORLD_SIZE", "Albumentations",
    "InfiniteDataLoader", "LoadImagesAndLabels",
    "SmartDistributedSampler", "augment_hsv", "classify_albumentations", "classify_transforms", "copy_paste",
    "create_classification_dataloader", "create_dataloader", "exif_size", "get_hash", "img2label_paths", "letterbox",
    "mixup", "orientation", "random_perspective", "seed_worker", "segments2boxes", "verify_image_label", "xyn2xy",
    "xywhn2xyxy", "xyxy2xywhn",
]  # fmt: skip

LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "-1"))
RANK = int(os.environ.get("RANK", "-1"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", "1"))
PIN_MEMORY = os.environ.get("PIN_MEMORY", "True").lower() == "true"
HELP_URL = "docs/datasets.md"
orientation = 274  # EXIF tag
STUCK_SECONDS = 120.0  # without a batch for so long a worker counts as stuck
_POLL_SECONDS = 5  # how soon the death of a worker is noticed
_GRACE_SECONDS = 30  # a worker asked to end by a signal lives on for so long, so that the main process decides
_TIMED_OUT = "DataLoader timed out"
_FAILURES = ("DataLoader worker (pid", _TIMED_OUT, "received 0 items of ancdata")  # beginnings of torch's messages
_ELSEWHERE = {
    "ClassificationDataset": "utils.classification.dataset",
    "HUBDatasetStats": "utils.data.hub_stats",
    "LoadImages": "utils.sources",
    "LoadScreenshots": "utils.sources",
    "LoadStreams": "utils.sources",
    "NUM_THREADS": "utils.general",
    "autosplit": "utils.data.folder_tools",
    "check_requirements": "utils.general",
    "clean_str": "utils.general",
    "exif_transpose": "utils.images",
    "extract_boxes": "utils.data.folder_tools",
    "flatten_recursive": "utils.data.folder_tools",
    "is_colab": "utils.general",
    "is_kaggle": "utils.general",
    "torch_distributed_zero_first": "utils.torch_utils",
}
_open_loaders: weakref.WeakSet[InfiniteDataLoader] = weakref.WeakSet()


def __getattr__(name: str) -> Any:
    """Fetch names that live elsewhere and that YOLOv5 offers here as well."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_ELSEWHERE[name]), name)


def seed_worker(worker_id: int) -> None:
    """Prepare a loader's worker process: one OpenCV thread; signals are the main process's business.

    Samples need no seed here: all their random numbers follow from their draw.
    """
    cv2.setNumThreads(0)
    if multiprocessing.parent_process() is None or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))


class _WorkersFailed(Exception):
    """A worker died, or hung."""


class InfiniteDataLoader(DataLoader):
    """A DataLoader whose workers live across epochs and which leaves torch's global random numbers alone.

    On Linux workers are forked, so that images cached in memory are shared. When a worker dies or hangs, workers are
    started anew once per epoch and the epoch goes on with the batch that was missing.

    Args:
        args: as for DataLoader.
        kwargs: as for DataLoader.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        workers = kwargs.get("num_workers", 0)
        if kwargs.get("generator") is None:
            kwargs["generator"] = torch.Generator().manual_seed(0)
        if workers:
            kwargs.setdefault("persistent_workers", True)
            kwargs.setdefault("worker_init_fn", seed_worker)
            kwargs.setdefault("timeout", _POLL_SECONDS)
            if sys.platform.startswith("linux"):  # macOS has fork, but its frameworks crash in forked processes
                kwargs.setdefault("multiprocessing_context", "fork")
        self._waiting: tuple[float, Any] | None = None  # since when, for a batch of which iterator
        self._begun: tuple[tuple[int, int] | None, Iterator[Any]] | None = None  # by ``start``: first batch, iterator
        super().__init__(*args, **kwargs)
        if self.batch_size is None:  # torch leaves it out beside a batch_sampler, and its setter refuses it later
            vars(self)["batch_size"] = getattr(self.batch_sampler, "batch_size", None)

    @property
    def iterator(self) -> Any:
        """Return torch's iterator over the workers, None before the first epoch."""
        return self._iterator

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next iteration and the (global) batch at which it begins."""
        self._begun = None
        self.batch_sampler.set_epoch(epoch, start_batch)

    def set_order(self, order: Callable[[int], np.ndarray]) -> None:
        """Draw by another order, epoch → image indices, from the current epoch on."""
        self._begun = None
        self.batch_sampler.set_order(order)

    def set_weights(self, weights: np.ndarray) -> None:
        """Draw images, and partners of mosaics, with replacement in proportion to ``weights`` (N,) from now on."""
        seed = self.dataset.seed
        self.dataset.partner_weights = weights
        self.set_order(lambda epoch: replacement_order(weights, seed, epoch))

    def start(self) -> None:
        """Start the workers now; they prepare the first batches of the coming epoch.

        Forked workers keep the memory that the process has when it forks: a loader that is first needed after an epoch
        of training would double it.
        """
        if self.num_workers and self._begun is None:
            self._begun = self._coming(), self._start()

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of one epoch."""
        coming, iterator = self._begun or (self._coming(), None)
        self._begun, done, restarted = None, 0, False
        while True:
            try:
                iterator = iterator or self._start()
                batch = self._next(iterator)
            except StopIteration:
                return
            except WorkError as error:
                raise WorkError(_message(error)) from None
            except _WorkersFailed as error:
                self.close(kill=True)
                if restarted or coming is None:
                    raise WorkError(f"a data loader's worker failed: {error}") from None
                LOGGER.warning(f"WARNING a data loader's worker failed ({error}): starting new workers")
                self.set_epoch(coming[0], coming[1] + done)
                iterator, restarted = None, True
                continue
            done += 1
            yield batch

    def _start(self) -> Iterator[Any]:
        iterator = super().__iter__()
        if self.num_workers and self not in _open_loaders:
            if not _open_loaders:
                atexit.register(_close_loaders)
            _open_loaders.add(self)
            threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True).start()
        if getattr(iterator, "_worker_pids_set", False):
            # torch would raise a worker's death in the middle of whatever the main process does: here it is polled
            torch._C._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        return iterator

    def _next(self, iterator: Iterator[Any]) -> Any:
        """Return the next batch, waiting in short turns so that a dead worker is noticed soon.

        A batch in shared memory is asked of its worker, for which no time limit can be set: ``_watch`` ends such a wait
        by killing the workers.
        """
        begin = time.monotonic()
        self._waiting = begin, iterator
        try:
            while True:
                try:
                    return next(iterator)
                except (RuntimeError, OSError, EOFError) as error:
                    waited = time.monotonic() - begin
                    if not self.num_workers or not _is_worker_failure(error):
                        raise
                    if waited >= STUCK_SECONDS:
                        raise _WorkersFailed(f"timed out: no batch for {waited:.0f} s") from error
                    if not str(error).startswith(_TIMED_OUT):
                        raise _WorkersFailed(_message(error)) from error
        finally:
            self._waiting = None

    def _coming(self) -> tuple[int, int] | None:
        """Return the coming epoch and its first batch, None for samplers that cannot be restarted."""
        sampler = self.batch_sampler
        return sampler.upcoming() if isinstance(sampler, EpochBatchSampler) else None

    def close(self, kill: bool = False) -> None:
        """End the workers; the next iteration starts new ones.

        Args:
            kill: do not wait for them.
        """
        iterator, self._iterator, self._begun = self._iterator, None, None
        if iterator is None or not hasattr(iterator, "_shutdown_workers"):
            return
        if kill:
            _abandon(iterator)
        else:
            iterator._shutdown_workers()


class _RepeatSampler:
    """A sampler whose epochs follow one another without end.

    Args:
        sampler: gives one epoch.
    """

    def __init__(self, sampler: Any):
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.sampler


class SmartDistributedSampler(DistributedSampler):
    """A distributed sampler whose subset per rank never changes; only the order within it does."""

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's image numbers of the current epoch."""
        own = torch.arange(self.rank, len(self.dataset), self.num_replicas)
        if self.shuffle:
            own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(self.seed + self.epoch))]
        indices = own.tolist()
        missing = self.num_samples - len(indices)
        indices += (indices * (missing // max(len(indices), 1) + 1))[:missing]
        return iter(indices[: self.num_samples])


def create_dataloader(  # noqa: PLR0913, PLR0917 (inherited signature)
    path: str | Sequence[str],
    imgsz: int,
    batch_size: int,
    stride: int,
    single_cls: bool = False,
    hyp: Mapping[str, Any] | None = None,
    augment: bool = False,
    cache: bool | str | None = False,
    pad: float = 0.0,
    rect: bool = False,
    rank: int = -1,
    workers: int = 8,
    image_weights: bool = False,
    quad: bool = False,
    prefix: str = "",
    shuffle: bool = False,
    seed: int = 0,
    *,
    nc: int | None = None,
    require_labels: bool | None = None,
    names: Mapping[int, str] | Sequence[str] | None = None,
) -> tuple[InfiniteDataLoader, LoadImagesAndLabels]:
    """Build the data set and its loader.

    A batch is images (b, 3, h, w) uint8 RGB, targets (n, 6) [image, class, cx, cy, w, h normalised], files, shapes.

    Args:
        path: image folder, .txt list, or a list of these.
        imgsz: longest side of the images.
        batch_size: images per batch of this process.
        stride: multiple that rectangular shapes are rounded up to.
        single_cls: treat all classes as class 0.
        hyp: augmentation settings by name.
        augment: apply them.
        cache: ``"ram"`` (or True) or ``"disk"`` to keep decoded images.
        pad: extra strides of padding for rectangular shapes.
        rect: batches of images of similar aspect ratio; such images are not shuffled.
        rank: this process's number, -1 without distribution.
        workers: worker processes at most.
        image_weights: the trainer will set weights by ``loader.set_weights``.
        quad: join every four images into one of twice the side.
        prefix: words before log lines.
        shuffle: draw a new order each epoch.
        seed: the run's seed.
        nc: number of classes to check labels against.
        names: class names, by which ``album_class`` of ``hyp`` names its classes.
        require_labels: refuse a set without any labelled object (by default when augmenting).
    """
    if rect and shuffle:
        LOGGER.warning(f"{prefix}WARNING rect sorts the images by aspect ratio: they are not shuffled")
        shuffle = False
    world = world_size() if rank != -1 else 1
    dataset = LoadImagesAndLabels(
        path, imgsz, batch_size * world, augment, hyp, rect, image_weights, cache, single_cls, int(stride), pad,
        prefix=prefix, rank=rank, seed=seed, nc=nc, require_labels=require_labels, names=names,
    )  # fmt: skip
    collate_fn = LoadImagesAndLabels.collate_fn4 if quad else LoadImagesAndLabels.collate_fn
    return open_loader(dataset, batch_size, rank, workers, shuffle, seed, collate_fn), dataset


def create_classification_dataloader(  # noqa: PLR0913, PLR0917 (inherited signature)
    path: Any,
    imgsz: int = 224,
    batch_size: int = 16,
    augment: bool = True,
    cache: bool | str | None = False,
    rank: int = -1,
    workers: int = 8,
    shuffle: bool = True,
    *,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    prefix: str = "",
    paths: bool = False,
) -> InfiniteDataLoader:
    """Build the loader of an image folder per class; a batch is images (b, 3, imgsz, imgsz) and classes (b,) int64.

    Args:
        path: the split's folder, or a split that ``utils.classification.folders.scan_split`` returned.
        imgsz, augment, cache, classes, prefix, paths: as for ClassificationDataset.
        batch_size: images per batch of this process.
        rank: this process's number, -1 without distribution.
        workers: worker processes at most.
        shuffle: draw a new order each epoch.
        seed: the run's seed.
    """
    from utils.classification.dataset import ClassificationDataset

    dataset = ClassificationDataset(
        path, augment, imgsz, cache, classes=classes, seed=seed, prefix=prefix, paths=paths, rank=rank
    )  # fmt: skip
    return open_loader(dataset, batch_size, rank, workers, shuffle, seed)


def open_loader(  # noqa: PLR0913, PLR0917
    dataset: Any, batch_size: int, rank: int, workers: int, shuffle: bool, seed: int, collate_fn: Any = None
) -> InfiniteDataLoader:
    """Return a data set's loader; ``batch_size`` is the size per process, of which a global batch is made."""
    n, world = len(dataset), world_size() if rank != -1 else 1

    def order(epoch: int) -> np.ndarray:
        return shuffled_order(n, seed, epoch) if shuffle else sequential_order(n)

    return InfiniteDataLoader(
        dataset,
        batch_sampler=EpochBatchSampler(
            order, min(batch_size * world, n), max(rank, 0), world, getattr(dataset, "mosaic_pool", 0)
        ),
        num_workers=_worker_count(workers, min(batch_size, n)),
        pin_memory=PIN_MEMORY and torch.cuda.is_available(),
        collate_fn=collate_fn,
        generator=torch.Generator().manual_seed(seed),
    )


def world_size() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def _worker_count(asked: int, batch_size: int) -> int:
    """Return how many workers to start: no more than asked, than CPUs for this process, than images in a batch."""
    if asked < 0:
        raise InputError(f"workers: {asked} found, allowed are 0 and more")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cpus // max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1))  # as torchrun sets it
    return min(asked, share, batch_size if batch_size > 1 else 0)


def _is_worker_failure(error: Exception) -> bool:
    """Tell the loss of a worker from an error that happened in one and was handed on."""
    text = str(error)
    if "Original Traceback" in text or isinstance(error, WorkError):
        return False
    return isinstance(error, (OSError, EOFError)) or text.startswith(_FAILURES)


def _watch(reference: weakref.ref[InfiniteDataLoader]) -> None:
    """Kill the workers of a loader that waits too long for a batch."""
    while True:
        time.sleep(_POLL_SECONDS)
        loader = reference()
        if loader is None:
            return
        begin, iterator = loader._waiting or (math.inf, None)
        if time.monotonic() - begin > STUCK_SECONDS + _POLL_SECONDS:
            for worker in iterator._workers:
                worker.kill()
        del loader, iterator


def _message(error: Exception) -> str:
    """Return the last line of an error that came with a worker's traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    last = lines[-1] if "Original Traceback" in str(error) else lines[0]
    return last.split("WorkError: ", 1)[-1]


def _abandon(iterator: Any) -> None:
    """Kill the workers of torch's iterator and let go of their queues.

    A worker may have died with a lock in its hands, so nothing is called that waits for one, as torch's own end does.
    """
    iterator._shutdown = True  # torch's end, also the one at its deletion, has nothing left to do
    for worker in iterator._workers:
        worker.kill()
    for worker in iterator._workers:
        worker.join(timeout=_POLL_SECONDS)
    done = getattr(iterator, "_pin_memory_thread_done_event", None)
    if done is not None:
        done.set()
    for queue in iterator._index_queues:
        queue.cancel_join_thread()
        queue.close()


def _close_loaders() -> None:
    """End all workers before the interpreter does, which would wait for each."""
    for loader in list(_open_loaders):
        loader.close()
