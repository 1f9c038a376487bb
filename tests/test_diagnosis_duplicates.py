"""The search for near-duplicates, and what the audit says about them: L15 to L17."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from audit_data import picture, write_set
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.diagnosis.audit import Audit, audit_labels
from utils.diagnosis.audit_duplicates import _components, find_twins, near_pairs
from utils.diagnosis.audit_images import Images, difference_hash, pixel_digest, read_headers, read_pixels, thumbnail
from utils.diagnosis.audit_pairs import pairs_between, pairs_within

BOX = "0 0.5 0.5 0.25 0.25\n"


# The search -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
def test_near_pairs_are_those_of_a_double_loop(seed: int, distance: int) -> None:
    """Hashes with known small and larger differences, equal bands included."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 2**64, 12, dtype=np.uint64)
    flips = rng.integers(0, 64, (60, 6))
    counts = rng.integers(0, 7, 60)
    near = start[rng.integers(0, 12, 60)]
    for k in range(6):
        near = np.where(counts > k, near ^ (np.uint64(1) << flips[:, k].astype(np.uint64)), near)
    hashes = np.unique(np.concatenate((start, near)))
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.column_stack(np.nonzero(np.triu(apart <= distance, 1)))
    assert np.array_equal(near_pairs(hashes, distance), expected)


def test_near_pairs_scale() -> None:
    """A loop over all pairs of 200,000 hashes would make 2e10 comparisons."""
    rng = np.random.default_rng(0)
    skewed = rng.integers(0, 2**64, 200_000, dtype=np.uint64) & rng.integers(0, 2**64, 200_000, dtype=np.uint64)
    hashes = np.unique(skewed)
    started = time.process_time()
    found = near_pairs(hashes)
    assert time.process_time() - started < 20
    a, b = hashes[found].T
    assert len(found) > 50 and (np.bitwise_count(a ^ b) <= 4).all()


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(1, 7))
def test_pairs_within_groups(sizes: list[int], at_once: int) -> None:
    found = [
        pair for i, j in pairs_within(np.array(sizes), at_once) for pair in zip(i.tolist(), j.tolist(), strict=True)
    ]
    group = np.repeat(np.arange(len(sizes)), sizes)
    n = len(group)
    assert found == [(i, j) for i in range(n) for j in range(i + 1, n) if group[i] == group[j]]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=6))
def test_pairs_between_groups(blocks: list[tuple[int, int]]) -> None:
    left, right = (np.array([block[side] for block in blocks], int) for side in (0, 1))
    a, b = pairs_between(left, right)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [
        (i, j) for m, n in blocks for i in range(m) for j in range(n)
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_components_are_what_edges_connect(edges: list[tuple[int, int]]) -> None:
    groups = [{k} for k in range(10)]
    for a, b in edges:
        joined = groups[a] | groups[b]
        for k in joined:
            groups[k] = joined
    assert _components(10, np.array(edges, int).reshape(-1, 2)).tolist() == [min(group) for group in groups]


def test_hash_bits() -> None:
    """Brightness that rises to the right sets all 64 bits; that falls, or is level, none."""
    ramp = np.tile(np.arange(90, dtype=np.uint8), (80, 1))
    assert difference_hash(ramp) == 2**64 - 1
    assert difference_hash(ramp[:, ::-1]) == 0
    assert difference_hash(np.full((80, 90), 7, np.uint8)) == 0
    first_row = ramp.copy()
    first_row[10:] = first_row[10:, ::-1]
    assert difference_hash(first_row) == 0xFF00000000000000


def test_reduced_decoding_hardly_changes_the_fingerprint(tmp_path: Path) -> None:
    """A JPEG of 640 x 480 is decoded at an eighth of its size."""
    image = picture(1, (480, 640))
    cv2.imwrite(str(tmp_path / "a.jpg"), image)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.imread(str(tmp_path / "a.jpg")))
    paths = [str(tmp_path / name) for name in ("a.jpg", "a.png")]
    looked = read_pixels(paths, 10)
    assert int(np.bitwise_count(looked.dhash[0] ^ looked.dhash[1])) <= 2
    assert np.abs(thumbnail(paths[0]).astype(int) - thumbnail(paths[1])).mean() < 1
    assert pixel_digest(paths[0]) == pixel_digest(paths[1])
    assert np.array_equal(looked.sizes, read_headers(paths, 10).sizes)


def crowd(count: int) -> Images:
    """Return the fingerprints of frames of a camera that stands still: few hashes, many images each."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 200, (16, 16))
    thumbs = (base + rng.integers(0, 20, (count, 1, 1))).astype(np.uint8)
    flips = (np.uint64(1) << rng.integers(0, 8, count).astype(np.uint64)) * rng.integers(0, 2, count).astype(np.uint64)
    hashes = np.uint64(0x123456789ABCDEF0) ^ flips
    return Images([str(k) for k in range(count)], np.full((count, 2), 96.0), [""] * count, [""] * count, hashes, thumbs)


def test_a_dense_cluster_costs_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 frames make 2e8 pairs; each frame still finds near ones in its own split and in the other."""
    images = crowd(20_000)
    grey = dict(enumerate(np.repeat(np.repeat(images.thumbs, 4, 1), 4, 2)))
    monkeypatch.setattr("utils.diagnosis.audit_duplicates.thumbnail", lambda path: grey[int(path)])
    monkeypatch.setattr("utils.diagnosis.audit_duplicates.pixel_digest", lambda path: path.encode())
    split = np.arange(20_000) % 2
    started = time.process_time()
    twins = find_twins(images, split)
    assert time.process_time() - started < 30
    across = twins.pairs[split[twins.pairs[:, 0]] != split[twins.pairs[:, 1]]]
    assert len(np.unique(across)) == 20_000 and (twins.difference < 8).all()
    assert len(np.unique(twins.group)) == 1


