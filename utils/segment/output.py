"""What segment/predict.py writes beside boxes: masks on pictures, outlines in text files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.annotator import colors
from utils.boxes import scale_boxes, scale_segments
from utils.outputs.detection_output import DetectionWriter, Item
from utils.segment.general import masks2segments, process_mask, process_mask_native, scale_image
from utils.segment.plots import draw_masks


def masks_finisher(retina_masks: bool) -> Callable[..., tuple[Any, ...]]:
    """Return the ``finish`` of ``utils.detection.detect_all`` for masks.

    Args:
        retina_masks: work masks out at the size of the original image, not of the network's input.
    """

    def finish(detections: Tensor, i: int, outputs: Any, shape: Any, original: Any) -> tuple[Tensor, Tensor]:
        protos, coefficients, boxes = outputs[1][i], detections[:, 6:], detections[:, :4].clone()
        found = detections[:, :6].clone()
        exact = scale_boxes(shape, found[:, :4], original)
        found[:, :4] = exact.round()
        if retina_masks:
            return found, process_mask_native(protos, coefficients, exact, original[:2])
        return found, process_mask(protos, coefficients, boxes, shape, upsample=True)

    return finish


class MaskWriter(DetectionWriter):
    """Writes the results of a run with masks; see DetectionWriter."""

    _masks: Tensor

    def write(self, item: Item, detections: Tensor, masks: Tensor | None = None) -> np.ndarray:
        """Write one image's detections.

        Args:
            item, detections: as of DetectionWriter.
            masks: (n, h, w) bool of the letterboxed or of the original image.

        Returns:
            The image with masks and boxes drawn, where pictures are written or shown, else the image.
        """
        kept = torch.zeros((0, 1, 1), dtype=torch.bool) if masks is None else masks
        self._masks = kept.flip(0)  # as the detections are written
        return super().write(item, detections)

    def _text_lines(self, item: Item, rows: Tensor) -> list[str]:
        """Return a line per detection: class and outline, normalised, then the confidence where asked."""
        lines = []
        shape = self._masks.shape[1:]
        for row, mask in zip(rows, self._masks, strict=True):
            outline = masks2segments(mask[None])[0]
            points = scale_segments(shape, outline, item.image.shape, normalize=True).reshape(-1).tolist()
            values = [row[5].item(), *points, *([row[4].item()] if self.options.conf else [])]
            if len(points) >= 6:  # fewer points have no area
                lines.append(" ".join(f"{value:g}" for value in values))
        return lines

    def _draw_below(self, image: np.ndarray, rows: Tensor) -> None:
        if not len(self._masks):
            return
        shape = image.shape[:2]
        painted = list(zip(self._masks, rows[:, 5].tolist(), strict=True))
        masks = []
        for mask, _ in painted:
            pixels = mask.cpu().numpy().astype(np.uint8)
            masks.append(pixels if pixels.shape == shape else scale_image(pixels.shape, pixels, shape)[..., 0])
        of_masks = [colors(c, True) for _, c in painted]
        image[:] = draw_masks(image, np.stack(masks[::-1]), of_masks[::-1])
