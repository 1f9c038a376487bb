"""Time, size and memory of layers."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any

import torch
from torch import nn

from utils.logs import LOGGER
from utils.model_ops import count_gflops

COLUMNS = ("Params", "GFLOPs", "GPU_mem (GB)", "forward (ms)", "backward (ms)", "input", "output")


def profile(
    input: torch.Tensor | Iterable[torch.Tensor], ops: Any, n: int = 10, device: torch.device | str | None = None
) -> list[list[Any] | None]:
    """Time operations forward and backward on inputs and log a table.

    Args:
        input: a tensor or several.
        ops: a module or function, or a list of them.
        n: runs to average over.
        device: where to run; the inputs' own by default.

    Returns:
        Per input and operation [parameters, GFLOPs, CUDA memory in GB, forward ms, backward ms (nan without gradient),
        input shape, output shape], or None where the operation failed (logged).
    """
    inputs = [input] if isinstance(input, torch.Tensor) else list(input)
    operations = ops if isinstance(ops, list) else [ops]
    LOGGER.info("".join(f"{column:>24s}" if column in {"input", "output"} else f"{column:>14s}" for column in COLUMNS))
    results: list[list[Any] | None] = []
    for x in inputs:
        x = x.detach().to(device or x.device).requires_grad_(x.is_floating_point())
        for operation in operations:
            try:
                results.append(_measure(operation, x, n))
            except (RuntimeError, TypeError, ValueError) as error:
                LOGGER.warning(f"{type(operation).__name__}: not measured ({str(error).splitlines()[0]})")
                results.append(None)
    return results


def _measure(operation: Any, x: torch.Tensor, n: int) -> list[Any]:
    if isinstance(operation, nn.Module):
        operation = operation.to(x.device)
        operation = operation.half() if x.dtype == torch.float16 else operation
    forward, backward, y = 0.0, 0.0, None
    for _ in range(n):
        start = _now(x.device)
        y = operation(x)
        middle = _now(x.device)
        forward += (middle - start) * 1e3 / n
        backward += _backward_ms(y, x.device) / n
    memory = torch.cuda.memory_reserved() / 1e9 if x.device.type == "cuda" else 0.0
    is_module = isinstance(operation, nn.Module)
    parameters = sum(parameter.numel() for parameter in operation.parameters()) if is_module else 0
    gflops = _gflops(operation, x) if is_module else 0.0
    shapes = tuple(x.shape), tuple(y.shape) if isinstance(y, torch.Tensor) else "list"
    row = [parameters, gflops, memory, forward, backward, *shapes]
    LOGGER.info("{:14d}{:14.4g}{:14.3f}{:14.4g}{:14.4g}{!s:>24}{!s:>24}".format(*row))
    return row


def _gflops(operation: nn.Module, x: torch.Tensor) -> float:
    """Return GFLOPs at the input's size, 0 for operations that do not take images."""
    if x.dim() != 4:
        return 0.0
    try:
        return count_gflops(operation, x.shape[-2:], channels=x.shape[1]) * x.shape[0]
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return 0.0


def _backward_ms(y: Any, device: torch.device) -> float:
    tensors = [item for item in (y if isinstance(y, (list, tuple)) else [y]) if isinstance(item, torch.Tensor)]
    total = sum(tensor.sum() for tensor in tensors if tensor.requires_grad)
    if not isinstance(total, torch.Tensor):
        return float("nan")
    start = _now(device)
    total.backward()
    return (_now(device) - start) * 1e3


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
