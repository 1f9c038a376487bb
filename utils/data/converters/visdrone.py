"""VisDrone-DET: one text file per image, a box a line.

The fields are left, top, width, height, score, category, truncation, occlusion.
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from utils.data.converters.job import Job, Row
from utils.data.converters.readers import image_size, numbers, read_table
from utils.errors import InputError, MissingFileError
from utils.logs import TQDM_BAR_FORMAT

PARTS = ("train", "val", "test-dev")
CATEGORIES = (
    "ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus",
    "motor", "others",
)  # fmt: skip
NO_CLASSES = ("ignored regions", "others")


def convert(job: Job) -> None:
    """Make the labels folder of each part from its annotations folder; images stay where they are."""
    for part in PARTS:
        folder = f"VisDrone2019-DET-{part}"
        source, images = job.root / folder / "annotations", job.root / folder / "images"
        if job.is_there(f"{folder}/labels") or not source.is_dir():
            continue
        files = sorted(source.glob("*.txt"))
        found = [path for path in files if (images / f"{path.stem}.jpg").is_file()]
        if not found:
            raise MissingFileError(f"{images}: holds no image of the {len(files)} files in {source}")
        if len(found) < len(files):
            lacking = next(path for path in files if path not in set(found))
            job.skip("annotation files without an image", lacking, len(files) - len(found))
        for path in tqdm(found, desc=folder, bar_format=TQDM_BAR_FORMAT, disable=None):
            job.write_labels(f"{folder}/labels", path.stem, rows_of(job, path, image_size(images / f"{path.stem}.jpg")))


def rows_of(job: Job, path: Path, size: tuple[int, int]) -> list[Row]:
    """Return the rows of one annotation file; ignored regions, others and boxes of score 0 are skipped.

    Args:
        job: the conversion.
        path: annotation file.
        size: the image's width and height in pixels.

    Raises:
        InputError: a line of fewer than six whole numbers, or a category that VisDrone does not have.
    """
    rows = []
    for where, fields in read_table(path):
        left, top, width, height, score, category = numbers(fields[:6], where, "the line", 6)
        if category != int(category) or not 0 <= category < len(CATEGORIES):
            raise InputError(f"{where}: category {category:g}, allowed are 0-{len(CATEGORIES) - 1}")
        name = CATEGORIES[int(category)]
        if name in NO_CLASSES:
            job.skip(f"boxes of category {int(category)} ({name})", where)
        elif score == 0:
            job.skip("boxes of score 0, which VisDrone does not count", where)
        elif row := job.row(name, (left, top, left + width, top + height), size, where):
            rows.append(row)
    return rows
