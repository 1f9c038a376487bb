"""Class weights, weights per label and the share of each class in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_loss import Model, random_batch
from torch import Tensor, nn

from utils.loss import ComputeLoss, box_ciou, flat_cells
from utils.target_assignment import match_layer


# ---- class weights
def class_part(p: list[Tensor], targets: Tensor, criterion: ComputeLoss) -> float:
    """Return the class term over its gain, summed over the layers."""
    return criterion(p, targets)[1][2].item() / criterion.hyp["cls"]


def class_rows(p: list[Tensor], targets: Tensor, nc: int = 3) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return per layer logits (n, nc), one-hot targets (n, nc) and classes (n,) of the matches."""
    criterion = ComputeLoss(Model(nc))
    classes, _, indices, _ = criterion.build_targets(p, targets)
    rows = [raw[index][:, 5:] for raw, index in zip(p, indices, strict=True)]
    return [(z, nn.functional.one_hot(y, nc).float(), y) for z, y in zip(rows, classes, strict=True)]


WEIGHTS = torch.tensor([0.5, 1.0, 4.0])


@pytest.mark.parametrize("mode", ["row", "pos", "column"])
def test_modes_of_class_weights(mode: str) -> None:
    """Row: mean of w_y · ℓ; column: of w_j · ℓ; pos: w_j is the pos weight of column j."""
    p, targets = random_batch()
    expected = 0.0
    for z, t, y in class_rows(p, targets):
        plain = nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")
        weighted = nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none", pos_weight=WEIGHTS)
        values = {"row": plain * WEIGHTS[y][:, None], "column": plain * WEIGHTS, "pos": weighted}[mode]
        expected += values.mean().item()
    by_argument = ComputeLoss(Model(), class_weights=WEIGHTS, class_weights_mode=mode)
    by_hyp = ComputeLoss(Model(cls_weights_mode=mode), class_weights=WEIGHTS.tolist())
    assert class_part(p, targets, by_argument) == pytest.approx(expected, rel=1e-5)
    assert by_argument(p, targets)[0] == by_hyp(p, targets)[0]


def test_positive_mode_is_a_pos_weight_under_label_smoothing_too() -> None:
    p, targets = random_batch()
    p = [x.requires_grad_() for x in p]
    mine = ComputeLoss(Model(label_smoothing=0.1), class_weights=WEIGHTS, class_weights_mode="pos")(p, targets)[0]
    theirs = ComputeLoss(Model(label_smoothing=0.1, cls_pw=WEIGHTS.tolist()))(p, targets)[0]
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)
    for a, b in zip(torch.autograd.grad(mine, p), torch.autograd.grad(theirs, p), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-8)


def test_unknown_mode_of_class_weights() -> None:
    with pytest.raises(ValueError, match="'rows' is not one of row, pos, column"):
        ComputeLoss(Model(), class_weights=WEIGHTS, class_weights_mode="rows")


def test_class_weights_object() -> None:
    p, targets = random_batch()

    class Weights:
        values = np.array([0.5, 1.0, 4.0])

    assert torch.equal(
        ComputeLoss(Model(), class_weights=Weights())(p, targets)[0],
        ComputeLoss(Model(), class_weights=WEIGHTS)(p, targets)[0],
    )


def test_class_weights_on_objectness_multiply_positive_cells_only() -> None:
    p, targets = random_batch()
    plain = ComputeLoss(Model())
    weighted = ComputeLoss(Model(cls_weights_obj=True), class_weights=torch.full((3,), 3.0))
    classes, boxes, indices, anchors = plain.build_targets(p, targets)
    expected = 0.0
    for i, (raw, balance) in enumerate(zip(p, [4.0, 1.0, 0.4], strict=True)):
        tobj = torch.zeros(raw.shape[:4])
        iou = box_ciou(raw[indices[i]][:, :4], anchors[i], boxes[i])
        tobj = plain.objectness_targets(tobj, flat_cells(indices[i], raw.shape), iou)
        elements = nn.functional.binary_cross_entropy_with_logits(raw[..., 4], tobj, reduction="none")
        expected += balance * (elements * torch.where(tobj > 0, 3.0, 1.0)).mean().item()
    assert weighted(p, targets)[1][1].item() == pytest.approx(expected, rel=1e-5)
    off = ComputeLoss(Model(), class_weights=torch.full((3,), 3.0))(p, targets)[1]
    assert torch.equal(off[1], plain(p, targets)[1][1])


