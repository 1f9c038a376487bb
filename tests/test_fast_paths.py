"""Quick ways give what the plain ways give: curves, suppression, batches in parts, shapes alone, threads."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import detect
from models.backend_formats.checkpoint import lay_out_for_cpu
from models.yolo import DetectionModel, SegmentationModel
from tests.test_detect import weights  # noqa: F401 (a fixture)
from tests.test_sources import picture
from utils import evaluation
from utils.errors import WorkError
from utils.hit_curves import sorted_by_class
from utils.logs import LOGGER
from utils.meta_shapes import ShapesAlone
from utils.metrics import CONFIDENCES, RECALLS, precision_recall_curves
from utils.model_ops import meta_forward
from utils.nms import CROWD, _order, non_max_suppression
from utils.pipeline import ReadAhead, WriteBehind

ROOT = Path(__file__).resolve().parents[1]


# Curves ---------------------------------------------------------------------------------------------------------------


def _plain_curves(tp: np.ndarray, conf: np.ndarray, labels: int) -> tuple[np.ndarray, ...]:
    """AP at each threshold, recall and precision over CONFIDENCES, precision over recall: point by point."""
    order = np.argsort(-conf, kind="stable")
    hits, conf = tp[order].cumsum(0), conf[order].astype(np.float64)
    recall, precision = hits / labels, hits / np.arange(1, len(conf) + 1)[:, None]
    envelopes = []
    for t in range(tp.shape[1]):
        whole = np.concatenate(([1.0], precision[:, t], [0.0]))
        envelopes.append(np.maximum.accumulate(whole[::-1])[::-1])
    points = np.concatenate((np.zeros((1, tp.shape[1])), recall, np.ones((1, tp.shape[1]))))
    ap = [np.trapezoid(np.interp(RECALLS, points[:, t], e), RECALLS) for t, e in enumerate(envelopes)]
    r = np.interp(-CONFIDENCES, -conf, recall[:, 0], left=0)
    p = np.interp(-CONFIDENCES, -conf, precision[:, 0], left=1)
    return np.array(ap), r, p, np.interp(CONFIDENCES, points[:, 0], envelopes[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 25), st.sampled_from(["f4", "f8"]), st.integers(0, 3), st.integers(0, 10**6))
def test_curves_of_hits_equal_those_of_points(n: int, labels: int, dtype: str, digits: int, seed: int) -> None:
    """For two classes at once, confidences with and without ties, never more hits than labels."""
    rng = np.random.default_rng(seed)
    conf = (rng.random(n).round(digits) if digits else rng.random(n)).astype(dtype)
    tp = rng.random((n, 4)) < rng.random() * np.array([1, 0.8, 0.5, 0])
    pred = rng.integers(3, 5, n)
    for c in (3, 4):
        for t in range(4):
            tp[np.flatnonzero(tp[:, t] & (pred == c))[labels:], t] = False
    curves = precision_recall_curves(tp, conf, pred, np.repeat([3, 4], labels))
    for i, c in enumerate((3, 4)):
        mine = pred == c
        if not mine.any():
            assert not curves.ap[i].any()
            continue
        wanted = _plain_curves(tp[mine], conf[mine], labels)
        found = (curves.ap[i], curves.r[i], curves.p[i], curves.pr[i])
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_predictions_are_sorted_as_by_a_stable_sort(dtype: str) -> None:
    rng = np.random.default_rng(1)
    conf, pred = rng.integers(0, 50, 3000).astype(dtype) / 50, rng.integers(0, 9, 3000).astype("f4")
    order, bounds = sorted_by_class(conf, pred, np.array([1, 4, 7, 20]))
    wanted = [np.flatnonzero(pred == c) for c in (1, 4, 7, 20)]
    wanted = [rows[np.argsort(-conf[rows], kind="stable")] for rows in wanted]
    np.testing.assert_array_equal(order, np.concatenate(wanted))
    np.testing.assert_array_equal(np.diff(bounds), [len(rows) for rows in wanted])


# Suppression ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_det", [3, 40, 3000])
@pytest.mark.parametrize("agnostic", [False, True])
def test_suppression_in_parts_equals_one_suppression_of_all(max_det: int, agnostic: bool) -> None:
    """Thousands of boxes of crowded and of rare classes: greedy suppression of all at once keeps the same."""
    from torchvision.ops import nms

    generator = torch.Generator().manual_seed(5)
    rows = torch.rand((2, 4 * CROWD * 8, 5 + 6), generator=generator)
    rows[..., :2] *= 300
    rows[..., 2:4] = 20 + rows[..., 2:4] * 60
    rows[..., 6:] *= 0.3  # class 0 is the one crowded
    found = non_max_suppression(rows.clone(), 0.001, 0.4, agnostic=agnostic, max_det=max_det)
    for image, kept in zip(rows, found, strict=True):
        confidence, label = (image[:, 5:] * image[:, 4:5]).max(1)
        order = confidence.argsort(descending=True)
        order = order[confidence[order] > 0.001]
        half = image[order, 2:4] / 2
        boxes = torch.cat((image[order, :2] - half, image[order, :2] + half), 1)
        apart = boxes if agnostic else boxes + label[order, None] * 7680.0
        wanted = nms(apart, confidence[order], 0.4)[:max_det]
        torch.testing.assert_close(kept[:, :4], boxes[wanted], rtol=0, atol=1e-4)
        assert torch.equal(kept[:, 5].long(), label[order][wanted])


@pytest.mark.parametrize("highest", [1.0, 1.5])
def test_one_sort_equals_two(highest: float) -> None:
    """Of equal confidences the later comes first; above 1 the plain way sorts."""
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 7, (5000,), generator=generator)
    confidence = torch.randint(0, 40, (5000,), generator=generator) / 39 * highest
    order = confidence.argsort(stable=True).flip(0)
    assert torch.equal(_order(image, confidence), order[image[order].argsort(stable=True)])


def test_the_kernel_comes_without_the_package() -> None:
    code = """
