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
from utils.loggers.run_services import RunHooks, start_of, web_project_name
from utils.loggers.services import SERVICES, Services, open_services
from utils.loggers.tensorboard_log import TensorBoardLog, open_writer
from utils.logs import LOGGER
from utils.plots import plot_images, plot_labels, plot_results

LOGGERS = ("csv", "tb", "wandb", "clearml", "comet")
FINAL_PICTURES = ("results", "confusion_matrix", "F1_curve", "PR_curve", "P_curve", "R_curve")
PICTURED_BATCHES = 3
__all__ = ("LOGGERS", "GenericLogger", "Loggers", "log_tensorboard_graph", "web_project_name")
WIDE = 23  # width of the columns of segmentation and classification results


def wide_row(values: Row) -> str:
    """Format a row in columns of 23 characters."""
    return aligned_row(values, WIDE)


def _services(folder: Path, opt: argparse.Namespace | None, hyp: Mapping[str, Any], include: Sequence[str]) -> Services:
    """Begin a run in the configured services among ``include``; MLflow comes with any of them."""
    names = [name for name in SERVICES if name in include or (name == "mlflow" and {*include} & {*SERVICES})]
    if not names:
        return Services()
    values = {"project": "runs/train", "name": "exp", **(vars(opt) if opt is not None else {})}
    start = start_of(argparse.Namespace(**values), folder, hyp)
    return open_services(start, bool(values.get("resume")), names)


def log_tensorboard_graph(tb: Any, model: nn.Module, imgsz: int | Sequence[int] = (640, 640)) -> None:
    """Write a model's graph, traced on a copy, to a SummaryWriter.

    Args:
        tb: the writer.
        model: any detection model.
        imgsz: size of the input in pixels, (height, width) or one number.
    """
    TensorBoardLog(tb, getattr(tb, "log_dir", "")).graph(model, (imgsz, imgsz) if isinstance(imgsz, int) else imgsz)


class Loggers:
    """CSV, TensorBoard and the configured online services as functions to attach to a training run's hooks.

    Args:
        save_dir: the run's folder.
        weights: the run's starting weights.
        opt: its options.
        hyp: its hyperparameters.
        logger: for the console.
        include: which loggers, of LOGGERS; a service takes part when it is configured as well (docs/loggers.md).
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
        self._services = _services(self.save_dir, opt, hyp or {}, self.include)
        self.wandb, self.clearml = self._services.find("wandb"), self._services.find("clearml")
        self.comet_logger = self._services.find("comet")
        facts = [getattr(opt, name, value) for name, value in (("epochs", 1), ("save_period", -1))]
        self._hooks = RunHooks(self._services, self.save_dir, *facts, getattr(opt, "bbox_interval", -1), {}, self.plots)
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
            self._hooks.names = dict(names)
            table = labels if isinstance(labels, np.ndarray) else np.concatenate([*labels, np.zeros((0, 5))])
            plot_labels(table, names, self.save_dir)
            self._hooks.show_labels(labels, names)

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
        self._services.pictures({path.stem: path}, 0)
        if ni == 0:
            self._events.graph(model, imgs.shape[2:])

    def on_train_epoch_end(self, epoch: int) -> None:
        """Note the epoch that is validated next."""
        self._hooks.begin_validation(epoch)

    def on_val_start(self) -> None:
        """Nothing to record."""

    def on_val_image_end(self, pred: Any, predn: Any, path: Any, names: Any, im: Any) -> None:
        """Show an image with its boxes, where a service can."""
        self._hooks.show_boxes(pred, predn, path, names, im)

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
        """Keep what was measured; the services get that of the last validation."""
        self._hooks.keep_measures(nt, tp, fp, p, r, f1, ap, ap50, ap_class, confusion_matrix)

    def on_fit_epoch_end(self, vals: Sequence[float], epoch: int, best_fitness: float, fi: float) -> None:
        """Record the 13 values of an epoch in the order of results.csv."""
        values = [float(v) for v in vals]
        if self.csv:
            self._table = self._table or EpochCsv(self.save_dir / "results.csv", RESULT_COLUMNS, epoch)
            self._table.append([[epoch, *values]])
        scalars = dict(zip(self.keys, values, strict=True))
        self._events.scalars(scalars, epoch)
        self._services.scalars(scalars, epoch)

    def on_model_save(self, last: Path, epoch: int, final_epoch: bool, best_fitness: float, fi: float) -> None:
        """Upload last.pt where --save-period asks for it."""
        self._hooks.save_checkpoint(last, epoch, final_epoch, best_fitness, fi)

    def on_train_end(self, last: Path, best: Path, epoch: int, results: Sequence[float]) -> None:
        """Draw the results, record the final pictures and close TensorBoard's file."""
        if self.plots and (self.save_dir / "results.csv").exists():
            plot_results(self.save_dir / "results.csv")
        for name in FINAL_PICTURES:
            path = self.save_dir / f"{name}.png"
            if self.plots and path.exists():
                self._events.picture(name, path, epoch)
                self._services.pictures({name: path}, epoch)
        self._hooks.end(last, best, epoch, results)
        self._events.close()
        self.tb = None

    def on_params_update(self, params: Mapping[str, Any]) -> None:
        """Record changed settings."""
        self._services.tell("parameters", params)


class GenericLogger:
    """Record any metrics by name in results.csv, TensorBoard and the configured online services.

    Args:
        opt: options with ``save_dir``.
        console_logger: for the console.
        include: which of 'tb', 'wandb', 'clearml' and 'comet'; with any of the latter also MLflow. A service takes part
            when it is configured as well (docs/loggers.md).
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
        self._services = _services(self.save_dir, opt, getattr(opt, "hyp", None) or {}, self.include)
        self.wandb, self.clearml = self._services.find("wandb"), self._services.find("clearml")
        self._table: EpochCsv | None = None
        self._events = TensorBoardLog(self.tb, self.save_dir)

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Record one epoch's values, the same names every time."""
        if self._table is None:
            self._table = EpochCsv(self.csv, ["epoch", *metrics], epoch, wide_row)
        self._table.append([[epoch, *(metrics[name] for name in self._table.columns[1:])]])
        self._events.scalars(metrics, epoch)
        self._services.scalars({name: float(value) for name, value in metrics.items()}, epoch)

    def log_images(self, files: str | Path | Sequence[str | Path], name: str = "Images", epoch: int = 0) -> None:
        """Record image files under their stems; missing ones are left out."""
        for file in files if isinstance(files, (tuple, list)) else [files]:
            if Path(file).exists():
                self._events.picture(Path(file).stem, file, epoch)
                self._services.tell("pictures", name, {Path(file).stem: Path(file)}, epoch)

    def log_graph(self, model: nn.Module, imgsz: int | Sequence[int] = (640, 640)) -> None:
        """Record the model's graph for an input of ``imgsz`` (height, width) pixels."""
        self._events.graph(model, (imgsz, imgsz) if isinstance(imgsz, int) else imgsz)

    def log_model(self, model_path: str | Path, epoch: int = 0, metadata: Mapping[str, Any] | None = None) -> None:
        """Upload a checkpoint to the services, where there are any."""
        if Path(model_path).is_file():
            facts = {"epoch": epoch, **(metadata or {})}
            self._services.tell("checkpoint", Path(model_path), ["latest", "best", "stripped"], facts)

    def update_params(self, params: Mapping[str, Any]) -> None:
        """Record settings in the services, where there are any."""
        self._services.tell("parameters", dict(params))

    def close(self) -> None:
        """Finish TensorBoard's file, and the run in the services."""
        self._events.close()
        self._services.close()
