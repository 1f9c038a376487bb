"""benchmarks/loss_cost.py: every case is a valid setting, and the table says what was measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from checkpoint_files import tiny_model

from utils.balance.loss_names import COMPOSITES, LOSS_PARAMETERS
from utils.hyperparameters import Hyperparameters

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "loss_cost.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loss_cost", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_cases_cover_every_loss(benchmark: ModuleType) -> None:
    cases = benchmark.cases()
    chosen = {settings.get("cls_loss") for settings in cases.values()}
    assert set(LOSS_PARAMETERS) | set(COMPOSITES) <= chosen | {"bce"}
    hyp = Hyperparameters.load(benchmark.HYP)
    for settings in cases.values():
        hyp.replace(**settings)


def test_every_case_runs(benchmark: ModuleType) -> None:
    rng = np.random.default_rng(0)
    targets = torch.tensor(np.c_[np.arange(6) // 3, np.arange(6) % 2, rng.uniform(0.2, 0.6, (6, 4))]).float()
    labels = [np.c_[np.arange(3) % 2, rng.uniform(0.2, 0.6, (3, 4))] for _ in range(4)]
    batch = benchmark.Batch(torch.zeros(2, 3, 64, 64), targets, labels, {0: "bolt", 1: "nut"})
    model = tiny_model().train()
    with torch.no_grad():
        outputs = [p.detach().clone().requires_grad_() for p in model(batch.images)]
    losses = {name: benchmark.build_loss(model, settings, batch, 64) for name, settings in benchmark.cases().items()}
    costs = benchmark.measure_losses(losses, outputs, targets, 1)
    assert all(cost.median > 0 and cost.peak > 0 for cost in costs.values())


def test_table(benchmark: ModuleType) -> None:
    """A case of 3 and 5 ms beside BCE's 2 and 2: ratios 1.5 and 2.5, extra 1 and 3 ms of a step of 100."""
    costs = {"bce": benchmark.Cost([2.0, 2.0], 2**20), "x": benchmark.Cost([3.0, 5.0], 3 * 2**20)}
    *_, line = benchmark.table(costs, benchmark.Cost([100.0], 2**30))
    assert line.split() == ["x", "4.00", "2.00", "2.00", "3.0", "3.00"]
