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
import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError, InputErrors, WorkError, run_command
from utils.logs import LOGGER, colorstr, setup_logging

if TYPE_CHECKING:
    from utils.class_thresholds import ClassThres
    from utils.detection import Clock

FILE = Path(__file__).resolve()
ROOT = FILE.parent

# Names that YOLOv5 users import from here, and the modules that define them.
FORWARDED = {
    "Annotator": "utils.annotator",
    "colors": "utils.annotator",
    "save_one_box": "utils.annotator",
    "IMG_FORMATS": "utils.images",
    "VID_FORMATS": "utils.images",
    "LoadImages": "utils.sources",
    "LoadScreenshots": "utils.sources",
    "LoadStreams": "utils.sources",
    "DetectMultiBackend": "models.backends",
    "Profile": "utils.general",
    "check_file": "utils.general",
    "check_img_size": "utils.general",
    "check_imshow": "utils.general",
    "check_requirements": "utils.general",
    "increment_path": "utils.general",
    "print_args": "utils.general",
    "strip_optimizer": "utils.general",
    "non_max_suppression": "utils.nms",
    "scale_boxes": "utils.boxes",
    "xyxy2xywh": "utils.boxes",
    "select_device": "utils.torch_utils",
    "smart_inference_mode": "utils.torch_utils",
}


