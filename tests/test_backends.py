"""attempt_load and DetectMultiBackend: checkpoints, ensembles, TorchScript, and what is not available."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.backends import FORMATS, DetectMultiBackend
from models.experimental import Ensemble, attempt_load
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from utils.checkpoint import save_checkpoint
from utils.errors import InputError

IMAGE = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints for the same classes and one for others."""
    folder, files = tmp_path_factory.mktemp("weights"), []
    for number, nc in enumerate((2, 2, 3)):
        torch.manual_seed(number)
        model = DetectionModel("yolov5n.yaml", nc=nc)
        model.names = {key: f"c{key}" for key in range(nc)}
        files.append(folder / f"{number}.pt")
        torch.save({"epoch": -1, "model": model.half(), "ema": None}, files[-1])
    return files


def test_signature_of_the_contract(contract: Path) -> None:
    facts = json.loads((contract / "api.json").read_text())["models.common"]["classes"]["DetectMultiBackend"]
    found = list(inspect.signature(DetectMultiBackend).parameters.values())
    assert [p.name for p in found] == [name for name, _ in facts["init"]]
    assert [p.default for p in found if p.name != "device"] == [d for name, d in facts["init"] if name != "device"]
    for name, parameters in facts["methods"].items():
        method = list(inspect.signature(getattr(DetectMultiBackend, name)).parameters)
        wanted = [item[0] if isinstance(item, list) else item for item in parameters]
        of_old = ["visualize"] if name == "forward" else []  # as up to v7.0
        assert [item for item in method if item != "self"] == wanted + of_old


def test_checkpoint(checkpoints: list[Path]) -> None:
    backend = DetectMultiBackend(checkpoints[0], fp16=True)
    assert backend.pt and not backend.jit and not backend.fp16  # half precision on CUDA alone
    assert backend.stride == 32 and backend.names == {0: "c0", 1: "c1"}
    assert not backend.model.training and next(backend.model.parameters()).dtype == torch.float32
    with torch.no_grad():
        out = backend(IMAGE)
        assert torch.equal(out[0], backend.model(IMAGE)[0]) and out[0].shape == (1, 252, 7)
        assert backend(IMAGE, augment=True)[0].shape[1] != 252
    backend.warmup((1, 3, 64, 64))
    assert torch.equal(backend.from_numpy(np.ones(2, dtype=np.float32)), torch.ones(2))


def test_fused_equals_unfused(checkpoints: list[Path]) -> None:
    with torch.no_grad():
        fused, plain = (attempt_load(checkpoints[0], fuse=fuse)(IMAGE)[0] for fuse in (True, False))
    assert torch.allclose(fused, plain, atol=1e-3)


def test_averaged_weights_are_preferred(checkpoints: list[Path], tmp_path: Path) -> None:
    first, second = (attempt_load(file, fuse=False) for file in checkpoints[:2])
    torch.save({"model": first, "ema": second}, tmp_path / "both.pt")
    loaded = attempt_load(tmp_path / "both.pt", fuse=False)
    assert torch.equal(loaded.model[0].conv.weight, second.model[0].conv.weight)


def test_ensemble(checkpoints: list[Path]) -> None:
    backend = DetectMultiBackend(checkpoints[:2])
    assert isinstance(backend.model, Ensemble) and backend.names == {0: "c0", 1: "c1"} and backend.stride == 32
    with torch.no_grad():
        joined = backend(IMAGE)[0]
        parts = [model(IMAGE)[0] for model in backend.model]
    assert torch.equal(joined, torch.cat(parts, 1)) and joined.shape == (1, 504, 7)


def test_ensemble_of_different_classes(checkpoints: list[Path]) -> None:
    with pytest.raises(InputError, match="same number of classes"):
        attempt_load(checkpoints)
    with pytest.raises(InputError, match="empty list"):
        attempt_load([])
    with pytest.raises(InputError, match=r"allowed are \.pt"):
        DetectMultiBackend([checkpoints[0], "x.torchscript"])


