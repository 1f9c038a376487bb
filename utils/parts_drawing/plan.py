"""What a data set of parts holds: how many pictures, which parts in each, and which labels are wrong on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.errors import InputError
from utils.parts_drawing import settings
from utils.parts_drawing.settings import BOLT, COUPLING, NUT, SCREW, WASHER
from utils.rng import Stream, make_rng

SPLITS = ("train", "val")
MISTAKEN_FOR = {SCREW: BOLT, BOLT: COUPLING, COUPLING: BOLT, NUT: WASHER, WASHER: NUT}


@dataclass(frozen=True)
class Recipe:
    """What a data set is drawn from.

    Attributes:
        n_train, n_val: pictures, at least 1.
        imbalance: 0 gives every class the same share of the training boxes, 1 the default set's shares (couplings
            1.6 %), larger values more uneven ones: shares are the default's to this power. Validation keeps its own.
        label_noise: share of training boxes that are given the class they are most easily mistaken for.
        seed: of the training pictures; validation uses the next one.
        outlines: labels are outlines, for segmentation, in place of boxes.
        lookalike: share of couplings of the kind that passes for a bolt from the side, in both splits.
    """

    n_train: int = settings.TRAIN_IMAGES
    n_val: int = settings.VAL_IMAGES
    imbalance: float = 1.0
    label_noise: float = 0.0
    seed: int = settings.SEED
    outlines: bool = False
    lookalike: float = settings.LOOKALIKE

    def __post_init__(self) -> None:
        checks = (
            ("train", self.n_train, self.n_train >= 1, "at least 1"),
            ("val", self.n_val, self.n_val >= 1, "at least 1"),
            ("imbalance", self.imbalance, 0 <= self.imbalance <= 4, "0 to 4"),
            ("label noise", self.label_noise, 0 <= self.label_noise <= 1, "0 to 1"),
            ("seed", self.seed, self.seed >= 0, "0 or more"),
            ("lookalike", self.lookalike, 0 <= self.lookalike <= 1, "0 to 1"),
        )
        for name, value, good, allowed in checks:
            if not good:
                raise InputError(f"parts: {name} is {value}; it must be {allowed}")

    def images(self, split: str) -> int:
        """Return the number of pictures of a split."""
        return self.n_train if split == "train" else self.n_val


def class_counts(recipe: Recipe, split: str) -> np.ndarray:
    """Return (5,) boxes per class of a split: largest remainders of the shares, at least one box a class."""
    images = recipe.images(split)
    base = np.array(settings.TRAIN_COUNTS if split == "train" else settings.VAL_COUNTS, float)
    usual = settings.TRAIN_IMAGES if split == "train" else settings.VAL_IMAGES
    shares = (base / base.sum()) ** (recipe.imbalance if split == "train" else 1.0)
    total = max(round(base.sum() * images / usual), len(base))
    exact = total * shares / shares.sum()
    counts = np.floor(exact + 1e-9).astype(int)
    for index in np.argsort(-(exact - counts), kind="stable")[: total - counts.sum()]:
        counts[index] += 1
    for index in np.flatnonzero(counts == 0):
        counts[index], counts[np.argmax(counts)] = 1, counts.max() - 1
    return counts


def _picture_sizes(images: int, total: int, rng: np.random.Generator) -> np.ndarray:
    """Return (images,) parts per picture that sum to ``total``, within the settings' limits where these allow it."""
    low, high = settings.PARTS_PER_IMAGE
    sizes = np.full(images, total // images)
    sizes[rng.permutation(images)[: total % images]] += 1
    for _ in range(3 * images):
        giver, taker = rng.integers(images, size=2)
        if giver != taker and sizes[giver] > low and sizes[taker] < high:
            sizes[giver] -= 1
            sizes[taker] += 1
    return sizes


def plan_classes(counts: Sequence[int], images: int, rng: np.random.Generator) -> list[list[int]]:
    """Deal the parts of a split to its pictures.

    A class with fewer boxes than pictures goes to RARE_IMAGES_PER_BOX pictures a box, the others anywhere.

    Args:
        counts: parts per class.
        images: number of pictures.
        rng: decides who gets what.

    Returns:
        For each picture the class numbers, in the order that the parts are laid down.
    """
    room = _picture_sizes(images, int(np.sum(counts)), rng)
    dealt: list[list[int]] = [[] for _ in range(images)]
    common: list[int] = []
    for number in np.argsort(counts, kind="stable").tolist():
        count = int(counts[number])
        if count >= images:
            common += [number] * count
            continue
        holders = rng.permutation(images)[: max(1, round(settings.RARE_IMAGES_PER_BOX * count))]
        for turn in range(count):
            dealt[int(holders[turn % len(holders)])].append(number)
    free = np.maximum(room - np.array([len(kinds) for kinds in dealt]), 0)
    seats = rng.permutation(np.repeat(np.arange(images), free))
    seats = np.resize(seats, len(common)) if len(seats) else rng.integers(images, size=len(common))
    for number, image in zip(common, seats.tolist(), strict=True):
        dealt[image].append(number)
    return [[int(number) for number in rng.permutation(kinds)] for kinds in dealt]


def split_plan(recipe: Recipe, split: str) -> list[list[int]]:
    """Return the class numbers of each picture of a split, in the order that the parts are laid down."""
    rng = make_rng(recipe.seed + SPLITS.index(split), stream=Stream.ORDER)
    return plan_classes(class_counts(recipe, split).tolist(), recipe.images(split), rng)


def mislabelled(recipe: Recipe, plan: list[list[int]]) -> dict[int, set[int]]:
    """Return which parts (picture -> positions) of the training plan are given a wrong class."""
    places = [(image, position) for image, kinds in enumerate(plan) for position in range(len(kinds))]
    rng = make_rng(recipe.seed, stream=Stream.PASTE)
    wrong: dict[int, set[int]] = {}
    for number in rng.permutation(len(places))[: round(recipe.label_noise * len(places))].tolist():
        image, position = places[number]
        wrong.setdefault(image, set()).add(position)
    return wrong
