"""What must be the same when a run goes on: its settings and its data, and how a difference is told."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.data.flat_rows import Rows, row_counts
from utils.errors import InputErrors
from utils.hyperparameter_table import plain_number, settings_of
from utils.hyperparameters import Hyperparameters
from utils.logs import LOGGER

# Options that opt.yaml and a resumed run's checkpoint may tell differently: where the run lies, and what changes no
# result. (A resumed run's checkpoint names itself as its weights.)
FREE_OPTIONS = frozenset({
    "weights", "cfg", "data", "save_dir", "project", "name", "resume", "exist_ok", "epochs", "device", "workers",
    "local_rank", "noplots", "nosave", "save_period", "save_steps", "bbox_interval", "cache", "diagnose", "entity",
    "upload_dataset", "bucket", "evolve", "evolve_population", "resume_evolve", "artifact_alias",
})  # fmt: skip
DIGITS = 16  # of the digests that stand for the data
_MOST = 3  # differences or files that a message names
_MEANINGS = {
    "image_files": "the training images (names, sizes or order) are not the same",
    "labels": "the training labels are not the same",
    "val_image_files": "the validation images (names, sizes or order) are not the same",
    "val_labels": "the validation labels are not the same",
    "outlines": "the outlines of the training labels are not the same",
    "val_outlines": "the outlines of the validation labels are not the same",
}


def hyp_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words which hyperparameters differ; a key that is missing in one of the two has its default there."""
    known = settings_of(Hyperparameters)

    def value(mapping: Mapping[str, Any], key: str) -> Any:
        default = known[key].default if key in known else None
        return plain_number(mapping.get(key, default))

    keys = dict.fromkeys([*before, *now])
    return [
        f"{key} was {_short(value(before, key))} and is {_short(value(now, key))}"
        for key in keys
        if value(before, key) != value(now, key)
    ]


def refuse_edited_options(file: Path, found: Mapping[str, Any], checkpoint: Path, own: Mapping[str, Any]) -> None:
    """Refuse an opt.yaml that was edited, or belongs to another run, where that changes the result; log the rest.

    Args:
        file: the opt.yaml of the run to resume.
        found: its content.
        checkpoint: the file to resume, named in errors.
        own: the options in it; an option that only one of the two has is not compared.

    Raises:
        InputErrors: every such option or hyperparameter, one line each.
    """
    both = [key for key in found if key in own]
    problems = []
    for key in both:
        if key == "hyp" and isinstance(found[key], Mapping) and isinstance(own[key], Mapping):
            problems += [f"hyp: {text}" for text in hyp_differences(own[key], found[key])]
        elif key not in FREE_OPTIONS and plain_number(found[key]) != plain_number(own[key]):
            problems.append(f"{key} was {_short(own[key])} and is {_short(found[key])}")
    if problems:
        raise InputErrors(
            f"{file}: {text}; allowed is what {checkpoint} was trained with (a new run with --weights may change it)"
            for text in problems
        )
    silent = FREE_OPTIONS & {"noplots", "nosave", "save_period", "save_steps", "bbox_interval", "cache"}
    changed = [key for key in both if key in silent and found[key] != own[key]]
    if changed:
        LOGGER.info("%s: %s", file, ", ".join(f"{key} {own[key]} -> {found[key]}" for key in changed))


