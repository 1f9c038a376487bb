"""One interface to a model, whatever file format holds it. The formats themselves are in models/backend_formats/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from models.backend_formats.base import Request, as_outputs
from models.yolo import Detect
from utils.errors import InputError
from utils.exporting.formats import BY_KEY, Format, format_of
from utils.exporting.formats import FORMATS as TABLE
from utils.logs import LOGGER
from utils.yaml_files import read_yaml

# Attribute of DetectMultiBackend -> how the files of that format end, of YOLOv5's formats and in its order.
FORMATS: dict[str, str] = {row.key: row.suffix for row in TABLE if row.of_yolov5}
# Last layer of a network -> its task as files tell it, and in words.
KINDS = {
    "Detect": ("detect", "detection"),
    "Segment": ("segment", "segmentation"),
    "Classify": ("classify", "classification"),
}
LEAST_STRIDE = 32
UNNAMED_CLASSES = 999  # names for a file that tells none


class DetectMultiBackend(nn.Module):
    """A model for inference from a file of any format.

    Args:
        weights: the file or folder, or a list of checkpoints, which make an ensemble.
        device: where to run; formats that know no CUDA run on the CPU.
        dnn: run an ONNX file with OpenCV's DNN module.
        data: data set YAML, for class names that the file does not tell.
        fp16: half precision; taken back where the device is not CUDA or the format decides by itself.
        fuse: merge batch norms into convolutions (checkpoints).

    Attributes:
        names: class id -> name.
        stride: image sides must be multiples of it.
        task: detect, segment or classify where the file tells, else ''.
        nms: the file suppresses by itself; ``forward`` still returns (b, n, 5 + nc + masks), a row per detection.
        batch_size: images that the file takes at a time, 0 for any number; ``forward`` takes any number of all.
        any_size: it is sure to take images of any size that is a multiple of ``stride``: a checkpoint, or an ONNX or
            OpenVINO file that tells it was exported with --dynamic.
        facts: all that the file tells about itself.
        fp16, device, model, and one bool per format: pt, jit, onnx, xml, engine, coreml, saved_model, pb, tflite,
        edgetpu, tfjs, paddle, ncnn, triton.

    Raises:
        InputError: the file cannot be read, its format is not available, or a weight is not a finite number.
    """

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        weights: str | Path | Sequence[str | Path] = "yolov5s.pt",
        device: torch.device = torch.device("cpu"),  # noqa: B008  (YOLOv5's signature; a device never changes)
        dnn: bool = False,
        data: str | Path | None = None,
        fp16: bool = False,
        fuse: bool = True,
    ):
        super().__init__()
        files = [weights] if isinstance(weights, (str, Path)) else list(weights)
        if not files:
            raise InputError("weights: an empty list found, expected at least one file")
        row = _known_format(files[0])
        for known in TABLE:
            setattr(self, known.key, known is row)
        self.triton = row is None
        if row is None:
            raise InputError(f"weights {files[0]}: servers are not available in this version; {_allowed()}")
        if dnn and not self.onnx:
            LOGGER.warning(f"WARNING --dnn has no effect on {files[0]}: OpenCV's DNN module runs .onnx files")
        if not (self.pt or self.triton):
            LOGGER.info(f"Loading {files[0]} for {row.title} inference...")
        request = Request(torch.device(device), bool(fp16), bool(dnn) and self.onnx, fuse)
        self._backend = row.load_backend()(files, request)
        self.model, self.facts, self.device = self._backend.model, self._backend.facts, self._backend.device
        self.fp16, self.nhwc = self._backend.half_inputs, False
        self.stride = max(_whole(self.facts.get("stride"), LEAST_STRIDE), LEAST_STRIDE)
        self.names = self.facts["names"] if self.pt else _class_names(self.facts.get("names"), data)
        self.task, self.nms = str(self.facts.get("task", "")), bool(self.facts.get("nms"))
        self.batch_size = self._backend.shape[0]
        free = (self.onnx or self.xml) and not request.dnn and not any(self._backend.shape[2:])
        self.any_size = self.pt or (free and bool(self.facts.get("dynamic")))
        if self.nms:
            _state_limits(files[0], self.facts)

    def forward(self, im: Tensor, augment: bool = False, visualize: str | Path | bool = False) -> Tensor | list[Tensor]:
        """Run the model.

        Args:
            im: (b, 3, h, w) images in 0-1, sides multiples of ``stride``.
            augment: test-time augmentation (checkpoints only).
            visualize: folder for the first image's feature maps of each layer (checkpoints only); False saves none.

        Returns:
            (b, n, 5 + nc + masks) decoded predictions in pixels, or a list that begins with them where there are more
            outputs.

        Raises:
            InputError: the file is made for images of another size.
        """
        if self.fp16 and im.dtype != torch.float16:
            im = im.half()
        if self.pt:
            asked = {"augment": augment, "visualize": visualize}
            y = self.model(im, **{name: value for name, value in asked.items() if value})
        else:
            self._require_shape(im.shape)
            y = self._in_batches(im.to(self.device))
        if not isinstance(y, (list, tuple)):
            return self.from_numpy(y)
        # maps of masks come channels-last from the network, and clones' code calls view on them
        outputs = [x.contiguous() if isinstance(x, Tensor) else self.from_numpy(x) for x in y]
        if self.nms:
            outputs[0] = as_predictions(outputs[0], len(self.names))
        return outputs[0] if len(outputs) == 1 else outputs

    def _in_batches(self, im: Tensor) -> list[Tensor]:
        """Run images in groups of the size that the file takes, the last one filled up with empty images."""
        size = self._backend.shape[0] or len(im)
        if size == len(im):
            return self._run(im)
        parts = []
        for start in range(0, len(im), size):
            group = im[start : start + size]
            filled = torch.cat((group, group.new_zeros((size - len(group), *group.shape[1:]))))
            parts.append([x[: len(group)] for x in self._run(filled)])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]

    def _run(self, im: Tensor) -> list[Tensor]:
        """Run one batch as the file takes it; a float16 file gives float32 unless its images are float16 too."""
        outputs = [self.from_numpy(x) for x in as_outputs(self._backend.run(im))]
        return [x.float() if x.dtype == torch.float16 and not self.fp16 else x for x in outputs]

    def _require_shape(self, shape: Sequence[int]) -> None:
        """Refuse images of a size that the file was not made for."""
        wanted = self._backend.shape[2:]
        if any(side and side != given for side, given in zip(wanted, shape[2:], strict=True)):
            height, width = wanted
            size = f"{height}" if height == width else f"{height} {width}"
            raise InputError(
                f"weights {self._backend.path}: made for images of {height}x{width}, {shape[2]}x{shape[3]} found; "
                f"pass --imgsz {size}, or export with --dynamic"
            )

    def from_numpy(self, x: Any) -> Any:
        """Return an array as a tensor on the model's device; anything else unchanged."""
        return torch.from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640)) -> None:
        """Run the model once on an empty image of ``imgsz`` (b, 3, h, w), so that the first real one is not slower.

        On the CPU there is nothing to warm up.

        Raises:
            InputError: the file is made for images of another size.
        """
        self._require_shape(imgsz)
        if self.device.type == "cpu":
            return
        im = torch.zeros(*imgsz, dtype=torch.half if self.fp16 else torch.float, device=self.device)
        for _ in range(2 if self.jit else 1):
            self.forward(im)

    @staticmethod
    def _model_type(p: str | Path = "path/to/model.pt") -> list[bool]:
        """Tell a file's format by its name: one bool per entry of FORMATS, then triton (a server's URL).

        Raises:
            InputError: no known format.
        """
        row = _known_format(p)
        return [*(known is row for known in TABLE if known.of_yolov5), row is None]

    @staticmethod
    def _load_metadata(f: str | Path = "path/to/meta.yaml") -> tuple[int | None, dict[int, str] | None]:
        """Return (stride, names) that an exported model's YAML tells, or (None, None) without the file."""
        if not Path(f).exists():
            return None, None
        facts = read_yaml(Path(f))
        return facts["stride"], facts["names"]


