"""Objects365 (version 2): COCO-like JSON; images lie in patch folders, or all in one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.data.converters.coco import Place, write_annotations
from utils.data.converters.job import Job
from utils.data.converters.readers import plain_path


def convert(job: Job) -> None:
    """Make labels/train and labels/val with the folders of images/train and images/val; images stay where they are."""
    for split in ("train", "val"):
        source, labels = job.root / f"zhiyuan_objv2_{split}.json", f"labels/{split}"
        if job.is_there(labels) or not source.is_file():
            continue
        found = _images(job.root / f"images/{split}")

        def place(item: Mapping[str, Any], where: str, found: dict[str, str] = found) -> Place:
            path = plain_path(item.get("file_name"), where)
            folder = found.get(path.name)
            present = folder is not None
            if not present:  # labelled where its patch will be unpacked
                folder = path.parent.name if path.parent.name.startswith("patch") else ""
            return Place(Path(folder, path.name), (item.get("width"), item.get("height")), present)

        write_annotations(job, source, labels, place, keep_crowds=True)


def _images(top: Path) -> dict[str, str]:
    """Return file name -> folder relative to ``top`` of every file below it."""
    found: dict[str, str] = {}
    for folder, _, names in os.walk(top):
        found.update(dict.fromkeys(names, os.path.relpath(folder, top)))
    return found
