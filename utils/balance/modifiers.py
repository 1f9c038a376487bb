"""Modifiers of a head's loss: pure functions that say how much an element, an anchor or a cell counts.

Symbols: p probability, t target in [0, 1], h = |t − p| hardness, ℓ the base loss, ω a weight. Weights of several
modifiers are multiplied, brought to mean 1 over the set they hold for by ``normalised``, and used without gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MIN_WEIGHT, MAX_WEIGHT = 0.1, 10.0  # of one element, in units of the mean
MAX_SCALE = 20.0  # how much scale keeping lifts a loss
EPSILON = 1e-6
TINY = 1e-30


def normalised(weights: Tensor, mean: Tensor) -> Tensor:
    """Return weights in units of their mean, between 0.1 and 10.

    Args:
        weights: (...), above 0.
        mean: of the set that each belongs to, broadcast to ``weights``; 0 for an empty set.
    """
    return (weights / mean.clamp(min=TINY)).clamp_(MIN_WEIGHT, MAX_WEIGHT)


def dynamic_weights(hardness_power: Tensor, expected: Tensor | float, beta: Tensor | float) -> Tensor:
    """Return ω = (1 − β) + β · h^γ/E: with growing β the easy count less and the hard more, the mean stays 1.

    Args:
        hardness_power: h^γ, (...).
        expected: E, its running mean, broadcast; where it is 0, so not known yet, ω is 1.
        beta: β, 0 to 1, broadcast.
    """
    known = torch.as_tensor(expected, dtype=hardness_power.dtype, device=hardness_power.device)
    slope = torch.where(known > 0, beta / known.clamp(min=TINY), 0.0)
    level = torch.where(known > 0, 1.0 - torch.as_tensor(beta, dtype=slope.dtype, device=slope.device), 1.0)
    return level + slope * hardness_power


def linear_strength(largest: float, progress: float, epochs: Sequence[float]) -> float:
    """Return β = β_max · clip((e − e₀)/(e₁ − e₀), 0, 1).

    Args:
        largest: β_max.
        progress: e, the share of the run that is done.
        epochs: e₀ and e₁, shares of the run.
    """
    start, end = epochs
    if progress >= end:
        return largest
    return largest * max((progress - start) / (end - start), 0.0) if end > start else 0.0


def adaptive_strength(largest: float, hardness: Tensor, reference: Tensor) -> Tensor:
    """Return β = β_max · clip(1 − H/H₀, 0, 1), 0 where H₀ is 0, so not known yet.

    Args:
        largest: β_max.
        hardness: H, running mean of h, (...).
        reference: H₀, what it was at the start, (...).
    """
    drop = (1.0 - hardness / reference.clamp(min=TINY)).clamp(0.0, 1.0)
    return torch.where(reference > 0, largest * drop, 0.0)


def boundary_weights(squared_distance: Tensor, strength: float, sigma: float = 1.0) -> Tensor:
    """Return ω = 1 + λ · exp(−d²/(2σ²)).

    Args:
        squared_distance: d² to the nearest box edge in cells², (...), may be infinite.
        strength: λ.
        sigma: σ in cells.
    """
    return torch.exp(squared_distance / (-2.0 * sigma**2)).mul_(strength).add_(1.0)


def iou_weights(iou: Tensor, strength: float, power: float = 1.0) -> Tensor:
    """Return ω = 1 + λ (1 − iou)^κ: badly placed boxes count more.

    Args:
        iou: (n,), 0 to 1.
        strength: λ.
        power: κ.
    """
    return 1.0 + strength * (1.0 - iou) ** power


def distance_weights(distance: Tensor, size: Tensor, strength: float, tau: float = 1.0) -> Tensor:
    """Return ω = 1 + λ · exp(−d/(τ·√(w·h))): objects close to another one count more.

    Args:
        distance: d to the nearest other centre, (n,), infinite without another.
        size: √(w·h) of the object in the same unit, (n,).
        strength: λ.
        tau: τ.
    """
    return 1.0 + strength * torch.exp(-distance / (tau * size).clamp(min=TINY))


def density_weights(neighbours: Tensor, strength: float, most: float = 10.0) -> Tensor:
    """Return ω = 1 + λ · min(ρ, ρmax)/ρmax: objects in a crowd count more.

    Args:
        neighbours: ρ, other objects nearby, (n,).
        strength: λ.
        most: ρmax.
    """
    return 1.0 + strength * neighbours.clamp(max=most) / most


def overlap_sums(probabilities: Tensor, positive: Tensor) -> Tensor:
    """Return Σp·t, Σ(1 − p)·t and Σp·(1 − t), each (k,), as a (3, k) tensor.

    Args:
        probabilities: p, (n, k).
        positive: t, 0 or 1, (n, k).
    """
    hit = (probabilities * positive).sum(0)
    return torch.stack((hit, positive.sum(0) - hit, probabilities.sum(0) - hit))


def focal_tversky(sums: Tensor, misses: float = 0.7, gamma: float = 4 / 3, epsilon: float = EPSILON) -> Tensor:
    """Return (1 − TI)^(1/γ) of the Tversky index TI, Abraham & Khan, https://arxiv.org/abs/1810.07842.

    TI = (Σp·t + ε)/(Σp·t + a·Σ(1 − p)·t + b·Σp·(1 − t) + ε), b = 1 − a; a = b = ½ is the Dice coefficient.

    Args:
        sums: Σp·t, Σ(1 − p)·t, Σp·(1 − t) in the first dimension, (3, ...).
        misses: a, the weight of misses; false alarms take the rest.
        gamma: γ, 1 to 3.
        epsilon: ε.
    """
    hit, missed, false = sums
    index = (hit + epsilon) / (hit + misses * missed + (1.0 - misses) * false + epsilon)
    return (1.0 - index).clamp(min=EPSILON) ** (1.0 / gamma)


def mean_over_present(values: Tensor, present: Tensor) -> Tensor:
    """Return the mean of the values (k,) whose ``present`` (k,) is true, 0 when none is."""
    return torch.where(present, values, 0.0).sum() / present.sum().clamp(min=1)


def scale_ratio(plain: Tensor, focused: Tensor) -> Tensor:
    """Return R = mean ℓ / mean focused loss, between 1 and 20; 1 where either is 0.

    Args:
        plain: running mean of the plain loss, (...).
        focused: running mean of the focused one, (...).
    """
    known = (plain > 0) & (focused > 0)
    return torch.where(known, plain / focused.clamp(min=TINY), 1.0).clamp(1.0, MAX_SCALE)


def running_mean(old: Tensor, new: Tensor, known: Tensor, decay: float = 0.99) -> Tensor:
    """Return decay · old + (1 − decay) · new; ``new`` itself while ``old`` is 0, ``old`` where nothing is known.

    Args:
        old, new: (...).
        known: bool, whether ``new`` has a meaning, (...).
    """
    blended = torch.where(old > 0, decay * old + (1.0 - decay) * new, new)
    return torch.where(known, blended, old)