def as_predictions(rows: Tensor, nc: int) -> Tensor:
    """Return detections of a graph that suppresses as predictions that suppression leaves as they are.

    Args:
        rows: (b, n, 6 + masks) x1, y1, x2, y2, confidence, class, mask columns; empty rows have the confidence 0.
        nc: classes.

    Returns:
        (b, n, 5 + nc + masks) centre, size, 1 or 0 in empty rows, the class's confidence and 0 for others, masks.
    """
    corners, confidence, label = rows[..., :4], rows[..., 4:5], rows[..., 5:6]
    centre, size = (corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]
    scores = (torch.arange(nc, device=rows.device) == label).to(rows.dtype) * confidence
    return torch.cat((centre, size, (confidence > 0).to(rows.dtype), scores, rows[..., 6:]), -1)


def require_detector(model: nn.Module, source: Any) -> None:
    """Refuse networks whose output is not that of a detection head; see ``require_head``."""
    require_head(model, source, Detect)


def require_head(model: nn.Module, source: Any, head: type[nn.Module]) -> None:
    """Refuse networks for another task: for boxes, for masks or for whole images.

    Args:
        model: a network, an ensemble or a DetectMultiBackend; files of other formats tell their task, or it is unknown.
        source: the weights or model YAML, for the message.
        head: the class that the last layer must have, of KINDS.

    Raises:
        InputError: its last layer is another, or several networks are to find masks.
    """
    task, kind = KINDS[head.__name__]
    name = " ".join(map(str, source)) if isinstance(source, (list, tuple)) else source
    if isinstance(model, DetectMultiBackend):
        if model.task not in {"", task}:
            raise InputError(f"{name}: made for the task {model.task}; allowed here are {kind} networks")
        model = model.model
    if isinstance(model, nn.ModuleList) and head.__name__ == "Segment":
        raise InputError(f"{name}: several checkpoints found, allowed is one {kind} network")
    for network in model if isinstance(model, nn.ModuleList) else [model]:
        layers = getattr(network, "model", None)
        if isinstance(layers, nn.Sequential) and type(layers[-1]) is not head:
            raise InputError(
                f"{name}: its network ends in {type(layers[-1]).__name__}; allowed here are {kind} networks, "
                f"which end in {head.__name__}"
            )


