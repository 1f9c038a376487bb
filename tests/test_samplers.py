from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.balance.samplers import (
    EpochBatchSampler,
    draw_partners,
    partner_weights,
    replacement_order,
    sequential_order,
    shuffled_order,
    weighted_order,
)
from utils.errors import InputError

WEIGHTS = st.lists(st.floats(0, 50), min_size=1, max_size=60).filter(any)


def test_shuffled_order_depends_on_seed_and_epoch_alone():
    one = shuffled_order(50, 3, 7)
    np.testing.assert_array_equal(one, shuffled_order(50, 3, 7))
    assert sorted(one) == list(range(50))
    assert (one != shuffled_order(50, 3, 8)).any() and (one != shuffled_order(50, 4, 7)).any()


@given(weights=WEIGHTS, seed=st.integers(0, 2**40), epoch=st.integers(0, 500))
@settings(max_examples=100, deadline=None)
def test_fixed_length_draws_floor_or_ceil_of_expectation(weights, seed, epoch):
    drawn = weighted_order(np.array(weights), seed, epoch)
    n = len(weights)
    assert len(drawn) == n
    expected = n * np.array(weights) / np.sum(weights)
    counts = np.bincount(drawn, minlength=n)
    assert (counts >= np.floor(expected - 1e-9)).all() and (counts <= np.ceil(expected + 1e-9)).all()


@given(weights=WEIGHTS, seed=st.integers(0, 2**40))
@settings(max_examples=50, deadline=None)
def test_expand_gives_floor_or_ceil_copies(weights, seed):
    counts = np.bincount(weighted_order(np.array(weights), seed, 0, "expand"), minlength=len(weights))
    assert (counts >= np.floor(weights)).all() and (counts <= np.ceil(weights)).all()


def test_uniform_weights_draw_each_image_once():
    for length in ("fixed", "expand"):
        assert sorted(weighted_order(np.ones(37), 5, 2, length)) == list(range(37))


def test_expected_counts_of_the_documented_example():
    """N = 10, r = (2, 1 × 9): the rare image is drawn 20/11 = 1.818 times an epoch."""
    weights = np.r_[2.0, np.ones(9)]
    counts = [np.count_nonzero(weighted_order(weights, 0, epoch) == 0) for epoch in range(600)]
    assert set(counts) == {1, 2}
    assert abs(np.mean(counts) - 20 / 11) < 0.06


def test_replacement_order_and_zero_weights():
    counts = np.bincount(replacement_order(np.r_[0.0, 1.0, 3.0], 0, 0), minlength=3)
    assert counts[0] == 0 and counts.sum() == 3
    assert len(set(replacement_order(np.zeros(200), 0, 1).tolist())) > 100


