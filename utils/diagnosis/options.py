"""The options of diagnose.py, checked together before any work. Nothing heavy is imported here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import InputErrors

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("balance", "labels", "errors", "agreement", "capacity")
SPLITS = ("train", "val", "test")
AREAS = ("small", "medium", "large")
# option: (least, greatest); None is no bound
RANGES: dict[str, tuple[float | None, float | None]] = {
    "imgsz": (32, None), "batch_size": (1, None), "workers": (0, None), "max_det": (1, None), "conf": (0, 1),
    "iou_thres": (0, 1), "iou_found": (0, 1), "iou_background": (0, 1), "train_images": (0, None),
    "max_crops": (0, 5000), "resamples": (1, 100_000), "seed": (0, 2**31 - 1), "epochs": (1, None), "folds": (2, 100),
}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; names are YOLOv5's where it has them."""
    parser = argparse.ArgumentParser(
        prog="diagnose.py",
        description="Say what a detector gets wrong, why, and what to change: a report as one HTML file, all numbers "
        "as JSON and CSV, and a hyp file.",
        epilog="Documentation: docs/diagnosis.md",
    )
    _add_what(parser.add_argument_group("what"))
    _add_errors(parser.add_argument_group("errors"))
    _add_labels(parser.add_argument_group("labels"))
    _add_results(parser.add_argument_group("results"))
    return parser


def _add_what(group: Any) -> None:
    add = group.add_argument
    add("--task", nargs="+", choices=TASKS, metavar="TASK", help=f"{', '.join(TASKS)}; by default errors with "
        "--weights or --pred, else balance and labels; agreement with --labels-b")  # fmt: skip
    add("--data", type=str, default=ROOT / "data/coco128.yaml", help="data set YAML")
    add("--weights", nargs="+", type=str, help="model file; several make an ensemble")
    add("--pred", type=str, help="predictions instead of a model: COCO JSON, or a folder of --save-txt --save-conf")
    add("--annotations", type=str, help="COCO annotation file that the JSON's image and category numbers refer to")
    add("--split", default="val", help="which images to judge: train, val or test")
    add("--labels-b", nargs="+", metavar="DIR", help="label folders of other annotators of the same images")
    add("--compare", nargs="+", metavar="RUN", help="other runs to compare with: weights, COCO JSON or label folders")
    add(
        "--capacity",
        action="store_true",
        help="also the task capacity: what n to x cost here, and what they would cure",
    )
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="longest side of the images, pixels")
    add("--batch-size", type=int, default=32, help="images per batch")
    add("--device", default="", help="CUDA device like 0, or cpu")
    add("--workers", type=int, default=8, help="most loader processes")
    add("--half", action="store_true", help="float16 inference on CUDA")
    add("--augment", action="store_true", help="test-time augmentation")


def _add_errors(group: Any) -> None:
    add = group.add_argument
    add(
        "--conf",
        "--conf-thres",
        type=float,
        help="confidence of the operating point; by default that of the best mean F1",
    )
    add("--class-thres", type=str, help="confidence by class: 0.3,0.5 or bolt=0.4,nut=0.2 or a thresholds.yaml")
    add("--iou-thres", type=float, default=0.6, help="IoU above which NMS drops a box in the AP view, as val's")
    add("--max-det", type=int, default=300, help="most detections per image in the AP view")
    add(
        "--agnostic-nms", action="store_true", help="operating view: boxes of different classes suppress each other too"
    )
    add("--iou-found", type=float, default=0.5, help="IoU from which a prediction finds an object")
    add("--iou-background", type=float, default=0.1, help="IoU up to which a prediction lies on background")
    add("--area", choices=AREAS, help="AP view of small, medium or large objects alone (COCO's areas)")
    add("--classes", nargs="+", type=int, help="AP view of these class numbers alone")
    add("--confusion", choices=("own", "upstream"), default="own", help="also write YOLOv5's own confusion matrix")
    add("--train-images", type=int, default=200, help="training images to measure for overfitting, 0 for none")
    add("--resamples", type=int, default=1000, help="--compare: drawings of the bootstrap")


def _add_labels(group: Any) -> None:
    add = group.add_argument
    add("--look", choices=("pixels", "headers"), default="pixels", help="label audit: decode images (near-duplicates), "
        "or read their sizes alone")  # fmt: skip
    add("--objectlab", choices=("ours", "objectlab", "paper", "off"), default="ours", help="scores of the model-based "
        "findings: weighed evidence, ObjectLab's for low confidences, or as published")  # fmt: skip
    add("--folds", type=int, help="train on all but one part in turn, so that every training label is judged by a "
        "model that has not seen it")  # fmt: skip
    add("--epochs", type=int, default=50, help="--folds: epochs of each training")
    add("--init", type=str, default="", help="--folds: weights to start from, which must not have seen these labels")
    add("--cfg", type=str, default="yolov5n.yaml", help="--folds: model YAML")
    add("--fix", type=str, metavar="DIR", help="write corrected copies of label files (L05, L10, L11) to a new folder")


