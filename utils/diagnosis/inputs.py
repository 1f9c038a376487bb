"""What a diagnosis starts from: ground truth of a data set, predictions from a file, a folder or a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.diagnosis.data import GroundTruth, ImageInfo, Predictions, sort_objects
from utils.errors import InputError, MissingFileError


@dataclass(frozen=True)
class Views:
    """Predictions of one run in its two views, which are never mixed.

    Attributes:
        a: all predictions as val makes them: confidence from 0.001, several labels a box, at most 300 an image.
        b: predictions as detect makes them: one label a box; to be cut at a threshold with ``above``.
        b_exact: False where b was made from a file of a's kind (see ``operating.single_label``).
    """

    a: Predictions
    b: Predictions
    b_exact: bool

    @property
    def images_with(self) -> int:
        """Number of images that have a prediction in ``a``."""
        return len(np.unique(self.a.image))


def load_ground_truth(data: str | Path | Mapping[str, Any], split: str = "val", prefix: str = "") -> GroundTruth:
    """Return the labelled objects of one split, cleaned and with the images left out as val does it.

    Args:
        data: data set YAML, or its facts from ``check_dataset``.
        split: train, val or test.
        prefix: start of the log lines.

    Raises:
        InputError: the data set, the split or a label does not fit.
    """
    from utils.dataset_yaml import SPLITS, check_dataset, find_images
    from utils.labels import img2label_paths, scan_labels

    if split not in SPLITS:
        raise InputError(f"--split is {split!r}, allowed are {', '.join(SPLITS)}")
    facts = check_dataset(dict(data) if isinstance(data, Mapping) else data, splits=(split,))
    if not facts.get(split):
        source = "the data set" if isinstance(data, Mapping) else data
        raise InputError(f"{source}: has no '{split}' entry, which --split asks for")
    files = find_images(facts[split])
    label_files = img2label_paths(files)
    last = Path(facts[split] if isinstance(facts[split], str) else facts[split][-1])
    cache = (last if last.is_file() else Path(label_files[0]).parent).with_suffix(".cache")  # the loader's own
    table = scan_labels(files, label_files, cache, prefix, int(facts["nc"]), names=facts["names"])
    return from_label_table(table, facts["names"], split)


def from_label_table(table: Any, names: Mapping[int, str], split: str) -> GroundTruth:
    """Return a checked label table (utils.data.label_table.LabelTable) as ground truth in pixels."""
    sizes = np.asarray(table.shapes, np.float64).reshape(-1, 2)
    images = [
        ImageInfo(str(file), str(label_file), int(width), int(height))
        for file, label_file, (width, height) in zip(table.im_files, table.label_files, sizes.tolist(), strict=True)
    ]
    count = np.diff(table.box_offsets)
    image = np.repeat(np.arange(len(images)), count)
    rows = np.asarray(table.boxes, np.float64).reshape(-1, 5)
    line = np.arange(len(rows)) - np.repeat(table.box_offsets[:-1], count) + 1
    reordered = {problem.file for problem in table.report.problems}
    for i in [i for i, info in enumerate(images) if info.label_path in reordered and count[i]]:
        line[table.box_offsets[i] : table.box_offsets[i + 1]] = _rows_kept(images[i].label_path, int(count[i]))
    return sort_objects(images, image, to_pixels(rows[:, 1:], sizes[image]), rows[:, 0], dict(names), line, split)


def _rows_kept(label_file: str, count: int) -> np.ndarray:
    """Return the row, from 1, of each of a label file's ``count`` cleaned labels."""
    from utils.labels import read_label_file

    places = read_label_file(label_file).places
    if places is None:
        return np.arange(1, count + 1)
    kept = np.flatnonzero(places >= 0)
    return kept[np.argsort(places[kept])] + 1


def to_pixels(xywhn: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return boxes (n, 4) centre x, y, w, h, 0 to 1, as corners in pixels of images of sizes (n, 2) width, height."""
    half = xywhn[:, 2:4] / 2
    return np.concatenate((xywhn[:, :2] - half, xywhn[:, :2] + half), 1) * np.tile(sizes, 2)


def load_predictions(source: str | Path, gt: GroundTruth, annotations: str | Path | None = None) -> Views:
    """Return the predictions of a COCO JSON file or of a folder of label files with confidences.

    Args:
        source: what val's or another detector's --save-json wrote, or the folder of --save-txt --save-conf.
        gt: the images that the predictions are about.
        annotations: COCO annotation file whose image and category numbers a JSON uses; by default images go by their
            stems and categories by class numbers, or by COCO's own table on COCO.

    Raises:
        MissingFileError: no such file or folder.
        InputError: content that does not fit; images or categories that the data set does not know, by name.
    """
    from utils.diagnosis.coco_results import read_coco_results
    from utils.diagnosis.label_results import read_label_folder
    from utils.diagnosis.operating import single_label

    path = Path(source)
    if not path.exists():
        raise MissingFileError(f"--pred {path}: no such file or folder")
    if path.is_dir():
        predictions = read_label_folder(path, gt)
    elif path.suffix.lower() == ".json":
        predictions = read_coco_results(path, gt, annotations)
    else:
        raise InputError(f"--pred {path}: allowed are a .json file of COCO results or a folder of label files")
    return Views(predictions, single_label(predictions), b_exact=False)