def test_ensembles_of_other_names(checkpoints: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def renamed(*names: str) -> Path:
        content = torch.load(checkpoints[1], weights_only=False)
        for model in (content[key] for key in ("model", "ema") if content.get(key) is not None):
            model.names = dict(enumerate(names))
        torch.save(content, tmp_path / "renamed.pt")
        return tmp_path / "renamed.pt"

    with pytest.raises(InputError, match="same order of classes, class 0 is 'c0' in .* and 'c1' in .*renamed"):
        attempt_load([checkpoints[0], renamed("c1", "c0")])
    attempt_load([checkpoints[0], renamed("c0", "other")])
    assert "class 1 is 'c1' in" in caplog.text and "'other' in" in caplog.text


@pytest.mark.parametrize("inplace", [True, False])
def test_inplace(checkpoints: list[Path], inplace: bool) -> None:
    model = attempt_load(checkpoints[0], inplace=inplace)
    assert model.model[-1].inplace is inplace
    assert {m.inplace for m in model.modules() if isinstance(m, torch.nn.SiLU)} == {inplace}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("with_names", [True, False])
def test_torchscript(checkpoints: list[Path], tmp_path: Path, with_names: bool) -> None:
    model = attempt_load(checkpoints[0])
    model.model[-1].export = True
    with torch.no_grad():
        expected = model(IMAGE)[0]
        traced = torch.jit.trace(model, IMAGE, strict=False, check_trace=False)
    facts = {"config.txt": json.dumps({"stride": 32, "names": {0: "c0", 1: "c1"}})} if with_names else {}
    path = tmp_path / "model.torchscript"
    traced.save(str(path), _extra_files=facts)
    (tmp_path / "data.yaml").write_text("names: [a, b]\n")
    backend = DetectMultiBackend(path, data=tmp_path / "data.yaml")
    assert backend.jit and not backend.pt and backend.stride == 32
    assert backend.names == ({0: "c0", 1: "c1"} if with_names else {0: "a", 1: "b"})
    with torch.no_grad():
        assert torch.allclose(backend(IMAGE), expected, atol=1e-4)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="truncated or not a TorchScript"):
        DetectMultiBackend(path)


@pytest.mark.parametrize("name", ["x" + end for key, end in FORMATS.items() if key != "pt"])
def test_missing_files_of_every_format(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such (file|folder)|not available in this version|needs") as error:
        DetectMultiBackend(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/b.pt", "pt"),
        ("b.torchscript", "jit"),
        ("b_openvino_model/", "xml"),
        ("b.tflite", "tflite"),
        ("b_edgetpu.tflite", "edgetpu"),
        ("b_saved_model", "saved_model"),
        ("grpc://localhost:8000", "triton"),
    ],
)
def test_model_type(name: str, key: str) -> None:
    types = dict(zip((*FORMATS, "triton"), DetectMultiBackend._model_type(name), strict=True))
    assert [known for known, is_it in types.items() if is_it] == [key]


def test_dnn_is_not_ignored_in_silence(checkpoints: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="yolov5"):
        DetectMultiBackend(checkpoints[0], dnn=True)
    assert "--dnn has no effect" in caplog.text


@pytest.fixture
def other_networks(tmp_path: Path) -> dict[str, Path]:
    """Checkpoints of a segmentation and a classification network of two classes."""
    networks = {
        "Segment": SegmentationModel("yolov5n-seg.yaml", nc=2),
        "Classify": ClassificationModel(model=DetectionModel("yolov5n.yaml", nc=2), nc=2, cutoff=9),
    }
    paths = {head: tmp_path / f"{head}.pt" for head in networks}
    for head, network in networks.items():
        network.names = {0: "a", 1: "b"}
        save_checkpoint(paths[head], {"epoch": -1, "model": network.half(), "ema": None})
    return paths


@pytest.mark.parametrize("head", ["Segment", "Classify"])
@pytest.mark.parametrize("command", ["detect", "val", "train"])
def test_networks_of_other_tasks_are_refused(
    other_networks: dict[str, Path], tiny_data: Path, tmp_path: Path, head: str, command: str
) -> None:
    """Read as boxes their outputs would be noise."""
    import detect
    import train
    import val

    weights, runs = str(other_networks[head]), tmp_path / "runs"
    small = {"weights": weights, "imgsz": 64, "device": "cpu", "project": runs}
    with pytest.raises(InputError, match=f"{head}; allowed here are"):
        if command == "detect":
            detect.run(source=str(tiny_data.with_suffix("") / "images" / "val"), **small)
        elif command == "val":
            val.run(str(tiny_data), workers=0, **small)
        else:
            train.run(data=str(tiny_data), workers=0, batch_size=4, epochs=1, **small)
    assert not runs.exists()


def test_unknown_format() -> None:
    with pytest.raises(InputError, match=r"weights b\.xyz: unknown format"):
        DetectMultiBackend("b.xyz")
