"""Per-class confidence thresholds: reading the option, finding the best ones, and the file between the two."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.class_thresholds import best_thresholds, class_thresholds, save_thresholds
from utils.errors import InputError, MissingFileError
from utils.yaml_files import read_yaml

NAMES = {0: "bolt", 1: "nut", 2: "coupling"}


def _given(value, names=NAMES, conf_thres=0.25):
    return [round(t, 6) for t in class_thresholds(value, names, conf_thres).tolist()]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("0.3,0.5,0", [0.3, 0.5, 0.0]),
        (" 0.3, .5, 1 ", [0.3, 0.5, 1.0]),
        ("[0.3, 0.5, 1e-3]", [0.3, 0.5, 0.001]),
        ([0.3, 0.5, 1], [0.3, 0.5, 1.0]),
        ((0.3, 0.5, 1), [0.3, 0.5, 1.0]),
        (np.array([0.25, 0.5, 1]), [0.25, 0.5, 1.0]),
        (torch.tensor([0.25, 0.5, 1]), [0.25, 0.5, 1.0]),
        ("coupling=0.2", [0.25, 0.25, 0.2]),
        ("coupling=0.2, bolt = 0.4", [0.4, 0.25, 0.2]),
        ("{coupling: 0.2}", [0.25, 0.25, 0.2]),
        ({"nut": 0.7}, [0.25, 0.7, 0.25]),
        ({1: 0.7, "bolt": 0.1}, [0.1, 0.7, 0.25]),
    ],
)
def test_forms(value, wanted) -> None:
    assert _given(value) == wanted


@pytest.mark.parametrize("value", [None, "", "  "])
def test_off(value) -> None:
    assert class_thresholds(value, NAMES, 0.25) is None


def test_names_go_before_numbers() -> None:
    """A class called '1' is meant by 1, however it is written."""
    names = {0: "1", 1: "a,b", 2: "x=y", 3: "x=y"}
    assert _given({1: 0.5}, names) == _given({"1": 0.5}, names) == _given("1=0.5", names) == [0.5, 0.25, 0.25, 0.25]
    assert _given("x=y=0.5", names) == [0.25, 0.25, 0.5, 0.5], "both classes of one name"
    assert _given("{'a,b': 0.5}", names) == [0.25, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("cupling=0.2", "--class-thres: unknown class 'cupling', did you mean 'coupling'?"),
        ("zebra=0.2", "unknown class 'zebra', classes: bolt, nut, coupling"),
        ({7: 0.2}, "unknown class '7'"),
        ("0.3,0.5", "2 values for 3 classes (bolt, nut, coupling)"),
        ("0.3", "1 values for 3 classes (bolt, nut, coupling); --conf-thres is for all classes"),
        ("nut=1.5", "nut is 1.5, allowed are 0.0 to 1.0"),
        ("nut=-0.1", "nut is -0.1, allowed are 0.0 to 1.0"),
        ("nut=nan", "nut is nan, allowed"),
        ("nut=high", "nut is 'high', allowed"),
        ("[0.1, 0.2, true]", "coupling is True, allowed"),
        ([0.1, 0.2, None], "coupling is None, allowed"),
        ("thresholds.txt", "--class-thres thresholds.txt: allowed is a list like"),
        ("nut=0.1,nut=0.2", "each class once"),
        ("nut=0.1,", "each class once"),
        ("=0.1", "each class once"),
        ({"nut": 0.1, 1: 0.2}, "class 'nut' is given twice"),
        ("{nut: 0.1, nut: 0.2}", "key 'nut' is given twice"),
        ("{nut: 0.1", "--class-thres, line 1: not valid YAML"),
        ("[]", "--class-thres []: allowed is a list like"),
        (0.5, "--class-thres 0.5: allowed is a list like"),
    ],
)
def test_refusals(value, words) -> None:
    with pytest.raises(InputError) as error:
        class_thresholds(value, NAMES, 0.25)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_all_problems_come_together() -> None:
    with pytest.raises(InputError) as error:
        class_thresholds("bolts=0.1,nut=2", NAMES, 0.25)
    assert len(str(error.value).splitlines()) == 2


def test_files(tmp_path) -> None:
    path = tmp_path / "my thresholds.yaml"
    path.write_text("# a remark\nnut: 0.5\n")
    assert _given(path) == _given(str(path)) == [0.25, 0.5, 0.25]
    path.write_text("nuts: 0.5\n")
    with pytest.raises(InputError, match=r"my thresholds.yaml: unknown class 'nuts', did you mean 'nut'"):
        class_thresholds(path, NAMES, 0.25)
    with pytest.raises(MissingFileError, match=r"--class-thres .*gone.yaml: no such file"):
        class_thresholds(tmp_path / "gone.yaml", NAMES, 0.25)


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_thresholds_or_one_kind_of_error(text) -> None:
    try:
        found = class_thresholds(text, NAMES, 0.25)
    except InputError as error:
        assert str(error)
    else:
        assert found is None or found.shape == (3,)


# From an evaluation ------------------------------------------------------------------------------------------------


def _best(correct, conf, labels, pred_cls=None):
    pred_cls = np.zeros(len(conf)) if pred_cls is None else np.asarray(pred_cls)
    classes = np.arange(len(labels))
    correct, conf = np.asarray(correct, bool), np.asarray(conf, np.float32)
    return best_thresholds(correct, conf, pred_cls, classes, np.asarray(labels)).tolist()


def test_best_threshold_by_hand() -> None:
    """4 labels; detections right, right, wrong, right, wrong at .9 .8 .7 .6 .5.

    F1 = 2 tp / (kept + labels): 2/5, 4/6, 4/7, 6/8, 6/9. The best is 3/4 with four kept, so the threshold lies in
    [.5, .6), and the highest number of three decimals there is .599.
    """
    assert _best([1, 1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.5], [4]) == [0.599]


def test_ties_go_to_the_higher_threshold() -> None:
    """2 labels; right at .9, then wrong, wrong, right at .6: F1 = 2/3, 2/4, 2/5, 4/6; the first alone does."""
    assert _best([1, 0, 0, 1], [0.9, 0.8, 0.7, 0.6], [2]) == [0.899]


def test_detections_of_one_confidence_are_kept_together() -> None:
    """1 label; right and wrong both at .5: they cannot be told apart, the threshold lies below both."""
    assert _best([1, 0, 0], [0.5, 0.5, 0.4], [1]) == [0.499]


def test_close_confidences_get_more_decimals() -> None:
    found = _best([1, 0], [0.50041, 0.50038], [1])
    assert found == [0.5004]
    high = np.float32(0.7)
    low = np.nextafter(high, np.float32(0))
    (threshold,) = _best([1, 0], [high, low], [1])
    assert low <= np.float32(threshold) < high


def test_a_certain_detection_stays_above_its_threshold() -> None:
    assert _best([1], [1.0], [1]) == [0.999]


def test_classes_apart_and_classes_without_a_right_detection() -> None:
    found = _best([1, 0, 1], [0.9, 0.8, 0.3], [1, 1, 2, 5], pred_cls=[0, 1, 2])
    assert found[0] == 0.899 and math.isnan(found[1]) and found[2] == 0.299 and math.isnan(found[3])
    assert _best([], [], [3]) == [pytest.approx(math.nan, nan_ok=True)]


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.25, 0.5, 0.503, 0.75, 0.9999])), min_size=1, max_size=12),
    st.integers(0, 5),
)
@settings(max_examples=200, deadline=None)
def test_no_threshold_is_better(detections, missed) -> None:
    correct = np.array([d[0] for d in detections])
    conf = np.array([d[1] for d in detections], np.float32)
    labels = max(int(correct.sum()) + missed, 1)
    (found,) = _best(correct, conf, [labels])

    def f1(threshold):
        kept = conf > np.float32(threshold)
        return 2 * (correct & kept).sum() / (kept.sum() + labels)

    every = {t: f1(t) for t in np.linspace(0, 1, 2001)}
    if not correct.any():
        assert math.isnan(found)
        return
    assert f1(found) == max(every.values())
    assert all(t <= found + 1e-3 for t, value in every.items() if value == f1(found))


# The file ------------------------------------------------------------------------------------------------------------


def test_the_file_comes_back_and_tells_its_origin(tmp_path) -> None:
    path = tmp_path / "thresholds.yaml"
    save_thresholds(path, {0: 0.312, 1: math.nan}, NAMES, "runs/val/exp,\nweights best.pt, data parts.yaml (val)")
    lines = path.read_text().splitlines()
    assert lines[1] == "# From runs/val/exp, weights best.pt, data parts.yaml (val)"
    assert lines[2] == "# Without a right detection, --conf-thres holds: nut, coupling"
    assert lines[3:] == ["bolt: 0.312"]
    assert _given(path) == [0.312, 0.25, 0.25]


def test_an_evaluation_that_found_nothing_leaves_conf_thres(tmp_path) -> None:
    save_thresholds(tmp_path / "t.yaml", {}, NAMES, "here")
    assert read_yaml(tmp_path / "t.yaml") == {}
    assert _given(tmp_path / "t.yaml") == [0.25] * 3


@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_names_come_back(tmp_path_factory, names) -> None:
    names = dict(enumerate(names))
    if len(set(names.values())) < len(names):
        return
    path: Path = tmp_path_factory.mktemp("t") / "thresholds.yaml"
    thresholds = {c: 0.1 * c for c in names}
    save_thresholds(path, thresholds, names, "here")
    assert _given(path, names) == [round(t, 6) for t in thresholds.values()]


def test_classes_of_one_name_are_told_apart_by_number(tmp_path) -> None:
    names = {0: "bolt", 1: "bolt"}
    save_thresholds(tmp_path / "t.yaml", {0: 0.25, 1: 0.5}, names, "here")
    assert _given(tmp_path / "t.yaml", names) == [0.25, 0.5]
