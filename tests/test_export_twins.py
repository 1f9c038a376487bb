"""Networks rebuilt for other formats: the head for one image size, and forwards run on another framework's tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from models import common
from tests.export_model import SIZE, save_network
from utils.errors import WorkError
from utils.exporting.fixed_head import with_fixed_head
from utils.exporting.foreign import Foreign, Maker, run_foreign
from utils.exporting.prepare import load_network


class TorchMaker(Maker):
    """The simplest other framework: torch itself, which must give the very same numbers."""

    def shape(self, value: Any) -> tuple[int, ...]:
        return tuple(value.shape)

    def conv2d(self, x: Any, weight: np.ndarray, bias: np.ndarray | None, **how: Any) -> Any:
        return functional.conv2d(x, torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias), **how)

    def conv_transpose2d(self, x: Any, weight: np.ndarray, bias: np.ndarray | None, **how: Any) -> Any:
        bias = None if bias is None else torch.from_numpy(bias)
        return functional.conv_transpose2d(x, torch.from_numpy(weight), bias, **how)

    def scale(self, x: Any, factor: np.ndarray, offset: np.ndarray) -> Any:
        return x * torch.from_numpy(factor)[:, None, None] + torch.from_numpy(offset)[:, None, None]

    def activation(self, name: str, x: Any, slope: float = 0.0) -> Any:
        return functional.leaky_relu(x, slope) if name == "leaky_relu" else getattr(functional, name)(x)

    def softmax(self, x: Any, dim: int) -> Any:
        return x.softmax(dim)

    def pool(self, x: Any, size: Any, stride: Any, padding: Any) -> Any:
        return functional.max_pool2d(x, size, stride, padding)

    def spatial_mean(self, x: Any) -> Any:
        return x.mean((2, 3), keepdim=True)

    def upsample(self, x: Any, factor: tuple[int, int]) -> Any:
        return x.repeat_interleave(factor[0], 2).repeat_interleave(factor[1], 3)

    def concat(self, values: Sequence[Any], dim: int) -> Any:
        return torch.cat(list(values), dim)

    def binary(self, name: str, a: Any, b: Any) -> Any:
        a, b = (torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in (a, b))
        return a + b if name == "add" else a * b

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return x.reshape(list(shape))

    def transpose(self, x: Any, order: Sequence[int]) -> Any:
        return x.permute(list(order))

    def slice(self, x: Any, where: Sequence[slice]) -> Any:
        return x[tuple(where)]

    def matmul(self, a: Any, b: Any) -> Any:
        return a @ (torch.from_numpy(b) if isinstance(b, np.ndarray) else b)


LAYERS: dict[str, Any] = {
    "Conv": lambda: common.Conv(8, 12, 3, 2),
    "Conv of the first layer": lambda: common.Conv(8, 12, 6, 2, 2),
    "Conv, dilated": lambda: common.Conv(8, 12, 3, 1, d=2),
    "DWConv": lambda: common.DWConv(8, 16, 3, 2),
    "grouped": lambda: common.Conv(8, 12, 3, 1, g=2),
    "DWConvTranspose2d": lambda: common.DWConvTranspose2d(8, 8, 4, 2, 1),
    "BottleneckCSP": lambda: common.BottleneckCSP(8, 8),
    "C3x": lambda: common.C3x(8, 12),
    "C3TR": lambda: common.C3TR(8, 16),
    "C3SPP": lambda: common.C3SPP(8, 12),
    "C3Ghost": lambda: common.C3Ghost(8, 16),
    "GhostBottleneck": lambda: common.GhostBottleneck(8, 16, 3, 2),
    "SPPF": lambda: common.SPPF(8, 12),
    "Focus": lambda: common.Focus(8, 12, 3),
    "Contract": lambda: common.Contract(2),
    "Expand": lambda: common.Expand(2),
    "Proto": lambda: common.Proto(8, 8, 4),
    "Classify": lambda: common.Classify(8, 5),
    "pool of ResNet": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "pool of YOLOv3-tiny": lambda: nn.MaxPool2d(2, 2),
    **{
        type(act).__name__: lambda act=act: common.Conv(8, 8, 1, act=act)
        for act in (
            nn.LeakyReLU(0.1), nn.Hardswish(), nn.ReLU6(), nn.GELU(), nn.Mish(), nn.ELU(), nn.Softplus(), nn.Tanh(),
            nn.Hardsigmoid(),
        )
    },
}  # fmt: skip


def layer(name: str) -> nn.Module:
    """Return a layer whose norms are not neutral."""
    torch.manual_seed(3)
    made = LAYERS[name]().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return made


def agrees(made: nn.Module, run: Any) -> None:
    """Compare a layer with what ``run`` makes of it, on a map that is not square."""
    x = torch.randn(2, 8, 12, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = made(x)
    found = torch.as_tensor(np.asarray(run(made, x)))
    assert found.shape == wanted.shape
    assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4), (found - wanted).abs().max()


@pytest.mark.parametrize("name", LAYERS)
def test_layers_on_other_tensors(name: str) -> None:
    agrees(layer(name), lambda made, x: run_foreign(made, x, TorchMaker())[0].detach())


@pytest.mark.parametrize("name", LAYERS)
def test_layers_in_keras(name: str) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs tensorflow")
    from models.tf import KerasMaker, Laid, require_keras

    keras = require_keras()

    def run(made: nn.Module, x: torch.Tensor) -> np.ndarray:
        image = keras.Input((x.shape[2], x.shape[3], x.shape[1]))
        maker = KerasMaker(keras)
        model = keras.Model(image, maker.first(run_foreign(made, Laid(image, True), maker)[0]))
        return np.array(model(x.permute(0, 2, 3, 1).numpy()))

    if name == "C3TR":
        pytest.skip("its tokens come first, so the batch must be known")
    agrees(layer(name), run)


def test_unknown_functions_are_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.fft.rfft2(x)

    with pytest.raises(
        WorkError, match="the model uses fft_rfft2, which has no counterpart; those that have: adaptive"
    ):
        run_foreign(Odd(), torch.rand(1, 3, 8, 8), TorchMaker())
    with pytest.raises(AttributeError, match="cumsum has no counterpart"):
        Foreign(torch.rand(2), TorchMaker()).cumsum(0)


@pytest.mark.parametrize("task", ["detect", "segment"])
@pytest.mark.parametrize("softmax", [False, True])
def test_fixed_head(tmp_path: Path, task: str, softmax: bool) -> None:
    network = load_network(save_network(tmp_path / "n.pt", task), torch.device("cpu"))
    if softmax:
        network.model[-1].cls_act = "softmax"
    im = torch.rand(2, 3, SIZE, 2 * SIZE)
    with torch.no_grad():
        wanted, found = network(im), with_fixed_head(network, (SIZE, 2 * SIZE), 2)(im)
        parts = with_fixed_head(network, (SIZE, 2 * SIZE), parts=True)(im)[0]
    for mine, theirs in zip(found, wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)
    parts[..., :4] *= torch.tensor([2 * SIZE, SIZE, 2 * SIZE, SIZE])
    assert torch.allclose(parts, wanted[0], atol=1e-4)
    assert type(network.model[-1]).__name__ in {"Detect", "Segment"}  # the original is as it was
