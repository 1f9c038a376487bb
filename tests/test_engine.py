"""The training loop on a model of one weight."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from utils.errors import WorkError
from utils.training.engine import Engine, StepState, multi_scale
from utils.training.guard import NotFinite, RunningStatistics, weights_are_finite
from utils.training.schedule import Schedule, linear_lr


class _Loader:
    """Gives batches of two one-pixel images and no targets."""

    def __init__(self, values):
        self.values = values
        self.batch_sampler = SimpleNamespace(real_count=lambda batch: 2)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        for value in self.values:
            yield torch.full((2, 1, 1, 1), value, dtype=torch.uint8), torch.zeros(0, 6), ["a", "b"], None


def _engine(loss, batch_size=64):
    model = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.1}], lr=0.1)
    schedule = Schedule(linear_lr(10, 1.0), -1, 0.0, 0.0, 0.0, batch_size)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def criterion(outputs, targets):
        value = loss(outputs)
        return value.reshape(1), torch.stack([value.detach()] * 3)

    return Engine(model, criterion, optimizer, schedule, scaler, None, torch.device("cpu"))


def test_one_step_moves_the_weight_by_the_rate_times_the_gradient():
    engine = _engine(lambda outputs: outputs.mean())
    losses = engine.train_epoch(_Loader([255]), StepState(), 1)
    assert losses == [1.0, 1.0, 1.0]
    assert engine.model.weight.item() == pytest.approx(1 - 0.1 * 1.0)


def test_gradients_add_up_over_accumulated_batches():
    """Batch 16: the optimizer moves after 4 batches, by the sum of their gradients (here 4 x 1)."""
    engine = _engine(lambda outputs: outputs.mean(), batch_size=16)
    state = StepState(last_optimizer_step=-1)
    engine.train_epoch(_Loader([255] * 3), state, 1)
    assert engine.model.weight.item() == 1.0 and state.last_optimizer_step == -1
    state = StepState()
    engine.train_epoch(_Loader([255] * 4), state, 1)
    assert engine.model.weight.item() == pytest.approx(1 - 0.1 * 4)
    assert state.last_optimizer_step == 3


def test_steps_that_are_not_finite_are_skipped_and_counted():
    """Batches 1 and 2 are bad: the weight moves by the other two alone, and the mean loss is theirs."""
    values = iter([1.0, float("nan"), float("inf"), 1.0])
    engine = _engine(lambda outputs: outputs.mean() * next(values))
    state = StepState()
    losses = engine.train_epoch(_Loader([255] * 4), state, 1)
    assert engine.model.weight.item() == pytest.approx(1 - 0.1 * 2)
    assert (state.skipped, state.in_a_row, state.bad_batches) == (2, 0, 2)
    assert losses == pytest.approx([(1 + 0.9) / 2] * 3)


def test_three_such_steps_in_a_row_end_the_epoch():
    engine = _engine(lambda outputs: outputs.mean() * float("nan"))
    state = StepState()
    with pytest.raises(NotFinite, match="epoch 0, batch 2: 3 losses or gradients in a row"):
        engine.train_epoch(_Loader([255] * 9), state, 1)
    assert engine.model.weight.item() == 1.0 and state.skipped == 3


def test_bad_batches_count_within_an_optimizer_step_and_good_steps_end_a_row():
    """Batch 16: four batches a step. Two bad ones spoil their step; after a good step the count begins anew."""
    values = iter([1.0, float("nan"), float("nan"), 1.0] + [1.0] * 4 + [float("nan")])
    engine = _engine(lambda outputs: outputs.mean() * next(values), batch_size=16)
    state = StepState()
    rows = []
    engine.train_epoch(_Loader([255] * 9), state, 1, lambda *_: rows.append(state.in_a_row))
    assert rows == [0, 1, 2, 2, 2, 2, 2, 0, 1]
    assert state.skipped == 1 and engine.model.weight.item() == pytest.approx(1 - 0.1 * 4)


def test_gradients_alone_that_are_not_finite_count():
    engine = _engine(lambda outputs: outputs.mean())
    engine.model.weight.register_hook(lambda gradient: gradient * float("inf"))
    state = StepState()
    with pytest.raises(NotFinite):
        engine.train_epoch(_Loader([255] * 9), state, 1)
    assert state.skipped == 3 and state.bad_batches == 0 and engine.model.weight.item() == 1.0


def test_a_bad_batch_leaves_running_statistics_and_loss_state_alone():
    engine = _engine(lambda outputs: outputs.mean() * float("nan"))
    engine.model = nn.Sequential(engine.model, nn.BatchNorm2d(1))
    engine.statistics = RunningStatistics(engine.model)
    running = torch.ones(2)
    criterion = engine.criterion

    def moving(outputs, targets):
        running.mul_(float("nan"))
        return criterion(outputs, targets)

    moving.running_tensors = lambda: [running]
    engine.criterion = moving
    engine.train_epoch(_Loader([255]), StepState(), 1)
    assert engine.model[1].running_mean.item() == 0 and engine.model[1].running_var.item() == 1
    assert running.tolist() == [1.0, 1.0]


def test_a_weight_that_is_not_finite_is_noticed_at_the_end_of_the_epoch():
    engine = _engine(lambda outputs: outputs.mean())
    engine.schedule = Schedule(lambda epoch: float("inf"), -1, 0.0, 0.0, 0.0, 64)
    with pytest.raises(NotFinite, match="a weight is not finite"):
        engine.train_epoch(_Loader([255]), StepState(), 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_are_finite(value):
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    assert weights_are_finite(model)
    with torch.no_grad():
        model[0].weight[1] = value
    assert not weights_are_finite(model)


class _Network(nn.Module):
    """Two levels of outputs from two convolutions; batch norm in evaluation mode unless told otherwise."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)

    def forward(self, images):
        hidden = self.norm(self.first(images)).sigmoid()
        return [hidden, self.second(hidden)]