import sys, torch
from utils.quick_nms import greedy_nms
boxes, scores = torch.rand(200, 4), torch.rand(200)
boxes[:, 2:] += boxes[:, :2]
found, light = greedy_nms()(boxes, scores, 0.5), "torchvision" not in sys.modules
from torchvision.ops import nms
print(light, torch.equal(found, nms(boxes, scores, 0.5)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "True"], done.stderr


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda: DetectionModel("yolov5n.yaml"), lambda: SegmentationModel("yolov5n-seg.yaml")]
)
def test_shapes_alone_are_those_of_a_pass(make) -> None:
    model = make().eval()
    model.model[-1].training = True
    with torch.no_grad():
        wanted = model(torch.zeros(2, 3, 64, 96))
    found = meta_forward(model, (2, 3, 64, 96))
    if isinstance(wanted, tuple):
        assert found[1].shape == wanted[1].shape
        found, wanted = found[0], wanted[0]
    assert [x.shape for x in found] == [x.shape for x in wanted]


@pytest.mark.parametrize(
    "run",
    [
        lambda x: nn.functional.conv2d(x, x.new_empty(4, 5, 3, 3)),
        lambda x: nn.functional.conv2d(x, x.new_empty(4, 8, 30, 30)),
        lambda x: nn.functional.batch_norm(x, x.new_empty(5), x.new_empty(5)),
        lambda x: torch.cat((x, x.new_empty(1, 8, 9, 9)), 1),
        lambda x: x + x.new_empty(1, 8, 9, 9),
    ],
)
def test_shapes_that_do_not_fit_are_refused(run) -> None:
    with ShapesAlone(), pytest.raises((RuntimeError, ValueError)):
        run(torch.empty(1, 8, 16, 16, device="meta"))


def test_loading_needs_no_compiler() -> None:
    code = "import sys, models.yolo as y; y.DetectionModel('yolov5n.yaml'); print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    before = subprocess.run(
        [sys.executable, "-c", "import sys, torch; print('torch._dynamo' in sys.modules)"], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == before.stdout.split(), done.stderr


