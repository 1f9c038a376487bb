"""The detection data set: images and labels in, one augmented or letterboxed training sample out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from utils.augmentations import (
    Albumentations,
    LetterboxFit,
    Warp,
    choose_pastes,
    draw_warp,
    fit_letterbox,
    mirrored_labels,
    mixup,
    warp_labels,
)
from utils.balance.image_changes import ImageChanges, build_albums, build_image_changes, name_table
from utils.balance.samplers import Draw, draw_partners, partner_weights, pool_partners
from utils.data.collate import Sample, SampleList, collate, collate_quad, new_batch
from utils.data.device_augment import pack
from utils.data.finish import Finish, buffer, write_planes
from utils.data.image_store import ImageStore
from utils.data.label_geometry import letterboxed_labels, normalised_labels, shapes_of
from utils.data.mosaic import Tile, canvas_labels, paste_polygons, place_tiles, render
from utils.data.training_image import SampleRandomness, TrainingImage
from utils.data.zoom import ZoomedTiles, is_upright
from utils.errors import InputError
from utils.logs import LOGGER
from utils.rng import Stream, make_rng

if TYPE_CHECKING:
    from utils.labels import LabelTable

_PARTNERS = 3


class View(NamedTuple):
    """One augmented image.

    Attributes:
        image: pixels (h, w, 3) BGR, or tiles from which they can be painted.
        labels: (n, 5) class, xyxy in pixels.
        wh: width and height.
        outlines: of the labels, where a set keeps them.
    """

    image: np.ndarray | ZoomedTiles
    labels: np.ndarray
    wh: tuple[int, int]
    outlines: Sequence[np.ndarray] = ()

    def pixels(self, slot: str = "view") -> np.ndarray:
        """Return the pixels (h, w, 3), in this thread's buffer of that name where they have to be painted."""
        image = self.image
        return image.render(buffer((self.wh[1], self.wh[0], 3), slot)) if isinstance(image, ZoomedTiles) else image


