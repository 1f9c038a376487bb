"""Training for the class of whole images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.balance.samplers import Draw
from utils.classification.balance import balance_settings
from utils.classification.evaluation import ClassifyResult, evaluate, example_batch, predicted_classes
from utils.errors import InputError
from utils.hyperparameters import Hyperparameters
from utils.logs import LOGGER, colorstr
from utils.training import build, class_balance
from utils.training.class_balance import ClassBalance
from utils.training.schedule import NOMINAL_BATCH_SIZE, Schedule, linear_lr
from utils.training.task import Loaders, Task
from utils.training.world import World

LAST_RATE = 0.01  # of the last epoch, in units of --lr0
MOMENTUM = 0.9  # or Adam's first beta
PICTURED_IMAGES = 25
NO_WARMUP = -1  # number of the last warm-up step


class EpochResult:
    """A validation during training, as ``utils.training.task.Result``."""

    def __init__(self, result: ClassifyResult):
        self.result = result

    def as_tuple(self) -> tuple[float, ...]:
        """Return loss, top-1 and top-5 accuracy."""
        return self.result.loss, self.result.top1, self.result.top5

    def maps(self, nc: int | None = None) -> np.ndarray:
        """Return the top-1 accuracy of each class (nc,); one without images gets the mean."""
        return np.nan_to_num(self.result.of_classes()["top1"], nan=self.result.balanced)

    def per_class(self, *, training_stats: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of per_class.csv: R is the class's top-1 accuracy."""
        columns = self.result.of_classes()
        images = columns["images"]
        measured = {"images": images, "instances": images, "p": columns["precision"], "r": columns["top1"]}
        return {**measured, **training_stats}


