"""Nothing is ever installed: stand-ins of pip, uv and conda come first on every path and record who calls them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from checkpoint_files import save, tiny_model

ROOT = Path(__file__).resolve().parents[1]
INSTALLERS = ("pip", "pip3", "uv", "conda", "easy_install", "apt-get", "brew")
MISSING = ("tensorboard", "mss", "yt_dlp", "pi_heif", "pillow_heif", "faster_coco_eval")


@dataclass
class Shell:
    """Runs Python where installers only record that they were called, and optional packages are missing."""

    folder: Path

    @property
    def calls(self) -> list[str]:
        record = self.folder / "calls.txt"
        return record.read_text().splitlines() if record.exists() else []

    def run(self, *command: str) -> subprocess.CompletedProcess:
        paths = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "lib"),
        }
        options = {"OMP_NUM_THREADS": "1", "YOLOV5_TEST_RECORD": str(self.folder / "calls.txt")}
        return subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **paths, **options},
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, *arguments: object) -> subprocess.CompletedProcess:
        return self.run(sys.executable, *map(str, arguments))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    for name in ("bin", "lib/pip"):
        (tmp_path / name).mkdir(parents=True)
    for name in INSTALLERS:
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> "$YOLOV5_TEST_RECORD"\n')
        program.chmod(0o755)
    note = (
        "import os, sys\nwith open(os.environ['YOLOV5_TEST_RECORD'], 'a') as record:\n    record.write({!r} + '\\n')\n"
    )
    (tmp_path / "lib/pip/__init__.py").write_text(note.format("import pip"))
    (tmp_path / "lib/pip/__main__.py").write_text(note.format("python -m pip"))
    for name in MISSING:
        (tmp_path / "lib" / f"{name}.py").write_text(f"raise ImportError('no module named {name}')\n")
    return Shell(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")
def test_the_stand_ins_record(shell: Shell) -> None:
    shell.run("pip", "install", "x")
    shell.python("-m", "pip", "install", "x")
    shell.python("-c", "import subprocess; subprocess.run('uv pip install x', shell=True)")
    assert shell.calls == ["pip install x", "import pip", "python -m pip", "uv pip install x"]
    assert "no module named mss" in shell.python("-c", "import mss").stderr


def bad_images(folder: Path) -> Path:
    """A zero-byte image, a web page, a HEIC file that is none under two suffixes, beside a good one."""
    import cv2
    import numpy as np

    folder.mkdir()
    cv2.imwrite(str(folder / "good.png"), np.full((64, 96, 3), 90, np.uint8))
    (folder / "empty.jpg").touch()
    (folder / "page.jpg").write_text("<!DOCTYPE html><html><body>404</body></html>")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    (folder / "phone.heic").write_bytes(heic)
    (folder / "phone.jpg").write_bytes(heic)
    return folder


@pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")
def test_detect_installs_nothing(shell: Shell) -> None:
    """Unreadable images are named, an unreadable .heic alone is refused, missing packages are named."""
    weights = save(shell.folder / "tiny.pt", {"model": tiny_model()})
    images = bad_images(shell.folder / "images")
    common = (ROOT / "detect.py", "--weights", weights, "--imgsz", 64, "--device", "cpu", "--project", shell.folder)
    found = shell.python(*common, "--source", images)
    for name in ("empty.jpg", "page.jpg", "phone.jpg"):
        assert name in found.stderr + found.stdout, found.stderr
    for source, named in (
        (images / "phone.heic", "phone.heic"),
        ("screen", "mss"),
        ("https://youtu.be/x", "yt_dlp|yt-dlp"),
    ):
        refused = shell.python(*common, "--source", source)
        assert refused.returncode != 0 and any(part in refused.stderr for part in named.split("|")), refused.stderr
        assert "Traceback" not in refused.stderr
    assert shell.calls == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the stand-ins are shell scripts")
def test_train_installs_nothing(shell: Shell, tiny_data: Path) -> None:
    """A zero-byte image and missing optional packages: the run goes on without them."""
    images = tiny_data.parent / "tiny/images/train"
    (images / "1.png").write_bytes(b"")
    (images / "3.png").write_text("<!DOCTYPE html>")
    done = shell.python(
        ROOT / "train.py", "--data", tiny_data, "--weights", "", "--cfg", "yolov5n.yaml", "--imgsz", 64, "--epochs", 1,
        "--batch-size", 4, "--device", "cpu", "--workers", 0, "--noplots", "--project", shell.folder / "runs",
    )  # fmt: skip
    assert done.returncode == 0 and "1.png" in done.stderr + done.stdout, done.stderr
    assert shell.calls == []


def test_requirements_are_read_and_never_installed(shell: Shell) -> None:
    code = "from utils.general import check_requirements; check_requirements(['not-a-package-of-anyone>=1'])"
    done = shell.python("-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}")
    assert "not-a-package-of-anyone" in done.stderr + done.stdout and shell.calls == []
