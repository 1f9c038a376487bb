"""What an image costs does not depend on how many there are."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.dataset import LoadImagesAndLabels

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def scale():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import scale
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return scale


def opened(images):
    """Return a data set, and how many objects it keeps."""
    before = sys.getallocatedblocks()
    data = LoadImagesAndLabels(str(images), 64)
    return data, sys.getallocatedblocks() - before


def test_images_are_no_objects(scale, tmp_path):
    """The objects of an open data set are no more for 2000 images than for 500."""
    few, many = (scale.make_set(tmp_path / str(n), n) for n in (500, 2000))
    opened(few)  # makes the cache, and whatever a first use makes
    kept = {images: opened(images)[1] for images in (few, few, many, many)}
    assert abs(kept[many] - kept[few]) < 100
    data = LoadImagesAndLabels(str(many), 64, rect=True, batch_size=32)
    assert len(data) == 2000 and len(data.labels[-1]) == len(data.labels[1999]) and len(set(data.im_files)) == 2000


def test_weights_and_orders_take_no_loop_over_images(scale, tmp_path):
    from utils.balance.image_weights import sampler_weights
    from utils.data.flat_rows import Rows

    data = LoadImagesAndLabels(str(scale.make_set(tmp_path, 40)), 64)
    plain = list(data.labels)
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rows, "_item", lambda self, i: taken.append(i))
        found = sampler_weights({"sampler": "repeat_factor"}, data.labels, 80)
    assert not taken and (found.images == sampler_weights({"sampler": "repeat_factor"}, plain, 80).images).all()


@pytest.mark.slow
def test_100000_images_are_open_in_a_second(scale, tmp_path):
    images = scale.make_set(tmp_path / "set", 100_000)
    time.sleep(scale.SETTLE)
    first = LoadImagesAndLabels(str(images), 64)
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        again = LoadImagesAndLabels(str(images), 64)
        seconds.append(time.process_time() - begin)
    assert min(seconds) < 1.0, seconds
    assert len(again) == 100_000 and (again.labels.flat() == first.labels.flat()).all()
    assert again.im_files == first.im_files


@pytest.mark.slow
def test_memory_of_100000_images(scale, tmp_path):
    small, images = scale.make_set(tmp_path / "small", 10), scale.make_set(tmp_path / "set", 100_000)
    settings = {"side": "ours", "prefix": "", "images": str(images), "small": str(small), "work": str(tmp_path)}
    scale.run(sys.executable, {**settings, "all": False})
    found = scale.run(sys.executable, {**settings, "all": True})
    assert found["memory"] < 800 * 100_000 and found["worker"] < 20e6, found


def test_benchmark_prints_a_line_for_each_size(tmp_path):
    words = [sys.executable, str(ROOT / "benchmarks/scale.py"), "--sizes", "20", "--rounds", "1"]
    words += ["--folder", str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert not ended.returncode, ended.stderr
    assert ended.stdout.splitlines()[1].split()[:2] == ["ours", "20"] and not list(tmp_path.iterdir())
