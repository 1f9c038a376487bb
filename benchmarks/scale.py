"""Measure start-up, memory and the order of an epoch on made data sets of 10^3, 10^4 and 10^5 images, or more.

python benchmarks/scale.py                                       # up to 100,000 images, about two minutes
python benchmarks/scale.py --sizes 1000 10000 100000 1000000     # a million takes a few minutes more
python benchmarks/scale.py --peer ../peer/bin/python             # PyPI's yolov5 beside it

The images are one small JPEG, hard-linked, the labels one of a few files, so that what is measured is the work for each
image and none of a disk's. Each figure comes from a fresh process:

cold      seconds to open the data set without a label cache
warm      seconds to open it with one
memory    what the open data set adds to the process's resident bytes, a small data set having been opened before
worker    bytes that a forked process makes its own by looking at the labels and the name of every image once
order     seconds to shuffle an epoch, to weigh one, and to cut both into batches

Behind each figure stands the same for one image: flat means that it does not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
LINKS = 20_000  # of one file; file systems have limits
LABELS = 32  # different label files
SETTLE = 2.2  # seconds after which a label cache trusts the time of a file
BATCH = 64
FIGURES = ("cold", "warm", "memory", "worker", "order")


def parse_opt() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="images of each set")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure but the cold start")
    parser.add_argument("--folder", type=Path, help="where the data sets are made and removed")
    parser.add_argument("--peer", help="python of the peer's environment")
    parser.add_argument("--peer-prefix", default="yolov5.", help="of the peer's modules; '' for a clone in its path")
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # a process of one measurement: its settings as JSON
    return parser.parse_args()


def make_set(folder: Path, images: int) -> Path:
    """Make a data set of hard links; return its image folder."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    jpeg = cv2.imencode(".jpg", cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (64, 48)))[1].tobytes()
    texts = [_label_text(rng, 2 + k % 9) for k in range(LABELS)]
    parts = {name: folder / name / "train" for name in ("images", "labels")}
    for part in parts.values():
        part.mkdir(parents=True)
    for i in range(images):
        name, source = f"{i:012d}", i - i % LINKS
        _link(parts["images"], name, ".jpg", f"{source:012d}", jpeg)
        _link(parts["labels"], name, ".txt", f"{source + i % LABELS:012d}", texts[i % LABELS])
    return parts["images"]


def _label_text(rng: Any, rows: int) -> bytes:
    lines = (f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, (x, y, w, h) in zip(
        rng.integers(0, 80, rows), rng.uniform(0.2, 0.4, (rows, 4)), strict=True
    ))  # fmt: skip
    return "".join(lines).encode()


def _link(folder: Path, name: str, suffix: str, source: str, content: bytes) -> None:
    if name == source:
        (folder / (name + suffix)).write_bytes(content)
    else:
        os.link(folder / (source + suffix), folder / (name + suffix))


# One measurement, in a process of its own -----------------------------------------------------------------------------


