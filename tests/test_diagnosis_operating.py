"""The operating view: counts that add up, the table of classes, and thresholds."""

import json
import math

import numpy as np
import pytest
import yaml
from diagnosis_cases import NC, as_lists, ground_truth, predictions, random_run, scenes, worked_example
from diagnosis_twin import operate as twin_operate
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.class_thresholds import class_thresholds
from utils.diagnosis.class_table import best_f1_thresholds, class_table, save_class_thresholds, wilson
from utils.diagnosis.operating import (
    FALSE_TYPES,
    GT_STATES,
    PRED_TYPES,
    best_confidence,
    operate,
    single_label,
)
from utils.diagnosis.tide import tide
from utils.errors import WorkError

CONFS = st.sampled_from([0.0, 0.05, 0.25, 0.5, 0.85])


def test_the_worked_example_to_the_number():
    result = operate(*worked_example(), 0.25)
    assert result.counts == {
        "objects": 2, "predictions": 4, "TP": 1, "misclassified": 1, "FP": 2, "location": 1, "extra class": 0,
        "duplicate": 0, "background": 1, "other": 0, "FN": 0, "badly located": 0, "missed": 0,
    }  # fmt: skip
    assert result.pairs == {(0, 1): 1}
    assert [PRED_TYPES[code] for code in result.pred_type] == ["TP", "misclassified", "location", "background"]
    assert result.pred_iou.tolist() == [0.8, 0.7, 0.3, 0]
    assert result.gt_pred.tolist() == [0, 1]


@settings(max_examples=300, deadline=None)
@given(scenes(), CONFS)
def test_equal_to_the_brute_force_twin(scene, conf):
    gt, pred = scene
    result = operate(gt, pred, conf)
    types, states, pairs = twin_operate(*as_lists(gt, pred.above(conf)))
    assert [PRED_TYPES[code] for code in result.pred_type] == types
    assert [GT_STATES[code] for code in result.gt_state] == states
    assert result.pairs == pairs


@settings(max_examples=300, deadline=None)
@given(scenes(), CONFS)
def test_identities_on_every_image_in_every_class_and_in_total(scene, conf):
    """TP + misclassified + badly located + missed = objects; TP + misclassified + all false = predictions."""
    gt, pred = scene
    result = operate(gt, pred, conf)
    used = result.predictions
    assert len(used) == (pred.conf > conf).sum()
    for i in range(len(gt.images)):
        states = np.bincount(result.gt_state[gt.of_image(i)], minlength=len(GT_STATES))
        types = np.bincount(result.pred_type[used.of_image(i)], minlength=len(PRED_TYPES))
        assert states.sum() == (gt.image == i).sum() and types.sum() == (used.image == i).sum()
        assert states[0] == types[0] and states[1] == types[1]
    counts, by_class = result.counts, result.per_class
    assert counts["TP"] + counts["misclassified"] + counts["badly located"] + counts["missed"] == len(gt)
    assert counts["TP"] + counts["misclassified"] + sum(counts[name] for name in FALSE_TYPES) == len(used)
    assert counts["FN"] == counts["badly located"] + counts["missed"]
    assert sum(result.pairs.values()) == counts["misclassified"]
    assert (by_class["TP"] + by_class["misclassified"] + by_class["FN"] == gt.counts()).all()
    taken = np.zeros(NC, int)
    for (k, g), number in result.pairs.items():
        assert k != g
        taken[k] += number
    assert (by_class["TP"] + taken + by_class["FP"] == by_class["predictions"]).all()
    assert all(numbers.sum() == counts[name] for name, numbers in by_class.items())
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_second_class_on_a_found_object_is_no_misclassification():
    gt = ground_truth([(0, 0, 0, 0, 10, 10)])
    result = operate(gt, predictions([(0, 0, 0.5, 0, 0, 10, 9), (0, 1, 0.9, 0, 0, 10, 10)]), 0.25)
    assert result.counts["TP"] == 1 and result.counts["extra class"] == 1 and not result.pairs


def test_badly_located_and_missed():
    gt = ground_truth([(0, 0, 0, 0, 10, 10), (0, 0, 50, 50, 60, 60)])
    result = operate(gt, predictions([(0, 0, 0.9, 0, 0, 10, 4)]), 0.25)
    assert [GT_STATES[s] for s in result.gt_state] == ["badly located", "missed"]
    assert result.counts["location"] == 1 and result.counts["FN"] == 2


def test_a_threshold_for_each_class_lies_below_what_is_kept():
    gt, pred = worked_example()
    result = operate(gt, pred, np.array([0.85, 0.3]))
    assert result.predictions.conf.tolist() == [0.9]  # .3 does not lie above .3
    assert result.counts["missed"] == 1
    assert result.to_dict()["conf"] == [0.85, 0.3]


def test_the_default_threshold_is_that_of_the_best_mean_f1():
    """Ten right predictions above .6, ten wrong ones below .4: anything between keeps exactly the right ones."""
    gt = ground_truth([(0, 0, 20 * i, 0, 20 * i + 10, 10) for i in range(10)])
    right = [(0, 0, 0.6 + 0.01 * i, 20 * i, 0, 20 * i + 10, 10) for i in range(10)]
    wrong = [(0, 0, 0.3 + 0.01 * i, 20 * i, 500, 20 * i + 10, 510) for i in range(10)]
    pred = predictions(right + wrong)
    assert 0.35 < best_confidence(gt, pred) < 0.65
    assert operate(gt, pred).conf == best_confidence(gt, pred)
    assert operate(ground_truth([]), pred).counts["background"] >= 0


