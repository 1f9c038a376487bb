"""Losses as a hyp file builds them: neutral settings, contexts, running state, empty batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.balance import base_losses as b
from utils.balance.base_losses import equalized_focal_loss, equalized_focus, varifocal_loss
from utils.balance.head_loss import BCELoss, HeadContext, HeadLoss
from utils.balance.loss_names import CLASS_ONLY, COMPOSITES, LOSS_PARAMETERS
from utils.balance.losses import BASE_LOSSES, NEUTRAL, build_head_loss
from utils.balance.running_losses import EqualizedFocalLoss, SeesawLoss

COUNTS = [90.0, 30.0, 9.0, 1.0, 0.0]
NC = len(COUNTS)
HEADS = [("cls", name) for name in BASE_LOSSES] + [("obj", name) for name in BASE_LOSSES if name not in CLASS_ONLY]


def batch(soft: bool = False, rows: int = 200, seed: int = 3) -> tuple[Tensor, Tensor, HeadContext]:
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, NC, generator=g) * 4).requires_grad_()
    classes = torch.randint(0, NC - 1, (rows,), generator=g)
    targets = torch.rand(rows, NC, generator=g) if soft else F.one_hot(classes, NC).float()
    return logits, targets, HeadContext(classes, torch.rand(rows, generator=g))


def built(head: str, name: str | None, **settings: Any) -> HeadLoss:
    hyp = {f"{head}_loss": name, **{f"{head}_{key}": value for key, value in settings.items()}}
    return build_head_loss(hyp, head, class_counts=COUNTS)


def reference(logits: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    value = nn.BCEWithLogitsLoss(**options)(logits, targets)
    return value, torch.autograd.grad(value, logits)[0]


# ---- neutral settings
@pytest.mark.parametrize(("head", "name"), [(h, n) for h, n in HEADS if n in NEUTRAL])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_neutral_settings_are_pytorchs_loss_bit_for_bit(head: str, name: str, soft: bool) -> None:
    logits, targets, context = batch(soft)
    mine = built(head, name, **NEUTRAL[name])
    assert isinstance(mine, BCELoss)
    value = mine(logits, targets, context)
    wanted, slope = reference(logits, targets)
    assert torch.equal(value, wanted)
    assert torch.equal(torch.autograd.grad(value, logits)[0], slope)
    assert torch.equal(mine.elements(logits, targets, context).mean(), wanted)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", ["efl", "seesaw", "logit_adjust", "asl", "biscale", "varifocal", "qfocal", "focal"])
def test_neutral_formulas_are_pytorchs_loss_bit_for_bit(name: str, soft: bool) -> None:
    """The formulas themselves, not only the builder's way around them."""
    logits, targets, context = batch(soft)
    zeros = torch.zeros(NC)
    formulas: dict[str, Callable[[], Tensor]] = {
        "focal": lambda: b.sigmoid_focal_loss(logits, targets, None, 0.0),
        "qfocal": lambda: b.quality_focal_loss(logits, targets, None, 0.0),
        "varifocal": lambda: b.varifocal_loss(logits, targets, 1.0, 0.0, weighted=False),
        "asl": lambda: b.asymmetric_loss(logits, targets, 0.0, 0.0, 0.0),
        "biscale": lambda: b.biscale_focal_loss(logits, targets, 1.0, 1.0, 0.0, 0.0),
        "efl": lambda: b.equalized_focal_loss(logits, targets, b.equalized_focus(zeros, zeros, 0.0, 0.0)),
        "seesaw": lambda: b.seesaw_loss(logits, targets, context.classes, torch.tensor(COUNTS), 0.0, 0.0),
        "logit_adjust": lambda: b.logit_adjusted_loss(logits, targets, 0.0 * b.log_prior(torch.tensor(COUNTS))),
    }
    values = formulas[name]()
    wanted = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    assert torch.equal(values, wanted)
    slopes = [torch.autograd.grad(elements.mean(), logits)[0] for elements in (values, wanted)]
    assert torch.equal(*slopes)


def test_neutral_means_every_parameter() -> None:
    for head, name in HEADS:
        for key in NEUTRAL.get(name, {}):
            others = {k: v for k, v in NEUTRAL[name].items() if k != key}
            changed = built(head, name, **others, **{key: _other_than_neutral(name, key)})
            assert not isinstance(changed, BCELoss) or (head, key) == ("obj", "qtarget"), (name, key)


