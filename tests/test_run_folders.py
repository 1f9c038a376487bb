"""Run folders: each of many processes gets its own, numbered as in YOLOv5, and no two runs work in one."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.errors import InputError
from utils.paths import increment_path
from utils.training.build import claim_run_folder
from utils.training.folder_lock import hold_folder, release_folders
from utils.training.world import World

ROOT = Path(__file__).resolve().parents[1]
PROCESSES = 32
CLAIM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from utils.paths import increment_path
sys.stdout.write("ready\\n"); sys.stdout.flush()
for line in sys.stdin:
    print(increment_path(line.strip(), mkdir=True), flush=True)
"""
EXPECTED = {"exp", *(f"exp{number}" for number in range(2, PROCESSES + 1))}


def _claimed_at_once(folder: Path, rounds: int) -> None:
    """Let 32 processes claim ``exp`` in each of several folders at the same moment."""
    command = [sys.executable, "-c", CLAIM, str(ROOT)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]
    try:
        assert all(process.stdout.readline() == "ready\n" for process in processes)
        for number in range(rounds):
            place = folder / str(number)
            for process in processes:
                process.stdin.write(f"{place / 'exp'}\n")
            for process in processes:
                process.stdin.flush()
            claimed = [Path(process.stdout.readline().strip()) for process in processes]
            assert {path.name for path in claimed} == {path.name for path in place.iterdir()} == EXPECTED
            assert len(claimed) == PROCESSES
    finally:
        for process in processes:
            process.stdin.close()
            process.wait()
            process.stdout.close()


def test_processes_at_once_get_a_folder_each(tmp_path: Path) -> None:
    _claimed_at_once(tmp_path, 2)


@pytest.mark.slow
def test_processes_at_once_get_a_folder_each_in_twenty_rounds(tmp_path: Path) -> None:
    _claimed_at_once(tmp_path, 20)


def test_numbers_fill_the_first_gap(tmp_path: Path) -> None:
    names = [increment_path(tmp_path / "exp", mkdir=True).name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    (tmp_path / "exp2").rmdir()
    (tmp_path / "exp2").write_text("a file takes the name as well")
    assert increment_path(tmp_path / "exp", mkdir=True).name == "exp4"
    assert increment_path(tmp_path / "exp", exist_ok=True, mkdir=True).name == "exp"


@pytest.mark.slow
def test_the_commands_claim_at_once(tmp_path: Path, tiny_data: Path, shared: Path) -> None:
    """val.py and detect.py, two of each at a time; preview.py writes one file and makes no run folder."""
    weights = ["--weights", str(shared / "weights/yolov5n.pt"), "--imgsz", "64", "--device", "cpu", "--name", "exp"]
    image = str(tiny_data.parent / "tiny/images/val/0.png")
    commands = [
        ["detect.py", *weights, "--source", image, "--project", str(tmp_path / "runs")],
        ["val.py", *weights, "--data", str(tiny_data), "--single-cls", "--workers", "0", "--project",
         str(tmp_path / "runs")],
    ]  # fmt: skip
    for path in (tiny_data.parent / "tiny/labels").rglob("*.txt"):
        path.write_text("".join(f"0{line[1:]}\n" for line in path.read_text().splitlines()))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(ROOT / command[0]), *command[1:]], env=environment, stderr=subprocess.PIPE
        )
        for command in commands * 2
    ]
    for process in running:
        stderr = process.communicate(timeout=300)[1]
        assert process.returncode == 0, stderr[-2000:]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"exp", "exp2", "exp3", "exp4"}


# One run at a time ---------------------------------------------------------------------------------------------------

HOLD = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from utils.training.folder_lock import hold_folder
hold_folder(sys.argv[2])
if os.fork() == 0:  # a loader process, which outlives the run for a while
    time.sleep(30)
    os._exit(0)
print("held", flush=True)
time.sleep(30)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such locks")
def test_a_folder_is_free_again_when_its_run_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(ROOT), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another run is at work in this folder"):
            hold_folder(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        hold_folder(tmp_path)
        hold_folder(tmp_path)  # a second time in one process: it goes on with its own run
        release_folders()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_claiming_a_folder_sweeps_what_a_killed_run_left(tmp_path: Path) -> None:
    opt = argparse.Namespace(project=str(tmp_path), name="exp", exist_ok=True)
    weights = tmp_path / "exp" / "weights"
    weights.mkdir(parents=True)
    for name in (".last.pt.tmp", ".last.pt.sha256.tmp", "last.pt"):
        (weights / name).write_bytes(b"x")
    begun = time.monotonic()
    assert claim_run_folder(opt, World()) == tmp_path / "exp"
    release_folders()
    assert [path.name for path in weights.iterdir()] == ["last.pt"] and time.monotonic() - begun < 5
