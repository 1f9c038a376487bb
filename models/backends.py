"""One interface to a detection model, whatever file format holds it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor, nn

from models.experimental import attempt_load
from models.yolo import Detect
from utils.errors import InputError, MissingFileError
from utils.logs import LOGGER
from utils.yaml_files import read_yaml

# Attribute of DetectMultiBackend -> how the files of that format end, in the order of YOLOv5's export formats.
FORMATS: dict[str, str] = {
    "pt": ".pt",
    "jit": ".torchscript",
    "onnx": ".onnx",
    "xml": "_openvino_model",
    "engine": ".engine",
    "coreml": ".mlpackage",
    "saved_model": "_saved_model",
    "pb": ".pb",
    "tflite": ".tflite",
    "edgetpu": "_edgetpu.tflite",
    "tfjs": "_web_model",
    "paddle": "_paddle_model",
}
AVAILABLE = ("pt", "jit")
LEAST_STRIDE = 32
UNNAMED_CLASSES = 999  # names for a file that tells none


class DetectMultiBackend(nn.Module):
    """A model for inference from a checkpoint (.pt, several make an ensemble) or a TorchScript file.

    Args:
        weights: the file, or a list of checkpoints.
        device: where to run.
        dnn: part of YOLOv5's signature; ONNX files are not available here.
        data: data set YAML, for class names that the file does not tell.
        fp16: half precision; taken back where the device is not CUDA.
        fuse: merge batch norms into convolutions.

    Attributes:
        names: class id -> name.
        stride: image sides must be multiples of it.
        fp16, device, model, and one bool per format: pt, jit, onnx, xml, engine, coreml, saved_model, pb, tflite,
        edgetpu, tfjs, paddle, triton.

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
        self.device = torch.device(device)
        self.fp16 = bool(fp16) and self.device.type == "cuda"
        self.nhwc = False
        for name, is_it in zip((*FORMATS, "triton"), self._model_type(files[0]), strict=True):
            setattr(self, name, is_it)
        if not (self.pt or self.jit):
            raise InputError(f"weights {files[0]}: this format is not available in this version; {_allowed()}")
        if dnn:
            LOGGER.warning(f"WARNING --dnn has no effect on {files[0]}: OpenCV's DNN module runs .onnx files")
        if self.pt:
            self._load_checkpoints(files, fuse)
        else:
            self._load_torchscript(Path(files[0]), data)
        self.model.half() if self.fp16 else self.model.float()
        _require_finite(self.model, files)

    def _load_checkpoints(self, files: list[str | Path], fuse: bool) -> None:
        others = [file for file in files if not self._model_type(file)[0]]
        if others:
            raise InputError(f"weights {others[0]}: an ensemble is made of checkpoints; allowed are .pt files")
        self.model = attempt_load(files if len(files) > 1 else files[0], self.device, inplace=True, fuse=fuse)
        self.stride = max(int(self.model.stride.max()), LEAST_STRIDE)
        self.names = self.model.names

    def _load_torchscript(self, file: Path, data: str | Path | None) -> None:
        if not file.is_file():
            raise MissingFileError(f"weights {file}: no such file; expected a TorchScript file")
        LOGGER.info(f"Loading {file} for TorchScript inference...")
        extra = {"config.txt": ""}
        try:
            self.model = torch.jit.load(str(file), _extra_files=extra, map_location=self.device)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"weights {file}: truncated or not a TorchScript file") from error
        facts = _metadata(file, extra["config.txt"])
        self.stride = max(int(facts.get("stride", LEAST_STRIDE)), LEAST_STRIDE)
        self.names = _class_names(facts.get("names"), data)

    def forward(self, im: Tensor, augment: bool = False) -> Tensor | list[Tensor]:
        """Run the model.

        Args:
            im: (b, 3, h, w) images in 0-1, sides multiples of ``stride``.
            augment: test-time augmentation (checkpoints only).

        Returns:
            (b, n, 5 + nc) decoded predictions in pixels, or a list that begins with them where there are more outputs.
        """
        if self.fp16 and im.dtype != torch.float16:
            im = im.half()
        y = self.model(im, augment=augment) if augment and self.pt else self.model(im)
        if isinstance(y, (list, tuple)):
            return self.from_numpy(y[0]) if len(y) == 1 else [self.from_numpy(x) for x in y]
        return self.from_numpy(y)

    def from_numpy(self, x: Any) -> Any:
        """Return an array as a tensor on the model's device; anything else unchanged."""
        return torch.from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640)) -> None:
        """Run the model once on an empty image of ``imgsz`` (b, 3, h, w), so that the first real one is not slower.

        On the CPU there is nothing to warm up.
        """
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
        name = Path(str(p)).name
        types = {key: name.endswith(end) if "." in end else end in name for key, end in FORMATS.items()}
        types["tflite"] = types["tflite"] and not types["edgetpu"]
        url = urlparse(str(p))
        triton = not any(types.values()) and url.scheme in {"http", "https", "grpc"} and bool(url.netloc)
        if not any(types.values()) and not triton:
            raise InputError(f"weights {p}: unknown format; {_allowed()}")
        return [*types.values(), triton]

    @staticmethod
    def _load_metadata(f: str | Path = "path/to/meta.yaml") -> tuple[int | None, dict[int, str] | None]:
        """Return (stride, names) that an exported model's YAML tells, or (None, None) without the file."""
        if not Path(f).exists():
            return None, None
        facts = read_yaml(Path(f))
        return facts["stride"], facts["names"]


def _require_finite(model: nn.Module, files: Sequence[str | Path]) -> None:
    """Refuse weights with NaN or infinity: they detect nothing, or boxes that are no numbers."""
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
        raise InputError(
            f"weights {' '.join(map(str, files))}: {len(wrong)} of {len(state)} tensors hold NaN or infinity as "
            f"{dtype}, the first is {wrong[0]}; allowed are finite numbers"
        )


def require_detector(model: nn.Module, source: Any) -> None:
    """Refuse networks whose output is not that of a detection head, such as those for masks or whole images.

    Args:
        model: a network, an ensemble or a DetectMultiBackend; of other formats than checkpoints the head is not known.
        source: the weights or model YAML, for the message.

    Raises:
        InputError: its last layer is not a Detect.
    """
    model = model.model if isinstance(model, DetectMultiBackend) else model
    for network in model if isinstance(model, nn.ModuleList) else [model]:
        layers = getattr(network, "model", None)
        if isinstance(layers, nn.Sequential) and type(layers[-1]) is not Detect:
            source = " ".join(map(str, source)) if isinstance(source, (list, tuple)) else source
            raise InputError(
                f"{source}: its network ends in {type(layers[-1]).__name__}; allowed here are detection networks, "
                "which end in Detect"
            )


def _allowed() -> str:
    return f"allowed are {' and '.join(FORMATS[name] for name in AVAILABLE)}"


def _metadata(file: Path, text: str | bytes) -> dict[str, Any]:
    """Return the settings that a TorchScript file carries as JSON."""
    try:
        facts = json.loads(text) if text else {}
    except ValueError as error:
        raise InputError(f"weights {file}: its config.txt is not JSON ({error})") from error
    return facts if isinstance(facts, dict) else {}


def _class_names(names: Any, data: str | Path | None) -> dict[int, str]:
    """Return names by class id: the file's, else the data set's, else numbered ones."""
    if not names and data:
        names = read_yaml(Path(data)).get("names")
    if isinstance(names, dict):
        return {int(key): str(name) for key, name in names.items()}
    if names:
        return dict(enumerate(map(str, names)))
    return {number: f"class{number}" for number in range(UNNAMED_CLASSES)}
