"""What an image file says about itself before its pixels: kind, size and EXIF orientation."""

from __future__ import annotations

import io
import struct
import warnings
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION_TAG = 274
TIFF_WIDTH_TAG, TIFF_HEIGHT_TAG = 256, 257
MAX_PIXELS = 178_956_970  # the size from which Pillow refuses an image as a decompression bomb
SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations that swap width and height
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"PF\n", "PFM"),
    (b"Pf\n", "PFM"),
)


class ImageHeader(NamedTuple):
    """Kind of the content (not of the suffix), stored width and height, and EXIF orientation 1 to 8.

    TIFF readers apply the orientation themselves: a TIFF's width and height are those after it, orientation 1.
    """

    kind: str
    width: int
    height: int
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after the EXIF orientation is applied."""
        return (self.height, self.width) if self.orientation in SIDEWAYS else (self.width, self.height)


def read_header(stream: BinaryIO) -> ImageHeader:
    """Read the header of an image.

    Raises:
        ValueError: the bytes are no image of a known kind, cut off within the header, or larger than MAX_PIXELS.
    """
    start = stream.read(16)
    if not start:
        raise ValueError("the file has 0 bytes")
    kind = sniff(start)
    stream.seek(0)
    try:
        if kind == "JPEG":
            header = _jpeg_header(stream)
        elif kind == "PNG":
            header = _png_header(stream)
        else:
            header = _other_header(stream, kind)
    except (struct.error, IndexError):
        raise ValueError(f"{kind or 'image'} data cut off within its header") from None
    if header.width * header.height > MAX_PIXELS:
        raise ValueError(f"{header.width} x {header.height} pixels, at most {MAX_PIXELS} are read")
    if header.width < 1 or header.height < 1:
        raise ValueError(f"{header.width} x {header.height} pixels")
    return header


def sniff(start: bytes) -> str:
    """Return the kind that the first 16 bytes show, '' when it is none of those read here."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for magic, kind in _MAGIC if start.startswith(magic)), "")


def pil_upright_size(img: Image.Image) -> tuple[int, int]:
    """Return (width, height) of an opened, not yet loaded Pillow image after its EXIF orientation."""
    orientation = img.getexif().get(ORIENTATION_TAG, 1)
    tags = getattr(img, "tag_v2", {})  # Pillow releases differ in whether a TIFF's size is swapped already
    width, height = tags.get(TIFF_WIDTH_TAG, img.width), tags.get(TIFF_HEIGHT_TAG, img.height)
    return (height, width) if orientation in SIDEWAYS else (width, height)


def _jpeg_header(stream: BinaryIO) -> ImageHeader:
    """Walk the segments up to the frame header; Exif lies in an APP1 segment before it."""
    stream.seek(2)
    orientation = 0
    while True:
        marker = _next_marker(stream)
        if marker in _JPEG_BARE_MARKERS:
            continue
        (length,) = struct.unpack(">H", stream.read(2))
        if marker in _JPEG_SIZE_MARKERS:
            _, height, width = struct.unpack(">BHH", stream.read(5))
            return ImageHeader("JPEG", width, height, orientation or 1)
        if marker == 0xE1 and not orientation:
            content = stream.read(length - 2)
            if content.startswith(b"Exif\0\0"):
                orientation = exif_orientation(content[6:])
        else:
            stream.seek(length - 2, io.SEEK_CUR)


def _next_marker(stream: BinaryIO) -> int:
    """Return the next marker code; stray bytes before 0xFF and fill bytes are passed over."""
    byte = stream.read(1)
    while byte != b"\xff":
        if not byte:
            raise ValueError("JPEG data ends before its size is given")
        byte = stream.read(1)
    while byte == b"\xff":
        byte = stream.read(1)
    if not byte or byte == b"\xd9":
        raise ValueError("JPEG data ends before its size is given")
    return byte[0]


def _png_header(stream: BinaryIO) -> ImageHeader:
    """Read IHDR and, wherever it stands, the eXIf chunk."""
    stream.seek(8)
    width = height = 0
    orientation = 1
    while True:
        head = stream.read(8)
        if len(head) < 8:
            break
        length, name = struct.unpack(">I4s", head)
        if name == b"IHDR":
            width, height = struct.unpack(">II", stream.read(8))
            stream.seek(length - 8 + 4, io.SEEK_CUR)
        elif name == b"eXIf":
            orientation = exif_orientation(stream.read(length))
            break
        elif name == b"IEND":
            break
        else:
            stream.seek(length + 4, io.SEEK_CUR)
    if not width:
        raise ValueError("PNG data without a size")
    return ImageHeader("PNG", width, height, orientation)


def exif_orientation(block: bytes) -> int:
    """Return the orientation 1 to 8 of an Exif block that starts with its TIFF header; 1 when it gives none."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, offset)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, offset + 2 + 12 * entry)
            if tag == ORIENTATION_TAG:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass  # a cut-off Exif block gives no orientation; the pixels are still good
    return 1


def _other_header(stream: BinaryIO, kind: str) -> ImageHeader:
    """Let Pillow read the headers of the rarer kinds."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            img = Image.open(stream)
            width, height = pil_upright_size(img)
            if (img.format or "") == "TIFF":
                return ImageHeader("TIFF", width, height, 1)
            orientation = img.getexif().get(ORIENTATION_TAG, 1)
    except UnidentifiedImageError:
        raise ValueError("its content is not an image") from None
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, EOFError, TypeError, KeyError) as error:
        raise ValueError(f"damaged header: {error}") from None
    orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return ImageHeader(kind or img.format or "", *img.size, orientation)
