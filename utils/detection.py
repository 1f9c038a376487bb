"""The loop of detection: from a source's images to detections, written and logged."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
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


@contextlib.contextmanager
def feature_maps(model: Any, folder: Path) -> Iterator[None]:
    """Save what each layer of a checkpoint's model returns on its first call."""
    from utils.plots import feature_visualization

    folder.mkdir(parents=True, exist_ok=True)
    handles: list[Any] = []

    def save(layer: Any, _: Any, output: Any) -> None:
        feature_visualization(output, layer.type, layer.i, save_dir=folder)
        taken[layer.i].remove()

    layers = getattr(model.model, "model", ())
    taken = {layer.i: layer.register_forward_hook(save) for layer in layers}
    handles.extend(taken.values())
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    with clock.measure(1), feature_maps(model, features) if features else contextlib.nullcontext():
        predictions = model(x, augment=augment)
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

    ``finish``, by default ``boxes_alone``, gives what the writer takes beside the image, detections first.

    Raises:
        WorkError: the model gave no finite numbers for any image.
    """
    names = [str(x) for x in getattr(dataset, "files", None) or getattr(dataset, "sources", None) or ["0"]]
    stems = output_stems(names)
    by_path = dict(zip(names, stems, strict=True))
    seen, unsound = 0, Counter[str]()
    non_max_suppression(torch.zeros((1, 0, 6)))  # imports what it needs, so that no image's time holds that
    for path, im, im0s, cap, text in dataset:
        is_batch = isinstance(im0s, list)
        folder = features / by_path.get(str(path), stems[0]) if features else None
        found, without_numbers, outputs = predict(model, im, nms, augment, folder, clock)
        for i in without_numbers:
            unsound[str(path[i] if is_batch else path)] += 1
        for i, detections in enumerate(found):
            one, original = (path[i], im0s[i]) if is_batch else (path, im0s)
            stem = stems[i] if is_batch else by_path.get(str(one), Path(str(one)))
            item = make_item(dataset, str(one), stem, original, cap)
            results = (finish or boxes_alone)(detections, i, outputs, im.shape[-2:], original.shape)
            drawn = writer.write(item, *results)
            line = f"{text}{f'{i}: ' if is_batch else ''}{im.shape[-2]}x{im.shape[-1]} "
            LOGGER.info(f"{line}{describe(detections, model.names)}{clock.last[1]:.1f}ms")
            seen += 1
            if writer.options.view and not show(item, drawn):
                return _counted(seen, unsound)
    return _counted(seen, unsound)


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
