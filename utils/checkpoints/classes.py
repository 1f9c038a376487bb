"""The classes a checkpoint may name, inert stand-ins for them, and the network built from the stand-ins.

torch's weights-only loader never sees a class of this project: every allowed path resolves to a stand-in that only
keeps the state it is given. Real modules are made afterwards, from states that were checked to be plain data.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from utils.checkpoints.calls import MAX_EMPTY_SIDE
from utils.checkpoints.complaints import Refused
from utils.checkpoints.expansion import check_expansion
from utils.checkpoints.image_classifiers import BUILDERS, CHOICE_PATH, LAYER_PATHS, TRANSFORM_PATHS
from utils.checkpoints.scan import PASS_CLASS

_COMMON = (
    "Conv DWConv DWConvTranspose2d TransformerLayer TransformerBlock Bottleneck BottleneckCSP CrossConv C3 C3x C3TR "
    "C3SPP C3Ghost SPP SPPF Focus GhostConv GhostBottleneck Contract Expand Concat Proto Classify"
)
_YOLO = "Detect Segment BaseModel DetectionModel SegmentationModel ClassificationModel"
_TORCH_LAYERS = {
    "activation": "SiLU ReLU ReLU6 LeakyReLU Hardswish Mish GELU ELU SELU CELU GLU Sigmoid Tanh PReLU Softplus "
    "Hardtanh Hardsigmoid LogSigmoid Softsign Tanhshrink Hardshrink Softshrink RReLU Threshold Softmax Softmax2d "
    "LogSoftmax MultiheadAttention",
    "batchnorm": "BatchNorm1d BatchNorm2d",
    "channelshuffle": "ChannelShuffle",
    "container": "ModuleList Sequential",
    "conv": "Conv1d Conv2d ConvTranspose1d ConvTranspose2d",
    "dropout": "Dropout Dropout1d Dropout2d AlphaDropout FeatureAlphaDropout",
    "flatten": "Flatten Unflatten",
    "fold": "Fold Unfold",
    "instancenorm": "InstanceNorm1d InstanceNorm2d",
    "linear": "Linear Identity NonDynamicallyQuantizableLinear",
    "normalization": "LayerNorm GroupNorm LocalResponseNorm RMSNorm",
    "padding": "ZeroPad2d ConstantPad2d ReflectionPad2d ReplicationPad2d CircularPad2d",
    "pixelshuffle": "PixelShuffle PixelUnshuffle",
    "pooling": "MaxPool1d MaxPool2d AvgPool1d AvgPool2d LPPool2d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveMaxPool2d",
    "upsampling": "Upsample UpsamplingNearest2d UpsamplingBilinear2d",
}

# Class paths that pickles of 2020-2026 hold -> where the class is now.
MODULE_PATHS: dict[str, str] = {
    **{f"models.common.{name}": f"models.common.{name}" for name in _COMMON.split()},
    **{f"models.yolo.{name}": f"models.yolo.{name}" for name in _YOLO.split()},
    **{f"models.experimental.{name}": f"models.experimental.{name}" for name in ("MixConv2d", "Sum")},
    **{
        f"torch.nn.modules.{part}.{name}": f"torch.nn.modules.{part}.{name}"
        for part, names in _TORCH_LAYERS.items()
        for name in names.split()
    },
    **{
        f"utils.activations.{name}": f"utils.activations.{name}"
        for name in ("SiLU", "Hardswish", "Mish", "MemoryEfficientMish", "FReLU", "AconC", "MetaAconC")
    },
    **{path: path for path in LAYER_PATHS},
    # names of earlier releases
    "models.yolo.Model": "models.yolo.DetectionModel",
    "models.experimental.CrossConv": "models.common.CrossConv",
    "models.experimental.GhostConv": "models.common.GhostConv",
    "models.experimental.GhostBottleneck": "models.common.GhostBottleneck",
    "models.experimental.C3": "models.common.BottleneckCSP",  # its layers and forward were those of BottleneckCSP
    "models.common.Flatten": "torch.nn.modules.flatten.Flatten",
    "utils.activations.Swish": "utils.activations.SiLU",
    "torch.nn.modules.batchnorm.SyncBatchNorm": "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.linear._LinearWithBias": "torch.nn.modules.linear.NonDynamicallyQuantizableLinear",
}

_STORAGES = "Double Float Half BFloat16 Long Int Short Char Byte Bool"
_TORCH_DTYPES = "float16 float32 float64 bfloat16 int64 int32 int16 int8 uint8 bool"
# What torch's own loader resolves and files need; its other defaults are refused.
TORCH_PATHS = frozenset(
    {
        "collections.OrderedDict", "builtins.set", "__builtin__.set", "_codecs.encode", "torch.Size", "torch.device",
        "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter",
        *(f"torch.{name}Storage" for name in _STORAGES.split()),
        *(f"torch.cuda.{name}Storage" for name in _STORAGES.split()),
        *(f"torch.{name}" for name in _TORCH_DTYPES.split()),
    }
)  # fmt: skip


class StandIn:
    """Keeps the state that a pickle gives to an instance of ``path``; does nothing."""

    path: ClassVar[str] = ""
    state: Any = None

    def __init__(self, *arguments: Any):
        if arguments:
            raise Refused(f"a call of {self.path}")

    def __setstate__(self, state: Any) -> None:
        self.state = state


class NumpyDtype:
    """A NumPy number type as pickled: ``dtype("f8", False, True)`` and then its byte order."""

    def __init__(self, code: str = "", *flags: Any):
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else "?"

    def real(self) -> np.dtype:
        """Return the number type, refusing Python objects and text."""
        sizes = {"f": "248", "i": "1248", "u": "1248", "b": "1"}
        code = self.code
        if not isinstance(code, str) or len(code) != 2 or code[1] not in sizes.get(code[0], ""):
            raise Refused(f"numpy.dtype {code!r}")
        if self.order not in ("<", ">", "|", "="):
            raise Refused(f"numpy.dtype with byte order {self.order!r}")
        return np.dtype(self.order + code)


class NumpyArray:
    """A NumPy array as pickled: empty, then (version, shape, number type, Fortran order, bytes)."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def real(self) -> np.ndarray:
        """Return the array, refusing states that are not whole arrays of numbers."""
        try:
            _, shape, dtype, fortran, data = self.state
            array = np.frombuffer(data, dtype=dtype.real()).reshape(tuple(shape), order="F" if fortran else "C")
            if not array.size and max(array.shape, default=0) > MAX_EMPTY_SIDE:
                raise ValueError("no numbers and a long side")
            return array.copy()
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Refused("a malformed numpy array") from error


