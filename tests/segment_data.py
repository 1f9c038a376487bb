"""A drawn set with outlines for the tests of segmentation: discs and triangles of flat colour on noise."""

from pathlib import Path

import cv2
import numpy as np


def draw_shapes(root: Path, count: int = 8, size: int = 64, seed: int = 0) -> Path:
    """Draw ``count`` training and half as many validation images of size x size pixels; return the data YAML."""
    rng = np.random.default_rng(seed)
    for split, images in (("train", count), ("val", count // 2)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(images):
            image, rows = rng.integers(60, 120, (size, size, 3)).astype(np.uint8), []
            for cls in rng.integers(0, 2, rng.integers(1, 4)).tolist():
                points = _outline(cls, size, rng)
                cv2.fillPoly(image, [points.astype(np.int32)], (230, 40, 40) if cls else (40, 40, 230))
                rows.append(f"{cls} " + " ".join(f"{value / size:.5f}" for value in points.ravel()))
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
            (root / "labels" / split / f"{number}.txt").write_text("\n".join(rows) + "\n")
    path = root / "data.yaml"
    path.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [disc, triangle]\n")
    return path


def _outline(cls: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the outline (points, 2) in pixels of a disc (class 0) or triangle."""
    radius = rng.uniform(0.12, 0.24) * size
    centre = rng.uniform(radius, size - radius, 2)
    angles = np.linspace(0, 2 * np.pi, 3 if cls else 24, endpoint=False) + rng.uniform(0, 6)
    return centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
