"""Data set chores that YOLOv5 offers beside training: split, flatten, cut out boxes."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.dataset_yaml import find_images
from utils.errors import InputError, MissingFileError, WorkError
from utils.images import IMG_FORMATS, imread
from utils.labels import img2label_paths, scan_labels
from utils.logs import LOGGER
from utils.paths import datasets_dir
from utils.safe_write import write_whole

SPLIT_FILES = ("autosplit_train.txt", "autosplit_val.txt", "autosplit_test.txt")
CROP_GAIN, CROP_MARGIN = 1.2, 3  # a cut-out is this many times as large as its box, and so many pixels more


def autosplit(
    path: str | Path | None = None, weights: Sequence[float] = (0.9, 0.1, 0.0), annotated_only: bool = False
) -> None:
    """Deal the images of a folder out to autosplit_train.txt, autosplit_val.txt and autosplit_test.txt beside it.

    The same files and weights always give the same split, the one that YOLOv5 gives. A split without images has no
    file.

    Args:
        path: folder of images, searched with its sub-folders; by default coco128's.
        weights: shares of train, val and test; they need not add up to 1.
        annotated_only: only images that have a label file.

    Raises:
        MissingFileError: no such folder.
        InputError: no image in it, or weights that are no shares.
    """
    folder = _folder(path, "coco128/images")
    if len(weights) != len(SPLIT_FILES) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise InputError(f"weights are {tuple(weights)}, expected three shares of 0 or more, not all 0")
    files = sorted(file for file in folder.rglob("*.*") if file.suffix[1:].lower() in IMG_FORMATS)
    if not files:
        raise InputError(f"{folder}: no image found; the suffixes looked for are {', '.join(IMG_FORMATS)}")
    order = random.Random(0).choices(range(len(SPLIT_FILES)), weights=weights, k=len(files))
    lines: list[list[str]] = [[] for _ in SPLIT_FILES]
    for file, split in zip(files, order, strict=True):
        if not annotated_only or os.path.exists(img2label_paths([str(file)])[0]):
            lines[split].append(f"./{file.relative_to(folder.parent).as_posix()}\n")
    for name, part in zip(SPLIT_FILES, lines, strict=True):
        (folder.parent / name).unlink(missing_ok=True)
        if part:
            write_whole(folder.parent / name, "".join(part))
    counts = ", ".join(f"{name} {len(part)}" for name, part in zip(SPLIT_FILES, lines, strict=True))
    LOGGER.info("%s: %s of %d images", folder.parent, counts, len(files))


def flatten_recursive(path: str | Path | None = None) -> None:
    """Copy all files below a folder into one folder beside it, ``<path>_flat``.

    Args:
        path: the folder; by default coco128's.

    Raises:
        MissingFileError: no such folder.
        InputError: two files have one name, or ``<path>_flat`` holds files already; nothing is copied then.
    """
    folder = _folder(path, "coco128")
    target = _empty_folder(folder.with_name(f"{folder.name}_flat"))
    taken: dict[str, Path] = {}
    for file in sorted(file for file in folder.rglob("*.*") if file.is_file()):
        other = taken.setdefault(file.name.lower(), file)
        if other is not file:
            raise InputError(f"{other} and {file}: both would become {target / file.name}; rename one of them")
    target.mkdir(exist_ok=True)
    for file in taken.values():
        shutil.copyfile(file, target / file.name)


def extract_boxes(path: str | Path | None = None) -> None:
    """Turn a detection data set into one for classification: each box cut out, below ``classification/<class id>/``.

    A cut-out is 1.2 times as large as its box and 3 pixels more, cut at the image's edge, and named
    ``<set>_<image>_<number of the box>.jpg``; where images share a name, -2, -3 ... are added.

    Args:
        path: folder of the data set with images/ and labels/ below it; by default coco128's.

    Raises:
        MissingFileError: no such folder.
        InputError: no image, unusable labels, or ``classification`` holds files already.
        WorkError: a cut-out cannot be written.
    """
    folder = _folder(path, "coco128")
    target = _empty_folder(folder / "classification")
    table = scan_labels(find_images(folder), prefix="extract_boxes: ")
    for im_file, labels in zip(table.im_files, table.labels, strict=True):
        im = imread(im_file) if len(labels) else None
        for number, (cls, *box) in enumerate(labels.tolist()):
            x1, y1, x2, y2 = _grown(box, im.shape[1], im.shape[0])
            file = target / str(int(cls)) / f"{folder.name}_{Path(im_file).stem}_{number}.jpg"
            if x2 > x1 and y2 > y1:
                _write(file, im[y1:y2, x1:x2])


def _write(file: Path, im: np.ndarray) -> None:
    """Write a JPEG under a name that is free."""
    from utils.annotator import claim_file

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        claim_file(file, cv2.imencode(".jpg", im)[1].tobytes())
    except OSError as error:
        raise WorkError(f"{file}: the image cannot be written ({error.strerror})") from error


def _grown(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the whole-pixel corners of a normalised centre box, grown and cut to the image."""
    cx, cy = box[0] * width, box[1] * height
    w, h = box[2] * width * CROP_GAIN + CROP_MARGIN, box[3] * height * CROP_GAIN + CROP_MARGIN
    low = max(int(cx - w / 2), 0), max(int(cy - h / 2), 0)
    return *low, min(int(cx + w / 2), width), min(int(cy + h / 2), height)


def _folder(path: str | Path | None, default: str) -> Path:
    folder = datasets_dir() / default if path is None else Path(path)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder")
    return folder


def _empty_folder(path: Path) -> Path:
    """Return a path that is free or an empty folder: nothing that is there is ever deleted."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already; move it away or delete it first")
    return path
