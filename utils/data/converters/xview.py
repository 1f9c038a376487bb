"""xView: one GeoJSON file; a feature holds an image, a type and a box in pixels."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.data.converters.job import Job, Row
from utils.data.converters.readers import image_size, numbers, plain_path, read_json_items, shown
from utils.errors import InputError, MissingFileError
from utils.logs import TQDM_BAR_FORMAT

SHARES = (0.9, 0.1)  # of training and validation images, drawn as YOLOv5's autosplit does
TYPES = {
    11: "Fixed-wing Aircraft", 12: "Small Aircraft", 13: "Cargo Plane", 15: "Helicopter", 17: "Passenger Vehicle",
    18: "Small Car", 19: "Bus", 20: "Pickup Truck", 21: "Utility Truck", 23: "Truck", 24: "Cargo Truck",
    25: "Truck w/Box", 26: "Truck Tractor", 27: "Trailer", 28: "Truck w/Flatbed", 29: "Truck w/Liquid",
    32: "Crane Truck", 33: "Railway Vehicle", 34: "Passenger Car", 35: "Cargo Car", 36: "Flat Car", 37: "Tank car",
    38: "Locomotive", 40: "Maritime Vessel", 41: "Motorboat", 42: "Sailboat", 44: "Tugboat", 45: "Barge",
    47: "Fishing Vessel", 49: "Ferry", 50: "Yacht", 51: "Container Ship", 52: "Oil Tanker", 53: "Engineering Vehicle",
    54: "Tower crane", 55: "Container Crane", 56: "Reach Stacker", 57: "Straddle Carrier", 59: "Mobile Crane",
    60: "Dump Truck", 61: "Haul Truck", 62: "Scraper/Tractor", 63: "Front loader/Bulldozer", 64: "Excavator",
    65: "Cement Mixer", 66: "Ground Grader", 71: "Hut/Tent", 72: "Shed", 73: "Building", 74: "Aircraft Hangar",
    76: "Damaged Building", 77: "Facility", 79: "Construction Site", 83: "Vehicle Lot", 84: "Helipad",
    86: "Storage Tank", 89: "Shipping container lot", 91: "Shipping Container", 93: "Pylon", 94: "Tower",
}  # fmt: skip


def convert(job: Job) -> None:
    """Make labels/train and the lists of images/; train_images and val_images become images/train and images/val."""
    source, images = job.root / "xView_train.geojson", job.root / "train_images"
    images = images if images.is_dir() else job.root / "images/train"
    if source.is_file() and not job.is_there("labels/train"):
        _write_labels(job, source, images)
    if images.is_dir() and (source.is_file() or job.is_there("labels/train")):
        job.move("train_images", "images/train")
        job.move("val_images", "images/val")
        _write_lists(job, images)


def _write_labels(job: Job, source: Path, images: Path) -> None:
    """Write labels/train; every image gets a file, one without features an empty one."""
    rows: dict[str, list[Row]] = {path.name: [] for path in sorted(images.glob("*.tif"))}
    if not rows:
        raise MissingFileError(f"{images}: holds no .tif images to go with {source}")
    sizes: dict[str, tuple[int, int]] = {}
    bar = tqdm(read_json_items(source, {"features"}), desc=source.name, bar_format=TQDM_BAR_FORMAT, disable=None)
    for number, (_, feature) in enumerate(bar):
        where = f"{source}, feature {number}"
        image, kind, text = _properties(feature, where)
        if image not in rows:
            job.skip("boxes of images that are not there", f"{where}, {image}")
        elif kind not in TYPES:
            job.skip(f"boxes of type {shown(kind)}, which xView does not define", where)
        elif not text:
            job.skip("features without a box in pixels", where)
        else:
            corners = numbers(text.split(","), where, "'bounds_imcoords'", 4)
            if image not in sizes:
                sizes[image] = image_size(images / image)
            row = job.row(TYPES[kind], corners, sizes[image], where)
            rows[image] += [row] if row else []
    for image, found in rows.items():
        job.write_labels("labels/train", Path(image).stem, found)


def _properties(feature: Any, where: str) -> tuple[str, Any, str]:  # noqa: ANN401
    """Return a feature's image, type id and box text."""
    found = feature.get("properties") if isinstance(feature, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{where}: has no properties")
    image, kind, text = found.get("image_id"), found.get("type_id"), found.get("bounds_imcoords") or ""
    if not isinstance(text, str):
        raise InputError(f"{where}: 'bounds_imcoords' is {shown(text)}, expected text")
    return plain_path(image, where).name, kind if isinstance(kind, int) else None, text


def _write_lists(job: Job, images: Path) -> None:
    """Draw the training and validation images, the same ones each time."""
    from utils.images import IMG_FORMATS

    targets = ("images/autosplit_train.txt", "images/autosplit_val.txt")
    if all([job.is_there(target) for target in targets]):
        return
    files = sorted(path for path in images.rglob("*.*") if path.suffix[1:].lower() in IMG_FORMATS)
    drawn = random.Random(0).choices([0, 1], SHARES, k=len(files))
    for number, target in enumerate(targets):
        if not (job.root / target).exists():
            chosen = [p for p, split in zip(files, drawn, strict=True) if split == number]
            job.write_list(target, (f"./train/{path.relative_to(images).as_posix()}" for path in chosen))
