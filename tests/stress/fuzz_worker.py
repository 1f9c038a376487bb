"""A process that reads damaged files, one after the other, and tells what should not happen.

It answers orders (JSON, one a line on stdin: kind, seed, first, count, seconds) on its stdout: ``S n`` before case n,
``F {...}`` for a finding, ``D n`` with the number of the next case at the end of the order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MIB = 1 << 20
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = {
    "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request",
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn", "os.kill",
    "os.startfile", "pickle.find_class", "ctypes.dlopen", "webbrowser.open", "os.putenv",
}  # fmt: skip
CHANGING = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate", "os.link",
            "os.symlink", "shutil.rmtree", "shutil.move"}  # fmt: skip


class Watch:
    """Sees through Python's audit events what a reader does beyond reading.

    Args:
        folder: where it may write.
    """

    def __init__(self, folder: Path):
        self.folder = os.path.realpath(folder) + os.sep
        self.on = False
        self.seen: list[str] = []
        self.known: set[str] = set()
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Note an event that has no place in reading a file."""
        if not self.on:
            return
        if event in FORBIDDEN:
            self._note(event, args)
        elif event == "open":
            path, mode, flags = args
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool((flags or 0) & WRITING)
            if writes and not self._is_inside(path):
                self._note(event, args)
        elif event in CHANGING:
            if not all(self._is_inside(part) for part in args if isinstance(part, (str, bytes))):
                self._note(event, args)
        elif event == "import" and args[0].partition(".")[0] not in self.known:
            self._note(event, args[:1])

    def _is_inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return True
        try:
            return os.path.realpath(os.fsdecode(path)).startswith(self.folder)
        except (TypeError, ValueError):
            return True  # no path that could be opened

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        self.on = False  # what the note itself does is no event
        self.seen.append(f"{event}{tuple(ascii(arg)[:120] for arg in args)}")
        self.on = True


class Judge:
    """Runs cases and says what is wrong with how they end.

    Args:
        folder: for the files of the cases.
        limit_mib: memory that one case may take.
    """

    def __init__(self, folder: Path, limit_mib: int):
        from stress.fuzz_readers import KINDS

        self.folder = folder
        self.limit_mib = limit_mib
        self.canary = folder / "CANARY"
        os.chdir(folder)
        self.kinds = KINDS
        self.ready: dict[str, Any] = {}
        self.modules = 0
        self.watch = Watch(folder)

    def kind(self, name: str) -> Any:
        """Return a kind whose valid files have been read once, so that everything it needs is imported."""
        if name not in self.ready:
            resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
            kind = self.ready[name] = self.kinds[name](self.folder)
            for seed in kind.seeds:
                complaint = self._judge(seed.check, kind.write(seed.content), random.Random(0), valid=True)
                if complaint:
                    raise SystemExit(f"{name}: a valid file is not read: {complaint}")
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + self.limit_mib * 5 // 4 * MIB, -1))
        return self.ready[name]

    def case(self, name: str, seed: int, number: int) -> str:
        """Run one case; return what is wrong, '' when nothing is."""
        kind = self.kind(name)
        content, valid = kind.make(random.Random(f"{name} {seed} {number}"))
        return self._judge(valid.check, kind.write(content), random.Random(number))

    def file(self, name: str, path: Path) -> str:
        """Read a kept file with every reader of a kind; return what is wrong."""
        kind = self.kind(name)
        checks = {seed.check for seed in kind.seeds}
        found = [self._judge(check, kind.write(path.read_bytes()), random.Random(0)) for check in checks]
        return "\n".join(filter(None, found))

    def _judge(self, check: Any, subject: Any, dice: random.Random, valid: bool = False) -> str:
        from utils.errors import InputError, InputErrors, WorkError

        self.watch.seen.clear()
        if len(sys.modules) != self.modules:
            self.modules = len(sys.modules)
            self.watch.known = {name.partition(".")[0] for name in sys.modules}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        complaint = ""
        try:
            self.watch.on = not valid
            check(subject, dice)
        except (InputError, WorkError) as error:
            complaint = f"refused: {error}" if valid else ""
            lines = error.problems if isinstance(error, InputErrors) else [str(error)]
            unnamed = [line for line in lines if isinstance(subject, Path) and subject.name not in line]
            complaint = complaint or (f"the message names no file: {unnamed[0][:300]}" if unnamed else "")
        except BaseException:
            complaint = traceback.format_exc(limit=-8)
        finally:
            self.watch.on = False
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        if self.watch.seen:
            complaint += f"\nnot mere reading: {'; '.join(self.watch.seen[:5])}"
        if self.canary.exists():
            self.canary.unlink()
            complaint += "\ncode of the file ran: the canary was made"
        if grown > self.limit_mib:
            complaint += f"\nthe case took {grown} MiB"
        return complaint.strip()


def _status(field: str) -> int:
    """Return a size of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def serve(judge: Judge, answer: Any) -> None:
    """Do orders until stdin ends."""
    for line in sys.stdin:
        order = json.loads(line)
        judge.kind(order["kind"])
        number, end = order["first"], time.monotonic() + order["seconds"]
        while number < order["first"] + order["count"] and time.monotonic() < end:
            answer(f"S {number}")
            complaint = judge.case(order["kind"], order["seed"], number)
            if complaint:
                answer(f"F {json.dumps({'case': number, 'text': complaint})}")
            number += 1
        answer(f"D {number}")


def main() -> None:
    """Serve, or read one kept file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--memory", type=int, default=2048)
    opt = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.simplefilter("error", RuntimeWarning)

    def answer(text: str) -> None:
        out.write(text + "\n")
        out.flush()

    serve(Judge(opt.dir, opt.memory), answer)


if __name__ == "__main__":
    main()
