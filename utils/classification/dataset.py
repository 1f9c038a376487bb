"""The classification data set: image folders in, normalised tensors and class numbers out.

It is torchvision's ImageFolder, whose import is heavy: this module is only imported where a data set is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.datasets import ImageFolder

from utils.augmentations import classify_albumentations, classify_transforms
from utils.balance.samplers import Draw
from utils.classification.folders import ImageFolders, scan_split
from utils.data.image_cache import DiskCache, RamCache, cache_key, fill_ram
from utils.errors import WorkError
from utils.images import imread
from utils.rng import make_rng

CACHE_KIND = "cls"  # of files, which hold images at their own size
_THREADS = 8
_WHOLE_IMAGE = (0.5, 0.5, 1.0, 1.0)  # box of the label that stands for an image's class


class ClassificationDataset(ImageFolder):
    """Images of a folder per class; an item is (tensor (3, imgsz, imgsz) float32 RGB normalised, class number).

    Args:
        root: folder of a split, or a split that was scanned before.
        augment: random crop, flip and colours, whose chance follows from (seed, epoch, position) of a Draw.
        imgsz: side of the tensors in pixels.
        cache: ``"ram"`` (or True) or ``"disk"`` to keep decoded images.
        classes: the classes in the order of their numbers, by default the folders of ``root``, sorted.
        seed: the run's seed.
        prefix: words before log lines.
        paths: items have the image's path as a third part.
        rank: this process's number; -1 where no other process of a run opens the same images.

    Attributes:
        classes, class_to_idx, samples, targets, imgs: as ImageFolder's.
        names: class names by number.
        im_files, label_files, labels, shapes, n: as LoadImagesAndLabels has them; the label of an image is one row of
            its class with the whole image as box.
        torch_transforms: what is done to an image without augmentation.
        album_transforms: the augmentation, None without.

    Raises:
        InputError: see ``scan_split``.
    """

    def __init__(  # noqa: PLR0913
        self,
        root: str | Path | ImageFolders,
        augment: bool,
        imgsz: int,
        cache: bool | str | None = False,
        *,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        prefix: str = "",
        paths: bool = False,
        rank: int = -1,
    ):
        self.split = root if isinstance(root, ImageFolders) else scan_split(root, classes, prefix)
        super().__init__(str(self.split.root), loader=imread)
        self.names = dict(enumerate(self.classes))
        self.seed = seed
        self.paths = paths
        self.changes = None  # of images, for the report of class balance
        self.im_files = self.label_files = self.split.files
        self.shapes = self.split.shapes
        self.n = len(self.im_files)
        rows = np.array([[target, *_WHOLE_IMAGE] for target in self.targets], np.float32)
        self.labels = list(rows[:, None])
        self.torch_transforms = classify_transforms(imgsz)
        self.album_transforms = classify_albumentations(augment, imgsz) if augment else None
        self.partner_weights: np.ndarray | None = None  # set by samplers; there are no partners here
        self._accesses = 0
        self.cache_ram, self.cache_disk = cache in {True, "ram"}, cache == "disk"
        self._store = self._filled_store(prefix, rank)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the class names and their numbers, for ImageFolder."""
        names = self.split.classes
        return names, {name: number for number, name in enumerate(names)}

    def make_dataset(self, *_: Any, **__: Any) -> list[tuple[str, int]]:
        """Return (path, class number) of every image, for ImageFolder."""
        return list(zip(self.split.files, self.split.targets.tolist(), strict=True))

    def _filled_store(self, prefix: str, rank: int) -> RamCache | DiskCache | None:
        """Return the cache of decoded images, None without."""
        sizes = self.shapes[:, ::-1]
        if self.cache_disk:
            disk = DiskCache(self.im_files, sizes, CACHE_KIND)
            disk.fill(self._decode, _THREADS, f"{prefix}Caching images on disk")
            return disk
        if self.cache_ram:
            key = cache_key(self.im_files, sizes, CACHE_KIND) if rank != -1 else None
            return fill_ram(sizes, self._decode, _THREADS, prefix, rank in {-1, 0}, key)
        return None

    def _decode(self, i: int) -> np.ndarray:
        file = self.im_files[i]
        try:
            im = imread(file, whole=True)
        except (ValueError, OSError, cv2.error) as error:
            text = " ".join(str(error).split())
            raise WorkError(text if text.startswith(file) else f"{file}: {text}") from None
        width, height = self.shapes[i].tolist()
        if im.shape[:2] != (height, width):
            found = f"{im.shape[1]}x{im.shape[0]}"
            raise WorkError(f"{file}: has {found} pixels where {width}x{height} were found before; was it changed?")
        return im

    def load_image(self, i: int) -> np.ndarray:
        """Return image i (h, w, 3) BGR uint8 at its own size; it may belong to a cache and is not to be changed.

        Raises:
            WorkError: the file cannot be read any more, or has another size than before.
        """
        im = None if self._store is None else self._store[i]
        return self._decode(i) if im is None else im

    def __getitem__(self, i: int | Draw) -> tuple[Any, ...]:
        """Return the tensor and the class of an image, and with ``paths`` its path.

        A Draw always gives the same numbers, in any process; a plain number other random changes at each call, seeded
        by torch.
        """
        if isinstance(i, Draw):
            index, place = i.index, (self.seed, i.epoch, i.position)
        else:
            self._accesses += 1
            index, place = int(i), (torch.initial_seed() & (2**63 - 1), self._accesses, int(i))
        item = self._tensor(self.load_image(index), place), self.targets[index]
        return (*item, self.im_files[index]) if self.paths else item

    def _tensor(self, im: np.ndarray, place: tuple[int, int, int]) -> torch.Tensor:
        """Return an image's normalised tensor, augmented by the chance of ``place``."""
        if self.album_transforms is None:
            return self.torch_transforms(im)
        self.album_transforms.set_random_seed(int(make_rng(*place).integers(2**31)))
        return self.album_transforms(image=cv2.cvtColor(im, cv2.COLOR_BGR2RGB))["image"]
