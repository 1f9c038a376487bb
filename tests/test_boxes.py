"""Boxes: conversions, clipping, the way back from a letterbox, and the IoU family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import boxes as B

KINDS = {"iou": {}, "giou": {"GIoU": True}, "diou": {"DIoU": True}, "ciou": {"CIoU": True}}


def _boxes(draws: list[tuple[float, float, float, float]]) -> np.ndarray:
    return np.array([[x, y, x + w, y + h] for x, y, w, h in draws])


box_lists = st.lists(
    st.tuples(*[st.floats(-50, 500)] * 2, *[st.floats(0.5, 300)] * 2), min_size=1, max_size=8
).map(_boxes)  # fmt: skip


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_conversions_by_hand(kind) -> None:
    corners = kind(np.array([[10.0, 20.0, 30.0, 60.0, 7.0]]))
    centre = B.xyxy2xywh(corners)
    assert centre.tolist() == [[20, 40, 20, 40, 7]]
    assert B.xywh2xyxy(centre[:, :4]).tolist() == [[10, 20, 30, 60]]
    assert B.xyxy2xywhn(corners[:, :4], w=100, h=200).tolist() == pytest.approx(np.array([[0.2, 0.2, 0.2, 0.2]]))
    assert B.xywhn2xyxy(kind(np.array([[0.5, 0.5, 0.5, 0.25]])), 100, 40, 3, 4).tolist() == [[28, 19, 78, 29]]
    assert B.xyn2xy(kind(np.array([[0.5, 0.25]])), 100, 40, 3, 4).tolist() == [[53, 14]]


def test_whole_numbers_do_not_lose_half_a_pixel() -> None:
    assert B.xyxy2xywh(np.array([[0, 0, 3, 5]])).tolist() == [[1.5, 2.5, 3, 5]]
    assert B.xyxy2xywh(torch.tensor([[0, 0, 3, 5]])).tolist() == [[1.5, 2.5, 3, 5]]


def test_wide_rows_are_refused_where_they_are_not_understood() -> None:
    with pytest.raises(ValueError, match="4 numbers"):
        B.xywh2xyxy(np.zeros((2, 5)))


@settings(max_examples=50, deadline=None)
@given(box_lists)
def test_round_trips(boxes: np.ndarray) -> None:
    np.testing.assert_allclose(B.xywh2xyxy(B.xyxy2xywh(boxes)), boxes, atol=1e-9)
    np.testing.assert_allclose(B.xywhn2xyxy(B.xyxy2xywhn(boxes, 320, 240), 320, 240), boxes, atol=1e-9)
    there = boxes.clip(0, [[640, 480, 640, 480]])
    letterboxed = there * 0.5 + [[7, 9, 7, 9]]
    back = B.scale_boxes((258, 334), letterboxed, (480, 640), ((0.5, 0.5), (7, 9)))
    np.testing.assert_allclose(back, there, atol=1e-9)


def test_clip_keeps_the_input_unless_told_otherwise() -> None:
    boxes = np.array([[-5.0, -5.0, 50.0, 50.0]])
    B.xyxy2xywhn(boxes, 40, 30, clip=True)
    assert boxes.tolist() == [[-5, -5, 50, 50]]
    B.clip_boxes(boxes, (30, 40))
    assert boxes.tolist() == [[0, 0, 40, 30]]


@settings(max_examples=50, deadline=None)
@given(box_lists, box_lists)
def test_overlap_properties(first: np.ndarray, second: np.ndarray) -> None:
    a, b = torch.as_tensor(first), torch.as_tensor(second)
    iou = B.box_iou(a, b)
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1 + 1e-9)).all()
    np.testing.assert_allclose(B.box_iou(b, a).T, iou, atol=1e-12)
    np.testing.assert_allclose(B.iou_matrix(first, second), iou, atol=1e-12)
    np.testing.assert_allclose(B.box_iou(a, a).diagonal(), 1, atol=1e-5)
    pairs = {name: B.bbox_iou(a[:1], b, xywh=False, **kind)[:, 0] for name, kind in KINDS.items()}
    np.testing.assert_allclose(pairs["iou"], iou[0], atol=1e-9)
    assert (pairs["ciou"] <= pairs["diou"] + 1e-12).all()
    assert (pairs["diou"] <= pairs["iou"] + 1e-12).all()
    assert (pairs["giou"] <= pairs["iou"] + 1e-12).all()


def test_overlaps_by_hand() -> None:
    """Boxes 2 x 2 and 2 x 2 moved by (1, 0): I 2, U 6, C 6; ρ² 1, c² 9 + 4; same shape, so v = 0."""
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])
    assert B.bbox_iou(a, b, xywh=False).item() == pytest.approx(1 / 3, abs=1e-6)
    assert B.bbox_iou(a, b, xywh=False, GIoU=True).item() == pytest.approx(1 / 3, abs=1e-6)
    assert B.bbox_iou(a, b, xywh=False, CIoU=True).item() == pytest.approx(1 / 3 - 1 / 13, abs=1e-6)
    assert B.wh_iou(torch.tensor([[2.0, 2]]), torch.tensor([[4.0, 1]])).item() == pytest.approx(2 / 6)
    assert B.bbox_ioa(a.numpy()[0], b.numpy()).tolist() == pytest.approx([0.5], abs=1e-6)
    masks = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    assert B.mask_iou(masks[:1], masks).tolist()[0] == pytest.approx([1.0, 0.0])


def test_ciou_gradient_is_finite_for_a_flat_box() -> None:
    flat = torch.tensor([[5.0, 5.0, 4.0, 0.0]], requires_grad=True)
    (1 - B.bbox_iou(flat, torch.tensor([[5.0, 5.0, 4.0, 2.0]]), CIoU=True)).sum().backward()
    assert flat.grad.isfinite().all()


def test_outlines() -> None:
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    assert B.segment2box(square - 5, 100, 100).tolist() == [5, 5, 5, 5]
    assert B.segment2box(square - 50, 100, 100).tolist() == [[0, 0, 0, 0]]
    assert B.segments2boxes([square, square + 10]).tolist() == [[5, 5, 10, 10], [15, 15, 10, 10]]
    assert B.segments2boxes([]).shape == (0, 4)
    outline = B.resample_segments([square.copy()], 9)[0]
    assert outline[:5].tolist() == [[0, 0], [5, 0], [10, 0], [10, 5], [10, 10]]
    assert outline[-1].tolist() == [0, 0]


def test_golden_overlaps(golden) -> None:
    _, arrays = golden("metrics")
    a, b, c = (torch.as_tensor(arrays[f"iou/{k}"]) for k in "abc")
    np.testing.assert_allclose(B.box_iou(a, b), arrays["iou/box_iou_a_b"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(B.box_iou(a, c), arrays["iou/box_iou_a_c"], rtol=1e-6, atol=1e-9)
    for name, kind in KINDS.items():
        for form in ("xyxy", "xywh"):
            pair = (B.xyxy2xywh(a), B.xyxy2xywh(c)) if form == "xywh" else (a, c)
            got = B.bbox_iou(*pair, xywh=form == "xywh", **kind)
            np.testing.assert_allclose(got, arrays[f"iou/bbox_{name}_{form}_a_c"], rtol=1e-6, atol=2e-7)
    x = B.xyxy2xywh(a).requires_grad_()
    (1 - B.bbox_iou(x, B.xyxy2xywh(c), CIoU=True)).sum().backward()
    np.testing.assert_allclose(x.grad, arrays["iou/ciou_loss_grad_wrt_a_xywh"], rtol=1e-4, atol=1e-7)


def test_golden_box_operations(golden, golden_inputs) -> None:
    facts, _ = golden("ops")
    boxes = np.array(facts["scale_boxes"]["boxes"], np.float32)
    np.testing.assert_allclose(boxes, golden_inputs.boxes(8, 700, stream=4500) - 30, rtol=1e-6)
    for case in facts["scale_boxes"]["cases"]:
        for kind in (np.copy, torch.tensor):
            got = B.scale_boxes(case["img1_shape"], kind(boxes), case["img0_shape"], case["ratio_pad"])
            np.testing.assert_allclose(got, case["out"], rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(B.clip_boxes(torch.tensor(boxes), (300, 400)), facts["clip_boxes"]["out"])
    np.testing.assert_allclose(B.clip_boxes(boxes.copy(), (300, 400)), facts["clip_boxes"]["numpy_out"])
    np.testing.assert_allclose(B.xyxy2xywh(boxes), facts["xyxy2xywh"], rtol=1e-6)
    np.testing.assert_allclose(B.xywh2xyxy(boxes), facts["xywh2xyxy_of_boxes_as_xywh"], rtol=1e-6)
    case = facts["xywhn"]
    normalised = np.array(case["in"], np.float32)
    got = B.xywhn2xyxy(normalised, 600, 400, 12, 7)
    np.testing.assert_allclose(got, case["xywhn2xyxy_w600_h400_padw12_padh7"], rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(B.xyxy2xywhn(boxes, 600, 400), case["xyxy2xywhn_w600_h400"], rtol=1e-6)
    got = B.xyxy2xywhn(boxes, 600, 400, clip=True, eps=1e-3)
    np.testing.assert_allclose(got, case["xyxy2xywhn_w600_h400_clip_eps1e-3"], rtol=1e-6, atol=1e-7)
    case = facts["bbox_ioa"]
    got = B.bbox_ioa(np.array(case["box1"]), np.array(case["box2"]))
    np.testing.assert_allclose(got, case["out_intersection_over_box2_area"], atol=1e-6)


def test_golden_outlines(golden) -> None:
    facts = golden("ops")[0]["segments"]
    outlines = [np.array(s) for s in facts["in"]]
    first = outlines[0]
    np.testing.assert_allclose(B.xyn2xy(first, 600, 400, 12, 7), facts["xyn2xy_w600_h400_padw12_padh7"])
    np.testing.assert_allclose(B.segments2boxes(outlines), facts["segments2boxes"])
    got = B.segment2box(first * 700 - 30, 640, 480)
    np.testing.assert_allclose(got, facts["segment2box_640x480_of_700x_minus_30"])
    resampled = B.resample_segments([s.copy() for s in outlines], 25)
    np.testing.assert_allclose(resampled, facts["resample_segments_n25"], rtol=1e-6)
    for normalize, name in ((False, ""), (True, "_normalized")):
        got = B.scale_segments((640, 640), first * 640, (480, 640), normalize=normalize)
        np.testing.assert_allclose(got, facts[f"scale_segments_640x640_to_480x640{name}"], rtol=1e-6)
    clipped = first * 640 - 50
    B.clip_segments(clipped, (300, 400))
    np.testing.assert_allclose(clipped, facts["clip_segments_300x400_of_640x_minus_50"], rtol=1e-6)
