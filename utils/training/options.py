"""Options of a training run: checked together before work, saved as opt.yaml, taken back by --resume."""

from __future__ import annotations

import argparse
import copy
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError, InputErrors, MissingFileError
from utils.hyperparameter_table import plain_number
from utils.logs import LOGGER
from utils.training.world import World

if TYPE_CHECKING:
    import torch

PYTHON_ONLY = {"class_weights"}  # options of train.run that the command line does not have
CHANGEABLE_ON_RESUME = {  # data may move; that it is the same is checked by its content
    "resume", "data", "device", "workers", "local_rank", "epochs", "exist_ok", "save_steps", "diagnose",
}  # fmt: skip
ALIASES = {"img": "imgsz", "img_size": "imgsz", "batch": "batch_size"}  # of train.run's keywords

# option: (least, greatest); None is no bound
RANGES: dict[str, tuple[float | None, float | None]] = {
    "epochs": (1, None), "imgsz": (32, None), "workers": (0, None), "patience": (0, None), "seed": (0, 2**31 - 1),
    "label_smoothing": (0.0, 1.0), "save_period": (-1, None), "save_steps": (0, None), "bbox_interval": (-1, None),
}  # fmt: skip

# Options of train.py that a session reads and that another task's command may lack, with what switches them off.
SHARED = {
    "cfg": "", "hyp": {}, "rect": False, "resume": False, "nosave": False, "noval": False, "noautoanchor": False,
    "noplots": False, "evolve": None, "resume_evolve": None, "cache": None, "image_weights": False,
    "multi_scale": False, "single_cls": False, "sync_bn": False, "quad": False, "cos_lr": False,
    "label_smoothing": 0.0, "patience": 100, "freeze": [0], "save_period": -1, "save_steps": 0, "diagnose": False,
    "compile": False, "augment_on_device": False, "bbox_interval": -1, "artifact_alias": "latest", "entity": None,
    "upload_dataset": False, "bucket": "",
}  # fmt: skip


def fill_missing(opt: argparse.Namespace) -> None:
    """Give the options of SHARED that a task's command lacks."""
    for name, value in SHARED.items():
        if not hasattr(opt, name):
            setattr(opt, name, copy.copy(value))


def check_options(opt: argparse.Namespace, world_size: int) -> None:
    """Check every option of train.py that has a range or excludes another.

    Raises:
        InputErrors: all problems together, one line each: option, value, what is allowed.
    """
    problems = []
    for name, (least, greatest) in RANGES.items():
        value = getattr(opt, name)
        if not (least is None or value >= least) or not (greatest is None or value <= greatest):  # so that nan is out
            bounds = f"at least {least}" if greatest is None else f"{least} to {greatest}"
            problems.append(f"--{name.replace('_', '-')} {value}: allowed is {bounds}")
    if opt.batch_size < 1 and opt.batch_size != -1:
        problems.append(f"--batch-size {opt.batch_size}: allowed is at least 1, or -1 to choose by free GPU memory")
    if opt.cache not in {None, "ram", "disk", "val"}:
        problems.append(f"--cache {opt.cache}: allowed are ram, disk, val")
    if opt.evolve is not None or opt.resume_evolve:
        from utils.evolution.options import evolution_problems

        problems += evolution_problems(opt, world_size)
    problems += _unknown_services()
    problems += _excluded_together(opt)
    if world_size > 1:
        problems += _problems_of_several_processes(opt, world_size)
    if problems:
        raise InputErrors(problems)


def _unknown_services() -> list[str]:
    from utils.loggers.services import unknown_services

    return unknown_services()


def _excluded_together(opt: argparse.Namespace) -> list[str]:
    problems = []
    if not opt.cfg and not opt.weights:
        problems.append("--cfg '' and --weights '': one of the two must name a model")
    if opt.single_cls and opt.image_weights:
        problems.append(
            "--single-cls with --image-weights: one class leaves nothing to weigh; allowed is one of the two"
        )
    return problems


def _problems_of_several_processes(opt: argparse.Namespace, world_size: int) -> list[str]:
    problems = []
    if opt.batch_size == -1:
        problems.append("--batch-size -1: allowed with one process only; give the batch size of all processes together")
    elif opt.batch_size % world_size:
        problems.append(f"--batch-size {opt.batch_size}: allowed are multiples of the {world_size} processes")
    return problems


