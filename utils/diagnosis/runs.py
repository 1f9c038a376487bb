"""The runs that a command names: predictions from weights, files or folders, and what a training left beside them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.diagnosis.compare import Run
from utils.diagnosis.data import GroundTruth, ImageInfo, Predictions
from utils.diagnosis.inputs import Views, load_ground_truth, load_predictions
from utils.diagnosis.judge import Judged, judge
from utils.diagnosis.tide import tide
from utils.errors import InputError
from utils.hyperparameters import NOMINAL_CLASSES, NOMINAL_LAYERS
from utils.paths import ROOT, check_file, check_yaml
from utils.yaml_files import read_yaml

MODEL_ENDINGS = (".pt", ".pth", ".onnx", ".torchscript", ".engine", ".pb", ".tflite", ".xml", ".mlmodel")
MODEL_FOLDER = "_model"  # end of the names of folders that export.py writes
DEFAULT_HYP = ROOT / "data/hyps/hyp.scratch-low.yaml"
# What an advised command says itself (image_weights as a sampler), and what only names a run or begins another kind.
NOT_REPEATED = {
    "help", "data", "hyp", "imgsz", "image_weights", "project", "name", "exist_ok", "resume", "local_rank", "evolve",
    "evolve_population", "resume_evolve", "bucket", "artifact_alias", "upload_dataset",
}  # fmt: skip


def predictions_of(source: str | Sequence[str], opt: argparse.Namespace, gt: GroundTruth, option: str) -> Views:
    """Return the predictions of weights, of a COCO JSON or of a label folder on the images of ``gt``.

    Args:
        source: of these, one of the latter two or any number of weights.
        opt: the options.
        gt: of the judged split.
        option: which of them named the source, for messages.

    Raises:
        InputError: it is none of these, or does not fit the data set.
    """
    if isinstance(source, str):
        path = Path(source)
        best = path / "weights" / "best.pt"
        if best.is_file():
            raise InputError(f"{option} {source}: is a run folder, its weights are {best}")
        exported = path.name.endswith(MODEL_FOLDER)
        if path.suffix.lower() == ".json" or (path.is_dir() and not exported and option != "--weights"):
            return load_predictions(source, gt, opt.annotations)
    from utils.diagnosis.model_predictions import predict_views

    views, _ = predict_views(
        source, opt.data, gt, imgsz=opt.imgsz, batch_size=opt.batch_size, device=opt.device, workers=opt.workers,
        half=opt.half, augment=opt.augment, iou_thres=opt.iou_thres, max_det=opt.max_det, agnostic=opt.agnostic_nms,
    )  # fmt: skip
    return views


def run_names(first: str, others: Sequence[str]) -> list[str]:
    """Return a short name for each run, the first included, all different."""
    paths = [Path(source) for source in (first, *others)]
    names = [path.stem if path.is_file() else path.name for path in paths]
    if len(set(names)) < len(names):  # weights/best.pt of several runs
        names = [str(path.parent.parent.name or path.parent.name) + f"/{path.name}" for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def compared_run(name: str, judged: Judged) -> Run:
    """Return a judged run for a comparison, its AP view without filters."""
    settings = judged.ap_view.settings
    plain = judged.ap_view
    if settings.area is not None or settings.classes is not None:
        from utils.diagnosis.tide import TideSettings

        plain = tide(judged.gt, judged.views.a, TideSettings(settings.t_f, settings.t_b))
    return Run(name, judged.gt, judged.views.a, plain, judged.operating)


# The training run -----------------------------------------------------------------------------------------------------


def model_facts(weights: Sequence[str] | None) -> dict[str, Any]:
    """Return the architecture's name, parameters and output layers of one checkpoint, None where it does not tell."""
    unknown = {"model": None, "parameters": None, "layers": None}
    if not weights or len(weights) != 1 or Path(weights[0]).suffix.lower() not in {".pt", ".pth"}:
        return unknown
    from utils.checkpoint import load_checkpoint

    model = load_checkpoint(check_file(weights[0])).get("model")
    if model is None or not hasattr(model, "parameters"):
        return unknown
    name = getattr(model, "yaml_file", None)
    parameters = sum(p.numel() for p in model.parameters())
    layers = getattr(model.model[-1], "nl", None) if hasattr(model, "model") else None
    return {"model": Path(name).stem if name else None, "parameters": parameters, "layers": layers}


