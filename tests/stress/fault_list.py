"""The faults of faults.py around one run of train.py: disk, folders, loader workers, numbers and memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stress.fault_case import EPOCHS, STEPS, TWO_WORKERS, Case, Faults, Scene, mount
from stress.reference import write_hyp

NOBODY = 65534
LAST_BATCH = EPOCHS * STEPS - 1


def at(hook: str, do: str, nth: int = 0, **more: Any) -> Faults:
    """Return one fault that happens at a hook."""
    return lambda _: [{"do": do, "at": hook, "nth": nth, **more}]


# A full disk ---------------------------------------------------------------------------------------------------------

DISK_POINTS = (  # hook, how many times before, bytes left, options
    ("on_pretrain_routine_end", 0, 0, ()),
    ("on_train_batch_end", 0, 4096, ()),
    ("on_train_batch_end", 2, 100_000, ("--save-steps", "3")),
    ("on_train_epoch_end", 0, 0, ()),
    ("on_fit_epoch_end", 0, 1_000_000, ()),
    ("on_model_save", 0, 0, ()),
    ("on_val_start", 1, 4096, ()),
    ("on_fit_epoch_end", 1, 20_000_000, ()),
    ("on_train_batch_end", 20, 0, ("--save-steps", "3")),
    ("on_model_save", 2, 0, ()),
)


def _remove_filler(place: Scene) -> None:
    (place.bench.folder / "runs" / "filler").unlink()


def _full_from_the_start(place: Scene) -> None:
    (place.bench.folder / "runs" / "filler").write_bytes(bytes(100 << 20))


def _data_on_full_disk(place: Scene) -> Callable[[], None]:
    """Move the data set to a tmpfs and fill it, so that no cache can be written beside it."""
    kept = place.folder / "kept"
    place.data.rename(kept)
    place.data.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", place.data)
    shutil.copytree(kept, place.data, dirs_exist_ok=True)
    stat = os.statvfs(place.data)
    with open(place.data / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize)
    return lambda: subprocess.run(["umount", "-l", str(place.data)], check=False)


def _disk() -> list[Case]:
    cases = [
        Case(
            "disk full",
            "tmpfs of 120 MB with 20 MB free at the start",
            (2,),
            ("MB free",),
            prepare=_full_from_the_start,
            mend=_remove_filler,
            mount="size=120m",
        )
    ]
    for hook, nth, leave, options in DISK_POINTS:

        def faults(place: Scene, hook: str = hook, nth: int = nth, leave: int = leave) -> list[dict[str, Any]]:
            folder = str(place.bench.folder / "runs")
            return [{"do": "fill", "at": hook, "nth": nth, "folder": folder, "leave": leave}]

        cases.append(
            Case(
                "disk full",
                f"tmpfs filled to {leave} bytes at {hook} {nth}",
                (1,),
                ("No space left",),
                faults,
                ("--workers", "0", *options),
                mend=_remove_filler,
                mount="size=200m",
            )
        )
    return [
        *cases,
        Case(
            "disk full beside the data",
            "tmpfs full before the start, --cache disk",
            (0,),
            ("No space left",),
            options=("--workers", "0", "--cache", "disk"),
            prepare=_data_on_full_disk,
        ),
        Case(
            "files limited to 1 MB",
            "RLIMIT_FSIZE",
            (1,),
            ("cannot be written", "File too large"),
            lambda _: [{"do": "fsize", "bytes": 1_000_000}],
        ),
    ]


# Folders that cannot be written --------------------------------------------------------------------------------------


def _read_only(folder: Path) -> Callable[[], None]:
    folder.mkdir(exist_ok=True)
    mount("--bind", folder, folder)
    mount("-o", "remount,ro,bind", folder)
    return lambda: subprocess.run(["umount", "-l", str(folder)], check=False)


def _foreign_folder(place: Scene) -> None:
    """Make a folder for the runs that belongs to another user."""
    folder = place.bench.folder / "runs"
    folder.mkdir()
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)


def _folders() -> list[Case]:
    def remount(place: Scene) -> list[dict[str, Any]]:
        folder = str(place.bench.folder / "runs")
        return [{"do": "remount", "at": "on_train_batch_end", "nth": 10, "folder": folder}]

    def writable(place: Scene) -> None:
        mount("-o", "remount,rw", place.bench.folder / "runs")

    def obey(_: Scene) -> list[dict[str, Any]]:
        return [{"do": "obey"}]

    return [
        Case(
            "read-only project",
            "read-only bind mount",
            (2,),
            ("cannot", "Read-only file system"),
            prepare=lambda place: _read_only(place.bench.folder / "runs"),
            goes_on=False,
        ),
        Case(
            "project of another user",
            "mode 555, root without its override",
            (2,),
            ("cannot", "Permission denied"),
            obey,
            prepare=_foreign_folder,
            goes_on=False,
        ),
        Case(
            "read-only data",
            "read-only bind mount",
            (0,),
            ("label cache not written",),
            prepare=lambda place: _read_only(place.data),
        ),
        Case(
            "disk becomes read-only",
            "remount,ro in epoch 1",
            (1,),
            ("Read-only file system",),
            remount,
            mend=writable,
            mount="size=200m",
        ),
    ]


# Loader workers ------------------------------------------------------------------------------------------------------


def _workers() -> list[Case]:
    def kill(**more: Any) -> Faults:
        return at("on_train_batch_end", "worker", 3, signal="SIGKILL", **more)

    def stop(_: Scene) -> list[dict[str, Any]]:
        return [
            {"do": "stuck", "seconds": 4},
            {"do": "worker", "at": "on_train_batch_end", "nth": 3, "signal": "SIGSTOP"},
        ]

    again = ("worker failed", "starting new workers")
    return [
        Case("killed loader worker", "SIGKILL in epoch 0", (0,), again, kill(), TWO_WORKERS),
        Case(
            "killed loader workers",
            "SIGKILL after every batch",
            (1,),
            ("worker failed",),
            kill(always=True),
            TWO_WORKERS,
        ),
        Case("stuck loader worker", "SIGSTOP, given up after 4 s", (0,), again, stop, TWO_WORKERS),
    ]


# Numbers and memory --------------------------------------------------------------------------------------------------


def _nan() -> list[Case]:
    def plant(batches: list[int], **more: Any) -> Faults:
        return lambda _: [{"do": "nan", "batches": batches, **more}]

    many = list(range(STEPS, LAST_BATCH + 1))
    skipped = ("not finite", "skipped")
    cases = [
        Case("loss is NaN", f"in batch {batch}", (0,), skipped, plant([batch]), same=False)
        for batch in (0, 1, 7, LAST_BATCH)
    ]
    return [
        *cases,
        Case("gradient is NaN", "in batch 5", (0,), skipped, plant([5], what="gradient"), same=False),
        Case(
            "loss is NaN once",
            "in batches 8 to 10",
            (0,),
            ("back to", "learning rate"),
            plant([8, 9, 10], once=True),
            same=False,
        ),
        Case("loss is NaN", "in epochs 1 and 2, always", (1,), ("last good checkpoint",), plant(many), goes_on=False),
        Case(
            "loss is NaN", "from the first batch, always", (1,), ("not finite",), plant(list(range(99))), goes_on=False
        ),
        Case(
            "lr0 of 1e6",
            "hyp file",
            (0, 1),
            (),
            options=("--workers", "0", "--hyp", "hyp.wild.yaml"),
            prepare=lambda place: write_hyp(place.folder / "hyp.wild.yaml", lr0=1e6, warmup_bias_lr=1e6),
            same=False,
            goes_on=False,
        ),
        Case(
            "weights with NaN",
            "--weights",
            (2,),
            ("nan.pt", "finite"),
            options=("--workers", "0", "--weights", "nan.pt"),
            prepare=_weights_with_nan,
            goes_on=False,
        ),
    ]


def _weights_with_nan(place: Scene) -> None:
    """Train an epoch and put a NaN into the finished weights."""
    import torch

    from utils.checkpoint import load_checkpoint

    folder, _ = place.bench.whole("first", "--workers", "0", "--epochs", "1")
    content = load_checkpoint(folder / "weights" / "last.pt")
    next(content["model"].parameters()).data.view(-1)[0] = float("nan")
    torch.save(content, place.folder / "nan.pt")


def _memory() -> list[Case]:
    def limit(images: int) -> Faults:
        return lambda _: [{"do": "oom", "images": images}]

    def batch(size: int) -> tuple[str, ...]:
        return ("--workers", "0", "--batch-size", str(size))

    told = ("memory",)
    return [
        Case("out of memory", "above 2 images, batch 4", (0,), told, limit(2), same=False),
        Case("out of memory", "above 1 image, batch 16", (0,), told, limit(1), batch(16), same=False),
        Case("out of memory", "above 1 image, batch 32", (1,), told, limit(1), batch(32), goes_on=False),
        Case("out of memory", "always", (1,), told, limit(0), goes_on=False),
    ]


GROUPS: dict[str, list[Case]] = {
    "disk": _disk(),
    "folders": _folders(),
    "workers": _workers(),
    "nan": _nan(),
    "memory": _memory(),
}