def check_device(opt: argparse.Namespace, device: torch.device) -> None:
    """Refuse what the device that was chosen makes pointless.

    Raises:
        InputError: --augment-on-device without a GPU.
    """
    if opt.augment_on_device and device.type == "cpu":
        raise InputError(
            "--augment-on-device: this run trains on the CPU, where the loader does the same anyway; allowed with a GPU"
        )


def warn_unused(opt: argparse.Namespace) -> None:
    """Say which given options have no effect, so that none is ignored in silence, and switch them off."""
    if opt.rect and opt.image_weights:
        LOGGER.warning("WARNING --rect: has no effect with --image-weights, which draws the order of the images")
        opt.rect = False
    if opt.sync_bn and not World.from_environment().is_distributed:
        LOGGER.warning("WARNING --sync-bn: has no effect in a single process")
        opt.sync_bn = False
    if opt.artifact_alias != "latest":
        LOGGER.warning(f"WARNING --artifact_alias {opt.artifact_alias}: has no effect, data sets come from files alone")
    if opt.bucket:
        LOGGER.warning(f"WARNING --bucket {opt.bucket}: has no effect, all files stay in the run's folder")
    devices = [part for part in str(opt.device or "").split(",") if part.strip()]
    if len(devices) > 1 and not World.from_environment().is_distributed:
        LOGGER.warning(
            f"WARNING --device {opt.device}: one process trains on one GPU, here the first; all of them are used by "
            f"torchrun --nproc_per_node {len(devices)} train.py ..."
        )


def apply_keywords(opt: argparse.Namespace, keywords: dict[str, Any]) -> argparse.Namespace:
    """Set options by name, as ``train.run(epochs=3)`` gives them.

    Raises:
        InputErrors: names that are no option, with the nearest that is.
    """
    known = vars(opt)
    problems = []
    for name, value in keywords.items():
        name = ALIASES.get(name, name)
        if name in PYTHON_ONLY:
            value = plain_weights(value)
        elif name not in known:
            near = difflib.get_close_matches(name, known, 1)
            problems.append(f"{name}={value!r}: no such option" + (f"; did you mean {near[0]}?" if near else ""))
        setattr(opt, name, value)
    if problems:
        raise InputErrors(problems)
    return opt


def plain_weights(weights: Any) -> Any:
    """Return class weights given from Python as plain lists, mappings and text, which opt.yaml can hold."""
    return plain_number(weights.tolist() if hasattr(weights, "tolist") else weights)


def plain_options(opt: argparse.Namespace) -> dict[str, Any]:
    """Return the options as YAML and checkpoints hold them: paths as text, everything else as it is."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(opt).items()}


def explicit_options(parser: argparse.ArgumentParser, arguments: list[str]) -> dict[str, Any]:
    """Return only the options that the command line names."""
    missing = object()
    empty = argparse.Namespace(**{action.dest: missing for action in parser._actions})
    given, _ = parser.parse_known_args(arguments, empty)
    return {name: value for name, value in vars(given).items() if value is not missing}


def resumed_options(
    opt: argparse.Namespace, checkpoint: Path, saved: dict[str, Any], given: dict[str, Any]
) -> argparse.Namespace:
    """Return the options of the saved run, with those changed that may be.

    Args:
        opt: options as parsed.
        checkpoint: the file to resume.
        saved: its run's options.
        given: the options that the command line names.

    Raises:
        InputErrors: an option is named that would change the result.
    """
    merged = argparse.Namespace(**{**vars(opt), **{k: v for k, v in saved.items() if k != "save_dir"}})
    problems = []
    for name, value in given.items():
        if name not in CHANGEABLE_ON_RESUME and name in saved and not _is_same(name, value, saved[name]):
            problems.append(
                f"--{name.replace('_', '-')} {value}: the run of {checkpoint} was started with "
                f"{_other_values(value, saved[name])}; "
                "allowed with --resume are the same value or none"
            )
    if "epochs" in given and given["epochs"] < saved.get("epochs", 1):
        problems.append(f"--epochs {given['epochs']}: the saved run has {saved['epochs']}; allowed is more, or none")
    if problems:
        raise InputErrors(problems)
    changes = [
        f"{name} {saved[name]} -> {given[name]}"
        for name in sorted(CHANGEABLE_ON_RESUME & set(given) - {"resume", "exist_ok"})
        if name in saved and str(saved[name]) != str(given[name])
    ]
    if changes:
        LOGGER.info(f"--resume {checkpoint}: {', '.join(changes)}; all else as the run was started")
    for name in CHANGEABLE_ON_RESUME & set(given):
        setattr(merged, name, given[name])
    merged.weights, merged.cfg, merged.resume, merged.exist_ok = str(checkpoint), "", True, True
    return merged


def _is_same(name: str, given: Any, saved: Any) -> bool:
    """Tell whether an option names what the saved run used, so that a run's own command resumes it with --resume added.

    Files may be named in another way, ``hyp`` is saved as its content, and a measured batch size stands for -1.
    """
    from utils.paths import check_yaml
    from utils.training.resume_settings import hyp_differences
    from utils.yaml_files import read_yaml

    if given == saved or str(given) == str(saved) or (name == "batch_size" and given == -1):
        return True
    if name == "project":
        return Path(given).resolve() == Path(saved).resolve()
    if name not in {"cfg", "hyp"} or not given or not saved:
        return False
    if isinstance(saved, dict):
        now = given if isinstance(given, dict) else read_yaml(check_yaml(given))
        return not hyp_differences(*_without_smoothing(saved, now))
    return Path(check_yaml(given)).resolve() == Path(check_yaml(saved)).resolve()


def _without_smoothing(*mappings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return hyperparameters without the one that an option of its own may have changed."""
    return [{key: value for key, value in mapping.items() if key != "label_smoothing"} for mapping in mappings]


