"""Find the labels of images, check both together and keep the result for the next start."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.data.forked import can_fork, cpu_count, map_forked
from utils.data.image_headers import read_header
from utils.data.jpeg_check import quick_jpeg_size
from utils.data.label_cache import cache_file, fingerprint, joint_digest, label_digest, load_cache, save_cache
from utils.data.label_files import LabelFile, Problem, parse_labels, read_label_file
from utils.data.label_table import (
    Checked,
    CheckedImage,
    LabelTable,
    ScanReport,
    build_table,
    join_checked,
)
from utils.errors import InputError, printable
from utils.images import check_jpeg_end, decode, read_image_file
from utils.logs import LOGGER, TQDM_BAR_FORMAT

__all__ = [
    "LabelFile", "LabelTable", "Problem", "ScanReport", "get_hash", "img2label_paths", "read_label_file", "scan_images",
    "scan_labels", "verify_image_label",
]  # fmt: skip

MIN_SIDE = 10  # pixels; smaller images are left out
MAX_CLASSES = 1 << 24  # float32, in which labels are kept, tells whole numbers apart up to here
MANY_IMAGES = 256  # from so many on further processes are worth their start
PART = 32  # images checked at a time
MAX_WORKERS = 16
MAX_LISTED = 1000  # problems written to the log one by one
_NO_LABELS = np.zeros((0, 5), np.float32)


def img2label_paths(img_paths: Iterable[str], label_dir: str = "labels", suffix: str = ".txt") -> list[str]:
    """Return each image's label path: the last folder named images becomes ``label_dir``, the suffix ``suffix``."""
    images, labels = f"{os.sep}images{os.sep}", f"{os.sep}{label_dir}{os.sep}"
    return [labels.join(str(path).rsplit(images, 1)).rsplit(".", 1)[0] + suffix for path in img_paths]


