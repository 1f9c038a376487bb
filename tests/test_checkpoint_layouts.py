"""A checkpoint built for every layout that the contract lists, and for heads and releases beyond it, loads safely."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path, PosixPath, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import IMAGE, TINY_YAML, decoded, rename_in_pickle, save, tiny_model
from torch import nn

from models.yolo import ClassificationModel, Detect, DetectionModel, SegmentationModel
from utils import checkpoint as ck
from utils.checkpoints.classes import MODULE_PATHS, STAND_INS, TORCH_PATHS

CROSS_LAYERS = {
    "backbone": [
        [-1, 1, "Conv", [8, 6, 4, 2]],
        [-1, 1, "DWConv", [8, 3, 2]],
        [-1, 1, "C3x", [8]],
        [-1, 1, "SPPF", [8, 5]],
    ],
    "head": [
        [-1, 1, "DWConvTranspose2d", [8, 4, 2, 1]],
        [[-1, 0], 1, "Concat", [1]],
        [-1, 1, "Conv", [8, 3, 2]],
        [[4, 6], 1, "Detect", ["nc", "anchors"]],
    ],
}


def _layouts() -> list[str]:
    contract = Path(__file__).resolve().parents[2] / "shared/contract/modules.json"
    return list(json.loads(contract.read_text())["checkpoints"]) if contract.exists() else ["none"]


def _network(facts: dict[str, Any]) -> DetectionModel:
    """A small network with the layers and attributes of one layout."""
    crossed = "models.common.C3x" in facts["globals"]
    model = tiny_model(cfg={**TINY_YAML, **(CROSS_LAYERS if crossed else {})})
    double = "torch.DoubleStorage" in facts["globals"]
    model.hyp = dict.fromkeys(facts["model_hyp_keys"], 0.5)
    model.nc, model.class_weights = 2, torch.ones(2, dtype=torch.float64 if double else torch.float32)
    model.yaml_file = "tiny.yaml"  # dropped again where the layout lacks it
    model.names = ["bolt", "nut"] if facts["model_attributes"]["names"] == "list" else {0: "bolt", 1: "nut"}
    return model.half()


def _with_attributes(model: DetectionModel, kept: dict[str, str]) -> DetectionModel:
    """Return a copy with these attributes of the whole network alone."""
    model = copy.deepcopy(model)
    for name in set(vars(model)) - set(kept):
        del vars(model)[name]
    assert {name for name in kept if not name.startswith("_")} == {n for n in vars(model) if not n.startswith("_")}
    return model


def _content(facts: dict[str, Any], model: DetectionModel) -> dict[str, Any]:
    values = {"epoch": -1, "updates": 16, "date": "2026-01-01T00:00:00", **facts.get("top_level_values", {})}
    made = {
        "int": lambda key: values[key],
        "str": lambda key: values[key],
        "NoneType": lambda key: None,
        "models.yolo.Model": lambda key: model,
        "models.yolo.DetectionModel": lambda key: model,
        "numpy._core.multiarray._reconstruct": lambda key: np.array([0.25]),
        "dict": lambda key: _settings(key, facts),
    }
    return {key: made[kind](key) for key, kind in facts["top_level"].items()}


def _settings(key: str, facts: dict[str, Any]) -> dict[str, Any]:
    if key == "opt":
        hyp = {"lr0": 0.01}
        path = {"evolve_population": PosixPath("data/hyps")} if "pathlib.PosixPath" in facts["globals"] else {}
        return {**dict.fromkeys(facts["opt_keys"], 1), "hyp": hyp, **path}
    if key == "optimizer":
        return {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": np.float64(0.01)}]}
    return {"remote": None, "branch": None, "commit": None}


def _write(path: Path, facts: dict[str, Any], content: dict[str, Any]) -> Path:
    """Save as the layout's release did: its class path of the model, its parts of the archive."""
    save(path, content)
    if "models.yolo.Model" in facts["globals"]:
        renamed = rename_in_pickle(path.read_bytes(), b"cmodels.yolo\nDetectionModel\n", b"cmodels.yolo\nModel\n")
        path.write_bytes(renamed)
    parts = facts["zip_entries"]
    with zipfile.ZipFile(path) as opened:
        members = [(name, opened.read(name)) for name in opened.namelist() if name.split("/")[1] in parts]
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in members:
            opened.writestr(name.replace(path.stem, "archive", 1), data)
    return path


@pytest.mark.parametrize("layout", _layouts())
def test_layouts_of_the_contract(tmp_path: Path, contract: Path, layout: str) -> None:
    facts = json.loads((contract / "modules.json").read_text())["checkpoints"][layout]
    model = _network(facts)
    old = _with_attributes(model, facts["model_attributes"])
    path = _write(tmp_path / "x.pt", facts, _content(facts, old))
    named = ck.pickled_globals(path)
    assert named <= set(facts["globals"]), named - set(facts["globals"])
    assert set(facts["globals"]) - named <= {"torch.DoubleStorage", "torch.HalfStorage", "__builtin__.set"}
    loaded = ck.load_checkpoint(path)
    assert set(loaded) == set(facts["top_level"]) and type(loaded["model"]) is DetectionModel
    expected, found = model.state_dict(), loaded["model"].state_dict()
    assert list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    assert loaded["model"].hyp == model.hyp and loaded["model"].names == {0: "bolt", 1: "nut"}
    if "pathlib.PosixPath" in facts["globals"]:
        assert loaded["opt"]["evolve_population"] == PurePosixPath("data/hyps")
    if loaded["best_fitness"] is not None:
        assert loaded["best_fitness"].tolist() == [0.25]
    assert torch.equal(decoded(ck.load_model(path, fuse=False)), decoded(model))


