"""Processes that train one model together: torchrun's environment, the group, and the few things they exchange."""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist

from utils.training.world import World

GROUP_TIMEOUT = datetime.timedelta(hours=3)  # the main process validates alone while the others wait


def join_group(world: World, device: torch.device) -> torch.device:
    """Join the process group: NCCL on CUDA, gloo on the CPU.

    Args:
        world: this process's place; nothing happens without distribution.
        device: this process's device, as ``select_device`` chose it.

    Returns:
        ``device``.
    """
    if not world.is_distributed:
        return device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend=backend, timeout=GROUP_TIMEOUT)
    return device


def leave_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def world_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``tensor`` over all processes (without gradient); the tensor itself when alone."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return every process's ``tensor`` (...) as one of shape (processes, ...), the same everywhere."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor.detach().clone()[None]
    rows = [torch.zeros_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, tensor.detach().contiguous())
    return torch.stack(rows)


def broadcast_from_main(value: Any) -> Any:
    """Return the main process's ``value`` (a small picklable object of numbers and strings) on every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]
