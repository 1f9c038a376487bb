"""The loop of detection: from a source's images to detections, written and logged."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.boxes import scale_boxes
from utils.errors import WorkError
from utils.logs import LOGGER
from utils.nms import non_max_suppression, unsound_images
from utils.outputs.detection_output import FALLBACK_FPS, DetectionWriter, Item, output_stems
from utils.pipeline import ReadAhead, WriteBehind
from utils.sources import LoadImages


class Clock:
    """Milliseconds spent on preparing, predicting and suppressing, in total and for the last image."""

    def __init__(self, device: torch.device):
        self.device = device
        self.total = [0.0, 0.0, 0.0]
        self.last = [0.0, 0.0, 0.0]

    @contextlib.contextmanager
    def measure(self, stage: int) -> Iterator[None]:
        """Add the time of a block to stage 0 (prepare), 1 (predict) or 2 (suppress), work on the GPU included."""
        start = self._now()
        yield
        self.last[stage] = (self._now() - start) * 1000
        self.total[stage] += self.last[stage]

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def predict(
    model: Any, im: np.ndarray, nms: Mapping[str, Any], augment: bool, features: Path | None, clock: Clock
) -> tuple[list[Tensor], list[int], Any]:
    """Return the detections of a prepared image or batch.

    Args:
        model: a DetectMultiBackend.
        im: uint8 RGB (3, h, w) or (n, 3, h, w).
        nms: arguments of non_max_suppression.
        augment: test-time augmentation.
        features: folder for feature maps, or None.
        clock: measures.

    Returns:
        Per image (n, 6 + masks) xyxy in pixels of ``im``, confidence, class; the numbers of the images for which the
        model gave boxes that are no finite numbers; and what the model returned.
    """
    with clock.measure(0):
        x = torch.from_numpy(im).to(model.device)
        x = (x.half() if model.fp16 else x.float()) / 255
        x = x[None] if x.ndim == 3 else x
    with clock.measure(1):
        predictions = model(x, augment=augment, **({"visualize": features} if features else {}))
    with clock.measure(2):
        masks = {} if isinstance(predictions, Tensor) else _mask_columns(predictions)
        return non_max_suppression(predictions, **nms, **masks), unsound_images(predictions), predictions


def _mask_columns(predictions: Any) -> dict[str, int]:
    """Return how many coefficients of masks each row of a model's outputs ends with, where it has prototypes."""
    protos = predictions[1] if len(predictions) > 1 else None
    return {"nm": protos.shape[1]} if isinstance(protos, Tensor) and protos.ndim == 4 else {}


def boxes_alone(detections: Tensor, i: int, outputs: Any, shape: Any, original: Any) -> tuple[Any, ...]:
    """Return what is written of image i: detections (n, 6) in whole pixels of the original.

    Args:
        detections: (n, 6) in pixels of the network's input.
        i: number of the image in its batch.
        outputs: what the model returned for the batch.
        shape: (height, width) of the network's input.
        original: (height, width, 3) of the original.
    """
    detections[:, :4] = scale_boxes(shape, detections[:, :4], original).round()
    return (detections,)


@dataclass(frozen=True)
class Prepared:
    """One image, or a batch of streams, as it was read.

    Attributes:
        image: uint8 RGB (3, h, w) or (n, 3, h, w) for the network.
        items: the originals, with the names of their results.
        is_batch: whether it comes from streams.
        text: the beginning of the log line.
        warnings: what there was to say before it.
    """

    image: np.ndarray
    items: list[Item]
    is_batch: bool
    text: str
    warnings: tuple[str, ...] = ()

    def size(self) -> int:
        """Return the bytes of its pixels."""
        return self.image.nbytes + sum(item.image.nbytes for item in self.items)


