"""Whether a run's checkpoints will fit on the disk, asked before it starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from utils.errors import InputError
from utils.logs import LOGGER

FILES = 4  # last.pt, last.pt.prev, best.pt, and the one that is being written
OVERHEAD = 1 << 20  # bytes of a checkpoint that hold no weights: layers, options, random state
_FROM_ADAM = ("Adam", "AdamW")


def estimated_size(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> int:
    """Return about how many bytes a training checkpoint of a model takes.

    It holds model and EMA twice each, as float16 for any YOLOv5 and exactly for resuming, and the optimizer's averages:
    one number per weight with SGD, two with Adam.

    Args:
        model: the network in training.
        optimizer: SGD is assumed without it.
    """
    tensors = list(model.state_dict().values())
    numbers = sum(tensor.numel() for tensor in tensors)
    exact = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    averages = 2 if type(optimizer).__name__ in _FROM_ADAM else 1
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return 2 * (numbers * 2 + exact) + averages * trained + OVERHEAD


def check_free_space(folder: str | Path, size: int, others: int = 0) -> None:
    """Check that the checkpoints of a run fit on the disk of its folder, less those that lie there already.

    Args:
        folder: the run's folder, which need not exist yet.
        size: bytes of one checkpoint, as from ``estimated_size``.
        others: checkpoints that the run adds beside last.pt and best.pt, as with --save-period.

    Raises:
        InputError: too little space is free; the message tells how much.
    """
    folder = Path(folder)
    kept = [folder / "weights" / name for name in ("last.pt", "last.pt.prev", "best.pt")]
    there = sum(path.stat().st_size for path in kept if path.is_file())
    needed = max(FILES * size - there, size) + others * size
    place = next((parent for parent in (folder, *folder.absolute().parents) if parent.is_dir()), Path("/"))
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        LOGGER.warning("WARNING %s: its free space is not known (%s)", place, error.strerror)
        return
    if free < needed:
        raise InputError(
            f"{folder}: {free / 1e6:.0f} MB free on its disk, the run's checkpoints need {needed / 1e6:.0f} MB "
            f"({size / 1e6:.0f} MB each); free some, or choose another --project"
        )
