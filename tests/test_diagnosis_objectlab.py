"""Model-based findings L20 to L22: worked scores, a slow twin, weights for training."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from audit_data import write_set
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.label_weights import join_label_weights, read_label_weights
from utils.diagnosis.audit import add_model_findings, audit_labels
from utils.diagnosis.audit_evidence import Evidence, usual_confidence, usual_overlap, weigh_evidence
from utils.diagnosis.audit_findings import Finding
from utils.diagnosis.audit_fixes import write_label_weights
from utils.diagnosis.audit_objectlab import OBJECTLAB, PAPER, SETTINGS, Settings, objectlab, similarity
from utils.diagnosis.audit_scores import findings, quality, softmin
from utils.diagnosis.data import GroundTruth, ImageInfo, Predictions, iou, sort_objects, sort_predictions
from utils.diagnosis.inputs import load_ground_truth

NAMES = {0: "bolt", 1: "nut"}
Box = tuple[float, float, float, float]


def infos(count: int) -> list[ImageInfo]:
    return [ImageInfo(f"/set/images/{k}.png", f"/set/labels/{k}.txt", 200, 200) for k in range(count)]


def case(
    labels: list[tuple[int, int, Box]], predictions: list[tuple[int, int, float, Box]], count: int = 1
) -> tuple[GroundTruth, Predictions]:
    """Return labels (image, class, box) and predictions (image, class, confidence, box)."""
    image, cls, boxes = (list(column) for column in zip(*labels, strict=True)) if labels else ([], [], [])
    truth = sort_objects(infos(count), image, np.array(boxes, float).reshape(-1, 4), cls, NAMES)
    image, cls, conf, boxes = (list(c) for c in zip(*predictions, strict=True)) if predictions else ([], [], [], [])
    return truth, sort_predictions(image, np.array(boxes, float).reshape(-1, 4), conf, cls)


# Parts ----------------------------------------------------------------------------------------------------------------


def test_softmin_of_the_specification() -> None:
    """Scores .2 and 1: .2 / (1 + e^-8) + 1 / (1 + e^8) = .200268; an image without scores has 1."""
    found = softmin(np.array([0.2, 1.0]), np.array([1, 1]), 3)
    assert found == pytest.approx([1, 0.200268, 1], abs=5e-7)


def test_similarity_by_hand() -> None:
    """Boxes of side 10, centres 5 apart: IoU 1/3; in pixels exp(-.5), in box sides exp(-.05)."""
    a, b = np.array([[0, 0, 10, 10.0]]), np.array([[5, 0, 15, 10.0]])
    assert similarity(a, b, "pixels") == pytest.approx(0.3 + 0.1 * math.exp(-0.5))
    assert similarity(a, b, "boxes") == pytest.approx(0.3 + 0.1 * math.exp(-0.05))
    assert similarity(a, a) == pytest.approx(1)
    assert similarity(10 * a, 10 * b) == pytest.approx(similarity(a, b))


def test_quality_is_the_ap_of_the_diagnosis() -> None:
    """One label found with IoU .9 / 1.1, one missed: precision 1 to recall .5 at 7 of 10 thresholds."""
    truth, pred = case([(0, 0, (0, 0, 10, 10)), (0, 0, (50, 50, 60, 60))], [(0, 0, 0.9, (0, 0, 10, 9))])
    right, ap = quality(truth, pred)
    assert right.tolist() == [True]
    assert ap[0] == pytest.approx(9 / 10 * 51 / 101) and np.isnan(ap[1])


# ObjectLab ------------------------------------------------------------------------------------------------------------


def twin(truth: GroundTruth, pred: Predictions, settings: Settings, high: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return ObjectLab's scores as the definition has them, pair by pair."""

    def sim(g: int, p: int) -> float:
        a, b = truth.boxes[g], pred.boxes[p]
        apart = math.dist((a[:2] + a[2:]) / 2, (b[:2] + b[2:]) / 2)
        if settings.distance == "boxes":
            apart /= (np.prod(a[2:] - a[:2]) * np.prod(b[2:] - b[:2])) ** 0.25
        return 0.9 * iou(a, b)[0, 0] + 0.1 * math.exp(-0.1 * apart)

    labels, preds = range(len(truth)), range(len(pred))
    same_image = {(g, p) for g in labels for p in preds if truth.image[g] == pred.image[p]}
    smallest = min((sim(g, p) for g, p in same_image if sim(g, p) > 0), default=1.0)
    over = np.full(len(pred), np.nan)
    for p in preds:
        mine = [g for g in labels if (g, p) in same_image]
        if pred.conf[p] >= high[pred.cls[p]] and all(iou(truth.boxes[g], pred.boxes[p])[0, 0] == 0 for g in mine):
            own = [sim(g, p) for g in mine if truth.cls[g] == pred.cls[p]]
            over[p] = max(own) if own else smallest * (1 - pred.conf[p])
    badly, swapped = np.ones(len(truth)), np.ones(len(truth))
    for g in labels:
        mine = [p for p in preds if (g, p) in same_image]
        own = [
            sim(g, p) for p in mine
            if pred.cls[p] == truth.cls[g] and pred.conf[p] > settings.low
            and iou(truth.boxes[g], pred.boxes[p])[0, 0] > 0
        ]  # fmt: skip
        other = [sim(g, p) for p in mine if pred.cls[p] != truth.cls[g] and pred.conf[p] > high[pred.cls[p]]]
        badly[g] = max(own, default=1)
        swapped[g] = max(smallest, 1 - max(other)) if other else 1
        for h in labels:
            if truth.image[h] == truth.image[g] and truth.cls[h] != truth.cls[g]:
                swapped[g] = smallest if iou(truth.boxes[g], truth.boxes[h])[0, 0] >= 0.95 else swapped[g]
    return over, badly, swapped


