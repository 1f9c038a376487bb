"""Modifiers inside the loss: neutral settings, limits, one step, sums over processes, state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_loss import Model, random_batch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from utils.balance import attention, target_geometry
from utils.balance.exchange import Sums
from utils.balance.head_modifiers import HeadModifiers
from utils.loss import ComputeLoss

# ---- inside the loss
SINGLE = {
    "cls_dyn": {"cls_dyn": 0.8, "dyn_epochs": [0.0, 0.5]},
    "obj_dyn": {"obj_dyn": 0.8, "dyn_epochs": [0.0, 0.5], "dyn_gamma": 2.0},
    "adaptive": {"cls_dyn": 1.0, "obj_dyn": 1.0, "dyn_mode": "adaptive", "dyn_epochs": [0.0, 0.5]},
    "cls_attn": {"cls_attn": 0.5},
    "obj_attn": {"obj_attn": 0.5},
    "cls_bnd": {"cls_bnd": 1.0},
    "obj_bnd": {"obj_bnd": 2.0, "bnd_sigma": 0.5},
    "hard_iou": {"hard_iou": 1.0, "hard_iou_pow": 2.0},
    "hard_dist": {"hard_dist": 1.0},
    "hard_dens": {"hard_dens": 1.0, "hard_dens_max": 3},
    "cls_tversky": {"cls_tversky": 0.3},
    "obj_tversky": {"obj_tversky": 0.3},
    "cls_ema": {"cls_loss": "focal", "cls_fl_norm": "ema"},
    "obj_ema": {"obj_loss": "focal", "obj_fl_norm": "ema"},
    "obj_pos": {"obj_loss": "focal", "obj_fl_norm": "pos"},
    "focal": {"fl_gamma": 1.5, "cls_fl_norm": "ema", "obj_fl_norm": "ema"},
    "composite": {"cls_loss": "improved_focal", "obj_loss": "boundary_focal"},
    "softmax": {"cls_loss": "softmax_focal", "cls_dyn": 1.0, "cls_attn": 0.5, "cls_tversky": 0.2, "cls_fl_norm": "ema"},
    "efl": {"cls_loss": "efl", "cls_bnd": 1.0},
    "seesaw": {"cls_loss": "seesaw", "cls_attn": 1.0},
    "everything": {
        "cls_loss": "focal", "obj_loss": "qfocal", "cls_dyn": 0.5, "obj_dyn": 0.5, "cls_attn": 0.5, "obj_attn": 0.5,
        "cls_bnd": 1.0, "obj_bnd": 1.0, "hard_iou": 1.0, "hard_dist": 1.0, "hard_dens": 1.0, "cls_tversky": 0.3,
        "obj_tversky": 0.3, "cls_fl_norm": "ema", "obj_fl_norm": "ema", "dyn_epochs": [0.0, 0.5],
    },
}  # fmt: skip
GAINS = (
    "cls_dyn", "obj_dyn", "cls_attn", "obj_attn", "cls_bnd", "obj_bnd", "hard_iou", "hard_dist", "hard_dens",
    "cls_tversky", "obj_tversky",
)  # fmt: skip
COUNTS = torch.tensor([50.0, 20.0, 5.0])


def criterion_of(hyp: dict[str, Any], **options: Any) -> ComputeLoss:
    criterion = ComputeLoss(Model(**hyp), class_counts=COUNTS, **options)
    criterion.set_epoch(3, 10)
    return criterion


def value_and_gradient(criterion: ComputeLoss, p: list[Tensor], targets: Tensor) -> tuple[Tensor, ...]:
    p = [x.detach().requires_grad_() for x in p]
    loss, items = criterion(p, targets)
    return loss.detach(), items, *torch.autograd.grad(loss, p)


@pytest.mark.parametrize(
    "off", [*({gain: 0.0} for gain in GAINS), {"cls_fl_norm": "none"}, {"obj_fl_norm": None}], ids=str
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["hard", "soft"])
def test_off_changes_no_bit(off: dict[str, Any], smoothing: float) -> None:
    p, targets = random_batch()
    plain = value_and_gradient(criterion_of({"label_smoothing": smoothing}), p, targets)
    got = value_and_gradient(criterion_of({"label_smoothing": smoothing, **off}), p, targets)
    assert all(torch.equal(a, b) for a, b in zip(plain, got, strict=True))


@pytest.mark.parametrize("name", ["cls_dyn", "obj_dyn", "adaptive"])
def test_dynamic_changes_no_value_before_it_begins(name: str) -> None:
    p, targets = random_batch()
    criterion = criterion_of({**SINGLE[name], "dyn_epochs": [0.5, 0.7]})
    plain = criterion_of({})(p, targets)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(criterion(p, targets), plain, strict=True))


def test_scale_keeping_of_plain_bce_changes_no_bit() -> None:
    p, targets = random_batch()
    plain = value_and_gradient(criterion_of({}), p, targets)
    kept = value_and_gradient(criterion_of({"cls_fl_norm": "ema", "obj_fl_norm": "ema"}), p, targets)
    assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))


BOTH_HEADS = {"adaptive", "focal", "composite", "softmax", "efl", "seesaw", "everything"}


@pytest.mark.parametrize("name", [name for name in SINGLE if name not in BOTH_HEADS])
def test_every_modifier_changes_its_head_alone(name: str) -> None:
    p, targets = random_batch(size=64)
    hyp = SINGLE[name]
    base = {key: value for key, value in hyp.items() if key in {"cls_loss", "obj_loss"}}
    modified, plain = criterion_of(hyp), criterion_of(base)
    modified(p, targets)  # dynamic weights and scales hold from the second step on
    box, obj, cls = (modified(p, targets)[1] - plain(p, targets)[1]).abs().tolist()
    assert box == 0
    assert (cls > 1e-5) == (not name.startswith("obj"))
    assert (obj > 1e-5) == (not name.startswith("cls"))


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [3.0, 1e4], ids=["usual", "extreme"])
def test_loss_and_gradient_are_finite(name: str, dtype: torch.dtype, size: float) -> None:
    p, targets = random_batch(size=64)
    p = [(x.sign() * size).to(dtype).requires_grad_() if size > 10 else x.to(dtype).requires_grad_() for x in p]
    criterion = criterion_of(SINGLE[name])
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
            loss, _ = criterion(p, targets)
        assert loss.dtype == torch.float32 and torch.isfinite(loss).all()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, p))


@pytest.mark.parametrize("name", SINGLE)
def test_without_labels(name: str) -> None:
    p, targets = random_batch(size=64)
    criterion = criterion_of(SINGLE[name])
    for rows in (targets[:0], targets, targets[targets[:, 0] == 3], targets[:0]):
        loss, items, *gradients = value_and_gradient(criterion, p, rows)
        assert torch.isfinite(loss).all() and torch.isfinite(items).all()
        assert all(torch.isfinite(g).all() for g in gradients)
    assert items[0] == items[2] == 0


@pytest.mark.parametrize("name", SINGLE)
def test_one_class(name: str) -> None:
    p, targets = random_batch(nc=1)
    targets[:, 1] = 0
    criterion = ComputeLoss(Model(nc=1, **SINGLE[name]))
    criterion.set_epoch(3, 10)
    for _ in range(2):
        loss, items = criterion(p, targets)
        assert items[2] == 0 and torch.isfinite(loss).all()


@pytest.mark.parametrize("name", SINGLE)
def test_one_step_down_the_gradient_lowers_the_loss(name: str) -> None:
    p, targets = random_batch(size=64)
    criterion = criterion_of(SINGLE[name])
    for _ in range(2):
        criterion(p, targets)
    criterion.adapts = False  # the same weights' rule before and after
    loss, _, *gradients = value_and_gradient(criterion, p, targets)
    stepped = [x - 0.05 * g for x, g in zip(p, gradients, strict=True)]
    assert criterion(stepped, targets)[0] < loss


def test_first_step_of_scale_keeping_is_as_large_as_bce() -> None:
    p, targets = random_batch()
    plain = criterion_of({})(p, targets)[1]
    kept = criterion_of({"fl_gamma": 1.5, "cls_fl_norm": "ema", "obj_fl_norm": "ema"})(p, targets)[1]
    assert kept.tolist() == pytest.approx(plain.tolist(), rel=1e-5)


def test_scale_by_positives_is_the_sum_over_their_number() -> None:
    p, targets = random_batch()
    means = criterion_of({"obj_loss": "focal"})
    scaled = criterion_of({"obj_loss": "focal", "obj_fl_norm": "pos"})
    expected = 0.0
    for i, (layer_mean, balance) in enumerate(zip(_object_means(means, p, targets), [4.0, 1.0, 0.4], strict=True)):
        layer = means._layer(p[i], means._matches(p, targets)[i], targets)
        expected += balance * layer_mean * p[i][..., 0].numel() / (layer.tobj > 0).sum()
    assert scaled(p, targets)[1][1].item() == pytest.approx(expected.item(), rel=1e-5)


def _object_means(criterion: ComputeLoss, p: list[Tensor], targets: Tensor) -> list[Tensor]:
    layers = [criterion._layer(raw, m, targets) for raw, m in zip(p, criterion._matches(p, targets), strict=True)]
    return [criterion.BCEobj(layer.raw[..., 4], layer.tobj) for layer in layers]


def test_weights_of_objectness_have_mean_one_for_each_sign() -> None:
    p, targets = random_batch()
    criterion = criterion_of({"obj_bnd": 1.0, "hard_iou": 1.0})
    mine = HeadModifiers({"obj_bnd": 1.0}, "obj", 3, is_focused=False)
    layer = criterion._layer(p[0], criterion._matches(p, targets)[0], targets)
    sums = Sums()
    weights = torch.rand_like(layer.tobj) + 0.5
    positive = layer.tobj > 0
    sums.add("obj.0.weights", mine._weight_sums(weights, positive))
    factor = mine.factor(0, positive, weights, sums)
    assert factor[positive].mean().item() == pytest.approx(1, abs=1e-5)
    assert factor[~positive].mean().item() == pytest.approx(1, abs=1e-5)


def test_boundary_weighted_objectness_by_hand() -> None:
    """One layer's mean of ω/mean(ω) · ℓ, positives and negatives apart, from the public pieces."""
    p, targets = random_batch()
    criterion = criterion_of({"obj_bnd": 1.5, "bnd_sigma": 0.7})
    expected = 0.0
    for i, balance in enumerate([4.0, 1.0, 0.4]):
        layer = criterion._layer(p[i], criterion._matches(p, targets)[i], targets)
        squared = target_geometry.edge_distances(targets, 4, tuple(p[i].shape[2:4]))
        weights = (1 + 1.5 * torch.exp(-squared / (2 * 0.49)))[:, None].expand(layer.tobj.shape).clone()
        for part in (layer.tobj > 0, layer.tobj == 0):
            weights[part] = (weights[part] / weights[part].mean()).clamp(0.1, 10)
        elements = F.binary_cross_entropy_with_logits(p[i][..., 4], layer.tobj, reduction="none")
        expected += balance * (weights * elements).mean().item()
    assert criterion(p, targets)[1][1].item() == pytest.approx(expected, rel=1e-5)


