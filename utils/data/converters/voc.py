"""PASCAL VOC: one XML file per image, lists of images per year and image set."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from utils.data.converters.job import Job, Row
from utils.data.converters.readers import image_size, numbers, plain_path, read_xml
from utils.errors import InputError, MissingFileError

SETS = (("2012", "train"), ("2012", "val"), ("2007", "train"), ("2007", "val"), ("2007", "test"))
TOPS = ("VOCdevkit", "images/VOCdevkit")


def convert(job: Job) -> None:
    """Make images/SETYEAR and labels/SETYEAR of the image sets below VOCdevkit; that folder stays as it is."""
    for year, kind in SETS:
        tops = [job.root / top / f"VOC{year}" for top in TOPS]
        top = next((top for top in tops if (top / f"ImageSets/Main/{kind}.txt").is_file()), None)
        labels, images = f"labels/{kind}{year}", f"images/{kind}{year}"
        labelled, placed = job.is_there(labels), job.is_there(images)
        if top is None or (labelled and placed):
            continue
        listed = _listed(top / f"ImageSets/Main/{kind}.txt")
        found = [stem for stem in listed if (top / f"JPEGImages/{stem}.jpg").is_file()]
        if not found:
            raise MissingFileError(f"{top / 'JPEGImages'}: holds none of the {len(listed)} images of {kind}.txt")
        if len(found) < len(listed):
            lacking = next(stem for stem in listed if stem not in set(found))
            job.skip("images that are listed but not there", f"{lacking}.jpg", len(listed) - len(found))
        for stem in found:
            if not labelled:
                job.write_labels(labels, stem, rows_of(job, top / f"Annotations/{stem}.xml", top / "JPEGImages"))
        for stem in found:
            if not placed:
                job.link_image(images, top / f"JPEGImages/{stem}.jpg")


def rows_of(job: Job, path: Path, images: Path) -> list[Row]:
    """Return the rows of one annotation file; objects marked difficult are skipped, as YOLOv5 does.

    VOC counts pixels from 1: a box is (xmin - 1, ymin - 1, xmax - 1, ymax - 1) from 0, so its width is xmax - xmin
    (YOLOv5's conversion; the pixel that xmax names is left out).

    Raises:
        InputError: malformed XML, or a part that is missing or no number.
    """
    root = read_xml(path)
    size = _size(root, path, images)
    rows = []
    for number, item in enumerate(root.findall("object"), 1):
        where = f"{path}, object {number}"
        if (item.findtext("difficult") or "0").strip() == "1":
            job.skip("objects marked difficult", where)
            continue
        name, box = item.findtext("name"), item.find("bndbox")
        if name is None or box is None:
            raise InputError(f"{where}: lacks {'name' if name is None else 'bndbox'}")
        corners = [box.findtext(side) for side in ("xmin", "ymin", "xmax", "ymax")]
        row = job.row(name, [v - 1 for v in numbers(corners, where, "bndbox", 4)], size, where)
        rows += [row] if row else []
    return rows


def _size(root: Element, path: Path, images: Path) -> tuple[float, float]:
    """Return the width and height that the XML gives, or the image's own where it gives none or 0."""
    given = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    if all(given) and all(text != "0" for text in given):
        width, height = numbers(given, str(path), "size", 2)
        return width, height
    return image_size(images / f"{path.stem}.jpg")


def _listed(path: Path) -> list[str]:
    """Return the stems of an image set's list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text file with one image a line") from None
    stems = [line.split()[0] for line in lines if line.strip()]
    return [str(plain_path(stem, str(path))) for stem in stems]
