"""The files that hyperparameter evolution keeps: every generation, and the best one as a hyp file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.logs import LOGGER
from utils.yaml_files import write_yaml

FITNESS_WEIGHTS = (0.0, 0.0, 0.1, 0.9)  # precision, recall, mAP50, mAP50-95
WIDTH = 20


def append_generation(
    keys: Sequence[str], results: Sequence[float], hyp: Mapping[str, float], save_dir: Path, prefix: str = ""
) -> None:
    """Append a row to ``evolve.csv`` (columns 20 wide) and rewrite ``hyp_evolve.yaml`` with the best row's values.

    Args:
        keys: names of the results, precision, recall, mAP50 and mAP50-95 first.
        results: their values.
        hyp: hyperparameters of this generation; the same keys in every row.
        save_dir: folder of both files.
        prefix: start of the log lines.
    """
    columns, values = [*keys, *hyp], [*results, *hyp.values()]
    table = save_dir / "evolve.csv"
    header = "" if table.exists() else ",".join(f"{name.strip():>{WIDTH}}" for name in columns) + "\n"
    with open(table, "a", encoding="utf-8") as stream:
        stream.write(header + ",".join(f"{value:>{WIDTH}.5g}" for value in values) + "\n")
    rows = np.loadtxt(table, delimiter=",", skiprows=1, ndmin=2)
    fitness = rows[:, :4] @ np.array(FITNESS_WEIGHTS)
    best = int(np.argmax(fitness))
    chosen = dict(zip(hyp, rows[best, len(keys) :].tolist(), strict=True))
    write_yaml(save_dir / "hyp_evolve.yaml", chosen)
    LOGGER.info("%s%d generations, best: %d with fitness %.5g", prefix, len(rows), best, fitness[best])
    LOGGER.info(
        "%s%s", prefix, ", ".join(f"{name.strip()} {value:.5g}" for name, value in zip(columns, values, strict=True))
    )
