"""``train.py --evolve``: trains trial after trial of a study that other processes may share."""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError, InputErrors, WorkError
from utils.evolution import options, records
from utils.evolution.locks import Worker, at_work
from utils.evolution.study import JOURNAL, Attempt, Study, is_usable
from utils.logs import LOGGER, colorstr
from utils.training.preemption import Interrupted

MOST_FAILURES = 5  # one after another in one process: then something else than the hyperparameters is wrong


@dataclass
class Evolution:
    """A search in this process.

    Attributes:
        opt: options of the command.
        study: shared with other processes.
        worker: this process.
        train: (hyp, opt, device, callbacks, signals) -> results.
        columns: names of the results; precision, recall, mAP50 and mAP50-95 first.
        fitness: results -> what is to become great.
        device: where to train.
        callbacks: the user's hooks, for every trial.
        signals: utils.training.preemption.StopSignals at watch.
    """

    opt: argparse.Namespace
    study: Study
    worker: Worker
    train: Callable[..., tuple[float, ...]]
    columns: tuple[str, ...]
    fitness: Callable[[tuple[float, ...]], float]
    device: Any
    callbacks: Any
    signals: Any
    script: str = "train.py"
    failures: int = 0

    def run(self) -> None:
        """Train trials until the study has as many generations as asked for.

        Raises:
            Interrupted: a signal came; the trial at work is repeated when the search goes on.
            WorkError: several trials in a row failed, or a file cannot be written.
            InputError: the data set or an option does not fit.
        """
        records.write_records(self.study, self.columns)
        while True:
            self._check_signals()
            attempt = self.study.claim(self.opt.evolve, self.worker)
            if attempt is None:
                return
            self._try(attempt)
            best = records.write_records(self.study, self.columns)
            records.log_generation(self.study, attempt.number, best, self.columns)
            _set_memory_free()

    def _try(self, attempt: Attempt) -> None:
        LOGGER.info(f"\n{records.PREFIX}generation {attempt.generation + 1}/{self.opt.evolve} (trial {attempt.number})")
        try:
            results = self._train(attempt)
        except (Interrupted, InputError, KeyboardInterrupt, SystemExit) as error:
            self.study.give_up(attempt)
            if isinstance(error, Interrupted):
                self._check_signals()
            raise
        except Exception as error:  # noqa: BLE001 (whatever a trial's training raises is that trial's end)
            self._failed(attempt, error)
            return
        fitness = self.fitness(results)
        if not is_usable(results, fitness):
            self._failed(attempt, WorkError("its results are not finite"))
            return
        self.failures = 0
        self.study.finish(attempt, results, fitness)

    def _train(self, attempt: Attempt) -> tuple[float, ...]:
        opt = options.trial_options(self.opt, self.study.folder, attempt.number)
        try:
            results = self.train(copy.deepcopy(attempt.hyp), opt, self.device, self._hooks(), self.signals)
        finally:
            _release_folder(opt)
        self.opt.batch_size = opt.batch_size  # with --batch-size -1 it is measured once
        return tuple(float(value) for value in results)

    def _hooks(self) -> Any:
        """Return the user's hooks anew: a run adds its own to what it gets."""
        from utils.callbacks import Callbacks

        hooks = Callbacks()
        for hook, actions in self.callbacks.get_registered_actions().items():
            for action in actions:
                hooks.register_action(hook, action["name"], action["callback"])
        return hooks

    def _failed(self, attempt: Attempt, error: Exception) -> None:
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        reason = reason if hasattr(error, "exit_status") else f"{type(error).__name__}: {reason}"
        LOGGER.warning(f"WARNING trial {attempt.number} failed and counts for nothing: {reason}")
        self.study.fail(attempt, reason)
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            records.write_records(self.study, self.columns)
            raise WorkError(
                f"{self.study.folder}: {self.failures} trials in a row failed, the last one: {reason}"
            ) from error

    def _check_signals(self) -> None:
        folder = self.study.folder
        again = f"python {self.script} --evolve {self.opt.evolve} --resume_evolve {folder}"
        self.signals.check(message=f" in the evolution {folder}; go on with: {again}")


