"""The last changes of a training image: light pixel effects, colour, flips; drawn first, applied to any part of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.augmentations import Albumentations, HsvChange
from utils.data.label_geometry import flip_outlines

_buffers = threading.local()


def buffer(shape: tuple[int, int, int], slot: str) -> np.ndarray:
    """Return this thread's reusable uint8 array of a shape; what its last user wrote into the slot is lost."""
    store = _buffers.__dict__
    count = shape[0] * shape[1] * shape[2]
    found = store.get(slot)
    if found is None or found.size < count:
        found = store[slot] = np.empty(count, np.uint8)
    return found[:count].reshape(shape)


def write_planes(out: np.ndarray, im: np.ndarray) -> None:
    """Write BGR pixels (h, w, 3) as RGB planes into ``out`` (3, h, w)."""
    cv2.split(im, [out[2], out[1], out[0]])


class Finish(NamedTuple):
    """What was drawn for one image.

    Attributes:
        effects: of the whole image, as ``Albumentations.draw`` returned them.
        colours: their change, None to leave them.
        upside_down, mirror: flips.
    """

    effects: Sequence[Any]
    colours: HsvChange | None
    upside_down: bool
    mirror: bool

    @classmethod
    def draw(cls, hyp: Mapping[str, Any], effects: Albumentations | None, rng: np.random.Generator) -> Finish:
        """Draw effects, colour and flips, in this order."""
        drawn = () if effects is None else effects.draw(rng)
        colours = HsvChange.draw(hyp["hsv_h"], hyp["hsv_s"], hyp["hsv_v"], rng)
        return cls(drawn, colours, rng.random() < hyp["flipud"], rng.random() < hyp["fliplr"])

    @property
    def flips(self) -> bool:
        """Whether the image is flipped at all."""
        return self.upside_down or self.mirror

    def apply(self, im: np.ndarray, out: np.ndarray) -> None:
        """Change an image (h, w, 3) BGR, which may be overwritten, and write its RGB planes into ``out`` (3, h, w)."""
        if self.effects:
            im = Albumentations.apply(im, self.effects)
        self.colour(im, im)
        self.write(im, out)

    def colour(self, im: np.ndarray, out: np.ndarray) -> None:
        """Write an image, or a part of one, (h, w, 3) BGR in its new colours into ``out`` of the same shape."""
        if self.colours is not None:
            self.colours.apply(im, out, buffer(im.shape, "hsv"))
        elif out is not im:
            np.copyto(out, im)

    def coloured(self, im: np.ndarray) -> np.ndarray:
        """Return an image (h, w, 3) BGR in its new colours, in this thread's buffer; the image stays as it is."""
        out = buffer(im.shape, "coloured")
        self.colour(im, out)
        return out

    def write(self, im: np.ndarray, out: np.ndarray) -> None:
        """Flip a coloured image (h, w, 3) BGR and write its RGB planes into ``out`` (3, h, w)."""
        if self.flips:
            code = -1 if self.upside_down and self.mirror else int(self.mirror)
            im = cv2.flip(im, code, dst=buffer(im.shape, "hsv"))
        write_planes(out, im)

    def flip_labels(self, labels: np.ndarray, outlines: Sequence[np.ndarray], shape: Sequence[int]) -> None:
        """Flip labels (n, 5) class, normalised xywh, and outlines in pixels of ``shape`` (height, width), in place."""
        if self.upside_down:
            labels[:, 2] = 1 - labels[:, 2]
        if self.mirror:
            labels[:, 1] = 1 - labels[:, 1]
        if self.flips:
            flip_outlines(outlines, shape, self.upside_down, self.mirror)
