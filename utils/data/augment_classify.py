"""Image transforms of classification: crops, tensors and ImageNet normalisation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from utils.logs import LOGGER, colorstr

IMAGENET_MEAN = 0.485, 0.456, 0.406  # RGB
IMAGENET_STD = 0.229, 0.224, 0.225
_CROP_SCALE = 0.08, 1.0
_CROP_RATIO = 0.75, 1.0 / 0.75


class CenterCrop:
    """Cuts the largest centred square and resizes it.

    Args:
        size: output (height, width), or one side.
    """

    def __init__(self, size: int | tuple[int, int] = 640):
        self.h, self.w = (size, size) if isinstance(size, int) else size

    def __call__(self, im: np.ndarray) -> np.ndarray:
        """Return (h, w, 3) of an image (height, width, 3)."""
        h, w = im.shape[:2]
        side = min(h, w)
        top, left = (h - side) // 2, (w - side) // 2
        square = im[top : top + side, left : left + side]
        return cv2.resize(square, (self.w, self.h), interpolation=cv2.INTER_LINEAR)


class LetterBox:
    """Fits an image into a rectangle on grey, at the centre.

    Args:
        size: output (height, width), or one side.
        auto: output only as large as the next multiples of ``stride`` need.
        stride: see ``auto``.
    """

    def __init__(self, size: int | tuple[int, int] = (640, 640), auto: bool = False, stride: int = 32):
        self.h, self.w = (size, size) if isinstance(size, int) else size
        self.auto = auto
        self.stride = stride

    def __call__(self, im: np.ndarray) -> np.ndarray:
        """Return the padded image (h, w, 3)."""
        h, w = im.shape[:2]
        scale = min(self.h / h, self.w / w)
        new_h, new_w = round(h * scale), round(w * scale)
        out_h, out_w = self.h, self.w
        if self.auto:
            out_h, out_w = (-(-side // self.stride) * self.stride for side in (new_h, new_w))
        top, left = round((out_h - new_h) / 2 - 0.1), round((out_w - new_w) / 2 - 0.1)
        out = np.full((out_h, out_w, 3), 114, dtype=im.dtype)
        out[top : top + new_h, left : left + new_w] = cv2.resize(im, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
        return out


class ToTensor:
    """Turns a BGR image into an RGB tensor in 0-1.

    Args:
        half: float16 instead of float32.
    """

    def __init__(self, half: bool = False):
        self.half = half

    def __call__(self, im: np.ndarray) -> torch.Tensor:
        """Return (3, h, w) of (h, w, 3) uint8."""
        planes = np.ascontiguousarray(im.transpose(2, 0, 1)[::-1])
        return torch.from_numpy(planes).to(torch.float16 if self.half else torch.float32) / 255


class _Normalise:
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (x.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        return (x - mean) / std


class _Chain:
    def __init__(self, *steps: Callable[[Any], Any]):
        self.transforms = list(steps)

    def __call__(self, im: Any) -> Any:
        for step in self.transforms:
            im = step(im)
        return im


def classify_transforms(size: int = 224) -> Callable[[np.ndarray], torch.Tensor]:
    """Return centre crop, tensor and ImageNet normalisation in a row: (h, w, 3) BGR uint8 → (3, size, size) float32."""
    if not isinstance(size, int):
        raise ValueError(f"size must be a whole number, not {size!r}")
    return _Chain(CenterCrop(size), ToTensor(), _Normalise())


def normalize(
    x: torch.Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, inplace: bool = False
) -> torch.Tensor:
    """Normalise RGB images (b, 3, h, w) in 0-1 per channel."""
    centre, spread = (x.new_tensor(values)[:, None, None] for values in (mean, std))
    return x.sub_(centre).div_(spread) if inplace else (x - centre) / spread


def denormalize(
    x: torch.Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> torch.Tensor:
    """Undo ``normalize`` on RGB images (b, 3, h, w), in place."""
    centre, spread = (x.new_tensor(values)[:, None, None] for values in (mean, std))
    return x.mul_(spread).add_(centre)


def hist_equalize(im: np.ndarray, clahe: bool = True, bgr: bool = False) -> np.ndarray:
    """Equalise the brightness of an image (h, w, 3) uint8, RGB or with ``bgr`` BGR; ``clahe`` works by tiles."""
    to_yuv, back = (cv2.COLOR_BGR2YUV, cv2.COLOR_YUV2BGR) if bgr else (cv2.COLOR_RGB2YUV, cv2.COLOR_YUV2RGB)
    yuv = cv2.cvtColor(im, to_yuv)
    brightness = np.ascontiguousarray(yuv[:, :, 0])
    equalise = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply if clahe else cv2.equalizeHist
    yuv[:, :, 0] = equalise(brightness)
    return cv2.cvtColor(yuv, back)


def classify_albumentations(  # noqa: PLR0913, PLR0917 (inherited signature)
    augment: bool = True,
    size: int = 224,
    scale: tuple[float, float] = _CROP_SCALE,
    ratio: tuple[float, float] = _CROP_RATIO,
    hflip: float = 0.5,
    vflip: float = 0.0,
    jitter: float = 0.4,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    auto_aug: bool = False,
) -> Any:
    """Return the albumentations pipeline of classification: crop, flips, colour jitter, normalisation, tensor.

    Args:
        augment: random crop, flips and jitter; otherwise a centre crop.
        size: output side.
        scale: share of the area that the random crop keeps.
        ratio: aspect ratios of the random crop.
        hflip: probability of a mirror image.
        vflip: probability of turning upside down.
        jitter: range of brightness, contrast and saturation.
        mean: per-channel mean, RGB.
        std: per-channel deviation, RGB.
        auto_aug: not available; a message says so and flips and jitter are left out.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask PyPI for a newer version
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    steps: list[Any] = [A.SmallestMaxSize(max_size=size), A.CenterCrop(height=size, width=size)]
    if augment:
        steps = [A.RandomResizedCrop(size=(size, size), scale=scale, ratio=ratio)]
        if auto_aug:
            LOGGER.info(f"{colorstr('albumentations: ')}auto augmentation is not available")
        else:
            steps += [A.HorizontalFlip(p=hflip)] if hflip > 0 else []
            steps += [A.VerticalFlip(p=vflip)] if vflip > 0 else []
            steps += (
                [A.ColorJitter((1 - jitter, 1 + jitter), *[(1 - jitter, 1 + jitter)] * 2, (0, 0))] if jitter else []
            )
    return A.Compose([*steps, A.Normalize(mean=mean, std=std), ToTensorV2()])