# Findings -------------------------------------------------------------------------------------------------------------


def set_with(tmp_path: Path, train: np.ndarray, val: np.ndarray, rows: tuple[str, str] = (BOX, BOX)) -> Audit:
    """Return the audit of a set with one image in each split."""
    yaml = write_set(tmp_path / "set", {"train": {"a": rows[0]}, "val": {"b": rows[1]}})
    folder = tmp_path / "set" / "images"
    cv2.imwrite(str(folder / "train" / "a.png"), train)
    cv2.imwrite(str(folder / "val" / "b.png"), val)
    return audit_labels(yaml)


def leaks(audit: Audit) -> list[tuple[str, str, str]]:
    return [(f.code, f.severity, Path(f.file).name) for f in audit.of("L15", "L16", "L17")]


def test_l15_same_pixels_in_two_splits(tmp_path: Path) -> None:
    audit = set_with(tmp_path, picture(1), picture(1))
    assert leaks(audit) == [("L15", "error", "b.png")]
    (found,) = audit.of("L15")
    assert Path(found.other).name == "a.png" and "has the same pixels as" in found.message
    assert audit.images["train"]["near_duplicates"] == 0


def test_l15_does_not_depend_on_the_file_format(tmp_path: Path) -> None:
    set_with(tmp_path, picture(1), picture(2))
    folder = tmp_path / "set" / "images"
    (folder / "val" / "b.png").unlink()
    cv2.imwrite(str(folder / "val" / "b.bmp"), picture(1))
    assert leaks(audit_labels(tmp_path / "set" / "data.yaml")) == [("L15", "error", "b.bmp")]


def test_l15_of_a_set_that_validates_on_its_training_images(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": BOX, "b": BOX}})
    yaml.write_text(yaml.read_text().replace("images/val", "images/train"))
    assert leaks(audit_labels(yaml)) == [("L15", "error", "a.png"), ("L15", "error", "b.png")]


@pytest.mark.parametrize(
    ("change", "near"),
    [
        pytest.param(lambda im: cv2.convertScaleAbs(im, beta=4), True, id="a little brighter"),
        pytest.param(lambda im: cv2.imdecode(cv2.imencode(".jpg", im)[1], 1), True, id="compressed"),
        pytest.param(lambda im: cv2.resize(im, (192, 128)), True, id="twice the size"),
        pytest.param(lambda im: im[:, ::-1], False, id="mirrored"),
        pytest.param(lambda im: cv2.convertScaleAbs(im, beta=60), False, id="much brighter"),
        pytest.param(lambda _: picture(2), False, id="another"),
    ],
)
def test_l16_nearly_the_same_in_two_splits(tmp_path: Path, change: object, near: bool) -> None:
    audit = set_with(tmp_path, picture(1), change(picture(1)))
    assert leaks(audit) == ([("L16", "warning", "b.png")] if near else [])


def test_near_duplicates_within_a_split_are_counted(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": BOX, "b": BOX, "c": BOX}, "val": {"d": BOX}})
    cv2.imwrite(str(tmp_path / "set" / "images" / "train" / "b.png"), picture(1))
    audit = audit_labels(yaml)
    assert (leaks(audit), audit.images["train"]["near_duplicates"]) == ([], 2)
    folder = tmp_path / "set" / "images" / "train"
    groups = audit.groups([str(folder / f"{stem}.png") for stem in "abc"])
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param((BOX, BOX), [], id="alike"),
        pytest.param((BOX, "0 0.52 0.5 0.25 0.25\n"), [], id="a little aside"),
        pytest.param((BOX, "1 0.5 0.5 0.25 0.25\n"), [("a.txt", 1, "nut in the nearly same")], id="another class"),
        pytest.param((BOX + "1 0.1 0.1 0.1 0.1\n", BOX), [("a.txt", 2, "no box in the nearly same")], id="one lacks"),
        pytest.param((BOX, ""), [("a.txt", 1, "no box in the nearly same")], id="all lacking"),
        pytest.param(
            (BOX, "0 0.1 0.1 0.1 0.1\n"),
            [("a.txt", 1, "no box in the nearly same"), ("b.txt", 1, "no box in the nearly same")], id="elsewhere",
        ),
    ],
)  # fmt: skip
def test_l17_labels_that_contradict(tmp_path: Path, rows: tuple[str, str], expected: list) -> None:
    audit = set_with(tmp_path, picture(1), picture(1), rows)
    found = audit.of("L17")
    assert [(Path(f.file).name, f.line) for f in found] == [(name, line) for name, line, _ in expected]
    for finding, (_, _, words) in zip(found, expected, strict=True):
        assert words in finding.message and finding.box is not None and finding.severity == "warning"
