"""What the training commands of all tasks do around a session: options, resumption, signals, the process group."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError, MissingFileError
from utils.logs import LOGGER, colorstr, setup_logging
from utils.training.world import World

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[2]
Files = Callable[[argparse.Namespace], None]


@dataclass(frozen=True)
class Script:
    """A training command.

    Attributes:
        file: the script's path.
        build_parser: returns its parser.
        find_files: replaces names of files among the checked options by paths.
        make_task: returns what is trained, for --evolve; None where the command has no such option.
    """

    file: Path
    build_parser: Callable[[], argparse.ArgumentParser]
    find_files: Files
    make_task: Callable[[], Any] | None = None


def find_detection_files(opt: argparse.Namespace) -> None:
    """Find the files of data, hyp and cfg; with ``--name cfg`` name the run after the latter."""
    from utils.paths import check_file, check_yaml

    if not isinstance(opt.data, dict):
        opt.data = str(check_file(opt.data))  # a YAML, or a zip or tar with one inside
    if not isinstance(opt.hyp, dict):
        opt.hyp = str(check_yaml(opt.hyp))
    opt.cfg = str(check_yaml(opt.cfg)) if opt.cfg else ""
    if opt.name == "cfg":
        opt.name = Path(opt.cfg).stem


def prepare(
    script: Script, opt: argparse.Namespace, given: dict[str, Any] | None = None
) -> tuple[argparse.Namespace, torch.device]:
    """Check the options, take those of a resumed run, find files, and join the process group."""
    from utils.torch_utils import select_device
    from utils.training import options
    from utils.training.distributed import join_group

    world = World.from_environment()
    options.fill_missing(opt)
    if opt.resume and not opt.evolve:
        opt = resume_options(script, opt, given)
    opt.weights = str(opt.weights).strip("'\"")  # Windows' command line passes '' on with its quotes
    options.check_options(opt, world.size)
    options.warn_unused(opt)
    opt.project = str(opt.project)
    try:
        script.find_files(opt)
    except MissingFileError as error:
        if not opt.resume:
            raise
        raise MissingFileError(f"{error}; where the data has moved, name its place with --data") from None
    device = select_device(opt.device, batch_size=opt.batch_size)
    options.check_device(opt, device)
    return opt, join_group(world, device)


def resume_options(script: Script, opt: argparse.Namespace, given: dict[str, Any] | None = None) -> argparse.Namespace:
    """Return the options of the run to resume: the named last.pt, or the latest below the working folder or runs/.

    Args:
        script: the command.
        opt: the options as parsed.
        given: those that the user named, by default on the command line; they must not contradict the saved run.
    """
    from utils.paths import get_latest_run
    from utils.training import options

    named = isinstance(opt.resume, (str, Path))
    latest = opt.resume if named else get_latest_run() or get_latest_run(ROOT / "runs")
    if not latest:
        raise InputError(f"--resume: no last.pt below {Path.cwd()} or runs/; allowed is --resume path/to/last.pt")
    checkpoint = Path(latest).absolute()  # the run folder is above it, wherever the command is given
    given = named_options(script) if given is None else given
    resumed = options.resumed_options(opt, checkpoint, options.saved_options(checkpoint), given)
    resumed.save_dir = str(checkpoint.parent.parent)
    resumed.project, resumed.name = str(checkpoint.parent.parent.parent), checkpoint.parent.parent.name
    return resumed


def named_options(script: Script) -> dict[str, Any]:
    """Return the options that the command line names; none where another program runs."""
    from utils.training import options

    is_command = Path(sys.argv[0]).resolve() == script.file
    return options.explicit_options(script.build_parser(), sys.argv[1:]) if is_command else {}


def run_training(
    script: Script,
    train: Callable[..., tuple[float, ...]],
    opt: argparse.Namespace,
    callbacks: Any = None,
    given: dict[str, Any] | None = None,
) -> tuple[float, ...]:
    """Resolve the options and train.

    Args:
        script: the command.
        train: (hyp, opt, device, callbacks, signals) -> results.
        opt: the options as parsed, which become those of the run.
        callbacks: hooks of the run.
        given: as for ``resume_options``.
    """
    from utils.callbacks import Callbacks
    from utils.cv import require_cv2
    from utils.training.distributed import leave_group, report_failure, watch_group
    from utils.training.folder_lock import release_folders
    from utils.training.preemption import StopSignals

    world = World.from_environment()
    begun = datetime.datetime.now()
    with StopSignals().watched() as signals:
        try:
            require_cv2()
            setup_logging(world.rank)
            watch_group(world)
            prepared, device = prepare(script, opt, given)
            vars(opt).update(vars(prepared))
            LOGGER.info(colorstr("train: ") + ", ".join(f"{name}={value}" for name, value in vars(opt).items()))
            trained = _evolve if opt.evolve else _train
            results = trained(script, train, opt, device, callbacks or Callbacks(), signals, given)
        except BaseException as error:
            report_failure(error)
            raise
        finally:
            leave_group()
            release_folders()
    LOGGER.info(f"Started {begun:%Y-%m-%d %H:%M:%S}\nResults saved to {colorstr('bold', opt.save_dir)}")
    return results


def _train(  # noqa: PLR0913, PLR0917 (as _evolve takes them)
    script: Script, train: Any, opt: argparse.Namespace, device: Any, callbacks: Any, signals: Any, given: Any
) -> tuple[float, ...]:
    return train(opt.hyp, opt, device, callbacks, signals)


def _evolve(  # noqa: PLR0913, PLR0917 (what a search takes)
    script: Script, train: Any, opt: argparse.Namespace, device: Any, callbacks: Any, signals: Any, given: Any
) -> tuple[float, ...]:
    from utils.evolution.command import evolve

    if script.make_task is None:
        raise InputError(f"--evolve: {script.file.name} searches for no hyperparameters; allowed is a single run")
    task = script.make_task()
    return evolve(
        train, opt, device, callbacks, signals, columns=task.result_columns, fitness=task.fitness,
        given=named_options(script) if given is None else given, script=script.file.relative_to(ROOT).as_posix(),
    )  # fmt: skip


def from_keywords(
    parser: argparse.ArgumentParser, main: Callable[..., Any], keywords: dict[str, Any]
) -> argparse.Namespace:
    """Train from Python with options by name; return the options, with ``save_dir`` set to the run's folder."""
    from utils.training.options import ALIASES, apply_keywords

    opt = apply_keywords(parser.parse_args([]), keywords)
    main(opt, given={ALIASES.get(name, name): value for name, value in keywords.items()})
    return opt
