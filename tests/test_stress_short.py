"""The commands of tests/stress in short: few kills of a narrow model. ``-m slow`` takes more of them, and TINY."""

import os
import random
import signal
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed by signals")

if os.name == "posix":
    from stress import fault_list, fault_parts, faults, kills, save_loop
    from stress.fault_case import run_case
    from stress.reference import ROOT, Bench, checkpoint_step, differences, draw_data


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Return a bench whose runs have 3 epochs of 2 steps of a narrow model: about 5 s."""
    folder = tmp_path_factory.mktemp("stress")
    facts = yaml.safe_load((ROOT / "models" / "yolov5n.yaml").read_text())
    narrow = folder / "narrow.yaml"
    narrow.write_text(yaml.safe_dump({**facts, "width_multiple": 0.0625}))
    return Bench(folder, draw_data(folder, train=8, val=4), epochs=3, cfg=str(narrow))


@pytest.fixture(scope="module")
def killed(bench) -> Path:
    """Return the last.pt of a run that was killed after its second epoch."""
    process = bench.start(bench.options("killed"), [{"do": "die", "at": "on_model_save", "nth": 1}])
    assert process.wait() == -signal.SIGKILL, process.output()
    return bench.run_folder("killed") / "weights" / "last.pt"


def test_checkpoints_stay_whole_under_kills_while_they_are_written(killed, tmp_path):
    _, (kills_done, inside, _), problems = save_loop.killed_loops(killed, tmp_path / "loop", 6, random.Random(0))
    assert problems == []
    assert kills_done == 6 and inside >= 3


@pytest.mark.parametrize("keep_record", [True, False], ids=["record", "no record"])
def test_damaged_checkpoints_are_never_loaded_silently(killed, tmp_path, keep_record):
    found = fault_parts.damaged_loads(killed, tmp_path / "damaged", keep_record, cuts=6, flips=14)
    assert found.problems == []


def test_a_terminated_and_killed_run_ends_with_the_same_bits(bench):
    """SIGTERM within epoch 0, SIGKILL somewhere in what follows."""
    kills.undisturbed(bench, {"workers 2": ("--workers", "2")})
    whole = bench.wholes["workers 2"]
    last = bench.run_folder("stopped") / "weights" / "last.pt"
    process = bench.start(bench.options("stopped", "--workers", "2"))
    while process.steps_done() is None:
        assert process.sleep(process.elapsed() + 0.02), process.output()
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143, process.output()
    assert process.steps_done() - checkpoint_step(last) <= 1
    process = bench.start_or_resume("stopped")
    process.sleep(0.7 * whole.seconds)
    process.end_group()
    assert kills._finish(bench, "stopped", (), whole) == []
    assert differences(last.parent.parent, whole.folder, bench.epochs) == []


def test_processes_at_once_claim_folders_of_their_own(bench):
    rows = kills.folders(bench, 2, random.Random(0))
    assert [row.problems for row in rows] == [[], []]


def test_a_planted_fault_is_named_and_survived(bench, tmp_path):
    case = next(case for case in fault_list.GROUPS["nan"] if case.injected == "in batch 7")
    found = run_case(case, tmp_path / "case", tmp_path, bench.cfg)
    assert found.problems == [] and found.outcome == "survived" and "not finite" in found.message


@pytest.mark.slow
@pytest.mark.parametrize("command", [("saves", 20), ("chains", 8), ("terms", 6), ("folders", 20)], ids=lambda c: c[0])
def test_more_kills_of_the_reference_run(command):
    name, count = command
    assert kills.main([name, "--count", str(count)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("group", list(faults.GROUPS) if os.name == "posix" else [])
def test_every_fault(group):
    assert faults.main(["--only", group]) == 0