def random_case(seed: int) -> tuple[GroundTruth, Predictions]:
    """Return boxes on a grid, so that equal and touching ones occur, in three images."""
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        low = rng.integers(0, 8, (n, 2)) * 10.0
        return np.concatenate((low, low + rng.integers(1, 4, (n, 2)) * 10), 1)

    n, m = rng.integers(0, 8), rng.integers(0, 12)
    truth = sort_objects(infos(3), rng.integers(0, 3, n), boxes(n), rng.integers(0, 2, n), NAMES)
    copied = boxes(m)
    if n and m:
        copied[: m // 2] = truth.boxes[rng.integers(0, n, m // 2)] + rng.integers(-2, 3, (m // 2, 1))
    return truth, sort_predictions(rng.integers(0, 3, m), copied, rng.random(m).round(2), rng.integers(0, 2, m))


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([PAPER, OBJECTLAB]))
def test_objectlab_equals_its_definition(seed: int, parameters: Settings) -> None:
    truth, pred = random_case(seed)
    found = objectlab(truth, pred, parameters)
    over, badly, swapped = twin(truth, pred, parameters, found.high)
    np.testing.assert_allclose(found.overlooked, over, atol=1e-12)
    np.testing.assert_allclose(found.badly_located, badly, atol=1e-12)
    np.testing.assert_allclose(found.swapped, swapped, atol=1e-12)
    for i in range(3):
        kinds = (over[(pred.image == i) & ~np.isnan(over)], badly[truth.image == i], swapped[truth.image == i])
        soft = [
            float((s * np.exp(-s / 0.1)).sum() / np.exp(-s / 0.1).sum()) if len(s) else 1.0 for s in kinds
        ]  # fmt: skip
        assert found.images[i] == pytest.approx(math.prod(soft) ** (1 / 3))


def test_confidences_that_count() -> None:
    """True positives of confidence .5, .6, .7, .8 and .9 have the 80 % quantile .82; class 1 has none: .5."""
    boxes = [(20.0 * k, 0.0, 20.0 * k + 10, 10.0) for k in range(5)]
    truth, pred = case(
        [(0, 0, box) for box in boxes], [(0, 0, 0.5 + 0.1 * k, box) for k, box in enumerate(boxes)]
    )  # fmt: skip
    assert objectlab(truth, pred, OBJECTLAB).high == pytest.approx([0.82, 0.5])
    assert objectlab(truth, pred, PAPER).high == pytest.approx([0.95, 0.95])
    assert usual_confidence(pred, np.ones(5, bool), 2) == pytest.approx([0.7, 0.7])


