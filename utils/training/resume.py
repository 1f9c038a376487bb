"""The exact state of a run: everything beside the upstream checkpoint that makes a resumed run end as if never stopped.

It travels inside the checkpoint under the key ``resume`` as plain numbers, strings and tensors, so that files stay
loadable by any YOLOv5 clone, which leaves unknown keys alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.checkpoint import capture_rng, restore_rng
from utils.errors import InputError
from utils.training.distributed import gather_rows
from utils.training.engine import Engine, StepState
from utils.training.resume_settings import fact_differences, newer_files

RESUME_VERSION = 2
_NUMBERS = (
    "step", "epoch", "batch", "last_optimizer_step", "skipped", "in_a_row", "returns", "rate_factor", "pieces",
)  # fmt: skip


def exact_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of every parameter and buffer at its own precision, on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def capture(
    model: nn.Module, engine: Engine, stopper: Any, state: StepState, facts: dict[str, Any], rows: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the ``resume`` block of a checkpoint.

    Args:
        model: the trained network without its parallel wrapper.
        engine: its EMA's weights are kept at full precision.
        stopper: EarlyStopping.
        state: where the run stands.
        facts: numbers and strings to keep and to compare on resume (world size, batch size, best fitness, mAPs).
        rows: within an epoch what ``process_rows`` returned, else None.
    """
    numbers = {key: getattr(state, key) for key in _NUMBERS}
    return {
        "version": RESUME_VERSION,
        **numbers,
        "rows": rows or {},
        "gradients": _gradients(model) if state.batch and state.last_optimizer_step != state.step - 1 else {},
        "model": exact_tensors(model),
        "ema": exact_tensors(engine.ema.ema),
        "updates": engine.ema.updates,
        "scaler": engine.scaler.state_dict(),
        "stopper": stopper.state_dict(),
        "criterion": engine.criterion.state_dict(),
        "rng": capture_rng(),
        "facts": facts,
    }


def process_rows(engine: Engine, state: StepState) -> dict[str, torch.Tensor]:
    """Return what each process has summed up by itself in this epoch, a row each; every process has to call it."""
    rows = {"loss_sum": gather_rows(state.loss_sum), "bad_batches": gather_rows(torch.tensor([state.bad_batches]))}
    share = engine.criterion.state_dict().get("loss_share")
    if share is not None:
        rows["loss_share"] = gather_rows(share.to(engine.device))
    return {name: row.cpu() for name, row in rows.items()}


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the gradients that wait for an optimizer step."""
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: grad.detach().to("cpu", copy=True) for name, grad in found.items() if grad is not None}


def restore(block: dict[str, Any], model: nn.Module, engine: Engine, stopper: Any) -> StepState:
    """Put back what ``capture`` took, in any process of the run, and return where the run stands."""
    model.load_state_dict(block["model"])
    if engine.ema is not None:
        engine.ema.ema.load_state_dict(block["ema"])
        engine.ema.updates = block["updates"]
    if block["scaler"]:
        engine.scaler.load_state_dict(block["scaler"])
    stopper.load_state_dict(block["stopper"])
    engine.criterion.load_state_dict(block["criterion"])
    restore_rng(block["rng"])
    engine.optimizer.zero_grad()
    parameters = dict(model.named_parameters())
    for name, gradient in block.get("gradients", {}).items():
        parameter = parameters[name]
        parameter.grad = torch.empty_like(parameter).copy_(gradient)  # in the parameter's memory layout
    state = StepState(**{key: block[key] for key in _NUMBERS if key in block})
    rank = max(engine.world.rank, 0)
    rows = {name: row[rank].to(engine.device) for name, row in block.get("rows", {}).items()}
    state.loss_sum = rows.get("loss_sum", torch.zeros(len(engine.losses), device=engine.device))
    state.bad_batches = int(rows.get("bad_batches", 0))
    if "loss_share" in rows:
        engine.criterion.load_state_dict({**engine.criterion.state_dict(), "loss_share": rows["loss_share"]})
    return state


def check_facts(path: str, found: dict[str, Any], now: dict[str, Any], files: Iterable[str | Path] = ()) -> None:
    """Refuse to resume a run whose result would silently differ.

    Args:
        path: the checkpoint.
        found: the facts in it.
        now: those of the run that resumes.
        files: images and label files; those changed after the checkpoint are named where the data differ.

    Raises:
        InputError: a fact (classes, batch size, number of images ...) differs; all differences in one line.
    """
    differing = fact_differences(found, now)
    if not differing:
        return
    newer = newer_files(path, files)
    problem = "; ".join(differing) + (f" ({newer})" if newer else "")
    raise InputError(
        f"{path}: cannot resume exactly: {problem}; allowed is the same as in the saved run (start a new run with "
        "--weights to change it)"
    )