def _numpy_array(*_: Any) -> NumpyArray:
    return NumpyArray()


def _numpy_scalar(dtype: Any, data: Any = None) -> bool | int | float:
    if not isinstance(dtype, NumpyDtype) or not isinstance(data, bytes) or len(data) != dtype.real().itemsize:
        raise Refused("a malformed numpy number")
    return np.frombuffer(data, dtype=dtype.real())[0].item()


def _posix_path(*parts: Any) -> PurePosixPath:
    return PurePosixPath(*_only_text(parts))


def _windows_path(*parts: Any) -> PurePosixPath:
    return PurePosixPath(PureWindowsPath(*_only_text(parts)).as_posix())


def _only_text(parts: tuple[Any, ...]) -> tuple[str, ...]:
    if not all(type(part) is str for part in parts):
        raise Refused("a file path that is not text")
    return parts


def _range(*numbers: Any) -> range:
    if not all(type(number) is int for number in numbers):
        raise Refused("a range that is not of whole numbers")
    return range(*numbers)


class DetectForward:
    """The function ``Detect.forward``, which Segment heads of earlier releases keep as an attribute."""


def _getattr(owner: Any, name: Any) -> DetectForward | TransformChoice:
    if isinstance(owner, type) and issubclass(owner, TransformChoice):  # a choice by its name: Python 3.11.0 to 3.11.3
        return owner(name)
    if (
        isinstance(owner, type)
        and issubclass(owner, StandIn)
        and (owner.path, name) == ("models.yolo.Detect", "forward")
    ):
        return DetectForward()
    raise Refused(f"builtins.getattr (asked for {name if isinstance(name, str) else type(name).__name__!r})")


def pass_class(tag: Any, cls: Any, *source: Any) -> Any:
    """Return the class of a ("module", class, file, source text) description; the source is left alone."""
    if not (isinstance(cls, type) and issubclass(cls, StandIn)):
        raise Refused("a class description without a class")
    return cls


def _stand_in(path: str) -> type[StandIn]:
    return type(path.rsplit(".", 1)[-1], (StandIn,), {"path": path})


class TransformChoice(StandIn):
    """A choice among a clone's transforms, made of one word."""

    path = CHOICE_PATH

    def __init__(self, *value: Any):
        super().__init__(*(() if len(_only_text(value)) == 1 else value))


