"""Argoverse-HD: COCO-like JSON whose images name their folder by a number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.data.converters.coco import Place, write_annotations
from utils.data.converters.job import Job
from utils.data.converters.readers import plain_path, read_json_items, shown
from utils.errors import InputError, MissingFileError

CLASSES = ("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic_light", "stop_sign")
SIZE = (1920, 1200)  # of every image


def convert(job: Job) -> None:
    """Make Argoverse-1.1/labels, and call Argoverse-1.1/tracking images."""
    top = job.root / "Argoverse-1.1"
    for split in ("train", "val"):
        source, labels = job.root / f"Argoverse-HD/annotations/{split}.json", f"Argoverse-1.1/labels/{split}"
        if job.is_there(labels) or not source.is_file():
            continue
        folders = [item for _, item in read_json_items(source, {"seq_dirs"})]

        def place(item: Mapping[str, Any], where: str, folders: list[Any] = folders, split: str = split) -> Place:
            number = item.get("sid")
            if not isinstance(number, int) or not 0 <= number < len(folders):
                raise InputError(f"{where}: 'sid' is {shown(number)}, allowed are 0-{len(folders) - 1}")
            path = plain_path(folders[number], where) / plain_path(item.get("name"), where)
            if path.parts[0] != split:
                raise InputError(f"{where}: {path} is not below {split}")
            size = (item.get("width", SIZE[0]), item.get("height", SIZE[1]))
            return Place(
                Path(*path.parts[1:]), size, any((top / kind / path).is_file() for kind in ("tracking", "images"))
            )

        write_annotations(job, source, labels, place, categories=dict(enumerate(CLASSES)), keep_crowds=True)
    for split in ("train", "val"):
        if (
            top / "tracking" / split
        ).is_dir() and f"Argoverse-1.1/labels/{split}" not in job.report.made + job.report.kept:
            raise MissingFileError(
                f"{job.root / 'Argoverse-HD/annotations' / split}.json: no such file for {top / 'tracking' / split}"
            )
    job.move("Argoverse-1.1/tracking", "Argoverse-1.1/images")
