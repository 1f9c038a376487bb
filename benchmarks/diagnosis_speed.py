"""How long a diagnosis takes and how much memory: 5,000 drawn images with 100,000 predictions in 80 classes.

Everything that follows the predictions is timed: reading the COCO JSON, both views, the class table, the confusion
matrix with its pictures, and the comparison with a second run (1,000 resamples). The ground truth is drawn, not read.

python benchmarks/diagnosis_speed.py   # two threads
python benchmarks/diagnosis_speed.py --images 500 --predictions 10000
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
THREADS = "2"
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, THREADS)  # before numpy is imported

import numpy as np  # noqa: E402

from utils.diagnosis.class_table import class_table  # noqa: E402
from utils.diagnosis.compare import Run, compare  # noqa: E402
from utils.diagnosis.data import GroundTruth, ImageInfo, Predictions, sort_objects, sort_predictions  # noqa: E402
from utils.diagnosis.inputs import load_predictions  # noqa: E402
from utils.diagnosis.matrix import confusion  # noqa: E402
from utils.diagnosis.operating import operate  # noqa: E402
from utils.diagnosis.tide import tide  # noqa: E402

SIDE = 640.0
OBJECTS_PER_IMAGE = 7  # about COCO's
LIMIT_SECONDS, LIMIT_BYTES = 60.0, 2 * 1024**3
Result = TypeVar("Result")


def draw_objects(images: int, nc: int, rng: np.random.Generator) -> GroundTruth:
    """Return drawn objects with long-tailed class counts."""
    count = images * OBJECTS_PER_IMAGE
    corner, size = rng.uniform(0, SIDE - 200, (count, 2)), rng.uniform(8, 200, (count, 2))
    shares = 1 / np.arange(1, nc + 1)
    cls = rng.choice(nc, count, p=shares / shares.sum())
    infos = [ImageInfo(f"images/{i:06d}.jpg", f"labels/{i:06d}.txt", int(SIDE), int(SIDE)) for i in range(images)]
    image = rng.integers(0, images, count)
    return sort_objects(
        infos, image, np.concatenate((corner, corner + size), 1), cls, dict(enumerate(map(str, range(nc))))
    )


def draw_predictions(gt: GroundTruth, count: int, rng: np.random.Generator) -> Predictions:
    """Return predictions around drawn objects: shifted, a fifth of another class, a quarter anywhere."""
    row = rng.integers(0, len(gt), count)
    size = np.tile(gt.boxes[row, 2:] - gt.boxes[row, :2], 2)
    boxes = gt.boxes[row] + rng.normal(0, 0.12, (count, 4)) * size
    anywhere = rng.random(count) < 0.25
    corner = rng.uniform(0, SIDE - 200, (count, 2))
    boxes[anywhere] = np.concatenate((corner, corner + rng.uniform(8, 200, (count, 2))), 1)[anywhere]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    cls = np.where(rng.random(count) < 0.8, gt.cls[row], rng.integers(0, gt.nc, count))
    return sort_predictions(gt.image[row], boxes, rng.beta(0.5, 2, count), cls, "drawn")


def write_json(path: Path, pred: Predictions) -> None:
    """Write predictions as val does."""
    boxes = pred.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    values = (pred.image.tolist(), pred.cls.tolist(), boxes.round(3).tolist(), pred.conf.round(5).tolist())
    keys = ("image_id", "category_id", "bbox", "score")
    path.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True)]))


def timed(name: str, work: Callable[..., Result], *args: object) -> Result:
    """Call work(*args) and print how long it took."""
    start = time.perf_counter()
    result = work(*args)
    print(f"{name:42} {time.perf_counter() - start:7.2f} s")
    return result


def diagnose(gt: GroundTruth, files: list[Path], folder: Path, resamples: int) -> None:
    """Do what a diagnosis of the first file and its comparison with the others take."""
    runs = []
    for file in files:
        views = timed(f"{file.stem}: read the COCO JSON", load_predictions, file, gt)
        ap_view = timed(f"{file.stem}: AP view", tide, gt, views.a)
        at = timed(f"{file.stem}: operating view", operate, gt, views.b)
        if not runs:
            table = timed("class table", class_table, gt, ap_view, at, views.a, views.b, gt.counts())
            table.save(folder / "per_class.csv")
            timed("confusion matrix, tables and pictures", confusion(gt, at).save, folder)
        runs.append(Run(file.stem, gt, views.a, ap_view, at))
    timed(f"comparison, {resamples} resamples", compare, runs, resamples)


def main() -> int:
    """Measure, print, and return 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="number of images")
    parser.add_argument("--predictions", type=int, default=100_000, help="number of predictions of each run")
    parser.add_argument("--classes", type=int, default=80, help="number of classes")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples of the comparison")
    opt = parser.parse_args()
    rng = np.random.default_rng(0)
    gt = draw_objects(opt.images, opt.classes, rng)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"run{number}.json" for number in range(2)]
        for file in files:
            write_json(file, draw_predictions(gt, opt.predictions, rng))
        print(f"{opt.images} images, {len(gt)} objects, {opt.classes} classes, 2 x {opt.predictions} predictions, "
              f"{os.environ['OMP_NUM_THREADS']} threads")  # fmt: skip
        start = time.perf_counter()
        diagnose(gt, files, Path(folder), opt.resamples)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{'all':42} {seconds:7.2f} s, allowed {LIMIT_SECONDS:g}")
    print(f"{'most memory':42} {peak / 1024**2:7.0f} MB, allowed {LIMIT_BYTES / 1024**2:.0f}")
    return int(seconds > LIMIT_SECONDS or peak > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main())
