"""What the rows of finished runs say: mean and spread of each arm, and its difference from no remedy, seed by seed."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficacy_parts.arms import NONE
from efficacy_parts.figures import FIGURES

MOST_COMBINATIONS = 50_000
DRAWINGS = 10_000
PERCENTILES = (2.5, 97.5)
Row = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """How far an arm is from no remedy in one figure, over the seeds that both have.

    Attributes:
        values: a difference for each seed, rising seeds.
        mean: of them.
        spread: their sample standard deviation, NaN for a single seed.
        low, high: 95 % interval of the mean by a bootstrap over the seeds.
    """

    values: tuple[float, ...]
    mean: float
    spread: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Return "above", "below" or "within": whether the mean is beyond the spread; within for a single seed."""
        if abs(self.mean) > self.spread:
            return "above" if self.mean > 0 else "below"
        return "within"


@dataclass(frozen=True)
class ArmResult:
    """An arm on a set: its runs, and for each figure mean, spread and difference.

    Attributes:
        data, arm: their names.
        seeds: of its runs, rising.
        mean, spread: by figure; the spread is the sample standard deviation over the seeds, NaN for one.
        difference: by figure; empty for no remedy itself and where no seed is shared with it.
        images: by figure "map50" and "rarest", the mean 95 % interval of the difference by images, None without one.
        seconds: mean of a run.
    """

    data: str
    arm: str
    seeds: tuple[int, ...]
    mean: dict[str, float]
    spread: dict[str, float]
    difference: dict[str, Difference]
    images: dict[str, tuple[float, float] | None]
    seconds: float


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of differences, drawing seeds with replacement.

    All n**n drawings are counted where they are few, else a seeded sample. With three seeds there are 27, and the one
    in which the smallest value comes three times has 3.7 % of the weight: the interval is that from the smallest to
    the largest difference. With one seed it has no width, which says nothing.
    """
    n = len(values)
    if n**n <= MOST_COMBINATIONS:
        places = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        places = np.random.default_rng(0).integers(n, size=(DRAWINGS, n))
    means = np.asarray(values, float)[places].mean(1)
    low, high = np.percentile(means, PERCENTILES, method="inverted_cdf").tolist()
    return low, high


def difference(ours: Sequence[Row], plain: Sequence[Row], figure: str) -> Difference | None:
    """Return the difference of a figure over shared seeds, None where there is none."""
    reference = {row["seed"]: row[figure] for row in plain}
    values = tuple(row[figure] - reference[row["seed"]] for row in ours if row["seed"] in reference)
    if not values:
        return None
    return Difference(values, statistics.fmean(values), _spread(values), *seed_interval(values))


def arm_results(rows: Sequence[Row], sets: Sequence[str], arms: Sequence[str]) -> list[ArmResult]:
    """Return a result for each set and arm that has runs, in the given order.

    Args:
        rows: of finished runs, one for each set, arm and seed.
        sets, arms: names.
    """
    results = []
    for data in sets:
        here = sorted((row for row in rows if row["set"] == data), key=lambda row: row["seed"])
        plain = [row for row in here if row["arm"] == NONE]
        for arm in arms:
            ours = [row for row in here if row["arm"] == arm]
            if ours:
                results.append(_result(data, arm, ours, [] if arm == NONE else plain))
    return results


def _result(data: str, arm: str, ours: Sequence[Row], plain: Sequence[Row]) -> ArmResult:
    found = {figure: difference(ours, plain, figure) for figure in FIGURES}
    return ArmResult(
        data,
        arm,
        tuple(row["seed"] for row in ours),
        {figure: statistics.fmean(row[figure] for row in ours) for figure in FIGURES},
        {figure: _spread([row[figure] for row in ours]) for figure in FIGURES},
        {figure: value for figure, value in found.items() if value is not None},
        {name: _mean_interval(ours, name) for name in ("map50", "rarest")},
        statistics.fmean(row["seconds"] for row in ours),
    )


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def _mean_interval(rows: Sequence[Row], name: str) -> tuple[float, float] | None:
    """Return the mean of the ends of the runs' intervals.

    The images are the same for all seeds, so that the interval of the mean over seeds is at most this wide.
    """
    known = [(row[f"{name}_low"], row[f"{name}_high"]) for row in rows if row[f"{name}_low"] is not None]
    if not known:
        return None
    return statistics.fmean(low for low, _ in known), statistics.fmean(high for _, high in known)
