"""Which hyperparameters a search may change, and between which bounds."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.errors import InputErrors
from utils.hyperparameters import Hyperparameters, evolution_bounds

# Class balance keys: they take part when the hyp file gives them as a number that has an effect.
BALANCE_RANGES: dict[str, tuple[float, float]] = {
    "cls_gamma": (0.0, 4.0), "obj_gamma": (0.0, 4.0), "cls_alpha": (0.05, 0.95), "obj_alpha": (0.05, 0.95),
    "cls_gpos": (0.0, 4.0), "obj_gpos": (0.0, 4.0), "cls_gneg": (0.0, 5.0), "obj_gneg": (0.0, 5.0),
    "cls_clip": (0.0, 0.2), "obj_clip": (0.0, 0.2), "cls_spos": (0.1, 5.0), "obj_spos": (0.1, 5.0),
    "cls_sneg": (0.1, 5.0), "obj_sneg": (0.1, 5.0), "cls_efl_scale": (0.0, 8.0), "cls_seesaw_p": (0.0, 1.6),
    "cls_seesaw_q": (0.0, 3.0), "cls_tau": (0.0, 1.5), "label_smoothing": (0.0, 0.2),
    "cls_dyn": (0.0, 1.0), "obj_dyn": (0.0, 1.0), "dyn_gamma": (0.5, 3.0), "cls_attn": (0.0, 1.0),
    "obj_attn": (0.0, 1.0), "attn_temp": (0.02, 2.0), "cls_bnd": (0.0, 2.0), "obj_bnd": (0.0, 2.0),
    "bnd_sigma": (0.25, 4.0), "hard_iou": (0.0, 2.0), "hard_iou_pow": (0.5, 3.0), "hard_dist": (0.0, 2.0),
    "hard_dist_tau": (0.25, 4.0), "hard_dens": (0.0, 2.0), "hard_dens_max": (3.0, 50.0), "cls_tversky": (0.0, 1.0),
    "obj_tversky": (0.0, 1.0), "tversky_a": (0.3, 0.9), "tversky_gamma": (1.0, 2.0),
    "cls_weights_power": (0.0, 1.0), "cls_weights_max": (1.0, 30.0), "sampler_t": (0.001, 1.0),
    "rare_paste": (0.0, 1.0), "rare_paste_ioa": (0.0, 0.6), "rare_aug_p": (0.0, 1.0),
    "album_min_visibility": (0.0, 0.5),
}  # fmt: skip
LOGARITHMIC = {"lr0", "lrf", "attn_temp", "sampler_t"}  # searched by ratio rather than by difference
_LEAST_SCALE = 0.05  # of a range: how far a mutation moves a value that is 0


@dataclass(frozen=True)
class Space:
    """The search space of one start.

    Attributes:
        start: every hyperparameter of the first trial, also those that stay as they are.
        ranges: key -> (low, high) of those that may change, in the start's order; the start's value lies inside.
    """

    start: dict[str, Any]
    ranges: dict[str, tuple[float, float]]

    def distributions(self) -> dict[str, Any]:
        """Return Optuna's distributions by key."""
        from optuna.distributions import FloatDistribution

        return {
            key: FloatDistribution(low, high, log=key in LOGARITHMIC and low > 0)
            for key, (low, high) in self.ranges.items()
        }

    def point(self, hyp: Mapping[str, Any]) -> dict[str, float]:
        """Return the coordinates of a hyp file in this space: values outside are clipped, missing ones the start's."""
        values = {}
        for key, (low, high) in self.ranges.items():
            value = hyp.get(key)
            number = value if _is_number(value) else self.start[key]
            values[key] = float(min(max(number, low), high))
        return values

    def hyp(self, point: Mapping[str, float]) -> dict[str, Any]:
        """Return all hyperparameters of a point, in the start's order."""
        return {key: point.get(key, value) for key, value in self.start.items()}

    def mutated(self, point: Mapping[str, float], rng: np.random.Generator) -> dict[str, float]:
        """Return a point near another one.

        Each coordinate changes with probability 0.8, by a factor around 1 with a standard deviation of about 0.2, at
        least one of them; a value of 0 leaves it by up to a twentieth of its range.
        """
        keys = list(self.ranges)
        changes = rng.random(len(keys)) < 0.8
        changes[rng.integers(len(keys))] = True
        factors = np.clip(1 + changes * rng.normal(size=len(keys)) * rng.random() * 0.4, 0.3, 3.0)
        jumps = rng.random(len(keys)) * _LEAST_SCALE * changes
        new = {}
        for key, factor, jump in zip(keys, factors.tolist(), jumps.tolist(), strict=True):
            low, high = self.ranges[key]
            value = point[key] * factor if point[key] else (high - low) * jump
            new[key] = float(min(max(value, low), high))
        return new


def build_space(hyp: Hyperparameters) -> Space:
    """Return the search space around checked hyperparameters.

    A key takes part when the file gives it as a number and it has a range. One whose change would contradict the other
    settings, or have no effect beside them, stays as it is; so do text, lists and null. A range is widened to hold the
    start's own value.
    """
    start = hyp.to_dict()
    known = {key: (low, high) for key, (scale, low, high) in evolution_bounds().items() if scale}
    ranges = {}
    for key, value in start.items():
        bounds = known.get(key) or BALANCE_RANGES.get(key)
        if bounds is None or not _is_number(value) or (key == "anchors" and not value):
            continue
        if key in BALANCE_RANGES and not _has_effect(hyp, key):
            continue
        low, high = (float(bound) for bound in bounds)
        if all(_is_allowed(start, key, bound) for bound in (low, high)):
            ranges[key] = (min(low, float(value)), max(high, float(value)))
    return Space(start, ranges)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_allowed(start: Mapping[str, Any], key: str, value: float) -> bool:
    try:
        Hyperparameters.from_dict({**start, key: value})
    except InputErrors:
        return False
    return True


def _has_effect(hyp: Hyperparameters, key: str) -> bool:
    """Return whether a change of the key would be read by anything."""
    try:
        changed = Hyperparameters.from_dict({**hyp.to_dict(), key: sum(BALANCE_RANGES[key]) / 2})
    except InputErrors:
        return False
    return not any(line.startswith(f"{key}:") for line in changed.remarks())


def generate_individual(input_ranges: Sequence[tuple[float, float]], individual_length: int) -> list[float]:
    """Return random genes, the n-th uniform between the n-th lower and upper bound; Python's global generator draws.

    Args:
        input_ranges: lower and upper bound of each gene.
        individual_length: how many genes, at most as many as there are ranges.
    """
    return [random.uniform(low, high) for low, high in (input_ranges[i] for i in range(individual_length))]
