"""Learning rate, momentum, accumulation and weight decay of every step."""

import math

import pytest
import torch

from utils.helpers import one_cycle
from utils.training.schedule import Schedule, accumulation_steps, linear_lr, scaled_weight_decay


def _optimizer(lr=0.01, momentum=0.937):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "initial_lr": lr} for _ in range(3)]
    return torch.optim.SGD(groups, lr=lr, momentum=momentum)


def test_lr_factors_match_the_reference(golden):
    for case in golden("schedule_and_data")[0]["lr_factor"]:
        factor = one_cycle(1, case["lrf"], case["epochs"]) if case["cos"] else linear_lr(case["epochs"], case["lrf"])
        found = [factor(epoch) for epoch in range(case["epochs"] + 1)]
        assert found == pytest.approx(case["factor_per_epoch"], rel=1e-9, abs=1e-12)


def test_every_warmup_row_matches_the_reference(golden):
    facts = golden("schedule_and_data")[0]["warmup"]
    hyp = facts["hyp"]
    rows = 0
    for case in facts["cases"]:
        factor = one_cycle(1, hyp["lrf"], case["epochs"]) if case["cos_lr"] else linear_lr(case["epochs"], hyp["lrf"])
        steps = Schedule.count_warmup_steps(hyp["warmup_epochs"], case["batches_per_epoch"])
        assert steps == case["warmup_iterations"]
        schedule = Schedule(
            factor, steps, hyp["warmup_bias_lr"], hyp["warmup_momentum"], hyp["momentum"], case["batch_size"]
        )
        for row in case["rows"]:
            optimizer = _optimizer(hyp["lr0"], hyp["momentum"])
            assert schedule.apply(optimizer, row["ni"], row["epoch"]) == row["accumulate"]
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(row["lr_bias_decay_bn"], abs=1e-9)
            assert optimizer.param_groups[0]["momentum"] == pytest.approx(row["momentum"], abs=1e-9)
            rows += 1
    assert rows > 30


def test_weight_decay_follows_the_batch(golden):
    for case in golden("schedule_and_data")[0]["weight_decay"]:
        assert accumulation_steps(case["batch_size"]) == case["accumulate"]
        assert scaled_weight_decay(0.0005, case["batch_size"]) == pytest.approx(case["weight_decay"], rel=1e-12)


def test_adam_keeps_its_betas():
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "initial_lr": 0.01} for _ in range(3)]
    optimizer = torch.optim.Adam(groups, lr=0.01, betas=(0.937, 0.999))
    Schedule(linear_lr(3, 0.1), 100, 0.1, 0.8, 0.937, 16).apply(optimizer, 0, 0)
    assert "momentum" not in optimizer.param_groups[0]
    assert optimizer.param_groups[1]["lr"] == 0 and math.isclose(optimizer.param_groups[0]["lr"], 0.1)
