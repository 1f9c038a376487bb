"""Losses of the class and objectness heads as pure functions, one value per element.

Symbols: z logit, p = sigmoid(z), t target in [0, 1], p_t = t·p + (1 − t)(1 − p), ℓ(z, t) binary cross-entropy, γ how
strongly easy elements are faded out. Every function takes logits and targets of one shape and returns float32 (float64
stays); half precision is widened first, because 1 − p underflows there. Reductions and weights belong to the caller.
With a loss's neutral settings the result is PyTorch's binary cross-entropy, bit for bit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_BASE = 1e-6  # of a power below 1, whose slope at 0 is infinite
MIN_SEESAW_LOG_SCORE = math.log(0.01)  # of the true class, in the compensation (arXiv:2008.10032)
BLUR_FLOOR = 1e-4  # keeps upstream's blur finite at width 0


def bce(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, ℓ = w·t·softplus(−z) + (1 − t)·softplus(z).

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1.
        pos_weight: w, (1,) or (k,), above 0; None is 1.
    """
    logits = full_precision(logits)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), pos_weight=pos_weight, reduction="none")


def sigmoid_focal_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float | None = None,
    gamma: float = 1.5,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Focal loss α_t · (1 − p_t)^γ · ℓ(z, t) of Lin et al., https://arxiv.org/abs/1708.02002.

    α_t = α·t + (1 − α)(1 − t). With γ = 0 and α None this is ``bce``, bit for bit.

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1. Soft targets do not have their minimum at p = t.
        alpha: weight of positives against negatives, between 0 and 1; None leaves it out.
        gamma: focusing strength, 0 to 5.
        pos_weight: of ℓ, as in ``bce``.
    """
    logits, targets = widened(logits, targets)
    loss = bce(logits, targets, pos_weight)
    if gamma:
        loss = loss * power(probability_missed(logits, targets), gamma)
    return loss if alpha is None else loss * balance_factor(targets, alpha)


def quality_focal_loss(
    logits: Tensor,
    targets: Tensor,
    alpha: float | None = None,
    gamma: float = 2.0,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Quality focal loss α_t · |t − p|^γ · ℓ(z, t) of Li et al., https://arxiv.org/abs/2006.04388; minimum at p = t.

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1, e.g. the IoU of the predicted box.
        alpha, gamma, pos_weight: as in ``sigmoid_focal_loss``; neutral with γ = 0 and α None.
    """
    logits, targets = widened(logits, targets)
    loss = bce(logits, targets, pos_weight)
    if gamma:
        loss = loss * power(residual(logits, targets).abs(), gamma)
    return loss if alpha is None else loss * balance_factor(targets, alpha)


def varifocal_loss(  # noqa: PLR0913  (the paper's symbols)
    logits: Tensor,
    targets: Tensor,
    alpha: float = 0.75,
    gamma: float = 2.0,
    weighted: bool = True,
    pos_weight: Tensor | None = None,
    positive: Tensor | None = None,
) -> Tensor:
    """Varifocal loss of Zhang et al., https://arxiv.org/abs/2008.13367.

    Positives t·ℓ(z, t), negatives α·p^γ·ℓ(z, t), where a negative's t is 0 (or what label smoothing makes of it).

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1, the IoU of positives; used without gradient.
        alpha: weight of negatives, above 0 to 1.
        gamma: focusing strength on negatives, 0 to 5.
        weighted: positives count by their target; otherwise ℓ. Neutral: False with α = 1 and γ = 0.
        pos_weight: of ℓ, as in ``bce``.
        positive: (..., k) bool, which elements are positives; by default t > 0.
    """
    logits, targets = widened(logits, targets.detach())
    loss = bce(logits, targets, pos_weight)
    if not weighted and not gamma and alpha == 1:
        return loss
    negative_factor = alpha * power(torch.sigmoid(logits), gamma) if gamma else torch.full_like(logits, alpha)
    positive = targets > 0 if positive is None else positive
    return loss * torch.where(positive, targets if weighted else torch.ones_like(targets), negative_factor)


