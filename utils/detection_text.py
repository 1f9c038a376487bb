"""Detections as text files, one per image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from utils.boxes import xyxy2xywhn
from utils.confusion import to_array
from utils.errors import WorkError
from utils.eval_batch import BatchResult
from utils.logs import LOGGER


def save_one_txt(predn: torch.Tensor | np.ndarray, save_conf: bool, shape: Sequence[float], file: str | Path) -> None:
    """Append a line for each detection to a text file: class, centre x, y, width, height [, confidence].

    Args:
        predn: (n, 6) x1, y1, x2, y2, conf, class in pixels.
        save_conf: write the confidence.
        shape: (height, width) of the image, by which the boxes are divided.
        file: the text file.

    Raises:
        WorkError: it cannot be written.
    """
    rows = to_array(predn)
    columns = [rows[:, 5:6], xyxy2xywhn(rows[:, :4], w=shape[1], h=shape[0]), rows[:, 4:5]]
    table = np.concatenate(columns if save_conf else columns[:2], 1).tolist()
    try:
        with Path(file).open("a") as stream:
            stream.writelines(" ".join(f"{value:g}" for value in row) + "\n" for row in table)
    except OSError as error:
        raise WorkError(f"{file}: cannot be written ({error.strerror})") from error


class TextFiles:
    """Writes ``<folder>/<stem>.txt`` for each image with detections.

    A second image of the same stem goes to ``<folder>/<its folder's name>/<its file name>.txt``, said in the log.
    """

    def __init__(self, folder: Path, save_conf: bool):
        self.folder = folder
        self.save_conf = save_conf
        self._owners: dict[Path, str] = {}

    def __call__(self, batch: BatchResult) -> None:
        """Write the files of one batch."""
        for path, detections, (shape, _) in zip(batch.paths, batch.detections, batch.shapes, strict=True):
            if len(detections):
                save_one_txt(detections, self.save_conf, shape, self._file_for(str(path)))

    def _file_for(self, path: str) -> Path:
        image = Path(path)
        file = self.folder / f"{image.stem}.txt"
        if self._owners.setdefault(file, path) != path:
            other = self._owners[file]
            file = self.folder / image.parent.name / f"{image.name}.txt"
            LOGGER.warning(f"{path} and {other} have the same stem; the text of the first is in {file}")
        file.parent.mkdir(parents=True, exist_ok=True)
        return file
