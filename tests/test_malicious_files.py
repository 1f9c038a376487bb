"""Every kind of malicious file that is known here: refused in one line, or passed over; its code never runs.

One table names the kinds. Each is made anew in a folder of its own with a canary that its code would write, and read as
the commands read it, with a limit on memory and time.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from malicious_checkpoints import CHECKPOINTS
from malicious_files import ARCHIVES, IMAGE_CACHES, LABEL_CACHES, MODEL_YAMLS, YAMLS

from utils.errors import InputError

MEMORY = 3 << 30  # beyond what the process has already
SECONDS = 20.0  # the slowest kind takes one second on an idle machine


class Kind(NamedTuple):
    """A kind of malicious file.

    Attributes:
        make: (folder, canary) -> file; for caches a change of the good one.
        read: how it is read; for caches a name.
    """

    make: Callable[[Path, Path], Any]
    read: Callable[[Path], object] | str


def _load(path: Path) -> object:
    from utils.checkpoint import load_checkpoint

    return load_checkpoint(path)


def _unpack(path: Path) -> object:
    from utils.data.archives import unpack

    return unpack(path, path.parent / "target")


def _read_yaml(path: Path) -> object:
    from utils.yaml_files import read_yaml

    return read_yaml(path)


def _build(path: Path) -> object:
    from models.yolo import DetectionModel

    return DetectionModel(path)


READERS = {_load: CHECKPOINTS, _unpack: ARCHIVES, _read_yaml: YAMLS, _build: MODEL_YAMLS}
CACHES = {"labels": LABEL_CACHES, "images": IMAGE_CACHES}
KINDS: dict[str, Kind] = {
    name: Kind(make, read) for read, makes in {**READERS, **CACHES}.items() for name, make in makes.items()
}
REFUSED = [name for name, kind in KINDS.items() if callable(kind.read)]
PASSED_OVER = [name for name, kind in KINDS.items() if not callable(kind.read)]


def test_number_of_kinds(capsys: pytest.CaptureFixture) -> None:
    """At least 25 kinds, of which at least 12 are archives."""
    with capsys.disabled():
        print(f"\n{len(KINDS)} kinds of malicious files: {len(REFUSED)} refused, {len(PASSED_OVER)} passed over")
    assert len(KINDS) >= 25 and len(ARCHIVES) >= 12
    assert len(KINDS) == sum(len(makes) for makes in (*READERS.values(), *CACHES.values()))


@contextlib.contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Let the block take a few seconds and no more than MEMORY more bytes."""
    start = time.monotonic()
    with _memory_limit():
        yield
    assert time.monotonic() - start < seconds


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="limits of memory are POSIX")
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return
    now = int(re.search(r"VmSize:\s+(\d+)", status.read_text())[1]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def listing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*"))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    """One printable line that names the file; no code ran, nothing was written."""
    kind, place, canary = KINDS[name], tmp_path / "place", tmp_path / "canary"
    place.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = kind.make(place, canary)
    before = listing(tmp_path)
    with bounded(), pytest.raises(InputError) as caught:
        kind.read(path)
    message = str(caught.value)
    assert path.name in message and message.isprintable() and len(message) < 1000, message
    assert not canary.exists() and listing(tmp_path) == before
    assert not list(Path("/tmp").glob("canary-of-*"))


@pytest.fixture(scope="module")
def good_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images with two boxes each."""
    from utils.images import imwrite

    folder = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for i in range(8):
        imwrite(folder / f"images/{i}.png", rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
        (folder / f"labels/{i}.txt").write_text("0 0.5 0.5 0.1 0.1\n1 0.25 0.5 0.2 0.4\n")
    return folder


@pytest.mark.parametrize("name", PASSED_OVER)
def test_passed_over(
    tmp_path: Path, good_set: Path, name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels and images are what the files say, whatever the cache held; no code ran."""
    monkeypatch.setattr(logging.getLogger("yolov5"), "propagate", True)
    folder, canary = tmp_path / "set", tmp_path / "canary"
    shutil.copytree(good_set, folder)
    {"labels": _check_labels, "images": _check_images}[KINDS[name].read](folder, canary, KINDS[name].make)
    assert not canary.exists()
    assert all("\n" not in record.getMessage() for record in caplog.records)


def _check_labels(folder: Path, canary: Path, change: Callable[[Path, Path], None]) -> None:
    from utils.labels import scan_labels

    images = sorted(map(str, (folder / "images").iterdir()))
    good = scan_labels(images, cache_path=folder / "labels.cache")
    cache = folder / "labels.cache.npz"
    change(cache, canary)
    others = {path: path.read_bytes() for path in folder.glob("*.cache")}
    with bounded():
        again = scan_labels(images, cache_path=folder / "labels.cache")
    assert len(good.boxes) == 16 and np.array_equal(again.boxes, good.boxes)
    assert np.array_equal(again.shapes, good.shapes) and again.im_files == images
    assert all(path.read_bytes() == content for path, content in others.items())


def _check_images(folder: Path, canary: Path, change: Callable[[Path, Path], None]) -> None:
    from utils.data.image_cache import DiskCache
    from utils.images import imread

    source = str(folder / "images/0.png")

    def filled() -> DiskCache:
        cache = DiskCache([source], np.array([[64, 96]]), "96v")
        cache.fill(lambda _: imread(source), 1, "", show=False)
        return cache

    good = filled()
    assert np.array_equal(good[0], imread(source))
    change(good.path(0), canary)
    with bounded():
        found = filled()[0]
    assert found is None or np.array_equal(found, imread(source))
