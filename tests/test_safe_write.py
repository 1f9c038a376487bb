"""Files that are whole or absent: every writer of outputs, killed at every system call or on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.annotator import save_one_box
from utils.errors import WorkError
from utils.images import imwrite
from utils.outputs.coco_json import CocoJson
from utils.plotting.figures import write_file
from utils.safe_write import make_whole, part_beside, sweep_leftovers, write_new, write_whole
from utils.yaml_files import read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[1]
RED = np.full((20, 30, 3), (0, 0, 200), np.uint8)


def _json(path: Path) -> None:
    CocoJson([0, 1], {0: "a", 1: "b"}).save(path)


WRITERS = {
    "any.bin": lambda path: write_whole(path, b"new" * 10_000),
    "durable.bin": lambda path: write_whole(path, "new\n", durable=True),
    "made.txt": lambda path: make_whole(path, lambda part: part.write_text("new")),
    "hyp.yaml": lambda path: write_yaml(path, {"lr0": 0.01}),
    "picture.png": lambda path: imwrite(path, RED),
    "figure.png": lambda path: write_file(path, b"new"),
    "predictions.json": _json,
}


class Killed(BaseException):
    """Stands for a kill at one system call."""


@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, name: str, monkeypatch) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    new = path.read_bytes()
    outcomes = set()
    for calls in range(4):
        path.write_bytes(b"old")
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            _kill_after(patch, calls)
            WRITERS[name](path)
        outcomes.add(path.read_bytes())
        assert path.read_bytes() in {b"old", new}
        sweep_leftovers(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [name]
    assert outcomes == {b"old", new}


def _kill_after(patch: pytest.MonkeyPatch, calls: int) -> None:
    left = [calls]
    for name in ("replace", "fsync", "link"):
        real = getattr(os, name)

        def counted(*args, real=real):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args)

        patch.setattr(os, name, counted)
    unlink = Path.unlink
    patch.setattr(Path, "unlink", lambda *args, **kw: None if left[0] < 0 else unlink(*args, **kw))


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, name: str, monkeypatch) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    try:
        assert WRITERS[name](path) is False  # imwrite's way
    except (WorkError, OSError) as error:
        assert "No space left" in str(error)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == [name]


def test_a_crop_is_whole_or_absent(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "crops" / "a.jpg"
    box = torch.tensor([2.0, 2, 20, 15])
    with monkeypatch.context() as patch:
        _kill_after(patch, 0)
        with pytest.raises(Killed):
            save_one_box(box, RED, file)
    sweep_leftovers(tmp_path / "crops")
    assert list((tmp_path / "crops").iterdir()) == []
    save_one_box(box, RED, file)
    assert imwrite(tmp_path / "x.png", RED) and file.stat().st_size > 100


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "a file system without"])
def test_a_new_file_never_replaces_one(tmp_path: Path, links: bool, monkeypatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "not permitted")))
    assert write_new(tmp_path / "a", b"first") and not write_new(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_names_as_long_as_the_system_allows(tmp_path: Path) -> None:
    name = "ü" * 125 + ".png"  # 254 bytes
    assert imwrite(tmp_path / name, RED) and [p.name for p in tmp_path.iterdir()] == [name]
    assert part_beside(tmp_path / name) != part_beside(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_what_a_link_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "hyp.yaml").write_text("a: 1\n")
    (tmp_path / "hyp.yaml").symlink_to(tmp_path / "real" / "hyp.yaml")
    write_yaml(tmp_path / "hyp.yaml", {"a": 2})
    assert (tmp_path / "hyp.yaml").is_symlink() and read_yaml(tmp_path / "real" / "hyp.yaml") == {"a": 2}
    write_whole(Path(os.devnull), b"goes nowhere")
    assert not Path(os.devnull).is_file()


def test_what_a_killed_run_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    kept = [tmp_path / "results.csv", tmp_path / ".hidden", tmp_path / "a.part", weights / "last.pt"]
    left = [weights / ".last.pt.tmp", weights / ".last.pt.prev.tmp", weights / ".last.pt.sha256.tmp"]
    left += [part_beside(tmp_path / "results.png"), part_beside(tmp_path / "a.mp4", ".mp4")]
    for path in kept + left:
        path.write_bytes(b"x")
    assert sorted(sweep_leftovers(tmp_path)) == sorted(left)
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_a_video_is_whole_or_absent(tmp_path: Path, shared: Path) -> None:
    """An mp4 cannot be played before it is closed, so it takes its name then."""
    import cv2

    source = tmp_path / "in.mp4"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for shade in range(80):
        writer.write(np.full((64, 64, 3), shade % 255, np.uint8))
    writer.release()
    command = [
        sys.executable, str(ROOT / "detect.py"), "--weights", str(shared / "weights/yolov5n.pt"),
        "--source", str(source), "--imgsz", "64", "--device", "cpu", "--project", str(tmp_path / "runs"),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "runs" / "exp"
    for _ in range(600):
        if list(folder.glob(".*.part.mp4")) or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(folder.glob(".*.part.mp4")) and not (folder / "in.mp4").exists()
    subprocess.run([*command, "--exist-ok"], check=True, capture_output=True)
    found = cv2.VideoCapture(str(folder / "in.mp4"))
    assert int(found.get(cv2.CAP_PROP_FRAME_COUNT)) == 80
