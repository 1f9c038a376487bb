"""CoreML: an ML program (.mlpackage), or with --mlmodel the older neural network, for macOS and iOS.

Only macOS can run them. On other systems the written ML program is read back and computed operation by operation with
PyTorch (utils/exporting/mil.py), which checks its structure and weights.
"""

from __future__ import annotations

import contextlib
import io
import platform
import warnings
from pathlib import Path
from typing import Any, ClassVar

from utils.errors import WorkError
from utils.exporting.base import Exporter, ExportOptions, Job
from utils.exporting.fixed_head import traced_fixed

INPUT = "image"
SUPPRESSION_VERSION = 5  # of CoreML's specification, the first for which perClass has a meaning
LEAST_QUANTIZED = 2048  # numbers of a weight that int8 is worth


class CoreMlExporter(Exporter):
    """Writes .mlpackage files, float32 or with --half float16; --int8 stores weights in 8 bits."""

    packages: ClassVar = {"coremltools": "coremltools"}
    takes: ClassVar = frozenset({"half", "int8", "nms", "mlmodel"})

    def problems(self, options: ExportOptions) -> list[str]:
        """Suppression works on one image; the older type has its own ways of quantising."""
        problems = []
        if options.nms and options.batch_size > 1:
            problems.append(f"--nms with --batch-size {options.batch_size}: CoreML suppresses one image, allowed is 1")
        if options.nms and options.multi_label:
            problems.append("--multi-label with --include coreml: its suppression gives a box one class")
        if options.mlmodel and (options.half or options.int8) and platform.system() != "Darwin":
            problems.append(
                "--mlmodel with --half or --int8: coremltools does this on macOS alone; allowed is .mlpackage"
            )
        return problems

    def check_model(self, job: Job) -> list[str]:
        """Its suppression drops mask columns."""
        if job.options.nms and job.facts.task == "segment":
            return [f"--nms with --include coreml: {job.file} has masks, which CoreML's suppression loses"]
        return []

    def target_name(self, stem: str, suffix: str, options: ExportOptions) -> str:
        """The older type has a suffix of its own."""
        return f"{stem}{'.mlmodel' if options.mlmodel else suffix}"

    def write(self, job: Job, target: Path) -> Any:
        """Convert the traced network, quantise, add suppression, and save."""
        model = converted(job)
        if job.options.nms:
            opt = job.options
            model = with_suppression(model, job.facts.names, opt.iou_thres, opt.conf_thres, not opt.agnostic_nms)
        _describe(model, job)
        model.save(str(target))
        return model

    def check(self, job: Job, path: Path) -> str:
        """Run it on macOS; elsewhere compute the ML program with PyTorch and say so."""
        if platform.system() == "Darwin":
            return super().check(job, path)
        if job.options.mlmodel:
            return "written; not run here, CoreML models run on macOS"
        from utils.exporting.mil import check_program

        said = check_program(job, path, self.tolerance(job.options))
        return f"{said} (its program computed by PyTorch; not run here, CoreML models run on macOS)"


def converted(job: Job) -> Any:
    """Return the CoreML model of a job, without suppression but with the outputs that it takes.

    Raises:
        WorkError: coremltools cannot convert it.
    """
    ct = import_coremltools()
    opt, nms = job.options, job.options.nms
    names = ["confidence", "coordinates"] if nms else [f"output{i}" for i in range(len(job.expected))]
    from utils.exporting.ios_model import iOSModel

    traced = traced_fixed(job, (lambda network: iOSModel(network, job.im)) if nms else lambda network: network)
    settings: dict[str, Any] = {"convert_to": "neuralnetwork" if opt.mlmodel else "mlprogram"}
    if not opt.mlmodel:
        precision = ct.precision.FLOAT16 if opt.half else ct.precision.FLOAT32
        settings |= {"compute_precision": precision, "minimum_deployment_target": ct.target.iOS15}
        settings["outputs"] = [ct.TensorType(name=name) for name in names]
    image = ct.ImageType(INPUT, shape=tuple(job.im.shape), scale=1 / 255, bias=[0, 0, 0])
    inputs = [image] if len(job.im) == 1 else [ct.TensorType(INPUT, shape=tuple(job.im.shape))]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # where its progress bars go
            warnings.simplefilter("ignore")
            model = ct.convert(traced, inputs=inputs, **settings)
            return _smaller(ct, model, opt, names)
    except Exception as error:  # of many classes
        raise WorkError(
            f"coremltools {ct.__version__} cannot convert it: {str(error).strip().splitlines()[0]}"
        ) from error


