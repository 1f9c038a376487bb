"""Evaluation of boxes and masks: what ``utils/evaluation.py`` does, with a second set of measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.eval_batch import BatchResult, in_original_pixels
from utils.eval_result import EvalResult
from utils.evaluation import IOU_THRESHOLDS, PICTURED_BATCHES, Parts, Pass, Pictures, Tally
from utils.logs import LOGGER
from utils.metrics import process_batch
from utils.segment.general import process_mask, process_mask_upsample

MASK_HEADER = ("%22s" + "%11s" * 10) % (
    "Class", "Images", "Instances", "Box(P", "R", "mAP50", "mAP50-95)", "Mask(P", "R", "mAP50", "mAP50-95)"
)  # fmt: skip
ROW = "%22s" + "%11i" * 2 + "%11.3g" * 8
UNDEFINED_ROW = "%22s" + "%11i" * 2 + "%11s" * 8
PICTURED_MASKS = 15  # of an image


@dataclass(frozen=True)
class MaskBatch(BatchResult):
    """One evaluated batch with masks.

    Attributes:
        truth: masks of the labels as the loader gives them.
        overlap: they are one map of label numbers per image.
        coefficients: per image (k, nm).
        protos: (bs, nm, mh, mw).
        full_size: masks are worked out at the size of the network's input.
    """

    truth: Tensor
    overlap: bool
    coefficients: list[Tensor]
    protos: Tensor
    full_size: bool

    def masks(self, i: int, most: int | None = None) -> Tensor:
        """Return the masks of image i's detections, the surest ``most`` of them, (k, h, w) bool on the device."""
        boxes = self.predictions[i][:most, :4].to(self.protos.device)
        work_out = process_mask_upsample if self.full_size else process_mask
        return work_out(self.protos[i], self.coefficients[i][:most], boxes, self.pixels.shape[2:])

    def label_masks(self, i: int) -> Tensor:
        """Return the masks of image i's labels in the loader's form: (m, h, w), or with ``overlap`` (1, h, w)."""
        return self.truth[i : i + 1] if self.overlap else self.truth[(self.targets[:, 0] == i).to(self.truth.device)]