# A small made case for each code --------------------------------------------------------------------------------------

GOOD = [(0, k % 2, (25.0 * k, 0.0, 25.0 * k + 20, 20.0)) for k in range(6)]


def confident(labels: list[tuple[int, int, Box]], conf: float = 0.97) -> list[tuple[int, int, float, Box]]:
    return [(image, cls, conf, box) for image, cls, box in labels]


def found_by(
    labels: list[tuple[int, int, Box]], predictions: list[tuple[int, int, float, Box]], parameters: object
) -> list[Finding]:
    truth, pred = case([*GOOD, *labels], [*confident(GOOD), *predictions], 2)
    return findings(objectlab(truth, pred, parameters), truth, pred)


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
def test_right_labels_are_no_findings(parameters: object) -> None:
    assert found_by([], [], parameters) == []


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
def test_l20_an_object_that_nobody_labelled(parameters: object) -> None:
    """A confident nut in an image without labels; a second prediction of it adds no finding."""
    predictions = [(1, 1, 0.98, (100.0, 100.0, 140.0, 140.0)), (1, 0, 0.975, (101.0, 100.0, 140.0, 140.0))]
    (found,) = found_by([], predictions, parameters)
    assert (found.code, found.cls, found.line, found.image) == ("L20", 1, 0, "/set/images/1.png")
    assert found.box == (100, 100, 140, 140) and found.score < 0.1
    assert "nut with confidence 0.98, but no label there" in found.message


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
def test_l21_a_box_in_the_wrong_place(parameters: object) -> None:
    """A label of side 50, its prediction 40 or 48 to the right: ObjectLab's limit asks for hardly any overlap."""
    aside, overlap = (40, "0.11") if isinstance(parameters, Evidence) else (48, "0.02")
    box = (100.0, 100.0, 150.0, 150.0)
    (found,) = found_by([(1, 0, box)], [(1, 0, 0.97, (100.0 + aside, 100.0, 150.0 + aside, 150.0))], parameters)
    assert (found.code, found.line, found.file) == ("L21", 1, "/set/labels/1.txt")
    assert f"bolt, but the best box that the model has for it fits with IoU {overlap}" in found.message


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
def test_l22_a_wrong_class(parameters: object) -> None:
    (found,) = found_by(
        [(1, 0, (100.0, 100.0, 140.0, 140.0))], [(1, 1, 0.98, (100.0, 100.0, 140.0, 140.0))], parameters
    )
    assert (found.code, found.cls, found.line, found.score < 0.1) == ("L22", 0, 1, True)
    assert "bolt, but the model sees nut there with confidence 0.98 (IoU 1.00)" in found.message


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
def test_l22_two_classes_on_one_box(parameters: object) -> None:
    box = (100.0, 100.0, 140.0, 140.0)
    found = found_by([(1, 0, box), (1, 1, box)], [(1, 0, 0.03, box)], parameters)
    assert [(f.code, f.line) for f in found] == [("L22", 1), ("L22", 2)]
    assert all("another label has the same box" in f.message for f in found)


def test_in_sample_predictions_are_called_optimistic() -> None:
    truth, pred = case(GOOD, [*confident(GOOD), (1, 1, 0.98, (0.0, 0.0, 40.0, 40.0))], 2)
    result = objectlab(truth, pred, in_sample=True)
    assert result.facts()["optimistic"] is True
    assert all(
        "(optimistic: the model was trained on these labels)" in f.message for f in findings(result, truth, pred)
    )


# Evidence -------------------------------------------------------------------------------------------------------------


