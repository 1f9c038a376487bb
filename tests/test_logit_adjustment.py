"""--cls-tau: class scores corrected by the training's class counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from utils.errors import InputError
from utils.logit_adjustment import LogitAdjustment, adjusted, build_adjustment, log_prior_offsets

LN3 = math.log(3)
LN9 = math.log(9)


class Model(nn.Module):
    """Gives fixed decoded predictions, as a detection model in evaluation mode does."""

    def __init__(self, prediction: torch.Tensor, class_weights=None, hyp=None, names=("a", "b")):
        super().__init__()
        self.prediction, self.names = prediction, dict(enumerate(names))
        if class_weights is not None:
            self.class_weights = torch.tensor(class_weights)
        if hyp is not None:
            self.hyp = hyp

    def forward(self, images: torch.Tensor, augment: bool = False):
        return self.prediction, ["raw"]


class Backend(nn.Module):
    """Holds models, as DetectMultiBackend does."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.fp16 = model, False
        self.names = (model[0] if isinstance(model, nn.ModuleList) else model).names

    def forward(self, images: torch.Tensor, augment: bool = False):
        inner = self.model[0] if isinstance(self.model, nn.ModuleList) else self.model
        return list(inner(images))


def _row(*scores: float) -> torch.Tensor:
    return torch.tensor([[[10.0, 20, 30, 40, 0.9, *scores]]])


def test_offsets_by_hand() -> None:
    """90 and 10 boxes: ln .9 - ln .9 = 0, ln .1 - ln .9 = -2.197225; no box counts as one."""
    assert log_prior_offsets(np.array([90, 10])).tolist() == pytest.approx([0, -2.197225], abs=1e-6)
    assert log_prior_offsets(np.array([100, 0])).tolist() == pytest.approx([0, -math.log(100)], abs=1e-6)


def test_two_classes_by_hand() -> None:
    """Counts 90 and 10, tau 1: the tail's logit rises by ln 9. z = 0 -> .9; z = -ln 3 -> .75; the head stays."""
    adjustment = LogitAdjustment(torch.tensor([0.0, LN9]))
    found = adjustment.scores(torch.tensor([[0.5, 0.5], [0.25, 0.25], [0.0, 0.0], [1.0, 1.0]]))
    assert found.tolist() == [[0.5, pytest.approx(0.9)], [0.25, pytest.approx(0.75)], [0, 0], [1, 1]]


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("softmax", [False, True])
def test_undoes_the_shift_of_training(tau, softmax) -> None:
    """Training with the adjustment fits z + tau a to the data, as training without it fits z. So plain scores act(z +
    tau a), corrected, must be the scores act(z) that the other training gives at inference."""
    offsets = torch.as_tensor(log_prior_offsets(np.array([900, 90, 10])))
    logits = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    activation = (lambda z: z.softmax(-1)) if softmax else torch.sigmoid
    plain = activation(logits + tau * offsets)
    adjustment = LogitAdjustment((-tau * offsets).float(), softmax)
    np.testing.assert_allclose(adjustment.scores(plain.float()), activation(logits), atol=5e-7, rtol=2e-5)


def test_softmax_by_hand() -> None:
    """Scores .75 and .25, counts 90 and 10: .75 and 2.25 over their sum 3."""
    found = LogitAdjustment(torch.tensor([0.0, LN9]), softmax=True).scores(torch.tensor([0.75, 0.25]))
    assert found.tolist() == pytest.approx([0.25, 0.75])


def test_only_class_columns_change_whatever_the_output() -> None:
    adjustment = LogitAdjustment(torch.tensor([0.0, LN9]))
    rows = torch.cat((_row(0.25, 0.25), torch.tensor([[[7.0, 8.0]]])), 2)  # two mask columns
    for output in (rows, (rows, "raw"), [rows, "raw"], (rows,), (rows.half(), None)):
        found = adjustment(output)
        assert type(found) is type(output)
        first = found if isinstance(found, torch.Tensor) else found[0]
        wanted = [10, 20, 30, 40, 0.9, 0.25, 0.75, 7, 8]
        assert first[0, 0].tolist() == pytest.approx(wanted, abs=1e-3)
        assert first.dtype == (output if isinstance(output, torch.Tensor) else output[0]).dtype


# Where the counts come from ------------------------------------------------------------------------------------------


def _scores(model, tau, data=None):
    with adjusted(model, tau, data):
        found = model(torch.zeros(1))[0][0, 0, 5:].tolist()
    assert model(torch.zeros(1))[0] is not None and not model._forward_hooks
    return found


