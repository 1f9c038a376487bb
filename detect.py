"""Find objects with a trained model in images, videos, streams or on the screen.

    python detect.py --weights yolov5s.pt --source image.jpg
                                                   video.mp4
                                                   folder/
                                                   'folder/**/*.jpg'
                                                   list.txt          # one image, video or folder per line
                                                   list.streams      # one stream per line
                                                   0                 # webcam
                                                   screen
                                                   rtsp://host/stream

Results go to runs/detect/exp, exp2, ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import run_command
from utils.forwarding import forwarding
from utils.logs import LOGGER, colorstr, setup_logging
from utils.prediction import SHARED_NAMES, Kind, parse_options, predict_source

if TYPE_CHECKING:
    from utils.class_thresholds import ClassThres

FILE = Path(__file__).resolve()
ROOT = FILE.parent

# Names that YOLOv5 users import from here, and the modules that define them.
FORWARDED = SHARED_NAMES
__getattr__ = forwarding(__name__, FORWARDED)


def run(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    weights: str | Path | Sequence[str | Path] = ROOT / "yolov5s.pt",
    source: str | Path = ROOT / "data/images",
    data: str | Path = ROOT / "data/coco128.yaml",
    imgsz: int | Sequence[int] = (640, 640),
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    max_det: int = 1000,
    device: str = "",
    view_img: bool = False,
    save_txt: bool = False,
    save_format: int = 0,
    save_csv: bool = False,
    save_conf: bool = False,
    save_crop: bool = False,
    nosave: bool = False,
    classes: Sequence[int] | int | None = None,
    agnostic_nms: bool = False,
    augment: bool = False,
    update: bool = False,
    project: str | Path = ROOT / "runs/detect",
    name: str = "exp",
    exist_ok: bool = False,
    line_thickness: int = 3,
    hide_labels: bool = False,
    hide_conf: bool = False,
    half: bool = False,
    dnn: bool = False,
    vid_stride: int = 1,
    *,
    visualize: bool = False,
    class_thres: ClassThres = None,
    cls_tau: float = 0.0,
) -> None:
    """Detect objects in a source and write the results.

    Args:
        weights: checkpoint, or several that predict together.
        source: file, folder, pattern, list, stream or screen; see the module's text.
        data: data set YAML, for class names that a model file lacks.
        imgsz: (height, width) that images are letterboxed into.
        conf_thres: least confidence, 0-1.
        iou_thres: overlap above which the less confident box of a class goes, 0-1.
        max_det: most detections per image.
        device: '', 'cpu' or a GPU's number.
        view_img: show the results in a window; q ends.
        save_txt: write labels/*.txt.
        save_format: 0 for class cx cy w h, 1 for class x1 y1 x2 y2, normalised.
        save_csv: write predictions.csv.
        save_conf: add confidences to the text files.
        save_crop: write each box as a picture.
        nosave: write no pictures and videos.
        classes: keep these class numbers, or this one, alone.
        agnostic_nms: boxes of different classes suppress each other too.
        augment: test-time augmentation.
        update: afterwards, strip the optimizer from the first checkpoint.
        project: folder of the run folder.
        name: run folder, numbered when it exists.
        exist_ok: use it even if it exists.
        line_thickness: of boxes in pixels.
        hide_labels: draw no text.
        hide_conf: draw no confidences.
        half: half precision on a GPU.
        dnn: run ONNX files with OpenCV's DNN module.
        vid_stride: use each n-th frame of a video.
        visualize: save the first image's feature maps of each layer in a folder <stem>/.
        class_thres: least confidence by class, as a list, a mapping by class name, text of either, or a YAML file;
            conf_thres holds for classes that a mapping does not name.
        cls_tau: strength of the logit adjustment by the training's class counts, 0 (off) to 2.

    Raises:
        InputError: a wrong option, file or source; nothing was written.
        WorkError: nothing in the source could be read, or a result could not be written.
    """
    predict_source(argparse.Namespace(**locals()), BOXES)


def parse_opt() -> argparse.Namespace:
    """Read the command line; ``imgsz`` becomes [height, width]."""
    return parse_options(
        "Find objects in images, videos, streams or on the screen.", ROOT / "yolov5s.pt", ROOT / "runs/detect"
    )


def main(opt: argparse.Namespace) -> None:
    """Run with the command line's options."""
    setup_logging()
    LOGGER.info(colorstr("detect: ") + ", ".join(f"{k}={v}" for k, v in vars(opt).items()))
    run(**vars(opt))


def _writer(opt: argparse.Namespace, options: Any) -> Any:
    from utils.outputs.detection_output import DetectionWriter

    return partial(DetectionWriter, options=options)


BOXES = Kind("Detect", _writer, lambda _: None)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    options = parse_opt()
    run_command(lambda: main(options))
