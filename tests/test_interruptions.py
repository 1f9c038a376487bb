"""Runs that are stopped by a signal, killed within an epoch, or meet numbers that are not finite."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from utils.callbacks import Callbacks
from utils.checkpoint import load_checkpoint
from utils.errors import WorkError
from utils.logs import LOGGER
from utils.training.preemption import Interrupted

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 3
RUN = [
    "--weights", "", "--cfg", "yolov5n.yaml", "--imgsz", "64", "--batch-size", "2", "--device", "cpu", "--noplots",
    "--epochs", EPOCHS,
]  # fmt: skip
TINY = {
    "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 2, "device": "cpu", "workers": 0, "noplots": True,
    "epochs": EPOCHS,
}  # fmt: skip
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train
from utils.callbacks import Callbacks
from utils.errors import run_command

seen = []

def strike(*arguments):
    seen.append(0)
    if len(seen) == {count} and {rank} in (-1, int(os.environ.get("RANK", "-1"))):
        os.kill(os.getpid(), {number})

callbacks = Callbacks()
callbacks.register_action({hook!r}, callback=strike)
opt = train.build_parser().parse_args({arguments!r})
run_command(lambda: train.main(opt, callbacks))
"""


def _python(*command: Any, processes: int = 1) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, [*launcher, *command])], capture_output=True, text=True, env=environment, check=False
    )


def _train(*arguments: Any, processes: int = 1) -> str:
    done = _python(ROOT / "train.py", *arguments, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def _struck(
    folder: Path, arguments: list[Any], number: int, hook: str, count: int, *, rank: int = -1, processes: int = 1
) -> subprocess.CompletedProcess:
    """Run train.py and send it a signal at the ``count``-th call of a hook."""
    script = folder / "struck.py"
    texts = [str(argument) for argument in arguments]
    script.write_text(
        SCRIPT.format(root=str(ROOT), count=count, number=int(number), hook=hook, arguments=texts, rank=rank)
    )
    return _python(script, processes=processes)


def _assert_same_run(one: Path, other: Path) -> None:
    for name in ("last.pt", "best.pt"):
        ours, theirs = (load_checkpoint(run / "weights" / name)["model"].state_dict() for run in (one, other))
        assert ours.keys() == theirs.keys() and len(ours) > 300
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items()), name
    assert (one / "results.csv").read_text() == (other / "results.csv").read_text()


@pytest.mark.parametrize(
    ("hook", "count", "workers"),
    [
        pytest.param("on_train_batch_end", 6, 2, id="step, workers"),
        pytest.param("on_val_batch_end", 2, 0, id="validation"),
        pytest.param("on_train_batch_end", 6, 0, id="step", marks=pytest.mark.slow),
        pytest.param("on_val_batch_end", 2, 2, id="validation, workers", marks=pytest.mark.slow),
    ],
)
def test_sigterm_saves_within_the_epoch_and_the_run_goes_on_bit_for_bit(
    hook: str, count: int, workers: int, tiny_data: Path, tmp_path: Path
) -> None:
    """4 steps an epoch; the 6th step lies between two optimizer steps, so that gradients have to be kept."""
    arguments = ["--data", tiny_data, *RUN, "--workers", workers, "--project", tmp_path / "runs", "--multi-scale"]
    _train(*arguments, "--name", "whole")
    stopped = _struck(tmp_path, [*arguments, "--name", "cut"], signal.SIGTERM, hook, count)
    assert stopped.returncode == 143, stopped.stderr[-3000:]
    last = tmp_path / "runs/cut/weights/last.pt"
    line = stopped.stderr.strip().splitlines()[-1]
    assert line.startswith("stopped: by SIGTERM in epoch ") and str(last) in line
    block = load_checkpoint(last)["resume"]
    if hook == "on_train_batch_end":
        assert (block["epoch"], block["batch"], block["step"]) == (1, 2, 6)
        assert len(block["gradients"]) > 100
    _train("--resume", last)
    _assert_same_run(tmp_path / "runs/whole", tmp_path / "runs/cut")


