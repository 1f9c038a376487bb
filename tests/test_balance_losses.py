"""The pure loss functions: the published numbers, identities, gradients and limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from utils.balance.losses import (
    BASE_LOSSES,
    bce,
    build_head_loss,
    power,
    probability_missed,
    sigmoid_focal_loss,
)

LN3 = math.log(3.0)  # sigmoid(ln 3) = .75


def at(z: float, t: float, **options: float | None) -> tuple[float, float]:
    """Return the focal loss of one element and its slope."""
    logit = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    loss = sigmoid_focal_loss(logit, torch.tensor([t], dtype=torch.float64), **options).sum()
    return loss.item(), torch.autograd.grad(loss, logit)[0].item()


@pytest.mark.parametrize(
    ("z", "t", "value"),
    [(LN3, 1, 0.287682), (-LN3, 0, 0.287682), (-LN3, 1, 1.386294), (LN3, 0, 1.386294), (0.0, 1, 0.693147)],
)
def test_bce_by_hand(z: float, t: float, value: float) -> None:
    """−ln .75 = .287682, −ln .25 = 1.386294, −ln .5 = .693147."""
    assert bce(torch.tensor([z]), torch.tensor([float(t)])).item() == pytest.approx(value, abs=1e-6)


def test_bce_positive_weight() -> None:
    """w·t·softplus(−z) + (1 − t)·softplus(z) at t = .5, w = 3: 1.5·.287682 + .5·1.386294."""
    value = bce(torch.tensor([LN3]), torch.tensor([0.5]), torch.tensor([3.0]))
    assert value.item() == pytest.approx(1.5 * 0.287682 + 0.5 * 1.386294, abs=1e-5)


@pytest.mark.parametrize(
    ("z", "t", "gamma", "alpha", "value"),
    [
        (LN3, 1, 2, None, 0.017980),
        (-LN3, 1, 2, None, 0.779791),
        (0, 1, 2, None, 0.173287),
        (LN3, 0, 2, None, 0.779791),
        (LN3, 1, 2, 0.25, 0.004495),
        (-LN3, 1, 2, 0.25, 0.194948),
        (0, 0, 2, 0.25, 0.129965),
        (LN3, 0, 2, 0.25, 0.584843),
        (LN3, 1, 1.5, None, 0.035960),
        (-LN3, 1, 1.5, None, 0.900425),
        (0, 1, 1.5, None, 0.245065),
    ],
)
def test_focal_by_hand(z: float, t: float, gamma: float, alpha: float | None, value: float) -> None:
    """α_t (1 − p_t)^γ ℓ; e.g. .25²·.287682 = .017980."""
    assert at(z, t, alpha=alpha, gamma=gamma)[0] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("t", "slope"), [(1, -0.042595), (0, 0.811770)])
def test_focal_slope_by_hand(t: float, slope: float) -> None:
    """T = 1: (1 − p)^γ (γ p ln p + p − 1); t = 0: p^γ (p − γ (1 − p) ln(1 − p)), at p = .75, γ = 2."""
    assert at(LN3, t, gamma=2.0)[1] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(("p", "factor"), [(0.6225, 0.322), (0.99, 0.234)])
def test_focal_factor_with_soft_targets(p: float, factor: float) -> None:
    """At t = .6225, γ = 1.5 and α .25 upstream's factor rewards overshoot: α_t·(1 − p_t)^γ."""
    t, z = torch.tensor([0.6225]), torch.logit(torch.tensor([p]))
    ratio = sigmoid_focal_loss(z, t, gamma=1.5) / bce(z, t)
    assert ratio.item() == pytest.approx(factor, abs=1e-3)


def random_case(soft: bool) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(200, 5, generator=g) * 6
    targets = torch.rand(200, 5, generator=g)
    return logits.requires_grad_(), targets if soft else (targets > 0.7).float()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_gamma_zero_is_bce_bit_for_bit(soft: bool) -> None:
    logits, targets = random_case(soft)
    reference = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.equal(sigmoid_focal_loss(logits, targets, gamma=0.0), reference)
    assert torch.equal(bce(logits, targets), reference)


def test_gamma_zero_with_alpha_is_not_bce() -> None:
    logits, targets = random_case(False)
    scale = torch.where(targets == 1, 0.25, 0.75)
    focal = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=0.0)
    assert torch.allclose(focal, bce(logits, targets) * scale)


@pytest.mark.parametrize("name", BASE_LOSSES)
@pytest.mark.parametrize("head", ["cls", "obj"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_neutral_settings_are_pytorchs_loss(name: str, head: str, soft: bool) -> None:
    logits, targets = random_case(soft)
    mine = build_head_loss({f"{head}_loss": name, f"{head}_gamma": 0.0, f"{head}_pw": 1.0}, head)
    a, b = mine(logits, targets), nn.BCEWithLogitsLoss()(logits, targets)
    assert torch.equal(a, b)
    assert torch.equal(torch.autograd.grad(a, logits)[0], torch.autograd.grad(b, logits)[0])
    assert torch.equal(mine.elements(logits, targets).mean(), b)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3, 0.95])
def test_gradcheck(gamma: float, alpha: float | None, target: float) -> None:
    z = torch.tensor([0.1, -0.1, 3, -3, 20, -20], dtype=torch.float64, requires_grad=True)
    t = torch.full_like(z, target)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, t, alpha, gamma), (z,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_at_extreme_logits(gamma: float, dtype: torch.dtype) -> None:
    z = torch.tensor([1e4, -1e4, 100, -100, 0], requires_grad=True)
    for target in (0.0, 1.0, 0.3):
        loss = sigmoid_focal_loss(z.to(dtype), torch.full((5,), target), alpha=0.25, gamma=gamma)
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss).all() and (loss >= 0).all()
        assert torch.isfinite(torch.autograd.grad(loss.sum(), z)[0]).all()


def test_float32_inside_autocast() -> None:
    z = torch.linspace(-12, 12, 50).bfloat16().requires_grad_()
    t = (torch.arange(50) % 2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sigmoid_focal_loss(z, t, gamma=1.5)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, sigmoid_focal_loss(z.detach().float(), t, gamma=1.5), rtol=1e-6)
    assert torch.isfinite(torch.autograd.grad(loss.sum(), z)[0]).all()


def test_no_cancellation_at_confident_logits() -> None:
    """1 − p_t at z = 30, t = 1 is e^−30 to first order; 1 − sigmoid(30) is 0 in float32."""
    missed = probability_missed(torch.tensor([30.0]), torch.tensor([1.0]))
    assert missed.item() == pytest.approx(math.exp(-30), rel=1e-5)


def test_power_at_zero_has_a_finite_slope() -> None:
    for exponent in (0.3, 1.0, 2.0):
        base = torch.zeros(1, requires_grad=True)
        assert torch.isfinite(torch.autograd.grad(power(base, exponent).sum(), base)[0]).all()


def test_positive_weights_per_class() -> None:
    loss = build_head_loss({"cls_pw": [1.0, 2.0, 3.0]}, "cls")
    logits = torch.randn(4, 3)
    reference = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(loss(logits, torch.ones(4, 3)), reference(logits, torch.ones(4, 3)))


def test_unknown_loss_name() -> None:
    with pytest.raises(ValueError, match="cls_loss: 'fokal'"):
        build_head_loss({"cls_loss": "fokal"}, "cls")