def _other_than_neutral(name: str, key: str) -> Any:
    return {"qtarget": "iou", "vfl_weighted": True, "alpha": 0.5, "clip": 0.1}.get(key, 2.0)


def test_gamma_zero_with_alpha_is_not_bce() -> None:
    logits, targets, _ = batch()
    scale = torch.where(targets == 1, 0.25, 0.75)
    focal = built("cls", "focal", gamma=0.0, alpha=0.25)
    assert torch.allclose(focal.elements(logits, targets), BCELoss().elements(logits, targets) * scale)


# ---- names, defaults, errors
@pytest.mark.parametrize(("head", "name"), HEADS)
def test_builder_uses_the_losses_own_defaults(head: str, name: str) -> None:
    """Keys that are absent and keys at null build the same loss."""
    logits, targets, context = batch()
    absent, null = built(head, name), built(head, name, **dict.fromkeys(LOSS_PARAMETERS[name]))
    explicit = built(head, name, **LOSS_PARAMETERS[name])
    values = [loss.elements(logits, targets, context) for loss in (absent, null, explicit)]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_names_and_table_agree() -> None:
    assert set(BASE_LOSSES) == set(LOSS_PARAMETERS)
    for name, neutral in NEUTRAL.items():
        assert set(neutral) == set(LOSS_PARAMETERS[name]) - {"asl_detach"}


@pytest.mark.parametrize("name", COMPOSITES)
def test_composite_names_build_focal(name: str) -> None:
    logits, targets, _ = batch()
    focal = built("obj", "focal", gamma=2.0)
    assert torch.equal(built("obj", name, gamma=2.0).elements(logits, targets), focal.elements(logits, targets))


def test_upstreams_switch_turns_on_focal_with_its_alpha() -> None:
    logits, targets, _ = batch(soft=True)
    upstream = build_head_loss({"fl_gamma": 1.5, "cls_loss": None, "cls_gamma": None}, "cls")
    explicit = built("cls", "focal", gamma=1.5, alpha=0.25)
    assert torch.equal(upstream.elements(logits, targets), explicit.elements(logits, targets))
    assert isinstance(build_head_loss({"fl_gamma": 0.0}, "obj"), BCELoss)


@pytest.mark.parametrize(("head", "name"), [("cls", "fokal"), ("obj", "efl"), ("obj", "softmax_focal")])
def test_unknown_loss_name(head: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{head}_loss: '{name}' is not one of bce, focal"):
        built(head, name)


def test_missing_facts_are_named() -> None:
    for name in ("logit_adjust", "efl", "seesaw"):
        with pytest.raises(ValueError, match="class_counts"):
            build_head_loss({"cls_loss": name}, "cls")
    assert build_head_loss({"cls_loss": "efl"}, "cls", nc=3).sums.shape == (2, 3)
    assert build_head_loss({"cls_loss": "seesaw"}, "cls", nc=3).sums.tolist() == [[0, 0, 0]]
    logits, targets, context = batch()
    with pytest.raises(ValueError, match=r"context\.classes"):
        built("cls", "varifocal").elements(logits, targets)
    with pytest.raises(ValueError, match=r"context\.iou"):
        built("cls", "qfocal", qtarget="iou").elements(logits, targets, context._replace(iou=None))


def test_positive_weights_per_class() -> None:
    loss = build_head_loss({"cls_pw": [1.0, 2.0, 3.0]}, "cls")
    logits = torch.randn(4, 3)
    wanted = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(loss(logits, torch.ones(4, 3)), wanted(logits, torch.ones(4, 3)))
    assert loss.state_dict() == {}


@pytest.mark.parametrize("name", [name for name in BASE_LOSSES if name != "softmax_focal"])
def test_positive_weights_reach_every_loss(name: str) -> None:
    logits, targets, context = batch()
    plain, weighted = built("cls", name), built("cls", name, pw=[1.0, 2.0, 3.0, 4.0, 5.0])
    ratio = (weighted.elements(logits, targets, context) / plain.elements(logits, targets, context))[targets == 1]
    if name != "varifocal":  # whose targets are IoUs: neither part vanishes
        assert torch.allclose(ratio, 1.0 + context.classes, rtol=1e-4)
    assert (ratio[context.classes > 0] > 1).all()


# ---- targets from the context
def test_iou_is_the_target_of_the_true_class() -> None:
    logits, targets, context = batch(rows=3)
    loss = built("cls", "qfocal", qtarget="iou")
    found = loss.targets(targets, context)
    assert torch.equal(found[torch.arange(3), context.classes], context.iou)
    assert found.sum() == pytest.approx(context.iou.sum().item())
    assert torch.equal(built("cls", "qfocal").targets(targets, context), targets)
    assert torch.equal(built("obj", "qfocal", qtarget="iou").targets(targets, context), targets)


def test_varifocal_counts_smoothed_negatives_as_negatives() -> None:
    """Without the classes, a negative at target .05 would be a positive of weight .05."""
    logits, targets, context = batch(rows=50)
    smoothed = targets * 0.9 + 0.05
    loss = built("cls", "varifocal").elements(logits, smoothed, context)
    true = targets.bool()
    iou = context.iou[:, None].expand_as(loss)
    p = logits.sigmoid()
    negatives = 0.75 * p**2 * F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    positives = iou * F.binary_cross_entropy_with_logits(logits, iou, reduction="none")
    assert torch.allclose(loss, torch.where(true, positives, negatives), atol=1e-6)


def test_varifocal_objectness_takes_its_targets_as_iou() -> None:
    logits, targets = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4).round(decimals=1)
    assert torch.equal(built("obj", "varifocal").elements(logits, targets), varifocal_loss(logits, targets))