def test_hard_objects_weigh_class_rows_by_hand() -> None:
    p, targets = random_batch()
    criterion = criterion_of({"hard_iou": 2.0, "hard_iou_pow": 1.5, "hard_dist": 1.0, "hard_dens": 0.5})
    distance, near, size = target_geometry.neighbours(targets, 4, (1, 1), other_class=True)
    of_targets = (1 + torch.exp(-distance / size)) * (1 + 0.5 * near.clamp(max=10) / 10)
    expected = 0.0
    for i in range(3):
        match = criterion._matches(p, targets)[i]
        layer = criterion._layer(p[i], match, targets)
        weights = of_targets[match.target] * (1 + 2 * (1 - layer.iou.clamp(min=0)) ** 1.5)
        weights = (weights / weights.mean()).clamp(0.1, 10)[:, None]
        onehot = F.one_hot(match.classes, 3).float()
        elements = F.binary_cross_entropy_with_logits(layer.outputs[:, 5:], onehot, reduction="none")
        expected += (weights * elements).mean().item()
    assert criterion(p, targets)[1][2].item() / 0.5 == pytest.approx(expected, rel=1e-5)


def test_tversky_of_classes_by_hand() -> None:
    """(1 − m)·base + m·FTL, the index of each class over all matches of the batch."""
    p, targets = random_batch()
    targets[:, 1] = targets[:, 1].clamp(max=1)  # class 2 has no positives
    criterion = criterion_of({"cls_tversky": 0.3, "tversky_a": 0.6, "tversky_gamma": 1.5})
    rows = [criterion._layer(raw, m, targets) for raw, m in zip(p, criterion._matches(p, targets), strict=True)]
    probabilities = torch.cat([layer.outputs[:, 5:].sigmoid() for layer in rows])
    onehot = F.one_hot(torch.cat([layer.match.classes for layer in rows]), 3).float()
    terms = []
    for c in range(2):
        pc, tc = probabilities[:, c], onehot[:, c]
        hit, missed, false = (pc * tc).sum(), ((1 - pc) * tc).sum(), (pc * (1 - tc)).sum()
        terms.append((1 - hit / (hit + 0.6 * missed + 0.4 * false)) ** (1 / 1.5))
    base = criterion_of({})(p, targets)[1][2].item() / 0.5
    expected = 0.7 * base + 0.3 * sum(terms).item() / 2
    assert criterion(p, targets)[1][2].item() / 0.5 == pytest.approx(expected, rel=1e-5)


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match="cls_fl_norm: 'pos' is not one of none, ema"):
        ComputeLoss(Model(cls_fl_norm="pos"))


