"""What the validation commands of boxes and of masks share: checks, data and model, outputs, tasks."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError, InputErrors, WorkError
from utils.logs import LOGGER, colorstr, setup_logging

if TYPE_CHECKING:
    import numpy as np

SPLITS = ("train", "val", "test")
TASKS = (*SPLITS, "speed", "study")
STUDY_SIZES = range(256, 1536 + 128, 128)
FEW_CLASSES = 50  # below, the table lists every class without being asked
COCO_ANNOTATIONS = "annotations/instances_val2017.json"

Returned = tuple[tuple[float, ...], "np.ndarray", tuple[float, float, float]]


@dataclass(frozen=True)
class Kind:
    """What one of the commands adds.

    Attributes:
        script: its name, for the log.
        head: class of ``models.yolo`` that the network must end in.
        loader: (opt) -> create_dataloader, and arguments of its own.
        parts: (opt) -> the parts of ``utils.evaluation.evaluate``.
        collect_json: (class map, names) -> what collects COCO results.
        maps: what was measured -> the returned value of every class (nc,).
    """

    script: str
    head: str
    loader: Callable[[argparse.Namespace], tuple[Callable[..., Any], dict[str, Any]]]
    parts: Callable[[argparse.Namespace], Any]
    collect_json: Callable[..., Any]
    maps: Callable[[Any], np.ndarray]


def validate(opt: argparse.Namespace, kind: Kind) -> Returned:
    """Evaluate weights, or during training a model with its loader.

    Args:
        opt: the arguments of a command's ``run``, by name.
        kind: what the command adds.

    Returns:
        The results, the value of every class (nc,), milliseconds per image of pre-processing, inference and NMS.

    Raises:
        InputError: an argument, the data set or the weights do not fit; nothing was written.
        WorkError: an output cannot be written.
    """
    check_ranges(opt)
    from utils.class_thresholds import class_thresholds
    from utils.evaluation import evaluate
    from utils.logit_adjustment import adjusted

    training = opt.model is not None
    facts = opt.data if training else load(opt, kind)
    names = names_of(opt.model, facts)
    thresholds = class_thresholds(opt.class_thres, names, opt.conf_thres)
    collector = collector_of(opt, facts) if opt.diagnose else None
    listening = contextlib.nullcontext() if collector is None else collector.attached(opt.model)
    with adjusted(opt.model, opt.cls_tau, opt.data), listening:
        opt.save_dir = Path(opt.save_dir) if training else open_run(opt, facts, kind)
        observers, coco = observers_of(opt, facts, names, kind)
        observers += [collector] if collector is not None else []
        result = evaluate(
            opt.model, opt.dataloader, names=names, nc=1 if opt.single_cls else int(facts["nc"]),
            conf_thres=opt.conf_thres, iou_thres=opt.iou_thres, max_det=opt.max_det, single_cls=opt.single_cls,
            augment=opt.augment, half=opt.half, save_hybrid=opt.save_hybrid, compute_loss=opt.compute_loss,
            callbacks=opt.callbacks, save_dir=opt.save_dir, plots=opt.plots, observers=observers,
            class_thres=thresholds, parts=kind.parts(opt),
        )  # fmt: skip
    result.log_table(per_class=(opt.verbose or (len(names) < FEW_CLASSES and not training)) and len(names) > 1)
    if opt.thresholds_file or (opt.task in SPLITS and not training):
        save_thresholds(opt.thresholds_file or opt.save_dir / "thresholds.yaml", result, opt, facts)
    if collector is not None:
        diagnose(opt, facts, collector)
    results = score_json(result, opt, facts, coco) if coco else result.as_tuple()
    if not training:
        log_end(result, opt)
    return results, kind.maps(result), result.speed


# Before the work ------------------------------------------------------------------------------------------------------


def check_ranges(opt: argparse.Namespace) -> None:
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


def load(opt: argparse.Namespace, kind: Kind) -> dict[str, Any]:
    """Check the data set and load the model for it; return the data set's facts."""
    from models import yolo
    from models.backends import DetectMultiBackend, require_head
    from utils.dataset_yaml import check_dataset
    from utils.general import check_img_size
    from utils.torch_utils import select_device

    split = split_of(opt)
    device = select_device(opt.device, batch_size=opt.batch_size)
    facts = check_dataset(opt.data, splits=(split,))
    if not facts.get(split):
        raise InputError(f"{opt.data}: has no '{split}' entry, --task {opt.task} needs one")
    if opt.half and device.type != "cuda" and opt.task != "speed":
        LOGGER.warning("WARNING --half has no effect without a GPU")
    opt.model = DetectMultiBackend(
        opt.weights, device=device, dnn=opt.dnn, data=opt.data, fp16=opt.half and device.type == "cuda"
    )
    require_head(opt.model, opt.weights, getattr(yolo, kind.head))
    opt.imgsz = check_img_size(opt.imgsz, s=opt.model.stride)
    if (opt.model.pt or opt.model.facts.get("names")) and not opt.single_cls:
        refuse_other_classes(opt, facts)
    return facts


