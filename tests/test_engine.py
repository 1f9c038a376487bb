"""The training loop on a model of one weight."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from utils.errors import WorkError
from utils.training.engine import Engine, StepState, multi_scale
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


def test_a_loss_that_is_not_finite_stops_with_its_terms():
    engine = _engine(lambda outputs: outputs.mean() * float("nan"))
    with pytest.raises(WorkError, match="epoch 0, batch 0.*box nan"):
        engine.train_epoch(_Loader([255]), StepState(), 1)


def test_multi_scale_depends_on_the_step_alone_and_covers_its_range():
    images = torch.zeros(1, 3, 64, 64)
    sizes = [multi_scale(images, 64, 32, seed=0, step=step).shape[2] for step in range(60)]
    assert sizes == [multi_scale(images, 64, 32, seed=0, step=step).shape[2] for step in range(60)]
    assert set(sizes) == {32, 64, 96}
