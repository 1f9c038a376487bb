"""Checkpoints: reading every layout, refusing what would run code, writing what other YOLOv5 clones load."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from torch import nn

import models.common
import models.yolo
from models.yolo import DetectionModel
from utils import checkpoint as ck
from utils.checkpoint_classes import MODULE_PATHS, STAND_INS, refused_paths
from utils.checkpoint_scan import LEGACY_MAGIC
from utils.errors import InputError, MissingFileError, WorkError
from utils.rng_state import capture_rng, restore_rng

TINY_YAML = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]],
    "backbone": [
        [-1, 1, "Conv", [8, 6, 4, 2]],
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "C3", [8]],
        [-1, 1, "SPPF", [8, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 0], 1, "Concat", [1]],
        [-1, 1, "Conv", [8, 3, 2]],
        [[4, 6], 1, "Detect", ["nc", "anchors"]],
    ],
}
IMAGE = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)


def tiny_model(seed: int = 0, cfg: dict | None = None) -> DetectionModel:
    torch.manual_seed(seed)
    model = DetectionModel(cfg or TINY_YAML)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    model.names = {0: "bolt", 1: "nut"}
    return copy.deepcopy(model)  # layers share one activation with the class Conv, which tests must not change


def decoded(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.float().eval()(IMAGE)[0]


def save(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that only code hidden in a checkpoint would make."""
    return tmp_path / "canary"


def test_released_checkpoint(shared: Path) -> None:
    path = shared / "weights" / "yolov5n.pt"
    content = ck.load_checkpoint(path)
    assert set(content) == {"epoch", "best_fitness", "model", "ema", "updates", "optimizer", "wandb_id", "date"}
    model = content["model"]
    assert type(model) is DetectionModel
    assert model.stride.tolist() == [8, 16, 32]
    assert model.names[0] == "person" and len(model.names) == 80
    assert next(model.parameters()).dtype == torch.float16
    assert model.model[-1].anchors[0, 0].tolist() == [1.25, 1.625]


def test_released_checkpoint_gives_reference_outputs(shared: Path, golden) -> None:
    cv2 = pytest.importorskip("cv2")
    facts, arrays = golden("yolov5n_pt")
    torch.manual_seed(0)
    model = ck.load_model(shared / "weights" / "yolov5n.pt")
    for name, expected in facts["images"].items():
        image = cv2.imread(str(next((shared / "datasets").rglob(expected["image"]))))
        height, width = expected["letterboxed_shape"][:2]
        rows, columns = image.shape[:2]
        assert expected["ratio"] == [1.0, 1.0]
        top, left = (height - rows) // 2, (width - columns) // 2
        grey = (114, 114, 114)
        edges = (top, height - rows - top, left, width - columns - left)
        image = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=grey)
        x = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))[None].float() / 255
        with torch.no_grad():
            boxes, raw = model(x)
        rows = torch.from_numpy(arrays[f"{name}/top50_rows"].astype(np.int64))
        np.testing.assert_allclose(boxes[0, rows].numpy(), arrays[f"{name}/top50_decoded"], atol=5e-3)
        for level, found in zip(expected["raw"], raw, strict=True):
            assert list(found.shape) == level["shape"]
            assert found.double().sum().item() == pytest.approx(level["sum"], rel=1e-6)


def test_every_pickled_class_of_the_contract_is_allowed(contract: Path) -> None:
    facts = json.loads((contract / "modules.json").read_text())
    named = {path for path in facts["classes"] if "._rebuild" not in path}
    named |= {path for checkpoint in facts["checkpoints"].values() for path in checkpoint["globals"]}
    assert refused_paths(named) == []


def test_every_allowed_layer_exists() -> None:
    from utils.checkpoint_classes import resolve

    missing = []
    for path in MODULE_PATHS:
        try:
            assert issubclass(resolve(path), nn.Module)
        except (ImportError, AttributeError):
            missing.append(path)
    assert missing == []


def strip_recent_attributes(model: nn.Module) -> None:
    """Leave what a pickle of torch 1.7 and YOLOv5 5.0 held."""
    for module in model.modules():
        for name in list(vars(module)):
            if "hook" in name and name not in {"_backward_hooks", "_forward_hooks", "_forward_pre_hooks"}:
                del vars(module)[name]
        vars(module).pop("_non_persistent_buffers_set", None)
        vars(module).pop("recompute_scale_factor", None)


def old_names_list(model: nn.Module) -> None:
    model.names = ["bolt", "nut"]