def __getattr__(name: str) -> Any:
    """Fetch a forwarded name from its owner at first use, so that --help stays fast."""
    if name not in FORWARDED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(FORWARDED[name]), name)


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
    classes: Sequence[int] | None = None,
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
        classes: keep these class numbers alone.
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
        dnn: part of YOLOv5's signature, for ONNX files.
        vid_stride: use each n-th frame of a video.
        visualize: save the first image's feature maps of each layer in features/<stem>/.
        class_thres: least confidence by class, as a list, a mapping by class name, text of either, or a YAML file;
            conf_thres holds for classes that a mapping does not name.
        cls_tau: strength of the logit adjustment by the training's class counts, 0 (off) to 2.

    Raises:
        InputError: a wrong option, file or source; nothing was written.
        WorkError: nothing in the source could be read, or a result could not be written.
    """
    import torch

    from models.backends import DetectMultiBackend, require_detector
    from utils.class_thresholds import class_thresholds
    from utils.detection import Clock, detect_all
    from utils.general import check_img_size
    from utils.logit_adjustment import MAX_TAU, adjusted
    from utils.outputs.detection_output import DetectionWriter, OutputOptions
    from utils.paths import increment_path
    from utils.sources import check_source, open_source
    from utils.torch_utils import select_device

    limits = {"conf-thres": (conf_thres, 1), "iou-thres": (iou_thres, 1), "cls-tau": (cls_tau, MAX_TAU)}
    counts = {"max-det": max_det, "vid-stride": vid_stride, "line-thickness": line_thickness}
    imgsz = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz)
    check_options(imgsz, limits, counts, save_format)
    source = check_source(str(source))
    model = DetectMultiBackend(weights, device=select_device(device), dnn=dnn, data=data, fp16=half)
    require_detector(model, weights)
    check_classes(classes, model.names)
    nms = {
        "conf_thres": conf_thres,
        "class_thres": class_thresholds(class_thres, model.names, conf_thres),
        "iou_thres": iou_thres,
        "max_det": max_det,
        "classes": classes,
        "agnostic": agnostic_nms,
    }
    imgsz = check_img_size(imgsz, s=model.stride)
    dataset = open_source(source, imgsz, model.stride, bool(model.pt), vid_stride)
    options = OutputOptions(
        images=not nosave and not source.endswith(".txt"),
        txt=save_txt,
        txt_corners=bool(save_format),
        conf=save_conf,
        csv=save_csv,
        crop=save_crop,
        view=view_img and can_show(),
        line_thickness=line_thickness,
        hide_labels=hide_labels,
        hide_conf=hide_conf,
    )
    clock = Clock(model.device)
    with closing(dataset), adjusted(model, cls_tau, data), torch.inference_mode():
        save_dir = increment_path(Path(project) / name, exist_ok=exist_ok, mkdir=True)
        batch = 1 if model.pt else len(dataset) if hasattr(dataset, "__len__") else 1
        model.warmup(imgsz=(batch, 3, *imgsz))
        features = save_dir / "features" if visualize else None
        with DetectionWriter(save_dir, model.names, options) as writer:
            seen = detect_all(model, dataset, writer, nms, augment, features, clock)
    report(dataset, seen, save_dir, writer, clock, imgsz)
    if update:
        from utils.checkpoint import strip_optimizer

        strip_optimizer(weights if isinstance(weights, (str, Path)) else weights[0])


def check_options(
    imgsz: Sequence[int], limits: Mapping[str, tuple[float, float]], counts: Mapping[str, int], save_format: int
) -> None:
    """Refuse options out of range, all of them together.

    Args:
        imgsz: (height, width).
        limits: option -> its number and the largest allowed; the least is 0.
        counts: option -> a whole number from 1.
        save_format: 0 or 1.

    Raises:
        InputErrors: one line per option.
    """
    problems = []
    for option, (value, most) in limits.items():
        if not 0 <= value <= most:
            problems.append(f"--{option} {value}: expected a number from 0 to {most:g}")
    for option, value in counts.items():
        if value < 1:
            problems.append(f"--{option} {value}: expected a whole number of at least 1")
    if len(imgsz) != 2 or min(imgsz) < 1:
        shown = " ".join(map(str, imgsz))
        problems.append(f"--imgsz {shown}: expected one side, or height and width, of at least 1 pixel")
    if save_format not in {0, 1}:
        problems.append(f"--save-format {save_format}: expected 0 (centre and size) or 1 (corners)")
    if problems:
        raise InputErrors(problems)


def check_classes(classes: Sequence[int] | None, names: Mapping[int, str]) -> None:
    """Refuse class numbers that the model does not have."""
    wrong = [c for c in classes or () if c not in names]
    if wrong:
        raise InputError(f"--classes {' '.join(map(str, wrong))}: the model's classes are 0 to {max(names)}")


def can_show() -> bool:
    """Return whether windows can be opened; where not, say so once and go on without."""
    from utils.general import check_imshow

    possible = check_imshow()
    if not possible:
        LOGGER.warning("WARNING --view-img has no effect: this OpenCV or machine cannot open windows")
    return possible


@contextlib.contextmanager
def closing(dataset: Any) -> Iterator[None]:
    """Close a source at the end, where it can be closed."""
    try:
        yield
    finally:
        if hasattr(dataset, "close"):
            dataset.close()


def report(dataset: Any, seen: int, save_dir: Path, writer: Any, clock: Clock, imgsz: Sequence[int]) -> None:
    """Log the speed, where results are and what was skipped.

    Raises:
        WorkError: nothing could be read.
    """
    problems = getattr(dataset, "problems", [])
    if not seen:
        with contextlib.suppress(OSError):
            for folder in (save_dir / "labels", save_dir):
                if folder.exists():
                    folder.rmdir()  # only while empty
        skipped = f": {problems[0][0]}: {problems[0][1]}" if problems else ""
        raise WorkError(f"none of the {len(problems)} inputs could be read{skipped}")
    stages = zip(clock.total, ("pre-process", "inference", "NMS"), strict=True)
    speed = ", ".join(f"{total / seen:.1f}ms {stage}" for total, stage in stages)
    LOGGER.info(f"Speed: {speed} per image at shape {(1, 3, *imgsz)}")
    if writer.text_files:
        LOGGER.info(f"{len(writer.text_files)} labels saved to {save_dir / 'labels'}")
    LOGGER.info(f"Results saved to {colorstr('bold', save_dir)}")
    if problems:
        LOGGER.warning(f"WARNING {len(problems)} of {len(dataset)} inputs skipped:")
        for path, reason in problems:
            LOGGER.warning(f"  {path}: {reason}")


def parse_opt() -> argparse.Namespace:
    """Read the command line; ``imgsz`` becomes [height, width]."""
    parser = argparse.ArgumentParser(description="Find objects in images, videos, streams or on the screen.")
    add = parser.add_argument
    add("--weights", nargs="+", type=str, default=ROOT / "yolov5s.pt", help="checkpoint, or several for an ensemble")
    add("--source", type=str, default=ROOT / "data/images", help="file, folder, pattern, URL, list, webcam or screen")
    add("--data", type=str, default=ROOT / "data/coco128.yaml", help="data set YAML, for names a model file lacks")
    add("--imgsz", "--img", "--img-size", nargs="+", type=int, default=[640], help="side, or height and width")
    add("--conf-thres", type=float, default=0.25, help="least confidence")
    add("--class-thres", type=str, help="confidence by class: 0.3,0.5 or bolt=0.4,nut=0.2 or a thresholds.yaml")
    add("--cls-tau", type=float, default=0.0, help="adjust class logits by the training's class counts, 0 (off) to 2")
    add("--iou-thres", type=float, default=0.45, help="overlap above which the less confident box goes")
    add("--max-det", type=int, default=1000, help="most detections per image")
    add("--device", default="", help="cpu, or a GPU's number")
    add("--view-img", action="store_true", help="show results in a window")
    add("--save-txt", action="store_true", help="write labels/*.txt")
    add("--save-format", type=int, default=0, help="boxes in text files: 0 centre and size, 1 corners")
    add("--save-csv", action="store_true", help="write predictions.csv")
    add("--save-conf", action="store_true", help="add confidences to the text files")
    add("--save-crop", action="store_true", help="write each box as a picture")
    add("--nosave", action="store_true", help="write no pictures and videos")
    add("--classes", nargs="+", type=int, help="keep these class numbers: --classes 0, or --classes 0 2 3")
    add("--agnostic-nms", action="store_true", help="boxes of different classes suppress each other too")
    add("--augment", action="store_true", help="test-time augmentation")
    add("--update", action="store_true", help="afterwards, strip the optimizer from the first checkpoint")
    add("--project", default=ROOT / "runs/detect", help="folder of run folders")
    add("--name", default="exp", help="run folder, numbered when it exists")
    add("--exist-ok", action="store_true", help="use the run folder even if it exists")
    add("--line-thickness", default=3, type=int, help="of boxes in pixels")
    add("--hide-labels", default=False, action="store_true", help="draw no labels")
    add("--hide-conf", default=False, action="store_true", help="draw no confidences")
    add("--half", action="store_true", help="half precision on a GPU")
    add("--dnn", action="store_true", help="use OpenCV for ONNX files")
    add("--vid-stride", type=int, default=1, help="use each n-th frame of a video")
    add("--visualize", action="store_true", help="save the feature maps of each layer in features/")
    opt = parser.parse_args()
    opt.imgsz *= 2 if len(opt.imgsz) == 1 else 1
    return opt


def main(opt: argparse.Namespace) -> None:
    """Run with the command line's options."""
    setup_logging()
    LOGGER.info(colorstr("detect: ") + ", ".join(f"{k}={v}" for k, v in vars(opt).items()))
    run(**vars(opt))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    options = parse_opt()
    run_command(lambda: main(options))
