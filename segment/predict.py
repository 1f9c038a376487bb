"""Find objects and their masks with a trained model in images, videos, streams or on the screen.

    python segment/predict.py --weights yolov5s-seg.pt --source image.jpg

Sources are those of detect.py. Results go to runs/predict-seg/exp, exp2, ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
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
from utils.logs import LOGGER, colorstr, setup_logging  # noqa: E402
from utils.prediction import SHARED_NAMES, Kind, parse_options, predict_source  # noqa: E402

if TYPE_CHECKING:
    from utils.class_thresholds import ClassThres

# Names that YOLOv5 users import from here, and the modules that define them.
FORWARDED = {
    **SHARED_NAMES,
    "masks2segments": "utils.segment.general",
    "process_mask": "utils.segment.general",
    "process_mask_native": "utils.segment.general",
    "scale_segments": "utils.boxes",
}
__getattr__ = forwarding(__name__, FORWARDED)


def run(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    weights: str | Path | Sequence[str | Path] = ROOT / "yolov5s-seg.pt",
    source: str | Path = ROOT / "data/images",
    data: str | Path = ROOT / "data/coco128.yaml",
    imgsz: int | Sequence[int] = (640, 640),
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    max_det: int = 1000,
    device: str = "",
    view_img: bool = False,
    save_txt: bool = False,
    save_conf: bool = False,
    save_crop: bool = False,
    nosave: bool = False,
    classes: Sequence[int] | None = None,
    agnostic_nms: bool = False,
    augment: bool = False,
    update: bool = False,
    project: str | Path = ROOT / "runs/predict-seg",
    name: str = "exp",
    exist_ok: bool = False,
    line_thickness: int = 3,
    hide_labels: bool = False,
    hide_conf: bool = False,
    half: bool = False,
    dnn: bool = False,
    vid_stride: int = 1,
    retina_masks: bool = False,
    *,
    visualize: bool = False,
    class_thres: ClassThres = None,
    cls_tau: float = 0.0,
) -> None:
    """Find objects and masks in a source and write the results; arguments as of ``detect.run``, and one more.

    Args:
        save_txt: write labels/*.txt: class and outline, normalised.
        retina_masks: masks at the size of the original image, not of the network's input.

    Raises:
        InputError: a wrong option, file or source; nothing was written.
        WorkError: nothing in the source could be read, or a result could not be written.
    """
    opt = argparse.Namespace(**locals(), save_format=0, save_csv=False)
    if augment:
        raise InputError("--augment: not available with masks; allowed is a plain prediction")
    predict_source(opt, MASKS)


def parse_opt() -> argparse.Namespace:
    """Read the command line; ``imgsz`` becomes [height, width]."""
    retina = {"action": "store_true", "help": "masks at the size of the original image"}
    return parse_options(
        "Find objects and masks in images, videos, streams or on the screen.", ROOT / "yolov5s-seg.pt",
        ROOT / "runs/predict-seg", ("--save-format", "--save-csv"), {"--retina-masks": retina},
    )  # fmt: skip


def main(opt: argparse.Namespace) -> None:
    """Run with the command line's options."""
    setup_logging()
    LOGGER.info(colorstr("segment/predict: ") + ", ".join(f"{k}={v}" for k, v in vars(opt).items()))
    run(**vars(opt))


def _writer(_: argparse.Namespace, options: Any) -> Any:
    from utils.segment.output import MaskWriter

    return partial(MaskWriter, options=options)


def _finish(opt: argparse.Namespace) -> Any:
    from utils.segment.output import masks_finisher

    return masks_finisher(opt.retina_masks)


MASKS = Kind("Segment", _writer, _finish)


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
