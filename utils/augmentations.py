"""Changes of training images and their labels: letterbox, warp, colour, mixup, copy-paste, pixel effects.

Every random function takes ``rng``; without one it draws from a fresh unseeded generator.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.boxes import bbox_ioa, resample_segments, segment2box, xywhn2xyxy
from utils.data.augment_classify import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CenterCrop,
    LetterBox,
    ToTensor,
    classify_albumentations,
    classify_transforms,
    denormalize,
    hist_equalize,
    normalize,
)
from utils.data.augment_mix import choose_pastes, copy_paste, cutout, generator, mirrored_labels, mixup, replicate
from utils.logs import LOGGER, colorstr

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "LOGGER", "PAD_VALUE", "Albumentations", "CenterCrop", "LetterBox", "LetterboxFit",
    "ToTensor", "Warp", "augment_hsv", "bbox_ioa", "box_candidates", "choose_pastes", "classify_albumentations",
    "classify_transforms", "colorstr", "copy_paste", "cutout", "denormalize", "draw_warp", "fit_letterbox",
    "hist_equalize", "letterbox", "mirrored_labels", "mixup", "normalize", "random_perspective", "replicate",
    "resample_segments", "segment2box", "warp_image", "warp_labels", "warp_outlines",
    "xywhn2xyxy",
]  # fmt: skip

PAD_VALUE = 114
PAD_COLOUR = (PAD_VALUE,) * 3
_BOX_AREA_KEPT = 0.10  # share of a box that must stay visible for it to be kept
_SEGMENT_AREA_KEPT = 0.01


def __getattr__(name: str) -> Any:
    """Fetch a name that YOLOv5 users import from here and that lives above this module."""
    if name != "check_version":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from utils.general import check_version

    return check_version


# Letterbox ------------------------------------------------------------------------------------------------------------


class LetterboxFit(NamedTuple):
    """How an image is placed on a padded rectangle.

    Attributes:
        size: (width, height) of the image after scaling.
        ratio: (width, height) scale factors.
        pad: (width, height) padding per side, may end in .5.
        border: (top, bottom, left, right) whole pixels of padding.
    """

    size: tuple[int, int]
    ratio: tuple[float, float]
    pad: tuple[float, float]
    border: tuple[int, int, int, int]


def fit_letterbox(  # noqa: PLR0913 (the options of letterbox)
    shape: tuple[int, int], new_shape: int | Sequence[int], auto: bool, scaleFill: bool, scaleup: bool, stride: int
) -> LetterboxFit:
    """Work out a letterbox without touching pixels; ``shape`` is (height, width), options as in ``letterbox``."""
    if isinstance(new_shape, int):
        new_shape = (new_shape, new_shape)
    h, w = shape
    scale = min(new_shape[0] / h, new_shape[1] / w)
    if not scaleup:
        scale = min(scale, 1.0)
    ratio = scale, scale
    size = max(round(w * scale), 1), max(round(h * scale), 1)
    pad_w, pad_h = new_shape[1] - size[0], new_shape[0] - size[1]
    if auto:
        pad_w, pad_h = pad_w % stride, pad_h % stride
    elif scaleFill:
        pad_w = pad_h = 0
        size = new_shape[1], new_shape[0]
        ratio = new_shape[1] / w, new_shape[0] / h
    pad = pad_w / 2, pad_h / 2
    border = round(pad[1] - 0.1), round(pad[1] + 0.1), round(pad[0] - 0.1), round(pad[0] + 0.1)
    return LetterboxFit(size, ratio, pad, border)


def letterbox(  # noqa: PLR0913 (inherited signature)
    im: np.ndarray,
    new_shape: int | Sequence[int] = (640, 640),
    color: tuple[int, int, int] = PAD_COLOUR,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Scale an image to fit a rectangle and pad the rest.

    Args:
        im: (h, w, 3) uint8.
        new_shape: (height, width) to fit into, or one side of a square.
        color: padding colour.
        auto: pad only to the next multiple of ``stride``.
        scaleFill: stretch to ``new_shape`` instead of padding (without ``auto``).
        scaleup: allow enlarging; without it small images are only padded.
        stride: see ``auto``.

    Returns:
        Image, (width, height) ratios, (width, height) padding per side.
    """
    fit = fit_letterbox(im.shape[:2], new_shape, auto, scaleFill, scaleup, stride)
    if im.shape[1::-1] != fit.size:
        im = cv2.resize(im, fit.size, interpolation=cv2.INTER_LINEAR)
    if any(fit.border):
        im = cv2.copyMakeBorder(im, *fit.border, cv2.BORDER_CONSTANT, value=color)
    return im, fit.ratio, fit.pad


