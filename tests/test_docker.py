"""The container images: without an engine to build them, their files are read and their commands run outside."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKER = sorted((ROOT / "utils" / "docker").glob("Dockerfile*"))


def _instructions(path):
    """Return (keyword, rest) of a Dockerfile, continued lines joined."""
    lines, whole = [], ""
    for line in path.read_text().splitlines():
        if line.strip().startswith("#") or not line.strip():
            continue
        whole += line.removesuffix("\\").strip() + " "
        if not line.endswith("\\"):
            lines.append(tuple(whole.strip().split(maxsplit=1)))
            whole = ""
    assert not whole, "the last line is continued"
    return lines


def test_the_three_images_are_there():
    assert [path.name for path in DOCKER] == ["Dockerfile", "Dockerfile-arm64", "Dockerfile-cpu"]


@pytest.mark.parametrize("path", DOCKER, ids=lambda path: path.name)
def test_dockerfiles_are_sound(path):
    steps = _instructions(path)
    keywords = [keyword for keyword, _ in steps]
    known = {"ARG", "FROM", "LABEL", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "VOLUME", "ENTRYPOINT", "CMD"}
    assert set(keywords) <= known and keywords[0] in {"ARG", "FROM"}
    image = next(rest for keyword, rest in steps if keyword == "FROM")
    assert ":" in image and not image.endswith(":latest")
    for keyword, rest in steps:
        if keyword == "COPY":
            *sources, _ = (word for word in rest.split() if not word.startswith("--"))
            assert all((ROOT / source).exists() for source in sources), rest
        if keyword == "RUN":
            assert subprocess.run(["sh", "-n", "-c", rest], check=False, capture_output=True).returncode == 0, rest
            assert "curl" not in rest and "wget" not in rest and "git clone" not in rest
    user = [rest for keyword, rest in steps if keyword == "USER"][-1]
    assert user not in {"root", "0"} and keywords.index("USER") < keywords.index("CMD")
    command = json.loads(steps[-1][1])
    assert keywords[-1] == "CMD" and isinstance(command, list)
    environment = " ".join(rest for keyword, rest in steps if keyword == "ENV")
    assert "YOLOV5_CONFIG_DIR" in environment and "/workspace" in environment


def test_dockerfiles_install_what_the_project_needs():
    """Every requirement is installed, with the OpenCV that needs no screen in place of the other."""
    for path in DOCKER:
        text = " ".join(rest for keyword, rest in _instructions(path) if keyword == "RUN")
        assert "requirements.txt" in text and "opencv-python-headless" in text and "flask" in text, path.name


def test_large_and_private_things_stay_out_of_the_image():
    ignored = {line.strip() for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert {".git", "runs", "datasets", "**/*.pt", "tests", ".env"} <= ignored
    for path in DOCKER:  # what is copied is not ignored
        for keyword, rest in _instructions(path):
            if keyword == "COPY":
                assert not ignored & set(rest.split())


def test_the_containers_command_runs(tmp_path):
    """What the images start by default, outside of one."""
    commands = set()
    for path in DOCKER:
        commands.add(tuple(json.loads(_instructions(path)[-1][1])))
    for python, *words in commands:
        assert python == "python"
        done = subprocess.run([sys.executable, *words], check=False, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "--weights" in done.stdout, done.stderr
