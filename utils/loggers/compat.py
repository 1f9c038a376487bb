"""The logger classes of YOLOv5 by their names, for code that was written against them."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.loggers.csv_log import RESULT_COLUMNS, EpochCsv, Row, aligned_row
from utils.loggers.tensorboard_log import TensorBoardLog, open_writer
from utils.logs import LOGGER
from utils.plots import plot_images, plot_labels, plot_results

LOGGERS = ("csv", "tb", "wandb", "clearml", "comet")
FINAL_PICTURES = ("results", "confusion_matrix", "F1_curve", "PR_curve", "P_curve", "R_curve")
PICTURED_BATCHES = 3
WIDE = 23  # width of the columns of segmentation and classification results


def wide_row(values: Row) -> str:
    """Format a row in columns of 23 characters."""
    return aligned_row(values, WIDE)


def web_project_name(project: str) -> str:
    """Return a project's name for a web service: the default folders are called YOLOv5 and the task."""
    if not project.startswith("runs/train"):
        return project
    return {"cls": "YOLOv5-Classify", "seg": "YOLOv5-Segment"}.get(project.rpartition("-")[2], "YOLOv5")


def log_tensorboard_graph(tb: Any, model: nn.Module, imgsz: int | Sequence[int] = (640, 640)) -> None:
    """Write a model's graph, traced on a copy, to a SummaryWriter.

    Args:
        tb: the writer.
        model: any detection model.
        imgsz: size of the input in pixels, (height, width) or one number.
    """
    TensorBoardLog(tb, getattr(tb, "log_dir", "")).graph(model, (imgsz, imgsz) if isinstance(imgsz, int) else imgsz)


class Loggers:
    """CSV and TensorBoard as functions to attach to a training run's hooks.

    Args:
        save_dir: the run's folder.
        weights: the run's starting weights.
        opt: its options.
        hyp: its hyperparameters.
        logger: for the console.
        include: which loggers, of LOGGERS; those of web services are not here.
    """

    def __init__(  # noqa: PLR0913 (inherited signature)
        self,
        save_dir: str | Path | None = None,
        weights: str | None = None,
        opt: argparse.Namespace | None = None,
        hyp: Mapping[str, Any] | None = None,
        logger: logging.Logger | None = None,
        include: Sequence[str] = LOGGERS,
    ):
        self.save_dir = Path(save_dir or ".")
        self.weights = weights
        self.opt = opt
        self.hyp = hyp
        self.logger = logger or LOGGER
        self.include = tuple(include)
        self.plots = not getattr(opt, "noplots", False)
        self.keys = list(RESULT_COLUMNS[1:])
        self.best_keys = ["best/epoch", *(f"best/{key.partition('/')[2]}" for key in RESULT_COLUMNS[4:8])]
        self.csv = "csv" in self.include
        self.tb = open_writer(self.save_dir) if "tb" in self.include else None
        self.wandb = self.clearml = self.comet_logger = None
        self._table: EpochCsv | None = None
        self._events = TensorBoardLog(self.tb, self.save_dir)

    @property
    def remote_dataset(self) -> None:
        """No logger here brings a data set."""
        return

    def on_pretrain_routine_start(self) -> None:
        """Nothing to record."""

    def on_pretrain_routine_end(self, labels: np.ndarray | Sequence[np.ndarray], names: Mapping[int, str]) -> None:
        """Draw the labels (n, 5) class, cx, cy, w, h, whole or as a list per image."""
        if self.plots:
            table = labels if isinstance(labels, np.ndarray) else np.concatenate([*labels, np.zeros((0, 5))])
            plot_labels(table, names, self.save_dir)

    def on_train_start(self) -> None:
        """Nothing to record."""

    def on_train_batch_end(  # noqa: PLR0913 (inherited signature)
        self,
        model: nn.Module,
        ni: int,
        imgs: torch.Tensor,
        targets: torch.Tensor,
        paths: Sequence[str],
        vals: Sequence[float],
    ) -> None:
        """Draw one of the first three batches; record the graph with the first."""
        if not self.plots or ni >= PICTURED_BATCHES:
            return
        path = self.save_dir / f"train_batch{ni}.jpg"
        plot_images(imgs, targets, paths, path)
        self._events.picture(path.stem, path, 0)
        if ni == 0:
            self._events.graph(model, imgs.shape[2:])

    def on_train_epoch_end(self, epoch: int) -> None:
        """Nothing to record."""

    def on_val_start(self) -> None:
        """Nothing to record."""

    def on_val_image_end(self, pred: Any, predn: Any, path: Any, names: Any, im: Any) -> None:
        """Nothing to record."""

    def on_val_batch_end(self, batch_i: int, im: Any, targets: Any, paths: Any, shapes: Any, out: Any) -> None:  # noqa: PLR0913
        """Nothing to record."""

    def on_val_end(  # noqa: PLR0913, PLR0917 (inherited signature)
        self,
        nt: Any,
        tp: Any,
        fp: Any,
        p: Any,
        r: Any,
        f1: Any,
        ap: Any,
        ap50: Any,
        ap_class: Any,
        confusion_matrix: Any,
    ) -> None:
        """Nothing to record."""

    def on_fit_epoch_end(self, vals: Sequence[float], epoch: int, best_fitness: float, fi: float) -> None:
        """Record the 13 values of an epoch in the order of results.csv."""
        values = [float(v) for v in vals]
        if self.csv:
            self._table = self._table or EpochCsv(self.save_dir / "results.csv", RESULT_COLUMNS, epoch)
            self._table.append([[epoch, *values]])
        self._events.scalars(dict(zip(self.keys, values, strict=True)), epoch)

    def on_model_save(self, last: Path, epoch: int, final_epoch: bool, best_fitness: float, fi: float) -> None:
        """Nothing to record."""

    def on_train_end(self, last: Path, best: Path, epoch: int, results: Sequence[float]) -> None:
        """Draw the results, record the final pictures and close TensorBoard's file."""
        if self.plots and (self.save_dir / "results.csv").exists():
            plot_results(self.save_dir / "results.csv")
        for name in FINAL_PICTURES:
            path = self.save_dir / f"{name}.png"
            if self.plots and path.exists():
                self._events.picture(name, path, epoch)
        self._events.close()
        self.tb = None

    def on_params_update(self, params: Mapping[str, Any]) -> None:
        """Nothing to record."""


