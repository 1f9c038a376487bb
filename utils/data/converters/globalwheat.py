"""Global Wheat Head Detection: a folder of images per field site, boxes in one table.

Tables of two forms are read: image_id, width, height, bbox ("[left, top, width, height]"), source, a box a line; and
image_name, BoxesString ("left top right bottom;..." or no_box), domain, an image a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from utils.data.converters.job import Job, is_filled
from utils.data.converters.readers import image_size, numbers, plain_path, read_table
from utils.errors import InputError

DOMAINS = (
    "arvalis_1", "arvalis_2", "arvalis_3", "ethz_1", "rres_1", "inrae_1", "usask_1", "utokyo_1", "utokyo_2", "nau_1",
    "uq_1",
)  # fmt: skip
ARCHIVE_FOLDER = "global-wheat-codalab-official"
CLASS = "wheat_head"
BOX_A_LINE, IMAGE_A_LINE = {"image_id", "bbox", "source"}, {"image_name", "BoxesString", "domain"}

_Image = tuple[str, str]  # domain and file name


def convert(job: Job) -> None:
    """Move the site folders of the official archive to images/, or sort the images of a table into such folders."""
    tables = _tables(job.root)
    if tables:
        _convert_tables(job, tables)
        return
    for domain in DOMAINS:
        source = f"{ARCHIVE_FOLDER}/{domain}"
        labelled = is_filled(job.root / "labels" / domain)
        if labelled and (job.root / source).is_dir():
            job.move(source, f"images/{domain}")
        elif (job.root / source).is_dir():
            job.skip("site folders without labels, left where they are", job.root / source)
        elif labelled:
            job.is_there(f"images/{domain}")


def _tables(root: Path) -> list[Path]:
    """Return the tables of boxes in the data set's folder."""
    found = []
    for path in sorted(root.glob("*.csv")):
        header = next((set(fields) for _, fields in read_table(path)), set())
        if header >= BOX_A_LINE or header >= IMAGE_A_LINE:
            found.append(path)
    return found


def _convert_tables(job: Job, tables: list[Path]) -> None:
    """Write labels/SITE and images/SITE for every site of the tables."""
    boxes: dict[_Image, list[tuple[str, list[float]]]] = {}
    for table in tables:
        for where, image, xyxy in _entries(table):
            found = boxes.setdefault(image, [])
            found += [(where, xyxy)] if xyxy else []
    files = {p.name: p for p in sorted(job.root.rglob("*")) if p.suffix.lower() in {".jpg", ".png"}} if boxes else {}
    files = {name: path for name, path in files.items() if not any(part.startswith(".") for part in path.parts)}
    done = {domain: (job.is_there(f"labels/{domain}"), job.is_there(f"images/{domain}")) for domain, _ in boxes}
    present = [image for image in boxes if image[1] in files]
    if len(present) < len(boxes):
        lacking = next(name for _, name in boxes if name not in files)
        job.skip("images that are listed but not there", lacking, len(boxes) - len(present))
    for domain, name in present:
        if not done[domain][0]:
            size = image_size(files[name])
            rows = [job.row(CLASS, xyxy, size, where) for where, xyxy in boxes[domain, name]]
            job.write_labels(f"labels/{domain}", name.rpartition(".")[0], filter(None, rows))
    for domain, name in present:
        if not done[domain][1]:
            job.link_image(f"images/{domain}", files[name])


def _entries(table: Path) -> Iterator[tuple[str, _Image, list[float] | None]]:
    """Yield (place, image, box as left, top, right, bottom in pixels) of a table; None for an image without boxes."""
    lines = read_table(table)
    header = next(lines)[1]
    for where, fields in lines:
        if len(fields) != len(header):
            raise InputError(f"{where}: {len(fields)} fields, expected {len(header)}")
        line = dict(zip(header, fields, strict=True))
        if "bbox" in line:
            yield where, _image(line["source"], f"{line['image_id']}.jpg", where), _box(line["bbox"], where)
            continue
        image = _image(line["domain"], line["image_name"], where)
        listed = [] if line["BoxesString"].strip() in {"", "no_box"} else line["BoxesString"].split(";")
        if not listed:
            yield where, image, None
        for text in listed:
            yield where, image, numbers(text.split(), where, "a box of BoxesString", 4)


def _image(domain: str, name: str, where: str) -> _Image:
    folder, file = plain_path(domain, where), plain_path(name, where)
    if len(folder.parts) > 1:
        raise InputError(f"{where}: the site {domain!r} is no plain name")
    return str(folder), file.name


def _box(text: str, where: str) -> list[float]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = text
    left, top, width, height = numbers(values, where, "'bbox'", 4)
    return [left, top, left + width, top + height]
