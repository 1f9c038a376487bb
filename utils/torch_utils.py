"""Helpers around torch: devices, processes, seeds, optimizers, and measuring layers."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from utils.checkpoints.model_copy import unwrapped
from utils.ema import EarlyStopping, ModelEMA
from utils.errors import InputError, WorkError
from utils.logs import LOGGER, colorstr
from utils.model_ops import (
    copy_attr,
    find_modules,
    fuse_conv_and_bn,
    initialize_weights,
    model_info,
    scale_img,
)
from utils.model_profile import profile

__all__ = [
    "EarlyStopping", "ModelEMA", "colorstr", "copy_attr", "de_parallel", "device_count", "find_modules",
    "fuse_conv_and_bn", "init_seeds", "initialize_weights", "intersect_dicts", "is_parallel", "model_info", "profile",
    "prune", "reshape_classifier_output", "scale_img", "select_device", "smart_DDP", "smart_amp_autocast",
    "smart_inference_mode", "smart_optimizer", "smart_resume", "smartCrossEntropyLoss", "sparsity", "time_sync",
    "torch_distributed_zero_first",
]  # fmt: skip

LOCAL_RANK = int(os.getenv("LOCAL_RANK", "-1"))  # https://pytorch.org/docs/stable/elastic/run.html
RANK = int(os.getenv("RANK", "-1"))
WORLD_SIZE = int(os.getenv("WORLD_SIZE", "1"))

CUBLAS_WORKSPACE = ":4096:8"  # makes cuBLAS repeatable: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
NORMS = tuple(value for name, value in vars(nn).items() if "Norm" in name and isinstance(value, type))
_ELSEWHERE = {
    "check_version": "utils.general",
    "file_date": "utils.general",
    "git_describe": "utils.general",
    "smart_hub_load": "utils.hub_load",
}


def __getattr__(name: str) -> Any:
    """Fetch names that YOLOv5 users import from here and that live in a module above this one."""
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def device_count() -> int:
    """Return the number of CUDA devices."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def select_device(device: torch.device | str | int = "", batch_size: int = 0, newline: bool = True) -> torch.device:
    """Return the device that a ``--device`` option means and log what it is.

    Args:
        device: ``""`` (the first CUDA device, else the CPU), ``cpu``, ``mps``, ``0`` or ``0,1,2,3``, also with
            ``cuda:`` in front. Of several the first is returned; to a process that torchrun started, the one of its
            local rank (of ``""``: of all devices).
        batch_size: images over all listed devices, to check that they share it evenly; 0 skips the check.
        newline: end the log line with an empty one.

    Raises:
        InputError: a device that is not there, a batch that its devices cannot share, or more processes than devices.
    """
    asked = str(device).strip().lower().replace("cuda:", "").replace("none", "")
    asked = "0" if asked == "cuda" else asked.replace(" ", "")
    found = f"YOLOv5 torch-{torch.__version__} Python-{platform.python_version()} "
    if asked == "mps" and torch.backends.mps.is_available():
        return _say_device(torch.device("mps"), found + "MPS", newline)
    if asked == "cpu" or (asked == "" and not device_count()):
        return _say_device(torch.device("cpu"), found + "CPU", newline)
    indices = _cuda_indices(asked)
    if batch_size > 0 and asked and batch_size % len(indices):
        raise InputError(
            f"--batch-size {batch_size} is not a multiple of the {len(indices)} devices of --device {device}"
        )
    chosen = _own_device(indices, asked)
    for index in indices if asked else [chosen]:
        facts = torch.cuda.get_device_properties(index)
        found += f"CUDA:{index} ({facts.name}, {facts.total_memory / 2**20:.0f}MiB) "
    torch.cuda.set_device(chosen)  # what asks for "the current device", such as memory figures, means this one
    return _say_device(torch.device("cuda", chosen), found.rstrip(), newline)


