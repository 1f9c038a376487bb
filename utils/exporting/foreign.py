"""A network's own forward run on another framework's tensors, which builds its twin there.

PyTorch hands every function it is called with to ``__torch_function__`` of the arguments that have one. ``Foreign`` is
such an argument: it stands for a tensor of the other framework, and each function becomes one or a few of that
framework's operations (a ``Maker``). So no layer is written twice, and what a layer computes cannot differ.

Shapes and dimensions are PyTorch's, (b, c, h, w), whatever the other framework keeps; a free batch counts as -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import WorkError


class Maker:
    """The operations of a framework. Values are its tensors, weights are float32 arrays laid out as PyTorch's."""

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return a value's shape, a free batch as -1."""
        raise NotImplementedError

    def conv2d(self, x: Any, weight: np.ndarray, bias: np.ndarray | None, **how: Any) -> Any:
        """Convolve; ``how`` has stride, padding and dilation as pairs, and groups."""
        raise NotImplementedError

    def conv_transpose2d(self, x: Any, weight: np.ndarray, bias: np.ndarray | None, **how: Any) -> Any:
        """Transposed convolution; ``how`` has stride, padding and output_padding as pairs, and groups."""
        raise NotImplementedError

    def scale(self, x: Any, factor: np.ndarray, offset: np.ndarray) -> Any:
        """Multiply and shift each channel of (b, c, h, w)."""
        raise NotImplementedError

    def activation(self, name: str, x: Any, slope: float = 0.0) -> Any:
        """Apply one of ACTIVATIONS; ``slope`` is leaky_relu's."""
        raise NotImplementedError

    def softmax(self, x: Any, dim: int) -> Any:
        """Exponentials that sum to 1 along a dimension."""
        raise NotImplementedError

    def pool(self, x: Any, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Any:
        """Largest value of each window; the border does not count."""
        raise NotImplementedError

    def spatial_mean(self, x: Any) -> Any:
        """(b, c, h, w) to (b, c, 1, 1)."""
        raise NotImplementedError

    def upsample(self, x: Any, factor: tuple[int, int]) -> Any:
        """Repeat rows and columns."""
        raise NotImplementedError

    def concat(self, values: Sequence[Any], dim: int) -> Any:
        """Join values."""
        raise NotImplementedError

    def binary(self, name: str, a: Any, b: Any) -> Any:
        """Add or multiply two values; one of them may be a number or an array."""
        raise NotImplementedError

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        """Give another shape."""
        raise NotImplementedError

    def transpose(self, x: Any, order: Sequence[int]) -> Any:
        """Reorder dimensions."""
        raise NotImplementedError

    def slice(self, x: Any, where: Sequence[slice]) -> Any:
        """Take a part, one slice with a non-negative start per dimension."""
        raise NotImplementedError

    def matmul(self, a: Any, b: Any) -> Any:
        """Multiply matrices of the last two dimensions; ``b`` may be an array."""
        raise NotImplementedError


class Foreign:
    """A tensor of another framework in the place of a torch tensor."""

    requires_grad, is_cuda, is_nested, dtype = False, False, False, torch.float32

    def __init__(self, value: Any, maker: Maker):
        self.value, self.maker = value, maker

    @property
    def __class__(self) -> type:
        """Pass for a tensor with layers that ask, as Classify does."""
        return Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Return PyTorch's shape; a free batch is -1."""
        return self.maker.shape(self.value)

    @property
    def device(self) -> torch.device:
        """Say what layers want to hear."""
        return torch.device("cpu")

    @property
    def ndim(self) -> int:
        """Return how many dimensions it has."""
        return len(self.shape)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do with the framework's operations what ``func`` does."""
        return _call(getattr(func, "__name__", str(func)), args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        """Give methods of tensors."""
        if name not in FUNCTIONS:
            raise AttributeError(f"a tensor's {name} has no counterpart")
        return lambda *args, **kwargs: _call(name, (self, *args), kwargs)

    def __add__(self, other: Any) -> Foreign:
        return _call("add", (self, other), {})

    def __mul__(self, other: Any) -> Foreign:
        return _call("mul", (self, other), {})

    def __pow__(self, exponent: float) -> Foreign:
        return _call("pow", (self, exponent), {})

    def __truediv__(self, other: float) -> Foreign:
        return _call("mul", (self, 1 / other), {})

    def __getitem__(self, where: Any) -> Foreign:
        return _call("getitem", (self, where), {})

    __radd__, __rmul__ = __add__, __mul__


def run_foreign(network: nn.Module, value: Any, maker: Maker) -> list[Any]:
    """Run a network in evaluation mode on another framework's image and return its outputs there.

    Raises:
        WorkError: a function of the network has no counterpart.
    """
    y = network(Foreign(value, maker))
    return [part.value for part in (y if isinstance(y, (tuple, list)) else (y,)) if isinstance(part, Foreign)]


ACTIVATIONS = (
    "silu", "relu", "relu6", "leaky_relu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "gelu", "mish", "elu",
    "softplus",
)  # fmt: skip


def _call(name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one function of torch, by its name."""
    name = name.strip("_")
    function = FUNCTIONS.get({"radd": "add", "rmul": "mul", "multiply": "mul"}.get(name, name))
    if function is None:
        known = ", ".join(sorted(FUNCTIONS))
        raise WorkError(f"the model uses {name}, which has no counterpart; those that have: {known}")
    return function(*args, **kwargs)


def _array(value: Any) -> Any:
    """Return a torch tensor as an array; anything else as it is."""
    return value.detach().cpu().float().numpy() if isinstance(value, Tensor) else value


def _pair(value: Any) -> tuple[int, int]:
    value = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    return value if len(value) == 2 else value * 2


def _of(x: Foreign, value: Any) -> Foreign:
    return Foreign(value, x.maker)


def _conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    how = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation), "groups": groups}
    return _of(x, x.maker.conv2d(x.value, _array(weight), _array(bias), **how))


def _conv_transpose2d(  # noqa: PLR0913, PLR0917  (torch's signature)
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, groups: int = 1,
    dilation: Any = 1,
) -> Any:  # fmt: skip
    if _pair(dilation) != (1, 1):
        raise WorkError("the model uses conv_transpose2d with dilation, which has no counterpart")
    how = {
        "stride": _pair(stride),
        "padding": _pair(padding),
        "output_padding": _pair(output_padding),
        "groups": groups,
    }
    return _of(x, x.maker.conv_transpose2d(x.value, _array(weight), _array(bias), **how))


def _batch_norm(  # noqa: PLR0913, PLR0917  (torch's signature)
    x: Any, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    mean, var = _array(mean), _array(var)
    factor = (1 if weight is None else _array(weight)) / np.sqrt(var + eps)
    offset = (0 if bias is None else _array(bias)) - mean * factor
    return _of(x, x.maker.scale(x.value, factor.astype(np.float32), offset.astype(np.float32)))


def _activation(name: str) -> Callable[..., Any]:
    def apply(x: Any, slope: Any = 0.01, *_: Any, **kwargs: Any) -> Any:
        slope = kwargs.get("negative_slope", slope)
        return _of(x, x.maker.activation(name, x.value, float(slope) if name == "leaky_relu" else 0.0))

    return apply


def _hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0, **_: Any) -> Any:
    if (min_val, max_val) != (0, 6):
        raise WorkError(f"the model uses hardtanh from {min_val} to {max_val}, which has no counterpart; 0 to 6 has")
    return _of(x, x.maker.activation("relu6", x.value))


def _softmax(x: Any, dim: int = -1, *_: Any, **__: Any) -> Any:
    return _of(x, x.maker.softmax(x.value, dim % x.ndim))


def _max_pool2d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, **kwargs: Any
) -> Any:
    if kwargs.get("ceil_mode") or _pair(dilation) != (1, 1):
        raise WorkError("the model uses max_pool2d with ceil_mode or dilation, which has no counterpart")
    return _of(x, x.maker.pool(x.value, _pair(kernel_size), _pair(stride or kernel_size), _pair(padding)))


def _adaptive_avg_pool2d(x: Any, size: Any) -> Any:
    if _pair(size) != (1, 1):
        raise WorkError(f"the model uses adaptive_avg_pool2d to {size}, which has no counterpart; 1 has")
    return _of(x, x.maker.spatial_mean(x.value))


def _interpolate(x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **_: Any) -> Any:
    factor = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor, scale_factor)
    if size is not None or mode != "nearest" or any(f is None or f != int(f) for f in factor):
        raise WorkError(
            f"the model uses interpolate with {mode} to {size or factor}; nearest by whole factors has a counterpart"
        )
    return _of(x, x.maker.upsample(x.value, (int(factor[0]), int(factor[1]))))


def _cat(values: Any, dim: int = 0) -> Any:
    first = values[0]
    return _of(first, first.maker.concat([x.value for x in values], dim % first.ndim))


def _binary(name: str) -> Callable[..., Any]:
    def apply(a: Any, b: Any, **_: Any) -> Any:
        x = a if isinstance(a, Foreign) else b
        a, b = (v.value if isinstance(v, Foreign) else _array(v) for v in (a, b))
        return _of(x, x.maker.binary(name, a, b))

    return apply


def _pow(x: Any, exponent: float) -> Any:
    if exponent != 2:
        raise WorkError(f"the model uses pow {exponent}, which has no counterpart; 2 has")
    return _of(x, x.maker.binary("mul", x.value, x.value))


def _reshape(x: Any, *shape: Any) -> Any:
    sides = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
    if sides.count(-1) > 1:  # a free batch and one to be computed
        rest = [i for i, side in enumerate(sides) if side == -1][1]
        known = math.prod(side for side in sides if side != -1)
        sides[rest] = math.prod(x.shape[1:]) // known
    return _of(x, x.maker.reshape(x.value, sides))


def _permute(x: Any, *order: Any) -> Any:
    order = order[0] if len(order) == 1 and isinstance(order[0], (tuple, list)) else order
    return _of(x, x.maker.transpose(x.value, [d % x.ndim for d in order]))


def _transpose(x: Any, a: int, b: int) -> Any:
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return _permute(x, order)


def _flatten(x: Any, start: int = 0, end: int = -1) -> Any:
    shape, end = x.shape, end % x.ndim
    return _reshape(x, [*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]])


def _split(x: Any, sizes: Any, dim: int = 0) -> tuple[Foreign, ...]:
    dim, total = dim % x.ndim, x.shape[dim % x.ndim]
    sizes = [sizes] * (total // sizes) if isinstance(sizes, int) else list(sizes)
    parts, start = [], 0
    for size in sizes:
        where = [slice(None)] * x.ndim
        where[dim] = slice(start, start + size)
        parts.append(_of(x, x.maker.slice(x.value, where)))
        start += size
    return tuple(parts)


def _chunk(x: Any, count: int, dim: int = 0) -> tuple[Foreign, ...]:
    return _split(x, math.ceil(x.shape[dim] / count), dim)


def _getitem(x: Any, where: Any) -> Any:
    where = list(where) if isinstance(where, tuple) else [where]
    if Ellipsis in where:
        at = where.index(Ellipsis)
        where[at : at + 1] = [slice(None)] * (x.ndim - len(where) + 1)
    where += [slice(None)] * (x.ndim - len(where))
    if not all(isinstance(part, slice) for part in where):
        raise WorkError("the model indexes with other things than slices, which has no counterpart")
    return _of(x, x.maker.slice(x.value, where))


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    y = _of(x, x.maker.matmul(x.value, np.ascontiguousarray(_array(weight).T)))
    return y if bias is None else y + bias


def _multi_head_attention(  # noqa: PLR0913, PLR0917  (the order of torch's arguments)
    query: Any, key: Any, value: Any, width: int, heads: int, weight: Any, bias: Any, *rest: Any, **_: Any
) -> tuple[Foreign, None]:
    """Attention of (tokens, b, c) without masks, as nn.MultiheadAttention computes it in evaluation."""
    out_weight, out_bias = rest[4], rest[5]  # after bias_k, bias_v, add_zero_attn, dropout_p
    weights = weight.split(width)
    biases = [None] * 3 if bias is None else bias.split(width)
    tokens, batch, each = query.shape[0], query.shape[1], width // heads

    def by_head(x: Any, i: int) -> Any:  # (b, heads, tokens, each)
        return _linear(x, weights[i], biases[i]).view(tokens, batch, heads, each).permute(1, 2, 0, 3)

    q, k, v = by_head(query, 0), by_head(key, 1), by_head(value, 2)
    scores = _of(q, q.maker.matmul((q * each**-0.5).value, k.permute(0, 1, 3, 2).value))
    mixed = _of(q, q.maker.matmul(scores.softmax(3).value, v.value)).permute(2, 0, 1, 3).reshape(tokens, batch, width)
    return _linear(mixed, out_weight, out_bias), None


# Function of torch or method of its tensors -> what does the same here.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _activation(name) for name in ACTIVATIONS},
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "batch_norm": _batch_norm,
    "hardtanh": _hardtanh,
    "softmax": _softmax,
    "max_pool2d": _max_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "interpolate": _interpolate,
    "cat": _cat,
    "add": _binary("add"),
    "mul": _binary("mul"),
    "pow": _pow,
    "view": _reshape,
    "reshape": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "flatten": _flatten,
    "split": _split,
    "chunk": _chunk,
    "getitem": _getitem,
    "linear": _linear,
    "multi_head_attention_forward": _multi_head_attention,
    "contiguous": lambda x: x,
    "dropout": lambda x, *_, **__: x,
    "detach": lambda x: x,
    "dim": lambda x: x.ndim,
    "size": lambda x, dim=None: x.shape if dim is None else x.shape[dim],
}