def test_label_weights_multiply_the_rows_of_their_label() -> None:
    p, targets = random_batch()
    weight = torch.rand(len(targets), generator=torch.Generator().manual_seed(5))
    weighted = torch.cat((targets, weight[:, None]), 1)
    expected = 0.0
    for i, (z, t, _) in enumerate(class_rows(p, targets)):
        target = match_layer(targets, ComputeLoss(Model()).anchors[i], p[i].shape[2:4], 4.0).target
        elements = nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none")
        expected += (elements * weight[target][:, None]).mean().item()
    criterion = ComputeLoss(Model())
    assert class_part(p, weighted, criterion) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(criterion(p, weighted)[1][:2], criterion(p, targets)[1][:2])
    weighted[:, 6] = 1
    assert torch.equal(criterion(p, weighted)[0], criterion(p, targets)[0])


# ---- loss share
def test_loss_share_adds_up_the_class_terms_of_each_class() -> None:
    p, targets = random_batch()
    criterion = ComputeLoss(Model(), class_weights=WEIGHTS)
    assert criterion.loss_share() is None
    plain = criterion(p, targets)[0]
    criterion.track_loss_share()
    assert criterion.loss_share().tolist() == [0, 0, 0]
    assert torch.equal(criterion(p, targets)[0], plain)
    criterion(p, targets)
    expected = torch.zeros(3)
    for z, t, y in class_rows(p, targets):
        elements = nn.functional.binary_cross_entropy_with_logits(z, t, reduction="none") * WEIGHTS[y][:, None]
        expected.index_add_(0, y, elements.sum(1) / elements.numel())
    assert torch.allclose(criterion.loss_share(), expected / expected.sum(), rtol=1e-5)
    saved = criterion.state_dict()
    other = ComputeLoss(Model(), class_weights=WEIGHTS)
    other.load_state_dict(saved)
    assert torch.equal(other.loss_share(), criterion.loss_share())
    criterion.track_loss_share()
    assert criterion.loss_share().sum() == 0


def test_validation_changes_no_state() -> None:
    p, targets = random_batch()
    criterion = ComputeLoss(Model(cls_dyn=1.0, obj_dyn=1.0, cls_loss="focal", cls_fl_norm="ema"), autobalance=True)
    criterion.set_epoch(5, 10)
    criterion.track_loss_share()
    criterion(p, targets)
    before = criterion.state_dict()
    validation = criterion.for_validation()
    assert torch.isfinite(validation(p, targets)[0]).all()
    after = criterion.state_dict()
    assert after["balance"] == before["balance"] and torch.equal(after["loss_share"], before["loss_share"])
    for part in ("cls_modifiers", "obj_modifiers"):
        assert before[part].keys() == after[part].keys() != set()
        assert all(torch.equal(before[part][key], after[part][key]) for key in before[part])


def test_uniform_class_weights_equal_none() -> None:
    p, targets = random_batch()
    plain = ComputeLoss(Model())(p, targets)[0]
    assert torch.equal(ComputeLoss(Model(), class_weights=torch.ones(3))(p, targets)[0], plain)


@pytest.mark.parametrize(
    ("start", "epochs", "first"), [(0.0, 10, 0), (0.7, 10, 7), (0.7, 20, 14), (0.25, 10, 3), (3, 10, 3), (1, 10, 1)]
)
def test_deferred_weights_begin_at_their_epoch(start: float, epochs: int, first: int) -> None:
    p, targets = random_batch(images=2)
    criterion = ComputeLoss(Model(cls_weights_start=start), class_weights=[1.0, 2.0, 3.0])
    plain = ComputeLoss(Model())(p, targets)[0]
    for epoch in range(epochs):
        criterion.set_epoch(epoch, epochs)
        assert torch.equal(criterion(p, targets)[0], plain) == (epoch < first)


def test_wrong_number_of_class_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        ComputeLoss(Model(), class_weights=[1.0, 2.0])
