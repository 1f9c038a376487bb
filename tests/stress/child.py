"""train.py with a witness at its hooks, and with faults: python child.py --marks FILE --faults JSON -- TRAIN_ARGUMENTS

Every hook is written to FILE as "seconds hook number", one write each, so that it survives SIGKILL. A fault is an
object {"do": ACTION, ...}; with "at": HOOK it happens the "nth" time (from 0) that the hook runs, else before train.py
starts. "rank" limits a fault to one process. Beside the hooks of utils.callbacks there are "scan" (label files are
about to be read), "loss" (a loss is about to be computed) and "save" (a checkpoint's temporary file is written and not
yet named), where a fault asks for them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))
RANK = os.environ.get("RANK", "-1")
Fault = dict[str, Any]
_CAPABILITIES_VERSION = 0x20080522  # of Linux's capget and capset
_OVERRIDES = 0b110  # the bits of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


def fill_disk(fault: Fault) -> None:
    """Fill the file system of ``folder`` until ``leave`` bytes are free."""
    stat = os.statvfs(fault["folder"])
    wanted = stat.f_bavail * stat.f_frsize - fault.get("leave", 0)
    with open(Path(fault["folder"]) / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, wanted))


def remount_read_only(fault: Fault) -> None:
    """Make the mounted ``folder`` read-only, as a file system with errors becomes."""
    subprocess.run(["mount", "-o", "remount,ro", fault["folder"]], check=True)


def remove_file(fault: Fault) -> None:
    """Delete ``file``."""
    Path(fault["file"]).unlink()


def cut_file(fault: Fault) -> None:
    """Leave the first half of ``file``."""
    path = Path(fault["file"])
    os.truncate(path, path.stat().st_size // 2)


def list_folder(fault: Fault) -> None:
    """Write the temporary files below ``folder`` to the file ``out``, one line each."""
    from stress.reference import temporary_files

    Path(fault["out"]).write_text("".join(f"{name}\n" for name in temporary_files(Path(fault["folder"]))))


def signal_worker(fault: Fault) -> None:
    """Send ``signal`` to one loader worker of the training loader."""
    from utils.dataloaders import InfiniteDataLoader

    loader = next(item for item in _alive(InfiniteDataLoader) if item.dataset.augment and item.iterator is not None)
    os.kill(loader.iterator._workers[0].pid, getattr(signal, fault["signal"]))


def _alive(kind: type) -> list[Any]:
    import gc

    return [item for item in gc.get_objects() if type(item) is kind]


def wait_shorter(fault: Fault) -> None:
    """Let a loader worker count as stuck after ``seconds``."""
    from utils import dataloaders

    dataloaders.STUCK_SECONDS = fault["seconds"]
    dataloaders._POLL_SECONDS = 1


def limit_file_size(fault: Fault) -> None:
    """Let no file grow beyond ``bytes``; Python ignores SIGXFSZ, so that writes fail with EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], fault["bytes"]))


def obey_permissions(fault: Fault) -> None:
    """Let root write only where the permissions of files allow it, as all other users do."""
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for effective_permitted_inheritable in range(3):
        sets[effective_permitted_inheritable] &= ~_OVERRIDES
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def die(fault: Fault) -> None:
    """End this process by SIGKILL, ``after`` seconds from now."""
    _after(fault, lambda: os.kill(os.getpid(), signal.SIGKILL))


def fail(fault: Fault) -> None:
    """Raise an error that nobody expects."""
    raise ValueError("planted by the stress test")


def _after(fault: Fault, action: Callable[[], None]) -> None:
    if not fault.get("after"):
        action()
        return
    timer = threading.Timer(fault["after"], action)
    timer.daemon = True
    timer.start()