def _own_device(indices: list[int], asked: str) -> int:
    """Return this process's device of those listed: the first, under torchrun the one of its local rank."""
    if len(indices) > LOCAL_RANK:
        return indices[max(LOCAL_RANK, 0)]
    where = f"--device {asked} names {len(indices)}" if asked else f"{len(indices)} are visible here"
    raise InputError(
        f"torchrun started local rank {LOCAL_RANK}, but of CUDA devices {where}: "
        "allowed are as many processes per machine as devices"
    )


def _cuda_indices(asked: str) -> list[int]:
    count = device_count()
    parts = asked.split(",") if asked else [str(index) for index in range(count if LOCAL_RANK != -1 else 1)]
    valid = all(part.isascii() and part.isdigit() and int(part) < count for part in parts)
    if valid and len({int(part) for part in parts}) == len(parts):
        return [int(part) for part in parts]
    cuda = f"CUDA devices 0 to {count - 1} as 0 or 0,1" if count else "no CUDA device was found here"
    mps = ", mps" if torch.backends.mps.is_available() else ""
    raise InputError(f"--device {asked}: not available; allowed are cpu{mps} and '' for the best one ({cuda})")


def _say_device(device: torch.device, text: str, newline: bool) -> torch.device:
    LOGGER.info(text + ("\n" if newline else ""))
    return device


def time_sync(device: torch.device | None = None) -> float:
    """Return the time in seconds after all queued work of the CUDA device is done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize(device)
    return time.time()


def smart_amp_autocast(enabled: bool, device: str | torch.device = "cuda") -> torch.autocast:
    """Return torch's mixed-precision context for a device type."""
    return torch.autocast(device_type=torch.device(device).type, enabled=enabled)


def smart_inference_mode(torch_1_9: bool = True) -> Callable[[Callable], Callable]:
    """Return a decorator that runs a function without recording gradients.

    Args:
        torch_1_9: False uses no_grad, whose tensors may later take part in training.
    """

    def decorate(function: Callable) -> Callable:
        return (torch.inference_mode if torch_1_9 else torch.no_grad)()(function)

    return decorate


