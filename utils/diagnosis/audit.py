"""The label audit: every check of labels and images of a data set in one pass, without changing anything.

audit = audit_labels("data.yaml")                              # L01 to L19
result = objectlab(truth, predictions)                         # out-of-sample predictions, see audit_folds
audit = add_model_findings(audit, result, truth, predictions)  # L20 to L22
audit.write(folder)                                            # audit.json, audit.csv
write_fixed_copy(audit, new_folder)                            # audit_fixes
write_label_weights(path, result, truth)                       # audit_fixes
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from utils.balance.label_counts import class_counts
from utils.data.flat_rows import Rows
from utils.diagnosis.audit_balance import class_balance, size_outliers
from utils.diagnosis.audit_boxes import Labelled, check_rows, usable
from utils.diagnosis.audit_duplicates import contradictions, find_twins, leaks
from utils.diagnosis.audit_findings import CODES, FROM_MODEL, FROM_PIXELS, Finding, LabelSet
from utils.diagnosis.audit_images import Images, read_headers, read_pixels
from utils.diagnosis.audit_names import check_count, check_names
from utils.diagnosis.audit_rows import EMPTY, MISSING, ROWS, read_rows
from utils.diagnosis.audit_scores import ModelScores, findings
from utils.diagnosis.data import GroundTruth, Predictions, plain
from utils.errors import WorkError
from utils.logs import LOGGER

__all__ = ["CODES", "Audit", "Finding", "add_model_findings", "audit_labels"]

SCHEMA = 1
COLUMNS = (
    "code", "severity", "file", "line", "class", "name", "x1", "y1", "x2", "y2", "score", "message", "fix", "image",
    "other",
)  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        findings: by code, L20 to L22 the most suspicious first.
        counts: findings of every code of CODES.
        boxes_checked: rows of all label files.
        balance: L19 in numbers, as ``audit_balance.class_balance`` returns it.
        images: split -> images, labelled, empty (background with an empty label file), missing (without a label file),
            unreadable (image or label file), near_duplicates (images with a near-duplicate in their own split; None
            when pixels were not read).
        names: class number -> name.
        notes: what was not looked at, and why.
        sets: the files that were looked at.
        twins: image path -> group of near-duplicates, for images that have any.
        objectlab: parameters and quartiles of the model-based part, None without one.
    """

    findings: list[Finding]
    counts: dict[str, int]
    boxes_checked: int
    balance: dict[str, Any]
    images: dict[str, dict[str, int | None]]
    names: dict[int, str]
    notes: list[str] = field(default_factory=list)
    sets: list[LabelSet] = field(default_factory=list, repr=False)
    twins: dict[str, int] = field(default_factory=dict, repr=False)
    objectlab: dict[str, Any] | None = None

    def of(self, *codes: str) -> list[Finding]:
        """Return the findings of some codes."""
        return [finding for finding in self.findings if finding.code in codes]

    def groups(self, paths: Iterable[str]) -> np.ndarray:
        """Return a group number for each image: near-duplicates share one, so that folds do not tear them apart."""
        numbers = {path: -1 - group for path, group in self.twins.items()}
        return np.array([numbers.get(path, place) for place, path in enumerate(paths)], np.int64)

    def measured(self) -> dict[str, int]:
        """Return the findings of every code that was looked for."""
        left_out = set() if self.objectlab else set(FROM_MODEL)
        if all(item["near_duplicates"] is None for item in self.images.values()):
            left_out |= set(FROM_PIXELS)
        return {code: count for code, count in self.counts.items() if code not in left_out}

    def severities(self) -> dict[str, int]:
        """Return the number of errors, warnings and infos."""
        found = Counter(finding.severity for finding in self.findings)
        return {name: found[name] for name in ("error", "warning", "info")}

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain data, without the list of findings (``write`` has it)."""
        severities = self.severities()
        return plain({
            "schema": SCHEMA, "errors": severities["error"], "warnings": severities["warning"],
            "infos": severities["info"], "counts": self.counts, "codes": CODES, "boxes_checked": self.boxes_checked,
            "images": self.images, "balance": self.balance, "notes": self.notes, "objectlab": self.objectlab,
        })  # fmt: skip

    def write(self, folder: str | Path) -> list[Path]:
        """Write audit.json (all numbers and findings) and audit.csv (a line for each finding) into a folder.

        Raises:
            WorkError: a file cannot be written.
        """
        paths = [Path(folder) / "audit.json", Path(folder) / "audit.csv"]
        listed = [plain(asdict(finding)) for finding in self.findings]
        try:
            paths[0].write_text(json.dumps({**self.to_dict(), "findings": listed}, indent=1) + "\n", encoding="utf-8")
            with paths[1].open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(COLUMNS)
                writer.writerows(self._cells(finding) for finding in self.findings)
        except OSError as error:
            raise WorkError(f"{folder}: the audit cannot be written: {error.strerror}") from None
        return paths

    def _cells(self, finding: Finding) -> list[str | int]:
        box = [""] * 4 if finding.box is None else [f"{value:.1f}" for value in finding.box]
        cls = "" if finding.cls < 0 else finding.cls
        score = "" if finding.score is None else f"{finding.score:.6g}"
        return [
            finding.code, finding.severity, finding.file, finding.line or "", cls, self.names.get(finding.cls, ""),
            *box, score, finding.message, finding.fix, finding.image, finding.other,
        ]  # fmt: skip


def audit_labels(
    data: str | Path | Mapping[str, Any],
    *,
    splits: Iterable[str] = ("train", "val", "test"),
    imgsz: int = 640,
    look: Literal["pixels", "headers"] = "pixels",
) -> Audit:
    """Check the labels and images of a data set: L01 to L19. Nothing is written.

    Args:
        data: data set YAML, or its facts.
        splits: those to look at; the ones that the data set lacks are passed over.
        imgsz: training size, for what is too small to be learnt.
        look: "pixels" decodes every image (L01, L15 to L17), "headers" reads its size alone.

    Raises:
        InputError: the data set cannot be found or read.
    """
    from utils.labels import MIN_SIDE

    source, facts, found = audited_facts(data)
    sets, notes = _sets(facts, splits)
    paths = list(dict.fromkeys(path for item in sets for path in item.images))
    looked = (read_pixels if look == "pixels" else read_headers)(paths, MIN_SIDE)
    labelled, file_of = _labelled(sets, looked, facts["names"])
    found += looked.findings() + check_rows(labelled, imgsz)
    images, background = _image_counts(sets, looked, labelled, file_of)
    found += background
    labels = _labels_by_split(sets, labelled, file_of)
    nc = len(facts["names"])
    instances = {split: class_counts(own, nc) for split, own in labels.items()}
    found += check_names(source, facts["names"], instances)
    groups: dict[str, int] = {}
    if look == "pixels":
        doubled, groups = _duplicates(sets, looked, labelled, file_of, images)
        found += doubled
    else:
        notes.append(
            "pixels were not read: damage past the header and near-duplicates (L15 to L17) were not looked for"
        )
    found += size_outliers(labelled, imgsz)
    balance, uneven = class_balance(labels, facts["names"])
    found += [replace(finding, file=source) for finding in uneven]
    boxes = len(labelled.rows) + labelled.rows.unlisted
    return Audit(_in_order(found), _counts(found), boxes, balance, images, dict(facts["names"]), notes, sets, groups)


def add_model_findings(audit: Audit, result: ModelScores, truth: GroundTruth, pred: Predictions) -> Audit:
    """Return the audit with L20 to L22 of ``objectlab(truth, pred)``."""
    found = audit.findings + findings(result, truth, pred)
    notes = list(audit.notes)
    if result.in_sample:
        notes.append(
            "L20 to L22 are optimistic: the model was trained on these labels and repeats errors that it has learnt; "
            "--folds makes predictions that are out of sample"
        )
    return replace(
        audit, findings=_in_order(found), counts=_counts(found), notes=notes, objectlab=plain(result.facts())
    )


def audited_facts(
    data: str | Path | Mapping[str, Any], splits: Sequence[str] = ("train", "val")
) -> tuple[str, dict[str, Any], list[Finding]]:
    """Return the name of the data set's source, its facts, and L14 about its key nc.

    A YAML whose nc contradicts its names is no reason to stop an audit: the names count.

    Args:
        data: data set YAML, or its facts.
        splits: which of train, val and test must exist.

    Raises:
        InputError: the data set cannot be found or read.
    """
    from utils.dataset_yaml import check_dataset
    from utils.paths import check_file
    from utils.yaml_files import read_yaml

    if isinstance(data, Mapping):
        return "data", check_dataset(dict(data), splits=splits), []
    path = Path(check_file(data))
    raw = read_yaml(path) if path.suffix.lower() in {".yaml", ".yml"} else {}
    names, nc = raw.get("names"), raw.get("nc")
    wrong = check_count(str(path), len(names), nc) if isinstance(names, (list, dict)) and isinstance(nc, int) else []
    if not wrong:
        return str(path), check_dataset(path, splits=splits), []
    beside = path.resolve().parent / str(raw.get("path") or "")
    del raw["nc"]
    return str(path), check_dataset({**raw, "path": str(beside)} if beside.exists() else raw, splits=splits), wrong


def _sets(facts: Mapping[str, Any], splits: Iterable[str]) -> tuple[list[LabelSet], list[str]]:
    """Return the files of the splits that exist, and notes about those that do not."""
    from utils.dataset_yaml import find_images
    from utils.errors import MissingFileError
    from utils.labels import img2label_paths

    sets, notes = [], []
    for split in (split for split in splits if facts.get(split)):
        try:
            images = find_images(facts[split])
        except MissingFileError as error:
            if split != "test":  # which many data sets name without having it
                raise
            notes.append(f"split {split} was not looked at: {error}")
            continue
        sets.append(LabelSet(split, images, img2label_paths(images)))
    return sets, notes


def _labelled(sets: list[LabelSet], looked: Images, names: dict[int, str]) -> tuple[Labelled, dict[str, int]]:
    """Return the rows of all label files, each read once, and the place of each label file."""
    size_of = dict(zip(looked.paths, looked.sizes, strict=True))
    image_of: dict[str, str] = {}
    for item in sets:
        for image, label_file in zip(item.images, item.label_files, strict=True):
            image_of.setdefault(label_file, image)
    files = list(image_of)
    sizes = np.array([size_of[image_of[file]] for file in files], np.float64).reshape(-1, 2)
    labelled = Labelled(read_rows(files), [image_of[file] for file in files], sizes, dict(names))
    return labelled, {file: place for place, file in enumerate(files)}


def _image_counts(
    sets: list[LabelSet], looked: Images, labelled: Labelled, file_of: dict[str, int]
) -> tuple[dict[str, dict[str, int | None]], list[Finding]]:
    """Return the images of each split by the state of their labels, and L13."""
    readable = dict(zip(looked.paths, looked.readable.tolist(), strict=True))
    counts: dict[str, dict[str, int | None]] = {}
    found = []
    for item in sets:
        states = Counter(
            int(labelled.rows.state[file_of[label]]) if readable[image] else -1
            for image, label in zip(item.images, item.label_files, strict=True)
        )
        missing, empty = states[MISSING], states[EMPTY]
        unreadable = len(item.images) - missing - empty - states[ROWS]
        counts[item.split] = {
            "images": len(item.images), "labelled": states[ROWS], "empty": empty, "missing": missing,
            "unreadable": unreadable, "near_duplicates": None,
        }  # fmt: skip
        if missing or empty:
            text = f"{item.split}: of {len(item.images)} images {missing} have no label file and {empty} an empty one"
            text += "; both count as background"
            found.append(Finding("L13", "info", str(Path(item.label_files[0]).parent), message=text))
    return counts, found


def _labels_by_split(sets: list[LabelSet], labelled: Labelled, file_of: dict[str, int]) -> dict[str, Rows]:
    """Return split -> per image (n, 5) class, cx, cy, w, h of the usable rows."""
    fit = usable(labelled)
    edges = np.searchsorted(labelled.rows.file[fit], np.arange(len(labelled.rows.files) + 1))
    rows = Rows(labelled.rows.values[fit], edges)
    files = {item.split: np.array([file_of[label] for label in item.label_files], np.int64) for item in sets}
    return {split: rows.take(numbers) for split, numbers in files.items()}


def _duplicates(
    sets: list[LabelSet],
    looked: Images,
    labelled: Labelled,
    file_of: dict[str, int],
    images: dict[str, dict[str, int | None]],
) -> tuple[list[Finding], dict[str, int]]:
    """Return L15 to L17 and groups of near-duplicates; enter those within each split into ``images``."""
    place = {path: number for number, path in enumerate(looked.paths)}
    paths = [path for item in sets for path in item.images]
    split = np.repeat(np.arange(len(sets)), [len(item.images) for item in sets])
    file = np.array([file_of[label] for item in sets for label in item.label_files], np.int64)
    own = np.array([place[path] for path in paths], np.int64)
    everywhere = Images(
        paths, looked.sizes[own], [looked.problems[k] for k in own], [""] * len(own), looked.dhash[own],
        looked.thumbs[own],
    )  # fmt: skip
    twins = find_twins(everywhere, split)
    within = twins.pairs[split[twins.pairs[:, 0]] == split[twins.pairs[:, 1]]]
    per_split = np.bincount(split[np.unique(within)], minlength=len(sets))
    for item, count in zip(sets, per_split.tolist(), strict=True):
        images[item.split]["near_duplicates"] = count
    found = leaks(twins, paths, split, [item.split for item in sets])
    shared = np.bincount(twins.group, minlength=len(paths))[twins.group] > 1
    groups = {paths[k]: int(twins.group[k]) for k in np.flatnonzero(shared).tolist()}
    return found + contradictions(twins, paths, labelled, file), groups


def _in_order(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: finding.code)  # stable: within a code as they came


def _counts(found: list[Finding]) -> dict[str, int]:
    counted = Counter(finding.code for finding in found)
    return {code: counted[code] for code in CODES}


def log_audit(audit: Audit) -> None:
    """Write the counts to the run log."""
    severities = audit.severities()
    LOGGER.info(
        "%d boxes in %d images checked: %d errors, %d warnings, %d remarks",
        audit.boxes_checked, sum(item["images"] or 0 for item in audit.images.values()), *severities.values(),
    )  # fmt: skip
    for code, count in audit.counts.items():
        if count:
            LOGGER.info("%s %6d  %s", code, count, CODES[code])
    for note in audit.notes:
        LOGGER.info("note: %s", note)
