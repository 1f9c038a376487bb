"""What the prediction commands of boxes and of masks share: options, checks, the way from a source to results."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError, InputErrors, WorkError
from utils.logs import LOGGER, colorstr

if TYPE_CHECKING:
    from utils.detection import Clock

ROOT = Path(__file__).resolve().parents[1]
# Names that YOLOv5 users import from the commands, and the modules that define them.
SHARED_NAMES = {
    "Annotator": "utils.annotator",
    "colors": "utils.annotator",
    "save_one_box": "utils.annotator",
    "IMG_FORMATS": "utils.images",
    "VID_FORMATS": "utils.images",
    "LoadImages": "utils.sources",
    "LoadScreenshots": "utils.sources",
    "LoadStreams": "utils.sources",
    "DetectMultiBackend": "models.backends",
    "can_show": "utils.prediction",
    "check_classes": "utils.prediction",
    "check_options": "utils.prediction",
    "closing": "utils.prediction",
    "report": "utils.prediction",
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


@dataclass(frozen=True)
class Kind:
    """What one of the commands adds.

    Attributes:
        head: class of ``models.yolo`` that the network must end in.
        writer: (options of the command, OutputOptions) -> (folder, names) -> what writes the results.
        finish: (options of the command) -> the ``finish`` of ``utils.detection.detect_all``, None for boxes alone.
    """

    head: str
    writer: Callable[[argparse.Namespace, Any], Callable[..., Any]]
    finish: Callable[[argparse.Namespace], Any]


def predict_source(opt: argparse.Namespace, kind: Kind) -> None:
    """Find objects in a source and write the results.

    Args:
        opt: the arguments of a command's ``run``, by name.
        kind: what the command adds.

    Raises:
        InputError: a wrong option, file or source; nothing was written.
        WorkError: nothing in the source could be read, or a result could not be written.
    """
    import torch

    from models import yolo
    from models.backends import DetectMultiBackend, require_head
    from utils.class_thresholds import class_thresholds
    from utils.detection import Clock, detect_all
    from utils.general import check_img_size
    from utils.logit_adjustment import MAX_TAU, adjusted
    from utils.nms import class_list
    from utils.paths import increment_path
    from utils.sources import check_source, open_source
    from utils.torch_utils import select_device

    limits = {"conf-thres": (opt.conf_thres, 1), "iou-thres": (opt.iou_thres, 1), "cls-tau": (opt.cls_tau, MAX_TAU)}
    counts = {"max-det": opt.max_det, "vid-stride": opt.vid_stride, "line-thickness": opt.line_thickness}
    imgsz = [opt.imgsz, opt.imgsz] if isinstance(opt.imgsz, int) else list(opt.imgsz)
    check_options(imgsz, limits, counts, opt.save_format)
    source = check_source(str(opt.source))
    device = select_device(opt.device)
    if opt.half and device.type != "cuda":
        LOGGER.warning("WARNING --half has no effect without a GPU")
    model = DetectMultiBackend(opt.weights, device=device, dnn=opt.dnn, data=opt.data, fp16=opt.half)
    require_head(model, opt.weights, getattr(yolo, kind.head))
    opt.classes = class_list(opt.classes)
    check_classes(opt.classes, model.names)
    nms = {
        "conf_thres": opt.conf_thres,
        "class_thres": class_thresholds(opt.class_thres, model.names, opt.conf_thres),
        "iou_thres": opt.iou_thres,
        "max_det": opt.max_det,
        "classes": opt.classes,
        "agnostic": opt.agnostic_nms,
    }
    imgsz = check_img_size(imgsz, s=model.stride)
    dataset = open_source(source, imgsz, model.stride, bool(model.pt), opt.vid_stride)
    open_writer = kind.writer(opt, output_options(opt, source))
    clock = Clock(model.device)
    with closing(dataset), adjusted(model, opt.cls_tau, opt.data), torch.inference_mode():
        batch = 1 if model.pt else len(getattr(dataset, "sources", [0]))  # streams come as one batch
        model.warmup(imgsz=(batch, 3, *imgsz))  # refuses a size that the file was not made for
        save_dir = increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True)
        features = save_dir if opt.visualize else None
        with open_writer(save_dir, model.names) as writer:
            seen = detect_all(model, dataset, writer, nms, opt.augment, features, clock, kind.finish(opt))
    report(dataset, seen, save_dir, writer, clock, imgsz)
    if opt.update:
        from utils.checkpoint import strip_optimizer

        strip_optimizer(opt.weights if isinstance(opt.weights, (str, Path)) else opt.weights[0])


def output_options(opt: argparse.Namespace, source: str) -> Any:
    """Return which results are written, from the options of a command."""
    from utils.outputs.detection_output import OutputOptions

    return OutputOptions(
        images=not opt.nosave and not source.endswith(".txt"),
        txt=opt.save_txt,
        txt_corners=bool(opt.save_format),
        conf=opt.save_conf,
        csv=opt.save_csv,
        crop=opt.save_crop,
        view=opt.view_img and can_show(),
        line_thickness=opt.line_thickness,
        hide_labels=opt.hide_labels,
        hide_conf=opt.hide_conf,
    )


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


def parse_options(
    description: str,
    weights: Path,
    project: Path,
    without: Collection[str] = (),
    more: Mapping[str, Mapping[str, Any]] | None = None,
    imgsz: int = 640,
) -> argparse.Namespace:
    """Read the command line of a prediction command; ``imgsz`` becomes [height, width].

    Args:
        description: of the command.
        weights, project: defaults of these options.
        without: options that the command lacks.
        more: its own options, with the arguments of ``add_argument``.
        imgsz: default of this option.
    """
    parser = argparse.ArgumentParser(description=description)

    def add(*names: str, **settings: Any) -> None:
        if names[0] not in without:
            parser.add_argument(*names, **settings)

    add("--weights", nargs="+", type=str, default=weights, help="checkpoint, or several for an ensemble of detectors")
    add("--source", type=str, default=ROOT / "data/images", help="file, folder, pattern, URL, list, webcam or screen")
    add("--data", type=str, default=ROOT / "data/coco128.yaml", help="data set YAML, for names a model file lacks")
    add("--imgsz", "--img", "--img-size", nargs="+", type=int, default=[imgsz], help="side, or height and width")
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
    add("--project", default=project, help="folder of run folders")
    add("--name", default="exp", help="run folder, numbered when it exists")
    add("--exist-ok", action="store_true", help="use the run folder even if it exists")
    add("--line-thickness", default=3, type=int, help="of boxes in pixels")
    add("--hide-labels", default=False, action="store_true", help="draw no labels")
    add("--hide-conf", default=False, action="store_true", help="draw no confidences")
    add("--half", action="store_true", help="half precision on a GPU")
    add("--dnn", action="store_true", help="use OpenCV for ONNX files")
    add("--vid-stride", type=int, default=1, help="use each n-th frame of a video")
    add("--visualize", action="store_true", help="save the feature maps of each layer in a folder for each image")
    for name, settings in (more or {}).items():
        parser.add_argument(name, **settings)
    opt = parser.parse_args()
    opt.imgsz *= 2 if len(opt.imgsz) == 1 else 1
    return opt
