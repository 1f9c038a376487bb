"""The training loss against upstream's numbers, hand-worked cases, and its promises under several processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from utils.errors import WorkError
from utils.hyperparameters import Hyperparameters
from utils.loss import (
    BCEBlurWithLogitsLoss,
    ComputeLoss,
    FocalLoss,
    QFocalLoss,
    mean_over,
    smooth_bce,
)
from utils.target_assignment import last_match_of_cell, match_layer

P5 = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
P6 = [
    [19, 27, 44, 40, 38, 94],
    [96, 68, 86, 152, 180, 137],
    [140, 301, 303, 264, 238, 542],
    [436, 615, 739, 380, 925, 792],
]
BASE_HYP = {"box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}


class Head(nn.Module):
    """What the loss reads of a Detect layer."""

    def __init__(self, nc: int, layers: list[list[int]]):
        super().__init__()
        self.nc, self.nl, self.na = nc, len(layers), len(layers[0]) // 2
        self.stride = torch.tensor([8.0 * 2**i for i in range(self.nl)])
        anchors = torch.tensor(layers).float().view(self.nl, self.na, 2) / self.stride.view(-1, 1, 1)
        self.register_buffer("anchors", anchors)
        self.weight = nn.Parameter(torch.zeros(1))


class Model(nn.Module):
    def __init__(self, nc: int = 3, layers: list[list[int]] | None = None, **hyp: Any):
        super().__init__()
        self.model = nn.Sequential(Head(nc, layers or P5))
        self.hyp = {**BASE_HYP, **hyp}


def outputs_of(golden_inputs: Any, nc: int, strides: list[int], stream: int) -> list[Tensor]:
    arrays = golden_inputs.head_outputs(nc, 128, 2, strides, stream=stream)
    return [torch.from_numpy(a).requires_grad_() for a in arrays]


def random_batch(images: int = 4, nc: int = 3, seed: int = 0, size: int = 128) -> tuple[list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(seed)
    p = [torch.randn(images, 3, size // s, size // s, 5 + nc, generator=g) * 2 for s in (8, 16, 32)]
    nt = 6 * images
    image = torch.arange(nt) % images
    image[image == 1] = 0  # one image without labels
    classes = torch.randint(nc, (nt,), generator=g)
    boxes = torch.cat((torch.rand(nt, 2, generator=g), torch.rand(nt, 2, generator=g) * 0.5 + 0.03), 1)
    targets = torch.cat((image[:, None], classes[:, None], boxes), 1)
    return p, targets[targets[:, 0].argsort(stable=True)]


# ---- upstream's numbers


def golden_cases(facts: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    for set_name, one_set in facts["sets"].items():
        for case_name, case in one_set.get("cases", {}).items():
            yield set_name, one_set, case_name, case


def check_golden(loss: Tensor, items: Tensor, p: list[Tensor], expected: dict[str, Any]) -> None:
    assert list(loss.shape) == expected["loss_shape"]
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    assert items.tolist() == pytest.approx(expected["items_box_obj_cls"], rel=1e-5)
    assert not items.requires_grad
    grads = torch.autograd.grad(loss, p)
    assert [g.double().norm().item() for g in grads] == pytest.approx(expected["grad_l2"], rel=1e-4, abs=1e-9)
    assert [g.double().sum().item() for g in grads] == pytest.approx(expected["grad_sum"], rel=1e-4, abs=1e-6)
    parts = [[g[..., s].double().norm().item() for s in (slice(4), 4, slice(5, None))] for g in grads]
    for part, wanted in zip(parts, expected["grad_l2_box_obj_cls"], strict=True):
        assert part == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def test_every_golden_case(golden: Any, golden_inputs: Any) -> None:
    facts, _ = golden("loss")
    count = 0
    for set_name, one_set, case_name, case in golden_cases(facts):
        layers = P6 if "p6" in set_name else P5
        model = Model(one_set["nc"], layers, **{"label_smoothing": 0.0, **case["hyp"]})
        strides = model.model[-1].stride.int().tolist()
        p = outputs_of(golden_inputs, one_set["nc"], strides, one_set["head_stream"])
        targets = torch.from_numpy(
            golden_inputs.targets(one_set["targets"], one_set["nc"], 2, stream=one_set["targets_stream"])
        )
        check_golden(*ComputeLoss(model)(p, targets), p, case)
        count += 1
        assert case_name
    assert count >= 20


@pytest.mark.parametrize("key", ["autobalance_3_steps", "empty_targets"])
def test_golden_autobalance_and_empty_targets(golden: Any, golden_inputs: Any, key: str) -> None:
    facts, _ = golden("loss")
    sets = {name: s for name, s in facts["sets"].items() if key in s}
    assert sets
    for name, one_set in sets.items():
        model = Model(one_set["nc"], P6 if "p6" in name else P5)
        strides = model.model[-1].stride.int().tolist()
        criterion = ComputeLoss(model, autobalance=key == "autobalance_3_steps")
        targets = torch.zeros(0, 6)
        if key == "autobalance_3_steps":
            targets = torch.from_numpy(
                golden_inputs.targets(one_set["targets"], one_set["nc"], 2, stream=one_set["targets_stream"])
            )
        steps = one_set[key] if isinstance(one_set[key], list) else [one_set[key]]
        for step, expected in enumerate(steps):
            p = outputs_of(golden_inputs, one_set["nc"], strides, one_set["head_stream"] + 10 * step)
            check_golden(*criterion(p, targets), p, expected)
            if "balance_after" in expected:
                assert criterion.balance == pytest.approx(expected["balance_after"], rel=1e-5)


def test_golden_target_assignment(golden: Any) -> None:
    facts, arrays = golden("loss")
    for name in sorted({key.split("/")[0] for key in arrays}):
        one_set = facts["sets"][name]
        criterion = ComputeLoss(Model(one_set["nc"], P6 if "p6" in name else P5))
        targets = torch.from_numpy(arrays[f"{name}/targets"])
        strides = [8, 16, 32, 64][: criterion.nl]
        p = [torch.zeros(2, 3, 128 // s, 128 // s, 5 + one_set["nc"]) for s in strides]
        tcls, tbox, indices, anchors = criterion.build_targets(p, targets)
        for i in range(criterion.nl):
            wanted = arrays[f"{name}/layer{i}/image_anchor_gj_gi_class"]
            got = torch.stack([*indices[i], tcls[i]], 1)
            assert np.array_equal(got.numpy(), wanted)
            assert np.allclose(tbox[i].numpy(), arrays[f"{name}/layer{i}/tbox"], rtol=1e-6, atol=1e-6)
            assert np.allclose(anchors[i].numpy(), arrays[f"{name}/layer{i}/anchor_wh"], rtol=1e-6)


def test_golden_loss_classes(golden: Any, golden_inputs: Any) -> None:
    facts, _ = golden("loss_classes")
    logits = torch.from_numpy((6 * (golden_inputs.unit(1500, 60) - 0.5)).astype(np.float32)).view(12, 5)
    hard = torch.from_numpy((golden_inputs.unit(1501, 60) > 0.7).astype(np.float32)).view(12, 5)
    soft = torch.from_numpy(golden_inputs.unit(1502, 60).astype(np.float32)).view(12, 5)
    for kind, targets in (("hard", hard), ("soft", soft)):
        assert BCEBlurWithLogitsLoss()(logits, targets).item() == pytest.approx(
            facts[f"BCEBlurWithLogitsLoss_{kind}"], rel=1e-5
        )
        for cls in (FocalLoss, QFocalLoss):
            for gamma in (0.5, 1.5, 2):
                for reduction in ("mean", "sum"):
                    loss = cls(nn.BCEWithLogitsLoss(reduction=reduction), gamma)(logits, targets)
                    wanted = facts[f"{cls.__name__}_{kind}_gamma{gamma}_{reduction}"]
                    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert FocalLoss(nn.BCEWithLogitsLoss(reduction="none"))(logits, hard).shape == logits.shape
    for eps, pair in facts["smooth_bce"].items():
        assert smooth_bce(float(eps)) == pytest.approx(pair)


# ---- target assignment by hand
def test_one_target_by_hand() -> None:
    """Centre (2.3, 3.8) of a 4 × 8 grid: its cell (2, 3), the left one (1, 3) as .3 < .5, the lower (2, 4) as .8 > .5.

    Sides (2, 1): ratio 2 and 1 to the anchor (1, 1), 8 to (16, 16), which therefore does not match at 4.
    """
    target = torch.tensor([[1.0, 2.0, 2.3 / 4, 3.8 / 8, 2 / 4, 1 / 8]])
    m = match_layer(target, torch.tensor([[1.0, 1.0], [16.0, 16.0]]), (8, 4), 4.0)
    assert torch.stack((m.column, m.row), 1).tolist() == [[2, 3], [1, 3], [2, 4]]
    assert m.image.tolist() == [1, 1, 1]
    assert m.classes.tolist() == [2, 2, 2]
    assert m.anchor.tolist() == [0, 0, 0]
    assert torch.allclose(m.boxes[:, :2], torch.tensor([[0.3, 0.8], [1.3, 0.8], [0.3, -0.2]]), atol=1e-6)
    assert torch.allclose(m.boxes[:, 2:], torch.tensor([2.0, 1.0]))


def test_centres_on_the_border_stay_inside() -> None:
    targets = torch.tensor([[0, 0, 1.0, 1.0, 0.2, 0.2], [0, 0, 0.0, 0.0, 0.2, 0.2]])
    m = match_layer(targets, torch.tensor([[1.0, 1.0]]), (8, 8), 4.0)
    assert m.row.max() == 7 and m.row.min() == 0 and m.column.max() == 7 and m.column.min() == 0


def test_last_match_of_cell() -> None:
    cells = torch.tensor([3, 1, 3, 0, 1, 3])
    assert last_match_of_cell(cells, 5).tolist() == [5, 4, 5, 3, 4, 5]


@pytest.mark.parametrize(("sort_by_iou", "expected"), [(False, [0.2, 0.5]), (True, [0.9, 0.5])])
def test_later_match_wins_a_cell(sort_by_iou: bool, expected: list[float]) -> None:
    criterion = ComputeLoss(Model())
    criterion.sort_obj_iou = sort_by_iou
    tobj = criterion.objectness_targets(torch.zeros(1, 1, 1, 2), torch.tensor([0, 1, 0]), torch.tensor([0.9, 0.5, 0.2]))
    assert tobj.flatten().tolist() == pytest.approx(expected)


# ---- neutral, empty and single-class cases
@pytest.mark.parametrize("weights", [{}, {"cls_pw": 2.5, "obj_pw": 0.7}])
def test_heads_equal_pytorchs_bce_bit_for_bit(weights: dict[str, float]) -> None:
    model = Model(**weights)
    criterion = ComputeLoss(model)
    logits = torch.randn(64, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    hard = (torch.arange(192).view(64, 3) % 3 == 0).float()
    for targets in (hard, hard * 0.9 + 0.05):
        for mine, weight in ((criterion.BCEcls, model.hyp["cls_pw"]), (criterion.BCEobj, model.hyp["obj_pw"])):
            theirs = nn.BCEWithLogitsLoss(pos_weight=None if weight == 1 else torch.tensor([weight]))
            a, b = mine(logits, targets), theirs(logits, targets)
            assert torch.equal(a, b)
            assert torch.equal(torch.autograd.grad(a, logits)[0], torch.autograd.grad(b, logits)[0])


class MyLoss(ComputeLoss):
    """What users of YOLOv5 write: losses of their own in the place of the heads'."""

    def __init__(self, model: nn.Module, wrap: Any, **options: Any):
        super().__init__(model, **options)
        self.BCEcls = wrap(nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0])))
        self.BCEobj = wrap(nn.BCEWithLogitsLoss())


