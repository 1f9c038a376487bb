"""Detections as text files, one per image."""

from __future__ import annotations

from pathlib import Path

from utils.errors import WorkError
from utils.eval_batch import BatchResult
from utils.helpers import save_one_txt
from utils.logs import LOGGER


class TextFiles:
    """Writes ``<folder>/<stem>.txt`` for each image with detections.

    A second image of the same stem goes to ``<folder>/<its folder's name>/<its file name>.txt``, said in the log.
    """

    def __init__(self, folder: Path, save_conf: bool):
        self.folder = folder
        self.save_conf = save_conf
        self._owners: dict[Path, str] = {}

    def __call__(self, batch: BatchResult) -> None:
        """Write the files of one batch.

        Raises:
            WorkError: a file cannot be written.
        """
        for path, detections, (shape, _) in zip(batch.paths, batch.detections, batch.shapes, strict=True):
            if len(detections):
                try:
                    save_one_txt(detections, self.save_conf, shape, self._file_for(str(path)))
                except OSError as error:
                    raise WorkError(f"{error.filename}: cannot be written ({error.strerror})") from error

    def _file_for(self, path: str) -> Path:
        image = Path(path)
        file = self.folder / f"{image.stem}.txt"
        if self._owners.setdefault(file, path) != path:
            other = self._owners[file]
            file = self.folder / image.parent.name / f"{image.name}.txt"
            LOGGER.warning(f"{path} and {other} have the same stem; the text of the first is in {file}")
        file.parent.mkdir(parents=True, exist_ok=True)
        return file