STAND_INS: dict[str, Callable] = {
    **{path: _stand_in(path) for path in (*MODULE_PATHS, *TRANSFORM_PATHS)},
    CHOICE_PATH: TransformChoice,
    **{
        f"{place}.{kind}": _posix_path
        for place in ("pathlib", "pathlib._local")
        for kind in ("PosixPath", "PurePosixPath")
    },
    **{
        f"{place}.{kind}": _windows_path
        for place in ("pathlib", "pathlib._local")
        for kind in ("WindowsPath", "PureWindowsPath")
    },
    **{f"{core}.multiarray._reconstruct": _numpy_array for core in ("numpy.core", "numpy._core")},
    **{f"{core}.multiarray.scalar": _numpy_scalar for core in ("numpy.core", "numpy._core")},
    "numpy.dtype": NumpyDtype,
    "numpy.ndarray": NumpyArray,
    "builtins.range": _range,
    "builtins.getattr": _getattr,
    PASS_CLASS: pass_class,
}
_OLD_BUILTINS = {"__builtin__.xrange": "builtins.range", "__builtin__.getattr": "builtins.getattr"}


def refused_paths(paths: set[str]) -> list[str]:
    """Return the class paths that no checkpoint needs, sorted."""
    return sorted(path for path in paths if _OLD_BUILTINS.get(path, path) not in STAND_INS and path not in TORCH_PATHS)


def foreign_layers(model: nn.Module) -> list[str]:
    """Return the class paths of a network's layers that no checkpoint may hold, sorted."""
    kinds = {type(module) for module in model.modules()}
    return sorted({f"{kind.__module__}.{kind.__qualname__}" for kind in kinds} - MODULE_PATHS.keys())


def safe_globals() -> list[tuple[Callable, str]]:
    """Return the stand-ins with the paths they answer to, as torch.serialization.safe_globals takes them."""
    return [(stand_in, path) for path, stand_in in STAND_INS.items()]


_HOOKS = frozenset(
    {
        "_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called",
        "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs",
        "_load_state_dict_post_hooks", "_load_state_dict_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
    }
)  # fmt: skip
_STRUCTURE = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_is_full_backward_hook")
_DROPPED = frozenset(
    {*_HOOKS, *_STRUCTURE, *BUILDERS, "process_group", "ddp_gpu_size", "_compiled_call_impl", "_backend"}
)
# Attributes that a class of today's torch reads and an older pickle lacks.
_LATER_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Upsample": {"recompute_scale_factor": None},
    "GELU": {"approximate": "none"},
    "Hardswish": {"inplace": False},
    "SiLU": {"inplace": False},
    "Mish": {"inplace": False},
    "Conv2d": {"padding_mode": "zeros"},
    "ConvTranspose2d": {"padding_mode": "zeros"},
    "MultiheadAttention": {"batch_first": False, "_qkv_same_embed_dim": True},
    "BatchNorm2d": {"track_running_stats": True},
}
_HEADS = ("models.yolo.Detect", "models.yolo.Segment")
MAX_LEVELS = 64  # feature maps of a head, which makes lists of that length for them
MAX_ARRAY_BYTES = 1 << 26  # of all NumPy arrays together; checkpoints keep one number in one
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, range, PurePath)


