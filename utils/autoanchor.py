"""Anchor boxes: their order, how well they fit a data set, and better ones by k-means and evolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from utils.data.flat_rows import flat_rows, row_counts
from utils.helpers import TryExcept
from utils.logs import LOGGER, TQDM_BAR_FORMAT, colorstr

PREFIX = colorstr("AutoAnchor: ")
ENOUGH_RECALL = 0.98  # below it new anchors are looked for
LOWEST_SIDE, SMALL_SIDE = 2.0, 3.0  # pixels: boxes below are left out, boxes below are reported
MUTATION_PROBABILITY, MUTATION_SIZE = 0.9, 0.1
MUTATION_RANGE = (0.3, 3.0)
KMEANS_ROUNDS = 30
MOST_BOXES = 100_000  # that k-means and evolution look at

__all__ = ["LOGGER", "PREFIX", "TryExcept", "check_anchor_order", "check_anchors", "colorstr", "kmean_anchors"]


class AnchorFit(NamedTuple):
    """How anchors fit boxes.

    recall: share of boxes that an anchor matches. anchors_per_box: matching anchors of a box, on average. mean_ratio:
    the best anchor's side ratio (0 to 1), on average. fitness: the same with unmatched boxes counting 0.
    """

    recall: float
    anchors_per_box: float
    mean_ratio: float
    fitness: float


def check_anchor_order(m: Any) -> None:
    """Flip ``m.anchors`` in place, along its layers, when their areas run against ``m.stride``.

    Args:
        m: a Detect layer with ``anchors`` (nl, na, 2) and ``stride`` (nl,).
    """
    area = m.anchors.prod(-1).mean(-1).view(-1)
    area_rise = area[-1] - area[0]
    stride_rise = m.stride[-1] - m.stride[0]
    if area_rise and area_rise.sign() != stride_rise.sign():
        m.anchors[:] = m.anchors.flip(0)


def check_anchors(
    dataset: Any,
    model: torch.nn.Module,
    thr: float = 4.0,
    imgsz: int = 640,
    *,
    rng: np.random.Generator | None = None,
) -> None:
    """Log how the model's anchors fit the labels, and replace them when they do not and better ones are found.

    Args:
        dataset: with ``shapes`` (N, 2) w h in pixels and ``labels``, per image (n, 5) class cx cy w h.
        model: a detection model; ``anchors`` of its last layer change in place.
        thr: largest side ratio of box and anchor that still match (``anchor_t``).
        imgsz: training image size in pixels.
        rng: for the size jitter and the search; None is a fresh one.
    """
    rng = np.random.default_rng() if rng is None else rng
    head = getattr(model, "module", model).model[-1]
    sides = box_sides(dataset, imgsz, jitter=rng)
    if not len(sides):
        LOGGER.warning("%sWARNING no labelled box, anchors are kept", PREFIX)
        return
    stride = head.stride.to(head.anchors.device).view(-1, 1, 1)
    anchors = (head.anchors * stride).detach().float().cpu().view(-1, 2).numpy()
    fit = anchor_fit(anchors, sides, thr)
    text = f"{PREFIX}{fit.anchors_per_box:.2f} anchors/target, {fit.recall:.3f} best possible recall (BPR)"
    if fit.recall > ENOUGH_RECALL:
        LOGGER.info("%s. The anchors fit the data set", text)
        return
    LOGGER.info("%s. The anchors fit the data set poorly, looking for better ones", text)
    found = kmean_anchors(dataset, n=len(anchors), img_size=imgsz, thr=thr, gen=1000, verbose=False, rng=rng)
    new_fit = anchor_fit(found, sides, thr)
    if new_fit.recall <= fit.recall:
        LOGGER.info("%sno better anchors found (BPR %.3f), the model's are kept", PREFIX, new_fit.recall)
        return
    head.anchors[:] = torch.as_tensor(found, dtype=head.anchors.dtype, device=head.anchors.device).view_as(head.anchors)
    check_anchor_order(head)  # in pixels
    head.anchors /= stride
    LOGGER.info("%sanchors replaced (BPR %.3f); the model YAML keeps the old ones", PREFIX, new_fit.recall)


def kmean_anchors(
    dataset: Any = "./data/coco128.yaml",
    n: int = 9,
    img_size: int = 640,
    thr: float = 4.0,
    gen: int = 1000,
    verbose: bool = True,
    *,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Return anchors for a data set, float32 (n, 2) w h in pixels sorted by area.

    Args:
        dataset: an object as in ``check_anchors``, or the path of a data set YAML (its training images).
        n: number of anchors.
        img_size: training image size in pixels.
        thr: largest side ratio of box and anchor that still match.
        gen: generations of the search that follows k-means.
        verbose: log every improvement.
        rng: None is a fresh one.

    Raises:
        ValueError: the data set has no box of at least two pixels.
    """
    rng = np.random.default_rng() if rng is None else rng
    if isinstance(dataset, (str, Path)):
        dataset = _training_set(dataset, img_size)
    every = box_sides(dataset, img_size)
    small = int((every < SMALL_SIDE).any(1).sum())
    if small:
        LOGGER.info("%sWARNING %d of %d boxes are below %g pixels wide or high", PREFIX, small, len(every), SMALL_SIDE)
    sides = every[(every >= LOWEST_SIDE).any(1)]
    if not len(sides):
        raise ValueError(f"no box of at least {LOWEST_SIDE:g} pixels to find anchors for")
    if len(sides) > MOST_BOXES:
        sides = sides[rng.choice(len(sides), MOST_BOXES, replace=False)]
        LOGGER.info("%ssearching on %d boxes drawn at random", PREFIX, MOST_BOXES)
    LOGGER.info("%sk-means for %d anchors on %d boxes, then %d generations", PREFIX, n, len(sides), gen)
    spread = np.where(sides.std(0) > 0, sides.std(0), 1.0)
    anchors = _by_area(k_means(sides / spread, n, rng) * spread)
    anchors = _evolve(anchors, sides, thr, gen, verbose, rng)
    _log_fit(anchors, sides, thr)
    return anchors.astype(np.float32)


