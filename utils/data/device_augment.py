"""Colours and flips of training images on the device that trains (``--augment-on-device``).

The data set draws them as always and flips the labels; what it drew for the pixels travels with the batch, one row of
bytes an image, and the functions below do to a batch what ``utils.data.finish`` does to an image. Nothing in them waits
for the device, and shapes depend on shapes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.data.finish import Finish

# Columns of a row: new hue of each old one, saturation, value (256 each), and whether the image is changed so.
_TABLES = 3 * 256
_COLOURED, _UPSIDE_DOWN, _MIRROR = range(_TABLES, _TABLES + 3)
WIDTH = _TABLES + 3
_PIXELS_AT_ONCE = 2**22  # of one step, whose intermediate results take some 80 bytes a pixel

Feed = Callable[[Sequence[Any], torch.device], tuple[Tensor, tuple[Tensor, ...]]]


def pack(finishes: Sequence[Finish]) -> Tensor:
    """Return colours and flips of images as rows (n, WIDTH) uint8; effects have no place in them."""
    rows = np.zeros((len(finishes), WIDTH), np.uint8)
    for row, finish in zip(rows, finishes, strict=True):
        if finish.colours is not None:
            row[:_TABLES] = finish.colours.table[0].T.ravel()
        row[_COLOURED:] = finish.colours is not None, finish.upside_down, finish.mirror
    return torch.from_numpy(rows)


def flip_now(image: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Return an image (3, h, w) on the CPU flipped as its row (WIDTH,) says, and the row without these flips."""
    dims = [dim for dim, column in ((1, _UPSIDE_DOWN), (2, _MIRROR)) if row[column]]
    rest = row.clone()
    rest[_UPSIDE_DOWN:] = 0
    return image.flip(dims), rest


def with_changes(feed: Feed) -> Feed:
    """Return a feed of batches that end with ``pack``'s rows: it makes the changes, then does what ``feed`` does."""

    def changed(batch: Sequence[Any], device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        images, rows = batch[0].to(device, non_blocking=True), batch[-1].to(device, non_blocking=True)
        return feed((change_images(images, rows), *batch[1:-1]), device)

    return changed


def change_images(images: Tensor, rows: Tensor) -> Tensor:
    """Return a batch in its new colours, flipped.

    Args:
        images: (b, 3, h, w) uint8 RGB.
        rows: (b, WIDTH) uint8, as ``pack`` returns them, or (b, 4, WIDTH) for the quarters of each image: top left,
            bottom left, top right, bottom right.
    """
    if rows.ndim == 3:
        return _joined(change_images(_quarters(images), rows.flatten(0, 1)))
    count = max(1, _PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))
    parts = zip(images.split(count), rows.split(count), strict=True)
    return torch.cat([_changed(*part) for part in parts])


def _changed(images: Tensor, rows: Tensor) -> Tensor:
    coloured, upside_down, mirror = (rows[:, column, None, None, None] != 0 for column in range(_TABLES, WIDTH))
    new = torch.where(coloured, to_rgb(_look_up(to_hsv(images), rows[:, :_TABLES])), images)
    new = torch.where(upside_down, new.flip(2), new)
    return torch.where(mirror, new.flip(3), new)


def to_hsv(images: Tensor) -> Tensor:
    """Return the hue (0 to 179), saturation and value of RGB images (b, 3, h, w) uint8 as float32.

    The numbers are those of OpenCV's 8-bit conversion: fixed point with 12 binary digits, divisions by rounded
    reciprocals. All of it are whole numbers below 2^24, which float32 holds exactly.
    """
    red, green, blue = images.float().unbind(1)
    value = images.amax(1).float()
    range_ = value - images.amin(1).float()
    hue = torch.where(value == green, blue - red + 2 * range_, red - green + 4 * range_)
    hue = torch.where(value == red, green - blue, hue)
    hue = _fixed_point(hue, (180 << 12) / 6, range_)
    saturation = _fixed_point(range_, 255 << 12, value)
    return torch.stack((torch.where(hue < 0, hue + 180, hue), saturation, value), 1)


def _fixed_point(number: Tensor, factor: float, divisor: Tensor) -> Tensor:
    """Return number · factor / divisor / 2^12 as OpenCV rounds it; 0 where the divisor is 0, as the number is then."""
    return torch.floor((number * torch.round(factor / divisor.clamp(min=1)) + 2**11) / 2**12)


def _look_up(hsv: Tensor, tables: Tensor) -> Tensor:
    """Return what tables (b, 768) uint8 hold for images (b, 3, h, w) of whole numbers from 0 to 255."""
    starts = 256 * torch.arange(tables.shape[0] * 3, device=hsv.device, dtype=torch.int32)
    places = hsv.to(torch.int32) + starts.view(-1, 3, 1, 1)
    return tables.reshape(-1).index_select(0, places.flatten()).view(hsv.shape)


def to_rgb(hsv: Tensor) -> Tensor:
    """Return RGB images (b, 3, h, w) uint8 of hue, saturation and value.

    A channel is v · (1 - s · f) where f runs from 0 to 1 and back around the circle of hues. OpenCV's vector code cuts
    the result off (only the few pixels that do not fill a vector are rounded), and so does this.
    """
    hue, saturation, value = hsv.float().split(1, 1)
    sixths = hue * (6 / 180)
    whole = torch.floor(sixths)
    within = sixths - whole
    shifts = torch.arange(5, 0, -2, device=hsv.device, dtype=torch.float32)  # made on the device: nothing to wait for
    sector = torch.remainder(whole + shifts.view(1, 3, 1, 1), 6)
    f = torch.minimum(sector + within, (4 - sector) - within).clamp(0, 1)
    return (value * (1 / 255) * (1 - saturation * (1 / 255) * f) * 255).to(torch.uint8)


def _quarters(images: Tensor) -> Tensor:
    """Cut images (b, 3, 2h, 2w) into their quarters (4b, 3, h, w)."""
    parts = images.unflatten(3, (2, -1)).unflatten(2, (2, -1))
    return parts.permute(0, 4, 2, 1, 3, 5).flatten(0, 2)


def _joined(quarters: Tensor) -> Tensor:
    """Undo ``_quarters``."""
    parts = quarters.unflatten(0, (-1, 2, 2))
    return parts.permute(0, 3, 2, 4, 1, 5).flatten(4, 5).flatten(2, 3)
