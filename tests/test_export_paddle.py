"""PaddlePaddle folders: written by export.py, run again, and refused when the program could touch files."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import export
from models.backend_formats.paddle import operations
from models.backends import DetectMultiBackend
from models.paddle_twin import import_paddle
from tests.export_model import NAMES, SIZE, save_network
from utils.errors import InputError, InputErrors


@pytest.fixture
def paddle():
    if importlib.util.find_spec("paddle") is None:
        pytest.skip("needs paddlepaddle")
    if "tensorflow" in sys.modules:
        pytest.skip("needs a process without tensorflow: run this file alone")
    return import_paddle()


def write(weights: Path, **options: object) -> Path:
    return Path(export.run(weights=weights, imgsz=[SIZE], include=["paddle"], **options)[0])


def run(path: Path, im: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        y = DetectMultiBackend(path)(im)
    return [part for part in (y if isinstance(y, (list, tuple)) else [y]) if isinstance(part, torch.Tensor)]


@pytest.mark.parametrize("task", ["detect", "segment", "classify"])
def test_every_task(paddle, tmp_path, task) -> None:
    file = save_network(tmp_path / "net.pt", task)
    dynamic = task == "detect"
    path = write(file, dynamic=dynamic)
    assert path.name == "net_paddle_model" and {p.suffix for p in path.iterdir()} >= {".pdiparams", ".yaml"}
    im = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    backend = DetectMultiBackend(path)
    assert (backend.names, backend.stride, backend.task, backend.batch_size) == (NAMES, 32, task, 0 if dynamic else 1)
    assert backend.paddle
    for mine, theirs in zip(run(path, im), run(file, im), strict=False):
        assert mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=2e-3, rtol=1e-4)
    assert paddle.in_dynamic_mode()  # as it was


def test_programs_that_write_files_are_refused(paddle, tmp_path) -> None:
    path = write(save_network(tmp_path / "net.pt"))
    program = next(p for p in path.iterdir() if p.suffix in {".pdmodel", ".json"})
    if program.suffix == ".pdmodel":
        from paddle.base.proto import framework_pb2

        description = framework_pb2.ProgramDesc.FromString(program.read_bytes())
        description.blocks[0].ops[3].type = "save_combine"
        program.write_bytes(description.SerializeToString())
    else:
        program.write_text(program.read_text().replace('"1.conv2d"', '"1.save_combine"', 1))
    with pytest.raises(InputError, match="it uses the operation save_combine; allowed are those of a network"):
        DetectMultiBackend(path)
    program.write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="truncated or not a PaddlePaddle program"):
        DetectMultiBackend(path)


# Without PaddlePaddle -------------------------------------------------------------------------------------------------


def test_operations_of_a_json_program(tmp_path) -> None:
    inner = {"blocks": [{"ops": [{"#": "1.py_func"}]}]}
    ops = [{"#": "p"}, {"#": "1.conv2d"}, {"#": "1.add_"}, {"#": "1.if", "regions": [inner]}]
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"program": {"regions": [{"blocks": [{"ops": ops}]}]}}))
    assert sorted(operations(path)) == ["add", "conv2d", "if", "p", "py_func"]
    path.write_text("{")
    with pytest.raises(InputError, match="not a PaddlePaddle program"):
        list(operations(path))


def test_not_in_one_run_with_tensorflow(tmp_path, monkeypatch) -> None:
    if importlib.util.find_spec("paddle") is not None and importlib.util.find_spec("tensorflow") is not None:
        with pytest.raises(InputErrors, match="--include paddle with pb: TensorFlow and PaddlePaddle need a run each"):
            export.run(weights=save_network(tmp_path / "net.pt"), imgsz=[SIZE], include=["pb", "paddle"])
    monkeypatch.setitem(sys.modules, "tensorflow", object())
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    with pytest.raises(InputError, match="cannot be loaded into a process with TensorFlow"):
        import_paddle()


def test_missing_package_in_one_line(tmp_path, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "paddle" else find(name, *a))
    file = save_network(tmp_path / "net.pt")
    with pytest.raises(InputErrors, match="--include paddle: needs the package paddlepaddle: pip install paddlepaddle"):
        write(file)
    (tmp_path / "a_paddle_model").mkdir()
    (tmp_path / "a_paddle_model" / "model.pdmodel").write_bytes(b"x")
    with pytest.raises(InputError, match="running it needs paddlepaddle"):
        DetectMultiBackend(tmp_path / "a_paddle_model")
    shutil.rmtree(tmp_path / "a_paddle_model")
