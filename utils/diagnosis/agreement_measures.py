"""Measures of agreement beyond chance: Cohen's kappa, Fleiss' kappa, Krippendorff's alpha with its interval."""

from __future__ import annotations

import numpy as np

INTERVAL = (0.025, 0.975)
AT_ONCE = 2_000_000  # bounds the memory of the bootstrap


def cohen_kappa(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return (p_o - p_e) / (1 - p_e) of two raters' categories (n,); None without units or with one category alone.

    Cohen, A coefficient of agreement for nominal scales, 1960.
    """
    if not len(a):
        return None
    categories = np.unique(np.concatenate((a, b)))
    observed = float((a == b).mean())
    expected = float(sum((a == c).mean() * (b == c).mean() for c in categories))
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Return Fleiss' kappa of units (U, K) that hold the number of ratings of each category.

    None where units have different numbers of ratings, fewer than two, or one category alone. Fleiss, Measuring nominal
    scale agreement among many raters, 1971.
    """
    counts = counts[counts.sum(1) >= 2]
    ratings = np.unique(counts.sum(1))
    if len(ratings) != 1:
        return None
    m = float(ratings[0])
    observed = float(((counts * (counts - 1)).sum(1) / (m * (m - 1))).mean())
    expected = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def krippendorff_alpha(ratings: np.ndarray) -> float | None:
    """Return Krippendorff's alpha for categories; None with one category alone, or no unit with two ratings.

    alpha = 1 - (n - 1) sum_{c != k} o_ck / sum_{c != k} n_c n_k, o_ck the coincidences: pairs (c, k) within a unit of m
    ratings, each counting 1 / (m - 1). Krippendorff, Computing Krippendorff's alpha-reliability, 2011.

    Args:
        ratings: (units, raters) category numbers, negative for none.
    """
    disagreement, marginals = _unit_sums(category_counts(ratings))
    alpha = _alpha(disagreement.sum()[None], marginals.sum(0)[None])[0]
    return None if np.isnan(alpha) else float(alpha)


def bootstrap_alpha(
    ratings: np.ndarray, image: np.ndarray, images: int, seed: int, replicates: int
) -> tuple[float, float] | None:
    """Return the 95 % interval of alpha when images are drawn again with replacement.

    Units of one image are drawn together, since they are not independent. None where alpha is not defined in at least
    half of the resamples.

    Args:
        ratings: (units, raters) as for ``krippendorff_alpha``.
        image: (units,) image of each, 0 to images - 1.
        images: number of images, those without units too.
        seed: of the draws.
        replicates: number of resamples.
    """
    disagreement, marginals = _unit_sums(category_counts(ratings))
    per_image = np.zeros((images, 1 + marginals.shape[1]))
    np.add.at(per_image, image, np.column_stack((disagreement, marginals)))
    rng = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    rows = max(AT_ONCE // images, 1)
    alphas = []
    for first in range(0, replicates, rows):
        drawn = rng.multinomial(images, share, size=min(rows, replicates - first)) @ per_image
        alphas.append(_alpha(drawn[:, 0], drawn[:, 1:]))
    known = np.concatenate(alphas)
    known = known[~np.isnan(known)]
    if 2 * len(known) < replicates:
        return None
    low, high = np.quantile(known, INTERVAL)
    return float(low), float(high)


def category_counts(ratings: np.ndarray) -> np.ndarray:
    """Return the number of ratings (U, K) of each category that occurs, from ratings (U, raters), negative for none."""
    categories = np.unique(ratings[ratings >= 0])
    return (ratings[:, :, None] == categories).sum(1) if len(ratings) else np.zeros((0, 0), np.int64)


def _unit_sums(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sum_{c != k} o_ck (U,) and the ratings (U, K) that count, 0 for units with fewer than two."""
    m = counts.sum(1)
    paired = m >= 2
    unequal = m**2 - (counts**2).sum(1)
    disagreement = np.where(paired, unequal / np.maximum(m - 1, 1), 0.0)
    return disagreement, np.where(paired[:, None], counts, 0)


def _alpha(disagreement: np.ndarray, marginals: np.ndarray) -> np.ndarray:
    """Return alpha (r,) of summed disagreements (r,) and ratings of each category (r, K); NaN where undefined."""
    n = marginals.sum(1).astype(np.float64)
    by_chance = n**2 - (marginals.astype(np.float64) ** 2).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(by_chance > 0, 1 - (n - 1) * disagreement / by_chance, np.nan)
