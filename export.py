"""Write a trained model in other formats, to be run by detect.py, val.py or other programs.

    python export.py --weights yolov5s.pt --include torchscript onnx openvino engine

Each file is run again and compared with PyTorch before it takes its name beside the weights; docs/export.md has the
formats and their options. Then:

    python detect.py --weights yolov5s.onnx
    python val.py --weights yolov5s_openvino_model
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import run_command
from utils.logs import LOGGER, colorstr, setup_logging

if TYPE_CHECKING:
    import pandas as pd

FILE = Path(__file__).resolve()
ROOT = FILE.parent

# Names that code written against YOLOv5 imports from here, and the modules that define them.
_FUNCTIONS = (
    "export_torchscript", "export_onnx", "export_openvino", "export_engine", "export_coreml", "export_saved_model",
    "export_pb", "export_tflite", "export_edgetpu", "export_tfjs", "export_paddle", "add_tflite_metadata",
    "pipeline_coreml", "try_export",
)  # fmt: skip
FORWARDED = {
    **dict.fromkeys(_FUNCTIONS, "utils.exporting.functions"),
    "iOSModel": "utils.exporting.ios_model",
    "attempt_load": "models.experimental",
    "ClassificationModel": "models.yolo",
    "Detect": "models.yolo",
    "DetectionModel": "models.yolo",
    "SegmentationModel": "models.yolo",
    "LoadImages": "utils.sources",
    "Profile": "utils.general",
    "check_dataset": "utils.dataset_yaml",
    "check_img_size": "utils.general",
    "check_requirements": "utils.general",
    "check_version": "utils.general",
    "check_yaml": "utils.general",
    "file_size": "utils.general",
    "get_default_args": "utils.general",
    "print_args": "utils.general",
    "url2file": "utils.downloads",
    "yaml_save": "utils.general",
    "select_device": "utils.torch_utils",
    "smart_inference_mode": "utils.torch_utils",
}


def __getattr__(name: str) -> Any:
    """Fetch a forwarded name from its owner at first use, so that --help stays fast."""
    if name not in FORWARDED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(FORWARDED[name]), name)


def export_formats() -> pd.DataFrame:
    """Return the twelve formats of YOLOv5 as a table: Format, Argument, Suffix, CPU, GPU."""
    import pandas as pd

    from utils.exporting.formats import FORMATS

    rows = [[row.title, row.argument, row.suffix, row.cpu, row.gpu] for row in FORMATS if row.of_yolov5]
    return pd.DataFrame(rows, columns=["Format", "Argument", "Suffix", "CPU", "GPU"])


def run(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    data: str | Path = ROOT / "data/coco128.yaml",
    weights: str | Path = ROOT / "yolov5s.pt",
    imgsz: int | Sequence[int] = (640, 640),
    batch_size: int = 1,
    device: str = "cpu",
    include: Sequence[str] = ("torchscript", "onnx"),
    half: bool = False,
    inplace: bool = False,
    keras: bool = False,
    optimize: bool = False,
    int8: bool = False,
    per_tensor: bool = False,
    dynamic: bool = False,
    cache: str = "",
    simplify: bool = False,
    mlmodel: bool = False,
    opset: int = 12,
    verbose: bool = False,
    workspace: int = 4,
    nms: bool = False,
    agnostic_nms: bool = False,
    topk_per_class: int = 100,
    topk_all: int = 100,
    iou_thres: float = 0.45,
    conf_thres: float = 0.25,
    *,
    multi_label: bool = False,
) -> list[str]:
    """Export one checkpoint and return the paths of what was written.

    Args:
        data: data set YAML, whose images --int8 is calibrated with.
        weights: the checkpoint; files are written beside it.
        imgsz: (height, width), or one side, in pixels.
        batch_size: images at a time.
        device: 'cpu' or a GPU's number.
        include: formats, by the names of ``export_formats``.
        half: float16.
        inplace: the head may overwrite its inputs.
        keras: save a Keras model (saved_model).
        optimize: for phones (torchscript).
        int8: quantise, with images of ``data`` (openvino and others).
        per_tensor: quantise by tensor instead of by channel (tflite).
        dynamic: any batch and image size.
        cache: file of timings (engine).
        simplify: fold constants and drop needless nodes (onnx and what is made from it).
        mlmodel: write the older file type (coreml).
        opset: version of the ONNX operations.
        verbose: log in detail (engine).
        workspace: gigabytes for building (engine).
        nms: suppression as part of the graph; the next six are about it.
        agnostic_nms: boxes of different classes suppress each other too; implies nms.
        topk_per_class: most boxes of a class in an image.
        topk_all: most boxes of an image.
        iou_thres: overlap above which the less confident box of a class goes, 0-1.
        conf_thres: least confidence, 0-1.
        multi_label: a box may have several classes, as val.py counts them, instead of its best one; implies nms.

    Raises:
        InputError: an option, package or file does not suit; nothing was written.
        WorkError: a format could not be written or differs from PyTorch; that file is not there.
    """
    settings = dict(locals())
    from utils.exporting.prepare import options_from
    from utils.exporting.run import export_all

    started = time.perf_counter()
    paths = [str(path) for path in export_all(settings.pop("weights"), options_from(**settings))]
    LOGGER.info(f"\nExport complete ({time.perf_counter() - started:.1f}s)")
    LOGGER.info(f"Results saved to {colorstr('bold', Path(paths[0]).resolve().parent)}")
    LOGGER.info(f"Detect:   python detect.py --weights {paths[-1]}")
    LOGGER.info(f"Validate: python val.py --weights {paths[-1]}")
    return paths


def parse_opt(known: bool = False) -> argparse.Namespace:
    """Return the command line's options; with ``known``, arguments of others are passed over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=str, default=ROOT / "data/coco128.yaml", help="data set YAML, for the calibration of --int8")
    add("--weights", nargs="+", type=str, default=ROOT / "yolov5s.pt", help="checkpoints, exported one by one")
    add("--imgsz", "--img", "--img-size", nargs="+", type=int, default=[640, 640], help="side, or height and width")
    add("--batch-size", type=int, default=1, help="images at a time")
    add("--device", default="cpu", help="cpu, or a GPU's number")
    add("--half", action="store_true", help="float16")
    add("--inplace", action="store_true", help="the head may overwrite its inputs")
    add("--keras", action="store_true", help="saved_model: save a Keras model")
    add("--optimize", action="store_true", help="torchscript: optimise for phones")
    add("--int8", action="store_true", help="quantise, calibrated with images of --data")
    add("--per-tensor", action="store_true", help="tflite: quantise by tensor instead of by channel")
    add("--dynamic", action="store_true", help="any batch and image size")
    add("--cache", type=str, default="", help="engine: file of timings, read and reused")
    add("--simplify", action="store_true", help="onnx: fold constants, drop needless nodes (onnxslim)")
    add("--mlmodel", action="store_true", help="coreml: write .mlmodel instead of .mlpackage")
    add("--opset", type=int, default=17, help="onnx: version of the operations")
    add("--verbose", action="store_true", help="engine: log in detail")
    add("--workspace", type=int, default=4, help="engine: gigabytes for building")
    add("--nms", action="store_true", help="suppression as part of the graph")
    add("--agnostic-nms", action="store_true", help="boxes of different classes suppress each other too; implies --nms")
    add("--multi-label", action="store_true", help="a box may have several classes, as in val.py; implies --nms")
    add("--topk-per-class", type=int, default=100, help="--nms: most boxes of a class in an image")
    add("--topk-all", type=int, default=100, help="--nms: most boxes of an image")
    add("--iou-thres", type=float, default=0.45, help="--nms: overlap above which the less confident box goes")
    add("--conf-thres", type=float, default=0.25, help="--nms: least confidence")
    add("--include", nargs="+", default=["torchscript"], help="formats: torchscript onnx openvino engine ...")
    return parser.parse_known_args()[0] if known else parser.parse_args()


def main(opt: argparse.Namespace) -> None:
    """Export each of the weights."""
    setup_logging()
    LOGGER.info(colorstr("export: ") + ", ".join(f"{key}={value}" for key, value in vars(opt).items()))
    for weights in opt.weights if isinstance(opt.weights, list) else [opt.weights]:
        run(**{**vars(opt), "weights": weights})


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
