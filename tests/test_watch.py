"""When one of several processes fails, all end within a minute and name it; nothing else makes them end."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tests" / "watch_worker.py"
LIMIT = 60.0  # seconds from the fault to the end of the last process
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and fork of POSIX")


@dataclass
class Ended:
    """How one process ended: its status, the moment, and what it wrote."""

    status: int
    moment: float
    text: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(command: list, size: int, limit: float = 150.0) -> list[Ended]:
    """Run a command in ``size`` processes that no launcher ends, as if each were on a machine of its own."""
    port = free_port()
    processes = []
    for rank in range(size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in place.items()}}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        full = [sys.executable, *map(str, command)]
        processes.append(subprocess.Popen(full, env=environment, start_new_session=True, **pipes))
    ended: dict[int, Ended] = {}
    begin = time.monotonic()
    texts = _readers(processes)
    while len(ended) < size and time.monotonic() - begin < limit:
        for rank, process in enumerate(processes):
            if rank not in ended and process.poll() is not None:
                ended[rank] = Ended(process.returncode, time.monotonic(), "")
        time.sleep(0.02)
    for process in processes:  # and their loader processes
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
    for rank, end in ended.items():
        end.text = texts[rank]()
    assert len(ended) == size, f"only ranks {sorted(ended)} ended in {limit} s: {[text() for text in texts]}"
    return [ended[rank] for rank in range(size)]


def _readers(processes: list) -> list:
    """Read what each process writes in a thread of its own; return functions that wait for it."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(len(processes))
    futures = [pool.submit(process.stdout.read) for process in processes]
    return [lambda future=future: future.result(30) for future in futures]


def assert_all_end(ended: list[Ended], rank: int, words: str, own_status: int) -> None:
    """The others end with status 1 and a line that names the rank; it itself ends as it would have alone."""
    assert ended[rank].status == own_status, ended[rank].text
    for number, end in enumerate(ended):
        if number != rank:
            assert end.status == 1, end.text
            lines = [line for line in end.text.splitlines() if line.startswith("error:")]
            assert len(lines) == 1 and f"error: rank {rank} (host " in lines[0] and words in lines[0], end.text
            assert "Traceback" not in end.text, end.text
    assert max(end.moment for end in ended) - min(end.moment for end in ended) < LIMIT / 3


@pytest.mark.parametrize(
    ("fault", "rank", "words", "status"),
    [
        ("raise", 1, "failed: ValueError: planted fault", 1),
        ("kill", 1, "ended without a word", -9),
        ("kill", 0, "ended without a word", -9),
    ],
)
def test_all_processes_end_when_one_fails(fault, rank, words, status) -> None:
    assert_all_end(run_ranks([WORKER, fault, rank], 3), rank, words, status)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "rank", "words", "status"),
    [
        ("raise", 0, "failed: ValueError: planted fault", 1),
        ("refuse", 1, "failed: data.yaml: planted", 2),
        ("refuse", 0, "failed: data.yaml: planted", 2),
        ("exit", 2, "failed: SystemExit: 7", 7),
        ("kill", 2, "ended without a word", -9),
    ],
)
@pytest.mark.parametrize("when", ["--early", "--late"])
def test_all_processes_end_whenever_one_fails(fault, rank, words, status, when) -> None:
    """Early is after the start and before the process group: the others wait in it."""
    assert_all_end(run_ranks([WORKER, fault, rank, when], 3), rank, words, status)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "rank"), [("none", 0), ("stop", 1), ("stop", 0), ("hold", 0)])
def test_nothing_else_makes_them_end(fault, rank) -> None:
    """A clean end, though the main process leaves later; a process stopped for 6 s; one that works alone."""
    for number, end in enumerate(run_ranks([WORKER, fault, rank], 3)):
        assert end.status == 0 and end.text.splitlines()[-1] == "done", (number, end.text)
        assert "error" not in end.text


# Whole training runs -------------------------------------------------------------------------------------------------

FAULTS = [(point, action, 0) for point in ("scan", "val", "save", "step") for action in ("kill", "raise")]
FAULTS += [("scan", "raise", 1), ("step", "kill", 1), ("step", "raise", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "action", "rank"), FAULTS)
def test_a_training_run_ends_when_one_process_fails(point, action, rank, tiny_data, tmp_path) -> None:
    arguments = [
        "--data", tiny_data, "--weights", "", "--cfg", "yolov5n.yaml", "--imgsz", "64", "--batch-size", "2", "--device",
        "cpu", "--epochs", "3", "--noplots", "--workers", "1", "--project", tmp_path / "runs",
    ]  # fmt: skip
    ended = run_ranks([ROOT / "tests" / "faulty_train.py", point, action, rank, *arguments], 2, limit=300)
    failed, other = ended[rank], ended[1 - rank]
    struck = float(failed.text.partition("struck at ")[2].split()[0])
    assert failed.status == (-9 if action == "kill" else 1), failed.text
    assert other.status == 1 and f"error: rank {rank} (host " in other.text, other.text
    assert ("ended without a word" if action == "kill" else f"ValueError: planted in {point}") in other.text
    assert max(end.moment for end in ended) - struck < LIMIT
    print(f"{point} {action} {rank}: {max(end.moment for end in ended) - struck:.1f} s")


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "rank"), [("raise", 0), ("raise", 1), ("kill", 0), ("kill", 1), ("none", 0)])
def test_the_launchers_of_two_machines_end(fault, rank) -> None:
    """Each launcher stands for a machine: 127.0.0.1 and 127.0.0.2."""
    port, launchers = free_port(), []
    for node, address in enumerate(("127.0.0.1", "127.0.0.2")):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(node),
            "--nproc_per_node", "2", "--master_addr", "127.0.0.1", "--master_port", str(port), "--local_addr", address,
            str(WORKER), fault, str(2 * rank),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        launchers.append(subprocess.Popen(command, env=environment, **pipes))
    texts = [launcher.communicate(timeout=150)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == ([0, 0] if fault == "none" else [1, 1]), texts
    if fault != "none":
        assert f"rank {2 * rank} (host " in texts[1 - rank], texts
