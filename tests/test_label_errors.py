"""benchmarks/label_errors.py: what it plants, and how it counts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from utils.diagnosis.data import GroundTruth, ImageInfo, iou, paired_iou, sort_objects, sort_predictions

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "label_errors.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("label_errors", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    infos = []
    for k in range(20):
        path = tmp_path / "images" / f"{k}.png"
        path.write_bytes(b"")
        infos.append(ImageInfo(str(path), "", 200, 100))
    low = rng.uniform(0, 60, (200, 2)) * (2, 1)
    boxes = np.concatenate((low, low + rng.uniform(10, 40, (200, 2))), 1)
    boxes[0] = (0, 0, 200, 100)
    return sort_objects(infos, rng.integers(0, 20, 200), boxes, rng.integers(0, 4, 200), {k: str(k) for k in range(5)})


def test_planted_errors_are_as_many_as_asked_for_and_apart(bench: ModuleType, truth: GroundTruth) -> None:
    planted = bench.plant(truth, 0.05, 3)
    assert np.bincount(planted.kind + 1, minlength=4).tolist() == [170, 10, 0, 10]
    assert (len(planted.truth), len(planted.dropped_image)) == (190, 10)
    before = {(i, *box): c for i, box, c in zip(truth.image, map(tuple, truth.boxes), truth.cls, strict=True)}
    moved = []
    for i, box, c, kind in zip(
        planted.truth.image, map(tuple, planted.truth.boxes), planted.truth.cls, planted.kind, strict=True
    ):
        if kind == bench.KINDS.index("shift"):
            moved.append((i, box, c))
        else:  # a swapped box keeps its place and takes a class that occurs: never 4
            assert ((before[(i, *box)] != c) == (kind == bench.KINDS.index("swap"))) and c < 4
    assert all((i, *box) not in before for i, box, _ in moved)
    again = bench.plant(truth, 0.05, 3)
    assert np.array_equal(again.truth.boxes, planted.truth.boxes) and np.array_equal(again.kind, planted.kind)


def test_moved_boxes_stay_inside_and_overlap_their_place(bench: ModuleType, truth: GroundTruth) -> None:
    rng = np.random.default_rng(0)
    moved = np.array([bench.moved(box, 200, 100, rng) for box in truth.boxes])
    assert (moved[:, :2] >= 0).all() and (moved[:, 2] <= 200).all() and (moved[:, 3] <= 100).all()
    overlap = paired_iou(truth.boxes, moved)
    assert (overlap >= 0.2).all() and (overlap <= 0.65).all()
    whole = np.array([0.0, 0, 200, 100])  # leaves no room: 70 % of each side remain
    assert iou(whole, bench.moved(whole, 200, 100, rng))[0, 0] == pytest.approx(0.49)


def test_the_copy_says_what_was_planted(bench: ModuleType, truth: GroundTruth, tmp_path: Path) -> None:
    planted = bench.plant(truth, 0.05, 0)
    copy = bench.write_copy(planted, tmp_path / "copy")
    for i, info in enumerate(copy.images):
        rows = np.loadtxt(info.label_path, ndmin=2).reshape(-1, 5)
        own = copy.of_image(i)
        assert rows[:, 0].tolist() == copy.cls[own].tolist()
        centre, half = rows[:, 1:3] * (200, 100), rows[:, 3:5] * (200, 100) / 2
        np.testing.assert_allclose(np.concatenate((centre - half, centre + half), 1), copy.boxes[own], atol=1e-3)
        assert Path(info.path).exists()


def test_left_out_boxes_are_found_once(bench: ModuleType, truth: GroundTruth) -> None:
    planted = bench.plant(truth, 0.05, 0)
    image, box = planted.dropped_image[:1].repeat(3), planted.dropped_boxes[:1].repeat(3, 0)
    pred = sort_predictions(image, box + np.array([[0], [0.1], [1000]]), [0.9, 0.8, 0.7], [0, 1, 0])
    assert bench.hits_of(np.arange(3), planted, pred).tolist() == [True, False, False]
    assert iou(box[0], planted.dropped_boxes[0])[0, 0] == 1


def test_figures_by_hand(bench: ModuleType) -> None:
    """Right at ranks 1 and 3 of 4 planted: AP (1 + 2/3) / 4; two findings, one right."""
    found = bench.figures(np.array([True, False, True, False]), np.array([True, True, False, False]), 4)
    assert found == {
        "findings": 2, "right": 1, "precision": 0.5, "recall": 0.25, "ap": pytest.approx((1 + 2 / 3) / 4), "top": 0.5,
    }  # fmt: skip
