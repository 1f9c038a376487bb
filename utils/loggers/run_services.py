"""What a training run reports to online services beside its numbers: checkpoints, boxes, classes, the data set."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.loggers.service import Start
from utils.loggers.services import Services, open_services
from utils.logs import LOGGER


def open_for_run(run: Any) -> Services:
    """Begin a training run in the services that the user has configured, and attach the reports to its hooks.

    Args:
        run: utils.training.run.Run whose folder is claimed. The trials of --evolve report nothing.

    Raises:
        InputError: YOLOV5_LOGGERS names something unknown.
    """
    opt = run.opt
    if opt.evolve:
        return Services()
    services = open_services(start_of(opt, run.folder, run.as_read), resumed=bool(opt.resume))
    say_unused(opt, services)
    if services:
        RunHooks(
            services, run.folder, opt.epochs, opt.save_period, opt.bbox_interval, run.data.names, not opt.noplots
        ).attach(run.callbacks)
        if opt.upload_dataset and not opt.resume:
            upload(services, run.dataset, run.val_loader.dataset, str(opt.upload_dataset) == "val")
    return services


def start_of(opt: argparse.Namespace, folder: Path, hyp: Mapping[str, Any]) -> Start:
    """Return what the services are told at a run's beginning."""
    from utils.training.options import plain_options

    options = {key: value for key, value in plain_options(opt).items() if key != "hyp"}
    project, root = Path(str(opt.project)), Path(__file__).resolve().parents[2]
    if project.is_absolute() and project.is_relative_to(root):
        project = project.relative_to(root)
    name = str(opt.name) if opt.name != "exp" else None
    title = web_project_name(project.as_posix())
    title = title if title != project.as_posix() else project.name
    plain = dict(hyp) if isinstance(hyp, Mapping) else {"hyp": str(hyp)}
    return Start(Path(folder), title, name, options, plain, getattr(opt, "entity", None))


def web_project_name(project: str) -> str:
    """Return a project's name for a web service: the default folders are called YOLOv5 and the task."""
    if not project.startswith("runs/train"):
        return project
    return {"cls": "YOLOv5-Classify", "seg": "YOLOv5-Segment"}.get(project.rpartition("-")[2], "YOLOv5")


def say_unused(opt: argparse.Namespace, services: Services) -> None:
    """Say which options of Weights & Biases have no effect without it."""
    if opt.entity and not services.find("wandb") and not services.find("comet"):
        LOGGER.warning(f"WARNING --entity {opt.entity}: has no effect without wandb or comet (docs/loggers.md)")
    if opt.upload_dataset and not services.find("wandb"):
        LOGGER.warning(f"WARNING --upload_dataset {opt.upload_dataset}: has no effect without wandb (docs/loggers.md)")


def upload(services: Services, train: Any, val: Any, only_val: bool) -> None:
    """Upload the images and labels of a data set, or its validation part."""
    files: dict[str, Path] = {}
    for part, dataset in (("train", train), ("val", val)):
        if part == "train" and only_val:
            continue
        for kind, found in (("images", dataset.im_files), ("labels", dataset.label_files)):
            for number, file in enumerate(found):
                if Path(file).is_file():
                    files[f"{kind}/{part}/{number:06d}_{Path(file).name}"] = Path(file)
    services.tell("data_set", files)


