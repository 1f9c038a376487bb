"""A detection model that takes images in any form and returns Detections: what hub gives."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.backends import DetectMultiBackend, require_detector
from models.detections import Detections
from utils.data.any_image import to_rgb
from utils.errors import InputError
from utils.helpers import Profile
from utils.logs import LOGGER
from utils.model_ops import copy_attr, make_divisible
from utils.nms import non_max_suppression

__all__ = ["AutoShape", "Detections"]


class AutoShape(nn.Module):
    """Wraps a detection model: any images in, letterboxed together, Detections out.

    Attributes:
        conf: least confidence, 0-1.
        iou: overlap above which the less confident box of a class goes, 0-1.
        agnostic: boxes of different classes suppress each other.
        multi_label: one box may have several classes.
        classes: class numbers to keep, or one of them; None for all.
        max_det: most detections of an image.
        amp: mixed precision, on CUDA.

    Args:
        model: DetectMultiBackend, or a network of models.yolo.
        verbose: log that it is wrapped.

    Raises:
        InputError: the network's head is not one for detection.
    """

    conf = 0.25
    iou = 0.45
    agnostic = False
    multi_label = False
    classes: Sequence[int] | int | None = None
    max_det = 1000
    amp = False

    def __init__(self, model: nn.Module, verbose: bool = True):
        super().__init__()
        if verbose:
            LOGGER.info("Adding AutoShape... ")
        copy_attr(self, model, include=("yaml", "nc", "hyp", "names", "stride"))
        self.dmb = isinstance(model, DetectMultiBackend)
        self.pt = not self.dmb or model.pt
        self.model = model
        require_detector(model, "model")
        self.eval()
        if self.pt:
            for head in self._heads():
                head.inplace = False
                head.export = True  # decoded predictions alone
        non_max_suppression(torch.zeros((1, 0, 6)))  # imports what it needs, so that no image's time holds that

    def _heads(self) -> list[nn.Module]:
        inner = self.model.model if self.dmb else self.model
        networks = list(inner) if isinstance(inner, nn.ModuleList) else [inner]
        return [network.model[-1] for network in networks]

    def _apply(self, fn: Any, recurse: bool = True) -> AutoShape:
        """Move all tensors (the head moves its own strides and grids), and note where they now are."""
        super()._apply(fn, recurse)
        if self.dmb and self.pt:
            self.model.device = next(self.model.parameters()).device
        return self

    def forward(
        self, ims: Any, size: int | Sequence[int] = 640, augment: bool = False, profile: bool = False
    ) -> Detections | Tensor:
        """Detect objects in one image or several.

        Args:
            ims: an image or a list of them: path, http(s) address, PIL image, or array (h, w, 3), (3, h, w) or (h, w),
                RGB in 0-255. All are read, then go through the model together. A tensor (b, 3, h, w) in 0-1 goes to
                the model as it is.
            size: pixels of the longer side that the model sees.
            augment: test-time augmentation.
            profile: part of YOLOv5's signature; the times are always taken.

        Returns:
            Detections; for a tensor the model's own output.

        Raises:
            InputError: no image, one that cannot be read, or a size that is no positive number.
        """
        where = next(self.model.parameters()) if self.pt else torch.empty(1, device=self.model.device)
        mixed = torch.autocast(where.device.type) if self._mixed(where) else contextlib.nullcontext()
        if isinstance(ims, Tensor):
            with torch.inference_mode(), mixed:
                return self.model(ims.to(where.device).type_as(where), augment=augment)
        times = Profile(device=where.device), Profile(device=where.device), Profile(device=where.device)
        with torch.inference_mode(), mixed:
            with times[0]:
                images, files = _read_all(ims)
                batch, shape = self._letterboxed(images, size)
                x = torch.from_numpy(batch).to(where.device).type_as(where) / 255
            with times[1]:
                y = self.model(x, augment=augment)
            with times[2]:
                found = self._suppressed(y, shape, images)
        found = [boxes.clone() for boxes in found]  # made outside inference mode, so that users may change them
        return Detections(images, found, files, times, self.names, x.shape)

    def _mixed(self, where: Tensor) -> bool:
        return bool(self.amp) and where.device.type != "cpu"

    def _letterboxed(self, images: list[np.ndarray], size: int | Sequence[int]) -> tuple[np.ndarray, list[int]]:
        """Return the images as one batch (b, 3, h, w) uint8, and (h, w): the smallest sides that fit them all."""
        from utils.augmentations import letterbox

        sides = list(size) if isinstance(size, (list, tuple)) else [size]
        if not sides or not all(isinstance(x, (int, np.integer)) and x > 0 for x in sides):
            raise InputError(f"size is {size!r}, allowed are whole numbers from 1")
        scaled = []
        for im in images:
            gain = max(sides) / max(im.shape[:2])
            scaled.append([int(side * gain) for side in im.shape[:2]])
        shape = [make_divisible(max(x, 1), self.stride) for x in np.array(scaled).max(0).tolist()]
        padded = [letterbox(im, shape, auto=False)[0] for im in images]
        return np.ascontiguousarray(np.stack(padded).transpose(0, 3, 1, 2)), shape

    def _suppressed(self, y: Any, shape: list[int], images: list[np.ndarray]) -> list[Tensor]:
        """Return each image's detections in its own pixels."""
        from utils.boxes import scale_boxes

        found = non_max_suppression(
            y if self.dmb else y[0],
            self.conf,
            self.iou,
            self.classes,
            self.agnostic,
            self.multi_label,
            max_det=self.max_det,
        )
        for boxes, im in zip(found, images, strict=True):
            scale_boxes(shape, boxes[:, :4], im.shape)
        return found


AutoShape.__module__ = "models.common"  # where YOLOv5 has it, for whoever pickles the wrapper


def _read_all(ims: Any) -> tuple[list[np.ndarray], list[str]]:
    """Return images as RGB arrays, and the names of their results."""
    several = list(ims) if isinstance(ims, (list, tuple)) else [ims]
    if not several:
        raise InputError("images: an empty list found, expected at least one image")
    read = [to_rgb(im, i) for i, im in enumerate(several)]
    return [im for im, _ in read], [name for _, name in read]
