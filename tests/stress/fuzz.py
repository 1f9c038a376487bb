"""Damage valid files at random and see that every reader takes them or refuses them in one line.

python tests/stress/fuzz.py --seconds 600                       every kind of file, ten minutes together
python tests/stress/fuzz.py --seconds 60 --only labels,yaml     some kinds
python tests/stress/fuzz.py --keep found --seed 7               keep what was found, with a command that repeats it
python tests/stress/fuzz.py --only images --file found/images-12.jpg

Readers run in a process of their own, which is started anew after a crash, after --case-seconds for one file, and after
--memory MiB. A finding is anything but a clean result, an InputError or a WorkError that names the file: tracebacks,
crashes, broken promises (labels in range, images (h, w, 3) uint8 ...), and through Python's audit events every write
outside the working folder, import of a further package, connection or program started. Ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

WORKER = Path(__file__).with_name("fuzz_worker.py")
USUAL = ("labels", "yaml", "images", "checkpoints", "csv", "sources", "lists", "caches")
ORDER_CASES, ORDER_SECONDS = 5000, 10.0
START_SECONDS = 120
MOST_LISTED = 20


@dataclass
class Tally:
    """What came of one kind."""

    kind: str
    cases: int = 0
    seconds: float = 0.0
    findings: dict[int, str] = field(default_factory=dict)  # case -> what was wrong

    def line(self) -> str:
        """Return the kind's line of the table."""
        rate = self.cases / self.seconds if self.seconds else 0
        return f"{self.kind:<12} {self.cases:>8} cases {rate:>8.0f}/s {len(self.findings):>4} findings"


class Worker:
    """The process that reads; started when needed."""

    def __init__(self, folder: Path, memory: int, case_seconds: float):
        self.folder = folder
        self.memory = memory
        self.case_seconds = case_seconds
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "stderr.txt"
        self._rest = b""

    def order(self, kind: str, seed: int, first: int, count: int, seconds: float, tally: Tally) -> int:
        """Have cases run; return the number of the next one."""
        process = self._started()
        order = {"kind": kind, "seed": seed, "first": first, "count": count, "seconds": seconds}
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        current, patience = -1, float(START_SECONDS)
        while True:
            line = self._line(patience)
            if line is None:
                return self._end(tally, current, patience)
            mark, _, rest = line.partition(" ")
            if mark == "S":
                current, patience = int(rest), self.case_seconds
                tally.cases += 1
            elif mark == "F":
                found = json.loads(rest)
                tally.findings[found["case"]] = found["text"]
            elif mark == "D":
                return int(rest)

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            scratch = self.folder / "scratch"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            command = [sys.executable, str(WORKER), "--dir", str(scratch), "--memory", str(self.memory)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "YOLOv5_DATASETS_DIR": str(scratch / "datasets")}
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment
                )
            self._rest = b""
        return self.process

    def _line(self, seconds: float) -> str | None:
        """Return the next line of the answer, None when the process ended or took too long."""
        out = self.process.stdout.fileno()
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            if not select.select([out], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            data = os.read(out, 1 << 16)
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def _end(self, tally: Tally, current: int, patience: float) -> int:
        """Note how the process ended in the middle of a case; return the number of the next one."""
        status = self.process.poll()
        if status is None:
            time.sleep(0.2)  # a process that crashes closes its pipe first
            status = self.process.poll()
        self.close()
        said = self.log.read_text(errors="replace").strip()[-1500:]
        if current < 0:
            raise SystemExit(f"{tally.kind}: the reading process does not start (status {status}):\n{said}")
        how = f"took more than {patience:g} s" if status is None else f"ended the process with status {status}\n{said}"
        tally.findings[current] = how
        return current + 1

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
        self.process = None


def run_kind(kind: str, worker: Worker, seed: int, seconds: float, cases: int | None) -> Tally:
    """Run cases of one kind for some seconds, or a number of cases."""
    tally = Tally(kind)
    number = worker.order(kind, seed, 0, 0, 1.0, Tally(kind))  # reads the valid files
    begin = time.monotonic()
    while (left := begin + seconds - time.monotonic()) > 0 and (cases is None or number < cases):
        count = ORDER_CASES if cases is None else min(ORDER_CASES, cases - number)
        number = worker.order(kind, seed, number, count, min(left, ORDER_SECONDS), tally)
    tally.seconds = time.monotonic() - begin
    return tally


def keep(folder: Path, tally: Tally, seed: int, scratch: Path) -> list[str]:
    """Write the files of the findings; return for each a text with a command that repeats it."""
    from stress.fuzz_readers import KINDS

    told = []
    folder.mkdir(parents=True, exist_ok=True)
    kind = KINDS[tally.kind](scratch) if tally.findings else None
    for case, text in list(tally.findings.items())[:MOST_LISTED]:
        content, _ = kind.make(random.Random(f"{tally.kind} {seed} {case}"))
        path = folder / f"{tally.kind}-{seed}-{case}{kind.suffix}"
        path.write_bytes(content)
        path.with_name(f"{path.name}.why").write_text(text + "\n")
        command = f"python tests/stress/fuzz.py --only {tally.kind} --file {path}"
        told.append(f"{tally.kind}, case {case}: {text.strip().splitlines()[-1][:200]}\n    {command}")
    return told


def build_parser() -> argparse.ArgumentParser:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="for all kinds together")
    add("--seed", type=int, default=0, help="another seed makes other cases")
    add("--only", default=",".join(USUAL), help="kinds, separated by commas")
    add("--keep", type=Path, help="folder for the files of findings")
    add("--cases", type=int, help="at most so many of each kind")
    add("--case-seconds", type=float, default=20.0, help="a file that takes longer is a finding")
    add("--memory", type=int, default=2048, help="MiB that a file may take")
    add("--file", type=Path, help="read this kept file with the readers of the one kind of --only, and tell")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 if there were findings."""
    opt = build_parser().parse_args(arguments)
    kinds = opt.only.split(",")
    from stress.fuzz_readers import KINDS

    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise SystemExit(f"--only {','.join(unknown)}: kinds are {', '.join(USUAL)}")
    if opt.file:
        return _read_one(kinds[0], opt.file, opt.memory)
    tallies: list[Tally] = []
    told: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        worker = Worker(Path(place), opt.memory, opt.case_seconds)
        try:
            for kind in kinds:
                tallies.append(run_kind(kind, worker, opt.seed, opt.seconds / len(kinds), opt.cases))
                print(tallies[-1].line(), flush=True)
                if opt.cases is None:
                    worker.close()  # so that each kind's memory is measured from the start
                scratch = Path(place) / "scratch"
                told += keep(opt.keep or Path(tempfile.gettempdir()) / "fuzz-found", tallies[-1], opt.seed, scratch)
        finally:
            worker.close()
    print("\n".join(told))
    total = sum(len(tally.findings) for tally in tallies)
    print(f"{sum(tally.cases for tally in tallies)} cases, {total} findings")
    return 1 if total else 0


def _read_one(kind: str, path: Path, memory: int) -> int:
    from stress.fuzz_worker import Judge

    path = path.resolve()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        complaint = Judge(Path(place), memory).file(kind, path)
    print(complaint or "read or refused as it should be")
    return 1 if complaint else 0


def run(**options: Any) -> int:
    """Run from Python: options by name."""
    return main([f"--{name.replace('_', '-')}={value}" for name, value in options.items()])


if __name__ == "__main__":
    sys.exit(main())
