"""TensorRT: an engine built from an ONNX file for this machine's GPU; its facts travel in the network's name."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any, ClassVar

from utils.errors import WorkError
from utils.exporting.base import Exporter, ExportOptions, Job
from utils.exporting.onnx import opset_problems, write_onnx
from utils.logs import LOGGER

LONGEST_NAME = 4095  # bytes that TensorRT keeps of a network's name


class TensorRtExporter(Exporter):
    """Writes .engine files, on a machine with CUDA and TensorRT 8.5 or later."""

    packages: ClassVar = {"tensorrt": "tensorrt", "onnx": "onnx"}
    takes: ClassVar = frozenset({"half", "dynamic", "simplify", "nms", "cache", "verbose"})

    def missing(self) -> str | None:
        """An engine is built by the GPU that it is for."""
        import torch

        if platform.system() == "Darwin":
            return "needs an NVIDIA GPU; macOS has none"
        if not torch.cuda.is_available():
            return "needs an NVIDIA GPU with CUDA, which this machine lacks"
        return super().missing()

    def problems(self, options: ExportOptions) -> list[str]:
        """The model must be on the GPU."""
        problems = opset_problems(options)
        if options.device.lower() in {"", "cpu"}:
            problems.append(
                f"--include engine with --device {options.device or repr('')}: allowed is a GPU, --device 0"
            )
        if options.workspace < 1:
            problems.append(f"--workspace {options.workspace}: expected whole gigabytes from 1")
        return problems

    def write(self, job: Job, target: Path) -> Any:
        """Build the engine and write it."""
        import tensorrt as trt

        opt = job.options
        logger = trt.Logger(trt.Logger.VERBOSE if opt.verbose else trt.Logger.WARNING)
        builder = trt.Builder(logger)
        flags = (
            0
            if int(trt.__version__.split(".")[0]) >= 10
            else 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        )
        network = builder.create_network(flags)
        parser = trt.OnnxParser(network, logger)
        source = target.with_suffix(".source.onnx")
        try:
            write_onnx(job, source)
            if not parser.parse(source.read_bytes()):
                raise WorkError(f"TensorRT {trt.__version__} cannot read the ONNX file: {parser.get_error(0)}")
        finally:
            source.unlink(missing_ok=True)
        network.name = _name(job)
        engine = builder.build_serialized_network(network, self._config(trt, builder, network, job))
        if engine is None:
            raise WorkError(f"TensorRT {trt.__version__} could not build an engine; --verbose shows why")
        target.write_bytes(memoryview(engine))

    def _config(self, trt: Any, builder: Any, network: Any, job: Job) -> Any:
        """Return the settings of a build: memory, precision, range of shapes, cache of timings."""
        opt, config = job.options, builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, opt.workspace << 30)
        if opt.cache:
            stored = Path(opt.cache).read_bytes() if Path(opt.cache).is_file() else b""
            config.set_timing_cache(config.create_timing_cache(stored), ignore_mismatch=True)
        if opt.half:
            if hasattr(builder, "platform_has_fast_fp16") and not builder.platform_has_fast_fp16:
                LOGGER.warning("WARNING TensorRT: this GPU has no fast float16")
            config.set_flag(trt.BuilderFlag.FP16)
        if opt.dynamic:
            channels, stride, (height, width) = job.im.shape[1], job.facts.stride, opt.imgsz
            profile = builder.create_optimization_profile()
            shapes = ((1, channels, stride, stride), (max(1, opt.batch_size // 2), channels, height, width))
            profile.set_shape(network.get_input(0).name, *shapes, (opt.batch_size, channels, height, width))
            config.add_optimization_profile(profile)
        return config


def _name(job: Job) -> str:
    """Return the facts as JSON; without class names where they are too long, which --data then tells."""
    facts = job.metadata()
    text = json.dumps(facts)
    if len(text.encode()) > LONGEST_NAME:
        LOGGER.warning("WARNING TensorRT: the class names are too long for an engine; give --data when it is run")
        text = json.dumps({key: value for key, value in facts.items() if key != "names"})
    return text