@dataclass(frozen=True)
class MaskResult:
    """What an evaluation measured of boxes and of masks; all that is not about precision is the same in both."""

    box: EvalResult
    mask: EvalResult

    @property
    def speed(self) -> tuple[float, float, float]:
        """Milliseconds per image of pre-processing, inference and NMS."""
        return self.box.speed

    @property
    def seen(self) -> int:
        """Number of images."""
        return self.box.seen

    @property
    def names(self) -> dict[int, str]:
        """Class names by number."""
        return self.box.names

    def as_tuple(self) -> tuple[float, ...]:
        """Return P, R, mAP50, mAP50-95 of boxes, of masks, and box, mask, obj and cls loss; 0 for what is undefined."""
        return (*self.box.as_tuple()[:4], *self.mask.as_tuple()[:4], *self.box.losses)

    def maps(self, nc: int | None = None) -> np.ndarray:
        """Return the mean of the mAP50-95 of boxes and masks of every class, (nc,)."""
        return (self.box.maps(nc) + self.mask.maps(nc)) / 2

    def per_class(self, balance: Any = None, training_stats: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return columns by class number for the log; precision, recall and AP are those of the boxes."""
        return self.box.per_class(balance, training_stats)

    def save_thresholds(self, path: str | Path, origin: str) -> None:
        """Write the confidence with the best F1 of each class's boxes."""
        self.box.save_thresholds(path, origin)

    def for_hook(self) -> tuple[Any, ...]:
        """Return what on_val_end gets, of the boxes."""
        return self.box.for_hook()

    def log_table(self, per_class: bool = False) -> None:
        """Log the row of all classes and, with per_class, one for each class that has labels."""
        box, mask = self.box, self.mask
        total = int(box.instances.sum())
        if not box.is_defined:
            LOGGER.info(UNDEFINED_ROW % ("all", box.seen, total, *["undefined"] * 8))
            LOGGER.warning("no labelled object among the evaluated images: P, R and mAP are undefined")
            return
        LOGGER.info(ROW % ("all", box.seen, total, *self.as_tuple()[:8]))
        columns = [column for part in (box, mask) for column in _columns(part)]
        for i, c in enumerate(box.classes if per_class else ()):
            LOGGER.info(ROW % (box.names.get(int(c), str(c)), box.seen, box.instances[c], *(x[i] for x in columns)))

    def save_plots(self, save_dir: str | Path) -> None:
        """Save the confusion matrix of the boxes and the PR, F1, P and R curves of both."""
        self.box.confusion_matrix.plot(save_dir=save_dir, names=list(self.names.values()))
        self.box.curves.save(f"{save_dir}/Box", self.names)
        self.mask.curves.save(f"{save_dir}/Mask", self.names)


def _columns(part: EvalResult) -> tuple[np.ndarray, ...]:
    return part.class_p, part.class_r, part.class_ap50, part.class_ap


@dataclass
class MaskTally(Tally):
    """What is gathered image by image."""

    correct_masks: list[np.ndarray] = field(default_factory=list)

    def result(self, names: dict[int, str]) -> MaskResult:  # type: ignore[override]
        """Work out the measures."""
        losses = (0.0,) * 4 if self.loss is None else tuple((self.loss.cpu() / max(self.batches, 1)).tolist())
        box, mask = (self.measures(right, losses, names) for right in (self.correct, self.correct_masks))
        return MaskResult(box, mask)


@dataclass
class MaskPass(Pass):
    """Takes a batch from the loader to counted detections with masks."""

    overlap: bool = False
    full_size: bool = False

    def _suppress(self, output: Any, targets: Tensor, count: int) -> list[Tensor]:
        self.nms["nm"] = output[1].shape[1]
        return super()._suppress(output, targets, count)

    def _loss_items(self, output: Any, targets: Tensor, *more: Any) -> Tensor:
        decoded_with_more = output[2] if len(output) > 2 else output[1]
        raw = [level.float() for level in decoded_with_more]
        return self.loss((raw, output[1].float()), targets, more[0].to(self.device, non_blocking=True))[1]

    def _kept(self, output: Any) -> Tensor:
        return output[1]

    def _count(self, *facts: Any) -> BatchResult:
        *seen, predictions, protos, masks = facts
        plain = in_original_pixels(*seen, [rows[:, :6] for rows in predictions])
        batch = MaskBatch(
            **{f.name: getattr(plain, f.name) for f in fields(plain)}, truth=masks.to(self.device, non_blocking=True),
            overlap=self.overlap, coefficients=[rows[:, 6:] for rows in predictions], protos=torch.cat(protos),
            full_size=self.full_size,
        )  # fmt: skip
        thresholds = torch.from_numpy(IOU_THRESHOLDS)
        for i, (detections, labels) in enumerate(zip(batch.detections, batch.labels, strict=True)):
            self.tally.add(detections.numpy(), labels)
            right = np.zeros((len(detections), len(thresholds)), bool)
            if len(detections) and len(labels):
                found, truth = batch.masks(i), batch.label_masks(i)
                rows = torch.from_numpy(labels).to(found.device)
                args = (detections.to(found.device), rows, thresholds, found, truth, self.overlap)
                right = process_batch(*args, masks=True).numpy()
            self.tally.correct_masks.append(right)
        return batch


class MaskPictures(Pictures):
    """Save pictures of the first batches, with labels and with predictions, each with its masks."""

    def __call__(self, batch: MaskBatch) -> None:  # type: ignore[override]
        """Save the pictures of one batch."""
        if batch.index >= PICTURED_BATCHES:
            return
        from utils.plots import output_to_target
        from utils.segment.plots import plot_images_and_masks

        stem = self.save_dir / f"val_batch{batch.index}"
        predicted = output_to_target(batch.predictions, PICTURED_MASKS)
        masks = torch.cat([batch.masks(i, PICTURED_MASKS).cpu() for i in range(len(batch.pixels))])
        facts = (batch.paths, f"{stem}_labels.jpg", self.names)
        plot_images_and_masks(batch.pixels, batch.targets, batch.truth.cpu(), *facts)
        plot_images_and_masks(batch.pixels, predicted, masks, batch.paths, f"{stem}_pred.jpg", self.names)


def mask_parts(overlap: bool, full_size: bool = False) -> Parts:
    """Return what an evaluation of masks is made of.

    Args:
        overlap: the loader gives one map of label numbers per image.
        full_size: compare masks at the size of the network's input, not of the prototypes.
    """
    step = partial(MaskPass, overlap=overlap, full_size=full_size)
    return Parts(step, MaskTally, MaskPictures, MASK_HEADER)
