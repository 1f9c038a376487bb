"""Keep the checked labels of a data set beside them, as plain arrays, for as long as nothing they depend on changes.

A cache fits when its key does. The key covers the cache's version, the paths, size and modification time of every image
and the SHA-256 of every label file. Reading all label files at every start is spared by a second, cheaper key of their
size, modification and change time: the operating system sets the change time itself, so that an edit cannot hide behind
a restored modification time. It is trusted only for label files that had lain still when they were read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import time
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.label_files import Problem
from utils.data.label_table import NO_FILE, LabelTable, ScanReport, kept_names
from utils.data.leftovers import remove_leftovers
from utils.logs import LOGGER
from utils.safe_write import part_beside

CACHE_VERSION = 1
SETTLED_NS = 2_000_000_000  # a file changed less than this before its check may change again unseen
_ARRAYS = {  # name -> (dtype, dimensions)
    "kept": (np.bool_, 1),
    "shapes": (np.int64, 2),
    "boxes": (np.float32, 2),
    "box_offsets": (np.int64, 1),
    "points": (np.float32, 2),
    "point_offsets": (np.int64, 1),
    "segment_offsets": (np.int64, 1),
}


class Fingerprint(NamedTuple):
    """State of all files of a data set at one moment."""

    images: bytes  # digest of version, paths, sizes, modification times
    label_times: bytes  # digest of label sizes, modification and change times
    newest: int  # latest change of a label file, ns
    taken_at: int  # ns

    @property
    def settled(self) -> bool:
        """Whether no label file changed shortly before."""
        return os.name == "posix" and self.newest + SETTLED_NS < self.taken_at


def cache_file(path: str | Path) -> Path:
    """Return the cache's path for YOLOv5's name of it: ``labels/train.cache`` becomes ``labels/train.cache.npz``."""
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")


def fingerprint(im_files: Sequence[str], label_files: Sequence[str]) -> Fingerprint:
    """Look at every image and label file, one stat each."""
    taken_at = time.time_ns()
    images, labels = _stats(im_files)[:, :2], _stats(label_files)
    paths = "\0".join([f"v{CACHE_VERSION}", *im_files, "", *label_files]).encode("utf-8", "surrogateescape")
    newest = int(labels[:, 1:].max(initial=0)) if len(labels) else 0
    return Fingerprint(_digest(paths, images.tobytes()), _digest(labels.tobytes()), newest, taken_at)


def label_digest(data: bytes) -> bytes:
    """Return the SHA-256 of a label file's content."""
    return hashlib.sha256(data).digest()


def joint_digest(digests: Iterable[bytes]) -> bytes:
    """Return one digest of all label files, of their digests one after the other; NO_FILE stands for an absent one."""
    return _digest(*digests)


def load_cache(path: Path, im_files: Sequence[str], label_files: Sequence[str]) -> LabelTable | None:
    """Return the cached table when it fits the files as they are now, else None."""
    remove_leftovers(path.parent, path.name)
    now = fingerprint(im_files, label_files)
    try:
        content = _read_arrays(path)
        facts = json.loads(content.pop("facts").tobytes())
        if facts["images"] != now.images.hex():
            return None
        quick = facts["settled"] and facts["label_times"] == now.label_times.hex()
        if not quick and facts["labels"] != joint_digest(_read_digests(label_files)).hex():
            return None
        table = _unpack(content, facts, im_files, label_files)
        if not quick and now.settled:  # same content under new times: let the next start be quick
            save_cache(path, table, content["kept"], now, bytes.fromhex(facts["labels"]))
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever the readers of zip, NumPy and JSON meet in bytes that are not a cache
        reason = " ".join(str(error).split()) or type(error).__name__
        LOGGER.warning("WARNING %s: damaged label cache (%.200s), it is built anew", path, reason)
        return None
    return table


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file that ``save_cache`` may have written, reading no more than the file's own bytes.

    np.load would trust the sizes that the file states: a few bytes could claim all of the memory.

    Raises:
        ValueError: anything else than these arrays, stored plainly.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sorted(entry.filename for entry in entries) != sorted(f"{name}.npy" for name in (*_ARRAYS, "facts")):
            raise ValueError("other arrays than a label cache holds")
        if sum(entry.file_size for entry in entries) > path.stat().st_size or any(e.compress_type for e in entries):
            raise ValueError("it claims more bytes than it has")
        return {entry.filename.removesuffix(".npy"): _parse_array(archive.read(entry)) for entry in entries}


