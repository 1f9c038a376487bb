from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import augmentations as aug
from utils.data.mosaic import Tile, paste_polygons, place_tiles, render

RANGES = {"degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0, "perspective": 0.0}


class FixedDraws:
    """Stands in for a generator whose next uniform draws are known."""

    def __init__(self, values: list[float]):
        self.values = values

    def uniform(self, low: object, high: object) -> np.ndarray:
        return np.array(self.values)


def formula_image(h: int, w: int) -> np.ndarray:
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    return ((3 * x + 5 * y + 40 * c) % 256).astype(np.uint8)


def smooth_image(h: int, w: int, seed: int) -> np.ndarray:
    """Return an image whose neighbouring pixels differ by a few levels, so that interpolation hardly matters."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (h // 24 + 3, w // 24 + 3, 3)).astype(np.uint8)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)


# Letterbox ------------------------------------------------------------------------------------------------------------


def test_letterbox_matches_reference(golden):
    facts, _ = golden("ops")
    for case in facts["letterbox"]["cases"]:
        shape = case["new_shape"] if isinstance(case["new_shape"], int) else tuple(case["new_shape"])
        options = {key: case[key] for key in ("auto", "scaleFill", "scaleup", "stride")}
        out, ratio, pad = aug.letterbox(formula_image(case["h"], case["w"]), shape, **options)
        assert list(out.shape) == case["out_shape"]
        np.testing.assert_allclose(ratio, case["ratio_wh"], rtol=1e-6)
        np.testing.assert_allclose(pad, case["pad_wh"], rtol=1e-6)
        np.testing.assert_allclose(out.mean((0, 1)), case["mean_bgr"], atol=0.5)
        top, left = round(pad[1] - 0.1), round(pad[0] - 0.1)
        assert [top, left] == [case["image_rows"][0], case["image_cols"][0]]


# Warp -----------------------------------------------------------------------------------------------------------------


def test_warped_boxes_match_reference(golden):
    facts, _ = golden("ops")
    boxes = np.array(facts["box_warp"]["boxes_xyxy"], np.float32)
    targets = np.concatenate((np.arange(len(boxes), dtype=np.float32)[:, None], boxes), 1)
    for case in facts["box_warp"]["cases"]:
        draws = list(case["drawn_values_in_order"].values())
        (h, w), (out_h, out_w) = case["input_hw"], case["output_hw"]
        warp = aug.draw_warp(FixedDraws(draws), (w, h), (out_w, out_h), 1, 1, 1, 1, 1)
        np.testing.assert_allclose(warp.matrix, case["matrix_3x3"], rtol=1e-6, atol=1e-9)
        assert warp.is_projective == case["perspective_divide"]
        kept = aug.warp_labels(targets, [], warp, (out_w, out_h))
        assert kept[:, 0].astype(int).tolist() == case["kept_boxes"]
        np.testing.assert_allclose(kept[:, 1:], np.array(case["kept_boxes_xyxy"]).reshape(-1, 4), rtol=1e-6, atol=1e-4)
        im = np.zeros((h, w, 3), np.uint8)
        out, labels = aug.random_perspective(im, targets, border=case["border"], rng=FixedDraws(draws))
        assert out.shape == (out_h, out_w, 3)
        np.testing.assert_array_equal(labels, kept)


def test_box_candidates_match_reference(golden):
    facts, _ = golden("ops")
    case = facts["box_candidates"]
    before, after = np.array(case["box1_before"]).T, np.array(case["box2_after"]).T
    assert aug.box_candidates(before, after).tolist() == case["keep_defaults"]
    assert aug.box_candidates(before, after, area_thr=0.01).tolist() == case["keep_area_thr_0.01"]
    assert aug.box_candidates(before, after, wh_thr=0, ar_thr=20).tolist() == case["keep_wh_thr_0_ar_20"]


def test_bbox_ioa_matches_reference(golden):
    facts, _ = golden("ops")
    case = facts["bbox_ioa"]
    found = [aug.bbox_ioa(np.array(box), np.array(case["box2"])) for box in case["box1"]]
    np.testing.assert_allclose(found, case["out_intersection_over_box2_area"], rtol=1e-6, atol=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_boxes_follow_pixels(seed):
    """A painted square is found again where its label says."""
    im = np.zeros((200, 240, 3), np.uint8)
    im[80:120, 90:150] = 255
    targets = np.array([[3, 90, 80, 150, 120]], np.float32)
    rng = np.random.default_rng(seed)
    out, labels = aug.random_perspective(im, targets, degrees=20, shear=5, perspective=0.0003, rng=rng)
    ys, xs = np.nonzero(out[..., 0] > 190)  # grey padding is 114
    assert len(labels) == 1
    np.testing.assert_allclose(labels[0, 1:], [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=2.5)


def test_segments_give_tighter_boxes_than_corners():
    """A diamond turned by 45 degrees becomes a square whose box is smaller than the turned box."""
    diamond = np.array([[100, 60], [140, 100], [100, 140], [60, 100]], np.float32)
    targets = np.array([[0, 60, 60, 140, 140]], np.float32)
    warp = aug.draw_warp(FixedDraws([0, 0, 45, 1, 0, 0, 0.5, 0.5]), (200, 200), (200, 200), 1, 1, 1, 1, 1)
    outlined = aug.warp_labels(targets, [diamond], warp, (200, 200))
    boxed = aug.warp_labels(targets, [], warp, (200, 200))
    half = 40 / np.sqrt(2)
    np.testing.assert_allclose(outlined[0, 1:], [100 - half, 100 - half, 100 + half, 100 + half], atol=0.1)
    np.testing.assert_allclose(boxed[0, 1:], [100 - 2 * half, 100 - 2 * half, 100 + 2 * half, 100 + 2 * half], atol=0.1)


def test_drawn_ranges():
    rng = np.random.default_rng(0)
    zooms = [aug.draw_warp(rng, (100, 100), (100, 100), **RANGES) for _ in range(2000)]
    scales = np.array([warp.scale for warp in zooms])
    centres = np.array([aug.warp_points(np.array([[50.0, 50.0]]), warp)[0] for warp in zooms])
    assert 0.5 <= scales.min() < 0.51 and 1.49 < scales.max() <= 1.5
    assert 40 <= centres.min() < 40.5 and 59.5 < centres.max() <= 60
    assert abs(scales.mean() - 1) < 0.02


# Mosaic: fast against slow --------------------------------------------------------------------------------------------


def slow_canvas(tiles: list[Tile], images: list[np.ndarray], size: int) -> np.ndarray:
    canvas = np.full((size, size, 3), 114, np.uint8)
    for ((x1, y1, x2, y2), (left, top)), im in zip(tiles, images, strict=True):
        canvas[y1:y2, x1:x2] = im[top : top + y2 - y1, left : left + x2 - x1]
    return canvas


def seams(tiles: list[Tile], size: int) -> np.ndarray:
    lines = np.zeros((size, size), np.uint8)
    for (x1, y1, x2, y2), _ in tiles:
        if x1 < x2 and y1 < y2:
            cv2.rectangle(lines, (x1, y1), (x2, y2), 255, 4)
    return lines


def slow_view(canvas: np.ndarray, matrix: np.ndarray, size: int, grey: int) -> np.ndarray:
    return cv2.warpPerspective(canvas, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(grey,) * 3)


WARPS = {
    "zoom": {"scale": 0.5},
    "wide zoom": {"scale": 0.9},
    "rotation": {"degrees": 30.0, "shear": 10.0},
    "perspective": {"perspective": 0.0005},
    "extreme perspective": {"perspective": 0.001, "degrees": 20.0},
}


def mosaic_case(seed: int, ranges: dict[str, float]) -> tuple[list[Tile], list[np.ndarray], aug.Warp, int]:
    size = 160
    rng = np.random.default_rng(seed)
    shapes = [(160, 120), (110, 160), (160, 160), (90, 160)]
    images = [smooth_image(h, w, seed * 4 + k) for k, (h, w) in enumerate(shapes)]
    centre = int(rng.uniform(80, 240)), int(rng.uniform(80, 240))
    tiles = place_tiles(shapes, centre, 2 * size)
    return tiles, images, aug.draw_warp(rng, (320, 320), (size, size), **(RANGES | ranges)), size


@pytest.mark.parametrize("ranges", WARPS.values(), ids=WARPS.keys())
@pytest.mark.parametrize("seed", range(6))
def test_mosaic_equals_canvas_and_warp(ranges, seed):
    tiles, images, warp, size = mosaic_case(seed, ranges)
    out = np.empty((size, size, 3), np.uint8)
    render(out, tiles, images.__getitem__, warp.matrix)
    expected = slow_view(slow_canvas(tiles, images, 2 * size), warp.matrix, size, 114)
    near_seam = slow_view(np.repeat(seams(tiles, 2 * size)[..., None], 3, 2), warp.matrix, size, 0)[..., 0] > 0
    near_seam |= slow_view(np.full((2 * size, 2 * size, 3), 255, np.uint8), warp.matrix, size, 0)[..., 0] < 255
    difference = np.abs(out.astype(int) - expected).max(2)[~near_seam]
    assert (~near_seam).mean() > 0.5
    assert difference.max() <= 3
    assert difference.mean() < 0.2


def test_only_visible_tiles_are_loaded():
    tiles = place_tiles([(160, 160)] * 4, (80, 80), 320)  # the top and left tiles lie left of and above pixel 80
    loaded = []

    def load(k: int) -> np.ndarray:
        loaded.append(k)
        return np.full((160, 160, 3), k, np.uint8)

    out = np.empty((160, 160, 3), np.uint8)
    render(out, tiles, load, np.array([[1.5, 0, -160], [0, 1.5, -160], [0, 0, 1]]))
    assert loaded == [3]
    assert out[:180, :180].max() in {3, 114}


def test_tiles_meet_without_gap_under_any_zoom():
    rng = np.random.default_rng(0)
    for _ in range(50):
        warp = aug.draw_warp(rng, (320, 320), (160, 160), **RANGES)
        tiles = place_tiles([(320, 320)] * 4, (int(rng.uniform(80, 240)), int(rng.uniform(80, 240))), 320)
        out = np.empty((160, 160, 3), np.uint8)
        render(out, tiles, lambda _: np.full((320, 320, 3), 200, np.uint8), warp.matrix)
        inside = slow_view(np.full((320, 320, 3), 255, np.uint8), warp.matrix, 160, 0)[..., 0] == 255
        assert (out[inside] == 200).all()


@pytest.mark.parametrize("degrees", [0.0, 25.0])
def test_mosaic_paste_equals_canvas_paste(degrees):
    tiles, images, warp, size = mosaic_case(1, {"scale": 0.2, "degrees": degrees})
    polygon = np.array([[60, 100], [150, 90], [160, 200], [90, 220]], np.float32)
    labels = np.array([[0, 60, 90, 160, 220]], np.float32)
    assert aug.choose_pastes(labels, [polygon], 2 * size, 1.0, np.random.default_rng(0)) == [0]
    canvas, *_ = aug.copy_paste(slow_canvas(tiles, images, 2 * size), labels, [polygon], p=1.0)
    expected = slow_view(canvas, warp.matrix, size, 114)
    out = np.empty((size, size, 3), np.uint8)
    render(out, tiles, images.__getitem__, warp.matrix)
    paste_polygons(out, tiles, images.__getitem__, warp, [polygon], 2 * size)
    lines = seams(tiles, 2 * size)
    lines |= lines[:, ::-1]
    cv2.polylines(lines, [(np.array([320, 0]) + polygon * (-1, 1)).astype(np.int32)], True, 255, 6)
    near_seam = slow_view(np.repeat(lines[..., None], 3, 2), warp.matrix, size, 0)[..., 0] > 0
    assert np.abs(out.astype(int) - expected).max(2)[~near_seam].max() <= 3


# Colour, blending, pasting --------------------------------------------------------------------------------------------


def test_hsv_in_place_and_seeded():
    im = smooth_image(40, 50, 0)
    same, first, second = im.copy(), im.copy(), im.copy()
    aug.augment_hsv(same, 0, 0, 0)
    aug.augment_hsv(first, 0.015, 0.7, 0.4, rng=np.random.default_rng(3))
    aug.augment_hsv(second, 0.015, 0.7, 0.4, rng=np.random.default_rng(3), scratch=np.empty_like(im))
    np.testing.assert_array_equal(same, im)
    np.testing.assert_array_equal(first, second)
    assert (first != im).any()


def test_hsv_gains_by_hand():
    """Grey 100 has saturation 0: only the value changes, to floor(100 · gain)."""
    im = np.full((4, 4, 3), 100, np.uint8)
    draws = np.random.default_rng(5).uniform(-1, 1, 3)
    aug.augment_hsv(im, 0.5, 0.5, 0.5, rng=np.random.default_rng(5))
    assert (im == int(100 * (1 + 0.5 * draws[2]))).all()


def test_mixup_blends_by_beta():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)
    ratio = np.random.default_rng(1).beta(32, 32)
    one, two = np.zeros((1, 5), np.float32), np.ones((2, 5), np.float32)
    im, labels = aug.mixup(black, one, white, two, rng=np.random.default_rng(1))
    assert (im == round(200 * (1 - ratio))).all()
    assert labels.tolist() == [[0] * 5, [1] * 5, [1] * 5]


def test_copy_paste_by_hand():
    im = np.zeros((50, 100, 3), np.uint8)
    im[10:20, 10:20] = 255
    square = np.array([[10, 10], [19, 10], [19, 19], [10, 19]], np.float32)
    labels = np.array([[2, 10, 10, 20, 20]], np.float32)
    out, rows, outlines = aug.copy_paste(im, labels, [square], p=1.0)
    assert rows.tolist() == [[2, 10, 10, 20, 20], [2, 80, 10, 90, 20]]
    assert (out[10:20, 80:90] == 255).all() and out[:, 30:80].max() == 0
    np.testing.assert_array_equal(outlines[1][:, 0], 100 - square[:, 0])


def test_copy_paste_refuses_overlap_and_missing_outlines():
    rng = np.random.default_rng(0)
    middle = np.array([[0, 40, 10, 60, 20]], np.float32)
    outline = np.array([[40, 10], [60, 10], [60, 20]], np.float32)
    assert aug.choose_pastes(middle, [outline], 100, 1.0, rng) == []
    two = np.array([[0, 10, 10, 20, 20], [0, 30, 30, 35, 35]], np.float32)
    assert aug.choose_pastes(two, [outline], 100, 1.0, rng) == []
    assert aug.choose_pastes(two, [outline, outline], 100, 0.0, rng) == []


def test_cutout_drops_covered_labels_only():
    im = np.full((64, 64, 3), 255, np.uint8)
    labels = np.array([[0, 0.5, 0.5, 0.02, 0.02]] * 3, np.float32)
    left = aug.cutout(im, labels, p=1.0, rng=np.random.default_rng(0))
    assert (im != 255).any() and len(left) <= 3
    assert aug.cutout(im, labels, p=0.0) is labels


def test_replicate_copies_the_smaller_half():
    im = np.zeros((60, 60, 3), np.uint8)
    labels = np.array([[1, 0, 0, 10, 10], [2, 0, 0, 40, 40]], np.float32)
    _, rows = aug.replicate(im, labels, rng=np.random.default_rng(0))
    assert len(rows) == 3 and rows[2, 0] == 1
    np.testing.assert_allclose(rows[2, 3:] - rows[2, 1:3], 10)


# Albumentations -------------------------------------------------------------------------------------------------------


def test_albumentations_are_seeded_and_rare():
    effects = aug.Albumentations()
    assert [type(effect).__name__ for _, effect in effects.transform] == ["Blur", "MedianBlur", "ToGray", "CLAHE"]
    im, labels = smooth_image(64, 64, 0), np.zeros((1, 5), np.float32)
    changed = 0
    for seed in range(300):
        out, rows = effects(im, labels, rng=np.random.default_rng(seed))
        assert rows is labels
        if out is not im:
            changed += 1
            again, _ = effects(im, labels, rng=np.random.default_rng(seed))
            np.testing.assert_array_equal(out, again)
    assert 2 <= changed <= 28  # 300 · (1 - 0.99⁴) = 11.8


def test_albumentations_ask_no_server():
    import os

    aug.Albumentations()
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"]


# Classification -------------------------------------------------------------------------------------------------------


def test_classify_transforms_match_reference(golden):
    facts, _ = golden("ops")
    case = facts["classify_transforms_32"]
    out = aug.classify_transforms(32)(formula_image(*case["image_hw"]))
    assert list(out.shape) == case["shape"]
    np.testing.assert_allclose(out.mean((1, 2)), case["mean"], atol=0.02)
    np.testing.assert_allclose(out.std((1, 2)), case["std"], atol=0.02)


def test_denormalize_undoes_normalize():
    x = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(aug.denormalize(aug.normalize(x)), x)


def test_letterbox_class_keeps_proportions():
    out = aug.LetterBox((100, 100))(np.full((50, 100, 3), 9, np.uint8))
    assert out.shape == (100, 100, 3)
    assert (out[25:75] == 9).all() and (out[:25] == 114).all() and (out[75:] == 114).all()
    assert aug.LetterBox((100, 100), auto=True)(np.zeros((50, 100, 3), np.uint8)).shape == (64, 128, 3)


def test_classify_albumentations_shape():
    out = aug.classify_albumentations(size=48)(image=smooth_image(60, 80, 0))["image"]
    assert out.shape == (3, 48, 48)
