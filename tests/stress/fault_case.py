"""One injected fault: a run of three epochs on its own copy of the data set, and everything that must hold after it."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stress.reference import Bench, Process, differences, digests, draw_data, temporary_files, tensors

EPOCHS = 3
STEPS = 8  # an epoch
RUN = "exp"
TWO_WORKERS = ("--workers", "2")
COLOURS = re.compile(r"\033\[[0-9;]*m")
PROGRESS = re.compile(r"^.*(it/s|s/it)\]")  # a bar that a line of the log was written behind


class NotPossible(Exception):
    """This machine does not permit the injection."""


@dataclass
class Scene:
    """The place of one case.

    Attributes:
        folder: the case's own.
        bench: starts its runs.
    """

    folder: Path
    bench: Bench

    @property
    def data(self) -> Path:
        """The data set's folder."""
        return self.folder / "tiny"

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.bench.run_folder(RUN)

    @property
    def last(self) -> Path:
        """The run's last checkpoint."""
        return self.run / "weights" / "last.pt"

    def image(self, number: int, split: str = "train") -> Path:
        """Return an image by its number."""
        return next((self.data / "images" / split).glob(f"{number}.[jp][pn]g"))

    def label(self, number: int, split: str = "train") -> Path:
        """Return a label file by its number."""
        return self.data / "labels" / split / f"{number}.txt"


Step = Callable[[Scene], Any]
Faults = Callable[[Scene], list[dict[str, Any]]]


@dataclass
class Case:
    """A fault, how it is injected, and what must come of it.

    Attributes:
        name: the fault.
        injected: how.
        codes: allowed exit codes.
        words: one line of the log holds all of them.
        faults: for child.py; a function of the scene where they name its files.
        options: of the run.
        prepare: done before the run starts, part of the injection.
        mend: takes the fault away after a stop.
        environment: variables of the run.
        same: whether a run that survives must end like an undisturbed one.
        goes_on: whether a run that stopped is mended and resumed, and must then end like an undisturbed one.
        mount: options of a tmpfs on which the run's folders lie, '' for none.
    """

    name: str
    injected: str
    codes: tuple[int, ...]
    words: tuple[str, ...] = ()
    faults: Faults = lambda _: []
    options: tuple[str, ...] = ("--workers", "0")
    prepare: Step | None = None
    mend: Step | None = None
    environment: dict[str, str] = field(default_factory=dict)
    same: bool = True
    goes_on: bool = True
    mount: str = ""


@dataclass
class Found:
    """What came of a case: a line of the table, and what did not hold."""

    name: str
    injected: str
    outcome: str
    code: object
    message: str = ""
    problems: list[str] = field(default_factory=list)

    def cells(self) -> list[object]:
        """Return the table's cells."""
        held = "NO" if self.problems else "-" if self.outcome == "not run" else "yes"
        return [self.name, self.injected, self.outcome, self.code, held, self.message[:110]]


def scene(folder: Path, cfg: str = "yolov5n.yaml") -> Scene:
    """Make a folder with its own data set, for runs of the model ``cfg``."""
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    return Scene(folder, Bench(folder, draw_data(folder), EPOCHS, cfg))


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a tmpfs on a folder.

    Raises:
        NotPossible: only root may, and not everywhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", options, "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def mount(*arguments: object) -> None:
    """Run mount.

    Raises:
        NotPossible: it refuses.
    """
    try:
        subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotPossible(str(getattr(error, "stderr", "") or error).strip()) from None


def run_case(case: Case, folder: Path, whole: Path, cfg: str = "yolov5n.yaml") -> Found:
    """Play one case and check it against the undisturbed run ``whole`` of the same model."""
    place = scene(folder, cfg)
    with contextlib.ExitStack() as stack:
        try:
            if case.mount:
                stack.enter_context(mounted(place.bench.folder / "runs", case.mount))
            if case.prepare is not None:
                undo = case.prepare(place)
                if callable(undo):
                    stack.callback(undo)
            return _played(case, place, whole)
        except NotPossible as error:
            return Found(case.name, case.injected, "not run", "-", str(error))
        except TimeoutError as error:
            return Found(case.name, case.injected, "hangs", "-", "", [str(error)])


def _played(case: Case, place: Scene, whole: Path) -> Found:
    before = digests(place.data)
    faults = case.faults(place)
    process = place.bench.start(place.bench.options(RUN, *case.options), faults, case.environment)
    code = process.wait()
    touched = {str(Path(f["file"]).relative_to(place.data)) for f in faults if "file" in f}
    problems = check_end(process, code, case.codes, case.words)
    problems += _changed(before, digests(place.data), touched)
    problems += [f"left {name}" for name in temporary_files(place.run) + temporary_files(place.data)]
    problems += unsound_checkpoints(place.run)
    outcome = {0: "survived", 2: "refused"}.get(code, "stopped")
    if code == 0 and case.same:
        problems += differences(place.run, whole, EPOCHS)
    elif code and case.goes_on and not problems:
        outcome += ", resumed"
        if case.mend is not None:
            case.mend(place)
        again = place.bench.resume_to_end(RUN, *case.options)
        code_again = again.popen.returncode
        problems += [f"resumed: exit {code_again}: {again.tail()}"] if code_again else []
        problems += [] if code_again else [f"resumed: {text}" for text in differences(place.run, whole, EPOCHS)]
    return Found(case.name, case.injected, outcome, code, said(process, case.words), problems)


def check_end(process: Process, code: int, codes: Sequence[int], words: Sequence[str]) -> list[str]:
    """Check the exit code, that a line of the log holds all words, and that a failure has its line and no traceback."""
    problems = [] if code in codes else [f"exit {code}, expected {' or '.join(map(str, codes))}: {process.tail()}"]
    if words and not said(process, words):
        problems.append(f"no line with {', '.join(words)}; the last is: {process.tail()}")
    if code > 0 and not said(process, ("error: ",)):
        problems.append(f"no error line; the last is: {process.tail()}")
    return problems + ["shows a traceback"] * ("Traceback" in process.output())


def said(process: Process, words: Sequence[str]) -> str:
    """Return the line of the log that holds all words, an error where there is one, '' without one."""
    lines = COLOURS.sub("", process.output()).replace("\r", "\n").splitlines()
    found = [PROGRESS.sub("", line).strip() for line in lines if words and all(word in line for word in words)]
    return next((line for line in found if line.startswith("error: ")), found[0] if found else "")


def _changed(before: dict[str, str], after: dict[str, str], touched: set[str]) -> list[str]:
    names = sorted(name for name in {*before, *after} - touched if before.get(name) != after.get(name))
    return [f"input {name} is changed" for name in names]


def unsound_checkpoints(run: Path) -> list[str]:
    """Return what is wrong with the checkpoints of a run: unreadable, or with numbers that are not finite."""
    import torch

    from utils.checkpoint import load_checkpoint
    from utils.errors import InputError

    problems = []
    for path in sorted((run / "weights").glob("*.pt*")):
        if path.name.endswith(".sha256"):
            continue
        try:
            content = load_checkpoint(path)
        except InputError as error:
            problems.append(str(error))
            continue
        bad = [name for name, tensor in tensors(content) if not bool(torch.isfinite(tensor.float()).all())]
        problems += [f"{path.name}: {name} is not finite" for name in bad[:1]]
    return problems
