"""Predictions from a COCO results file, val's own or another detector's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.diagnosis.data import GroundTruth, Predictions, sort_predictions
from utils.errors import InputError, MissingFileError
from utils.helpers import coco80_to_coco91_class
from utils.logs import LOGGER
from utils.outputs.coco_json import image_id

KEYS = ("image_id", "category_id", "bbox", "score")
COCO_CLASSES = 80
SHOWN = 5


def read_coco_results(path: Path, gt: GroundTruth, annotations: str | Path | None = None) -> Predictions:
    """Return the predictions of a COCO results file: a list of image_id, category_id, bbox [x, y, w, h] and score.

    Args:
        path: the file.
        gt: the images and classes.
        annotations: COCO annotation file with the images' and categories' numbers. Without it images go by their
            stems, and categories are class numbers, or COCO's own 1 to 90 where the data set is COCO.

    Raises:
        InputError: no such list; an entry, image or category that does not fit, by name.
    """
    entries = _entries(path)
    truth = _read_annotations(Path(annotations)) if annotations else None
    image_of = _images_of_annotations(truth, gt, Path(annotations)) if truth else _images_by_stem(path, gt)
    category_of = _classes_of_annotations(truth, gt) if truth else _classes_by_number(entries, gt)
    images = [entry["image_id"] for entry in entries]
    categories = [entry["category_id"] for entry in entries]
    _refuse_unknown_images(path, images, image_of, gt)
    _refuse_unknown_categories(path, categories, category_of, truth, gt)
    boxes, conf = _numbers(path, entries)
    boxes[:, 2:] += boxes[:, :2]
    image = [image_of[_image_key(i, image_of)] for i in images]
    return sort_predictions(image, boxes, conf, [category_of[c] for c in categories], str(path))


# The file -------------------------------------------------------------------------------------------------------------


def _load(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())[:120]})") from None


def _entries(path: Path) -> list[dict[str, Any]]:
    """Return the entries, each with all KEYS."""
    entries = _load(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: holds a {type(entries).__name__}, expected a list of results with {', '.join(KEYS)}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{path}, entry {number}: is {str(entry)[:60]!r}, expected {', '.join(KEYS)}")
        missing = [key for key in KEYS if key not in entry]
        if missing:
            raise InputError(f"{path}, entry {number}: lacks {', '.join(missing)}; expected {', '.join(KEYS)}")
        kinds = (("image_id", (int, str)), ("category_id", (int,)))
        for key, allowed in kinds:
            if not isinstance(entry[key], allowed) or isinstance(entry[key], bool):
                raise InputError(f"{path}, entry {number}: {key} is {entry[key]!r}, expected a whole number"
                                 f"{' or text' if str in allowed else ''}")  # fmt: skip
    return entries


def _numbers(path: Path, entries: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (n, 4) x, y, w, h and scores (n,)."""
    if not entries:
        return np.zeros((0, 4)), np.zeros(0)
    try:
        rows = np.array([[*entry["bbox"], entry["score"]] for entry in entries], dtype=np.float64)
    except (TypeError, ValueError):
        rows = np.zeros((len(entries), 0))
    if rows.shape[1] == 5:
        wrong = ~np.isfinite(rows).all(1) | (rows[:, 2:4] < 0).any(1) | (rows[:, 4] < 0) | (rows[:, 4] > 1)
        if not wrong.any():
            return rows[:, :4], rows[:, 4]
        number = int(np.flatnonzero(wrong)[0])
    else:
        number = next(i for i, entry in enumerate(entries) if not _has_numbers(entry))
    found = {key: entries[number][key] for key in ("bbox", "score")}
    raise InputError(
        f"{path}, entry {number}: bbox {str(found['bbox'])[:80]}, score {str(found['score'])[:20]}; allowed are "
        "[x, y, width, height] in pixels, sizes of at least 0, and a score from 0 to 1"
    )


def _has_numbers(entry: dict[str, Any]) -> bool:
    box, score = entry["bbox"], entry["score"]
    values = [*box, score] if isinstance(box, list) else []
    return len(values) == 5 and all(isinstance(v, (int, float)) for v in values)


# Images ---------------------------------------------------------------------------------------------------------------


def _images_by_stem(path: Path, gt: GroundTruth) -> dict[int | str, int]:
    """Return image_id -> place; images that share a stem are left to be refused by name."""
    known: dict[int | str, int] = {}
    shared: dict[int | str, str] = {}
    for number, info in enumerate(gt.images):
        key = image_id(info.path)
        if key in known:
            shared[key] = info.path
        known[key] = number
    if shared:
        key, other = next(iter(shared.items()))
        first = next(info.path for info in gt.images if image_id(info.path) == key)
        raise InputError(
            f"{path}: image_id {key!r} could mean {first} or {other}; pass an annotation file that numbers the images"
        )
    return known