# ---- several processes, state
def in_turn(
    parts: list[tuple[list[Tensor], Tensor]], make: Callable[..., ComputeLoss], steps: int
) -> tuple[list[Tensor], Tensor, list[dict[str, Any]]]:
    """Run the loss of every part as its own process would: each exchange is answered with the sum over all parts.

    A run learns the sums one exchange later than the run before it, until it knows all of them.
    """
    sent: list[list[Tensor]] = [[] for _ in parts]
    known = 0
    while True:
        criteria, results = [], []
        for rank, (p, targets) in enumerate(parts):
            calls = iter(range(1000))

            def world_sum(x: Tensor, rank: int = rank, calls: Iterator[int] = calls, known: int = known) -> Tensor:
                call = next(calls)
                assert not x.requires_grad
                sent[rank][call : call + 1] = [x.clone()]
                return sum(s[call] for s in sent) if call < known else x

            criteria.append(make(world_sum=world_sum))
            for _ in range(steps):
                result = criteria[-1](p, targets)
            results.append(result)
        if known > len(sent[0]):
            return [r[0] for r in results], sum(r[1] for r in results), [c.state_dict() for c in criteria]
        known += 1


def shares(p: list[Tensor], targets: Tensor, ranks: int) -> list[tuple[list[Tensor], Tensor]]:
    parts = []
    for rank in range(ranks):
        images = list(range(len(p[0])))[rank::ranks]
        rows = [targets[targets[:, 0] == image].clone() for image in images]
        for new, row in enumerate(rows):
            row[:, 0] = new
        parts.append(([x[images] for x in p], torch.cat(rows)))
    return parts