def test_single_label_keeps_the_most_confident_of_equal_boxes():
    pred = predictions(
        [(0, 0, 0.4, 0, 0, 9, 9), (0, 1, 0.6, 0, 0, 9, 9), (0, 2, 0.5, 0, 0, 9, 8), (1, 0, 0.1, 0, 0, 9, 9)]
    )
    kept = single_label(pred)
    assert kept.conf.tolist() == [0.6, 0.5, 0.1] and kept.cls.tolist() == [1, 2, 0]


# The table of classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "cases", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_intervals(successes, cases, low, high):
    """The formula by hand for 8 of 10: (.8 + .19207 ± 1.96 sqrt(.016 + .0096036)) / 1.38415 = .4902, .9433."""
    assert wilson(successes, cases) == pytest.approx((low, high), abs=5e-5)


def test_without_cases_there_is_no_interval():
    assert all(math.isnan(end) for end in wilson(0, 0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_wilson_interval_holds_its_share(case):
    low, high = wilson(*case)
    assert 0 <= low <= case[0] / case[1] <= high <= 1


@pytest.fixture(scope="module")
def run():
    gt, pred = random_run(5)
    ap_view, at = tide(gt, pred), operate(gt, pred, 0.4)
    return gt, pred, ap_view, at, class_table(gt, ap_view, at, pred, pred, gt.counts() * 3)


def test_rows_of_the_table_add_up(run):
    gt, _, ap_view, at, table = run
    for row in table.rows():
        c = row["class"]
        assert row["n_val"] == gt.counts()[c] == row["tp"] + row["misclassified"] + row["missed"] + row["badly_located"]
        assert row["predictions"] == row["tp"] + row["wrong_class"] + row["fp"]
        assert row["fp"] == sum(row[name] for name in ("background", "duplicate", "location", "extra_class", "other"))
        assert row["precision"] == row["tp"] / row["predictions"] and row["recall"] == row["tp"] / row["n_val"]
        assert row["f1"] == pytest.approx(2 * row["tp"] / (row["predictions"] + row["n_val"]))
        assert row["f1_low"] < row["f1"] < row["f1_high"]
        assert row["ap50"] == ap_view.ap[c] and row["ap"] < row["ap50"]
        assert row["n_train"] == 3 * row["n_val"] and not row["few"]
        taken_for = {k: n for (k, g), n in at.pairs.items() if g == c}
        worst = max(taken_for, key=lambda k: (taken_for[k], -k))
        assert row["taken_for"].startswith(f"class {worst} {taken_for[worst]}")


def test_a_class_with_few_objects_is_marked():
    gt, pred = worked_example()
    table = class_table(gt, tide(gt, pred), operate(gt, pred, 0.25), pred, pred)
    first, second = table.rows()
    assert first["note"] == second["note"] == "too few to judge"
    assert first["n_train"] is None
    assert first["conf_tp"] == 0.9 and first["conf_fp"] == pytest.approx(0.75)
    assert second["precision"] == 0 and second["taken_for"] == "class 0 1" and first["taken_from"] == "class 1 1"
    assert second["best_conf"] is None


def test_best_thresholds_give_the_best_f1_of_each_class(run):
    """No other threshold does better: tried at every prediction."""
    gt, pred, *_ = run
    thresholds, f1 = best_f1_thresholds(gt, pred)
    everything = operate(gt, pred, 0.0)
    right = everything.pred_type == 0
    for c in range(gt.nc):
        mine = pred.cls == c
        scores = [
            2 * (right & mine & (pred.conf >= limit)).sum() / ((mine & (pred.conf >= limit)).sum() + gt.counts()[c])
            for limit in pred.conf[mine]
        ]
        assert f1[c] == pytest.approx(max(scores))
        kept = mine & (pred.conf > thresholds[c])
        assert f1[c] == pytest.approx(2 * (right & kept).sum() / (kept.sum() + gt.counts()[c]))


def test_thresholds_yaml_is_read_by_class_thres(run, tmp_path):
    gt, _, _, _, table = run
    save_class_thresholds(tmp_path / "thresholds.yaml", table, gt.names, "a test")
    read = class_thresholds(tmp_path / "thresholds.yaml", gt.names, 0.25)
    np.testing.assert_allclose(read.numpy(), table.thresholds, rtol=1e-6)
    assert set(yaml.safe_load((tmp_path / "thresholds.yaml").read_text())) == set(gt.names.values())


def test_the_table_as_csv(run, tmp_path):
    import csv

    table = run[-1]
    table.save(tmp_path / "per_class.csv")
    with (tmp_path / "per_class.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == [f"class {c}" for c in range(4)]
    assert float(rows[0]["ap50"]) == pytest.approx(table.rows()[0]["ap50"], rel=1e-5)
    with pytest.raises(WorkError, match="cannot be written"):
        table.save(tmp_path / "nowhere" / "per_class.csv")
