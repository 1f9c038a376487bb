"""Checkpoints (.pt): the network itself, or several of them together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.backend_formats.base import Backend, require_finite
from models.experimental import attempt_load
from utils.errors import InputError
from utils.exporting.formats import BY_KEY

LEAST_STRIDE = 32


class CheckpointBackend(Backend):
    """Run a checkpoint's network; several files make an ensemble."""

    def _require(self) -> None:
        others = [file for file in self.files if not BY_KEY["pt"].matches(file)]
        if others:
            raise InputError(f"weights {others[0]}: an ensemble is made of checkpoints; allowed are .pt files")

    def load(self) -> None:
        """Load the files; missing released ones are fetched."""
        files = self.files if len(self.files) > 1 else self.files[0]
        self.model = attempt_load(files, self.device, inplace=True, fuse=self.request.fuse)
        self.half_inputs = self.request.fp16 and self.device.type == "cuda"
        self.model.half() if self.half_inputs else self.model.float()
        require_finite(self.model, self.files)
        if self.device.type == "cpu":
            lay_out_for_cpu(self.model)
        self.facts = {"stride": max(int(self.model.stride.max()), LEAST_STRIDE), "names": self.model.names}

    def run(self, im: Tensor) -> Any:
        """Return what the network returns."""
        return self.model(im)


def lay_out_for_cpu(model: nn.Module) -> None:
    """Lay convolution weights out channels-last: oneDNN then keeps all maps so and converts none between layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
