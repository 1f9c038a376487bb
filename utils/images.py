"""Read and write images of every supported format as upright BGR uint8."""

from __future__ import annotations

import functools
import io
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from utils.cv import require_cv2
from utils.data.image_headers import MAX_PIXELS, MAX_SAMPLE_BYTES, ImageHeader, pil_upright_size, read_header
from utils.errors import InputError
from utils.safe_write import write_whole

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMG_FORMATS", "VID_FORMATS", "ImageError", "check_jpeg_end", "decode", "exif_size", "exif_transpose", "image_size",
    "imread", "imwrite", "read_image_file", "require_cv2", "write_image",
]  # fmt: skip

IMG_FORMATS = "bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp", "pfm"
VID_FORMATS = "asf", "avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "wmv"

MAX_FILE_BYTES = 640 << 20  # a little more than MAX_PIXELS without compression
PIL_MAX_PIXELS = MAX_PIXELS // 3  # Pillow holds several copies while it decodes and converts
_BLOCK_BYTES = 1 << 24  # samples converted at a time
_PIL_FORMATS = {  # kind -> Pillow's readers; none that would start another program, as that of PostScript does
    "JPEG": ("JPEG", "MPO"),
    "PNG": ("PNG",),
    "BMP": ("BMP", "DIB"),
    "TIFF": ("TIFF",),
    "WEBP": ("WEBP",),
    "PFM": ("PPM",),
}
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


def imread(path: str | Path, flags: int = cv2.IMREAD_COLOR, *, reduce: int = 1, whole: bool = False) -> np.ndarray:
    """Read an image, EXIF orientation applied once.

    Grey becomes three equal channels, alpha is dropped, CMYK is converted. 16-bit samples keep their high byte
    (value // 256). Floating-point samples (PFM, 32-bit TIFF) count as 0 to 1 when none is above 1, else as 0 to 255.
    No file takes more than 2 GB of memory; what would is refused by its header.

    Args:
        path: file; its content decides the format, not its suffix.
        flags: cv2.IMREAD_COLOR for (h, w, 3) BGR, cv2.IMREAD_GRAYSCALE for (h, w).
        reduce: 1, 2, 4 or 8: decode at 1/reduce of each side, rounded up; cheap for JPEG alone.
        whole: refuse a JPEG that is cut off, of which some OpenCV releases decode a part.

    Returns:
        Contiguous uint8 array.

    Raises:
        ImageError: missing, empty, damaged, too large or no image.
    """
    data = read_image_file(path)
    try:
        return decode(data, flags, reduce=reduce, whole=whole)
    except (ValueError, MemoryError) as error:
        raise ImageError(f"{path}: cannot be read as an image: {error or 'out of memory'}") from None


def decode(data: bytes, flags: int = cv2.IMREAD_COLOR, *, reduce: int = 1, whole: bool = False) -> np.ndarray:
    """Decode the bytes of an image file; arguments and result as in ``imread``.

    Raises:
        ValueError: the bytes are no readable image.
    """
    header = read_header(io.BytesIO(data))
    if whole and header.kind == "JPEG":
        check_jpeg_end(data)
    im = _decode_pixels(data, header, reduce)
    turn = _TURNS.get(header.orientation)
    im = np.ascontiguousarray(turn(im) if turn else im)
    return cv2.cvtColor(im, cv2.COLOR_BGR2GRAY) if flags == cv2.IMREAD_GRAYSCALE else im


