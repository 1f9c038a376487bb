"""COCO and annotation files of its kind: JSON with the lists images, annotations and categories."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from utils.data.converters.job import Job
from utils.data.converters.readers import numbers, plain_path, read_json_items, shown
from utils.errors import InputError, MissingFileError
from utils.logs import TQDM_BAR_FORMAT

SOURCES = {
    "train2017": "annotations/instances_train2017.json",
    "val2017": "annotations/instances_val2017.json",
    "test-dev2017": "annotations/image_info_test-dev2017.json",
}


class Place(NamedTuple):
    """Where an image lies below its split's image folder, its (width, height) in pixels, and whether it is there."""

    path: Path
    size: tuple[Any, Any]
    present: bool


class _Images(NamedTuple):
    """The images of an annotation file; ``numbers`` maps an image's id to its position in the lists."""

    numbers: dict[Any, int]
    paths: list[Path]
    sizes: list[tuple[float, float]]
    present: list[bool]
    categories: dict[Any, str]


def convert(job: Job) -> None:
    """Make labels/SPLIT2017 and the lists SPLIT2017.txt from instances_SPLIT2017.json.

    Labels that are there (the set is mostly fetched with them) are left alone, and so are lists.
    """
    for split, source in SOURCES.items():
        path, labels, listed = job.root / source, f"labels/{split}", f"{split}.txt"
        done = [job.is_there(target) for target in (listed, *([] if split.startswith("test") else [labels]))]
        if all(done) or not path.is_file():
            continue
        folder = f"images/{split.replace('-dev', '')}"

        def place(item: Mapping[str, Any], where: str, folder: str = folder) -> Place:
            name = plain_path(item.get("file_name"), where).name
            return Place(Path(name), (item.get("width"), item.get("height")), (job.root / folder / name).is_file())

        if len(done) == 2 and not done[1]:
            images = write_annotations(job, path, labels, place)
        else:
            images = _read_images(job, path, place, {})
        if not done[0]:
            job.write_list(
                listed, (f"./{folder}/{p}" for p, there in zip(images.paths, images.present, strict=True) if there)
            )


def write_annotations(  # noqa: PLR0913  (options by name)
    job: Job,
    source: Path,
    labels: str,
    place: Callable[[Mapping[str, Any], str], Place],
    *,
    categories: Mapping[Any, str] | None = None,
    keep_crowds: bool = False,
) -> _Images:
    """Write one label file per image of an annotation file, also for images that are not there yet.

    Args:
        job: the conversion.
        source: JSON with images (id), annotations (image_id, category_id, bbox as left, top, width, height in pixels)
            and categories (id, name).
        labels: folder to write.
        place: image entry and its place in the file -> where the image lies.
        categories: category id -> class name where the file has none.
        keep_crowds: keep boxes marked ``iscrowd`` (one box around many objects).

    Returns:
        What the file says of its images.

    Raises:
        InputError: malformed JSON or an annotation that names an unknown image or category.
        MissingFileError: none of the images is there.
    """
    images = _read_images(job, source, place, categories or {})
    owners, classes, boxes = array("q"), array("q"), array("d")
    bar = tqdm(read_json_items(source, {"annotations"}), desc=source.name, bar_format=TQDM_BAR_FORMAT, disable=None)
    for number, (_, item) in enumerate(bar):
        where = f"{source}, annotation {number}"
        owner, name = _owner_and_name(item, images, where)
        if item.get("iscrowd") and not keep_crowds:
            job.skip("boxes around crowds (iscrowd)", where)
            continue
        left, top, width, height = numbers(item.get("bbox"), where, "'bbox'", 4)
        row = job.row(name, (left, top, left + width, top + height), images.sizes[owner], where)
        if row:
            owners.append(owner)
            classes.append(row[0])
            boxes.extend(row[1:])
    _write_grouped(job, labels, images, owners, classes, boxes)
    return images


def _write_grouped(
    job: Job, labels: str, images: _Images, owners: array[int], classes: array[int], boxes: array[float]
) -> None:
    """Write the label files of all images; rows keep the order of the file within an image."""
    import numpy as np

    owner, cls, box = np.asarray(owners), np.asarray(classes), np.asarray(boxes).reshape(-1, 4)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=len(images.paths))) if len(owner) else [0] * len(images.paths)
    start = 0
    for path, end in zip(images.paths, ends, strict=True):
        mine = order[start:end]
        rows = [(int(c), *map(float, b)) for c, b in zip(cls[mine], box[mine], strict=True)]
        job.write_labels(labels, path.with_suffix(""), rows)
        start = end


def _owner_and_name(item: Any, images: _Images, where: str) -> tuple[int, str]:  # noqa: ANN401
    """Return the position of an annotation's image and its class name."""
    if not isinstance(item, dict):
        raise InputError(f"{where}: is {shown(item)}, expected an object")
    found = []
    for key, known in (("image_id", images.numbers), ("category_id", images.categories)):
        value = item.get(key)
        if not isinstance(value, (int, str)) or value not in known:
            raise InputError(f"{where}: '{key}' is {shown(value)}, which the file does not describe")
        found.append(known[value])
    return found[0], found[1]


def _read_images(
    job: Job, source: Path, place: Callable[[Mapping[str, Any], str], Place], categories: Mapping[Any, str]
) -> _Images:
    """Return the images and categories of an annotation file."""
    images = _Images({}, [], [], [], {})
    for key, item in read_json_items(source, {"images", "categories"}):
        where = f"{source}, {'image' if key == 'images' else 'category'} {shown(_get(item, 'id'))}"
        if key == "categories":
            if not isinstance(_get(item, "name"), str):
                raise InputError(f"{where}: 'name' is {shown(_get(item, 'name'))}, expected text")
            images.categories[_id(item, where)] = item["name"]
            continue
        found = place(item, where) if isinstance(item, dict) else None
        number = _id(item, where)
        if found is None or number in images.numbers:
            raise InputError(f"{where}: is no image entry, or its id is given twice")
        images.numbers[number] = len(images.paths)
        images.paths.append(found.path)
        images.sizes.append(tuple(numbers(found.size, where, "the image's size", 2)))
        images.present.append(found.present)
    if not images.categories:
        images.categories.update(categories)
    lacking = len(images.paths) - sum(images.present)
    if lacking == len(images.paths):
        raise MissingFileError(f"{source}: none of its {lacking} images is there; unpack the images first")
    if lacking:
        job.skip("images that are listed but not there (labelled all the same)",
                 images.paths[images.present.index(False)], lacking)  # fmt: skip
    return images


def _get(item: Any, key: str) -> Any:  # noqa: ANN401
    return item.get(key) if isinstance(item, dict) else None


def _id(item: Any, where: str) -> int | str:  # noqa: ANN401
    number = _get(item, "id")
    if not isinstance(number, (int, str)):
        raise InputError(f"{where}: 'id' is {shown(number)}, expected a whole number or text")
    return number