def init_seeds(seed: int = 0, deterministic: bool = False) -> None:
    """Seed Python's, NumPy's and torch's global generators, and ask torch for repeatable kernels if wanted.

    On the CPU the same seed, thread count and torch version then give the same bits. On CUDA ``deterministic`` makes
    every operation that has a repeatable kernel use it, and torch warns once for each that has none; without it, runs
    with one seed differ in the last bits. cuBLAS reads its setting when it starts, so call this before the first CUDA
    operation.

    Args:
        seed: at least 0.
        deterministic: trade some speed for repeatable kernels.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (third-party augmentations draw from the global generator)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    if deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = CUBLAS_WORKSPACE
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads memory it has not written
        torch.backends.cudnn.deterministic = True


def is_parallel(model: nn.Module) -> bool:
    """Tell whether a model is wrapped for parallel training."""
    return type(model) in {nn.DataParallel, nn.parallel.DistributedDataParallel}


def de_parallel(model: nn.Module) -> nn.Module:
    """Return the model without wrappers for parallel training or compilation."""
    return unwrapped(model)


def smart_DDP(model: nn.Module) -> nn.parallel.DistributedDataParallel:  # noqa: N802  (upstream's name)
    """Wrap a model for training in several processes, on the device where it is."""
    device = next(model.parameters()).device
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices)


@contextlib.contextmanager
def torch_distributed_zero_first(local_rank: int) -> Iterator[None]:
    """Let the first process of each machine run the block before the others; a no-op without distribution.

    Args:
        local_rank: this process's rank on its machine, -1 without distribution.
    """
    joined = local_rank != -1 and dist.is_available() and dist.is_initialized()
    if joined and local_rank > 0:
        _barrier()
    try:
        yield
    finally:
        if joined and local_rank == 0:
            _barrier()


def _barrier() -> None:
    if dist.get_backend() == "nccl":
        dist.barrier(device_ids=[torch.cuda.current_device()])  # of --device 2,3 local rank 0 has device 2
    else:
        dist.barrier()


def smart_optimizer(
    model: nn.Module, name: str = "Adam", lr: float = 0.001, momentum: float = 0.9, decay: float = 1e-5
) -> torch.optim.Optimizer:
    """Return an optimizer with three groups: 0 biases, 1 decayed weights, 2 weights of normalisation layers.

    On CUDA one fused kernel updates all weights where torch has one.

    Args:
        model: the network; parameters called ``bias`` and weights of ``nn.*Norm*`` layers are not decayed.
        name: SGD (with Nesterov momentum), Adam, AdamW or RMSProp.
        lr: initial learning rate of every group.
        momentum: momentum, or the first beta of Adam and AdamW.
        decay: weight decay of group 1.

    Raises:
        InputError: unknown name.
    """
    biases, decayed, norms = _split_parameters(model)
    on_cuda = any(parameter.device.type == "cuda" for parameter in model.parameters())
    fused = {"fused": True} if on_cuda else {}
    if name == "SGD":
        optimizer = torch.optim.SGD(biases, lr=lr, momentum=momentum, nesterov=True, **fused)
    elif name in {"Adam", "AdamW"}:
        kind = torch.optim.Adam if name == "Adam" else torch.optim.AdamW
        optimizer = kind(biases, lr=lr, betas=(momentum, 0.999), weight_decay=0.0, **fused)
    elif name == "RMSProp":
        optimizer = torch.optim.RMSprop(biases, lr=lr, momentum=momentum)
    else:
        raise InputError(f"optimizer {name!r}: allowed are SGD, Adam, AdamW and RMSProp")
    optimizer.add_param_group({"params": decayed, "weight_decay": decay})
    optimizer.add_param_group({"params": norms, "weight_decay": 0.0})
    if fused and name == "SGD":
        begin_momentum(optimizer)
    counts = f"{len(norms)} weight(decay=0.0), {len(decayed)} weight(decay={decay}), {len(biases)} bias"
    LOGGER.info(f"{colorstr('optimizer:')} {type(optimizer).__name__}(lr={lr}) with parameter groups {counts}")
    return optimizer


def begin_momentum(optimizer: torch.optim.SGD) -> None:
    """Begin the momentum of all weights at zero, which gives the steps that torch's own beginning gives.

    The fused kernel allocates it in its first step and leaves it as it is, any numbers, when that step is skipped for a
    gradient that is not finite; the next step would take them into the weights.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else []:
            if parameter.requires_grad:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def _split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Return (biases, decayed weights, norm weights), each parameter once."""
    biases: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                biases.append(parameter)
            elif name == "weight" and isinstance(module, NORMS):
                norms.append(parameter)
            else:
                decayed.append(parameter)
    return biases, decayed, norms


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a checkpoint's optimizer state, keeping the kernels (``fused``, ``foreach``) chosen for this device.

    Raises:
        InputError: the state belongs to other parameter groups.
    """
    kernels = [{key: group[key] for key in ("fused", "foreach") if key in group} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint's optimizer state does not fit this model or --optimizer ({error})"
        ) from error
    for group, chosen in zip(optimizer.param_groups, kernels, strict=True):
        group.update(chosen)
        for parameter in group["params"]:
            _lay_out_like(parameter, optimizer.state.get(parameter, {}))


