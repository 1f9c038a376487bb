"""The loop of classify/predict.py: from a source's images to their likeliest classes, written and logged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.annotator import Annotator
from utils.classification.evaluation import TOP
from utils.detection import Clock, make_item, show
from utils.errors import WorkError
from utils.logs import LOGGER
from utils.outputs.detection_output import DetectionWriter, Item, open_for_appending, output_stems

TEXT_CORNER = (32, 32)  # of the text on a picture, pixels
TEXT_COLOUR = (255, 255, 255)


class ClassWriter(DetectionWriter):
    """Writes the likeliest classes of images: on pictures and videos, and as text."""

    def write(self, item: Item, detections: Tensor) -> np.ndarray:
        """Write one image's classes.

        Args:
            item: the image; text is drawn into its own pixels, unless it is a frame.
            detections: (k, 2) score 0 to 1 and class number, the highest score first.

        Returns:
            The image with the text, where pictures are written or shown, else the image.
        """
        lines = [f"{score:.2f} {self.names[int(c)]}" for score, c in detections.tolist()]
        drawn = item.image
        if self.options.images or self.options.view:
            image = item.image if item.frame is None else item.image.copy()
            annotator = Annotator(image, example="".join(self.names.values()), pil=True)
            annotator.text(TEXT_CORNER, "\n".join(lines), txt_color=TEXT_COLOUR)
            drawn = annotator.result()
        if self.options.txt:
            file = self.text_path(item)
            with open_for_appending(file) as stream:
                stream.writelines(f"{line}\n" for line in lines)
            self.text_files.add(file)
        if self.options.images:
            self._write_picture(item, drawn)
        return drawn


def likeliest(model: Any, im: Any, clock: Clock) -> Tensor:
    """Return the five highest scores of each image and their classes, (n, k, 2) on the CPU.

    Args:
        model: a DetectMultiBackend of a classification network.
        im: normalised RGB (3, h, w) or (n, 3, h, w), tensor or array.
        clock: measures.
    """
    with clock.measure(0):
        x = torch.as_tensor(im).to(model.device)
        x = x.half() if model.fp16 else x.float()
        x = x[None] if x.ndim == 3 else x
    with clock.measure(1):
        output = model(x)
    with clock.measure(2):
        output = output[0] if isinstance(output, (list, tuple)) else output
        scores, classes = output.float().softmax(1).topk(min(TOP, output.shape[1]), 1)
        return torch.stack((scores, classes.float()), 2).cpu()


def predict_all(model: Any, dataset: Any, writer: ClassWriter, clock: Clock) -> int:
    """Go through a source, write each image's classes and log a line; return the number of images.

    Raises:
        WorkError: the model gave scores that are not finite numbers.
    """
    names = [str(x) for x in getattr(dataset, "files", None) or getattr(dataset, "sources", None) or ["0"]]
    stems = output_stems(names)
    by_path = dict(zip(names, stems, strict=True))
    seen = 0
    for path, im, im0s, cap, text in dataset:
        is_batch = isinstance(im0s, list)
        for i, scores in enumerate(likeliest(model, im, clock)):
            one, original = (path[i], im0s[i]) if is_batch else (path, im0s)
            if not scores.isfinite().all():
                problem = "the scores are not finite numbers: the weights or the precision (--half) do not suit"
                raise WorkError(f"{one}: {problem}")
            stem = stems[i] if is_batch else by_path.get(str(one), Path(str(one)))
            item = make_item(dataset, str(one), stem, original, cap)
            drawn = writer.write(item, scores)
            line = f"{text}{f'{i}: ' if is_batch else ''}{im.shape[-2]}x{im.shape[-1]} "
            LOGGER.info(f"{line}{describe(scores, model.names)}, {clock.last[1]:.1f}ms")
            seen += 1
            if writer.options.view and not show(item, drawn):
                return seen
    return seen


def describe(scores: Tensor, names: Mapping[int, str]) -> str:
    """Return 'cat 0.93, dog 0.05' of (k, 2) scores and classes."""
    return ", ".join(f"{names[int(c)]} {score:.2f}" for score, c in scores.tolist())
