"""What detect.py writes: annotated pictures and videos, text and CSV files, crops."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
from torch import Tensor

from utils.annotator import Annotator, colors, save_one_box
from utils.boxes import xyxy2xywh
from utils.errors import WorkError
from utils.images import write_image
from utils.logs import LOGGER
from utils.outputs.stems import output_stems
from utils.safe_write import part_beside

__all__ = [
    "DetectionWriter", "Item", "OutputOptions", "open_for_appending", "output_stems", "safe_name", "text_line",
]  # fmt: skip

CSV_COLUMNS = ("Image Name", "Prediction", "Confidence")
FALLBACK_FPS = 30


def safe_name(name: str) -> str:
    """Return a class name that can be a folder: no separators, not empty, not a step upwards."""
    name = "".join("_" if c in "/\\\0" else c for c in name).strip()
    return "_" if name in {"", ".", ".."} else name


@dataclass(frozen=True)
class OutputOptions:
    """Which results are written, and how labels look; names as detect.py's options."""

    images: bool = True
    txt: bool = False
    txt_corners: bool = False
    conf: bool = False
    csv: bool = False
    crop: bool = False
    view: bool = False
    line_thickness: int = 3
    hide_labels: bool = False
    hide_conf: bool = False


@dataclass(frozen=True)
class Item:
    """One image or frame.

    Attributes:
        path: where it came from.
        stem: path below the run folder for its results, without suffix.
        image: (h, w, 3) BGR.
        frame: number of a video's or stream's frame, None for an image.
        fps: of the video.
    """

    path: Path
    stem: Path
    image: np.ndarray
    frame: int | None = None
    fps: float = 0.0


def text_line(cls: float, xyxy: Tensor, conf: float, shape: Sequence[int], options: OutputOptions) -> str:
    """Return one line of a label file: class and normalised box, then the confidence where asked.

    Args:
        cls: class number.
        xyxy: (4,) box in pixels.
        conf: confidence.
        shape: (height, width) of the image.
        options: ``txt_corners`` writes x1 y1 x2 y2 instead of cx cy w h, ``conf`` adds the confidence.
    """
    box = xyxy if options.txt_corners else xyxy2xywh(xyxy.view(1, 4)).view(4)
    height, width = shape[:2]
    values = [cls, *(box / box.new_tensor([width, height, width, height])).tolist()]
    return " ".join(f"{value:g}" for value in (*values, conf)[: len(values) + options.conf])