def data_facts(dataset: Any, prefix: str = "") -> dict[str, str]:
    """Return digests of a data set's images and labels, to compare on resume.

    Args:
        dataset: with ``im_files``, ``shapes`` (n, 2) and ``labels``, n arrays (m, 5), in the order that the run uses.
        prefix: begins the names, ``val_`` for the validation set.

    Returns:
        ``image_files``: of the paths below their common folder, so that a data set may move, and of the sizes;
        ``labels``: of all rows, by image; ``outlines``: of their points, where the data set trains on them.
    """
    images, labels = hashlib.sha256(), hashlib.sha256()
    for name in _below_common_folder(dataset.im_files):
        images.update(name.replace(os.sep, "/").encode() + b"\0")
    labels.update(_counted_rows(dataset.labels))
    images.update(np.ascontiguousarray(dataset.shapes, dtype="<i8").tobytes())
    facts = {
        f"{prefix}image_files": images.hexdigest()[:DIGITS],
        f"{prefix}labels": labels.hexdigest()[:DIGITS],
    }
    if getattr(dataset, "carries_outlines", False):
        outlines = hashlib.sha256()
        for points in (points for found in dataset.segments for points in found):
            outlines.update(len(points).to_bytes(8, "little"))
            outlines.update(np.ascontiguousarray(points, dtype="<f4").tobytes())
        facts[f"{prefix}outlines"] = outlines.hexdigest()[:DIGITS]
    return facts


def _below_common_folder(files: Iterable[str]) -> list[str]:
    """Return the paths of files from the lowest folder that holds them all."""
    files = list(files)
    folders = {os.path.dirname(file) for file in files}
    try:
        top = os.path.commonpath(folders) if folders else ""
    except ValueError:  # on several drives, or absolute and relative ones
        top = ""
    if not top:
        return files
    # what normalising does not change begins with the folder itself
    begin, plain = os.path.join(top, ""), all(folder == os.path.normpath(folder) for folder in folders)
    return [file[len(begin) :] if plain and file.startswith(begin) else os.path.relpath(file, top) for file in files]


def _counted_rows(labels: Sequence[np.ndarray]) -> bytes:
    """Return all rows as little-endian floats, those of each image after their number in 8 bytes."""
    counts = row_counts(labels)
    if isinstance(labels, Rows):
        rows = np.ascontiguousarray(labels.flat(), dtype="<f4")
        words = np.zeros(2 * len(counts) + rows.size, "<u4")
        places = 2 * np.arange(len(counts)) + rows.shape[1] * (np.cumsum(counts) - counts)
        is_row = np.ones(len(words), bool)
        is_row[places] = is_row[places + 1] = False
        words[places], words[is_row] = counts, rows.view("<u4").ravel()
        return words.tobytes()
    parts = zip(counts.tolist(), labels, strict=True)
    return b"".join(n.to_bytes(8, "little") + np.ascontiguousarray(rows, dtype="<f4").tobytes() for n, rows in parts)


def fact_differences(found: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words which facts of a run, of those that both mappings have, differ."""
    return [_difference(key, found[key], value) for key, value in now.items() if key in found and found[key] != value]


def newer_files(checkpoint: str | Path, files: Iterable[str | Path]) -> str:
    """Return in words which files were changed after a checkpoint was written, '' for none."""
    try:
        since = os.stat(checkpoint).st_mtime_ns
    except OSError:
        return ""
    newer = [str(file) for file in files if _modified(file) > since]
    more = f" and {len(newer) - _MOST} more" if len(newer) > _MOST else ""
    return f"changed after the checkpoint: {', '.join(newer[:_MOST])}{more}" if newer else ""


def _modified(file: str | Path) -> int:
    try:
        return os.stat(file).st_mtime_ns
    except OSError:
        return -1


def _difference(key: str, before: Any, now: Any) -> str:
    if key in _MEANINGS:
        return _MEANINGS[key]
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return f"{key} was {_short(before)} and is {_short(now)}"
    if key == "names" and len(before) != len(now):
        return f"nc was {len(before)} and is {len(now)} (names: {_short(list(now.values()))})"
    keys = [item for item in dict.fromkeys([*before, *now]) if before.get(item) != now.get(item)]
    shown = [f"{item} was {_short(before.get(item))} and is {_short(now.get(item))}" for item in keys[:_MOST]]
    more = f" and {len(keys) - _MOST} more" if len(keys) > _MOST else ""
    return f"{key}: {', '.join(shown)}{more}"


def _short(value: Any, longest: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."
