"""Size and sha256 beside a checkpoint: damage is never loaded, and no kill makes a good file unreadable."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from checkpoint_files import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import checkpoint as ck
from utils.checkpoints import records
from utils.errors import InputError, WorkError


class Killed(BaseException):
    """Stands for a kill at one system call."""


def _save(folder: Path, epoch: int, **options: bool) -> Path:
    path = folder / "last.pt"
    ck.save_checkpoint(path, {"epoch": epoch, "x": torch.full((50,), float(epoch))}, **options)
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_record_is_one_that_sha256sum_checks(tmp_path: Path) -> None:
    path = _save(tmp_path, 0)
    lines = records.record_path(path).read_text().splitlines()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert lines == [f"# size: {path.stat().st_size}", f"{digest}  last.pt"]
    _save(tmp_path, 1, keep_previous=True)
    if shutil.which("sha256sum"):
        done = subprocess.run(
            ["sha256sum", "-c", "last.pt.sha256"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "last.pt: OK\n", "")
    assert f"# before: {digest}  last.pt" in records.record_path(path).read_text()


def test_a_file_without_a_record_loads(tmp_path: Path) -> None:
    """YOLOv5 writes none, and a copy may come without."""
    path = _save(tmp_path, 3)
    (tmp_path / "copy").mkdir()
    shutil.copy(path, tmp_path / "copy" / "last.pt")
    records.record_path(path).unlink()
    assert ck.load_checkpoint(path)["epoch"] == ck.load_checkpoint(tmp_path / "copy" / "last.pt")["epoch"] == 3


def _damaged(data: bytes, rng: random.Random) -> list[bytes]:
    """Return the data cut at 20 lengths, and with one byte changed at 100 places."""
    cut = [data[: round(len(data) * part / 20)] for part in range(19)] + [data[:-1]]
    flipped = []
    for _ in range(100):
        at = rng.randrange(len(data))
        flipped.append(data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :])
    return cut + flipped


@pytest.mark.parametrize("load", [ck.load_checkpoint, ck.load_resume, ck.strip_optimizer], ids=lambda f: f.__name__)
def test_no_damaged_file_is_loaded(tmp_path: Path, load) -> None:
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, {"epoch": 1, "model": tiny_model(), "optimizer": {"state": {}}, "resume": {"step": 3}})
    good = path.read_bytes()
    silent = 0
    for data in _damaged(good, random.Random(0)):
        path.write_bytes(data)
        try:
            load(path)
            silent += 1
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
    assert silent == 0
    path.write_bytes(good)
    load(path)


def test_the_message_names_both_digests_and_a_way_out(tmp_path: Path) -> None:
    path = _save(tmp_path, 0)
    recorded = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = hashlib.sha256(data).hexdigest()[:12]
    with pytest.raises(InputError, match=rf"{found}.*{recorded}.*replaced on purpose, delete .*last.pt.sha256"):
        ck.load_checkpoint(path)
    ck.save_checkpoint(tmp_path / "best.pt", {"epoch": 7})
    with pytest.raises(InputError, match=r"last.pt: damaged: .*; .*best.pt is whole"):
        ck.load_checkpoint(path)
    records.record_path(path).unlink()
    _save(tmp_path, 1)
    _save(tmp_path, 2, keep_previous=True)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"is whole: rename .*last.pt.prev to last.pt"):
        ck.load_checkpoint(path)
    os.replace(ck.previous_path(path), path)  # what the message says
    assert ck.load_checkpoint(path)["epoch"] == 1


def test_a_damaged_stand_in_is_not_offered(tmp_path: Path) -> None:
    for epoch in range(3):
        path = _save(tmp_path, epoch, keep_previous=True)
    previous = ck.previous_path(path)
    data = bytearray(previous.read_bytes())
    data[-1] ^= 1  # the comment's length in the archive's last record: no checksum of the archive covers it
    previous.write_bytes(data)
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="damaged") as caught:
        ck.load_checkpoint(path)
    assert str(previous) not in str(caught.value)
    with pytest.raises(InputError, match=r"last.pt.prev: damaged: its sha256"):
        ck.load_checkpoint(previous)


@pytest.mark.parametrize("text", ["", "nonsense", "zz  last.pt\n", "\xff", "# size: 3\n"])
def test_an_unreadable_record_is_said_and_does_not_count(tmp_path: Path, text: str, caplog) -> None:
    path = _save(tmp_path, 5)
    records.record_path(path).write_bytes(text.encode("latin-1"))
    with caplog.at_level("WARNING", logger="yolov5"):
        assert ck.load_checkpoint(path)["epoch"] == 5
    assert "not checked" in caplog.text


CALLS = ("replace", "link", "fsync")


def _killed_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the process end before system call ``number`` of those that change names or wait for the disk."""
    count = [0]

    def counted(call):
        def wrapper(*args, **kwargs):
            count[0] += 1
            if count[0] > number:
                raise Killed
            return call(*args, **kwargs)

        return wrapper

    for name in CALLS:
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda *args, **kw: None if count[0] > number else unlink(*args, **kw))


