"""Label files: what is read, dropped or refused, and when a cache still holds."""

import logging
import os
import random
import string
import time
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data import label_cache
from utils.data.image_headers import read_header
from utils.data.label_files import _quick_boxes, parse_labels, read_label_file
from utils.errors import InputError
from utils.images import imwrite
from utils.labels import get_hash, img2label_paths, scan_labels, verify_image_label

GOOD = "0 0.5 0.5 0.1 0.1"
SECOND = "1 0.25 0.5 0.2 0.4"


@pytest.fixture(autouse=True)
def _visible_log(monkeypatch):
    """Let caplog see the project's log even after a command has set it up."""
    monkeypatch.setattr(logging.getLogger("yolov5"), "propagate", True)


@pytest.fixture
def data_set(tmp_path):
    """Eight images of 96 x 64 with one box of each of two classes."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        imwrite(images / f"{i}.jpg", rng.integers(0, 255, (64, 96, 3), dtype=np.uint8))
        (labels / f"{i}.txt").write_text(f"{GOOD}\n{SECOND}\n")
    return tmp_path


def _files(data_set):
    return sorted(map(str, (data_set / "images").iterdir()))


def _scan(data_set, **options):
    return scan_labels(_files(data_set), cache_path=data_set / "labels.cache", **options)


def reference_verdict(text):
    """Say independently, row by row, what a text is as a label file.

    Returns:
        Whether it is usable; its rows with an area, each once; the rows that do not reach training, per class.
    """
    rows = [line.split() for line in text.strip().splitlines() if line != ""]
    polygons = any(len(row) > 6 for row in rows)
    boxes = [_reference_box(row, polygons) for row in rows]
    if None in boxes:
        return False, set(), Counter(_reference_class(row) for row in rows)
    flat = [box for box in set(boxes) if not (box[3] > 0 and box[4] > 0)]
    return True, set(boxes) - set(flat), Counter(int(box[0]) for box in flat)


def _reference_numbers(row):
    try:
        return [np.float32(float(value)) for value in row]
    except ValueError:
        return None


def _reference_class(row):
    """The class of a row as it stands there, -1 when it is no whole number of at least 0."""
    numbers = _reference_numbers(row[:1])
    if not numbers or not np.isfinite(float(row[0])) or float(row[0]) < 0 or float(row[0]) % 1:
        return -1
    return int(float(row[0]))


def _reference_box(row, polygons):
    """Class, centre x, centre y, width, height of a row; None when it breaks a rule."""
    numbers = _reference_numbers(row)
    if not numbers:
        return None
    cls, *values = numbers
    if polygons:
        if not values or len(values) % 2 or np.isnan(values).any():
            return None
        xs, ys = values[::2], values[1::2]
        low, high = (min(xs), min(ys)), (max(xs), max(ys))
        values = [(a + b) / np.float32(2) for a, b in zip(low, high, strict=True)]
        values += [b - a for a, b in zip(low, high, strict=True)]
    if len(values) != 4 or not all(0 <= value <= 1 for value in values):
        return None
    if not (np.isfinite(cls) and cls >= 0 and cls % 1 == 0):
        return None
    return tuple(float(value) for value in (cls, *values))


_token = st.one_of(
    st.sampled_from(["0", "1", "7", "0.5", "0.25", "1.0", "0.1", "1e-3", "-0", "+1", ".5"]),
    st.sampled_from(["nan", "inf", "-1", "1.0001", "1.7", "x", "0,5", "\ufeff0", "1e999", "1_0", "", "٣", "0x1"]),
    st.floats(0, 1).map(repr),
)
_line = st.one_of(
    st.tuples(st.sampled_from("012"), *[st.floats(0, 1).map(repr)] * 4).map(" ".join),
    st.tuples(st.sampled_from("012"), *[st.floats(0, 1).map(repr)] * 6).map(" ".join),
    st.lists(_token, max_size=9).map(" ".join),
    st.sampled_from(["", " ", "\t", GOOD]),
)
_text = st.one_of(
    st.tuples(st.lists(_line, max_size=5), st.sampled_from(["\n", "\r\n", "\r"])).map(lambda t: t[1].join(t[0])),
    st.text(alphabet=string.printable, max_size=40),
)


def check_against_the_reference(text):
    with np.errstate(all="ignore"):
        usable, kept, lost = reference_verdict(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parsed = parse_labels(text.encode(), "x.txt")
    assert parsed.usable == usable
    assert {tuple(map(float, row)) for row in parsed.labels} == kept
    assert len(parsed.labels) == len(kept) and len(parsed.segments) in {0, len(parsed.labels)}
    assert parsed.lost == lost
    assert usable or (parsed.problems and all(p.text and p.line >= 1 for p in parsed.problems))


@settings(max_examples=500, deadline=None)
@given(_text)
def test_parser_agrees_with_the_reference(text):
    check_against_the_reference(text)


@settings(max_examples=500, deadline=None)
@given(_text)
def test_quick_parser_agrees_with_the_thorough_one(text):
    quick = parse_labels(text.encode(), "x.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.data.label_files._quick_boxes", lambda *_: None)
        thorough = parse_labels(text.encode(), "x.txt")
    assert quick.labels.tobytes() == thorough.labels.tobytes() and quick.labels.shape == thorough.labels.shape
    assert (quick.usable, quick.problems, quick.lost) == (thorough.usable, thorough.problems, thorough.lost)
    assert len(quick.segments) == len(thorough.segments)


def test_ordinary_label_files_take_the_quick_way():
    for text in (f"{GOOD}\n{SECOND}\n", f"{GOOD}\r\n\r\n{SECOND}", "0 1e-2 +0.5 1 1\n"):
        assert len(_quick_boxes(text.encode(), 2)) == len(text.split()) // 5
    odd = [
        "",
        "\n",
        f"{GOOD}\n{GOOD}",
        f"{GOOD} 1",
        "0 0.5 0.5 0 0.1",
        "0 0.5 0.5 1e-40 0.1",
        "2" + GOOD[1:],
        "-1" + GOOD[1:],
    ]
    for text in odd:
        assert _quick_boxes(text.encode(), 2) is None


@pytest.mark.slow
@settings(max_examples=5000, deadline=None)
@given(_text)
def test_parser_agrees_with_the_reference_on_5000_files(text):
    check_against_the_reference(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_named(data):
    parsed = parse_labels(data, "x.txt")
    assert parsed.usable or parsed.problems
    assert parsed.labels.dtype == np.float32 and parsed.labels.shape[1] == 5


def random_label_text(dice):
    """A label file of a few rows, of which each may be wrong in one of the ways that are met."""
    wrong = [
        "nan",
        "inf",
        "-0.1",
        "1.0001",
        "x",
        "0,5",
        "",
        "1 1",
        "1e999",
        "\ufeff0",
        "0x1",
        "½",
        "\0",
        "1_0",
        "9" * 400,
    ]
    rows = []
    for _ in range(dice.randrange(5)):
        points = dice.choice([4, 4, 4, 4, 6, 8])
        values = [dice.choice("0012"), *(f"{dice.random():.3g}" for _ in range(points))]
        if dice.random() < 0.2:
            values[dice.randrange(len(values))] = dice.choice(wrong)
        rows.append(" ".join(values))
    rows += rows[:1] if dice.random() < 0.1 else []
    return dice.choice(["\n", "\n", "\n", "\r\n", "\n\n", "\r"]).join(rows)


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_scan_of_random_label_files_agrees_with_the_reference(tmp_path, count):
    """A set of as many images: those left out, the boxes kept and the boxes lost per class are the reference's."""
    dice = random.Random(count)
    imwrite(tmp_path / "image.png", np.zeros((16, 16, 3), np.uint8))
    images, labels, texts = [], [], []
    for number in range(count):
        images.append(str(tmp_path / f"{number}.png"))
        labels.append(str(tmp_path / f"{number}.txt"))
        os.link(tmp_path / "image.png", images[-1])
        texts.append(random_label_text(dice))
        with open(labels[-1], "w", newline="") as stream:
            stream.write(texts[-1])
    with np.errstate(all="ignore"):
        verdicts = [reference_verdict(text) for text in texts]
    table = scan_labels(images, labels)
    usable = [image for image, verdict in zip(images, verdicts, strict=True) if verdict[0]]
    assert count / 2 < len(usable) < count and table.im_files == usable
    found = [{tuple(map(float, row)) for row in rows} for rows in table.labels]
    assert found == [kept for ok, kept, _ in verdicts if ok]
    assert table.report.lost == sum((lost for _, _, lost in verdicts), Counter()) and len(table.report.lost) > 2


