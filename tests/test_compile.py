"""--compile: the same numbers where it works, and a plain run with one line in the log where it does not."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_loss import Model, random_batch
from test_static_loss import SETTINGS, check_equal, results
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from models.yolo import DetectionModel, SegmentationModel
from utils.loss import ComputeLoss
from utils.segment.loss import ComputeLoss as SegmentLoss
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


# ---- the loss
GAINS = {"box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}


class Small(Model):
    """A network of three convolutions with the outputs of a detection model, quick to compile."""

    def __init__(self):
        super().__init__(3)
        self.layers = nn.ModuleList(nn.Conv2d(3, 24, 1, stride) for stride in (8, 16, 32))

    def forward(self, images):
        return [
            out.view(out.shape[0], 3, 8, *out.shape[2:]).permute(0, 1, 3, 4, 2).contiguous()
            for out in (layer(images) for layer in self.layers)
        ]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()  # each test traces anew
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_is_one_graph(name):
    """With ``fullgraph`` whatever torch.compile cannot take is an error."""
    hyp, options = SETTINGS[name]
    plain, traced = (ComputeLoss(Model(**hyp), is_static=True, **options) for _ in range(2))
    plain.track_loss_share(), traced.track_loss_share()
    traced._compiled = torch.compile(traced._evaluate, fullgraph=True, backend="aot_eager")
    p, targets = random_batch()
    for rows in (targets, targets[:5]):
        check_equal(results(plain, p, rows), results(traced, p, rows))
    assert traced.balance == pytest.approx(plain.balance, rel=1e-6)
    assert torch.allclose(traced.loss_share(), plain.loss_share(), rtol=1e-5)


def test_few_graphs_are_traced():
    """0 to 200 targets come as 64, 128 or 256 rows: one graph for the first number, one for any."""
    counter = CompileCounterWithBackend("aot_eager")
    criterion = ComputeLoss(Model())
    criterion._compiled = torch.compile(criterion._evaluate, fullgraph=True, backend=counter)
    criterion.is_static = True
    p, targets = random_batch()
    targets = targets.repeat(9, 1)
    for count in (0, 3, 64, 65, 128, 200, 10):
        criterion(p, targets[:count])
    assert counter.frame_count == 2


def test_loss_is_compiled_with_the_network(caplog):
    caplog.set_level("INFO")
    model = network()
    model.hyp = GAINS
    criterion = ComputeLoss(model, autobalance=True)
    before = criterion.state_dict()
    assert compile_network(model, SHAPE, None, RunningStatistics(model), backend="aot_eager", criterion=criterion)
    assert caplog.text.count("--compile") == 1 and "the network is compiled, the loss as well (" in caplog.text
    assert criterion._compiled is not None and criterion.is_static and criterion.state_dict() == before
    assert all(parameter.grad is None for parameter in model.parameters())
    p, targets = random_batch(size=64)
    check_equal(results(ComputeLoss(network(), hyp=GAINS), p, targets), results(criterion, p, targets))
    validation = criterion.for_validation()
    assert validation._compiled is None and not validation.is_static


@pytest.mark.parametrize("options", [{"hyp": {**GAINS, "cls_dyn": 1.0}}, {"hyp": GAINS, "world_sum": lambda x: x}])
def test_other_losses_stay_as_they_are(options, caplog):
    caplog.set_level("INFO")
    model = Small()
    criterion = ComputeLoss(model, **options)
    assert compile_network(model, SHAPE, None, RunningStatistics(model), backend="aot_eager", criterion=criterion)
    assert "the network is compiled (" in caplog.text
    assert criterion._compiled is None and not criterion.is_static


def test_loss_that_cannot_be_compiled_is_computed_as_it_is(monkeypatch, caplog):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no working\ncompiler")

    caplog.set_level("INFO")
    model = Small()
    criterion = ComputeLoss(model, hyp=GAINS)
    monkeypatch.setattr(criterion, "_evaluate", refuse)
    assert compile_network(model, SHAPE, None, RunningStatistics(model), backend="aot_eager", criterion=criterion)
    assert "the loss goes on without (no working compiler)" in caplog.text
    assert "the network is compiled (" in caplog.text
    assert criterion._compiled is None and not criterion.is_static


def test_masks_have_no_static_form():
    model = SegmentationModel(ROOT / "models" / "segment" / "yolov5n-seg.yaml", nc=3)
    criterion = SegmentLoss(model, hyp=GAINS, is_static=True)
    assert not criterion.is_static and not criterion.compile("eager")


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
