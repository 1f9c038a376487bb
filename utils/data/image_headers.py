"""What an image file says about itself before its pixels: kind, size, EXIF orientation, width of its samples."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

ORIENTATION_TAG = 274
TIFF_WIDTH_TAG, TIFF_HEIGHT_TAG, TIFF_BITS_TAG, TIFF_SAMPLES_TAG = 256, 257, 258, 277
MAX_PIXELS = 178_956_970  # the size from which Pillow refuses an image as a decompression bomb
MAX_SAMPLE_BYTES = 3 * MAX_PIXELS  # of an image whose samples are decoded at more than 8 bits
MAX_SEGMENTS = 1 << 18  # of a file, looked at for its size and orientation
MAX_STRAY_BYTES = 1 << 16  # between the segments of a JPEG
MAX_EXIF_BYTES = 1 << 20
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
    ``pixel_bytes`` is the size of a stored pixel of TIFF and PFM files, 3 for the others, which decode to 8 bits.
    """

    kind: str
    width: int
    height: int
    orientation: int
    pixel_bytes: int = 3

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
    if not kind:
        raise ValueError("its content is not an image (JPEG, PNG, BMP, TIFF, WebP or PFM)")
    try:
        header = _READERS[kind](stream)
    except (struct.error, IndexError, OverflowError):
        raise ValueError(f"{kind} data cut off within its header") from None
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


# One reader per kind ---------------------------------------------------------------------------------------------


def _jpeg_header(stream: BinaryIO) -> ImageHeader:
    """Walk the segments up to the frame header; Exif lies in an APP1 segment before it."""
    stream.seek(2)
    orientation = 0
    for _ in range(MAX_SEGMENTS):
        marker = _next_marker(stream)
        if marker in _JPEG_BARE_MARKERS:
            continue
        (length,) = struct.unpack(">H", stream.read(2))
        if marker in _JPEG_SIZE_MARKERS:
            _, height, width = struct.unpack(">BHH", stream.read(5))
            return ImageHeader("JPEG", width, height, orientation or 1)
        if marker == 0xE1 and not orientation:
            content = stream.read(max(length - 2, 0))
            if content.startswith(b"Exif\0\0"):
                orientation = exif_orientation(content[6:])
        else:
            stream.seek(max(length - 2, 0), io.SEEK_CUR)
    raise ValueError(f"JPEG data without a size in its first {MAX_SEGMENTS} segments")


def _next_marker(stream: BinaryIO) -> int:
    """Return the next marker code; stray bytes before 0xFF, fill bytes and stuffed zeros are passed over."""
    before = byte = b""
    for _ in range(MAX_STRAY_BYTES):
        before, byte = byte, stream.read(1)
        if not byte or (before == b"\xff" and byte == b"\xd9"):
            break
        if before == b"\xff" and byte not in {b"\xff", b"\0"}:
            return byte[0]
    raise ValueError("JPEG data ends before its size is given")


def _png_header(stream: BinaryIO) -> ImageHeader:
    """Read IHDR and, wherever it stands, the eXIf chunk."""
    stream.seek(8)
    size: tuple[int, int] | None = None
    orientation = 1
    for _ in range(MAX_SEGMENTS):
        head = stream.read(8)
        if len(head) < 8:
            break
        length, name = struct.unpack(">I4s", head)
        if name == b"IHDR" and size is None:  # decoders go by the first
            size = struct.unpack(">II", stream.read(8))
            stream.seek(max(length - 8, 0) + 4, io.SEEK_CUR)
        elif name == b"eXIf":
            orientation = exif_orientation(stream.read(min(length, MAX_EXIF_BYTES)))
            break
        elif name == b"IEND":
            break
        else:
            stream.seek(length + 4, io.SEEK_CUR)
    if size is None:
        raise ValueError("PNG data without a size")
    return ImageHeader("PNG", *size, orientation)


def _bmp_header(stream: BinaryIO) -> ImageHeader:
    """Read the size; a negative height tells that the rows come from the top."""
    stream.seek(14)
    (length,) = struct.unpack("<I", stream.read(4))
    width, height = struct.unpack("<HH", stream.read(4)) if length == 12 else struct.unpack("<ii", stream.read(8))
    return ImageHeader("BMP", width, abs(height), 1)


