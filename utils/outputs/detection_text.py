"""Detections as text files, one per image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.errors import WorkError
from utils.eval_batch import BatchResult
from utils.helpers import save_one_txt
from utils.logs import LOGGER
from utils.outputs.stems import output_stems


class TextFiles:
    """Writes ``<folder>/<stem>.txt`` for each image with detections, never two images into one file.

    Images that share a stem keep their folders, and suffixes where needed, as ``output_stems`` tells.

    Args:
        folder: where the files go.
        save_conf: write the confidence as sixth value.
        images: all images to come, as far as they are known. One that is not among them and whose stem is taken goes
            to ``<folder>/<its folder's name>/<its file name>.txt``, said in the log.
    """

    def __init__(self, folder: Path, save_conf: bool, images: Sequence[str] = ()):
        self.folder = folder
        self.save_conf = save_conf
        self._files = {path: self._target(stem) for path, stem in zip(images, output_stems(images), strict=True)}
        self._owners = {self._key(file): path for path, file in self._files.items()}

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
                    raise WorkError(f"{error.filename or self.folder}: cannot be written ({error.strerror})") from error

    def _file_for(self, path: str) -> Path:
        file = self._files.get(path)
        if file is None:
            file = next(place for place in self._places(Path(path)) if self._owners.get(self._key(place), path) == path)
            self._files[path] = file
            self._owners[self._key(file)] = path
            if file != (first := self.folder / f"{Path(path).stem}.txt"):
                other = self._owners[self._key(first)]
                LOGGER.warning(f"{path} and {other} have the same stem; the text of the first is in {file}")
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _places(self, image: Path) -> Iterator[Path]:
        """Yield where an image's text may go, the likeliest first; the last one has the whole path in it."""
        yield self.folder / f"{image.stem}.txt"
        parts = [part for part in image.parts if part != image.anchor]
        for count in range(2, len(parts) + 1):
            yield self._target(Path(*parts[-count:]))
        for number in range(2, len(self._owners) + 3):
            yield self._target(Path(*parts[:-1], f"{image.name}~{number}"))

    def _target(self, stem: Path) -> Path:
        return self.folder / stem.parent / f"{stem.name}.txt"

    @staticmethod
    def _key(file: Path) -> str:
        return str(file).casefold()