class Builder:
    """Makes real values of unpickled ones: modules of stand-ins, clean tensors, everything else plain data.

    Objects that the pickle shares stay shared.
    """

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()
        self._array_bytes = 0

    def root(self, value: Any) -> Any:
        """Return the content of a checkpoint: a module, or a dict whose values may be modules.

        Raises:
            Refused: something that is neither plain data nor an allowed module, or far more of it than was written.
        """
        if isinstance(value, dict):
            content: Any = {self.plain(key): self._module_or_plain(item) for key, item in value.items()}
        else:
            content = self._module_or_plain(value)
        check_expansion(content)
        return content

    def _module_or_plain(self, value: Any) -> Any:
        return self.module(value) if isinstance(value, StandIn) else self.plain(value)

    def plain(self, value: Any) -> Any:
        """Return a value of numbers, text, tensors and containers of these."""
        if type(value) in _PLAIN or isinstance(value, PurePath):
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        if id(value) in self._open:
            raise Refused("a container that contains itself")
        self._open.add(id(value))
        made = self._made[id(value)] = self._convert(value)
        self._open.discard(id(value))
        return made

    def _convert(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return clean_tensor(value)
        if type(value) in (dict, OrderedDict):
            return type(value)((self.plain(key), self.plain(item)) for key, item in value.items())
        if type(value) in (list, tuple, set):
            return type(value)(self.plain(item) for item in value)
        if isinstance(value, NumpyArray):
            array = value.real()
            self._array_bytes += array.nbytes
            if self._array_bytes > MAX_ARRAY_BYTES:
                raise Refused(f"numpy arrays of over {MAX_ARRAY_BYTES} bytes")
            return array
        if isinstance(value, NumpyDtype):
            return value.real()
        name = value.path if isinstance(value, StandIn) else getattr(value, "__name__", type(value).__name__)
        raise Refused(f"{name} where plain data belongs")

    def module(self, stand_in: StandIn) -> nn.Module:
        """Return the real module of a stand-in, its children included."""
        if id(stand_in) in self._made:
            return self._made[id(stand_in)]
        if id(stand_in) in self._open:
            raise Refused(f"{stand_in.path} that contains itself")
        if stand_in.path not in MODULE_PATHS:
            raise Refused(f"{stand_in.path} as a layer")
        self._open.add(id(stand_in))
        state = stand_in.state
        if not isinstance(state, dict) or not all(type(key) is str for key in state):
            raise Refused(f"{stand_in.path} without its attributes")
        cls = resolve(stand_in.path)
        module = cls.__new__(cls)
        structure = self._structure(stand_in.path, state)
        attributes = self._attributes(stand_in.path, cls, state)
        module.__setstate__({**structure, **attributes})
        self._made[id(stand_in)] = module
        return module

    def _structure(self, path: str, state: dict[str, Any]) -> dict[str, Any]:
        parts = {name: state.get(name, {}) for name in ("_parameters", "_buffers", "_modules")}
        for name, part in parts.items():
            if type(part) not in (dict, OrderedDict) or not all(type(key) is str and "." not in key for key in part):
                raise Refused(f"{path} with a malformed {name}")
        return {
            "_parameters": self._tensors(path, parts["_parameters"], nn.Parameter),
            "_buffers": self._tensors(path, parts["_buffers"], torch.Tensor),
            "_modules": {key: self._child(path, key, value) for key, value in parts["_modules"].items()},
            "_non_persistent_buffers_set": {
                key for key in state.get("_non_persistent_buffers_set", ()) if type(key) is str
            },
            "_is_full_backward_hook": None,
            **{hooks: OrderedDict() for hooks in _HOOKS},
        }

    def _tensors(self, path: str, part: dict[str, Any], kind: type[torch.Tensor]) -> dict[str, torch.Tensor | None]:
        for key, value in part.items():
            if value is not None and not isinstance(value, kind):
                raise Refused(f"{path} whose {key} is not a {kind.__name__}")
        return {key: None if value is None else self.plain(value) for key, value in part.items()}

    def _child(self, path: str, key: str, value: Any) -> nn.Module | None:
        if value is not None and not isinstance(value, StandIn):
            raise Refused(f"{path} whose part {key} is not a layer")
        return None if value is None else self.module(value)

    def _attributes(self, path: str, cls: type[nn.Module], state: dict[str, Any]) -> dict[str, Any]:
        """Return the instance attributes, refusing any that would stand in for a method or hold something callable."""
        attributes = dict(_LATER_ATTRIBUTES.get(cls.__name__, {}))
        for key, value in state.items():
            if key in _DROPPED or (isinstance(value, StandIn) and value.path in TRANSFORM_PATHS):
                continue
            if isinstance(value, DetectForward) and path == "models.yolo.Segment" and key == "detect":
                attributes[key] = resolve("models.yolo.Detect").forward
                continue
            if key.startswith("__") or _is_method(cls, key) and not (key == "type" and isinstance(value, str)):
                raise Refused(f"{path} with its own {key}")
            attributes[key] = self.plain(value)
        attributes["training"] = bool(attributes.get("training", False))
        levels = attributes.get("nl", 1)
        if path in _HEADS and not (type(levels) is int and 0 < levels <= MAX_LEVELS):
            raise Refused(f"{path} for {levels} feature maps (1 to {MAX_LEVELS} are read)")
        return attributes


def _is_method(cls: type, key: str) -> bool:
    """Tell whether a class defines ``key`` as something that runs: a method, property or the like."""
    found = next((vars(base)[key] for base in cls.__mro__ if key in vars(base)), None)
    return callable(found) or hasattr(found, "__get__")


def clean_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor without hooks and Python attributes; a Parameter stays one."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
    if type(tensor) is not torch.Tensor:
        raise Refused(f"{type(tensor).__name__} where a plain tensor belongs")
    return tensor.detach()


def resolve(path: str) -> type[nn.Module]:
    """Return the class that an allowed path means today."""
    place, name = MODULE_PATHS[path].rsplit(".", 1)
    return getattr(importlib.import_module(place), name)
