"""What differs between training for boxes, for masks and for whole images: one object with the members below.

``utils/training/session.py`` trains any task, ``utils/training/run.py`` and ``engine.py`` ask it for what they do not
know themselves. ``utils/training/tasks/`` holds detection; segmentation adds masks to it.
"""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from utils.hyperparameters import Hyperparameters
from utils.training.class_balance import ClassBalance, apply_class_balance
from utils.training.world import World

if TYPE_CHECKING:
    from utils.training.build import Data
    from utils.training.run import Run
    from utils.training.schedule import Schedule

Loaders = tuple[Any, Any, Any]


class Result(Protocol):
    """What a validation after an epoch measured."""

    def as_tuple(self) -> tuple[float, ...]:
        """Return the values of the task's ``result_columns``."""

    def maps(self, nc: int | None = None) -> np.ndarray:
        """Return how well each class is found, (nc,) 0 to 1, for samplers that follow it."""

    def per_class(self, *, training_stats: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the columns of per_class.csv by their keys."""


class Task(ABC):
    """One kind of training.

    Attributes:
        script: the command, as messages name it.
        losses: column of a loss term in the console's table and, behind ``train/``, in results.csv -> its name in
            words. The criterion's items are in this order.
        result_columns: of results.csv, between the training losses and the rates.
        rate_columns: of results.csv: the rates of the optimizer's first groups.
        width: of the columns of results.csv, in characters.
    """

    script: str
    losses: Mapping[str, str]
    result_columns: tuple[str, ...]
    rate_columns: tuple[str, ...] = ("x/lr0", "x/lr1", "x/lr2")
    width: int = 20

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of results.csv."""
        return ("epoch", *(f"train/{name}" for name in self.losses), *self.result_columns, *self.rate_columns)

    # Before the first step -------------------------------------------------------------------------------------------

    @abstractmethod
    def load_settings(self, hyp: Any, opt: argparse.Namespace) -> Hyperparameters:
        """Return the settings of a hyp file, a mapping or an object, as given."""

    @abstractmethod
    def load_data(self, opt: argparse.Namespace) -> Data:
        """Check the data set that the options name."""

    @abstractmethod
    def resolve_settings(self, hyp: Hyperparameters, opt: argparse.Namespace, data: Data) -> Hyperparameters:
        """Return the settings with what options and data set add, checked together."""

    @abstractmethod
    def build_model(
        self, opt: argparse.Namespace, checkpoint: Any, data: Data, hyp: Hyperparameters, device: torch.device
    ) -> nn.Module:
        """Build the network for the data's classes with the weights of the checkpoint, which may be None."""

    @abstractmethod
    def choose_dtype(self, model: nn.Module, device: torch.device) -> torch.dtype | None:
        """Return the autocast type for training, None for float32."""

    def image_size(self, imgsz: int, stride: int) -> int:
        """Return the side of the training images: ``--imgsz`` rounded up to what the network takes."""
        from utils.training.build import check_image_size

        return check_image_size(imgsz, stride)

    @abstractmethod
    def build_optimizer(
        self, model: nn.Module, opt: argparse.Namespace, hyp: Hyperparameters, batch_size: int
    ) -> torch.optim.Optimizer:
        """Build the optimizer; each group has ``initial_lr``. ``batch_size`` is that of all processes."""

    @abstractmethod
    def build_schedule(self, opt: argparse.Namespace, hyp: Hyperparameters, batches: int, batch_size: int) -> Schedule:
        """Return rates, momenta and accumulation of every step; ``batches`` are those of an epoch."""

    @abstractmethod
    def build_loaders(
        self, opt: argparse.Namespace, hyp: Hyperparameters, data: Data, imgsz: int, stride: int, batch_size: int,
        world: World,
    ) -> Loaders:  # fmt: skip
        """Return the training loader, its data set, and the validation loader (None but on the main process).

        A batch begins with images (b, 3, h, w), targets, paths. The data set has ``labels``, n arrays (m, 5) class and
        box, ``im_files``, ``label_files``, ``shapes`` (n, 2), ``n`` and ``changes``.
        """

    def balance_classes(self, hyp: Hyperparameters, data: Data, loader: Any, dataset: Any) -> ClassBalance:
        """Resolve weights and samplers on the data set and put samplers in force."""
        return apply_class_balance(hyp, data, loader, dataset)

    @abstractmethod
    def fit_model(  # noqa: PLR0913 (what a model is fitted to)
        self, opt: argparse.Namespace, hyp: Hyperparameters, data: Data, model: nn.Module, dataset: Any, imgsz: int,
        is_first: bool,
    ) -> Hyperparameters:  # fmt: skip
        """Fit the model to the data set, attach what checkpoints carry; return the settings scaled to both.

        Args:
            opt, hyp, data, model, dataset, imgsz: of the run.
            is_first: this is the main process, and the run is not resumed.
        """

    @abstractmethod
    def build_criterion(
        self, model: nn.Module, opt: argparse.Namespace, hyp: Hyperparameters, balance: ClassBalance, world: World
    ) -> Any:
        """Build the loss: ``(outputs, *targets) -> (loss (1,), items)`` with the methods of ``utils.loss.ComputeLoss``.

        These are ``set_epoch``, ``for_validation``, ``track_loss_share``, ``loss_share``, ``state_dict``,
        ``load_state_dict``, ``running_tensors``, and the attributes ``is_filler`` and ``weights_in_force``.
        """

    # Steps and epochs ------------------------------------------------------------------------------------------------

    @abstractmethod
    def feed(self, batch: Any, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return a loader's batch as images for the network and the criterion's further arguments, on the device."""

    @abstractmethod
    def evaluate(self, run: Run, pictured: bool) -> Result:
        """Measure the averaged weights on the validation set; with ``pictured`` save pictures of its first batches."""

    @abstractmethod
    def evaluate_best(self, run: Run) -> tuple[float, ...]:
        """Measure best.pt at the end, with pictures and tables; return the values of ``result_columns``."""

    @abstractmethod
    def fitness(self, results: tuple[float, ...]) -> float:
        """Return by what the best epoch is chosen."""

    # Pictures --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def draw_labels(self, labels: np.ndarray, data: Data, folder: Path) -> None:
        """Save pictures of the training labels (n, 5)."""

    @abstractmethod
    def draw_batch(self, images: Tensor, batch: Any, path: Path, data: Data) -> None:
        """Save a picture of a training batch: the images as trained on, on the CPU, and the loader's batch."""

    @abstractmethod
    def draw_results(self, folder: Path) -> list[str]:
        """Draw results.csv at the end; return the stems of all .png files in the folder for TensorBoard."""
