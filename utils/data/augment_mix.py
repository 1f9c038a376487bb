"""Several images or objects in one: mixup, copy-paste, cutout, replication.

Every random function takes ``rng``; without one it draws from a fresh unseeded generator.
"""

from __future__ import annotations

import cv2
import numpy as np

from utils.boxes import bbox_ioa, xywhn2xyxy

_PASTE_OVERLAP = 0.30
_MIXUP_BETA = 32.0


def generator(rng: np.random.Generator | None) -> np.random.Generator:
    """Return ``rng``, or a fresh unseeded generator."""
    return np.random.default_rng() if rng is None else rng


def mixup(
    im: np.ndarray,
    labels: np.ndarray,
    im2: np.ndarray,
    labels2: np.ndarray,
    *,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Blend two images of one shape by a Beta(32, 32) ratio and join their labels (Zhang et al., arXiv 1710.09412)."""
    ratio = generator(rng).beta(_MIXUP_BETA, _MIXUP_BETA)
    return cv2.addWeighted(im, ratio, im2, 1 - ratio, 0), np.concatenate((labels, labels2), 0)


def choose_pastes(
    labels: np.ndarray, segments: list[np.ndarray], width: int, p: float, rng: np.random.Generator
) -> list[int]:
    """Choose the objects that copy-paste mirrors.

    A share ``p`` of the outlined objects is tried; one is taken when its mirrored box covers less than 30 % of every
    box, those already taken included.

    Args:
        labels: (n, 5) class, xyxy in pixels.
        segments: n outlines (points, 2); fewer than n means that not all objects are outlined, and none is chosen.
        width: width of the image that is mirrored.
        p: share of the objects, 0-1.
        rng: source of the draws.
    """
    n = len(segments)
    if not (p and n) or n != len(labels):
        return []
    chosen: list[int] = []
    boxes = labels[:, 1:5]
    for j in rng.choice(n, round(p * n), replace=False).tolist():
        x1, y1, x2, y2 = labels[j, 1:5]
        box = np.array([width - x2, y1, width - x1, y2], boxes.dtype)
        if (bbox_ioa(box, boxes) < _PASTE_OVERLAP).all():
            boxes = np.concatenate((boxes, box[None]), 0)
            chosen.append(j)
    return chosen


def mirrored_labels(
    labels: np.ndarray, segments: list[np.ndarray], chosen: list[int], width: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return labels (n + k, 5) and outlines with mirrored copies of the chosen ones added."""
    if not chosen:
        return labels, segments
    added = labels[chosen]
    added[:, [1, 3]] = width - added[:, [3, 1]]
    turned = [np.concatenate((width - segments[j][:, :1], segments[j][:, 1:]), 1) for j in chosen]
    return np.concatenate((labels, added), 0), [*segments, *turned]


def copy_paste(
    im: np.ndarray,
    labels: np.ndarray,
    segments: list[np.ndarray],
    p: float = 0.5,
    *,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Paste mirrored copies of outlined objects into their image (Ghiasi et al., arXiv 2012.07177).

    Args:
        im: (h, w, 3) uint8, changed in place.
        labels: (n, 5) class, xyxy in pixels.
        segments: n outlines (points, 2) in pixels.
        p: share of the objects that is tried.
        rng: source of the draws.

    Returns:
        Image, labels and outlines with the pasted ones added.
    """
    width = im.shape[1]
    chosen = choose_pastes(labels, segments, width, p, generator(rng))
    if chosen:
        mask = np.zeros(im.shape[:2], np.uint8)
        for j in chosen:
            cv2.drawContours(mask, [segments[j].astype(np.int32)], -1, 1, cv2.FILLED)
        cv2.copyTo(cv2.flip(im, 1), cv2.flip(mask, 1), im)
    return im, *mirrored_labels(labels, segments, chosen, width)


def cutout(im: np.ndarray, labels: np.ndarray, p: float = 0.5, *, rng: np.random.Generator | None = None) -> np.ndarray:
    """Cover random rectangles with flat colours, in place (DeVries and Taylor, arXiv 1708.04552).

    Args:
        im: (h, w, 3) uint8.
        labels: (n, 5) class, normalised xywh.
        p: probability of doing anything.
        rng: source of the draws.

    Returns:
        The labels that stay less than 60 % covered.
    """
    rng = generator(rng)
    if rng.random() >= p:
        return labels
    h, w = im.shape[:2]
    for size in [0.5] + [0.25] * 2 + [0.125] * 4 + [0.0625] * 8 + [0.03125] * 16:
        mask_h, mask_w = (int(rng.integers(1, max(2, int(side * size) + 1))) for side in (h, w))
        x1 = max(0, int(rng.integers(0, w + 1)) - mask_w // 2)
        y1 = max(0, int(rng.integers(0, h + 1)) - mask_h // 2)
        x2, y2 = min(w, x1 + mask_w), min(h, y1 + mask_h)
        im[y1:y2, x1:x2] = rng.integers(64, 192, 3)
        if len(labels) and size > 0.03:
            covered = bbox_ioa(np.array([x1, y1, x2, y2], np.float32), xywhn2xyxy(labels[:, 1:5], w, h))
            labels = labels[covered < 0.60]
    return labels


def replicate(
    im: np.ndarray, labels: np.ndarray, *, rng: np.random.Generator | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Copy the smaller half of the boxes, pixels included, to random places; boxes are (n, 5) class, xyxy pixels."""
    rng = generator(rng)
    h, w = im.shape[:2]
    sides = (labels[:, 3:5] - labels[:, 1:3]).mean(1)
    for j in sides.argsort()[: round(len(labels) * 0.5)]:
        x1, y1, x2, y2 = labels[j, 1:5].astype(int)
        bh, bw = y2 - y1, x2 - x1
        top, left = int(rng.uniform(0, h - bh)), int(rng.uniform(0, w - bw))
        im[top : top + bh, left : left + bw] = im[y1:y2, x1:x2].copy()
        labels = np.append(labels, [[labels[j, 0], left, top, left + bw, top + bh]], axis=0)
    return im, labels
