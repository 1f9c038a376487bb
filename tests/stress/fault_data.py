"""The faults of faults.py in the data of one run: images, labels and caches."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stress.fault_case import TWO_WORKERS, Case, Faults, Scene

# Images and labels ---------------------------------------------------------------------------------------------------


def _touch_file(number: int, do: str, split: str = "train", hook: str = "on_train_start", nth: int = 0) -> Faults:
    def faults(place: Scene) -> list[dict[str, Any]]:
        file = place.image(number, split)
        shutil.copy2(file, place.folder / file.name)  # kept for _bring_back
        return [{"do": do, "at": hook, "nth": nth, "file": str(file)}]

    return faults


def _bring_back(number: int, split: str = "train") -> Callable[[Scene], None]:
    def mend(place: Scene) -> None:
        kept = next(place.folder.glob(f"{number}.[jp][pn]g"))
        shutil.copy2(kept, place.data / "images" / split / kept.name)

    return mend


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _list_with_missing(place: Scene) -> None:
    """Let the data YAML name a list file with an image that is gone."""
    files = sorted((place.data / "images" / "train").iterdir())
    (place.data / "train.txt").write_text("".join(f"{file}\n" for file in files))
    place.bench.data.write_text(place.bench.data.read_text().replace("train: images/train", "train: train.txt"))
    next(file for file in files if file.stem == "4").unlink()


def _images() -> list[Case]:
    during = "during the run"
    cases = [
        Case(
            f"{kind} image",
            f"{how} {during}{more}",
            (1,),
            (name,),
            _touch_file(number, do),
            options,
            mend=_bring_back(number),
        )
        for kind, do, how in (("vanished", "remove", "deleted"), ("truncated", "cut", "cut to half"))
        for number, name in ((4, "4.png"), (5, "5.jpg"))
        for options, more in ((("--workers", "0"), ""), (TWO_WORKERS, ", 2 workers"))
    ]
    return [
        *cases,
        Case(
            "vanished val image",
            f"deleted {during}",
            (1,),
            ("3.png",),
            _touch_file(3, "remove", "val", "on_train_batch_end", 9),
            mend=_bring_back(3, "val"),
        ),
        Case(
            "vanished image, cached",
            f"deleted {during}, --cache ram",
            (0,),
            (),
            _touch_file(4, "remove"),
            ("--workers", "0", "--cache", "ram"),
        ),
        Case(
            "vanished image, listed",
            "deleted before the start",
            (0,),
            ("4.png", "No such file"),
            prepare=_list_with_missing,
            same=False,
        ),
        Case(
            "truncated PNG",
            "cut to half before the start",
            (0,),
            ("4.png", "left out"),
            prepare=lambda place: _half(place.image(4)),
            same=False,
        ),
        Case(
            "truncated JPEG",
            "cut to half before the start",
            (0,),
            ("5.jpg", "left out"),
            prepare=lambda place: _half(place.image(5)),
            same=False,
        ),
    ]


def _labels() -> list[Case]:
    def remove_label(place: Scene) -> list[dict[str, Any]]:
        return [{"do": "remove", "at": "on_train_start", "file": str(place.label(4))}]

    return [
        Case("vanished label", "deleted during the run", (0,), (), remove_label),
        Case(
            "vanished label",
            "deleted before the start",
            (0,),
            ("31 images, 1 backgrounds",),
            prepare=lambda place: place.label(4).unlink(),
            same=False,
        ),
    ]


# Caches --------------------------------------------------------------------------------------------------------------


def _with_caches(place: Scene) -> None:
    """Let a short run write the caches, and forget it."""
    place.bench.whole("first", "--workers", "0", "--cache", "disk", "--epochs", "1", "--noval", "--nosave")


def _spoil(pattern: str, change: Callable[[bytearray], None]) -> Callable[[Scene], None]:
    def prepare(place: Scene) -> None:
        _with_caches(place)
        path = sorted(place.data.rglob(pattern))[0]
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)

    return prepare


def _flip(data: bytearray) -> None:
    data[len(data) // 3] ^= 16


def _cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


def _noise(data: bytearray) -> None:
    data[:] = random.Random(0).randbytes(len(data))


def _caches() -> list[Case]:
    disk = ("--workers", "0", "--cache", "disk")
    changes = (("one bit flipped", _flip), ("cut to half", _cut), ("noise", _noise), ("empty", bytearray.clear))
    return [
        *(
            Case(
                "corrupt label cache",
                how,
                (0,),
                ("train.cache.npz", "built anew"),
                prepare=_spoil("train.cache.npz", change),
            )
            for how, change in changes
        ),
        *(
            Case("corrupt image cache", how, (0,), (".npy",), options=disk, prepare=_spoil("*t.npy", change))
            for how, change in changes
        ),
    ]


GROUPS: dict[str, list[Case]] = {"images": _images(), "labels": _labels(), "caches": _caches()}
