"""One evaluated batch, in pixels of the network's input and of the original images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class BatchResult:
    """One evaluated batch of bs images.

    Attributes:
        index: number of the batch, from 0.
        pixels: (bs, 3, h, w) as the loader gave them, uint8, or 0 to 1 where they were converted as a whole.
        targets: (n, 6) image, class, centre x, y, w, h in pixels of the letterboxed images.
        paths: bs image files.
        shapes: bs times ((height, width) of the original, ((gain h, gain w), (pad w, pad h))).
        predictions: bs times (k, 6) x1, y1, x2, y2, conf, class in letterboxed pixels, by falling confidence.
        detections: the same in pixels of the original, clipped to it.
        labels: bs times (m, 5) class, x1, y1, x2, y2 in pixels of the original.
    """

    index: int
    pixels: torch.Tensor
    targets: torch.Tensor
    paths: Sequence[str]
    shapes: Sequence[Any]
    predictions: list[torch.Tensor]
    detections: list[torch.Tensor]
    labels: list[np.ndarray]

    @cached_property
    def images(self) -> torch.Tensor:
        """The images (bs, 3, h, w) as floats from 0 to 1, made when first asked for."""
        return self.pixels.float() / 255 if self.pixels.dtype == torch.uint8 else self.pixels


Observer = Callable[[BatchResult], None]


def in_original_pixels(
    index: int,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    paths: Sequence[str],
    shapes: Sequence[Any],
    predictions: list[torch.Tensor],
) -> BatchResult:
    """Bring a batch to main memory in one transfer and map its boxes to the original images."""
    counts = [len(p) for p in predictions]
    predicted = torch.cat(predictions).cpu()
    image = np.repeat(np.arange(len(pixels)), counts)
    detections = predicted.numpy().copy()
    scale_rows(detections[:, :4], image, shapes)

    rows = targets.numpy()
    labels = rows[:, 1:6].copy()
    half = rows[:, 4:6] / 2
    labels[:, 1:3], labels[:, 3:5] = rows[:, 2:4] - half, rows[:, 2:4] + half
    owner = rows[:, 0].astype(int)
    scale_rows(labels[:, 1:5], owner, shapes)
    return BatchResult(
        index, pixels, targets, paths, shapes, list(predicted.split(counts)),
        list(torch.from_numpy(detections).split(counts)), [labels[owner == i] for i in range(len(pixels))],
    )  # fmt: skip


def scale_rows(boxes: np.ndarray, image: np.ndarray, shapes: Sequence[Any]) -> None:
    """Undo the letterbox of boxes (n, 4) xyxy in place and clip them.

    Args:
        boxes: boxes of several images.
        image: (n,) which image each belongs to.
        shapes: per image ((height, width), ((gain h, gain w), (pad w, pad h))).
    """
    table = [(g[0], *pad, *size) for size, (g, pad) in shapes]
    gain, pad_x, pad_y, height, width = np.array(table, np.float32).reshape(-1, 5)[image].T
    boxes -= np.stack((pad_x, pad_y, pad_x, pad_y), 1)
    boxes /= gain[:, None]
    np.clip(boxes, 0, np.stack((width, height, width, height), 1), out=boxes)