def refuse_memory(fault: Fault) -> None:
    """Let the network raise torch.OutOfMemoryError in training for more than ``images`` images."""
    import torch

    from models.yolo import DetectionModel

    forward = DetectionModel.forward

    def limited(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training and len(x) > fault["images"] and hasattr(self, "hyp"):  # not the trial image of its strides
            raise torch.OutOfMemoryError(f"CUDA out of memory (planted: {len(x)} images)")
        return forward(self, x, *args, **kwargs)

    DetectionModel.forward = limited


def plant_nan(fault: Fault) -> None:
    """Make the loss (or with ``what`` "gradient" only its gradient) NaN in ``batches``, counted over the run.

    With ``once`` a batch is spoilt the first time only, so that going back to a checkpoint gets past it.
    """
    from utils.dataloaders import InfiniteDataLoader
    from utils.loss import ComputeLoss

    batches, iterate, compute = set(fault["batches"]), InfiniteDataLoader.__iter__, ComputeLoss.__call__
    current: list[int | None] = [None]

    def counted(self: Any) -> Any:
        epoch, first = self._coming()
        for number, batch in enumerate(iterate(self), epoch * len(self) + first):
            current[0] = number if self.dataset.augment else None
            yield batch
            if fault.get("once"):
                batches.discard(current[0])
        current[0] = None

    def spoilt(self: Any, outputs: Any, targets: Any) -> Any:
        if current[0] not in batches:
            return compute(self, outputs, targets)
        if fault.get("what") == "gradient":
            outputs = [level + 0 for level in outputs]
            outputs[0].register_hook(lambda gradient: gradient * float("nan"))
            return compute(self, outputs, targets)
        loss, items = compute(self, outputs, targets)
        return loss * float("nan"), items * float("nan")

    InfiniteDataLoader.__iter__, ComputeLoss.__call__ = counted, spoilt


ACTIONS: dict[str, Callable[[Fault], None]] = {
    "fill": fill_disk, "remount": remount_read_only, "remove": remove_file, "cut": cut_file, "list": list_folder,
    "worker": signal_worker, "stuck": wait_shorter, "fsize": limit_file_size, "obey": obey_permissions, "die": die,
    "raise": fail, "oom": refuse_memory, "nan": plant_nan,
}  # fmt: skip


class Witness:
    """Marks every hook and starts the faults that wait for it."""

    def __init__(self, marks: str, faults: list[Fault]):
        suffix = "" if RANK in {"-1", "0"} else f".{RANK}"
        self.descriptor = os.open(marks + suffix, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.faults = faults
        self.seen: Counter[str] = Counter()

    def __call__(self, hook: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> None:
        """Note one hook and do what is due."""
        number = next((v for v in (*args, *(kwargs or {}).values()) if type(v) is int), -1)
        os.write(self.descriptor, f"{time.monotonic():.3f} {hook} {number}\n".encode())
        nth, self.seen[hook] = self.seen[hook], self.seen[hook] + 1
        for fault in self.faults:
            if fault.get("at") == hook and (nth == fault.get("nth", 0) or fault.get("always")):
                ACTIONS[fault["do"]](fault)


def watch_hooks(witness: Witness) -> None:
    """Call the witness at each hook, before what is attached to it."""
    from utils.callbacks import Callbacks

    run = Callbacks.run

    def witnessed(self: Callbacks, hook: str, *args: Any, **kwargs: Any) -> None:
        witness(hook, args, kwargs)
        run(self, hook, *args, **kwargs)

    Callbacks.run = witnessed


def watch_scan(witness: Witness) -> None:
    """Call the witness when label files are about to be read."""
    from utils import labels

    scan = labels._scan

    def witnessed(*args: Any) -> Any:
        witness("scan")
        return scan(*args)

    labels._scan = witnessed


def watch_saves(witness: Witness) -> None:
    """Call the witness between the writing of a checkpoint and its naming."""
    import torch

    save = torch.save

    def witnessed(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        witness("save")

    torch.save = witnessed


def watch_losses(witness: Witness) -> None:
    """Call the witness before each loss, in every process."""
    from utils.loss import ComputeLoss

    compute = ComputeLoss.__call__

    def witnessed(self: Any, *args: Any) -> Any:
        witness("loss")
        return compute(self, *args)

    ComputeLoss.__call__ = witnessed


def main() -> None:
    """Prepare the faults and become train.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--marks", required=True)
    parser.add_argument("--faults", default="[]")
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    faults = [f for f in json.loads(options.faults) if str(f.get("rank", RANK)) == RANK]
    witness = Witness(options.marks, faults)
    watch_hooks(witness)
    hooks = {fault.get("at") for fault in faults}
    if "scan" in hooks:
        watch_scan(witness)
    if "save" in hooks:
        watch_saves(witness)
    if "loss" in hooks:
        watch_losses(witness)
    for fault in faults:
        if "at" not in fault:
            ACTIONS[fault["do"]](fault)
    sys.argv = [str(ROOT / "train.py"), *(options.rest[1:] if options.rest[:1] == ["--"] else options.rest)]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
