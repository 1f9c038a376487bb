"""Images in memory that the processes of one machine share: once decoded, one copy, nothing left behind."""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.data.shared_memory import FOLDER, PREFIX, shared_memory
from utils.images import imwrite

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not os.access(FOLDER, os.W_OK), reason="needs /dev/shm"
)
WORKER = Path(__file__).with_name("shared_cache_worker.py")
IMAGES = 12


@pytest.fixture
def folder(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        imwrite(images / f"{i:02d}.png", rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
        (labels / f"{i:02d}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return images


def start(folder, out, *words):
    """Start two processes of one group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    crew = []
    for rank in (0, 1):
        env = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(WORKER), str(folder), str(out), *words]
        crew.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return crew


def answers(crew, out, ranks=(0, 1)):
    for process in crew:
        text, _ = process.communicate(timeout=100)
        assert process.returncode in {0, -signal.SIGKILL}, text
    return [json.loads(Path(f"{out}{rank}.json").read_text()) for rank in ranks]


def left_over(before):
    return set(FOLDER.glob(f"{PREFIX}*")) - before


@pytest.fixture
def before():
    found = set(FOLDER.glob(f"{PREFIX}*"))
    yield found
    for path in left_over(found):
        with contextlib.suppress(OSError):
            path.unlink()


@pytest.mark.parametrize("order", ["", "slow"])
def test_two_processes_decode_once_and_share_the_pixels(folder, tmp_path, before, order):
    """One after the other, as training opens its data, and both at once."""
    from utils.dataset import LoadImagesAndLabels

    first, second = answers(start(folder, tmp_path / "out", *([order] if order else [])), tmp_path / "out")
    plain = LoadImagesAndLabels(str(folder), 64, 4)
    assert first["decoded"] + second["decoded"] == IMAGES and 0 in {first["decoded"], second["decoded"]}
    assert first["digest"] == second["digest"]
    assert first["inodes"] == second["inodes"] and len(first["inodes"]) == 1
    assert all("(deleted)" in name for facts in (first, second) for name in facts["names"])
    reader = first if second["decoded"] else second
    assert first["shared"] and second["shared"] and not reader["writable"]
    assert not left_over(before)
    pixels = b"".join(plain[i][0].numpy().tobytes() for i in range(IMAGES))
    assert hashlib.sha256(pixels).hexdigest() == first["digest"]


def test_another_takes_over_from_a_killed_process(folder, tmp_path, before):
    crew = start(folder, tmp_path / "out", "kill")
    (second,) = answers(crew, tmp_path / "out", ranks=[1])
    assert crew[0].returncode == -signal.SIGKILL and second["decoded"] == IMAGES
    for path in left_over(before):  # it left without taking its leave: the next run removes what it had
        path.rename(FOLDER / f"{PREFIX}old")
    _sweep()
    assert not left_over(before)


def test_without_room_each_process_has_its_own(folder, tmp_path, before):
    first, second = answers(start(folder, tmp_path / "out", "full"), tmp_path / "out")
    assert first["decoded"] == second["decoded"] == IMAGES and first["digest"] == second["digest"]
    assert not first["shared"] and not first["inodes"] and not left_over(before)


def test_an_error_reaches_all_and_leaves_nothing(folder, tmp_path, before):
    data = Path(folder / "05.png").read_bytes()
    from utils.labels import img2label_paths, scan_labels

    files = sorted(map(str, folder.glob("*.png")))
    scan_labels(files, img2label_paths(files), folder.parent / "labels.cache")
    stat = os.stat(folder / "05.png")
    (folder / "05.png").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    os.utime(folder / "05.png", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    crew = start(folder, tmp_path / "out", "slow")
    texts = [process.communicate(timeout=100)[0] for process in crew]
    assert all(process.returncode for process in crew)
    assert all("05.png" in text and "WorkError" in text for text in texts), texts
    assert not left_over(before)


def test_files_in_use_are_not_swept(before):
    used, unused = FOLDER / f"{PREFIX}used-by-a-test", FOLDER / f"{PREFIX}unused-by-a-test"
    unused.write_bytes(b"old")
    with used.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        _sweep()
        assert used.exists() and not unused.exists()
    _sweep()
    assert not left_over(before)


def test_images_in_files_are_mapped_not_copied(folder):
    from utils.dataset import LoadImagesAndLabels

    data = LoadImagesAndLabels(str(folder), 64, 4, cache_images="disk")
    for i in range(2):  # the first look at an image also checks its pixels
        im = data.load_image(0)[0]
        assert isinstance(im, np.memmap) and isinstance(im.base, mmap.mmap) and im.shape == (48, 64, 3), i


def test_alone_nothing_is_shared():
    assert shared_memory(b"key", 10) is None


def _sweep():
    from utils.data.shared_memory import _remove_leftovers

    _remove_leftovers(FOLDER / f"{PREFIX}own")
