"""The data sets of the comparison: where each comes from, and how many images a training on it sees.

A set is laid out anew below the work folder, labels copied and images linked, so that nothing is ever written beside
the original: label caches lie in the copy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.parts import Recipe, generate
from utils.parts_drawing.settings import CLASS_NAMES
from utils.yaml_files import read_yaml, write_yaml

# Budgets are as large as six hours of two cores allow (yolov5n.pt, 256 px). Without remedy and with about 4500 images,
# seed 0 came to mAP50 58 on parts, 69 on bccd and 19 on aquarium, which therefore has most: 34 after 10,752.
DEFAULT_BUDGET = 6000


@dataclass(frozen=True)
class DataSet:
    """A data set of the comparison.

    Attributes:
        name: in tables and folders; one that is not drawn here is ``<datasets>/<name>/`` with images/, labels/ and
            ``<name>.yaml``.
        about: what it is, for the table.
        budget: images that a training sees.
        recipe: how the built-in set is drawn; None for the others.
    """

    name: str
    about: str
    budget: int = DEFAULT_BUDGET
    recipe: Recipe | None = None


TABLE = (
    DataSet("aquarium", "fish, jellyfish and five rarer animals, 448 training images", 10_752),
    DataSet("bccd", "blood cells: red ones 11 times as frequent as the others, 205 training images", 6_150),
    DataSet("parts", "built in: couplings rare (2.0 % of the boxes) and easily taken for bolts", recipe=Recipe()),
    DataSet("parts-mild", "built in, imbalance 0.5: couplings 6.8 %", recipe=Recipe(imbalance=0.5)),
    DataSet("parts-rarer", "built in, imbalance 1.5: couplings 0.5 %", recipe=Recipe(imbalance=1.5)),
    DataSet("parts-alike", "built in, every coupling of the bolt-like kind", recipe=Recipe(lookalike=1.0)),
    DataSet(
        "parts-noisy", "built in, a tenth of the training boxes with a wrong class", recipe=Recipe(label_noise=0.1)
    ),
    DataSet("coco128", "128 images of 80 classes; validation is on the training images"),
)
SETS = {entry.name: entry for entry in TABLE}
GROUPS = {"core": ("aquarium", "bccd", "parts"), "all": tuple(SETS)}


def chosen_sets(names: Sequence[str], datasets: Path) -> list[DataSet]:
    """Return the sets that names and groups stand for, each once and in their order.

    Raises:
        InputError: a name is neither one of these nor a set below ``datasets``.
    """
    found: dict[str, DataSet] = {}
    for name in (one for word in names for one in GROUPS.get(word, (word,))):
        entry = SETS.get(name, DataSet(name, f"{name}.yaml"))
        if entry.recipe is None and not source_yaml(entry, datasets).is_file():
            raise InputError(
                f"--sets {name}: there is no {source_yaml(entry, datasets)}; allowed: sets below --datasets, and "
                f"{', '.join(key for key, value in SETS.items() if value.recipe)}, which are drawn"
            )
        found[name] = entry
    return list(found.values())


def source_yaml(entry: DataSet, datasets: Path) -> Path:
    """Return the YAML of a set that is not drawn."""
    return datasets / entry.name / f"{entry.name}.yaml"


def prepare(entry: DataSet, datasets: Path, work: Path) -> Path:
    """Lay out a set below ``work`` unless it is there, and return its YAML.

    Raises:
        InputError: the set is not laid out as images/ and labels/, or its place holds something else.
        WorkError: it cannot be drawn or written.
    """
    folder, yaml = work / "data" / entry.name, work / "data" / f"{entry.name}.yaml"
    if entry.recipe is not None:
        generate(folder, **asdict(entry.recipe))
        facts: dict[str, Any] = {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASS_NAMES))}
    else:
        facts = _copied(source_yaml(entry, datasets), folder)
    write_yaml(yaml, {"path": str(folder.resolve()), **facts}, comment=[f"laid out by the comparison: {entry.about}"])
    return yaml


def _copied(source: Path, folder: Path) -> dict[str, Any]:
    """Copy the labels and link the images of a set; return train, val and names of its YAML."""
    from utils.dataset_yaml import check_dataset

    root = source.parent.resolve()  # whatever the YAML's own path is relative to
    facts = check_dataset({**read_yaml(source), "path": str(root)}, autodownload=False)
    splits = {key: _below(source, root, facts[key]) for key in ("train", "val")}
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(".partial", f".{folder.name}.", folder.parent))
        try:
            _link_images(root / "images", partial / "images")
            for file in sorted((root / "labels").rglob("*.txt")):
                copy = partial / "labels" / file.relative_to(root / "labels")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)  # not its mode: the original may be read-only
            partial.chmod(0o755)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return {**splits, "names": facts["names"]}


def _below(source: Path, root: Path, place: Any) -> str:
    """Return a split's folder relative to its set.

    Raises:
        InputError: it is not a folder below images/.
    """
    if isinstance(place, str) and Path(place).is_dir() and Path(place).is_relative_to(root / "images"):
        return Path(place).relative_to(root).as_posix()
    raise InputError(f"{source}: a split is {place}; allowed here is one folder below {root / 'images'}")


def _link_images(source: Path, folder: Path) -> None:
    """Link every image by itself: where a linked folder leads to, the label cache would be written as well."""
    from utils.dataset_yaml import find_images

    for file in map(Path, find_images(source)):
        link = folder / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.symlink(file.resolve(), link)
        except OSError:  # Windows without the right to make links
            shutil.copyfile(file, link)


def count_images(yaml: Path, split: str = "train") -> int:
    """Return the number of images of a split."""
    from utils.dataset_yaml import check_dataset, find_images

    return len(find_images(check_dataset(yaml, autodownload=False)[split]))