@pytest.mark.parametrize("wrap", [lambda loss: loss, FocalLoss], ids=["BCE", "focal"])
def test_losses_of_the_callers_own_take_the_heads_places(wrap: Any) -> None:
    p, targets = random_batch()
    mine = MyLoss(Model(), wrap)
    assert isinstance(mine.BCEcls, type(wrap(nn.BCEWithLogitsLoss())))
    built_in = ComputeLoss(Model(cls_pw=2.0, fl_gamma=0.0 if isinstance(mine.BCEcls, nn.BCEWithLogitsLoss) else 1.5))
    for training in (True, False):
        with torch.set_grad_enabled(training):
            torch.testing.assert_close(mine(p, targets), built_in(p, targets))
    assert mine.BCEcls.reduction == "mean" and not mine.supports_static
    weighted = [make(Model(cls_pw=2.0, fl_gamma=built_in.hyp["fl_gamma"]), class_weights=[1.0, 2.0, 4.0])
                for make in (ComputeLoss, lambda model, **options: MyLoss(model, wrap, **options))]  # fmt: skip
    torch.testing.assert_close(weighted[1](p, targets), weighted[0](p, targets))


def test_a_loss_that_gives_means_alone_cannot_be_weighted() -> None:
    p, targets = random_batch()
    loss = ComputeLoss(Model())
    loss.BCEcls = nn.functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(loss(p, targets), ComputeLoss(Model())(p, targets))
    weighted = ComputeLoss(Model(), class_weights=[1.0, 2.0, 4.0])
    weighted.BCEcls = loss.BCEcls
    with pytest.raises(WorkError, match="gives no elements"):
        weighted(p, targets)


