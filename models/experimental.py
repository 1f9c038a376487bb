"""Rare layers, and several models as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.checkpoint import load_model
from utils.downloads import attempt_download
from utils.errors import InputError
from utils.general import torch_load  # noqa: F401  (importable from here, as in YOLOv5)
from utils.logs import LOGGER

_INPLACE_LAYERS = (nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.SiLU)


class Sum(nn.Module):
    """Weighted sum of ``n`` feature maps of one shape (arXiv:1911.09070); without weights a plain sum."""

    def __init__(self, n: int, weight: bool = False):
        super().__init__()
        self.weight = weight
        self.iter = range(n - 1)
        if weight:
            self.w = nn.Parameter(-torch.arange(1.0, n) / 2, requires_grad=True)

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """Add the maps to the first one; learned weights lie in 0-2."""
        y = x[0]
        weights = torch.sigmoid(self.w) * 2 if self.weight else None
        for i in self.iter:
            y = y + (x[i + 1] if weights is None else x[i + 1] * weights[i])
        return y


def _split_channels(total: int, kernels: Sequence[int], equal_channels: bool) -> list[int]:
    """Share ``total`` channels among kernels: evenly, or so that each has about as many weights as the others."""
    if equal_channels:
        groups = torch.linspace(0, len(kernels) - 1e-6, total).floor()
        return [int((groups == i).sum()) for i in range(len(kernels))]
    inverse = [1 / k**2 for k in kernels]
    shares = [round(total * part / sum(inverse)) for part in inverse]
    shares[0] += total - sum(shares)
    return shares


class MixConv2d(nn.Module):
    """Depth-wise convolutions of several kernel sizes side by side, norm, SiLU (arXiv:1907.09595).

    Maps (b, c1, h, w) to (b, c2, h / s, w / s).
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True):
        super().__init__()
        widths = _split_channels(c2, k, equal_ch)
        self.m = nn.ModuleList(
            nn.Conv2d(c1, width, kernel, s, kernel // 2, groups=math.gcd(c1, width), bias=False)
            for kernel, width in zip(k, widths, strict=True)
        )
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Join the convolutions on channels."""
        return self.act(self.bn(torch.cat([m(x) for m in self.m], 1)))


class Ensemble(nn.ModuleList):
    """Several detection models on the same images; their predictions go to NMS together."""

    def forward(
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: str | Path | bool = False
    ) -> tuple[Tensor, None]:
        """Return the joined decoded predictions (b, n1 + n2 + ..., nc + 5), and None in place of raw outputs."""
        return torch.cat([model(x, augment, profile, visualize)[0] for model in self], 1), None


def attempt_load(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str | None = None,
    inplace: bool = True,
    fuse: bool = True,
) -> nn.Module:
    """Load one or several checkpoints for inference: float32, evaluation mode, averaged weights where there are any.

    Args:
        weights: a checkpoint or several; a released one that is missing is fetched.
        device: where to put the model; the CPU by default.
        inplace: whether activations and the head may overwrite their inputs.
        fuse: merge batch norms into the convolutions before them.

    Returns:
        The model, or for several an Ensemble with the members' names and the largest of their strides.

    Raises:
        InputError: a file that is no checkpoint, no file, or members with different numbers, or another order,
            of classes.
    """
    files = [weights] if isinstance(weights, (str, Path)) else list(weights)
    if not files:
        raise InputError("weights: an empty list found, expected at least one checkpoint")
    models = [load_model(attempt_download(file), device, fuse) for file in files]
    for module in (part for model in models for part in model.modules()):
        if isinstance(module, _INPLACE_LAYERS) or hasattr(module, "anchors"):
            module.inplace = inplace
    return models[0] if len(models) == 1 else _join(files, models)


def _join(files: Sequence[str | Path], models: Sequence[nn.Module]) -> Ensemble:
    """Return an Ensemble of models for the same classes."""
    counts = [getattr(model, "nc", len(model.names)) for model in models]
    if len(set(counts)) > 1:
        found = ", ".join(f"{file} has {count}" for file, count in zip(files, counts, strict=True))
        raise InputError(f"weights: an ensemble needs models with the same number of classes, found {found}")
    first = models[0].names
    for file, model in zip(files[1:], models[1:], strict=True):
        at = next((number for number, name in first.items() if model.names.get(number) != name), None)
        if at is None:
            continue
        found = f"class {at} is '{first[at]}' in {files[0]} and '{model.names.get(at)}' in {file}"
        if sorted(first.values()) == sorted(model.names.values()):
            raise InputError(f"weights: an ensemble needs models with the same order of classes, {found}")
        LOGGER.warning(f"WARNING ensemble: {found}; the names of the first are used")
    ensemble = Ensemble(models)
    LOGGER.info(f"Ensemble created with {', '.join(str(file) for file in files)}")
    ensemble.names, ensemble.nc, ensemble.yaml = models[0].names, counts[0], getattr(models[0], "yaml", None)
    ensemble.stride = max((model.stride for model in models), key=lambda stride: float(stride.max()))
    return ensemble.eval()