def measure(settings: dict[str, Any]) -> dict[str, float]:
    """Open the data set of ``settings`` and return the figures."""
    from speed_parts.work import Side
    from speed_parts.worker import adapt_old_packages

    adapt_old_packages()
    side = Side(settings["prefix"], settings["side"])
    data_set = side.module("utils.dataloaders").LoadImagesAndLabels
    data_set(settings["small"], 640)  # whatever the first use imports
    before, begin = _status("VmRSS"), time.perf_counter()
    data = data_set(settings["images"], 640)
    figures = {"open": time.perf_counter() - begin, "memory": _status("VmRSS") - before, "peak": _status("VmHWM")}
    rows = sum(len(data.labels[i]) for i in range(0, len(data), max(len(data) // 100, 1)))
    figures |= {"images": len(data), "rows": rows}
    if not settings["all"]:
        return figures
    figures["worker"] = _of_a_fork(lambda: _look(data))
    if side.is_ours:
        begin = time.perf_counter()
        for _ in _orders(side, data):
            pass
        figures["order"] = time.perf_counter() - begin
    return figures


def _orders(side: Any, data: Any) -> Iterator[list[Any]]:
    """Make the batches of two epochs, shuffled and weighted."""
    samplers = side.module("utils.balance.samplers")
    weights = side.module("utils.balance.image_weights").sampler_weights({"sampler": "repeat_factor"}, data.labels, 80)
    yield from samplers.EpochBatchSampler(lambda epoch: samplers.shuffled_order(len(data), 0, epoch), BATCH)
    yield from samplers.EpochBatchSampler(lambda epoch: samplers.weighted_order(weights.images, 0, epoch), BATCH)


def _look(data: Any) -> None:
    for i in range(len(data)):
        _ = data.labels[i], data.im_files[i], data.segments[i]


def _of_a_fork(work: Callable[[], Any]) -> float:
    """Return the bytes that a forked process makes its own while it works."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        first = _own_bytes()
        work()
        os.write(write, str(_own_bytes() - first).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found = float(answer.read())
    os.waitpid(child, 0)
    return found


def _own_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


# The table ------------------------------------------------------------------------------------------------------------


def run(python: str, settings: dict[str, Any]) -> dict[str, float]:
    """Measure once in a fresh process."""
    env = {**os.environ, "YOLO_OFFLINE": "1"}
    if settings["prefix"] == "":
        env["PYTHONPATH"] = str(HERE.parent)
    words = [python, str(Path(__file__).resolve()), "--measure", json.dumps(settings)]
    ended = subprocess.run(words, cwd=settings["work"], env=env, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{settings['side']}: {' | '.join(ended.stderr.strip().splitlines()[-3:])}")
    return json.loads(ended.stdout.strip().splitlines()[-1])


def figures_of(python: str, settings: dict[str, Any], rounds: int) -> dict[str, float]:
    """Return all figures of a data set on one side; its label cache is made by the cold start."""
    remove_caches(Path(settings["images"]))
    cold = run(python, {**settings, "all": False})
    warm = [run(python, {**settings, "all": True}) for _ in range(rounds)]
    found = {key: median(turn[key] for turn in warm) for key in warm[0]}
    if found["rows"] != cold["rows"] or found["images"] != cold["images"]:
        raise SystemExit(f"{settings['side']}: the warm start found other labels than the cold one")
    return {**found, "cold": cold["open"], "warm": found["open"]}


def remove_caches(images: Path) -> None:
    """Delete the label caches of either side."""
    for folder in (images.parents[1] / "labels", images.parent):
        for file in folder.glob("*.cache*"):
            file.unlink()


def line(side: str, n: int, found: dict[str, float]) -> str:
    """Return one line of the table: each figure, and behind it what it is for one image."""
    text = f"{side:<8}{n:>9}"
    for key in FIGURES:
        if key not in found:
            text += f"{'-':>10}{'':>11}"
        elif key in {"memory", "worker"}:
            text += f"{found[key] / 1e6:>7.1f} MB{found[key] / n:>9.0f} B"
        else:
            text += f"{found[key]:>8.3f} s{1e6 * found[key] / n:>8.1f} us"
    return text


def main() -> None:
    """Print the table."""
    opt = parse_opt()
    if opt.measure:
        print(json.dumps(measure(json.loads(opt.measure))))
        return
    sides = {"ours": (sys.executable, "")} | ({"yolov5": (opt.peer, opt.peer_prefix)} if opt.peer else {})
    print(f"{'':<8}{'images':>9}" + "".join(f"{key:>12}{'an image':>9}" for key in FIGURES), flush=True)
    table: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="scale-", dir=opt.folder) as temporary:
        home = Path(temporary)
        small = make_set(home / "small", 10)
        for n in opt.sizes:
            images = make_set(home / str(n), n)
            os.sync()  # else the disk is still busy with the making
            time.sleep(SETTLE)
            for side, (python, prefix) in sides.items():
                places = {"images": str(images), "small": str(small), "work": str(home)}
                table[side].append(figures_of(python, {"side": side, "prefix": prefix, **places}, opt.rounds))
                print(line(side, n, table[side][-1]), flush=True)
            shutil.rmtree(home / str(n))
    for side, found in table.items():
        print(growth(side, opt.sizes, found))


def growth(side: str, sizes: list[int], found: list[dict[str, float]]) -> str:
    """Say how much more one image costs in the largest set than in the one before it."""
    if len(sizes) < 2:
        return ""
    last = list(zip(sizes, found, strict=True))[-2:]
    small, large = ({key: figures[key] / n for key in FIGURES if key in figures} for n, figures in last)
    parts = [f"{key} x {large[key] / small[key]:.2f}" for key in large if small[key] > 0]
    return f"{side}: an image of {sizes[-1]} against one of {sizes[-2]}: {', '.join(parts)}"


if __name__ == "__main__":
    main()
