"""ONNX files, run by ONNX Runtime or by OpenCV's DNN module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backend_formats.base import Backend, facts_from_text, inside
from utils.errors import InputError

# Which fields of which message lead to tensors: message -> field number -> message (onnx.proto of ONNX 1.x).
_PATHS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 14: "Property", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "External"},
    "Property": {},
    "External": {},
}
_DEEPEST = 32  # graphs within graphs


class OnnxBackend(Backend):
    """Run an ONNX file."""

    def load(self) -> None:
        """Open a session; files with weights elsewhere than in their own folder are refused first."""
        text, places = read_properties(self.path)
        for place in places:
            if Path(place).is_absolute() or ".." in Path(place.replace("\\", "/")).parts:
                raise InputError(f"weights {self.path}: reads {place!r}; allowed are files in its own folder")
            inside(self.path.parent / place, self.path.parent)
        self.facts = facts_from_text(text, self.path)
        if self.request.dnn:
            self._load_dnn()
        else:
            self._load_session()

    def run(self, im: Tensor) -> Any:
        """Return the outputs as arrays."""
        import numpy as np

        if self.request.dnn:
            self.model.setInput(im.float().cpu().numpy())
            return list(self.model.forward(self._outputs))
        array = np.ascontiguousarray(im.to("cpu", self._dtype).numpy())
        return self.model.run(self._outputs, {self._input: array})

    def _load_session(self) -> None:
        self.require_packages({"onnxruntime": "onnxruntime"})
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other threads need the cores as well
        wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        on_gpu = self.device.type == "cuda" and wanted[0] in ort.get_available_providers()
        if not on_gpu:
            self.device = torch.device("cpu")
        try:
            self.model = ort.InferenceSession(str(self.path), options, providers=wanted if on_gpu else wanted[1:])
        except Exception as error:  # of classes of its own for each kind of fault
            raise InputError(
                f"weights {self.path}: ONNX Runtime cannot read it: {str(error).splitlines()[0]}"
            ) from error
        taken = self.model.get_inputs()
        if len(taken) != 1 or len(taken[0].shape) != 4:
            raise InputError(f"weights {self.path}: takes {len(taken)} inputs, expected one batch of images")
        self._input, self._outputs = taken[0].name, [output.name for output in self.model.get_outputs()]
        self._dtype = torch.float16 if "float16" in taken[0].type else torch.float32
        self.shape = tuple(side if isinstance(side, int) else 0 for side in taken[0].shape)

    def _load_dnn(self) -> None:
        import cv2

        self.device, size = torch.device("cpu"), self.facts.get("imgsz")
        if self.facts.get("nms"):  # OpenCV 5.0 keeps the number of boxes of an earlier image, and drops what is beyond
            raise InputError(
                f"weights {self.path}: its graph holds the suppression, of which OpenCV's DNN module loses boxes; "
                "allowed with --dnn are files exported without --nms"
            )
        try:
            self.model = cv2.dnn.readNetFromONNX(str(self.path))
        except cv2.error as error:
            raise InputError(f"weights {self.path}: OpenCV cannot read it: {str(error).splitlines()[0]}") from error
        self._outputs = self.model.getUnconnectedOutLayersNames()
        if isinstance(size, list) and not self.facts.get("dynamic"):
            self.shape = (int(self.facts.get("batch", 1)), 3, *map(int, size))


def read_properties(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return an ONNX file's metadata and the locations of weights that it keeps in other files.

    The file is walked as Protocol Buffers are encoded, without reading weights; nothing but lengths is believed.

    Raises:
        InputError: it is no such file.
    """
    properties: dict[str, str] = {}
    places: list[str] = []
    try:
        for message, content in _messages(memoryview(path.read_bytes()), "Model", 0):
            entry = {number: bytes(value).decode() for number, value in _fields(content)}
            if message == "Property":
                properties[entry.get(1, "")] = entry.get(2, "")
            elif entry.get(1) == "location":
                places.append(entry.get(2, ""))
    except (ValueError, IndexError) as error:
        raise InputError(f"weights {path}: truncated or not an ONNX file") from error
    return properties, places


def _messages(data: memoryview, message: str, depth: int) -> Iterator[tuple[str, memoryview]]:
    """Yield the property and external-data messages anywhere in a message."""
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    for number, content in _fields(data):
        inner = _PATHS[message].get(number)
        if inner in {"Property", "External"}:
            yield inner, content
        elif inner:
            yield from _messages(content, inner, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (number, content) of the fields with a length in an encoded message; others are stepped over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in {1, 5}:
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + length > len(data):
            raise ValueError("a field is longer than the file")
        if kind == 2:
            yield key >> 3, data[at : at + length]
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
