"""``--compile``: the network's forward and backward pass through torch.compile, or as they were where that fails."""

from __future__ import annotations

import time

import torch
from torch import nn

from utils.logs import LOGGER
from utils.nested import flat_tensors
from utils.training.guard import RunningStatistics


def compile_network(
    model: nn.Module,
    shape: tuple[int, int, int, int],
    amp_dtype: torch.dtype | None,
    statistics: RunningStatistics,
    backend: str = "inductor",
) -> bool:
    """Compile a network in place and try it, so that a missing compiler shows now and not in the middle of an epoch.

    State dicts, copies and checkpoints of the model are as without: only its call is another.

    Args:
        model: in training mode or not, on its device; its gradients are cleared.
        shape: (b, 3, h, w) of the batches to come; other shapes are compiled when they come.
        amp_dtype: autocast type, None for float32.
        statistics: of the model's batch norms, which the trial leaves as they are.
        backend: of torch.compile.

    Returns:
        Whether the network is compiled from now on; the log says why not.
    """
    device, was_training = next(model.parameters()).device, model.training
    begin = time.perf_counter()
    model.train()
    statistics.keep()
    counts = {name: value.clone() for name, value in model.named_buffers() if name.endswith("num_batches_tracked")}
    try:
        model.compile(backend=backend)
        images = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=amp_dtype or torch.bfloat16, enabled=amp_dtype is not None):
            outputs = flat_tensors(model(images))
        torch.autograd.backward(outputs, [torch.zeros_like(output) for output in outputs])
        compiled = True
    except Exception as error:  # whatever tracing, a code generator or a compiler of the system raises
        model._compiled_call_impl = None
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        LOGGER.warning(f"WARNING --compile: not possible here, training goes on without ({reason})")
        compiled = False
    finally:
        statistics.undo()
        for name, value in model.named_buffers():
            if name in counts:
                value.copy_(counts[name])
        model.zero_grad()
        model.train(was_training)
    if compiled:
        LOGGER.info(f"--compile: the network is compiled ({time.perf_counter() - begin:.0f} s)")
    return compiled