def old_anchor_buffer(model: nn.Module) -> None:
    head = model.model[-1]
    del vars(head)["anchor_grid"]
    pixels = head.anchors * head.stride.view(-1, 1, 1)
    head._buffers["anchor_grid"] = pixels.view(head.nl, 1, -1, 1, 1, 2)
    del vars(head)["inplace"], vars(model)["inplace"]


def old_anchors_in_pixels(model: nn.Module) -> None:
    old_anchor_buffer(model)
    head = model.model[-1]
    head._buffers["anchors"] = head._buffers["anchor_grid"].view(head.nl, -1, 2).clone()


def anchors_in_pixels_by_yaml(model: nn.Module) -> None:
    head = model.model[-1]
    head._buffers["anchors"] = head.anchors * head.stride.view(-1, 1, 1)


def without_strides(model: nn.Module) -> None:
    vars(model).pop("stride")
    vars(model.model[-1]).pop("stride", None)


def first_release(model: nn.Module) -> None:
    vars(model)["md"] = vars(model).pop("yaml")
    vars(model)["gr"] = 1.0
    old_names_list(model)


def without_names_and_save(model: nn.Module) -> None:
    del vars(model)["names"], vars(model)["save"]


def extra_plain_attributes(model: nn.Module) -> None:
    model.class_weights = torch.ones(2, dtype=torch.float64)
    model.hyp = {"box": 0.05, "anchors": 3}
    model.half()


OLD_LAYOUTS = [
    strip_recent_attributes, old_names_list, old_anchor_buffer, old_anchors_in_pixels, anchors_in_pixels_by_yaml,
    without_strides, first_release, without_names_and_save, extra_plain_attributes,
]  # fmt: skip


@pytest.fixture
def raw_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let modules be pickled with their attributes as they are, whatever __getstate__ they have."""
    monkeypatch.setattr(models.yolo.Detect, "__getstate__", lambda self: vars(self).copy(), raising=False)
    monkeypatch.setattr(nn.Module, "__getstate__", lambda self: vars(self).copy(), raising=False)


@pytest.mark.parametrize("make_old", OLD_LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.usefixtures("raw_pickling")
def test_older_layouts(tmp_path: Path, make_old, zipped: bool) -> None:
    model = tiny_model()
    expected = decoded(model)
    names = dict(model.names)
    make_old(model)
    content = {"epoch": -1, "model": model, "ema": None, "training_results": "text", "wandb_id": None}
    path = save(tmp_path / "old.pt", content, _use_new_zipfile_serialization=zipped)
    loaded = ck.load_model(path, fuse=False)
    assert torch.allclose(decoded(loaded), expected, atol=1e-4)
    assert loaded.names == (names if make_old is not without_names_and_save else {0: "class0", 1: "class1"})
    assert loaded.yaml["nc"] == 2 and loaded.stride.tolist() == [4, 8]
    assert isinstance(loaded.model[-1].anchor_grid, list) and "anchor_grid" not in loaded.state_dict()
    assert loaded.save == [0, 4, 6]


def test_old_class_path_and_precision(tmp_path: Path) -> None:
    """``models.yolo.Model`` is the name up to 6.1."""
    path = save(tmp_path / "a.pt", {"model": tiny_model().half()})
    data = rename_in_pickle(path.read_bytes(), b"cmodels.yolo\nDetectionModel\n", b"cmodels.yolo\nModel\n")
    path.write_bytes(data)
    assert "models.yolo.Model" in ck.pickled_globals(path)
    assert type(ck.load_checkpoint(path)["model"]) is DetectionModel


def rename_in_pickle(archive: bytes, old: bytes, new: bytes) -> bytes:
    """Return a torch zip archive whose data.pkl has ``old`` replaced."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(result, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, data.replace(old, new) if entry.filename.endswith("data.pkl") else data)
    return result.getvalue()


@pytest.mark.parametrize(
    ("now", "then", "cls"),
    [
        ("models.common\nCrossConv", "models.experimental\nCrossConv", models.common.CrossConv),
        ("models.common\nGhostConv", "models.experimental\nGhostConv", models.common.GhostConv),
        ("models.common\nBottleneckCSP", "models.experimental\nC3", models.common.BottleneckCSP),
    ],
)
def test_layers_that_moved(tmp_path: Path, now: str, then: str, cls: type[nn.Module]) -> None:
    path = save(tmp_path / "a.pt", {"model": cls(4, 4)})
    path.write_bytes(rename_in_pickle(path.read_bytes(), f"c{now}\n".encode(), f"c{then}\n".encode()))
    assert then.replace("\n", ".") in ck.pickled_globals(path)
    assert type(ck.load_checkpoint(path)["model"]) is cls