def get_hash(paths: Iterable[str]) -> str:
    """Return a hash of paths and the sizes of those that exist."""
    whole = hashlib.sha256()
    for path in paths:
        size = os.path.getsize(path) if os.path.exists(path) else -1
        whole.update(f"{path}\0{size}\0".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def scan_labels(  # noqa: PLR0913  (a data set is described by all of these)
    im_files: Sequence[str],
    label_files: Sequence[str] | None = None,
    cache_path: str | Path | None = None,
    prefix: str = "",
    nc: int | None = None,
    workers: int | None = None,
    *,
    names: dict[int, str] | list[str] | None = None,
    require_labels: bool = False,
) -> LabelTable:
    """Check all images and labels of a data set, or take the result of an earlier check that still holds.

    Every image is decoded once (of a JPEG its segments where they tell as much), every label file parsed. Nothing but
    the cache is written. All problems are logged and totalled, with the lost boxes per class.

    Args:
        im_files: image paths.
        label_files: their label paths, by default ``img2label_paths(im_files)``.
        cache_path: YOLOv5's name of the cache (``labels/train.cache``; ``.npz`` is added); None keeps no cache.
        prefix: start of the log lines.
        nc: number of classes; None accepts any class id.
        workers: threads or processes, by default one a CPU, up to MAX_WORKERS.
        names: class names for the log.
        require_labels: refuse a set without any box (a training set).

    Raises:
        InputError: a class id outside 0 to nc - 1; more than half of the images or all boxes of a class would be
            left out; no box where one is required.
    """
    label_files = img2label_paths(im_files) if label_files is None else label_files
    path = cache_file(cache_path) if cache_path else None
    table = load_cache(path, im_files, label_files) if path else None
    source = f" ({path.name})" if table is not None and path else ""
    if table is None:
        table = _scan(im_files, label_files, path, prefix, workers)
    _log_report(table.report, prefix, source, names)
    prefix = re.sub(r"\033\[\d+m", "", prefix)  # errors carry no terminal colours
    _refuse_class_ids(table, nc)
    _refuse_losses(table, prefix, names)
    if require_labels and not len(table.boxes):
        raise InputError(_no_labels_text(table, label_files, prefix))
    return table


def scan_images(im_files: Sequence[str], cache_path: str | Path | None = None, prefix: str = "") -> LabelTable:
    """Check images that have no label files, with the cache of ``scan_labels``; log nothing of what is found."""
    no_labels = [""] * len(im_files)
    path = cache_file(cache_path) if cache_path else None
    table = load_cache(path, im_files, no_labels) if path else None
    return _scan(im_files, no_labels, path, prefix, None) if table is None else table


def verify_image_label(args: tuple[str, str, str]) -> list[Any]:
    """Check one image and its label file.

    Args:
        args: image path, label path, prefix of the message.

    Returns:
        Image path, labels (n, 5), shape (w, h), segments, then four counts (missing, found, empty, corrupt: 0 or 1
        each) and a message ('' when nothing is wrong). The first four are None when the image is left out.
    """
    im_file, lb_file, prefix = args
    item = check_image(str(im_file), str(lb_file))
    missing, found, empty = (int(item.label_state == state) for state in ("missing", "found", "empty"))
    text = "; ".join(str(problem) for problem in item.problems)
    message = f"{prefix}WARNING {text}" if text else ""
    if not item.kept:
        return [None, None, None, None, missing, found, empty, 1, f"{message}: image left out"]
    return [im_file, item.labels, item.shape, item.segments, missing, found, empty, 0, message]


def check_image(im_file: str, lb_file: str) -> CheckedImage:
    """Check one image and its label file; neither is changed."""
    shape, image_problems, image_ok = _check_pixels(im_file)
    try:
        with open(lb_file, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        return CheckedImage(_NO_LABELS, [], shape, image_ok, "missing", b"", image_problems, Counter())
    except OSError as error:
        problems = [*image_problems, Problem(lb_file, 0, f"cannot be read: {error.strerror}")]
        return CheckedImage(_NO_LABELS, [], shape, False, "missing", b"", problems, Counter())
    parsed = parse_labels(data, lb_file)
    state = "found" if data.strip() else "empty"
    kept = image_ok and parsed.usable
    lost = parsed.lost
    if not image_ok:
        lost = lost + Counter(map(int, parsed.labels[:, 0].tolist()))
    problems = image_problems + parsed.problems
    return CheckedImage(parsed.labels, parsed.segments, shape, kept, state, label_digest(data), problems, lost)


def _check_pixels(im_file: str) -> tuple[tuple[int, int], list[Problem], bool]:
    """Decode an image once; return its upright (width, height), problems, and whether it can be used."""
    try:
        data = read_image_file(im_file)
        shape, note = quick_jpeg_size(data), ""
        if shape is None:
            shape, note = _decoded_size(data)
        if min(shape) < MIN_SIDE:
            raise ValueError(f"{shape[0]} x {shape[1]} pixels, at least {MIN_SIDE} x {MIN_SIDE} are needed")
    except (ValueError, MemoryError) as error:
        reason = str(error).removeprefix(f"{im_file}: ") or "out of memory"
        return (0, 0), [Problem(im_file, 0, f"image left out: {reason}")], False
    return shape, [Problem(im_file, 0, note)] if note else [], True


def _decoded_size(data: bytes) -> tuple[tuple[int, int], str]:
    """Decode an image, a JPEG at an eighth of its size; return its upright (width, height) and a note on its end."""
    header = read_header(io.BytesIO(data))
    is_jpeg = header.kind == "JPEG"
    note = check_jpeg_end(data) if is_jpeg else ""
    im = decode(data, reduce=8 if is_jpeg else 1)
    return header.upright_size if is_jpeg else (im.shape[1], im.shape[0]), note


def _scan(
    im_files: Sequence[str], label_files: Sequence[str], cache_path: Path | None, prefix: str, workers: int | None
) -> LabelTable:
    state = fingerprint(im_files, label_files) if cache_path else None
    folder = Path((label_files or [""])[0] or (im_files or [""])[0]).parent
    description = f"{prefix}Scanning {folder}..."
    quiet = not LOGGER.isEnabledFor(logging.INFO)
    parts = []
    bar = tqdm(total=len(im_files), desc=description, bar_format=TQDM_BAR_FORMAT, disable=quiet, leave=False)
    with bar:
        for part in _map(check_images, im_files, label_files, workers):
            parts.append(part)
            bar.update(len(part.kept))
    table = build_table(im_files, label_files, parts)
    table.report.problems += _shared_label_files(im_files, label_files, b"".join(part.states for part in parts))
    if cache_path and state:
        kept = np.concatenate([part.kept for part in parts]) if parts else np.zeros(0, bool)
        save_cache(cache_path, table, kept, state, joint_digest(part.digests for part in parts))
    return table


def check_images(im_files: Sequence[str], label_files: Sequence[str]) -> Checked:
    """Check some images and their label files, one after the other; none is changed."""
    return join_checked(list(map(check_image, im_files, label_files)))


def _shared_label_files(im_files: Sequence[str], label_files: Sequence[str], states: bytes) -> list[Problem]:
    """Note images that have one label file between them (x.jpg beside x.png): both train on its boxes."""
    if len(set(label_files)) == len(label_files):
        return []
    first: dict[str, str] = {}
    notes = []
    for im_file, label_file, state in zip(im_files, label_files, states.decode(), strict=True):
        other = first.setdefault(label_file, im_file) if state != "m" else im_file
        if other != im_file:
            notes.append(Problem(im_file, 0, f"shares the label file {printable(label_file)} with {printable(other)}"))
    return notes


def _map(
    check: Callable[[Sequence[str], Sequence[str]], Checked],
    im_files: Sequence[str],
    label_files: Sequence[str],
    workers: int | None,
) -> Iterator[Checked]:
    """Apply ``check`` to parts of the files in order, in processes for many; in threads where processes cannot fork.

    Threads share one interpreter, which is busy most of the time: they gain something where files come slowly.
    """
    workers = min(MAX_WORKERS, cpu_count()) if workers is None else workers
    parts = [slice(k, k + PART) for k in range(0, len(im_files), PART)]

    def check_part(part: slice) -> Checked:
        return check(im_files[part], label_files[part])

    if workers <= 1 or len(im_files) < MANY_IMAGES:
        yield from map(check_part, parts)
    elif can_fork():
        yield from map_forked(check_part, parts, workers)
    else:
        with ThreadPool(workers) as pool:
            yield from pool.imap(check_part, parts)


def _log_report(report: ScanReport, prefix: str, source: str, names: dict[int, str] | list[str] | None) -> None:
    LOGGER.info("%sLabels%s: %s", prefix, source, report.summary())
    for problem in report.problems[:MAX_LISTED]:
        LOGGER.warning("%sWARNING %s", prefix, problem)
    if len(report.problems) > MAX_LISTED:
        LOGGER.warning("%s... and %d more problems", prefix, len(report.problems) - MAX_LISTED)
    if report.corrupt:
        noun = "image" if report.corrupt == 1 else "images"
        LOGGER.warning("%sWARNING total: %d %s of %d skipped", prefix, report.corrupt, noun, report.total)
    if report.lost:
        LOGGER.warning("%sWARNING boxes lost: %s", prefix, report.lost_text(names))


def _refuse_class_ids(table: LabelTable, nc: int | None) -> None:
    """Raise for the first class id of nc or more, by reading its label file once more for the line."""
    nc = MAX_CLASSES if nc is None else nc
    wrong = np.flatnonzero(table.boxes[:, 0] >= nc)
    if not len(wrong):
        return
    image = int(np.searchsorted(table.box_offsets, wrong[0], side="right")) - 1
    others = f" ({len(wrong) - 1} more boxes like it)" if len(wrong) > 1 else ""
    try:
        read_label_file(table.label_files[image], nc)
    except InputError as error:
        raise InputError(f"{error}{others}") from None
    raise InputError(f"{table.label_files[image]}: class {table.boxes[wrong[0], 0]:g}, allowed 0-{nc - 1}{others}")


def _refuse_losses(table: LabelTable, prefix: str, names: dict[int, str] | list[str] | None) -> None:
    report = table.report
    if report.corrupt * 2 > report.total:
        raise InputError(
            f"{prefix}{report.corrupt} of {report.total} images would be left out, at most half may be; "
            f"the first: {report.problems[0]}"
        )
    kept = table.class_counts() if report.lost else Counter()
    gone = Counter({c: n for c, n in report.lost.items() if c >= 0 and not kept[c]})
    if gone:
        example = next((p for p in report.problems), "")
        raise InputError(
            f"{prefix}all boxes of a class would be left out ({ScanReport(lost=gone).lost_text(names)}); "
            f"mend the files listed above, the first: {example}"
        )


def _no_labels_text(table: LabelTable, label_files: Sequence[str], prefix: str) -> str:
    report = table.report
    example = f", for example {label_files[0]}" if label_files else ""
    return (
        f"{prefix}no labelled object in the train set: of {report.total} images {report.missing} have no label file "
        f"and {report.empty} an empty one; label files are looked for beside the images{example}"
    )
