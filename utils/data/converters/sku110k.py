"""SKU-110K: one table per split; a line is image, left, top, right, bottom, class, image width, image height."""

from __future__ import annotations

from utils.data.converters.job import SPLITS, Job, Row
from utils.data.converters.readers import numbers, plain_path, read_table
from utils.errors import InputError, MissingFileError

FIELDS = 8


def convert(job: Job) -> None:
    """Make labels/ and the lists train.txt, val.txt and test.txt; all images lie in images/."""
    tables = {split: job.root / f"annotations/annotations_{split}.csv" for split in SPLITS}
    labelled = job.is_there("labels")
    for split, table in tables.items():
        if job.is_there(f"{split}.txt") and labelled or not table.is_file():
            continue
        images: dict[str, list[Row]] = {}
        for where, fields in read_table(table):
            if len(fields) != FIELDS:
                raise InputError(f"{where}: {len(fields)} fields, expected {FIELDS}")
            left, top, right, bottom = numbers(fields[1:5], where, "the box", 4)
            width, height = numbers(fields[6:8], where, "the image's size", 2)
            rows = images.setdefault(str(plain_path(fields[0], where)), [])
            row = job.row(fields[5], (left, top, right, bottom), (width, height), where)
            rows += [row] if row else []
        found = [name for name in images if (job.root / "images" / name).is_file()]
        if not found:
            raise MissingFileError(f"{job.root / 'images'}: holds none of the {len(images)} images of {table}")
        if len(found) < len(images):
            lacking = next(name for name in images if name not in set(found))
            job.skip("images that are listed but not there", lacking, len(images) - len(found))
        if not labelled:
            for name in found:
                job.write_labels("labels", name.rpartition(".")[0], images[name])
        if not job.is_there(f"{split}.txt"):
            job.write_list(f"{split}.txt", (f"./images/{name}" for name in found))
