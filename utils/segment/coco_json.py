"""Detections with masks as COCO JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from utils.errors import WorkError
from utils.outputs.coco_json import CocoJson
from utils.outputs.coco_json import save_one_json as save_boxes
from utils.segment.evaluation import MaskBatch
from utils.segment.general import scale_image


def run_lengths(masks: np.ndarray) -> list[dict[str, Any]]:
    """Return masks (h, w, n) 0 or 1 as COCO's compressed run lengths: size [h, w] and counts as text.

    Raises:
        WorkError: the package that does it is missing.
    """
    try:
        from faster_coco_eval import mask as coding
    except ImportError as error:
        raise WorkError(f"--save-json: the package faster-coco-eval cannot be imported ({error})") from error
    encoded = coding.encode(np.asfortranarray(masks, dtype=np.uint8))
    return [{"size": list(row["size"]), "counts": row["counts"].decode("ascii")} for row in encoded]


def save_one_json(
    predn: torch.Tensor | np.ndarray, jdict: list[dict[str, Any]], path: Any, class_map: Sequence[int],
    pred_masks: np.ndarray,
) -> None:  # fmt: skip
    """Append an image's detections with their masks to a list of COCO results.

    Args:
        predn, jdict, path, class_map: as of ``utils.outputs.coco_json.save_one_json``.
        pred_masks: (h, w, n) masks at the original image's size.
    """
    before = len(jdict)
    save_boxes(predn, jdict, path, class_map)
    for row, code in zip(jdict[before:], run_lengths(pred_masks), strict=True):
        row["segmentation"] = code


class MaskCocoJson(CocoJson):
    """Collects detections and labels with their masks, and scores both boxes and masks."""

    measures = ("bbox", "segm")

    def _add_more(
        self, batch: MaskBatch, i: int, results: list[dict[str, Any]], annotations: list[dict[str, Any]]
    ) -> None:
        if results:
            _add_masks(results, batch, i, batch.masks(i))
        if annotations:
            truth = batch.label_masks(i)
            if batch.overlap:
                truth = truth == torch.arange(1, len(annotations) + 1, device=truth.device)[:, None, None]
            _add_masks(annotations, batch, i, truth)


def _add_masks(rows: list[dict[str, Any]], batch: MaskBatch, i: int, masks: torch.Tensor) -> None:
    """Add masks (n, h, w) of image i to n rows, at the original image's size."""
    pixels = masks.permute(1, 2, 0).float().cpu().numpy()
    shape, ratio_pad = batch.shapes[i]
    scale = masks.shape[1] / batch.images.shape[2]  # of masks that are smaller than the network's input
    gains, (pad_w, pad_h) = ratio_pad
    full = scale_image(pixels.shape[:2], pixels, shape, (gains, (pad_w * scale, pad_h * scale)))
    for row, code in zip(rows, run_lengths(full > 0.5), strict=True):
        row["segmentation"] = code
