"""The exporters as functions with YOLOv5's names and arguments, for code that calls them one by one.

Each takes a network in export mode (``attempt_load``, then its head's ``export`` set), an image and the weights' path,
and returns the written path and the format's own model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.errors import InputError, InputErrors, WorkError
from utils.exporting.base import ExportOptions
from utils.exporting.formats import BY_ARGUMENT
from utils.logs import LOGGER, colorstr


def try_export(inner_func: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives (None, None) and logs a line where ``inner_func`` fails for the user's reasons."""

    def outer_func(*args: Any, **kwargs: Any) -> Any:
        try:
            return inner_func(*args, **kwargs)
        except (InputError, WorkError) as error:
            LOGGER.error(f"{colorstr('red', inner_func.__name__)}: {error}")
            return None, None

    outer_func.__name__, outer_func.__doc__ = inner_func.__name__, inner_func.__doc__
    return outer_func


def _write(argument: str, model: Any, im: Any, file: str | Path, **options: Any) -> tuple[str, Any]:
    """Write one format of a network."""
    from utils.exporting.prepare import for_export, make_job
    from utils.exporting.run import check_model, check_options, write_format

    batch, _, height, width = im.shape
    settings = ExportOptions(
        imgsz=(height, width), batch_size=batch, device=str(im.device), include=(argument,), **options
    )
    rows = check_options(settings)
    network = for_export(model.float(), dynamic=settings.dynamic)
    job = make_job(network, im.float(), Path(file), settings)
    check_model(job, rows)
    path, made = write_format(job, BY_ARGUMENT[argument])
    return str(path), made


@try_export
def export_torchscript(model: Any, im: Any, file: Any, optimize: bool = False, prefix: str = "") -> Any:
    """Write TorchScript: (path, None)."""
    return _write("torchscript", model, im, file, optimize=optimize)


@try_export
def export_onnx(
    model: Any, im: Any, file: Any, opset: int = 17, dynamic: bool = False, simplify: bool = False, prefix: str = ""
) -> Any:
    """Write ONNX: (path, ONNX model)."""
    return _write("onnx", model, im, file, opset=opset, dynamic=dynamic, simplify=simplify)


@try_export
def export_openvino(
    file: Any, metadata: Any = None, half: bool = False, int8: bool = False, data: Any = None, prefix: str = ""
) -> Any:
    """Write an OpenVINO folder from the checkpoint ``file``: (folder, None). ``metadata`` is read from the file."""
    model, im = _from_file(file)
    return _write("openvino", model, im, file, half=half, int8=int8, data=data)


@try_export
def export_engine(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    model: Any, im: Any, file: Any, half: bool, dynamic: bool, simplify: bool, workspace: int = 4,
    verbose: bool = False, cache: str = "", prefix: str = "",
) -> Any:  # fmt: skip
    """Write a TensorRT engine: (path, None)."""
    settings = {"half": half, "dynamic": dynamic, "simplify": simplify}
    return _write("engine", model, im, file, workspace=workspace, verbose=verbose, cache=cache, **settings)


@try_export
def export_coreml(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    model: Any, im: Any, file: Any, int8: bool = False, half: bool = False, nms: bool = False, mlmodel: bool = False,
    prefix: str = "",
) -> Any:  # fmt: skip
    """Write CoreML: (path, CoreML model)."""
    return _write("coreml", model, im, file, int8=int8, half=half, nms=nms, mlmodel=mlmodel)


@try_export
def export_saved_model(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    model: Any, im: Any, file: Any, dynamic: bool = False, tf_nms: bool = False, agnostic_nms: bool = False,
    topk_per_class: int = 100, topk_all: int = 100, iou_thres: float = 0.45, conf_thres: float = 0.25,
    keras: bool = False, prefix: str = "",
) -> Any:  # fmt: skip
    """Write a TensorFlow SavedModel: (folder, Keras model)."""
    return _write(
        "saved_model", model, im, file, dynamic=dynamic, nms=tf_nms or agnostic_nms, agnostic_nms=agnostic_nms,
        topk_per_class=topk_per_class, topk_all=topk_all, iou_thres=iou_thres, conf_thres=conf_thres, keras=keras,
    )  # fmt: skip


