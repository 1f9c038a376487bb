"""Facts of the built-in data sets: where their archives are, what each serves, which module converts them.

The addresses and sizes are those that the sets' data YAMLs for YOLOv5 use; docs/datasets.md lists them for people.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.paths import ROOT

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_ASSETS = "https://github.com/ultralytics/assets/releases/download/v0.0.0"
_COCO = "http://images.cocodataset.org/zips"
_OBJECTS365 = "https://dorc.ks3-cn-beijing.ksyun.com/data-set/2020Objects365%E6%95%B0%E6%8D%AE%E9%9B%86"
_MEAN_365 = 345 / 97  # gigabytes of one of its files, the size of each is not known here


@dataclass(frozen=True)
class Archive:
    """One file of a data set.

    Attributes:
        name: file name; an archive may also have another suffix of ARCHIVE_SUFFIXES when it was fetched by hand.
        address: http(s) folder it lies in, '' when only a person can fetch it.
        gigabytes: size, about.
        serves: split -> paths, one of which exists when the split needs this file no more.
        into: folder of the data set that it is unpacked to.
        strip: name of its top folder, when the content of that belongs into ``into``.
        shared: another archive of the set has the same name, so that it is looked for in ``into`` alone.
    """

    name: str
    address: str
    gigabytes: float
    serves: Mapping[str, tuple[str, ...]]
    into: str = "."
    strip: str = ""
    shared: bool = False

    @property
    def key(self) -> str:
        """The name, with its folder where another archive has the same."""
        return f"{self.into}/{self.name}" if self.shared else self.name

    @property
    def url(self) -> str:
        """The whole address, '' when there is none."""
        return f"{self.address}/{self.name}" if self.address else ""

    @property
    def stem(self) -> str:
        """The name without the suffix of an archive; '' for another file, which is used as it is."""
        return next((self.name[: -len(suffix)] for suffix in ARCHIVE_SUFFIXES[::-1] if self.name.endswith(suffix)), "")


@dataclass(frozen=True)
class StockSet:
    """One data set.

    Attributes:
        module: module with ``convert(job)``.
        folder: usual last part of ``path`` in its YAML.
        digest: ``names_digest`` of its class names, to recognise a YAML; '' never recognises one.
        count: number of its classes.
        archives: its files.
        pending: split -> pairs of a label folder and the annotations it is made from, where the images are in their
            place before the conversion, so that nothing else shows that it has not happened.
        page: where people fetch it by hand.
    """

    module: str
    folder: str
    digest: str = ""
    count: int = 0
    archives: tuple[Archive, ...] = ()
    pending: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    page: str = ""


def _voc_archive(name: str, year: int, gigabytes: float, serves: Mapping[str, str]) -> Archive:
    """Return an archive of one year; ``serves`` maps a split to the last image set that it makes for it."""
    lists = {s: tuple(f"{top}VOC{year}/ImageSets/Main/{kind}.txt" for top in ("VOCdevkit/", "images/VOCdevkit/"))
             for s, kind in serves.items()}  # fmt: skip
    return Archive(name, _ASSETS, gigabytes, {s: (f"images/{kind}{year}", *lists[s]) for s, kind in serves.items()})


def _visdrone_archive(part: str, split: str, gigabytes: float) -> Archive:
    folder = f"VisDrone2019-DET-{part}"
    return Archive(f"{folder}.zip", _ASSETS, gigabytes, {split: (f"{folder}/annotations", f"{folder}/labels")})


def _objects365_archives() -> tuple[Archive, ...]:
    """51 patches of training and 44 of validation images, with an annotation file each."""
    train, val = (f"{_OBJECTS365}/{split}" for split in ("train", "val"))
    patches = [(train, "train", i) for i in range(51)]
    patches += [(f"{val}/images/{'v1' if i < 16 else 'v2'}", "val", i) for i in range(44)]
    return (
        *(
            Archive(f"zhiyuan_objv2_{s}.{suffix}", folder, _MEAN_365, {s: (f"zhiyuan_objv2_{s}.json", f"labels/{s}")})
            for s, suffix, folder in (("train", "tar.gz", train), ("val", "json", val))
        ),
        *(
            Archive(
                f"patch{i}.tar.gz", folder, _MEAN_365, {s: (f"images/{s}/patch{i}", f"labels/{s}")}, f"images/{s}",
                shared=True,
            )
            for folder, s, i in patches
        ),
    )  # fmt: skip


_HERE = "utils.data.converters"
STOCK: dict[str, StockSet] = {
    "VOC": StockSet(
        f"{_HERE}.voc", "VOC", "7d877f185c807bc5", 20,
        (
            _voc_archive("VOCtrainval_06-Nov-2007.zip", 2007, 0.45, {"train": "val"}),
            _voc_archive("VOCtest_06-Nov-2007.zip", 2007, 0.44, {"val": "test", "test": "test"}),
            _voc_archive("VOCtrainval_11-May-2012.zip", 2012, 1.95, {"train": "val"}),
        ),
        page="http://host.robots.ox.ac.uk/pascal/VOC",
    ),
    "VisDrone": StockSet(
        f"{_HERE}.visdrone", "VisDrone", "863722cb797bd981", 10,
        (
            _visdrone_archive("train", "train", 1.44),
            _visdrone_archive("val", "val", 0.07),
            _visdrone_archive("test-dev", "test", 0.28),
        ),
        {
            split: ((f"VisDrone2019-DET-{part}/labels", f"VisDrone2019-DET-{part}/annotations"),)
            for split, part in (("train", "train"), ("val", "val"), ("test", "test-dev"))
        },
        "https://github.com/VisDrone/VisDrone-Dataset",
    ),
    "coco": StockSet(
        f"{_HERE}.coco", "coco", "d7654b2610157284", 80,
        (
            Archive(
                "coco2017labels.zip", _ASSETS, 0.05,
                {
                    "train": ("train2017.txt", "annotations/instances_train2017.json"),
                    "val": ("val2017.txt", "annotations/instances_val2017.json"),
                    "test": ("test-dev2017.txt", "annotations/image_info_test-dev2017.json"),
                },
                strip="coco",
            ),
            Archive("train2017.zip", _COCO, 19, {"train": ("images/train2017",)}, into="images"),
            Archive("val2017.zip", _COCO, 1, {"val": ("images/val2017",)}, into="images"),
            Archive("test2017.zip", _COCO, 7, {"test": ("images/test2017",)}, into="images"),
        ),
        page="https://cocodataset.org",
    ),
    "SKU-110K": StockSet(
        f"{_HERE}.sku110k", "SKU-110K", "2958d416d08aa5a4", 1,
        (
            Archive(
                "SKU110K_fixed.tar.gz", "http://trax-geometry.s3.amazonaws.com/cvpr_challenge", 13.6,
                {s: (f"{s}.txt", f"annotations/annotations_{s}.csv") for s in ("train", "val", "test")},
                strip="SKU110K_fixed",
            ),
        ),
        page="https://github.com/eg4000/SKU110K_CVPR19",
    ),
    "GlobalWheat2020": StockSet(
        f"{_HERE}.globalwheat", "GlobalWheat2020", "ea064d5f8f24ba7f", 1,
        (
            Archive(
                "global-wheat-codalab-official.zip", "https://zenodo.org/record/4298502/files", 7,
                {s: ("global-wheat-codalab-official", f"images/{d}")
                 for s, d in (("train", "usask_1"), ("val", "ethz_1"), ("test", "uq_1"))},
            ),
            Archive(
                "GlobalWheat2020_labels.zip", _ASSETS, 0.01,
                {s: (f"labels/{d}",) for s, d in (("train", "usask_1"), ("val", "ethz_1"), ("test", "uq_1"))},
            ),
        ),
        page="https://www.global-wheat.com",
    ),
    "Argoverse": StockSet(
        f"{_HERE}.argoverse", "Argoverse", "06a31e46145fcfe5", 8,
        (
            Archive(
                "Argoverse-HD-Full.zip", "https://argoverse-hd.s3.us-east-2.amazonaws.com", 31.3,
                {
                    "train": ("Argoverse-1.1/labels/train", "Argoverse-HD/annotations/train.json"),
                    "val": ("Argoverse-1.1/labels/val", "Argoverse-HD/annotations/val.json"),
                    "test": ("Argoverse-1.1/images/test", "Argoverse-1.1/tracking/test"),
                },
            ),
        ),
        page="https://www.cs.cmu.edu/~mengtial/proj/streaming",
    ),
    "Objects365": StockSet(
        f"{_HERE}.objects365", "Objects365", "553f5ee57f0d185d", 365, _objects365_archives(),
        {s: ((f"labels/{s}", f"zhiyuan_objv2_{s}.json"),) for s in ("train", "val")},
        "https://www.objects365.org",
    ),
    "xView": StockSet(
        f"{_HERE}.xview", "xView", "1804100eb8078ae7", 60,
        (
            Archive(
                "train_labels.zip", "", 0.1,
                {s: ("xView_train.geojson", "labels/train") for s in ("train", "val")},
            ),
            Archive("train_images.zip", "", 15, {s: ("train_images", "images/train") for s in ("train", "val")}),
        ),
        page="https://challenge.xviewdataset.org (after registration)",
    ),
}  # fmt: skip


def own_yaml(name: str) -> Path:
    """Return the path of a set's own data YAML."""
    return ROOT / "data" / f"{name}.yaml"


def names_digest(names: Mapping[int, str]) -> str:
    """Return the start of the SHA-256 of class names, in the order of their ids and joined by line breaks."""
    return hashlib.sha256("\n".join(names[i] for i in sorted(names)).encode()).hexdigest()[:16]


def recognise(facts: Mapping[str, Any], names: Mapping[int, str], source: str) -> str:
    """Return the set that a data YAML without ``converter:`` describes, '' when it is none of these.

    The last part of ``path`` has to be the set's, and either all class names, or the file's name and the number of
    classes. A YAML of one's own that began as a copy of one of these differs in one of them.

    Args:
        facts: the YAML's mapping.
        names: class id -> name.
        source: path of the YAML.
    """
    last = str(facts.get("path") or "").replace("\\", "/").rstrip("/").rpartition("/")[2]
    digest = names_digest(names)
    for name, stock in STOCK.items():
        same_names = digest == stock.digest
        same_file = Path(source).stem == name and len(names) == stock.count
        if last == stock.folder and (same_names or same_file):
            return name
    return ""
