"""The one interface behind which every online service stands, and what a run tells it at its start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Start:
    """What a run tells the services when it begins.

    Attributes:
        folder: of the run; what a service keeps on this machine goes there.
        project: that the run belongs to.
        name: of the run, None where the service is to choose one.
        options: of the command, plain values.
        hyp: the hyperparameters.
        entity: account of the service, None for the user's own.
        identity: of the run in the service, where an earlier process began it; None for a new one.
    """

    folder: Path
    project: str = "YOLOv5"
    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    hyp: Mapping[str, Any] = field(default_factory=dict)
    entity: str | None = None
    identity: str | None = None


class Service:
    """A run in an online service; every method that an adapter leaves out does nothing.

    Attributes:
        name: of the service, as in YOLOV5_LOGGERS.
        run: the package's own object.
        identity: by which a resumed run finds it again, None where it cannot.
    """

    name = ""
    run: Any = None
    identity: str | None = None

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Record settings of the run."""

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Record finite numbers of an epoch by their names."""

    def pictures(self, group: str, files: Mapping[str, Path], epoch: int) -> None:
        """Record picture files by their titles."""

    def text(self, title: str, text: str) -> None:
        """Record a plain text."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], epoch: int) -> None:
        """Record a table of text, numbers and None."""

    def confusion(self, matrix: np.ndarray, names: Sequence[str], epoch: int) -> None:
        """Record a confusion matrix (n, n), predicted by true; ``names`` has the background last."""

    def checkpoint(self, path: Path, aliases: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Record a checkpoint file as the run's model; ``facts`` tell its epoch and fitness."""

    def detections(
        self, image: np.ndarray, boxes: np.ndarray, names: Mapping[int, str], title: str, epoch: int
    ) -> None:
        """Record an image (h, w, 3) RGB uint8 with boxes (n, 6) x1, y1, x2, y2, confidence, class in its pixels."""

    def data_set(self, files: Mapping[str, Path]) -> bool:
        """Upload the files of a data set under the given names; False where the service does not take them."""
        return False

    def summary(self, values: Mapping[str, float]) -> None:
        """Record what the whole run came to."""

    def close(self, failed: bool) -> None:
        """Say that the run has ended, and send what waits."""