def box_sides(dataset: Any, imgsz: int, jitter: np.random.Generator | None = None) -> np.ndarray:
    """Return the sides of all boxes (m, 2) in pixels when the longer side of every image is ``imgsz``.

    Args:
        dataset: as in ``check_anchors``.
        imgsz: in pixels.
        jitter: changes the size of each image by up to a tenth; None leaves it.
    """
    shapes = np.asarray(dataset.shapes, dtype=np.float64).reshape(-1, 2)
    shapes = imgsz * shapes / shapes.max(1, keepdims=True, initial=1e-9)
    if jitter is not None:
        shapes = shapes * jitter.uniform(0.9, 1.1, (len(shapes), 1))
    return flat_rows(dataset.labels)[:, 3:5] * np.repeat(shapes, row_counts(dataset.labels), axis=0)


def side_ratios(anchors: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return (m, n): the smaller of the two side ratios, each as a number of at most 1, of every box and anchor."""
    ratio = sides[:, None] / anchors[None]
    return np.minimum(ratio, 1.0 / np.maximum(ratio, 1e-12)).min(2)


def anchor_fit(anchors: np.ndarray, sides: np.ndarray, thr: float) -> AnchorFit:
    """Return how anchors (n, 2) fit boxes (m, 2), both w h in pixels, m above 0."""
    ratios = side_ratios(np.asarray(anchors, np.float64), sides)
    best = ratios.max(1)
    matched = best > 1 / thr
    per_box = (ratios > 1 / thr).sum(1).mean()
    return AnchorFit(float(matched.mean()), float(per_box), float(best.mean()), float((best * matched).mean()))


def k_means(points: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n cluster centres (n, d) of points (m, d), seeded by k-means++ and refined by Lloyd's rounds.

    With fewer distinct points than clusters the centres are points with a little noise.
    """
    distinct = np.unique(points, axis=0)
    if len(distinct) <= n:
        picked = distinct[np.arange(n) % len(distinct)]
        return picked * rng.uniform(0.9, 1.1, picked.shape)
    centres = _spread_out(points, n, rng)
    for _ in range(KMEANS_ROUNDS):
        nearest = _squared_distances(points, centres).argmin(1)
        sizes = np.bincount(nearest, minlength=n)
        sums = np.stack([np.bincount(nearest, weights=column, minlength=n) for column in points.T], 1)
        moved = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        if np.allclose(moved, centres, rtol=1e-6):
            break
        centres = moved
    return centres


def _spread_out(points: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n of the points, each drawn in proportion to its squared distance from those before (k-means++)."""
    centres = points[rng.integers(len(points))][None]
    while len(centres) < n:
        distance = _squared_distances(points, centres).min(1)
        centres = np.concatenate((centres, points[rng.choice(len(points), p=distance / distance.sum())][None]))
    return centres


def _squared_distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((points[:, None] - centres[None]) ** 2).sum(2)


def _evolve(  # noqa: PLR0913 (what the public function takes)
    anchors: np.ndarray, sides: np.ndarray, thr: float, generations: int, verbose: bool, rng: np.random.Generator
) -> np.ndarray:
    """Return the fittest anchors (n, 2) after random changes, each kept when it fits better."""
    fitness = anchor_fit(anchors, sides, thr).fitness
    bar = tqdm(range(generations), bar_format=TQDM_BAR_FORMAT, desc=f"{PREFIX}evolving anchors")
    for _ in bar:
        candidate = np.maximum(anchors * _mutation(anchors.shape, rng), LOWEST_SIDE)
        reached = anchor_fit(candidate, sides, thr).fitness
        if reached > fitness:
            anchors, fitness = candidate, reached
            bar.set_description(f"{PREFIX}evolving anchors, fitness {fitness:.4f}")
            if verbose:
                _log_fit(_by_area(anchors), sides, thr)
    return _by_area(anchors)


def _mutation(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return factors around 1, of which at least one differs from it."""
    while True:
        change = (rng.random(shape) < MUTATION_PROBABILITY) * rng.random() * rng.normal(size=shape) * MUTATION_SIZE
        if change.any():
            return np.clip(1.0 + change, *MUTATION_RANGE)


def _by_area(anchors: np.ndarray) -> np.ndarray:
    return anchors[anchors.prod(1).argsort(kind="stable")]


def _log_fit(anchors: np.ndarray, sides: np.ndarray, thr: float) -> None:
    fit = anchor_fit(anchors, sides, thr)
    values = ", ".join(f"{round(w)},{round(h)}" for w, h in anchors)
    LOGGER.info(
        "%srecall %.4f, %.2f anchors/target, mean ratio %.3f: %s",
        PREFIX, fit.recall, fit.anchors_per_box, fit.mean_ratio, values,
    )  # fmt: skip


def _training_set(path: str | Path, imgsz: int) -> Any:  # noqa: ANN401
    """Return the training images of a data set YAML."""
    from utils.dataloaders import LoadImagesAndLabels
    from utils.dataset_yaml import check_dataset

    return LoadImagesAndLabels(check_dataset(path)["train"], img_size=imgsz, augment=False, rect=True)
