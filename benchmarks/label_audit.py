"""How long the label audit takes, with and without a look at the pixels.

Draws a data set of many images once: JPEGs of 640 x 480, pieces of coco128 where that lies beside the project, else
noise of several sizes; each with a few boxes of 80 classes, some of them wrong.

python benchmarks/label_audit.py                  # 20,000 images, about 1.5 GB below --work
python benchmarks/label_audit.py --images 2000
"""

from __future__ import annotations

import argparse
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.diagnosis.audit import audit_labels, log_audit  # noqa: E402
from utils.images import imread, imwrite  # noqa: E402
from utils.logs import LOGGER, setup_logging  # noqa: E402
from utils.yaml_files import write_yaml  # noqa: E402

SHARED_IMAGES = ROOT.parent / "shared" / "datasets" / "coco128" / "images" / "train2017"
SIZE = (480, 640)
CLASSES = 80
MEAN_BOXES = 7
WRONG_ROWS = ("80 0.5 0.5 0.1 0.1", "0 0.5 0.5 nan 0.1", "0 1.2 0.5 0.1 0.1", "0 0.5 0.5 0.1", "0 0.5 0.5 0 0.1")


def draw_set(folder: Path, images: int) -> Path:
    """Draw the data set unless it is there; return its YAML."""
    yaml = folder / f"drawn{images}" / "data.yaml"
    if yaml.exists():
        return yaml
    sources = [imread(path) for path in sorted(SHARED_IMAGES.glob("*.jpg"))] if SHARED_IMAGES.is_dir() else []
    for split in ("train", "val"):
        for part in ("images", "labels"):
            (yaml.parent / part / split).mkdir(parents=True, exist_ok=True)
    with ThreadPool() as pool:
        pool.map(lambda number: draw_one(yaml.parent, number, sources), range(images), chunksize=64)
    facts = {"path": str(yaml.parent), "train": "images/train", "val": "images/val"}
    write_yaml(yaml, {**facts, "names": [f"class {c}" for c in range(CLASSES)]})
    return yaml


def draw_one(folder: Path, number: int, sources: list[np.ndarray]) -> None:
    """Write one image and its labels."""
    rng = np.random.default_rng(number)
    split = "val" if number % 10 == 0 else "train"
    if sources:
        source = sources[rng.integers(len(sources))]
        h, w = (int(side * rng.uniform(0.4, 0.9)) for side in source.shape[:2])
        y, x = rng.integers(source.shape[0] - h), rng.integers(source.shape[1] - w)
        image = source[y : y + h, x : x + w]
        image = image[:, ::-1] if rng.random() < 0.5 else image
    else:
        image = rng.integers(0, 256, (rng.integers(8, 64), rng.integers(8, 64), 3), dtype=np.uint8)
    imwrite(folder / "images" / split / f"{number:06}.jpg", cv2.resize(image, SIZE[::-1]))
    boxes = rng.uniform(0.05, 0.45, (rng.poisson(MEAN_BOXES), 4)) + (0.25, 0.25, 0, 0)
    lines = [f"{rng.integers(CLASSES)} {' '.join(f'{v:.6f}' for v in box)}" for box in boxes]
    if number % 200 == 0:
        lines.append(WRONG_ROWS[number // 200 % len(WRONG_ROWS)])
    (folder / "labels" / split / f"{number:06}.txt").write_text("".join(f"{line}\n" for line in lines))


def main() -> None:
    """Draw the set, audit it twice, print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "label_audit", help="folder of the drawn set")
    opt = parser.parse_args()
    setup_logging(-1)
    yaml = draw_set(opt.work, opt.images)
    audit_labels(yaml, splits=("val",), look="pixels")  # imports what it needs
    for look in ("headers", "pixels"):
        started, busy = time.perf_counter(), time.process_time()
        audit = audit_labels(yaml, look=look)
        took, used = time.perf_counter() - started, time.process_time() - busy
        log_audit(audit)
        LOGGER.info(f"{opt.images} images, {audit.boxes_checked} boxes, {look}: {took:.1f} s, {used:.1f} s of CPU\n")


if __name__ == "__main__":
    main()
