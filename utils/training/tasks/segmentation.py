"""Training for boxes and masks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.hyperparameters import Hyperparameters
from utils.segment.metrics import KEYS, fitness_of
from utils.training import build
from utils.training.class_balance import ClassBalance
from utils.training.task import Loaders, Result
from utils.training.tasks.detection import Detection
from utils.training.world import World


class Segmentation(Detection):
    """Boxes and masks: segment/train.py."""

    script = "segment/train.py"
    losses = {"box_loss": "box", "seg_loss": "mask", "obj_loss": "objectness", "cls_loss": "classification"}  # noqa: RUF012
    result_columns = tuple(KEYS[4:16])
    width = 23

    def build_model(
        self, opt: argparse.Namespace, checkpoint: Any, data: build.Data, hyp: Hyperparameters, device: torch.device
    ) -> nn.Module:
        """Build the segmentation network that --cfg or the checkpoint describes."""
        from models.yolo import Segment, SegmentationModel

        return build.build_model(opt.cfg, checkpoint, data, hyp, bool(opt.resume), device, SegmentationModel, Segment)

    def build_loaders(
        self, opt: argparse.Namespace, hyp: Hyperparameters, data: build.Data, imgsz: int, stride: int,
        batch_size: int, world: World,
    ) -> Loaders:  # fmt: skip
        """Build the loaders of images, boxes and masks."""
        from utils.segment.dataloaders import create_dataloader

        masks = {"mask_downsample_ratio": opt.mask_ratio, "overlap_mask": not opt.no_overlap}
        return build.build_loaders(opt, hyp, data, imgsz, stride, batch_size, world, create_dataloader, **masks)

    def build_criterion(
        self, model: nn.Module, opt: argparse.Namespace, hyp: Hyperparameters, balance: ClassBalance, world: World
    ) -> Any:
        """Build the loss of boxes, masks, objectness and classes."""
        from utils.segment.loss import ComputeLoss

        return build.build_criterion(ComputeLoss, model, hyp, balance, world, overlap=not opt.no_overlap)

    def feed(self, batch: Any, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return images 0 to 1, and targets with masks."""
        images, targets = super().feed(batch, device)
        return images, (*targets, batch[4].to(device, non_blocking=True))

    def evaluate(self, run: Any, pictured: bool) -> Result:
        """Measure P, R and mAP of boxes and masks."""
        from utils.evaluation import evaluate
        from utils.segment.evaluation import mask_parts

        parts = mask_parts(overlap=not run.opt.no_overlap)
        return evaluate(**self.evaluation_settings(run), plots=pictured, parts=parts)

    def evaluate_best(self, run: Any) -> tuple[float, ...]:
        """Measure best.pt as segment/val.py does."""
        from segment import val

        results, _, _ = val.run(
            **self.final_settings(run), overlap=not run.opt.no_overlap, mask_downsample_ratio=run.opt.mask_ratio,
            callbacks=run.callbacks, thresholds_file=run.folder / "thresholds.yaml",
        )  # fmt: skip
        return tuple(results)

    def fitness(self, results: tuple[float, ...]) -> float:
        """Return the sum of the boxes' and the masks' fitness."""
        return fitness_of(results)

    def draw_batch(self, images: Tensor, batch: Any, path: Path, data: build.Data) -> None:
        """Save a batch with its boxes and masks."""
        from utils.segment.plots import plot_images_and_masks

        plot_images_and_masks(images, batch[1][:, :6].cpu(), batch[4], batch[2], path, data.names)

    def draw_results(self, folder: Path) -> list[str]:
        """Draw the curves over epochs."""
        from utils.segment.plots import plot_results_with_masks

        plot_results_with_masks(file=folder / "results.csv")
        curves = [f"{kind}_{curve}_curve" for kind in ("Box", "Mask") for curve in ("F1", "PR", "P", "R")]
        return ["results", "confusion_matrix", *curves]
