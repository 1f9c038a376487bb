"""The table of export formats: how their files are called, what writes and what runs them.

A format is added in one place, a row here. The row names two classes: an ``Exporter`` (utils/exporting/base.py) that
writes the file, and a ``Backend`` (models/backend_formats/base.py) that runs it. export.py, DetectMultiBackend and
benchmarks.py know formats by this table alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INT8_MARK, HALF_MARK = "int8", "fp16"


@dataclass(frozen=True)
class Format:
    """One row of the table.

    Attributes:
        title: for people.
        argument: its name after --include.
        suffix: how its files or folders end; those without a full stop are folders.
        key: attribute of DetectMultiBackend that is True for it.
        cpu: whether it runs on CPUs.
        gpu: whether it runs on GPUs.
        exporter: 'module:class' of its Exporter.
        backend: 'module:class' of its Backend.
        of_yolov5: among the twelve formats that YOLOv5 lists.
    """

    title: str
    argument: str
    suffix: str
    key: str
    cpu: bool
    gpu: bool
    exporter: str
    backend: str
    of_yolov5: bool = True

    def load_exporter(self) -> Any:
        """Return a new Exporter of this format; one that says so where this version has none."""
        from utils.exporting.base import Unavailable

        return (_load(self.exporter) or Unavailable)()

    def load_backend(self) -> Any:
        """Return the class of this format's Backend; one that says so where this version has none."""
        from models.backend_formats.base import Unavailable

        return _load(self.backend) or Unavailable

    def matches(self, path: str | Path) -> bool:
        """Say whether a file or folder is named as this format's are."""
        name = Path(str(path)).name
        return name.endswith(self.suffix) if "." in self.suffix else self.suffix in name


def _row(  # noqa: PLR0913  (the columns of the table)
    title: str, argument: str, suffix: str, key: str, cpu: bool, gpu: bool, module: str, name: str, *, own: bool = False
) -> Format:
    """Return a row whose classes follow the table's naming: <name>Exporter and <name>Backend."""
    exporter = f"utils.exporting.{module}:{name}Exporter"
    backend = f"models.backend_formats.{module}:{name}Backend"
    return Format(title, argument, suffix, key, cpu, gpu, exporter, backend, not own)


# Title, --include, suffix, attribute, CPU, GPU, module in utils/exporting and models/backend_formats, class prefix.
FORMATS: tuple[Format, ...] = (
    _row("PyTorch", "-", ".pt", "pt", True, True, "checkpoint", "Checkpoint"),
    _row("TorchScript", "torchscript", ".torchscript", "jit", True, True, "torchscript", "TorchScript"),
    _row("ONNX", "onnx", ".onnx", "onnx", True, True, "onnx", "Onnx"),
    _row("OpenVINO", "openvino", "_openvino_model", "xml", True, False, "openvino", "OpenVino"),
    _row("TensorRT", "engine", ".engine", "engine", False, True, "tensorrt", "TensorRt"),
    _row("CoreML", "coreml", ".mlpackage", "coreml", True, False, "coreml", "CoreMl"),
    _row("TensorFlow SavedModel", "saved_model", "_saved_model", "saved_model", True, True, "tensorflow", "SavedModel"),
    _row("TensorFlow GraphDef", "pb", ".pb", "pb", True, True, "tensorflow", "GraphDef"),
    _row("TensorFlow Lite", "tflite", ".tflite", "tflite", True, False, "tflite", "TfLite"),
    _row("TensorFlow Edge TPU", "edgetpu", "_edgetpu.tflite", "edgetpu", False, False, "tflite", "EdgeTpu"),
    _row("TensorFlow.js", "tfjs", "_web_model", "tfjs", False, False, "tfjs", "TfJs"),
    _row("PaddlePaddle", "paddle", "_paddle_model", "paddle", True, True, "paddle", "Paddle"),
    _row("NCNN", "ncnn", "_ncnn_model", "ncnn", True, False, "ncnn", "Ncnn", own=True),
)
BY_ARGUMENT = {row.argument: row for row in FORMATS if row.argument != "-"}
BY_KEY = {row.key: row for row in FORMATS}
_OWNERS = {name: name.partition(":")[0] for row in FORMATS for name in (row.exporter, row.backend)}  # class -> module
ALTERNATIVE_SUFFIXES = {".mlmodel": "coreml"}  # CoreML's older files, of --mlmodel


def format_of(path: str | Path) -> Format | None:
    """Return the format that a file or folder's name tells, the one with the longest suffix; None for none."""
    for suffix, key in ALTERNATIVE_SUFFIXES.items():
        if Path(str(path)).name.endswith(suffix):
            return BY_KEY[key]
    return max((row for row in FORMATS if row.matches(path)), key=lambda row: len(row.suffix), default=None)


def exportable() -> Iterator[Format]:
    """Yield the formats that --include can name, in the table's order."""
    yield from BY_ARGUMENT.values()


def _load(name: str) -> Any:
    """Return a class of the table by 'module:class', None where its module is absent."""
    try:
        return getattr(importlib.import_module(_OWNERS[name]), name.partition(":")[2])
    except ModuleNotFoundError as error:
        if error.name != _OWNERS[name]:
            raise
        return None