def _webp_header(stream: BinaryIO) -> ImageHeader:
    """Read the canvas of the extended form, else the size of the one picture, and the EXIF chunk."""
    stream.seek(12)
    size: tuple[int, int] | None = None
    orientation = 1
    for _ in range(MAX_SEGMENTS):
        head = stream.read(8)
        if len(head) < 8:
            break
        name, length = struct.unpack("<4sI", head)
        at = stream.tell()
        if size is None:
            size = _webp_size(name, stream.read(10))
            if name != b"VP8X":
                break
        elif name == b"EXIF":
            block = stream.read(min(length, MAX_EXIF_BYTES))
            orientation = exif_orientation(block.removeprefix(b"Exif\0\0"))
            break
        stream.seek(at + length + length % 2)
    if size is None:
        raise ValueError("WEBP data without a size")
    return ImageHeader("WEBP", *size, orientation)


def _webp_size(name: bytes, data: bytes) -> tuple[int, int]:
    """Return width and height from the first 10 bytes of a WebP's first chunk."""
    if name == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if name == b"VP8L" and data[:1] == b"\x2f":
        (bits,) = struct.unpack("<I", data[1:5])
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data[6:10])
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("WEBP data without a size")


def _tiff_header(stream: BinaryIO) -> ImageHeader:
    """Read the first directory; width and height are those after its orientation."""
    stream.seek(0)
    start = stream.read(4)
    order = "<" if start[:2] == b"II" else ">"
    is_big = 43 in start[2:]
    place = stream.read(12)[4:] if is_big else stream.read(4)
    (directory,) = struct.unpack(order + ("Q" if is_big else "I"), place)
    stream.seek(directory)
    (count,) = struct.unpack(order + ("Q" if is_big else "H"), stream.read(8 if is_big else 2))
    tags: dict[int, int] = {}
    for _ in range(min(count, MAX_SEGMENTS)):
        entry = stream.read(20 if is_big else 12)
        tag, kind, values = struct.unpack(order + ("HHQ" if is_big else "HHI"), entry[: 12 if is_big else 8])
        if tag == ORIENTATION_TAG and values != 1:
            continue  # libtiff passes over one with another count, and so do its pixels
        tags.setdefault(tag, _tiff_value(stream, order, kind, values, entry[12 if is_big else 8 :]))
    width, height = tags.get(TIFF_WIDTH_TAG, 0), tags.get(TIFF_HEIGHT_TAG, 0)
    if tags.get(ORIENTATION_TAG, 1) in SIDEWAYS:
        width, height = height, width
    pixel_bytes = -(-tags.get(TIFF_BITS_TAG, 1) // 8) * tags.get(TIFF_SAMPLES_TAG, 1)
    return ImageHeader("TIFF", width, height, 1, pixel_bytes)


def _tiff_value(stream: BinaryIO, order: str, kind: int, count: int, inline: bytes) -> int:
    """Return the first number of a directory's entry, 0 for kinds that are no whole number."""
    form = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
    if form is None or not count:
        return 0
    if count * struct.calcsize(form) > len(inline):  # the field holds the place of the numbers
        here = stream.tell()
        (place,) = struct.unpack(order + ("Q" if len(inline) == 8 else "I"), inline)
        stream.seek(place)
        inline = stream.read(struct.calcsize(form))
        stream.seek(here)
    return struct.unpack_from(order + form, inline)[0]


def _pfm_header(stream: BinaryIO) -> ImageHeader:
    """Read the three lines of text: letters, width and height, byte order."""
    stream.seek(0)
    words = stream.read(128).split(maxsplit=3)
    try:
        width, height = int(words[1]), int(words[2])
    except ValueError:
        raise ValueError("PFM data without a size") from None
    return ImageHeader("PFM", width, height, 1, 12 if words[0] == b"PF" else 4)


_READERS: dict[str, Callable[[BinaryIO], ImageHeader]] = {
    "JPEG": _jpeg_header,
    "PNG": _png_header,
    "BMP": _bmp_header,
    "WEBP": _webp_header,
    "TIFF": _tiff_header,
    "PFM": _pfm_header,
}
