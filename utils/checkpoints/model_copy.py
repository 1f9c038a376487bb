"""Copies of networks and states in the form in which checkpoints hold them: plain classes, float16 weights, the CPU."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.checkpoints.image_classifiers import BUILDERS
from utils.errors import WorkError

_WIDENED = {
    torch.bool: torch.int64, torch.uint8: torch.int64, torch.int8: torch.int64, torch.int16: torch.int64,
    torch.int32: torch.int64, torch.bfloat16: torch.float32,
}  # fmt: skip
# What a detection network and its head carry beside layers; anything else that a run hangs on them stays at home.
_NETWORK_ATTRIBUTES = frozenset(
    {"class_weights", "hyp", "inplace", "names", "nc", "save", "stride", "training", "yaml", "yaml_file"}
)
_HEAD_CACHES = ("anchor_grid", "grid")
_NOT_KEPT = frozenset(
    {"process_group", "ddp_gpu_size", "_compiled_call_impl", "_forward_hooks", "export", "dynamic", *BUILDERS}
)
_TENSOR_DICTS = ("_parameters", "_buffers")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside wrappers for parallel training or compilation."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def half_copy(model: nn.Module) -> nn.Module:
    """Return a float16 copy on the CPU of a network, without hooks, caches and wrappers; the original is not touched.

    Integer buffers keep their type, ``requires_grad`` and ``training`` their values; numbers beyond float16 become its
    largest.

    Raises:
        WorkError: a weight or running statistic is not finite.
    """
    return _copy_module(unwrapped(model), {}, "")


def _copy_module(module: nn.Module, made: dict[int, nn.Module], name: str) -> nn.Module:
    if id(module) in made:
        return made[id(module)]
    cls = nn.BatchNorm2d if isinstance(module, nn.SyncBatchNorm) else type(module)
    copy = cls.__new__(cls)
    nn.Module.__init__(copy)
    made[id(module)] = copy
    is_network = isinstance(getattr(module, "model", None), nn.Sequential) and hasattr(module, "save")
    for key, value in vars(module).items():
        is_internal = key in vars(copy) and key != "training"  # hooks and the dicts that are filled below
        if is_internal or key in _NOT_KEPT or (is_network and key not in _NETWORK_ATTRIBUTES):
            continue
        if key == "detect" and callable(value):
            vars(copy)[key] = value  # Detect.forward, which clones call from a Segment head
            continue
        vars(copy)[key] = _head_cache(value) if key in _HEAD_CACHES else plain_copy(value, f"{name}{key}")
    for kind in _TENSOR_DICTS:
        for key, tensor in getattr(module, kind).items():
            getattr(copy, kind)[key] = None if tensor is None else _half(tensor, f"{name}{key}")
    copy._non_persistent_buffers_set.update(module._non_persistent_buffers_set)
    for key, child in module._modules.items():
        copy._modules[key] = None if child is None else _copy_module(child, made, f"{name}{key}.")
    return copy


def _head_cache(grids: Any) -> list[torch.Tensor]:
    return [torch.empty(0) for _ in grids]


def _half(tensor: torch.Tensor, name: str) -> torch.Tensor:
    data = tensor.detach()
    if data.is_floating_point():
        if not bool(torch.isfinite(data).all()):
            raise WorkError(f"the network's {name} holds numbers that are not finite; nothing was saved")
        largest = torch.finfo(torch.float16).max
        data = data.clamp(-largest, largest).to("cpu", torch.float16)
    data = data.to("cpu", copy=True).contiguous()
    return nn.Parameter(data, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def plain_copy(value: Any, name: str) -> Any:
    """Return settings or state as plain data: numbers, text, CPU tensors of float or int64, dicts, lists, tuples, sets.

    Paths become text, NumPy numbers Python's, arrays tensors (float64 arrays of a checkpoint's own stay arrays), narrow
    integers int64, and mappings with ``to_dict`` or ``keys`` dicts.

    Args:
        value: what to copy.
        name: where it stands, for the error.

    Raises:
        TypeError: a value that has no plain form.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _plain_sequence(value, name)
    if isinstance(value, dict) or hasattr(value, "to_dict"):
        items = value.items() if isinstance(value, dict) else value.to_dict().items()
        return {_plain_key(key, name): plain_copy(item, f"{name}.{key}") for key, item in items}
    return _plain_scalar(value, name)


def _plain_sequence(value: Any, name: str) -> Any:
    items = [plain_copy(item, f"{name}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return set(items)
    return tuple(items) if isinstance(value, tuple) else items


def _plain_key(key: Any, name: str) -> Any:
    if isinstance(key, tuple):
        return tuple(_plain_key(part, name) for part in key)
    return key if type(key) in (int, str, float, bool) else _plain_scalar(key, name)


def _plain_scalar(value: Any, name: str) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.copy() if value.dtype == np.float64 and value.size <= 1 else _plain_tensor(torch.from_numpy(value))
    raise TypeError(f"{name}: {type(value).__name__} cannot be stored in a checkpoint as plain data")


def _plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    data = tensor.detach().to("cpu", _WIDENED.get(tensor.dtype, tensor.dtype))
    whole_storage = data.untyped_storage().nbytes() == data.numel() * data.element_size()
    return data if whole_storage and data.is_contiguous() and type(data) is torch.Tensor else data.clone().contiguous()
