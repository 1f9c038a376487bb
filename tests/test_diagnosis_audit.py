"""The label audit L01 to L14, L18 and L19, its files, and the corrected copy."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from audit_data import picture, write_set
from hypothesis import example, given, settings
from hypothesis import strategies as st

from utils.data.label_files import parse_labels
from utils.diagnosis.audit import CODES, Audit, audit_labels
from utils.diagnosis.audit_balance import chi2_tail, class_balance, split_drift
from utils.diagnosis.audit_boxes import Labelled, check_rows, overlapping_pairs
from utils.diagnosis.audit_fixes import write_fixed_copy
from utils.diagnosis.audit_names import alike, edit_distance
from utils.diagnosis.audit_rows import read_rows
from utils.diagnosis.data import iou
from utils.errors import InputError
from utils.labels import img2label_paths, scan_labels

BOX = "0 0.5 0.5 0.25 0.25\n"
ALL_CLASSES = "0 0.2 0.2 0.2 0.2\n1 0.5 0.5 0.2 0.2\n2 0.8 0.8 0.2 0.2\n"


def audit_of(tmp_path: Path, rows: str | bytes | None, **kwargs: object) -> Audit:
    """Return the audit of one training image with the given label file, beside a faultless val image."""
    yaml = write_set(tmp_path / "set", {"train": {"a": rows}, "val": {"b": ALL_CLASSES}})
    return audit_labels(yaml, **kwargs)


def rows_found(audit: Audit) -> list[tuple[str, str, int]]:
    """Return (code, severity, line) of the findings about rows."""
    skipped = {"L13", "L14", "L19"}
    return [(f.code, f.severity, f.line) for f in audit.findings if f.code not in skipped]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param(BOX, [], id="nothing wrong"),
        pytest.param(b"0 0.5 \xff\n", [("L01", "error", 1)], id="L01 not UTF-8"),
        pytest.param("0 0.5 0.5 0.1\n", [("L02", "error", 1)], id="L02 four values"),
        pytest.param("0 0.5 0.5 0.1 0.1 0.9\n", [("L02", "error", 1)], id="L02 six values"),
        pytest.param(BOX + "bolt 0.5 0.5 0.1 0.1\n", [("L02", "error", 2)], id="L02 a word"),
        pytest.param("0 .1 .1 .5 .1 .3 .5\n1 .1 .1 .5 .1 .3\n", [("L02", "error", 2)], id="L02 odd polygon"),
        pytest.param("0 .1 .1 .5 .1 .3 .5\n1 .2 .2 .5 .6\n", [("L02", "warning", 2)], id="L02 box among polygons"),
        pytest.param("0 .1 .1 .5 .1 .3 .5\n", [], id="polygon"),
        pytest.param("0 0.5 nan 0.1 0.1\n", [("L03", "error", 1)], id="L03 nan"),
        pytest.param("0 0.5 0.5 inf 0.1\n", [("L03", "error", 1)], id="L03 inf"),
        pytest.param("3 0.5 0.5 0.1 0.1\n", [("L04", "error", 1)], id="L04 class too high"),
        pytest.param("-1 0.5 0.5 0.1 0.1\n", [("L04", "error", 1)], id="L04 class negative"),
        pytest.param("0.5 0.5 0.5 0.1 0.1\n", [("L04", "error", 1)], id="L04 half a class"),
        pytest.param("0 1.0009 0.5 0.0001 0.1\n", [("L05", "warning", 1), ("L08", "warning", 1),
                                                   ("L09", "warning", 1)], id="L05 rounding"),
        pytest.param("0 0.5 -0.002 0.1 0.1\n", [("L05", "error", 1)], id="L05 outside"),
        pytest.param("0 320 240 50 50\n", [("L05", "error", 1)], id="L05 pixels"),
        pytest.param("0 .1 .1 .5 -.1 .3 .5\n", [("L05", "error", 1)], id="L05 polygon"),
        pytest.param("0 0.95 0.5 0.2 0.1\n", [("L06", "warning", 1)], id="L06"),
        pytest.param("0 0.95 0.5 0.1019 0.1\n", [], id="L06 within rounding"),
        pytest.param("0 0.5 0.5 0 0.1\n", [("L07", "error", 1)], id="L07 no width"),
        pytest.param("0 0.5 0.5 0.1 -0.1\n", [("L07", "error", 1)], id="L07 negative height"),
        pytest.param("0 0.5 0.5 0.002 0.004\n", [("L08", "warning", 1)], id="L08"),
        pytest.param("0 0.5 0.5 0.9 0.05\n", [("L09", "warning", 1)], id="L09 aspect 27 in pixels"),
        pytest.param("0 0.5 0.5 0.6 0.05\n", [], id="L09 aspect 18 in pixels"),
        pytest.param("0 0.5 0.5 0.99 0.99\n", [("L09", "warning", 1)], id="L09 area"),
        pytest.param(BOX + "\n" + BOX, [("L10", "warning", 3)], id="L10 after an empty line"),
        pytest.param(BOX + "0 0.5 0.5 0.25 0.26\n", [("L11", "warning", 2)], id="L11"),
        pytest.param(BOX + "1 0.5 0.5 0.25 0.26\n", [("L12", "error", 2)], id="L12"),
        pytest.param(BOX + "1 0.5 0.5 0.25 0.3\n", [], id="IoU 0.83"),
    ],
)  # fmt: skip
def test_rows(tmp_path: Path, rows: str | bytes, expected: list[tuple[str, str, int]]) -> None:
    assert rows_found(audit_of(tmp_path, rows)) == expected


def test_a_finding_says_where_and_what(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, BOX + "2 0.5 0.5 0.25 0.26\n")
    (found,) = audit.of("L12")
    root = tmp_path / "set"
    assert found.file == str(root / "labels" / "train" / "a.txt")
    assert found.image == str(root / "images" / "train" / "a.png")
    assert (found.cls, found.line) == (2, 2)
    assert found.message == "gear wheel on the same object as bolt in line 1 (IoU 0.96)"
    assert found.box == pytest.approx((36, 23.68, 60, 40.32))  # of 96 x 64 pixels


@pytest.mark.parametrize("look", ["pixels", "headers"])
def test_l01_images(tmp_path: Path, look: str) -> None:
    yaml = write_set(tmp_path / "set", {"train": dict.fromkeys("abcd", BOX), "val": {"e": ALL_CLASSES}})
    folder = tmp_path / "set" / "images" / "train"
    (folder / "a.png").write_bytes(b"")
    (folder / "b.png").write_bytes(b"no image at all")
    cv2.imwrite(str(folder / "c.png"), picture(9)[:5])
    whole = (folder / "d.png").read_bytes()
    (folder / "d.png").write_bytes(whole[: len(whole) // 2])
    found = {Path(f.file).stem: f.message for f in audit_labels(yaml, look=look).of("L01")}
    damaged = {"a", "b", "c", "d"} if look == "pixels" else {"a", "b", "c"}
    assert set(found) == damaged
    assert "0 bytes" in found["a"] and "not an image" in found["b"] and "96 x 5 pixels" in found["c"]


def test_l01_jpeg_without_end_marker_is_a_remark(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": BOX}, "val": {"b": ALL_CLASSES}})
    folder = tmp_path / "set" / "images" / "train"
    (folder / "a.png").unlink()
    data = cv2.imencode(".jpg", picture(1))[1].tobytes()
    (folder / "a.jpg").write_bytes(data + b"\0\0")
    (found,) = audit_labels(yaml).of("L01")
    assert (found.severity, Path(found.file).name) == ("info", "a.jpg")


def test_l08_counts_pixels_at_training_size(tmp_path: Path) -> None:
    """A box of 0.02 of the height 64 is 1.28 pixels; at 960 the image is ten times as large."""
    rows = "0 0.5 0.5 0.1 0.02\n"
    assert len(audit_of(tmp_path / "1", rows, imgsz=96).of("L08")) == 1
    assert not audit_of(tmp_path / "2", rows, imgsz=960).of("L08")


def test_l11_keeps_the_first_of_a_chain(tmp_path: Path) -> None:
    """Row 2 overlaps row 1 and row 3 overlaps row 2 by 0.96, rows 1 and 3 by 0.92: one stays."""
    rows = "0 0.5 0.5 0.24 0.25\n0 0.5 0.5 0.25 0.25\n0 0.5 0.5 0.26 0.25\n"
    assert [f.line for f in audit_of(tmp_path, rows).of("L11")] == [2, 3]


def test_l13_counts_background(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": BOX, "b": "", "c": None, "d": " \n"}, "val": {"e": ALL_CLASSES}})
    audit = audit_labels(yaml)
    assert [f.message for f in audit.of("L13")] == [
        "train: of 4 images 1 have no label file and 2 an empty one; both count as background"
    ]
    assert audit.images["train"] == {
        "images": 4, "labelled": 1, "empty": 2, "missing": 1, "unreadable": 0, "near_duplicates": 0,
    }  # fmt: skip
    assert audit.boxes_checked == 4


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["bolt", "bolt"], "error"),
        (["Gear Wheel", "gear_wheels"], "warning"),
        (["bolt", "bold"], "warning"),
        (["car", "cat"], None),
        (["screwdriver", "screwdrivre"], "warning"),
        (["screwdriver", "screwdryvir"], "warning"),
        (["bolt", "bult x"], None),
        (["part 1", "part 2"], None),
        (["as", "a"], None),
    ],
)
def test_l14_names_that_look_alike(names: list[str], expected: str | None) -> None:
    assert [severity for severity, _ in alike(dict(enumerate(names)))] == ([expected] if expected else [])


@given(st.text("abc", max_size=7), st.text("abc", max_size=7))
def test_edit_distance_is_a_metric_that_keeps_its_bounds(a: str, b: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a)
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))
    assert (edit_distance(a, b) == 0) == (a == b)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcd", min_size=4, max_size=9), min_size=2, max_size=8, unique=True))
def test_l14_search_misses_no_pair(names: list[str]) -> None:
    """The search by shortened names finds what comparing all pairs finds."""

    def near(a: str, b: str) -> bool:
        if a == b.rstrip() or _plain(a) == _plain(b):
            return True
        edits, shorter = edit_distance(a, b), min(len(a), len(b))
        return edits == 1 or (edits == 2 and shorter >= 8)

    def _plain(text: str) -> str:
        return text[:-1] if text.endswith("s") else text

    expected = sum(near(a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    assert len(alike(dict(enumerate(names)))) == expected


def test_l14_classes_that_a_split_lacks(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": BOX}, "val": {"b": "1 0.5 0.5 0.2 0.2\n"}})
    assert [f.message for f in audit_labels(yaml).of("L14")] == [
        "class 0 'bolt' has no box in val: nothing to measure it by",
        "class 1 'nut' has no box in train: nothing to learn it from",
        "class 2 'gear wheel' has no box in any split",
    ]


def test_l14_a_wrong_nc_does_not_stop_the_audit(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": ALL_CLASSES}, "val": {"b": ALL_CLASSES}}, extra="nc: 4\n")
    (found,) = audit_labels(yaml).of("L14")
    assert (found.severity, found.message) == ("error", "nc is 4, but names lists 3 classes")


def test_l18_sizes_far_from_the_median(tmp_path: Path) -> None:
    """Thirty boxes with log areas 0 ± 0.1; one of four times the area: ln 4 = 1.39 is over 4 x 0.1."""
    sides = [0.2 * math.exp(0.05 * (1 if k % 2 else -1)) for k in range(30)]
    rows = [f"0 0.5 {0.2 + 0.02 * k:.4f} {side:.6f} {side:.6f}" for k, side in enumerate(sides)]
    audit = audit_of(tmp_path, "\n".join([*rows, "0 0.5 0.5 0.4 0.4"]) + "\n")
    assert [(f.line, f.severity) for f in audit.of("L18")] == [(31, "info")]
    assert "area is 3.8" in audit.of("L18")[0].message  # the median of 31 is one of the larger ones
    few = audit_of(tmp_path / "few", "\n".join([*rows[:20], "0 0.5 0.5 0.4 0.4"]) + "\n")
    assert not few.of("L18")


def test_l19_numbers_and_findings() -> None:
    a, b = np.array([[0, 0.5, 0.5, 0.1, 0.1]] * 11), np.array([[0, 0.5, 0.5, 0.1, 0.1], [1, 0.5, 0.5, 0.1, 0.1]])
    empty = np.zeros((0, 5))
    balance, found = class_balance({"train": [a, b, empty]}, {0: "bolt", 1: "nut", 2: "gear"})
    facts = balance["splits"]["train"]
    assert (facts["ratio"], facts["most"], facts["least"], facts["images"]) == (12.0, 0, 1, 3)
    bolt, nut, gear = facts["classes"]
    assert (bolt["instances"], bolt["images"], bolt["share_of_boxes"]) == (12, 2, pytest.approx(12 / 13))
    assert bolt["effective_number"] == pytest.approx((1 - 0.999**12) / 0.001)
    assert (nut["share_of_images"], nut["beside_frequent"]) == (pytest.approx(1 / 3), 1.0)
    assert (gear["instances"], gear["effective_number"], gear["beside_frequent"]) == (0, 0.0, None)
    assert facts["pairs"] == [{"a": 0, "b": 1, "images": 1}]
    assert [f.message for f in found] == ["train: bolt has 12 times the boxes of nut"]


def test_l19_drift_between_splits() -> None:
    """Counts 30 and 70 against 70 and 30: chi2 = 4 x 20^2 / 50 = 32 with one degree of freedom."""
    drift = split_drift(np.array([30, 70]), np.array([70, 30]))
    assert (drift["chi2"], drift["degrees"]) == (pytest.approx(32), 1)
    assert drift["p"] == pytest.approx(1.5417e-8, rel=1e-3)
    assert split_drift(np.array([30, 70]), np.array([3, 7]))["p"] == pytest.approx(1)
    assert split_drift(np.array([30, 70]), np.array([0, 0]))["p"] is None
    assert chi2_tail(3.841459, 1) == pytest.approx(0.05, abs=1e-6)


def test_l19_through_the_audit(tmp_path: Path) -> None:
    many = "".join(f"0 {0.1 + 0.05 * k:.2f} 0.5 0.03 0.2\n" for k in range(17)) + "1 0.5 0.8 0.2 0.2\n"
    val = "".join(f"1 {0.1 + 0.05 * k:.2f} 0.5 0.03 0.2\n" for k in range(17)) + "0 0.5 0.8 0.2 0.2\n"
    yaml = write_set(tmp_path / "set", {"train": {"a": many}, "val": {"b": val}}, names=["bolt", "nut"])
    audit = audit_labels(yaml)
    assert [f.message.split(" (")[0] for f in audit.of("L19")] == [
        "train: bolt has 17 times the boxes of nut",
        "val: nut has 17 times the boxes of bolt",
        "val holds the classes in other shares than train",
    ]
    assert {f.file for f in audit.of("L19")} == {str(yaml)}


# The whole ------------------------------------------------------------------------------------------------------------


def test_files_in_two_splits_are_checked_once(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": "7 0.5 0.5 0.1 0.1\n"}})
    yaml.write_text(yaml.read_text().replace("images/val", "images/train"))
    audit = audit_labels(yaml)
    assert (len(audit.of("L04")), audit.boxes_checked) == (1, 1)


def test_nothing_of_the_data_set_changes(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": BOX + BOX, "b": None}, "val": {"c": ALL_CLASSES}})
    before = {path: path.read_bytes() for path in sorted((tmp_path / "set").rglob("*")) if path.is_file()}
    write_fixed_copy(audit_labels(yaml), tmp_path / "fixed")
    assert {path: path.read_bytes() for path in sorted((tmp_path / "set").rglob("*")) if path.is_file()} == before


def test_files_of_the_audit(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, "0 0.5 0.5 0.25 0.25\n1 0.5 0.5 0.25 0.26\n")
    audit.write(tmp_path)
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert stored["counts"]["L12"] == 1 and set(stored["counts"]) == set(CODES)
    assert stored["errors"] == 1 and len(stored["findings"]) == len(audit.findings)
    with (tmp_path / "audit.csv").open(newline="") as stream:
        (row,) = [line for line in csv.DictReader(stream) if line["code"] == "L12"]
    assert (row["line"], row["class"], row["name"], row["x1"], row["severity"]) == ("2", "1", "nut", "36.0", "error")


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": BOX}, "val": {"b": ALL_CLASSES}}, extra="test: images/none\n")
    audit = audit_labels(yaml)
    assert list(audit.images) == ["train", "val"] and "split test was not looked at" in audit.notes[0]
    with pytest.raises(InputError, match="images/none"):
        audit_labels({"path": str(tmp_path / "set"), "train": "images/none", "val": "images/val", "names": ["a"]})


NUMBER = st.one_of(
    st.floats(-0.25, 1.25).map(lambda v: f"{v:.6f}"), st.sampled_from(["0", "1", "nan", "x", "1e9", "-0"])
)
ROW = st.lists(NUMBER, min_size=3, max_size=6).map(lambda values: " ".join(["0", *values]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(ROW, st.just(""), st.just(BOX.strip())), min_size=1, max_size=4))
@example(["0 0.0 0.0 0.0 0.5 0.0 -0.25"])  # the box around this polygon is within 0 to 1, and without area
@example(["0 0.1 0.1 0.2 0.5 0.4 -0.25"])
def test_the_audit_names_a_row_of_every_file_that_training_refuses(tmp_path_factory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.txt"
    path.write_text("\n".join(lines))
    labelled = Labelled(read_rows([str(path)]), ["a.png"], np.array([[96.0, 64.0]]), {0: "bolt"})
    found = check_rows(labelled, 640)
    refused = not parse_labels(path.read_bytes(), "a").usable
    negative = (labelled.rows.values[:, 3:5] < 0).any() if len(labelled.rows) else False
    named = any(
        f.code in {"L01", "L03", "L04"}
        or (f.code == "L02" and f.severity == "error")
        or (f.code == "L05" and f.message.endswith("training leaves the image out"))
        for f in found
    )
    assert refused == (named or negative)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_overlapping_pairs_equal_a_double_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 4, (12, 2)).astype(float)
    boxes, group = np.concatenate((low, low + rng.integers(1, 4, (12, 2))), 1), np.sort(rng.integers(0, 3, 12))
    expected = [
        (i, j) for i in range(12) for j in range(i + 1, 12)
        if group[i] == group[j] and iou(boxes[i], boxes[j])[0, 0] >= 0.5
    ]  # fmt: skip
    assert [(i, j) for i, j, _ in overlapping_pairs(boxes, group, 0.5)] == expected


# The corrected copy ---------------------------------------------------------------------------------------------------

FAULTY = (
    "0 0.5 0.5 0.250000 0.25\n"  # stays as it is written
    "\n"
    "0 0.5 0.5 0.25 0.25\n"  # L10
    "0 0.5 0.5 0.25 0.26\n"  # L11
    "1 1.0005 0.2 0.1 0.1\n"  # L05, rounding
    "2 0.8 0.8 0.1 0.1\n"
)


def test_the_fixed_copy_holds_what_is_left_and_trains(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": FAULTY, "b": "", "c": None}, "val": {"d": ALL_CLASSES}})
    changes = write_fixed_copy(audit_labels(yaml), tmp_path / "fixed")
    assert [(c.line, c.code, c.after) for c in changes] == [
        (5, "L05", "1 1 0.2 0.1 0.1"), (3, "L10", ""), (4, "L11", ""),
    ] or sorted((c.line, c.code, c.after) for c in changes) == [
        (3, "L10", ""), (4, "L11", ""), (5, "L05", "1 1 0.2 0.1 0.1"),
    ]  # fmt: skip
    copy = tmp_path / "fixed" / "labels" / "train"
    assert (copy / "a.txt").read_text() == "0 0.5 0.5 0.250000 0.25\n\n1 1 0.2 0.1 0.1\n2 0.8 0.8 0.1 0.1\n"
    assert sorted(path.name for path in copy.iterdir()) == ["a.txt", "b.txt"]
    again = audit_labels(tmp_path / "fixed" / "data.yaml")
    assert not again.of("L05", "L10", "L11")
    images = sorted(str(path) for path in (tmp_path / "fixed" / "images" / "train").iterdir())
    table = scan_labels(images, img2label_paths(images), None, nc=3)
    assert (table.report.corrupt, len(table.boxes)) == (0, 3)
    with (tmp_path / "fixed" / "fixes.csv").open(newline="") as stream:
        assert {row["before"] for row in csv.DictReader(stream)} == {
            "0 0.5 0.5 0.25 0.25", "0 0.5 0.5 0.25 0.26", "1 1.0005 0.2 0.1 0.1",
        }  # fmt: skip


def test_the_fixed_copy_leaves_errors_that_it_cannot_mend(tmp_path: Path) -> None:
    rows = "0 0.5 1.5 0.1 0.1\n" + BOX
    yaml = write_set(tmp_path / "set", {"train": {"a": rows}, "val": {"b": ALL_CLASSES}})
    assert write_fixed_copy(audit_labels(yaml), tmp_path / "fixed") == []
    assert (tmp_path / "fixed" / "labels" / "train" / "a.txt").read_text() == rows


def test_the_fixed_copy_refuses_a_folder_in_use(tmp_path: Path) -> None:
    audit = audit_of(tmp_path, BOX)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("")
    with pytest.raises(InputError, match="exists and is not empty"):
        write_fixed_copy(audit, tmp_path / "used")


def test_the_fixed_copy_follows_folders_and_lists(tmp_path: Path) -> None:
    """Two folders with a file of the same name stay apart."""
    yaml = write_set(tmp_path / "set", {"train/x": {"a": BOX + BOX}, "train/y": {"a": BOX}, "val": {"b": ALL_CLASSES}})
    text = f"path: {tmp_path / 'set'}\ntrain: images/train\nval: images/val\nnames: [bolt, nut, gear wheel]\n"
    yaml.write_text(text)
    write_fixed_copy(audit_labels(yaml), tmp_path / "fixed")
    for folder in ("x", "y"):
        assert (tmp_path / "fixed" / "labels" / "train" / folder / "a.txt").read_text() == BOX
    assert audit_labels(tmp_path / "fixed" / "data.yaml").images["train"]["labelled"] == 2
