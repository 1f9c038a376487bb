"""Running what was written, and comparing it with PyTorch's float32 output for the same image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import InputError, WorkError
from utils.exporting.base import Job
from utils.logs import LOGGER

ALL = 30_000  # detections of an image before the limits of --topk-per-class and --topk-all
MARGIN = 0.05  # detections this close to the confidence limit may come or go when scores differ a little


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from PyTorch's in float32.

    Attributes:
        boxes: pixels of a coordinate, per hundred pixels of the image's longer side.
        scores: of objectness, class scores and, in parts of the largest value, mask columns, prototypes and logits.
        rows: how many of an image's most confident rows are compared; 0 compares all.
    """

    boxes: float
    scores: float
    rows: int = 0


# float: other orders of summing, other kernels. half: 10 bits of a number, so half a pixel at 640. int8: 256 steps.
TOLERANCES = {"float": Tolerance(0.02, 0.002), "half": Tolerance(0.3, 0.02, 100), "int8": Tolerance(5.0, 0.3, 30)}


def check_written(job: Job, path: Path, tolerance: Tolerance) -> str:
    """Run a written file through DetectMultiBackend and compare it; return the differences as text.

    Args:
        job: holds the image and what PyTorch gives for it.
        path: the file or folder.
        tolerance: what is allowed.

    Raises:
        WorkError: it cannot be run, its outputs have other shapes, or they differ by more.
    """
    from models.backends import DetectMultiBackend

    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)  # what loading a file says is for those who use it
    try:
        backend = DetectMultiBackend(path, device=job.im.device, fp16=job.options.half)
    except InputError as error:
        raise WorkError(f"cannot be run again: {error}") from error
    finally:
        LOGGER.setLevel(level)
    if backend.names != dict(job.facts.names) or backend.stride != job.facts.stride:
        raise WorkError("names and stride of the written file are not those of the model")
    with torch.no_grad():
        found = backend(job.im)
    return compare_outputs(job, [y.float().cpu() for y in (found if isinstance(found, list) else [found])], tolerance)


def compare_outputs(job: Job, outputs: list[Tensor], tolerance: Tolerance) -> str:
    """Compare float32 outputs for the job's image with PyTorch's; return the differences as text.

    Raises:
        WorkError: they have other shapes, or differ by more.
    """
    expected = [y.cpu() for y in job.expected]
    if job.options.nms:
        return _compare_detections(job, expected, outputs, tolerance)
    return _compare(job, expected, outputs, tolerance)


def _compare(job: Job, expected: list[Tensor], outputs: list[Tensor], tolerance: Tolerance) -> str:
    shapes = [tuple(y.shape) for y in expected], [tuple(y.shape) for y in outputs]
    if shapes[0] != shapes[1]:
        raise WorkError(f"outputs of shape {shapes[1]}, PyTorch gives {shapes[0]}")
    if job.facts.task == "classify":
        error = _relative(expected[0], outputs[0])
        _require("logits", error, tolerance.scores, "of the largest")
        return f"logits differ by up to {error:.1g} of the largest"
    boxes, scores = _row_errors(job, expected[0], outputs[0], tolerance.rows)
    _require_rows(job, boxes, scores, tolerance)
    text = f"boxes differ by up to {boxes:.2g} pixels, scores by {scores:.2g}"
    if len(expected) > 1:
        error = _relative(expected[1], outputs[1])
        _require("prototypes", error, tolerance.scores, "of the largest")
        text += f", prototypes by {error:.2g} of the largest"
    return text


def _row_errors(job: Job, expected: Tensor, found: Tensor, rows: int) -> tuple[float, float]:
    """Return the largest difference of coordinates in pixels and of scores, over all rows or each image's best."""
    end = 5 + len(job.facts.names)
    if rows:
        confidence = expected[..., 4] * expected[..., 5:end].amax(-1)
        best = confidence.topk(min(rows, confidence.shape[1]), 1).indices[..., None]
        expected, found = (y.gather(1, best.expand(-1, -1, y.shape[2])) for y in (expected, found))
    difference = (expected - found).abs()
    scores = difference[..., 4:end].max().item()
    if expected.shape[2] > end:
        scores = max(scores, _relative(expected[..., end:], found[..., end:]))
    return difference[..., :4].max().item(), scores


def _compare_detections(job: Job, expected: list[Tensor], outputs: list[Tensor], tolerance: Tolerance) -> str:
    """Compare detections: each clear one must be on both sides, with the same class, place and confidence."""
    from utils.nms import non_max_suppression

    opt = job.options
    shared = {"conf_thres": opt.conf_thres, "iou_thres": opt.iou_thres, "nm": job.facts.masks, "max_det": ALL}
    shared |= {"agnostic": opt.agnostic_nms, "multi_label": opt.multi_label}
    wanted = [_limited(rows, job) for rows in non_max_suppression(expected[0], **shared)]
    given = non_max_suppression(outputs[0], **shared)
    side = max(job.options.imgsz)
    for there, here, where in ((wanted, given, "the file"), (given, wanted, "PyTorch")):
        for image, (mine, others) in enumerate(zip(there, here, strict=True)):
            for row in mine[mine[:, 4] > opt.conf_thres + max(MARGIN, tolerance.scores)]:
                same = others[others[:, 5] == row[5]]
                near = (same[:, :4] - row[:4]).abs().amax(1) <= side * tolerance.boxes / 100
                if not (near & ((same[:, 4] - row[4]).abs() <= tolerance.scores)).any():
                    label = job.facts.names[int(row[5])]
                    raise WorkError(f"a {label} of confidence {row[4]:.2f} in image {image} is missing in {where}")
    return f"{sum(map(len, given))} detections, PyTorch has {sum(map(len, wanted))}"


def _limited(rows: Tensor, job: Job) -> Tensor:
    """Return an image's detections, the most confident first, within the limits of a class and of all."""
    opt = job.options
    if not opt.agnostic_nms:
        same = rows[:, 5][:, None] == rows[:, 5][None]
        rows = rows[same.tril(-1).sum(1) < opt.topk_per_class]  # how many of its class come before
    return rows[: opt.topk_all]


def _require_rows(job: Job, boxes: float, scores: float, tolerance: Tolerance) -> None:
    _require("boxes", boxes, max(job.options.imgsz) * tolerance.boxes / 100, "pixels")
    _require("scores", scores, tolerance.scores, "")


def _require(what: str, found: float, allowed: float, unit: str) -> None:
    """Raise WorkError when a difference is larger than allowed, or no number."""
    if not found <= allowed:
        raise WorkError(
            f"{what} differ from PyTorch's by up to {found:.3g} {unit}".rstrip() + f", allowed is {allowed:.3g}"
        )


def _relative(expected: Tensor, found: Any) -> float:
    """Return the largest difference in parts of the largest expected value."""
    return ((expected - found).abs().max() / expected.abs().max().clamp_min(1e-9)).item()
