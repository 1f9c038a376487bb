"""Bad inputs: what each command does with them, on a valid set of 8 images of 96x64 into which one fault is put."""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from command_bench import Bench, check_done, check_refused, opened_bench

from utils.checkpoint import previous_path

SECONDS_TO_REFUSE = 30


@pytest.fixture
def bench(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Bench]:
    with opened_bench(tiny_data, tmp_path, monkeypatch, capsys) as bench:
        yield bench


# ---- refused before any work ----------------------------------------------------------------------------------------


def without_names(bench: Bench) -> None:
    bench.edit("names: [green, blue]\n", "")


def five_for_two(bench: Bench) -> None:
    bench.edit("names:", "nc: 5\nnames:")


def gap_in_names(bench: Bench) -> None:
    bench.edit("names: [green, blue]", "names: {0: cat, 5: dog}")


def val_nowhere(bench: Bench) -> None:
    bench.edit("val: images/val", "val: images/nowhere")


def train_nowhere(bench: Bench) -> None:
    bench.edit("train: images/train", "train: images/nowhere")


def download_script(bench: Bench) -> None:
    val_nowhere(bench)
    bench.data.write_text(bench.data.read_text() + f"download: |\n  open({str(bench.canary)!r}, 'w').close()\n")


def download_shell(bench: Bench) -> None:
    val_nowhere(bench)
    bench.data.write_text(bench.data.read_text() + f"download: bash -c 'touch {bench.canary}'\n")


def class_seven_in_val(bench: Bench) -> None:
    bench.label(1, "val").write_text(bench.label(1, "val").read_text() + "7 0.5 0.5 0.1 0.1\n")


def empty_labels(bench: Bench) -> None:
    for path in (bench.root / "tiny" / "labels").rglob("*.txt"):
        path.write_text("")


def tagged_object(bench: Bench) -> None:
    bench.data.write_text(bench.data.read_text() + f"x: !!python/object/apply:os.system ['touch {bench.canary}']\n")


def key_twice(bench: Bench) -> None:
    bench.data.write_text(bench.data.read_text() + "names: [a, b]\n")


def most_images_bad(bench: Bench) -> None:
    for number in range(5):
        bench.label(number).write_text("0 nan 0.5 0.1 0.1\n")


def one_class_lost(bench: Bench) -> None:
    for number in (1, 3, 5, 7):
        bench.label(number).write_text("1 1.5 0.5 0.1 0.1\n")


DataCase = tuple[str, Callable[[Bench], None], list[str]]
DATA_REFUSED: dict[str, DataCase] = {
    "S04 no names": ("train val", without_names, ["tiny.yaml", "names", "missing"]),
    "S05 nc 5, two names": ("train val", five_for_two, ["tiny.yaml", "nc", "5", "2"]),
    "S06 names with a gap": ("train val", gap_in_names, ["tiny.yaml", "names", "1-4"]),
    "S07 val nowhere": ("train val", val_nowhere, ["{root}/tiny/images/nowhere", "val"]),
    "S08 train nowhere": ("train", train_nowhere, ["{root}/tiny/images/nowhere", "train"]),
    "S09 download script": ("train val", download_script, ["{root}/tiny/images/nowhere", "scripts are off", "run it"]),
    "S09 download shell": ("train val", download_shell, ["{root}/tiny/images/nowhere", "scripts are off", "run it"]),
    "S13 class 7 of two": ("train val", class_seven_in_val, ["labels/val/1.txt", "line 3", "7", "0-1"]),
    "S15 no labels": ("train", empty_labels, ["no label", "train"]),
    "R4 tagged object": ("train val", tagged_object, ["tiny.yaml", "line 5"]),
    "R8 key given twice": ("train val", key_twice, ["tiny.yaml", "names", "twice"]),
    "R7 most images bad": ("train", most_images_bad, ["5 of 8"]),
    "R7 a class lost": ("train", one_class_lost, ["class 1: 4", "train/1.txt", "line 1"]),
}