def test_sync_batch_norm_becomes_batch_norm(tmp_path: Path) -> None:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(tiny_model())
    expected = decoded(model)
    loaded = ck.load_model(save(tmp_path / "a.pt", {"model": model}), fuse=False)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in loaded.modules())
    assert torch.equal(decoded(loaded), expected)


def test_shared_activation_stays_shared(tmp_path: Path) -> None:
    model = tiny_model()
    acts = {id(module) for module in model.modules() if isinstance(module, nn.SiLU)}
    loaded = ck.load_checkpoint(save(tmp_path / "a.pt", {"model": model}))["model"]
    assert len({id(module) for module in loaded.modules() if isinstance(module, nn.SiLU)}) == len(acts)


@pytest.mark.parametrize("place", ["pathlib\nPosixPath", "pathlib._local\nPosixPath", "pathlib\nWindowsPath"])
def test_paths_of_any_platform(tmp_path: Path, place: str) -> None:
    path = save(tmp_path / "a.pt", {"opt": {"evolve_population": PurePosixPath("data/hyps")}, "model": tiny_model()})
    data = path.read_bytes()
    for written in (b"cpathlib\nPurePosixPath\n", b"cpathlib._local\nPurePosixPath\n"):
        data = rename_in_pickle(data, written, f"c{place}\n".encode())
    path.write_bytes(data)
    assert ck.load_checkpoint(path)["opt"]["evolve_population"] == PurePosixPath("data/hyps")


@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_numpy_values(tmp_path: Path, core: str) -> None:
    values = {"best_fitness": np.array([0.25]), "scalar": np.float64(1.5), "count": np.int64(7), "model": tiny_model()}
    path = save(tmp_path / "a.pt", values)
    path.write_bytes(rename_in_pickle(path.read_bytes(), b"cnumpy._core", f"c{core}".encode()))
    loaded = ck.load_checkpoint(path)
    assert loaded["best_fitness"].tolist() == [0.25]
    assert (loaded["scalar"], loaded["count"]) == (1.5, 7)


def test_numpy_objects_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"x": np.array([object], dtype=object)})
    with pytest.raises(InputError, match="refused"):
        ck.load_checkpoint(path)


@pytest.mark.parametrize("wrapped", [True, False])
def test_plain_state_dicts(tmp_path: Path, wrapped: bool) -> None:
    model = tiny_model()
    expected = decoded(model)
    state = model.state_dict()
    path = save(tmp_path / "a.pt", {"model": state, "names": ["bolt", "nut"]} if wrapped else state)
    with pytest.raises(InputError, match="--cfg"):
        ck.load_model(path)
    loaded = ck.load_model(path, cfg=TINY_YAML, fuse=False)
    assert torch.equal(decoded(loaded), expected)
    assert not wrapped or loaded.names == {0: "bolt", 1: "nut"}
    other = {**TINY_YAML, "backbone": [*TINY_YAML["backbone"][:3], [-1, 1, "SPPF", [16, 5]]]}
    with pytest.raises(InputError, match="do not fit"):
        ck.load_model(path, cfg=other)


def test_bare_module(tmp_path: Path) -> None:
    assert type(ck.load_checkpoint(save(tmp_path / "a.pt", tiny_model()))["model"]) is DetectionModel


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


def trained_checkpoint() -> tuple[nn.Module, nn.Module, dict]:
    """One real training step, then the content of a checkpoint."""
    from utils.torch_utils import ModelEMA, smart_optimizer

    model = DetectionModel("yolov5n.yaml", nc=2)
    model.hyp, model.names = {"box": 0.05, "obj": np.float64(1.0)}, {0: "bolt", 1: "nut"}
    model.class_weights = torch.ones(2)
    model.some_helper = object()  # something that a run hung on the model
    optimizer = smart_optimizer(model, "SGD", 0.01, 0.937, 5e-4)
    ema = ModelEMA(model)
    model.train()
    sum(level.square().mean() for level in model(torch.rand(2, 3, 64, 64))).backward()
    optimizer.step()
    ema.update(model)
    ema.ema.names, ema.ema.hyp, ema.ema.class_weights = model.names, model.hyp, model.class_weights
    resume = {
        "model": model.state_dict(),
        "rng": capture_rng(),
        "flags": {"done": torch.tensor([True]), "half": torch.ones(2, dtype=torch.bfloat16)},
        "fitness": np.float32(0.5),
        "path": Path("runs/exp"),
    }
    content = ck.build_checkpoint(
        model=model, ema=ema.ema, updates=1, optimizer_state=optimizer.state_dict(), epoch=1, best_fitness=0.25,
        opt={"save_dir": Path("runs/exp"), "hyp": {"lr0": 0.01}, "freeze": [0]}, resume=resume,
    )  # fmt: skip
    return model, ema.ema, content


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, nn.Module, dict]:
    return trained_checkpoint()