def test_evidence_by_hand() -> None:
    """True positives of bolt have the confidences .8, .8, .2 (median .8), of nut .5.

    Label a: bolt .2 for it (c' .25), nut .3 against it (c' .6): (.25 + .01) / (.25 + .6 + .02) = .298851.
    Label b: bolt .4 (c' .5) overlaps it by .45: 1 - .5 (.8 - .45) / .6 = .708333.
    An object that no label touches: nut .55, 1 - .55 = .45, a finding since .55 is above .5.
    """
    a, b = (100.0, 100.0, 140.0, 140.0), (0.0, 0.0, 20.0, 20.0)
    usual = [(0, 0, 0.8, (25.0 * k, 0.0, 25.0 * k + 20, 20.0)) for k in (0, 1)]
    usual.append((0, 1, 0.5, (50.0, 0.0, 70.0, 20.0)))
    labels = [(image, cls, box) for image, cls, _, box in usual]
    evidence = [(0, 0, 0.2, a), (0, 1, 0.3, a), (1, 0, 0.4, (0.0, 0.0, 20.0, 9.0)), (1, 1, 0.55, a)]
    truth, pred = case([*labels, (0, 0, a), (1, 0, b)], [*usual, *evidence], 2)
    found = weigh_evidence(truth, pred)
    assert found.swapped == pytest.approx([1, 1, 1, 0.26 / 0.87, 1])
    assert found.badly_located == pytest.approx([1, 1, 1, 1, 1 - 0.5 * 0.35 / 0.6])
    assert found.overlooked[~np.isnan(found.overlooked)] == pytest.approx([0.45])
    assert usual_overlap(np.array([0.4, 0.5, 0.6, 0.9, 0.9, 0.1]), np.array([0, 0, 0, 0, 0, 1]), 2).tolist() == [
        0.6,
        0.8,
    ]
    assert found.limits["L20"] == pytest.approx([0.2, 0.5])
    assert {code: len(places) for code, places in found.flagged(truth, pred).items()} == {"L20": 1, "L21": 0, "L22": 0}


def test_a_confusion_of_classes_is_no_label_error() -> None:
    """The model takes four of six nuts for bolts: it confuses them. Of twelve nuts three would be suspicious labels."""
    bolts = [(0, 0, (25.0 * k, 0.0, 25.0 * k + 20, 20.0)) for k in range(6)]

    def suspicious(nuts: int, taken: int) -> int:
        labels = [(1, 1, (25.0 * k, 50.0, 25.0 * k + 20, 70.0)) for k in range(nuts)]
        sure = [(image, cls if k >= taken else 0, 0.9, box) for k, (image, cls, box) in enumerate(labels)]
        truth, pred = case([*bolts, *labels], [*confident(bolts), *sure], 2)
        return len(weigh_evidence(truth, pred).flagged(truth, pred)["L22"])

    assert [suspicious(6, 4), suspicious(12, 3), suspicious(12, 4), suspicious(6, 2)] == [0, 3, 0, 2]


def test_a_prediction_speaks_about_one_label_alone() -> None:
    """The bolt beside a loose label belongs to its neighbour, which it overlaps by half: no evidence against it."""
    loose, neighbour = (0.0, 0.0, 20.0, 20.0), (12.0, 0.0, 32.0, 20.0)
    truth, pred = case(
        [*GOOD, (1, 0, loose), (1, 0, neighbour)], [*confident(GOOD), (1, 0, 0.97, (10.0, 0, 30, 20))], 2
    )
    assert weigh_evidence(truth, pred).badly_located.tolist() == [1] * 8
    alone, pred = case([*GOOD, (1, 0, loose)], [*confident(GOOD), (1, 0, 0.97, (10.0, 0, 30, 20))], 2)
    assert weigh_evidence(alone, pred).badly_located[-1] == pytest.approx(1 - (0.8 - 1 / 3) / 0.6)


