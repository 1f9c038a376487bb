"""Mutated pickles: no code runs, nothing is imported, and the only error is a line that names the file."""

from __future__ import annotations

import codecs
import io
import pickletools
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from checkpoint_files import save, tiny_model
from pickle_bytes import call, dictionary, text, whole
from pickle_mutations import Mutator, instructions
from test_malicious_files import bounded

from utils import checkpoint as ck
from utils.errors import InputError

WATCHED = (
    "import", "exec", "pickle.find_class", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.remove",
    "os.rename", "os.mkdir", "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "ctypes.dlopen",
    "marshal.loads", "shutil.rmtree", "webbrowser.open", "urllib.Request",
)  # fmt: skip
SECONDS = 5.0  # for one file; the mean is some hundredths


class Watch:
    """Records what the interpreter is asked to do while it is on: imports, code, processes, files written."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.on and (event in WATCHED or (event == "open" and str(arguments[1] or "r")[0] in "wax")):
            self.seen.append(f"{event} {arguments[:2]!r:.100}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


class Seeds(NamedTuple):
    """What mutations start from: the instructions of three pickles, and how a file is made around a changed one."""

    starts: list[list[bytes]]
    write: Callable[[Path, bytes], object]


def _content() -> dict:
    model = tiny_model()
    model.class_weights, model.hyp = [1.0, 2.0], {"box": 0.05}
    return {"epoch": 3, "model": model, "opt": {"name": "exp", "list": [1, (2, 3)]}, "date": "2026", "best": 0.5}


def _zip_seeds(folder: Path) -> tuple[bytes, Callable[[Path, bytes], object]]:
    with zipfile.ZipFile(save(folder / "good.pt", _content())) as opened:
        parts = {name: opened.read(name) for name in opened.namelist()}

    def write(path: Path, pickled: bytes) -> None:
        with zipfile.ZipFile(path, "w") as opened:
            for name, data in {**parts, "good/data.pkl": pickled}.items():
                opened.writestr(name, data)

    return parts["good/data.pkl"], write


def _legacy_seeds(folder: Path) -> tuple[bytes, Callable[[Path, bytes], object]]:
    """The layout before torch 1.6: five pickles, of which the fourth is the object, and the numbers of tensors."""
    data = save(folder / "good.pt", _content(), _use_new_zipfile_serialization=False).read_bytes()
    stream = io.BytesIO(data)
    ends = [0]
    for _ in range(4):
        list(pickletools.genops(stream))
        ends.append(stream.tell())
    return data[ends[3] : ends[4]], lambda path, pickled: path.write_bytes(data[: ends[3]] + pickled + data[ends[4] :])


def _seeds(layout: str, folder: Path) -> Seeds:
    good, write = {"zip": _zip_seeds, "legacy": _legacy_seeds}[layout](folder)
    harmful = whole(dictionary(a=call("os.system", text(f"touch {folder / 'canary'}")), b=text("x")))
    return Seeds([instructions(good), instructions(good), instructions(harmful)], write)


def _read(path: Path) -> str:
    """Load a file and return what became of it."""
    try:
        ck.load_checkpoint(path)
    except InputError as error:
        assert str(path) in str(error) and str(error).isprintable(), error
        return "refused" if "refused" in str(error) else "damaged"
    return "loaded"


def _run(count: int, seed: int, folder: Path, layout: str, watch: Watch) -> Counter[str]:
    starts, write = _seeds(layout, folder)
    canary, path = folder / "canary", folder / "mutated.pt"
    for start in starts:  # what is imported lazily is there from now on
        write(path, b"".join(start))
        _read(path)
    codecs.lookup("raw_unicode_escape")  # of pickletools, for texts of protocol 0
    mutator, told = Mutator(seed, str(canary), starts), Counter()
    for turn in range(count):
        write(path, mutator.mutated(starts[turn % len(starts)]))
        begun = time.monotonic()
        watch.on = True
        try:
            told[_read(path)] += 1
        finally:
            watch.on = False
        assert time.monotonic() - begun < SECONDS, turn
        assert not watch.seen and not canary.exists(), (turn, watch.seen)
    return told


def _report(told: Counter[str], capsys: pytest.CaptureFixture) -> None:
    with capsys.disabled():
        print(f"\n{told.total()} mutated pickles: {dict(told)}, 0 payloads run, 0 imports")


def test_the_watch_sees(watch: Watch, tmp_path: Path) -> None:
    watch.on = True
    try:
        open(tmp_path / "x", "w").close()
        exec("1")
    finally:
        watch.on = False
    assert [text.split()[0] for text in watch.seen] == ["open", "exec"]
    watch.seen.clear()


def test_hundred_mutated_pickles(tmp_path: Path, watch: Watch, capsys: pytest.CaptureFixture) -> None:
    with warnings.catch_warnings(), bounded(60):
        warnings.simplefilter("ignore")
        told = _run(100, 1, tmp_path, "zip", watch)
    _report(told, capsys)
    assert told["refused"] > 10 and told["damaged"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_thousand_mutated_pickles(tmp_path: Path, layout: str, watch: Watch, capsys: pytest.CaptureFixture) -> None:
    with warnings.catch_warnings(), bounded(600):
        warnings.simplefilter("ignore")
        told = _run(1000, 0, tmp_path, layout, watch)
    _report(told, capsys)
    assert told.total() == 1000 and min(told.values()) > 10


def test_a_pickle_of_endless_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "good.pt", _content())
    monkeypatch.setattr("utils.checkpoints.pickle_walk.MAX_STEPS", 1000)
    with pytest.raises(InputError, match="more than 1000 pickle instructions"):
        ck.load_checkpoint(path)