@pytest.mark.parametrize(
    ("text", "line", "shown"),
    [
        ("0 nan 0.5 0.1 0.1", 1, "nan"),
        (f"{GOOD}\n0 1.0001 0.5 0.1 0.1", 2, "1.0001"),
        ("1.7 0.5 0.5 0.1 0.1", 1, "1.7 is not a whole number"),
        ("0 -0.1 0.5 0.1 0.1", 1, "-0.1"),
        (f"\n\n{GOOD}\n\n0 0.5 0.5 0.1", 5, "4 values, expected 5"),
        (f"{GOOD} 0.9", 1, "6 values"),
        ("0,0.5,0.5,0.1,0.1", 1, "'0,0.5,0.5,0.1,0.1' is not a number"),
        ("0 0,5 0.5 0.1 0.1", 1, "'0,5' is not a number"),
        ("\ufeff" + GOOD, 1, "'\\ufeff0' is not a number"),
        ("screw 0.5 0.5 0.1 0.1", 1, "'screw' is not a number"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3\n1 0.1 0.1 0.2", 2, "4 values, expected a class and pairs"),
        ("0 0.1 0.1 1.9 0.2 1.8 0.3", 1, "polygon's width 1.8 is above 1"),
        ("-1 0.5 0.5 0.1 0.1", 1, "class -1"),
        ("inf 0.5 0.5 0.1 0.1", 1, "class inf"),
    ],
)
def test_unusable_files_name_line_and_value(text, line, shown):
    parsed = parse_labels(text.encode(), "x.txt")
    assert not parsed.usable and len(parsed.labels) == 0
    assert parsed.problems[0].line == line and shown in parsed.problems[0].text
    assert "\n" not in str(parsed.problems[0]) and str(parsed.problems[0]).startswith(f"x.txt, line {line}: ")


def test_lost_rows_are_counted_per_class():
    parsed = parse_labels(b"0 1.0001 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n3 0.5 0.5 0.1 0.1\nx 1 2 3 4", "x.txt")
    assert parsed.lost == {0: 2, 3: 1, -1: 1}


def test_box_without_area_is_dropped_alone():
    parsed = parse_labels(f"{SECOND}\n0 0.5 0.5 0 0\n{GOOD}".encode(), "x.txt")
    assert parsed.usable and parsed.labels[:, 0].tolist() == [1, 0]
    assert parsed.lost == {0: 1} and parsed.problems[0].line == 2


def test_repeated_rows_are_dropped_and_named():
    parsed = parse_labels(f"{SECOND}\n{GOOD}\n{SECOND}".encode(), "x.txt")
    assert parsed.labels[:, 0].tolist() == [0, 1] and [p.line for p in parsed.problems] == [3] and not parsed.lost


def test_polygon_becomes_its_bounding_box():
    """Points (.2, .2) (.6, .4) (.4, .8): box centre (.4, .5), size (.4, .6); a box row is two corners there."""
    parsed = parse_labels(b"2 0.2 0.2 0.6 0.4 0.4 0.8\n0 0.5 0.5 0.1 0.1", "x.txt")
    np.testing.assert_allclose(parsed.labels, [[2, 0.4, 0.5, 0.4, 0.6], [0, 0.3, 0.3, 0.4, 0.4]], atol=1e-6)
    assert [s.shape for s in parsed.segments] == [(3, 2), (2, 2)]
    assert parsed.problems[0].line == 2 and "two corner points" in parsed.problems[0].text


def test_class_id_out_of_range_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(f"{GOOD}\n7 0.5 0.5 0.1 0.1")
    with pytest.raises(InputError, match=r"a\.txt, line 2: class 7.*allowed 0-1"):
        read_label_file(path, nc=2)
    assert len(read_label_file(path).labels) == 2


def test_label_paths_equal_upstreams(golden):
    for case in golden("ops")[0]["img2label_paths"]:
        assert img2label_paths([case["in"]]) == [case["out"]]
    assert img2label_paths([f"a{os.sep}images{os.sep}b.jpg"], label_dir="masks", suffix=".png") == ["a/masks/b.png"]


def test_coco128_and_bccd_are_read_as_upstream_reads_them(golden, shared):
    facts = golden("schedule_and_data")[0]["datasets"]
    files = sorted(map(str, (shared / "datasets/coco128/images/train2017").glob("*.jpg")))
    table, expected = scan_labels(files, nc=80), facts["coco128"]
    assert len(table) == 128 and len(table.boxes) == 929
    assert table.report.missing + table.report.empty == expected["background_images"]
    assert np.bincount(table.boxes[:, 0].astype(int), minlength=80).tolist() == expected["instances_per_class"]
    np.testing.assert_allclose(table.boxes.sum(0, dtype=np.float64), expected["label_sum"], rtol=1e-6)
    assert table.shapes[:10].tolist() == expected["shapes_wh_first10"]
    # one BCCD box has no area; it is dropped here, with class 0 and its centre missing from the sums
    files = sorted(map(str, (shared / "datasets/bccd/images/train").glob("*.jpg")))
    table = scan_labels(files, nc=3)
    assert len(table.boxes) == facts["bccd_train"]["labels"] - 1 and table.report.lost == {0: 1}


def test_scan_keeps_good_images_and_reports(data_set, caplog):
    (data_set / "labels/0.txt").write_text("0 nan 0.5 0.1 0.1\n")
    (data_set / "labels/1.txt").write_text("")
    (data_set / "labels/2.txt").unlink()
    (data_set / "images/3.jpg").write_bytes(b"")
    with caplog.at_level("INFO", logger="yolov5"):
        table = _scan(data_set, nc=2, names=["screw", "coupling"], require_labels=True)
    report = table.report
    assert (report.found, report.missing, report.empty, report.corrupt, report.total) == (4, 1, 1, 2, 8)
    assert [len(labels) for labels in table.labels] == [0, 0, 2, 2, 2, 2] and len(table.segments) == 6
    assert report.lost == {0: 2, 1: 1}
    text = caplog.text
    assert "0.txt, line 1: 'nan'" in text or "0.txt, line 1: centre x nan" in text
    assert "3.jpg" in text and "0 bytes" in text and "2 images of 8 skipped" in text
    assert "class 0 (screw): 2, class 1 (coupling): 1" in text


def test_scan_refuses_bad_class_losses_and_empty_sets(data_set):
    (data_set / "labels/5.txt").write_text("7 0.5 0.5 0.1 0.1\n7 0.4 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=r"5\.txt, line 1: class 7.*allowed 0-1.*1 more"):
        _scan(data_set, nc=2)
    for i in range(8):
        (data_set / f"labels/{i}.txt").write_text(GOOD)
    (data_set / "labels/5.txt").write_text("1 0.5 0.5 0 0.1\n" + GOOD)
    with pytest.raises(InputError, match="all boxes of a class.*class 1: 1"):
        _scan(data_set, nc=2)
    for i in range(5):
        (data_set / f"labels/{i}.txt").write_text("x")
    with pytest.raises(InputError, match="5 of 8 images"):
        _scan(data_set, nc=2)
    for i in range(8):
        (data_set / f"labels/{i}.txt").write_text("")
    assert len(_scan(data_set, nc=2)) == 8
    with pytest.raises(InputError, match="no labelled object in the train set"):
        _scan(data_set, nc=2, require_labels=True)


@pytest.mark.parametrize("forks", [True, False])
def test_scan_by_several_workers_equals_scan_in_place(data_set, monkeypatch, forks):
    (data_set / "labels/3.txt").write_text("0 0.2 0.2 0.6 0.4 0.4 0.8\n1 0.1 0.1 0.2 0.1 0.3 0.3")
    (data_set / "labels/5.txt").write_text("0 0.5 0.5 0.1 7")
    alone = _scan(data_set, workers=1)
    monkeypatch.setattr("utils.labels.MANY_IMAGES", 0)
    monkeypatch.setattr("utils.labels.PART", 3)
    if not forks:
        monkeypatch.setattr("utils.labels.can_fork", lambda: False)
    together = scan_labels(_files(data_set), workers=4)
    assert together.im_files == alone.im_files and len(alone) == 7 and together.report == alone.report
    for name in ("shapes", "boxes", "box_offsets", "points", "point_offsets", "segment_offsets"):
        assert np.array_equal(getattr(together, name), getattr(alone, name))


def _spy(monkeypatch):
    calls = []
    original = scan_labels.__globals__["_scan"]
    monkeypatch.setitem(scan_labels.__globals__, "_scan", lambda *args: calls.append(1) or original(*args))
    return calls


def test_cache_holds_until_anything_changes(data_set, monkeypatch):
    scans = _spy(monkeypatch)
    (data_set / "labels/0.txt").write_text("0 0.2 0.2 0.6 0.4 0.4 0.8\n1 0.1 0.1 0.2 0.1 0.3 0.3")
    first = _scan(data_set)
    assert (data_set / "labels.cache.npz").exists() and len(scans) == 1
    second = _scan(data_set)
    assert len(scans) == 1 and np.array_equal(first.boxes, second.boxes) and second.im_files == first.im_files
    assert all(np.array_equal(a, b) for a, b in zip(first.segments[0], second.segments[0], strict=True))
    path = data_set / "labels/1.txt"
    before = path.stat()
    path.write_text(path.read_text().replace("0 0.5", "1 0.5"))  # same size, same modification time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    assert _scan(data_set).boxes[:, 0].sum() == first.boxes[:, 0].sum() + 1 and len(scans) == 2
    (data_set / "labels/2.txt").unlink()
    assert _scan(data_set).report.missing == 1 and len(scans) == 3
    os.utime(data_set / "images/3.jpg")
    _scan(data_set)
    assert len(scans) == 4


def test_quick_key_sees_an_edit_behind_a_restored_time(data_set, monkeypatch):
    monkeypatch.setattr(label_cache, "SETTLED_NS", 0)
    scans = _spy(monkeypatch)
    time.sleep(0.02)
    first = _scan(data_set)
    monkeypatch.setattr(label_cache, "_read_digests", lambda files: pytest.fail("label files were read"))
    assert len(_scan(data_set)) == 8 and len(scans) == 1
    monkeypatch.undo()
    scans = _spy(monkeypatch)
    path = data_set / "labels/1.txt"
    before = path.stat()
    time.sleep(0.02)
    path.write_text(path.read_text().replace("0 0.5", "1 0.5"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _scan(data_set).boxes[:, 0].sum() == first.boxes[:, 0].sum() + 1 and scans


def test_untouched_content_under_new_times_needs_no_scan(data_set, monkeypatch):
    scans = _spy(monkeypatch)
    _scan(data_set)
    path = data_set / "labels/1.txt"
    before = path.stat()
    path.write_text(path.read_text())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    _scan(data_set)
    assert len(scans) == 1


def test_damaged_and_foreign_caches_are_rebuilt(data_set, caplog):
    pickled = data_set / "labels.cache"
    np.save(pickled.open("wb"), np.array({"x": 1}, dtype=object), allow_pickle=True)
    _scan(data_set)
    content = pickled.read_bytes()
    cache = data_set / "labels.cache.npz"
    whole = cache.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        cache.write_bytes(whole[:cut])
        assert len(_scan(data_set).boxes) == 16
    for _ in range(20):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 0xFF
        cache.write_bytes(bytes(damaged))
        assert len(_scan(data_set).boxes) == 16
    np.savez(cache, facts=np.array({"x": 1}, dtype=object))
    assert len(_scan(data_set).boxes) == 16
    assert pickled.read_bytes() == content  # YOLOv5's own cache is neither read nor changed


def test_read_only_folder_costs_one_line(data_set, monkeypatch, caplog):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("utils.data.label_cache.np.savez", refuse)
    with caplog.at_level("INFO", logger="yolov5"):
        assert len(_scan(data_set)) == 8
    assert caplog.text.count("not written") == 1 and not list(data_set.glob("*.npz"))


def test_inputs_stay_as_they_are(data_set):
    odd = data_set / "images/0.jpg"
    odd.write_bytes(odd.read_bytes() + b"\0\0")
    cut = data_set / "images/1.jpg"
    cut.write_bytes(cut.read_bytes()[:-200])
    before = {path: path.read_bytes() for path in data_set.rglob("*.*")}
    table = _scan(data_set)
    assert len(table) == 7 and any("end marker" in p.text for p in table.report.problems)
    assert any("1.jpg" in p.file and "damaged JPEG" in p.text for p in table.report.problems)
    assert {path: path.read_bytes() for path in before} == before


def test_verify_image_label_returns_upstreams_list(data_set):
    image, label = str(data_set / "images/0.jpg"), str(data_set / "labels/0.txt")
    im_file, labels, shape, segments, nm, nf, ne, nc, msg = verify_image_label((image, label, ""))
    assert (im_file, labels.shape, shape, segments) == (image, (2, 5), (96, 64), [])
    assert (nm, nf, ne, nc, msg) == (0, 1, 0, 0, "")
    assert verify_image_label((image, "none.txt", ""))[4:8] == [1, 0, 0, 0]
    (data_set / "labels/0.txt").write_text("0 2 2 2 2")
    result = verify_image_label((image, label, "train: "))
    assert result[:4] == [None] * 4 and result[7] == 1 and result[8].startswith("train: WARNING")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_shape_is_the_upright_one(tmp_path, orientation):
    from PIL import Image

    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    table = scan_labels([str(tmp_path / "a.jpg")])
    assert table.shapes.tolist() == [[20, 40] if orientation > 4 else [40, 20]]
    with open(tmp_path / "a.jpg", "rb") as stream:
        assert read_header(stream).orientation == orientation


def test_small_and_foreign_images_are_left_out(data_set):
    imwrite(data_set / "images/0.jpg", np.zeros((9, 96, 3), np.uint8))
    (data_set / "images/1.jpg").write_bytes(b"GIF89a" + bytes(40))
    (data_set / "images/2.jpg").write_text("<html>not found</html>")
    table = _scan(data_set)
    assert len(table) == 5 and table.report.corrupt == 3


def test_images_that_share_a_label_file_are_named(data_set, caplog):
    """x.png beside x.jpg: both train on the boxes of x.txt, which is said; neither is the other's image."""
    imwrite(data_set / "images/3.png", np.full((64, 96, 3), 200, np.uint8))
    with caplog.at_level("INFO", logger="yolov5"):
        table = _scan(data_set)
    assert len(table) == 9 and sum(file.endswith("3.txt") for file in table.label_files) == 2
    (note,) = table.report.problems
    assert note.file.endswith("images/3.png") and "labels/3.txt" in note.text and "images/3.jpg" in note.text
    assert str(note) in caplog.text
    caplog.clear()
    with caplog.at_level("INFO", logger="yolov5"):
        assert len(_scan(data_set)) == 9
    assert str(note) in caplog.text  # from the cache, too


def test_class_ids_that_float32_cannot_tell_apart_are_refused(data_set):
    (data_set / "labels/2.txt").write_text("16777217 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=r"labels/2\.txt, line 1: class 16777216"):
        _scan(data_set)


def test_names_of_files_cannot_break_a_line():
    problem = parse_labels(b"x", "labels/a\nb\x1b[31m.txt").problems[0]
    assert str(problem) == r"labels/a\nb\x1b[31m.txt, line 1: 'x' is not a number"


def test_endless_label_files_are_left_out(monkeypatch):
    monkeypatch.setattr("utils.data.label_files.MAX_LABEL_BYTES", 30)
    parsed = parse_labels(f"{GOOD}\n{GOOD}\n".encode(), "x.txt")
    assert not parsed.usable and "36 bytes, at most 30" in str(parsed.problems[0])


def test_a_pipe_among_the_images_is_left_out(data_set):
    """Reading it would wait for ever."""
    (data_set / "images/0.jpg").unlink()
    os.mkfifo(data_set / "images/0.jpg")
    table = _scan(data_set)
    assert len(table) == 7 and "pipe or device" in str(table.report.problems[0])


def test_get_hash_depends_on_paths_and_sizes(tmp_path):
    path = tmp_path / "a"
    path.write_text("1")
    first = get_hash([str(path)])
    path.write_text("12")
    assert get_hash([str(path)]) != first != get_hash([str(path), "b"])