@pytest.mark.parametrize(
    "make", [lambda: DetectionModel("yolov5n.yaml"), lambda: SegmentationModel("yolov5n-seg.yaml")]
)
def test_channels_last_gives_the_same_numbers(make) -> None:
    torch.manual_seed(0)
    model, images = make().eval(), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        wanted = model(images)
        lay_out_for_cpu(model)
        found = model(images)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-3)


def test_a_batch_in_parts_measures_as_a_whole_one(monkeypatch) -> None:
    """Seven images, one part of one left over: the same detections, in order, whatever goes through together."""
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=3).eval()
    for conv in model.model[-1].m:
        conv.bias.data.view(3, -1)[:, 4] += 4
    images = torch.randint(0, 256, (7, 3, 64, 64), dtype=torch.uint8)
    targets = torch.tensor([[i, i % 3, 0.5, 0.5, 0.4, 0.4] for i in range(7)])
    shapes = [((64, 64), ((1.0, 1.0), (0.0, 0.0)))] * 7
    batches = []
    for at_once in (2, 7):
        monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", at_once)
        loader = [(images, targets, [f"{i}.jpg" for i in range(7)], shapes)]
        result = evaluation.evaluate(
            model, loader, names=["a", "b", "c"], conf_thres=0.01, max_det=20, observers=[batches.append],
            save_hybrid=True,
        )  # fmt: skip
        assert result.seen == 7
    parts, whole = batches
    assert parts.pixels.dtype == torch.uint8
    torch.testing.assert_close(parts.images, whole.images)
    for a, b in zip(parts.detections, whole.detections, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


# Threads --------------------------------------------------------------------------------------------------------------


def test_reading_ahead_keeps_the_order_and_stops_early() -> None:
    read: list[int] = []

    def source():
        for i in range(1000):
            read.append(i)
            yield i

    with ReadAhead(source(), lambda _: 0) as ahead:
        assert [x for x, _ in zip(ahead, range(5), strict=False)] == list(range(5))
    assert len(read) < 20
    with ReadAhead(iter(range(7)), lambda _: 1 << 40) as ahead:
        assert list(ahead) == list(range(7))


def test_an_error_of_the_reader_comes_in_its_place() -> None:
    def source():
        yield 1
        raise WorkError("b.jpg: gone")

    got = []
    with pytest.raises(WorkError, match="b.jpg"), ReadAhead(source(), lambda _: 0) as ahead:
        got += ahead
    with ReadAhead(source(), lambda _: 0) as ahead:
        assert next(iter(ahead)) == 1


def test_writing_behind_keeps_the_order_and_raises() -> None:
    done: list[int] = []
    with WriteBehind() as behind:
        for i in range(50):
            behind.call(lambda i=i: done.append(i))
    assert done == list(range(50))

    def fail() -> None:
        raise WorkError("no space")

    with pytest.raises(WorkError, match="no space"), WriteBehind() as behind:
        behind.call(fail)
        for i in range(50, 100):
            behind.call(lambda i=i: done.append(i))
    assert done == list(range(50))
    with pytest.raises(KeyboardInterrupt), WriteBehind() as behind:
        behind.call(lambda: time.sleep(0.2))
        raise KeyboardInterrupt


def test_log_lines_keep_their_order_beside_a_file_that_cannot_be_read(weights, tmp_path, caplog, monkeypatch) -> None:  # noqa: F811
    """The warning of the third file stands between the lines of the second and the fourth."""
    for name in "abde":
        picture(tmp_path / f"{name}.jpg")
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    messages: list[str] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: messages.append(record.getMessage()))
    monkeypatch.setattr(LOGGER, "handlers", [handler])
    with caplog.at_level(logging.INFO, LOGGER.name):
        detect.run(weights, tmp_path, imgsz=64, device="cpu", project=tmp_path / "runs", max_det=3)
    said = [m for m in messages if "skipped: " in m or m.startswith("image ")]
    assert [m.split(".jpg")[0][-1] for m in said] == list("abcde")
    assert len(list((tmp_path / "runs").rglob("*.jpg"))) == 4