def test_sigint_ends_with_130_and_a_second_signal_at_once(tiny_data: Path, tmp_path: Path) -> None:
    arguments = ["--data", tiny_data, *RUN, "--workers", "0", "--project", tmp_path / "runs"]
    stopped = _struck(tmp_path, [*arguments, "--name", "one"], signal.SIGINT, "on_train_batch_end", 1)
    assert stopped.returncode == 130 and "stopped: by SIGINT" in stopped.stderr
    assert load_checkpoint(tmp_path / "runs/one/weights/last.pt")["resume"]["step"] == 1
    script = "import os, signal\n" + SCRIPT.replace("os.kill(", "os.kill(os.getpid(), 2); os.kill(")
    (tmp_path / "twice.py").write_text(
        script.format(
            root=str(ROOT), count=2, number=15, hook="on_train_batch_end", rank=-1,
            arguments=[str(argument) for argument in [*arguments, "--name", "two"]],
        )
    )  # fmt: skip
    stopped = _python(tmp_path / "twice.py")
    assert stopped.returncode == 143
    assert not (tmp_path / "runs/two/weights/last.pt").exists()  # nothing more was done


def test_sigterm_before_the_training_ends_at_once(tiny_data: Path, tmp_path: Path) -> None:
    arguments = ["--data", tiny_data, *RUN, "--workers", "0", "--project", tmp_path / "runs"]
    stopped = _struck(tmp_path, arguments, signal.SIGTERM, "on_pretrain_routine_start", 1)
    assert stopped.returncode == 143 and "Traceback" not in stopped.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_killed_within_an_epoch_goes_on_from_the_last_saved_step(tiny_data: Path, tmp_path: Path) -> None:
    arguments = ["--data", tiny_data, *RUN, "--workers", "0", "--project", tmp_path / "runs", "--save-steps", "1"]
    _train(*arguments, "--name", "whole")
    killed = _struck(tmp_path, [*arguments, "--name", "cut"], signal.SIGKILL, "on_train_batch_end", 7)
    assert killed.returncode == -9
    last = tmp_path / "runs/cut/weights/last.pt"
    assert load_checkpoint(last)["resume"]["step"] == 6
    _train("--resume", last)
    _assert_same_run(tmp_path / "runs/whole", tmp_path / "runs/cut")


def test_all_processes_stop_after_the_same_step_and_go_on_bit_for_bit(tiny_data: Path, tmp_path: Path) -> None:
    """The main process alone gets the signal, at its 5th step; the other learns of it after the next."""
    arguments = ["--data", tiny_data, *RUN, "--workers", "0", "--project", tmp_path / "runs"]
    _train(*arguments, "--name", "whole", processes=2)
    stopped = _struck(
        tmp_path, [*arguments, "--name", "cut"], signal.SIGTERM, "on_train_batch_end", 5, rank=0, processes=2
    )
    assert stopped.returncode != 0 and "stopped: by SIGTERM in epoch 1" in stopped.stderr
    last = tmp_path / "runs/cut/weights/last.pt"
    block = load_checkpoint(last)["resume"]
    assert block["step"] in {6, 7, 8} and not block["gradients"]
    assert block["rows"]["loss_sum"].shape == (2, 3)
    _train("--resume", last, processes=2)
    _assert_same_run(tmp_path / "runs/whole", tmp_path / "runs/cut")


# Numbers that are not finite -----------------------------------------------------------------------------------------


