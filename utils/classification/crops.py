"""Make a classification data set of a detection data set: one square picture per labelled box, a folder per class.

    python -m utils.classification.crops --data parts.yaml --out ../datasets/parts-cls
    python classify/train.py --data parts-cls --model yolov5n.yaml --imgsz 64

It shows how well the classes can be told apart once the objects are found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.errors import InputError, WorkError, run_command
from utils.logs import LOGGER, colorstr, setup_logging

SPLITS = ("train", "val", "test")
CONTEXT = 1.2  # side of the square, in units of the box's longer side
MIN_SIDE = 16  # of a square in pixels


def write_crops(data: str | Path, out: str | Path, *, context: float = CONTEXT) -> dict[str, Counter[str]]:
    """Write the crops of all splits; the folder appears once it is complete.

    Args:
        data: detection data YAML.
        out: folder to make; it must not exist, or be empty.
        context: side of the square around a box, in units of its longer side, 1 to 4. Squares are moved into the
            image; where the image is too small its edge is repeated.

    Returns:
        split -> class name -> number of crops.

    Raises:
        InputError: the data set does not fit, ``out`` is in use, or two class names would be one folder.
        WorkError: an image cannot be read any more, or a crop cannot be written.
    """
    from utils.dataset_yaml import check_dataset
    from utils.outputs.detection_output import safe_name

    if not 1 <= context <= 4:
        raise InputError(f"--context {context}: allowed are 1 to 4 box sides")
    out = Path(os.path.abspath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists and is not empty; allowed is a new folder")
    facts = check_dataset(data)
    names = {c: safe_name(name) for c, name in facts["names"].items()}
    double = [name for name, count in Counter(name.casefold() for name in names.values()).items() if count > 1]
    if double:
        raise InputError(f"{data}: the class name {double[0]} is twice a folder; allowed are distinct names")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(".partial", f".{out.name}.", out.parent))
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made ({error.strerror})") from None
    try:
        partial.chmod(0o755)
        counts = {split: _write_split(facts, split, partial, names, context) for split in SPLITS if facts.get(split)}
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise WorkError(f"--out {out}: cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _write_split(facts: Mapping, split: str, root: Path, names: Mapping[int, str], context: float) -> Counter[str]:
    from utils.dataset_yaml import find_images
    from utils.images import imread, write_image
    from utils.labels import img2label_paths, scan_labels
    from utils.outputs.detection_output import output_stems

    files = find_images(facts[split])
    table = scan_labels(
        files, img2label_paths(files), None, colorstr(f"{split}: "), len(names), names=dict(facts["names"])
    )  # fmt: skip
    counts: Counter[str] = Counter()
    for file, stem, rows in zip(table.im_files, output_stems(table.im_files), table.labels, strict=True):
        if not len(rows):
            continue
        image = imread(file)
        for number, (c, crop) in enumerate(squares(image, rows, context)):
            target = root / split / names[c] / f"{'_'.join(stem.parts)}_{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_image(target, crop)
            except (ValueError, OSError) as error:
                raise WorkError(f"{target}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
            counts[names[c]] += 1
    return counts


def squares(image: np.ndarray, rows: np.ndarray, context: float = CONTEXT) -> Iterator[tuple[int, np.ndarray]]:
    """Yield class and square (s, s, 3) of each box.

    Args:
        image: (h, w, 3).
        rows: (n, 5) class, cx, cy, w, h, normalised.
        context: side of the square in units of the box's longer side.
    """
    height, width = image.shape[:2]
    for c, cx, cy, w, h in rows[:, :5].tolist():
        side = max(round(max(w * width, h * height) * context), MIN_SIDE)
        left = min(max(round(cx * width - side / 2), 0), max(width - side, 0))
        top = min(max(round(cy * height - side / 2), 0), max(height - side, 0))
        crop = image[top : top + side, left : left + side]
        below, right = side - crop.shape[0], side - crop.shape[1]
        yield int(c), np.pad(crop, ((0, below), (0, right), (0, 0)), mode="edge") if below or right else crop


def parse_opt(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.classification.crops",
        description="Write each labelled box of a detection data set as a picture into a folder per class.",
    )
    parser.add_argument("--data", required=True, help="detection data YAML, such as parts.yaml")
    parser.add_argument("--out", required=True, type=Path, help="folder to make, with train/ and val/ inside")
    parser.add_argument("--context", type=float, default=CONTEXT, help="side of a square, in longer box sides")
    return parser.parse_args(arguments)


def main(opt: argparse.Namespace) -> None:
    """Write the crops and log how many of each class there are."""
    from utils.paths import check_yaml

    setup_logging()
    for split, counts in write_crops(check_yaml(opt.data), opt.out, context=opt.context).items():
        LOGGER.info(f"{split}: {counts.total()} crops, {', '.join(f'{name} {n}' for name, n in counts.items())}")
    LOGGER.info(f"Crops saved to {colorstr('bold', opt.out)}")


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