# ---- shapes, scores, hardness
@pytest.mark.parametrize(("head", "name"), HEADS)
def test_shapes_precision_and_hardness(head: str, name: str) -> None:
    logits, targets, context = batch(rows=20)
    loss = built(head, name)
    values, hardness = loss.elements(logits, targets, context), loss.hardness(logits, targets, context)
    assert values.shape == hardness.shape == ((20, 1) if name == "softmax_focal" else (20, NC))
    assert not hardness.requires_grad and (hardness >= 0).all() and (hardness <= 1).all()
    assert loss.probabilities(logits).shape == logits.shape
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = loss.elements(logits.bfloat16(), targets, context)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    assert torch.isfinite(torch.autograd.grad(half.sum(), logits)[0]).all()


@pytest.mark.parametrize(("head", "name"), HEADS)
def test_nothing_to_learn_from(head: str, name: str) -> None:
    logits = torch.zeros(0, NC, requires_grad=True)
    context = HeadContext(torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    loss = built(head, name)
    value = loss(logits, torch.zeros(0, NC), context)
    assert value.item() == 0 and torch.autograd.grad(value, logits)[0].shape == (0, NC)
    loss.update(logits, torch.zeros(0, NC), 1.0, context)
    loss.step()
    assert all(torch.isfinite(tensor).all() for tensor in loss.state_dict().values())


@pytest.mark.parametrize("name", BASE_LOSSES)
def test_a_single_class(name: str) -> None:
    logits = torch.randn(6, 1, requires_grad=True)
    context = HeadContext(torch.zeros(6, dtype=torch.int64), torch.rand(6))
    loss = build_head_loss({"cls_loss": name}, "cls", class_counts=[6.0])
    value = loss(logits, torch.ones(6, 1), context)
    assert torch.isfinite(value) and torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


@pytest.mark.parametrize(("head", "name"), HEADS)
def test_a_step_down_the_slope_lowers_the_loss(head: str, name: str) -> None:
    logits, targets, context = batch()
    loss = built(head, name)
    before = loss(logits, targets, context)
    slope = torch.autograd.grad(before, logits)[0]
    after = loss(logits - 1.0 * slope, targets, context)
    assert after < before


def test_rare_classes_are_spared_by_the_common_ones() -> None:
    """At equal logits, seesaw and logit adjustment push a rare negative less than a common one."""
    logits = torch.zeros(1, NC, requires_grad=True)
    targets, context = torch.tensor([[1.0, 0, 0, 0, 0]]), HeadContext(torch.tensor([0]))
    for name in ("seesaw", "logit_adjust"):
        slope = torch.autograd.grad(built("cls", name)(logits, targets, context), logits)[0][0]
        assert slope[1] > slope[2] > slope[3] > 0 and slope[0] < 0


# ---- running state
def train(loss: HeadLoss, parts: list[list[tuple[Tensor, Tensor, HeadContext]]]) -> list[Tensor]:
    """Run steps of several layers each and return the losses."""
    values = []
    for layers in parts:
        for logits, targets, context in layers:
            values.append(loss.elements(logits, targets, context).mean().detach())
            loss.update(logits, targets, torch.rand(NC, generator=torch.Generator().manual_seed(1)), context)
        loss.step()
    return values


STEPS = [[batch(seed=2 * step + layer) for layer in range(2)] for step in range(3)]


def halves(part: tuple[Tensor, Tensor, HeadContext], rank: int) -> tuple[Tensor, Tensor, HeadContext]:
    logits, targets, context = part
    rows = slice(rank * 70, 70 + rank * 130)  # 70 and 130 of 200
    return logits[rows], targets[rows], HeadContext(*(field[rows] for field in context))


@pytest.mark.parametrize("name", ["efl", "seesaw"])
def test_two_processes_keep_the_state_of_one(name: str) -> None:
    alone = built("cls", name)
    train(alone, STEPS)
    ranks = [built("cls", name) for _ in range(2)]
    for layers in STEPS:
        for rank, loss in enumerate(ranks):
            for layer in layers:
                logits, targets, context = halves(layer, rank)
                loss.update(logits, targets, torch.rand(NC, generator=torch.Generator().manual_seed(1)), context)
        total = ranks[0].noted + ranks[1].noted
        for loss in ranks:
            loss.world_sum = lambda _, total=total: total.clone()
            loss.step()
    for loss in ranks:
        assert torch.allclose(loss.sums, alone.sums, rtol=1e-5)
    assert torch.equal(ranks[0].sums, ranks[1].sums)
    assert (alone.sums > 0).sum() >= NC - 1


@pytest.mark.parametrize("name", ["efl", "seesaw"])
def test_state_survives_a_round_trip(name: str) -> None:
    first = built("cls", name)
    train(first, STEPS[:2])
    state = {key: copy.deepcopy(tensor) for key, tensor in first.state_dict().items()}
    assert set(state) == {"sums"} and state["sums"].dtype == torch.float32
    second = built("cls", name)
    second.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(train(first, STEPS[2:]), train(second, STEPS[2:]), strict=True))
    assert torch.equal(first.sums, second.sums)