def open_run(opt: argparse.Namespace, facts: dict[str, Any], kind: Kind) -> Path:
    """Open the loader of the task's images, and last make and return the run folder."""
    from utils.paths import increment_path

    is_torch, split, is_speed = opt.model.pt, split_of(opt), opt.task == "speed"
    if opt.model.batch_size:
        opt.batch_size = opt.model.batch_size
        shape = "" if opt.model.any_size else " and square images"
        LOGGER.info(f"Batch size {opt.batch_size}{shape}, as this file needs")
    opt.model.warmup(imgsz=(1 if is_torch else opt.batch_size, 3, opt.imgsz, opt.imgsz))
    create, more = kind.loader(opt)
    opt.dataloader, _ = create(
        facts[split], opt.imgsz, opt.batch_size, opt.model.stride, opt.single_cls, pad=0.0 if is_speed else 0.5,
        rect=opt.model.any_size and not is_speed, workers=opt.workers, prefix=colorstr(f"{split}: "),
        nc=int(facts["nc"]), names=facts["names"], **more,
    )  # fmt: skip
    return increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True)


def split_of(opt: argparse.Namespace) -> str:
    """Return the data set's entry that the task evaluates."""
    return opt.task if opt.task in SPLITS else "val"


def refuse_other_classes(opt: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Refuse weights that were trained for another number of classes, and warn of other names."""
    trained = len(opt.model.names)
    if trained != facts["nc"]:
        source = opt.data if isinstance(opt.data, (str, Path)) else "the data set"
        raise InputError(
            f"{weights_text(opt.weights)} knows {trained} classes, {source} has {facts['nc']}: pass weights and data "
            "that belong together, or --single-cls"
        )
    known, asked = names_of(opt.model, facts), facts["names"]
    other = [number for number, name in known.items() if str(asked.get(number)) != str(name)]
    if other:
        source = opt.data if isinstance(opt.data, (str, Path)) else "the data set"
        LOGGER.warning(
            f"WARNING {len(other)} of {trained} classes have another name: class {other[0]} is '{known[other[0]]}' in "
            f"{weights_text(opt.weights)} and '{asked.get(other[0])}' in {source}"
        )


def names_of(model: Any, facts: dict[str, Any]) -> dict[int, str]:
    """Return the model's class names, or the data set's where the model has none."""
    names = getattr(model, "names", None) or getattr(getattr(model, "module", None), "names", None) or facts["names"]
    return dict(names) if isinstance(names, dict) else dict(enumerate(names))


def observers_of(
    opt: argparse.Namespace, facts: dict[str, Any], names: dict[int, str], kind: Kind
) -> tuple[list[Any], Any]:
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

        class_map = coco80_to_coco91_class() if is_coco(facts) else list(range(max(1000, len(names))))
        coco = kind.collect_json(class_map, names)
        observers.append(coco)
    return observers, coco


def collector_of(opt: argparse.Namespace, facts: dict[str, Any]) -> Any:
    """Return what keeps the predictions of the evaluation for its diagnosis."""
    from utils.diagnosis.inputs import load_ground_truth
    from utils.diagnosis.model_predictions import ViewCollector

    if opt.single_cls or opt.task not in SPLITS:
        what = "--single-cls, which leaves no classes to tell apart" if opt.single_cls else f"--task {opt.task}"
        raise InputError(f"--diagnose with {what}: allowed are --task {', '.join(SPLITS)} and all classes")
    source = weights_text(opt.weights) if opt.weights else "model"
    return ViewCollector(load_ground_truth(facts, split_of(opt)), source=source)


def is_coco(facts: dict[str, Any]) -> bool:
    """Say whether the validation entry is COCO's own list, whose categories have other numbers."""
    val = facts.get("val")
    return isinstance(val, str) and Path(val).as_posix().endswith("coco/val2017.txt")


# After the work -------------------------------------------------------------------------------------------------------


def diagnose(opt: argparse.Namespace, facts: dict[str, Any], collector: Any) -> None:
    """Write the diagnosis of the predictions that the evaluation made."""
    from utils.diagnosis.command import diagnose_run

    further = dict(opt.diagnose) if isinstance(opt.diagnose, dict) else {}
    options = {"split": split_of(opt), "imgsz": opt.imgsz, "task": ["balance", "errors"], **further}
    if opt.weights:
        options.setdefault("weights", [weights_text(opt.weights)])
    data = opt.data if isinstance(opt.data, (str, Path)) else facts
    diagnose_run(data, opt.save_dir / "diagnosis", views=collector.views(), gt=collector.gt, **options)


def save_thresholds(path: str | Path, result: Any, opt: argparse.Namespace, facts: dict[str, Any]) -> None:
    """Write the confidence with the best F1 of each class, and in one line which run and data they are from."""
    if opt.single_cls and len(result.names) > 1:
        LOGGER.info("No thresholds.yaml: --single-cls measures no single class of this model")
        return
    data = opt.data if isinstance(opt.data, (str, Path)) else facts.get("path", "")
    weights = f", weights {weights_text(opt.weights)}" if opt.weights else ""
    given = {"conf_thres": opt.conf_thres, "class_thres": opt.class_thres, "cls_tau": opt.cls_tau or None}
    limits = "".join(f", {key} {value}" for key, value in given.items() if value is not None)
    result.save_thresholds(
        path, f"{opt.save_dir}{weights}, data {data} ({split_of(opt)}), {result.seen} images{limits}"
    )


def score_json(result: Any, opt: argparse.Namespace, facts: dict[str, Any], coco: Any) -> tuple[float, ...]:
    """Save the JSON and score it by COCO's rules; return the results, with COCO's mAP where COCO was evaluated."""
    results = result.as_tuple()
    stem = Path(weights_text(opt.weights)).stem if opt.weights else ""
    coco.save(opt.save_dir / f"{stem}_predictions.json")
    folders = [Path(facts.get("path") or "."), *([Path("../datasets/coco")] if is_coco(facts) else [])]
    places = list(dict.fromkeys(folder / COCO_ANNOTATIONS for folder in folders))
    found = next((place for place in places if place.exists()), None)
    try:
        if found is None:
            LOGGER.info(f"No annotations at {' or '.join(map(str, places))}: scoring against the labels instead")
            coco.score_against_labels()
        else:
            for k, (map_all, map50) in enumerate(coco.scores_against(found)):
                results = (*results[: 4 * k + 2], map50, map_all, *results[4 * k + 4 :])
    except WorkError as error:
        LOGGER.warning(f"COCO scoring was not possible: {error}")
    return results


def log_end(result: Any, opt: argparse.Namespace) -> None:
    """Log the time taken, the run folder and how many text files it holds."""
    shape = (opt.batch_size, 3, opt.imgsz, opt.imgsz)
    times = "Speed: {:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms NMS per image".format(*result.speed)
    LOGGER.info(f"{times} at shape {shape}")
    LOGGER.info(f"Results saved to {colorstr('bold', opt.save_dir)}")
    if opt.save_txt:
        count = sum(1 for _ in (opt.save_dir / "labels").rglob("*.txt"))
        LOGGER.info(f"{count} label files saved to {opt.save_dir / 'labels'}")


def weights_text(weights: str | Path | list[str]) -> str:
    """Return the first of the weights as text."""
    return str(weights[0] if isinstance(weights, (list, tuple)) else weights)


# Tasks ----------------------------------------------------------------------------------------------------------------


def parse_options(
    description: str | None, weights: Path, data: Path, project: Path, without: Collection[str] = ()
) -> argparse.Namespace:
    """Return the options of a validation command's line.

    Args:
        description: of the command.
        weights, data, project: defaults of these options.
        without: options that the command lacks.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add(*names: str, **settings: Any) -> None:
        if names[0] not in without:
            parser.add_argument(*names, **settings)

    add("--data", type=str, default=data, help="data set YAML")
    add("--weights", nargs="+", type=str, default=weights, help="model file; several detectors make an ensemble")
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
    add("--project", default=project, help="folder of the run folders")
    add("--name", default="exp", help="name of the run folder")
    add("--exist-ok", action="store_true", help="use an existing run folder")
    add("--half", action="store_true", help="float16 inference on CUDA")
    add("--dnn", action="store_true", help="OpenCV DNN for ONNX files")
    opt = parser.parse_args()
    opt.save_json |= str(opt.data).endswith("coco.yaml")
    opt.save_txt |= opt.save_hybrid
    return opt


def carry_out(opt: argparse.Namespace, kind: Kind, run: Callable[..., Returned]) -> None:
    """Carry out the task that a command's options name.

    Args:
        opt: the options as parsed.
        kind: what the command adds.
        run: the command's ``run``.

    Raises:
        InputError: an option or input does not fit.
    """
    from utils.paths import check_file

    setup_logging()
    LOGGER.info(colorstr(f"{kind.script}: ") + ", ".join(f"{key}={value}" for key, value in vars(opt).items()))
    check_ranges(opt)
    opt.data = check_file(opt.data)  # a YAML, or a zip or tar with one inside
    if opt.task in SPLITS:
        if opt.conf_thres > 0.001:
            LOGGER.warning(f"--conf-thres {opt.conf_thres} is above 0.001: mAP comes out too low")
        if getattr(opt, "class_thres", None):
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
    study(opt, every, run)


def study(opt: argparse.Namespace, every: Sequence[str], run: Callable[..., Returned]) -> None:
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