def read_image_file(path: str | Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        ImageError: missing, no regular file (a pipe or device would never end), or above MAX_FILE_BYTES.
    """
    try:
        size = _check_file(path)
        with open(path, "rb") as stream:
            data = stream.read(size + 1)  # asking for more than there is takes memory for it
            return data if len(data) <= size else data + stream.read(MAX_FILE_BYTES - size)  # it has grown since
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:  # a name with a zero byte
        raise ImageError(f"{path}: {error}") from None


def check_jpeg_end(data: bytes) -> str:
    """Tell a JPEG with bytes after its end, for which a note is returned, from one that is cut off.

    Raises:
        ValueError: it is cut off.
    """
    if data.endswith(b"\xff\xd9"):
        return ""
    try:
        with _pil().open(io.BytesIO(data), formats=_PIL_FORMATS["JPEG"]) as img:
            img.draft("RGB", (1, 1))  # an eighth of the size: all data is read all the same
            img.load()
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet in damaged data
        raise ValueError(f"damaged JPEG ({_one_line(error)})") from None
    return "JPEG without end marker at its end; it decodes and is used as it is"


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (width, height) after EXIF orientation, from the header alone.

    Raises:
        ImageError: missing, empty or no image.
    """
    try:
        _check_file(path)
        with open(path, "rb") as stream:
            return read_header(stream).upright_size
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ImageError(f"{path}: cannot be read as an image: {error}") from None


def exif_transpose(image: Image.Image) -> Image.Image:
    """Return a Pillow image turned upright by its EXIF orientation, which the result no longer carries."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def exif_size(img: Image.Image) -> tuple[int, int]:
    """Return (width, height) of a Pillow image after its EXIF orientation."""
    return pil_upright_size(img)


def imwrite(filename: str | Path, img: np.ndarray) -> bool:
    """Write an image in the format of the file's suffix; any alphabet in the name.

    Args:
        filename: target; an existing file is replaced.
        img: (h, w, 3) BGR or (h, w), uint8.

    Returns:
        False when the suffix has no encoder or the file cannot be written (``write_image`` says which).
    """
    try:
        write_image(filename, img)
    except (ValueError, OSError):
        return False
    return True


def write_image(filename: str | Path, img: np.ndarray) -> None:
    """Write an image as ``imwrite`` does.

    Raises:
        ValueError: OpenCV has no encoder for the suffix, or none for such an image.
        OSError: the file cannot be written.
    """
    suffix = Path(filename).suffix
    try:
        ok, data = cv2.imencode(suffix, img)
    except cv2.error:
        ok = False
    if not ok:
        raise ValueError(f"pictures of this size and format ({suffix or 'no suffix'}) cannot be written")
    write_whole(filename, data.data)  # not a copy of it: pictures may be large


def _check_file(path: str | Path) -> int:
    """Refuse what is no regular file or too large, before it is opened; return its bytes."""
    info = os.stat(path)
    if not stat.S_ISREG(info.st_mode):
        raise ImageError(f"{path}: is a {'folder' if stat.S_ISDIR(info.st_mode) else 'pipe or device'}, not a file")
    if info.st_size > MAX_FILE_BYTES:
        raise ImageError(f"{path}: {info.st_size} bytes, an image file may have at most {MAX_FILE_BYTES}")
    return info.st_size


def _decode_pixels(data: bytes, header: ImageHeader, reduce: int) -> np.ndarray:
    """Return (h, w, 3) BGR uint8 as stored, without the orientation (TIFF: with it), at 1/reduce of its size."""
    buffer = np.frombuffer(data, np.uint8)
    if header.kind == "JPEG":
        im = decode_with_opencv(buffer, reduce)
        return _shrunk(_pil_decode(data, header), reduce) if im is None else im
    im = None if header.kind == "PFM" else decode_with_opencv(buffer)
    if im is None and header.kind in {"PFM", "TIFF"}:
        if header.width * header.height * header.pixel_bytes > MAX_SAMPLE_BYTES:
            raise ValueError(
                f"{header.width} x {header.height} pixels of {header.pixel_bytes} bytes, "
                f"at most {MAX_SAMPLE_BYTES} bytes are decoded"
            )
        im = _cv2_decode(buffer, cv2.IMREAD_UNCHANGED)
        im = None if im is None else _to_bgr8(im)
    return _shrunk(_pil_decode(data, header) if im is None else im, reduce)


def _shrunk(im: np.ndarray, reduce: int) -> np.ndarray:
    """Return an image at 1/reduce of each side, rounded up: a last row or column repeats the edge, as JPEG's does."""
    if reduce == 1:
        return im
    height, width = im.shape[:2]
    below, right = -height % reduce, -width % reduce
    padded = cv2.copyMakeBorder(im, 0, below, 0, right, cv2.BORDER_REPLICATE) if below or right else im
    size = (width + right) // reduce, (height + below) // reduce
    return cv2.resize(padded, size, interpolation=cv2.INTER_AREA)


def decode_with_opencv(buffer: np.ndarray, reduce: int = 1) -> np.ndarray | None:
    """Return (h, w, 3) BGR uint8 as stored, None where OpenCV makes no picture of it.

    Args:
        buffer: bytes of an image file, uint8.
        reduce: 1, or for a JPEG 2, 4 or 8: decode at 1/reduce of each side, rounded up.
    """
    return _cv2_decode(buffer, _REDUCED[reduce] | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


def _cv2_decode(buffer: np.ndarray, flags: int) -> np.ndarray | None:
    _quieten_opencv()
    try:
        return cv2.imdecode(buffer, flags)
    except cv2.error:  # raised instead of None for sizes and types that OpenCV refuses
        return None


@functools.cache
def _quieten_opencv() -> None:
    """Stop OpenCV from writing lines of its own to stderr: a file that it cannot decode is reported by its name."""
    if "OPENCV_LOG_LEVEL" in os.environ:
        return
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _to_bgr8(im: np.ndarray) -> np.ndarray:
    """Bring samples of any type and 1, 3 or 4 channels to BGR uint8, some rows at a time to spare memory."""
    is_float = im.dtype.kind == "f"
    scale = 255 if is_float and np.fmax.reduce(im, axis=None, initial=0) <= 1 else 1
    out = np.empty((*im.shape[:2], 3), np.uint8)
    rows = max(1, _BLOCK_BYTES // max(1, im[:1].nbytes))
    for top in range(0, len(im), rows):
        part = im[top : top + rows]
        if is_float:
            part = np.clip(np.nan_to_num(part, nan=0.0, posinf=255.0, neginf=0.0), 0, 255)
            part = np.minimum(part * scale, 255).round()
        elif im.dtype.itemsize > 1:
            part = np.maximum(part, 0) >> (8 * (im.dtype.itemsize - 1))
        part = part[..., None] if part.ndim == 2 else part
        out[top : top + rows] = part[..., :3] if part.shape[2] >= 3 else part[..., :1]
    return out


def _pil() -> Any:
    """Return Pillow's Image module; its warnings about odd tags say nothing that a user could act upon."""
    from PIL import Image

    _quieten_pillow()
    return Image


@functools.cache
def _quieten_pillow() -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _pil_decode(data: bytes, header: ImageHeader) -> np.ndarray:
    """Decode what OpenCV could not, with Pillow."""
    if header.width * header.height > PIL_MAX_PIXELS:
        raise ValueError(f"damaged data, or of a kind that is decoded up to {PIL_MAX_PIXELS} pixels alone")
    try:
        with _pil().open(io.BytesIO(data), formats=_PIL_FORMATS[header.kind]) as img:
            return np.asarray(img.convert("RGB"))[..., ::-1]
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet in damaged data
        raise ValueError(f"damaged data ({_one_line(error)})") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