class DetectionWriter:
    """Writes the results of a run; use as a context manager, so that videos are closed.

    Args:
        folder: the run folder, which exists.
        names: class names by number.
        options: what to write.
    """

    def __init__(self, folder: Path, names: Mapping[int, str], options: OutputOptions):
        self.folder = folder
        self.names = names
        self.options = options
        self.text_files: set[Path] = set()
        self._videos: dict[Path, tuple[Path, cv2.VideoWriter]] = {}  # the file to be, the file being written
        if options.txt:
            (folder / "labels").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> DetectionWriter:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the videos."""
        self._close_videos()

    def write(self, item: Item, detections: Tensor) -> np.ndarray:
        """Write one image's detections.

        Args:
            item: the image; boxes are drawn into its own pixels, unless it is a frame.
            detections: (n, 6) xyxy in whole pixels of the image, confidence, class; the most confident first.

        Returns:
            The image with boxes drawn, where pictures are written or shown, else the image.
        """
        rows = detections.flip(0).cpu()  # the most confident is written, and drawn, last
        if len(rows):
            self._write_text(item, rows)
            self._write_csv(item, rows)
        if self.options.crop:
            self._write_crops(item, rows)
        drawn = item.image
        if self.options.images or self.options.view:
            drawn = self._draw(item, rows)
        if self.options.images:
            self._write_picture(item, drawn)
        return drawn

    def text_path(self, item: Item) -> Path:
        """Return the text file of an image or frame."""
        number = "" if item.frame is None else f"_{item.frame}"
        return self.folder / "labels" / item.stem.parent / f"{item.stem.name}{number}.txt"

    def _write_text(self, item: Item, rows: Tensor) -> None:
        if not self.options.txt:
            return
        file = self.text_path(item)
        lines = self._text_lines(item, rows)
        with open_for_appending(file) as stream:
            stream.writelines(f"{line}\n" for line in lines)
        self.text_files.add(file)

    def _text_lines(self, item: Item, rows: Tensor) -> list[str]:
        """Return the lines of a label file."""
        return [text_line(row[5].item(), row[:4], row[4].item(), item.image.shape, self.options) for row in rows]

    def _write_csv(self, item: Item, rows: Tensor) -> None:
        if not self.options.csv:
            return
        file = self.folder / "predictions.csv"
        is_new = not file.exists()
        with open_for_appending(file) as stream:
            writer = csv.writer(stream)
            if is_new:
                writer.writerow(CSV_COLUMNS)
            writer.writerows((item.path.name, self.names[int(row[5])], f"{row[4].item():.2f}") for row in rows)

    def _draw(self, item: Item, rows: Tensor) -> np.ndarray:
        options = self.options
        image = item.image if item.frame is None else item.image.copy()  # a stream may give a frame once more
        self._draw_below(image, rows)
        annotator = Annotator(image, line_width=options.line_thickness, example=self.names)
        for *xyxy, conf, cls in rows.tolist():
            name = self.names[int(cls)]
            label = "" if options.hide_labels else name if options.hide_conf else f"{name} {conf:.2f}"
            annotator.box_label(xyxy, label, color=colors(int(cls), True))
        return annotator.result()

    def _draw_below(self, image: np.ndarray, rows: Tensor) -> None:
        """Draw what lies below the boxes of (n, 6) detections, in place: nothing."""

    def _write_crops(self, item: Item, rows: Tensor) -> None:
        for row in rows:
            file = self.folder / "crops" / safe_name(self.names[int(row[5])]) / f"{item.path.stem}.jpg"
            save_one_box(row[:4], item.image, file=file, BGR=True)

    def _write_picture(self, item: Item, drawn: np.ndarray) -> None:
        """Write an image under its own name, a frame to its video."""
        target = self.folder / item.stem.parent / item.path.name
        if item.frame is not None:
            self._video(item, drawn).write(drawn)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_image(target, drawn)
        except ValueError:
            self._write_as_other_format(target, drawn)
        except OSError as error:
            raise WorkError(f"{target}: the picture cannot be written ({error.strerror or error})") from error

    @staticmethod
    def _write_as_other_format(target: Path, drawn: np.ndarray) -> None:
        """Write a picture whose own format cannot be written (dng, mpo) as PNG beside the name it should have."""
        other = target.with_name(f"{target.name}.png")
        try:
            write_image(other, drawn)
        except (ValueError, OSError) as error:
            raise WorkError(f"{other}: the picture cannot be written ({error})") from error
        LOGGER.warning(
            f"WARNING {target.name}: pictures of this format cannot be written, {other.name} takes its place"
        )

    def _video(self, item: Item, drawn: np.ndarray) -> cv2.VideoWriter:
        """Return the writer of an item's video, opened with its first frame."""
        target = self.folder / item.stem.parent / f"{item.stem.name}.mp4"
        if target not in self._videos:
            if item.fps:  # files come one after the other, streams (no rate) side by side
                self._close_videos()
            target.parent.mkdir(parents=True, exist_ok=True)
            height, width = drawn.shape[:2]
            fourcc = cv2.VideoWriter_fourcc(*"mp4v")
            part = part_beside(target, target.suffix)  # an mp4 cannot be played until it is closed
            writer = cv2.VideoWriter(str(part), fourcc, item.fps or FALLBACK_FPS, (width, height))
            if not writer.isOpened():
                raise WorkError(f"{target}: the video cannot be written (OpenCV found no mp4v encoder, or no space)")
            self._videos[target] = part, writer
        return self._videos[target][1]

    def _close_videos(self) -> None:
        for target, (part, writer) in self._videos.items():
            writer.release()
            os.replace(part, target)
        self._videos.clear()


@contextmanager
def open_for_appending(file: Path) -> Iterator[TextIO]:
    """Open a text file to add lines; the folder is made when missing.

    Raises:
        WorkError: it cannot be written, to its end.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8", newline="" if file.suffix == ".csv" else None) as stream:
            yield stream
    except OSError as error:
        raise WorkError(f"{file}: cannot be written ({error.strerror})") from error
