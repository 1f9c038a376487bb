"""The faults of faults.py that need no run of train.py or several: damaged files, runs at once, dead ranks."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from stress.fault_case import EPOCHS, RUN, Found, Scene, check_end, said, scene, unsound_checkpoints
from stress.reference import ROOT, Process, differences, same_tensors, temporary_files

CUTS, FLIPS, CACHE_FLIPS = 20, 100, 200
RANK_LIMIT = 60.0  # seconds from a rank's end to the end of all

# Damaged checkpoints -------------------------------------------------------------------------------------------------


def _killed_run(place: Scene) -> Path:
    """Kill a run after its second epoch and return its last.pt."""
    place.bench.start(
        place.bench.options(RUN, "--workers", "0"), [{"do": "die", "at": "on_model_save", "nth": 1}]
    ).wait()
    return place.last


def _damages(data: bytes, rng: random.Random, cut_count: int, flip_count: int) -> list[tuple[str, bytes]]:
    cuts = [("cut", data[: len(data) * k // cut_count]) for k in range(cut_count)]
    flips = []
    for _ in range(flip_count):
        where = rng.randrange(len(data))
        flips.append(("flip", data[:where] + bytes([data[where] ^ rng.randint(1, 255)]) + data[where + 1 :]))
    return cuts + flips


def damaged_checkpoints(folder: Path, whole: Path) -> list[Found]:
    """Load a last.pt that was cut at 20 lengths and had 100 bytes flipped, with its record and without."""
    last = _killed_run(scene(folder))
    return [
        damaged_loads(last, folder / "recorded", keep_record=True),
        damaged_loads(last, folder / "bare", keep_record=False),
    ]


def damaged_loads(last: Path, folder: Path, keep_record: bool, cuts: int = CUTS, flips: int = FLIPS) -> Found:
    """Load a checkpoint cut at some lengths and with single bytes changed, in a folder of its own."""
    from utils.checkpoint import load_checkpoint
    from utils.errors import InputError

    good, record = load_checkpoint(last), last.with_name("last.pt.sha256")
    folder.mkdir()
    path = folder / "last.pt"
    if keep_record:
        shutil.copy(record, folder)
    refused, harmless, problems, message = 0, 0, [], ""
    for kind, data in _damages(last.read_bytes(), random.Random(0), cuts, flips):
        path.write_bytes(data)
        try:
            found = load_checkpoint(path)
        except InputError as error:
            refused, message = refused + 1, str(error)
            problems += [f"{kind}: the message does not name the file: {error}"] * ("last.pt" not in str(error))
            continue
        same = not keep_record and same_tensors(good, found)
        harmless += same
        problems += [f"{kind}: loaded without a word, tensors {'equal' if same else 'differ'}"] * (not same)
    outcome = f"{refused} refused, {harmless} loaded equal, {len(problems)} silent"
    where = "with its record" if keep_record else "without a record"
    return Found("damaged last.pt", f"{cuts} cuts, {flips} flips, {where}", outcome, "-", message, problems)


def damaged_resumes(folder: Path, whole: Path) -> list[Found]:
    """Resume from a cut and from a flipped last.pt: refused, and the one saved before goes on."""
    found = []
    for how, change in (("cut to half", _cut), ("one byte flipped", _flip)):
        place = scene(folder / how.replace(" ", "-"))
        last = _killed_run(place)
        change(last)
        process = place.bench.start(["--resume", str(last)])
        code = process.wait()
        words = ("last.pt", "last.pt.prev")
        problems = check_end(process, code, (2,), words)
        previous = last.with_name("last.pt.prev")
        if previous.exists():
            previous.replace(last)
            again = place.bench.resume_to_end(RUN)
            problems += [f"resumed: exit {again.popen.returncode}: {again.tail()}"] * bool(again.popen.returncode)
            problems += [] if again.popen.returncode else differences(place.run, whole, EPOCHS)
        found.append(
            Found("damaged last.pt", f"{how}, --resume", "refused, .prev resumed", code, said(process, words), problems)
        )
    return found


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flipped_label_caches(folder: Path, whole: Path) -> list[Found]:
    """Flip single bytes of a label cache: it is built anew or reads the same."""
    import numpy as np

    from utils.data.label_cache import load_cache
    from utils.dataset_yaml import find_images
    from utils.labels import img2label_paths, scan_labels

    place = scene(folder)
    files = find_images(str(place.data / "images" / "train"))
    labels, cache = img2label_paths(files), place.data / "labels" / "train.cache.npz"
    good = scan_labels(files, labels, cache)
    data, rng, problems, refused = cache.read_bytes(), random.Random(0), [], 0
    for _ in range(CACHE_FLIPS):
        where, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        cache.write_bytes(data[:where] + bytes([data[where] ^ bit]) + data[where + 1 :])
        found = load_cache(cache, files, labels)
        refused += found is None
        same = found is None or (np.array_equal(found.boxes, good.boxes) and found.im_files == good.im_files)
        same = same and (found is None or np.array_equal(found.shapes, good.shapes))
        problems += [f"byte {where} flipped: other labels without a word"] * (not same)
    outcome = f"{refused} built anew, {CACHE_FLIPS - refused - len(problems)} read the same"
    return [Found("corrupt label cache", f"{CACHE_FLIPS} flips", outcome, "-", "", problems)]


# Several runs --------------------------------------------------------------------------------------------------------


def two_runs(folder: Path, whole: Path) -> list[Found]:
    """Start the same run twice at once: two folders, both like the undisturbed one."""
    place = scene(folder)
    options = [word for word in place.bench.options(RUN, "--workers", "0") if word != "--exist-ok"]
    processes = [place.bench.start(options) for _ in range(2)]
    codes = [process.wait() for process in processes]
    names = sorted(path.name for path in (place.bench.folder / "runs").iterdir())
    problems = [f"exit {code}: {p.tail()}" for code, p in zip(codes, processes, strict=True) if code]
    problems += [f"folders {', '.join(names)}"] * (names != ["exp", "exp2"])
    for name in names if not problems else []:
        problems += [f"{name}: {text}" for text in differences(place.bench.run_folder(name), whole, EPOCHS)]
    problems += [f"left {name}" for name in temporary_files(place.data)]
    return [
        Found("two runs at once", "the same command twice", f"survived, {' and '.join(names)}", codes, "", problems)
    ]


def shrunk_data(folder: Path, whole: Path) -> list[Found]:
    """Delete a label file between a kill and --resume: refused."""
    place = scene(folder)
    last = _killed_run(place)
    place.label(4).unlink()
    process = place.bench.start(["--resume", str(last)])
    code = process.wait()
    words = ("boxes", "cannot resume")
    found = Found("vanished label", "deleted before --resume", "refused", code, said(process, words))
    found.problems = check_end(process, code, (2,), words) + unsound_checkpoints(place.run)
    return [found]


# Several ranks -------------------------------------------------------------------------------------------------------

RANK_FAULTS: tuple[tuple[str, int, str, dict[str, Any]], ...] = (  # where, rank, how, fault
    *(
        (where, 0, how, {"do": do, "at": hook, "nth": nth})
        for where, hook, nth in (
            ("cache scan", "scan", 0), ("step", "loss", 3), ("validation", "on_val_start", 1), ("save", "save", 1),
        )
        for how, do in (("killed", "die"), ("raised", "raise"))
    ),
    ("cache scan", 1, "killed", {"do": "die", "at": "on_pretrain_routine_start"}),
    ("cache scan", 1, "raised", {"do": "raise", "at": "on_pretrain_routine_start"}),
    ("step", 1, "killed", {"do": "die", "at": "loss", "nth": 3}),
    ("step", 1, "raised", {"do": "raise", "at": "loss", "nth": 3}),
    ("validation", 1, "killed", {"do": "die", "at": "on_train_epoch_end", "nth": 0, "after": 0.1}),
)  # fmt: skip


def dead_rank(where: str, rank: int, how: str, fault: dict[str, Any], folder: Path, whole: Path) -> list[Found]:
    """Let one of two gloo ranks die, started without a launcher that would end the other."""
    place = scene(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for number in range(2):
        environment = {
            "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        options = place.bench.options(RUN, "--workers", "0")
        processes.append(place.bench.start(options, [fault] if number == rank else [], environment))
    seconds, problems = _wait_for_both(processes, rank)
    codes = [process.popen.returncode for process in processes]
    problems += [f"rank {number} ended with 0" for number, code in enumerate(codes) if code == 0]
    other = processes[1 - rank]
    word = f"rank {rank}"
    named = next((line for line in other.output().splitlines() if word in line.lower()), "")
    problems += [f"rank {1 - rank} does not name {word}; its last line is: {other.tail()}"] * (not named)
    problems += [f"rank {1 - rank} shows a traceback"] * ("Traceback" in other.output())
    problems += unsound_checkpoints(place.run) if place.run.exists() else []
    outcome = f"both ended in {seconds:.0f} s" if seconds <= RANK_LIMIT else "hangs"
    return [Found(f"dead rank {rank}", f"{how} in {where}", outcome, codes, named.strip(), problems)]


def _wait_for_both(processes: list[Process], rank: int) -> tuple[float, list[str]]:
    """Wait for the rank with the fault, then for the other; return the seconds between and what did not hold."""
    try:
        processes[rank].popen.wait(180)
        ended = time.monotonic()
        processes[1 - rank].popen.wait(RANK_LIMIT)
    except subprocess.TimeoutExpired as error:
        return RANK_LIMIT + 1, [f"still at work after {error.timeout:.0f} s: {processes[1 - rank].tail()}"]
    finally:
        for process in processes:
            process.end_group()
    return time.monotonic() - ended, []


def torchrun_rank(rank: int, fault: dict[str, Any], folder: Path, whole: Path) -> list[Found]:
    """Let one of two ranks die under torchrun."""
    place = scene(folder)
    import json

    child = Path(__file__).with_name("child.py")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(child),
        "--marks", str(folder / "marks"), "--faults", json.dumps([{**fault, "rank": rank}]), "--",
        *place.bench.options(RUN, "--workers", "0"),
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=240)
    seconds = time.monotonic() - began
    named = next((line for line in done.stderr.splitlines() if f"rank {rank}" in line.lower()), "")
    problems = ["exit 0"] * (done.returncode == 0) + [f"rank {rank} is not named"] * (not named)
    problems += unsound_checkpoints(place.run)
    outcome = f"all ended, {seconds:.0f} s in all"
    return [Found(f"dead rank {rank}", f"killed at {fault['at']}, torchrun", outcome, done.returncode, named, problems)]


Part = Callable[[Path, Path], list[Found]]
GROUPS: dict[str, list[Part]] = {
    "labels": [shrunk_data],
    "caches": [flipped_label_caches],
    "checkpoints": [damaged_checkpoints, damaged_resumes],
    "together": [two_runs],
    "ranks": [
        *(partial(dead_rank, *entry) for entry in RANK_FAULTS),
        partial(torchrun_rank, 1, {"do": "die", "at": "loss", "nth": 3}),
        partial(torchrun_rank, 0, {"do": "die", "at": "on_val_start", "nth": 1}),
    ],
}
