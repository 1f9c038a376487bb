"""A small data set with hostile names, and predictions of a detector that confuses two of its classes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import yaml

NAMES = [
    "<script>alert(1)</script>",
    "\"double\" & 'single'",
    "</style><b>bold",
    "{name} $(touch hacked) %s",
    "plain",
]
FILES = ["<img src=x onerror=alert(2)>", 'it\'s "quoted" & odd', "ä 中文", "plain image", "javascript:alert(3)"]
WIDTH, HEIGHT = 160, 120
COLORS = [(40, 40, 220), (40, 220, 40), (220, 40, 40), (40, 200, 220), (200, 60, 200)]  # BGR


def make_sample(root: Path, images: int = 15) -> tuple[Path, Path]:
    """Write a data set and return its YAML and a folder of predictions with confidences.

    Every image holds an object of each of three classes. The predictions find most of them, take every second object
    of class 0 for class 1, miss class 4, double one box, misplace one, and see one object in the background.
    """
    rng = np.random.default_rng(3)
    predictions = root / "predictions"
    predictions.mkdir(parents=True)
    for split, count in (("train", images * 2), ("val", images)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            stem = f"{number:02d} {FILES[number % len(FILES)]}"
            pixels = rng.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            rows = _objects(rng, number)
            for cls, *box in rows:
                x1, y1, x2, y2 = _pixels(box)
                pixels[y1:y2, x1:x2] = COLORS[cls]
            cv2.imencode(".png", pixels)[1].tofile(root / "images" / split / f"{stem}.png")
            _write(root / "labels" / split / f"{stem}.txt", rows)
            if split == "val":
                _write(predictions / f"{stem}.txt", _found(rng, rows, number))
    facts = {"path": str(root), "train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES))}
    path = root / "data.yaml"
    path.write_text(yaml.safe_dump(facts, allow_unicode=True), encoding="utf-8")
    return path, predictions


def _objects(rng: np.random.Generator, number: int) -> list[list[float]]:
    """Return rows class, x, y, w, h, three boxes side by side."""
    classes = [number % 2, 2, 4 if number % 5 == 0 else 3]
    rows = []
    for place, cls in enumerate(classes):
        w, h = rng.uniform(0.14, 0.26), rng.uniform(0.2, 0.6)
        rows.append([cls, (place + 0.5) / 3, rng.uniform(0.35, 0.65), w, h])
    return rows


def _found(rng: np.random.Generator, rows: list[list[float]], number: int) -> list[list[float]]:
    """Return rows class, x, y, w, h, confidence."""
    found = []
    for cls, x, y, w, h in rows:
        conf = rng.uniform(0.4, 0.95)
        if cls == 4:
            continue
        taken_for = 1 if cls == 0 and number % 4 == 0 else cls
        found.append([taken_for, x + rng.uniform(-0.01, 0.01), y, w, h * rng.uniform(0.9, 1.0), conf])
    if number % 7 == 3:
        found.append([found[1][0], *found[1][1:5], 0.31])
        found[-1][2] += 0.02
        found[0][1] += 0.07
    if number % 7 == 5:
        found.append([3, 0.08, 0.08, 0.1, 0.1, 0.55])
    return found


def _write(path: Path, rows: list[list[float]]) -> None:
    lines = [" ".join([str(int(row[0])), *(f"{value:.6f}" for value in row[1:])]) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _pixels(box: list[float]) -> tuple[int, int, int, int]:
    x, y, w, h = box
    left, right = round((x - w / 2) * WIDTH), round((x + w / 2) * WIDTH)
    return left, round((y - h / 2) * HEIGHT), right, round((y + h / 2) * HEIGHT)
