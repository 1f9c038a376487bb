"""A classification network measured on a loader: top-1 and top-5 accuracy, per class and over all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from utils.confusion import ConfusionMatrix
from utils.errors import WorkError
from utils.helpers import Profile
from utils.logs import LOGGER, TQDM_BAR_FORMAT
from utils.safe_write import write_whole

TOP = 5
HEADER = f"{'Class':>24}{'Images':>12}{'top1_acc':>12}{'top5_acc':>12}"
CSV_COLUMNS = ("class", "images", "top1", "top5", "precision", "most_taken_for", "times")


@dataclass(frozen=True)
class ClassifyResult:
    """What a measurement found.

    Attributes:
        names: class names by number.
        targets: (n,) true classes.
        ranked: (n, k) the classes with the highest scores, the highest first; k is 5, or the number of classes.
        loss: mean loss, 0 without a loss.
        speed: milliseconds per image of pre-processing, inference and post-processing.
    """

    names: dict[int, str]
    targets: np.ndarray
    ranked: np.ndarray
    loss: float
    speed: tuple[float, float, float]

    @property
    def top1(self) -> float:
        """Share of images whose class has the highest score."""
        return float((self.ranked[:, 0] == self.targets).mean())

    @property
    def top5(self) -> float:
        """Share of images whose class is among the five highest scores."""
        return float((self.ranked == self.targets[:, None]).any(1).mean())

    def of_classes(self) -> dict[str, np.ndarray]:
        """Return by name, (nc,) each: images, top1 (the class's recall), top5, precision; NaN where undefined."""
        nc = len(self.names)
        first = self.ranked[:, 0]
        images = np.bincount(self.targets, minlength=nc)
        hit = np.bincount(self.targets[first == self.targets], minlength=nc)
        near = np.bincount(self.targets[(self.ranked == self.targets[:, None]).any(1)], minlength=nc)
        with np.errstate(invalid="ignore"):
            precision = hit / np.bincount(first, minlength=nc)
            return {"images": images, "top1": hit / images, "top5": near / images, "precision": precision}

    @property
    def balanced(self) -> float:
        """Mean of the classes' top-1 accuracies, in which rare classes count like others."""
        return float(np.nanmean(self.of_classes()["top1"]))

    def confusion(self) -> np.ndarray:
        """Return counts (nc, nc), rows predicted, columns true."""
        matrix = np.zeros((len(self.names),) * 2)
        np.add.at(matrix, (self.ranked[:, 0], self.targets), 1)
        return matrix

    def log_table(self, per_class: bool = True) -> None:
        """Log the accuracies over all images and of each class that has some."""
        LOGGER.info(HEADER)
        LOGGER.info(f"{'all':>24}{len(self.targets):>12}{self.top1:>12.3g}{self.top5:>12.3g}")
        if not per_class:
            return
        columns = self.of_classes()
        for c, name in self.names.items():
            if columns["images"][c]:
                top1, top5 = columns["top1"][c], columns["top5"][c]
                LOGGER.info(f"{name:>24}{columns['images'][c]:>12}{top1:>12.3g}{top5:>12.3g}")
        if len(set(columns["images"].tolist())) > 1:
            LOGGER.info(f"Mean top-1 accuracy of the classes, rare ones counting like others: {self.balanced:.3g}")

    def save(self, folder: Path, pictures: bool = True, table: str = "per_class.csv") -> None:
        """Write a table by class, and with ``pictures`` confusion_matrix.png."""
        columns, confusion = self.of_classes(), self.confusion()
        np.fill_diagonal(confusion, 0)
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for c, name in self.names.items():
            other = int(confusion[:, c].argmax())
            times = int(confusion[other, c])
            shares = ("" if np.isnan(columns[key][c]) else f"{columns[key][c]:.5g}" for key in CSV_COLUMNS[2:5])
            writer.writerow([name, columns["images"][c], *shares, self.names[other] if times else "", times])
        write_whole(folder / table, buffer.getvalue().encode())
        if pictures:
            matrix = ConfusionMatrix(len(self.names))
            matrix.matrix[:-1, :-1] = self.confusion()
            matrix.plot(save_dir=folder, names=self.names)


def evaluate(  # noqa: PLR0913  (what a measurement needs, by name)
    model: Any,
    loader: Any,
    names: Mapping[int, str],
    *,
    criterion: Callable[[Any, torch.Tensor], Any] | None = None,
    device: torch.device | None = None,
    half: bool = False,
    amp: bool = False,
    bar: Any = None,
    after_batch: Callable[[], None] | None = None,
) -> ClassifyResult:
    """Measure a network.

    Args:
        model: (b, 3, h, w) normalised images -> (b, nc) logits; in evaluation mode.
        loader: gives (images, classes).
        names: class names by number.
        criterion: (logits, classes) -> loss, a tensor of one number, or a tuple that begins with it.
        device: where the network is, by default that of its parameters.
        half: the network takes float16 images.
        amp: run it under autocast, on CUDA.
        bar: a progress bar to update in place of an own one.
        after_batch: called after every batch.

    Raises:
        WorkError: the logits are not finite numbers for all images.
    """
    device = device or next(model.parameters()).device
    clocks = Profile(device=device), Profile(device=device), Profile(device=device)
    targets, ranked, total, unsound = [], [], torch.zeros(1, device=device), torch.zeros(1, device=device)
    batches = loader if bar is not None else tqdm(loader, "validating", bar_format=TQDM_BAR_FORMAT, leave=False)
    autocast = torch.autocast(device.type, enabled=amp and device.type == "cuda")
    with torch.inference_mode(), autocast:
        for images, classes, *_ in batches:
            with clocks[0]:
                images = images.to(device, torch.float16 if half else torch.float32, non_blocking=True)
                classes = classes.to(device, non_blocking=True)
            with clocks[1]:
                logits = model(images)
            with clocks[2]:
                logits = (logits if isinstance(logits, torch.Tensor) else logits[0]).float()
                ranked.append(logits.topk(min(TOP, logits.shape[1]), 1).indices)
                targets.append(classes)
                unsound += (~logits.isfinite()).any(1).sum()
                if criterion is not None:
                    loss = criterion(logits, classes)
                    total += (loss if isinstance(loss, torch.Tensor) else loss[0]).reshape(1) * len(classes)
            if bar is not None:
                bar.update()
            if after_batch is not None:
                after_batch()
    seen = sum(len(part) for part in targets)
    if unsound:
        raise WorkError(f"{int(unsound)} of {seen} images have scores that are not finite numbers; allowed are finite")
    numbers = torch.cat(targets).cpu().numpy(), torch.cat(ranked).cpu().numpy()
    speed = tuple(clock.t * 1000 / seen for clock in clocks)
    return ClassifyResult(dict(names), *numbers, float(total) / seen, speed)


def example_batch(dataset: Any, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``count`` images (n, 3, h, w) evenly spread over a data set and their classes (n,)."""
    numbers = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    items = [dataset[int(i)] for i in numbers]
    return torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])


def predicted_classes(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the class with the highest score of each image, (n,)."""
    parameter = next(model.parameters())
    with torch.inference_mode():
        return model(images.to(parameter.device, parameter.dtype)).argmax(1).cpu()
