"""Options of a search: which folder, which start, and what the processes of one study must have in common."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import InputError, InputErrors
from utils.evolution.records import POPULATION, read_population
from utils.evolution.study import JOURNAL
from utils.logs import LOGGER

ROOT = Path(__file__).resolve().parents[2]
STUDIES = {"train": "evolve", "train-seg": "evolve-seg"}  # default folder of runs -> that of searches
POPULATION_FOLDER = ROOT / "data" / "hyps"
# Options that every process of a study shares, because they change the results.
SHARED = (
    "weights", "cfg", "data", "epochs", "batch_size", "imgsz", "rect", "noautoanchor", "image_weights", "multi_scale",
    "single_cls", "optimizer", "quad", "cos_lr", "label_smoothing", "patience", "freeze", "seed", "mask_ratio",
    "no_overlap",
)  # fmt: skip


def evolution_problems(opt: argparse.Namespace, world_size: int) -> list[str]:
    """Return what is wrong with the options of a search, one line each."""
    problems = []
    resumed = getattr(opt, "resume_evolve", None)
    if not opt.evolve:
        return [f"--resume_evolve {resumed}: needs --evolve N"] if resumed else []
    if opt.evolve < 1:
        problems.append(f"--evolve {opt.evolve}: allowed is at least 1 generation")
    if world_size > 1:
        problems.append(
            "--evolve with torchrun: one process trains a trial; allowed are several train.py --evolve on one folder"
        )
    return problems


def study_folder(opt: argparse.Namespace) -> Path:
    """Return the folder of the search: the one to go on with, else <project>/<name> with a number where it is taken.

    ``runs/evolve`` or ``runs/evolve-seg`` takes the place of the default project. With --exist-ok (or --resume) the
    folder is used as it is: a study in it goes on.

    Raises:
        InputError: --resume_evolve names nothing that can be gone on with.
    """
    from utils.paths import increment_path

    named = getattr(opt, "resume_evolve", None)
    if named:
        path = Path(named)
        folder = path if path.is_dir() else path.parent
        if (folder / JOURNAL).is_file():
            return folder
        if not path.is_file():
            raise InputError(f"--resume_evolve {named}: no such evolution; allowed is its folder, or its {POPULATION}")
    project = Path(opt.project)
    if project.parent == ROOT / "runs" and project.name in STUDIES:
        project = project.with_name(STUDIES[project.name])
    return Path(increment_path(project / opt.name, exist_ok=bool(opt.exist_ok or opt.resume)))


def beginning(opt: argparse.Namespace) -> dict[str, Any]:
    """Return the facts of a new study: start, population, settings, seed.

    Raises:
        InputErrors: the hyp file is wrong.
        InputError: the population is.
    """
    from utils.hyperparameters import Hyperparameters
    from utils.training import build

    hyp: Hyperparameters = build.load_hyperparameters(opt.hyp)
    facts = {"hyp": hyp.to_dict(), "population": population(opt), "settings": shared_settings(opt), "seed": opt.seed}
    return json.loads(json.dumps(facts))  # as the journal gives them back


def population(opt: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the hyps to try after the start: those of another evolution, or of the folder of hyp files.

    Of the default folder no more than half of the generations are used.
    """
    named = getattr(opt, "resume_evolve", None)
    if named:
        return read_population(named)
    folder = getattr(opt, "evolve_population", None) or POPULATION_FOLDER
    if Path(folder).resolve() == POPULATION_FOLDER:
        return read_population(folder)[: opt.evolve // 2] if POPULATION_FOLDER.is_dir() else []
    return read_population(folder)


def shared_settings(opt: argparse.Namespace) -> dict[str, Any]:
    """Return the options that all processes of a study share, as JSON holds them."""
    from utils.training.options import plain_options

    values = plain_options(opt)
    return json.loads(json.dumps({key: values[key] for key in SHARED if key in values}))


def take_settings(opt: argparse.Namespace, facts: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    """Give the options the values of the study that is joined.

    Args:
        opt: changed in place.
        facts: of the study.
        given: options that the user named; they must agree with the study.
        folder: named in errors.

    Raises:
        InputErrors: every option that differs, one line each.
    """
    from utils.hyperparameters import Hyperparameters
    from utils.training import build
    from utils.training.resume_settings import hyp_differences

    settings, now = facts["settings"], shared_settings(opt)
    problems = [
        f"--{key.replace('_', '-')} {now[key]}: the evolution in {folder} was started with {value}; allowed is the "
        "same, or none"
        for key, value in settings.items()
        if key in given and key in now and now[key] != value
    ]
    if "hyp" in given:
        hyp: Hyperparameters = build.load_hyperparameters(opt.hyp)
        different = hyp_differences(facts["hyp"], hyp.to_dict())
        problems += [f"--hyp: the evolution in {folder} has another start: {text}" for text in different[:3]]
    if problems:
        raise InputErrors(problems)
    changed = [f"{key} {value}" for key, value in settings.items() if key in now and now[key] != value]
    if changed:
        LOGGER.info(f"options of the evolution in {folder}: {', '.join(changed)}")
    for key, value in settings.items():
        if now.get(key) != value:
            setattr(opt, key, value)


def trial_options(opt: argparse.Namespace, folder: Path, number: int) -> argparse.Namespace:
    """Return the options of one trial: no checkpoint, no picture, validation after the last epoch alone."""
    quiet = {
        "noval": True, "nosave": True, "noplots": True, "resume": False, "exist_ok": False, "save_period": -1,
        "save_steps": 0, "diagnose": False, "bbox_interval": -1, "upload_dataset": False,
        "project": str(folder / "trials"), "name": str(number),
    }  # fmt: skip
    return argparse.Namespace(**{**vars(opt), **quiet})
