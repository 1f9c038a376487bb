"""How far two or more annotators of the same images agree: on boxes, on classes, and by how much more than by chance.

annotators, images, names = read_annotators("data.yaml", "val", ["labels_b", "labels_c"])
result = measure_agreement(annotators, images, names)
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from utils.diagnosis.agreement_measures import (
    bootstrap_alpha,
    category_counts,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)
from utils.diagnosis.data import iou, plain
from utils.errors import InputError, MissingFileError, WorkError
from utils.logs import LOGGER

MATCH_IOU = 0.5
GOOD, TENTATIVE = 0.8, 0.667
REPLICATES = 1000
Missing = Literal["unseen", "background"]


@dataclass(frozen=True)
class Annotator:
    """What one annotator drew.

    Attributes:
        name: for reports.
        boxes: per image (n, 4) x1, y1, x2, y2, fractions of the image.
        cls: per image (n,) class numbers.
        line: per image (n,) row of the label file, from 1.
        seen: (N,) whether the annotator looked at each image.
    """

    name: str
    boxes: list[np.ndarray]
    cls: list[np.ndarray]
    line: list[np.ndarray]
    seen: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree; None stands for a measure that is not defined on this data.

    Attributes:
        annotators: their names.
        images: number of images that two or more looked at.
        images_left_out: number of the others.
        objects: number of objects that somebody drew.
        seen_by_all: share of them that everybody drew who looked at the image.
        mean_iou: mean IoU of two annotators' boxes of one object.
        pairs: for each two annotators a mapping with a, b, boxes_a, boxes_b, matched, precision (share of b's boxes
            that a drew, too), recall (share of a's that b drew), kappa (Cohen, classes of the matched) and mean_iou.
        alpha: Krippendorff's alpha of the classes of objects that two or more drew; alpha_interval 95 %.
        alpha_detect: the same where not drawing an object that others drew is a rating of its own.
        fleiss: Fleiss' kappa of the classes where every object has as many ratings, else None; fleiss_detect likewise.
        disagreements: (class, class), smaller number first -> objects that got both.
        names: class names.
        rows: for each object its image and each annotator's (class, row of the label file), -1 and 0 for none.
    """

    annotators: list[str]
    images: int
    images_left_out: int
    objects: int
    seen_by_all: float | None
    mean_iou: float | None
    pairs: list[dict[str, Any]]
    alpha: float | None
    alpha_interval: tuple[float, float] | None
    alpha_detect: float | None
    alpha_detect_interval: tuple[float, float] | None
    fleiss: float | None
    fleiss_detect: float | None
    disagreements: dict[tuple[int, int], int]
    names: dict[int, str]
    rows: list[tuple[str, list[tuple[int, int]]]] = field(repr=False, default_factory=list)

    @property
    def reading(self) -> str:
        """What alpha says: good, tentative, low, or undefined."""
        if self.alpha is None:
            return "undefined"
        return "good" if self.alpha >= GOOD else "tentative" if self.alpha >= TENTATIVE else "low"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single objects as plain data."""
        low, high = self.alpha_interval or (None, None)
        low_detect, high_detect = self.alpha_detect_interval or (None, None)
        listed = [
            {"a": a, "b": b, "name_a": self.names[a], "name_b": self.names[b], "objects": n}
            for (a, b), n in sorted(self.disagreements.items(), key=lambda item: -item[1])
        ]
        return plain({
            "annotators": self.annotators, "images": self.images, "images_left_out": self.images_left_out,
            "objects": self.objects, "seen_by_all": self.seen_by_all, "mean_iou": self.mean_iou, "pairs": self.pairs,
            "alpha": self.alpha, "alpha_low": low, "alpha_high": high, "alpha_detect": self.alpha_detect,
            "alpha_detect_low": low_detect, "alpha_detect_high": high_detect, "fleiss": self.fleiss,
            "fleiss_detect": self.fleiss_detect, "reading": self.reading, "disagreements": listed,
        })  # fmt: skip

    def write_csv(self, path: str | Path) -> None:
        """Write a line for each object: image, and each annotator's class and row of the label file.

        Raises:
            WorkError: the file cannot be written.
        """
        header = ["image", *(f"{what} {name}" for name in self.annotators for what in ("class", "row"))]
        try:
            with Path(path).open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(header)
                for image, ratings in self.rows:
                    writer.writerow([image, *(x for c, row in ratings for x in (self.names.get(c, ""), row or ""))])
        except OSError as error:
            raise WorkError(f"{path}: cannot be written: {error.strerror}") from None


def measure_agreement(
    annotators: Sequence[Annotator],
    images: Sequence[str],
    names: Mapping[int, str],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Agreement:
    """Compare two or more annotators of the same images.

    Boxes of different annotators are one object when they overlap by an IoU of 0.5, the best pairs first, whatever
    their classes; an object holds at most one box of each annotator.

    Args:
        annotators: two or more.
        images: N paths.
        names: class names.
        seed: of the bootstrap over images.
        replicates: number of its resamples.

    Raises:
        InputError: fewer than two annotators, or no image that two looked at.
    """
    if len(annotators) < 2:
        raise InputError(f"agreement needs two or more annotators, found {len(annotators)}")
    seen = np.stack([annotator.seen for annotator in annotators], 1)
    shared = np.flatnonzero(seen.sum(1) >= 2)
    if not len(shared):
        who = ", ".join(annotator.name for annotator in annotators)
        raise InputError(f"agreement needs images that two or more annotators labelled; {who} have none in common")
    classes, lines, owner, overlaps = _objects(annotators, shared, seen)
    absent = len(names)
    detect = np.where((classes < 0) & seen[owner], absent, classes)
    images_of = np.searchsorted(shared, owner)
    mean_iou = [value for values in overlaps.values() for value in values]
    looked = seen[owner].sum(1) if len(owner) else np.zeros(0)
    return Agreement(
        [annotator.name for annotator in annotators], len(shared), len(images) - len(shared), len(classes),
        float(((classes >= 0).sum(1) == looked).mean()) if len(classes) else None,
        float(np.mean(mean_iou)) if mean_iou else None, _annotator_pairs(annotators, classes, seen, shared, overlaps),
        krippendorff_alpha(classes), bootstrap_alpha(classes, images_of, len(shared), seed, replicates),
        krippendorff_alpha(detect), bootstrap_alpha(detect, images_of, len(shared), seed, replicates),
        fleiss_kappa(category_counts(classes)), fleiss_kappa(category_counts(detect)), _disagreements(classes),
        dict(names),
        [(images[i], [(int(c), int(n)) for c, n in zip(row, numbers, strict=True)])
         for i, row, numbers in zip(owner.tolist(), classes, lines, strict=True)],
    )  # fmt: skip


def ambiguous_pairs(agreement: Agreement, confusions: Mapping[tuple[int, int], int]) -> list[dict[str, int]]:
    """Return the class pairs that annotators disagree on and the model confuses, too: no fault of the model.

    Args:
        agreement: of annotators.
        confusions: (predicted, true) -> number, as ``operating.OperatingResult.pairs``.

    Returns:
        Mappings with a, b (class numbers), annotators and model (objects), the most often confused first.
    """
    model: Counter[tuple[int, int]] = Counter()
    for (predicted, true), count in confusions.items():
        model[min(predicted, true), max(predicted, true)] += count
    both = [
        {"a": pair[0], "b": pair[1], "annotators": count, "model": model[pair]}
        for pair, count in agreement.disagreements.items()
        if model[pair]
    ]
    return sorted(both, key=lambda item: (-item["model"], item["a"], item["b"]))


def cluster_boxes(boxes: Sequence[np.ndarray]) -> list[dict[int, int]]:
    """Return the objects of one image: for each, annotator -> place of the box.

    Args:
        boxes: for each annotator (n, 4) x1, y1, x2, y2.
    """
    objects = {(a, k): {a: k} for a, own in enumerate(boxes) for k in range(len(own))}
    candidates = []
    for a, b in combinations(range(len(boxes)), 2):
        overlap = iou(boxes[a], boxes[b])
        for i, j in zip(*(axis.tolist() for axis in np.nonzero(overlap >= MATCH_IOU)), strict=True):
            candidates.append((-overlap[i, j], a, i, b, j))
    for _, a, i, b, j in sorted(candidates):
        first, second = objects[a, i], objects[b, j]
        if first.keys() & second.keys():  # one annotator would have two boxes of it; or they are joined already
            continue
        first.update(second)
        for key in second.items():
            objects[key] = first
    return list({id(found): found for found in objects.values()}.values())


def _objects(
    annotators: Sequence[Annotator], shared: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[tuple[int, int], list[float]]]:
    """Return classes (U, A) and rows (U, A) of all objects, their images (U,), and the IoUs of annotator pairs."""
    classes, lines, owner = [], [], []
    overlaps: dict[tuple[int, int], list[float]] = {pair: [] for pair in combinations(range(len(annotators)), 2)}
    nothing = np.zeros((0, 4))
    for i in shared.tolist():
        boxes = [a.boxes[i] if seen[i, k] else nothing for k, a in enumerate(annotators)]
        for found in cluster_boxes(boxes):
            places = [found.get(k, -1) for k in range(len(annotators))]
            classes.append([a.cls[i][p] if p >= 0 else -1 for a, p in zip(annotators, places, strict=True)])
            lines.append([a.line[i][p] if p >= 0 else 0 for a, p in zip(annotators, places, strict=True)])
            owner.append(i)
            for a, b in combinations(sorted(found), 2):
                overlaps[a, b].append(float(iou(boxes[a][found[a]], boxes[b][found[b]])[0, 0]))
    shape = (-1, len(annotators))
    return np.array(classes, np.int64).reshape(shape), np.array(lines, np.int64).reshape(shape), np.array(
        owner, np.int64
    ), overlaps  # fmt: skip


def _annotator_pairs(
    annotators: Sequence[Annotator],
    classes: np.ndarray,
    seen: np.ndarray,
    shared: np.ndarray,
    overlaps: Mapping[tuple[int, int], list[float]],
) -> list[dict[str, Any]]:
    rows = []
    for (a, b), values in overlaps.items():
        common = [i for i in shared.tolist() if seen[i, a] and seen[i, b]]
        boxes_a, boxes_b = (sum(len(annotators[k].cls[i]) for i in common) for k in (a, b))
        matched = (classes[:, a] >= 0) & (classes[:, b] >= 0)
        count = int(matched.sum())
        rows.append({
            "a": annotators[a].name, "b": annotators[b].name, "boxes_a": boxes_a, "boxes_b": boxes_b, "matched": count,
            "precision": count / boxes_b if boxes_b else None, "recall": count / boxes_a if boxes_a else None,
            "kappa": cohen_kappa(classes[matched, a], classes[matched, b]),
            "mean_iou": float(np.mean(values)) if values else None,
        })  # fmt: skip
    return rows


def _disagreements(classes: np.ndarray) -> dict[tuple[int, int], int]:
    """Return how many objects (U, A) got each two classes."""
    found: Counter[tuple[int, int]] = Counter()
    for row in classes:
        found.update(combinations(np.unique(row[row >= 0]).tolist(), 2))
    return dict(found.most_common())


# Reading --------------------------------------------------------------------------------------------------------------


def read_annotators(
    data: str | Path | Mapping[str, Any], split: str, folders: Sequence[str | Path], missing: Missing = "unseen"
) -> tuple[list[Annotator], list[str], dict[int, str]]:
    """Return the data set's own labels and those of other folders as annotators, the images, and the class names.

    A folder holds each label file where the data set's labels folder has it, or flat under its name.

    Args:
        data: data set YAML or facts.
        split: train, val or test.
        folders: of further annotators.
        missing: what an image without a label file means: nobody looked, or there is nothing on it.

    Raises:
        InputError: no such split, a folder without any fitting file, a label file that cannot be used.
    """
    from utils.dataset_yaml import check_dataset, find_images
    from utils.labels import img2label_paths

    facts = check_dataset(dict(data) if isinstance(data, Mapping) else data, splits=(split,))
    if not facts.get(split):
        raise InputError(f"the data set has no split '{split}'")
    images = find_images(facts[split])
    own = img2label_paths(images)
    nc = len(facts["names"])
    annotators = [_read("the data set", own, nc, missing)]
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise MissingFileError(f"--labels-b {folder}: no such folder")
        files = [str(_file_in(folder, Path(label))) for label in own]
        if not any(Path(file).is_file() for file in files):
            raise InputError(f"--labels-b {folder}: holds no label file of the {len(own)} images of {split}")
        annotators.append(_read(str(folder), files, nc, missing))
    return annotators, images, dict(facts["names"])


def _file_in(folder: Path, label: Path) -> Path:
    """Return where a folder has the counterpart of a label file; the flat name where it has none."""
    parts = label.parts
    below = len(parts) - parts[::-1].index("labels") if "labels" in parts else len(parts) - 1
    for tail in (Path(*parts[below:]), Path(*parts[-2:])):
        if (folder / tail).is_file():
            return folder / tail
    return folder / label.name


def _read(name: str, files: Sequence[str], nc: int, missing: Missing) -> Annotator:
    from utils.labels import read_label_file

    boxes, classes, lines = [], [], []
    seen = np.ones(len(files), bool)
    for i, file in enumerate(files):
        labels, places = np.zeros((0, 5), np.float32), None
        if Path(file).is_file():
            parsed = read_label_file(file, nc)
            if not parsed.usable:
                raise InputError(str(parsed.problems[0]))
            labels, places = parsed.labels, parsed.places
        elif missing == "unseen":
            seen[i] = False
        centre, half = labels[:, 1:3].astype(np.float64), labels[:, 3:5].astype(np.float64) / 2
        boxes.append(np.concatenate((centre - half, centre + half), 1))
        classes.append(labels[:, 0].astype(np.int64))
        lines.append(_rows(len(labels), places))
    if not seen.all():
        LOGGER.info("%s: %d of %d images have no label file: left out", name, int((~seen).sum()), len(files))
    return Annotator(name, boxes, classes, lines, seen)


def _rows(count: int, places: np.ndarray | None) -> np.ndarray:
    """Return the row of the label file, from 1, of each of ``count`` cleaned labels."""
    if places is None:
        return np.arange(1, count + 1)
    rows = np.zeros(count, np.int64)
    rows[places[places >= 0]] = np.flatnonzero(places >= 0) + 1
    return rows
