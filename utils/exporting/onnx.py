"""ONNX, by torch's tracing exporter: it works alike from torch 2.6 on and needs no further package."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any, ClassVar

from utils.errors import WorkError
from utils.exporting.base import Exporter, ExportOptions, Job

OPSETS = range(11, 21)  # 11 is the first with the NonMaxSuppression and Resize in use, 20 the last of this exporter
INPUT = "images"


class OnnxExporter(Exporter):
    """Writes .onnx files with the outputs output0 and, for segmentation, output1."""

    packages: ClassVar = {"onnx": "onnx", "onnxruntime": "onnxruntime"}
    takes: ClassVar = frozenset({"half", "dynamic", "simplify", "nms"})

    def problems(self, options: ExportOptions) -> list[str]:
        """Check the opset and, for --simplify, the package."""
        return opset_problems(options)

    def write(self, job: Job, target: Path) -> Any:
        """Write the file and return the ONNX model."""
        return write_onnx(job, target, half=job.options.half)


def opset_problems(options: ExportOptions) -> list[str]:
    """Return what about --opset and --simplify cannot be done."""
    import importlib.util

    problems = []
    if options.opset not in OPSETS:
        problems.append(f"--opset {options.opset}: allowed are {OPSETS[0]} to {OPSETS[-1]}")
    if options.simplify and importlib.util.find_spec("onnxslim") is None:
        problems.append("--simplify needs the package onnxslim: pip install onnxslim")
    return problems


def write_onnx(job: Job, target: Path, half: bool = False) -> Any:
    """Write the job's model as ONNX.

    Args:
        job: what to write; its options tell opset, dynamic axes, suppression and whether to simplify.
        target: the file.
        half: float16 weights and input, as some formats take half precision in other ways.

    Raises:
        WorkError: an operation of the model has no counterpart in the opset.
    """
    import onnx
    import torch

    from utils.exporting.suppression import Suppressing

    model, im = job.in_precision(half)
    if job.options.dynamic:
        model, im = model.cpu(), im.cpu()
    if job.options.nms:
        import torchvision  # noqa: F401  (imported while the graph is recorded, it would leave a trace in it)

        model = Suppressing.around(model, job)
    names = output_names(job)
    with warnings.catch_warnings(), torch.no_grad(), _quiet("torch.onnx"), _no_output():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                model, (im,), str(target), opset_version=job.options.opset, do_constant_folding=True,
                input_names=[INPUT], output_names=names, dynamic_axes=_axes(job, names) or None, dynamo=False,
            )  # fmt: skip
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise WorkError(f"ONNX: opset {job.options.opset} cannot hold this model: {_first_line(error)}") from error
    made = onnx.load(str(target))
    if job.options.simplify:
        made = _simplified(made)
    for key, value in job.metadata().items():
        made.metadata_props.add(key=key, value=str(value))  # YOLOv5 reads names as the text of a dict
    onnx.checker.check_model(made)
    onnx.save(made, str(target))
    return made


def output_names(job: Job) -> list[str]:
    """Return output0, and output1 where the model has prototypes."""
    return [f"output{i}" for i in range(len(job.expected))]


def _axes(job: Job, names: list[str]) -> dict[str, dict[int, str]]:
    """Return the free sides of --dynamic: batch, height and width, and what follows from them."""
    if not job.options.dynamic:
        return {}
    if job.facts.task == "classify":
        return {INPUT: {0: "batch", 2: "height", 3: "width"}, names[0]: {0: "batch"}}
    rows = {0: "batch"} if job.options.nms else {0: "batch", 1: "anchors"}
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"}, names[0]: rows}
    if len(names) > 1:
        axes[names[1]] = {0: "batch", 2: "mask_height", 3: "mask_width"}
    return axes


def _simplified(model: Any) -> Any:
    """Return the model with constants folded and needless nodes gone."""
    import onnxslim

    try:
        return onnxslim.slim(model)
    except Exception as error:  # of any class: it rewrites graphs with assertions
        raise WorkError(f"ONNX: --simplify failed: {_first_line(error)}; export without it") from error


class _quiet:
    """Keep a logger to errors for the time of a block."""

    def __init__(self, name: str):
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)


def _no_output() -> Any:
    """Keep what the exporter prints on a failure, the whole graph, off the terminal."""
    return contextlib.redirect_stdout(io.StringIO())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
