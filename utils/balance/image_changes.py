"""What a hyp file does to single training images before they become samples: rare objects pasted in, pipelines run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.balance.albums import Pipeline, build_items
from utils.balance.image_weights import repeat_factors
from utils.balance.rare_paste import LEAST_SIDE, RareBank, RarePaste
from utils.data.flat_rows import flat_rows
from utils.data.image_store import ImageStore
from utils.data.training_image import SampleRandomness, TrainingImage
from utils.errors import InputErrors
from utils.hyperparameter_table import nearest_name
from utils.logs import LOGGER


class Albums:
    """The pipelines of a hyp file.

    Attributes:
        every: of ``album``, for all images, or None.
        rare: of ``album_rare``, or None.
        by_class: of ``album_class``, class id → pipeline.
        rare_chance: ``rare_aug_p``, what the chance of ``rare`` rises to.
    """

    def __init__(
        self, every: Pipeline | None, rare: Pipeline | None, by_class: Mapping[int, Pipeline], rare_chance: float
    ):
        self.every, self.rare, self.by_class, self.rare_chance = every, rare, dict(by_class), rare_chance

    def pipelines(self) -> list[Pipeline]:
        """Return all pipelines in the order in which they are applied."""
        return [p for p in (self.every, *self.by_class.values(), self.rare) if p is not None]


def build_albums(hyp: Mapping[str, Any], names: Mapping[int, str] | None, size: int) -> Albums:
    """Build the pipelines of ``album``, ``album_class`` and ``album_rare``.

    Args:
        hyp: hyperparameters; absent keys are off.
        names: class names; without them ``album_class`` goes by class number.
        size: side of the training images.

    Raises:
        InputErrors: everything that is wrong with them, one line each.
    """
    problems: list[str] = []
    visibility = float(hyp.get("album_min_visibility", 0.1))

    def build(key: str, items: object) -> Pipeline | None:
        built = build_items(key, items, size, problems) if items is not None else []
        return Pipeline(key, built, visibility) if built else None

    every, rare = build("album", hyp.get("album")), build("album_rare", hyp.get("album_rare"))
    by_class = {}
    for name, items in (hyp.get("album_class") or {}).items():
        number = _class_number(name, names)
        if number is None:
            offer = nearest_name(name, (names or {}).values())
            hint = f"did you mean '{offer}'?" if offer else f"classes: {', '.join((names or {}).values()) or 'numbers'}"
            problems.append(f"album_class: unknown class '{name}', {hint}")
            continue
        pipeline = build(f"album_class, {name}", items)
        if pipeline is not None:
            by_class[number] = pipeline
    if problems:
        raise InputErrors(problems)
    return Albums(every, rare, dict(sorted(by_class.items())), float(hyp.get("rare_aug_p", 0.0)))


def name_table(names: Mapping[int, str] | Sequence[str] | None) -> dict[int, str] | None:
    """Return class names as {id: name}, None for none."""
    if names is None:
        return None
    return {int(k): str(v) for k, v in (names.items() if isinstance(names, Mapping) else enumerate(names))}


def _class_number(name: object, names: Mapping[int, str] | None) -> int | None:
    if names is None:
        return int(name) if str(name).isdecimal() else None
    return next((number for number, known in names.items() if known == str(name)), None)


def rare_album_chances(factors: np.ndarray, largest: float) -> np.ndarray:
    """Return the chance (N,) that ``album_rare`` is applied to each image: ``largest`` · (1 - 1/r), r (N,) ≥ 1."""
    return largest * (1 - 1 / np.asarray(factors, dtype=np.float64))


class ImageChanges:
    """Rare pastes and pipelines for the images of one data set.

    Args:
        paste: pastes rare objects, or None.
        albums: the pipelines.
        chances: (N,) chance of the rare pipeline per image.
        longest: longest side of the training images.
        files: N file names, for messages.
    """

    def __init__(
        self, paste: RarePaste | None, albums: Albums, chances: np.ndarray, longest: int, files: Sequence[str]
    ):
        self.paste, self.albums, self.chances, self.longest, self.files = paste, albums, chances, longest, files

    def __call__(self, i: int, image: TrainingImage, randomness: SampleRandomness) -> TrainingImage:
        """Return image ``i`` changed: pastes first, so that pipelines treat them like the rest of the picture.

        The pipelines follow in the order of ``album``, ``album_class`` (by class number) and ``album_rare``; which of
        them an image gets depends on its own labels, not on what is pasted into it.
        """
        held = set(image.labels[:, 0].astype(int).tolist())
        if self.paste is not None:
            image = self.paste(image, randomness.paste)
        for pipeline in self._chosen(i, held, randomness):
            image = pipeline(image, self.longest, randomness.album, self.files[i])
        return image

    def _chosen(self, i: int, held: set[int], randomness: SampleRandomness) -> list[Pipeline]:
        albums = self.albums
        chosen = [albums.every, *(pipeline for c, pipeline in albums.by_class.items() if c in held)]
        if albums.rare is not None and randomness.album.random() < self.chances[i]:
            chosen.append(albums.rare)
        return [pipeline for pipeline in chosen if pipeline is not None]

    def describe(self, names: Mapping[int, str] | None) -> list[str]:
        """Return one line per remedy."""
        lines = [self.paste.describe(names or {})] if self.paste is not None else []
        for pipeline in self.albums.pipelines():
            text = pipeline.describe()
            if pipeline is self.albums.rare:
                count = int((self.chances > 0).sum())
                text += f" (chance up to {self.chances.max(initial=0):.3g}, {count} of {len(self.chances)} images)"
            lines.append(text)
        return lines


def build_image_changes(
    hyp: Mapping[str, Any],
    albums: Albums,
    labels: Sequence[np.ndarray],
    segments: Sequence[Sequence[np.ndarray]],
    store: ImageStore,
    nc: int | None,
) -> ImageChanges | None:
    """Return the changes that a hyp file asks for, None when it asks for none.

    Args:
        hyp: hyperparameters.
        albums: its pipelines.
        labels: N arrays of labels.
        segments: N lists of outlines.
        store: the images.
        nc: number of classes, by default as many as the labels show.
    """
    wanted = float(hyp.get("rare_paste") or 0.0) > 0
    if not wanted and not albums.pipelines():
        return None
    largest_class = int(flat_rows(labels)[:, 0].max(initial=0))
    factors = repeat_factors(hyp, labels, max(nc or 0, largest_class + 1))
    paste = None
    if wanted:
        largest = float(max(hyp.get("rare_paste_scale", (0.5, 1.5))))
        bank = RareBank(labels, segments, store.hw, factors.classes, LEAST_SIDE / largest)
        paste = RarePaste(bank, hyp, store.load) if len(bank) else None
        if paste is None:
            LOGGER.warning("WARNING rare_paste: has no effect, no class is rarer than the rest, or all are too small")
    chances = rare_album_chances(factors.images, albums.rare_chance)
    if albums.rare is not None and not chances.any():
        reason = "rare_aug_p is 0" if not albums.rare_chance else "no class is rarer than the rest"
        LOGGER.warning(f"WARNING album_rare: has no effect, {reason}")
    if paste is None and not albums.pipelines():
        return None
    return ImageChanges(paste, albums, chances, store.size, store.files)
