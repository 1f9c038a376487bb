"""What a training run writes down: results.csv, per_class.csv and TensorBoard events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from utils.loggers.csv_log import RESULT_COLUMNS, EpochCsv, aligned_row, quoted_row
from utils.loggers.services import Services
from utils.loggers.tensorboard_log import TensorBoardLog, markdown_table, open_writer
from utils.plotting.fonts import name_table

# Key of a per-class column -> its heading in per_class.csv and its TensorBoard tag.
CLASS_HEADINGS = {
    "images": "images",
    "instances": "instances",
    "p": "P",
    "r": "R",
    "ap50": "AP50",
    "ap": "AP",
    "weight": "weight",
    "drawn": "drawn",
    "loss_share": "loss_share",
}
CLASS_COLUMNS = ("epoch", "class", *CLASS_HEADINGS.values())
CURVES = {key: title for key, title in CLASS_HEADINGS.items() if key not in {"images", "instances"}}  # those may change
PerClass = Mapping[str, Any]


class RunLogger:
    """Record a run in its folder; on the main process only.

    Args:
        save_dir: the run's folder.
        names: class names, as a list or a dict by class number.
        resume_epoch: first epoch of this process; what an earlier process wrote of it and later epochs is dropped.
        resumed: this process goes on with a run; by default told by ``resume_epoch`` being above 0. Else CSV files that
            lie in the folder are an earlier run's, and are kept under other names.
        columns: of results.csv, 'epoch' first; detection's by default.
        width: of these columns in characters.
        tensorboard: also write TensorBoard events, where the package is installed.
        plots: whether pictures and the graph are recorded.
        services: online services that get the same; whoever opened them closes them.

    Raises:
        InputError: the run goes on, and results.csv or per_class.csv of the folder belongs to another kind of run.
        WorkError: the folder cannot be written. Every method raises it as well.
    """

    def __init__(  # noqa: PLR0913 (what a run may want recorded)
        self,
        save_dir: str | Path,
        *,
        names: Mapping[int, str] | Iterable[str],
        resume_epoch: int = 0,
        resumed: bool | None = None,
        columns: Sequence[str] = RESULT_COLUMNS,
        width: int = 20,
        tensorboard: bool = True,
        plots: bool = True,
        services: Services | None = None,
    ):
        self.save_dir = Path(save_dir)
        self.names = name_table(names)
        self.plots = plots
        self.resume_epoch = resume_epoch
        self.resumed = resume_epoch > 0 if resumed is None else resumed
        form = partial(aligned_row, width=width)
        self.results = EpochCsv(self.save_dir / "results.csv", columns, resume_epoch, form, self.resumed)
        self.classes: EpochCsv | None = None
        if self._class_path.exists():
            self._open_classes()
        writer = open_writer(self.save_dir, resume_epoch) if tensorboard else None
        self.tensorboard = TensorBoardLog(writer, self.save_dir)
        self.services = services or Services()
        self._tags = class_tags(self.names)
        self._is_laid_out = False

    @property
    def _class_path(self) -> Path:
        return self.save_dir / "per_class.csv"

    def _open_classes(self) -> EpochCsv:
        if self.classes is None:
            self.classes = EpochCsv(self._class_path, CLASS_COLUMNS, self.resume_epoch, quoted_row, self.resumed)
        return self.classes

    def log_hyp(self, hyp: Mapping[str, object]) -> None:
        """Record the hyperparameters as text."""
        self.tensorboard.text("hyp", markdown_table(hyp), self.resume_epoch)

    def log_table(self, name: str, text: str) -> None:
        """Record a table of plain text under its name."""
        preformatted = "\n".join(f"    {line}" for line in text.splitlines())
        self.tensorboard.text(name, preformatted, self.resume_epoch)
        self.services.tell("text", name, text)

    def log_graph(self, model: nn.Module, imgsz: int | Sequence[int] = (640, 640)) -> None:
        """Record the model's graph, traced on a copy.

        Args:
            model: any detection model.
            imgsz: size of the input in pixels, (height, width) or one number.
        """
        if self.plots:
            self.tensorboard.graph(model, (imgsz, imgsz) if isinstance(imgsz, int) else imgsz)

    def log_epoch(
        self,
        epoch: int,
        train_losses: Sequence[float],
        results: Sequence[float],
        lrs: Sequence[float],
        per_class: PerClass | None = None,
    ) -> None:
        """Record one epoch.

        Args:
            epoch: from 0.
            train_losses: box, obj, cls; like the two following as the columns of results.csv say.
            results: P, R, mAP50, mAP50-95, and the validation losses box, obj, cls.
            lrs: rates of the biases, the decayed and the normalisation weights.
            per_class: any of the keys of CLASS_HEADINGS, each by class number: a sequence, array or tensor over all
                classes or a dict; NaN or a missing class is undefined. images and instances count the validation set's
                labels; weight is the loss's class weight in force, drawn the samples of the class that the epoch
                trained on, loss_share its share of the classification loss.

        Raises:
            ValueError: an unknown key of per_class, or another number of values than columns.
        """
        values = [float(v) for v in (*train_losses, *results, *lrs)]
        names = self.results.columns[1:]
        if len(values) != len(names):
            raise ValueError(f"{len(values)} values for the {len(names)} columns of results.csv")
        self.results.append([[epoch, *values]])
        scalars = dict(zip(names, values, strict=True))
        self.tensorboard.scalars(scalars, epoch)
        if per_class:
            scalars |= self._log_classes(epoch, per_class)
        self.services.scalars(scalars, epoch)
        self.tensorboard.flush()  # before the checkpoint is written: a run killed after it does not repeat the epoch

    def _log_classes(self, epoch: int, per_class: PerClass) -> dict[str, float]:
        """Record the classes' values and return those that are curves by their tags."""
        unknown = set(per_class) - set(CLASS_HEADINGS)
        if unknown:
            raise ValueError(f"per_class: unknown {', '.join(sorted(unknown))}, known are {', '.join(CLASS_HEADINGS)}")
        columns = {key: plain_column(per_class.get(key)) for key in CLASS_HEADINGS}
        rows: list[list[object]] = []
        scalars: dict[str, float] = {}
        for number, name in self.names.items():
            values = {key: value_of(column, number) for key, column in columns.items()}
            rows.append([epoch, name, *values.values()])
            for key, value in values.items():
                if value is not None and key in CURVES:
                    scalars[f"per_class/{CURVES[key]}/{self._tags[number]}"] = value
        if not self._is_laid_out:
            self._is_laid_out = True
            self.tensorboard.layout("per class", {title: f"per_class/{title}/.*" for title in CURVES.values()})
        self._open_classes().append(rows)
        self.tensorboard.scalars(scalars, epoch)
        return scalars

    def log_images(self, pictures: Mapping[str, str | Path], epoch: int) -> None:
        """Record image files by their tags."""
        if self.plots:
            for tag, path in pictures.items():
                self.tensorboard.picture(tag, path, epoch)
            self.services.pictures(pictures, epoch)

    def close(self) -> None:
        """Finish the TensorBoard file."""
        self.tensorboard.close()


def plain_column(column: Any) -> Sequence[float] | Mapping[int, float] | None:
    """Return a column as it is, but an array or a tensor (of any device) as a list."""
    return column.tolist() if hasattr(column, "tolist") else column


def value_of(column: Sequence[float] | Mapping[int, float] | None, number: int) -> float | None:
    """Return a class's value of a column by class number, None where there is none or it is NaN."""
    if isinstance(column, Mapping):
        value = column.get(number)
    else:
        value = None if column is None or number >= len(column) else column[number]
    return None if value is None or math.isnan(value) else float(value)


def class_tags(names: Mapping[int, str]) -> dict[int, str]:
    """Return a TensorBoard tag per class: its name without slashes, with its number where two would be equal."""
    plain = {i: "".join(c if c.isalnum() or c in "-._" else "_" for c in name) or "_" for i, name in names.items()}
    seen = list(plain.values())
    return {i: f"{tag}_{i}" if seen.count(tag) > 1 else tag for i, tag in plain.items()}
