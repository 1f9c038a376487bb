"""The Keras twin of a network: the same layers with the same weights, channels last, for the TensorFlow formats.

    from models.tf import keras_twin

    keras_model = keras_twin(network, (640, 640))  # takes (b, 640, 640, 3) in 0-1

It consists of Keras's own layers and operations alone, so that a saved .keras file needs no code to be read. The rows
it gives are those of the PyTorch network but for their boxes, which are in parts of the image's width and height, as in
YOLOv5's TensorFlow files: within int8, a box and a score then share one scale.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from utils.errors import InputError, WorkError
from utils.exporting.fixed_head import with_fixed_head
from utils.exporting.foreign import Maker, run_foreign

FIRST_KERAS = 3  # TensorFlow 2.16 is the first that comes with it


def import_tensorflow() -> ModuleType:
    """Import TensorFlow without its start-up messages.

    Triton, which torch imports when it wants it, has to be there first: both hold an LLVM, and the process aborts when
    Triton's finds TensorFlow's.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules:
        with contextlib.suppress(ImportError):
            import triton._C.libtriton  # noqa: F401
    import tensorflow as tf

    return tf


def require_keras() -> ModuleType:
    """Import Keras 3 on TensorFlow.

    Raises:
        InputError: it is older, or set to another framework.
    """
    import_tensorflow()
    import keras

    if int(keras.__version__.split(".")[0]) < FIRST_KERAS:
        raise InputError(
            f"keras {keras.__version__} is installed, needed is {FIRST_KERAS} or later: pip install -U tensorflow"
        )
    if keras.backend.backend() != "tensorflow":
        raise InputError(f"Keras is set to {keras.backend.backend()}, needed is tensorflow: KERAS_BACKEND=tensorflow")
    return keras


def keras_twin(network: nn.Module, imgsz: tuple[int, int], batch: int | None = None) -> Any:
    """Return the Keras model of a network.

    Args:
        network: as ``utils.exporting.prepare.for_export`` leaves it.
        imgsz: (height, width) of its images in pixels.
        batch: images at a time; None leaves it open.

    Returns:
        A functional model: (b, h, w, 3) images in 0-1 to rows (b, n, 5 + nc + masks) with boxes in parts of the image,
        and prototypes (b, masks, h / 4, w / 4) for segmentation; to logits (b, nc) for classification.

    Raises:
        WorkError: a layer has no counterpart.
    """
    keras = require_keras()
    fixed = with_fixed_head(network, imgsz, batch or -1, parts=True).float().cpu()
    image = keras.Input((*imgsz, 3), batch_size=batch, name="images")
    maker = KerasMaker(keras)
    outputs = [maker.first(y) for y in run_foreign(fixed, Laid(image, True), maker)]
    return keras.Model(image, outputs if len(outputs) > 1 else outputs[0])


class Laid(NamedTuple):
    """A Keras tensor; ``last`` says that it is a (b, c, h, w) kept as (b, h, w, c)."""

    tensor: Any
    last: bool = False


