"""Warp and mixup with outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.augmentations import draw_warp, generator, warp_image, warp_outlines
from utils.augmentations import mixup as mixup_boxes


def mixup(  # noqa: PLR0913, PLR0917 (inherited signature)
    im: np.ndarray,
    labels: np.ndarray,
    segments: Sequence[np.ndarray],
    im2: np.ndarray,
    labels2: np.ndarray,
    segments2: Sequence[np.ndarray],
    *,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Blend two images of one shape as ``utils.augmentations.mixup`` does, and join their labels and outlines."""
    return *mixup_boxes(im, labels, im2, labels2, rng=rng), [*segments, *segments2]


def random_perspective(  # noqa: PLR0913, PLR0917 (inherited signature)
    im: np.ndarray,
    targets: np.ndarray | Sequence = (),
    segments: Sequence[np.ndarray] = (),
    degrees: float = 10,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 10,
    perspective: float = 0.0,
    border: Sequence[int] = (0, 0),
    *,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray | Sequence, list[np.ndarray]]:
    """Warp an image, its labels and their outlines; arguments as of ``utils.augmentations.random_perspective``.

    Returns:
        Image, labels (k, 5) class, xyxy and k outlines (1000, 2).
    """
    in_wh = im.shape[1], im.shape[0]
    out_wh = in_wh[0] + border[1] * 2, in_wh[1] + border[0] * 2
    warp = draw_warp(generator(rng), in_wh, out_wh, degrees, translate, scale, shear, perspective)
    im = warp_image(im, warp, border)
    return im, *(warp_outlines(targets, list(segments), warp, out_wh) if len(targets) else (targets, []))
