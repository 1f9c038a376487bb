"""Image folders: a folder per class within ``train`` and ``val`` or ``test``, found, checked and listed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import InputError, InputErrors, MissingFileError, printable
from utils.images import IMG_FORMATS
from utils.labels import scan_images
from utils.logs import LOGGER

# Sets that YOLOv5 fetches by name; each is one zip file whose name is the set's.
STOCK_SETS = (
    "mnist", "fashion-mnist", "cifar10", "cifar100", "caltech101", "caltech256", "imagenette", "imagenette160",
    "imagenette320", "imagewoof", "imagewoof160", "imagewoof320", "imagenet10", "imagenet100", "imagenet1000",
)  # fmt: skip
STOCK_ADDRESS = "https://github.com/ultralytics/assets/releases/download/v0.0.0/{name}.zip"
FOLDER_FORM = "a folder with train/ and val/ or test/"
MOST_LISTED = 1000
_LISTED_NAMES = 8


@dataclass
class ImageFolders:
    """The images of one split.

    Attributes:
        root: its folder.
        classes: class names by number.
        files: image paths, sorted by class and path.
        targets: (n,) int64, the class of each.
        shapes: (n, 2) int64, upright width and height of each.
        skipped: (path, reason) of every file that was left out.
    """

    root: Path
    classes: list[str]
    files: list[str]
    targets: np.ndarray
    shapes: np.ndarray
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def counts(self) -> np.ndarray:
        """Return the images of each class, (nc,)."""
        return np.bincount(self.targets, minlength=len(self.classes))


def find_data(data: str | Path) -> Path:
    """Return the folder of a data set: a path, or a name below the datasets folder, fetched when it is a stock one.

    Raises:
        MissingFileError: no such folder, and no stock set of that name.
        InputError: a file, or a stock set that cannot be fetched.
    """
    from utils.paths import datasets_dir

    text = str(data)
    if Path(text).is_file():
        raise InputError(f"--data {text}: is a file, allowed is {FOLDER_FORM}, a folder per class{_of_yaml(text)}")
    for place in (Path(text), datasets_dir() / text):
        if text and place.is_dir():
            return place
    if text not in STOCK_SETS:
        if of_yaml := _of_yaml(text):
            raise InputError(f"--data {text}: is no folder, allowed is {FOLDER_FORM}, a folder per class{of_yaml}")
        places = f"{Path(text).resolve()} and {(datasets_dir() / text).resolve()}"
        raise MissingFileError(
            f"--data {text}: no such folder, looked for as {places}; allowed are {FOLDER_FORM}, "
            f"or the name of a stock set: {', '.join(STOCK_SETS)}"
        )
    return _fetch_stock(text, datasets_dir())


def _of_yaml(text: str) -> str:
    """Return how class folders are made of a detection set, for a data YAML's name; '' for others."""
    if not text.endswith((".yaml", ".yml")):
        return ""
    return f"; a detection set's boxes become such folders by: python -m utils.classification.crops --data {text}"


def _fetch_stock(name: str, folder: Path) -> Path:
    from utils.downloads import download

    address = STOCK_ADDRESS.format(name=name)
    LOGGER.info(f"{folder / name}: not found, fetching it from {address}")
    try:
        download(address, dir=folder, retry=0)
    except InputError as error:
        raise InputError(
            f"--data {name}: not in {folder} and cannot be fetched ({error}); allowed is a folder with train/ and val/ "
            f"or test/, or {name}.zip unpacked there"
        ) from None
    if not (folder / name / "train").is_dir():
        raise InputError(f"--data {name}: {address} holds no folder {name}/train; it was unpacked into {folder}")
    return folder / name


def measured_split(root: Path) -> Path:
    """Return the folder that validation reads: ``test``, else ``val``.

    Raises:
        MissingFileError: neither exists.
    """
    for name in ("test", "val"):
        if (root / name).is_dir():
            return root / name
    raise MissingFileError(f"--data {root}: neither {root / 'test'} nor {root / 'val'} exists; one of them is needed")


def training_split(root: Path) -> Path:
    """Return the folder of the training images.

    Raises:
        MissingFileError: it does not exist.
    """
    if not (root / "train").is_dir():
        raise MissingFileError(f"--data {root}: {root / 'train'} does not exist; expected a folder per class in it")
    return root / "train"


