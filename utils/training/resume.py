"""The exact state of a run: everything beside the upstream checkpoint that makes a resumed run end as if never stopped.

It travels inside the checkpoint under the key ``resume`` as plain numbers, strings and tensors, so that files stay
loadable by any YOLOv5 clone, which leaves unknown keys alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from utils.checkpoint import capture_rng, restore_rng
from utils.errors import InputError
from utils.training.engine import StepState

RESUME_VERSION = 1


def exact_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of every parameter and buffer at its own precision, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def capture(
    model: nn.Module, ema: Any, scaler: Any, stopper: Any, criterion: Any, state: StepState, facts: dict[str, Any]
) -> dict[str, Any]:
    """Return the ``resume`` block of a checkpoint.

    Args:
        model: the trained network without its parallel wrapper.
        ema: ModelEMA; its weights are kept at full precision.
        scaler: GradScaler.
        stopper: EarlyStopping.
        criterion: the loss; its running state.
        state: where the run stands.
        facts: numbers and strings to keep and to compare on resume (world size, batch size, best fitness, mAPs).
    """
    return {
        "version": RESUME_VERSION,
        "step": state.step,
        "epoch": state.epoch,
        "batch": state.batch,
        "last_optimizer_step": state.last_optimizer_step,
        "loss_sum": state.loss_sum.detach().float().cpu(),
        "model": exact_tensors(model),
        "ema": exact_tensors(ema.ema),
        "updates": ema.updates,
        "scaler": scaler.state_dict(),
        "stopper": stopper.state_dict(),
        "criterion": criterion.state_dict(),
        "rng": capture_rng(),
        "facts": facts,
    }


def restore(
    block: dict[str, Any], model: nn.Module, ema: Any, scaler: Any, stopper: Any, criterion: Any, device: torch.device
) -> StepState:
    """Put back what ``capture`` took and return where the run stands."""
    model.load_state_dict(block["model"])
    if ema is not None:
        ema.ema.load_state_dict(block["ema"])
        ema.updates = block["updates"]
    if block["scaler"]:
        scaler.load_state_dict(block["scaler"])
    stopper.load_state_dict(block["stopper"])
    criterion.load_state_dict(block["criterion"])
    restore_rng(block["rng"])
    loss_sum = block["loss_sum"].to(device)
    return StepState(block["step"], block["epoch"], block["batch"], block["last_optimizer_step"], loss_sum)


def check_facts(path: str, found: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume a run whose result would silently differ.

    Raises:
        InputError: a fact (classes, batch size, number of images ...) differs; all differences in one line.
    """
    differing = [
        f"{key} was {found[key]!r} and is {value!r}"
        for key, value in now.items()
        if key in found and found[key] != value
    ]
    if differing:
        raise InputError(
            f"{path}: cannot resume exactly: {'; '.join(differing)}; allowed is the same as in the saved run "
            "(start a new run with --weights to change it)"
        )
