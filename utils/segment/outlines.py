"""Outlines of masks, without torch."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np


def mask_outline(mask: np.ndarray, strategy: str = "all") -> np.ndarray:
    """Return the outline (points, 2) of a mask (h, w) uint8, in its pixels; (0, 2) for an empty one. Holes are filled.

    Args:
        mask: 0 or 1.
        strategy: "all" joins the parts of the mask by the shortest lines between them, "largest" keeps the largest.

    Raises:
        ValueError: another strategy.
    """
    if strategy not in {"all", "largest"}:
        raise ValueError(f"strategy: {strategy!r} found, allowed are 'all' and 'largest'")
    found = cv2.findContours(np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    parts = sorted((part.reshape(-1, 2) for part in found), key=cv2.contourArea, reverse=True)
    if not parts:
        return np.zeros((0, 2))
    return parts[0] if strategy == "largest" else join_outlines(parts)


def join_outlines(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join outlines (points, 2) into one: each is inserted at the nearest point of what is joined so far.

    The way to a part and back runs along one line, so that the area stays.
    """
    joined = parts[0]
    for part in parts[1:]:
        squares = ((joined[:, None].astype(np.float64) - part[None]) ** 2).sum(2)
        here, there = np.unravel_index(squares.argmin(), squares.shape)
        turned = np.concatenate((part[there:], part[: there + 1]))
        joined = np.concatenate((joined[: here + 1], turned, joined[here:]))
    return joined