# Affine and perspective -----------------------------------------------------------------------------------------------


class Warp(NamedTuple):
    """One drawn warp.

    Attributes:
        matrix: (3, 3) float64, input pixels to output pixels.
        scale: the drawn zoom, which the area test of the boxes allows for.
    """

    matrix: np.ndarray
    scale: float

    @property
    def is_projective(self) -> bool:
        """Whether points need the division by the third coordinate."""
        return bool(self.matrix[2, 0] or self.matrix[2, 1])


def draw_warp(  # noqa: PLR0913 (the ranges of one warp)
    rng: np.random.Generator,
    in_wh: tuple[int, int],
    out_wh: tuple[int, int],
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    perspective: float,
) -> Warp:
    """Draw a warp about the centre: perspective, then rotation and zoom, shear, translation.

    Args:
        rng: source of the draws.
        in_wh: input (width, height).
        out_wh: output (width, height).
        degrees: rotation within ±degrees.
        translate: shift within ±translate of the output size.
        scale: zoom within 1 ± scale.
        shear: shear within ±shear degrees, in x and in y.
        perspective: both perspective terms within ±perspective.
    """
    px, py, angle, zoom, shear_x, shear_y, move_x, move_y = rng.uniform(
        (-perspective, -perspective, -degrees, 1 - scale, -shear, -shear, 0.5 - translate, 0.5 - translate),
        (perspective, perspective, degrees, 1 + scale, shear, shear, 0.5 + translate, 0.5 + translate),
    )
    move_x, move_y = move_x * out_wh[0], move_y * out_wh[1]
    if not (px or py or angle or shear_x or shear_y):
        upright = [[zoom, 0, move_x - zoom * in_wh[0] / 2], [0, zoom, move_y - zoom * in_wh[1] / 2], [0, 0, 1]]
        return Warp(np.array(upright), float(zoom))
    centring = np.array([[1, 0, -in_wh[0] / 2], [0, 1, -in_wh[1] / 2], [0, 0, 1]])
    projection = np.array([[1, 0, 0], [0, 1, 0], [px, py, 1]])
    cos, sin = zoom * math.cos(math.radians(angle)), zoom * math.sin(math.radians(angle))
    rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    tan_x, tan_y = math.tan(math.radians(shear_x)), math.tan(math.radians(shear_y))
    shearing = np.array([[1, tan_x, 0], [tan_y, 1, 0], [0, 0, 1]])
    moving = np.array([[1, 0, move_x], [0, 1, move_y], [0, 0, 1]])
    return Warp(moving @ shearing @ rotation @ projection @ centring, float(zoom))


def warp_points(points: np.ndarray, warp: Warp) -> np.ndarray:
    """Map points (n, 2) by a warp."""
    mapped = points @ warp.matrix[:, :2].T + warp.matrix[:, 2]
    return mapped[:, :2] / mapped[:, 2:3] if warp.is_projective else mapped[:, :2]


def warp_labels(targets: np.ndarray, segments: list[np.ndarray], warp: Warp, out_wh: tuple[int, int]) -> np.ndarray:
    """Move labels along with the pixels and drop what is no longer worth keeping.

    Args:
        targets: (n, 5) class, xyxy in input pixels.
        segments: n outlines (points, 2) in input pixels, or none; with them the new boxes enclose the outlines.
        warp: the warp of the pixels.
        out_wh: output (width, height).

    Returns:
        (k, 5) class, xyxy in output pixels.
    """
    return warp_outlines(targets, segments, warp, out_wh)[0]


