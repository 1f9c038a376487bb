"""Measure a detection model on a data set: precision, recall and mAP, per class and over all.

    python val.py --weights yolov5s.pt --data coco128.yaml --img 640

Tasks: val, test and train name the split; speed measures time alone; study repeats it over image sizes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import run_command
from utils.forwarding import forwarding
from utils.logs import LOGGER, colorstr
from utils.validation import Kind, Returned, carry_out, parse_options, validate

if TYPE_CHECKING:
    from torch import nn

    from utils.class_thresholds import ClassThres

FILE = Path(__file__).resolve()
ROOT = FILE.parent
# Names that code written against YOLOv5 imports from here.
_MOVED = {
    "Profile": "utils.helpers",
    "coco80_to_coco91_class": "utils.helpers",
    "plot_images": "utils.plots",
    "process_batch": "utils.metrics",
    "save_one_json": "utils.outputs.coco_json",
    "save_one_txt": "utils.helpers",
    "xywh2xyxy": "utils.boxes",
}

__all__ = ["FILE", "LOGGER", "ROOT", "colorstr", "main", "parse_opt", "run"]
__getattr__ = forwarding(__name__, _MOVED)


def run(  # noqa: PLR0913, PLR0917 (inherited signature)
    data: str | Path | dict[str, Any],
    weights: str | Path | list[str] | None = None,
    batch_size: int = 32,
    imgsz: int = 640,
    conf_thres: float = 0.001,
    iou_thres: float = 0.6,
    max_det: int = 300,
    task: str = "val",
    device: str = "",
    workers: int = 8,
    single_cls: bool = False,
    augment: bool = False,
    verbose: bool = False,
    save_txt: bool = False,
    save_hybrid: bool = False,
    save_conf: bool = False,
    save_json: bool = False,
    project: str | Path = ROOT / "runs/val",
    name: str = "exp",
    exist_ok: bool = False,
    half: bool = True,
    dnn: bool = False,
    model: nn.Module | None = None,
    dataloader: Any = None,
    save_dir: str | Path = Path("."),
    plots: bool = True,
    callbacks: Any = None,
    compute_loss: Any = None,
    *,
    class_thres: ClassThres = None,
    cls_tau: float = 0.0,
    thresholds_file: str | Path | None = None,
    diagnose: bool | dict[str, Any] = False,
) -> Returned:
    """Evaluate weights, or during training a model with its loader.

    Args:
        class_thres: per-class thresholds for this evaluation, as a list, a mapping by class name, text of either, or a
            YAML file; ``conf_thres`` holds for classes that a mapping does not name.
        cls_tau: strength of the logit adjustment by the training's class counts, 0 (off) to 2.
        thresholds_file: where to write the confidence with the best F1 of each class; by default thresholds.yaml in the
            run folder that this call makes, and nowhere during training.
        diagnose: also write a diagnosis of the class errors into the folder ``diagnosis`` of the run; a mapping gives
            further arguments of ``utils.diagnosis.command.diagnose_run``.

    The other arguments are the command's options; ``model``, ``dataloader``, ``save_dir``, ``callbacks`` and
    ``compute_loss`` are those of a training run.

    Returns:
        (P, R, mAP50, mAP50-95, box, obj, cls loss), mAP50-95 of every class (nc,), milliseconds per image of
        pre-processing, inference and NMS.

    Raises:
        InputError: an argument, the data set or the weights do not fit; nothing was written.
        WorkError: an output cannot be written.
    """
    return validate(argparse.Namespace(**locals()), BOXES)


def parse_opt() -> argparse.Namespace:
    """Return the command line's options."""
    return parse_options(__doc__, ROOT / "yolov5s.pt", ROOT / "data/coco128.yaml", ROOT / "runs/val")


def main(opt: argparse.Namespace) -> None:
    """Carry out the task that the options name.

    Raises:
        InputError: an option or input does not fit.
    """
    carry_out(opt, BOXES, run)


def _loader(_: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from utils.dataloaders import create_dataloader

    return create_dataloader, {}


def _json_collector(class_map: Any, names: dict[int, str]) -> Any:
    from utils.outputs.coco_json import CocoJson

    return CocoJson(class_map, names)


BOXES = Kind("val", "Detect", _loader, lambda _: None, _json_collector, lambda result: result.maps())


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
