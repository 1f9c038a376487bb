"""Measure a detection model on a data set: precision, recall and mAP, per class and over all.

    python val.py --weights yolov5s.pt --data coco128.yaml --img 640

Tasks: val, test and train name the split; speed measures time alone; study repeats it over image sizes.
"""

from __future__ import annotations

import argparse
import contextlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError, InputErrors, WorkError, run_command
from utils.logs import LOGGER, colorstr, setup_logging

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from utils.class_thresholds import ClassThres
    from utils.eval_result import EvalResult

FILE = Path(__file__).resolve()
ROOT = FILE.parent
SPLITS = ("train", "val", "test")
TASKS = (*SPLITS, "speed", "study")
STUDY_SIZES = range(256, 1536 + 128, 128)
FEW_CLASSES = 50  # below, the table lists every class without being asked
COCO_ANNOTATIONS = "annotations/instances_val2017.json"
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

Returned = tuple[tuple[float, ...], "np.ndarray", tuple[float, float, float]]
__all__ = ["FILE", "LOGGER", "ROOT", "colorstr", "main", "parse_opt", "run"]


def __getattr__(name: str) -> Any:
    """Return a name of _MOVED; importing them with this script would make --help slow."""
    if name in _MOVED:
        return getattr(import_module(_MOVED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    opt = argparse.Namespace(**locals())
    _check_ranges(opt)
    from utils.class_thresholds import class_thresholds
    from utils.evaluation import evaluate
    from utils.logit_adjustment import adjusted

    training = model is not None
    facts = data if training else _load(opt)
    names = _names_of(opt.model, facts)
    thresholds = class_thresholds(class_thres, names, conf_thres)
    collector = _collector(opt, facts) if diagnose else None
    listening = contextlib.nullcontext() if collector is None else collector.attached(opt.model)
    with adjusted(opt.model, cls_tau, data), listening:
        opt.save_dir = Path(save_dir) if training else _open_run(opt, facts)
        observers, coco = _observers(opt, facts, names)
        observers += [collector] if collector is not None else []
        result = evaluate(
            opt.model, opt.dataloader, names=names, nc=1 if single_cls else int(facts["nc"]), conf_thres=conf_thres,
            iou_thres=iou_thres, max_det=max_det, single_cls=single_cls, augment=augment, half=half,
            save_hybrid=save_hybrid, compute_loss=compute_loss, callbacks=callbacks, save_dir=opt.save_dir,
            plots=plots, observers=observers, class_thres=thresholds,
        )  # fmt: skip
    result.log_table(per_class=(verbose or (len(names) < FEW_CLASSES and not training)) and len(names) > 1)
    if thresholds_file or (task in SPLITS and not training):
        _save_thresholds(thresholds_file or opt.save_dir / "thresholds.yaml", result, opt, facts)
    if collector is not None:
        _diagnose(opt, facts, collector)
    results = _score_json(result, opt, facts, coco) if coco else result.as_tuple()
    if not training:
        _log_end(result, opt)
    return results, result.maps(), result.speed


# Before the work ------------------------------------------------------------------------------------------------------


def _check_ranges(opt: argparse.Namespace) -> None:
    """Report every number out of range at once."""
    from utils.logit_adjustment import MAX_TAU

    problems = [
        f"--{key.replace('_', '-')} is {getattr(opt, key)}, allowed are whole numbers from {least}"
        for key, least in (("batch_size", 1), ("imgsz", 1), ("max_det", 1), ("workers", 0))
        if getattr(opt, key) < least
    ]
    for key in ("conf_thres", "iou_thres"):
        if not 0 <= getattr(opt, key) <= 1:
            problems.append(f"--{key.replace('_', '-')} is {getattr(opt, key)}, allowed are 0.0 to 1.0")
    if not 0 <= opt.cls_tau <= MAX_TAU:
        problems.append(f"--cls-tau is {opt.cls_tau}, allowed are numbers from 0 (off) to {MAX_TAU:g}")
    if opt.task not in TASKS:
        problems.append(f"--task is {opt.task!r}, allowed are {', '.join(TASKS)}")
    if problems:
        raise InputErrors(problems)


def _load(opt: argparse.Namespace) -> dict[str, Any]:
    """Check the data set and load the model for it; return the data set's facts."""
    from models.backends import DetectMultiBackend, require_detector
    from utils.dataset_yaml import check_dataset
    from utils.general import check_img_size
    from utils.torch_utils import select_device

    split = _split(opt)
    device = select_device(opt.device, batch_size=opt.batch_size)
    facts = check_dataset(opt.data, splits=(split,))
    if not facts.get(split):
        raise InputError(f"{opt.data}: has no '{split}' entry, --task {opt.task} needs one")
    opt.model = DetectMultiBackend(
        opt.weights, device=device, dnn=opt.dnn, data=opt.data, fp16=opt.half and device.type == "cuda"
    )
    require_detector(opt.model, opt.weights)
    opt.imgsz = check_img_size(opt.imgsz, s=opt.model.stride)
    if opt.model.pt and not opt.single_cls:
        _refuse_other_classes(opt, facts)
    return facts


def _open_run(opt: argparse.Namespace, facts: dict[str, Any]) -> Path:
    """Open the loader of the task's images, and last make and return the run folder."""
    from utils.dataloaders import create_dataloader
    from utils.paths import increment_path

    is_torch, split, is_speed = opt.model.pt, _split(opt), opt.task == "speed"
    if not (is_torch or opt.model.jit):
        opt.batch_size = getattr(opt.model, "batch_size", 1) if opt.model.engine else 1
        LOGGER.info(f"Batch size {opt.batch_size} and square images, as this format needs")
    opt.model.warmup(imgsz=(1 if is_torch else opt.batch_size, 3, opt.imgsz, opt.imgsz))
    opt.dataloader, _ = create_dataloader(
        facts[split], opt.imgsz, opt.batch_size, opt.model.stride, opt.single_cls, pad=0.0 if is_speed else 0.5,
        rect=is_torch and not is_speed, workers=opt.workers, prefix=colorstr(f"{split}: "),
        nc=int(facts["nc"]), names=facts["names"],
    )  # fmt: skip
    return increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True)


def _split(opt: argparse.Namespace) -> str:
    """Return the data set's entry that the task evaluates."""
    return opt.task if opt.task in SPLITS else "val"


def _refuse_other_classes(opt: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Refuse weights that were trained for another number of classes."""
    trained = len(opt.model.names)
    if trained != facts["nc"]:
        source = opt.data if isinstance(opt.data, (str, Path)) else "the data set"
        raise InputError(
            f"{_text(opt.weights)} knows {trained} classes, {source} has {facts['nc']}: pass weights and data that "
            "belong together, or --single-cls"
        )


def _names_of(model: Any, facts: dict[str, Any]) -> dict[int, str]:
    """Return the model's class names, or the data set's where the model has none."""
    names = getattr(model, "names", None) or getattr(getattr(model, "module", None), "names", None) or facts["names"]
    return dict(names) if isinstance(names, dict) else dict(enumerate(names))


def _observers(opt: argparse.Namespace, facts: dict[str, Any], names: dict[int, str]) -> tuple[list[Any], Any]:
    """Return what listens to the batches, and among it the JSON collector or None."""
    observers: list[Any] = []
    coco = None
    if opt.save_txt:
        from utils.outputs.detection_text import TextFiles

        folder = opt.save_dir / "labels"
        folder.mkdir(parents=True, exist_ok=True)
        images = getattr(getattr(opt.dataloader, "dataset", None), "im_files", ())
        observers.append(TextFiles(folder, opt.save_conf, images))
    if opt.save_json:
        from utils.helpers import coco80_to_coco91_class
        from utils.outputs.coco_json import CocoJson

        class_map = coco80_to_coco91_class() if _is_coco(facts) else list(range(max(1000, len(names))))
        coco = CocoJson(class_map, names)
        observers.append(coco)
    return observers, coco


def _collector(opt: argparse.Namespace, facts: dict[str, Any]) -> Any:
    """Return what keeps the predictions of the evaluation for its diagnosis."""
    from utils.diagnosis.inputs import load_ground_truth
    from utils.diagnosis.model_predictions import ViewCollector

    if opt.single_cls or opt.task not in SPLITS:
        what = "--single-cls, which leaves no classes to tell apart" if opt.single_cls else f"--task {opt.task}"
        raise InputError(f"--diagnose with {what}: allowed are --task {', '.join(SPLITS)} and all classes")
    return ViewCollector(load_ground_truth(facts, _split(opt)), source=_text(opt.weights) if opt.weights else "model")


def _is_coco(facts: dict[str, Any]) -> bool:
    """Say whether the validation entry is COCO's own list, whose categories have other numbers."""
    val = facts.get("val")
    return isinstance(val, str) and Path(val).as_posix().endswith("coco/val2017.txt")


# After the work -------------------------------------------------------------------------------------------------------


def _diagnose(opt: argparse.Namespace, facts: dict[str, Any], collector: Any) -> None:
    """Write the diagnosis of the predictions that the evaluation made."""
    from utils.diagnosis.command import diagnose_run

    further = dict(opt.diagnose) if isinstance(opt.diagnose, dict) else {}
    options = {"split": _split(opt), "imgsz": opt.imgsz, "task": ["balance", "errors"], **further}
    if opt.weights:
        options.setdefault("weights", [_text(opt.weights)])
    data = opt.data if isinstance(opt.data, (str, Path)) else facts
    diagnose_run(data, opt.save_dir / "diagnosis", views=collector.views(), gt=collector.gt, **options)


def _save_thresholds(path: str | Path, result: EvalResult, opt: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Write the confidence with the best F1 of each class, and in one line which run and data they are from."""
    if opt.single_cls and len(result.names) > 1:
        LOGGER.info("No thresholds.yaml: --single-cls measures no single class of this model")
        return
    data = opt.data if isinstance(opt.data, (str, Path)) else facts.get("path", "")
    weights = f", weights {_text(opt.weights)}" if opt.weights else ""
    given = {"conf_thres": opt.conf_thres, "class_thres": opt.class_thres, "cls_tau": opt.cls_tau or None}
    limits = "".join(f", {key} {value}" for key, value in given.items() if value is not None)
    result.save_thresholds(path, f"{opt.save_dir}{weights}, data {data} ({_split(opt)}), {result.seen} images{limits}")


def _score_json(result: EvalResult, opt: argparse.Namespace, facts: dict[str, Any], coco: Any) -> tuple[float, ...]:
    """Save the JSON and score it by COCO's rules; return the results, with COCO's mAP where COCO was evaluated."""
    results = result.as_tuple()
    stem = Path(_text(opt.weights)).stem if opt.weights else ""
    coco.save(opt.save_dir / f"{stem}_predictions.json")
    places = [Path("../datasets/coco") / COCO_ANNOTATIONS, Path(facts.get("path") or ".") / COCO_ANNOTATIONS]
    found = next((place for place in places if place.exists()), None)
    try:
        if found is None:
            LOGGER.info(f"No annotations at {' or '.join(map(str, places))}: scoring against the labels instead")
            coco.score_against_labels()
        else:
            map_all, map50 = coco.score_against(found)
            results = (*results[:2], map50, map_all, *results[4:])
    except WorkError as error:
        LOGGER.warning(f"COCO scoring was not possible: {error}")
    return results


def _log_end(result: EvalResult, opt: argparse.Namespace) -> None:
    """Log the time taken, the run folder and how many text files it holds."""
    shape = (opt.batch_size, 3, opt.imgsz, opt.imgsz)
    times = "Speed: {:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms NMS per image".format(*result.speed)
    LOGGER.info(f"{times} at shape {shape}")
    LOGGER.info(f"Results saved to {colorstr('bold', opt.save_dir)}")
    if opt.save_txt:
        count = sum(1 for _ in (opt.save_dir / "labels").rglob("*.txt"))
        LOGGER.info(f"{count} label files saved to {opt.save_dir / 'labels'}")


def _text(weights: str | Path | list[str]) -> str:
    """Return the first of the weights as text."""
    return str(weights[0] if isinstance(weights, (list, tuple)) else weights)


# Command --------------------------------------------------------------------------------------------------------------


def parse_opt() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=str, default=ROOT / "data/coco128.yaml", help="data set YAML")
    add("--weights", nargs="+", type=str, default=ROOT / "yolov5s.pt", help="model file; several make an ensemble")
    add("--batch-size", type=int, default=32, help="images per batch")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="longest side of the images, pixels")
    add("--conf-thres", type=float, default=0.001, help="smallest confidence, 0 to 1")
    add("--class-thres", type=str, help="confidence by class: 0.3,0.5 or bolt=0.4,nut=0.2 or a thresholds.yaml")
    add("--cls-tau", type=float, default=0.0, help="adjust class logits by the training's class counts, 0 (off) to 2")
    add("--iou-thres", type=float, default=0.6, help="IoU above which NMS drops a box, 0 to 1")
    add("--max-det", type=int, default=300, help="most detections per image")
    add("--task", default="val", help="train, val, test, speed or study")
    add("--device", default="", help="CUDA device like 0, or cpu")
    add("--workers", type=int, default=8, help="most loader processes")
    add("--single-cls", action="store_true", help="treat all classes as one")
    add("--augment", action="store_true", help="test-time augmentation")
    add("--verbose", action="store_true", help="list every class, however many there are")
    add("--save-txt", action="store_true", help="save detections as text, one file per image")
    add("--save-hybrid", action="store_true", help="let the labels take part in NMS; implies --save-txt")
    add("--save-conf", action="store_true", help="add the confidence to the text")
    add("--save-json", action="store_true", help="save detections as COCO JSON and score it")
    add("--diagnose", action="store_true", help="also write which class errors there are, and what to try next")
    add("--project", default=ROOT / "runs/val", help="folder of the run folders")
    add("--name", default="exp", help="name of the run folder")
    add("--exist-ok", action="store_true", help="use an existing run folder")
    add("--half", action="store_true", help="float16 inference on CUDA")
    add("--dnn", action="store_true", help="OpenCV DNN for ONNX files")
    opt = parser.parse_args()
    opt.save_json |= str(opt.data).endswith("coco.yaml")
    opt.save_txt |= opt.save_hybrid
    return opt


def main(opt: argparse.Namespace) -> None:
    """Carry out the task that the options name.

    Raises:
        InputError: an option or input does not fit.
    """
    from utils.paths import check_file

    setup_logging()
    LOGGER.info(colorstr("val: ") + ", ".join(f"{key}={value}" for key, value in vars(opt).items()))
    _check_ranges(opt)
    opt.data = check_file(opt.data)  # a YAML, or a zip or tar with one inside
    if opt.task in SPLITS:
        if opt.conf_thres > 0.001:
            LOGGER.warning(f"--conf-thres {opt.conf_thres} is above 0.001: mAP comes out too low")
        if opt.class_thres:
            LOGGER.warning(f"--class-thres {opt.class_thres} drops detections: mAP comes out too low")
        if opt.save_hybrid:
            LOGGER.warning("--save-hybrid mixes labels into the predictions: mAP comes out too high")
        run(**vars(opt))
        return
    every = opt.weights if isinstance(opt.weights, list) else [opt.weights]
    opt.half, opt.save_json = True, False  # half has an effect on CUDA alone
    if opt.task == "speed":
        opt.conf_thres, opt.iou_thres = 0.25, 0.45
        for weights in every:
            run(**{**vars(opt), "weights": weights}, plots=False)
        return
    _study(opt, every)


def _study(opt: argparse.Namespace, every: list[str]) -> None:
    """Measure all weights over image sizes; write a table for each, study.zip and study.png."""
    import numpy as np

    from utils.plots import plot_val_study
    from utils.safe_write import make_whole

    tables = []
    for weights in every:
        table = Path(f"study_{Path(opt.data).stem}_{Path(weights).stem}.txt")
        rows = []
        for size in STUDY_SIZES:
            LOGGER.info(f"\nRunning {table} --imgsz {size}...")
            results, _, speed = run(**{**vars(opt), "weights": weights, "imgsz": size}, plots=False)
            rows.append([*results, *speed])
        make_whole(table, lambda part, rows=rows: np.savetxt(part, rows, fmt="%10.4g"))
        tables.append(table)
    make_whole(Path("study.zip"), lambda part: _zip(part, tables))
    plot_val_study(x=STUDY_SIZES)


def _zip(path: Path, files: list[Path]) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file)


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
