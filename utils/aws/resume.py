"""Go on with every interrupted run below a folder, one after the other: ``python utils/aws/resume.py runs/``.

For machines that are taken away and given back: put it into their start-up script.
"""

# ruff: noqa: E402  (run by path, the command must first make the project importable)

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from utils.errors import InputError, MissingFileError, WorkError, run_command
from utils.logs import LOGGER, setup_logging

SCRIPTS = {"Segment": "segment/train.py", "Classify": "classify/train.py"}  # head -> script; others: train.py


def interrupted_runs(folder: Path) -> list[tuple[Path, str, int]]:
    """Return (last.pt, script, processes) of each run below a folder that was not finished, the oldest first.

    A file that cannot be read is named in the log and passed over: the other runs should go on.
    """
    from utils.checkpoint import is_finished, load_checkpoint

    found = []
    for path in sorted(folder.rglob("last.pt"), key=lambda path: path.stat().st_mtime):
        try:
            checkpoint = load_checkpoint(path)
        except InputError as error:
            LOGGER.warning("WARNING %s", error)
            continue
        if checkpoint.get("optimizer") is not None and not is_finished(checkpoint):
            found.append((path, SCRIPTS.get(_head(checkpoint), "train.py"), _processes(checkpoint, path)))
    return found


def command(path: Path, script: str, processes: int) -> list[str]:
    """Return the command that goes on with a run: torchrun's when it had several processes."""
    starter = [sys.executable]
    if processes > 1:
        starter += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*starter, str(ROOT / script), "--resume", str(path.resolve())]


def _head(checkpoint: dict[str, Any]) -> str:
    network = checkpoint.get("model") or checkpoint.get("ema")
    layers = getattr(network, "model", None)
    if layers is None:  # networks of torchvision have no such list
        return "" if network is None else "Classify"
    return type(layers[-1]).__name__


def _processes(checkpoint: dict[str, Any], path: Path) -> int:
    """Return how many processes trained; of a clone's run, which does not tell, as many as its --device has GPUs."""
    from utils.yaml_files import read_yaml

    facts = (checkpoint.get("resume") or {}).get("facts") or {}
    if facts.get("world_size"):
        return int(facts["world_size"])
    try:
        device = str(read_yaml(path.parents[1] / "opt.yaml").get("device") or "")
    except InputError:
        return 1
    return max(1, len([part for part in device.split(",") if part.strip().isdigit()]))


def main(opt: argparse.Namespace) -> None:
    """Resume the runs.

    Raises:
        MissingFileError: no such folder.
        WorkError: a run failed; the others were tried all the same.
    """
    setup_logging()
    folder = Path(opt.folder)
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder")
    runs = interrupted_runs(folder)
    LOGGER.info("%d interrupted runs below %s", len(runs), folder)
    failed = []
    for path, script, processes in runs:
        words = command(path, script, processes)
        LOGGER.info("%s", " ".join(words))
        if not opt.dry_run and subprocess.run(words, check=False, cwd=ROOT).returncode:
            failed.append(str(path))
    if failed:
        raise WorkError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")


def parse_opt(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line.

    Args:
        arguments: instead of the process's own.
    """
    parser = argparse.ArgumentParser(description="Go on with every interrupted run below a folder")
    parser.add_argument("folder", nargs="?", default=str(ROOT / "runs"), help="folder, searched with its sub-folders")
    parser.add_argument("--dry-run", action="store_true", help="log the commands, start none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