def test_off_settings_change_no_bit() -> None:
    p, targets = random_batch()
    plain = ComputeLoss(Model())(p, targets)[0]
    for hyp in ({"cls_loss": "bce"}, {"cls_loss": "focal", "cls_gamma": 0.0}, {"obj_loss": "bce"}):
        assert torch.equal(ComputeLoss(Model(**hyp))(p, targets)[0], plain)
    full = Hyperparameters.from_dict({**Hyperparameters().to_dict(), "cls_weights": None})
    assert torch.equal(ComputeLoss(Model(), hyp=full)(p, targets)[0], plain)


def test_fl_gamma_is_focal_with_alpha_a_quarter_on_both_heads() -> None:
    p, targets = random_batch()
    old = ComputeLoss(Model(fl_gamma=1.5))(p, targets)[0]
    new = ComputeLoss(Model(cls_loss="focal", cls_alpha=0.25, obj_loss="focal", obj_alpha=0.25))(p, targets)[0]
    assert torch.equal(old, new)


def test_one_class_has_no_class_loss() -> None:
    p, targets = random_batch(nc=1)
    targets[:, 1] = 0
    loss, items = ComputeLoss(Model(nc=1))(p, targets)
    assert items[2] == 0
    assert torch.isfinite(loss).all()


def test_without_targets_every_output_still_gets_a_gradient() -> None:
    p = [x.requires_grad_() for x in random_batch()[0]]
    loss, items = ComputeLoss(Model())(p, torch.zeros(0, 6))
    assert items[0] == items[2] == 0
    for grad in torch.autograd.grad(loss, p):
        assert torch.isfinite(grad).all() and grad[..., 4].abs().sum() > 0 and grad[..., 5:].abs().sum() == 0