def public(module: nn.Module) -> set[str]:
    return {name for name in vars(module) if not name.startswith("_")}


def test_written_files_name_only_classes_of_the_contract(contract: Path, tmp_path: Path, trained) -> None:
    facts = json.loads((contract / "modules.json").read_text())
    allowed = {path for checkpoint in facts["checkpoints"].values() for path in checkpoint["globals"]}
    written = facts["checkpoints"]["written by HEAD after each epoch (last.pt, best.pt, epoch<N>.pt before stripping)"]
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, trained[2])
    assert ck.pickled_globals(path) <= allowed
    content = ck.load_checkpoint(path)
    assert set(content) == {*written["top_level"], "resume"}
    network = facts["classes"]["models.yolo.DetectionModel"]
    assert set(vars(content["model"])) - {"yaml_file"} == set(written["model_attributes"])
    assert public(content["model"]) <= set(network["attributes"])
    head = facts["classes"]["models.yolo.Detect"]["always_present"]
    assert public(content["model"].model[-1]) == set(head)
    ck.strip_optimizer(path)
    assert ck.pickled_globals(path) <= allowed


def test_written_attributes_are_plain(tmp_path: Path, trained) -> None:
    """What a loader without this project's classes sees."""
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, trained[2])
    content = torch.load(path, weights_only=False)
    assert type(content["opt"]["save_dir"]) is str
    assert content["best_fitness"].shape == (1,)
    assert type(content["model"].hyp) is dict and type(content["model"].hyp["obj"]) is float
    assert content["model"].names == {0: "bolt", 1: "nut"}
    assert content["git"] == {"remote": None, "branch": None, "commit": None}


def test_layout_of_a_training_checkpoint(trained) -> None:
    model, ema, content = trained
    stored, averaged = content["model"], content["ema"]
    assert stored.training and not averaged.training
    assert {t.dtype for t in stored.state_dict().values()} == {torch.float16, torch.int64}
    assert any(p.requires_grad for p in stored.parameters())
    assert not any(p.requires_grad for p in averaged.parameters())
    assert content["updates"] == 1 and content["epoch"] == 1
    optimizer = content["optimizer"]
    assert optimizer["state"][0]["momentum_buffer"].dtype == torch.float32
    assert [group["weight_decay"] for group in optimizer["param_groups"]] == [0, 5e-4, 0]
    assert content["resume"]["flags"]["done"].dtype == torch.int64
    assert next(model.parameters()).dtype == torch.float32 and hasattr(model, "some_helper")
    assert torch.equal(stored.model[0].conv.weight, model.model[0].conv.weight.half())
    assert stored.model[0].conv.weight.data_ptr() != model.model[0].conv.weight.data_ptr()
    assert next(ema.parameters()).dtype == torch.float32


def test_strip(tmp_path: Path, trained) -> None:
    ema = trained[1]
    path, target = tmp_path / "best.pt", tmp_path / "stripped.pt"
    ck.save_checkpoint(path, trained[2])
    before = path.read_bytes()
    ck.strip_optimizer(path, target)
    assert path.read_bytes() == before
    content = ck.load_checkpoint(target)
    assert content["epoch"] == -1
    assert [content[key] for key in ("ema", "optimizer", "best_fitness", "updates")] == [None] * 4
    assert "resume" not in content and content["opt"]["freeze"] == [0]
    assert torch.equal(content["model"].model[0].conv.weight, ema.model[0].conv.weight.half())
    assert target.stat().st_size < path.stat().st_size / 4
    with pytest.raises(InputError, match="finished"):
        ck.load_resume(target)
    ck.strip_optimizer(target)
    assert ck.load_checkpoint(target)["date"] == content["date"]


def test_resume_block_is_exact(tmp_path: Path, trained, caplog) -> None:
    model, _, content = trained
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, content)
    block = ck.load_resume(path)
    assert all(torch.equal(tensor, block["model"][key]) for key, tensor in model.state_dict().items())
    assert block["path"] == "runs/exp" and block["fitness"] == 0.5
    ck.save_checkpoint(path, {key: value for key, value in content.items() if key != "resume"})
    with caplog.at_level("WARNING", logger="yolov5"):
        assert ck.load_resume(path) is None
    with pytest.raises(InputError, match="no optimizer"):
        ck.load_resume(path, {"epoch": 3, "model": model})


