"""How long torch's threads wait awake is settled before torch is loaded, and by the user where the user said so."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from utils.openmp import ASKED, SHORT, SPINS, limit_spinning

ROOT = Path(__file__).resolve().parents[1]


def test_a_waiting_thread_sleeps_soon(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    limit_spinning()
    assert os.environ == {SPINS: str(SHORT)}


@pytest.mark.parametrize(("name", "value"), [(SPINS, "7"), ("OMP_WAIT_POLICY", "active")])
def test_what_the_user_set_decides(monkeypatch, name, value):
    monkeypatch.setattr(os, "environ", {name: value})
    limit_spinning()
    assert os.environ == {name: value}


@pytest.mark.skipif(platform.system() != "Linux", reason="GNU's OpenMP library comes with torch for Linux alone")
@pytest.mark.parametrize(("more", "spins"), [({}, SHORT), ({SPINS: "77"}, 77)])
def test_the_library_is_loaded_after_it(tmp_path, more, spins):
    """Libgomp itself says what it read; a command that loaded torch first would show its 300,000 or nothing."""
    kept = {key: value for key, value in os.environ.items() if key not in ASKED}
    done = subprocess.run(
        [sys.executable, "export.py", "--weights", tmp_path / "none.pt", "--include", "onnx"],
        cwd=ROOT, env={**kept, "OMP_DISPLAY_ENV": "VERBOSE", **more}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if SPINS not in done.stderr:
        pytest.skip("this torch does not load GNU's OpenMP library")
    assert f"{SPINS} = '{spins}'" in done.stderr
