"""Mixed precision: which type is safe on this device."""

from __future__ import annotations

import copy

import torch
from torch import nn

from utils.logs import LOGGER, colorstr

RELATIVE_TOLERANCE = 0.1
CHECK_SIZE = 256


@torch.no_grad()
def _boxes_agree(model: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    """Compare decoded boxes under ``dtype`` with float32 on one smooth image (no file, no download)."""
    line = torch.linspace(0, 1, CHECK_SIZE, device=device)
    image = torch.stack(
        [line.expand(CHECK_SIZE, -1), line.expand(CHECK_SIZE, -1).T, line.flip(0).expand(CHECK_SIZE, -1)]
    )
    exact = model(image[None])[0].float()
    with torch.autocast(device.type, dtype=dtype):
        mixed = model(image[None])[0].float()
    return bool(torch.isfinite(mixed).all()) and torch.allclose(
        mixed, exact, atol=0.1 * CHECK_SIZE, rtol=RELATIVE_TOLERANCE
    )


def choose_dtype(model: nn.Module, device: torch.device) -> torch.dtype | None:
    """Return the autocast type for training on ``device``.

    fp16 where its boxes agree with float32; bf16 where only that does (GPUs whose fp16 kernels overflow) and the GPU
    has it; None, that is float32, on the CPU and where neither agrees.
    """
    if device.type != "cuda":
        return None
    trial = copy.deepcopy(model).to(device).eval()
    prefix = colorstr("AMP: ")
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        if dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
            continue
        if _boxes_agree(trial, device, dtype):
            LOGGER.info(f"{prefix}mixed precision with {name}")
            return dtype
        LOGGER.warning(f"{prefix}{name} gives other boxes than float32 on this device and is not used")
    return None


def check_amp(model: nn.Module) -> bool:
    """Return whether mixed precision is safe for ``model`` on its device; always False without CUDA."""
    return choose_dtype(model, next(model.parameters()).device) is not None
