"""The pure loss functions: the published numbers, identities, gradients and limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from utils.balance.base_losses import (
    EqualizedFocus,
    asymmetric_loss,
    bce,
    bce_blur_loss,
    biscale_focal_loss,
    equalized_focal_gradient,
    equalized_focal_loss,
    equalized_focus,
    log_prior,
    logit_adjusted_loss,
    power,
    probability_missed,
    quality_focal_loss,
    seesaw_loss,
    seesaw_shift,
    sigmoid_focal_loss,
    softmax_focal_loss,
    varifocal_loss,
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


# ---- every function: the published numbers
def value(function: Callable[..., torch.Tensor], z: float, t: float, **options: Any) -> float:
    return function(torch.tensor([z]).double(), torch.tensor([t]).double(), **options).item()


@pytest.mark.parametrize(
    ("function", "z", "t", "options", "wanted"),
    [
        (quality_focal_loss, LN3, 0.5, {"gamma": 2}, 0.052312),
        (quality_focal_loss, -LN3, 0, {"gamma": 2}, 0.017980),
        (quality_focal_loss, LN3, 1, {"gamma": 1.5}, 0.035960),
        (quality_focal_loss, LN3, 0, {"gamma": 2, "alpha": 0.25}, 0.584843),
        (varifocal_loss, LN3, 0.8, {}, 0.405924),
        (varifocal_loss, -LN3, 0, {}, 0.013485),
        (varifocal_loss, LN3, 0.8, {"weighted": False}, 0.507405),
        (asymmetric_loss, LN3, 1, {}, 0.071921),
        (asymmetric_loss, LN3, 0, {}, 0.289074),
        (asymmetric_loss, -LN3, 0, {}, 0.000357),
        (asymmetric_loss, -4.0, 0, {}, 0.0),
        (asymmetric_loss, LN3, 0, {"gamma_neg": 2, "clip": 0}, 0.5625 * 1.386294),
        (biscale_focal_loss, LN3, 1, {"scale_neg": 0.5}, 0.071921),
        (biscale_focal_loss, LN3, 0, {"scale_neg": 0.5}, 0.389895),
        (bce_blur_loss, LN3, 0, {}, 1.386294 * (1 - math.exp(-0.25 / 0.0501))),
        (bce_blur_loss, LN3, 0.75, {}, 0.562335),
    ],
)
def test_by_hand(function: Callable, z: float, t: float, options: dict[str, Any], wanted: float) -> None:
    """Quality focal: ℓ(ln 3, .5) = .836988, |.5 − .75|² = .0625. Varifocal: ℓ(ln 3, .8) = .507405, ·.8.

    Asymmetric: (1 − .75)·.287682; p_m = .7: .7⁴·(−ln .3); p_m = .2: .2⁴·(−ln .8).
    """
    assert value(function, z, t, **options) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("function", "z", "t", "slope"),
    [
        (quality_focal_loss, LN3, 0.5, 0.0625 * 0.25 + 2 * 0.25 * 0.75 * 0.25 * 0.836988),
        (quality_focal_loss, LN3, 0.75, 0.0),
        (varifocal_loss, LN3, 0.8, 0.8 * (0.75 - 0.8)),
        (varifocal_loss, LN3, 0, 0.75 * 0.811770),
        (asymmetric_loss, -4.0, 0, 0.0),
    ],
)
def test_slopes_by_hand(function: Callable, z: float, t: float, slope: float) -> None:
    """Quality focal: |t − p|^γ(p − t) + γ|t − p|^(γ − 1) sign(p − t) p(1 − p) ℓ. Varifocal: t(p − t), else focal's."""
    logit = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    loss = function(logit, torch.tensor([t], dtype=torch.float64)).sum()
    assert torch.autograd.grad(loss, logit)[0].item() == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "z", "wanted"), [(0.5, LN3, 0.002248), (0.5, -LN3, 0.877264), (1.0, LN3, 0.017980), (1.0, -LN3, 0.779791)]
)
def test_equalized_focal_by_hand(share: float, z: float, wanted: float) -> None:
    """γ_b = 2, s = 4, g = .5: γ = 4, factor 2: 2·.25⁴·.287682 and 2·.75⁴·1.386294; g = 1 is focal."""
    focus = equalized_focus(torch.tensor([share]), torch.tensor([1.0]), 2.0, 4.0)
    loss = equalized_focal_loss(torch.tensor([[z]]), torch.ones(1, 1), focus)
    assert loss.item() == pytest.approx(wanted, abs=1e-6)