@try_export
def export_pb(keras_model: Any, file: Any, prefix: str = "") -> Any:
    """Write a TensorFlow GraphDef of the checkpoint ``file``: (path, None)."""
    return _write("pb", *_from_file(file), file)


@try_export
def export_tflite(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    keras_model: Any, im: Any, file: Any, int8: bool = False, per_tensor: bool = False, data: Any = None,
    nms: bool = False, agnostic_nms: bool = False, prefix: str = "",
) -> Any:  # fmt: skip
    """Write TensorFlow Lite of the checkpoint ``file``: (path, None)."""
    model, _ = _from_file(file)
    settings = {"int8": int8, "per_tensor": per_tensor, "data": data}
    return _write("tflite", model, im, file, nms=nms or agnostic_nms, agnostic_nms=agnostic_nms, **settings)


@try_export
def export_edgetpu(file: Any, prefix: str = "") -> Any:
    """Write TensorFlow Lite for an Edge TPU of the checkpoint ``file``: (path, None)."""
    return _write("edgetpu", *_from_file(file), file)


@try_export
def export_tfjs(file: Any, int8: bool = False, prefix: str = "") -> Any:
    """Write TensorFlow.js of the checkpoint ``file``: (folder, None)."""
    return _write("tfjs", *_from_file(file), file, int8=int8)


@try_export
def export_paddle(model: Any, im: Any, file: Any, metadata: Any = None, prefix: str = "") -> Any:
    """Write a PaddlePaddle folder: (folder, None)."""
    return _write("paddle", model, im, file)


def add_tflite_metadata(file: Any, metadata: Any, num_outputs: int) -> None:
    """Append class names and stride to a TensorFlow Lite file without any; export_tflite does so by itself.

    ``num_outputs`` is part of YOLOv5's signature and has no effect.

    Raises:
        WorkError: the file tells such facts already.
    """
    from models.backend_formats.tflite_file import append_facts, read_facts

    if read_facts(Path(file)):
        raise WorkError(f"{file}: tells names and stride already; allowed are files that tell none")
    append_facts(Path(file), dict(metadata))


def pipeline_coreml(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    model: Any, im: Any, file: Any, names: Any, y: Any, mlmodel: bool, prefix: str = ""
) -> Any:
    """Add suppression to a CoreML model and save it; export_coreml with ``nms`` does so by itself.

    Args:
        model: the CoreML model, which gives confidence (n, nc) and coordinates (n, 4) in parts of the image.
        im: part of YOLOv5's signature, as are ``y`` and ``prefix``.
        file: the weights, beside which it is saved as .mlpackage or, with ``mlmodel``, as .mlmodel.
        names: class names by number.
        y: without effect.
        mlmodel: save the older type.
        prefix: without effect.

    Returns:
        The pipeline, with overlaps up to 0.45 and confidences from 0.25 on unless it is given others.
    """
    from utils.exporting.coreml import with_suppression

    pipeline = with_suppression(model, names, iou=0.45, conf=0.25)
    pipeline.save(str(Path(file).with_suffix(".mlmodel" if mlmodel else ".mlpackage")))
    return pipeline


def _from_file(file: Any) -> tuple[Any, Any]:
    """Return the network of a checkpoint and an image, for functions that YOLOv5 gives other formats' files."""
    import torch

    from utils.exporting.prepare import example_batch, load_network

    path = Path(file)
    if path.suffix != ".pt":
        raise InputErrors([f"{file}: exports are made from checkpoints; allowed are .pt files"])
    return load_network(path, torch.device("cpu")), example_batch((640, 640), 1, torch.device("cpu"))