@given(chain=st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_no_chain_of_kills_leaves_a_file_that_its_record_refuses(tmp_path_factory, chain) -> None:
    """After any number of saves killed at any call, last.pt and last.pt.prev load and are of one of the last saves."""
    folder = tmp_path_factory.mktemp("run")
    path = _save(folder, 0, keep_previous=True)
    done = 0
    for number, (killed_at, keep) in enumerate(chain, 1):
        with pytest.MonkeyPatch.context() as patch:
            _killed_at(patch, killed_at)
            try:
                _save(folder, number, keep_previous=keep)
                finished = True
            except Killed:
                finished = False
        epoch = ck.load_checkpoint(path)["epoch"]
        assert epoch == number if finished else epoch in {done, number}
        done = epoch
        if ck.previous_path(path).exists():
            assert ck.load_checkpoint(ck.previous_path(path))["epoch"] <= epoch
    _save(folder, 99, keep_previous=True)
    assert ck.load_checkpoint(path)["epoch"] == 99 and ck.load_checkpoint(ck.previous_path(path))["epoch"] == done
    assert _names(folder) == ["last.pt", "last.pt.prev", "last.pt.sha256"], "the next save takes over what was left"


def test_a_finished_runs_folder_is_upstreams(tmp_path: Path) -> None:
    content = {"epoch": 1, "model": tiny_model(), "optimizer": {"state": {}}, "resume": {"step": 3}}
    for name in ("last.pt", "best.pt", "epoch0.pt"):
        for _ in range(2):
            ck.save_checkpoint(tmp_path / name, content, keep_previous=name == "last.pt")
    (tmp_path / ".last.pt.tmp").write_bytes(b"left by a kill")
    (tmp_path / "notes.sha256").write_text("the user's own")
    for name in ("last.pt", "best.pt"):
        ck.strip_optimizer(tmp_path / name)
        assert not records.record_path(tmp_path / name).exists()
    ck.tidy_weights(tmp_path)
    assert _names(tmp_path) == ["best.pt", "epoch0.pt", "last.pt", "notes.sha256"]
    assert all(ck.load_checkpoint(tmp_path / name) for name in ("last.pt", "best.pt", "epoch0.pt"))


def test_stripping_that_is_killed_leaves_a_file_that_loads(tmp_path: Path) -> None:
    content = {"epoch": 1, "model": tiny_model(), "optimizer": {"state": {}}, "resume": {"step": 3}}
    path = tmp_path / "last.pt"
    for calls in range(4):
        ck.save_checkpoint(path, content)
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            _killed_at(patch, calls)
            ck.strip_optimizer(path)
        assert ck.load_checkpoint(path)["epoch"] in {1, -1}


def test_a_full_disk_at_the_record_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch) -> None:
    path = _save(tmp_path, 0)

    def full(place, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "write_whole", full)
    with pytest.raises(WorkError, match=r"cannot be written \(No space left on device\); the file saved before is un"):
        _save(tmp_path, 1)
    monkeypatch.undo()
    assert ck.load_checkpoint(path)["epoch"] == 0 and _names(tmp_path) == ["last.pt", "last.pt.sha256"]


# Free space ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_estimate_is_what_a_checkpoint_takes(tmp_path: Path, name: str) -> None:
    from models.yolo import DetectionModel
    from utils.ema import ModelEMA
    from utils.torch_utils import smart_optimizer
    from utils.training.resume import exact_tensors

    model = DetectionModel("yolov5n.yaml", nc=80)
    optimizer, ema = smart_optimizer(model, name, 0.01, 0.9), ModelEMA(model)
    model.train()
    sum(level.square().mean() for level in model(torch.rand(1, 3, 64, 64))).backward()
    optimizer.step()
    content = ck.build_checkpoint(
        model=model, ema=ema.ema, updates=1, optimizer_state=optimizer.state_dict(), epoch=0, best_fitness=0.0, opt={},
        resume={"model": exact_tensors(model), "ema": exact_tensors(ema.ema)},
    )  # fmt: skip
    ck.save_checkpoint(tmp_path / "last.pt", content)
    size = (tmp_path / "last.pt").stat().st_size
    assert size <= ck.estimated_size(model, optimizer) <= 1.1 * size


def test_too_little_space_is_refused_before_the_run(tmp_path: Path, monkeypatch) -> None:
    size = 1_000_000
    free = [4 * size]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, free[0]))
    folder = tmp_path / "runs" / "exp"
    ck.check_free_space(folder, size)
    with pytest.raises(InputError, match=r"exp: 4 MB free on its disk, the run's checkpoints need 6 MB \(1 MB each\)"):
        ck.check_free_space(folder, size, others=2)
    free[0] -= 1
    with pytest.raises(InputError, match="choose another --project"):
        ck.check_free_space(folder, size)
    (folder / "weights").mkdir(parents=True)
    for name in ("last.pt", "best.pt", "last.pt.prev"):  # a resumed run's
        (folder / "weights" / name).write_bytes(bytes(size))
    free[0] = size
    ck.check_free_space(folder, size)
    free[0] -= 1
    with pytest.raises(InputError, match="need 1 MB"):
        ck.check_free_space(folder, size)
