"""Class weights: the numbers worked by hand, and upstream's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.balance import class_weights as cw
from utils.errors import InputErrors

N3 = np.array([459, 80, 14])
NAMES = ["a", "b", "c"]


def weights(chosen: Any, counts: Any = N3, names: Any = NAMES, labels: Any = None, **keys: Any) -> cw.ClassWeights:
    return cw.class_weights(
        {"cls_weights": chosen, **{f"cls_weights_{k}": v for k, v in keys.items()}}, counts, names, labels
    )


def image(*classes: int) -> np.ndarray:
    return np.array([[c, 0.5, 0.5, 0.1, 0.1] for c in classes], dtype=np.float32).reshape(-1, 5)


@pytest.mark.parametrize(
    ("scheme", "keys", "expected"),
    [
        ("inverse", {}, [0.4016, 2.3042, 13.1667]),
        ("sqrt_inverse", {}, [0.7567, 1.8126, 4.3329]),
        ("effective_number", {"beta": 0.99}, [0.7811, 1.3998, 5.8920]),
        ("effective_number", {"beta": 0.999}, [0.4560, 2.1832, 12.0731]),
        ("inverse", {"power": 0.25, "norm": "class"}, [0.6072, 0.9398, 1.4530]),
    ],
)
def test_schemes_by_hand(scheme: str, keys: dict[str, Any], expected: list[float]) -> None:
    w = weights(scheme, max=None, **keys)
    assert w.values == pytest.approx(expected, abs=5.1e-5)
    assert w.clipped == ()
    if keys.get("norm") == "class":
        assert w.values.mean() == pytest.approx(1, abs=1e-6)
    else:
        assert (N3 * w.values).sum() / N3.sum() == pytest.approx(1, abs=1e-6)


def test_median_frequency_by_hand() -> None:
    """Images {0: 4}, {0: 3, 1: 1}, {0: 1, 2: 1}: f = .8, .25, .5 → .625, 2, 1, divided by (8·.625 + 2 + 1)/10 = .8."""
    labels = [image(0, 0, 0, 0), image(0, 0, 0, 1), image(0, 2)]
    w = weights("median_frequency", cw.class_counts(labels, 3), labels=labels)
    assert w.raw == pytest.approx([0.625, 2, 1])
    assert w.values == pytest.approx([0.78125, 2.5, 1.25])


def test_given_numbers_stay_as_given() -> None:
    w = weights([1, 2.5, 1, 1], np.array([5, 3, 0, 9]), list("abcd"))
    assert w.values.tolist() == [1, 2.5, 1, 1]
    assert (w.scheme, w.norm) == ("list", "none")
    assert weights({"b": 3}).values.tolist() == [1, 3, 1]
    assert weights({"b": 3}, names={0: "a", 1: "b", 2: "c"}).values.tolist() == [1, 3, 1]


def test_off_is_none() -> None:
    assert cw.class_weights({}, N3, NAMES) is None
    assert cw.class_weights({"cls_weights": None}, N3, NAMES) is None


def test_weights_of_the_data_set_count_unless_the_hyp_has_its_own() -> None:
    assert cw.class_weights({}, N3, NAMES, None, [1, 2, 3]).values.tolist() == [1, 2, 3]
    assert cw.class_weights({"cls_weights": [3, 2, 1]}, N3, NAMES, None, [1, 2, 3]).values.tolist() == [3, 2, 1]


def test_limit() -> None:
    """1/n = (1, .1, .01); limited to 10 × the smallest: (.1, .1, .01)."""
    w = weights("inverse", np.array([1, 10, 100]), max=10, norm="none")
    assert w.values == pytest.approx([0.1, 0.1, 0.01])
    assert w.raw == pytest.approx([1, 0.1, 0.01])
    assert w.clipped == (0,)
    assert "limited by cls_weights_max: a" in w.summary(NAMES)
    assert weights("inverse").values.max() / weights("inverse").values.min() == pytest.approx(10)


@pytest.mark.parametrize("chosen", [[1.0, 2.0, 50.0], {"c": 50.0, "b": 2.0}])
def test_given_weights_of_a_class_without_instances_are_1(chosen: Any) -> None:
    found = cw.class_weights({"cls_weights": chosen}, np.array([9, 3, 0]), ["a", "b", "c"])
    assert found.values.tolist() == [1, 2, 1] and not found.clipped


def test_class_without_instances() -> None:
    counts = np.array([100, 0, 25])
    w = weights("sqrt_inverse", counts)
    assert w.values[1] == 1
    assert (counts * w.values).sum() / counts.sum() == pytest.approx(1)
    assert weights("inverse", np.zeros(3, int)).values.tolist() == [1, 1, 1]
    mean = weights("inverse", counts, norm="class").values
    assert (mean[0] + mean[2]) / 2 == pytest.approx(1) and mean[1] == 1


@pytest.mark.parametrize(
    ("chosen", "text"),
    [([1, 2], "2 values for 3 classes"), ({"nut": 2, "skrew": 3}, "unknown class 'skrew', did you mean 'screw'?")],
)
def test_wrong_classes(chosen: Any, text: str) -> None:
    with pytest.raises(InputErrors) as error:
        weights(chosen, names=["screw", "nut", "bolt"])
    assert text in str(error.value)


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=30),
    st.sampled_from(["inverse", "sqrt_inverse", "effective_number"]),
)
def test_any_counts_keep_the_expected_loss(counts: list[int], scheme: str) -> None:
    n = np.array(counts)
    w = weights(scheme, n, [str(i) for i in range(len(n))]).values
    assert np.isfinite(w).all() and (w > 0).all()
    if n.sum():
        assert (n * w).sum() / n.sum() == pytest.approx(1, abs=1e-6)
        held = w[n > 0]
        assert held.max() / held.min() <= 10 * (1 + 1e-9)
        order = np.argsort(n[n > 0], kind="stable")
        assert (np.diff(held[order]) <= 1e-9 * held.max()).all()  # rarer never counts less


@pytest.mark.parametrize(
    ("start", "epochs", "first"), [(0, 5, 0), (0.7, 10, 7), (0.1, 30, 3), (0.35, 10, 4), (2, 9, 2)]
)
def test_first_weighted_epoch(start: float, epochs: int, first: int) -> None:
    assert cw.first_weighted_epoch(start, epochs) == first


# ---- upstream's formulas
@pytest.mark.parametrize(
    ("name", "folder"), [("coco128", "coco128/labels/train2017"), ("bccd_train", "bccd/labels/train")]
)
def test_golden_label_weights(golden: Any, shared: Path, name: str, folder: str) -> None:
    facts = golden("schedule_and_data")[0]["datasets"][name]
    path, images = shared / "datasets" / folder, shared / "datasets" / folder.replace("labels", "images")
    labels = []
    for im in sorted(images.glob("*.*")):
        text = (path / f"{im.stem}.txt").read_text() if (path / f"{im.stem}.txt").exists() else ""
        labels.append(np.unique(np.array([x.split() for x in text.splitlines()], np.float32).reshape(-1, 5), axis=0))
    nc = facts["nc"]
    assert cw.class_counts(labels, nc).tolist() == facts["instances_per_class"]
    class_weights = cw.labels_to_class_weights(labels, nc)
    assert class_weights.numpy() == pytest.approx(facts["class_weights"], rel=1e-5)
    ones = cw.labels_to_image_weights(labels, nc, np.ones(nc))
    assert ones[:10].tolist() == facts["image_weights_all_ones_first10"]
    assert ones.sum() == facts["image_weights_all_ones_sum"]
    example = cw.labels_to_image_weights(labels, nc, class_weights.numpy() * (1 - np.linspace(0, 0.9, nc)) ** 2)
    assert example[:10] == pytest.approx(facts["image_weights_example"]["first10"], rel=1e-5)
    assert example.sum() == pytest.approx(facts["image_weights_example"]["sum"], rel=1e-5)


def test_counts_of_nothing() -> None:
    assert cw.class_counts([image(), image()], 3).tolist() == [0, 0, 0]
    assert cw.image_counts([image(1, 1), image()], 3).tolist() == [0, 1, 0]
    held = cw.classes_held([image(1, 1), image(), image(0, 2)], 3)
    assert np.stack(held, 1).tolist() == [[0, 1], [2, 0], [2, 2]]
    assert len(cw.labels_to_class_weights([])) == 0
