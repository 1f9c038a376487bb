"""Operations on whole models: initial settings, fusing, counting, and images scaled to a model's grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.logs import LOGGER
from utils.meta_shapes import ShapesAlone

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.03
PADDING_GREY = 0.447  # mean pixel of ImageNet, the border of scaled images
OPS_PER_NORM_VALUE = 4


def make_divisible(x: float | Tensor, divisor: int | Tensor) -> int:
    """Return the smallest multiple of ``divisor`` that is at least ``x``; a tensor divisor counts by its maximum."""
    step = int(divisor.max()) if isinstance(divisor, Tensor) else divisor
    return math.ceil(x / step) * step


def initialize_weights(model: nn.Module) -> None:
    """Set batch norm to YOLOv5's eps 1e-3 and momentum 0.03, and activations to work in place.

    Convolutions keep torch's own initial weights.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.eps = NORM_EPS
            module.momentum = NORM_MOMENTUM
        elif type(module) in {nn.Hardswish, nn.LeakyReLU, nn.ReLU, nn.ReLU6, nn.SiLU}:
            module.inplace = True


def find_modules(model: nn.Module, mclass: type[nn.Module] = nn.Conv2d) -> list[int]:
    """Return the positions of ``model.module_list``'s children that are of class ``mclass``."""
    return [i for i, module in enumerate(model.module_list) if isinstance(module, mclass)]


@torch.no_grad()
def fuse_conv_and_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that equals ``conv`` followed by ``bn`` in evaluation mode.

    weight' = weight * g and bias' = (bias - mean) * g + beta with g = gamma / sqrt(variance + eps), per output channel.
    """
    fused = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        bias=True,
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    ).requires_grad_(conv.weight.requires_grad)
    gain = bn.weight.float() / torch.sqrt(bn.running_var.float() + bn.eps)
    bias = torch.zeros_like(gain) if conv.bias is None else conv.bias.float()
    fused.weight.copy_(conv.weight.float() * gain.view(-1, 1, 1, 1))
    fused.bias.copy_((bias - bn.running_mean.float()) * gain + bn.bias.float())
    return fused


def scale_img(img: Tensor, ratio: float = 1.0, same_shape: bool = False, gs: int = 32) -> Tensor:
    """Resize images by ``ratio`` and pad right and bottom with grey to a multiple of the grid.

    Args:
        img: (b, c, h, w) float images in 0-1.
        ratio: factor on height and width; 1 returns ``img`` itself.
        same_shape: keep the resized shape, without padding.
        gs: grid size in pixels, the model's largest stride.
    """
    if ratio == 1.0:
        return img
    height, width = img.shape[2:]
    resized = (int(height * ratio), int(width * ratio))
    img = F.interpolate(img, size=resized, mode="bilinear", align_corners=False)
    if same_shape:
        return img
    rows, columns = (math.ceil(side * ratio / gs) * gs for side in (height, width))
    return F.pad(img, [0, columns - resized[1], 0, rows - resized[0]], value=PADDING_GREY)


def copy_attr(a: Any, b: Any, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> None:
    """Copy ``b``'s public attributes to ``a``: those in ``include`` (all when empty) that are not in ``exclude``."""
    include, exclude = set(include), set(exclude)
    for name, value in vars(b).items():
        if name.startswith("_") or name in exclude or (include and name not in include):
            continue
        setattr(a, name, value)


@contextmanager
def _shape_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, but a head with anchors in training mode (raw outputs); restore afterwards."""
    before = [(module, module.training) for module in model.modules()]
    for module, _ in before:
        module.training = hasattr(module, "anchors")
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def meta_forward(model: nn.Module, shape: tuple[int, ...]) -> Any:
    """Run the model on tensors that have shapes and no values: no arithmetic, no memory, nothing in it changes.

    Args:
        model: any module whose layers torch can run on its ``meta`` device.
        shape: (b, c, h, w) of the input.

    Returns:
        What the model returns in evaluation mode, detection heads in training mode (raw), as meta tensors.
    """
    entries = [*model.named_parameters(), *model.named_buffers()]
    state = {name: torch.empty_like(tensor, device="meta") for name, tensor in entries}
    dtype = next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float32)
    with torch.no_grad(), _shape_mode(model), ShapesAlone():
        return torch.func.functional_call(model, state, (torch.empty(shape, device="meta", dtype=dtype),))


def _multiply_adds(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> float:
    """Return the multiply-adds of one call, counted as YOLOv5's printed figures count them."""
    if isinstance(module, nn.modules.conv._ConvNd):
        kernel = math.prod(module.kernel_size)
        return output.numel() * (module.in_channels // module.groups) * kernel
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return OPS_PER_NORM_VALUE * inputs[0].numel() / (1 if module.affine else 2)
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, nn.MultiheadAttention):
        return _attention_multiply_adds(module, inputs[0], inputs[1])
    return 0