def _poisoned(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> list[int]:
    """Make the loss of the batches with these numbers, counted over the whole process, NaN."""
    from utils.loss import ComputeLoss

    calls: list[int] = []
    compute = ComputeLoss.__call__

    def call(self: Any, outputs: Any, targets: Any) -> Any:
        loss, items = compute(self, outputs, targets)
        if torch.is_grad_enabled():
            calls.append(len(calls))
            if calls[-1] in bad:
                return loss * float("nan"), items * float("nan")
        return loss, items

    monkeypatch.setattr(ComputeLoss, "__call__", call)
    return calls


@pytest.fixture
def run_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Return caplog with the project's log in it, whatever an earlier command set up."""
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    propagates, LOGGER.propagate = LOGGER.propagate, False
    LOGGER.addHandler(caplog.handler)
    yield caplog
    LOGGER.removeHandler(caplog.handler)
    LOGGER.propagate = propagates


def _is_finite(folder: Path) -> bool:
    from utils.checkpoint import _tensors

    tensors = [t for path in folder.glob("weights/*.pt") for _, t in _tensors(load_checkpoint(path), "")]
    assert len(tensors) > 300
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


@pytest.mark.parametrize("batch", [0, 1, 7, 4 * EPOCHS - 1])
def test_a_poisoned_batch_is_skipped(
    batch: int, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_log: pytest.LogCaptureFixture
) -> None:
    _poisoned(monkeypatch, {batch})
    opt = train.run(data=str(tiny_data), project=str(tmp_path / "runs"), **TINY)
    log = run_log.text
    assert f"epoch {batch // 4}, batch {batch % 4}: a loss or gradient is not finite (box nan" in log
    assert _is_finite(Path(opt.save_dir))
    rows = (Path(opt.save_dir) / "results.csv").read_text()
    assert rows.count("\n") == 1 + EPOCHS and "nan" not in rows


def test_a_run_that_diverges_goes_back_with_lower_rates_and_can_end_well(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_log: pytest.LogCaptureFixture
) -> None:
    """Three bad steps in the second epoch: back to the checkpoint of the first, half the rate from there on."""
    _poisoned(monkeypatch, {5, 6, 7, 8, 9, 10, 11})
    opt = train.run(data=str(tiny_data), project=str(tmp_path / "runs"), **TINY)
    log = run_log.text
    assert "back to " in log and "with 0.5 times the learning rate (return 1 of at most 2)" in log
    rows = (Path(opt.save_dir) / "results.csv").read_text().splitlines()
    assert [row.split(",")[0].strip() for row in rows] == ["epoch", "0", "1", "2"]
    assert _is_finite(Path(opt.save_dir))


def test_a_run_that_cannot_be_saved_stops_with_its_last_good_checkpoint(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poisoned(monkeypatch, set(range(5, 1000)))
    with pytest.raises(WorkError, match="also after 2 returns with lower learning rates; the last good checkpoint is"):
        train.run(data=str(tiny_data), project=str(tmp_path / "runs"), **TINY)
    folder = tmp_path / "runs/exp"
    assert _is_finite(folder)
    assert load_checkpoint(folder / "weights/last.pt")["epoch"] == 0


POISON = """
import sys
sys.path.insert(0, {root!r})
import train
from utils.errors import run_command
from utils.loss import ComputeLoss

compute = ComputeLoss.__call__

def call(self, outputs, targets):
    loss, items = compute(self, outputs, targets)
    return loss * float("nan"), items * float("nan")

ComputeLoss.__call__ = call
opt = train.build_parser().parse_args({arguments!r})
run_command(lambda: train.main(opt))
"""


def test_nothing_but_bad_batches_ends_with_status_1_and_no_broken_file(tiny_data: Path, tmp_path: Path) -> None:
    arguments = ["--data", tiny_data, *RUN, "--workers", "0", "--project", tmp_path / "runs"]
    script = tmp_path / "poison.py"
    script.write_text(POISON.format(root=str(ROOT), arguments=[str(argument) for argument in arguments]))
    done = _python(script)
    assert done.returncode == 1, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: epoch 0, batch 2: 3 losses or gradients") and "no checkpoint was written" in last
    assert not list((tmp_path / "runs/exp/weights").iterdir())


def test_two_processes_that_meet_bad_losses_go_back_together(tiny_data: Path, tmp_path: Path) -> None:
    arguments = ["--data", tiny_data, *RUN, "--workers", "0", "--project", tmp_path / "runs"]
    script = tmp_path / "poison.py"
    script.write_text(POISON.format(root=str(ROOT), arguments=[str(argument) for argument in arguments]))
    done = _python(script, processes=2)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "back to the beginning" in done.stderr and "also after 2 returns" in done.stderr


def test_from_python_a_signal_raises_after_saving(tiny_data: Path, tmp_path: Path) -> None:
    callbacks = Callbacks()
    callbacks.register_action(
        "on_train_batch_end", callback=lambda model, step, *_: step == 1 and os.kill(os.getpid(), signal.SIGTERM)
    )
    before = signal.getsignal(signal.SIGTERM)
    opt = train.build_parser().parse_args([])
    vars(opt).update({**TINY, "data": str(tiny_data), "project": str(tmp_path / "runs")})
    with pytest.raises(Interrupted) as caught:
        train.main(opt, callbacks, given={})
    assert caught.value.exit_status == 143
    assert signal.getsignal(signal.SIGTERM) is before
