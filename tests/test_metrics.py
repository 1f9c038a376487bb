"""Matching, average precision, confusion matrix and fitness: by hand, against plain loops, against stored numbers."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import metrics as M
from utils.boxes import iou_matrix

IOUV = torch.linspace(0.5, 0.95, 10)


def _plain_match(iou: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Each detection in turn asks for the label it overlaps most and gets it unless an earlier one has it."""
    matched = np.zeros((iou.shape[1], len(thresholds)), bool)
    for t, threshold in enumerate(thresholds):
        taken: set[int] = set()
        for d in range(iou.shape[1]):
            label = int(iou[:, d].argmax())
            if iou[label, d] >= threshold and label not in taken:
                taken.add(label)
                matched[d, t] = True
    return matched


def _plain_ap(tp: np.ndarray, conf: np.ndarray, pred_cls: np.ndarray, target_cls: np.ndarray) -> np.ndarray:
    """AP per class and threshold through compute_ap, class by class."""
    rows = []
    for c in np.unique(target_cls):
        chosen = np.flatnonzero(pred_cls == c)
        chosen = chosen[np.argsort(-conf[chosen], kind="stable")]
        hits = tp[chosen].cumsum(0)
        recall = hits / (target_cls == c).sum()
        precision = hits / np.arange(1, len(chosen) + 1)[:, None]
        rows.append([M.compute_ap(r, p)[0] if len(chosen) else 0.0 for r, p in zip(recall.T, precision.T, strict=True)])
    return np.array(rows)


def _random_predictions(n: int, m: int, nc: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    conf = rng.random(n, np.float32)
    quality = rng.random(n)[:, None] * (0.5 + 0.5 * conf[:, None])
    return quality > IOUV.numpy(), conf, rng.integers(0, nc, n).astype(float), rng.integers(0, nc, m).astype(float)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 8), st.integers(0, 15), st.integers(0, 10**6))
def test_matching_equals_a_plain_loop(labels: int, detections: int, seed: int) -> None:
    iou = np.random.default_rng(seed).random((labels, detections)).astype(np.float32)
    wanted = np.zeros((detections, 10), bool) if not labels else _plain_match(iou, IOUV.numpy())
    np.testing.assert_array_equal(M.match_predictions(iou, IOUV.numpy()), wanted)


def test_two_detections_of_one_label() -> None:
    """The better placed but less confident detection comes second and stays unmatched where the first suffices."""
    labels = torch.tensor([[0.0, 0, 0, 10, 10]])
    detections = torch.tensor([[0.0, 0, 10, 8, 0.9, 0], [0, 0, 10, 10, 0.8, 0], [0, 0, 10, 10, 0.7, 1]])
    correct = M.process_batch(detections, labels, IOUV)
    assert correct[:, 0].tolist() == [True, False, False]
    assert correct[:, -1].tolist() == [False, True, False]
    assert correct.sum(0).tolist() == [1] * 10


def test_matching_by_masks() -> None:
    masks = torch.zeros((2, 4, 4))
    masks[0, :2], masks[1, 2:] = 1, 1
    labels, detections = torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]), torch.zeros((2, 6))
    numbered = (masks * torch.tensor([1.0, 2]).view(2, 1, 1)).sum(0, keepdim=True)
    for gt, overlap in ((masks, False), (numbered, True)):
        assert M.process_batch(detections, labels, IOUV, masks.flip(0), gt, overlap, masks=True).all()
    with pytest.raises(ValueError, match="masks"):
        M.process_batch(detections, labels, IOUV, masks=True)


def test_perfect_and_empty() -> None:
    classes = np.array([0.0, 0, 2])
    *_, p, r, f1, ap, numbers = M.ap_per_class(np.ones((3, 10), bool), np.array([0.9, 0.8, 0.95]), classes, classes)
    assert numbers.tolist() == [0, 2]
    assert p == pytest.approx(1)
    assert r == pytest.approx(1)
    assert f1 == pytest.approx(1)
    assert ap == pytest.approx(0.995, abs=1e-6)  # the last of 101 recall levels falls to 0 right at recall 1
    nothing = np.zeros(0)
    *_, ap, numbers = M.ap_per_class(np.zeros((0, 10), bool), nothing, nothing, classes)
    assert (ap == 0).all()
    tp, *_, ap, numbers = M.ap_per_class(np.zeros((2, 10), bool), np.ones(2), np.zeros(2), nothing)
    assert len(tp) == len(ap) == len(numbers) == 0


def test_by_hand() -> None:
    """Right, wrong, right of 2 labels: envelope 1 below recall .5, 2/3 from there, 0 at recall 1."""
    tp = np.array([[True], [False], [True]])
    conf, zeros = np.array([0.9, 0.6, 0.3]), np.zeros(3)
    *_, ap, _ = M.ap_per_class(tp, conf, zeros, zeros[:2])
    levels = np.where(M.RECALLS < 0.5, 1.0, 2 / 3)
    levels[-1] = 0
    assert ap.item() == pytest.approx(np.trapezoid(levels, M.RECALLS), rel=1e-9)