def _attention_multiply_adds(module: nn.MultiheadAttention, query: Tensor, key: Tensor) -> float:
    """Projections, both products with the scores, and the softmax; query and key are (tokens, b, channels)."""
    targets, b, channels = query.shape
    sources = key.shape[0]
    projections = 2 * (targets + sources) * channels**2
    products = 2 * targets * sources * channels
    softmax = module.num_heads * targets * (3 * sources - 1)
    return b * (projections + products + softmax)


def count_gflops(model: nn.Module, imgsz: int | Iterable[int] = 640, channels: int = 3) -> float:
    """Return two operations per multiply-add of one image in billions, 0 where the model cannot run on shapes alone.

    A size that is not a multiple of the largest stride is measured at the next one and scaled by area.

    Args:
        model: detection, segmentation or classification model.
        imgsz: image side or (height, width) in pixels.
        channels: image channels.
    """
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else tuple(imgsz)
    stride = getattr(model, "stride", None)
    grid = max(int(stride.max()) if isinstance(stride, Tensor) else 32, 32)
    shape = (1, channels, make_divisible(height, grid), make_divisible(width, grid))
    counts: list[float] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        counts.append(_multiply_adds(module, inputs, output))

    counted = [m for m in model.modules() if not any(m.children()) or isinstance(m, nn.MultiheadAttention)]
    handles = [module.register_forward_hook(hook) for module in counted]
    try:
        meta_forward(model, shape)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        LOGGER.debug("GFLOPs not counted: %s", error)
        return 0.0
    finally:
        for handle in handles:
            handle.remove()
    return 2 * sum(counts) / 1e9 * (height * width) / (shape[2] * shape[3])


def _log_parameters(model: nn.Module) -> None:
    """Log one line per parameter: name, whether it is trained, count, shape, mean, standard deviation."""
    LOGGER.info(f"{'layer':>5} {'name':>40} {'gradient':>9} {'parameters':>12} {'shape':>20} {'mu':>10} {'sigma':>10}")
    for i, (name, p) in enumerate(model.named_parameters()):
        shape, values = str(list(p.shape)), p.detach().float()
        mean, std = values.mean().item(), values.std(correction=0).item()
        LOGGER.info(f"{i:5g} {name:>40} {p.requires_grad!s:>9} {p.numel():12,} {shape:>20} {mean:10.3g} {std:10.3g}")


def model_info(
    model: nn.Module, detailed: bool = False, verbose: bool = True, imgsz: int | Iterable[int] = 640
) -> tuple[int, int, int, float]:
    """Log a model's size in one line and return it.

    Args:
        model: the model; its ``yaml_file`` gives the name in the line.
        detailed: first log one line per parameter.
        verbose: log at all.
        imgsz: image side or (height, width) in pixels for the GFLOPs.

    Returns:
        (modules without children, parameters, parameters with a gradient, GFLOPs).
    """
    layers = sum(not any(module.children()) for module in model.modules())
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    parameters = sum(size for size, _ in sizes)
    gradients = sum(size for size, trained in sizes if trained)
    channels = getattr(model, "yaml", None)
    channels = channels.get("ch", 3) if isinstance(channels, dict) else 3
    gflops = count_gflops(model, imgsz, channels)
    if verbose:
        if detailed:
            _log_parameters(model)
        stem = Path(getattr(model, "yaml_file", "") or "").stem
        name = stem.replace("yolo", "YOLO") if stem else "Model"
        work = f", {gflops:.1f} GFLOPs" if gflops else ""
        LOGGER.info(f"{name} summary: {layers:,} layers, {parameters:,} parameters, {gradients:,} gradients{work}")
    return layers, parameters, gradients, gflops