def _add_results(group: Any) -> None:
    add = group.add_argument
    add("--rules", type=str, default=ROOT / "data/diagnosis_rules.yaml", help="rules of the advice")
    add(
        "--hyp",
        type=str,
        help="hyp file that the advice starts from; by default the run's own, else hyp.scratch-low.yaml",
    )
    add("--fail-on", nargs="+", metavar="TEST", help="end with status 1 when one holds: L12, label_errors, map50<60, "
        "delta_cls>5 ...")  # fmt: skip
    add("--max-crops", type=int, default=500, help="most pictures in the report")
    add("--noplots", action="store_true", help="write no PNG pictures")
    add("--tensorboard", action="store_true", help="also write TensorBoard events")
    add("--seed", type=int, default=0, help="of everything random")
    add("--project", default=ROOT / "runs/diagnose", help="folder of the run folders")
    add("--name", default="exp", help="name of the run folder")
    add("--exist-ok", action="store_true", help="use an existing run folder")


def default_options(**changes: Any) -> argparse.Namespace:
    """Return the options as Python gives them, by name.

    Raises:
        InputErrors: names that are no option.
    """
    opt = build_parser().parse_args([])
    unknown = [name for name in changes if not hasattr(opt, name)]
    if unknown:
        known = ", ".join(sorted(vars(opt)))
        raise InputErrors(f"{name}: no such option of the diagnosis; options are {known}" for name in unknown)
    vars(opt).update(changes)
    return opt


def check_options(opt: argparse.Namespace, *, has_predictions: bool = False) -> None:
    """Fill in the tasks and check every option that has a range, a file or excludes another.

    Args:
        opt: the options; ``task`` and ``weights`` become lists.
        has_predictions: predictions come from the caller.

    Raises:
        InputErrors: all problems together, one line each.
    """
    if isinstance(opt.weights, (str, Path)):
        opt.weights = [str(opt.weights)]
    opt.task = _tasks(opt, has_predictions)
    problems = _range_problems(opt)
    if opt.split not in SPLITS:
        problems.append(f"--split is {opt.split!r}, allowed are {', '.join(SPLITS)}")
    if opt.iou_background > opt.iou_found:
        problems.append(f"--iou-background {opt.iou_background}: allowed is at most --iou-found {opt.iou_found}")
    problems += _combination_problems(opt, has_predictions)
    paths = [("--pred", opt.pred), ("--annotations", opt.annotations), ("--rules", opt.rules), ("--hyp", opt.hyp)]
    paths += [("--labels-b", path) for path in opt.labels_b or ()] + [("--compare", path) for path in opt.compare or ()]
    problems += [f"{name} {path}: no such file or folder" for name, path in paths if path and not _exists(path)]
    if problems:
        raise InputErrors(problems)


def _tasks(opt: argparse.Namespace, has_predictions: bool) -> list[str]:
    tasks = list(opt.task or ())
    if not tasks:
        judged = opt.weights or opt.pred or has_predictions
        tasks = ["errors"] if judged else [] if opt.labels_b or opt.capacity else ["balance", "labels"]
        tasks += ["agreement"] if opt.labels_b else []
    if opt.capacity and "capacity" not in tasks:
        tasks.append("capacity")
    return [task for task in TASKS if task in tasks]


def _range_problems(opt: argparse.Namespace) -> list[str]:
    problems = []
    for name, (least, greatest) in RANGES.items():
        value = getattr(opt, name)
        if value is None:
            continue
        if not (least is None or value >= least) or not (greatest is None or value <= greatest):  # so that nan is out
            bounds = f"at least {least}" if greatest is None else f"{least} to {greatest}"
            problems.append(f"--{name.replace('_', '-')} {value}: allowed is {bounds}")
    return problems


def _combination_problems(opt: argparse.Namespace, has_predictions: bool) -> list[str]:
    problems = []
    judged = bool(opt.weights or opt.pred or has_predictions)
    if "errors" in opt.task and not judged:
        problems.append("--task errors: needs predictions, allowed are --weights FILE or --pred JSON or FOLDER")
    if opt.weights and opt.pred:
        problems.append("--weights with --pred: allowed is one of the two, they are two sources of predictions")
    if "agreement" in opt.task and not opt.labels_b:
        problems.append("--task agreement: needs --labels-b DIR, a label folder of another annotator")
    if opt.labels_b and "agreement" not in opt.task:
        problems.append("--labels-b: is for --task agreement, which --task does not name")
    if opt.compare and "errors" not in opt.task:
        problems.append("--compare: needs --task errors and --weights or --pred")
    if opt.conf is not None and opt.class_thres:
        problems.append("--conf with --class-thres: allowed is one of the two")
    if (opt.fix or opt.folds) and "labels" not in opt.task:
        option = "--fix" if opt.fix else "--folds"
        problems.append(f"{option}: is for --task labels, which --task does not name")
    if opt.fix and Path(opt.fix).exists() and (not Path(opt.fix).is_dir() or any(Path(opt.fix).iterdir())):
        problems.append(f"--fix {opt.fix}: exists already, allowed is a new or an empty folder")
    if opt.annotations and not (opt.pred or opt.compare):
        problems.append("--annotations: is about a JSON of --pred or --compare")
    return problems


def _exists(path: str | Path) -> bool:
    return Path(path).exists() or any((ROOT / folder / Path(path).name).exists() for folder in ("data", "data/hyps"))


def plain_options(opt: argparse.Namespace) -> Mapping[str, Any]:
    """Return the options for summary.json."""
    return {key: _plain(value) for key, value in sorted(vars(opt).items())}


def _plain(value: Any) -> Any:
    """Return an option as JSON can hold it; of a data set given as a mapping its place alone."""
    if isinstance(value, Mapping):
        value = value.get("yaml_file") or value.get("path") or ""
    return str(value) if isinstance(value, Path) else value
