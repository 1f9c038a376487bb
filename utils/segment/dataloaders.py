"""Images with boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from utils.augmentations import LetterboxFit, Warp, warp_outlines
from utils.boxes import xyn2xy, xywhn2xyxy, xyxy2xywhn
from utils.data.collate import SampleList, collate
from utils.data.training_image import SampleRandomness
from utils.dataloaders import PIN_MEMORY, RANK, InfiniteDataLoader, open_loader, seed_worker, world_size
from utils.dataset import LoadImagesAndLabels
from utils.errors import InputError
from utils.logs import LOGGER
from utils.segment.masks import polygon2mask, polygons2masks, polygons2masks_overlap

__all__ = [
    "LOGGER", "PIN_MEMORY", "RANK", "LoadImagesAndLabelsAndMasks", "create_dataloader", "polygon2mask",
    "polygons2masks", "polygons2masks_overlap", "seed_worker", "xywhn2xyxy", "xyxy2xywhn",
]  # fmt: skip

Batch = tuple[Any, ...]  # images, targets, files, shapes, masks


class LoadImagesAndLabelsAndMasks(LoadImagesAndLabels):
    """Images with boxes and masks for training and validation.

    An item is that of LoadImagesAndLabels and its masks: with ``overlap`` (1, h, w), the number of each pixel's label
    from 1, in the order of the labels, which then come by falling area; else (n, h, w), one mask a label. A label
    without an outline counts as its rectangle.

    Args:
        path: as of LoadImagesAndLabels, like all others but
        downsample_ratio: sides of an image by those of its masks.
        overlap: one map of numbers for all masks of an image.

    Raises:
        InputError: as LoadImagesAndLabels does, or labels of which none has an outline.
    """

    carries_outlines = True

    def __init__(  # noqa: PLR0913, PLR0917 (inherited signature)
        self,
        path: str | Sequence[str],
        img_size: int = 640,
        batch_size: int = 16,
        augment: bool = False,
        hyp: Mapping[str, Any] | None = None,
        rect: bool = False,
        image_weights: bool = False,
        cache_images: bool | str = False,
        single_cls: bool = False,
        stride: int = 32,
        pad: float = 0,
        min_items: int = 0,
        prefix: str = "",
        downsample_ratio: int = 1,
        overlap: bool = False,
        rank: int = -1,
        seed: int = 0,
        **more: Any,
    ):
        if not 1 <= downsample_ratio <= img_size:
            raise InputError(f"mask ratio {downsample_ratio}: allowed are 1 to the image size, here {img_size}")
        self.downsample_ratio = downsample_ratio
        self.overlap = overlap
        self._is_main = rank in {-1, 0}
        super().__init__(
            path, img_size, batch_size, augment, hyp, rect, image_weights, cache_images, single_cls, stride, pad,
            min_items, prefix, rank, seed, **more,
        )  # fmt: skip

    def _read_labels(self, path: Any, nc: int | None, required: bool, prefix: str, names: Any) -> None:
        super()._read_labels(path, nc, required, prefix, names)
        outlines = self.segments.counts()
        bare = np.flatnonzero((self.labels.counts() > 0) & (outlines == 0)).tolist()
        if bare and not outlines.any():
            raise InputError(
                f"{path}: {self.label_files[bare[0]]} and all other label files hold boxes; masks need outlines: "
                "a class and at least three points x y in each line"
            )
        if bare and self._is_main:
            LOGGER.warning(
                f"WARNING {prefix}{len(bare)} of {self.n} images have labels without outlines, the first is "
                f"{self.label_files[bare[0]]}: their boxes count as masks"
            )
        for i in bare:
            self.segments[i] = list(_rectangles(self.labels[i]))

    def _letterboxed_outlines(self, segments: Any, hw: tuple[int, int], fit: LetterboxFit) -> list[np.ndarray]:
        return [xyn2xy(points, fit.ratio[0] * hw[1], fit.ratio[1] * hw[0], *fit.pad) for points in segments]

    def _warped(
        self, labels: np.ndarray, outlines: list[np.ndarray], warp: Warp, out_wh: tuple[int, int]
    ) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        return warp_outlines(labels, outlines, warp, out_wh)

    def load_mosaic(  # type: ignore[override]
        self, index: int, *, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Return a warped mosaic: image (s, s, 3) BGR, labels (n, 5) class, xyxy pixels, and their outlines."""
        view = self._mosaic(index, SampleRandomness.unseeded(rng), "view")
        return view.pixels().copy(), view.labels, list(view.outlines)

    def _item(
        self, image: torch.Tensor, labels: np.ndarray, outlines: Sequence[np.ndarray], file: str, shapes: Any
    ) -> Any:
        size = tuple(image.shape[1:])
        if self.overlap:
            numbers, order = polygons2masks_overlap(size, outlines, self.downsample_ratio)
            labels, masks = labels[order], numbers[None]
        else:
            masks = polygons2masks(size, outlines, 1, self.downsample_ratio)
        return *super()._item(image, labels, outlines, file, shapes), torch.from_numpy(masks)

    @staticmethod
    def collate_fn(batch: list[Any]) -> Batch:
        """Join samples as LoadImagesAndLabels does; behind shapes masks (b, h, w) of numbers, or (labels, h, w)."""
        plain = SampleList(sample[:4] for sample in batch)
        plain.images, plain.changes = getattr(batch, "images", None), getattr(batch, "changes", None)
        masks = [sample[4] for sample in batch]
        widest = torch.int32 if any(part.dtype == torch.int32 for part in masks) else torch.uint8
        images, targets, paths, shapes, *changes = collate(plain)
        return images, targets, paths, shapes, torch.cat([part.to(widest) for part in masks], 0), *changes