def flat_state(state: dict[str, Any]) -> dict[str, list[float]]:
    tensors = {f"{part}.{key}": v for part in state if part != "balance" for key, v in state[part].items()}
    return {name: tensor.flatten().tolist() for name, tensor in tensors.items()}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", SINGLE)
def test_parts_of_a_batch_add_up(ranks: int, name: str) -> None:
    p, targets = random_batch(images=5, size=64)  # image 1 has no labels; shares differ in size and in matches
    p = [x.requires_grad_() for x in p]
    options = {"class_weights": [0.5, 1.0, 4.0], "autobalance": True}
    single = criterion_of(SINGLE[name], **options)
    for _ in range(3):
        whole, items = single(p, targets)
    wanted = torch.autograd.grad(whole, p)
    losses, item_sum, states = in_turn(
        shares(p, targets, ranks), lambda **world: criterion_of(SINGLE[name], **options, **world), 3
    )
    total = sum(losses)
    assert total.item() == pytest.approx(whole.item(), rel=2e-6)
    assert item_sum.tolist() == pytest.approx(items.tolist(), rel=2e-6)
    for got, want in zip(torch.autograd.grad(total, p), wanted, strict=True):
        assert ((got - want).norm() / want.norm()).item() < 5e-6
    expected = flat_state(single.state_dict())
    for state in states:
        assert flat_state(state) == {k: pytest.approx(v, rel=5e-6, abs=1e-9) for k, v in expected.items()}