def evolve(  # noqa: PLR0913 (what a search takes)
    train: Callable[..., tuple[float, ...]],
    opt: argparse.Namespace,
    device: Any,
    callbacks: Any,
    signals: Any,
    *,
    columns: tuple[str, ...],
    fitness: Callable[[tuple[float, ...]], float],
    given: Mapping[str, Any] | None = None,
    script: str = "train.py",
) -> tuple[float, ...]:
    """Search for better hyperparameters and return the best trial's results.

    The folder's journal is the truth; evolve.csv, hyp_evolve.yaml, evolve_population.yaml and evolve.png follow it.

    Args:
        train: (hyp, opt, device, callbacks, signals) -> results.
        opt: checked options, with ``evolve`` generations; gets ``save_dir``.
        device, callbacks, signals: for the trials.
        columns: names of the results.
        fitness: of the results.
        given: options that the user named.
        script: the command, for what is said about going on.

    Raises:
        InputError: an option, the hyp file or the folder does not fit.
        WorkError: trials fail one after another, or a file cannot be written.
        Interrupted: a signal came.
    """
    folder = options.study_folder(opt)
    study = open_study(folder, opt, given or {})
    opt.save_dir = str(study.folder)
    if not study.space.ranges:
        raise InputError("--evolve: the hyp file has no number that may change; allowed is one like data/hyps/*.yaml")
    fixed = [key for key in study.space.start if key not in study.space.ranges]
    LOGGER.info(
        f"{records.PREFIX}{opt.evolve} generations in {colorstr('bold', study.folder)}, "
        f"{len(study.space.ranges)} hyperparameters change, these stay: {', '.join(fixed) or 'none'}"
    )
    with at_work(study.folder / "workers") as worker:
        evolution = Evolution(opt, study, worker, train, columns, fitness, device, callbacks, signals, script)
        try:
            evolution.run()
        finally:
            if not opt.noplots:
                with contextlib.suppress(InputError, WorkError):
                    records.draw_records(study, columns)
    with contextlib.suppress(OSError):
        (study.folder / "workers").rmdir()  # the last one to leave
    return end(study, script)


def open_study(folder: Path, opt: argparse.Namespace, given: Mapping[str, Any]) -> Study:
    """Open the study of a folder, a new one where there is none, and take its settings.

    Raises:
        InputError: the folder cannot be made or holds something else; the options differ from the study's.
    """
    is_new = not (folder / JOURNAL).is_file()
    facts = options.beginning(opt) if is_new else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputErrors([f"{folder}: the folder cannot be made ({error.strerror})"]) from error
    study = Study(folder, facts)
    if not is_new or study.facts["settings"] != (facts or {})["settings"]:  # another process was faster
        options.take_settings(opt, study.facts, dict(vars(opt)) if is_new else given, folder)
    return study


def end(study: Study, script: str) -> tuple[float, ...]:
    """Log what the search found and return the best trial's results.

    Raises:
        WorkError: no trial could be trained to its end.
    """
    done = study.finished()
    if not done:
        reasons = [trial.reason for trial in study.failed()]
        last = f", the last one: {reasons[-1]}" if reasons else ""
        raise WorkError(f"{study.folder}: no trial was finished{last}")
    best = max(done, key=lambda trial: (trial.fitness, -trial.generation))
    start = f"{done[0].fitness:.5g}" if done[0].generation == 0 else "failed"
    LOGGER.info(
        f"{records.PREFIX}{len(done)} generations, best fitness {best.fitness:.5g} in generation {best.generation} "
        f"(start: {start})\nUse it: python {script} --hyp {study.folder / records.BEST}"
    )
    return best.results


def _release_folder(opt: argparse.Namespace) -> None:
    """Free the trial's folder and remove the empty one for weights."""
    from utils.training.folder_lock import release_folders

    release_folders()
    with contextlib.suppress(OSError):
        (Path(opt.project) / opt.name / "weights").rmdir()


def _set_memory_free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