def slow_evidence(  # noqa: C901, PLR0912  (the definition in loops)
    truth: GroundTruth, pred: Predictions
) -> tuple[np.ndarray, ...]:
    """Return the scores as the docstring of ``weigh_evidence`` has them, one label and prediction at a time."""
    parameters = Evidence()
    right, _ = quality(truth, pred)
    usual = usual_confidence(pred, right & (pred.conf > parameters.low), truth.nc)
    relative = [min(1.0, pred.conf[p] / usual[pred.cls[p]]) for p in range(len(pred))]

    def overlap(g: int, p: int) -> float:
        return float(iou(truth.boxes[g], pred.boxes[p])[0, 0]) if truth.image[g] == pred.image[p] else 0.0

    over, badly, swapped = np.full(len(pred), np.nan), np.ones(len(truth)), np.ones(len(truth))
    tight = [0.8, 0.8]
    for c in (0, 1):
        sure = [p for p in range(len(pred)) if pred.cls[p] == c and relative[p] == 1 and pred.conf[p] > 0.1]
        nearest = {p: max(range(len(truth)), key=lambda g: overlap(g, p), default=-1) for p in sure}
        found = [overlap(g, p) for p, g in nearest.items() if g >= 0 and truth.cls[g] == c and overlap(g, p) >= 0.1]
        tight[c] = float(np.clip(np.median(found), 0.3, 0.8)) if len(found) >= 5 else 0.8
    explains = set()
    for g in range(len(truth)):
        mine = [p for p in range(len(pred)) if pred.conf[p] > 0.1 and pred.cls[p] == truth.cls[g]]
        means = []
        for p in mine:
            others = [overlap(h, p) for h in range(len(truth)) if h != g]
            first = all(overlap(h, p) < overlap(g, p) for h in range(g)) and all(
                overlap(h, p) <= overlap(g, p) for h in range(g + 1, len(truth))
            )
            if overlap(g, p) >= 0.1 and first and max(others, default=0) < 0.5:
                means.append(p)
        if means:
            top = max(means, key=lambda p: pred.conf[p])
            badly[g] = 1 - relative[top] * min(
                max((tight[truth.cls[g]] - overlap(g, top)) / (tight[truth.cls[g]] - 0.2), 0), 1
            )
        if any(overlap(g, p) >= 0.6 for p in mine):
            badly[g] = 1
        if badly[g] <= 0.4:
            explains.add(top)
        there = [p for p in range(len(pred)) if overlap(g, p) >= 0.5]
        confirms = max((relative[p] for p in there if pred.cls[p] == truth.cls[g]), default=0)
        against = max(
            (relative[p] for p in there if pred.cls[p] != truth.cls[g] and pred.conf[p] > 0.05), default=0
        )  # fmt: skip
        if against:
            swapped[g] = max((confirms + 0.01) / (confirms + against + 0.02), 0.15 * (1 - against))
    for c in (0, 1):  # of two classes there is but one that can speak against a label
        own = truth.cls == c
        if (doubted := own & (swapped <= 0.1)).sum() >= max(3, 0.25 * own.sum() + 1e-9):
            swapped[doubted] = 0.5
    for g in range(len(truth)):
        for h in range(len(truth)):
            same_box = truth.image[h] == truth.image[g] and iou(truth.boxes[g], truth.boxes[h])[0, 0] >= 0.95
            if truth.cls[h] != truth.cls[g] and same_box:
                swapped[g] = 0
    for p in range(len(pred)):
        if pred.conf[p] > 0.1 and p not in explains and all(overlap(g, p) < 0.3 for g in range(len(truth))):
            over[p] = 1 - pred.conf[p]
    return over, badly, swapped


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_evidence_equals_its_definition(seed: int) -> None:
    truth, pred = random_case(seed)
    if len(np.unique(pred.conf)) < len(pred):  # which of two equally confident predictions speaks is left open
        pred = sort_predictions(pred.image, pred.boxes, np.linspace(0.02, 0.98, len(pred))[::-1], pred.cls)
    found = weigh_evidence(truth, pred)
    for mine, slow in zip(
        (found.overlooked, found.badly_located, found.swapped), slow_evidence(truth, pred), strict=True
    ):
        np.testing.assert_allclose(mine, slow, atol=1e-12)
    assert ((found.images >= 0) & (found.images <= 1)).all()


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
def test_nothing_to_score(parameters: object) -> None:
    truth, pred = case([], [])
    result = objectlab(truth, pred, parameters)
    assert findings(result, truth, pred) == [] and result.images.tolist() == [1]
    labels_alone, nothing = case(GOOD, [])
    assert findings(objectlab(labels_alone, nothing, parameters), labels_alone, nothing) == []
    nobody, confident_ones = case([], confident(GOOD))
    assert len(objectlab(nobody, confident_ones, parameters).overlooked) == 6


