"""The PaddlePaddle twin of a network: the same operations with the same weights, as a static program."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import nn

from utils.errors import InputError
from utils.exporting.fixed_head import with_fixed_head
from utils.exporting.foreign import Maker, run_foreign


def import_paddle() -> ModuleType:
    """Import PaddlePaddle without its warnings about compilers and start-up messages.

    Raises:
        InputError: TensorFlow is there already; the process would end with a segmentation fault.
    """
    if "tensorflow" in sys.modules and "paddle" not in sys.modules:
        raise InputError("PaddlePaddle cannot be loaded into a process with TensorFlow; run one of them at a time")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import paddle
    return paddle


def write_twin(network: nn.Module, imgsz: tuple[int, int], batch: int | None, prefix: Path) -> None:
    """Write a network's twin as <prefix>.json and <prefix>.pdiparams, the form of PaddlePaddle 3.

    Args:
        network: as ``utils.exporting.prepare.for_export`` leaves it.
        imgsz: (height, width) of its images in pixels.
        batch: images at a time; None leaves it open.
        prefix: path without a suffix.

    Raises:
        WorkError: a layer has no counterpart.
    """
    paddle = import_paddle()
    fixed = with_fixed_head(network, imgsz, batch or -1).float().cpu()
    with _static(paddle):
        program, start = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(program, start):
            image = paddle.static.data("images", [batch or -1, 3, *imgsz], "float32")
            outputs = run_foreign(fixed, image, PaddleMaker(paddle))
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(start)
        paddle.static.save_inference_model(str(prefix), [image], outputs, executor, program=program)


@contextlib.contextmanager
def _static(paddle: ModuleType) -> Iterator[None]:
    """Build programs instead of computing."""
    dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    try:
        yield
    finally:
        if dynamic:
            paddle.disable_static()


class PaddleMaker(Maker):
    """PaddlePaddle's functions for torch's; both keep (b, c, h, w)."""

    def __init__(self, paddle: ModuleType):
        self.p, self.f = paddle, paddle.nn.functional

    def _constant(self, array: np.ndarray) -> Any:
        """Return an array as a parameter of the program, which is kept beside it."""
        array = np.ascontiguousarray(array, np.float32)
        value = self.p.nn.initializer.Assign(array)
        return self.p.create_parameter(list(array.shape), "float32", default_initializer=value)

    def shape(self, value: Any) -> tuple[int, ...]:
        """Return its shape."""
        return tuple(int(side) for side in value.shape)

    def conv2d(self, x: Any, weight: np.ndarray, bias: np.ndarray | None, **how: Any) -> Any:
        """Convolve."""
        return self.f.conv2d(x, self._constant(weight), None if bias is None else self._constant(bias), **how)

    def conv_transpose2d(self, x: Any, weight: np.ndarray, bias: np.ndarray | None, **how: Any) -> Any:
        """Transposed convolution."""
        return self.f.conv2d_transpose(x, self._constant(weight), None if bias is None else self._constant(bias), **how)

    def scale(self, x: Any, factor: np.ndarray, offset: np.ndarray) -> Any:
        """Multiply and shift channels."""
        return x * self._constant(factor.reshape(1, -1, 1, 1)) + self._constant(offset.reshape(1, -1, 1, 1))

    def activation(self, name: str, x: Any, slope: float = 0.0) -> Any:
        """Use the function of the same name; hardsigmoid's slope is torch's."""
        if name == "leaky_relu":
            return self.f.leaky_relu(x, slope)
        if name == "hardsigmoid":
            return self.f.hardsigmoid(x, slope=1 / 6, offset=0.5)
        return getattr(self.f, name)(x)

    def softmax(self, x: Any, dim: int) -> Any:
        """Softmax."""
        return self.f.softmax(x, dim)

    def pool(self, x: Any, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Any:
        """Pool."""
        return self.f.max_pool2d(x, list(size), list(stride), list(padding))

    def spatial_mean(self, x: Any) -> Any:
        """Average over the map."""
        return self.f.adaptive_avg_pool2d(x, 1)

    def upsample(self, x: Any, factor: tuple[int, int]) -> Any:
        """Repeat rows and columns."""
        return self.f.interpolate(x, scale_factor=list(factor), mode="nearest")

    def concat(self, values: Sequence[Any], dim: int) -> Any:
        """Join."""
        return self.p.concat(list(values), dim)

    def binary(self, name: str, a: Any, b: Any) -> Any:
        """Add or multiply."""
        if isinstance(a, (int, float, np.ndarray)):
            a, b = b, a
        b = self._constant(b) if isinstance(b, np.ndarray) and b.ndim else float(b) if np.isscalar(b) else b
        b = float(b) if isinstance(b, np.ndarray) else b
        return a + b if name == "add" else a * b

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        """Give another shape."""
        return self.p.reshape(x, list(shape))

    def transpose(self, x: Any, order: Sequence[int]) -> Any:
        """Reorder dimensions."""
        return self.p.transpose(x, list(order))

    def slice(self, x: Any, where: Sequence[slice]) -> Any:
        """Take a part."""
        return x[tuple(where)]

    def matmul(self, a: Any, b: Any) -> Any:
        """Multiply matrices."""
        return self.p.matmul(a, self._constant(b) if isinstance(b, np.ndarray) else b)
