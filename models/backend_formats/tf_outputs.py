"""Reading what TensorFlow's formats give: which output is what, and boxes in parts of the image as pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from utils.errors import InputError

SUPPRESSED = 4  # outputs of a graph that suppresses: boxes, scores, classes, how many of them count


def channels_last(im: Tensor) -> np.ndarray:
    """Return images (b, 3, h, w) as float32 (b, h, w, 3)."""
    return im.permute(0, 2, 3, 1).contiguous().float().cpu().numpy()


def in_pixels(outputs: Sequence[np.ndarray], shape: Sequence[int], facts: Mapping[str, Any]) -> list[np.ndarray]:
    """Return rows with boxes in pixels, and prototypes (b, masks, h, w) where there are any.

    Args:
        outputs: of the graph, those with equal numbers of dimensions in its order.
        shape: (b, 3, h, w) of the images.
        facts: of the file; ``nms`` says that the graph suppresses.

    Raises:
        InputError: they are not those of a YOLOv5 graph.
    """
    size = np.array([shape[3], shape[2]] * 2, np.float32)
    by_rank = {rank: [np.asarray(y) for y in outputs if np.ndim(y) == rank] for rank in range(5)}
    if facts.get("nms"):
        return [_detections(by_rank, size), *by_rank[4]]
    if not by_rank[3]:
        return list(outputs)  # logits of whole images
    if len(by_rank[3]) > 1 or len(outputs) - len(by_rank[4]) > 1:
        shapes = [tuple(np.shape(y)) for y in outputs]
        raise InputError(f"a TensorFlow graph with outputs of shape {shapes}; expected predictions, or with prototypes")
    rows = by_rank[3][0].astype(np.float32)  # a copy
    rows[..., :4] *= size
    return [rows, *by_rank[4]]


def _detections(by_rank: Mapping[int, list[np.ndarray]], size: np.ndarray) -> np.ndarray:
    """Join boxes, scores, classes and mask columns to (b, k, 6 + masks); rows that do not count are 0."""
    boxes = next(y for y in by_rank[3] if y.shape[2] == 4)
    masks = [y for y in by_rank[3] if y is not boxes]
    (scores, classes), valid = by_rank[2], by_rank[1][0]
    rows = np.concatenate((boxes * size, scores[..., None], classes[..., None], *masks), 2).astype(np.float32)
    return rows * (np.arange(rows.shape[1])[None, :, None] < valid[:, None, None])
