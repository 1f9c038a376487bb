"""Predictions from label files with confidences, as --save-txt --save-conf write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.diagnosis.data import GroundTruth, Predictions, sort_predictions
from utils.errors import InputError

COLUMNS = "class, centre x, centre y, width, height, confidence"


def read_label_folder(folder: Path, gt: GroundTruth) -> Predictions:
    """Return the predictions of a folder's .txt files; an image without a file has none.

    A file is named after its image's stem. Where several images share one, all but one are in folders below, named
    after the images' folders, as val and detect keep them apart.

    Raises:
        InputError: no file, a file that no image or more than one could own, a row that is not COLUMNS.
    """
    from utils.diagnosis.inputs import to_pixels

    files = sorted(path for path in folder.rglob("*.txt") if not path.name.startswith("."))
    if not files:
        raise InputError(f"--pred {folder}: holds no .txt file; expected are label files of --save-txt --save-conf")
    owners = _owners(folder, files, gt)
    tables = [_read(file, gt.nc) for file in files]
    image = np.repeat([owners[file] for file in files], [len(table) for table in tables])
    rows = np.concatenate(tables)
    sizes = np.array([(info.width, info.height) for info in gt.images], np.float64)[image]
    return sort_predictions(image, to_pixels(rows[:, 1:5], sizes), rows[:, 5], rows[:, 0], str(folder))


def _owners(folder: Path, files: list[Path], gt: GroundTruth) -> dict[Path, int]:
    """Return the image number of each file."""
    by_end: dict[str, list[int]] = {}
    for number, info in enumerate(gt.images):
        path = Path(info.path)
        for key in {path.stem, path.name}:
            by_end.setdefault(key, []).append(number)
    owners: dict[Path, int] = {}
    taken: set[int] = set()
    for file in sorted(files, key=lambda file: -len(file.parts)):  # those in folders say most, so they choose first
        place = file.relative_to(folder)
        key = place.name.removesuffix(".txt")
        folders = place.parent.parts
        fitting = [i for i in by_end.get(key, []) if _lies_in(gt.images[i].path, folders)]
        if len(fitting) > 1:
            fitting = [i for i in fitting if i not in taken]
        if len(fitting) != 1:
            raise InputError(_owner_problem(file, fitting, gt))
        owners[file] = fitting[0]
        taken.add(fitting[0])
    _refuse_shared(owners, gt)
    return owners


def _lies_in(image: str, folders: tuple[str, ...]) -> bool:
    """Whether the last folders of an image's path are these; no folders fit every image."""
    parents = Path(image).parent.parts
    return not folders or parents[-len(folders) :] == folders


def _owner_problem(file: Path, fitting: list[int], gt: GroundTruth) -> str:
    if not fitting:
        return f"{file}: no image of the {gt.split} split is named {file.stem}; every file must belong to one"
    shown = " or ".join(gt.images[i].path for i in fitting[:2])
    return f"{file}: could belong to {shown}; a COCO JSON with an annotation file can tell them apart"


def _refuse_shared(owners: dict[Path, int], gt: GroundTruth) -> None:
    seen: dict[int, Path] = {}
    for file, image in owners.items():
        if image in seen:
            raise InputError(f"{file}: {gt.images[image].path} has predictions in {seen[image]} already")
        seen[image] = file


def _read(file: Path, nc: int) -> np.ndarray:
    """Return a file's rows (n, 6) float64.

    Raises:
        InputError: names the line.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text ({error})") from None
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        rows = np.array([values for _, values in lines], dtype=np.float64).reshape(len(lines), -1)
        if not lines:
            return np.zeros((0, 6))
        if rows.shape[1] == 6 and not _is_wrong(rows, nc).any():
            return rows
    except ValueError:
        pass  # the loop below names the line
    number, problem = next((n, text) for n, values in lines if (text := _complaint(values, nc)))
    raise InputError(f"{file}, line {number}: {problem}")


def _is_wrong(rows: np.ndarray, nc: int) -> np.ndarray:
    """Return which rows (n, 6) break a rule."""
    cls, conf = rows[:, 0], rows[:, 5]
    wrong = ~np.isfinite(rows).all(1) | (rows[:, 3:5] < 0).any(1)
    return wrong | (cls != np.floor(cls)) | (cls < 0) | (cls >= nc) | (conf < 0) | (conf > 1)


def _complaint(values: list[str], nc: int) -> str:
    """Return what is wrong with one row, '' when nothing is."""
    if len(values) != 6:
        hint = ": write them with --save-conf" if len(values) == 5 else ""
        return f"{len(values)} values found, 6 needed ({COLUMNS}){hint}"
    try:
        row = np.array([values], dtype=np.float64)
    except ValueError:
        return f"'{' '.join(values)[:80]}' holds something that is no number"
    cls, conf = row[0, 0], row[0, 5]
    if not (0 <= cls < nc and cls == np.floor(cls)):
        return f"class {values[0]}, allowed are 0 to {nc - 1}"
    if not 0 <= conf <= 1:
        return f"confidence {values[5]}, allowed are 0 to 1"
    if _is_wrong(row, nc)[0]:
        return f"box {' '.join(values[1:5])}: allowed are finite numbers, width and height of at least 0"
    return ""