def _parse_array(data: bytes) -> np.ndarray:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    return np.frombuffer(data[stream.tell() :], dtype).reshape(shape, order="F" if fortran else "C").copy()


def save_cache(path: Path, table: LabelTable, kept: np.ndarray, state: Fingerprint, labels_digest: bytes) -> None:
    """Write the cache in one step; where that is not possible the labels stay in memory alone, said in one line."""
    report = table.report
    facts = {
        "images": state.images.hex(),
        "label_times": state.label_times.hex(),
        "settled": state.settled,
        "labels": labels_digest.hex(),
        "counts": [report.found, report.missing, report.empty, report.corrupt, report.total],
        "problems": report.problems,
        "lost": sorted(report.lost.items()),
    }
    arrays = {name: np.asarray(getattr(table, name, kept), dtype) for name, (dtype, _) in _ARRAYS.items()}
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    try:
        _write_atomically(path, arrays)
    except OSError as error:
        LOGGER.info(
            "%s: label cache not written (%s); labels are checked again at the next start", path, error.strerror
        )


def _write_atomically(path: Path, arrays: dict[str, np.ndarray]) -> None:
    part = part_beside(path)
    try:
        with part.open("wb") as stream:
            np.savez(stream, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _unpack(
    content: dict[str, np.ndarray], facts: dict, im_files: Sequence[str], label_files: Sequence[str]
) -> LabelTable:
    """Build the table; ValueError when the arrays do not fit each other."""
    for name, (dtype, ndim) in _ARRAYS.items():
        if content[name].dtype != dtype or content[name].ndim != ndim:
            raise ValueError(f"array '{name}' has the wrong type")
    kept = content["kept"]
    n = int(kept.sum())
    polygons = len(content["point_offsets"]) - 1
    fits = (
        len(kept) == len(im_files)
        and content["shapes"].shape == (n, 2)
        and content["boxes"].shape[1] == 5
        and content["points"].shape[1] == 2
        and _are_offsets(content["box_offsets"], n, len(content["boxes"]))
        and _are_offsets(content["segment_offsets"], n, polygons)
        and _are_offsets(content["point_offsets"], polygons, len(content["points"]))
    )
    if not fits:
        raise ValueError("arrays do not fit each other")
    if not _are_labels(content["boxes"]) or not np.isfinite(content["points"]).all() or (content["shapes"] <= 0).any():
        raise ValueError("values that no checked label file has")
    arrays = {name: content[name] for name in _ARRAYS if name != "kept"}
    return LabelTable(kept_names(im_files, kept), kept_names(label_files, kept), report=_report(facts), **arrays)


def _report(facts: dict) -> ScanReport:
    found, missing, empty, corrupt, total = (int(n) for n in facts["counts"])
    problems = [Problem(str(file), int(line), str(text)) for file, line, text in facts["problems"]]
    return ScanReport(
        found, missing, empty, corrupt, total, problems, Counter({int(c): int(n) for c, n in facts["lost"]})
    )


def _are_labels(boxes: np.ndarray) -> bool:
    """Tell whether (n, 5) rows hold whole class ids of at least 0 and coordinates in 0-1."""
    classes = boxes[:, 0]
    whole = bool(np.isfinite(classes).all() and (classes == np.floor(classes)).all())
    return whole and bool((boxes >= 0).all() and (boxes[:, 1:] <= 1).all())


def _are_offsets(offsets: np.ndarray, count: int, end: int) -> bool:
    ordered = bool((np.diff(offsets) >= 0).all())
    return len(offsets) == count + 1 and ordered and offsets[0] == 0 and offsets[-1] == end


def _read_digests(label_files: Sequence[str]) -> Iterator[bytes]:
    for path in label_files:
        try:
            with open(path, "rb") as stream:
                yield label_digest(stream.read())
        except OSError:
            yield NO_FILE


def _stats(paths: Sequence[str]) -> np.ndarray:
    """Return size, modification and change time in ns of each file, (n, 3) int64; -1 each where there is no file."""
    numbers = array("q")
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            numbers.extend((-1, -1, -1))
        else:
            numbers.extend((found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return np.frombuffer(numbers, np.int64).reshape(-1, 3)


def _digest(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.digest()