# Into the audit and into training -------------------------------------------------------------------------------------

ROWS = "0 0.2 0.2 0.2 0.2\n\n0 0.2 0.2 0.2 0.2\n1 0.7 0.7 0.2 0.2\n0 0.5 0.2 0.1 0\n0 0.2 0.8 0.2 0.2\n"


def test_findings_join_the_audit(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"a": ROWS}, "val": {"b": ROWS}}, ["bolt", "nut"])
    truth = load_ground_truth(yaml, "train")
    box = truth.boxes[truth.cls == 1]
    sure = [(0, 0, 0.9, tuple(b)) for b in truth.boxes[truth.cls == 0]]
    _, pred = case([], [*sure, (0, 0, 0.97, tuple(box[0]))])
    audit = add_model_findings(audit_labels(yaml), objectlab(truth, pred, in_sample=True), truth, pred)
    (found,) = audit.of("L22")
    assert (found.line, found.cls, audit.counts["L22"]) == (3, 1, 1)  # empty lines do not count
    assert audit.to_dict()["objectlab"]["settings"] == "ours" and "optimistic" in audit.notes[-1]
    audit.write(tmp_path)
    stored = json.loads((tmp_path / "audit.json").read_text())
    assert [f["code"] for f in stored["findings"] if f["score"] is not None] == ["L22"]


def test_label_weights_load_in_training(tmp_path: Path) -> None:
    """The swapped label weighs less, the others 1, at the rows of the file although cleaning drops two of them."""
    yaml = write_set(tmp_path / "set", {"train": {"a": ROWS, "c": ""}, "val": {"b": ROWS}}, ["bolt", "nut"])
    truth = load_ground_truth(yaml, "train")
    sure = [(0, 0, 0.9, tuple(b)) for b in truth.boxes[truth.cls == 0]]
    _, pred = case([], [*sure, (0, 0, 0.97, tuple(truth.boxes[truth.cls == 1][0]))])
    result = objectlab(truth, pred)
    path = tmp_path / "label_weights.csv"
    assert write_label_weights(path, result, truth) == 1
    with path.open(newline="") as stream:
        rows = {int(row["row"]): float(row["weight"]) for row in csv.DictReader(stream)}
    score = result.swapped[truth.cls == 1][0]
    assert rows == {0: 1, 2: pytest.approx(score / 0.1, rel=1e-4), 4: 1}
    from utils.dataset import LoadImagesAndLabels

    dataset = LoadImagesAndLabels(str(tmp_path / "set" / "images" / "train"), 64)
    weights = join_label_weights(
        path, read_label_weights(path), dataset.im_files, dataset.label_files, dataset.labels
    )  # fmt: skip
    by_class = dict(zip(dataset.labels[0][:, 0].tolist(), weights[0].tolist(), strict=True))
    assert by_class == {0.0: 1.0, 1.0: pytest.approx(score / 0.1, rel=1e-4)}


@pytest.mark.slow
def test_label_weights_through_train_py(tmp_path: Path) -> None:
    import train

    rows = "0 0.3 0.3 0.4 0.4\n1 0.7 0.7 0.3 0.3\n"
    yaml = write_set(tmp_path / "set", {"train": dict.fromkeys("abcd", rows), "val": {"e": rows}}, ["bolt", "nut"])
    truth = load_ground_truth(yaml, "train")
    pred = sort_predictions(truth.image, truth.boxes, np.full(len(truth), 0.9), np.zeros(len(truth), int))
    write_label_weights(tmp_path / "label_weights.csv", objectlab(truth, pred), truth)
    from utils.yaml_files import read_yaml

    hyp = {
        **read_yaml(Path(train.ROOT) / "data/hyps/hyp.scratch-low.yaml"),
        "label_weights": str(tmp_path / "label_weights.csv"),
    }
    opt = train.run(
        data=str(yaml), weights="", cfg="yolov5n.yaml", imgsz=64, batch_size=4, epochs=1, workers=0, device="cpu",
        hyp=hyp, project=str(tmp_path), name="run", noplots=True,
    )  # fmt: skip
    assert (Path(opt.save_dir) / "weights" / "last.pt").is_file()
