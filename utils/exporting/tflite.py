"""TensorFlow Lite: float16 weights, or int8 throughout; and the Edge TPU's program out of the int8 file."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from models.backend_formats.tflite_file import append_facts
from models.tf import import_tensorflow
from utils.errors import WorkError
from utils.exporting.base import ExportOptions, Job
from utils.exporting.formats import HALF_MARK, INT8_MARK
from utils.exporting.openvino import calibration_files
from utils.exporting.prepare import read_batch
from utils.exporting.tensorflow import TensorFlowExporter, concrete, frozen, twin_of
from utils.exporting.verify import TOLERANCES, Tolerance

CALIBRATION_IMAGES = 100  # each is run through the network in float by TensorFlow Lite's slow reference operations
COMPILER = "edgetpu_compiler"


class TfLiteExporter(TensorFlowExporter):
    """Writes <name>-fp16.tflite: weights in float16, arithmetic in float32; with --int8 <name>-int8.tflite.

    As in YOLOv5, float16 needs no option. int8 files take and give uint8, with the scales that the file tells.
    """

    takes: ClassVar = frozenset({"half", "int8", "per_tensor", "nms"})

    def problems(self, options: ExportOptions) -> list[str]:
        """int8 needs images of the data set and leaves suppression to the caller; --dynamic is not for this format."""
        problems = super().problems(options)
        if options.dynamic:
            problems.append("--dynamic with --include tflite: its images have one size and number; export without it")
        if options.int8:
            if options.nms:
                problems.append(
                    "--int8 with --nms: allowed is one of them for tflite, as 256 steps are too few to compare boxes"
                )
            calibration_files(options.data)
        elif options.per_tensor:
            problems.append("--per-tensor without --int8: it is a way to quantise")
        return problems

    def target_name(self, stem: str, suffix: str, options: ExportOptions) -> str:
        """The name tells the precision."""
        return f"{stem}-{INT8_MARK if options.int8 else HALF_MARK}{suffix}"

    def write(self, job: Job, target: Path) -> Any:
        """Convert the Keras twin and append the facts."""
        target.write_bytes(converted(job, job.options.int8))
        append_facts(target, {**job.metadata(), "half": not job.options.int8})

    def tolerance(self, options: ExportOptions) -> Tolerance:
        """Without int8 the weights are rounded to float16."""
        return TOLERANCES["int8" if options.int8 else "half"]


class EdgeTpuExporter(TfLiteExporter):
    """Writes <name>-int8_edgetpu.tflite with Google's compiler."""

    takes: ClassVar = frozenset({"int8", "per_tensor"})

    def missing(self) -> str | None:
        """The compiler is a program of its own, for Linux."""
        missing = super().missing()
        if missing is None and shutil.which(COMPILER) is None:
            return f"needs the program {COMPILER}, which is not on the PATH: https://coral.ai/docs/edgetpu/compiler/"
        return missing

    def problems(self, options: ExportOptions) -> list[str]:
        """It is int8 in any case."""
        from dataclasses import replace

        return super().problems(replace(options, int8=True))

    def target_name(self, stem: str, suffix: str, options: ExportOptions) -> str:
        """As the compiler names it."""
        return f"{stem}-{INT8_MARK}{suffix}"

    def write(self, job: Job, target: Path) -> Any:
        """Write the int8 file beside the target, compile it, and append the facts."""
        source = target.with_name(f"{job.file.stem}-{INT8_MARK}.tflite")
        source.write_bytes(converted(job, int8=True))
        words = [COMPILER, "-s", "-d", "-k", "10", "--out_dir", str(target.parent), str(source)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        made = source.with_name(f"{source.stem}_edgetpu.tflite")
        if done.returncode or not made.is_file():
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise WorkError(f"{COMPILER} failed with status {done.returncode}: {last}")
        made.replace(target)
        append_facts(target, {**job.metadata(), "int8": True})

    def tolerance(self, options: ExportOptions) -> Tolerance:
        """As int8."""
        return TOLERANCES["int8"]


def converted(job: Job, int8: bool) -> bytes:
    """Return the TensorFlow Lite file of a job.

    Raises:
        WorkError: TensorFlow's converter cannot make it.
    """
    tf = import_tensorflow()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen(tf, concrete(tf, twin_of(job), job))])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if int8:
        converter.representative_dataset = lambda: _images(job)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
        converter._experimental_disable_per_channel = job.options.per_tensor
    else:
        converter.target_spec.supported_types = [tf.float16]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return converter.convert()
    except Exception as error:  # of classes of its own
        raise WorkError(f"TensorFlow Lite cannot hold this model: {str(error).strip().splitlines()[0]}") from error


def _images(job: Job) -> Iterator[list[np.ndarray]]:
    """Yield batches (b, h, w, 3) in 0-1 that show the converter which values occur."""
    files = calibration_files(job.options.data)
    for file in files[:: max(len(files) // CALIBRATION_IMAGES, 1)][:CALIBRATION_IMAGES]:
        image = read_batch(file, job.options.imgsz).permute(0, 2, 3, 1).contiguous().numpy()
        yield [image.repeat(job.options.batch_size, 0)]
