"""--compile: the same numbers where it works, and a plain run with one line in the log where it does not."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models.yolo import DetectionModel, SegmentationModel
from utils.training.compiled import compile_network
from utils.training.guard import RunningStatistics

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (2, 3, 64, 64)


def network() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel(ROOT / "models" / "yolov5n.yaml", nc=3).to(memory_format=torch.channels_last)


def gradients(model: nn.Module) -> list[torch.Tensor]:
    images = torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    model.train()
    sum(output.square().mean() for output in model(images)).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_traced_network_gives_the_same_gradients_and_leaves_no_trace():
    plain, compiled = network(), network()
    before = copy.deepcopy(compiled.state_dict())
    assert compile_network(compiled, SHAPE, None, RunningStatistics(compiled), backend="aot_eager")
    assert all(torch.equal(value, before[name]) for name, value in compiled.state_dict().items())
    assert all(parameter.grad is None for parameter in compiled.parameters())
    for a, b in zip(gradients(plain), gradients(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert copy.deepcopy(compiled)._compiled_call_impl is None  # checkpoints and averages hold the plain network


def test_networks_of_masks_are_traced_as_well():
    torch.manual_seed(0)
    model = SegmentationModel(ROOT / "models" / "segment" / "yolov5n-seg.yaml", nc=3)
    assert compile_network(model, SHAPE, None, RunningStatistics(model), backend="aot_eager")


def test_what_cannot_be_compiled_is_trained_as_it_is(monkeypatch, caplog):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no working\ncompiler")

    plain, model = network(), network()
    monkeypatch.setattr(nn.Module, "compile", refuse)
    before = copy.deepcopy(model.state_dict())
    assert not compile_network(model, SHAPE, None, RunningStatistics(model))
    assert "not possible here, training goes on without (no working compiler)" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(gradients(plain), gradients(model), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["", "/no/such/compiler"])
def test_command(tmp_path, compiler):
    """With a compiler of the system the run says that the network is compiled, without one that it is not."""
    words = ["--data", "parts.yaml", "--weights", "", "--cfg", "yolov5n.yaml", "--img", 64, "--epochs", 1, "--compile"]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    if compiler:
        environment["CXX"] = compiler
    run = subprocess.run(
        [sys.executable, "train.py", *map(str, words), "--noplots", "--project", str(tmp_path), "--device", "cpu"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert ("goes on without" if compiler else "the network is compiled") in run.stderr + run.stdout
    assert (tmp_path / "exp" / "weights" / "last.pt").exists()
