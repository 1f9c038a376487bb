"""The fuzzing of tests/stress/fuzz.py: a few cases of each kind, and proof that it finds what it looks for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FUZZ = ROOT / "tests" / "stress" / "fuzz.py"
PLANTED = {
    "KeyError: 'missing'",
    "ended the process with status -6",
    "took more than",
    "the case took",
    "not mere reading: open(",
    "not mere reading: socket.connect",
    "not mere reading: import",
    "RuntimeWarning",
}

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FUZZ), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_few_damaged_files_of_each_kind(tmp_path: Path) -> None:
    kinds = "labels,yaml,images,csv,sources,lists,caches,checkpoints"
    done = fuzz("--cases", "30", "--seconds", "800", "--only", kinds, "--keep", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:8]] == kinds.split(",")
    assert all(re.search(r" 30 cases .*/s +0 findings", line) for line in lines[:8])
    assert lines[-1] == "240 cases, 0 findings"


@pytest.mark.slow
def test_what_no_reader_may_do_is_found(tmp_path: Path) -> None:
    """Tracebacks, crashes, endless loops, memory, writing, networks, imports: each is found, kept and repeatable."""
    options = ("--only", "planted", "--memory", "256", "--case-seconds", "3", "--keep", str(tmp_path))
    done = fuzz(*options, "--cases", "60", "--seconds", "900")
    assert done.returncode == 1, done.stdout + done.stderr
    reasons = [path.read_text() for path in tmp_path.glob("*.why")]
    missing = {words for words in PLANTED if not any(words in reason for reason in reasons)}
    assert not missing, reasons
    kept = next(path for path in tmp_path.glob("*.why") if "KeyError" in path.read_text())
    again = fuzz(*options, "--file", str(kept.with_suffix("")))
    assert again.returncode == 1 and "KeyError: 'missing'" in again.stdout
