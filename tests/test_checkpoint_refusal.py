"""Files that are damaged or no checkpoints, and what is said of those that would run code (test_malicious_files.py)."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import IMAGE, rename_in_pickle, save, tiny_model
from pickle_bytes import Call
from torch import nn

import models.common
import models.yolo
from utils import checkpoint as ck
from utils.checkpoints.scan import LEGACY_MAGIC
from utils.errors import InputError, MissingFileError


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that only code hidden in a checkpoint would make."""
    return tmp_path / "canary"


@pytest.fixture
def raw_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let modules be pickled with their attributes as they are, whatever __getstate__ they have."""
    monkeypatch.setattr(models.yolo.Detect, "__getstate__", lambda self: vars(self).copy(), raising=False)
    monkeypatch.setattr(nn.Module, "__getstate__", lambda self: vars(self).copy(), raising=False)


def test_code_is_refused_by_every_reader(tmp_path: Path, canary: Path) -> None:
    path = save(tmp_path / "bad.pt", {"model": tiny_model(), "x": Call(os.system, f"touch {canary}")})
    for read in (ck.load_checkpoint, ck.load_model, ck.load_resume, ck.strip_optimizer):
        before = path.read_bytes()
        with pytest.raises(InputError, match="refused") as error:
            read(path)
        assert str(path) in str(error.value) and str(error.value).isprintable()
        assert path.read_bytes() == before
    assert not canary.exists()


def test_the_refused_name_is_shown(tmp_path: Path, canary: Path) -> None:
    path = save(tmp_path / "bad.pt", {"x": Call(os.system, f"touch {canary}")})
    with pytest.raises(InputError, match=r"(posix|nt)\.system"):
        ck.load_checkpoint(path)


@pytest.mark.usefixtures("raw_pickling")
def test_hooks_are_dropped(tmp_path: Path) -> None:
    model = tiny_model()
    vars(model)["_forward_hooks"] = OrderedDict({0: "not even callable"})
    model.model[0].conv.weight._backward_hooks = OrderedDict({0: "x"})
    loaded = ck.load_checkpoint(save(tmp_path / "a.pt", {"model": model}))["model"]
    assert not loaded._forward_hooks and not loaded.model[0].conv.weight._backward_hooks
    loaded.eval()(IMAGE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x00\x01\x02 something else", "not a checkpoint"),
        (LEGACY_MAGIC[:5], "truncated"),
        (LEGACY_MAGIC + b"\x80", "truncated"),
        (b"PK\x03\x04", "truncated"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        ck.load_checkpoint(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="does not exist"):
        ck.load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(InputError, match="is a folder"):
        ck.load_checkpoint(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_truncated_at_twenty_lengths(tmp_path: Path, zipped: bool) -> None:
    path = save(tmp_path / "x.pt", {"model": tiny_model()}, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for part in range(1, 20):
        path.write_bytes(data[: len(data) * part // 20])
        with pytest.raises(InputError, match=r"truncated|damaged"):
            ck.load_checkpoint(path)


def test_flipped_bytes_are_noticed(tmp_path: Path) -> None:
    """A changed byte is reported, or lies in padding: then every tensor is as it was."""
    rng = np.random.default_rng(1)
    path = save(tmp_path / "x.pt", {"model": tiny_model()})
    data, good = path.read_bytes(), ck.load_checkpoint(path)["model"].state_dict()
    noticed = 0
    for _ in range(60):
        changed = bytearray(data)
        changed[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            state = ck.load_checkpoint(path)["model"].state_dict()
        except InputError:
            noticed += 1
            continue
        assert all(torch.equal(good[key], state[key]) for key in good)
    assert noticed > 20


def test_the_previous_good_file_is_offered(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for epoch in (0, 1):
        ck.save_checkpoint(path, {"epoch": epoch, "model": tiny_model()}, keep_previous=True)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.pt\.prev"):
        ck.load_checkpoint(path)
    assert ck.load_checkpoint(ck.previous_path(path))["epoch"] == 0


def test_claimed_sizes_beyond_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pt", {"x": torch.zeros(1000)})
    huge = rename_in_pickle(path.read_bytes(), b"M\xe8\x03", b"J\xff\xff\xff\x7f")
    path.write_bytes(huge)
    with pytest.raises(InputError, match="claims"):
        ck.load_checkpoint(path)


def test_a_layer_that_contradicts_its_settings(tmp_path: Path) -> None:
    model = tiny_model()
    model.model[0].conv.kernel_size = ("6", 6)
    torch.save({"model": model}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"odd.pt: damaged: its network cannot be prepared: empty\(\)"):
        ck.load_model(tmp_path / "odd.pt")
