"""CoreML's ML programs, computed by PyTorch: a check of what was written, on systems that cannot run CoreML.

The file is read back from the disk, weights included. CoreML itself may round otherwise; what this shows is that the
program and its weights are right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from utils.errors import WorkError
from utils.exporting.base import Job

if TYPE_CHECKING:
    from torch import Tensor

    from utils.exporting.verify import Tolerance


def check_program(job: Job, path: Path, tolerance: Tolerance) -> str:
    """Compute a written ML program for the job's image, compare, and return the differences as text.

    A pipeline's suppression is not computed; what it is given is compared instead.

    Raises:
        WorkError: it has operations that are not known here, or gives other results than PyTorch.
    """
    from utils.exporting.coreml import INPUT, import_coremltools
    from utils.exporting.verify import compare_outputs

    ct = import_coremltools()
    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    if spec.WhichOneof("Type") == "pipeline":
        spec = spec.pipeline.models[0]
    image = job.im.float().cpu()
    outputs = run_program(spec, model.weights_dir, {INPUT: image * 255 if len(image) == 1 else image})
    if job.options.nms:
        outputs = [_joined(job, outputs)]
    return compare_outputs(job, [y.float() for y in outputs], tolerance)


def run_program(spec: Any, weights: str | None, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the outputs of the program in a CoreML specification, in the order of their names.

    Args:
        spec: of an ML program.
        weights: the folder of its weights.
        inputs: by name.

    Raises:
        WorkError: an operation is not known here.
    """
    from coremltools.converters.mil.frontend.milproto import load

    program = load.load(spec, spec.specificationVersion, weights)
    function = next(iter(program.functions.values()))
    values: dict[str, Any] = {name: tensor.clone() for name, tensor in inputs.items()}
    with torch.no_grad():
        for op in function.operations:
            if op.op_type == "const" or op.op_type.startswith("constexpr_"):
                continue
            compute = OPERATIONS.get(op.op_type)
            if compute is None:
                raise WorkError(f"the CoreML program uses {op.op_type}, which cannot be checked here")
            made = compute({key: _value(var, values) for key, var in op.inputs.items()})
            for var, value in zip(op.outputs, made if isinstance(made, (tuple, list)) else [made], strict=True):
                values[var.name] = value
    return [values[name] for name in sorted(var.name for var in function.outputs)]


def _value(var: Any, values: Mapping[str, Any]) -> Any:
    """Return what a variable stands for: a constant, or what was computed."""
    if isinstance(var, (tuple, list)):
        return [_value(part, values) for part in var]
    if var.name in values:
        return values[var.name]
    constant = var.val if var.val is not None else var.op.materialized_val_inference()
    if isinstance(constant, np.ndarray) and constant.dtype.kind == "f":
        return torch.from_numpy(np.array(constant))
    if isinstance(constant, np.floating):
        return float(constant)
    return constant.tolist() if isinstance(constant, (np.ndarray, np.generic)) else constant


def _conv(x: Mapping[str, Any]) -> Tensor:
    top, bottom, left, right = _padding(x, x["weight"].shape[2:])
    image = functional.pad(x["x"], (left, right, top, bottom))
    bias = x.get("bias")
    weight = x["weight"].to(image.dtype)
    bias = bias if bias is None else bias.to(image.dtype)
    return functional.conv2d(image, weight, bias, x["strides"], 0, x["dilations"], x["groups"])


def _max_pool(x: Mapping[str, Any]) -> Tensor:
    top, bottom, left, right = _padding(x, x["kernel_sizes"])
    image = functional.pad(x["x"], (left, right, top, bottom), value=float("-inf"))
    return functional.max_pool2d(image, x["kernel_sizes"], x["strides"])