def test_order_of_predictions_does_not_matter() -> None:
    tp, conf, pred, target = _random_predictions(500, 200, 4)
    mixed = np.random.default_rng(1).permutation(500)
    for a, b in zip(
        M.ap_per_class(tp, conf, pred, target), M.ap_per_class(tp[mixed], conf[mixed], pred[mixed], target), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_vectorised_equals_class_by_class() -> None:
    tp, conf, pred, target = _random_predictions(3000, 900, 7)
    pred[pred == 3] = 99  # a class without predictions, and predictions of a class without labels
    np.testing.assert_allclose(M.ap_per_class(tp, conf, pred, target)[5], _plain_ap(tp, conf, pred, target), rtol=1e-9)


def test_many_predictions_are_quick() -> None:
    arrays = _random_predictions(300_000, 36_000, 80)
    start = time.perf_counter()
    M.ap_per_class(*arrays)
    assert time.perf_counter() - start < 5


def test_curves_are_drawn_for_the_right_classes(tmp_path, monkeypatch) -> None:
    drawn = {}
    curves = pytest.importorskip("utils.plotting.curves")
    monkeypatch.setattr(curves, "plot_pr_curve", lambda px, py, ap, path, names: drawn.update({path: (py, names)}))
    monkeypatch.setattr(curves, "plot_mc_curve", lambda px, py, path, names, **k: drawn.update({path: (py, names)}))
    tp, conf, pred, target = _random_predictions(100, 50, 4)
    pred[pred == 1] = 0
    target[target == 2] = 0
    M.ap_per_class(tp, conf, pred, target, plot=True, save_dir=tmp_path, names={i: f"c{i}" for i in range(4)})
    assert sorted(drawn) == sorted(tmp_path / f"{n}_curve.png" for n in ("PR", "F1", "P", "R"))
    for py, names in drawn.values():
        assert names == {0: "c0", 1: "c1", 2: "c3"}
        assert len(py) == 3
        assert (py[1] == 0).all()


def test_confusion_matrix_by_hand() -> None:
    """Two labels; a sure hit, a wrong class on the other, a false detection, one below the threshold."""
    labels = torch.tensor([[0.0, 0, 0, 10, 10], [1, 20, 20, 30, 30]])
    detections = torch.tensor(
        [[0.0, 0, 10, 10, 0.9, 0], [20, 20, 30, 29, 0.8, 2], [60, 60, 70, 70, 0.7, 1], [0, 0, 10, 10, 0.2, 1]]
    )
    matrix = M.ConfusionMatrix(3)
    matrix.process_batch(detections, labels)
    assert matrix.matrix.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    matrix.process_batch(None, labels[:, 0])
    matrix.process_batch(None, labels)
    assert matrix.matrix[3].tolist() == [2, 2, 0, 0]
    assert [x.tolist() for x in matrix.tp_fp()] == [[1, 0, 0], [0, 1, 1]]


def test_names_of_older_releases() -> None:
    for name in ("bbox_iou", "box_iou", "bbox_ioa", "wh_iou", "mask_iou", "smooth", "plot_pr_curve", "plot_mc_curve"):
        assert callable(getattr(M, name))
    with pytest.raises(AttributeError):
        M.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["small", "medium", "one_class", "classes_missing"])
def test_golden_ap_per_class(golden, name) -> None:
    _, arrays = golden("metrics")
    given_ = [arrays[f"{name}/in/{key}"] for key in ("tp", "conf", "pred_cls", "target_cls")]
    results = M.ap_per_class(*given_)
    for key, got in zip(("tp", "fp", "p", "r", "f1", "ap", "classes"), results, strict=True):
        np.testing.assert_allclose(got, arrays[f"{name}/out/{key}"], rtol=1e-6, atol=1e-12, err_msg=key)
    assert results[-1].dtype.kind == "i"


def test_golden_curves_and_fitness(golden, golden_inputs) -> None:
    facts, arrays = golden("metrics")
    np.testing.assert_allclose(M.fitness(arrays["fitness/in"]), arrays["fitness/out"], rtol=1e-6)
    case = facts["compute_ap"]
    ap, envelope, recall = M.compute_ap(case["recall"], case["precision"])
    assert ap == pytest.approx(case["ap"], rel=1e-6)
    np.testing.assert_allclose(envelope, case["envelope_precision"], rtol=1e-6)
    np.testing.assert_allclose(recall, case["envelope_recall"], rtol=1e-6)
    curve = golden_inputs.unit(4112, 100)
    for f in (0.05, 0.1):
        np.testing.assert_allclose(M.smooth(curve, f), facts["smooth"][f"out_f_{f}"], rtol=1e-6)


@pytest.mark.parametrize("name", ["cm_nc3", "cm_nc1"])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_golden_confusion_matrix_and_matching(golden, name, kind) -> None:
    facts, arrays = golden("metrics")
    case = facts["confusion_matrix"][name]
    labels, detections = kind(arrays[f"{name}/labels"]), kind(arrays[f"{name}/detections"])
    matrix = M.ConfusionMatrix(case["nc"], case["conf"], case["iou_thres"])
    matrix.process_batch(detections, labels)
    np.testing.assert_array_equal(matrix.matrix, arrays[f"{name}/matrix"])
    matrix.process_batch(None, labels[:2, 0])
    np.testing.assert_array_equal(matrix.matrix, arrays[f"{name}/matrix_after_none"])
    empty = M.ConfusionMatrix(case["nc"], case["conf"], case["iou_thres"])
    empty.process_batch(detections[:0], labels)
    np.testing.assert_array_equal(empty.matrix, arrays[f"{name}/matrix_no_detections"])
    correct = M.process_batch(torch.as_tensor(detections), torch.as_tensor(labels), IOUV)
    np.testing.assert_array_equal(correct, arrays[f"{name}/correct"])
    labels, detections = np.asarray(labels), np.asarray(detections)
    iou = iou_matrix(labels[:, 1:], detections[:, :4]) * (labels[:, :1] == detections[:, 5])
    np.testing.assert_array_equal(M.match_predictions(iou, IOUV.numpy()), arrays[f"{name}/correct"])
