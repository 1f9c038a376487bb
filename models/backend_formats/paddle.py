"""PaddlePaddle folders: a program (.pdmodel or .json), its weights (.pdiparams), a .yaml with names and stride.

A program can hold operations that read and write files or call Python, so it is looked at before it is run: only the
operations of networks pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from models.backend_formats.base import Backend, inside
from models.paddle_twin import import_paddle
from utils.errors import InputError
from utils.yaml_files import read_yaml

ALLOWED_OPERATIONS = frozenset(
    """
    feed fetch data p parameter shadow_feed shadow_output combine split_op builtin_split constant full full_int_array
    full_with_tensor fill_constant assign assign_value assign_value share_data cast scale shape shape64
    conv2d depthwise_conv2d conv2d_transpose depthwise_conv2d_transpose fused_conv2d batch_norm layer_norm
    pool2d max_pool2d_with_index adaptive_pool2d nearest_interp nearest_interp_v2 bilinear_interp bilinear_interp_v2
    swish silu relu relu6 leaky_relu elu gelu mish softplus sigmoid hard_sigmoid hardsigmoid hard_swish hardswish tanh
    softmax elementwise_add elementwise_sub elementwise_mul elementwise_div elementwise_max elementwise_min
    elementwise_pow add subtract multiply divide maximum minimum pow square sqrt rsqrt exp log abs floor ceil clip
    reduce_mean reduce_sum reduce_max reduce_min mean sum max min
    concat stack unstack split split_with_num slice strided_slice reshape reshape2 transpose transpose2 flatten
    flatten2 flatten_contiguous_range squeeze squeeze2 unsqueeze unsqueeze2 expand expand_v2 expand_as_v2 tile pad pad3d
    gather gather_nd scatter index_select where top_k top_k_v2 topk arg_max argmax equal not_equal less_than less_equal
    greater_than greater_equal logical_and logical_or logical_not range arange meshgrid matmul matmul_v2 mul
    multiclass_nms3 matrix_nms dropout
    """.split()  # noqa: SIM905  (a table to read)
)


class PaddleBackend(Backend):
    """Run a PaddlePaddle program."""

    packages: ClassVar = {"paddle": "paddlepaddle"}
    folder: ClassVar[bool] = True

    def load(self) -> None:
        """Look at the program, then build the predictor."""
        program = self._program()
        weights = inside(program.with_suffix(".pdiparams"), self.path)
        settings = sorted(self.path.rglob("*.yaml"))
        if settings:
            self.facts = dict(read_yaml(inside(settings[0], self.path)))
        paddle = import_paddle()
        for name in operations(program):
            if name not in ALLOWED_OPERATIONS:
                raise InputError(f"weights {program}: it uses the operation {name}; allowed are those of a network")
        from paddle import inference

        config = inference.Config(str(program), str(weights))
        config.disable_glog_info()
        if hasattr(config, "disable_mkldnn"):
            config.disable_mkldnn()  # its kernels lack attributes of PaddlePaddle 3's programs
        config.set_cpu_math_library_num_threads(torch.get_num_threads())
        if self.device.type == "cuda" and paddle.is_compiled_with_cuda():
            config.enable_use_gpu(2048, self.device.index or 0)
        else:
            self.device = torch.device("cpu")
        try:
            self.model = inference.create_predictor(config)
        except Exception as error:  # of classes of its own
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise InputError(f"weights {program}: PaddlePaddle cannot read it: {lines[-1].strip()}") from error
        names = self.model.get_input_names()
        if len(names) != 1:
            raise InputError(f"weights {program}: takes {len(names)} inputs, expected one batch of images")
        self._input = self.model.get_input_handle(names[0])
        self._outputs = [self.model.get_output_handle(name) for name in self.model.get_output_names()]
        size = self.facts.get("imgsz")
        if isinstance(size, list) and len(size) == 2:
            batch = 0 if self.facts.get("dynamic") else int(self.facts.get("batch", 1))
            self.shape = (batch, 3, int(size[0]), int(size[1]))

    def run(self, im: Tensor) -> Any:
        """Return the outputs as arrays."""
        self._input.copy_from_cpu(im.float().cpu().contiguous().numpy())
        self.model.run()
        return [output.copy_to_cpu() for output in self._outputs]

    def _program(self) -> Path:
        """Return the one program of the folder, which older exports keep in a folder of their own."""
        found = sorted(path for path in self.path.rglob("*") if path.suffix in {".pdmodel", ".json"})
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise InputError(f"weights {self.path}: {names} found, expected one .pdmodel or .json file")
        return inside(found[0], self.path)


def operations(program: Path) -> Iterator[str]:
    """Yield the operations of a program, without the mark of their family.

    Raises:
        InputError: the file is none.
    """
    if program.suffix == ".json":
        try:
            content = json.loads(program.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"weights {program}: truncated or not a PaddlePaddle program") from error
        yield from (re.sub(r"^\d+\.", "", name).rstrip("_") for name in _named_operations(content))
        return
    from google.protobuf.message import DecodeError
    from paddle.base.proto import framework_pb2

    description = framework_pb2.ProgramDesc()
    try:
        description.ParseFromString(program.read_bytes())
    except DecodeError as error:
        raise InputError(f"weights {program}: truncated or not a PaddlePaddle program") from error
    for block in description.blocks:
        yield from (op.type for op in block.ops)


def _named_operations(content: Any) -> Iterator[str]:
    """Yield the operations of a JSON program, those of blocks within operations too."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            ops = part.get("ops", [])
            for op in ops if isinstance(ops, list) else [ops]:
                yield str(op.get("#") if isinstance(op, dict) else op)
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
