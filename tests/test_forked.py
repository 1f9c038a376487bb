"""Processes that share out the parts of a list: order, errors, and their end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils.data.forked import can_fork, map_forked
from utils.errors import InputError, WorkError

pytestmark = pytest.mark.skipif(not can_fork(), reason="needs fork")
ROOT = Path(__file__).resolve().parents[1]


def test_results_come_in_order_from_other_processes():
    found = list(map_forked(lambda part: (part * 10, os.getpid()), range(7), 3))
    assert [value for value, _ in found] == [0, 10, 20, 30, 40, 50, 60]
    assert len({pid for _, pid in found}) == 3 and os.getpid() not in {pid for _, pid in found}
    assert list(map_forked(str, [], 3)) == []


def test_an_error_arrives_after_the_parts_before_it():
    def work(part):
        if part == 3:
            raise InputError("bad part")
        return part

    found = []
    with pytest.raises(InputError, match="bad part"):
        found.extend(map_forked(work, range(6), 2))
    stream, seen = map_forked(work, range(6), 2), []
    with pytest.raises(InputError):
        for value in stream:
            seen.append(value)  # noqa: PERF402  (what came before the error counts)
    assert seen == [0, 1, 2]


def test_a_killed_process_is_an_error():
    with pytest.raises(WorkError, match=r"ended early \(status -9\)"):
        list(map_forked(lambda part: os.kill(os.getpid(), signal.SIGKILL) if part else part, range(4), 2))


def test_a_loop_left_early_leaves_no_process():
    pids = []
    stream = map_forked(lambda _: (time.sleep(0.01), os.getpid())[1], range(1000), 2)
    pids += [next(stream), next(stream)]
    stream.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_processes_end_with_a_killed_parent(tmp_path):
    script = (
        "import os, sys, time\n"
        "from utils.data.forked import map_forked\n"
        "def work(part):\n"
        "    open(sys.argv[1] + '/' + str(os.getpid()), 'w').close(); time.sleep(0.05); return bytes(1 << 20)\n"
        "for found in map_forked(work, range(10000), 2): time.sleep(0.2)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    parent = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    pids = [int(file.name) for file in tmp_path.iterdir()]
    assert len(pids) == 2
    while any(_is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_is_running(pid) for pid in pids)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
