"""Without a network everything works as with one, and nothing tries to reach it unless the user named an address."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_bench import weights_content

ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).with_name("offline_worker.py")
NETWORK_MODULES = {
    "socket",
    "ssl",
    "urllib.request",
    "http.client",
    "requests",
    "ftplib",
    "smtplib",
    "asyncio",
    "xmlrpc",
}


def _namespace() -> list[str]:
    """Return a command line's beginning that takes every network interface away, or skip."""
    start = ["unshare", "-rn"]
    tool = shutil.which("unshare")
    if not tool or subprocess.run([*start, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    return start


def do(folder: Path, jobs: list[tuple[str, list[str]]], place: str) -> tuple[list[dict], list[str]]:
    """Run commands where there is no network; return what came of them, and the attempts and programs started."""
    start, more = (_namespace(), []) if place == "namespace" else ([], ["--block"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "YOLOv5_DATASETS_DIR": str(folder / "datasets")}
    environment.pop("NO_ALBUMENTATIONS_UPDATE", None)  # the commands have to see to it themselves
    done = subprocess.run(
        [*start, sys.executable, str(WORKER), str(folder), *more], input=json.dumps(jobs), env=environment, check=False,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = folder / "events.txt"
    lines = events.read_text().splitlines()
    events.unlink()
    return json.loads(done.stdout), lines


@pytest.mark.parametrize("place", ["blocked", pytest.param("namespace", marks=pytest.mark.slow)])
def test_every_command_works_and_reaches_for_nothing(tiny_data: Path, tmp_path: Path, place: str) -> None:
    weights = tmp_path / "tiny.pt"
    weights.write_bytes(weights_content())
    small = ["--imgsz", "64", "--device", "cpu", "--project", str(tmp_path / "runs")]
    data = ["--data", str(tiny_data)]
    model = ["--weights", "", "--cfg", "yolov5n.yaml", "--epochs", "1", "--batch-size", "4", "--workers", "2"]
    jobs = [
        ("train", [*data, *model, *small]),
        ("val", [*data, "--weights", str(weights), "--save-json", *small]),
        ("detect", ["--source", str(ROOT / "data/images"), "--weights", str(weights), *small]),
        ("preview", [*data, "--imgsz", "64", "--cell", "64", "--out", str(tmp_path / "p.png")]),
    ]
    results, events = do(tmp_path, jobs, place)
    assert [result["status"] for result in results] == [0] * len(jobs), results
    assert not [event for event in events if event.startswith("network")]
    programs = [event for event in events if event.startswith("program")]
    assert not [event for event in programs if any(word in event for word in ("pip", "curl", "wget", "fetch", "pull"))]


REFUSED: dict[str, tuple[str, list[str], str]] = {
    "released weights, detect": ("detect", ["--weights", "yolov5s.pt"], "yolov5s.pt: cannot be fetched"),
    "released weights, val": ("val", ["--weights", "yolov5s.pt", "--data", "{data}"], "yolov5s.pt: cannot be fetched"),
    "released weights, train": ("train", ["--weights", "yolov5s.pt", "--data", "{data}"], "yolov5s.pt: cannot be"),
    "weights by address": ("detect", ["--weights", "http://example.com/x.pt"], "example.com/x.pt: cannot be fetched"),
    "other weights": ("detect", ["--weights", "mine.pt"], "mine.pt: does not exist"),
    "data by address": ("val", ["--weights", "{weights}", "--data", "http://example.com/d.yaml"], "d.yaml: cannot be"),
    "stock data": (
        "train",
        ["--weights", "", "--cfg", "yolov5n.yaml", "--data", "coco128.yaml"],
        "coco128.zip: cannot",
    ),
    "stock data, preview": ("preview", ["--data", "coco128.yaml"], "coco128.zip: cannot be fetched"),
    "source by address": (
        "detect",
        ["--weights", "{weights}", "--source", "https://example.com/a.jpg"],
        "a.jpg: cannot",
    ),
}


@pytest.mark.parametrize("place", ["blocked", pytest.param("namespace", marks=pytest.mark.slow)])
def test_what_is_not_here_is_one_line_within_two_seconds(tiny_data: Path, tmp_path: Path, place: str) -> None:
    weights = tmp_path / "tiny.pt"
    weights.write_bytes(weights_content())
    values = {"data": str(tiny_data), "weights": str(weights)}
    jobs = [(command, [text.format(**values) for text in texts]) for command, texts, _ in REFUSED.values()]
    nowhere = ["--weights", "mine.pt", "--data", str(tiny_data), "--device", "cpu"]
    warm_up = [("detect", ["--weights", "mine.pt", "--source", "nowhere.jpg"]), ("train", nowhere)]  # imports
    (_, _, *results), _ = do(tmp_path, [*warm_up, *jobs], place)
    for (name, (_, _, words)), result in zip(REFUSED.items(), results, strict=True):
        errors = [line for line in result["stderr"].splitlines() if line.startswith("error: ")]
        assert result["status"] == 2 and len(errors) == 1 and words in errors[0], (name, result)
        assert "Traceback" not in result["stderr"], (name, result)
        assert result["seconds"] <= 2, (name, result)
    assert not (tmp_path / "runs").exists()


def test_one_module_fetches_and_nothing_else_can() -> None:
    """Sockets and http belong to downloads, to the check for a network, and to the processes of one training run."""
    owners = {}
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("models/**/*.py"), *ROOT.glob("utils/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used = {name for name in names if name in NETWORK_MODULES or name.split(".")[0] in NETWORK_MODULES}
            if used:
                owners.setdefault(path.relative_to(ROOT).as_posix(), set()).update(used)
    fetching = {path for path, used in owners.items() if used != {"socket"}}
    client = "utils/flask_rest_api/example_request.py"  # of the service, whose address its user types
    assert fetching <= {"utils/downloads.py", "utils/guarded_http.py", client}, owners
    assert set(owners) - fetching <= {"utils/environment.py", "utils/training/watch.py"}, owners
