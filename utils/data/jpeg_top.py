"""The upper part of a JPEG without the rest of it: the same pixels, for its share of the time.

A tile of a mosaic that is cut off below needs no more. libjpeg decodes a baseline JPEG from top to bottom and ends at
the height that the frame header gives, so a smaller height there is all that it takes. What must not happen is that it
then meets the end marker, or a restart marker, behind data that it did not decode: it would warn of damage. So these
are left out. Where data end before the lines do, libjpeg then waits for more, and OpenCV makes nothing of the file. Its
older releases (4.10) return old memory instead; with those nothing is decoded in part.
"""

from __future__ import annotations

import functools
import struct

import cv2
import numpy as np

from utils.data.image_headers import exif_orientation
from utils.data.jpeg_check import END, EXIF, FRAMES, NOTES, SCAN, START, TABLES, segments
from utils.images import decode_with_opencv

_RESTARTS = 0xDD
_MARGIN = 16  # lines: the colours of a line may be interpolated with those of the next few
_WORTH = 7 / 8  # of the height; above it the whole is decoded
_ZEROS = bytes(64)  # libjpeg reads ahead, and waits for more where there is less


def decode_top(data: bytes, hw: tuple[int, int], rows: int, reduce: int = 1) -> np.ndarray | None:
    """Return the first rows of a JPEG, None where it must be decoded as a whole or that takes hardly longer.

    Args:
        data: the whole file.
        hw: height and width that it must have, stored upright.
        rows: how many are wanted, counted after ``reduce``.
        reduce: 1, 2, 4 or 8: decode at 1/reduce of each side, rounded up.

    Returns:
        (rows, w, 3) BGR uint8, what ``utils.images.decode(data, reduce=reduce)[:rows]`` gives.
    """
    height, width = hw
    lines = rows * reduce + _MARGIN
    if lines > height * _WORTH or not data.startswith(START) or not _notices_missing_lines():
        return None
    place = _frame_and_data(data)
    if place is None:
        return None
    frame, start, interval = place
    if struct.unpack_from(">HH", data, frame + 5) != hw:
        return None
    end = _end_of_lines(data, frame, start, interval, lines, width)
    if end < 0:
        return None
    shortened = b"".join([data[: frame + 5], struct.pack(">H", lines), data[frame + 7 : end], _ZEROS])
    im = decode_with_opencv(np.frombuffer(shortened, np.uint8), reduce)
    return None if im is None or im.shape != (-(-lines // reduce), -(-width // reduce), 3) else im[:rows]


@functools.cache
def _notices_missing_lines() -> bool:
    """Tell whether this OpenCV makes nothing of a JPEG whose data end early without a marker."""
    noise = (np.arange(64 * 64 * 3) * 7919 % 251).astype(np.uint8).reshape(64, 64, 3)
    values = cv2.imencode(".jpg", noise)[1]
    return decode_with_opencv(values[: len(values) // 2]) is None


def _frame_and_data(data: bytes) -> tuple[int, int, int] | None:
    """Return the places of the frame header and of the entropy-coded data, and the MCUs between restarts (0: none).

    None for what is not one scan of Huffman-coded data, or lies on its side.
    """
    frame = interval = 0
    for marker, at, after in segments(data):
        if marker in FRAMES and not frame:
            frame = at
        elif marker == SCAN:
            return (frame, after, interval) if frame and data[at + 4] == data[frame + 9] else None
        elif marker == _RESTARTS:
            (interval,) = struct.unpack_from(">H", data, at + 4)
        elif marker not in TABLES and (marker not in NOTES or _turns(marker, data[at + 4 : after])):
            return None
    return None


def _turns(marker: int, content: bytes) -> bool:
    """Tell whether a segment gives an orientation other than upright."""
    return marker == EXIF and content.startswith(b"Exif\0\0") and exif_orientation(content[6:]) != 1


def _end_of_lines(data: bytes, frame: int, start: int, interval: int, lines: int, width: int) -> int:
    """Return where data may end of which so many lines are decoded, -1 where that is not known.

    Without restarts that is the end marker: where a line's data end is known to the decoder alone.
    """
    values = np.frombuffer(data, np.uint8, offset=start)
    places = (values[:-1] == 0xFF).nonzero()[0]
    codes = values[places + 1]
    places, codes = places[codes != 0], codes[codes != 0]
    others = ((codes & 0xF8) != 0xD0).nonzero()[0]  # than restarts
    if not len(others) or codes[others[0]] != END[1]:
        return -1
    if not interval:
        return start + int(places[0]) if not others[0] else -1
    factors = data[frame + 11 : frame + 10 + 3 * data[frame + 9] : 3]
    across, down = (max(f >> 4 for f in factors), max(f & 15 for f in factors)) if len(factors) > 1 else (1, 1)
    if not across or not down:
        return -1
    units = -(-lines // (8 * down)) * -(-width // (8 * across))
    count = -(-units // interval)
    return start + int(places[count - 1]) if count <= others[0] else -1
