"""Comparison of runs: the bootstrap against repeated predictions, verdicts and refusals."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from diagnosis_cases import random_run
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.diagnosis.ap import average_precision
from utils.diagnosis.class_table import TOO_FEW
from utils.diagnosis.compare import COLUMNS, COUNTED, LISTED, SAME, Run, compare, drawn_aps, weighted_ap
from utils.diagnosis.operating import operate
from utils.diagnosis.tide import TideSettings, tide
from utils.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def a_run(name, seed, conf=0.4, **kwargs):
    gt, pred = random_run(seed, **kwargs)
    return Run(name, gt, pred, tide(gt, pred), operate(gt, pred, conf))


@pytest.fixture(scope="module")
def runs():
    return a_run("first", 1), a_run("twin", 2), a_run("worse", 3, wrong_class=0.7)


# The bootstrap --------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=25),
    st.lists(st.integers(0, 3), min_size=5, max_size=5),
    st.integers(0, 3),
)
def test_weighted_ap_is_the_ap_of_repeated_predictions(rows, times, unfound):
    """An image that is drawn k times brings its predictions and objects k times."""
    right, image = np.array([r for r, _ in rows], bool), np.array([i for _, i in rows], int)
    objects = np.bincount(image[right], minlength=5) + unfound
    repeated = np.repeat(right, np.array(times)[image])
    expected = average_precision(repeated, int(objects @ np.array(times)))
    drawn = np.array(times, np.float32)[:, None]
    found = weighted_ap(right, image, (objects @ drawn).astype(np.float32), drawn)
    assert found[0] == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_every_image_once_gives_the_run_s_own_ap(runs):
    for run in runs:
        drawn = np.ones((len(run.gt.images), 3), np.float32)
        np.testing.assert_allclose(drawn_aps(run, drawn), np.tile(run.ap_view.ap[:, None], 3), atol=1e-6)


def test_a_drawing_gives_the_measures_of_the_drawn_images(runs):
    """One image alone: its AP is that of a run over this image alone."""
    run = runs[0]
    for i in range(0, len(run.gt.images), 7):
        drawn = np.zeros((len(run.gt.images), 1), np.float32)
        drawn[i] = 1
        objects, rows = run.gt.of_image(i), run.a.of_image(i)
        part = dataclasses.replace(
            run.gt, image=run.gt.image[objects], boxes=run.gt.boxes[objects], cls=run.gt.cls[objects],
            line=run.gt.line[objects],
        )  # fmt: skip
        alone = tide(part, run.a.select(np.arange(rows.start, rows.stop)))
        np.testing.assert_allclose(drawn_aps(run, drawn)[:, 0], alone.ap, atol=1e-6)


# Verdicts -------------------------------------------------------------------------------------------------------------


def test_a_run_against_itself_differs_in_nothing(runs):
    comparison = compare([runs[0], dataclasses.replace(runs[0], name="again")], resamples=100)
    assert {row["verdict"] for row in comparison.table} == {SAME}
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in comparison.table)
    assert SAME in comparison.lines()[0] and len(comparison.lines()) == 1


def test_three_runs_each_against_the_first(runs):
    first, twin, worse = runs
    comparison = compare(runs)
    assert comparison.first == "first" and comparison.others == ["twin", "worse"]
    assert comparison.overall("twin")["verdict"] == SAME
    row = comparison.overall("worse")
    assert row["verdict"] == "worse" and row["high"] < 0
    assert row["difference"] == pytest.approx(worse.ap_view.map_ - first.ap_view.map_)
    assert row["low"] < row["difference"] < row["high"]
    by_class = [r for r in comparison.table if r["run"] == "worse" and r["measure"] == "AP50"]
    assert len(by_class) == 4 and all(r["low"] < r["difference"] < r["high"] for r in by_class)
    assert "worse" in {r["verdict"] for r in by_class} and sum(r["difference"] for r in by_class) < 0
    table = {(r["run"], r["type"]): r for r in comparison.table if r["measure"] == "count" and r["class"] < 0}
    confused = table["worse", "misclassified"]
    assert confused["first"] == first.operating.counts["misclassified"] and confused["verdict"] == "worse"
    assert confused["low"] > 0
    assert table["worse", "TP"]["verdict"] == "worse" and table["worse", "TP"]["high"] < 0
    assert table["twin", "misclassified"]["verdict"] == SAME
    assert "worse is worse in:" in " ".join(comparison.lines())
    backwards = compare([worse, first], resamples=300)
    assert backwards.overall("first")["verdict"] == "better"


def test_classes_with_few_objects_get_no_verdict():
    first, worse = (a_run(name, 1, nc=20, objects=400, wrong_class=wrong) for name, wrong in (("a", 0.1), ("b", 0.9)))
    rows = compare([first, worse], resamples=100).table
    few = [row for row in rows if row["few"]]
    assert {row["name"] for row in few} == {f"class {c}" for c in np.flatnonzero(first.gt.counts() < 30)}
    assert {row["verdict"] for row in few if row["measure"] == "AP50" or row["type"] == "missed"} == {TOO_FEW}
    many = [row for row in rows if row["measure"] == "AP50" and not row["few"]]
    assert not any(row["verdict"] == TOO_FEW for row in many)
    assert "worse" in {row["verdict"] for row in rows if row["class"] < 0}


def test_a_sentence_names_the_classes_that_differ_most():
    first, worse = (a_run(n, 1, nc=20, objects=2000, count=4000, wrong_class=w) for n, w in (("a", 0.1), ("b", 0.9)))
    comparison = compare([first, worse], resamples=100)
    losers = [row for row in comparison.table if row["measure"] == "AP50" and row["verdict"] == "worse"]
    assert len(losers) > LISTED
    line = comparison.lines()[-1]
    assert line.count("AP50 of") == LISTED and f"and {len(losers) - LISTED} more classes" in line
    assert f"AP50 of {max(losers, key=lambda row: -row['difference'])['name']} " in line


def test_rows_of_classes_add_up(runs):
    rows = compare(runs[:2], resamples=50).table
    for kind in COUNTED:
        whole = [r for r in rows if r["type"] == kind and r["class"] < 0]
        if whole:
            parts = [r for r in rows if r["type"] == kind and r["class"] >= 0]
            assert sum(r["other"] for r in parts) == whole[0]["other"]
            assert whole[0]["other"] == runs[1].operating.counts[kind]
    ap = [r["other"] for r in rows if r["measure"] == "AP50"]
    assert np.mean(ap) == pytest.approx(runs[1].ap_view.map_)


def test_the_seed_decides_the_drawing(runs):
    same, again, other = (compare(runs[:2], resamples=60, seed=s).rows() for s in (4, 4, 5))
    assert same == again and same != other


def test_intervals_hold_the_difference_about_as_often_as_they_say():
    """60 pairs of runs of equal quality: of their 95 % intervals of mAP50 about 3 miss 0; more than 9 would be odd."""
    missed = 0
    for number in range(60):
        pair = [a_run(str(s), 100 + 2 * number + s, images=60, objects=150, count=300) for s in range(2)]
        missed += compare(pair, resamples=200, seed=number).overall("1")["verdict"] != SAME
    assert missed <= 9


def test_files_and_json(runs, tmp_path):
    comparison = compare(runs, resamples=40)
    comparison.save(tmp_path / "comparison.csv")
    lines = (tmp_path / "comparison.csv").read_text().splitlines()
    assert lines[0].split(",") == COLUMNS and len(lines) == 1 + len(comparison.table)
    text = json.dumps(comparison.to_dict(), allow_nan=False)
    assert json.loads(text)["costs"]["worse"]["Cls"] == pytest.approx(runs[2].ap_view.delta["Cls"])


def _speed(*options):
    command = [sys.executable, str(ROOT / "benchmarks" / "diagnosis_speed.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, check=False)


def test_the_speed_benchmark_runs():
    done = _speed("--images", "40", "--predictions", "400", "--classes", "3", "--resamples", "20")
    assert done.returncode == 0, done.stderr
    assert "40 images, 280 objects, 3 classes, 2 x 400 predictions" in done.stdout
    assert "comparison, 20 resamples" in done.stdout and "most memory" in done.stdout


@pytest.mark.slow
def test_five_thousand_images_in_a_minute_and_two_gigabytes():
    """The benchmark ends with 1 where it takes longer or needs more."""
    done = _speed()
    assert done.returncode == 0, done.stdout + done.stderr


# Refusals -------------------------------------------------------------------------------------------------------------


def _other(run, name="other", **changes):
    return dataclasses.replace(run, name=name, gt=dataclasses.replace(run.gt, **changes))


def _renamed(gt, number, path):
    images = list(gt.images)
    images[number] = dataclasses.replace(images[number], path=path)
    return images


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: [run], "1 run given, at least 2"),
        (lambda run: [run, run], "two runs are named first"),
        (lambda run: [run, _other(run, images=_renamed(run.gt, 3, "x.jpg"))], "other lacks the image images/003.jpg"),
        (lambda run: [run, _other(run, names={**run.gt.names, 1: "bolt"})], "class 1 is class 1 in one and bolt"),
        (lambda run: [run, _other(run, boxes=run.gt.boxes + 2.0)], "the labels of /set/images/000.jpg differ"),
        (lambda run: [run, _other(run, cls=(run.gt.cls + 1) % 4)], "the labels of /set/images/000.jpg differ"),
    ],
    ids=["one", "names", "images", "classes", "boxes", "labels"],
)  # fmt: skip
def test_runs_that_do_not_fit_are_refused_by_name(runs, change, words):
    with pytest.raises(InputError) as caught:
        compare(change(runs[0]))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_copies_of_a_data_set_in_other_folders_are_the_same_images(runs):
    moved = [dataclasses.replace(info, path="/elsewhere" + info.path) for info in runs[0].gt.images]
    assert compare([runs[0], _other(runs[0], images=moved)], resamples=5).images == len(moved)


def test_filtered_runs_are_no_runs_to_compare(runs):
    part = tide(runs[0].gt, runs[0].a, TideSettings(classes=(1,)))
    with pytest.raises(ValueError, match="all areas and classes"):
        compare([runs[0], dataclasses.replace(runs[0], name="part", ap_view=part)])
