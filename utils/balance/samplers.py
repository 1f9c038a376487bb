"""Which image is drawn when: orders as pure functions of (weights, seed, epoch), and their split into batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from utils.errors import InputError
from utils.rng import Stream, make_rng

LENGTHS = ("fixed", "expand")
_BISECTIONS = 100


class Draw(NamedTuple):
    """One image of one epoch; everything random about the sample follows from (seed, epoch, position) and the pool.

    Attributes:
        index: number of the image.
        epoch: number of the epoch.
        position: place in the epoch's order.
        pool: the other images of its group, from which mosaic and mixup partners are taken; () for all images.
    """

    index: int
    epoch: int
    position: int
    pool: tuple[int, ...] = ()


def shuffled_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of 0 … n-1, (n,) int64."""
    return make_rng(seed, epoch, 0, Stream.ORDER).permutation(n)


def sequential_order(n: int) -> np.ndarray:
    """Return 0 … n-1, (n,) int64."""
    return np.arange(n)


def weighted_order(weights: np.ndarray, seed: int, epoch: int, length: str = "fixed") -> np.ndarray:
    """Return one epoch's shuffled image indices, drawn in proportion to ``weights``.

    Args:
        weights: (N,) non-negative; repeat factors for ``length="expand"``. All zero counts as uniform.
        seed: the run's seed.
        epoch: epoch number.
        length: ``fixed`` draws N images by systematic resampling (points u + k over the cumulative sum of N·w/Σw), so
            an image expected E times comes ⌊E⌋ or ⌈E⌉ times; ``expand`` gives ⌊w⌋ + Bernoulli(w - ⌊w⌋) copies (Gupta
            et al., LVIS, arXiv 1908.03195), so the number of draws is about Σw.
    """
    if length not in LENGTHS:
        raise InputError(f"sampler_len: {length!r} is not one of {', '.join(LENGTHS)}")
    weights = _checked(weights)
    rng = make_rng(seed, epoch, 0, Stream.ORDER)
    n = len(weights)
    if length == "expand":
        whole = np.floor(weights)
        counts = whole + (rng.random(n) < weights - whole)
        drawn = np.repeat(np.arange(n), counts.astype(np.int64))
    else:
        edges = np.cumsum(n * weights / weights.sum())
        edges *= n / edges[-1]
        drawn = np.minimum(np.searchsorted(edges, rng.random() + np.arange(n), side="right"), n - 1)
    return rng.permutation(drawn)