@pytest.mark.parametrize("name", SINGLE)
def test_a_stand_in_image_counts_nothing(name: str) -> None:
    p, targets = random_batch(images=2, size=64)
    criterion = criterion_of(SINGLE[name], world_sum=lambda x: x)
    criterion.is_filler = True
    sent = []
    criterion.world_sum = lambda x: sent.append(x.clone()) or x + 1
    raw = [x[:1].requires_grad_() for x in p]
    loss, items = criterion(raw, targets[targets[:, 0] == 0])
    assert all((x == 0).all() for x in sent)
    assert loss.item() == 0 and items.tolist() == [0, 0, 0]
    assert all(g.abs().sum() == 0 for g in torch.autograd.grad(loss, raw))


@pytest.mark.parametrize("name", SINGLE)
def test_one_exchange_for_all_modifiers(name: str) -> None:
    p, targets = random_batch(images=2, size=64)
    sent = []
    criterion = criterion_of({**SINGLE[name], "cls_loss": "bce"}, world_sum=lambda x: sent.append(len(x)) or x)
    criterion(p, targets)
    assert len(sent) == 1


@pytest.mark.parametrize("name", SINGLE)
def test_state_survives_bit_for_bit(name: str) -> None:
    first, second = criterion_of(SINGLE[name]), criterion_of(SINGLE[name])
    for seed in range(3):
        first(*random_batch(seed=seed, size=64))
    state = first.state_dict()
    for part in state.values():
        assert isinstance(part, list) or all(v.dtype == torch.float32 and v.device.type == "cpu" for v in part.values())
    second.load_state_dict(state)
    first(*random_batch(seed=7, size=64))  # what was saved is a copy
    second(*random_batch(seed=7, size=64))
    batch = random_batch(seed=8, size=64)
    assert torch.equal(first(*batch)[0], second(*batch)[0])
    assert flat_state(first.state_dict()) == flat_state(second.state_dict())


def test_composite_names_stand_for_their_settings() -> None:
    p, targets = random_batch()
    composite = criterion_of({"cls_loss": "improved_focal"})
    spelled = criterion_of({"cls_loss": "focal", "hard_iou": 0.5, "hard_dist": 0.5, "hard_dens": 0.5})
    assert torch.equal(composite(p, targets)[0], spelled(p, targets)[0])


class HostReads(TorchDispatchMode):
    """Counts what would make the host wait for a CUDA device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.").split(".")[0]
        masked = name in {"index", "index_put", "index_put_"} and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if name in {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "unique"} or masked:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", SINGLE)
def test_the_host_waits_for_the_number_of_matches_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_width", lambda rank, bound: bound)  # as on CUDA
    p, targets = random_batch(size=64)
    targets = torch.cat((targets, torch.ones(len(targets), 1)), 1)
    criterion = criterion_of({**SINGLE[name], "cls_weights_obj": True}, class_weights=[0.5, 1.0, 4.0])
    criterion.track_loss_share()
    p = [x.requires_grad_() for x in p]
    for _ in range(2):
        with HostReads() as reads:
            loss, _ = criterion(p, targets)
            loss.backward()
        assert reads.found == ["nonzero"] * 3
