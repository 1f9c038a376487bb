"""Read and write images of every supported format as upright BGR uint8."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.cv import require_cv2
from utils.data.image_headers import ImageHeader, pil_upright_size, read_header
from utils.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMG_FORMATS", "VID_FORMATS", "ImageError", "decode", "exif_size", "image_size", "imread", "imwrite", "require_cv2",
]  # fmt: skip

IMG_FORMATS = "bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm"
VID_FORMATS = "asf", "avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "wmv"

_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_TURNS = {  # EXIF orientation -> what makes the pixels upright
    2: lambda im: cv2.flip(im, 1),
    3: lambda im: cv2.rotate(im, cv2.ROTATE_180),
    4: lambda im: cv2.flip(im, 0),
    5: cv2.transpose,
    6: lambda im: cv2.rotate(im, cv2.ROTATE_90_CLOCKWISE),
    7: lambda im: cv2.rotate(cv2.transpose(im), cv2.ROTATE_180),
    8: lambda im: cv2.rotate(im, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


class ImageError(InputError):
    """An image file that cannot be read; the message names it."""


def imread(path: str | Path, flags: int = cv2.IMREAD_COLOR, *, reduce: int = 1) -> np.ndarray:
    """Read an image, EXIF orientation applied once.

    Grey becomes three equal channels, alpha is dropped, CMYK is converted. 16-bit samples keep their high byte
    (value // 256). Floating-point samples (PFM, 32-bit TIFF) count as 0 to 1 when none is above 1, else as 0 to 255.

    Args:
        path: file; its content decides the format, not its suffix.
        flags: cv2.IMREAD_COLOR for (h, w, 3) BGR, cv2.IMREAD_GRAYSCALE for (h, w).
        reduce: 1, 2, 4 or 8: decode at 1/reduce of each side, rounded up; cheap for JPEG alone.

    Returns:
        Contiguous uint8 array.

    Raises:
        ImageError: missing, empty, damaged, too large or no image.
    """
    try:
        return decode(Path(path).read_bytes(), flags, reduce=reduce)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ImageError(f"{path}: cannot be read as an image: {error}") from None


def decode(data: bytes, flags: int = cv2.IMREAD_COLOR, *, reduce: int = 1) -> np.ndarray:
    """Decode the bytes of an image file; arguments and result as in ``imread``.

    Raises:
        ValueError: the bytes are no readable image.
    """
    header = read_header(io.BytesIO(data))
    im = _decode_pixels(data, header, _REDUCED[reduce])
    turn = _TURNS.get(header.orientation)
    im = np.ascontiguousarray(turn(im) if turn else im)
    return cv2.cvtColor(im, cv2.COLOR_BGR2GRAY) if flags == cv2.IMREAD_GRAYSCALE else im


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) after EXIF orientation, from the header alone.

    Raises:
        ImageError: missing, empty or no image.
    """
    try:
        with open(path, "rb") as stream:
            return read_header(stream).upright_size
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ImageError(f"{path}: cannot be read as an image: {error}") from None


def exif_size(img: Image.Image) -> tuple[int, int]:
    """Return (width, height) of a Pillow image after its EXIF orientation."""
    return pil_upright_size(img)


def imwrite(filename: str | Path, img: np.ndarray) -> bool:
    """Write an image in the format of the file's suffix; any alphabet in the name.

    Args:
        filename: target; an existing file is replaced.
        img: (h, w, 3) BGR or (h, w), uint8.

    Returns:
        False when the suffix has no encoder or the file cannot be written.
    """
    try:
        ok, data = cv2.imencode(Path(filename).suffix, img)
        if ok:
            Path(filename).write_bytes(data.tobytes())
    except (cv2.error, OSError):
        return False
    return bool(ok)


def _decode_pixels(data: bytes, header: ImageHeader, reduced: int) -> np.ndarray:
    """Return (h, w, 3) BGR uint8 as stored, without the orientation (TIFF: with it)."""
    buffer = np.frombuffer(data, np.uint8)
    im = None
    if header.kind != "PFM":
        im = _cv2_decode(buffer, (reduced or cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION)
    if im is None and header.kind in {"PFM", "TIFF"}:
        im = _cv2_decode(buffer, cv2.IMREAD_UNCHANGED)
        im = None if im is None else _to_bgr8(im)
    return _pil_decode(data) if im is None else im


def _cv2_decode(buffer: np.ndarray, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(buffer, flags)
    except cv2.error:  # raised instead of None for sizes and types that OpenCV refuses
        return None


def _to_bgr8(im: np.ndarray) -> np.ndarray:
    """Bring samples of any type and 1, 3 or 4 channels to BGR uint8."""
    if im.dtype.kind == "f":
        im = np.nan_to_num(im, nan=0.0, posinf=255.0, neginf=0.0)
        im = np.clip(im * 255 if im.max(initial=0) <= 1 else im, 0, 255).round()
    elif im.dtype.itemsize > 1:
        im = im >> (8 * (im.dtype.itemsize - 1))
    im = im.astype(np.uint8)
    if im.ndim == 2:
        return cv2.cvtColor(im, cv2.COLOR_GRAY2BGR)
    return im[..., :3] if im.shape[2] >= 3 else np.repeat(im[..., :1], 3, axis=2)


def _pil_decode(data: bytes) -> np.ndarray:
    """Decode what OpenCV could not, with Pillow."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as img:
            return np.asarray(img.convert("RGB"))[..., ::-1]
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet in damaged data
        raise ValueError(f"damaged data ({' '.join(str(error).split())})") from None
