"""A training step on CUDA never waits for the device, and copies nothing between it and the host.

Without a GPU this is shown on fake tensors, which have shapes and a device and no values: whatever needs a value fails.
``Watch`` also refuses operations that mix devices. On fake CUDA tensors run: the loss, its own backward function, and a
whole step of the Engine (rates, network, loss, what judges the batch, gradient scaler, clipping, optimizer, average,
tally). Autograd's C++ engine refuses fake CUDA tensors where there is no driver; so in the Engine's step a stand-in
fills the gradients, and the backward pass of the loss runs on fake CPU tensors. RMSProp, which has no fused kernel, and
the look at the tally every 50 steps do wait. The test marked ``gpu`` runs all of it on a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_loss import Model, random_batch
from test_static_loss import SETTINGS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.yolo import DetectionModel
from utils.balance.loss_layers import taken
from utils.ema import ModelEMA
from utils.loss import ComputeLoss
from utils.torch_utils import begin_momentum, smart_optimizer
from utils.training.engine import Engine, StepState
from utils.training.schedule import Schedule, linear_lr

ROOT = Path(__file__).resolve().parents[1]
HYP = {"box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}
LOADER = SimpleNamespace(batch_sampler=SimpleNamespace(real_count=lambda batch: 2))


class Watch(TorchDispatchMode):
    """Refuses operations on tensors of several devices: copies between host and device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_sgd = func is torch.ops.aten._fused_sgd_.default  # for which fake tensors have nothing; it returns nothing
        out = None if is_sgd else func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
        devices = {x.device.type for x in tensors}
        assert len(devices) < 2, f"{func} between {devices}"
        return out


@contextmanager
def fake() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=False), Watch():
        yield


def move(module: nn.Module, device: str) -> None:
    """Give a module fake parameters and buffers on a device, and what else the loss reads."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(torch.empty_like(value, device=device))
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty_like(value, device=device)
    module.model[-1].stride = (8.0, 16.0, 32.0)


def made(device: str, **options: Any) -> tuple[ComputeLoss, list[Tensor], Tensor]:
    """Return a loss, outputs and targets on a fake device."""
    hyp = options.pop("hyp", {})
    model = Model(**hyp)
    p, targets = random_batch()
    with FakeTensorMode(allow_non_fake_inputs=True):
        move(model, device)
        criterion = ComputeLoss(model, **options)
        leaves = [torch.empty_like(x, device=device).requires_grad_() for x in p]
        return criterion, leaves, torch.empty_like(targets, device=device)


@pytest.mark.parametrize("name", SETTINGS)
def test_loss_on_fake_cuda(name: str) -> None:
    hyp, options = SETTINGS[name]
    criterion, p, targets = made("cuda", hyp=hyp, **options)
    assert criterion.is_static
    with p[0].fake_mode:
        criterion.track_loss_share()
    with p[0].fake_mode, Watch():
        for count in (0, 10, len(targets)):
            loss, items = criterion(p, targets[:count])
            assert loss.device.type == items.device.type == "cuda" and loss.shape == (1,)


def test_several_processes_on_fake_cuda() -> None:
    for is_filler in (False, True):
        criterion, p, targets = made("cuda", world_sum=lambda x: x * 2)
        criterion.is_filler = is_filler
        with p[0].fake_mode, Watch():
            assert criterion(p, targets)[0].device.type == "cuda"


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_of_the_loss_on_fake_tensors(name: str) -> None:
    hyp, options = SETTINGS[name]
    criterion, p, targets = made("cpu", hyp=hyp, is_static=True, **options)
    with p[0].fake_mode, Watch():
        assert [g.shape for g in torch.autograd.grad(criterion(p, targets)[0], p)] == [x.shape for x in p]


def test_own_backward_function_on_fake_cuda() -> None:
    with fake():
        raw = torch.empty(2, 3, 4, 4, 8, device="cuda").requires_grad_()
        objectness, rows = taken(raw, torch.empty(5, dtype=torch.int64, device="cuda"))
        assert objectness.grad_fn.apply(objectness, rows)[0].shape == raw.shape


def test_the_other_form_waits() -> None:
    """So the tests above would notice."""
    criterion, p, targets = made("cuda", is_static=False)
    with p[0].fake_mode, Watch(), pytest.raises(DynamicOutputShapeException):
        criterion(p, targets)
    with fake():
        with pytest.raises(DataDependentOutputException):
            bool(torch.ones((), device="cuda"))
        with pytest.raises(AssertionError, match="between"):
            torch.ones(3, device="cpu").to("cuda")


def an_engine(model: nn.Module, criterion: ComputeLoss, name: str, scaler: Any, ema: ModelEMA) -> Engine:
    optimizer = smart_optimizer(model, name, 0.01, 0.9, 5e-4)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.01
    schedule = Schedule(linear_lr(10, 0.1), 100, 0.1, 0.8, 0.9, 64)
    return Engine(model, criterion, optimizer, schedule, scaler, ema, torch.device("cuda"))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_step_of_the_engine_on_fake_cuda(name: str, is_scaled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = DetectionModel(ROOT / "models" / "yolov5n.yaml", nc=3)
    ema = ModelEMA(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        move(model, "cuda")
        move(ema.ema, "cuda")
        model.hyp = HYP
        criterion = ComputeLoss(model, class_weights=[0.5, 1.0, 4.0])
        scaler = torch.amp.GradScaler("cpu", enabled=is_scaled)  # one for CUDA switches itself off where there is none
        engine = an_engine(model.train(), criterion, name, scaler, ema)
        images, targets = torch.empty(2, 3, 64, 64, device="cuda"), torch.empty(9, 6, device="cuda")
        state = StepState(loss_sum=torch.zeros(3, device="cuda"))
        engine._bad_before = engine.tally.in_a_row.clone()

    def fill(_: Tensor) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(Tensor, "backward", fill)
    assert engine.optimizer._step_supports_amp_scaling
    with mode, Watch():
        for step in range(3):
            items, moves = engine._step(images, (targets,), step, state, LOADER)
            state.batch, state.step, state.last_optimizer_step = step + 1, step + 1, step
            engine._look(state, 100, items, [])
            assert moves and items.device.type == state.loss_sum.device.type == "cuda"
    assert engine.ema.updates == 3


# ---- what a skipped step leaves
def test_a_skipped_first_step_leaves_the_momentum_at_zero() -> None:
    """As of CUDA's kernels, whose likes there are on the CPU: the second step is that of a run that begins with it."""
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    fused, plain = (
        torch.optim.SGD([w], lr=0.1, momentum=0.9, nesterov=True, fused=fused or None)
        for w, fused in zip(weights, (True, False), strict=True)
    )
    begin_momentum(fused)
    weights[0].grad = torch.full((3,), torch.nan)
    fused.found_inf, fused.grad_scale = torch.tensor(1.0), None
    fused.step()
    assert torch.equal(weights[0], torch.ones(3))
    fused.found_inf = torch.tensor(0.0)
    for _ in range(3):
        for weight, optimizer in zip(weights, (fused, plain), strict=True):
            weight.grad = torch.tensor([1.0, -2.0, 0.5])
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=0)