def _image_key(key: int | str, known: Mapping[int | str, int]) -> int | str:
    """Return the key as the table has it: file names and numbers as text go by their stem."""
    return image_id(key) if isinstance(key, str) and key not in known else key


def _images_of_annotations(truth: dict[str, Any], gt: GroundTruth, path: Path) -> dict[int | str, int]:
    """Return image id -> place by the file names of an annotation file."""
    by_name: dict[str, list[int]] = {}
    for number, info in enumerate(gt.images):
        by_name.setdefault(Path(info.path).name, []).append(number)
    known: dict[int | str, int] = {}
    for image in truth["images"]:
        name = str(image["file_name"]).replace("\\", "/")
        fitting = by_name.get(name.rpartition("/")[2], [])
        if len(fitting) > 1:
            fitting = [i for i in fitting if Path(gt.images[i].path).as_posix().endswith("/" + name)]
            if len(fitting) != 1:
                raise InputError(f"{path}: file_name {name!r} is the name of several images, give more of the path")
        if fitting:
            known[image["id"]] = fitting[0]
    return known


def _refuse_unknown_images(
    path: Path, images: list[int | str], known: Mapping[int | str, int], gt: GroundTruth
) -> None:
    unknown = Counter(i for i in images if _image_key(i, known) not in known)
    if unknown:
        shown = ", ".join(repr(i) for i in list(unknown)[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
        example = f"such as {image_id(gt.images[0].path)!r}" if gt.images else "none"
        raise InputError(
            f"{path}: image_id {shown} ({sum(unknown.values())} entries, first entry "
            f"{next(n for n, i in enumerate(images) if i in unknown)}) is no image of the {gt.split} split; "
            f"it has {len(gt.images)}, {example}"
        )


# Categories -----------------------------------------------------------------------------------------------------------


def _read_annotations(path: Path) -> dict[str, Any]:
    """Return an annotation file with its images and categories checked."""
    truth = _load(path)
    wanted = {"images": ("id", "file_name"), "categories": ("id", "name")}
    for key, fields in wanted.items():
        rows = truth.get(key) if isinstance(truth, dict) else None
        if not isinstance(rows, list) or not all(isinstance(r, dict) and all(f in r for f in fields) for r in rows):
            raise InputError(f"{path}: expected COCO annotations with a list '{key}' of {' and '.join(fields)}")
    return truth


def _classes_of_annotations(truth: dict[str, Any], gt: GroundTruth) -> dict[int, int]:
    """Return category id -> class by their names, spaces and capitals aside."""
    classes = {_plain_name(name): c for c, name in gt.names.items()}
    found = {row["id"]: classes.get(_plain_name(str(row["name"]))) for row in truth["categories"]}
    return {category: c for category, c in found.items() if c is not None}


def _plain_name(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def _classes_by_number(entries: list[dict[str, Any]], gt: GroundTruth) -> dict[int, int]:
    """Return category id -> class without an annotation file.

    COCO's numbers 1 to 90 are meant on COCO itself, and on another set with 80 classes when a number above 79 occurs
    and 0 does not.
    """
    table = {category: c for c, category in enumerate(coco80_to_coco91_class())}
    if gt.nc == COCO_CLASSES:
        used = {entry["category_id"] for entry in entries}
        by_numbers = 0 not in used and any(c >= COCO_CLASSES for c in used)
        if is_coco(gt) or by_numbers:
            LOGGER.info("Categories are read as COCO's numbers 1 to 90")
            return table
    return {c: c for c in gt.names}


def is_coco(gt: GroundTruth) -> bool:
    """Say whether the images lie in COCO's own folders; results on them use COCO's category numbers."""
    return gt.nc == COCO_CLASSES and all("coco/images/" in Path(info.path).as_posix() for info in gt.images)


def _refuse_unknown_categories(
    path: Path, categories: list[int], known: Mapping[int, int], truth: dict[str, Any] | None, gt: GroundTruth
) -> None:
    unknown = Counter(c for c in categories if c not in known)
    if not unknown:
        return
    names = {row["id"]: f" ({row['name']})" for row in truth["categories"]} if truth else {}
    shown = ", ".join(f"{c}{names.get(c, '')}" for c in sorted(unknown)[:SHOWN])
    shown += ", ..." if len(unknown) > SHOWN else ""
    hint = ""
    if truth is None:
        from_one = 0 not in categories and gt.nc in unknown
        hint = "; the numbers seem to begin at 1" if from_one else ""
        hint += "; pass the annotation file whose categories they are" if from_one or gt.nc != COCO_CLASSES else ""
    allowed = ", ".join(f"{c} {gt.names[i]}" for c, i in sorted(known.items(), key=lambda item: item[1])[:SHOWN])
    allowed += ", ..." if len(known) > SHOWN else ""
    raise InputError(
        f"{path}: category_id {shown} ({sum(unknown.values())} entries) is no class of the data set; "
        f"known are {allowed or 'none'}{hint}"
    )