def create_dataloader(  # noqa: PLR0913, PLR0917 (inherited signature)
    path: str | Sequence[str],
    imgsz: int,
    batch_size: int,
    stride: int,
    single_cls: bool = False,
    hyp: Mapping[str, Any] | None = None,
    augment: bool = False,
    cache: bool | str | None = False,
    pad: float = 0.0,
    rect: bool = False,
    rank: int = -1,
    workers: int = 8,
    image_weights: bool = False,
    quad: bool = False,
    prefix: str = "",
    shuffle: bool = False,
    mask_downsample_ratio: int = 1,
    overlap_mask: bool = False,
    seed: int = 0,
    **more: Any,
) -> tuple[InfiniteDataLoader, LoadImagesAndLabelsAndMasks]:
    """Build the data set and its loader as ``utils.dataloaders.create_dataloader``; masks end a batch.

    Args:
        path: as there, like all others but
        mask_downsample_ratio, overlap_mask: as of LoadImagesAndLabelsAndMasks.
        quad: is refused: four images in one have no masks in common.
        more: nc, names and require_labels of LoadImagesAndLabels.

    Raises:
        InputError: ``quad``, or what the data set refuses.
    """
    if quad:
        raise InputError("--quad: not available with masks; allowed are plain batches")
    dataset = LoadImagesAndLabelsAndMasks(
        path, imgsz, batch_size * (world_size() if rank != -1 else 1), augment, hyp, rect, image_weights, cache,
        single_cls, int(stride), pad, prefix=prefix, downsample_ratio=mask_downsample_ratio, overlap=overlap_mask,
        rank=rank, seed=seed, **more,
    )  # fmt: skip
    loader = open_loader(dataset, batch_size, rank, workers, shuffle and not rect, seed, dataset.collate_fn)
    return loader, dataset


def _rectangles(labels: np.ndarray) -> np.ndarray:
    """Return the outlines (n, 4, 2) of normalised labels (n, 5) class, cx, cy, w, h."""
    centre, half = labels[:, None, 1:3], labels[:, None, 3:5] / 2
    return centre + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