def _other_values(given: Any, saved: Any) -> Any:
    """Return what a run was started with; of hyperparameters only what the given file tells differently."""
    from utils.paths import check_yaml
    from utils.training.resume_settings import hyp_differences
    from utils.yaml_files import read_yaml

    if not isinstance(saved, dict):
        return saved
    now = given if isinstance(given, dict) else read_yaml(check_yaml(given))
    differing = hyp_differences(*_without_smoothing(saved, now))
    more = f" and {len(differing) - 2} more" if len(differing) > 2 else ""
    return f"other values ({', '.join(differing[:2])}{more})"


def saved_options(checkpoint: Path) -> dict[str, Any]:
    """Return the options of the run that wrote ``checkpoint``: its opt.yaml, else the checkpoint's own copy.

    The number of epochs is the greater of the two: a resumed run may have been given more than opt.yaml says.

    Raises:
        MissingFileError: no such checkpoint.
        InputError: neither holds options, or they differ where that changes the result.
    """
    from utils.checkpoint import load_checkpoint
    from utils.training.resume_settings import refuse_edited_options
    from utils.yaml_files import read_yaml

    if not checkpoint.is_file():
        last = checkpoint / "weights" / "last.pt"
        found = f"is a folder, its checkpoint is {last}" if last.is_file() else "no such file"
        raise MissingFileError(f"--resume {checkpoint}: {found}; allowed is a last.pt of an interrupted run")
    beside = checkpoint.parent.parent / "opt.yaml"
    own = load_checkpoint(checkpoint).get("opt")
    options = read_yaml(beside) if beside.is_file() else own
    if not isinstance(options, dict):
        raise InputError(f"--resume {checkpoint}: it holds no options and {beside} is missing; start a new run with it")
    if options is not own and isinstance(own, dict):
        refuse_edited_options(beside, options, checkpoint, own)
        if _is_gone(options.get("data")) and not _is_gone(own.get("data")):
            options = {**options, "data": own["data"]}  # a run resumed with --data has its present place there alone
    settings = beside.with_name("hyp.yaml")
    if settings.is_file() and isinstance(own, dict) and isinstance(own.get("hyp"), dict):
        refuse_edited_options(settings, {"hyp": read_yaml(settings)}, checkpoint, own)
    epochs = [found["epochs"] for found in (options, own) if isinstance(found, dict) and "epochs" in found]
    return {**options, "epochs": max(epochs)} if epochs else options


def _is_gone(data: Any) -> bool:
    """Return whether an option names no data set, or one that does not lie there."""
    return not isinstance(data, dict) and not (isinstance(data, str) and Path(data).exists())