class BaseHyp(NamedTuple):
    """Hyperparameters that the advice starts from, where they come from, and whether the run was trained with them."""

    settings: Mapping[str, Any]
    source: str
    of_run: bool = True


def base_hyp(opt: argparse.Namespace) -> BaseHyp:
    """Return --hyp, the hyp.yaml beside the weights, or for want of both those of hyp.scratch-low.yaml.

    Raises:
        InputError: --hyp cannot be read.
    """
    if opt.hyp:
        path = Path(check_yaml(opt.hyp))
        return BaseHyp(read_yaml(path), str(path))
    if opt.weights and len(opt.weights) == 1:
        beside = Path(opt.weights[0]).parent.parent / "hyp.yaml"
        if beside.is_file():
            return BaseHyp(read_yaml(beside), str(beside))
    return BaseHyp(read_yaml(DEFAULT_HYP), DEFAULT_HYP.name, of_run=False)


def with_image_weights(base: BaseHyp, weights: Sequence[str] | None) -> BaseHyp:
    """Return hyperparameters with the run's --image-weights as their sampler, which is the same."""
    if not (opt_beside(weights) or {}).get("image_weights") or base.settings.get("sampler") not in {None, "none"}:
        return base
    return base._replace(
        settings={**base.settings, "sampler": "image_weights"}, source=f"{base.source} with --image-weights"
    )


def opt_beside(weights: Sequence[str] | None) -> Mapping[str, Any] | None:
    """Return opt.yaml of the run that the weights lie in; None where there is none, or several weights."""
    if not weights or len(weights) != 1:
        return None
    beside = Path(weights[0]).parent.parent / "opt.yaml"
    return read_yaml(beside) if beside.is_file() else None


def train_options(weights: Sequence[str] | None) -> list[str] | None:
    """Return the words of train.py's options with which weights were trained, None where no opt.yaml tells them.

    Data, hyperparameters, image size and the run's name are left out, and what has its default value.
    """
    from utils.training.parser import training_parser

    saved = opt_beside(weights)
    if saved is None:
        return None
    parser = training_parser("", ROOT / "yolov5s.pt", ROOT / "data/coco128.yaml", ROOT / "runs/train")
    words: list[str] = []
    for action in parser._actions:
        value = saved.get(action.dest, action.default)
        if action.dest in NOT_REPEATED or value is None or str(value) == str(action.default):
            continue
        given = value if isinstance(value, list) else [] if action.const is True and value is True else [value]
        words += [action.option_strings[0], *map(str, given)]
    return words


def class_gains(base: BaseHyp, nc: int, layers: int | None) -> dict[str, Any]:
    """Return the gain ``cls`` of the class loss, ``class_gain``, that with which it was trained, and ``cls_loss``.

    All are None where the run's own settings are not known, ``cls_loss`` also where none was chosen.

    Args:
        base: hyperparameters.
        nc: classes.
        layers: output layers of the model, None where they are not known and three are assumed.
    """
    settings = base.settings if base.of_run else {}
    cls = settings.get("cls")
    share = nc / NOMINAL_CLASSES * NOMINAL_LAYERS / (layers or NOMINAL_LAYERS)
    return {"cls": cls, "class_gain": None if cls is None else cls * share, "cls_loss": settings.get("cls_loss")}


# Training images ------------------------------------------------------------------------------------------------------


