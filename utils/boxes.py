"""Boxes and outlines: format conversion, clipping, letterbox undo, the IoU family. A leaf: torch and numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", torch.Tensor, np.ndarray)
RatioPad = Sequence[Sequence[float]]


# Format conversion ----------------------------------------------------------------------------------------------------


def _copy(x: Array) -> Array:
    """Return a copy in floating point; half a pixel would be lost in whole numbers."""
    if isinstance(x, torch.Tensor):
        return x.clone() if x.is_floating_point() else x.float()
    return np.copy(x) if np.issubdtype(x.dtype, np.floating) else x.astype(np.float32)


def xyxy2xywh(x: Array) -> Array:
    """Convert corner boxes (..., ≥ 4) to centre boxes; columns from the fifth on are copied."""
    y = _copy(x)
    y[..., 0] = (x[..., 0] + x[..., 2]) / 2
    y[..., 1] = (x[..., 1] + x[..., 3]) / 2
    y[..., 2] = x[..., 2] - x[..., 0]
    y[..., 3] = x[..., 3] - x[..., 1]
    return y


def xywh2xyxy(x: Array) -> Array:
    """Convert centre boxes (..., 4) to corner boxes.

    Raises:
        ValueError: the last dimension is not 4.
    """
    if x.shape[-1] != 4:
        raise ValueError(f"boxes need 4 numbers in the last dimension, got shape {tuple(x.shape)}")
    y = _copy(x)
    half = y[..., 2:4] / 2
    y[..., 2:4] = y[..., 0:2] + half
    y[..., 0:2] = y[..., 0:2] - half
    return y


def xywhn2xyxy(x: Array, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Array:
    """Convert normalised centre boxes (..., 4) to corners in pixels of a (h, w) image, moved by the padding."""
    y = _copy(x)
    y[..., 0] = w * (x[..., 0] - x[..., 2] / 2) + padw
    y[..., 1] = h * (x[..., 1] - x[..., 3] / 2) + padh
    y[..., 2] = w * (x[..., 0] + x[..., 2] / 2) + padw
    y[..., 3] = h * (x[..., 1] + x[..., 3] / 2) + padh
    return y


def xyxy2xywhn(x: Array, w: float = 640, h: float = 640, clip: bool = False, eps: float = 0.0) -> Array:
    """Convert pixel corners (..., 4) of a (h, w) image to normalised centre boxes.

    Args:
        x: boxes in pixels; never changed.
        w: image width.
        h: image height.
        clip: cut the boxes to the image first.
        eps: margin in pixels kept from the right and lower border when clipping.
    """
    if clip:
        x = clip_boxes(_copy(x), (h - eps, w - eps))
    y = xyxy2xywh(x)
    y[..., [0, 2]] /= w
    y[..., [1, 3]] /= h
    return y


def xyn2xy(x: Array, w: float = 640, h: float = 640, padw: float = 0, padh: float = 0) -> Array:
    """Convert normalised points (n, 2) to pixels of a (h, w) image, moved by the padding."""
    y = _copy(x)
    y[..., 0] = w * x[..., 0] + padw
    y[..., 1] = h * x[..., 1] + padh
    return y


# Outlines -------------------------------------------------------------------------------------------------------------


def segment2box(segment: np.ndarray, width: float = 640, height: float = 640) -> np.ndarray:
    """Return the box (4,) xyxy around those points of an outline (n, 2) that lie inside the image.

    An outline without such a point gives zeros of shape (1, 4).
    """
    x, y = segment.T
    inside = (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
    if not inside.any():
        return np.zeros((1, 4))
    x, y = x[inside], y[inside]
    return np.array([x.min(), y.min(), x.max(), y.max()])


def segments2boxes(segments: Sequence[np.ndarray]) -> np.ndarray:
    """Return the centre boxes (n, 4) around n outlines of shape (points, 2)."""
    if not len(segments):
        return np.zeros((0, 4), np.float32)
    return xyxy2xywh(np.array([[*s.min(0), *s.max(0)] for s in segments]))


def resample_segments(segments: list[np.ndarray], n: int = 1000) -> list[np.ndarray]:
    """Replace every outline (points, 2) of the list by n points evenly spaced in index along the closed outline.

    The list is changed and returned.
    """
    for i, outline in enumerate(segments):
        closed = np.concatenate((outline, outline[:1]))
        at, known = np.linspace(0, len(closed) - 1, n), np.arange(len(closed))
        segments[i] = np.stack([np.interp(at, known, closed[:, axis]) for axis in (0, 1)], 1)
    return segments


# Clipping and the way back from a letterboxed image -------------------------------------------------------------------


def _clip_columns(x: Array, columns: slice, limit: float) -> None:
    """Cut some columns to [0, limit] in place."""
    part = x[..., columns]
    if isinstance(x, torch.Tensor):
        part.clamp_(0, limit)
    else:
        np.clip(part, 0, limit, out=part)


def clip_boxes(boxes: Array, shape: Sequence[float]) -> Array:
    """Cut corner boxes (..., ≥ 4) to an image of (height, width), in place; the same object is returned."""
    _clip_columns(boxes, slice(0, 4, 2), shape[1])
    _clip_columns(boxes, slice(1, 4, 2), shape[0])
    return boxes


def clip_segments(segments: Array, shape: Sequence[float]) -> None:
    """Cut points (n, 2) to an image of (height, width), in place."""
    _clip_columns(segments, slice(0, 1), shape[1])
    _clip_columns(segments, slice(1, 2), shape[0])


def letterbox_ratio_pad(
    img1_shape: Sequence[float], img0_shape: Sequence[float], ratio_pad: RatioPad | None = None
) -> tuple[float, float, float]:
    """Return (gain, pad x, pad y) that took an image of img0_shape to a letterboxed one of img1_shape (height, width).

    Args:
        img1_shape: letterboxed (height, width).
        img0_shape: original (height, width).
        ratio_pad: ((gain h, gain w), (pad w, pad h)) as the loader noted it; worked out from the shapes when None.
    """
    if ratio_pad is not None:
        return ratio_pad[0][0], ratio_pad[1][0], ratio_pad[1][1]
    gain = min(img1_shape[0] / img0_shape[0], img1_shape[1] / img0_shape[1])
    return gain, (img1_shape[1] - img0_shape[1] * gain) / 2, (img1_shape[0] - img0_shape[0] * gain) / 2


def scale_boxes(
    img1_shape: Sequence[float], boxes: Array, img0_shape: Sequence[float], ratio_pad: RatioPad | None = None
) -> Array:
    """Map corner boxes (..., ≥ 4) from a letterboxed image back to the original, clipped, in place.

    Args:
        img1_shape: letterboxed (height, width).
        boxes: boxes in letterboxed pixels; columns from the fifth on stay.
        img0_shape: original (height, width).
        ratio_pad: see letterbox_ratio_pad.
    """
    gain, pad_x, pad_y = letterbox_ratio_pad(img1_shape, img0_shape, ratio_pad)
    boxes[..., [0, 2]] -= pad_x
    boxes[..., [1, 3]] -= pad_y
    boxes[..., :4] /= gain
    return clip_boxes(boxes, img0_shape)


def scale_segments(
    img1_shape: Sequence[float],
    segments: Array,
    img0_shape: Sequence[float],
    ratio_pad: RatioPad | None = None,
    normalize: bool = False,
) -> Array:
    """Map points (n, 2) back like scale_boxes, in place; with normalize divided by the original width and height."""
    gain, pad_x, pad_y = letterbox_ratio_pad(img1_shape, img0_shape, ratio_pad)
    segments[:, 0] -= pad_x
    segments[:, 1] -= pad_y
    segments /= gain
    clip_segments(segments, img0_shape)
    if normalize:
        segments[:, 0] /= img0_shape[1]
        segments[:, 1] /= img0_shape[0]
    return segments


# Overlap --------------------------------------------------------------------------------------------------------------


def box_area(boxes: Array) -> Array:
    """Return the areas (...,) of corner boxes (..., ≥ 4); boxes turned inside out are not special-cased."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(box1: torch.Tensor, box2: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """Return the IoU matrix (n, m) of corner boxes (n, 4) and (m, 4)."""
    low = torch.maximum(box1[:, None, :2], box2[None, :, :2])
    high = torch.minimum(box1[:, None, 2:4], box2[None, :, 2:4])
    intersection = (high - low).clamp_(0).prod(2)
    return intersection / (box_area(box1)[:, None] + box_area(box2) - intersection + eps)


def iou_matrix(box1: np.ndarray, box2: np.ndarray, eps: float = 1e-7) -> np.ndarray:
    """Return box_iou of numpy boxes: (n, m) for corner boxes (n, 4) and (m, 4), in their dtype."""
    low = np.maximum(box1[:, None, :2], box2[None, :, :2])
    high = np.minimum(box1[:, None, 2:4], box2[None, :, 2:4])
    intersection = (high - low).clip(0).prod(2)
    return intersection / (box_area(box1)[:, None] + box_area(box2) - intersection + eps)


def _corners_and_sizes(boxes: torch.Tensor, xywh: bool, eps: float) -> tuple[torch.Tensor, ...]:
    """Return x1, y1, x2, y2, w, h, each (..., 1), of boxes (..., 4) in either format."""
    if xywh:
        x, y, w, h = boxes.chunk(4, -1)
        half_w, half_h = w / 2, h / 2
        return x - half_w, y - half_h, x + half_w, y + half_h, w, h
    x1, y1, x2, y2 = boxes.chunk(4, -1)
    return x1, y1, x2, y2, x2 - x1, (y2 - y1).clamp(eps)


def bbox_iou(  # noqa: PLR0913 (inherited signature)
    box1: torch.Tensor,
    box2: torch.Tensor,
    xywh: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
) -> torch.Tensor:
    """Return the overlap (n, 1) of box pairs, box1 (1, 4) or (n, 4) against box2 (n, 4).

    Plain IoU, or with one switch set: GIoU = IoU − (C − U) / C, U the union and C the enclosing box's area
    (Rezatofighi et al., arXiv 1902.09630); DIoU = IoU − ρ² / c², ρ the centres' distance and c the enclosing box's
    diagonal; CIoU = DIoU − αv, v = 4/π² (arctan w₂/h₂ − arctan w₁/h₁)², α = v / (1 − IoU + v) held constant in the
    gradient (Zheng et al., arXiv 1911.08287, eq. 7 and 10).

    Args:
        box1: boxes in the format that xywh names.
        box2: boxes in the same format.
        xywh: centre boxes when true, corner boxes otherwise.
        GIoU: return the generalised IoU.
        DIoU: return the distance IoU.
        CIoU: return the complete IoU.
        eps: keeps the divisions finite.
    """
    left1, top1, right1, bottom1, w1, h1 = _corners_and_sizes(box1, xywh, eps)
    left2, top2, right2, bottom2, w2, h2 = _corners_and_sizes(box2, xywh, eps)
    overlap_w = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(0)
    overlap_h = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(0)
    intersection = overlap_w * overlap_h
    union = w1 * h1 + w2 * h2 - intersection + eps
    iou = intersection / union
    if not (GIoU or DIoU or CIoU):
        return iou

    enclosing_w = torch.maximum(right1, right2) - torch.minimum(left1, left2)
    enclosing_h = torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)
    if not (DIoU or CIoU):
        enclosing = enclosing_w * enclosing_h + eps
        return iou - (enclosing - union) / enclosing

    diagonal2 = enclosing_w.square() + enclosing_h.square() + eps
    distance2 = ((left2 + right2 - left1 - right1).square() + (top2 + bottom2 - top1 - bottom1).square()) / 4
    diou = iou - distance2 / diagonal2
    if not CIoU:
        return diou
    # atan2(w, h) is arctan(w / h) for positive sizes and stays finite for a box without height.
    v = (4 / math.pi**2) * (torch.atan2(w2, h2) - torch.atan2(w1, h1)).square()
    alpha = (v / (v - iou + (1 + eps))).detach()
    return diou - v * alpha


def bbox_ioa(box1: np.ndarray, box2: np.ndarray, iou: bool = False, eps: float = 1e-7) -> np.ndarray:
    """Return intersection over the area of box2: (n, m) for corner boxes (n, 4) and (m, 4), (m,) for one box (4,).

    With ``iou`` it is intersection over union.
    """
    first = box1[..., None, :]
    low = np.maximum(first[..., :2], box2[:, :2])
    high = np.minimum(first[..., 2:4], box2[:, 2:4])
    inside = (high - low).clip(0).prod(-1)
    area = box_area(box2) + box_area(first) - inside if iou else box_area(box2)
    return inside / (area + eps)


def wh_iou(wh1: torch.Tensor, wh2: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """Return the IoU matrix (n, m) of sizes (n, 2) and (m, 2), as if all boxes shared one corner."""
    intersection = torch.minimum(wh1[:, None], wh2[None]).prod(2)
    return intersection / (wh1.prod(1)[:, None] + wh2.prod(1) - intersection + eps)


def mask_iou(mask1: torch.Tensor, mask2: torch.Tensor, eps: float = 1e-7) -> torch.Tensor:
    """Return the IoU matrix (n, m) of flattened masks (n, pixels) and (m, pixels) holding 0 or 1."""
    intersection = (mask1 @ mask2.T).clamp_(0)
    union = mask1.sum(1)[:, None] + mask2.sum(1)[None] - intersection
    return intersection / (union + eps)
