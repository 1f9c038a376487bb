"""A process that prepares one layer of one side and runs it whenever a line on stdin says so.

python worker.py NAME PREFIX LAYER SETTINGS    (settings as JSON; replies are JSON lines on the real stdout)
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Answer ``run`` lines with seconds until stdin ends."""
    name, prefix, layer, settings = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a program prints goes to stderr
    sys.path.insert(0, str(HERE.parent))
    if not prefix:
        sys.path.insert(0, str(HERE.parents[1]))
        from utils.openmp import limit_spinning

        limit_spinning()  # as our commands do
    adapt_old_packages()
    import torch

    from speed_parts.layers import LAYERS
    from speed_parts.work import Side

    torch.manual_seed(0)
    threads = LAYERS[layer].threads
    if threads:
        torch.set_num_threads(threads)
        _cv2_threads(threads)
    work = LAYERS[layer].prepare(Side(prefix, name), settings)
    synchronize = torch.cuda.synchronize if settings.get("device", "cpu") != "cpu" else (lambda: None)
    _say(replies, {"check": work.check, "units": work.units, "limits": work.limits, "versions": _versions()})
    for line in sys.stdin:
        if line.strip() != "run":
            break
        work.before()
        gc.collect()
        synchronize()
        begin, begin_cpu = time.perf_counter(), time.process_time()
        work.run()
        synchronize()
        seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
        _say(replies, {"seconds": seconds, "cpu": cpu, "peak": peak_bytes()})


def _say(replies: Any, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def peak_bytes() -> int:
    """Return the largest resident size that this process has had."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _cv2_threads(threads: int) -> None:
    import cv2

    cv2.setNumThreads(0 if threads == 1 else threads)


def adapt_old_packages() -> None:
    """Give back what newer releases of torch and NumPy took from under older programs, which changes no speed."""
    import numpy as np

    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    if not hasattr(np, "trapz"):
        setattr(np, "trapz", np.trapezoid)  # noqa: B010


def _versions() -> dict[str, str]:
    """Return the packages that decide the speed."""
    import cv2
    import numpy
    import torch
    import torchvision

    return {m.__name__: m.__version__ for m in (torch, torchvision, cv2, numpy)}


if __name__ == "__main__":
    main()
