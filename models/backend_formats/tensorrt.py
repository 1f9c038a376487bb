"""TensorRT engines: programs for one kind of NVIDIA GPU and one TensorRT version."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.backend_formats.base import Backend
from utils.errors import InputError


class TensorRtBackend(Backend):
    """Run a TensorRT engine (TensorRT 8.5 or later), its metadata in the network's name."""

    packages: ClassVar = {"tensorrt": "tensorrt"}

    def load(self) -> None:
        """Load the engine; it must be of this machine's TensorRT version and kind of GPU."""
        if self.device.type != "cuda":
            raise InputError(
                f"weights {self.path}: an engine runs on CUDA, --device {self.device} found; allowed: 0, 1"
            )
        import tensorrt as trt

        self._trt = trt
        with trt.Runtime(trt.Logger(trt.Logger.ERROR)) as runtime:
            self._engine = runtime.deserialize_cuda_engine(self.path.read_bytes())
        if self._engine is None:
            raise InputError(
                f"weights {self.path}: TensorRT {trt.__version__} cannot read it; allowed are engines of this version "
                "and this kind of GPU"
            )
        self.model = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._input = next(name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self._outputs = sorted(name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        self.facts = self._facts()
        self._dtype = torch.float16 if self._engine.get_tensor_dtype(self._input) == trt.float16 else torch.float32
        self.half_inputs = self._dtype == torch.float16
        shape = self._engine.get_tensor_shape(self._input)
        self.shape = tuple(max(int(side), 0) for side in shape)

    def run(self, im: Tensor) -> Any:
        """Run the engine on the current stream; outputs are new tensors on the GPU."""
        im = im.to(self.device, self._dtype).contiguous()
        self.model.set_input_shape(self._input, tuple(im.shape))
        self.model.set_tensor_address(self._input, im.data_ptr())
        kinds = {self._trt.float16: torch.float16, self._trt.int32: torch.int32, self._trt.int64: torch.int64}
        outputs = []
        for name in self._outputs:
            shape = tuple(self.model.get_tensor_shape(name))
            dtype = kinds.get(self._engine.get_tensor_dtype(name), torch.float32)
            outputs.append(torch.empty(shape, dtype=dtype, device=self.device))
            self.model.set_tensor_address(name, outputs[-1].data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not self.model.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"weights {self.path}: the engine failed on an input of shape {tuple(im.shape)}")
        stream.synchronize()
        return outputs

    def _facts(self) -> dict[str, Any]:
        """Return the metadata that export.py keeps in the network's name; engines of others have none."""
        try:
            facts = json.loads(self._engine.name or "{}")
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}
