"""L14: class names that look alike, and classes that some split lacks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from utils.diagnosis.audit_findings import Finding, Severity

ONE_EDIT_FROM, TWO_EDITS_FROM = 4, 8  # letters of the shorter name
MAX_EDITS = 2


def check_names(source: str, names: Mapping[int, str], instances: Mapping[str, np.ndarray]) -> list[Finding]:
    """Return what is doubtful about the class names.

    Args:
        source: data YAML, for the findings.
        names: class number -> name.
        instances: split -> boxes of each class (nc,).
    """
    return [_finding(source, severity, text) for severity, text in (*alike(names), *_uneven(names, instances))]


def check_count(source: str, names: int, nc: int | None) -> list[Finding]:
    """Return the finding that the key nc contradicts the names, [] where it does not."""
    if nc is None or nc == names:
        return []
    return [_finding(source, "error", f"nc is {nc}, but names lists {names} classes")]


def alike(names: Mapping[int, str]) -> list[tuple[Severity, str]]:
    """Return pairs of names that may mean the same class, as severity and text.

    Equal; equal but for case, spaces, underscores, hyphens or an s at the end; or one edit apart from 4 letters, two
    from 8 (names that differ in digits alone are numbered on purpose).
    """
    found: list[tuple[Severity, str]] = []
    for (a, first), (b, second) in _similar(names):
        who = f"classes {a} '{first}' and {b} '{second}'"
        if first == second:
            found.append(("error", f"{who} have the same name"))
        elif _plain(first) == _plain(second):
            found.append(("warning", f"{who} differ in case, spaces or plural alone"))
        elif not _numbered(first, second):
            edits = edit_distance(first.lower(), second.lower())
            shorter = min(len(first), len(second))
            if (edits == 1 and shorter >= ONE_EDIT_FROM) or (edits == MAX_EDITS and shorter >= TWO_EDITS_FROM):
                found.append(("warning", f"{who} are {edits} letter{'s' if edits > 1 else ''} apart: one class?"))
    return found


def edit_distance(a: str, b: str) -> int:
    """Return how many insertions, deletions and substitutions of letters turn ``a`` into ``b`` (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def _similar(names: Mapping[int, str]) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Return the pairs that are at most two edits apart, or equal in their plain form; no loop over all pairs.

    Two names within two edits become equal when up to two letters are left out of each.
    """
    places = defaultdict(list)
    for number, name in names.items():
        for key in {f"plain {_plain(name)}", *_shortened(name.lower())}:
            places[key].append(number)
    pairs = {pair for numbers in places.values() for pair in combinations(sorted(numbers), 2)}
    return [((a, names[a]), (b, names[b])) for a, b in sorted(pairs)]


def _shortened(name: str) -> set[str]:
    """Return a name with up to two letters left out, less for short ones."""
    allowed = MAX_EDITS if len(name) >= TWO_EDITS_FROM else 1 if len(name) >= ONE_EDIT_FROM else 0
    keep = range(len(name))
    return {
        "".join(name[k] for k in keep if k not in left_out)
        for size in range(allowed + 1)
        for left_out in combinations(keep, size)
    }


def _plain(name: str) -> str:
    """Return a name without what spellings of one class differ in."""
    text = "".join(c for c in name.lower() if c not in " _-")
    return text[:-1] if text.endswith("s") and len(text) > 2 else text


def _numbered(a: str, b: str) -> bool:
    """Whether two names are equal but for their digits."""
    return "".join(c for c in a if not c.isdigit()) == "".join(c for c in b if not c.isdigit())


def _uneven(names: Mapping[int, str], instances: Mapping[str, np.ndarray]) -> list[tuple[Severity, str]]:
    """Return the classes that no split holds, and those that training or validation lacks."""
    total = sum(instances.values())
    found: list[tuple[Severity, str]] = []
    for number, name in names.items():
        if not total[number]:
            found.append(("warning", f"class {number} '{name}' has no box in any split"))
            continue
        for split, role in (("train", "nothing to learn it from"), ("val", "nothing to measure it by")):
            if split in instances and not instances[split][number]:
                found.append(("warning", f"class {number} '{name}' has no box in {split}: {role}"))
    return found


def _finding(source: str, severity: Severity, text: str) -> Finding:
    return Finding("L14", severity, source, message=text)
