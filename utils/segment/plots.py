"""Pictures with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from utils.annotator import Annotator, colors
from utils.boxes import xywh2xyxy
from utils.logs import LOGGER
from utils.plots import LEAST_CONFIDENCE, save_batch
from utils.plotting.run_plots import draw_results
from utils.segment.metrics import fitness

__all__ = [
    "LOGGER", "Annotator", "colors", "draw_masks", "plot_images_and_masks", "plot_results_with_masks",
    "xywh2xyxy",
]  # fmt: skip

OPACITY = 0.45
_RESULT_COLUMNS = (1, 2, 3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 9, 10, 11, 12)  # of results.csv, in the picture's order


def __getattr__(name: str) -> Any:
    """Return a name that YOLOv5 users import from here and that lives in utils."""
    if name != "threaded":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from utils import threaded

    return threaded


def draw_masks(
    im: np.ndarray, masks: np.ndarray, of_masks: Sequence[Sequence[int]], opacity: float = OPACITY
) -> np.ndarray:
    """Return an image with masks laid over it, the first on top.

    Args:
        im: (h, w, 3) uint8.
        masks: (n, h', w') 0 or 1; brought to the image's size.
        of_masks: n colours in the image's order of channels.
        opacity: 0 to 1.
    """
    height, width = im.shape[:2]
    ground = np.zeros((height, width, 3), np.uint8)
    covered = np.zeros((height, width), bool)
    for mask, color in reversed(list(zip(masks, of_masks, strict=True))):
        flat = np.ascontiguousarray(mask, dtype=np.uint8)
        if flat.shape != (height, width):
            flat = cv2.resize(flat, (width, height), interpolation=cv2.INTER_NEAREST)
        ground[flat > 0] = color
        covered |= flat > 0
    mixed = cv2.addWeighted(im, 1 - opacity, ground, opacity, 0)
    return np.where(covered[..., None], mixed, im)


def plot_images_and_masks(  # noqa: PLR0913, PLR0917 (inherited signature)
    images: torch.Tensor | np.ndarray,
    targets: torch.Tensor | np.ndarray,
    masks: torch.Tensor | np.ndarray,
    paths: Sequence[str] | None = None,
    fname: str | Path = "images.jpg",
    names: Mapping[int, str] | Sequence[str] | None = None,
) -> None:
    """Save a mosaic of a batch (at most 16 images) with boxes and masks.

    Args:
        images, targets, paths, fname, names: as of ``utils.plots.plot_images``.
        masks: (targets, h, w) 0 or 1, or (bs, h, w) numbers of an image's targets from 1.

    Raises:
        WorkError: the picture cannot be written.
    """
    rows, drawn = (x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in (targets, masks))
    rows = rows if len(rows) else np.zeros((0, 6))
    overlap = len(drawn) != len(rows) or (drawn.size > 0 and drawn.max() > 1)

    def below(i: int, tile: np.ndarray) -> np.ndarray:
        mine = rows[:, 0] == i
        numbers = np.arange(1, mine.sum() + 1)[:, None, None]
        of_image = (drawn[i] == numbers) if overlap else drawn[mine]
        shown = rows[mine, 6] >= LEAST_CONFIDENCE if rows.shape[1] > 6 else np.ones(mine.sum(), bool)
        return draw_masks(tile, of_image[shown], [colors(c) for c in rows[mine, 1][shown]])

    save_batch(images, targets, paths, fname, names, below)


def plot_results_with_masks(
    file: str | Path = "path/to/results.csv",
    dir: str | Path = "",  # noqa: A002 (inherited)
    best: bool = True,
) -> None:
    """Save results.png: losses and metrics of boxes and masks over the epochs.

    Args:
        file: a results.csv; the picture goes into its folder.
        dir: instead, a folder whose results*.csv are drawn together.
        best: mark the epoch with the best fitness; without it the last one.

    Raises:
        MissingFileError: no results.csv there.
        InputError: a file of another form.
    """

    def marked(table: np.ndarray) -> int:
        return int(np.nan_to_num(fitness(table[:, 5:13])).argmax()) if best else len(table) - 1

    draw_results(file, dir, _RESULT_COLUMNS, (18, 6), marked)
