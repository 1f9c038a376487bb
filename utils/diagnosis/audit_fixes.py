"""What the audit writes for training: a corrected copy of the labels, and a weight for every label."""

from __future__ import annotations

import csv
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from utils.diagnosis.audit import Audit
from utils.diagnosis.audit_boxes import CLIP
from utils.diagnosis.audit_findings import FIXABLE, Finding, LabelSet
from utils.diagnosis.audit_scores import ModelScores
from utils.diagnosis.data import GroundTruth
from utils.errors import InputError, WorkError
from utils.logs import LOGGER
from utils.yaml_files import write_yaml

FIXES_COLUMNS = ("file", "line", "code", "before", "after")
WEIGHT_COLUMNS = ("image", "row", "weight", "score")


class Change(NamedTuple):
    """A row that was changed in the copy; ``after`` is "" for a row that was dropped."""

    file: str
    line: int
    code: str
    before: str
    after: str


def write_fixed_copy(audit: Audit, folder: str | Path) -> list[Change]:
    """Write the data set with L05 (rounding alone), L10 and L11 mended to a new folder; the original stays as it is.

    The folder gets links to the images (copies where the system makes no links), all label files, data.yaml, and
    fixes.csv with every changed row.

    Args:
        audit: of ``audit_labels``.
        folder: new, or empty.

    Raises:
        InputError: the folder holds something already.
        WorkError: something cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--fix {folder}: exists and is not empty; allowed is a new folder")
    fixes: dict[str, list[Finding]] = defaultdict(list)
    for finding in audit.of(*FIXABLE):
        if finding.fix:
            fixes[finding.file].append(finding)
    changes: dict[tuple[str, int], Change] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        facts: dict[str, object] = {"path": str(folder)}
        for item in audit.sets:
            facts[item.split] = f"images/{item.split}"
            for change in _write_split(item, fixes, folder):
                changes[change.file, change.line] = change
        for split in ("train", "val"):  # a data YAML needs both; what was not looked at is not here
            facts.setdefault(split, f"images/{audit.sets[0].split}" if audit.sets else "images")
        write_yaml(folder / "data.yaml", {**facts, "names": audit.names}, comment=("Labels mended by diagnose.py",))
        _write_changes(folder / "fixes.csv", list(changes.values()))
    except OSError as error:
        raise WorkError(f"{folder}: the corrected copy cannot be written: {error.strerror or error}") from None
    LOGGER.info("%s: labels copied, %d rows mended; train with --data %s", folder, len(changes), folder / "data.yaml")
    return list(changes.values())


def write_label_weights(path: str | Path, result: ModelScores, truth: GroundTruth) -> int:
    """Write a weight for every label as ``label_weights`` of a hyp file reads it; return how many are below 1.

    A label that is no finding has weight 1. Below the limit of its class the weight falls in a line with the score, to
    0 at score 0, so that suspicious labels count less the more suspicious they are.

    Args:
        path: CSV file: image, row (of its label file, from 0), weight, and the score for the reader.
        result: scores of the labels.
        truth: the labels; those of the training split, since others are unknown to a training.

    Raises:
        WorkError: the file cannot be written.
    """
    weights, scores = result.label_weights(truth), result.label_scores()
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(WEIGHT_COLUMNS)
            for i, info in enumerate(truth.images):
                own = truth.of_image(i)
                image = Path(info.path).absolute().as_posix()
                for row, weight, score in zip(truth.line[own] - 1, weights[own], scores[own], strict=True):
                    writer.writerow((image, int(row), f"{weight:.6g}", f"{score:.6g}"))
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror}") from None
    return int((weights < 1).sum())


def _write_split(item: LabelSet, fixes: Mapping[str, list[Finding]], folder: Path) -> list[Change]:
    """Write the images' links and the label files of one split."""
    from utils.labels import img2label_paths

    changes = []
    for image, label, tail in zip(item.images, item.label_files, _tails(item.images), strict=True):
        target = folder / "images" / item.split / tail
        target.parent.mkdir(parents=True, exist_ok=True)
        link(Path(image).resolve(), target)
        copy = Path(img2label_paths([str(target)])[0])
        if not Path(label).is_file() or copy.exists():  # two images can have one label file
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        data, changed = _mended(Path(label).read_bytes(), label, fixes.get(label, []))
        copy.write_bytes(data)
        changes += changed
    return changes


def _tails(images: list[str]) -> list[Path]:
    """Return the images' paths below the folder that they have in common."""
    paths = [Path(image).absolute() for image in images]
    try:
        root = os.path.commonpath([path.parent for path in paths])
    except ValueError:  # on several drives
        return [path.relative_to(path.anchor) for path in paths]
    return [path.relative_to(root) for path in paths]


def link(source: Path, target: Path) -> None:
    """Make ``target`` show the file ``source``: a symbolic link, else a hard one, else a copy."""
    if not source.exists():
        return  # an image that cannot be read: the audit names it
    for make in (os.symlink, os.link, shutil.copy2):
        try:
            make(source, target)
            return
        except OSError:
            if make is shutil.copy2:
                raise


def _mended(data: bytes, file: str, findings: list[Finding]) -> tuple[bytes, list[Change]]:
    """Return a label file's content with the fixes of its findings, and what they changed."""
    if not findings:
        return data, []
    lines = data.decode("utf-8").splitlines()
    what = {finding.line: finding for finding in sorted(findings, key=lambda f: f.fix == CLIP, reverse=True)}
    changes, kept = [], []  # of two fixes of a row dropping it is the last word
    for number, line in enumerate(lines, 1):
        finding = what.get(number)
        after = line if finding is None else _clipped(line) if finding.fix == CLIP else ""
        if finding is not None:
            changes.append(Change(file, number, finding.code, line, after))
        if after or finding is None:
            kept.append(after)
    return "".join(f"{line}\n" for line in kept).encode(), changes


def _clipped(line: str) -> str:
    """Return a row with its coordinates brought into 0 to 1; those inside keep their digits."""
    cls, *values = line.split()
    return " ".join([cls, *(value if 0 <= float(value) <= 1 else str(int(float(value) > 0)) for value in values)])


def _write_changes(path: Path, changes: list[Change]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(FIXES_COLUMNS)
        writer.writerows(changes)
