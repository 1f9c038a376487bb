"""Masks and whole images share detection's code instead of copying it."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("segment", "classify", "utils/segment", "utils/classification")
OTHERS = ("models", "utils")
RUN = 6  # as many equal lines in a row count as copied
LIMIT = 0.10


def lines_of(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def copied(lines: list[str], known: set[tuple[str, ...]]) -> int:
    """Return how many of the lines lie in a run that is known."""
    hit: set[int] = set()
    for start in range(len(lines) - RUN + 1):
        if tuple(lines[start : start + RUN]) in known:
            hit |= set(range(start, start + RUN))
    return len(hit)


def test_segment_and_classify_copy_less_than_a_tenth() -> None:
    own = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    others = set(chain(ROOT.glob("*.py"), *((ROOT / folder).rglob("*.py") for folder in OTHERS))) - own
    known = set()
    for path in others:
        lines = lines_of(path)
        known |= {tuple(lines[start : start + RUN]) for start in range(len(lines) - RUN + 1)}
    counts = {path: (copied(lines_of(path), known), len(lines_of(path))) for path in own}
    total, shared = sum(n for _, n in counts.values()), sum(n for n, _ in counts.values())
    assert total > 2000
    assert shared / total < LIMIT, {str(path.relative_to(ROOT)): n for path, n in counts.items() if n[0]}


def test_copies_are_noticed() -> None:
    lines = [f"line {i}" for i in range(20)]
    known = {tuple(lines[start : start + RUN]) for start in range(len(lines) - RUN + 1)}
    assert copied(["other", *lines[3:11], "other"], known) == 8
    assert copied(lines[:5], known) == 0