class KerasMaker(Maker):
    """Keras layers for torch's functions. Maps of features are kept with channels last."""

    def __init__(self, keras: ModuleType):
        self.k, self.ops = keras.layers, keras.ops

    def shape(self, value: Laid) -> tuple[int, ...]:
        """Return (b, c, h, w) of a map that is kept as (b, h, w, c), else the shape as it is."""
        shape = tuple(-1 if side is None else int(side) for side in value.tensor.shape)
        return (shape[0], shape[3], *shape[1:3]) if value.last else shape

    def first(self, value: Laid) -> Any:
        """Return the tensor in PyTorch's layout."""
        return self.ops.transpose(value.tensor, (0, 3, 1, 2)) if value.last else value.tensor

    def last(self, value: Laid) -> Any:
        """Return a map with channels last."""
        return value.tensor if value.last else self.ops.transpose(value.tensor, (0, 2, 3, 1))

    def conv2d(self, x: Laid, weight: np.ndarray, bias: np.ndarray | None, **how: Any) -> Laid:
        """Pad as PyTorch does, on both sides alike, and convolve; groups that are neither 1 nor all go one by one."""
        groups, height, width = how["groups"], *weight.shape[2:]
        extent = tuple(d * (k - 1) for d, k in zip(how["dilation"], (height, width), strict=True))
        same = how["stride"] == (1, 1) and all(2 * p == e for p, e in zip(how["padding"], extent, strict=True))
        tensor = self.last(x)
        if not same and how["padding"] != (0, 0):
            tensor = self.k.ZeroPadding2D(how["padding"])(tensor)
        settings = {
            "strides": how["stride"], "padding": "same" if same else "valid", "dilation_rate": how["dilation"],
            "use_bias": bias is not None,
        }  # fmt: skip
        if groups > 1 and weight.shape[1] == 1:
            times = weight.shape[0] // groups
            layer = self.k.DepthwiseConv2D((height, width), depth_multiplier=times, **settings)
            kernel = weight.reshape(groups, times, height, width).transpose(2, 3, 0, 1)
            return Laid(_weighted(layer, tensor, kernel, bias), True)
        parts = []
        inputs, outputs = weight.shape[1], weight.shape[0] // groups
        for i in range(groups):
            own = slice(i * outputs, (i + 1) * outputs)
            part = tensor if groups == 1 else tensor[..., i * inputs : (i + 1) * inputs]
            layer = self.k.Conv2D(outputs, (height, width), **settings)
            parts.append(_weighted(layer, part, weight[own].transpose(2, 3, 1, 0), None if bias is None else bias[own]))
        return Laid(parts[0] if groups == 1 else self.k.Concatenate()(parts), True)

    def conv_transpose2d(self, x: Laid, weight: np.ndarray, bias: np.ndarray | None, **how: Any) -> Laid:
        """Transposed convolution without groups; depth-wise ones become groups of one."""
        if how["output_padding"] != (0, 0):
            raise WorkError("the model uses conv_transpose2d with output_padding, which has no counterpart")
        groups, outputs, (height, width) = how["groups"], weight.shape[1], weight.shape[2:]
        inputs, tensor, parts = weight.shape[0] // how["groups"], self.last(x), []
        for i in range(groups):
            part = tensor if groups == 1 else tensor[..., i * inputs : (i + 1) * inputs]
            layer = self.k.Conv2DTranspose(outputs, (height, width), strides=how["stride"], use_bias=bias is not None)
            kernel = weight[i * inputs : (i + 1) * inputs].transpose(2, 3, 1, 0)
            parts.append(
                _weighted(layer, part, kernel, None if bias is None else bias[i * outputs : (i + 1) * outputs])
            )
        y = parts[0] if groups == 1 else self.k.Concatenate()(parts)
        top, side = how["padding"]
        return Laid(self.k.Cropping2D((top, side))(y) if (top, side) != (0, 0) else y, True)

    def scale(self, x: Laid, factor: np.ndarray, offset: np.ndarray) -> Laid:
        """Multiply and shift channels, which are last."""
        return Laid(self.last(x) * factor.reshape(1, 1, 1, -1) + offset.reshape(1, 1, 1, -1), True)

    def activation(self, name: str, x: Laid, slope: float = 0.0) -> Laid:
        """Use Keras's function of the same meaning; some are written out as torch defines them."""
        o, tensor = self.ops, x.tensor
        if name == "leaky_relu":
            return Laid(o.leaky_relu(tensor, negative_slope=slope), x.last)
        if name in {"hardswish", "hardsigmoid"}:
            gate = o.relu6(tensor + 3.0) * (1 / 6)
            return Laid(tensor * gate if name == "hardswish" else gate, x.last)
        if name == "gelu":
            return Laid(o.gelu(tensor, approximate=False), x.last)
        if name == "silu":  # Keras's own brings a gradient along, which stays in graphs
            return Laid(tensor * o.sigmoid(tensor), x.last)
        if name == "mish":
            return Laid(tensor * o.tanh(o.softplus(tensor)), x.last)
        return Laid(getattr(o, name)(tensor), x.last)

    def softmax(self, x: Laid, dim: int) -> Laid:
        """Softmax in PyTorch's layout."""
        return Laid(self.ops.softmax(self.first(x), axis=dim))

    def pool(self, x: Laid, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Laid:
        """Pool; where the border is not 'same', mirrored pixels, which each window at the border holds anyway."""
        tensor = self.last(x)
        same = stride == (1, 1) and all(2 * p == k - 1 for p, k in zip(padding, size, strict=True))
        if not same and padding != (0, 0):
            border = ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0))
            tensor = self.ops.pad(tensor, border, mode="symmetric")
        return Laid(self.k.MaxPooling2D(size, stride, "same" if same else "valid")(tensor), True)

    def spatial_mean(self, x: Laid) -> Laid:
        """Average over the map."""
        return Laid(self.k.GlobalAveragePooling2D(keepdims=True)(self.last(x)), True)

    def upsample(self, x: Laid, factor: tuple[int, int]) -> Laid:
        """Repeat rows and columns."""
        return Laid(self.k.UpSampling2D(factor, interpolation="nearest")(self.last(x)), True)

    def concat(self, values: Sequence[Laid], dim: int) -> Laid:
        """Join; maps stay with channels last."""
        if all(value.last for value in values):
            return Laid(self.k.Concatenate(axis=(0, 3, 1, 2)[dim])([value.tensor for value in values]), True)
        return Laid(self.k.Concatenate(axis=dim)([self.first(value) for value in values]))

    def binary(self, name: str, a: Any, b: Any) -> Laid:
        """Add or multiply; two maps, or a map and a number, stay with channels last."""
        function = self.ops.add if name == "add" else self.ops.multiply
        values = [value for value in (a, b) if isinstance(value, Laid)]
        plain = all(isinstance(value, Laid) or np.ndim(value) == 0 for value in (a, b))
        last = plain and all(value.last for value in values)
        sides = [(v.tensor if last else self.first(v)) if isinstance(v, Laid) else np.float32(v) for v in (a, b)]
        return Laid(function(*sides), last)

    def reshape(self, x: Laid, shape: Sequence[int]) -> Laid:
        """Give another shape, in PyTorch's order of numbers."""
        if x.last and self.shape(x)[2:] == (1, 1) and len(shape) == 2:
            return Laid(self.ops.reshape(x.tensor, tuple(shape)))  # one pixel: both orders are the same
        return Laid(self.ops.reshape(self.first(x), tuple(shape)))

    def transpose(self, x: Laid, order: Sequence[int]) -> Laid:
        """Reorder dimensions; a map that is wanted with channels last is so already."""
        if x.last and tuple(order) == (0, 2, 3, 1):
            return Laid(x.tensor)
        return Laid(self.ops.transpose(self.first(x), tuple(order)))

    def slice(self, x: Laid, where: Sequence[slice]) -> Laid:
        """Take a part."""
        if x.last:
            where = [where[0], where[2], where[3], where[1]]
        return Laid(x.tensor[tuple(where)], x.last)

    def matmul(self, a: Laid, b: Any) -> Laid:
        """Multiply matrices; one with constants becomes a Dense layer."""
        if isinstance(b, Laid):
            return Laid(self.ops.matmul(self.first(a), self.first(b)))
        return Laid(_weighted(self.k.Dense(b.shape[1], use_bias=False), self.first(a), b, None))


def _weighted(layer: Any, tensor: Any, kernel: np.ndarray, bias: np.ndarray | None) -> Any:
    """Apply a layer and give it its weights."""
    y = layer(tensor)
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return y