def _lay_out_like(parameter: nn.Parameter, state: dict[str, Any]) -> None:
    """Give a parameter's running means its memory layout: files hold plain ones, and fused kernels want them equal."""
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
            state[key] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def smart_resume(  # noqa: PLR0913  (upstream's signature)
    ckpt: dict[str, Any],
    optimizer: torch.optim.Optimizer | None,
    ema: ModelEMA | None = None,
    weights: str = "yolov5s.pt",
    epochs: int = 300,
    resume: bool = True,
) -> tuple[float, int, int]:
    """Put a checkpoint's optimizer and averaged weights in place.

    Args:
        ckpt: the checkpoint.
        optimizer: takes the checkpoint's state when there is one.
        ema: likewise its averaged weights and number of updates.
        weights: the checkpoint's name, for messages.
        epochs: epochs asked for.
        resume: whether the run goes on; otherwise the weights are a start for a new one.

    Returns:
        Best fitness, epoch to start with, and number of epochs (more than asked where the checkpoint has seen as many).

    Raises:
        InputError: a finished run, or a state that does not fit.
    """
    best_fitness = 0.0
    start_epoch = ckpt["epoch"] + 1
    if ckpt.get("optimizer") is not None and optimizer is not None:
        load_optimizer_state(optimizer, ckpt["optimizer"])
        best_fitness = float(np.asarray(ckpt["best_fitness"] or 0.0).reshape(-1)[0])
    if ema is not None and ckpt.get("ema") is not None:
        ema.ema.load_state_dict(ckpt["ema"].float().state_dict())
        ema.updates = ckpt["updates"]
    if resume:
        if start_epoch <= 0:
            raise InputError(f"{weights}: nothing to resume, its run is finished; start a new run with --weights")
        LOGGER.info(f"Resuming from {weights} at epoch {start_epoch} of {epochs}")
    if epochs < start_epoch:
        LOGGER.info(f"{weights} has been trained for {ckpt['epoch']} epochs; {epochs} more follow")
        epochs += ckpt["epoch"]
    return best_fitness, start_epoch, epochs


def intersect_dicts(da: dict[str, Any], db: dict[str, Any], exclude: Iterable[str] = ()) -> dict[str, Any]:
    """Return the entries of ``da`` whose key is in ``db`` with the same shape and contains no text of ``exclude``."""
    excluded = tuple(exclude)
    return {
        key: value
        for key, value in da.items()
        if key in db and not any(text in key for text in excluded) and value.shape == db[key].shape
    }


def sparsity(model: nn.Module) -> float:
    """Return the share of weights that are zero, 0-1."""
    total = sum(parameter.numel() for parameter in model.parameters())
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    return zeros / total if total else 0.0


def prune(model: nn.Module, amount: float = 0.3) -> None:
    """Set the smallest share ``amount`` (0-1) of each convolution's weights to zero, for good."""
    from torch.nn.utils import prune as pruning

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            pruning.l1_unstructured(module, name="weight", amount=amount)
            pruning.remove(module, "weight")
    LOGGER.info(f"Model pruned to {sparsity(model):.3g} global sparsity")


def reshape_classifier_output(model: nn.Module, n: int = 1000) -> None:
    """Replace the last layer of a classification model so that it gives ``n`` classes.

    Raises:
        WorkError: no linear or convolutional output layer was found.
    """
    owner = unwrapped(model)
    name, last = list((owner.model if hasattr(owner, "model") else owner).named_children())[-1]
    if hasattr(last, "linear"):  # a Classify head
        last.linear = _resized(last.linear, n)
    elif isinstance(last, nn.Linear):
        setattr(owner, name, _resized(last, n))
    elif isinstance(last, nn.Sequential):
        positions = [i for i, layer in enumerate(last) if isinstance(layer, (nn.Linear, nn.Conv2d))]
        if not positions:
            raise WorkError(
                f"{type(owner).__name__}: its last layer {name} has no linear or convolution layer to replace"
            )
        last[positions[-1]] = _resized(last[positions[-1]], n)
    else:
        raise WorkError(
            f"{type(owner).__name__}: cannot give its last layer {name} ({type(last).__name__}) {n} classes"
        )


def _resized(layer: nn.Linear | nn.Conv2d, n: int) -> nn.Linear | nn.Conv2d:
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return layer if layer.out_features == n else nn.Linear(layer.in_features, n, bias=has_bias)
    if layer.out_channels == n:
        return layer
    return nn.Conv2d(layer.in_channels, n, layer.kernel_size, layer.stride, layer.padding, bias=has_bias)


def smartCrossEntropyLoss(label_smoothing: float = 0.0) -> nn.CrossEntropyLoss:  # noqa: N802  (upstream's name)
    """Return cross-entropy over class logits with label smoothing."""
    return nn.CrossEntropyLoss(label_smoothing=label_smoothing)
