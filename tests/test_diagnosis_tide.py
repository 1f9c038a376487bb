"""The AP view: types and gains against worked numbers, a brute-force twin and the tidecv package."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import tidecv_figures
from diagnosis_cases import NC, as_lists, ground_truth, predictions, random_run, scenes, worked_example
from diagnosis_twin import Tide as Twin
from hypothesis import given, settings

from utils.diagnosis.ap import average_precision
from utils.diagnosis.class_table import ap_over_ious
from utils.diagnosis.tide import COCO_AREAS, ERRORS, LEFT_OUT, TYPES, TideSettings, tide
from utils.errors import InputError

RECORDED = Path(__file__).with_name("tidecv_figures.json")


def named(result):
    return [TYPES[code] for code in result.types]


def test_the_worked_example_to_the_number():
    result = tide(*worked_example())
    assert named(result) == ["TP", "Cls", "Loc", "Bkg"]
    assert result.target.tolist() == [0, 1, 0, -1]
    assert result.iou.tolist() == [0.8, 0.7, 0.3, 0.0]
    assert not result.miss.any()
    assert result.ap.tolist() == [100, 0] and result.map_ == 50
    assert result.delta == {"Cls": 50, "Loc": 0, "Both": 0, "Dupe": 0, "Bkg": 0, "Miss": 0}
    assert result.special == {"FP": 0, "FN": 50}
    assert result.delta_cls_pairs == {(0, 1): 50}
    assert result.delta_cls_per_class.tolist() == [0, 100]


def test_each_type_in_a_scene_of_its_own():
    """An object (0, 0, 10, 10) of class 0, and a better prediction that takes it where ``taken``."""
    cases = {  # name -> (class, box, taken)
        "Dupe": (0, (0, 0, 10, 8), True),
        "Loc": (0, (0, 0, 10, 4), True),
        "Cls": (1, (0, 0, 10, 8), True),
        "Both": (1, (0, 0, 10, 4), True),
        "Bkg": (1, (0, 0, 10, 1), True),
        "TP": (0, (0, 0, 10, 8), False),
    }
    gt = ground_truth([(0, 0, 0, 0, 10, 10)])
    for name, (cls, box, taken) in cases.items():
        better = [(0, 0, 0.9, 0, 0, 10, 10)] if taken else []
        result = tide(gt, predictions([*better, (0, cls, 0.5, *box)]))
        assert named(result)[-1] == name, name
        assert not result.miss.any()


@pytest.mark.parametrize(
    ("height", "cls", "kind"),
    [(5, 0, "TP"), (1, 0, "Loc"), (5, 1, "Cls"), (1, 1, "Bkg")],
    ids=["IoU .5 finds", "IoU .1 aims", "IoU .5 of another class", "IoU .1 is background"],
)
def test_the_thresholds_themselves_belong_where_the_definition_puts_them(height, cls, kind):
    gt = ground_truth([(0, 0, 0, 0, 10, 10)])
    assert named(tide(gt, predictions([(0, cls, 0.5, 0, 0, 10, height)]))) == [kind]


def test_an_error_on_a_found_object_or_below_a_better_one_is_removed_and_not_made_right():
    """g0 class 0 is not found; three Cls errors aim at it, and one at g1, which is found: one alone becomes right."""
    gt = ground_truth([(0, 0, 0, 0, 10, 10), (0, 1, 50, 0, 60, 10)], nc=2)
    at_g0 = [(0, 1, conf, 0, 0, 10, 9) for conf in (0.5, 0.7, 0.6)]
    result = tide(gt, predictions([*at_g0, (0, 1, 0.9, 50, 0, 60, 10), (0, 0, 0.8, 50, 0, 60, 10)]))
    assert result.counts["Cls"] == 4
    assert result.ap.tolist() == [0, 100]
    assert result.delta["Cls"] == 50  # class 0 gets 100: the prediction at .8 is gone, .7 is right
    assert result.delta_cls_pairs == {(0, 1): 0, (1, 0): pytest.approx(25)}  # the one at .8 still stands before .7


def test_equal_to_recorded_figures_of_tidecv():
    """Exactly the same counts, and AP and gains to nine digits; the figures' command stands in tidecv_figures.py."""
    recorded = json.loads(RECORDED.read_text())
    assert recorded["tidecv"] == "1.0.1"
    assert set(recorded["sets"]) == set(tidecv_figures.SETS)
    for name, values in tidecv_figures.SETS.items():
        _assert_as_tidecv(recorded["sets"][name], values, name)


@pytest.mark.skipif(importlib.util.find_spec("tidecv") is None, reason="tidecv is not installed")
@pytest.mark.parametrize("seed", range(10, 16))
def test_equal_to_tidecv_itself(seed):
    values = (seed, 25, 1 + seed % 5, 150, 500, 0.15)
    figures = tidecv_figures.tidecv_figures(*tidecv_figures.random_set(*values))
    _assert_as_tidecv(figures, values, f"seed {seed}")