def list_classes(root: Path) -> list[str]:
    """Return the class folders of a split, sorted by name; hidden ones are passed over.

    Raises:
        InputError: there is none.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"{root}: the folder cannot be read ({error.strerror})") from None
    if not names:
        raise InputError(f"{root}: no class folder found; expected a folder per class with its images inside")
    return names


def scan_split(
    root: str | Path, classes: Sequence[str] | None = None, prefix: str = "", *, every_class: bool = True
) -> ImageFolders:
    """Find and check the images of a split; every file left out is logged and totalled.

    Args:
        root: the split's folder.
        classes: the classes that it may have, in the order of their numbers; by default its own folders, sorted.
        prefix: start of the log lines.
        every_class: refuse a class without images, as training does; else it is said.

    Raises:
        InputError: no images, a class folder that ``classes`` does not have, a class that is empty or would lose all of
            its images, or more than half of all images unreadable.
    """
    root = Path(root)
    found = list_classes(root)
    names = found if classes is None else list(classes)
    _refuse_unknown(root, found, names)
    files, targets, skipped = _list_images(root, names)
    _refuse_empty(root, files, targets, names, every_class)
    table = scan_images(files, root.with_name(f"{root.name}.cache"), prefix)
    kept, problems = set(table.im_files), table.report.problems
    lost = [(file, text.removeprefix("image left out: ")) for file, _, text in problems if file not in kept]
    notes = [problem for problem in problems if problem.file in kept]
    is_kept = np.array([file in kept for file in files], bool)
    split = ImageFolders(root, names, list(table.im_files), targets[is_kept], np.asarray(table.shapes), skipped + lost)
    _log(split, notes, prefix)
    _refuse_losses(split, targets, lost, every_class)
    return split


def _list_images(root: Path, names: Sequence[str]) -> tuple[list[str], np.ndarray, list[tuple[str, str]]]:
    """Return the images of all classes sorted by class and path, their classes, and files that are no images."""
    files, targets = [], []
    skipped = [
        (entry.path, "lies in no class folder") for entry in sorted(os.scandir(root), key=lambda e: e.name)
        if entry.is_file() and not entry.name.startswith(".")
    ]  # fmt: skip
    for number, name in enumerate(names):
        for folder, folders, found in os.walk(root / name, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for file in sorted(f for f in found if not f.startswith(".")):
                path = os.path.join(folder, file)
                if file.rpartition(".")[2].lower() in IMG_FORMATS:
                    files.append(path)
                    targets.append(number)
                elif not file.endswith(".npy"):  # an image cache's
                    skipped.append((path, "no image by its suffix"))
    return files, np.array(targets, np.int64), skipped


def _refuse_unknown(root: Path, found: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in found if name not in set(names)]
    if unknown:
        raise InputError(
            f"{root}: class folders {listed(unknown)} are not among the {len(names)} classes that are trained or that "
            f"the model knows; allowed are {listed(names)}"
        )


def _refuse_empty(root: Path, files: list[str], targets: np.ndarray, names: Sequence[str], every_class: bool) -> None:
    if not files:
        raise InputError(f"{root}: no image found; the suffixes looked for are {', '.join(IMG_FORMATS)}")
    counts = np.bincount(targets, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if empty and every_class:
        raise InputErrors(
            f"{root / name}: no image found in this class folder; expected at least one ({', '.join(IMG_FORMATS)})"
            for name in empty
        )
    if empty:
        LOGGER.warning(f"WARNING {root}: no images of {listed(empty)}, which are not measured")


def _refuse_losses(split: ImageFolders, targets: np.ndarray, lost: list[tuple[str, str]], every_class: bool) -> None:
    if 2 * len(lost) > len(targets):
        raise InputError(
            f"{split.root}: {len(lost)} of {len(targets)} images would be left out, at most half may be; the first: "
            f"{lost[0][0]}: {lost[0][1]}"
        )
    before, after = np.bincount(targets, minlength=len(split.classes)), split.counts()
    gone = [name for name, b, a in zip(split.classes, before, after, strict=True) if b and not a]
    if gone and every_class:
        raise InputError(
            f"{split.root}: all images of {listed(gone)} would be left out; mend the files listed above, the first: "
            f"{lost[0][0]}: {lost[0][1]}"
        )


def _log(split: ImageFolders, notes: Sequence[object], prefix: str) -> None:
    LOGGER.info(f"{prefix}{split.root}: {len(split.files)} images, {len(split.classes)} classes")
    for note in notes[:MOST_LISTED]:
        LOGGER.warning(f"{prefix}WARNING {note}")
    if not split.skipped:
        return
    for path, reason in split.skipped[:MOST_LISTED]:
        LOGGER.warning(f"{prefix}WARNING skipped: {printable(path)}: {reason}")
    if len(split.skipped) > MOST_LISTED:
        LOGGER.warning(f"{prefix}... and {len(split.skipped) - MOST_LISTED} more")
    by_class = Counter(Path(path).relative_to(split.root).parts[0] for path, _ in split.skipped)
    shown = ", ".join(f"{name}: {n}" for name, n in sorted(by_class.items()) if name in split.classes)
    total = f"{len(split.skipped)} files skipped, {len(split.files)} used"
    LOGGER.warning(f"{prefix}WARNING total: {total}{f'; lost by class: {shown}' if shown else ''}")


def listed(names: Sequence[str]) -> str:
    """Return names as one phrase, the first few of many."""
    more = f" and {len(names) - _LISTED_NAMES} more" if len(names) > _LISTED_NAMES else ""
    return ", ".join(names[:_LISTED_NAMES]) + more