def detect_all(  # noqa: PLR0913  (everything the loop uses, by name)
    model: Any,
    dataset: Any,
    writer: DetectionWriter,
    nms: Mapping[str, Any],
    augment: bool,
    features: Path | None,
    clock: Clock,
    finish: Callable[..., tuple[Any, ...]] | None = None,
) -> int:
    """Go through a source, write each image's detections and log a line; return the number of images.

    Files are read, and results written, in threads beside the model, in their order. What is shown in a window is
    drawn before the next image is looked at. Streams read in threads of their own.

    ``finish``, by default ``boxes_alone``, gives what the writer takes beside the image, detections first.

    Raises:
        WorkError: the model gave no finite numbers for any image.
    """
    seen, unsound = 0, Counter[str]()
    non_max_suppression(torch.zeros((1, 0, 6)))  # imports what it needs, so that no image's time holds that
    view = writer.options.view
    with _reading(dataset) as inputs, contextlib.nullcontext() if view else WriteBehind() as behind:
        for batch in inputs:
            folder = features / batch.items[0].stem if features else None
            found, without_numbers, outputs = predict(model, batch.image, nms, augment, folder, clock)
            for i in without_numbers:
                unsound[str(batch.items[i].path)] += 1
            for i, (item, detections) in enumerate(zip(batch.items, found, strict=True)):
                results = (finish or boxes_alone)(detections, i, outputs, batch.image.shape[-2:], item.image.shape)
                shape = f"{batch.image.shape[-2]}x{batch.image.shape[-1]} "
                start = f"{batch.text}{f'{i}: ' if batch.is_batch else ''}{shape}"
                line = f"{start}{describe(detections, model.names)}{clock.last[1]:.1f}ms"
                write = partial(_write, writer, item, results, batch.warnings if i == 0 else (), line)
                seen += 1
                if behind is not None:
                    behind.call(write, item.image.nbytes)
                elif not show(item, write()):
                    return _counted(seen, unsound)
    return _counted(seen, unsound)


def _write(
    writer: DetectionWriter, item: Item, results: tuple[Any, ...], warnings: tuple[str, ...], line: str
) -> np.ndarray:
    """Write one image's results and log its line after what was to be said before it; return the drawn image."""
    for warning in warnings:
        LOGGER.warning(warning)
    with torch.inference_mode():  # which holds for a thread alone
        drawn = writer.write(item, *results)
    LOGGER.info(line)
    return drawn


@contextlib.contextmanager
def _reading(dataset: Any) -> Iterator[Iterable[Prepared]]:
    """Give what is read of a source: ahead in a thread where it is files, whose warnings then wait for their place."""
    if not isinstance(dataset, LoadImages):
        yield _prepared(dataset, [])
        return
    warnings: list[str] = []
    dataset.warn = warnings.append
    try:
        with ReadAhead(_prepared(dataset, warnings), Prepared.size) as ahead:
            yield ahead
    finally:
        dataset.warn = LOGGER.warning
        for warning in warnings:  # after the last image
            LOGGER.warning(warning)


def _prepared(dataset: Any, warnings: list[str]) -> Iterator[Prepared]:
    """Yield what a source gives with the names of its results, and what has been said meanwhile."""
    names = [str(x) for x in getattr(dataset, "files", None) or getattr(dataset, "sources", None) or ["0"]]
    stems = output_stems(names)
    by_path = dict(zip(names, stems, strict=True))
    for path, im, im0s, cap, text in dataset:
        if is_batch := isinstance(im0s, list):
            each = [(str(path[i]), stems[i], original) for i, original in enumerate(im0s)]
        else:
            each = [(str(path), by_path.get(str(path), Path(str(path))), im0s)]
        items = [make_item(dataset, *one, cap) for one in each]
        said = tuple(warnings)
        warnings.clear()
        yield Prepared(im, items, is_batch, text, said)


def _counted(seen: int, unsound: Counter[str]) -> int:
    """Return the number of images after telling those whose predictions were no numbers."""
    total = unsound.total()
    if total:
        text = (
            f"{total} of {seen} images have predictions that are not finite numbers, the first is {next(iter(unsound))}"
        )
        if total == seen:
            raise WorkError(f"{text}: the weights or the precision (--half) do not suit")
        LOGGER.warning(f"WARNING {text}: boxes of theirs are missing")
    return seen


def make_item(dataset: Any, path: str, stem: Path, image: np.ndarray, cap: Any) -> Item:
    """Return an image with the names of its results; frames count from 1 in videos, from 0 in streams."""
    if dataset.mode == "image":
        return Item(Path(path), stem, image)
    if cap is None:
        frame = dataset.count if hasattr(dataset, "count") else dataset.frame - 1
        return Item(Path(path), stem, image, frame)
    fps = cap.get(cv2.CAP_PROP_FPS)
    return Item(Path(path), stem, image, dataset.frame, fps if math.isfinite(fps) and fps > 0 else FALLBACK_FPS)


def describe(detections: Tensor, names: Mapping[int, str]) -> str:
    """Return '2 persons, 1 dog, ' in the order of class numbers."""
    if not len(detections):
        return "(no detections), "
    classes, counts = detections[:, 5].unique(return_counts=True)
    pairs = zip(classes.int().tolist(), counts.tolist(), strict=True)
    return "".join(f"{n} {names[c]}{'s' * (n > 1)}, " for c, n in pairs)


def show(item: Item, drawn: np.ndarray) -> bool:
    """Show a picture in a window named after its source; return False once q is pressed."""
    cv2.imshow(str(item.path), drawn)
    return cv2.waitKey(1) != ord("q")
