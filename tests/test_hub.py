"""Models by name through torch.hub, from a clone without network; and the second way, smart_hub_load."""

import argparse
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hubconf
from models import by_name
from models.autoshape import AutoShape
from models.backends import DetectMultiBackend
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from utils.checkpoint import save_checkpoint
from utils.errors import InputError, run_command
from utils.torch_utils import smart_hub_load

ROOT = Path(__file__).resolve().parents[1]
NAMES = [f"yolov5{size}{kind}" for size in "nsmlx" for kind in ("", "6")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Small networks of each task as checkpoints."""
    folder = tmp_path_factory.mktemp("weights")
    networks = {
        "detect": DetectionModel("yolov5n.yaml", nc=80),
        "mask": SegmentationModel("yolov5n-seg.yaml", nc=3),
        "class": ClassificationModel(model=DetectionModel("yolov5n.yaml", nc=2), nc=4),
    }
    for name, network in networks.items():
        network.names = {i: f"c{i}" for i in range(network.model[-1].nc if name != "class" else 4)}
        save_checkpoint(folder / f"{name}.pt", {"model": network.half(), "epoch": -1})
    return folder


def _load(*arguments, **options):
    return torch.hub.load(str(ROOT), *arguments, source="local", **options)


def test_entry_points_are_listed_with_their_parameters():
    public = {name for name in dir(hubconf) if not name.startswith("_") and callable(getattr(hubconf, name))}
    assert set(NAMES) | {"custom"} <= public
    parameters = ["pretrained", "channels", "classes", "autoshape", "_verbose", "device"]
    for name in NAMES:
        found = getattr(hubconf, name)
        assert list(inspect.signature(found).parameters) == parameters and found.__name__ == name
        assert name in found.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_an_architecture(name, monkeypatch):
    asked = []
    monkeypatch.setattr(by_name, "create", lambda *arguments: asked.append(arguments))
    getattr(hubconf, name)(False, 1, 7, False, False, "cpu")
    assert asked == [(name, False, 1, 7, False, False, "cpu")]
    assert len(list((ROOT / "models").rglob(f"{name}.yaml"))) == 1


def test_custom(weights, tmp_path, monkeypatch):
    """A local file by keyword as users write it; the wrapper is ready, its head exports decoded boxes alone."""
    model = _load("custom", path=str(weights / "detect.pt"), device="cpu")
    assert isinstance(model, torch.nn.Module) and type(model).__name__ == "AutoShape"
    assert model(np.zeros((32, 48, 3), np.uint8), size=64).s == (1, 3, 64, 64)
    bare = _load("custom", weights / "detect.pt", autoshape=False, device="cpu")
    assert type(bare).__name__ == "DetectMultiBackend"
    assert any(type(m).__name__ == "BatchNorm2d" for m in bare.modules())  # not fused: ready for more training


def test_names_take_the_weights_in_the_working_folder(weights, tmp_path, monkeypatch):
    shutil.copy(weights / "detect.pt", tmp_path / "yolov5n.pt")
    monkeypatch.chdir(tmp_path)
    model = hubconf.yolov5n(device="cpu", _verbose=False)
    assert isinstance(model, AutoShape) and len(model.names) == 80
    assert os.listdir(tmp_path) == ["yolov5n.pt"]


def test_other_classes_take_the_weights_that_fit(weights, tmp_path, monkeypatch, caplog, golden):
    shutil.copy(weights / "detect.pt", tmp_path / "yolov5n.pt")
    monkeypatch.chdir(tmp_path)
    wanted = golden("autoshape")[0]["pretrained_false_classes_7"]
    fresh = hubconf.yolov5n(pretrained=False, classes=wanted["nc"], device="cpu", _verbose=False)
    assert type(fresh) is DetectionModel and f"{type(fresh).__module__}.DetectionModel" == wanted["type"]
    assert fresh.model[-1].nc == wanted["nc"] and sum(p.numel() for p in fresh.parameters()) == wanted["params"]
    taken = hubconf.yolov5n(classes=7, device="cpu", _verbose=False)
    source = hubconf.torch_load(tmp_path / "yolov5n.pt")["model"].float().state_dict()
    first = "model.0.conv.weight"
    assert torch.equal(taken.state_dict()[first], source[first])
    assert not torch.equal(fresh.state_dict()[first], source[first])
    assert taken.state_dict()["model.24.m.0.weight"].shape != source["model.24.m.0.weight"].shape
    grey = hubconf.yolov5n(pretrained=False, channels=1, device="cpu", _verbose=False)
    assert grey.eval()(torch.zeros(1, 1, 64, 64))[0].shape == (1, 252, 85)


@pytest.mark.parametrize(("name", "kind"), [("mask", "SegmentationModel"), ("class", "ClassificationModel")])
def test_other_tasks_are_not_wrapped(weights, name, kind, caplog, monkeypatch):
    monkeypatch.setattr(by_name, "setup_logging", lambda: None)
    monkeypatch.setattr(by_name.LOGGER, "propagate", True)
    model = hubconf.custom(weights / f"{name}.pt", device="cpu")
    assert isinstance(model, DetectMultiBackend) and type(model.model).__name__ == kind
    assert f"is a {kind}, which AutoShape does not take" in caplog.text
    out = model(torch.zeros(1, 3, 64, 64))
    assert (out[0] if name == "mask" else out).isfinite().all()


def test_missing_weights_without_network_are_one_line(tmp_path, monkeypatch, capsys):
    """Through hub the error, from the command its line and status; nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"github\.com/.*/yolov5s\.pt: ") as caught:
        _load("yolov5s", _verbose=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: hubconf.main(argparse.Namespace(model="yolov5x6")))
    assert ended.value.code == 2 and "error: https://github.com" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["no/such/file.pt", "yolov5q"])
