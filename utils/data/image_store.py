"""Images by number, scaled to the training size, from their files or from a cache; the pixels are the same."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from utils.data.image_cache import DiskCache, RamCache, cache_key, fill_ram, fits_in_memory
from utils.data.jpeg_top import decode_top
from utils.errors import WorkError
from utils.images import decode, read_image_file
from utils.logs import LOGGER

_JPEG = (".jpg", ".jpeg", ".mpo")
_THREADS = 8
_MORE_ROWS = 2  # of the decoded image, with which the last row is interpolated


class ImageStore:
    """The images of a data set with their longest side at one size.

    Args:
        files: N image files.
        shapes: (N, 2) int, upright width and height of each.
        size: longest side of the images that come out.
        fast: for training: JPEGs that shrink to a half or less are decoded at a fraction of their size, and shrinking
            interpolates; otherwise it averages areas, as validation expects.

    Attributes:
        original_hw: (N, 2) height and width of the files.
        hw: (N, 2) height and width of the images that come out.
        arrays: files without their suffix beside which a .npy file lies, which takes the image's place.
        ram: the cache in memory, if any.
        disk: the cache in files, empty until filled.
    """

    def __init__(self, files: list[str], shapes: np.ndarray, size: int, fast: bool):
        self.files = files
        self.size = size
        self.fast = fast
        self.original_hw = np.ascontiguousarray(shapes[:, ::-1]).astype(np.int64)
        longest = self.original_hw.max(1, keepdims=True)
        scaled = np.ceil(self.original_hw * (size / longest)).astype(np.int64)
        self.hw = np.where(self.original_hw == longest, size, np.minimum(scaled, size))
        self.arrays = arrays_beside(files, self.original_hw)
        self.ram: RamCache | None = None
        self.disk = DiskCache(files, self.hw, f"{size}{'t' if fast else 'v'}")

    def load(self, i: int, rows: int | None = None) -> np.ndarray:
        """Return image i (h, w, 3) BGR uint8, possibly a cache's own pixels.

        Args:
            i: number of the image.
            rows: how many of its rows are needed, from the top; those below them may be missing.

        Raises:
            WorkError: the file cannot be read any more, or has another size than the scan found.
        """
        im = self.ram[i] if self.ram is not None else None
        if im is None:
            im = self.disk[i]
        return self._decode(i, rows) if im is None else im

    def cache(self, kind: bool | str | None, prefix: str, show: bool, shared: bool = False) -> None:
        """Fill the cache that ``kind`` asks for: ``ram`` (or True), ``disk`` or none.

        Args:
            kind: of cache.
            prefix: words before log lines.
            show: draw the progress bar.
            shared: all processes of the run do so: those of one machine have one cache in memory between them.
        """
        if kind == "disk":
            self.cache_on_disk(range(len(self.files)), f"{prefix}Caching images on disk", show)
        elif kind:
            key = cache_key(self.files, self.hw, self.disk.kind) if shared else None
            self.ram = fill_ram(self.hw, self._decode, _THREADS, prefix, show, key)

    def cache_on_disk(self, numbers: Iterable[int], description: str = "", show: bool = False) -> None:
        """Write the cache files of some images where they are missing or stale."""
        self.disk.fill(self._decode, _THREADS, description, show, numbers)

    def fits_in_memory(self, margin: float, prefix: str) -> bool:
        """Say whether all images fit in memory with ``margin`` (a share of their size) to spare; log why not."""
        return fits_in_memory(int(self.hw.prod(1).sum() * 3), margin, prefix)

    def _decode(self, i: int, rows: int | None = None) -> np.ndarray:
        """Read image i, or at least its first rows, and scale it."""
        (h0, w0), (h, w) = self.original_hw[i].tolist(), self.hw[i].tolist()
        im, part = self._array(i), 1
        if im is None:
            part = self._reduction(i)
            im = self._decode_file(i, part, None if rows is None else math.ceil(rows * h0 / part / h) + _MORE_ROWS)
        whole_hw = math.ceil(h0 / part), math.ceil(w0 / part)
        height = h if len(im) == whole_hw[0] else rows
        if h0 % part or w0 % part:
            return _scaled_exactly(im, (w, height), w0 / part / w, h0 / part / h)
        if whole_hw != (h, w):
            linear = self.fast or w > w0 or h > h0
            scaling = cv2.INTER_LINEAR if linear else cv2.INTER_AREA
            im = cv2.resize(im, None, fx=w / whole_hw[1], fy=h / whole_hw[0], interpolation=scaling)
        return im[:height]

    def _reduction(self, i: int) -> int:
        """Return k of the 1/k at which image i is decoded."""
        if not self.fast or not self.files[i].lower().endswith(_JPEG):
            return 1
        ratio = self.size / int(self.original_hw[i].max())
        return next((k for k in (8, 4, 2) if ratio * k <= 1), 1)

    def _decode_file(self, i: int, part: int, rows: int | None) -> np.ndarray:
        """Decode image i at 1/part of its size, perhaps its first rows alone."""
        file = self.files[i]
        h0, w0 = self.original_hw[i].tolist()
        try:
            data = read_image_file(file)
            if rows is not None and self.fast and (top := decode_top(data, (h0, w0), rows, part)) is not None:
                return top
            im = decode(data, reduce=part, whole=True)
        except (ValueError, OSError, cv2.error, MemoryError) as error:
            text = " ".join(str(error).split()) or "out of memory"
            raise WorkError(text if text.startswith(file) else f"{file}: {text}") from None
        if im.shape[:2] != (math.ceil(h0 / part), math.ceil(w0 / part)):
            size = f"{im.shape[1]}x{im.shape[0]}" + (f" at 1/{part}" if part > 1 else "")
            raise WorkError(f"{file}: has {size} pixels where {w0}x{h0} were found before; has it been changed?")
        return im

    def _array(self, i: int) -> np.ndarray | None:
        """Return the pixels (h, w, 3) BGR of the .npy file beside image i, None where there is none that fits."""
        if not self.arrays or (stem := os.path.splitext(self.files[i])[0]) not in self.arrays:
            return None
        try:
            return _read_array(f"{stem}.npy", (*self.original_hw[i].tolist(), 3))
        except ValueError as problem:  # it has changed since the start
            LOGGER.warning("WARNING %s.npy %s; the image is decoded instead", stem, problem)
            self.arrays.discard(stem)
            return None


def arrays_beside(files: Sequence[str], hw: np.ndarray) -> set[str]:
    """Return the files, without their suffixes, beside which lies a .npy file with their pixels, as YOLOv5 caches them.

    Args:
        files: N images.
        hw: (N, 2) their height and width.
    """
    names: set[str] = set()
    for folder in {os.path.dirname(file) for file in files}:
        try:
            listed = os.listdir(folder or ".")
        except OSError:
            continue
        names |= {os.path.join(folder, name[:-4]) for name in listed if name.endswith(".npy")}
    if not names:
        return names
    found, problems = set(), []
    for file, (height, width) in zip(files, hw.tolist(), strict=True):
        stem = os.path.splitext(file)[0]
        if stem not in names:
            continue
        try:
            _read_array(f"{stem}.npy", (height, width, 3))
            found.add(stem)
        except ValueError as problem:
            problems.append(f"{stem}.npy {problem}")
    if found:
        LOGGER.info("%d of %d images are read from the .npy files beside them", len(found), len(files))
    if problems:
        LOGGER.warning(
            "WARNING %d .npy files beside images do not hold their pixels, these images are decoded; the first: %s",
            len(problems), problems[0],
        )  # fmt: skip
    return found


def _read_array(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a uint8 array of a shape, mapped from its file.

    Raises:
        ValueError: it holds something else, or cannot be read.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # whatever NumPy's reader meets
        raise ValueError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if array.dtype != np.uint8 or array.shape != shape:
        raise ValueError(f"holds {array.dtype} {array.shape}, not uint8 {shape}")
    return array


def _scaled_exactly(im: np.ndarray, size: tuple[int, int], step_x: float, step_y: float) -> np.ndarray:
    """Scale an image to (width, height) with steps of its pixels that need not divide its size.

    A side that the reduction does not divide ends in a row or column that is only partly covered by the original; plain
    resizing would stretch it and move objects by up to a pixel.
    """
    back = np.array([[step_x, 0, (step_x - 1) / 2], [0, step_y, (step_y - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(im, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