def test_segment_head_round_trip(tmp_path: Path) -> None:
    """Clones call the attribute ``detect`` of a Segment head, so files carry it."""
    model = models.yolo.SegmentationModel("yolov5n-seg.yaml", nc=2)
    content = ck.build_checkpoint(
        model=model, ema=model, updates=0, optimizer_state=None, epoch=0, best_fitness=None, opt={}
    )
    path = tmp_path / "seg.pt"
    ck.save_checkpoint(path, content)
    ck.strip_optimizer(path)
    loaded = ck.load_model(path)
    assert loaded.model[-1].detect is models.yolo.Detect.forward
    with torch.no_grad():
        assert loaded(IMAGE)[0].shape[-1] == 2 + 5 + 32


@pytest.mark.parametrize("where", ["model", "ema", "resume", "optimizer"])
def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path, where: str) -> None:
    model, ema = tiny_model(), tiny_model()
    resume, optimizer = {"x": torch.ones(2)}, {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []}
    target = {
        "model": model.model[0].conv.weight, "ema": ema.model[0].bn.running_var, "resume": resume["x"],
        "optimizer": optimizer["state"][0]["momentum_buffer"],
    }[where]  # fmt: skip
    with torch.no_grad():
        target.view(-1)[0] = float("nan")
    path = tmp_path / "last.pt"
    path.write_bytes(b"the good one")
    with pytest.raises(WorkError, match="not finite"):
        ck.save_checkpoint(
            path,
            ck.build_checkpoint(
                model=model,
                ema=ema,
                updates=0,
                optimizer_state=optimizer,
                epoch=0,
                best_fitness=None,
                opt={},
                resume=resume,
            ),  # fmt: skip
        )
    assert path.read_bytes() == b"the good one"
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_numbers_beyond_float16_become_its_largest() -> None:
    model = tiny_model()
    model.model[0].bn.running_var.fill_(1e6)
    content = ck.build_checkpoint(
        model=model, ema=None, updates=None, optimizer_state=None, epoch=0, best_fitness=None, opt={}
    )
    assert content["model"].model[0].bn.running_var[0].item() == 65504
    assert model.model[0].bn.running_var[0].item() == 1e6


def test_state_without_a_plain_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="opt.x"):
        ck.build_checkpoint(
            model=tiny_model(), ema=None, updates=0, optimizer_state=None, epoch=0, best_fitness=0, opt={"x": object()}
        )


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk; a child process takes it so that this one stays free."""
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, {"epoch": 0, "x": torch.zeros(10)})
    before = path.read_bytes()
    code = (
        "import resource, signal, sys, torch; sys.path.insert(0, sys.argv[2])\n"
        "from utils.checkpoint import save_checkpoint\nfrom utils.errors import WorkError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "try:\n    save_checkpoint(sys.argv[1], {'epoch': 1, 'x': torch.zeros(1000000)})\n"
        "except WorkError as error:\n    print(error)\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code, path, root], capture_output=True, text=True, check=False)
    assert "cannot be written" in done.stdout and "unchanged" in done.stdout, done.stderr
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="cannot be written"):
        ck.save_checkpoint(tmp_path / "none" / "last.pt", {"epoch": 0})


def test_views_are_stored_without_their_base(tmp_path: Path) -> None:
    base = torch.zeros(1_000_000)
    content = ck.build_checkpoint(
        model=nn.Conv2d(1, 1, 1), ema=None, updates=0, optimizer_state=None, epoch=0, best_fitness=0, opt={},
        resume={"x": base[:3]},
    )  # fmt: skip
    ck.save_checkpoint(tmp_path / "a.pt", content)
    assert (tmp_path / "a.pt").stat().st_size < 100_000


def test_rng_round_trip(tmp_path: Path) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    random.gauss(0, 1), np.random.standard_normal()  # noqa: NPY002
    content = {"epoch": 0, "resume": capture_rng()}
    ck.save_checkpoint(tmp_path / "a.pt", content)
    first = random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()  # noqa: NPY002
    restore_rng(ck.load_checkpoint(tmp_path / "a.pt")["resume"])
    assert (random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()) == first  # noqa: NPY002
    with pytest.raises(InputError, match="damaged"):
        restore_rng({"python": {}})


def test_stand_ins_are_inert() -> None:
    """No allowed path resolves to a class of this project while a pickle is read."""
    modules = {getattr(value, "__module__", "") for value in STAND_INS.values()}
    assert modules == {"utils.checkpoint_classes"}
