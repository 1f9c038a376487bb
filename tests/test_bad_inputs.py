"""Bad inputs: what each command does with them, on a valid set of 8 images of 96x64 into which one fault is put."""

from __future__ import annotations

import os
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


def class_seven_in_train(bench: Bench) -> None:
    bench.label(1).write_text(bench.label(1).read_text() + "7 0.5 0.5 0.1 0.1\n")


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
    "S04 no names": ("train val preview", without_names, ["tiny.yaml", "names", "missing"]),
    "S05 nc 5, two names": ("train val preview", five_for_two, ["tiny.yaml", "nc", "5", "2"]),
    "S06 names with a gap": ("train val preview", gap_in_names, ["tiny.yaml", "names", "1-4"]),
    "S07 val nowhere": ("train val preview", val_nowhere, ["{root}/tiny/images/nowhere", "val"]),
    "S08 train nowhere": ("train preview", train_nowhere, ["{root}/tiny/images/nowhere", "train"]),
    "S09 download script": (
        "train val preview",
        download_script,
        ["{root}/tiny/images/nowhere", "scripts are off", "run it"],
    ),
    "S09 download shell": ("train val", download_shell, ["{root}/tiny/images/nowhere", "scripts are off", "run it"]),
    "S13 class 7 of two": ("train val", class_seven_in_val, ["labels/val/1.txt", "line 3", "7", "0-1"]),
    "S13 class 7 of two, training set": (
        "train preview",
        class_seven_in_train,
        ["labels/train/1.txt", "line 3", "7", "0-1"],
    ),
    "S15 no labels": ("train preview", empty_labels, ["no label", "train"]),
    "R4 tagged object": ("train val preview", tagged_object, ["tiny.yaml", "line 5"]),
    "R8 key given twice": ("train val preview", key_twice, ["tiny.yaml", "names", "twice"]),
    "R7 most images bad": ("train preview", most_images_bad, ["5 of 8"]),
    "R7 a class lost": ("train preview", one_class_lost, ["class 1 (blue): 4", "train/1.txt", "line 1"]),
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
        ("preview", ["--count", "0"], ["--count", "0", "1 to 100"]),
        ("preview", ["--imgsz", "-1"], ["--imgsz", "-1", "32 to 4096"]),
        ("preview", ["--index", "99"], ["--index", "99", "0 to 7"]),
        ("preview", ["--out", "x.gif"], ["--out", "x.gif", ".png"]),
        ("preview", ["--data", "nowhere.yaml"], ["nowhere.yaml"]),
        ("preview", ["--hyp", "nowhere.yaml"], ["nowhere.yaml"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value[0].startswith("--") else "",
)
def test_bad_options_are_refused(bench: Bench, command: str, more: list[str], words: list[str]) -> None:
    """S01 and its like."""
    before = bench.inputs()
    check_refused(bench.run(command, *more), before, bench, words)


@pytest.mark.parametrize("command", ["train", "preview"])
def test_s02_unknown_hyp_key(bench: Bench, command: str) -> None:
    more = bench.hyp({"lr_0": "0.01"})
    before = bench.inputs()
    check_refused(bench.run(command, *more), before, bench, ["h.yaml", "'lr_0'", "'lr0'"])


@pytest.mark.parametrize("command", ["train", "preview"])
def test_s03_missing_hyp_key(bench: Bench, command: str) -> None:
    more = bench.hyp({}, without=("lrf",))
    before = bench.inputs()
    check_refused(bench.run(command, *more), before, bench, ["h.yaml", "lrf missing"])


SOURCES_REFUSED: dict[str, tuple[str, bytes, list[str]]] = {
    "no such file": ("nowhere.jpg", b"", ["{root}/nowhere.jpg does not exist"]),
    "no such folder in a pattern": ("nowhere/*.jpg", b"", ["nowhere/*.jpg", "no image or video found"]),
    "not a medium": ("tiny.yaml", b"", ["tiny.yaml", "no image or video found", "jpg"]),
    "list with a missing entry": ("list.txt", b"tiny/images/val/0.png\ngone.png\n", ["list.txt, line 2", "gone.png"]),
    "list that is no text": ("list.txt", b"\xff\xfe\0a", ["list.txt", "byte 0xff at 0 is not UTF-8"]),
    "empty list": ("list.txt", b"\n", ["list.txt", "no image or video found"]),
    "missing streams": ("gone.streams", b"", ["gone.streams does not exist"]),
    "streams that are no text": ("cams.streams", b"\x80", ["cams.streams", "byte 0x80 at 0 is not UTF-8"]),
    "empty streams": ("cams.streams", b" \n", ["cams.streams", "empty"]),
    "webcam beyond numbers": ("9" * 30, b"", ["--source 9999", "0 to 2147483647"]),
    "screen of no size": ("screen 1 2 0 4", b"", ["screen 1 2 0 4", "0 and 4", "from 1"]),
    "screen of two numbers": ("screen 1 2", b"", ["screen 1 2", "screen N"]),
    "name with a line break": ("a\nb.jpg", b"", ["a\\nb.jpg does not exist"]),
    "name that is too long": ("a" * 5000 + ".jpg", b"", ["does not exist"]),
}


@pytest.mark.parametrize("case", SOURCES_REFUSED)
def test_bad_sources_are_refused(bench: Bench, case: str) -> None:
    source, content, words = SOURCES_REFUSED[case]
    if content:
        (bench.root / source).write_bytes(content)
    before = bench.inputs()
    outcome = bench.run("detect", "--source", source)
    check_refused(outcome, before, bench, [word.format(root=bench.root) for word in words])


@pytest.mark.parametrize("command", ["train", "val", "detect"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_weights_that_are_no_numbers_are_refused(bench: Bench, command: str, value: float) -> None:
    """They would find nothing, with status 0; training would give up after some steps."""
    checkpoint = torch.load(bench.weights, weights_only=False)
    model = checkpoint["ema"]
    model.model[3].conv.weight.data[0, 0, 0, 0] = value
    torch.save({"model": model}, bench.weights)
    before = bench.inputs()
    outcome = bench.run(command, *(["--weights", str(bench.weights)] if command == "train" else []))
    check_refused(outcome, before, bench, [str(bench.weights), "NaN or infinity", "model.3.conv", "finite"])


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
        [["labels/{split}/2.txt", "line 1", "1.0001"], ["1 corrupt"], ["boxes lost: class 0 (green): 2"]],
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
    + [("preview", case) for case in ROWS_DONE]
    + [pytest.param("val", c, marks=[pytest.mark.slow] if c in SLOW_WITH_VAL else []) for c in ROWS_DONE],
)
def test_bad_rows_and_images_are_left_out_and_named(bench: Bench, command: str, case: str) -> None:
    spoil, lines = ROWS_DONE[case]
    split = "train" if command == "preview" else command
    spoil(bench, split)
    before = bench.inputs()
    outcome = bench.run(command)
    check_done(outcome, before, bench, *[[word.format(split=split) for word in words] for words in lines])


def corrupt_content(image: Path) -> dict[str, bytes]:
    """Return what can stand in place of an image: nothing, a web page, junk, a picture cut off."""
    jpeg = cv2.imencode(".jpg", cv2.imread(str(image)))[1].tobytes()
    return {
        "empty": b"",
        "page": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "junk": np.random.default_rng(0).bytes(500),
        "cut": jpeg[: len(jpeg) * 2 // 3],
    }


@pytest.mark.parametrize("command", ["train", "val", "detect", "preview"])
def test_corrupt_images_are_named_by_every_command(bench: Bench, command: str) -> None:
    """Half of the training images are lost, which is just allowed; what is left is used."""
    contents = corrupt_content(bench.image(1))
    for number, content in enumerate(contents.values()):
        bench.image(number).write_bytes(content)
    before = bench.inputs()
    more = {"val": ["--task", "train"], "detect": ["--source", str(bench.image(0).parent)]}.get(command, [])
    outcome = bench.run(command, *more)
    named = [[f"images/train/{number}.png", "WARNING"] for number in range(4)]
    total = ["4 of 8 inputs skipped"] if command == "detect" else ["4 images of 8 skipped"]
    check_done(outcome, before, bench, *named, total)
    reasons = ["0 bytes", "not an image", "not an image", "damaged JPEG"]
    for (name, _), reason in zip(named, reasons, strict=True):
        assert any(name in line and reason in line for line in outcome.stderr.splitlines()), (name, outcome.stderr)
    if command == "detect":
        assert sorted(p.name for p in (bench.root / "runs/exp").iterdir()) == ["4.png", "5.png", "6.png", "7.png"]


@pytest.mark.parametrize("kind", ["empty", "page", "junk", "cut"])
def test_detection_of_a_corrupt_image_alone_fails(bench: Bench, kind: str) -> None:
    path = bench.root / "only.jpg"
    path.write_bytes(corrupt_content(bench.image(1))[kind])
    before = bench.inputs()
    outcome = bench.run("detect", "--source", str(path), "--save-txt")
    check_refused(outcome, before, bench, ["none of the 1 inputs", "only.jpg"], status=1)


def test_validation_without_any_object_is_done_and_undefined(bench: Bench) -> None:
    for number in range(4):
        bench.label(number, "val").write_text("")
    before = bench.inputs()
    check_done(bench.run("val"), before, bench, ["4 backgrounds"], ["no labelled object", "undefined"])


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


def take_write_permission(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def without_privileges() -> list[str]:
    """Return what a command line begins with so that permissions hold for the superuser, too; or skip."""
    if os.name != "posix":
        pytest.skip("permissions of POSIX")
    if os.getuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("the superuser may write everywhere, and setpriv is not here")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"]


@pytest.mark.parametrize("command", ["train", pytest.param("val", marks=pytest.mark.slow)])
def test_data_that_cannot_be_written_to_is_used(bench: Bench, command: str) -> None:
    """Nothing is written beside read-only data, which is said; the run goes on."""
    start = without_privileges()
    data = bench.root / "tiny"
    take_write_permission(data)
    before = {path: path.is_file() and path.read_bytes() for path in data.rglob("*")}
    outcome = bench.run_apart(command, start=start)
    assert outcome.status == 0, outcome.stderr
    assert {path: path.is_file() and path.read_bytes() for path in data.rglob("*")} == before
    splits = 2 if command == "train" else 1
    assert outcome.stderr.count("label cache not written (Permission denied)") == splits


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