@pytest.mark.parametrize("name", ["efl", "seesaw"])
def test_validation_leaves_the_state_alone(name: str) -> None:
    loss = built("cls", name)
    before = loss.sums.clone()
    with torch.inference_mode():
        train(loss, STEPS[:1])
    assert torch.equal(loss.sums, before) and not loss.noted.any()
    train(loss, STEPS[:1])
    assert not torch.equal(loss.sums, before)


def test_seesaw_counts_matched_anchors_on_from_the_training_set() -> None:
    loss = built("cls", "seesaw")
    assert isinstance(loss, SeesawLoss) and loss.sums.tolist() == [COUNTS]
    train(loss, STEPS)
    seen = sum(torch.bincount(context.classes, minlength=NC) for layers in STEPS for _, _, context in layers)
    assert loss.sums[0].tolist() == (torch.tensor(COUNTS) + seen).tolist()


def test_equalized_focal_sums_the_gradient_that_autograd_finds() -> None:
    logits, targets, context = batch()
    loss = built("cls", "efl", alpha=0.25)
    assert isinstance(loss, EqualizedFocalLoss)
    weights = torch.rand(200, 1)
    train(loss, STEPS[:1])
    before = loss.sums.clone()
    total = (loss.elements(logits, targets, context) * weights).sum()
    slope = torch.autograd.grad(total, logits)[0].abs()
    loss.update(logits, targets, weights, context)
    loss.step()
    positive, negative = (loss.sums - before).unbind()
    assert torch.allclose(positive, (slope * targets).sum(0), rtol=1e-3, atol=1e-4)
    assert torch.allclose(negative, (slope * (1 - targets)).sum(0), rtol=1e-3, atol=1e-4)


def test_equalized_focal_turns_to_the_class_with_few_positive_gradients() -> None:
    """Class 3 is right whenever it appears, so its positives pull little, while others push it: g < 1, γ > γ_b."""
    loss = built("cls", "efl")
    assert torch.equal(loss.focus().gammas, torch.full((NC,), 2.0))
    classes = torch.tensor([0, 0, 0, 0, 3])
    targets = F.one_hot(classes, NC).float()
    loss.update(torch.zeros(5, NC) + 2 * targets, targets, 1.0, HeadContext(classes))
    loss.step()
    gammas = loss.focus().gammas
    assert gammas[3] > gammas[0] and gammas.max() <= 10 and gammas.min() >= 2
    wanted = equalized_focus(*loss.sums, 2.0, 8.0)
    logits = torch.randn(5, NC)
    assert torch.equal(loss.elements(logits, targets), equalized_focal_loss(logits, targets, wanted))
