"""OpenVINO folders: an .xml with the network, a .bin with its weights, a .yaml with names and stride."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from models.backend_formats.base import Backend, inside
from utils.errors import InputError
from utils.yaml_files import read_yaml


class OpenVinoBackend(Backend):
    """Run an OpenVINO model on the CPU."""

    packages: ClassVar = {"openvino": "openvino"}
    folder: ClassVar[bool] = True
    gpu: ClassVar[bool] = False

    def load(self) -> None:
        """Compile the network for this CPU, in float32 or the file's int8 whatever the CPU would choose."""
        xml = self.only_file("*.xml")
        weights = inside(xml.with_suffix(".bin"), self.path)
        settings = sorted(self.path.glob("*.yaml"))
        if settings:
            self.facts = dict(read_yaml(inside(settings[0], self.path)))
        import openvino as ov

        core = ov.Core()
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            self.model = core.compile_model(core.read_model(str(xml), str(weights)), "CPU", hints)
        except RuntimeError as error:
            raise InputError(f"weights {xml}: OpenVINO cannot read it: {str(error).strip().splitlines()[0]}") from error
        taken = self.model.inputs
        if len(taken) != 1 or len(taken[0].partial_shape) != 4:
            raise InputError(f"weights {xml}: takes {len(taken)} inputs, expected one batch of images")
        self.shape = tuple(side.get_length() if side.is_static else 0 for side in taken[0].partial_shape)
        self._half = "16" in taken[0].element_type.get_type_name()

    def run(self, im: Tensor) -> Any:
        """Return the outputs as arrays."""
        array = (im.half() if self._half else im.float()).contiguous().numpy()
        found = self.model([array])
        return [found[output] for output in self.model.outputs]