def asymmetric_loss(  # noqa: PLR0913  (the paper's symbols)
    logits: Tensor,
    targets: Tensor,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    detach: bool = False,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss of Ridnik et al., https://arxiv.org/abs/2009.14119.

    t·(1 − p)^γ₊·softplus(−z) + (1 − t)·p_m^γ₋·(−ln(1 − p_m)), p_m = max(p − m, 0): a negative with p below m has
    neither loss nor gradient.

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1.
        gamma_pos: γ₊, focusing strength on positives, 0 to 5.
        gamma_neg: γ₋, focusing strength on negatives, 0 to 5.
        clip: m, 0 to 0.3. Neutral: γ₊ = γ₋ = m = 0.
        detach: no gradient through the two powers.
        pos_weight: of the positive part, as in ``bce``.
    """
    logits, targets = widened(logits, targets)
    if not clip and not gamma_pos and not gamma_neg:
        return bce(logits, targets, pos_weight)
    p, missing = torch.sigmoid(logits), torch.sigmoid(-logits)
    positive = -F.logsigmoid(logits)
    if clip:
        p = (p - clip).clamp(min=0)
        negative = -(missing + clip).clamp(torch.finfo(logits.dtype).tiny, 1).log()  # 1 − p_m without cancellation
    else:
        negative = -F.logsigmoid(-logits)
    if gamma_pos:
        positive = positive * _weight(power(missing, gamma_pos), detach)
    if gamma_neg:
        negative = negative * _weight(power(p, gamma_neg), detach)
    return _joined(positive, negative, targets, pos_weight)


def biscale_focal_loss(  # noqa: PLR0913  (a scale and a power per sign)
    logits: Tensor,
    targets: Tensor,
    scale_pos: float = 1.0,
    scale_neg: float = 1.0,
    gamma_pos: float = 1.0,
    gamma_neg: float = 2.0,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Bi-scale focal loss: positives and negatives each with a scale and a focusing strength of their own.

    s₊·t·(1 − p)^γ₊·softplus(−z) + s₋·(1 − t)·p^γ₋·softplus(z). No paper is known; the form is this project's. It equals
    ``asymmetric_loss`` without clip at scales 1, and ``sigmoid_focal_loss`` at γ₊ = γ₋, s₊ = α, s₋ = 1 − α.

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1.
        scale_pos, scale_neg: s₊ and s₋, above 0 to 10.
        gamma_pos, gamma_neg: γ₊ and γ₋, 0 to 5. Neutral: scales 1, γ 0.
        pos_weight: of the positive part, as in ``bce``.
    """
    logits, targets = widened(logits, targets)
    if not gamma_pos and not gamma_neg and scale_pos == scale_neg == 1:
        return bce(logits, targets, pos_weight)
    positive, negative = F.logsigmoid(logits), F.logsigmoid(-logits)
    if gamma_pos:
        positive = positive * power(torch.sigmoid(-logits), gamma_pos)
    if gamma_neg:
        negative = negative * power(torch.sigmoid(logits), gamma_neg)
    return _joined(-scale_pos * positive, -scale_neg * negative, targets, pos_weight)


def _joined(positive: Tensor, negative: Tensor, targets: Tensor, pos_weight: Tensor | None) -> Tensor:
    """Return w·t·positive + (1 − t)·negative."""
    return torch.lerp(negative, positive if pos_weight is None else positive * pos_weight, targets)


def _weight(factor: Tensor, detach: bool) -> Tensor:
    return factor.detach() if detach else factor


def bce_blur_loss(logits: Tensor, targets: Tensor, alpha: float = 0.05, pos_weight: Tensor | None = None) -> Tensor:
    """Upstream's blurred BCE, ℓ·(1 − exp((p − t − 1) / (a + 1e-4))): confident detections without a label count less.

    They may be objects that nobody labelled. There is no neutral setting.

    Args:
        logits: (..., k).
        targets: same shape, 0 to 1.
        alpha: a, the width, above 0 to 1.
        pos_weight: of ℓ, as in ``bce``.
    """
    logits, targets = widened(logits, targets)
    excess = torch.sigmoid(logits) - targets
    return bce(logits, targets, pos_weight) * -torch.expm1((excess - 1) / (alpha + BLUR_FLOOR))


class EqualizedFocus(NamedTuple):
    """Focus per class of the equalized focal loss. gammas: γ_j (nc,). factors: γ_j / γ_b (nc,), 1 where γ_b is 0."""

    gammas: Tensor
    factors: Tensor


def equalized_focus(grad_pos: Tensor, grad_neg: Tensor, gamma: float, scale: float) -> EqualizedFocus:
    """Return γ_j = γ_b + s·(1 − g_j) and γ_j / γ_b, with g_j = G⁺_j / G⁻_j between 0 and 1, 1 before any gradient.

    Args:
        grad_pos: (nc,) G⁺, sums of |dL/dz| over a class's positives.
        grad_neg: (nc,) G⁻, over its negatives.
        gamma: γ_b, 0 to 5.
        scale: s, 0 to 16.
    """
    balance = (grad_pos / (grad_neg + 1e-10)).clamp(0, 1)
    balance = torch.where(grad_pos + grad_neg > 0, balance, torch.ones_like(balance))
    gammas = gamma + scale * (1 - balance)
    return EqualizedFocus(gammas, gammas / gamma if gamma else torch.ones_like(gammas))


def equalized_focal_loss(
    logits: Tensor,
    targets: Tensor,
    focus: EqualizedFocus,
    alpha: float | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Equalized focal loss α_t · (γ_j/γ_b) · (1 − p_t)^γ_j · ℓ(z, t) of Li et al., https://arxiv.org/abs/2201.02593.

    Args:
        logits: (n, nc).
        targets: same shape, 0 to 1.
        focus: of each class, from ``equalized_focus``; neutral at γ_b = 0, s = 0; focal at s = 0.
        alpha, pos_weight: as in ``sigmoid_focal_loss``.
    """
    logits, targets = widened(logits, targets)
    missed = probability_missed(logits, targets).clamp(min=MIN_BASE)
    loss = bce(logits, targets, pos_weight) * missed**focus.gammas * focus.factors
    return loss if alpha is None else loss * balance_factor(targets, alpha)


def equalized_focal_gradient(
    logits: Tensor,
    targets: Tensor,
    focus: EqualizedFocus,
    alpha: float | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return d/dz of ``equalized_focal_loss``, same shape, without autograd.

    With u = 1 − p_t: u^γ·dℓ/dz + γ·u^(γ − 1)·(1 − 2t)·p(1 − p)·ℓ, times the factors.
    """
    logits = full_precision(logits.detach())
    targets = targets.detach().to(logits.dtype)
    p, q = torch.sigmoid(logits), torch.sigmoid(-logits)
    missed = (targets * q + (1 - targets) * p).clamp(min=MIN_BASE)
    weight = 1 if pos_weight is None else pos_weight
    slope = (1 - targets) * p - weight * targets * q
    curve = focus.gammas * (1 - 2 * targets) * p * q / missed * bce(logits, targets, pos_weight)
    gradient = missed**focus.gammas * focus.factors * (slope + curve)
    return gradient if alpha is None else gradient * balance_factor(targets, alpha)


def seesaw_shift(logits: Tensor, classes: Tensor, counts: Tensor, p: float = 0.8, q: float = 2.0) -> Tensor:
    """Return ln S_yj of Wang et al., https://arxiv.org/abs/2008.10032, (n, nc), 0 in each row's own class.

    S = M·C: mitigation M_yj = min(1, (N_j/N_y)^p) spares classes j rarer than y; compensation
    C_yj = max(1, (p_j/p_y)^q) takes that back where j scores above y, with p_y at least 0.01.

    Args:
        logits: (n, nc), used without gradient.
        classes: (n,) int64 class y of each row.
        counts: (nc,) instances N of each class; below 1 counts as 1.
        p, q: strengths of mitigation (0 to 2) and compensation (0 to 4).
    """
    logits = full_precision(logits.detach())
    shift = torch.zeros_like(logits)
    if p:
        log_counts = counts.clamp(min=1).to(logits.dtype).log()
        shift = shift + p * (log_counts - log_counts[classes][:, None]).clamp(max=0)
    if q:
        scores = F.logsigmoid(logits)
        true = scores.gather(1, classes[:, None]).clamp(min=MIN_SEESAW_LOG_SCORE)
        shift = shift + q * (scores - true).clamp(min=0)
    return shift.scatter(1, classes[:, None], 0.0)


def seesaw_loss(  # noqa: PLR0913  (the paper's symbols)
    logits: Tensor,
    targets: Tensor,
    classes: Tensor,
    counts: Tensor,
    p: float = 0.8,
    q: float = 2.0,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Seesaw loss of Wang et al., https://arxiv.org/abs/2008.10032, in a form for sigmoid scores (this project's).

    The true class ℓ(z_y, t); another class ℓ(z_j + ln S_yj, t), which for t = 0 is softplus(z_j + ln S_yj).

    Args:
        logits: (n, nc).
        targets: same shape, 0 to 1.
        classes, counts, p, q: as in ``seesaw_shift``; neutral at p = q = 0.
        pos_weight: of ℓ, as in ``bce``.
    """
    logits = full_precision(logits)
    if p or q:
        logits = logits + seesaw_shift(logits, classes, counts, p, q)
    return bce(logits, targets, pos_weight)


def log_prior(counts: Tensor) -> Tensor:
    """Return a_j = ln π_j − max ln π, (nc,) from 0 down, of training instances (nc,); below 1 counts as 1."""
    logs = counts.clamp(min=1).log()
    return logs - logs.max()


def logit_adjusted_loss(logits: Tensor, targets: Tensor, shift: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Logit-adjusted loss ℓ(z + τ·a, t) of Menon et al., https://arxiv.org/abs/2007.07314; inference uses plain z.

    Args:
        logits: (n, nc).
        targets: same shape, 0 to 1.
        shift: (nc,) τ·a, a from ``log_prior``, τ 0 to 2.
        pos_weight: of ℓ, as in ``bce``.
    """
    logits = full_precision(logits)
    return bce(logits + shift.to(logits.dtype), targets, pos_weight)


def softmax_focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss over softmax scores, (1 − p)^γ · CE per row with p = exp(−CE), (n, 1).

    CE = −Σ_j t_j·ln softmax(z)_j is unweighted inside the power, and the power applies to each row, not to their mean.
    At γ = 0 the mean is ``F.cross_entropy``.

    Args:
        logits: (n, nc).
        targets: same shape, 0 to 1, hard or smoothed.
        gamma: focusing strength, 0 to 5.
    """
    logits = full_precision(logits)
    cross_entropy = -(targets.to(logits.dtype) * F.log_softmax(logits, 1)).sum(1, keepdim=True)
    return cross_entropy * power(-torch.expm1(-cross_entropy), gamma) if gamma else cross_entropy


def probability_missed(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 − p_t, without the cancellation of 1 − sigmoid(z) at confident logits; same shape as the inputs."""
    return torch.lerp(torch.sigmoid(logits), torch.sigmoid(-logits), targets)


def residual(logits: Tensor, targets: Tensor) -> Tensor:
    """Return t − p, exact also where p is close to a hard target; same shape as the inputs."""
    return torch.lerp(-torch.sigmoid(logits), torch.sigmoid(-logits), targets)


def balance_factor(targets: Tensor, alpha: float) -> Tensor:
    """Return α_t = α·t + (1 − α)(1 − t), same shape as ``targets``."""
    return targets * (2 * alpha - 1) + (1 - alpha)


def power(base: Tensor, exponent: float) -> Tensor:
    """Return base^exponent for base in [0, 1] and exponent above 0, with a finite gradient at 0."""
    if exponent == 1:
        return base
    return base.clamp(min=MIN_BASE) ** exponent if exponent < 1 else base**exponent


def full_precision(logits: Tensor) -> Tensor:
    """Return half and bfloat16 logits as float32, wider ones unchanged."""
    return logits.float() if logits.dtype in {torch.float16, torch.bfloat16} else logits


def widened(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return both at full precision, the logits dense: every further pass over a slice of the outputs would be slow."""
    logits = full_precision(logits).contiguous()
    return logits, targets.to(logits.dtype)
