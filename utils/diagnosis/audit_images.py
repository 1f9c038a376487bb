"""A look at every image: can it be read, how large is it, and a fingerprint by which near-duplicates are found."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np

from utils.data.image_headers import read_header
from utils.diagnosis.audit_findings import Finding
from utils.images import check_jpeg_end, decode, image_size, imread, read_image_file

SIDE = 64  # of the thumbnails that verify a near-duplicate
COARSE = 16  # of those kept for all images
HASH_SHAPE = (9, 8)  # width, height
MAX_THREADS = 8


class Look(NamedTuple):
    """What one image shows: upright size ((0, 0): unreadable), problem and note ("": none), dHash, thumbnail."""

    size: tuple[int, int]
    problem: str = ""
    note: str = ""
    dhash: int = 0
    thumb: np.ndarray | None = None


@dataclass(frozen=True)
class Images:
    """What a list of images shows.

    Attributes:
        paths: N files.
        sizes: (N, 2) float64 upright width and height, NaN where unreadable.
        problems: N texts, "" for a readable image.
        notes: N texts, "" for none.
        dhash: (N,) uint64; None when only headers were read.
        thumbs: (N, 16, 16) uint8 grey; None when only headers were read.
    """

    paths: list[str]
    sizes: np.ndarray
    problems: list[str]
    notes: list[str]
    dhash: np.ndarray | None = None
    thumbs: np.ndarray | None = None

    @property
    def readable(self) -> np.ndarray:
        """Which images (N,) can be read."""
        return ~np.isnan(self.sizes[:, 0])

    def findings(self) -> list[Finding]:
        """Return L01 of images."""
        wrong = [Finding("L01", "error", p, message=t, image=p) for p, t in zip(self.paths, self.problems, strict=True)]
        notes = [Finding("L01", "info", p, message=t, image=p) for p, t in zip(self.paths, self.notes, strict=True)]
        return [finding for finding in (*wrong, *notes) if finding.message]


def read_headers(paths: list[str], min_side: int) -> Images:
    """Return the sizes of images by their headers alone: fast, but damage further on stays unseen."""
    return _collect(paths, _map(lambda path: look_at_header(path, min_side), paths))


def read_pixels(paths: list[str], min_side: int) -> Images:
    """Return sizes and fingerprints of images; JPEGs are decoded at reduced size, all data is read and checked."""
    looks = _map(lambda path: look_at_pixels(path, min_side), paths)
    images = _collect(paths, looks)
    dhash = np.array([look.dhash for look in looks], np.uint64)
    blank = np.zeros((COARSE, COARSE), np.uint8)
    thumbs = [blank if look.thumb is None else look.thumb for look in looks]
    return Images(
        images.paths, images.sizes, images.problems, images.notes, dhash,
        np.array(thumbs, np.uint8).reshape(-1, COARSE, COARSE),
    )  # fmt: skip


def look_at_header(path: str, min_side: int) -> Look:
    """Return an image's size."""
    try:
        size = image_size(path)
    except ValueError as error:
        return Look((0, 0), _reason(error, path))
    small = _too_small(size, min_side)
    return Look((0, 0), small) if small else Look(size)


def look_at_pixels(path: str, min_side: int) -> Look:
    """Return an image's size and fingerprint."""
    try:
        data = read_image_file(path)
        header = read_header(io.BytesIO(data))
        is_jpeg = header.kind == "JPEG"
        note = check_jpeg_end(data) if is_jpeg else ""
        small = _too_small(header.upright_size, min_side)
        if small:
            return Look((0, 0), small)
        grey = _grey(data, _reduction(header.upright_size) if is_jpeg else 1)
    except (ValueError, MemoryError) as error:
        return Look((0, 0), _reason(error, path))
    size = header.upright_size if is_jpeg else (grey.shape[1], grey.shape[0])
    return Look(size, "", note, difference_hash(grey), shrink(shrink(grey, (SIDE, SIDE)), (COARSE, COARSE)))


def thumbnail(path: str) -> np.ndarray:
    """Return an image as (64, 64) grey uint8, decoded as for the fingerprint."""
    data = read_image_file(path)
    header = read_header(io.BytesIO(data))
    return shrink(_grey(data, _reduction(header.upright_size) if header.kind == "JPEG" else 1), (SIDE, SIDE))


def pixel_digest(path: str) -> bytes:
    """Return a digest of an image's size and decoded pixels."""
    im = imread(path)
    return hashlib.sha256(repr(im.shape).encode() + im.tobytes()).digest()


def difference_hash(grey: np.ndarray) -> int:
    """Return the 64 bits of an image (h, w) uint8 that tell, on a grid of 9 x 8 means, whether a cell is darker than
    the next to its right.
    """
    cells = shrink(grey, HASH_SHAPE)
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return int.from_bytes(bits.tobytes(), "big")


def shrink(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image (h, w) uint8 resized by means of areas to (width, height)."""
    import cv2

    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def _grey(data: bytes, reduce: int) -> np.ndarray:
    import cv2

    return decode(data, cv2.IMREAD_GRAYSCALE, reduce=reduce)


def _reduction(size: tuple[int, int]) -> int:
    """Return the strongest reduction that leaves each side enough pixels for a thumbnail."""
    return next((reduce for reduce in (8, 4, 2) if min(size) >= reduce * SIDE), 1)


def _too_small(size: tuple[int, int], min_side: int) -> str:
    if min(size) >= min_side:
        return ""
    return f"{size[0]} x {size[1]} pixels, training needs at least {min_side} x {min_side}"


def _reason(error: Exception, path: str) -> str:
    return str(error).removeprefix(f"{path}: ") or "out of memory"


def _collect(paths: list[str], looks: Iterable[Look]) -> Images:
    looks = list(looks)
    sizes = np.array([look.size for look in looks], np.float64).reshape(-1, 2)
    sizes[sizes[:, 0] == 0] = np.nan
    return Images(list(paths), sizes, [look.problem for look in looks], [look.note for look in looks])


def _map(work: Callable[[str], Look], paths: list[str]) -> list[Look]:
    """Apply ``work`` to each path, in threads: decoding frees the interpreter."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    if threads == 1 or len(paths) < threads:
        return [work(path) for path in paths]
    with ThreadPool(threads) as pool:
        return pool.map(work, paths, chunksize=16)