def _padding(x: Mapping[str, Any], size: Any) -> list[int]:
    """Return padding above, below, left and right."""
    if x["pad_type"] == "custom":
        return x["pad"]
    if x["pad_type"] == "valid":
        return [0] * 4
    if any(stride != 1 for stride in x["strides"]):
        raise WorkError(
            f"the CoreML program pads in the way {x['pad_type']} with strides, which cannot be checked here"
        )
    return [side for k in size for side in ((k - 1) // 2, k - 1 - (k - 1) // 2)]


def _upsample(x: Mapping[str, Any]) -> Tensor:
    factors = [int(x["scale_factor_height"]), int(x["scale_factor_width"])]
    return x["x"].repeat_interleave(factors[0], 2).repeat_interleave(factors[1], 3)


def _split(x: Mapping[str, Any]) -> Any:
    sizes = x.get("split_sizes")
    return x["x"].split(sizes, x["axis"]) if sizes is not None else x["x"].chunk(x["num_splits"], x["axis"])


def _slice(x: Mapping[str, Any]) -> Tensor:
    """A slice by begin and end of each dimension, those that are masked being the tensor's own."""
    rank = x["x"].ndim
    strides = x.get("stride") or [1] * rank
    first, last, only = (x.get(key) or [False] * rank for key in ("begin_mask", "end_mask", "squeeze_mask"))
    where = [
        begin if alone else slice(None if open_start else begin, None if open_end else end, step)
        for begin, end, step, open_start, open_end, alone in zip(
            x["begin"], x["end"], strides, first, last, only, strict=True
        )
    ]
    return x["x"][tuple(where)]


def _binary(function: Callable[[Any, Any], Any]) -> Callable[[Mapping[str, Any]], Any]:
    def apply(x: Mapping[str, Any]) -> Any:
        a, b = x["x"], x["y"]
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            b = b.to(a.dtype)
        return function(a, b)

    return apply


def _cast(x: Mapping[str, Any]) -> Tensor:
    return x["x"].to({"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32}[x["dtype"]])


def _expand(x: Mapping[str, Any]) -> Tensor:
    y = x["x"]
    for axis in sorted(axis % (y.ndim + len(x["axes"])) for axis in x["axes"]):
        y = y.unsqueeze(axis)
    return y


# Operation of an ML program -> its result from its inputs by name.
OPERATIONS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "conv": _conv,
    "max_pool": _max_pool,
    "upsample_nearest_neighbor": _upsample,
    "split": _split,
    "slice_by_index": _slice,
    "cast": _cast,
    "silu": lambda x: functional.silu(x["x"]),
    "sigmoid": lambda x: x["x"].sigmoid(),
    "relu": lambda x: x["x"].relu(),
    "leaky_relu": lambda x: functional.leaky_relu(x["x"], x["alpha"]),
    "softmax": lambda x: x["x"].softmax(x["axis"]),
    "add": _binary(lambda a, b: a + b),
    "sub": _binary(lambda a, b: a - b),
    "mul": _binary(lambda a, b: a * b),
    "real_div": _binary(lambda a, b: a / b),
    "concat": lambda x: torch.cat(x["values"], x["axis"]),
    "transpose": lambda x: x["x"].permute(x["perm"]),
    "reshape": lambda x: x["x"].reshape(x["shape"]),
    "squeeze": lambda x: x["x"].squeeze(tuple(x["axes"])),
    "expand_dims": _expand,
    "reduce_mean": lambda x: x["x"].mean(tuple(x["axes"]), keepdim=bool(x["keep_dims"])),
    "linear": lambda x: functional.linear(x["x"], x["weight"].to(x["x"].dtype), x["bias"].to(x["x"].dtype)),
    "identity": lambda x: x["x"],
}


def _joined(job: Job, outputs: list[Tensor]) -> Tensor:
    """Suppress what a pipeline's suppression is given, by torchvision, and return it as DetectMultiBackend would."""
    from torchvision.ops import batched_nms

    from models.backends import as_predictions

    confidence, coordinates = outputs
    height, width = job.options.imgsz
    boxes = coordinates * coordinates.new_tensor([width, height] * 2)
    corners = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
    scores, labels = confidence.max(1)
    above = (scores > job.options.conf_thres).nonzero()[:, 0]
    groups = labels[above] * int(not job.options.agnostic_nms)
    kept = above[batched_nms(corners[above], scores[above], groups, job.options.iou_thres)][: job.options.topk_all]
    rows = torch.cat((corners[kept], scores[kept, None], labels[kept, None].float()), 1)[None]
    return as_predictions(rows, len(job.facts.names))