def _segmentation() -> SegmentationModel:
    torch.manual_seed(0)
    head = [*TINY_YAML["head"][:-1], [[4, 6], 1, "Segment", ["nc", "anchors", 4, 8]]]
    return SegmentationModel({**TINY_YAML, "head": head})


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_segmentation(tmp_path: Path, zipped: bool) -> None:
    """Segment keeps ``detect = Detect.forward``, which pickles name through getattr: that one pair is allowed."""
    model = _segmentation()
    path = save(tmp_path / "x.pt", {"model": model}, _use_new_zipfile_serialization=zipped)
    assert "__builtin__.getattr" in ck.pickled_globals(path)
    loaded = ck.load_model(path, fuse=False)
    assert type(loaded) is SegmentationModel and loaded.model[-1].detect is Detect.forward
    with torch.no_grad():
        for mine, theirs in zip(loaded(IMAGE)[:2], model.eval()(IMAGE)[:2], strict=True):
            assert torch.equal(mine, theirs)
    again = ck.load_model(save(tmp_path / "again.pt", {"model": loaded}), fuse=False)
    assert again.model[-1].detect is Detect.forward


def test_classification(tmp_path: Path) -> None:
    model = ClassificationModel(model=tiny_model(), nc=3, cutoff=4)
    model.names = ["a", "b", "c"]
    expected = model.eval()(IMAGE)
    loaded = ck.load_model(save(tmp_path / "x.pt", {"model": model}), fuse=False)
    assert type(loaded) is ClassificationModel and loaded.names == {0: "a", 1: "b", 2: "c"}
    assert torch.equal(loaded(IMAGE), expected)


@pytest.fixture
def with_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickle heads with the grids of their last image, as earlier releases do."""
    monkeypatch.setattr(Detect, "__getstate__", lambda self: vars(self).copy())


@pytest.mark.usefixtures("with_grids")
def test_grids_of_the_last_image_in_the_file(tmp_path: Path) -> None:
    """A validated network's head holds anchor grids that show six numbers thousands of times; that much is allowed."""
    model = tiny_model()
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 640, 640))
    assert model.model[-1].anchor_grid[0].stride()[2:4] == (0, 0)
    loaded = ck.load_model(save(tmp_path / "x.pt", {"model": model}), fuse=False)
    assert torch.equal(decoded(loaded), decoded(model))


def test_values_that_pickles_of_python_2_hold(tmp_path: Path) -> None:
    """Sets, ordered dicts of pairs, ranges, and bytes as text of latin1."""
    from pickle_bytes import archive, call, dictionary, number, text, whole

    pairs = b"](](" + text("a") + number(1) + b"ee"
    body = dictionary(
        a=call("__builtin__.set", b"](" + number(1) + number(2) + b"e"),
        b=call("collections.OrderedDict", pairs),
        c=call("__builtin__.xrange", number(2), number(8), number(2)),
        d=call("_codecs.encode", text("caf\xe9"), text("latin1")),
        e=call("torch.Size", b"(" + number(1) + number(3) + b"t"),
        f=call("torch.device", text("cuda"), number(0)),
    )
    loaded = ck.load_checkpoint(archive(tmp_path / "x.pt", whole(body)))
    assert loaded == {"a": {1, 2}, "b": {"a": 1}, "c": range(2, 8, 2), "d": b"caf\xe9", "e": torch.Size([1, 3]),
                      "f": torch.device("cuda:0")}  # fmt: skip


def test_the_list_names_nothing_that_runs() -> None:
    """Every allowed path is a layer of a fixed list, a plain value, or one of the functions listed here."""
    functions = {path for path, stand_in in STAND_INS.items() if not isinstance(stand_in, type)}
    places = ("pathlib", "numpy", "builtins.range", "builtins.getattr", "checkpoint.pass_class")
    assert all(path.startswith(places) for path in functions)
    assert {path for path in TORCH_PATHS if "Storage" not in path and not hasattr(torch, path.split(".")[-1])} == {
        "collections.OrderedDict", "builtins.set", "__builtin__.set", "_codecs.encode",
        "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter",
    }  # fmt: skip
    for path in MODULE_PATHS.values():
        place, name = path.rsplit(".", 1)
        torchvision = ("torchvision.models.", "torchvision.ops.")
        assert place.startswith(("models.", "torch.nn.modules.", "utils.activations", *torchvision)), path
        assert issubclass(getattr(__import__(place, fromlist=[name]), name), nn.Module), path
