"""CoreML models: written by export.py; where macOS is not there, their programs are computed by PyTorch."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from models.backend_formats.coreml import detections
from models.backends import DetectMultiBackend
from tests.export_model import NAMES, SIZE, save_network
from utils.errors import InputError, WorkError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
not_on_a_mac = pytest.mark.skipif(platform.system() == "Darwin", reason="macOS runs CoreML itself")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {task: save_network(folder / f"{task}.pt", task) for task in ("detect", "segment", "classify")}


@pytest.fixture(scope="module")
def ct():
    return pytest.importorskip("coremltools", reason="needs coremltools")


def write(networks, folder: Path, task: str = "detect", **options: object) -> Path:
    file = Path(shutil.copy(networks[task], folder / "net.pt"))
    return Path(export.run(weights=file, imgsz=[SIZE], include=["coreml"], **options)[0])


@pytest.mark.parametrize("task", ["detect", "segment", "classify"])
def test_every_task(ct, networks, tmp_path, task) -> None:
    """export.py compares the program with PyTorch and would refuse it; here, what the file tells and that it stays."""
    path = write(networks, tmp_path, task)
    assert path.name == "net.mlpackage"
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    told = dict(spec.description.metadata.userDefined)
    assert told["names"] == str(NAMES) and told["stride"] == "32" and told["task"] == task
    image = spec.description.input[0]
    assert (image.name, image.type.imageType.width, image.type.imageType.height) == ("image", SIZE, SIZE)
    assert [y.name for y in spec.description.output] == [f"output{i}" for i in range(2 if task == "segment" else 1)]


@not_on_a_mac
def test_a_wrong_weight_is_found(ct, networks, tmp_path, monkeypatch) -> None:
    """The check reads weights back from the disk: a changed one keeps the file from being put in place."""
    save = ct.models.MLModel.save

    def damaged(self, path: str) -> None:
        save(self, path)
        (file,) = Path(path).rglob("weight.bin")
        data = bytearray(file.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 4096] = np.full(1024, 3.0, np.float32).tobytes()
        file.write_bytes(bytes(data))

    monkeypatch.setattr(ct.models.MLModel, "save", damaged)
    with pytest.raises(WorkError, match="differ from PyTorch's"):
        write(networks, tmp_path)
    assert not (tmp_path / "net.mlpackage").exists()


@pytest.mark.parametrize("options", [{"half": True}, {"int8": True, "data": "unused"}], ids=["half", "int8"])
def test_smaller_weights(ct, networks, tmp_path, options) -> None:
    size = lambda path: sum(file.stat().st_size for file in path.rglob("*.bin"))  # noqa: E731
    full = size(write(networks, tmp_path))
    small = size(write(networks, tmp_path, **options))
    assert small < full * 0.6  # small layers keep float32 under int8


def test_suppression_as_a_pipeline(ct, networks, tmp_path) -> None:
    path = write(networks, tmp_path, nms=True, agnostic_nms=True, iou_thres=0.4, conf_thres=0.3)
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    network, step = spec.pipeline.models
    nms = step.nonMaximumSuppression
    assert (nms.iouThreshold, nms.confidenceThreshold, nms.pickTop.perClass) == (0.4, 0.3, False)
    assert list(nms.stringClassLabels.vector) == list(NAMES.values())
    assert [x.name for x in spec.description.input] == ["image", "iouThreshold", "confidenceThreshold"]
    assert [y.name for y in spec.description.output] == ["confidence", "coordinates"]
    with pytest.raises(InputError, match="has masks, which CoreML's suppression loses"):
        write(networks, tmp_path, "segment", nms=True)
    with pytest.raises(InputError, match="--multi-label with --include coreml"):
        write(networks, tmp_path, multi_label=True)


def test_older_type_and_pipeline_of_the_contract(ct, networks, tmp_path) -> None:
    path = write(networks, tmp_path, mlmodel=True, nms=True)
    assert path.name == "net.mlmodel"
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    model = ct.models.MLModel(spec.pipeline.models[0], skip_model_load=True)
    export.pipeline_coreml(model, None, tmp_path / "again.pt", NAMES, None, True)
    again = ct.models.MLModel(str(tmp_path / "again.mlmodel"), skip_model_load=True).get_spec()
    assert again.pipeline.models[1].nonMaximumSuppression.iouThreshold == 0.45


@not_on_a_mac
def test_running_one_elsewhere_is_one_line(ct, tmp_path) -> None:
    (tmp_path / "a.mlpackage").mkdir()
    (tmp_path / "a.mlmodel").write_bytes(b"")
    for name in ("a.mlpackage", "a.mlmodel"):
        with pytest.raises(InputError, match=f"{name}: CoreML models run on macOS, this is {platform.system()}"):
            DetectMultiBackend(tmp_path / name)
    with pytest.raises(InputError, match="no such file or folder"):
        DetectMultiBackend(tmp_path / "b.mlpackage")


def test_detections_of_its_suppression() -> None:
    rows = detections(np.array([[0.1, 0.7]]), np.array([[0.5, 0.5, 0.25, 0.5]]), (128, 64))
    assert rows.shape == (1, 1, 6) and np.allclose(rows[0, 0], [48, 16, 80, 48, 0.7, 1])
    assert detections(np.zeros((0, 2)), np.zeros((0, 4)), (128, 64)).shape == (1, 0, 6)
    assert torch.from_numpy(rows).dtype == torch.float32
