"""Non-maximum suppression against stored rows, against a plain loop, and at its limits."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
import torch

from utils import nms as nms_module
from utils.boxes import box_iou, xywh2xyxy
from utils.errors import InputError
from utils.nms import class_list, non_max_suppression


def _plain(prediction: torch.Tensor, conf_thres, iou_thres, multi_label, agnostic, max_det, nm=0) -> list[torch.Tensor]:
    """Greedy suppression written out: image by image, box by box, class by class."""
    end = prediction.shape[2] - nm
    output = []
    for rows in prediction:
        found = []
        for row in rows:
            scores = row[5:end] * row[4]
            numbers = range(len(scores)) if multi_label else [int(scores.argmax())]
            found += [
                torch.cat((xywh2xyxy(row[:4]), torch.stack([scores[c], torch.tensor(float(c))]), row[end:] * row[4]))
                for c in numbers
                if row[4] > conf_thres and scores[c] > conf_thres
            ]
        found.sort(key=lambda r: -float(r[4]))
        kept: list[torch.Tensor] = []
        for row in found:
            rivals = [k for k in kept if agnostic or k[5] == row[5]]
            if all(box_iou(row[None, :4], k[None, :4]).item() <= iou_thres for k in rivals):
                kept.append(row)
        output.append(torch.stack(kept[:max_det]) if kept else torch.zeros((0, 6 + nm)))
    return output


def _random_prediction(rows: int = 60, nc: int = 3, nm: int = 0, batch: int = 3, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    box = rng.uniform((50, 50, 20, 20), (150, 150, 120, 120), (batch, rows, 4))
    return torch.tensor(np.concatenate((box, rng.random((batch, rows, 1 + nc + nm))), 2), dtype=torch.float32)


@pytest.mark.parametrize("multi_label", [False, True], ids=["one label", "many labels"])
@pytest.mark.parametrize("agnostic", [False, True], ids=["by class", "agnostic"])
@pytest.mark.parametrize("max_det", [4, 300])
@pytest.mark.parametrize("group_rows", [1, 200_000], ids=["image by image", "batched"])
def test_equals_a_plain_loop(multi_label, agnostic, max_det, group_rows, monkeypatch) -> None:
    monkeypatch.setattr(nms_module, "GROUP_ROWS", group_rows)
    prediction = _random_prediction(nm=2)
    prediction[1, :, 4] = 0  # an image without candidates
    got = non_max_suppression(prediction, 0.2, 0.45, None, agnostic, multi_label, max_det=max_det, nm=2)
    wanted = _plain(prediction, 0.2, 0.45, multi_label, agnostic, max_det, nm=2)
    assert [len(g) for g in got] == [len(w) for w in wanted]
    assert got[1].shape == (0, 8)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-6, atol=1e-5)


def test_short_prefix_gives_the_same_as_all_candidates(monkeypatch) -> None:
    prediction = _random_prediction(rows=4000, nc=2, batch=1)
    few = non_max_suppression(prediction, 0.001, 0.6, multi_label=True, max_det=20)[0]
    monkeypatch.setattr(nms_module, "FIRST_PREFIX", 10**6)
    assert torch.equal(few, non_max_suppression(prediction, 0.001, 0.6, multi_label=True, max_det=20)[0])


def test_input_is_left_alone_and_a_sequence_is_unwrapped() -> None:
    prediction = _random_prediction()
    before = prediction.clone()
    first = non_max_suppression(prediction)
    assert torch.equal(prediction, before)
    for a, b in zip(first, non_max_suppression((prediction, [None])), strict=True):
        assert torch.equal(a, b)


def test_boxes_that_are_no_numbers_are_dropped() -> None:
    prediction = _random_prediction(rows=4, nc=1, batch=1)
    prediction[..., 4:] = 0.9
    prediction[0, 0, 0], prediction[0, 1, 2], prediction[0, 2, 4] = float("nan"), float("inf"), float("nan")
    detections = non_max_suppression(prediction, 0.1, 1.0)[0]
    assert len(detections) == 1
    assert detections.isfinite().all()


def test_half_precision_keeps_high_classes_apart() -> None:
    prediction = torch.zeros((1, 2, 85))
    prediction[0, :, :5] = torch.tensor([100.0, 100, 50, 50, 1])
    prediction[0, 0, 5 + 78] = prediction[0, 1, 5 + 79] = 1.0
    assert sorted(non_max_suppression(prediction.half())[0][:, 5].tolist()) == [78, 79]


def test_the_clock_does_not_matter(monkeypatch) -> None:
    prediction = _random_prediction()
    wanted = non_max_suppression(prediction, 0.1)
    ticks = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    for a, b in zip(wanted, non_max_suppression(prediction, 0.1), strict=True):
        assert torch.equal(a, b)


def test_the_cap_takes_the_best_and_is_said_once(monkeypatch, caplog) -> None:
    monkeypatch.setattr(nms_module, "MAX_NMS", 5)
    monkeypatch.setattr(nms_module, "_stated", set())
    monkeypatch.setattr(nms_module.LOGGER, "propagate", True)
    prediction = _random_prediction(rows=50, nc=1, batch=2)
    with caplog.at_level(logging.WARNING, "yolov5"):
        detections = non_max_suppression(prediction, 0.0, 1.0)
    assert [len(d) for d in detections] == [5, 5]
    scores = (prediction[0, :, 4] * prediction[0, :, 5]).sort(descending=True)[0]
    np.testing.assert_allclose(detections[0][:, 4], scores[:5])
    assert len({id(r) for r in caplog.records if "NMS" in r.message}) == 1  # a record may be caught by two handlers


@pytest.mark.parametrize("change", [{"conf_thres": 1.5}, {"iou_thres": -0.1}, {"max_det": 0}, {"conf_thres": np.nan}])
def test_values_out_of_range_are_refused(change) -> None:
    with pytest.raises(InputError, match=f"{next(iter(change))} is"):
        non_max_suppression(_random_prediction(), **change)


def test_golden_rows(golden, golden_inputs) -> None:
    facts, arrays = golden("nms")
    plain = golden_inputs.predictions(2, 12, 20, 5, 640, stream=3000)
    for name, case in facts["cases"].items():
        options = dict(case["options"])
        prediction = plain
        if "extra_columns_stream" in case:
            extra = golden_inputs.unit(case["extra_columns_stream"], 2 * 240 * 4).reshape(2, 240, 4) - 0.5
            prediction = np.concatenate((plain, extra.astype(np.float32)), 2)
        if "labels" in options:
            options["labels"] = [torch.tensor(rows) for rows in options["labels"]]
        got = non_max_suppression(torch.as_tensor(prediction), **options)
        assert [len(g) for g in got] == case["counts"], name
        for i, rows in enumerate(got):
            np.testing.assert_allclose(rows, arrays[f"{name}/{i}"], atol=1e-4, err_msg=name)


# Thresholds by class --------------------------------------------------------------------------------------------------


def _filtered(detections: list[torch.Tensor], limits: torch.Tensor) -> list[torch.Tensor]:
    return [d[d[:, 4] > limits[d[:, 5].long()]] for d in detections]


@pytest.mark.parametrize("multi_label", [False, True], ids=["one label", "many labels"])
def test_class_thresholds_equal_filtering_what_was_found(multi_label) -> None:
    """Only a box of its own class suppresses a box, and one that is better, so the order of the two does not matter."""
    prediction, limits = _random_prediction(), torch.tensor([0.3, 0.6, 0.1])
    every = non_max_suppression(prediction, 0.1, 0.45, multi_label=multi_label)
    found = non_max_suppression(prediction, 0.9, 0.45, multi_label=multi_label, class_thres=limits)
    wanted = _filtered(every, limits)
    assert [len(w) for w in wanted] != [len(e) for e in every]
    for f, w in zip(found, wanted, strict=True):
        assert torch.equal(f, w)


def test_equal_class_thresholds_are_one_threshold() -> None:
    prediction = _random_prediction()
    for multi_label in (False, True):
        plain = non_max_suppression(prediction, 0.25, 0.45, multi_label=multi_label)
        by_class = non_max_suppression(
            prediction, 0.7, 0.45, multi_label=multi_label, class_thres=torch.full((3,), 0.25)
        )
        assert all(torch.equal(a, b) for a, b in zip(plain, by_class, strict=True))


def test_a_box_below_its_class_threshold_suppresses_nothing() -> None:
    """Two boxes on one place, class 0 at .8 and class 1 at .5, without regard to class: with .9 for class 0 the second
    one is found."""
    box = [50.0, 50, 20, 20, 1.0]
    prediction = torch.tensor([[[*box, 0.8, 0.0], [*box, 0.0, 0.5]]])
    (found,) = non_max_suppression(prediction, agnostic=True)
    assert found[:, 5].tolist() == [0]
    (found,) = non_max_suppression(prediction, agnostic=True, class_thres=torch.tensor([0.9, 0.25]))
    assert found[:, 5].tolist() == [1]


@pytest.mark.parametrize("limits", [[0.1, 0.2], [[0.1, 0.2, 0.3]], [0.1, 0.2, 1.1], [0.1, 0.2, float("nan")]])
def test_class_thresholds_that_do_not_fit_are_refused(limits) -> None:
    with pytest.raises(InputError, match="class_thres"):
        non_max_suppression(_random_prediction(), class_thres=torch.tensor(limits))


def test_one_class_may_be_given_as_a_number() -> None:
    prediction = _random_prediction()
    found = [non_max_suppression(prediction, classes=classes) for classes in (0, [0], torch.tensor([0]))]
    for one, listed, tensor in zip(*found, strict=True):
        assert torch.equal(one, listed) and torch.equal(one, tensor) and len(one) and (one[:, 5] == 0).all()


@pytest.mark.parametrize("classes", ["person", ["person"], 1.5])
def test_class_names_where_numbers_belong_are_refused(classes: object) -> None:
    with pytest.raises(InputError, match="allowed are class numbers such as 0"):
        non_max_suppression(torch.zeros(1, 4, 7), classes=classes)
    assert class_list((1, 2.0)) == [1, 2] and class_list(0) == [0] and class_list(None) is None
