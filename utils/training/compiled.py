"""``--compile``: network and loss, forward and backward, through torch.compile, or as they were where that fails."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from utils.logs import LOGGER
from utils.nested import flat_tensors
from utils.training.guard import RunningStatistics


def compile_network(
    model: nn.Module,
    shape: tuple[int, int, int, int],
    amp_dtype: torch.dtype | None,
    statistics: RunningStatistics,
    backend: str = "inductor",
    criterion: Any = None,  # noqa: ANN401
) -> bool:
    """Compile a network and its loss in place and try them, so that a missing compiler shows now, not within an epoch.

    State dicts, copies and checkpoints of both are as without: only their calls are others.

    Args:
        model: in training mode or not, on its device; its gradients are cleared.
        shape: (b, 3, h, w) of the batches to come; other shapes are compiled when they come.
        amp_dtype: autocast type, None for float32.
        statistics: of the model's batch norms, which the trial leaves as they are.
        backend: of torch.compile.
        criterion: the loss, compiled where it has a static form; None for none.

    Returns:
        Whether the network is compiled from now on; the log says why not, and what of the loss.
    """
    device, was_training = next(model.parameters()).device, model.training
    begin = time.perf_counter()
    model.train()
    statistics.keep()
    counts = {name: value.clone() for name, value in model.named_buffers() if name.endswith("num_batches_tracked")}
    try:
        model.compile(backend=backend)
        images = torch.zeros(shape, device=device).to(memory_format=torch.channels_last)
        with _autocast(device, amp_dtype):
            outputs = flat_tensors(model(images))
        torch.autograd.backward(outputs, [torch.zeros_like(output) for output in outputs])
        compiled = True
    except Exception as error:  # whatever tracing, a code generator or a compiler of the system raises
        model._compiled_call_impl = None
        LOGGER.warning(f"WARNING --compile: not possible here, training goes on without ({_reason(error)})")
        compiled = False
    finally:
        statistics.undo()
        for name, value in model.named_buffers():
            if name in counts:
                value.copy_(counts[name])
        model.zero_grad()
        model.train(was_training)
    if compiled:
        loss = ", the loss as well" if _compile_loss(criterion, outputs, amp_dtype, backend) else ""
        LOGGER.info(f"--compile: the network is compiled{loss} ({time.perf_counter() - begin:.0f} s)")
    return compiled


def _compile_loss(criterion: Any, outputs: list[Tensor], amp_dtype: torch.dtype | None, backend: str) -> bool:  # noqa: ANN401
    """Compile a loss in place and try it; return whether it is compiled from now on.

    Args:
        criterion: as for ``compile_network``.
        outputs: of the network, per layer (bs, na, ny, nx, no).
        amp_dtype, backend: as for ``compile_network``.
    """
    if not (getattr(criterion, "supports_static", False) and criterion.compile(backend)):
        return False
    state = criterion.state_dict()
    try:
        leaves = [output.detach().requires_grad_() for output in outputs]
        with _autocast(leaves[0].device, amp_dtype):
            loss, _ = criterion(leaves, leaves[0].new_zeros((0, 6), dtype=torch.float32))
        loss.sum().backward()
    except Exception as error:  # as above
        criterion.stop_compiling()
        LOGGER.warning(f"WARNING --compile: the loss goes on without ({_reason(error)})")
        return False
    finally:
        criterion.load_state_dict(state)
    return True


def _autocast(device: torch.device, amp_dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device.type, dtype=amp_dtype or torch.bfloat16, enabled=amp_dtype is not None)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
