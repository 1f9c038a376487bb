"""Whether a JPEG will decode, told from its segments, without decoding its pixels.

libjpeg stops at what it finds wrong in the segments: tables, frame, scan. What it meets in the entropy-coded data it
bridges with a warning. So a JPEG of one scan decodes when the same segments decode around a picture of 8 x 8 pixels
whose data are zeros, which takes a tenth of the time. What is built in another way (progressive, several scans, bytes
between the segments) is left to the decoder itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from utils.data.image_headers import MAX_PIXELS, SIDEWAYS, exif_orientation

MAX_SIDE = 65_500  # libjpeg's own limit
MAX_PARTS = 4096  # segments of one file; more are left to the decoder
START, END = b"\xff\xd8", b"\xff\xd9"
_TINY = b"\x00\x08\x00\x08"  # height and width
_ZEROS = bytes(4096)  # more than 8 x 8 pixels take; no end marker follows, before which they would be worth a warning
FRAMES = frozenset({0xC0, 0xC1})  # Huffman-coded in one go: baseline and extended
TABLES = frozenset({0xC4, 0xDB, 0xDD})
NOTES = frozenset({0xFE, *range(0xE0, 0xF0)})
COLOUR_NOTES = frozenset({0xE0, 0xEE})  # JFIF and Adobe, by which libjpeg knows what the components mean
SCAN, EXIF = 0xDA, 0xE1


class _Outline(NamedTuple):
    """What a walk over the segments finds: upright size, and the segments around a tiny picture."""

    size: tuple[int, int]
    skeleton: bytes


def quick_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return the upright (width, height) of a JPEG that is known to decode, None where only decoding it tells.

    Args:
        data: the whole file.
    """
    outline = _outline(data)
    return outline.size if outline is not None and _decodes(outline.skeleton) else None


def _outline(data: bytes) -> _Outline | None:
    """Walk the segments up to the scan and look through its data; None for anything out of the ordinary."""
    if not data.startswith(START) or not data.endswith(END):
        return None
    parts, size, components, orientation = [START], (0, 0), 0, 0
    for marker, at, after in segments(data):
        if marker in TABLES or marker in COLOUR_NOTES:
            parts.append(data[at:after])
        elif marker in FRAMES and not components:
            components = data[at + 9]
            size = data[at + 7] << 8 | data[at + 8], data[at + 5] << 8 | data[at + 6]
            parts += data[at : at + 5], _TINY, data[at + 9 : after]
        elif marker == SCAN and components and data[at + 4] == components and _is_one_scan(data, after):
            skeleton = b"".join([*parts, data[at:after]])
            return _Outline(size[::-1] if orientation in SIDEWAYS else size, skeleton) if _is_size(size) else None
        elif marker not in NOTES:
            return None
        elif marker == EXIF and not orientation and not components and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = exif_orientation(data[at + 10 : after])
    return None


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, place and end of the segments of a JPEG that follow each other without a gap."""
    at, last = 2, len(data) - 10
    for _ in range(MAX_PARTS):
        if at > last or data[at] != 0xFF:
            return
        after = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if after < at + 4:
            return
        yield data[at + 1], at, after
        at = after


def _is_size(size: tuple[int, int]) -> bool:
    return min(size) >= 1 and max(size) <= MAX_SIDE and size[0] * size[1] <= MAX_PIXELS


def _is_one_scan(data: bytes, start: int) -> bool:
    """Tell whether the first marker from ``start`` on, restarts apart, is the end of the image."""
    values = np.frombuffer(data, np.uint8)
    following = values[start + 1 :][(values[start:-1] == 0xFF).nonzero()[0]]
    markers = following[(following != 0) & (following & 0xF8 != 0xD0)]
    return len(markers) > 0 and int(markers[0]) == 0xD9


@functools.lru_cache(maxsize=256)
def _decodes(skeleton: bytes) -> bool:
    """Tell whether OpenCV makes a picture of it; the files of one encoder have the same segments."""
    try:
        im = cv2.imdecode(np.frombuffer(skeleton + _ZEROS, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return False
    return im is not None and im.shape == (8, 8, 3)
