"""Masks from prototypes and coefficients, to the original image, to outlines; the overlap of masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.boxes import mask_iou
from utils.segment.outlines import mask_outline

__all__ = [
    "crop_mask", "mask_iou", "masks2segments", "masks_iou", "process_mask", "process_mask_native",
    "process_mask_upsample", "scale_image",
]  # fmt: skip

THRESHOLD = 0.5  # of a pixel's probability
MOST_CHANNELS = 64  # that OpenCV of any release resizes at once


def crop_mask(masks: Tensor, boxes: Tensor) -> Tensor:
    """Return masks (n, h, w) with zeros outside their boxes (n, 4) xyxy in pixels of the masks."""
    height, width = masks.shape[1:]
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)  # (n, 1, 1) each
    columns = torch.arange(width, device=masks.device, dtype=boxes.dtype)[None, None]
    rows = torch.arange(height, device=masks.device, dtype=boxes.dtype)[None, :, None]
    return masks * ((columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2))


def process_mask(
    protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int], upsample: bool = False
) -> Tensor:
    """Return the masks of an image's detections, cropped to their boxes.

    Args:
        protos: (c, mh, mw) prototypes.
        masks_in: (n, c) coefficients.
        bboxes: (n, 4) xyxy in pixels of the network's input.
        shape: (height, width) of that input.
        upsample: enlarge the masks to ``shape``.

    Returns:
        (n, mh, mw), or (n, height, width) with ``upsample``, bool.
    """
    masks = _probabilities(protos, masks_in)
    scale = bboxes.new_tensor([masks.shape[2] / shape[1], masks.shape[1] / shape[0]]).repeat(2)
    masks = crop_mask(masks, bboxes * scale)
    return (_resized(masks, shape) if upsample else masks) > THRESHOLD


def process_mask_upsample(protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return masks (n, height, width) bool, enlarged before they are cropped; arguments as of ``process_mask``."""
    return crop_mask(_resized(_probabilities(protos, masks_in), shape), bboxes) > THRESHOLD


def process_mask_native(protos: Tensor, masks_in: Tensor, bboxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Return masks at the size of the original image, the letterbox's padding cut off and sharply cropped.

    Args:
        protos: (c, mh, mw) prototypes of the letterboxed image.
        masks_in: (n, c) coefficients.
        bboxes: (n, 4) xyxy in pixels of the original image.
        shape: (height, width) of the original image.

    Returns:
        (n, height, width) bool.
    """
    masks = _probabilities(protos, masks_in)
    height, width = masks.shape[1:]
    gain = min(height / shape[0], width / shape[1])
    left, top = int((width - shape[1] * gain) / 2), int((height - shape[0] * gain) / 2)
    right, bottom = int(width - (width - shape[1] * gain) / 2), int(height - (height - shape[0] * gain) / 2)
    return crop_mask(_resized(masks[:, top:bottom, left:right], shape), bboxes) > THRESHOLD


def _probabilities(protos: Tensor, masks_in: Tensor) -> Tensor:
    """Return (n, mh, mw) probabilities of pixels."""
    return (masks_in.float() @ protos.float().flatten(1)).sigmoid().view(-1, *protos.shape[1:])


def _resized(masks: Tensor, shape: Sequence[int]) -> Tensor:
    """Return masks (n, h, w) at ``shape`` (height, width) by bilinear interpolation."""
    size = int(shape[0]), int(shape[1])
    if not len(masks):
        return masks.new_zeros((0, *size))
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]


def scale_image(
    im1_shape: Sequence[int], masks: np.ndarray, im0_shape: Sequence[int], ratio_pad: Sequence | None = None
) -> np.ndarray:
    """Map masks of a letterboxed image back to the original.

    Args:
        im1_shape: (height, width) of the letterboxed image.
        masks: (h, w) or (h, w, n) of that size.
        im0_shape: (height, width, ...) of the original.
        ratio_pad: ((gain, gain), (pad w, pad h)) where they are known.

    Returns:
        (height, width, n) of the original's size.
    """
    gain = min(im1_shape[0] / im0_shape[0], im1_shape[1] / im0_shape[1])
    pad = (im1_shape[1] - im0_shape[1] * gain) / 2, (im1_shape[0] - im0_shape[0] * gain) / 2
    pad = pad if ratio_pad is None else ratio_pad[1]
    top, left = int(pad[1]), int(pad[0])
    bottom, right = int(im1_shape[0] - pad[1]), int(im1_shape[1] - pad[0])
    if masks.ndim < 2:
        raise ValueError(f"masks have {masks.ndim} dimensions, expected 2 or 3")
    part = masks[top:bottom, left:right]
    part = part[:, :, None] if part.ndim == 2 else part
    size = im0_shape[1], im0_shape[0]
    pieces = [part[:, :, k : k + MOST_CHANNELS] for k in range(0, part.shape[2], MOST_CHANNELS)]
    scaled = [cv2.resize(piece, size).reshape(size[1], size[0], -1) for piece in pieces]
    return np.concatenate(scaled, 2) if scaled else np.zeros((size[1], size[0], 0), masks.dtype)


def masks_iou(mask1: Tensor, mask2: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the IoU (n,) of flattened masks (n, pixels), the i-th with the i-th."""
    intersection = (mask1 * mask2).sum(1).clamp(0)
    union = mask1.sum(1) + mask2.sum(1) - intersection
    return intersection / (union + eps)


def masks2segments(masks: Tensor, strategy: str = "all") -> list[np.ndarray]:
    """Return the outline (points, 2) float32 of each mask (n, h, w), in its pixels; (0, 2) for an empty one.

    Args:
        masks: 0 or 1.
        strategy: as of ``utils.segment.outlines.mask_outline``.
    """
    return [mask_outline(mask, strategy).astype(np.float32) for mask in masks.to(torch.uint8).cpu().numpy()]