def _short_of_memory(limit, where):
    """Make a hook that raises what CUDA raises when more than ``limit`` images come."""

    def check(tensor):
        if len(tensor) > limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate 1 GiB ({where})")

    return check


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_batch_that_does_not_fit_goes_on_in_pieces_with_the_same_gradients(where):
    """A loss that divides by a sum over the whole batch: pieces by themselves would get other gradients."""

    def loss(outputs, targets):
        value = sum((level**2).sum() / level.abs().sum() for level in outputs)
        return value.reshape(1), torch.stack([value.detach()] * 3)

    def run(limit):
        network = _Network()
        check = _short_of_memory(limit, where)
        if where == "forward":
            network.first.register_forward_pre_hook(lambda module, inputs: check(inputs[0]))
        else:
            network.norm.register_full_backward_hook(lambda module, to_inputs, from_outputs: check(from_outputs[0]))
        network.norm.train(False)
        optimizer = torch.optim.SGD([{"params": network.parameters(), "initial_lr": 0.0}], lr=0.0)
        schedule = Schedule(linear_lr(10, 1.0), -1, 0.0, 0.0, 0.0, 64)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        engine = Engine(network, loss, optimizer, schedule, scaler, None, torch.device("cpu"))
        engine._optimizer_step = lambda: None
        network.train = lambda mode=True: network
        images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 255
        loader = _Loader([])
        loader.__class__ = type("_One", (_Loader,), {"__len__": lambda self: 1, "__iter__": lambda self: iter(
            [(images.byte(), torch.zeros(0, 6), ["a"] * 7, None)])})  # fmt: skip
        state = StepState()
        losses = engine.train_epoch(loader, state, 1)
        return losses, state, {name: p.grad for name, p in network.named_parameters()}

    whole, state, expected = run(100)
    assert state.pieces == 1
    pieces, state, found = run(2)
    assert state.pieces == 4  # of 2 images each
    assert pieces == pytest.approx(whole, rel=1e-6)
    for name, gradient in expected.items():
        assert (gradient - found[name]).abs().max() <= 1e-5 * gradient.abs().max(), name


def test_memory_too_small_for_any_piece_ends_the_run_with_advice():
    engine = _engine(lambda outputs: outputs.mean())
    check = _short_of_memory(0, "forward")
    engine.model.register_forward_pre_hook(lambda module, inputs: check(inputs[0]))
    with pytest.raises(WorkError, match="out of memory with 1 images at a time.*--batch-size 1"):
        engine.train_epoch(_Loader([255]), StepState(), 1)


def test_multi_scale_depends_on_the_step_alone_and_covers_its_range():
    images = torch.zeros(1, 3, 64, 64)
    sizes = [multi_scale(images, 64, 32, seed=0, step=step).shape[2] for step in range(60)]
    assert sizes == [multi_scale(images, 64, 32, seed=0, step=step).shape[2] for step in range(60)]
    assert set(sizes) == {64, 96}, "never below two strides"
    large = torch.zeros(1, 3, 128, 128)
    assert {multi_scale(large, 128, 32, 0, step).shape[2] for step in range(60)} == {64, 96, 128, 160, 192}
