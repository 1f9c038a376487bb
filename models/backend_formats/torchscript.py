"""TorchScript files. They hold a program, so what it may do is checked before it is run.

TorchScript is a small language, not Python: it cannot import, but it has operations that read and write files
(torch.from_file, torch.save) and methods that run while a file is loaded (__setstate__). A traced network has neither.
So the archive's source is searched before it is loaded, and the graphs of all methods after that, before the first run:
only the operations of networks pass.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from models.backend_formats.base import Backend, require_finite
from utils.errors import InputError

CONFIG = "config.txt"
MOST_CODE = 64 << 20  # bytes of source in an archive; a traced YOLOv5x has under one MB
ROOT_RECORDS = ("data.pkl", "constants.pkl")
RUNS_UNASKED = (b"__setstate__", b"__forward_hooks__", b"__forward_pre_hooks__")
# Classes written in C++ may not be in an archive, but for weights packed for phones by --optimize.
REFUSED_CLASSES = re.compile(
    rb"torch\.classes\.(?!xnnpack[.\n](?:Conv2dOpContext|LinearOpContext|TransposeConv2dOpContext)\b)"
)
# Operations of traced networks, of YOLOv5's layers and of torchvision's classifiers; in-place forms end in _.
ALLOWED_OPERATIONS = frozenset({
    "_convolution", "_convolution_mode", "conv1d", "conv2d", "conv_transpose2d", "linear", "addmm", "addbmm", "baddbmm",
    "bmm", "matmul", "mm", "einsum", "batch_norm", "layer_norm", "group_norm", "instance_norm", "native_layer_norm",
    "dropout", "feature_dropout", "silu", "relu", "relu6", "leaky_relu", "hardswish", "hardsigmoid", "hardtanh",
    "sigmoid", "tanh", "gelu", "mish", "elu", "softplus", "softmax", "log_softmax", "_softmax", "prelu", "celu", "selu",
    "clamp", "clamp_min", "clamp_max", "add", "sub", "rsub", "mul", "div", "floor_divide", "remainder", "pow", "sqrt",
    "rsqrt", "exp", "exp2", "log", "neg", "abs", "reciprocal", "floor", "ceil", "round", "trunc", "addcmul", "addcdiv",
    "maximum", "minimum", "max", "min", "sum", "mean", "prod", "amax", "amin", "argmax", "argmin", "norm", "var", "std",
    "square", "cumsum", "eq", "ne", "lt", "le", "gt", "ge", "where", "logical_and", "logical_or", "logical_not",
    "masked_fill", "cat", "stack", "split", "split_with_sizes", "chunk", "unbind", "view", "reshape", "permute",
    "transpose", "t", "contiguous", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "repeat",
    "repeat_interleave", "index", "index_select", "index_put", "gather", "scatter", "select", "slice", "narrow", "flip",
    "roll", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "meshgrid", "topk", "sort", "argsort",
    "as_strided", "clone", "detach", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "pad",
    "constant_pad_nd", "upsample_nearest2d", "upsample_bilinear2d", "interpolate", "__interpolate",
    "_upsample_nearest_exact2d", "grid_sampler", "scaled_dot_product_attention", "_native_multi_head_attention", "to",
    "type_as", "_to_copy", "alias", "zeros", "ones", "full", "empty", "arange", "linspace", "zeros_like", "ones_like",
    "full_like", "new_zeros", "new_ones", "new_full", "tensor", "scalar_tensor", "ScalarImplicit", "IntImplicit",
    "FloatImplicit", "Int", "Float", "Bool", "item", "size", "dim", "len", "numel", "__getitem__", "append", "list",
    "copy", "warn", "lift_fresh", "numpy_T", "nonzero", "mv", "dot", "rad2deg",
})  # fmt: skip
ALLOWED_OTHERS = frozenset({"torchvision::nms", "prepacked::conv2d_clamp_run", "prepacked::linear_clamp_run"})
ALLOWED_PRIMITIVES = frozenset({
    "Constant", "GetAttr", "SetAttr", "ListConstruct", "ListUnpack", "TupleConstruct", "TupleUnpack", "TupleIndex",
    "TupleSlice", "DictConstruct", "NumToTensor", "ImplicitTensorToNum", "CallMethod", "CallFunction", "CreateObject",
    "dtype", "device", "shape", "data", "layout", "is_cuda", "unchecked_cast", "Uninitialized", "If", "Return", "Param",
    "min", "max",
})  # fmt: skip


class TorchScriptBackend(Backend):
    """Run a TorchScript file that holds a traced network."""

    def load(self) -> None:
        """Load the file after looking at what its program does."""
        data = self.path.read_bytes()
        self._scan(data)
        extra = {CONFIG: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))
                self.model = torch.jit.load(io.BytesIO(data), _extra_files=extra, map_location=self.device)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"weights {self.path}: truncated or not a TorchScript file") from error
        require_known_operations(self.model, self.path)
        self.facts = self._facts(extra[CONFIG])
        self.half_inputs = self.request.fp16 and self.device.type == "cuda"
        self.model.half() if self.half_inputs else self.model.float()
        require_finite(self.model, self.files)
        self.shape = self._shape()

    def run(self, im: Tensor) -> Any:
        """Return what the program's forward returns."""
        return self.model(im)

    def _scan(self, data: bytes) -> None:
        """Refuse an archive with methods that run while it is loaded, read by the same reader that loads it."""
        try:
            reader = torch._C.PyTorchFileReader(io.BytesIO(data))
            names = [name for name in reader.get_all_records() if name.startswith("code/") or name in ROOT_RECORDS]
            sources = [(name, reader.get_record(name)) for name in names if not name.endswith(".debug_pkl")]
        except (RuntimeError, ValueError) as error:
            raise InputError(f"weights {self.path}: truncated or not a TorchScript file") from error
        if not any(name == "constants.pkl" for name, _ in sources):
            raise InputError(f"weights {self.path}: a checkpoint or another archive, not a TorchScript file")
        if sum(len(text) for name, text in sources if name.startswith("code/")) > MOST_CODE:
            raise InputError(f"weights {self.path}: more than {MOST_CODE >> 20} MB of program; a network has less")
        for name, text in sources:
            mark = next((mark for mark in RUNS_UNASKED if mark in text and name.startswith("code/")), None)
            if mark:
                raise InputError(
                    f"weights {self.path}: its program ({name}) has {mark.decode()}, which runs while it is loaded or "
                    "beside the network; allowed are traced networks, as export.py writes them"
                )
            if found := REFUSED_CLASSES.search(text):
                around = text[found.start() : found.start() + 60].split(b"\n")[0].decode("ascii", "replace")
                raise InputError(f"weights {self.path}: it uses {around}; allowed are the tensors of a network")

    def _facts(self, text: str | bytes) -> dict[str, Any]:
        """Return the settings that the file carries as JSON."""
        try:
            facts = json.loads(text) if text else {}
        except ValueError as error:
            raise InputError(f"weights {self.path}: its {CONFIG} is not JSON ({error})") from error
        return facts if isinstance(facts, dict) else {}

    def _shape(self) -> tuple[int, int, int, int]:
        """Return the image size that grids of a traced head are made for; the batch is free."""
        shape = self.facts.get("shape")
        if self.facts.get("dynamic") or self.facts.get("task") == "classify" or not isinstance(shape, list):
            return 0, 3, 0, 0
        return (0, 3, int(shape[2]), int(shape[3])) if len(shape) == 4 else (0, 3, 0, 0)


def require_known_operations(module: torch.jit.ScriptModule, path: Any) -> None:
    """Refuse a program with operations that a network does not need, such as those that read or write files.

    Raises:
        InputError: names the first.
    """
    for kind in _operations(module):
        namespace, _, name = kind.partition("::")
        if namespace == "prim":
            known = name in ALLOWED_PRIMITIVES
        elif namespace == "aten":
            known = name in ALLOWED_OPERATIONS or name.removesuffix("_") in ALLOWED_OPERATIONS
            known |= name.startswith("__") and name in {
                "__and__",
                "__or__",
                "__xor__",
                "__not__",
                "__is__",
                "__isnot__",
            }
        else:
            known = kind in ALLOWED_OTHERS
        if not known:
            raise InputError(f"weights {path}: its program uses {kind}; allowed are the operations of a traced network")


def _operations(module: torch.jit.ScriptModule) -> Iterator[str]:
    """Yield the kinds of all nodes of all methods, and of the functions that they call."""
    for part in module.modules():
        for name in part._c._method_names():
            yield from _kinds(part._c._get_method(name).inlined_graph)


def _kinds(block: Any) -> Iterator[str]:
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)
