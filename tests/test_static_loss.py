"""The static form of the loss: the numbers of the other form, whatever the targets and the settings.

The tests of ``test_loss`` and ``test_loss_weights`` that are imported here run a second time, in the static form.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import test_loss
import test_loss_weights
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_loss import (  # noqa: F401  (collected here as well)
    P6,
    Model,
    random_batch,
    test_a_process_without_matches_adds_nothing_to_box_and_class,
    test_a_stand_in_image_counts_nothing,
    test_every_golden_case,
    test_golden_autobalance_and_empty_targets,
    test_golden_target_assignment,
    test_half_outputs_are_scored_in_float32,
    test_one_step_down_the_gradient_lowers_the_loss,
    test_parts_of_a_batch_add_up,
    test_state_survives_bit_for_bit,
)
from test_loss_weights import (  # noqa: F401
    test_class_weights_on_objectness_multiply_positive_cells_only,
    test_label_weights_multiply_the_rows_of_their_label,
    test_loss_share_adds_up_the_class_terms_of_each_class,
    test_modes_of_class_weights,
    test_positive_mode_is_a_pos_weight_under_label_smoothing_too,
)
from torch import Tensor, nn

from utils.loss import ComputeLoss
from utils.target_assignment import match_layer, padded_targets

COUNTS = [50.0, 5.0, 500.0]
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "pos-weights": ({"cls_pw": [0.5, 1.0, 3.0], "obj_pw": 2.0, "label_smoothing": 0.1}, {}),
    "fl_gamma": ({"fl_gamma": 1.5}, {}),
    "focal": ({"cls_loss": "focal", "obj_loss": "focal"}, {}),
    "qfocal": ({"cls_loss": "qfocal", "cls_qtarget": "iou", "obj_loss": "qfocal"}, {}),
    "varifocal": ({"cls_loss": "varifocal", "label_smoothing": 0.1, "obj_loss": "varifocal"}, {}),
    "asl": ({"cls_loss": "asl"}, {}),
    "biscale": ({"cls_loss": "biscale"}, {}),
    "bceblur": ({"cls_loss": "bceblur", "obj_loss": "bceblur"}, {}),
    "logit_adjust": ({"cls_loss": "logit_adjust", "cls_tau": 1.0}, {"class_counts": COUNTS}),
    "softmax": ({"cls_loss": "softmax_focal"}, {"class_weights": [0.5, 1.0, 4.0]}),
    "row": ({}, {"class_weights": [0.5, 1.0, 4.0]}),
    "column": ({"cls_weights_mode": "column"}, {"class_weights": [0.5, 1.0, 4.0]}),
    "pos": ({"cls_weights_mode": "pos", "label_smoothing": 0.1}, {"class_weights": [0.5, 1.0, 4.0]}),
    "objectness": ({"cls_weights_obj": True}, {"class_weights": [0.5, 1.0, 4.0]}),
    "autobalance": ({}, {"autobalance": True}),
}
OTHERS = {
    "modifier": {"cls_dyn": 1.0},
    "objectness-modifier": {"obj_attn": 1.0},
    "norm": {"cls_loss": "focal", "cls_fl_norm": "ema"},
    "hard-objects": {"hard_iou": 1.0},
    "efl": {"cls_loss": "efl"},
    "seesaw": {"cls_loss": "seesaw"},
}


@pytest.fixture(autouse=True)
def _static_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the imported tests build losses in the static form."""
    for module in (test_loss, test_loss_weights):
        monkeypatch.setattr(module, "ComputeLoss", partial(ComputeLoss, is_static=True))


def results(criterion: ComputeLoss, p: list[Tensor], targets: Tensor) -> list[Tensor]:
    """Return loss, items and the gradients of the outputs."""
    leaves = [x.detach().requires_grad_() for x in p]
    loss, items = criterion(leaves, targets)
    return [loss.detach(), items, *torch.autograd.grad(loss, leaves)]


def both(model: nn.Module, **options: Any) -> tuple[ComputeLoss, ComputeLoss]:
    """Return the loss in the form that counts matches and in the static one."""
    counting, static = (ComputeLoss(model, is_static=is_static, **options) for is_static in (False, True))
    assert static.is_static and not counting.is_static
    return counting, static


def check_equal(a: list[Tensor], b: list[Tensor]) -> None:
    """Compare results: equal up to the last digits of sums in another order."""
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


# ---- the same numbers
@pytest.mark.parametrize("name", SETTINGS)
def test_every_supported_setting(name: str) -> None:
    hyp, options = SETTINGS[name]
    counting, static = both(Model(**hyp), **options)
    for seed in range(3):
        p, targets = random_batch(seed=seed)
        weight = torch.rand(len(targets), 1, generator=torch.Generator().manual_seed(seed))
        for rows in (targets, torch.cat((targets, weight), 1)):
            check_equal(results(counting, p, rows), results(static, p, rows))
    assert static.balance == pytest.approx(counting.balance, rel=1e-6)


def test_cells_won_by_iou() -> None:
    counting, static = both(Model())
    counting.sort_obj_iou = static.sort_obj_iou = True
    p, targets = random_batch()
    targets = targets.repeat_interleave(2, 0)  # every cell is contested
    targets[::2, 4:] *= 1.3
    check_equal(results(counting, p, targets), results(static, p, targets))


