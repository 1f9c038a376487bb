"""CoreML models, which macOS alone can run."""

from __future__ import annotations

import platform
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from models.backend_formats.base import Backend, facts_from_text
from utils.errors import InputError, MissingFileError


class CoreMlBackend(Backend):
    """Run a CoreML model (.mlpackage or .mlmodel), one image at a time."""

    packages: ClassVar = {"coremltools": "coremltools"}
    gpu: ClassVar[bool] = False

    def _require(self) -> None:
        """A .mlpackage is a folder, a .mlmodel a file; both need macOS."""
        self.folder = self.path.is_dir()
        if not self.path.exists():
            raise MissingFileError(f"weights {self.path}: no such file or folder")
        super()._require()
        if platform.system() != "Darwin":
            raise InputError(f"weights {self.path}: CoreML models run on macOS, this is {platform.system()}")

    def load(self) -> None:
        """Load the model, and see what it takes and whether it suppresses."""
        import coremltools as ct

        try:
            self.model = ct.models.MLModel(str(self.path))
        except Exception as error:  # of many classes
            raise InputError(f"weights {self.path}: CoreML cannot read it: {str(error).splitlines()[0]}") from error
        spec = self.model.get_spec()
        self.facts = facts_from_text(dict(self.model.user_defined_metadata), self.path)
        taken, outputs = spec.description.input[0], [feature.name for feature in spec.description.output]
        self._input, self._image = taken.name, taken.type.WhichOneof("Type") == "imageType"
        self.facts["nms"] = "confidence" in outputs
        self._outputs = sorted(outputs)
        if self._image:
            self.shape = (1, 3, taken.type.imageType.height, taken.type.imageType.width)
        else:
            self.shape = tuple(int(side) for side in taken.type.multiArrayType.shape)

    def run(self, im: Tensor) -> Any:
        """Return rows in pixels, and prototypes."""
        found = self.model.predict({self._input: self._as_input(im)})
        if not self.facts["nms"]:
            return [np.asarray(found[name]) for name in self._outputs]
        return [detections(found["confidence"], found["coordinates"], (im.shape[3], im.shape[2]))]

    def _as_input(self, im: Tensor) -> Any:
        """Return images as the model takes them: one PIL image, or an array."""
        array = im.float().cpu().numpy()
        if not self._image:
            return array
        from PIL import Image

        return Image.fromarray(np.rint(array[0].transpose(1, 2, 0) * 255).astype(np.uint8))


def detections(confidence: np.ndarray, coordinates: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return what CoreML's suppression leaves as (1, k, 6) rows x1, y1, x2, y2 in pixels, confidence, class.

    Args:
        confidence: (k, nc).
        coordinates: (k, 4) centre and size in parts of the image.
        size: (width, height) of the image in pixels.
    """
    boxes = np.asarray(coordinates, np.float32).reshape(-1, 4) * np.array([*size, *size], np.float32)
    scores = np.asarray(confidence, np.float32)
    corners = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
    best = scores.argmax(1) if len(boxes) else np.zeros(0, int)
    columns = (corners, scores.max(1, initial=0)[:, None], best[:, None].astype(np.float32))
    return np.concatenate(columns, 1)[None].astype(np.float32)
