"""Checkpoints that would run code, and files that are damaged or no checkpoints."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import IMAGE, rename_in_pickle, save, tiny_model
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


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: object, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def make_file(name: str) -> None:
    Path(name).write_text("code ran")


def attacks(canary: Path) -> dict[str, object]:
    import builtins

    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, touch),
        "subprocess": Call(subprocess.check_call, ["touch", str(canary)]),
        "eval": Call(builtins.eval, code),
        "exec": Call(builtins.exec, code),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "import": Call(__import__, "os"),
        "open": Call(open, str(canary), "w"),
        "torch.load": Call(torch.load, str(canary)),
        "torch.hub": Call(torch.hub.load, str(canary), "x"),
        "torch.jit": Call(torch.jit.load, str(canary)),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        "own function": Call(make_file, str(canary)),
        "numpy.load": Call(np.load, str(canary)),
    }


@pytest.mark.parametrize("name", sorted(attacks(Path("x"))))
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_code_in_a_pickle_is_refused(tmp_path: Path, canary: Path, name: str, zipped: bool) -> None:
    content = {"model": tiny_model(), "x": attacks(canary)[name]}
    path = save(tmp_path / "bad.pt", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="refused") as error:
        ck.load_checkpoint(path)
    assert not canary.exists()
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError):
        ck.load_model(path)
    assert not canary.exists()


def test_the_refused_name_is_shown(tmp_path: Path, canary: Path) -> None:
    path = save(tmp_path / "bad.pt", {"x": Call(os.system, f"touch {canary}")})
    with pytest.raises(InputError, match=r"(posix|nt)\.system"):
        ck.load_checkpoint(path)


def zip_with_pickle(path: Path, pickled: bytes) -> Path:
    """Write a torch archive around a hand-made pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
    return path


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def layer_with_state(state: bytes) -> bytes:
    return b"\x80\x02" + b"cmodels.common\nConv\n)\x81" + state + b"b."


MODULE_STATE = b"}(" + b"".join(text(name) + b"}" for name in ("_parameters", "_buffers", "_modules"))
HAND_MADE = {
    "planted forward": layer_with_state(MODULE_STATE + text("forward") + b"cmodels.common\nConv\nu"),
    "planted call": layer_with_state(MODULE_STATE + text("__call__") + text("x") + b"u"),
    "planted text method": layer_with_state(MODULE_STATE + text("train") + text("x") + b"u"),
    "layer as attribute": layer_with_state(MODULE_STATE + text("extra") + b"cmodels.common\nConv\n)\x81u"),
    "class as attribute": layer_with_state(MODULE_STATE + text("act") + b"cmodels.common\nConv\nu"),
    "state that is no dict": layer_with_state(text("x")),
    "constructor call": b"\x80\x02cmodels.yolo\nDetectionModel\n" + text("/etc/passwd") + b"\x85R.",
    "no state": b"\x80\x02cmodels.common\nConv\n)\x81.",
    "getattr": b"\x80\x02c__builtin__\ngetattr\ncmodels.yolo\nDetect\n" + text("__init__") + b"\x86R.",
    "getattr of another": b"\x80\x02c__builtin__\ngetattr\ncmodels.common\nConv\n" + text("forward") + b"\x86R.",
    "persistent id of a file": b"\x80\x02(" + text("file") + text("/etc/passwd") + b"tQ.",
    "persistent id as text": b"\x80\x02P/etc/passwd\n.",
    "persistent id of a class": b"\x80\x02(" + text("module") + text("a") + text("b") + text("c") + b"tQ.",
    "extension registry": b"\x80\x02\x82\x01.",
    "computed name": b"\x80\x04" + b"]]\x93.",
    "name from strings": b"\x80\x04" + text("os") + text("system") + b"\x93.",
    "name of several lines": b"\x80\x04" + text("os\nrm") + text("x\x1b[31m") + b"\x93.",
    "instance opcode": b"\x80\x02(ios\nsystem\n.",
    "recursive list": b"\x80\x02]q\x00h\x00a.",
    "deep nesting": b"\x80\x02" + b"]" * 50000 + b"a" * 49999 + b".",
    "buffers that are text": layer_with_state(b"}(" + text("_buffers") + text("x") + b"u"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HAND_MADE))
@pytest.mark.filterwarnings("ignore")
def test_hand_made_pickles_are_refused(tmp_path: Path, name: str) -> None:
    path = zip_with_pickle(tmp_path / "bad.pt", HAND_MADE[name])
    with pytest.raises(InputError) as error:
        ck.load_checkpoint(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.usefixtures("raw_pickling")
def test_hooks_are_dropped(tmp_path: Path) -> None:
    model = tiny_model()
    vars(model)["_forward_hooks"] = OrderedDict({0: "not even callable"})
    model.model[0].conv.weight._backward_hooks = OrderedDict({0: "x"})
    loaded = ck.load_checkpoint(save(tmp_path / "a.pt", {"model": model}))["model"]
    assert not loaded._forward_hooks and not loaded.model[0].conv.weight._backward_hooks
    loaded.eval()(IMAGE)


def test_mutated_pickles_never_run_code(tmp_path: Path, canary: Path) -> None:
    """Random bytes of a harmless and of a harmful pickle changed: nothing outside the list is ever imported or run."""
    rng = np.random.default_rng(0)
    harmful = pickle.dumps({"a": Call(os.system, f"touch {canary}"), "b": [1, "x", (2, 3)]}, protocol=2)
    source = save(tmp_path / "good.pt", {"model": nn.Sequential(nn.Conv2d(1, 1, 1)), "epoch": 1})
    with zipfile.ZipFile(source) as archive:
        harmless = archive.read("good/data.pkl")
    path = tmp_path / "mutated.pt"
    for turn in range(400):
        data = bytearray((harmful, harmless)[turn % 2])
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        try:
            ck.load_checkpoint(zip_with_pickle(path, bytes(data)))
        except InputError as error:
            assert str(path) in str(error)
    assert not canary.exists()


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


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(10_000_000))
    with pytest.raises(InputError, match="more bytes"):
        ck.load_checkpoint(path)