def _assert_as_tidecv(figures, values, name):
    _, images, classes, *_ = values
    truth, found = tidecv_figures.random_set(*values)
    gt = ground_truth([(i, c, x, y, x + w, y + h) for i, c, (x, y, w, h) in truth], images, classes)
    pred = predictions([(i, c, s, x, y, x + w, y + h) for i, c, s, (x, y, w, h) in found])
    result = tide(gt, pred, TideSettings(max_det=tidecv_figures.MAX_DET))
    assert {kind: result.counts[kind] for kind in ERRORS} == figures["counts"], name
    assert result.map_ == pytest.approx(figures["map"], abs=1e-9), name
    assert result.delta == pytest.approx(figures["delta"], abs=1e-9), name
    assert result.special == pytest.approx(figures["special"], abs=1e-9), name


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_equal_to_the_brute_force_twin(scene):
    gt, pred = scene
    result, twin = tide(gt, pred), Twin(*as_lists(gt, pred), NC)
    assert named(result) == twin.types
    assert result.target.tolist() == twin.target
    assert result.miss.tolist() == twin.miss
    np.testing.assert_allclose(result.ap, twin.base, atol=1e-9)
    gains = {**result.delta, **result.special}
    for name, gain in twin.delta.items():
        assert gains[name] == pytest.approx(gain, abs=1e-9, nan_ok=True), name
    assert result.delta_cls_pairs == pytest.approx(twin.pairs(), abs=1e-9, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_every_prediction_has_one_type_and_every_object_one_fate(scene):
    gt, pred = scene
    result = tide(gt, pred)
    counts = result.counts
    assert sum(counts[name] for name in TYPES if name != "Miss") == len(pred)
    assert counts["TP"] == result.found.sum()
    assert not (result.miss & result.found).any()
    assert all(value >= 0 for value in [*result.delta.values(), *result.special.values()] if not math.isnan(value))
    if not math.isnan(result.map_):
        assert result.map_ + max(result.delta.values()) <= 100 + 1e-9
    for name, numbers in result.counts_per_class.items():
        assert numbers.sum() == counts[name]
    json.dumps(result.to_dict(), allow_nan=False)


def test_parts_by_area_add_up_to_the_whole():
    gt, pred = random_run(1)
    whole = tide(gt, pred)
    parts = [tide(gt, pred, TideSettings(area=area)) for area in COCO_AREAS.values()]
    for name in TYPES:
        assert sum(part.counts[name] for part in parts) == whole.counts[name], name
    assert (np.sum([part.types != LEFT_OUT for part in parts], 0) == 1).all()
    assert (np.sum([part.used for part in parts], 0) == 1).all()
    assert sum(len(part.to_dict()["ap"]) for part in parts) == 3 * gt.nc


def test_one_class_keeps_its_ap_when_others_are_left_out():
    gt, pred = random_run(2)
    whole, one = tide(gt, pred), tide(gt, pred, TideSettings(classes=(2,)))
    assert one.map_ == whole.ap[2]
    assert one.counts["Loc"] == whole.counts_per_class["Loc"][2]
    assert one.counts["Miss"] == whole.counts_per_class["Miss"][2]


def test_max_det_leaves_out_the_least_confident_of_each_image():
    gt, pred = random_run(3)
    cut = tide(gt, pred, TideSettings(max_det=5))
    direct = tide(gt, pred.best_of_image(5))
    assert cut.counts == direct.counts and cut.map_ == direct.map_ and cut.delta == direct.delta
    assert (cut.types != LEFT_OUT).sum() == len(pred.best_of_image(5))


def test_a_class_without_objects_leaves_the_mean_but_its_predictions_are_listed():
    gt = ground_truth([(0, 0, 0, 0, 10, 10)])
    result = tide(gt, predictions([(0, 0, 0.9, 0, 0, 10, 10), (0, 2, 0.8, 50, 50, 60, 60), (0, 2, 0.7, 0, 0, 10, 10)]))
    assert result.map_ == 100
    assert result.absent == {2: 2}
    assert result.counts["Bkg"] == 1 and result.counts["Cls"] == 1
    assert result.to_dict()["ap"] == [100, None, None]


@pytest.mark.parametrize(("objects", "found"), [([], []), ([], [(0, 0, 0.5, 0, 0, 9, 9)]), ([(0, 1, 0, 0, 9, 9)], [])])
def test_nothing_to_find_or_nothing_found(objects, found):
    result = tide(ground_truth(objects), predictions(found))
    assert result.counts["Bkg"] == len(found) and result.counts["Miss"] == len(objects)
    assert math.isnan(result.map_) == (not objects)
    assert result.delta["Miss"] == pytest.approx(100 if objects else math.nan, nan_ok=True)
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("right", "n_gt", "expected"),
    [
        ([True], 1, 100),
        ([False, True], 1, 50),
        ([True, False, True], 2, 100 * (51 + 50 * 2 / 3) / 101),
        ([True], 2, 100 * 51 / 101),
        ([], 3, 0),
        ([False], 0, math.nan),
        ([True] * 35, 100, 100 * 36 / 101),
    ],
    ids=["found", "second", "two of three", "half", "none", "no objects", "a level reached exactly"],
)
def test_average_precision_by_hand(right, n_gt, expected):
    assert average_precision(np.array(right, bool), n_gt) == pytest.approx(expected, nan_ok=True)


def test_ap_over_ious_is_the_mean_of_single_thresholds():
    gt, pred = random_run(4)
    each = [tide(gt, pred, TideSettings(t_f=t)).ap for t in (0.5, 0.75)]
    np.testing.assert_allclose(ap_over_ious(gt, pred, np.array([0.5, 0.75])), np.mean(each, 0))


@pytest.mark.parametrize(
    "wrong",
    [{"t_f": 0.05}, {"t_b": 0}, {"t_f": 1.5}, {"max_det": 0}, {"area": (9, 9)}, {"area": (-1, 9)}],
    ids=str,
)
def test_settings_outside_their_range_are_refused(wrong):
    with pytest.raises(InputError, match="allowed"):
        TideSettings(**wrong)
