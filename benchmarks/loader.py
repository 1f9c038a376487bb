"""Time one training sample: mosaic, warp, colour and flip, from files and from memory.

python benchmarks/loader.py --images ../datasets/coco128/images/train2017
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.balance.samplers import Draw  # noqa: E402
from utils.data.image_store import ImageStore  # noqa: E402
from utils.dataset import LoadImagesAndLabels  # noqa: E402
from utils.logs import LOGGER, setup_logging  # noqa: E402

HYP = {
    "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0,
    "perspective": 0.0, "flipud": 0.0, "fliplr": 0.5, "mosaic": 1.0, "mixup": 0.0, "copy_paste": 0.0,
}  # fmt: skip


def made_images(folder: Path, count: int = 128) -> Path:
    """Write photographs-like JPEGs of 640 x 480 with a few boxes each, where no real data set was named."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for k in range(count):
        im = cv2.resize(rng.integers(0, 255, (40, 53, 3)).astype(np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        im = cv2.add(im, rng.integers(0, 24, im.shape).astype(np.uint8))
        cv2.imwrite(str(folder / "images" / f"{k}.jpg"), im)
        rows = np.c_[rng.integers(0, 80, 7), rng.uniform(0.3, 0.7, (7, 2)), rng.uniform(0.05, 0.5, (7, 2))]
        np.savetxt(folder / "labels" / f"{k}.txt", rows, fmt="%g")
    return folder / "images"


def sample_times(data: LoadImagesAndLabels, samples: int, repeats: int) -> np.ndarray:
    """Return milliseconds per sample of each repeat (repeats,)."""
    times = []
    for repeat in range(repeats + 1):
        draws = [Draw(k % len(data), repeat, k) for k in range(samples)]
        begin = time.perf_counter()
        for k in range(0, samples, 16):
            data.collate_fn(data.__getitems__(draws[k : k + 16]))
        times.append((time.perf_counter() - begin) / samples * 1e3)
    return np.array(times[1:])


def report(name: str, times: np.ndarray) -> None:
    """Log the median and the spread of the repeats."""
    LOGGER.info(
        f"{name:<10}{np.median(times):8.2f} ms a sample   (fastest {times.min():.2f}, slowest {times.max():.2f})"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", help="image folder with labels beside it; by default 128 made pictures of 640 x 480"
    )
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    opt = parser.parse_args()
    setup_logging(-1)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = opt.images or str(made_images(Path(folder)))
        data = LoadImagesAndLabels(images, opt.imgsz, augment=True, hyp=HYP)
        report("from disk", sample_times(data, opt.samples, opt.repeats))
        data.images.cache("ram", "", show=False)
        report("from RAM", sample_times(data, opt.samples, opt.repeats))
        decoding = ImageStore(data.im_files, data.shapes, opt.imgsz, fast=True)
        begin = time.perf_counter()
        for i in range(len(data)):
            decoding.load(i)
        LOGGER.info(f"decoding alone: {(time.perf_counter() - begin) / len(data) * 1e3:.2f} ms an image")


if __name__ == "__main__":
    main()