@pytest.mark.parametrize(
    "call",
    [
        lambda: weighted_order(np.array([1.0, -1.0]), 0, 0),
        lambda: weighted_order(np.array([1.0, np.nan]), 0, 0),
        lambda: weighted_order(np.array([]), 0, 0),
        lambda: weighted_order(np.ones(3), 0, 0, "longer"),
        lambda: EpochBatchSampler(lambda e: np.arange(3), 0),
        lambda: EpochBatchSampler(lambda e: np.arange(3), 2, rank=2, world=2),
    ],
    ids=["negative", "nan", "empty", "length", "batch size", "rank"],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(InputError):
        call()


# Partners -------------------------------------------------------------------------------------------------------------


@given(weights=st.lists(st.floats(0.01, 20), min_size=2, max_size=40))
@settings(max_examples=100, deadline=None)
def test_partners_follow_the_weights_although_never_the_primary(weights):
    p = np.array(weights) / np.sum(weights)
    if p.max() >= 0.5:
        return
    v = partner_weights(np.array(weights))
    joint = np.outer(v, v)
    np.fill_diagonal(joint, 0)
    np.testing.assert_allclose(joint.sum(0), p, atol=1e-9)
    np.testing.assert_allclose(p @ (v / (v.sum() - v)[:, None] * (1 - np.eye(len(v)))), p, atol=1e-9)


def test_partner_example_of_repeat_factors():
    """N = 10, r = (2, 1 × 9), an epoch of mosaics: 1.818 + 3 uniform partners = 4.82 uses, 7.27 with weighted ones."""
    weights = np.r_[2.0, np.ones(9)]
    edges = np.cumsum(partner_weights(weights))
    rng = np.random.default_rng(0)
    epochs, uniform, weighted = 1500, 0, 0
    for epoch in range(epochs):
        for primary in weighted_order(weights, 1, epoch).tolist():
            uniform += (primary == 0) + draw_partners(None, 10, primary, 3, rng).count(0)
            partners = draw_partners(edges, 10, primary, 3, rng)
            assert primary not in partners
            weighted += (primary == 0) + partners.count(0)
    assert abs(uniform / epochs - 4.82) < 0.15
    assert abs(weighted / epochs - 7.27) < 0.15


def test_partners_without_choice():
    alone = np.cumsum(partner_weights(np.r_[0.0, 1.0, 0.0]))
    rng = np.random.default_rng(0)
    assert draw_partners(alone, 3, 1, 3, rng) == [1, 1, 1]
    assert draw_partners(alone, 3, 0, 3, rng) == [1, 1, 1]
    assert draw_partners(np.cumsum(partner_weights(np.ones(1))), 1, 0, 2, rng) == [0, 0]
    pair = np.cumsum(partner_weights(np.r_[1.0, 1.0]))
    assert draw_partners(pair, 2, 0, 3, rng) == [1, 1, 1]


# Batches --------------------------------------------------------------------------------------------------------------


def batches(n: int, size: int, world: int = 1, epoch: int = 0) -> list[list]:
    found = []
    for rank in range(world):
        sampler = EpochBatchSampler(lambda e: shuffled_order(n, 0, e), size, rank, world)
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return found


@given(n=st.integers(1, 40), size=st.integers(1, 16), world=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_ranks_together_draw_what_one_process_draws(n, size, world):
    single = batches(n, size)[0]
    ranks = batches(n, size, world, 0)
    sampler = EpochBatchSampler(lambda e: shuffled_order(n, 0, e), size, world - 1, world)
    assert len(sampler) == len(single) and all(len(share) == len(single) for share in ranks)
    for number, whole in enumerate(single):
        shares = []
        for rank, share in enumerate(ranks):
            real = EpochBatchSampler(lambda e: shuffled_order(n, 0, e), size, rank, world).real_count(number)
            assert len(share[number]) == max(real, 1)
            shares += share[number][:real]
        assert Counter(shares) == Counter(whole)
    assert Counter(d.index for batch in single for d in batch) == Counter(range(n))
    assert [d.position for batch in single for d in batch] == list(range(n))


def test_start_batch_gives_the_tail():
    sampler = EpochBatchSampler(lambda e: shuffled_order(23, 0, e), 4)
    sampler.set_epoch(5)
    whole = list(sampler)
    sampler.set_epoch(5, start_batch=2)
    assert list(sampler) == whole[2:]
    assert len(sampler) == 6


def test_iterating_again_is_the_next_epoch():
    sampler = EpochBatchSampler(lambda e: shuffled_order(9, 0, e), 4)
    first, second = list(sampler), list(sampler)
    assert {d.epoch for batch in first for d in batch} == {0}
    assert {d.epoch for batch in second for d in batch} == {1}
    assert sampler.upcoming() == (2, 0)
    sampler.set_epoch(1)
    assert list(sampler) == second


def test_set_order_takes_effect_at_once():
    sampler = EpochBatchSampler(sequential_order_of(6), 4)
    sampler.set_order(lambda e: np.array([5, 5]))
    assert [d.index for d in next(iter(sampler))] == [5, 5] and len(sampler) == 1
    assert sampler.indices.tolist() == [5, 5]


def test_indices_are_those_of_the_epoch_on_every_rank():
    for rank in range(3):
        sampler = EpochBatchSampler(lambda e: shuffled_order(7, 0, e), 6, rank, 3)
        sampler.set_epoch(2)
        assert sampler.indices.tolist() == shuffled_order(7, 0, 2).tolist()


def sequential_order_of(n: int):
    return lambda epoch: sequential_order(n)
