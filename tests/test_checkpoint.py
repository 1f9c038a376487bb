"""Reading checkpoints of every layout."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from checkpoint_files import TINY_YAML, decoded, rename_in_pickle, save, tiny_model
from torch import nn

import models.common
import models.yolo
from models.yolo import DetectionModel
from utils import checkpoint as ck
from utils.checkpoints.classes import MODULE_PATHS, foreign_layers, refused_paths
from utils.errors import InputError
from utils.training.build import check_layers


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
    from utils.checkpoints.classes import resolve

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


@pytest.fixture
def raw_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let modules be pickled with their attributes as they are, whatever __getstate__ they have."""
    monkeypatch.setattr(models.yolo.Detect, "__getstate__", lambda self: vars(self).copy(), raising=False)
    monkeypatch.setattr(nn.Module, "__getstate__", lambda self: vars(self).copy(), raising=False)


OLD_LAYOUTS = [
    strip_recent_attributes, old_names_list, old_anchor_buffer, old_anchors_in_pixels, anchors_in_pixels_by_yaml,
    without_strides, first_release, without_names_and_save, extra_plain_attributes,
]  # fmt: skip


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


TORCH_LAYERS = [
    (nn.Softmax(1), (1, 4, 6, 6)), (nn.Softmax2d(), (1, 4, 6, 6)), (nn.LogSoftmax(1), (1, 4, 6, 6)),
    (nn.GLU(1), (1, 4, 6, 6)), (nn.InstanceNorm1d(4, affine=True), (1, 4, 6)),
    (nn.InstanceNorm2d(4, affine=True), (1, 4, 6, 6)), (nn.LocalResponseNorm(2), (1, 4, 6, 6)),
    (nn.RMSNorm(6), (1, 4, 6, 6)), (nn.PixelShuffle(2), (1, 4, 6, 6)), (nn.PixelUnshuffle(2), (1, 4, 6, 6)),
    (nn.ChannelShuffle(2), (1, 4, 6, 6)), (nn.Fold((6, 6), 2, stride=2), (1, 4, 9)), (nn.Unfold(2), (1, 4, 6, 6)),
    (nn.Unflatten(1, (2, 2)), (1, 4, 6, 6)), (nn.Dropout1d(0.2), (1, 4, 6)), (nn.AlphaDropout(0.2), (1, 4, 6, 6)),
    (nn.FeatureAlphaDropout(0.2), (1, 4, 6, 6)), (nn.ReflectionPad2d(1), (1, 4, 6, 6)),
    (nn.ReplicationPad2d(1), (1, 4, 6, 6)), (nn.CircularPad2d(1), (1, 4, 6, 6)),
    (nn.ConstantPad2d(1, 0.5), (1, 4, 6, 6)), (nn.LPPool2d(2.0, 2), (1, 4, 6, 6)),
    (nn.AdaptiveMaxPool2d(3), (1, 4, 6, 6)), (nn.MaxPool1d(2), (1, 4, 6)), (nn.AvgPool1d(2), (1, 4, 6)),
    (nn.AdaptiveAvgPool1d(3), (1, 4, 6)), (nn.Conv1d(4, 2, 3), (1, 4, 6)), (nn.ConvTranspose1d(4, 2, 3), (1, 4, 6)),
    (nn.UpsamplingNearest2d(scale_factor=2), (1, 4, 6, 6)), (nn.UpsamplingBilinear2d(scale_factor=2), (1, 4, 6, 6)),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "shape"), TORCH_LAYERS, ids=lambda value: type(value).__name__)
def test_layers_of_torch_that_a_model_yaml_may_name_come_back(
    layer: nn.Module, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = tiny_model()
    model.model[0].add_module("extra", layer.train())
    save(tmp_path / "own.pt", {"model": model})
    back = ck.load_checkpoint(tmp_path / "own.pt")["model"].model[0].extra
    assert type(back) is type(layer) and back.training and foreign_layers(model) == []
    x = torch.rand(shape)
    assert torch.equal(back.eval()(x), layer.eval()(x))


def test_layers_that_no_checkpoint_may_hold_are_refused_before_training() -> None:
    model = tiny_model()
    check_layers(model, "tiny.yaml")
    model.model[0].add_module("extra", nn.Dropout3d())
    with pytest.raises(InputError, match=r"tiny\.yaml: found the layer torch\.nn\.modules\.dropout\.Dropout3d; "):
        check_layers(model, "tiny.yaml")