def _known_format(path: str | Path) -> Format | None:
    """Return the format that a name tells, None for a server's URL.

    Raises:
        InputError: neither.
    """
    row, url = format_of(path), urlparse(str(path))
    if row is None and not (url.scheme in {"http", "https", "grpc"} and url.netloc):
        raise InputError(f"weights {path}: unknown format; {_allowed()}")
    return row


def _allowed() -> str:
    return f"allowed are names that end in {', '.join(row.suffix for row in BY_KEY.values())}"


def _state_limits(source: str | Path, facts: dict[str, Any]) -> None:
    """Log what a file's own suppression leaves, as nothing later can bring it back."""
    LOGGER.info(
        f"{source} suppresses by itself: confidence above {facts.get('conf_thres')}, overlap up to "
        f"{facts.get('iou_thres')}, at most {facts.get('topk_all')} boxes an image; "
        f"{'several classes' if facts.get('multi_label') else 'one class'} a box. Options can only drop more"
    )


def _whole(value: Any, default: int) -> int:
    """Return a file's number, or the default where it tells none."""
    return int(value) if isinstance(value, (int, float)) else default


def _class_names(names: Any, data: str | Path | None) -> dict[int, str]:
    """Return names by class id: the file's, else the data set's, else numbered ones."""
    if not names and data:
        names = read_yaml(Path(data)).get("names")
    if isinstance(names, dict):
        return {int(key): str(name) for key, name in names.items()}
    if names:
        return dict(enumerate(map(str, names)))
    return {number: f"class{number}" for number in range(UNNAMED_CLASSES)}
