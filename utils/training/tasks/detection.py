"""Training for boxes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.helpers import one_cycle
from utils.hyperparameters import Hyperparameters
from utils.training import build, class_balance
from utils.training.amp import choose_dtype
from utils.training.class_balance import ClassBalance
from utils.training.engine import DETECTION_LOSSES, images_and_targets
from utils.training.schedule import Schedule, linear_lr
from utils.training.task import Loaders, Result, Task
from utils.training.world import World


class Detection(Task):
    """Boxes: train.py."""

    script = "train.py"
    losses = DETECTION_LOSSES
    result_columns = (
        "metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "val/box_loss",
        "val/obj_loss", "val/cls_loss",
    )  # fmt: skip

    def load_settings(self, hyp: Any, opt: argparse.Namespace) -> Hyperparameters:
        """Return the typed settings of a hyp file, mapping or object."""
        return build.load_hyperparameters(hyp)

    def load_data(self, opt: argparse.Namespace) -> build.Data:
        """Check the data YAML."""
        return build.load_data(opt.data, opt.single_cls)

    def resolve_settings(self, hyp: Hyperparameters, opt: argparse.Namespace, data: build.Data) -> Hyperparameters:
        """Take in --label-smoothing, class weights given elsewhere, and --image-weights."""
        hyp = build.with_label_smoothing(hyp, opt.label_smoothing)
        return class_balance.resolve_settings(hyp, opt, data)

    def build_model(
        self, opt: argparse.Namespace, checkpoint: Any, data: build.Data, hyp: Hyperparameters, device: torch.device
    ) -> nn.Module:
        """Build the network that --cfg or the checkpoint describes."""
        from models.yolo import Detect, Model

        return build.build_model(opt.cfg, checkpoint, data, hyp, bool(opt.resume), device, Model, Detect)

    def choose_dtype(self, model: nn.Module, device: torch.device) -> torch.dtype | None:
        """Choose by whether decoded boxes agree with float32."""
        return choose_dtype(model, device)

    def build_optimizer(
        self, model: nn.Module, opt: argparse.Namespace, hyp: Hyperparameters, batch_size: int
    ) -> torch.optim.Optimizer:
        """Build the optimizer of the hyp file's rates."""
        return build.build_optimizer(model, opt.optimizer, hyp, batch_size)

    def build_schedule(self, opt: argparse.Namespace, hyp: Hyperparameters, batches: int, batch_size: int) -> Schedule:
        """Return a warm-up, then rates that fall in a line or along a cosine."""
        return Schedule(
            one_cycle(1, hyp["lrf"], opt.epochs) if opt.cos_lr else linear_lr(opt.epochs, hyp["lrf"]),
            Schedule.count_warmup_steps(hyp["warmup_epochs"], batches),
            hyp["warmup_bias_lr"], hyp["warmup_momentum"], hyp["momentum"], batch_size,
        )  # fmt: skip

    def build_loaders(
        self, opt: argparse.Namespace, hyp: Hyperparameters, data: build.Data, imgsz: int, stride: int,
        batch_size: int, world: World,
    ) -> Loaders:  # fmt: skip
        """Build the loaders of images and boxes."""
        from utils.dataloaders import create_dataloader

        return build.build_loaders(opt, hyp, data, imgsz, stride, batch_size, world, create_dataloader)

    def fit_model(  # noqa: PLR0913 (what a model is fitted to)
        self, opt: argparse.Namespace, hyp: Hyperparameters, data: build.Data, model: nn.Module, dataset: Any,
        imgsz: int, is_first: bool,
    ) -> Hyperparameters:  # fmt: skip
        """Scale the gains, fit the anchors, attach classes and settings."""
        hyp = hyp.scaled(nc=data.nc, nl=model.model[-1].nl, imgsz=imgsz)
        if is_first:
            build.fit_anchors(opt, hyp, model, dataset, imgsz)
        build.attach_facts(model, hyp, data, dataset, next(model.parameters()).device)
        return hyp

    def build_criterion(
        self, model: nn.Module, opt: argparse.Namespace, hyp: Hyperparameters, balance: ClassBalance, world: World
    ) -> Any:
        """Build the loss of boxes, objectness and classes."""
        from utils.loss import ComputeLoss

        return build.build_criterion(ComputeLoss, model, hyp, balance, world)

    def feed(self, batch: Any, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return images 0 to 1 and targets."""
        return images_and_targets(batch, device)

    def evaluate(self, run: Any, pictured: bool) -> Result:
        """Measure P, R and mAP of the averaged weights."""
        from utils.evaluation import evaluate

        return evaluate(**self.evaluation_settings(run), plots=pictured)

    def evaluation_settings(self, run: Any) -> dict[str, Any]:
        """Return the arguments of an evaluation during training."""
        return {
            "model": run.engine.ema.ema, "loader": run.val_loader, "names": run.data.names,
            "single_cls": run.opt.single_cls, "half": run.engine.amp_dtype is torch.float16,
            "compute_loss": run.engine.criterion.for_validation(), "callbacks": run.callbacks, "save_dir": run.folder,
        }  # fmt: skip

    def evaluate_best(self, run: Any) -> tuple[float, ...]:
        """Measure best.pt as val.py does."""
        import val

        results, _, _ = val.run(
            **self.final_settings(run), callbacks=run.callbacks, thresholds_file=run.folder / "thresholds.yaml",
            diagnose=_diagnosis(run),
        )  # fmt: skip
        return tuple(results)

    def final_settings(self, run: Any) -> dict[str, Any]:
        """Return the arguments with which the validation script measures best.pt."""
        from models.experimental import attempt_load

        device = run.engine.device
        model = attempt_load(run.best, device)
        return {
            "data": run.data.facts, "batch_size": run.opt.batch_size // run.engine.world.size * 2, "imgsz": run.imgsz,
            "model": model.half() if device.type == "cuda" else model, "half": device.type == "cuda",
            "iou_thres": 0.65 if run.data.is_coco else 0.60, "single_cls": run.opt.single_cls,
            "dataloader": run.val_loader, "save_dir": run.folder, "save_json": run.data.is_coco, "verbose": True,
            "plots": not run.opt.noplots, "compute_loss": run.engine.criterion.for_validation(),
        }  # fmt: skip

    def fitness(self, results: tuple[float, ...]) -> float:
        """Return 0.1 mAP50 + 0.9 mAP50-95."""
        from utils.metrics import fitness

        return float(fitness(np.asarray(results, dtype=np.float64).reshape(1, -1))[0])

    def draw_labels(self, labels: np.ndarray, data: build.Data, folder: Path) -> None:
        """Save labels.jpg and labels_correlogram.jpg."""
        from utils.plots import plot_labels

        plot_labels(labels, data.names, folder)

    def draw_batch(self, images: Tensor, batch: Any, path: Path, data: build.Data) -> None:
        """Save a batch with its boxes."""
        from utils.plots import plot_images

        plot_images(images, batch[1][:, :6].cpu(), batch[2], path, data.names)

    def draw_results(self, folder: Path) -> list[str]:
        """Draw the curves over epochs."""
        from utils.plots import plot_results

        plot_results(file=folder / "results.csv")
        return ["results", "confusion_matrix", "F1_curve", "PR_curve", "P_curve", "R_curve"]


def _diagnosis(run: Any) -> bool | dict[str, Any]:
    """Return what val.py passes on to the diagnosis of the best weights, False without ``--diagnose``."""
    if not run.opt.diagnose:
        return False
    last = run.opt.epochs - 1
    return {"hyp": run.as_read, "weights": [str(run.best)], "log": run.log.tensorboard, "step": last}