# ---- several processes
def in_turn(parts: list[tuple[list[Tensor], Tensor]], **options: Any) -> tuple[Tensor, Tensor, list[float]]:
    """Run the loss of every part as its own process would: each exchange is answered with the sum over all parts."""
    exchanged: list[list[Tensor]] = [[] for _ in parts]
    results: list[tuple[Tensor, Tensor]] = []
    balance: list[float] = []
    for rounds in range(3):  # every pass knows the sums of one more exchange; the last one knows all
        results = []
        for rank, (p, targets) in enumerate(parts):
            calls = iter(range(10))

            def world_sum(x: Tensor, rank: int = rank, calls: Iterator[int] = calls, known: int = rounds) -> Tensor:
                call = next(calls)
                assert not x.requires_grad
                if call >= len(exchanged[rank]):
                    exchanged[rank].append(x.clone())
                exchanged[rank][call] = x.clone()
                return sum(e[call] for e in exchanged) if known > call else x

            criterion = ComputeLoss(Model(), world_sum=world_sum, **options)
            results.append(criterion(p, targets))
            balance = criterion.balance
    return sum(r[0] for r in results), sum(r[1] for r in results), balance


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"autobalance": True}, {"class_weights": [0.5, 1.0, 4.0]}], ids=["plain", "autobalance", "weights"]
)
def test_parts_of_a_batch_add_up(ranks: int, options: dict[str, Any]) -> None:
    p, targets = random_batch(images=5)  # image 1 has no labels; shares differ in size and in matches
    p = [x.requires_grad_() for x in p]
    single = ComputeLoss(Model(), **options)
    whole, items = single(p, targets)
    wanted = torch.autograd.grad(whole, p)
    parts = []
    for rank in range(ranks):
        images = list(range(5))[rank::ranks]
        rows = [targets[targets[:, 0] == image].clone() for image in images]
        for new, row in enumerate(rows):
            row[:, 0] = new
        parts.append(([x[images] for x in p], torch.cat(rows)))
    total, item_sum, balance = in_turn(parts, **options)
    assert total.item() == pytest.approx(whole.item(), rel=1e-6)
    assert item_sum.tolist() == pytest.approx(items.tolist(), rel=1e-6)
    assert balance == pytest.approx(single.balance, rel=1e-6)
    for got, want in zip(torch.autograd.grad(total, p), wanted, strict=True):
        assert ((got - want).norm() / want.norm()).item() < 1e-6


