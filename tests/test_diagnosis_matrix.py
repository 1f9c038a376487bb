"""The confusion matrix: what its rows and columns add up to, its files, and where upstream's differs."""

import csv

import cv2
import numpy as np
import pytest
from diagnosis_cases import NC, ground_truth, predictions, random_run, scenes, worked_example
from hypothesis import given, settings

from utils.confusion import ConfusionMatrix
from utils.diagnosis.matrix import FORMS, confusion, save_upstream_confusion, upstream_confusion
from utils.diagnosis.operating import operate
from utils.errors import WorkError


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_columns_add_up_to_objects_and_rows_to_predictions(scene):
    gt, pred = scene
    at = operate(gt, pred, 0.25)
    matrix = confusion(gt, at)
    assert (matrix.counts[:, :NC].sum(0) == gt.counts()).all()
    assert (matrix.counts[:NC].sum(1) == np.bincount(at.predictions.cls, minlength=NC)).all()
    assert matrix.counts[:NC, :NC].trace() == at.counts["TP"]
    assert matrix.counts[NC].sum() == at.counts["FN"] and matrix.counts[:, NC].sum() == at.counts["FP"]
    shares = matrix.by_column
    assert np.allclose(shares.sum(0)[gt.counts() > 0], 1) and np.isnan(shares[:, gt.counts() == 0]).all()


def test_the_worked_example_to_the_number():
    gt, pred = worked_example()
    matrix = confusion(gt, operate(gt, pred, 0.25))
    assert matrix.counts.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert matrix.by_column.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert matrix.by_row.tolist() == [[1 / 3, 1 / 3], [0, 0]]
    assert matrix.background_per_image.tolist() == [1, 1]
    assert matrix.to_dict()["counts"] == matrix.counts.tolist()


def _table(path):
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def test_files(tmp_path):
    gt, pred = random_run(1)
    matrix = confusion(gt, operate(gt, pred, 0.4))
    written = matrix.save(tmp_path)
    assert sorted(path.name for path in written) == sorted(f"confusion_{f}.{s}" for f in FORMS for s in ("csv", "png"))
    for path in written:
        if path.suffix == ".png":
            assert min(cv2.imread(str(path)).shape[:2]) > 400
    names = [f"class {c}" for c in range(4)]
    counts = _table(tmp_path / "confusion_counts.csv")
    assert counts[0] == ["predicted \\ true", *names, "background"]
    assert [row[0] for row in counts[1:]] == [*names, "not found"]
    assert np.array([row[1:] for row in counts[1:]], int).tolist() == matrix.counts.tolist()
    shares = _table(tmp_path / "confusion_col.csv")
    assert np.array([row[1:5] for row in shares[1:]], float).sum(0) == pytest.approx(np.ones(4), abs=1e-5)
    assert [int(row[5]) for row in shares[1:5]] == matrix.counts[:4, 4].tolist()
    assert float(shares[1][6]) == pytest.approx(matrix.counts[0, 4] / 40)
    rows = _table(tmp_path / "confusion_row.csv")
    precision = matrix.counts[0, 0] / matrix.counts[0].sum()
    assert float(rows[1][1]) == pytest.approx(precision, rel=1e-5)
    assert rows[5][1:5] == [""] * 4


def test_only_tables_and_a_missing_folder(tmp_path):
    gt, pred = worked_example()
    matrix = confusion(gt, operate(gt, pred, 0.25))
    assert {path.suffix for path in matrix.save(tmp_path, pictures=False)} == {".csv"}
    with pytest.raises(WorkError, match="confusion_counts.csv: cannot be written"):
        matrix.save(tmp_path / "nowhere")


def test_pictures_with_many_classes_and_odd_names(tmp_path):
    gt, pred = random_run(2, nc=45)
    gt.names[0], gt.names[1] = "$x_1$", 'a <b> & "c", d'
    confusion(gt, operate(gt, pred, 0.4)).save(tmp_path)
    assert cv2.imread(str(tmp_path / "confusion_col.png")) is not None
    assert _table(tmp_path / "confusion_counts.csv")[0][2] == gt.names[1]


# Upstream's ----------------------------------------------------------------------------------------------------------


def test_upstream_loses_a_right_box_to_a_wrong_one_and_ours_does_not():
    gt = ground_truth([(0, 0, 0, 0, 10, 10)])
    pred = predictions([(0, 0, 0.9, 0, 0, 10, 9), (0, 1, 0.4, 0, 0, 10, 10)])
    assert upstream_confusion(gt, pred).matrix[:2, 0].tolist() == [0, 1]
    assert confusion(gt, operate(gt, pred, 0.25)).counts[:2, 0].tolist() == [1, 0]


def test_upstream_passes_over_false_predictions_on_images_without_a_match():
    gt = ground_truth([(0, 0, 0, 0, 10, 10)], images=2)
    pred = predictions([(0, 1, 0.9, 50, 50, 60, 60), (1, 1, 0.9, 50, 50, 60, 60)])
    assert upstream_confusion(gt, pred).matrix[1, NC] == 0
    assert confusion(gt, operate(gt, pred, 0.25)).counts[1, NC] == 2


def test_one_class_shows_its_rate_and_not_always_one(tmp_path):
    """One class with a found and an unfound object and one false prediction: the background column tells its number."""
    gt = ground_truth([(0, 0, 0, 0, 10, 10), (0, 0, 50, 0, 60, 10)], nc=1)
    pred = predictions([(0, 0, 0.9, 0, 0, 10, 10), (0, 0, 0.8, 80, 80, 90, 90)])
    confusion(gt, operate(gt, pred, 0.25)).save(tmp_path, pictures=False)
    assert _table(tmp_path / "confusion_col.csv")[1:] == [["class 0", "0.5", "1", "1"], ["not found", "0.5"]]


def test_upstream_is_val_s_own_matrix(tmp_path):
    gt, pred = random_run(3)
    direct = ConfusionMatrix(gt.nc)
    for i in range(len(gt.images)):
        g, p = gt.of_image(i), pred.of_image(i)
        if g.stop > g.start:
            found = np.column_stack((pred.boxes[p], pred.conf[p], pred.cls[p]))
            direct.process_batch(found if len(found) else None, np.column_stack((gt.cls[g], gt.boxes[g])))
    assert (upstream_confusion(gt, pred).matrix == direct.matrix).all()
    assert [path.name for path in save_upstream_confusion(tmp_path, gt, pred)] == [
        "confusion_upstream.csv", "confusion_upstream.png",
    ]  # fmt: skip
    assert np.array([row[1:] for row in _table(tmp_path / "confusion_upstream.csv")[1:]], float).tolist() == (
        direct.matrix.tolist()
    )
