"""benchmarks.py: its table, what is left out and why, and the floor."""

from __future__ import annotations

import inspect
import json
import math
import shutil
from pathlib import Path

import pytest

import benchmarks
from tests.export_model import save_network
from utils.errors import InputError, WorkError
from utils.exporting.formats import BY_ARGUMENT, FORMATS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network(tmp_path_factory.mktemp("network") / "net.pt")


@pytest.fixture
def small(network: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Arguments of a small run over PyTorch, ONNX and TensorRT."""
    kept = tuple(row for row in FORMATS if row.key in {"pt", "onnx", "engine"})
    monkeypatch.setattr("utils.exporting.formats.FORMATS", kept)
    weights = Path(shutil.copy(network, tmp_path / "net.pt"))
    return {"weights": weights, "imgsz": 64, "data": tiny_data, "device": "cpu"}


def test_signatures_of_the_contract(contract: Path) -> None:
    facts = json.loads((contract / "api.json").read_text())["benchmarks"]["functions"]
    assert Path(benchmarks.__file__).name == "benchmarks.py"
    for name in ("run", "test"):
        found = list(inspect.signature(getattr(benchmarks, name)).parameters.values())
        wanted = facts[name]["params"]
        assert [p.name for p in found][: len(wanted)] == [key for key, _ in wanted]
        plain = [(p.name, p.default) for p in found[: len(wanted)] if p.name not in {"weights", "data"}]
        assert plain == [(key, default) for key, default in wanted if key not in {"weights", "data"}]


def test_the_table(small: dict[str, object], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.LOGGER, "propagate", True)
    with caplog.at_level("INFO", logger="yolov5"):
        table = benchmarks.run(**small)
    assert list(table.columns) == ["Format", "Size (MB)", "mAP50-95", "Inference time (ms)"]
    assert list(table["Format"]) == ["PyTorch", "ONNX", "TensorRT"]
    torch_row, onnx_row, engine_row = table.itertuples(index=False)
    assert onnx_row[2] == pytest.approx(torch_row[2], abs=0.002) and onnx_row[1] > 0 and onnx_row[3] > 0
    assert all(map(math.isnan, engine_row[1:])) and "TensorRT: skipped, it does not run on CPUs" in caplog.text
    assert "mAP50-95" in caplog.text and not (Path.cwd() / "runs" / "val" / "net").exists()


def test_pytorch_alone_and_exports_alone(small: dict[str, object]) -> None:
    assert list(benchmarks.run(**small, pt_only=True)["Format"]) == ["PyTorch"]
    table = benchmarks.test(**small)
    assert table.values.tolist() == [["PyTorch", True], ["ONNX", True], ["TensorRT", False]]


def test_the_floor(small: dict[str, object]) -> None:
    with pytest.raises(WorkError, match=r"--hard-fail 0\.99: mAP50-95 is not above it: PyTorch 0\."):
        benchmarks.run(**small, pt_only=True, hard_fail="0.99")
    with pytest.raises(InputError, match="--hard-fail much: expected"):
        benchmarks.run(**small, hard_fail="much")


def test_a_format_that_fails(small: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, job: object, target: Path) -> None:
        raise WorkError("no such operation")

    monkeypatch.setattr(type(BY_ARGUMENT["onnx"].load_exporter()), "write", fail)
    table = benchmarks.run(**small)
    assert math.isnan(table["mAP50-95"][1]) and table["mAP50-95"][0] >= 0
    with pytest.raises(WorkError, match="ONNX: .*no such operation"):
        benchmarks.test(**small, hard_fail=True)