def test_no_targets() -> None:
    p, _ = random_batch()
    counting, static = both(Model())
    check_equal(results(counting, p, torch.zeros(0, 6)), results(static, p, torch.zeros(0, 6)))
    assert static(p, torch.zeros(0, 6))[1][::2].tolist() == [0, 0]


def test_one_class_and_four_layers() -> None:
    p, targets = random_batch(nc=1)
    p.append(torch.randn(4, 4, 2, 2, 6))
    p = [p[0].repeat(1, 2, 1, 1, 1)[:, :4], *(x.repeat(1, 2, 1, 1, 1)[:, :4] for x in p[1:])]
    counting, static = both(Model(1, [layer + layer[:2] for layer in P6]))
    check_equal(results(counting, p, targets), results(static, p, targets))


def test_bfloat16_autocast() -> None:
    p, targets = random_batch()
    counting, static = both(Model())
    half = [x.bfloat16() for x in p]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = results(counting, half, targets), results(static, half, targets)
    check_equal(a[:2], b[:2])
    for one, other in zip(a[2:], b[2:], strict=True):
        assert one.dtype == other.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-8)  # a last digit of bfloat16


centre = st.one_of(st.sampled_from([0.0, 1 / 16, 0.5, 1 - 1e-7, 1.0]), st.floats(0, 1, width=32))
side = st.one_of(st.sampled_from([0.0, 1e-6, 0.1]), st.floats(0, 1, width=32))
row = st.tuples(st.integers(0, 1), st.integers(0, 2), centre, centre, side, side)
crowd = row.flatmap(lambda one: st.lists(st.just(one), min_size=2, max_size=70))


@settings(max_examples=60, deadline=None)
@given(rows=st.one_of(st.lists(row, max_size=12), crowd), nc=st.sampled_from([1, 3]), by_iou=st.booleans())
def test_any_targets(rows: list[tuple], nc: int, by_iou: bool) -> None:
    """None, some, many in one cell, centres on cell borders and edges of the image, sides of nothing."""
    p, _ = random_batch(images=2, nc=nc)
    targets = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    targets[:, 1].clamp_(max=nc - 1)
    counting, static = both(Model(nc))
    counting.sort_obj_iou = static.sort_obj_iou = by_iou
    check_equal(results(counting, p, targets), results(static, p, targets))


# ---- rows that are no match
def test_rows_are_the_matches_in_their_order() -> None:
    _, targets = random_batch()
    anchors = ComputeLoss(Model()).anchors[0]
    counted, kept = (match_layer(targets, anchors, (16, 16), 4.0, is_static) for is_static in (False, True))
    assert counted.valid is None and len(kept.target) == 5 * 3 * len(targets)
    for one, other in zip(counted[:-1], kept[:-1], strict=True):
        assert torch.equal(one, other[kept.valid])
    for index, size in ((kept.image, 4), (kept.anchor, 3), (kept.row, 16), (kept.column, 16)):
        assert index.min() >= 0 and index.max() < size


def test_outputs_that_no_match_reads_may_be_anything() -> None:
    """Box and class outputs of other cells are not finite: neither loss nor gradient notices."""
    p, targets = random_batch()
    counting, static = both(Model())
    wanted = results(counting, p, targets)
    spoilt = []
    for x, index in zip(p, counting.build_targets(p, targets)[2], strict=True):
        is_read = torch.zeros(x.shape[:4], dtype=torch.bool).index_put_(index, torch.tensor(True))
        other = torch.full_like(x, torch.inf)
        other[..., 4] = x[..., 4]
        spoilt.append(torch.where(is_read[..., None], x, other))
    check_equal(wanted, results(static, spoilt, targets))


@pytest.mark.parametrize(("count", "rows"), [(0, 64), (1, 64), (64, 64), (65, 128), (128, 128), (200, 256)])
def test_padding(count: int, rows: int) -> None:
    targets = torch.rand(count, 7)
    padded = padded_targets(targets)
    assert padded.shape == (rows, 7) and torch.equal(padded[:count], targets) and not padded[count:].any()
    assert not match_layer(padded[count:], torch.tensor([[1e-3, 1e-3], [1.0, 1.0]]), (8, 8), 1e9).target.numel()


def test_padding_changes_no_bit() -> None:
    p, targets = random_batch()
    for criterion in both(Model()):
        wanted = results(criterion, p, targets)
        padded = torch.cat((targets, torch.zeros(64 - len(targets), 6)))
        assert all(torch.equal(a, b) for a, b in zip(wanted, results(criterion, p, padded), strict=True))


# ---- which form
def test_form_is_chosen_when_the_loss_is_built() -> None:
    assert not ComputeLoss(Model()).is_static  # the CPU
    for hyp, options in SETTINGS.values():
        assert ComputeLoss(Model(**hyp), is_static=True, **options).is_static


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_keep_the_other_form(name: str) -> None:
    criterion = ComputeLoss(Model(**OTHERS[name]), is_static=True, class_counts=COUNTS)
    assert not criterion.supports_static and not criterion.is_static and not criterion.compile("eager")
