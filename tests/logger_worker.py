"""Reports a small made-up run to one service, for test_logger_services.py.

    python logger_worker.py SERVICE FOLDER

Attempts to reach a network are refused and go to FOLDER/attempts.txt, one a line; local sockets do not count.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
REACHING = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
            "socket.gethostbyaddr", "socket.getnameinfo"}  # fmt: skip
LOCAL = {"127.0.0.1", "::1", "localhost"}


def watch(events: int) -> None:
    """Write every attempt to the file descriptor ``events``."""

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event not in REACHING:
            return
        first = args[0]
        if isinstance(first, socket.socket):
            if first.family == socket.AF_UNIX or (isinstance(args[1], tuple) and args[1][0] in LOCAL):
                return
        elif first in LOCAL or first is None:
            return
        caller = [frame.filename for frame in traceback.extract_stack() if "site-packages" in frame.filename]
        os.write(events, f"{event} {args!r} by {caller[:3]}\n".encode())
        raise socket.gaierror(socket.EAI_AGAIN, "no network in this test")

    sys.addaudithook(hook)


def main() -> None:
    """Report two epochs."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    watch(os.open(folder / "attempts.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
    from utils.loggers.service import Start
    from utils.loggers.services import open_services

    hyp = {"lr0": 0.01, "cls_loss": "focal", "album_rare": [{"HorizontalFlip": 0.5}]}
    options = {"epochs": 2, "data": "x.yaml", "freeze": [0], "evolve": None}
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    services = open_services(Start(folder, "screws", "first", options, hyp), resumed="RESUMED" in os.environ)
    assert [member.name for member in services.members] == [name]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    picture = folder / "train_batch0.jpg"
    import cv2

    cv2.imwrite(str(picture), np.full((20, 30, 3), 90, np.uint8))
    services.pictures({"train_batch0": picture}, 0)
    for epoch in range(2):
        services.tell("detections", np.zeros((20, 30, 3), np.uint8), np.array([[1.0, 2, 9, 8, 0.9, 0]]), {0: "bolt"},
                      "a.jpg", epoch)  # fmt: skip
        services.scalars({"train/box_loss": 0.5, "metrics/mAP_0.5:0.95": 0.25 * epoch, "x/lr0": 0.1}, epoch)
    services.tell("text", "class_balance", "class  weight\nbolt  1")
    services.tell("table", "per_class", ("class", "AP"), [["bolt", 0.5], ["nut, M6", None]], 1)
    services.tell("confusion", np.array([[3.0, 1], [0, 0]]), ["bolt", "background"], 1)
    services.tell("data_set", {"images/val/a.jpg": picture})
    services.tell("summary", {"best/mAP_0.5": 0.5})
    best = folder / "best.pt"
    best.write_bytes(b"weights")
    services.tell("checkpoint", best, ["latest", "best", "stripped"], {"epoch": 1})
    assert [member.name for member in services.members] == [name], "the service failed on the way"
    services.close()


if __name__ == "__main__":
    main()
