"""The study: every trial of a search in one journal file that several processes share, and the choice of the next."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError, WorkError
from utils.evolution.locks import FileLock, JournalLock, Worker
from utils.evolution.space import Space
from utils.logs import LOGGER
from utils.rng import Stream, make_rng

JOURNAL = "study.journal"
NAME = "evolution"
STARTUP = 10  # generations that are mutations of one of the fittest so far; TPE chooses those after them
FITTEST = 5  # of which a mutation's parent is one
OWNER, GENERATION, RESULTS, REASON, INTERRUPTED = "process", "generation", "results", "reason", "interrupted"


@dataclass(frozen=True)
class Attempt:
    """A trial to be trained.

    Attributes:
        number: of the trial in the study.
        generation: from 0, its row in evolve.csv; the repetition of an interrupted trial has the same.
        hyp: every hyperparameter.
    """

    number: int
    generation: int
    hyp: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A trial that was trained to its end: its hyperparameters, validation results and fitness."""

    number: int
    generation: int
    hyp: dict[str, Any]
    results: tuple[float, ...]
    fitness: float


@dataclass(frozen=True)
class Failed:
    """A trial that could not be trained, and why."""

    number: int
    generation: int
    hyp: dict[str, Any]
    reason: str


class Study:
    """A search in a folder.

    Args:
        folder: holds the journal, or will.
        facts: of a new study: ``hyp`` (the start), ``population`` (further hyps to try first), ``settings`` (options
            that every process must share) and ``seed``. None opens one that is there.

    Attributes:
        facts: those of the study.
        space: what it changes.

    Raises:
        InputError: Optuna is missing, or the folder holds no study (or one that cannot be read).
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any] | None = None):
        self._optuna = load_optuna()
        self.folder = Path(folder)
        self._lock = FileLock(self.folder / ".evolution.lock")
        path = self.folder / JOURNAL
        if facts is None and not path.is_file():
            raise InputError(f"{self.folder}: holds no {JOURNAL}; allowed is the folder of an evolution")
        with self._lock, quiet():
            self._study = self._open(path)
            if facts is not None and "hyp" not in self._study.user_attrs:
                for key in ("seed", "settings", "population", "hyp"):  # the start last: then the study is complete
                    self._study.set_user_attr(key, facts[key])
        self.facts = self._study.user_attrs
        if "hyp" not in self.facts:
            raise InputError(f"{path}: its beginning is missing; allowed is the journal of an evolution, or a new one")
        from utils.evolution.space import build_space
        from utils.hyperparameters import Hyperparameters

        self.space: Space = build_space(Hyperparameters.from_dict(self.facts["hyp"], str(path)))

    def _open(self, path: Path) -> Any:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        path.touch()
        try:
            self._storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalLock(path)))
            return self._optuna.create_study(
                study_name=NAME, storage=self._storage, direction="maximize", load_if_exists=True,
                sampler=self._optuna.samplers.RandomSampler(0),
            )  # fmt: skip
        except (ValueError, KeyError, AssertionError) as error:
            raise InputError(f"{path}: not a journal of an evolution ({error})") from error

    # Choosing ----------------------------------------------------------------------------------------------------

    def claim(self, limit: int, worker: Worker) -> Attempt | None:
        """Take the next trial for this process, None when ``limit`` generations are done or at work.

        What processes left unfinished that are no longer there is repeated first.
        """
        with self._lock, quiet():
            self._retire_orphans(worker)
            trials = self._trials()
            taken = {trial.user_attrs[GENERATION] for trial in trials if not is_void(trial)}
            generation = next((number for number in range(limit) if number not in taken), None)
            if generation is None:
                return None
            point = self._point(generation, trials)
            number = self._create(point, {OWNER: worker.name, GENERATION: generation})
            return Attempt(number, generation, self._hyp(generation, point))

    def _hyp(self, generation: int, point: Mapping[str, float]) -> dict[str, Any]:
        """Return a trial's hyperparameters; the first one's are the start's as they were written."""
        return dict(self.space.start) if generation == 0 else self.space.hyp(point)

    def _point(self, generation: int, trials: Sequence[Any]) -> dict[str, float]:
        for trial in reversed(trials):
            if trial.user_attrs[GENERATION] == generation:  # interrupted: repeated as it was
                return trial.params
        planned = self.planned()
        if generation < len(planned):
            return planned[generation]
        done = [trial for trial in trials if trial.state.name == "COMPLETE"]
        rng = make_rng(self.facts["seed"], generation, stream=Stream.EVOLUTION)
        if len(done) >= max(STARTUP, len(planned)):
            return self._estimated(trials, int(rng.integers(2**31)))
        if not done:
            return self.space.mutated(planned[0], rng)
        fittest = sorted(done, key=lambda trial: -trial.value)[:FITTEST]
        scores = np.array([trial.value for trial in fittest])
        scores = scores - scores.min() + 1e-6
        return self.space.mutated(fittest[int(rng.choice(len(fittest), p=scores / scores.sum()))].params, rng)

    def planned(self) -> list[dict[str, float]]:
        """Return the points that are tried before any search: the start and the population, each once."""
        points = [self.space.point(self.space.start)]
        for hyp in self.facts["population"]:
            point = self.space.point(hyp)
            if point not in points:
                points.append(point)
        return points

    def _estimated(self, trials: Sequence[Any], seed: int) -> dict[str, float]:
        """Return the point that Optuna's TPE proposes after these trials, those at work included."""
        twin = self._optuna.create_study(
            direction="maximize",
            sampler=self._optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True
            ),
        )
        for trial in sorted(trials, key=lambda trial: trial.user_attrs[GENERATION]):
            if trial.state.name in {"COMPLETE", "RUNNING"}:
                twin.add_trial(trial)
        return twin.ask(self.space.distributions()).params

    # Ends --------------------------------------------------------------------------------------------------------

    def finish(self, attempt: Attempt, results: Sequence[float], fitness: float) -> bool:
        """Record a trained trial; False where another process has taken it over."""
        return self._end(attempt.number, {RESULTS: [float(value) for value in results]}, fitness)

    def fail(self, attempt: Attempt, reason: str) -> bool:
        """Record a trial that cannot be trained, with the reason in one line."""
        return self._end(attempt.number, {REASON: reason})

    def give_up(self, attempt: Attempt) -> bool:
        """Leave a trial unfinished, to be repeated by whoever asks next."""
        return self._end(attempt.number, {INTERRUPTED: True})

    def _end(self, number: int, facts: Mapping[str, Any], value: float | None = None) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        identity = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        try:
            with quiet():
                for key, content in facts.items():
                    self._storage.set_trial_user_attr(identity, key, content)
                state = TrialState.FAIL if value is None else TrialState.COMPLETE
                self._storage.set_trial_state_values(identity, state, None if value is None else [value])
        except UpdateFinishedTrialError:
            LOGGER.warning("WARNING trial %d was taken over by another process, which counts instead", number)
            return False
        except OSError as error:
            raise WorkError(f"{self.folder / JOURNAL}: cannot be written ({error.strerror})") from error
        return True

    def _retire_orphans(self, worker: Worker) -> None:
        for trial in self._trials():
            if trial.state.name == "RUNNING" and not worker.is_alive(trial.user_attrs[OWNER]):
                LOGGER.info("trial %d was interrupted and is repeated", trial.number)
                self._end(trial.number, {INTERRUPTED: True})

    # What there is -----------------------------------------------------------------------------------------------

    def finished(self) -> list[Finished]:
        """Return the trained trials by generation."""
        found = [
            Finished(
                trial.number, trial.user_attrs[GENERATION], self._hyp(trial.user_attrs[GENERATION], trial.params),
                tuple(trial.user_attrs[RESULTS]), float(trial.value),
            )
            for trial in self._trials() if trial.state.name == "COMPLETE"
        ]  # fmt: skip
        return sorted(found, key=lambda trial: trial.generation)

    def failed(self) -> list[Failed]:
        """Return the trials that failed by themselves, by generation."""
        found = [
            Failed(
                trial.number, trial.user_attrs[GENERATION], self._hyp(trial.user_attrs[GENERATION], trial.params),
                trial.user_attrs.get(REASON, ""),
            )
            for trial in self._trials() if trial.state.name == "FAIL" and not is_void(trial)
        ]  # fmt: skip
        return sorted(found, key=lambda trial: trial.generation)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep all other processes of the study from writing files of the folder within the block."""
        with self._lock:
            yield

    def _trials(self) -> list[Any]:
        with quiet():
            return self._study.get_trials(deepcopy=False)

    def _create(self, point: Mapping[str, float], facts: Mapping[str, Any]) -> int:
        """Add a trial at work in one line of the journal, so that it is there with its owner or not at all."""
        from optuna.trial import TrialState, create_trial

        trial = create_trial(
            state=TrialState.RUNNING, params=dict(point), distributions=self.space.distributions(),
            user_attrs=dict(facts),
        )  # fmt: skip
        try:
            identity = self._storage.create_new_trial(self._study._study_id, template_trial=trial)
        except OSError as error:
            raise WorkError(f"{self.folder / JOURNAL}: cannot be written ({error.strerror})") from error
        return self._storage.get_trial_number_from_id(identity)


def is_void(trial: Any) -> bool:
    """Tell whether a trial was interrupted, so that its generation has to be repeated."""
    return bool(trial.user_attrs.get(INTERRUPTED))


def is_usable(results: Sequence[float], fitness: float) -> bool:
    """Tell whether a trial's results and fitness are finite."""
    return math.isfinite(fitness) and all(map(math.isfinite, results))


def load_optuna() -> Any:
    """Return the package Optuna, quietened.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise InputError(f"--evolve: needs the package optuna ({error}); pip install optuna") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings about parts of Optuna that may change in later versions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")
        warnings.filterwarnings("ignore", message=".*(experimental|argument).*")
        yield