def test_optimizers_without_a_fused_kernel_are_not_moved_by_bad_gradients() -> None:
    weight = nn.Parameter(torch.ones(3))
    engine = SimpleNamespace(optimizer=torch.optim.RMSprop([weight], lr=0.1), device=torch.device("cuda"))
    for bad in (True, False):
        weight.grad = torch.full((3,), torch.nan if bad else 1.0)
        assert Engine._move(engine, torch.tensor(bad)) is not bad
        assert torch.isfinite(weight).all() and torch.equal(weight, torch.ones(3)) is bad


# ---- on a device
@pytest.mark.gpu
@pytest.mark.parametrize("amp_dtype", [None, torch.float16])
def test_step_waits_for_nothing(amp_dtype: torch.dtype | None) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.manual_seed(0)
    model = DetectionModel(ROOT / "models" / "yolov5n.yaml", nc=3).cuda().to(memory_format=torch.channels_last)
    model.hyp = HYP
    criterion = ComputeLoss(model, class_weights=[0.5, 1.0, 4.0])
    criterion.track_loss_share()
    scaler = torch.amp.GradScaler("cuda", enabled=amp_dtype is not None)
    engine = an_engine(model.train(), criterion, "SGD", scaler, ModelEMA(model))
    engine.amp_dtype = amp_dtype
    engine._bad_before = engine.tally.in_a_row.clone()
    state = StepState(loss_sum=torch.zeros(3, device="cuda"))
    images = torch.rand(2, 3, 128, 128, device="cuda").to(memory_format=torch.channels_last)
    _, targets = random_batch(images=2)
    targets = targets.cuda()
    try:
        for step in range(6):
            items, _ = engine._step(images, (targets,), step, state, LOADER)
            state.batch, state.step, state.last_optimizer_step = step + 1, step + 1, step
            if step == 2:  # what is allocated and chosen once is done
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(items).all() and torch.isfinite(state.loss_sum).all()
