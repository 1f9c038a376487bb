"""OpenVINO: a folder with the network (.xml), its weights (.bin) and its facts (.yaml); float32, float16 or int8.

The folder is made from an ONNX file by OpenVINO's own reader. ovc and ov.convert_model are not used: they send usage
statistics, as nncf does; see without_telemetry.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from utils.errors import InputError
from utils.exporting.base import Exporter, ExportOptions, Job
from utils.exporting.onnx import opset_problems, write_onnx

CALIBRATION_IMAGES = 300
# Nodes of the head behind its convolutions turn logits into pixels and scores: 256 steps are too few for a coordinate.
DECODING = r".*/model\.{layer}/(?!m\.|proto|cv).*"


class OpenVinoExporter(Exporter):
    """Writes OpenVINO folders."""

    packages: ClassVar = {"openvino": "openvino", "onnx": "onnx"}
    takes: ClassVar = frozenset({"half", "int8", "dynamic", "nms", "simplify"})

    def problems(self, options: ExportOptions) -> list[str]:
        """int8 needs nncf and images of the data set."""
        import importlib.util

        problems = opset_problems(options)
        if options.int8:
            if importlib.util.find_spec("nncf") is None:
                problems.append("openvino --int8 needs the package nncf: pip install nncf")
            try:
                calibration_files(options.data)
            except InputError as error:
                problems.append(f"--int8 needs images: {error}" if options.data else str(error))
        return problems

    def target_name(self, stem: str, suffix: str, options: ExportOptions) -> str:
        """int8 folders carry it in their names."""
        return f"{stem}{'_int8' if options.int8 else ''}{suffix}"

    def write(self, job: Job, target: Path) -> Any:
        """Write the folder."""
        import openvino as ov

        from utils.yaml_files import write_yaml

        target.mkdir()
        source = target.with_name(f"{target.name}.source.onnx")
        try:
            write_onnx(job, source)
            model = ov.Core().read_model(str(source))
        finally:
            source.unlink(missing_ok=True)
        if job.options.int8:
            model = _quantized(model, job)
        for key, value in job.metadata().items():
            model.set_rt_info(str(value), ["model_info", key])
        ov.save_model(model, str(target / f"{job.file.stem}.xml"), compress_to_fp16=job.options.half)
        write_yaml(target / f"{job.file.stem}.yaml", job.metadata())


def calibration_files(data: Any) -> list[str]:
    """Return the images that int8 is calibrated with: an even pick of the training images, else the validation's.

    Raises:
        InputError: the data set or its images are missing; --int8 cannot do without.
    """
    from utils.dataset_yaml import check_dataset, find_images

    if not data:
        raise InputError("--int8 needs --data, a data set YAML whose images show which values occur; none given")
    facts = check_dataset(data, splits=())
    split = "train" if facts.get("train") else "val"
    files = find_images(facts[split])
    step = max(len(files) // CALIBRATION_IMAGES, 1)
    return files[::step][:CALIBRATION_IMAGES]


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """Let nncf be imported as if openvino_telemetry, which calls home by default, were not installed."""
    before = sys.modules.get("openvino_telemetry")
    sys.modules["openvino_telemetry"] = None  # an import of it now fails, which nncf allows for
    try:
        yield
    finally:
        if before is None:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = before


def _quantized(model: Any, job: Job) -> Any:
    """Return the model with weights and activations in int8, the head's decoding left in float."""
    from utils.exporting.prepare import read_batch

    with without_telemetry():
        import nncf
    nncf.set_log_level(logging.ERROR)
    ignored = None
    if job.facts.task != "classify":
        layer = len(job.network.model) - 1
        ignored = nncf.IgnoredScope(patterns=[DECODING.format(layer=layer)], validate=False)
    batch, files = job.options.batch_size, calibration_files(job.options.data)
    images = (read_batch(file, job.options.imgsz).repeat(batch, 1, 1, 1).numpy() for file in files)
    return nncf.quantize(
        model, nncf.Dataset(images), preset=nncf.QuantizationPreset.MIXED, ignored_scope=ignored, subset_size=len(files)
    )