class GenericLogger:
    """Record any metrics by name in results.csv and TensorBoard.

    Args:
        opt: options with ``save_dir``.
        console_logger: for the console.
        include: which of 'tb', 'wandb' and 'clearml'; those of web services are not here.
    """

    def __init__(
        self,
        opt: argparse.Namespace,
        console_logger: logging.Logger,
        include: Sequence[str] = ("tb", "wandb", "clearml"),
    ):
        self.save_dir = Path(opt.save_dir)
        self.include = tuple(include)
        self.console_logger = console_logger
        self.csv = self.save_dir / "results.csv"
        self.tb = open_writer(self.save_dir) if "tb" in self.include else None
        self.wandb = self.clearml = None
        self._table: EpochCsv | None = None
        self._events = TensorBoardLog(self.tb, self.save_dir)

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record one epoch's values, the same names every time."""
        if self._table is None:
            self._table = EpochCsv(self.csv, ["epoch", *metrics], epoch, wide_row)
        self._table.append([[epoch, *(metrics[name] for name in self._table.columns[1:])]])
        self._events.scalars(metrics, epoch)

    def log_images(self, files: str | Path | Sequence[str | Path], name: str = "Images", epoch: int = 0) -> None:
        """Record image files under their stems; missing ones are left out."""
        for file in files if isinstance(files, (tuple, list)) else [files]:
            if Path(file).exists():
                self._events.picture(Path(file).stem, file, epoch)

    def log_graph(self, model: nn.Module, imgsz: int | Sequence[int] = (640, 640)) -> None:
        """Record the model's graph for an input of ``imgsz`` (height, width) pixels."""
        self._events.graph(model, (imgsz, imgsz) if isinstance(imgsz, int) else imgsz)

    def log_model(self, model_path: str | Path, epoch: int = 0, metadata: Mapping[str, Any] | None = None) -> None:
        """Nothing to record: the checkpoint lies in the run's folder."""

    def update_params(self, params: Mapping[str, Any]) -> None:
        """Nothing to record: the settings lie in the run's folder."""
