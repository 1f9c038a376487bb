"""Shapes of the operations of YOLOv5's networks without torch's compiler.

For tensors of the ``meta`` device, which have shapes and no values, torch works operations out in Python and imports
its compiler for that: three seconds and 200 MB at the start of each command that loads a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class ShapesAlone(TorchFunctionMode):
    """Within this context plain cases of these operations on meta tensors are answered here, all else by torch."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return what ``func`` would."""
        kwargs = kwargs or {}
        own = _OWN.get(func)
        found = own(*args, **kwargs) if own else None
        return func(*args, **kwargs) if found is None else found


def _conv2d(  # noqa: PLR0913, PLR0917 (torch's signature)
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:  # fmt: skip
    """Return a convolution's output (b, c2, h, w), None where torch has to say what is wrong or unusual."""
    if isinstance(padding, str) or not _alike(x, weight) or x.ndim != 4 or weight.ndim != 4 or groups < 1:
        return None
    c2, per_group, *kernel = weight.shape
    fits = x.shape[1] == per_group * groups and c2 % groups == 0 and (bias is None or bias.shape == (c2,))
    settings = zip(x.shape[2:], kernel, _pair(padding), _pair(dilation), _pair(stride), strict=True)
    sides = [(side + 2 * pad - gap * (k - 1) - 1) // step + 1 for side, k, pad, gap, step in settings]
    return x.new_empty((x.shape[0], c2, *sides)) if fits and min(sides) > 0 else None


def _batch_norm(  # noqa: PLR0913, PLR0917 (torch's signature)
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor | None:  # fmt: skip
    """Return a norm's output, None where torch has to say what is wrong or unusual."""
    values = [v for v in (running_mean, running_var, weight, bias) if v is not None]
    usual = not training and running_mean is not None and running_var is not None and x.ndim == 4
    fits = usual and all(_alike(x, v) and v.shape == x.shape[1:2] for v in values)
    return x.new_empty(x.shape) if fits else None


def _same_shape(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    """Return an activation's output."""
    return x.new_empty(x.shape) if isinstance(x, Tensor) and x.is_meta and x.is_floating_point() else None


def _add(x: Any, other: Any, **more: Any) -> Tensor | None:
    """Return the sum of two maps of one shape."""
    both = isinstance(x, Tensor) and isinstance(other, Tensor) and not more
    return x.new_empty(x.shape) if both and _alike(x, other) and x.shape == other.shape else None


def _max_pool2d(  # noqa: PLR0913, PLR0917 (torch's signature)
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:  # fmt: skip
    """Return a pooling's output of the same size, None for others."""
    kernel, step, pad = _pair(kernel_size), _pair(stride), _pair(padding)
    keeps = x.is_meta and x.ndim == 4 and not (ceil_mode or return_indices) and _pair(dilation) == (1, 1)
    same = keeps and step == (1, 1) and all(k == 2 * p + 1 for k, p in zip(kernel, pad, strict=True))
    return x.new_empty(x.shape) if same else None


def _interpolate(x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *more: Any,
                 **others: Any) -> Tensor | None:  # fmt: skip
    """Return a map enlarged by a whole number, None for other cases."""
    whole = isinstance(scale_factor, (int, float)) and scale_factor in range(1, 17)
    usual = size is None and whole and mode == "nearest" and x.is_meta and x.ndim == 4
    factor = int(scale_factor) if usual else 1
    return x.new_empty((*x.shape[:2], x.shape[2] * factor, x.shape[3] * factor)) if usual else None


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """Return joined tensors, None where torch has to say what is wrong or unusual."""
    if not tensors or not all(isinstance(t, Tensor) and _alike(tensors[0], t) for t in tensors):
        return None
    ndim = tensors[0].ndim
    if not ndim or not -ndim <= dim < ndim:
        return None
    shape = list(tensors[0].shape)
    rest = {tuple(side for i, side in enumerate(t.shape) if i != dim % ndim) for t in tensors}
    shape[dim] = sum(t.shape[dim] for t in tensors if t.ndim == ndim)
    return tensors[0].new_empty(shape) if len(rest) == 1 and all(t.ndim == ndim for t in tensors) else None


def _alike(x: Tensor, other: Tensor) -> bool:
    return x.is_meta and other.is_meta and x.dtype == other.dtype


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


_ACTIVATIONS = (F.silu, F.relu, F.leaky_relu, F.hardswish, F.relu6, F.mish, torch.sigmoid, Tensor.sigmoid)
_OWN: dict[Any, Callable[..., Tensor | None]] = {
    torch.conv2d: _conv2d, F.conv2d: _conv2d, F.batch_norm: _batch_norm, torch.cat: _cat, F.interpolate: _interpolate,
    F.max_pool2d: _max_pool2d, torch.add: _add, Tensor.add: _add, Tensor.__add__: _add,
    **dict.fromkeys(_ACTIVATIONS, _same_shape),
}  # fmt: skip