def test_equalized_focus_limits() -> None:
    """No gradient yet: g = 1. Positives only: g = 1. Negatives only: g = 0. γ_b = 0: factor 1."""
    pos, neg = torch.tensor([0.0, 3.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 3.0, 4.0])
    focus = equalized_focus(pos, neg, 2.0, 8.0)
    assert focus.gammas.tolist() == pytest.approx([2, 2, 10, 8])
    assert focus.factors.tolist() == pytest.approx([1, 1, 5, 4])
    assert equalized_focus(pos, neg, 0.0, 8.0).factors.tolist() == [1, 1, 1, 1]


def test_equalized_focal_without_scale_is_focal() -> None:
    logits, targets = random_case(True)
    focus = equalized_focus(torch.rand(5), torch.rand(5), 2.0, 0.0)
    focal = sigmoid_focal_loss(logits, targets, 0.25, 2.0)
    assert torch.allclose(equalized_focal_loss(logits, targets, focus, 0.25), focal, atol=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("pos_weight", [None, torch.tensor([2.0, 1.0, 0.5, 3.0, 1.0])])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_equalized_focal_gradient_is_autograds(alpha: float | None, pos_weight: torch.Tensor, gamma: float) -> None:
    for soft in (False, True):
        logits, targets = random_case(soft)
        logits = logits.detach().double().requires_grad_()
        focus = equalized_focus(torch.rand(5), torch.rand(5), gamma, 4.0)
        loss = equalized_focal_loss(logits, targets, focus, alpha, pos_weight).sum()
        mine = equalized_focal_gradient(logits, targets, focus, alpha, pos_weight)
        assert torch.allclose(mine, torch.autograd.grad(loss, logits)[0], atol=2e-5)


def test_seesaw_by_hand() -> None:
    """N = (100, 10), y = 0: M = .1^.8 = .158489; z_1 = 0, q = 0: ln(1 + .158489) = .147117. A rarer y: M = 1."""
    counts, logits, targets = torch.tensor([100.0, 10.0]), torch.tensor([[LN3, 0.0]]), torch.tensor([[1.0, 0.0]])
    loss = seesaw_loss(logits, targets, torch.tensor([0]), counts, q=0.0)
    assert loss.tolist()[0] == pytest.approx([0.287682, 0.147117], abs=1e-6)
    shift = seesaw_shift(logits, torch.tensor([1]), counts, q=0.0)
    assert shift.tolist() == [[0.0, 0.0]]


def test_seesaw_compensation_by_hand() -> None:
    """p_y = .25, p_j = .75, q = 2: C = 9; p_y = e^−10 counts as .01: C = 75² = 5625."""
    counts, targets = torch.ones(2), torch.tensor([[1.0, 0.0]])
    for true, c in ((-LN3, 9.0), (-10.0, 5625.0)):
        logits = torch.tensor([[true, LN3]])
        shift = seesaw_shift(logits, torch.tensor([0]), counts, p=0.0, q=2.0)
        assert shift.tolist()[0] == pytest.approx([0.0, math.log(c)], abs=1e-5)
        loss = seesaw_loss(logits, targets, torch.tensor([0]), counts, 0.0, 2.0)
        assert loss[0, 1].item() == pytest.approx(math.log1p(3 * c), abs=1e-5)
    sure = seesaw_shift(torch.tensor([[LN3, -LN3]]), torch.tensor([0]), counts, p=0.0, q=2.0)
    assert sure.tolist() == [[0.0, 0.0]]


def test_logit_adjustment_by_hand() -> None:
    """n = (90, 10): a = (0, −ln 9) = (0, −2.197225); the tail at z = 0: −ln .1 = 2.302585 and −ln .9 = .105361."""
    shift = log_prior(torch.tensor([90.0, 10.0]))
    assert shift.tolist() == pytest.approx([0.0, -2.197225], abs=1e-6)
    for target, wanted in ((1.0, 2.302585), (0.0, 0.105361)):
        loss = logit_adjusted_loss(torch.zeros(1, 2), torch.full((1, 2), target), shift)
        assert loss[0].tolist() == pytest.approx([0.693147, wanted], abs=1e-6)
    assert log_prior(torch.tensor([0.0, 1.0])).tolist() == [0.0, 0.0]


def test_softmax_focal_by_hand() -> None:
    """z = (ln 3, 0, 0): p = .6, CE = .510826; γ = 2: .16·.510826 = .081732; a row weight of 2 doubles it."""
    logits, targets = torch.tensor([[LN3, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert softmax_focal_loss(logits, targets, 0.0).item() == pytest.approx(0.510826, abs=1e-6)
    loss = softmax_focal_loss(logits, targets)
    assert loss.shape == (1, 1) and loss.item() == pytest.approx(0.081732, abs=1e-6)
    assert (2 * loss).item() == pytest.approx(0.163464, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_focal_without_focus_is_cross_entropy(smoothing: float) -> None:
    logits, classes = torch.randn(20, 4), torch.arange(20) % 4
    targets = torch.full((20, 4), smoothing / 4).scatter(1, classes[:, None], 1 - smoothing * 3 / 4)
    reference = F.cross_entropy(logits, classes, label_smoothing=smoothing)
    assert torch.allclose(softmax_focal_loss(logits, targets, 0.0).mean(), reference, atol=1e-6)


def test_softmax_focal_powers_each_row() -> None:
    """The mean of the rows' own products, not the power of their mean."""
    logits, targets = torch.tensor([[LN3, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    wanted = (0.16 * 0.510826 + (2 / 3) ** 2 * math.log(3)) / 2
    assert softmax_focal_loss(logits, targets).mean().item() == pytest.approx(wanted, abs=1e-6)


# ---- every function: identities
def test_relations_between_the_losses() -> None:
    hard, soft = random_case(False), random_case(True)
    close = partial(torch.allclose, atol=1e-6, rtol=1e-5)
    assert close(quality_focal_loss(*hard, 0.25, 1.5), sigmoid_focal_loss(*hard, 0.25, 1.5))
    for logits, targets in (hard, soft):
        asl = asymmetric_loss(logits, targets, 1.0, 2.0, 0.0)
        assert close(asl, biscale_focal_loss(logits, targets))
    focal = sigmoid_focal_loss(*hard, 0.25, 2.0)
    assert close(focal, biscale_focal_loss(*hard, 0.25, 0.75, 2.0, 2.0))
    negatives = torch.zeros_like(hard[1])
    assert close(varifocal_loss(hard[0], negatives, 0.5, 1.5), 0.5 * sigmoid_focal_loss(hard[0], negatives))


def test_pos_weight_scales_the_positive_part() -> None:
    logits, w = torch.linspace(-3, 3, 7), torch.tensor([3.0])
    ones, zeros = torch.ones(7), torch.zeros(7)
    for function in (quality_focal_loss, varifocal_loss, asymmetric_loss, biscale_focal_loss, bce_blur_loss):
        assert torch.allclose(function(logits, ones, pos_weight=w), 3 * function(logits, ones))
        assert torch.equal(function(logits, zeros, pos_weight=w), function(logits, zeros))


def test_a_clip_of_almost_nothing_is_no_clip() -> None:
    """−ln(1 − p_m) at a tiny m comes close to softplus(z)."""
    z = torch.linspace(-8, 8, 33).double()
    without, almost = (asymmetric_loss(z, torch.zeros_like(z), clip=m) for m in (0.0, 1e-9))
    assert torch.allclose(without, almost, atol=1e-6)


def test_detached_focus_keeps_the_value_and_drops_its_slope() -> None:
    z = torch.tensor([LN3], requires_grad=True)
    losses = [asymmetric_loss(z, torch.zeros(1), clip=0.0, detach=detach).sum() for detach in (False, True)]
    assert losses[0] == losses[1]
    assert torch.autograd.grad(losses[1], z)[0].item() == pytest.approx(0.75**4 * 0.75, abs=1e-6)


FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "quality": quality_focal_loss,
    "quality, low gamma": partial(quality_focal_loss, gamma=0.5, alpha=0.25),
    "varifocal": varifocal_loss,
    "varifocal, low gamma": partial(varifocal_loss, gamma=0.5, weighted=False),
    "asymmetric": asymmetric_loss,
    "asymmetric, low gamma": partial(asymmetric_loss, gamma_pos=0.5, gamma_neg=0.5, clip=0.3),
    "asymmetric, no clip": partial(asymmetric_loss, clip=0.0),
    "biscale": biscale_focal_loss,
    "biscale, low gamma": partial(biscale_focal_loss, scale_neg=0.1, gamma_pos=0.5, gamma_neg=0.25),
    "blur": bce_blur_loss,
    "equalized": lambda z, t: equalized_focal_loss(z, t, EqualizedFocus(torch.tensor([5.0]), torch.tensor([2.5]))),
    "equalized, low gamma": lambda z, t: equalized_focal_loss(
        z, t, EqualizedFocus(torch.tensor([0.5]), torch.tensor([1.0]))
    ),
    "adjusted": partial(logit_adjusted_loss, shift=torch.tensor([-2.0])),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3, 0.95])
def test_gradcheck_of_every_function(name: str, target: float) -> None:
    z = torch.tensor([0.1, -0.1, 3, -3, 20, -20], dtype=torch.float64, requires_grad=True)
    t = torch.full_like(z, target)
    assert torch.autograd.gradcheck(lambda x: FUNCTIONS[name](x, t), (z,))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradcheck_of_the_row_losses(gamma: float) -> None:
    rows = torch.tensor([[0.1, -0.1, 3], [-3, 20, -20], [20, -20, 3]], dtype=torch.float64, requires_grad=True)
    targets, classes = torch.eye(3).double(), torch.arange(3)
    shift = seesaw_shift(rows, classes, torch.tensor([100.0, 10.0, 1.0]))
    for smoothed in (targets, targets * 0.9 + 0.05):
        assert torch.autograd.gradcheck(lambda x, t=smoothed: bce(x + shift, t), (rows,))
        assert torch.autograd.gradcheck(lambda x, t=smoothed: softmax_focal_loss(x, t, gamma), (rows,))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_function_is_finite_at_extreme_logits(name: str, dtype: torch.dtype) -> None:
    z = torch.tensor([1e4, -1e4, 100, -100, 30, -30, 0], requires_grad=True)
    for target in (0.0, 1.0, 0.3):
        loss = FUNCTIONS[name](z.to(dtype), torch.full((7,), target))
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss).all() and (loss >= 0).all()
        assert torch.isfinite(torch.autograd.grad(loss.sum(), z)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_row_losses_are_finite_at_extreme_logits(dtype: torch.dtype, gamma: float) -> None:
    z = torch.tensor([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [100, 30, -30]], requires_grad=True)
    classes = torch.arange(3)
    targets = torch.eye(3)
    for loss in (
        softmax_focal_loss(z.to(dtype), targets, gamma),
        seesaw_loss(z.to(dtype), targets, classes, torch.tensor([1e6, 1.0, 0.0]), 2.0, 4.0),
    ):
        assert loss.dtype == torch.float32 and torch.isfinite(loss).all() and (loss >= 0).all()
        assert torch.isfinite(torch.autograd.grad(loss.sum(), z)[0]).all()


@given(z=st.floats(-30, 30), t=st.floats(0, 1), gamma=st.floats(0, 5))
def test_quality_focal_is_least_at_its_target(z: float, t: float, gamma: float) -> None:
    target = torch.tensor([t]).double()
    best = torch.logit(target, eps=1e-9)
    assert quality_focal_loss(torch.tensor([z]).double(), target, gamma=gamma) >= (
        quality_focal_loss(best, target, gamma=gamma) - 1e-7
    )


@given(z=st.floats(-50, 50), t=st.floats(0, 1), gammas=st.tuples(st.floats(0, 5), st.floats(0, 5)), m=st.floats(0, 0.3))
def test_focusing_never_adds(z: float, t: float, gammas: tuple[float, float], m: float) -> None:
    """Each power is at most 1, and the clip lowers a negative's probability."""
    logit, target = torch.tensor([z]).double(), torch.tensor([t]).double()
    assert asymmetric_loss(logit, target, *gammas, m) <= bce(logit, target) * (1 + 1e-9) + 1e-12
