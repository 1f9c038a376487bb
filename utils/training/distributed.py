"""Processes that train one model together: torchrun's environment, the group, and the few things they exchange."""

from __future__ import annotations

import atexit
import datetime
import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from utils.errors import WorkError
from utils.training.watch import Watch, exit_status, join_watch, missing_processes
from utils.training.world import World

GROUP_TIMEOUT = datetime.timedelta(hours=3)  # the main process validates alone while the others wait
JOIN_TIMEOUT = datetime.timedelta(minutes=5)  # from the first process's start to the last one's
NEWS_SECONDS = 3.0  # that the news of another process's end may take longer than its effect on this one
_group: dict[str, Any] = {"watch": None, "store": None, "times": 0}


def watch_group(world: World) -> None:
    """Begin to watch the other processes of a run, so that all end soon when one fails, is killed or out of reach.

    ``join_group`` does so too; called before the options are checked, a process that refuses them ends the others.

    Args:
        world: this process's place; nothing happens without other processes.

    Raises:
        WorkError: the main process cannot be reached.
    """
    if world.size < 2 or not world.is_distributed or _group["watch"] is not None:
        return
    if "MASTER_ADDR" not in os.environ:  # not started by torchrun: options are checked first, then joining fails
        return
    _group["times"] += 1
    try:
        store, _, _ = next(dist.rendezvous("env://", world.rank, world.size, timeout=JOIN_TIMEOUT))
        common = dist.PrefixStore(f"watch/{_group['times']}", store)
        _group["watch"] = join_watch(world, common, os.environ["MASTER_ADDR"])
    except (dist.DistError, RuntimeError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WorkError(f"rank {world.rank}: rank 0 cannot be reached by way of {place} ({reason})") from error
    _group["store"] = store
    if _group["times"] == 1:
        atexit.register(_take_leave)


def join_group(world: World, device: torch.device) -> torch.device:
    """Join the process group: NCCL on CUDA, gloo on the CPU.

    Args:
        world: this process's place; nothing happens without distribution.
        device: this process's device, as ``select_device`` chose it.

    Returns:
        ``device``.

    Raises:
        WorkError: a process did not start in time.
    """
    if not world.is_distributed:
        return device
    watch_group(world)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
    store = _group["store"]
    if store is None:
        dist.init_process_group(backend=backend, timeout=GROUP_TIMEOUT)
        return device
    common = dist.PrefixStore(f"watch/{_group['times']}", store)
    missing = missing_processes(world, common, JOIN_TIMEOUT.total_seconds()) if world.is_main else []
    if missing:
        ranks = ", ".join(map(str, missing))
        raise WorkError(f"rank {ranks}: not started {JOIN_TIMEOUT.seconds // 60} minutes after rank 0; the run ends")
    store.set_timeout(GROUP_TIMEOUT)
    place = {"rank": world.rank, "world_size": world.size}
    dist.init_process_group(
        backend=backend, store=dist.PrefixStore("default_pg", store), timeout=GROUP_TIMEOUT, **place
    )
    return device


def report_failure(error: BaseException) -> None:
    """Tell the other processes that this one ends by ``error``, so that they do not wait for it; alone it does nothing.

    To be called where an error ends the run, before ``leave_group``. From then on this process has 30 s to end. A stop
    that all processes agreed on (``kind`` "stopped") is no failure.

    Raises:
        WorkError: ``error`` only follows from the failure of another process, which it names.
    """
    watch: Watch | None = _group["watch"]
    is_exit = isinstance(error, SystemExit) and error.code in {None, 0}
    if watch is None or watch.is_failing or is_exit or getattr(error, "kind", "") == "stopped":
        return
    is_own = hasattr(error, "exit_status") or isinstance(error, SystemExit)
    may_follow = isinstance(error, RuntimeError) and not is_own  # what torch raises when a process is gone
    failure = watch.known_failure(NEWS_SECONDS if may_follow else 0)
    if failure is not None and not is_own:
        follows = WorkError(f"{failure.text}; {watch.name} ends as well")
        follows.exit_status = failure.status
        raise follows from error
    watch.report(error)


def leave_group() -> None:
    """Leave the process group, if there is one; after a failure the end of the process does so."""
    watch: Watch | None = _group["watch"]
    if watch is not None and (watch.is_failing or watch.failure is not None):
        return
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    if watch is not None:
        watch.leave()
    _group.update(watch=None, store=None)


def _take_leave() -> None:
    """At the end of the interpreter: say how it ends, where the program has not."""
    watch: Watch | None = _group["watch"]
    error = getattr(sys, "last_value", None)  # of an exception that nobody handled
    if watch is None or watch.is_failing or watch.failure is not None:
        return
    if error is not None and exit_status(error):
        watch.report(error)
    else:
        watch.leave()


def world_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``tensor`` over all processes (without gradient); the tensor itself when alone."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return every process's ``tensor`` (...) as one of shape (processes, ...), the same everywhere."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor.detach().clone()[None]
    rows = [torch.zeros_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, tensor.detach().contiguous())
    return torch.stack(rows)


def broadcast_from_main(value: Any) -> Any:
    """Return the main process's ``value`` (a small picklable object of numbers and strings) on every process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]
