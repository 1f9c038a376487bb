"""Small data sets for the tests of the label audit: drawn images, given label rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

SIZE = (64, 96)  # height, width

Rows = Mapping[str, str | bytes | None]


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return an image that has nothing in common with those of other numbers."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def write_set(
    root: Path, splits: Mapping[str, Rows], names: list[str] | dict[int, str] | None = None, extra: str = ""
) -> Path:
    """Write a data set and return its YAML.

    Args:
        root: folder to make.
        splits: split -> stem of an image -> rows of its label file, None for no file.
        names: class names.
        extra: further lines of the YAML.
    """
    number = 0
    for split, images in splits.items():
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True, exist_ok=True)
        for stem, rows in images.items():
            number += 1
            cv2.imwrite(str(root / "images" / split / f"{stem}.png"), picture(number))
            label = root / "labels" / split / f"{stem}.txt"
            if isinstance(rows, bytes):
                label.write_bytes(rows)
            elif rows is not None:
                label.write_text(rows)
    names = ["bolt", "nut", "gear wheel"] if names is None else names
    places = "".join(f"{split}: images/{split}\n" for split in dict.fromkeys(("train", "val", *splits)))
    yaml = root / "data.yaml"
    yaml.write_text(f"path: {root}\n{places}names: {names}\n{extra}")
    return yaml
