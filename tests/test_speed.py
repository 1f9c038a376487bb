"""The conditions under which benchmarks/speed.py times: other processes that compute, and that a row says so."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from speed import conditions  # noqa: E402
from speed_parts.processes import busy_cores  # noqa: E402


@pytest.mark.parametrize(
    ("beside", "more", "said"),
    [(0, ("",), ""), (2, (), " (beside 2)"), (2, ("--weights a.onnx",), " (--weights a.onnx) (beside 2)")],
)
def test_a_row_says_its_conditions(beside, more, said):
    assert conditions(argparse.Namespace(beside=beside), *more) == said


def test_busy_processes_compute_and_end():
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with busy_cores(2):
        time.sleep(3)  # where other work leaves them a thirtieth of a core
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before > 0.1  # of those that have ended alone
