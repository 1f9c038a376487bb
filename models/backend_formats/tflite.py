"""TensorFlow Lite files, and those compiled for an Edge TPU."""

from __future__ import annotations

import importlib.util
import platform
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.backend_formats.base import Backend
from models.backend_formats.tf_outputs import SUPPRESSED, channels_last, in_pixels
from models.backend_formats.tflite_file import read_facts, require_known_operations
from utils.errors import InputError

# The Edge TPU's library on each system.
DELEGATES = {"Linux": "libedgetpu.so.1", "Darwin": "libedgetpu.1.dylib", "Windows": "edgetpu.dll"}
INTERPRETERS = ("ai_edge_litert", "tflite_runtime", "tensorflow")  # packages that hold one, the small ones first


class TfLiteBackend(Backend):
    """Run a TensorFlow Lite file of any precision on the CPU."""

    gpu: ClassVar[bool] = False

    def load(self) -> None:
        """Look at the operations, then build the interpreter."""
        require_known_operations(self.path)
        self.facts = dict(read_facts(self.path))
        interpreter, load_delegate = self._interpreter()
        try:
            self.model = interpreter(str(self.path), **self._settings(load_delegate))
            self.model.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"weights {self.path}: TensorFlow Lite cannot read it: {str(error).splitlines()[0]}"
            ) from error
        taken = self.model.get_input_details()
        if len(taken) != 1 or len(taken[0]["shape"]) != 4:
            raise InputError(f"weights {self.path}: takes {len(taken)} inputs, expected one batch of images")
        self._input, self._outputs = taken[0], sorted(self.model.get_output_details(), key=lambda facts: facts["name"])
        self.facts.setdefault("nms", len(self._outputs) >= SUPPRESSED)
        batch, height, width, _ = (int(side) for side in taken[0]["shape"])
        self.shape = (batch, 3, height, width)

    def run(self, im: Tensor) -> Any:
        """Return rows in pixels, and prototypes; numbers of a quantised file are turned into float32."""
        self.model.set_tensor(self._input["index"], _quantized(channels_last(im), self._input))
        self.model.invoke()
        found = [_dequantized(self.model.get_tensor(facts["index"]), facts) for facts in self._outputs]
        return in_pixels(found, im.shape, self.facts)

    def _interpreter(self) -> tuple[Any, Any]:
        """Return the class of interpreters and the function for delegates, of the first package that is there."""
        found = next((name for name in INTERPRETERS if importlib.util.find_spec(name)), None)
        if found is None:
            raise InputError(
                f"weights {self.path}: running it needs one of {', '.join(INTERPRETERS)}: pip install ai-edge-litert"
            )
        if found == "ai_edge_litert":
            from ai_edge_litert import interpreter as module
        elif found == "tflite_runtime":
            from tflite_runtime import interpreter as module
        else:
            from models.tf import import_tensorflow

            tf = import_tensorflow()
            return tf.lite.Interpreter, tf.lite.experimental.load_delegate
        return module.Interpreter, module.load_delegate

    def _settings(self, load_delegate: Any) -> dict[str, Any]:
        """Return how to build the interpreter."""
        warnings.filterwarnings("ignore", ".*Interpreter is deprecated")
        return {"num_threads": torch.get_num_threads()}


class EdgeTpuBackend(TfLiteBackend):
    """Run a compiled file on the first Edge TPU of the machine."""

    def _settings(self, load_delegate: Any) -> dict[str, Any]:
        library = DELEGATES.get(platform.system(), DELEGATES["Linux"])
        try:
            delegate = load_delegate(library)
        except (ValueError, OSError) as error:
            raise InputError(
                f"weights {self.path}: running it needs an Edge TPU and {library}: coral.ai/software"
            ) from error
        return {"experimental_delegates": [delegate]}


def _quantized(array: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """Return float32 numbers in a tensor's own kind, by its scale and zero point."""
    if facts["dtype"] == np.float32:
        return array
    if not np.issubdtype(facts["dtype"], np.integer):
        return array.astype(facts["dtype"])
    scale, zero = facts["quantization"]
    limits = np.iinfo(facts["dtype"])
    return np.clip(np.rint(array / scale + zero), limits.min, limits.max).astype(facts["dtype"])


def _dequantized(array: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """Return a tensor's numbers as float32; counts, which have no scale, as they are."""
    scale, zero = facts["quantization"]
    if np.issubdtype(array.dtype, np.integer):
        return (array.astype(np.float32) - zero) * scale if scale else array
    return array.astype(np.float32)
