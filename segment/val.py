"""Measure a segmentation model on a data set: precision, recall and mAP of boxes and of masks.

    python segment/val.py --weights yolov5s-seg.pt --data coco128-seg.yaml --img 640

Tasks: val, test and train name the split; speed measures time alone; study repeats it over image sizes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # run by path: the project's folder takes the place of segment/
elif str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from utils.errors import InputError, run_command  # noqa: E402
from utils.forwarding import forwarding  # noqa: E402
from utils.logs import LOGGER, colorstr  # noqa: E402
from utils.validation import Kind, Returned, carry_out, parse_options, validate  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from utils.class_thresholds import ClassThres

# Names that code written against YOLOv5 imports from here.
_MOVED = {
    "NUM_THREADS": "utils.general",
    "Profile": "utils.helpers",
    "coco80_to_coco91_class": "utils.helpers",
    "plot_images_and_masks": "utils.segment.plots",
    "process_batch": "utils.metrics",
    "save_one_json": "utils.segment.coco_json",
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
    project: str | Path = ROOT / "runs/val-seg",
    name: str = "exp",
    exist_ok: bool = False,
    half: bool = True,
    dnn: bool = False,
    model: nn.Module | None = None,
    dataloader: Any = None,
    save_dir: str | Path = Path("."),
    plots: bool = True,
    overlap: bool = False,
    mask_downsample_ratio: int = 1,
    compute_loss: Any = None,
    callbacks: Any = None,
    *,
    class_thres: ClassThres = None,
    cls_tau: float = 0.0,
    thresholds_file: str | Path | None = None,
) -> Returned:
    """Evaluate weights, or during training a model with its loader; arguments as of ``val.run``, and two more.

    Args:
        overlap: the loader gives one map of label numbers per image.
        mask_downsample_ratio: sides of the images by those of the loader's masks.

    Returns:
        (P, R, mAP50, mAP50-95 of boxes, the same of masks, box, mask, obj, cls loss), the sum of the mAP50-95 of boxes
        and masks of every class (nc,), milliseconds per image of pre-processing, inference and NMS.

    Raises:
        InputError: an argument, the data set or the weights do not fit; nothing was written.
        WorkError: an output cannot be written.
    """
    opt = argparse.Namespace(**locals(), diagnose=False)
    if augment:
        raise InputError("--augment: not available with masks; allowed is a plain evaluation")
    return validate(opt, MASKS)


def parse_opt() -> argparse.Namespace:
    """Return the command line's options."""
    defaults = ROOT / "yolov5s-seg.pt", ROOT / "data/coco128-seg.yaml", ROOT / "runs/val-seg"
    return parse_options(__doc__, *defaults, without=("--diagnose",))


def main(opt: argparse.Namespace) -> None:
    """Carry out the task that the options name.

    Raises:
        InputError: an option or input does not fit.
    """
    carry_out(opt, MASKS, run)


def _loader(opt: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    from utils.segment.dataloaders import create_dataloader

    return create_dataloader, {"overlap_mask": opt.overlap, "mask_downsample_ratio": opt.mask_downsample_ratio}


def _parts(opt: argparse.Namespace) -> Any:
    from utils.segment.evaluation import mask_parts

    return mask_parts(opt.overlap, full_size=opt.save_json)


def _json_collector(class_map: Any, names: dict[int, str]) -> Any:
    from utils.segment.coco_json import MaskCocoJson

    return MaskCocoJson(class_map, names)


def _maps(result: Any) -> np.ndarray:
    return result.box.maps() + result.mask.maps()


MASKS = Kind("segment/val", "Segment", _loader, _parts, _json_collector, _maps)


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
