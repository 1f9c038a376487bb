"""The results of a model from hub: detections of several images, to print, draw, cut out or tabulate."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from utils.boxes import xyxy2xywh
from utils.errors import WorkError
from utils.helpers import Profile
from utils.logs import LOGGER
from utils.paths import increment_path

if TYPE_CHECKING:
    from PIL import Image

CORNERS = ("xmin", "ymin", "xmax", "ymax", "confidence", "class", "name")
CENTRES = ("xcenter", "ycenter", "width", "height", "confidence", "class", "name")
SAVE_DIR = "runs/detect/exp"


class Detections:
    """Detections of ``n`` images.

    Attributes:
        ims: RGB arrays (h, w, 3) uint8.
        pred, xyxy: per image (k, 6) corners in pixels, confidence, class.
        xywh: centres and sizes in pixels; xyxyn, xywhn: divided by the image's width and height.
        names: class number -> name.
        files: names of the images, with the suffix .jpg.
        times: three timers (prepare, predict, suppress); t: their milliseconds per image.
        s: shape (b, 3, h, w) of the batch that the model saw.

    Args:
        ims: see above.
        pred: see above.
        files: see above.
        times: see above; numbers of seconds do as well.
        names: see above.
        shape: see above.
    """

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        ims: list[np.ndarray],
        pred: list[Tensor],
        files: list[str],
        times: Sequence[Any] = (0, 0, 0),
        names: Mapping[int, str] | Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
    ):
        self.ims = ims
        self.pred = pred
        self.names = names if isinstance(names, Mapping) else dict(enumerate(names or ()))
        self.files = files
        self.times = times
        self.xyxy = pred
        self.xywh = [xyxy2xywh(x) for x in pred]
        sizes = [torch.tensor([*im.shape[1::-1], *im.shape[1::-1], 1, 1], dtype=torch.float) for im in ims]
        sizes = [size.to(x.device) for size, x in zip(sizes, pred, strict=True)]
        self.xyxyn = [x / size for x, size in zip(self.xyxy, sizes, strict=True)]
        self.xywhn = [x / size for x, size in zip(self.xywh, sizes, strict=True)]
        self.n = len(pred)
        self.t = tuple(getattr(x, "t", x) / max(self.n, 1) * 1e3 for x in times)
        self.s = tuple(shape or ())

    def _run(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        pprint: bool = False,
        show: bool = False,
        save: bool = False,
        crop: bool = False,
        render: bool = False,
        labels: bool = True,
        save_dir: str | Path = ".",
    ) -> str | list[dict[str, Any]] | None:
        """Do what the public methods ask for; returns the text for ``pprint``, the crops for ``crop``.

        Raises:
            WorkError: a file cannot be written.
        """
        if pprint:
            return self._text()
        crops: list[dict[str, Any]] = []
        targets = _free_names(self.files)
        for i, (im, pred) in enumerate(zip(self.ims, self.pred, strict=True)):
            if crop:
                crops += self._crops(im, pred, Path(save_dir) / "crops" if save else None, self.files[i])
                drawn = im
            else:
                drawn = self._drawn(im, pred, labels)
            if show:
                _show(drawn, self.files[i])
            if save:
                _write(Path(save_dir) / targets[i], drawn)
            if render:
                self.ims[i] = drawn
        if save:
            LOGGER.info("Saved %d image%s to %s", self.n, "s" * (self.n > 1), save_dir)
        return crops if crop else None

    def _text(self) -> str:
        lines = [
            f"image {i + 1}/{self.n}: {im.shape[0]}x{im.shape[1]} {self._counts(pred)}"
            for i, (im, pred) in enumerate(zip(self.ims, self.pred, strict=True))
        ]
        times = "{:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms NMS".format(*self.t)
        return "\n".join([*lines, f"Speed: {times} per image at shape {self.s}"])

    def _counts(self, pred: Tensor) -> str:
        """Return '2 persons, 1 dog' in the order of class numbers."""
        if not len(pred):
            return "(no detections)"
        classes, counts = pred[:, 5].int().unique(return_counts=True)
        pairs = zip(classes.tolist(), counts.tolist(), strict=True)
        return ", ".join(f"{n} {self._name(c)}{'s' * (n > 1)}" for c, n in pairs)

    def _name(self, number: float) -> str:
        return str(self.names.get(int(number), int(number)))

    def _drawn(self, im: np.ndarray, pred: Tensor, labels: bool) -> np.ndarray:
        """Return a copy with boxes, the most confident on top."""
        from utils.annotator import Annotator, colors

        annotator = Annotator(im.copy(), example=dict(self.names))
        for *box, conf, cls in reversed(pred.tolist()):
            annotator.box_label(box, f"{self._name(cls)} {conf:.2f}" if labels else "", colors(cls))
        return annotator.result()

    def _crops(self, im: np.ndarray, pred: Tensor, folder: Path | None, name: str) -> list[dict[str, Any]]:
        """Cut the boxes out, the least confident first as YOLOv5 does; with a folder, write them by class."""
        from utils.annotator import save_one_box
        from utils.outputs.detection_output import safe_name

        crops = []
        for row in reversed(pred):
            cls = self._name(row[5])
            file = folder / safe_name(cls) / name if folder else Path(name)
            cut = save_one_box(row[:4], im, file=file, save=folder is not None)
            label = f"{cls} {float(row[4]):.2f}"
            crops.append({"box": list(row[:4]), "conf": row[4], "cls": row[5], "label": label, "im": cut})
        return crops

    def show(self, labels: bool = True) -> None:
        """Show each image with its boxes: in a notebook below the cell, else in the system's picture viewer."""
        self._run(show=True, labels=labels)

    def save(self, labels: bool = True, save_dir: str | Path = SAVE_DIR, exist_ok: bool = False) -> None:
        """Write each image with its boxes to a folder; a number is added to its name while it exists.

        Raises:
            WorkError: a file cannot be written.
        """
        self._run(save=True, labels=labels, save_dir=_new_folder(save_dir, exist_ok))

    def crop(self, save: bool = True, save_dir: str | Path = SAVE_DIR, exist_ok: bool = False) -> list[dict[str, Any]]:
        """Cut each box out.

        Args:
            save: write ``crops/<class>/<file>.jpg`` and the images themselves to a new folder.
            save_dir: that folder.
            exist_ok: use it even if it exists.

        Returns:
            For each box ``box`` (four tensors, xyxy), ``conf``, ``cls``, ``label`` and ``im``, BGR (h, w, 3) uint8.
        """
        return self._run(crop=True, save=save, save_dir=_new_folder(save_dir, exist_ok) if save else save_dir)

    def render(self, labels: bool = True) -> list[np.ndarray]:
        """Draw the boxes onto ``ims`` and return it: RGB (h, w, 3) uint8 each."""
        self._run(render=True, labels=labels)
        return self.ims

    def pandas(self) -> Detections:
        """Return a copy whose xyxy, xyxyn, xywh and xywhn are lists of data frames.

        Columns: four of the box, ``confidence``, ``class`` (number) and ``name``.
        """
        import pandas as pd

        new = copy.copy(self)
        for key, columns in (("xyxy", CORNERS), ("xyxyn", CORNERS), ("xywh", CENTRES), ("xywhn", CENTRES)):
            rows = [[[*r[:5], int(r[5]), self._name(r[5])] for r in x.tolist()] for x in getattr(self, key)]
            setattr(new, key, [pd.DataFrame(x, columns=list(columns)) for x in rows])
        return new

    def tolist(self) -> list[Detections]:
        """Return one Detections for each image."""
        each = [Profile(x / 1e3) for x in self.t]
        return [
            Detections([im], [pred], [file], each, self.names, self.s)
            for im, pred, file in zip(self.ims, self.pred, self.files, strict=True)
        ]

    def print(self) -> None:
        """Print what was found in each image, and the times."""
        print(self)

    def __len__(self) -> int:
        return self.n

    def __str__(self) -> str:
        return self._text()

    def __repr__(self) -> str:
        return f"YOLOv5 {type(self)} instance\n{self}"


Detections.__module__ = "models.common"  # where YOLOv5 has it: results pickled there and here are read by both


def _new_folder(path: str | Path, exist_ok: bool) -> Path:
    try:
        return increment_path(path, exist_ok, mkdir=True)
    except OSError as error:
        raise WorkError(f"{path}: the folder cannot be made ({error.strerror})") from error


def _free_names(files: Sequence[str]) -> list[str]:
    """Return file names of which no two are alike: repeats become x-2.jpg, x-3.jpg."""
    taken: set[str] = set()
    result = []
    for file in files:
        name, number = file, 1
        while name.lower() in taken:
            number += 1
            name = f"{Path(file).stem}-{number}{Path(file).suffix}"
        taken.add(name.lower())
        result.append(name)
    return result


def _write(path: Path, rgb: np.ndarray) -> None:
    from utils.images import imwrite

    if not imwrite(path, np.ascontiguousarray(rgb[..., ::-1])):
        raise WorkError(f"{path}: the image cannot be written")


def _show(rgb: np.ndarray, title: str) -> None:
    from PIL import Image

    from utils.environment import is_jupyter

    picture: Image.Image = Image.fromarray(rgb)
    if is_jupyter():
        from IPython.display import display

        display(picture)
    else:
        picture.show(title)
