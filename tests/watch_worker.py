"""One process of tests/test_watch.py, started without a launcher that would end the others.

python watch_worker.py FAULT RANK_OF_FAULT [--early]      with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set

FAULT is raise, refuse, exit, kill, stop (for 6 s), hold (the main process works alone for 6 s) or none.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.errors import InputError, run_command  # noqa: E402
from utils.training.distributed import (  # noqa: E402
    World,
    broadcast_from_main,
    join_group,
    leave_group,
    report_failure,
    watch_group,
    world_sum,
)


def strike(fault: str) -> None:
    """Let the fault happen in this process."""
    if fault == "raise":
        raise ValueError("planted\nfault")
    if fault == "refuse":
        raise InputError("data.yaml: planted")
    if fault == "exit":
        sys.exit(7)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "stop":  # another process continues this one
        code = "import os, signal, sys, time; time.sleep(6); os.kill(int(sys.argv[1]), signal.SIGCONT)"
        subprocess.Popen([sys.executable, "-c", code, str(os.getpid())])
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "hold":
        time.sleep(6)


def work(world: World, fault: str, rank: int, early: bool) -> None:
    """Join, exchange a few sums, with the fault between them, and leave."""
    watch_group(world)
    if early and world.rank == rank:
        strike(fault)
    join_group(world, torch.device("cpu"))
    for step in range(4):
        assert world_sum(torch.ones(1)).item() == world.size
        if step == 2 and world.rank == rank and not early:
            if os.fork() == 0:  # as a loader process: it inherits whatever is open, and lives on
                time.sleep(20)
                os._exit(0)
            strike(fault)
    assert broadcast_from_main("end") == "end"
    if world.rank:
        leave_group()
        print(f"left {world.rank}", flush=True)
        return
    time.sleep(1.5)  # the main process closes the run alone
    assert dist.is_initialized()


def main() -> None:
    """Do the work as train.py does it."""
    world = World.from_environment()
    try:
        work(world, sys.argv[1], int(sys.argv[2]), "--early" in sys.argv)
    except BaseException as error:
        report_failure(error)
        raise
    finally:
        leave_group()
    print("done", flush=True)


if __name__ == "__main__":
    run_command(main)