@pytest.mark.parametrize(
    ("command", "case"), [(c, name) for name, (commands, _, _) in DATA_REFUSED.items() for c in commands.split()]
)
def test_bad_data_is_refused(bench: Bench, command: str, case: str) -> None:
    _, spoil, words = DATA_REFUSED[case]
    spoil(bench)
    before = bench.inputs()
    begin = time.monotonic()
    outcome = bench.run(command)
    assert time.monotonic() - begin < SECONDS_TO_REFUSE
    check_refused(outcome, before, bench, [word.format(root=bench.root) for word in words])


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ("train", ["--epochs", "-1"], ["epochs", "-1", "at least 1"]),
        ("train", ["--epochs", "0"], ["epochs", "0", "at least 1"]),
        ("train", ["--label-smoothing", "nan"], ["label-smoothing", "nan"]),
        ("train", ["--patience", "-3"], ["patience", "-3"]),
        ("train", ["--data", "nowhere.yaml"], ["nowhere.yaml"]),
        ("train", ["--hyp", "nowhere.yaml"], ["nowhere.yaml"]),
        ("train", ["--cfg", "nowhere.yaml"], ["nowhere.yaml"]),
        ("train", ["--weights", "nowhere.pt"], ["nowhere.pt"]),
        ("val", ["--batch-size", "0"], ["batch-size", "0"]),
        ("val", ["--conf-thres", "nan"], ["conf-thres", "nan", "0.0 to 1.0"]),
        ("val", ["--weights", "nowhere.pt"], ["nowhere.pt"]),
        ("detect", ["--conf-thres", "-0.1"], ["conf-thres", "-0.1", "0 to 1"]),
        ("detect", ["--source", "nowhere"], ["nowhere"]),
        ("detect", ["--classes", "7"], ["classes", "7", "0 to 1"]),
        ("detect", ["--weights", "nowhere.pt"], ["nowhere.pt"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_bad_options_are_refused(bench: Bench, command: str, more: list[str], words: list[str]) -> None:
    """S01 and its like."""
    before = bench.inputs()
    check_refused(bench.run(command, *more), before, bench, words)


def test_s02_unknown_hyp_key(bench: Bench) -> None:
    more = bench.hyp({"lr_0": "0.01"})
    before = bench.inputs()
    check_refused(bench.run("train", *more), before, bench, ["h.yaml", "'lr_0'", "'lr0'"])


def test_s03_missing_hyp_key(bench: Bench) -> None:
    more = bench.hyp({}, without=("lrf",))
    before = bench.inputs()
    check_refused(bench.run("train", *more), before, bench, ["h.yaml", "lrf missing"])


# ---- done in spite of a fault, and said ------------------------------------------------------------------------------


def bad_row(row: str, number: int, keep: bool) -> Callable[[Bench, str], None]:
    """Return a fault: the row in place of an image's labels, or before them."""

    def spoil(bench: Bench, split: str) -> None:
        path = bench.label(number, split)
        path.write_text(row + "\n" + (path.read_text() if keep else ""))

    return spoil


def empty_image(bench: Bench, split: str) -> None:
    bench.image(2, split).write_bytes(b"")


def cut_image(bench: Bench, split: str) -> None:
    data = bench.image(2, split).read_bytes()
    bench.image(2, split).write_bytes(data[: len(data) // 2])


ROWS_DONE: dict[str, tuple[Callable[[Bench, str], None], list[list[str]]]] = {
    "S10 nan": (bad_row("0 nan 0.5 0.1 0.1", 2, False), [["labels/{split}/2.txt", "line 1", "nan"], ["1 corrupt"]]),
    "S11 above 1": (
        bad_row("0 1.0001 0.5 0.1 0.1", 2, True),
        [["labels/{split}/2.txt", "line 1", "1.0001"], ["1 corrupt"], ["lost", "class 0", "2"]],
    ),
    "S12 class 1.7": (
        bad_row("1.7 0.5 0.5 0.1 0.1", 2, False),
        [["labels/{split}/2.txt", "line 1", "1.7", "whole number"], ["1 corrupt"]],
    ),
    "S14 no area": (bad_row("0 0.5 0.5 0 0", 2, True), [["labels/{split}/2.txt", "line 1"], ["0 corrupt"]]),
    "S16 0 bytes": (empty_image, [["images/{split}/2.png"], ["1 corrupt"]]),
    "S16 half a file": (cut_image, [["images/{split}/2.png"], ["1 corrupt"]]),
}


SLOW_WITH_VAL = {"S12 class 1.7", "S14 no area", "S16 half a file"}  # the scan is the same as in training


@pytest.mark.parametrize(
    ("command", "case"),
    [("train", case) for case in ROWS_DONE]
    + [pytest.param("val", c, marks=[pytest.mark.slow] if c in SLOW_WITH_VAL else []) for c in ROWS_DONE],
)
def test_bad_rows_and_images_are_left_out_and_named(bench: Bench, command: str, case: str) -> None:
    spoil, lines = ROWS_DONE[case]
    spoil(bench, command)
    before = bench.inputs()
    outcome = bench.run(command)
    check_done(outcome, before, bench, *[[word.format(split=command) for word in words] for words in lines])


def test_s12_is_never_read_as_class_1(bench: Bench) -> None:
    from utils.dataset import LoadImagesAndLabels

    bench.label(0).write_text("1.7 0.5 0.5 0.1 0.1\n")
    data = LoadImagesAndLabels(str(bench.image(0).parent), 64)
    assert len(data) == 7 and sum(int((rows[:, 0] == 1).sum()) for rows in data.labels) == 4


def test_s14_keeps_the_rest_of_the_image(bench: Bench) -> None:
    from utils.dataset import LoadImagesAndLabels

    good = bench.label(1).read_text()
    bench.label(1).write_text("0 0.5 0.5 0 0\n" + good)
    data = LoadImagesAndLabels(str(bench.image(0).parent), 64)
    assert len(data) == 8 and len(data.labels[1]) == len(good.splitlines())


def test_s17_junk_among_the_sources(bench: Bench) -> None:
    bench.image(3, "val").write_bytes(b"\x89PNG not really")
    before = bench.inputs()
    check_done(bench.run("detect"), before, bench, ["3.png"], ["1 of 4", "skipped"])
    assert len(list((bench.root / "runs" / "exp").iterdir())) == 3


def test_only_junk_is_a_failure(bench: Bench) -> None:
    for number in range(4):
        bench.image(number, "val").write_bytes(b"junk")
    before = bench.inputs()
    check_refused(bench.run("detect"), before, bench, ["none of the 4", "0.png"], status=1)


# ---- S18: turned photographs ----------------------------------------------------------------------------------------

TURNS = {
    5: lambda im: im.transpose(1, 0, 2),
    6: lambda im: np.rot90(im, 3),
    7: lambda im: np.rot90(im, 2).transpose(1, 0, 2),
    8: lambda im: np.rot90(im, 1),
}


def tag_orientation(bench: Bench, split: str, orientation: int, tagged: bool) -> None:
    """Turn every image into a JPEG with an orientation tag, or into the upright pixels of that JPEG without one."""
    from PIL import Image

    exif = Image.Exif()
    exif[274] = orientation
    for path in sorted(bench.image(0, split).parent.glob("*.png")):
        target = path.with_suffix(".jpg")
        turned = TURNS[{6: 8, 8: 6}.get(orientation, orientation)](cv2.imread(str(path)))  # the way back
        Image.fromarray(np.ascontiguousarray(turned[..., ::-1])).save(target, exif=exif, quality=95)
        if not tagged:
            stored = cv2.imread(str(target), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            cv2.imwrite(str(path), np.ascontiguousarray(TURNS[orientation](stored)))
            target.unlink()
        else:
            path.unlink()


@pytest.mark.parametrize("orientation", [6, pytest.param(5, marks=pytest.mark.slow), *(
    pytest.param(o, marks=pytest.mark.slow) for o in (7, 8))])  # fmt: skip
def test_s18_training_sees_upright_pixels(bench: Bench, orientation: int) -> None:
    """The losses and results of an epoch on tagged JPEGs are those on the upright pixels without the tag."""
    shutil.copytree(bench.root / "tiny", bench.root / "kept")
    results = []
    for tagged in (True, False):
        shutil.rmtree(bench.root / "tiny")
        shutil.copytree(bench.root / "kept", bench.root / "tiny")
        for split in ("train", "val"):
            tag_orientation(bench, split, orientation, tagged)
        before = bench.inputs()
        outcome = bench.run("train", "--name", f"exp{tagged}")
        assert outcome.status == 0 and bench.inputs() == before, outcome.stderr
        results.append((bench.root / "runs" / f"exp{tagged}" / "results.csv").read_text())
    assert results[0] == results[1]


@pytest.mark.parametrize("orientation", sorted(TURNS))
def test_s18_detection_sees_upright_pixels(bench: Bench, orientation: int) -> None:
    kept = {p: p.read_bytes() for p in bench.image(0, "val").parent.glob("*.png")}
    found = []
    for tagged in (True, False):
        for path, content in kept.items():
            path.write_bytes(content)
            path.with_suffix(".jpg").unlink(missing_ok=True)
        tag_orientation(bench, "val", orientation, tagged)
        outcome = bench.run("detect", "--save-txt", "--nosave", "--name", f"exp{tagged}")
        assert outcome.status == 0, outcome.stderr
        labels = bench.root / "runs" / f"exp{tagged}" / "labels"
        found.append({p.name: p.read_text() for p in labels.iterdir()})
    assert len(found[0]) == 4 and found[0] == found[1]


# ---- S19, S20: checkpoints ------------------------------------------------------------------------------------------


class _Attack:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("command", ["train", "val", "detect"])
def test_s19_code_in_a_checkpoint_is_refused(bench: Bench, command: str) -> None:
    torch.save({"model": _Attack(bench.canary)}, bench.weights)
    assert b"open" in pickle.dumps(_Attack(bench.canary))
    before = bench.inputs()
    outcome = bench.run(command, "--weights", str(bench.weights))
    check_refused(outcome, before, bench, [str(bench.weights), "refused", "open"])


@pytest.mark.parametrize("command", ["train", "val", "detect"])
def test_cut_checkpoint_is_named(bench: Bench, command: str) -> None:
    data = bench.weights.read_bytes()
    bench.weights.write_bytes(data[: len(data) // 2])
    before = bench.inputs()
    outcome = bench.run(command, "--weights", str(bench.weights))
    check_refused(outcome, before, bench, [str(bench.weights), "truncated"])


@pytest.mark.parametrize("other", ["", "best.pt", "last.pt.prev"])
def test_s20_cut_last_checkpoint_with_resume(bench: Bench, other: str) -> None:
    """A whole checkpoint beside the cut one is offered."""
    folder = bench.root / "run" / "weights"
    folder.mkdir(parents=True)
    data = bench.weights.read_bytes()
    last = folder / "last.pt"
    last.write_bytes(data[: len(data) // 2])
    assert previous_path(last).name == "last.pt.prev"
    if other:
        (folder / other).write_bytes(data)
    before = bench.inputs()
    outcome = bench.run("train", "--resume", str(last))
    check_refused(outcome, before, bench, [str(last), "truncated", *([str(folder / other)] if other else [])])


# ---- as processes of their own: status, stderr, no traceback --------------------------------------------------------


def test_s01_as_a_process(bench: Bench) -> None:
    before = bench.inputs()
    check_refused(bench.run_apart("train", "--epochs", "-1"), before, bench, ["--epochs -1"])


def test_s05_as_a_process(bench: Bench) -> None:
    five_for_two(bench)
    before = bench.inputs()
    check_refused(bench.run_apart("val"), before, bench, ["nc", "5", "2"])


def test_s19_as_a_process(bench: Bench) -> None:
    torch.save({"model": _Attack(bench.canary)}, bench.weights)
    before = bench.inputs()
    check_refused(bench.run_apart("detect"), before, bench, ["open"])


@pytest.mark.slow
@pytest.mark.parametrize("case", [name for name, (commands, _, _) in DATA_REFUSED.items() if "train" in commands])
def test_bad_data_as_a_process(bench: Bench, case: str) -> None:
    """Within 30 s, start of Python included."""
    _, spoil, words = DATA_REFUSED[case]
    spoil(bench)
    before = bench.inputs()
    begin = time.monotonic()
    outcome = bench.run_apart("train")
    assert time.monotonic() - begin < SECONDS_TO_REFUSE
    check_refused(outcome, before, bench, [word.format(root=bench.root) for word in words])