class Classification(Task):
    """Classes of whole images: classify/train.py."""

    script = "classify/train.py"
    losses = {"loss": "cross-entropy"}  # noqa: RUF012 (never changed)
    rate_columns = ("lr/0",)
    width = 23

    def __init__(self) -> None:
        self.result_columns = ("val/loss", "metrics/accuracy_top1", "metrics/accuracy_top5")
        self.dataset: Any = None

    def load_settings(self, hyp: Any, opt: argparse.Namespace) -> Hyperparameters:
        """Return the class balance settings of a hyp file, mapping or object."""
        return hyp if isinstance(hyp, Hyperparameters) else balance_settings(hyp)

    def load_data(self, opt: argparse.Namespace) -> build.Data:
        """Check the image folders; of the two splits the training images name the classes."""
        from utils.classification.folders import find_data, measured_split, scan_split, training_split
        from utils.torch_utils import torch_distributed_zero_first

        with torch_distributed_zero_first(World.from_environment().local_rank):  # it fetches, and writes the caches
            root = find_data(opt.data)
            folders = training_split(root), measured_split(root)
            train = scan_split(folders[0], None, colorstr("train: "))
            if len(train.classes) < 2:
                raise InputError(f"{train.root}: one class folder found ({train.classes[0]}), allowed are two and more")
            name = folders[1].name
            measured = scan_split(folders[1], train.classes, colorstr(f"{name}: "), every_class=False)
        self.result_columns = (f"{name}/loss", *self.result_columns[1:])
        return build.Data({"path": root}, dict(enumerate(train.classes)), train, measured, False)

    def resolve_settings(self, hyp: Hyperparameters, opt: argparse.Namespace, data: build.Data) -> Hyperparameters:
        """Check class weights and samplers against the classes."""
        return class_balance.resolve_settings(hyp, opt, data)

    def build_model(
        self, opt: argparse.Namespace, checkpoint: Any, data: build.Data, hyp: Hyperparameters, device: torch.device
    ) -> nn.Module:
        """Build the network that --model names, or take that of the run to resume."""
        from utils.classification.networks import initial_network, require_classifier

        if opt.resume:
            require_classifier(checkpoint["model"], opt.weights)
            return checkpoint["model"].float().requires_grad_(True).to(device)
        network = initial_network(
            str(opt.model), data.nc, cutoff=opt.cutoff, pretrained=opt.pretrained, dropout=opt.dropout
        )  # fmt: skip
        if opt.verbose:
            LOGGER.info(network)
        return network.half().float().to(device)  # as checkpoints store it, so that a run starts from what it saves

    def choose_dtype(self, model: nn.Module, device: torch.device) -> torch.dtype | None:
        """Choose float16 on CUDA, as YOLOv5 does, where the network's scores do not overflow in it."""
        if device.type != "cuda":
            return None
        model.eval()
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.float16):
            finite = model(torch.zeros(1, 3, 224, 224, device=device)).isfinite().all()
        return torch.float16 if bool(finite) else torch.bfloat16 if torch.cuda.is_bf16_supported() else None

    def image_size(self, imgsz: int, stride: int) -> int:
        """Return ``--imgsz`` as it is: the head averages maps of any size."""
        return imgsz

    def build_optimizer(
        self, model: nn.Module, opt: argparse.Namespace, hyp: Hyperparameters, batch_size: int
    ) -> torch.optim.Optimizer:
        """Build the optimizer of --optimizer, --lr0 and --decay."""
        from utils.torch_utils import smart_optimizer

        optimizer = smart_optimizer(model, opt.optimizer, opt.lr0, MOMENTUM, opt.decay)
        for group in optimizer.param_groups:
            group["initial_lr"] = opt.lr0
        return optimizer

    def build_schedule(self, opt: argparse.Namespace, hyp: Hyperparameters, batches: int, batch_size: int) -> Schedule:
        """Return rates that fall in a line, without warm-up; the optimizer steps after every batch, however small."""
        falling = linear_lr(opt.epochs, LAST_RATE)
        return Schedule(falling, NO_WARMUP, opt.lr0, MOMENTUM, MOMENTUM, NOMINAL_BATCH_SIZE)

    def build_loaders(
        self, opt: argparse.Namespace, hyp: Hyperparameters, data: build.Data, imgsz: int, stride: int,
        batch_size: int, world: World,
    ) -> Loaders:  # fmt: skip
        """Build the loaders of images, classes and paths."""
        from utils.dataloaders import create_classification_dataloader as create
        from utils.torch_utils import torch_distributed_zero_first

        common = {"cache": opt.cache, "workers": opt.workers, "seed": opt.seed, "paths": True}
        with torch_distributed_zero_first(world.local_rank):  # the first process of a machine writes the cache
            loader = create(data.train, imgsz, batch_size, True, rank=world.rank, **common, prefix=colorstr("train: "))
        self.dataset = loader.dataset
        if not world.is_main:
            return loader, loader.dataset, None
        measured = create(data.val, imgsz, batch_size * 2, False, shuffle=False, **common, prefix=colorstr("val: "))
        return loader, loader.dataset, measured

    def fit_model(  # noqa: PLR0913 (what a model is fitted to)
        self, opt: argparse.Namespace, hyp: Hyperparameters, data: build.Data, model: nn.Module, dataset: Any,
        imgsz: int, is_first: bool,
    ) -> Hyperparameters:  # fmt: skip
        """Attach the classes."""
        model.nc, model.names = data.nc, data.names
        return hyp

    def build_criterion(
        self, model: nn.Module, opt: argparse.Namespace, hyp: Hyperparameters, balance: ClassBalance, world: World
    ) -> Any:
        """Build the cross-entropy with --label-smoothing and what balances classes."""
        from utils.classification.criterion import ClassificationLoss
        from utils.training.distributed import world_sum

        weights = None if balance.weights is None else balance.weights.values
        return ClassificationLoss(
            opt.label_smoothing, nc=len(model.names), device=next(model.parameters()).device, hyp=hyp, weights=weights,
            counts=balance.instances, world_sum=world_sum if world.is_distributed else None,
        )  # fmt: skip

    def feed(self, batch: Any, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return normalised images and classes (b,)."""
        images = batch[0].to(device, non_blocking=True, memory_format=torch.channels_last)
        return images, (batch[1].to(device, non_blocking=True),)

    def evaluate(self, run: Any, pictured: bool) -> EpochResult:
        """Measure the accuracies of the averaged weights."""
        result = self._measure(run, run.engine.ema.ema)
        result.log_table(per_class=run.opt.verbose)
        return EpochResult(result)

    def evaluate_best(self, run: Any) -> tuple[float, ...]:
        """Measure best.pt; write per_class_best.csv, and with pictures confusion_matrix.png and test_images.jpg."""
        from models.experimental import attempt_load

        model = attempt_load(run.best, run.engine.device)
        result = self._measure(run, model)
        result.log_table()
        pictures = not run.opt.noplots
        result.save(run.folder, pictures, table="per_class_best.csv")
        if pictures:
            images, classes = example_batch(run.val_loader.dataset, PICTURED_IMAGES)
            self._draw(images, classes, run.folder / "test_images.jpg", run.data, predicted_classes(model, images))
        return result.loss, result.top1, result.top5

    @staticmethod
    def _measure(run: Any, model: nn.Module) -> ClassifyResult:
        return evaluate(
            model, run.val_loader, run.data.names, criterion=run.engine.criterion.for_validation(),
            device=run.engine.device, amp=run.engine.amp_dtype is not None,
            after_batch=lambda: run.callbacks.run("on_val_batch_start"),
        )  # fmt: skip

    def fitness(self, results: tuple[float, ...]) -> float:
        """Return the top-1 accuracy."""
        return results[1]

    def draw_labels(self, labels: np.ndarray, data: build.Data, folder: Path) -> None:
        """Save train_images.jpg: images spread over the classes, as the first epoch augments them."""
        chosen = np.unique(np.linspace(0, len(self.dataset) - 1, PICTURED_IMAGES).round().astype(int))
        items = [self.dataset[Draw(int(i), 0, position)] for position, i in enumerate(chosen)]
        images, classes = torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])
        self._draw(images, classes, folder / "train_images.jpg", data)

    @staticmethod
    def _draw(images: Tensor, classes: Tensor, path: Path, data: build.Data, found: Tensor | None = None) -> None:
        from utils.plots import imshow_cls

        imshow_cls(images, classes, found, data.names, nmax=PICTURED_IMAGES, f=path)

    def draw_batch(self, images: Tensor, batch: Any, path: Path, data: build.Data) -> None:
        """Save nothing: ``draw_labels`` shows augmented images."""

    def draw_results(self, folder: Path) -> list[str]:
        """Draw nothing more; return the confusion matrix's stem."""
        return ["confusion_matrix"]
