"""Pictures as files of many formats and orientations, for tests of reading them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

STORED = {  # orientation -> how a camera stores an upright picture under it
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
WITH_PILLOW = {
    "grey": ("L", "JPEG"),
    "grey with alpha": ("LA", "PNG"),
    "RGBA": ("RGBA", "PNG"),
    "RGBA TIFF": ("RGBA", "TIFF"),
    "palette": ("P", "PNG"),
    "CMYK": ("CMYK", "JPEG"),
    "CMYK TIFF": ("CMYK", "TIFF"),
    "WebP": ("RGB", "WEBP"),
    "JPEG": ("RGB", "JPEG"),
}
SIXTEEN_BITS = {"16-bit PNG": ".png", "16-bit TIFF": ".tiff", "16-bit grey": ".png"}
FORMATS = (*WITH_PILLOW, *SIXTEEN_BITS)


def encoded(img: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as the bytes of a file."""
    stream = io.BytesIO()
    img.save(stream, kind, **options)
    return stream.getvalue()


def exif_of(orientation: int) -> Image.Exif:
    """Return EXIF data with an orientation."""
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def in_format(name: str, rgb: np.ndarray, orientation: int) -> tuple[bytes, np.ndarray]:
    """Return a picture (h, w, 3) as a file that needs turning, and the upright 8-bit RGB copy of what it holds."""
    if name in SIXTEEN_BITS:
        return _sixteen_bits(name, rgb, orientation)
    mode, kind = WITH_PILLOW[name]
    changed = Image.fromarray(rgb).convert(mode)
    places = STORED[orientation](np.arange(changed.width * changed.height).reshape(changed.height, -1, 1))[..., 0]
    pixels = np.asarray(changed).reshape(places.size, -1)[places.ravel()]
    stored = Image.fromarray(pixels.reshape(*places.shape, *np.asarray(changed).shape[2:]), mode)
    if mode == "P":
        stored.putpalette(changed.getpalette())
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    data = encoded(stored, kind, exif=exif_of(orientation), **options)
    if kind == "JPEG":  # which loses a little
        with Image.open(io.BytesIO(data)) as lossy:
            changed = ImageOps.exif_transpose(lossy)
    return data, np.asarray(changed.convert("RGB"))


def _sixteen_bits(name: str, rgb: np.ndarray, orientation: int) -> tuple[bytes, np.ndarray]:
    if name == "16-bit grey":
        rgb = np.repeat(rgb[..., 1:2], 3, 2)
    wide = rgb[..., ::-1].astype(np.uint16) << 8 | 77
    wide = wide[..., :1] if name == "16-bit grey" else wide
    data = cv2.imencode(SIXTEEN_BITS[name], np.ascontiguousarray(STORED[orientation](wide)))[1].tobytes()
    return (_with_exif_chunk if data.startswith(b"\x89PNG") else _with_tiff_tag)(data, orientation), rgb


def _with_exif_chunk(png: bytes, orientation: int) -> bytes:
    """Put an eXIf chunk behind a PNG's header."""
    block = b"eXIf" + exif_of(orientation).tobytes().removeprefix(b"Exif\0\0")
    return png[:33] + struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block)) + png[33:]


def _with_tiff_tag(tiff: bytes, orientation: int) -> bytes:
    """Put the orientation into a copy of a TIFF's directory at its end."""
    (place,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, place)
    entries = [tiff[place + 2 + 12 * i :][:12] for i in range(count)]
    entries = [entry for entry in entries if entry[:2] != struct.pack("<H", 274)]
    entries.append(struct.pack("<HHIHH", 274, 3, 1, orientation, 0))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + directory