def import_coremltools() -> Any:
    """Import coremltools without its remarks on versions of packages that it was not tested with."""
    import logging

    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools as ct

    logging.getLogger("coremltools").setLevel(logging.ERROR)
    return ct


def _smaller(ct: Any, model: Any, options: ExportOptions, names: list[str]) -> Any:
    """Store weights in 8 bits; name the outputs of the older type, and store its weights in 8 or 16 bits."""
    if options.mlmodel:
        spec = model.get_spec()
        for feature, name in zip(list(spec.description.output), names, strict=True):
            ct.utils.rename_feature(spec, feature.name, name)
        model = ct.models.MLModel(spec)
        if options.half or options.int8:
            bits, mode = (8, "linear") if options.int8 else (16, "linear")
            model = ct.models.neural_network.quantization_utils.quantize_weights(model, bits, mode)
        return model
    if options.int8:
        from coremltools.optimize import coreml as optimize

        how = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=LEAST_QUANTIZED)
        return optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=how))
    return model


def with_suppression(model: Any, names: Any, iou: float, conf: float, per_class: bool = True) -> Any:
    """Return a pipeline of a model and CoreML's suppression.

    Args:
        model: takes ``image``, gives confidence (n, nc) and coordinates (n, 4), centre and size in parts of the image.
        names: class names by number, or a list.
        iou: a box goes when a better one overlaps it by more.
        conf: least confidence.
        per_class: boxes of different classes leave each other alone.

    Returns:
        The pipeline; it gives the same two outputs with the boxes that stay, and takes iouThreshold and
        confidenceThreshold besides the image.
    """
    ct = import_coremltools()
    spec = model.get_spec()
    labels = [str(names[i]) for i in range(len(names))]
    step = ct.proto.Model_pb2.Model()
    step.specificationVersion = max(SUPPRESSION_VERSION, spec.specificationVersion)
    for feature, width in zip(_features(spec, ("confidence", "coordinates")), (len(labels), 4), strict=True):
        step.description.input.add().CopyFrom(feature)
        kind = step.description.output.add()
        kind.name, kind.type.multiArrayType.dataType = feature.name, ct.proto.FeatureTypes_pb2.ArrayFeatureType.DOUBLE
        for lower, upper in ((0, -1), (width, width)):
            side = kind.type.multiArrayType.shapeRange.sizeRanges.add()
            side.lowerBound, side.upperBound = lower, upper
    nms = step.nonMaximumSuppression
    for name in ("confidence", "coordinates"):
        setattr(nms, f"{name}InputFeatureName", name)
        setattr(nms, f"{name}OutputFeatureName", name)
    nms.iouThresholdInputFeatureName, nms.confidenceThresholdInputFeatureName = "iouThreshold", "confidenceThreshold"
    nms.iouThreshold, nms.confidenceThreshold = iou, conf
    nms.pickTop.perClass = per_class
    nms.stringClassLabels.vector.extend(labels)
    return _pipeline(ct, model, spec, step)


def _pipeline(ct: Any, model: Any, spec: Any, step: Any) -> Any:
    """Join a model and its suppression."""
    numbers = [(name, ct.models.datatypes.Double()) for name in ("iouThreshold", "confidenceThreshold")]
    image = (INPUT, ct.models.datatypes.Array(1))  # replaced by the model's own below
    pipeline = ct.models.pipeline.Pipeline([image, *numbers], ["confidence", "coordinates"])
    pipeline.add_model(spec)
    pipeline.add_model(step)
    joined = pipeline.spec
    joined.description.input[0].CopyFrom(spec.description.input[0])
    for i, feature in enumerate(step.description.output):
        joined.description.output[i].CopyFrom(feature)
    joined.specificationVersion = step.specificationVersion
    return ct.models.MLModel(joined, weights_dir=getattr(model, "weights_dir", None))


def _features(spec: Any, names: tuple[str, ...]) -> list[Any]:
    found = {feature.name: feature for feature in spec.description.output}
    return [found[name] for name in names]


def _describe(model: Any, job: Job) -> None:
    """Write the facts into the model."""
    model.short_description = job.metadata()["description"]
    for key, value in job.metadata().items():
        model.user_defined_metadata[key] = str(value)