def test_what_is_not_there_is_named(name):
    with pytest.raises(InputError, match=name):
        hubconf.custom(name, _verbose=False)
    if "/" not in name:
        with pytest.raises(InputError, match="no architecture of this name"):
            hubconf._create(name, pretrained=False, verbose=False)


def test_a_hostile_file_runs_nothing(tmp_path):
    """Weights reach the process through the restricted loader alone."""
    import pickle

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    file = tmp_path / "yolov5n.pt"
    file.write_bytes(pickle.dumps({"model": Bomb()}))
    with pytest.raises(InputError, match=r"yolov5n\.pt"):
        hubconf.custom(file, _verbose=False)
    with pytest.raises(InputError, match=r"yolov5n\.pt"):
        hubconf._create(file, classes=3, verbose=False)
    assert not (tmp_path / "ran").exists()


def test_from_another_folder_and_after_moving_away(weights, tmp_path):
    """hub takes this folder off the import path again after loading: everything used later must still be found."""
    code = f"""
import os, sys, torch
model = torch.hub.load('.', 'custom', {str(weights / "detect.pt")!r}, source='local', _verbose=False, device='cpu')
os.chdir({str(tmp_path)!r})
model.conf = 1e-6
results = model({str(ROOT / "data/images/workbench1.jpg")!r}, size=64)
results.pandas(); results.save(); results.crop(); results.render(); results.print()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "image 1/1" in done.stdout and (tmp_path / "runs/detect/exp/workbench1.jpg").is_file()
    assert list((tmp_path / "runs/detect/exp2/crops").rglob("*.jpg"))


def test_another_projects_packages_are_named(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").write_text("")
    code = f"import sys, utils; sys.path.insert(0, {str(ROOT)!r}); import hubconf"
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "'utils' is already imported" in last and str(tmp_path) in last


def test_smart_hub_load(weights, tmp_path):
    """YOLOv5's own repository means this folder; no other code is fetched."""
    for repo in ("ultralytics/yolov5", "ultralytics/yolov5:v7.0", str(ROOT)):
        model = smart_hub_load(repo, "custom", path=weights / "detect.pt", device="cpu", force_reload=True)
        assert type(model).__name__ == "AutoShape"
    (tmp_path / "hubconf.py").write_text("raise SystemExit('run')")
    for other in ("someone/else", str(tmp_path)):
        with pytest.raises(InputError, match="no code is fetched"):
            smart_hub_load(other, "yolov5s")
    with pytest.raises(InputError, match="allowed are custom, yolov5n"):
        smart_hub_load(model="os")


def test_the_command(weights, tmp_path, monkeypatch, capsys):
    """python hubconf.py: five images in five forms."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hubconf.py", "--model", str(weights / "detect.pt")])
    hubconf.main(hubconf.parse_opt())
    text = capsys.readouterr().out
    assert "image 5/5: 320x640" in text and "Speed:" in text
    assert len(list((tmp_path / "runs/detect/exp").glob("*.jpg"))) == 5
    monkeypatch.setattr(sys, "argv", ["hubconf.py"])
    assert vars(hubconf.parse_opt()) == {"model": "yolov5s"}