def train_map50(opt: argparse.Namespace, facts: Mapping[str, Any], gt: GroundTruth) -> float | None:
    """Return mAP50 on a seeded sample of the training images, 0 to 100; None when there is none or it is judged anyway.

    Args:
        opt: the options.
        facts: of the data set, its paths absolute.
        gt: of the judged split.
    """
    from utils.dataset_yaml import find_images
    from utils.diagnosis.model_predictions import predict_views

    if not opt.train_images or not opt.weights or not facts.get("train"):
        return None
    judged = {str(Path(info.path).resolve()) for info in gt.images}
    images = [path for path in find_images(facts["train"]) if str(Path(path).resolve()) not in judged]
    if not images:
        return None
    chosen = np.random.default_rng(opt.seed).permutation(len(images))[: opt.train_images]
    with tempfile.TemporaryDirectory() as folder:
        data = listed_data(facts, [str(Path(images[i]).absolute()) for i in sorted(chosen.tolist())], Path(folder))
        sample = load_ground_truth(data, "val")
        if not len(sample):
            return None
        views, _ = predict_views(
            opt.weights, data, sample, imgsz=opt.imgsz, batch_size=opt.batch_size, device=opt.device,
            workers=opt.workers, half=opt.half, iou_thres=opt.iou_thres, max_det=opt.max_det,
        )  # fmt: skip
    return tide(sample, views.a).map_


def listed_data(facts: Mapping[str, Any], images: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return the facts of a data set whose val split is a list of images, which is written into ``folder``."""
    listed = folder / "images.txt"
    listed.write_text("".join(f"{path}\n" for path in images), encoding="utf-8", errors="surrogateescape")
    return {"path": str(facts["path"]), "train": str(listed), "val": str(listed), "names": dict(facts["names"])}


# Folds ----------------------------------------------------------------------------------------------------------------


def fold_predictions(
    opt: argparse.Namespace, truth: GroundTruth, folder: Path, trainer: Any, groups: np.ndarray | None = None
) -> Predictions:
    """Return predictions on the training images by models that were trained on the other folds.

    ``groups`` (images,) are kept in one fold each.

    Raises:
        InputError: this caller cannot train.
    """
    from utils.diagnosis.audit_folds import make_folds, out_of_sample, train_with

    if trainer is None:
        raise InputError("--folds: trains models, allowed with diagnose.py alone")
    options = {
        "weights": opt.init, "cfg": "" if opt.init else opt.cfg, "epochs": opt.epochs, "imgsz": opt.imgsz,
        "batch_size": opt.batch_size, "device": opt.device, "workers": opt.workers, "seed": opt.seed,
        **({"hyp": opt.hyp} if opt.hyp else {}),
    }  # fmt: skip

    def predict(weights: Path, images: list[ImageInfo]) -> Predictions:
        from utils.diagnosis.model_predictions import predict_views

        with tempfile.TemporaryDirectory() as place:
            facts = {"path": place, "names": truth.names}
            data = listed_data(facts, [str(Path(info.path).absolute()) for info in images], Path(place))
            part = load_ground_truth(data, "val")
            views, _ = predict_views(
                str(weights), data, part, imgsz=opt.imgsz, batch_size=opt.batch_size, device=opt.device,
                workers=opt.workers,
            )  # fmt: skip
        return _replaced(views.a, part, images)

    folds = make_folds(truth, opt.folds, opt.seed, groups)
    return out_of_sample(truth, folds, train_with(trainer, **options), predict, folder, repr(sorted(options.items())))


def _replaced(pred: Predictions, part: GroundTruth, images: Sequence[ImageInfo]) -> Predictions:
    """Return predictions with images numbered as in ``images`` instead of ``part``, by their files."""
    from utils.diagnosis.data import sort_predictions

    place = {str(Path(info.path).absolute()): number for number, info in enumerate(images)}
    number = np.array([place[str(Path(info.path).absolute())] for info in part.images], np.int64)
    image = number[pred.image] if len(pred) else pred.image
    return sort_predictions(image, pred.boxes, pred.conf, pred.cls, pred.source)


def judged_run(source: str, opt: argparse.Namespace, like: Judged, conf: float | np.ndarray | None) -> Judged:
    """Return another run's predictions, judged as ``like`` was."""
    return judge(like.gt, predictions_of(source, opt, like.gt, "--compare"), conf, None, like.ap_view.settings)
