"""Whatever a user may hand over as an image, as upright RGB uint8."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.errors import InputError
from utils.logs import LOGGER

MOST_CHANNELS = 4  # a first side of so many or fewer is taken for channels
_SCHEMES = ("http:/", "https:/")


def to_rgb(image: Any, number: int = 0) -> tuple[np.ndarray, str]:
    """Return an image as contiguous RGB uint8 (h, w, 3), and the name of its results.

    Args:
        image: path or http(s) address (text or Path), PIL image, or array or tensor (h, w), (h, w, c) or (c, h, w) with
            1, 3 or 4 channels in the order red, green, blue (OpenCV's images need ``im[..., ::-1]``). Values lie in
            0-255; an alpha channel is dropped.
        number: its place among the images, for its name when it has none, and for messages.

    Raises:
        InputError: no image, or one that cannot be read; DownloadError: it cannot be fetched.
    """
    if isinstance(image, (str, Path)):
        return _from_file(str(image))
    if hasattr(image, "convert") and hasattr(image, "getexif"):  # a PIL image, without importing PIL for the others
        name = getattr(image, "filename", "") or f"image{number}"
        return _from_pil(image, number), Path(str(name)).with_suffix(".jpg").name
    if hasattr(image, "detach"):
        image = image.detach().cpu()
    try:
        array = np.asarray(image)
    except (ValueError, TypeError) as error:
        raise InputError(f"image {number}: {type(image).__name__} is no image ({error})") from None
    return _from_array(array, number), f"image{number}.jpg"


def _from_file(source: str) -> tuple[np.ndarray, str]:
    """Read a file, or an address by the rules of every other download."""
    from utils.images import imread

    if source.lower().startswith(_SCHEMES):
        return _fetched(source)
    return _swapped(imread(source)), Path(source).with_suffix(".jpg").name


def _fetched(url: str) -> tuple[np.ndarray, str]:
    from utils.downloads import fetch, url2file
    from utils.guarded_http import without_password
    from utils.images import MAX_FILE_BYTES, ImageError, imread

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        fetch(url, path, max_bytes=MAX_FILE_BYTES, progress=False, named_by_user=True)
        try:
            pixels = imread(path)
        except ImageError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ImageError(f"{without_password(url)}: {reason}") from None
    return _swapped(pixels), Path(url2file(url) or "image").with_suffix(".jpg").name


def _swapped(bgr: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _from_pil(image: Any, number: int) -> np.ndarray:
    """Return a PIL image's pixels, upright; 16-bit samples keep their high byte, as those of files do."""
    from utils.images import exif_transpose

    try:
        image = exif_transpose(image)
        if image.mode.startswith("I"):
            samples = np.asarray(image)
            return _from_array((np.clip(samples, 0, 65535) >> 8 if image.mode != "I" else samples), number)
        return _from_array(np.asarray(image if image.mode == "F" else image.convert("RGB")), number)
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet in damaged data
        name = getattr(image, "filename", "") or f"image {number}"
        raise InputError(f"{name}: cannot be read as an image: {' '.join(str(error).split())}") from None


def _from_array(array: np.ndarray, number: int) -> np.ndarray:
    """Check an array's shape and values and return it as RGB uint8."""
    shape = tuple(array.shape)
    if array.ndim == 3 and shape[0] <= MOST_CHANNELS and array.dtype != object:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.size == 0 or array.shape[2] not in {1, 3, 4} or array.dtype.kind not in "buif":
        raise InputError(
            f"image {number}: array of shape {shape} and type {array.dtype} found, expected numbers of shape (h, w), "
            "(h, w, c) or (c, h, w) with 1, 3 or 4 channels"
        )
    array = _as_bytes(array[..., : 3 if array.shape[2] >= 3 else 1], number)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _as_bytes(array: np.ndarray, number: int) -> np.ndarray:
    """Return values of any number type as uint8, rounded down as YOLOv5 does."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high < 256):  # NaN as well
        raise InputError(f"image {number}: values from {low:g} to {high:g} found, allowed are 0 to 255")
    if array.dtype.kind == "f" and 0 < high <= 1:
        LOGGER.warning(
            "WARNING image %d: its values reach only %g; values are taken as 0 to 255, so multiply an image in 0 to 1 "
            "by 255", number, high
        )  # fmt: skip
    return array.astype(np.uint8)