def warp_outlines(
    targets: np.ndarray, segments: list[np.ndarray], warp: Warp, out_wh: tuple[int, int]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Move labels and their outlines along with the pixels; as ``warp_labels``.

    Returns:
        (k, 5) class, xyxy and k outlines (1000, 2), not clipped, in output pixels; no outlines where none were given.
    """
    n = len(targets)
    if not n:
        return targets, []
    w, h = out_wh
    has_segments = len(segments) == n and any(s.any() for s in segments)
    outlines: list[np.ndarray] = []
    if has_segments:
        outlines = [warp_points(s, warp) for s in resample_segments(list(segments))]
        boxes = np.array([segment2box(s, w, h).reshape(4) for s in outlines])
    else:
        corners = warp_points(targets[:, [1, 2, 3, 4, 1, 4, 3, 2]].reshape(n * 4, 2), warp).reshape(n, 4, 2)
        limits = (w, h)
        boxes = np.concatenate((corners.min(1).clip(0, limits), corners.max(1).clip(0, limits)), 1)
    area = _SEGMENT_AREA_KEPT if has_segments else _BOX_AREA_KEPT
    keep = box_candidates(targets[:, 1:5].T * warp.scale, boxes.T, area_thr=area)
    kept = targets[keep]
    kept[:, 1:5] = boxes[keep]
    return kept, [outlines[i] for i in np.flatnonzero(keep)] if has_segments else []


def warp_image(im: np.ndarray, warp: Warp, border: Sequence[int]) -> np.ndarray:
    """Return the pixels (h, w, 3) warped on grey; ``border`` as of ``random_perspective``."""
    out_wh = im.shape[1] + border[1] * 2, im.shape[0] + border[0] * 2
    if not (border[0] or border[1] or (warp.matrix != np.eye(3)).any()):
        return im
    if warp.is_projective:
        return cv2.warpPerspective(im, warp.matrix, dsize=out_wh, borderValue=PAD_COLOUR)
    return cv2.warpAffine(im, warp.matrix[:2], dsize=out_wh, borderValue=PAD_COLOUR)


def random_perspective(  # noqa: PLR0913, PLR0917 (inherited signature)
    im: np.ndarray,
    targets: np.ndarray | Sequence = (),
    segments: Sequence[np.ndarray] = (),
    degrees: float = 10,
    translate: float = 0.1,
    scale: float = 0.1,
    shear: float = 10,
    perspective: float = 0.0,
    border: Sequence[int] = (0, 0),
    *,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray | Sequence]:
    """Warp an image and its labels at random.

    Args:
        im: (h, w, 3) uint8.
        targets: (n, 5) class, xyxy in pixels.
        segments: n outlines (points, 2) in pixels, or none.
        degrees: range, as ``translate``, ``scale``, ``shear`` and ``perspective`` see ``draw_warp``.
        translate: range.
        scale: range.
        shear: range.
        perspective: range.
        border: (y, x) pixels added to each side of the output, negative to cut (a mosaic's canvas: minus a quarter).
        rng: source of the draws.

    Returns:
        Image (h + 2·border_y, w + 2·border_x, 3) and labels (k, 5) class, xyxy.
    """
    in_wh = im.shape[1], im.shape[0]
    out_wh = in_wh[0] + border[1] * 2, in_wh[1] + border[0] * 2
    warp = draw_warp(generator(rng), in_wh, out_wh, degrees, translate, scale, shear, perspective)
    im = warp_image(im, warp, border)
    return im, warp_labels(targets, list(segments), warp, out_wh) if len(targets) else targets


def box_candidates(  # noqa: PLR0913 (inherited signature)
    box1: np.ndarray,
    box2: np.ndarray,
    wh_thr: float = 2,
    ar_thr: float = 100,
    area_thr: float = 0.1,
    eps: float = 1e-16,
) -> np.ndarray:
    """Return which boxes survive a warp, (n,) bool.

    Args:
        box1: (4, n) xyxy before, scaled by the zoom.
        box2: (4, n) xyxy after, clipped.
        wh_thr: both sides must exceed this, in pixels.
        ar_thr: neither side may be this many times the other.
        area_thr: the area must exceed this share of the area before.
        eps: keeps divisions finite.
    """
    w1, h1 = box1[2] - box1[0], box1[3] - box1[1]
    w2, h2 = box2[2] - box2[0], box2[3] - box2[1]
    elongation = np.maximum(w2 / (h2 + eps), h2 / (w2 + eps))
    return (w2 > wh_thr) & (h2 > wh_thr) & (w2 * h2 / (w1 * h1 + eps) > area_thr) & (elongation < ar_thr)


# Colour ---------------------------------------------------------------------------------------------------------------

_HUES = 180
_RAMP = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)[None]
_CUT = -0.5 + 2**-16  # added before rounding, it makes cutting off of it


def augment_hsv(
    im: np.ndarray,
    hgain: float = 0.5,
    sgain: float = 0.5,
    vgain: float = 0.5,
    *,
    rng: np.random.Generator | None = None,
    scratch: np.ndarray | None = None,
) -> None:
    """Multiply hue, saturation and value by random factors within 1 ± gain, in place.

    Args:
        im: (h, w, 3) BGR uint8.
        hgain: hue range; hue wraps at 180.
        sgain: saturation range; clipped at 255.
        vgain: value range; clipped at 255.
        rng: source of the draws.
        scratch: buffer of the image's shape to work in, so that none is allocated.
    """
    colours = HsvChange.draw(hgain, sgain, vgain, generator(rng))
    if colours is not None:
        colours.apply(im, im, scratch)


class HsvChange(NamedTuple):
    """New colours for an image.

    Attributes:
        table: (1, 256, 3) uint8, the new hue, saturation and value of each old one.
        matrix: (3, 4) factors and offsets that give the numbers of ``table`` in a third of the time, or None where
            rounding would give others.
    """

    table: np.ndarray
    matrix: np.ndarray | None

    @classmethod
    def draw(cls, hgain: float, sgain: float, vgain: float, rng: np.random.Generator) -> HsvChange | None:
        """Draw the change that ``augment_hsv`` makes, None where nothing changes."""
        if not (hgain or sgain or vgain):
            return None
        gains = 1 + rng.uniform(-1, 1, 3) * (hgain, sgain, vgain)
        table = np.arange(256)[:, None] * gains
        table[:, 0] %= _HUES
        np.clip(table[:, 1:], 0, 255, out=table[:, 1:])
        whole = table.astype(np.uint8)
        matrix = np.zeros((3, 4))
        matrix.flat[::5], matrix[:, 3] = gains, _CUT
        scaled = cv2.transform(_RAMP, matrix)[0]
        scaled[:, 0] %= _HUES  # OpenCV takes hues beyond the circle for what they are on it
        scaled[_HUES:, 0] = whole[_HUES:, 0]  # no pixel has such a hue
        return cls(whole[None], matrix if np.array_equal(scaled, whole) else None)

    def apply(self, im: np.ndarray, out: np.ndarray, scratch: np.ndarray | None = None) -> None:
        """Write an image (h, w, 3) BGR uint8 in its new colours into ``out``, which may be the image itself."""
        hsv = cv2.cvtColor(im, cv2.COLOR_BGR2HSV, dst=scratch)
        if self.matrix is None:
            cv2.LUT(hsv, self.table, dst=hsv)
        else:
            cv2.transform(hsv, self.matrix, dst=hsv)
        cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=out)


class Albumentations:
    """The four light pixel effects that training applies, each to one image in a hundred.

    Args:
        size: training image size; kept for callers that pass it.

    Attributes:
        transform: the effects as [(probability, transform)], applied in order; none of them moves boxes.
    """

    def __init__(self, size: int = 640):
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask PyPI for a newer version
        import albumentations

        effects = albumentations.Blur, albumentations.MedianBlur, albumentations.ToGray, albumentations.CLAHE
        self.size = size
        self.transform: list[tuple[float, Any]] = [(0.01, effect(p=1.0)) for effect in effects]
        self._chances = np.array([chance for chance, _ in self.transform])

    def describe(self) -> str:
        """Return the effects and their probabilities as one line."""
        return ", ".join(f"{type(effect).__name__}({chance:g})" for chance, effect in self.transform)

    def __call__(
        self, im: np.ndarray, labels: np.ndarray, p: float = 1.0, *, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the effects with overall probability ``p``.

        Args:
            im: (h, w, 3) BGR uint8; never changed.
            labels: (n, 5), returned as they are.
            p: probability that the effects are tried at all.
            rng: source of the draws; each effect that fires is seeded from it.
        """
        return self.apply(im, self.draw(generator(rng), p)), labels

    def draw(self, rng: np.random.Generator, p: float = 1.0) -> list[tuple[Any, int]]:
        """Return the effects that fire, in order, with their seeds; ``p`` as in a call."""
        fires = rng.random(len(self.transform)) < self._chances
        if rng.random() >= p or not fires.any():
            return []
        return [
            (effect, int(rng.integers(2**31)))
            for fired, (_, effect) in zip(fires, self.transform, strict=True)
            if fired
        ]

    @staticmethod
    def apply(im: np.ndarray, drawn: Sequence[tuple[Any, int]]) -> np.ndarray:
        """Return an image (h, w, 3) BGR uint8, which is never changed, after effects that ``draw`` returned."""
        for effect, seed in drawn:
            effect.set_random_seed(seed)
            im = effect(image=im)["image"]
        return im
