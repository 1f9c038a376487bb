"""Runs commands in one process of its own and notes every attempt to reach a network, for test_offline.py.

    python offline_worker.py FOLDER < jobs.json     jobs: list of [command, [arguments]]

Attempts and programs started go to FOLDER/events.txt, one a line, also from loader workers. The result is JSON on
stdout: per job status, stderr and seconds. With --block every attempt fails as it does without a network.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

REACHING = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
            "socket.gethostbyaddr", "socket.getnameinfo"}  # fmt: skip
STARTING = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"}


def watch(events: int, block: bool) -> None:
    """Write every attempt to the file descriptor ``events``."""

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in REACHING:
            if isinstance(args[0], socket.socket) and args[0].family == socket.AF_UNIX:
                return  # a loader's workers talk to it so
            os.write(events, f"network {event} {args!r}\n".encode())
            if block:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        elif event in STARTING:
            os.write(events, f"program {args[:2]!r}\n".encode())

    sys.addaudithook(hook)


def run(command: str, arguments: list[str]) -> dict[str, object]:
    """Run one command; return its status, stderr and seconds."""
    import importlib

    from utils.errors import run_command
    from utils.logs import LOGGER

    module = importlib.import_module(command)
    sys.argv = [str(ROOT / f"{command}.py"), *arguments]
    said = io.StringIO()
    LOGGER.handlers = [logging.StreamHandler(said)]
    begin = _seconds()
    with contextlib.redirect_stderr(said):
        try:
            read_options = getattr(module, "parse_opt", None) or module.build_parser().parse_args
            run_command(lambda: module.main(read_options()))
            status = 0
        except SystemExit as end:
            status = end.code
    return {"status": status, "stderr": said.getvalue(), "seconds": _seconds() - begin}


def _seconds() -> float:
    """Return a clock that stands still while this thread waits for a CPU that others use."""
    try:
        waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except OSError:  # not Linux
        waited = 0.0
    return time.monotonic() - waited


def main() -> None:
    """Do the jobs."""
    jobs = json.load(sys.stdin)
    folder = Path(sys.argv[1])
    os.chdir(folder)
    import torch  # noqa: F401  (its import is no part of a command's time)

    events = os.open(folder / "events.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    watch(events, "--block" in sys.argv)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump([run(command, arguments) for command, arguments in jobs], out)
    out.flush()


if __name__ == "__main__":
    main()
