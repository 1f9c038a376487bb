"""Predictions on images that the predicting model was not trained on, by k folds.

Who calls says how a model is trained and how it predicts; ``train_with`` makes the first of ``train.run``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.diagnosis.data import GroundTruth, ImageInfo, Predictions, sort_predictions
from utils.errors import InputError
from utils.logs import LOGGER

Trainer = Callable[[dict[str, Any], Path], Path]  # (data set, folder of the run) -> weights
Predictor = Callable[[Path, list[ImageInfo]], Predictions]  # (weights, images) -> predictions by place among them
MIN_FOLDS = 2


@dataclass(frozen=True)
class Fold:
    """One part of a data set that is predicted by a model trained on the others.

    Attributes:
        number: from 1.
        train: places of the images to train on, rising.
        held: places of the images to predict, rising.
    """

    number: int
    train: np.ndarray
    held: np.ndarray


def make_folds(truth: GroundTruth, folds: int, seed: int = 0, groups: np.ndarray | None = None) -> list[Fold]:
    """Deal images out into folds so that every class is spread as evenly as its images allow.

    Images are dealt by the rarest class that they hold, the rarest first, in a seeded order, each to the smallest fold.

    Args:
        truth: labelled images.
        folds: how many, 2 and above.
        seed: of the order.
        groups: (images,) group of each image; a group (of near-duplicates, say) stays in one fold. Not followed where
            one group would fill more than two folds.

    Raises:
        InputError: fewer than 2 folds, or more than there are images to deal.
    """
    count = len(truth.images)
    if not MIN_FOLDS <= folds <= count:
        raise InputError(f"--folds is {folds}, allowed are {MIN_FOLDS} to {max(count, MIN_FOLDS)} (images to deal out)")
    groups = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(groups)
    if len(sizes) < folds or sizes.max() * folds > 2 * count:
        LOGGER.warning(
            "WARNING folds: %d of %d images are nearly the same; they are dealt out singly, so that the predictions on "
            "them are not out of sample", sizes.max(), count,
        )  # fmt: skip
        groups, sizes = np.arange(count), np.ones(count, np.int64)
    frequency = truth.counts()
    rarest = np.full(len(sizes), np.iinfo(np.int64).max)  # groups without objects are dealt last
    np.minimum.at(rarest, groups[truth.image], frequency[truth.cls] * truth.nc + truth.cls)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    filled, fold_of_group = [0] * folds, np.empty(len(sizes), np.int64)
    for group in shuffled[np.argsort(rarest[shuffled], kind="stable")].tolist():
        fold_of_group[group] = smallest = filled.index(min(filled))
        filled[smallest] += int(sizes[group])
    fold = fold_of_group[groups]
    return [Fold(k + 1, np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


def out_of_sample(
    truth: GroundTruth, folds: list[Fold], train: Trainer, predict: Predictor, folder: Path, settings: str = ""
) -> Predictions:
    """Return predictions on every image by a model that was trained on the other folds alone.

    What a fold gave is kept in ``folder`` (fold1.npz, fold2.npz ...) and taken from there when labels, images and
    ``settings`` are the same, so that interrupted work goes on where it stopped.

    Args:
        truth: labelled images.
        folds: of ``make_folds``.
        train: trains on the data set given to it, in the folder given, and returns the weights to use.
        predict: returns the predictions of such weights on images.
        folder: for lists, runs and kept predictions.
        settings: text that names how ``train`` and ``predict`` work.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for fold in folds:
        key, kept = _key(truth, fold, settings), folder / f"fold{fold.number}.npz"
        part = _load(kept, key)
        if part is None:
            images = [truth.images[i] for i in fold.held]
            weights = _trained(truth, fold, train, folder, key)
            part = predict(weights, images)
            _save(kept, key, part)
        LOGGER.info("fold %d of %d: %d predictions on %d images", fold.number, len(folds), len(part), len(fold.held))
        parts.append((fold.held[part.image], part))
    columns = [np.concatenate([getattr(part, name) for _, part in parts]) for name in ("boxes", "conf", "cls")]
    places = np.concatenate([image for image, _ in parts])
    return sort_predictions(places, *columns, source=f"out of sample, {len(folds)} folds")


def train_with(run: Callable[..., Any], **options: Any) -> Trainer:
    """Return a trainer that calls ``train.run`` with these options and gives the last epoch's weights.

    The last epoch, not the best: which one is best would be chosen on the held-out images.
    """

    def train(data: dict[str, Any], folder: Path) -> Path:
        project = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
        opt = run(**{"noval": True, "noplots": True, **options, **project, "data": data})
        return Path(opt.save_dir) / "weights" / "last.pt"

    return train


def _trained(truth: GroundTruth, fold: Fold, train: Trainer, folder: Path, key: str) -> Path:
    """Return the fold's weights, trained before or now."""
    mark = folder / f"fold{fold.number}.trained.json"
    known = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else {}
    if known.get("key") == key and Path(known["weights"]).is_file():
        return Path(known["weights"])
    data: dict[str, Any] = {"path": str(folder), "names": dict(truth.names)}
    for split, places in (("train", fold.train), ("val", fold.held)):
        listed = folder / f"fold{fold.number}_{split}.txt"
        listed.write_text("".join(f"{Path(truth.images[i].path).absolute()}\n" for i in places), encoding="utf-8")
        data[split] = str(listed)
    LOGGER.info("fold %d: training on %d images", fold.number, len(fold.train))
    weights = train(data, folder / f"fold{fold.number}")
    mark.write_text(json.dumps({"key": key, "weights": str(weights)}), encoding="utf-8")
    return weights


def _key(truth: GroundTruth, fold: Fold, settings: str) -> str:
    """Return a digest of all that a fold's predictions depend on."""
    whole = hashlib.sha256(json.dumps([settings, sorted(truth.names.items())]).encode())
    for image in truth.images:
        whole.update(f"{image.path}\0".encode("utf-8", "surrogateescape"))
    for array in (truth.image, truth.boxes, truth.cls, fold.train, fold.held):
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def _save(path: Path, key: str, part: Predictions) -> None:
    columns: Mapping[str, np.ndarray] = {name: getattr(part, name) for name in ("image", "boxes", "conf", "cls")}
    temporary = path.with_suffix(".part.npz")
    np.savez_compressed(temporary, key=np.array(key), **columns)
    temporary.replace(path)


def _load(path: Path, key: str) -> Predictions | None:
    """Return a fold's kept predictions, None when there are none for this key."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as data:
        if str(data["key"]) != key:
            return None
        return sort_predictions(data["image"], data["boxes"], data["conf"], data["cls"])
