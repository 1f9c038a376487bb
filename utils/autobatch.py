"""The largest batch that fits a GPU's memory, measured."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from utils.logs import LOGGER, colorstr
from utils.nested import flat_tensors
from utils.torch_utils import smart_amp_autocast

PROBES = (1, 2, 4, 8, 16)
LARGEST = 1024


def check_train_batch_size(model: nn.Module, imgsz: int = 640, amp: bool = True) -> int:
    """Return the batch size for training ``model`` at ``imgsz``, found on a copy of it."""
    with smart_amp_autocast(amp, next(model.parameters()).device.type):
        return autobatch(copy.deepcopy(model).train(), imgsz)


def autobatch(model: nn.Module, imgsz: int = 640, fraction: float = 0.8, batch_size: int = 16) -> int:
    """Return the batch size that takes ``fraction`` of the GPU's memory; ``batch_size`` on the CPU.

    A line through the peak memory of a few small batches, forward and backward, tells the memory per image.
    """
    prefix = colorstr("AutoBatch: ")
    device = next(model.parameters()).device
    if device.type != "cuda":
        LOGGER.info(f"{prefix}no CUDA device, using batch size {batch_size}")
        return batch_size
    total = torch.cuda.get_device_properties(device).total_memory
    others = torch.cuda.memory_allocated(device)
    sizes, peaks = [], []
    for size in PROBES:
        try:
            peaks.append(_peak_memory(model, size, imgsz, device))
        except torch.OutOfMemoryError:
            break
        sizes.append(size)
    torch.cuda.empty_cache()
    if len(sizes) < 2:
        LOGGER.warning(f"{prefix}fewer than two batch sizes fit at {imgsz} pixels, using batch size 1")
        return 1
    slope, base = np.polyfit(sizes, peaks, deg=1)
    best = int((total * fraction - base) / slope)
    best = max(1, min(best, LARGEST))
    LOGGER.info(
        f"{prefix}{others / 1e9:.2f}G in use, {slope / 1e9:.3f}G per image, {fraction:.0%} of {total / 1e9:.1f}G: "
        f"batch size {best}"
    )
    return best


def _peak_memory(model: nn.Module, batch: int, imgsz: int, device: torch.device) -> int:
    """Return the peak bytes of one forward and backward pass."""
    torch.cuda.reset_peak_memory_stats(device)
    images = torch.zeros(batch, 3, imgsz, imgsz, device=device)
    sum(output.float().sum() for output in flat_tensors(model(images))).backward()
    model.zero_grad(set_to_none=True)
    return torch.cuda.max_memory_reserved(device)
