"""NCNN folders: a network (.param, text), its weights (.bin), a .yaml with names and stride. Layers have no effects."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from models.backend_formats.base import Backend, inside
from utils.errors import InputError
from utils.yaml_files import read_yaml


class NcnnBackend(Backend):
    """Run an NCNN network on the CPU in float32, one image at a time."""

    packages: ClassVar = {"ncnn": "ncnn"}
    folder: ClassVar[bool] = True
    gpu: ClassVar[bool] = False

    def load(self) -> None:
        """Load network and weights."""
        param = self.only_file("*.param")
        weights = inside(param.with_suffix(".bin"), self.path)
        settings = sorted(self.path.glob("*.yaml"))
        if settings:
            self.facts = dict(read_yaml(inside(settings[0], self.path)))
        import ncnn

        self._ncnn, self.model = ncnn, ncnn.Net()
        options = self.model.opt
        options.use_vulkan_compute, options.num_threads = False, torch.get_num_threads()
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(options, name, False)
        if self.model.load_param(str(param)) or self.model.load_model(str(weights)):
            raise InputError(f"weights {self.path}: truncated or not an NCNN network")
        taken, self._outputs = self.model.input_names(), sorted(self.model.output_names())
        if len(taken) != 1 or not self._outputs:
            raise InputError(f"weights {self.path}: takes {len(taken)} inputs, expected one image")
        self._input, size = taken[0], self.facts.get("imgsz")
        sides = [int(side) for side in size] if isinstance(size, list) and len(size) == 2 else [0, 0]
        self.shape = (1, 3, *sides)

    def run(self, im: Tensor) -> Any:
        """Return the outputs of one image (1, 3, h, w), with a batch of one."""
        image = self._ncnn.Mat(np.ascontiguousarray(im[0].float().numpy())).clone()
        with self.model.create_extractor() as extractor:
            extractor.input(self._input, image)
            found = [extractor.extract(name) for name in self._outputs]
        if any(status for status, _ in found):
            raise InputError(f"weights {self.path}: NCNN cannot run it on an image of {im.shape[2]}x{im.shape[3]}")
        return [np.array(value)[None] for _, value in found]
