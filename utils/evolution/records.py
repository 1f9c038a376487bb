"""The files that a search keeps for its user, made anew from the study after every trial, so that they cannot part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.evolution.study import Finished, Study
from utils.evolve_log import evolve_columns, header_line, log_values, numeric, row_line, write_table
from utils.logs import LOGGER, colorstr
from utils.yaml_files import parse_yaml, read_yaml, write_yaml

TABLE, BEST, POPULATION, FAILURES = "evolve.csv", "hyp_evolve.yaml", "evolve_population.yaml", "evolve_failed.yaml"
MOST = 50  # generations that the population file holds, the best ones
DRAWN_COLUMNS = 7  # that plot_evolve expects before the hyperparameters
PREFIX = colorstr("evolve: ")


def write_records(study: Study, columns: Sequence[str]) -> Finished | None:
    """Write evolve.csv, hyp_evolve.yaml, evolve_population.yaml and, with failures, evolve_failed.yaml.

    Args:
        study: whose trials they tell of.
        columns: names of the results.

    Returns:
        The best trial, None before the first has finished; of equal ones the earliest.

    Raises:
        WorkError: a file cannot be written.
    """
    with study.held():
        done, failed, folder = study.finished(), study.failed(), study.folder
        if failed:
            facts = [{"generation": t.generation, "trial": t.number, "reason": t.reason, "hyp": t.hyp} for t in failed]
            write_yaml(folder / FAILURES, {"failed": facts})
        if not done:
            return None
        header = header_line(evolve_columns(columns, study.space.start))
        write_table(folder / TABLE, [header, *(row_line(t.results, t.hyp) for t in done)])
        ranked = sorted(done, key=lambda trial: (-trial.fitness, trial.generation))
        write_yaml(folder / BEST, ranked[0].hyp, comment=_told(ranked[0], done, columns))
        note = f"The {min(MOST, len(ranked))} best of {len(done)} generations, the best first: generation -> settings."
        write_yaml(folder / POPULATION, {t.generation: t.hyp for t in ranked[:MOST]}, comment=[note])
        return ranked[0]


def log_generation(study: Study, number: int, best: Finished | None, columns: Sequence[str]) -> None:
    """Log a trial's values and how the search stands."""
    done = study.finished()
    own = next((trial for trial in done if trial.number == number), None)
    if own is not None:
        names = evolve_columns(columns, study.space.start)
        log_values(PREFIX, names, [*own.results, *numeric(own.hyp).values()])
        LOGGER.info("%sgeneration %d has fitness %.5g", PREFIX, own.generation, own.fitness)
    if best is not None:
        best_of = f"the best is generation {best.generation} with fitness {best.fitness:.5g}"
        LOGGER.info("%s%d generations finished, %s", PREFIX, len(done), best_of)


def draw_records(study: Study, columns: Sequence[str]) -> None:
    """Draw evolve.png where there is something to draw, of boxes alone: it knows their seven results."""
    from utils.plots import plot_evolve

    with study.held():
        if len(columns) == DRAWN_COLUMNS and study.finished():
            plot_evolve(study.folder / TABLE)


def read_population(source: str | Path) -> list[dict[str, Any]]:
    """Return the hyperparameters of a population: a folder of hyp files, or a file of several settings.

    Args:
        source: a folder, whose .yaml files are read in the order of their names, or a file like evolve_population.yaml:
            a list of settings, or a mapping to them.

    Raises:
        InputError: no such folder or file, or something else in it.
    """
    path = Path(source)
    if path.is_dir():
        return [read_yaml(file) for file in sorted(path.glob("*.yaml"))]
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; allowed is a folder of hyp files or a population file")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    members = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(members, list) or not members or not all(isinstance(member, dict) for member in members):
        raise InputError(f"{path}: expected a list of hyperparameter settings, or a mapping to such settings")
    return members


def _told(best: Finished, done: Sequence[Finished], columns: Sequence[str]) -> list[str]:
    values = ", ".join(f"{name.strip()} {value:.5g}" for name, value in zip(columns, best.results, strict=True))
    return [f"The best of {len(done)} generations: generation {best.generation}, fitness {best.fitness:.5g}.", values]
