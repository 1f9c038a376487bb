"""Modifiers as pure functions: worked numbers, limits and identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.balance import attention, modifiers, target_geometry
from utils.balance.head_modifiers import Dynamic, HardObjects

LN3 = math.log(3.0)  # sigmoid(ln 3) = .75
EASY, HARD = 0.287682, 1.386294  # ℓ at h = .25 and h = .75


def column(*values: float) -> Tensor:
    return torch.tensor(values)


# ---- 3.1 dynamic
def test_dynamic_by_hand() -> None:
    """γ = 1, E = .5, β = .5: h = .25 → .5 + .5·.5 = .75; h = .75 → 1.25; times ℓ .215762 and 1.732868."""
    weights = modifiers.dynamic_weights(column(0.25, 0.75), 0.5, 0.5)
    assert weights.tolist() == pytest.approx([0.75, 1.25], abs=1e-6)
    assert (weights * column(EASY, HARD)).tolist() == pytest.approx([0.215762, 1.732868], abs=1e-6)


def test_dynamic_keeps_the_mean_and_counts_alike_before_it_is_known() -> None:
    h = torch.rand(1000)
    assert modifiers.dynamic_weights(h, h.mean(), 0.7).mean().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(modifiers.dynamic_weights(h, torch.zeros(()), 0.7), torch.ones(1000))
    assert torch.equal(modifiers.dynamic_weights(h, h.mean(), 0.0), torch.ones(1000))


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 0.0), (0.1, 0.0), (0.4, 0.4), (0.7, 0.8), (0.9, 0.8)], ids=str)
def test_linear_strength(progress: float, beta: float) -> None:
    """.8 · clip((e − .1)/.6, 0, 1)."""
    assert modifiers.linear_strength(0.8, progress, (0.1, 0.7)) == pytest.approx(beta)


def test_linear_strength_as_a_step() -> None:
    assert modifiers.linear_strength(1.0, 0.49, (0.5, 0.5)) == 0
    assert modifiers.linear_strength(1.0, 0.5, (0.5, 0.5)) == 1


def test_adaptive_strength() -> None:
    """.5 · clip(1 − H/H₀, 0, 1): H = .3, H₀ = .4 → .125; harder than at the start → 0; not known → 0."""
    beta = modifiers.adaptive_strength(0.5, column(0.3, 0.5, 0.3, 0.0), column(0.4, 0.4, 0.0, 0.4))
    assert beta.tolist() == pytest.approx([0.125, 0.0, 0.0, 0.5], abs=1e-6)


def test_dynamic_state_is_a_running_mean_of_each_sign() -> None:
    dynamic = Dynamic(1.0, "linear", (0.0, 0.0), gamma=2.0)
    h, positive = column(0.5, 0.1, 0.3), torch.tensor([True, False, False])
    assert torch.equal(dynamic.weights(h, positive), torch.ones(3))
    dynamic.absorb(dynamic.sums(h, positive))
    assert dynamic.expected.tolist() == pytest.approx([0.05, 0.25])
    assert dynamic.hardness.tolist() == pytest.approx([0.2, 0.5])
    assert dynamic.weights(h, positive).tolist() == pytest.approx([1.0, 0.2, 1.8])
    dynamic.absorb(dynamic.sums(column(1.0, 1.0), torch.tensor([True, True])))
    assert dynamic.expected.tolist() == pytest.approx([0.05, 0.99 * 0.25 + 0.01])  # no negatives: theirs stays


def test_adaptive_starts_at_the_first_epoch_named() -> None:
    dynamic = Dynamic(1.0, "adaptive", (0.5, 0.7), gamma=1.0)
    h, positive = column(0.5, 0.2), torch.tensor([True, False])
    dynamic.absorb(dynamic.sums(h, positive))
    assert dynamic.weights(h, positive) is None
    dynamic.progress = 0.5
    dynamic.absorb(dynamic.sums(h, positive))
    assert dynamic.reference.tolist() == pytest.approx([0.2, 0.5])
    for _ in range(300):
        dynamic.absorb(dynamic.sums(h / 2, positive))
    assert dynamic.reference.tolist() == pytest.approx([0.2, 0.5])
    assert dynamic.strength().tolist() == pytest.approx([0.475, 0.475], abs=0.01)


# ---- 3.2 attention
TWO = torch.eye(2)[None]
HARDNESS = column(0.25, 0.75)[None]
BOTH = torch.ones(1, 2, dtype=torch.bool)


def test_attention_by_hand() -> None:
    """Orthogonal tokens, T = 1/ln 3: A = [[.75, .25], [.25, .75]], A·h = (.375, .625), a = (.75, 1.25)."""
    weights = attention.attention_weights(TWO * 3, HARDNESS, BOTH, 1.0, 1 / LN3)
    assert weights[0].tolist() == pytest.approx([0.75, 1.25], abs=1e-6)
    assert (weights[0] * column(EASY, HARD)).tolist() == pytest.approx([0.215762, 1.732868], abs=1e-6)
    half = attention.attention_weights(TWO, HARDNESS, BOTH, 0.5, 1 / LN3)
    assert half[0].tolist() == pytest.approx([0.875, 1.125], abs=1e-6)


def test_attention_limits() -> None:
    tokens, h, valid = torch.randn(2, 9, 5), torch.rand(2, 9), torch.ones(2, 9, dtype=torch.bool)
    assert torch.allclose(attention.attention_weights(tokens, h, valid, 1.0, 1e9), torch.ones(2, 9), atol=1e-5)
    cold = attention.attention_weights(tokens, h, valid, 1.0, 1e-4)
    assert torch.allclose(cold, h / h.mean(1, keepdim=True), rtol=1e-4)


def test_padding_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(1)
    tokens, h, image = torch.randn(20, 6, generator=g), torch.rand(20, generator=g), torch.arange(20) % 3
    exact = attention.match_attention(tokens, h, image, 5, 0.7, 0.3)
    for one in range(3):
        rows = image == one
        alone = attention.attention_weights(
            tokens[rows][None], h[rows][None], torch.ones(1, int(rows.sum()), dtype=torch.bool), 0.7, 0.3
        )
        assert torch.allclose(exact[rows], alone[0], atol=1e-6)
    monkeypatch.setattr(attention, "_width", lambda rank, bound: bound)  # as on a device that must not be waited for
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", 450)
    assert torch.allclose(attention.match_attention(tokens, h, image, 5, 0.7, 0.3), exact, atol=1e-6)


def test_only_the_hardest_matches_attend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MOST_MATCHES", 4)
    h, image = torch.linspace(0.1, 0.9, 9), torch.tensor([0] * 6 + [1] * 3)
    weights = attention.match_attention(torch.randn(9, 6), h, image, 2, 1.0, 0.5)
    assert (weights[:2] == 1).all()
    assert weights[2:6].mean().item() == pytest.approx(1, abs=1e-5)
    assert weights[6:].mean().item() == pytest.approx(1, abs=1e-5)
    assert (weights[2:] != 1).all()


def test_the_hardest_cells_and_all_positives_attend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "HARDEST_CELLS", 5)
    g = torch.Generator().manual_seed(2)
    raw, h = torch.randn(2, 3, 4, 4, 8, generator=g), torch.rand(2, 3, 4, 4, generator=g)
    positive = torch.zeros_like(h, dtype=torch.bool)
    positive[0, 0, 0, :3] = True
    h[positive] = 0.01
    weights = attention.cell_attention(raw, h, positive, 1.0, 0.5)
    assert (weights[positive] != 1).all()
    assert (weights != 1).flatten(1).sum(1).tolist() == [8, 5]
    for image in range(2):
        chosen = positive[image].clone().flatten()
        chosen[h[image].flatten().topk(5).indices] = True
        tokens = raw[image].reshape(-1, 8)[chosen]
        alone = attention.attention_weights(
            tokens[None], h[image].flatten()[chosen][None], torch.ones(1, len(tokens), dtype=torch.bool), 1.0, 0.5
        )
        assert torch.allclose(weights[image].flatten()[chosen], alone[0], atol=1e-6)
    monkeypatch.setattr(attention, "_width", lambda rank, bound: bound)
    assert torch.allclose(attention.cell_attention(raw, h, positive, 1.0, 0.5), weights, atol=1e-6)


# ---- 3.3 boundary
def test_boundary_by_hand() -> None:
    """Edge at x = 4, centre x = 3.5, σ = 1, λ = 1: 1 + e^(−.125) = 1.882497; d = 4: 1 + e^(−8) = 1.000335."""
    weights = modifiers.boundary_weights(column(0.5**2, 4.0**2, math.inf), 1.0)
    assert weights.tolist() == pytest.approx([1.882497, 1.000335, 1.0], abs=1e-6)


def test_edge_distances_of_one_box() -> None:
    """Box x 4 to 8, y 2 to 6 on a grid of 8 rows and 16 columns: beside, inside, at a corner."""
    targets = torch.tensor([[1.0, 0.0, 6 / 16, 4 / 8, 4 / 16, 4 / 8]])
    squared = target_geometry.edge_distances(targets, 2, (8, 16))
    assert torch.isinf(squared[0]).all()
    assert squared[1, 3, 3].item() == pytest.approx(0.25)  # centre (3.5, 3.5)
    assert squared[1, 3, 12].item() == pytest.approx(4.5**2)
    assert squared[1, 3, 5].item() == pytest.approx(1.5**2)  # inside, 1.5 from the left and upper edge
    assert squared[1, 0, 2].item() == pytest.approx(1.5**2 + 1.5**2)  # corner (4, 2)


def test_edge_distances_are_those_to_the_nearest_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_geometry, "CHUNK_ELEMENTS", 200)
    rng = np.random.default_rng(0)
    targets = torch.tensor(
        np.concatenate((rng.integers(0, 2, (7, 1)), np.zeros((7, 1)), rng.random((7, 2)), rng.random((7, 2))), 1)
    ).float()
    squared = target_geometry.edge_distances(targets, 2, (6, 9))
    scale = np.array([9, 6, 9, 6])
    for image, row, column_ in np.ndindex(2, 6, 9):
        best = math.inf
        for cx, cy, w, h in targets[targets[:, 0] == image][:, 2:].numpy() * scale:
            x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
            for (ax, ay), (bx, by) in (
                ((x1, y1), (x2, y1)), ((x1, y2), (x2, y2)), ((x1, y1), (x1, y2)), ((x2, y1), (x2, y2)),
            ):  # fmt: skip
                x, y = min(max(column_ + 0.5, ax), bx), min(max(row + 0.5, ay), by)
                best = min(best, (x - column_ - 0.5) ** 2 + (y - row - 0.5) ** 2)
        assert squared[image, row, column_].item() == pytest.approx(best, abs=1e-4)


# ---- 3.4 hard objects
def test_hard_factors_by_hand() -> None:
    """λ = 1: iou .25 → 1.75; d = 10, √(wh) = 10 → 1.367879; ρ = 5 → 1.5; product 3.590684."""
    by_iou = modifiers.iou_weights(column(0.25), 1.0)
    by_distance = modifiers.distance_weights(column(10.0), column(10.0), 1.0)
    by_density = modifiers.density_weights(column(5.0), 1.0)
    assert [by_iou.item(), by_distance.item(), by_density.item()] == pytest.approx([1.75, 1.367879, 1.5], abs=1e-6)
    assert (by_iou * by_distance * by_density).item() == pytest.approx(3.590684, abs=1e-6)


def test_hard_factor_limits() -> None:
    assert modifiers.iou_weights(column(0.0, 1.0), 2.0, 3.0).tolist() == [3.0, 1.0]
    assert modifiers.distance_weights(column(math.inf), column(10.0), 2.0).item() == 1
    assert modifiers.density_weights(column(0.0, 10.0, 99.0), 2.0).tolist() == [1.0, 3.0, 3.0]


def test_neighbours_by_hand() -> None:
    """100 × 100 px: A (10, 10) and B (20, 10) of class 0, C (10, 40) of class 1, sides 10; D alone in its image."""
    targets = torch.tensor(
        [
            [0, 0, 0.1, 0.1, 0.1, 0.1],
            [0, 0, 0.2, 0.1, 0.1, 0.1],
            [0, 1, 0.1, 0.4, 0.1, 0.1],
            [1, 1, 0.1, 0.1, 0.1, 0.1],
        ]
    )
    distance, near, size = target_geometry.neighbours(targets, 2, (100, 100), other_class=False)
    assert distance.tolist() == pytest.approx([10, 10, 30, math.inf], abs=1e-4)
    assert near.tolist() == [1, 1, 0, 0]
    assert size.tolist() == pytest.approx([10] * 4, abs=1e-4)
    distance, near, _ = target_geometry.neighbours(targets, 2, (100, 100), other_class=True)
    assert distance.tolist() == pytest.approx([30, math.hypot(10, 30), 30, math.inf], abs=1e-4)
    assert near.tolist() == [1, 1, 0, 0]
    weights = HardObjects(0, 1, 1.0, 1.0, True, 1.0, 10.0).of_targets(targets, 2, (100, 100))
    assert weights.tolist() == pytest.approx(
        [(1 + math.exp(-3)) * 1.1, (1 + math.exp(-math.sqrt(10))) * 1.1, 1 + math.exp(-3), 1.0], abs=1e-5
    )


def test_up_to_300_objects_are_compared_exactly() -> None:
    g = torch.Generator().manual_seed(3)
    targets = torch.cat((torch.zeros(300, 1), torch.zeros(300, 1), torch.rand(300, 4, generator=g)), 1)
    distance, near, size = target_geometry.neighbours(targets, 1, (50, 80), other_class=False)
    centres = targets[:, 2:4] * torch.tensor([80.0, 50.0])
    matrix = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf)
    assert torch.allclose(distance, matrix.amin(1), atol=1e-4)
    assert (near - (matrix <= 2 * size[:, None]).sum(1)).abs().max() == 0


def test_more_objects_are_compared_with_300_drawn_by_their_boxes() -> None:
    g = torch.Generator().manual_seed(4)
    crowd = torch.cat((torch.ones(900, 1), torch.zeros(900, 1), torch.rand(900, 4, generator=g)), 1)
    other = torch.cat((torch.zeros(50, 1), torch.zeros(50, 1), torch.rand(50, 4, generator=g)), 1)
    drawn = target_geometry._compared(crowd, torch.ones(900, dtype=torch.int64), 2)[1]
    assert len(set(drawn.tolist())) == 300 and (drawn >= 0).all()
    assert 380 < drawn.float().mean() < 520  # from everywhere, not the first
    both = torch.cat((crowd, other))
    shuffled = torch.randperm(950, generator=g)
    one = target_geometry.neighbours(both, 2, (64, 64), other_class=False)
    two = target_geometry.neighbours(both[shuffled], 2, (64, 64), other_class=False)
    alone = target_geometry.neighbours(other, 2, (64, 64), other_class=False)
    for a, b, c in zip(one, two, alone, strict=True):
        assert torch.equal(a[shuffled], b)  # whatever else the batch holds, in whatever order
        assert torch.equal(a[900:], c)


def test_neighbours_without_objects() -> None:
    for result in target_geometry.neighbours(torch.zeros(0, 6), 2, (64, 64), other_class=True):
        assert result.shape == (0,)
    assert torch.isinf(target_geometry.edge_distances(torch.zeros(0, 6), 2, (4, 4))).all()


# ---- 3.5 Tversky
def test_tversky_by_hand() -> None:
    """p = (.75, .25, .5), t = (1, 0, 0): TI = .75/1.15 = .652174, (1 − TI)^.75 = .452920; a = b = ½ is Dice, .6."""
    sums = modifiers.overlap_sums(column(0.75, 0.25, 0.5)[:, None], column(1.0, 0.0, 0.0)[:, None])
    assert sums[:, 0].tolist() == pytest.approx([0.75, 0.25, 0.75])
    exact = modifiers.focal_tversky(sums.double(), epsilon=0.0)
    assert exact.item() == pytest.approx(0.452920, abs=1e-6)
    assert (1 - modifiers.focal_tversky(sums.double(), gamma=1.0, epsilon=0.0)).item() == pytest.approx(
        0.652174, abs=1e-6
    )
    assert (1 - modifiers.focal_tversky(sums, misses=0.5, gamma=1.0, epsilon=0.0)).item() == pytest.approx(
        0.6, abs=1e-6
    )


def test_tversky_is_finite_at_perfect_scores() -> None:
    p = torch.tensor([[1.0], [0.0]], requires_grad=True)
    loss = modifiers.focal_tversky(modifiers.overlap_sums(p, column(1.0, 0.0)[:, None])).sum()
    assert torch.isfinite(torch.autograd.grad(loss, p)[0]).all()


def test_classes_without_positives_are_left_out() -> None:
    values, present = column(0.2, 0.9, 0.4), torch.tensor([True, False, True])
    assert modifiers.mean_over_present(values, present).item() == pytest.approx(0.3)
    assert modifiers.mean_over_present(values, torch.zeros(3, dtype=torch.bool)) == 0


# ---- 3.6 scale keeping, products and means
def test_scale_ratio_is_limited() -> None:
    ratio = modifiers.scale_ratio(column(0.6, 0.1, 1.0, 0.0), column(0.2, 0.2, 0.001, 0.0))
    assert ratio.tolist() == pytest.approx([3.0, 1.0, 20.0, 1.0])


def test_running_mean() -> None:
    old, new = column(0.0, 1.0, 1.0), column(2.0, 2.0, 2.0)
    assert modifiers.running_mean(old, new, torch.tensor([True, True, False])).tolist() == pytest.approx([2, 1.01, 1])


def test_normalised_has_mean_one_and_limits() -> None:
    weights = torch.rand(500) + 0.5
    assert modifiers.normalised(weights, weights.mean()).mean().item() == pytest.approx(1, abs=1e-6)
    assert modifiers.normalised(column(1e-3, 1.0, 1e3), torch.tensor(1.0)).tolist() == pytest.approx([0.1, 1.0, 10.0])
    assert torch.isfinite(modifiers.normalised(weights, torch.tensor(0.0))).all()