def test_counts_of_the_checkpoint() -> None:
    """A checkpoint's class_weights are proportional to 1/n: 1/90 and 1/10."""
    model = Model(_row(0.25, 0.25), [0.2, 1.8])
    assert _scores(model, 1.0) == pytest.approx([0.25, 0.75])
    assert _scores(model, 0.5) == pytest.approx([0.25, 0.5])
    assert _scores(Backend(model), 1.0) == pytest.approx([0.25, 0.75])
    both = nn.ModuleList([model, Model(_row(0.25, 0.25), [0.1, 0.9])])
    assert _scores(Backend(both), 1.0) == pytest.approx([0.25, 0.75])


def test_off_leaves_the_model_alone() -> None:
    model = Model(_row(0.25, 0.25))
    with adjusted(model, 0.0, None):
        assert not model._forward_hooks
        assert model(torch.zeros(1))[0] is model.prediction


def test_counts_of_the_data_set(tiny_data) -> None:
    """tiny_data: 8 boxes of class green, 4 of blue; tau 1 doubles the odds of blue: 1/3 -> 2/3 -> .4."""
    model = Model(_row(0.25, 0.25), names=("green", "blue"))
    assert _scores(model, 1.0, str(tiny_data)) == pytest.approx([0.25, 0.4])


def test_the_model_comes_back_after_an_error() -> None:
    model = Model(_row(0.25, 0.25), [0.2, 1.8])
    with pytest.raises(KeyError), adjusted(model, 1.0):
        raise KeyError
    assert not model._forward_hooks


def test_a_class_at_the_last_place_of_a_softmax_head() -> None:
    model = Model(_row(0.75, 0.25), [0.2, 1.8])
    head = nn.Identity()
    head.cls_act = "softmax"
    model.model = nn.Sequential(head)
    assert _scores(model, 1.0) == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("tau", [-0.1, 2.1, math.nan, math.inf])
def test_a_strength_out_of_range_is_refused(tau) -> None:
    with pytest.raises(InputError, match="--cls-tau .*from 0"):
        build_adjustment(Model(_row(0.1, 0.2), [1.0, 2.0]), tau)


def test_never_twice() -> None:
    trained = {"cls_loss": "logit_adjust"}
    with pytest.raises(InputError, match="trained with cls_loss: logit_adjust"):
        build_adjustment(Model(_row(0.1, 0.2), [1.0, 2.0], trained), 1.0)
    with pytest.raises(InputError, match="trained with cls_loss: logit_adjust"):
        build_adjustment(Model(_row(0.1, 0.2), [1.0, 2.0], {**trained, "cls_tau": 0.5}), 1.0)
    neutral = {**trained, "cls_tau": 0.0, "cls_weights": [1.0, 2.0], "sampler": "none"}
    assert build_adjustment(Model(_row(0.1, 0.2), [1.0, 2.0], neutral), 1.0) is not None


def test_other_remedies_are_told(caplog, monkeypatch) -> None:
    from utils.logs import LOGGER

    monkeypatch.setattr(LOGGER, "propagate", True)
    build_adjustment(Model(_row(0.1, 0.2), [1.0, 2.0], {"cls_weights": "inverse", "sampler": "sqrt"}), 1.0)
    assert "cls_weights and sampler, rare classes rise twice" in caplog.text


def test_without_counts_it_is_refused(tiny_data, tmp_path) -> None:
    model = Model(_row(0.25, 0.25))
    with pytest.raises(InputError, match="does not tell the class counts of its training; name its data set"):
        build_adjustment(model, 1.0)
    with pytest.raises(InputError, match="has other classes than the model"):
        build_adjustment(model, 1.0, str(tiny_data))
    with pytest.raises(InputError, match="--data cannot be used: .*gone.yaml"):
        build_adjustment(model, 1.0, str(tmp_path / "gone.yaml"))
    with pytest.raises(InputError, match="different class counts"):
        members = nn.ModuleList([Model(_row(0.1, 0.2), [1.0, 2.0]), Model(_row(0.1, 0.2), [1.0, 3.0])])
        build_adjustment(Backend(members), 1.0)


def test_a_released_checkpoint_tells_its_counts(shared) -> None:
    """COCO: persons are the most frequent, toasters and hair driers the rarest."""
    from models.experimental import attempt_load

    model = attempt_load(shared / "weights/yolov5n.pt")
    shift = build_adjustment(model, 1.0).shift
    assert shift[0] == 0 and sorted(model.names[i] for i in shift.argsort()[-2:].tolist()) == ["hair drier", "toaster"]
    assert float(shift.max()) == pytest.approx(math.log(15.689 / 0.012075), abs=1e-3)