def replacement_order(weights: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return N independent draws with replacement in proportion to ``weights`` (N,), as --image-weights draws them."""
    weights = _checked(weights)
    rng = make_rng(seed, epoch, 0, Stream.ORDER)
    return rng.choice(len(weights), len(weights), p=weights / weights.sum())


def partner_weights(weights: np.ndarray) -> np.ndarray:
    """Return v (N,) so that partners drawn in proportion to v, never the primary, follow ``weights`` overall.

    With p = w/Σw the share of each image among the primaries, the symmetric joint probability J_ij = v_i·v_j (i ≠ j)
    has p as both marginals when v_i·(V - v_i) = p_i with V = Σv. Excluding the primary therefore costs a frequent image
    nothing. Where one image has more than half of the weight no such joint exists and v = p.
    """
    shares = _checked(weights)
    shares = shares / shares.sum()
    largest = int(shares.argmax())
    if shares[largest] >= 0.5:
        return shares

    def parts(total: float, upper: bool) -> np.ndarray:
        root = np.sqrt(np.maximum(1 - 4 * shares / total**2, 0))
        fractions = (1 - root) / 2
        if upper:
            fractions[largest] = (1 + root[largest]) / 2
        return fractions

    low = 2 * np.sqrt(shares[largest])
    upper = bool(parts(low, False).sum() < 1)
    high = low
    while (parts(high, upper).sum() < 1) != (not upper):
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = parts(middle, upper).sum() < 1
        low, high = (middle, high) if below == upper else (low, middle)
    return parts(high, upper) * high


def draw_partners(edges: np.ndarray | None, n: int, primary: int, count: int, rng: np.random.Generator) -> list[int]:
    """Return ``count`` partner images for a mosaic or a mixup.

    Args:
        edges: (n,) cumulative sum of ``partner_weights``, or None for uniform draws over all n images.
        n: number of images.
        primary: the image that the partners join; with ``edges`` it is drawn only where no other image can be.
        count: number of partners, drawn independently.
        rng: source of the draws.
    """
    if edges is None:
        return rng.integers(n, size=count).tolist()
    start = edges[primary - 1] if primary else 0.0
    own = edges[primary] - start
    rest = edges[-1] - own
    if rest <= 0:
        return [primary] * count
    points = rng.random(count) * rest
    points = np.where(points >= start, points + own, points)
    found = np.searchsorted(edges, points, side="right")
    return np.minimum(found, np.searchsorted(edges, edges[-1])).tolist()


def pool_partners(pool: tuple[int, ...], primary: int, count: int, rng: np.random.Generator) -> list[int]:
    """Return ``count`` partners drawn independently and evenly from a group, none of them the primary if it can be."""
    others = [image for image in pool if image != primary] or list(pool)
    return [others[k] for k in rng.integers(len(others), size=count)]


class EpochBatchSampler(Sampler[list[Draw]]):
    """Cuts one global order per epoch into global batches and gives each process its share.

    Rank r of ``world`` takes ``batch[r::world]`` of every global batch, so that N processes together draw what one
    process draws. Without ``set_epoch`` the next iteration is the next epoch.

    Args:
        order: epoch → image indices of that epoch, the same on every rank.
        batch_size: images of one global batch, ≥ 1.
        rank: this process's number, 0 … world-1.
        world: number of processes.
        pool: size of the groups of neighbours in the order that are each other's mosaic partners; 0 for no groups.
    """

    def __init__(
        self, order: Callable[[int], np.ndarray], batch_size: int, rank: int = 0, world: int = 1, pool: int = 0
    ):
        if batch_size < 1 or not 0 <= rank < world:
            raise InputError(f"batch size {batch_size} must be ≥ 1 and rank {rank} must lie within 0-{world - 1}")
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.pool = pool
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose the epoch of the next iteration and the global batch at which it begins."""
        self.epoch = epoch
        self.start_batch = start_batch
        self._finished = False
        self._indices = np.asarray(self.order(epoch))

    def set_order(self, order: Callable[[int], np.ndarray]) -> None:
        """Draw by another order from the current epoch on."""
        self.order = order
        self.set_epoch(self.epoch, self.start_batch)

    @property
    def indices(self) -> np.ndarray:
        """Return the images of the current epoch in their order, those of all processes, without fillers."""
        return self._indices

    def upcoming(self) -> tuple[int, int]:
        """Return the epoch of the next iteration and its first batch."""
        return (self.epoch + 1, 0) if self._finished else (self.epoch, self.start_batch)

    def __len__(self) -> int:
        """Return the number of global batches of the current epoch, whatever the start batch."""
        return math.ceil(len(self._indices) / self.batch_size)

    def real_count(self, batch_number: int) -> int:
        """Return how many images of a global batch are this rank's own; 0 means that its batch is one filler."""
        left = min(self.batch_size, len(self._indices) - batch_number * self.batch_size)
        return max(0, math.ceil((left - self.rank) / self.world))

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this rank's draws, batch by batch."""
        if self._finished:
            self.set_epoch(self.epoch + 1)
        epoch, indices, first = self.epoch, self._indices, self.start_batch
        self._finished = True
        for begin in range(first * self.batch_size, len(indices), self.batch_size):
            positions = range(begin, min(begin + self.batch_size, len(indices)))
            mine = positions[self.rank :: self.world] or positions[:1]
            yield [Draw(int(indices[k]), epoch, k, self._others(k)) for k in mine]

    def _others(self, position: int) -> tuple[int, ...]:
        """Return the other images of a position's group, in their order."""
        if not self.pool:
            return ()
        first = position - position % self.pool
        group = self._indices[first : first + self.pool]
        return tuple(np.delete(group, position - first).tolist())


def _checked(weights: np.ndarray) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 1 or not len(weights) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError("image weights must be a non-empty row of finite numbers ≥ 0")
    return weights if weights.any() else np.ones_like(weights)