class LoadImagesAndLabels(Dataset):
    """Images with boxes for training and validation.

    An item is (image (3, h, w) uint8 RGB, labels (n, 6) float32 [0, class, cx, cy, w, h normalised], file, shapes) with
    shapes = ((h0, w0), ((h/h0, w/w0), (pad_w, pad_h))), or None for a mosaic.

    Args:
        path: image folder, .txt list, or a list of these.
        img_size: longest side of the images.
        batch_size: images per (global) batch, which share a shape under ``rect``.
        augment: apply the random changes that ``hyp`` describes.
        hyp: augmentation settings by name (upstream's keys); needed with ``augment``.
        rect: sort by aspect ratio and pad each batch only as far as it needs.
        image_weights: kept as an attribute; the order of images belongs to the loader's batch sampler.
        cache_images: ``"ram"`` (or True) or ``"disk"`` to keep decoded images.
        single_cls: treat all classes as class 0.
        stride: multiple that rectangular shapes are rounded up to.
        pad: extra strides of padding for rectangular shapes.
        min_items: leave out images with fewer labels.
        prefix: words before log lines.
        rank: process number; only -1 and 0 show progress.
        seed: the run's seed, from which all randomness of a Draw follows.
        nc: number of classes to check labels against (not under ``single_cls``), None to skip the check.
        names: class names, by which ``album_class`` names its classes; without them it goes by number.
        require_labels: refuse a set without any labelled object (by default when augmenting).

    Raises:
        InputError: no images, no labels although required, labels that the data set's classes do not allow, or
            pipelines (``album`` …) that Albumentations does not.
    """

    cache_version = 0.6
    rand_interp_methods = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)

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
        pad: float = 0.0,
        min_items: int = 0,
        prefix: str = "",
        rank: int = -1,
        seed: int = 0,
        *,
        nc: int | None = None,
        require_labels: bool | None = None,
        names: Mapping[int, str] | Sequence[str] | None = None,
    ):
        if augment and hyp is None:
            raise ValueError("hyp: the augmentation settings are needed when augment is on")
        self.path = path
        self.img_size = img_size
        self.augment = augment
        self.hyp = hyp
        self.image_weights = image_weights
        self.rect = rect and not image_weights
        self.mosaic = self.augment and not self.rect
        self.mosaic_border = [-img_size // 2, -img_size // 2]
        self.stride = stride
        self.seed = seed
        upstream_effects = augment and hyp.get("album") is None
        self.albumentations = Albumentations(size=img_size) if upstream_effects else None
        albums = build_albums(hyp, name_table(names), img_size) if augment else None
        self.mosaic_pool = int(hyp.get("mosaic_pool") or 0) if self.mosaic else 0
        self.leave_changes = False  # of colours and flips in batches, to the device that trains
        self._left: list[Finish] | None = None  # those of the batch in work
        self._decoded: dict[int, np.ndarray] | None = None  # images of the batch in work, where partners repeat
        self._accesses = 0
        required = augment if require_labels is None else require_labels
        self._read_labels(path, None if single_cls else nc, required, prefix, name_table(names))
        if min_items:
            self._reorder(np.flatnonzero(self.labels.counts() >= min_items))
        if single_cls:
            self.labels.flat()[:, 0] = 0
        self._batch(batch_size, pad)
        self._partner_source: np.ndarray | None = None
        self._partner_edges = torch.zeros(self.n + 1, dtype=torch.float64) if self.mosaic else None
        if self._partner_edges is not None:
            self._partner_edges.share_memory_()  # workers see what is written here after they started
        self.images = ImageStore(self.im_files, self.shapes, img_size, augment)
        self.im_hw0, self.im_hw = self.images.original_hw, self.images.hw
        self.images.cache(cache_images, prefix, rank in {-1, 0}, shared=rank != -1)
        self.changes: ImageChanges | None = None
        if albums is not None:
            self.changes = build_image_changes(hyp, albums, self.labels, self.segments, self.images, nc)
        if self.changes is not None and rank in {-1, 0}:
            for line in self.changes.describe(name_table(names)):
                LOGGER.info(f"{prefix}{line}")

    # Setting up --------------------------------------------------------------------------------------------------

    def _read_labels(
        self, path: str | Sequence[str], nc: int | None, required: bool, prefix: str, names: dict[int, str] | None
    ) -> None:
        """Find the images and read, or take from the label cache, what is known about them."""
        from utils.dataset_yaml import find_images
        from utils.labels import img2label_paths, scan_labels

        files = find_images(path)
        if not files:
            raise InputError(f"{path}: no images found")
        label_files = img2label_paths(files)
        last = Path(path if isinstance(path, (str, Path)) else path[-1])
        cache_path = (last if last.is_file() else Path(label_files[0]).parent).with_suffix(".cache")
        table = scan_labels(files, label_files, cache_path, prefix, nc, names=names, require_labels=required)
        self.labels, self.segments = table.labels, table.segments  # sequences over a few arrays: utils.data.flat_rows
        self.shapes = np.asarray(table.shapes).reshape(-1, 2)
        self.im_files, self.label_files = table.im_files, table.label_files
        self.n = len(self.im_files)
        if not self.n:
            raise InputError(f"{path}: none of {len(files)} images can be used")

    def cache_labels(self, path: str | Path = "labels.cache", prefix: str = "") -> LabelTable:
        """Read and check all labels again, or take them from the cache file; return the label table."""
        from utils.labels import scan_labels

        return scan_labels(self.im_files, self.label_files, path, prefix)

    def _reorder(self, order: np.ndarray) -> None:
        """Keep the images of ``order``, in that order."""
        for name in ("im_files", "label_files", "labels", "segments"):
            setattr(self, name, getattr(self, name).take(order))
        self.shapes = self.shapes[order]
        self.n = len(order)
        if not self.n:
            raise InputError(f"{self.path}: no image has enough labels (min_items)")

    def _batch(self, batch_size: int, pad: float) -> None:
        """Number the batches; under ``rect`` sort by aspect ratio and choose each batch's shape (height, width)."""
        self.batch = np.arange(self.n) // batch_size
        if self.rect:
            aspects = self.shapes[:, 1] / self.shapes[:, 0]
            order = aspects.argsort()
            self._reorder(order)
            aspects = aspects[order]
            starts = np.arange(0, self.n, batch_size)
            low, high = np.minimum.reduceat(aspects, starts), np.maximum.reduceat(aspects, starts)
            ratios = np.ones((len(starts), 2))
            ratios[:, 0] = np.where(high < 1, high, 1)
            ratios[:, 1] = np.where((high >= 1) & (low > 1), 1 / low, 1)
            sides = np.ceil(ratios * self.img_size / self.stride + pad)
            self.batch_shapes = sides.astype(np.int64) * self.stride
        self.indices: Sequence[int] = range(self.n)

    @property
    def partner_weights(self) -> np.ndarray | None:
        """Weights (n,) from which mosaic and mixup partners are drawn, None for uniform draws.

        They may be set at any time: workers that run already see them.
        """
        return self._partner_source

    @partner_weights.setter
    def partner_weights(self, weights: np.ndarray | None) -> None:
        if weights is not None and len(weights) != self.n:
            raise InputError(f"partner weights: {len(weights)} given for {self.n} images")
        self._partner_source = weights
        if self._partner_edges is None:
            return
        if weights is not None:
            self._partner_edges[1:] = torch.from_numpy(np.cumsum(partner_weights(weights)))
        self._partner_edges[0] = weights is not None

    def load_image(self, i: int) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """Return image i (h, w, 3) BGR with its longest side at ``img_size``, (h0, w0) and (h, w).

        The pixels may belong to a cache: copy before changing them.
        """
        return self._pixels(i), tuple(self.im_hw0[i].tolist()), tuple(self.im_hw[i].tolist())

    def _pixels(self, i: int, rows: int | None = None) -> np.ndarray:
        """Return image i (h, w, 3) BGR, or at least its first ``rows``; those of a pool are decoded once and whole."""
        if self._decoded is None:
            return self.images.load(i, rows)
        if i not in self._decoded:
            self._decoded[i] = self.images.load(i)
        return self._decoded[i]

    def check_cache_ram(self, safety_margin: float = 0.1, prefix: str = "") -> bool:
        """Say whether all images fit in memory with ``safety_margin`` (a share of their size) to spare."""
        return self.images.fits_in_memory(safety_margin, prefix)

    def cache_images_to_disk(self, i: int) -> None:
        """Write the cache file of image i if it is missing or stale."""
        self.images.cache_on_disk([i])

    @property
    def ims(self) -> Sequence[np.ndarray | None]:
        """Return the images in memory, None where an image is not cached."""
        return self.images.ram or [None] * self.n

    @property
    def npy_files(self) -> list[Path]:
        """Return the files that the disk cache uses."""
        return [self.images.disk.path(i) for i in range(self.n)]

    # Samples --------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Return the number of images."""
        return self.n

    def __getitem__(self, index: int | Draw) -> Sample:
        """Return one sample.

        A Draw always gives the same bytes, in any process. A plain number goes through ``indices`` and gives other
        random changes at each call, seeded by torch.
        """
        return self._sample(*self._resolve(index), None)

    def __getitems__(self, draws: Sequence[int | Draw]) -> SampleList:
        """Return the samples of one batch, their images side by side in one block of memory."""
        samples = SampleList()
        resolved = [self._resolve(draw) for draw in draws]
        heights_widths = {self._out_shape(i) for i, _ in resolved}
        if len(heights_widths) == 1:
            samples.images = new_batch(len(resolved), *heights_widths.pop())
        self._decoded = {} if self.mosaic_pool else None
        self._left = [] if self.leave_changes else None
        try:
            for k, (i, randomness) in enumerate(resolved):
                samples.append(self._sample(i, randomness, None if samples.images is None else samples.images[k]))
            samples.changes = None if self._left is None else pack(self._left)
        finally:
            self._decoded = self._left = None
        if isinstance(draws[0], Draw):
            samples.rng = make_rng(self.seed, draws[0].epoch, draws[0].position, Stream.QUAD)
        return samples

    def _resolve(self, index: int | Draw) -> tuple[int, SampleRandomness]:
        if isinstance(index, Draw):
            return index.index, SampleRandomness(self.seed, index.epoch, index.position, index.pool)
        i = int(self.indices[index])
        self._accesses += 1
        return i, SampleRandomness(torch.initial_seed() & (2**64 - 1), self._accesses, i)

    def _out_shape(self, i: int) -> tuple[int, int]:
        if self.rect:
            h, w = self.batch_shapes[self.batch[i]].tolist()
            return h, w
        return self.img_size, self.img_size

    def _sample(self, i: int, randomness: SampleRandomness, out: torch.Tensor | None) -> Sample:
        """Make sample i, its image written into ``out`` (3, h, w) where given."""
        h, w = self._out_shape(i)
        out = torch.empty((3, h, w), dtype=torch.uint8) if out is None else out
        if self.augment:
            view, shapes = self._augmented(i, randomness)
            labels = normalised_labels(view.labels, w, h)
            self._finish(view, labels, randomness.sample, out.numpy())
            outlines = view.outlines
        else:
            rows, outlines, shapes = self._plain(i, out.numpy())
            labels = normalised_labels(rows, w, h)
        return self._item(out, labels, outlines, self.im_files[i], shapes)

    def _item(
        self, image: torch.Tensor, labels: np.ndarray, outlines: Sequence[np.ndarray], file: str, shapes: Any
    ) -> Any:
        """Join what a sample is made of: image (3, h, w), labels (n, 5 or more) normalised, outlines in pixels."""
        targets = np.zeros((len(labels), labels.shape[1] + 1), np.float32)
        targets[:, 1:] = labels
        return image, torch.from_numpy(targets), file, shapes

    def _plain(self, i: int, out: np.ndarray) -> tuple[np.ndarray, Sequence[np.ndarray], Any]:
        """Letterbox image i into ``out`` without any change; return labels (n, 5) class, xyxy, outlines, shapes."""
        im, hw0, hw = self.load_image(i)
        fit = fit_letterbox(hw, out.shape[1:], False, False, False, self.stride)
        if im.shape[1::-1] != fit.size:
            im = cv2.resize(im, fit.size, interpolation=cv2.INTER_LINEAR)
        out.fill(114)
        top, left = fit.border[0], fit.border[2]
        write_planes(out[:, top : top + fit.size[1], left : left + fit.size[0]], im)
        outlines = self._letterboxed_outlines(self.segments[i], hw, fit)
        return letterboxed_labels(self.labels[i], hw, fit), outlines, shapes_of(hw0, hw, fit.pad)

    def _letterboxed_outlines(self, segments: Any, hw: tuple[int, int], fit: LetterboxFit) -> list[np.ndarray]:
        """Return the outlines of an image in pixels of its letterbox: none, boxes move by themselves."""
        return []

    def _warped(
        self, labels: np.ndarray, outlines: list[np.ndarray], warp: Warp, out_wh: tuple[int, int]
    ) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """Return labels (k, 5) and the outlines that a data set keeps: none."""
        return warp_labels(labels, outlines, warp, out_wh), ()

    def training_image(self, i: int, randomness: SampleRandomness) -> TrainingImage:
        """Return image i with what the hyp file does to single images: rare objects pasted in, pipelines run."""
        h, w = self.im_hw[i].tolist()
        rows = self.labels[i]
        load = partial(self._pixels, i)
        image = TrainingImage((h, w), rows, self.segments[i], load, np.zeros(len(rows), bool))
        return image if self.changes is None else self.changes(i, image, randomness)

    def _augmented(self, i: int, randomness: SampleRandomness) -> tuple[View, Any]:
        """Return image i in a mosaic, perhaps mixed with a second one, or alone; and its shapes."""
        rng = randomness.sample
        if not (self.mosaic and rng.random() < self.hyp["mosaic"]):
            return self._alone(i, randomness)
        view = self._mosaic(i, randomness, "view")
        if rng.random() < self.hyp["mixup"]:
            other = self._mosaic(self._partners(i, 1, randomness)[0], randomness, "other")
            both = view.pixels(), view.labels, other.pixels("other"), other.labels
            view = View(*mixup(*both, rng=rng), view.wh, [*view.outlines, *other.outlines])
        return view, None

    def _alone(self, i: int, randomness: SampleRandomness) -> tuple[View, Any]:
        """Letterbox and warp image i in one step."""
        h, w = self._out_shape(i)
        image = self.training_image(i, randomness)
        hw0, hw = tuple(self.im_hw0[i].tolist()), tuple(self.im_hw[i].tolist())
        if image.hw != hw:
            hw0 = hw = image.hw
        fit = fit_letterbox(hw, (h, w), False, False, True, self.stride)
        warp = self._draw_warp(randomness.sample, (w, h), (w, h))
        (top, _, left, _), (width, height) = fit.border, fit.size
        tile = Tile((left, top, left + width, top + height), (0, 0))

        def load(_: int) -> np.ndarray:
            im = image.load()
            return im if im.shape[1::-1] == fit.size else cv2.resize(im, fit.size, interpolation=cv2.INTER_LINEAR)

        out = buffer((h, w, 3), "view")
        render(out, [tile], load, warp.matrix)
        outlines = self._letterboxed_outlines(image.segments, hw, fit)
        labels, outlines = self._warped(letterboxed_labels(image.labels, hw, fit), outlines, warp, (w, h))
        return View(out, labels, (w, h), outlines), shapes_of(hw0, hw, fit.pad)

    def _partners(self, i: int, count: int, randomness: SampleRandomness) -> list[int]:
        if randomness.pool:
            return pool_partners(randomness.pool, i, count, randomness.sample)
        edges = self._partner_edges.numpy()
        return draw_partners(edges[1:] if edges[0] else None, self.n, i, count, randomness.sample)

    def _draw_warp(self, rng: np.random.Generator, in_wh: tuple[int, int], out_wh: tuple[int, int]) -> Any:
        hyp = self.hyp
        ranges = (hyp[key] for key in ("degrees", "translate", "scale", "shear", "perspective"))
        return draw_warp(rng, in_wh, out_wh, *ranges)

    def load_mosaic(self, index: int, *, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return a mosaic around image ``index``, warped: image (s, s, 3) BGR and labels (n, 5) class, xyxy pixels."""
        view = self._mosaic(index, SampleRandomness.unseeded(rng), "view")
        return view.pixels().copy(), view.labels

    def _mosaic(self, i: int, randomness: SampleRandomness, slot: str) -> View:
        """Compose image i and three partners on a canvas of twice the size, and warp its middle."""
        canvas, rng = 2 * self.img_size, randomness.sample
        cy, cx = (int(rng.uniform(-border, canvas + border)) for border in self.mosaic_border)
        members = rng.permutation([i, *self._partners(i, _PARTNERS, randomness)]).tolist()
        images = [self.training_image(k, randomness) for k in members]
        tiles = place_tiles([image.hw for image in images], (cx, cy), canvas)
        out_wh = canvas + 2 * self.mosaic_border[1], canvas + 2 * self.mosaic_border[0]
        if not self.hyp["copy_paste"]:
            return self._plain_mosaic(images, tiles, self._draw_warp(rng, (canvas, canvas), out_wh), out_wh, slot)
        labels, segments = canvas_labels(images, tiles, canvas)
        chosen = choose_pastes(labels, segments, canvas, self.hyp["copy_paste"], rng)
        warp = self._draw_warp(rng, (canvas, canvas), out_wh)
        loaded: dict[int, np.ndarray] = {}

        def load(k: int) -> np.ndarray:
            if k not in loaded:
                loaded[k] = images[k].load()
            return loaded[k]

        out = buffer((out_wh[1], out_wh[0], 3), slot)
        render(out, tiles, load, warp.matrix)
        if chosen:
            paste_polygons(out, tiles, load, warp, [segments[j] for j in chosen], canvas)
            labels, segments = mirrored_labels(labels, segments, chosen, canvas)
        labels, outlines = self._warped(labels, segments, warp, out_wh)
        return View(out, labels, out_wh, outlines)

    def _plain_mosaic(
        self, images: list[TrainingImage], tiles: list[Tile], warp: Warp, out_wh: tuple[int, int], slot: str
    ) -> View:
        """Return a mosaic of four images without pasted copies; one that is only zoomed and moved is painted later."""
        shifts: Sequence[tuple[float, float]] = ()

        def load(k: int, rows: int | None = None) -> np.ndarray:
            return images[k].load(rows)

        if is_upright(warp.matrix):
            image: np.ndarray | ZoomedTiles = ZoomedTiles.of(tiles, warp.matrix, out_wh, load)
            shifts = image.shifts
        else:
            image = buffer((out_wh[1], out_wh[0], 3), slot)
            render(image, tiles, load, warp.matrix)
        labels, segments = canvas_labels(images, tiles, 2 * self.img_size, shifts)
        labels, outlines = self._warped(labels, segments, warp, out_wh)
        return View(image, labels, out_wh, outlines)

    def _finish(self, view: View, labels: np.ndarray, rng: np.random.Generator, out: np.ndarray) -> None:
        """Apply effects, colour and flips, write the planes; labels (n, 5) class, normalised xywh, are flipped."""
        finish = Finish.draw(self.hyp, self.albumentations, rng)
        finish.flip_labels(labels, view.outlines, out.shape[1:])
        if self._left is not None:
            self._left.append(finish)
            Finish(finish.effects, None, False, False).apply(view.pixels(), out)
        elif isinstance(view.image, ZoomedTiles) and not finish.effects:
            view.image.paint(out, finish)
        else:
            finish.apply(view.pixels(), out)

    # Batches --------------------------------------------------------------------------------------------------

    collate_fn = staticmethod(collate)
    collate_fn4 = staticmethod(collate_quad)