def test_a_process_without_matches_adds_nothing_to_box_and_class() -> None:
    p, targets = random_batch(images=2)
    criterion = ComputeLoss(Model(), world_sum=lambda x: x + 7)
    _, items = criterion([x[1:2] for x in p], targets[targets[:, 0] == 1])
    assert items[0] == items[2] == 0 and items[1] > 0


def test_a_stand_in_image_counts_nothing() -> None:
    p, targets = random_batch(images=2)
    whole = ComputeLoss(Model())([x[:1] for x in p], targets[targets[:, 0] == 0])
    mine, other = (ComputeLoss(Model(), world_sum=lambda x: x) for _ in range(2))
    assert torch.allclose(mine([x[:1] for x in p], targets[targets[:, 0] == 0])[0], whole[0], rtol=1e-6)
    other.is_filler = True
    sent = []
    other.world_sum = lambda x: sent.append(x.clone()) or x + 1
    raw = [x[:1].requires_grad_() for x in p]
    loss, items = other(raw, targets[targets[:, 0] == 0])
    assert sent[0].tolist() == [0, 0, 0, 0]
    assert loss.item() == 0 and items.tolist() == [0, 0, 0]
    assert all(g.abs().sum() == 0 for g in torch.autograd.grad(loss, raw))


def test_mean_over_part() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert mean_over(values, None) == 2.5
    assert mean_over(values, torch.tensor(5.0)) == 1.0  # 10 / (5 · 2)


# ---- precision and state
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hyp", [{}, {"fl_gamma": 1.5}], ids=["bce", "focal"])
def test_half_outputs_are_scored_in_float32(dtype: torch.dtype, hyp: dict[str, float]) -> None:
    p, targets = random_batch()
    half = [x.to(dtype).requires_grad_() for x in p]
    criterion = ComputeLoss(Model(**hyp))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = criterion(half, targets)
    assert loss.dtype == torch.float32
    reference, _ = criterion([x.detach().float() for x in half], targets)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, half))


def test_state_survives_bit_for_bit() -> None:
    p, targets = random_batch()
    first = ComputeLoss(Model(), autobalance=True)
    for _ in range(3):
        first(p, targets)
    second = ComputeLoss(Model(), autobalance=True)
    second.load_state_dict(first.state_dict())
    assert second.balance == first.balance != [4.0, 1.0, 0.4]
    assert torch.equal(first(p, targets)[0], second(p, targets)[0])


def test_one_step_down_the_gradient_lowers_the_loss() -> None:
    p, targets = random_batch()
    for hyp in ({}, {"cls_loss": "focal", "cls_gamma": 2.0}, {"fl_gamma": 1.5}):
        p = [x.detach().requires_grad_() for x in p]
        criterion = ComputeLoss(Model(**hyp), class_weights=[0.5, 1.0, 4.0])
        loss, _ = criterion(p, targets)
        stepped = [x - 0.1 * g for x, g in zip(p, torch.autograd.grad(loss, p), strict=True)]
        assert criterion(stepped, targets)[0] < loss


def test_names_of_older_code() -> None:
    from utils import loss

    for name in ("smooth_BCE", "smooth_bce", "bbox_iou", "de_parallel"):
        assert callable(getattr(loss, name))


def test_gradient_of_what_the_loss_takes():
    """In one array: objectness everywhere, rows added up where cells repeat; as indexing twice gives it."""
    from utils.balance.loss_layers import taken

    raw = torch.randn(2, 3, 4, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cells = torch.tensor([0, 7, 7, 119, 30, 7])
    one, two = raw.clone().requires_grad_(), raw.clone().requires_grad_()
    objectness, rows = taken(one, cells)
    slow_objectness, slow_rows = two[..., 4], two.reshape(-1, 7)[cells]
    assert torch.equal(objectness, slow_objectness) and torch.equal(rows, slow_rows)
    weights = torch.arange(rows.numel(), dtype=torch.float64).view_as(rows)
    for o, r, leaf in ((objectness, rows, one), (slow_objectness, slow_rows, two)):
        ((o**2).sum() + (r * weights).sum()).backward()
        assert leaf.grad is not None
    torch.testing.assert_close(one.grad, two.grad, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: taken(x, cells), raw.clone().requires_grad_(), atol=1e-4)
