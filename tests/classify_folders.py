"""Drawn image folders for the tests of classification."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

COLOURS = {"blue": (200, 40, 40), "green": (40, 200, 40), "red": (40, 40, 200)}


def make_folders(root: Path, splits: dict[str, int], size: tuple[int, int] = (40, 48)) -> Path:
    """Draw noisy images of one colour per class; ``splits`` tells how many of each class a split has."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-30, 30, (*size, 3))
                cv2.imwrite(str(folder / f"{number}.png"), (np.array(colour) + noise).clip(0, 255).astype(np.uint8))
    return root