@dataclass
class RunHooks:
    """Reports of a training run beside its numbers: checkpoints, boxes, the last confusion matrix, the end.

    Attributes:
        services: where they go.
        folder: of the run.
        epochs: of the run.
        save_period: after so many epochs last.pt is uploaded, -1 for never.
        bbox_interval: after so many epochs pictures with boxes are shown, -1 for a tenth of the run.
        names: class number -> name.
        plots: whether pictures are shown.
    """

    services: Services
    folder: Path
    epochs: int
    save_period: int
    bbox_interval: int
    names: Mapping[int, str]
    plots: bool = True
    epoch: int = 0
    shown: int = 0
    measured: tuple[Any, ...] = ()

    MOST_SHOWN = 16  # images of an epoch
    LEAST_CONFIDENCE = 0.25

    def attach(self, callbacks: Any) -> None:
        """Attach the reports to a run's hooks."""
        hooks: dict[str, Callable[..., None]] = {
            "on_pretrain_routine_end": self.show_labels, "on_train_epoch_end": self.begin_validation,
            "on_val_image_end": self.show_boxes, "on_val_end": self.keep_measures,
            "on_model_save": self.save_checkpoint, "on_train_end": self.end,
        }  # fmt: skip
        for hook, action in hooks.items():
            callbacks.register_action(hook, "services", action)

    def show_labels(self, labels: Any, names: Any) -> None:
        """Show the pictures of the labels."""
        stems = ("labels", "labels_correlogram")
        self.services.pictures({stem: self.folder / f"{stem}.jpg" for stem in stems if self.plots}, 0)

    def begin_validation(self, epoch: int) -> None:
        """Note which epoch is validated."""
        self.epoch, self.shown = epoch, 0

    def show_boxes(self, pred: Any, predn: Any, path: Path, names: Mapping[int, str], im: Any) -> None:
        """Show an image with its detections (k, 6), both in the network's pixels."""
        every = self.bbox_interval if self.bbox_interval > 0 else max(self.epochs // 10, 1)
        if not self.plots or self.shown >= self.MOST_SHOWN or self.epoch % every or not self.services.find("wandb"):
            return
        self.shown += 1
        boxes = pred[pred[:, 4] > self.LEAST_CONFIDENCE].float().cpu().numpy()
        image = (im.float() * 255).byte().permute(1, 2, 0).cpu().numpy()
        self.services.tell("detections", image, boxes, names, Path(path).name, self.epoch)

    def keep_measures(self, *measures: Any) -> None:
        """Keep what a validation measured, the ten values of on_val_end: the last one is that of the best weights."""
        self.measured = measures

    def save_checkpoint(self, last: Path, epoch: int, final_epoch: bool, best_fitness: float, fi: float) -> None:
        """Upload last.pt after every ``save_period`` epochs."""
        if self.save_period > 0 and (epoch + 1) % self.save_period == 0 and not final_epoch:
            aliases = ["latest", f"epoch {epoch}", *(["best"] if best_fitness == fi else [])]
            facts = {"epoch": epoch, "fitness": float(fi), "best_fitness": float(best_fitness)}
            self.services.tell("checkpoint", Path(last), aliases, facts)

    def end(self, last: Path, best: Path, epoch: int, results: Sequence[float]) -> None:
        """Report classes and confusion of the best weights, upload them, and end the run."""
        if self.services:
            self._report_classes(epoch)
            names = ("precision", "recall", "mAP_0.5", "mAP_0.5:0.95")
            values = dict(zip((f"best/{name}" for name in names), map(float, results), strict=False))
            self.services.tell("summary", {key: value for key, value in values.items() if math.isfinite(value)})
            final = Path(best) if Path(best).is_file() else Path(last)
            if final.is_file():
                self.services.tell("checkpoint", final, ["latest", "best", "stripped"], {"epoch": epoch, **values})
        self.services.close()

    def _report_classes(self, epoch: int) -> None:
        if len(self.measured) != 10:
            return
        instances, _, _, p, r, _, ap, ap50, classes, matrix = self.measured
        columns = ("class", "instances", "P", "R", "mAP50", "mAP50-95")
        rows = [
            [self.names.get(int(c), str(c)), int(instances[c]), *map(float, (p[i], r[i], ap50[i], ap[i]))]
            for i, c in enumerate(classes)
        ]
        self.services.tell("table", "per_class", columns, rows, epoch)
        names = [self.names.get(i, str(i)) for i in range(len(matrix.matrix) - 1)]
        self.services.tell("confusion", np.asarray(matrix.matrix), [*names, "background"], epoch)
