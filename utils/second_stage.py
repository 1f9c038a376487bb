"""A classifier that confirms or drops what a detector found."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from utils.boxes import scale_boxes, xywh2xyxy, xyxy2xywh

SIDE = 224  # pixels of the classifier's input
GAIN, MARGIN = 1.3, 30  # a cut-out's side: the box's longer side times GAIN, and MARGIN pixels more


def apply_classifier(
    x: list[Tensor | None], model: nn.Module, img: Tensor, im0: np.ndarray | Sequence[np.ndarray]
) -> list[Tensor | None]:
    """Keep the detections whose class a second network confirms.

    Args:
        x: per image (n, 6) xyxy in pixels of ``img``, confidence, class; changed in place.
        model: takes squares (n, 3, 224, 224) RGB in 0-1 and returns (n, classes) scores of the detector's classes.
        img: (b, 3, h, w), what the detector saw.
        im0: the original image, or one for each of ``x``: BGR (h, w, 3) uint8.

    Returns:
        ``x``.
    """
    originals = [im0] if isinstance(im0, np.ndarray) else list(im0)
    for i, found in enumerate(x):
        if found is None or not len(found):
            continue
        boxes = xyxy2xywh(found[:, :4].clone())
        boxes[:, 2:] = boxes[:, 2:].max(1, keepdim=True)[0] * GAIN + MARGIN
        boxes = scale_boxes(img.shape[2:], xywh2xyxy(boxes), originals[i].shape).long()
        cut = [_square(originals[i], box) for box in boxes.tolist()]
        squares = torch.from_numpy(np.stack(cut)).to(found.device)
        with torch.no_grad():
            agreed = model(squares).argmax(1) == found[:, 5].long()
        x[i] = found[agreed]
    return x


def _square(image: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """Return the part of a BGR image inside a box as RGB float32 (3, 224, 224) in 0-1."""
    x1, y1 = min(box[0], image.shape[1] - 1), min(box[1], image.shape[0] - 1)
    part = image[y1 : max(box[3], y1 + 1), x1 : max(box[2], x1 + 1)]
    rgb = cv2.resize(part, (SIDE, SIDE))[..., ::-1]
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32) / 255
