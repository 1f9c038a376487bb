from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.balance.image_weights import image_repeat_factors
from utils.balance.rare_paste import LEAST_SIDE, Cutout, RareBank, RarePaste, place
from utils.balance.samplers import Draw
from utils.boxes import bbox_ioa, xywhn2xyxy
from utils.data.blending import FEATHER, edge_tint, feathered, light_gain, outline_mask
from utils.data.training_image import TrainingImage
from utils.dataloaders import create_dataloader
from utils.dataset import LoadImagesAndLabels

OFF = dict.fromkeys(
    ("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic",
     "mixup", "copy_paste"), 0.0,
) | {"album": []}  # fmt: skip
ON = {"rare_paste": 1.0, "rare_paste_max": 3, "rare_paste_scale": [1.0, 1.0], "rare_paste_ioa": 0.3}
MOSAIC = OFF | {"mosaic": 1.0, "scale": 0.5, "translate": 0.1, "fliplr": 0.5}
RED = 40, 40, 230
SIZE = 128


def rows(*labels) -> np.ndarray:
    """Labels class, x1, y1, x2, y2 in pixels of a 100x100 image as class, normalised xywh."""
    out = np.array(labels, np.float32).reshape(-1, 5)
    x1, y1, x2, y2 = out[:, 1:].T / 100
    return np.stack((out[:, 0], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), 1).astype(np.float32)


def bank(labels, factors, segments=None, **options) -> RareBank:
    segments = [[] for _ in labels] if segments is None else segments
    return RareBank(labels, segments, np.full((len(labels), 2), 100), np.array(factors), **options)


def image(labels: np.ndarray, pixels: np.ndarray | None = None, segments=()) -> TrainingImage:
    pixels = np.full((100, 100, 3), 110, np.uint8) if pixels is None else pixels
    return TrainingImage(pixels.shape[:2], labels, list(segments), lambda: pixels, np.zeros(len(labels), bool))


def red_square(x1=30, y1=40, x2=60, y2=56) -> np.ndarray:
    im = np.full((100, 100, 3), 110, np.uint8)
    im[y1:y2, x1:x2] = RED
    return im


def red_box(im: np.ndarray) -> list[int]:
    """Bounds of the red pixels, x1, y1, x2, y2."""
    red = im[..., 2].astype(int) - im[..., 1] > 95
    y, x = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return [x[0], y[0], x[-1] + 1, y[-1] + 1]


# The bank -------------------------------------------------------------------------------------------------------------


def test_bank_holds_the_objects_of_repeated_classes():
    """Ten images, class 0 in all, class 1 in the last alone: with t = 0.4, r = (1, √(0.4/0.1)) = (1, 2)."""
    labels = [rows((0, 10, 10, 40, 40))] * 9 + [rows((0, 10, 10, 40, 40), (1, 50, 50, 80, 80), (1, 20, 60, 40, 90))]
    factors = image_repeat_factors(labels, 2, 0.4).classes
    assert factors.tolist() == [1, 2]
    found = bank(labels, factors)
    assert len(found) == 2 and found.images.tolist() == [9, 9] and found.rows.tolist() == [1, 2]
    assert found.classes.tolist() == [1] and found.counts() == [2] and found.found.tolist() == [2]
    cutout = found.cutout(0)
    assert cutout.cls == 1 and cutout.rect == (50, 50, 80, 80) and cutout.outline is None


def test_classes_are_drawn_by_their_excess_and_objects_evenly():
    """r = (1, 1.5, 3): chances 0.5/2.5 = 0.2 and 2/2.5 = 0.8; the two objects of class 2 get 0.4 each."""
    labels = [rows((0, 0, 0, 50, 50)), rows((1, 5, 5, 50, 50)), rows((2, 5, 5, 50, 50), (2, 50, 50, 90, 90))]
    found = bank(labels, [1, 1.5, 3])
    np.testing.assert_allclose(found.chances, [0.2, 0.8])
    rng = np.random.default_rng(0)
    drawn = [found.draw(rng) for _ in range(4000)]
    share = [np.mean([(c.image, c.row) == place for c in drawn]) for place in ((1, 0), (2, 0), (2, 1))]
    np.testing.assert_allclose(share, [0.2, 0.4, 0.4], atol=0.03)


def test_objects_that_can_never_be_pasted_stay_out():
    labels = [rows((1, 10, 10, 14, 60), (1, 10, 10, 20, 60), (1, 0, 20, 100, 60), (1, 0, 20, 50, 60))]
    found = bank(labels, [1, 2], least_side=5)
    assert found.rows.tolist() == [1, 3]  # too narrow; and cut off left and right: how wide would it be?
    assert found.found.tolist() == [4]


def test_empty_bank():
    found = bank([rows((0, 0, 0, 50, 50))], [1.0])
    assert len(found) == 0 and found.classes.size == 0


# Placing --------------------------------------------------------------------------------------------------------------


def cutout(x1, y1, x2, y2, outline=None) -> Cutout:
    return Cutout(0, 0, 1, np.array([x1, y1, x2, y2], float), (100, 100), outline)


@given(
    st.integers(0, 80), st.integers(0, 80), st.integers(8, 60), st.integers(8, 60),
    st.integers(20, 200), st.integers(20, 200), st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_places_lie_inside_and_map_the_box_onto_the_rectangle(x, y, w, h, host_w, host_h, seed):
    item = cutout(x, y, min(x + w, 100), min(y + h, 100))
    found = place(item, (host_h, host_w), (0.5, 1.5), (0.5, 0.5), np.random.default_rng(seed))
    if found is None:
        return
    x1, y1, x2, y2 = found.rect
    assert 0 <= x1 < x2 <= host_w and 0 <= y1 < y2 <= host_h
    np.testing.assert_allclose(found.boxes(item.box[None])[0], found.rect, atol=1e-9)
    factor = abs(found.ax)
    assert 0.5 - 1 / w <= factor <= 1.5 + 1 / w and min(w, h) * 1.5 >= LEAST_SIDE


def test_small_and_large_objects_are_rejected():
    rng = np.random.default_rng(0)
    assert place(cutout(10, 10, 19.9, 40), (100, 100), (1, 1), (0, 0), rng) is None
    assert place(cutout(10, 10, 20, 40), (100, 100), (1, 1), (0, 0), rng) is not None
    assert place(cutout(10, 10, 20, 40), (100, 100), (0.5, 0.9), (0, 0), rng) is None
    assert place(cutout(10, 10, 20, 40), (29, 100), (1, 1), (0, 0), rng) is None
    assert place(cutout(10, 10, 20, 40), (30, 10), (1, 1), (0, 0), rng).rect == (0, 0, 10, 30)


@pytest.mark.parametrize(
    ("box", "flips", "edge"),
    [
        ((0, 30, 20, 60), (0, 0), {"x1": 0}),
        ((0, 30, 20, 60), (1, 0), {"x2": 100}),
        ((80, 30, 100, 60), (0, 0), {"x2": 100}),
        ((30, 0, 60, 20), (0, 0), {"y1": 0}),
        ((30, 0, 60, 20), (0, 1), {"y2": 100}),
        ((79, 79, 99.5, 100), (0, 0), {"x2": 100, "y2": 100}),
    ],
    ids=["left", "left mirrored", "right", "top", "top turned", "corner"],
)
def test_objects_cut_off_by_an_edge_stay_at_an_edge(box, flips, edge):
    for seed in range(5):
        found = place(cutout(*box), (100, 100), (1, 1), flips, np.random.default_rng(seed))
        at = dict(zip(("x1", "y1", "x2", "y2"), found.rect, strict=True))
        assert {key: at[key] for key in edge} == edge


def test_no_object_is_covered_more_than_allowed():
    host = image(rows((0, 20, 20, 60, 60), (0, 50, 50, 95, 95), (0, 5, 70, 25, 95)))
    paste = RarePaste(bank([rows((1, 10, 10, 40, 40))], [1, 2]), ON | {"rare_paste_max": 5}, lambda i: red_square())
    tried = 0
    for seed in range(60):
        placements = paste.choose(host, np.random.default_rng(seed))
        assert len(placements) <= 5
        boxes = xywhn2xyxy(host.labels[:, 1:].astype(float), 100, 100)
        for item in placements:
            tried += 1
            assert (bbox_ioa(np.array(item.rect, float), boxes) <= 0.3).all()
            boxes = np.concatenate((boxes, np.array([item.rect], float)))
    assert tried > 60


def test_a_full_image_takes_no_paste():
    host = image(rows(*[(0, x, y, x + 10, y + 10) for x in range(0, 100, 10) for y in range(0, 100, 10)]))
    paste = RarePaste(bank([rows((1, 10, 10, 40, 40))], [1, 2]), ON, lambda i: red_square())
    assert paste(host, np.random.default_rng(0)) is host


def test_probability_and_count():
    paste = RarePaste(bank([rows((1, 10, 10, 20, 20))], [1, 2]), ON | {"rare_paste": 0.3}, lambda i: red_square())
    host = image(rows())
    rng = np.random.default_rng(0)
    counts = np.bincount([len(paste(host, rng).labels) for _ in range(3000)], minlength=4) / 3000
    np.testing.assert_allclose(counts, [0.7, 0.1, 0.1, 0.1], atol=0.03)


def test_flips_keep_to_the_recipe():
    item = cutout(20, 30, 50, 45)
    for fliplr, flipud in ((0, 0), (1, 0), (0, 1)):
        found = [place(item, (100, 100), (1, 1), (fliplr, flipud), np.random.default_rng(k)) for k in range(8)]
        assert all((p.ax < 0, p.ay < 0) == (bool(fliplr), bool(flipud)) for p in found)


# Pixels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flips", [(0, 0), (1, 0), (0, 1)])
@pytest.mark.parametrize("zoom", [0.7, 1.0, 1.5])
def test_a_painted_square_is_found_in_its_box(flips, zoom):
    hyp = ON | {"rare_paste_scale": [zoom, zoom], "rare_paste_max": 1, "fliplr": flips[0], "flipud": flips[1]}
    paste = RarePaste(bank([rows((1, 30, 40, 60, 56))], [1, 2]), hyp, lambda i: red_square())
    for seed in range(4):
        out = paste(image(rows()), np.random.default_rng(seed))
        assert out.labels[:, 0].tolist() == [1] and out.pasted.tolist() == [True]
        box = xywhn2xyxy(out.labels[:, 1:], 100, 100)[0]
        np.testing.assert_allclose(red_box(out.load()), box, atol=1.01)


def test_ground_beyond_the_feather_is_untouched():
    rng = np.random.default_rng(1)
    ground = rng.integers(0, 255, (100, 100, 3), dtype=np.uint8)
    paste = RarePaste(bank([rows((1, 30, 40, 60, 56))], [1, 2]), ON | {"rare_paste_max": 1}, lambda i: red_square())
    host = image(rows(), ground)
    out = paste(host, np.random.default_rng(0))
    x1, y1, x2, y2 = xywhn2xyxy(out.labels[:, 1:], 100, 100)[0].round().astype(int)
    outside = np.ones((100, 100), bool)
    outside[max(y1 - FEATHER, 0) : y2 + FEATHER, max(x1 - FEATHER, 0) : x2 + FEATHER] = False
    before = ground.copy()
    changed = out.load()
    np.testing.assert_array_equal(changed[outside], ground[outside])
    np.testing.assert_array_equal(ground, before)  # the cache's own pixels stay
    np.testing.assert_array_equal(changed, out.load())


def test_feather_is_three_quarters_one_half_one_quarter():
    mask = feathered((5, 5, 9, 9), (14, 14))
    np.testing.assert_allclose(mask[6, :], [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0])
    np.testing.assert_allclose(mask[4, 4], 0.75**2)


def test_outlines_are_the_mask():
    """A red triangle, half of its box: the other half keeps the ground."""
    pixels = np.full((100, 100, 3), 110, np.uint8)
    corners = np.array([[20, 20], [60, 20], [20, 60]], np.float32)
    cv2.fillPoly(pixels, [corners.astype(np.int32)], RED)
    found = bank([rows((1, 20, 20, 60, 60))], [1, 2], [[corners / 100]])
    hyp = ON | {"rare_paste_max": 1, "fliplr": 0.0}
    host = image(rows(), np.full((100, 100, 3), (200, 120, 60), np.uint8))
    out = RarePaste(found, hyp, lambda i: pixels)(host, np.random.default_rng(3))
    x1, y1, x2, y2 = xywhn2xyxy(out.labels[:, 1:], 100, 100)[0].round().astype(int)
    im = out.load().astype(int)
    red = (im[..., 2] - im[..., 1] > 60)[y1:y2, x1:x2]
    assert 0.45 < red.mean() < 0.58 and red[2:15, 2:15].all() and not red[-15:, -15:].any()
    assert (im[y2 - 10 : y2, x2 - 10 : x2] == (200, 120, 60)).all()
    np.testing.assert_allclose(out.segments[0] * 100, corners - 20 + [x1, y1], atol=1e-3)


def test_outline_mask_has_the_area_of_the_outline():
    mask = outline_mask(np.array([[4.0, 4.0], [16.0, 4.0], [16.0, 14.0], [4.0, 14.0]]), (20, 20))
    assert mask.sum() == pytest.approx(120, rel=0.05) and mask[9, 9] == 1 and mask[0, 0] == 0


def test_objects_inside_a_box_crop_come_with_their_labels():
    """A small object inside the crop rides along; one that is mostly outside does not."""
    labels = [rows((1, 20, 20, 60, 60), (0, 30, 30, 40, 40), (0, 55, 55, 95, 95))]
    paste = RarePaste(bank(labels, [1, 2]), ON | {"rare_paste_max": 1, "fliplr": 0}, lambda i: red_square())
    out = paste(image(rows()), np.random.default_rng(0))
    assert out.labels[:, 0].tolist() == [1, 0] and out.pasted.all()
    box = xywhn2xyxy(out.labels[:, 1:], 100, 100)
    np.testing.assert_allclose(box[1] - np.tile(box[0, :2], 2), [10, 10, 20, 20], atol=1e-4)


def test_outlines_of_the_host_stay_in_step():
    square = np.array([[0.1, 0.1], [0.3, 0.1], [0.3, 0.3]], np.float32)
    host = image(rows((0, 10, 10, 30, 30)), segments=[square])
    paste = RarePaste(bank([rows((1, 40, 40, 60, 60))], [1, 2]), ON, lambda i: red_square())
    out = paste(host, np.random.default_rng(0))
    assert len(out.segments) == len(out.labels) > 1 and out.segments[1].shape == (4, 2)
    boxed = paste(image(rows((0, 10, 10, 30, 30))), np.random.default_rng(0))
    assert boxed.segments == []


def test_further_columns_are_carried_along():
    source = np.c_[rows((1, 40, 40, 60, 60)), [[0.25]]].astype(np.float32)
    host = image(np.c_[rows((0, 10, 10, 30, 30)), [[0.5]]].astype(np.float32))
    out = RarePaste(bank([source], [1, 2]), ON, lambda i: red_square())(host, np.random.default_rng(0))
    assert out.labels[0, 5] == 0.5 and (out.labels[1:, 5] == 0.25).all() and len(out.labels) > 1


def test_crops_are_kept_within_bounds(monkeypatch):
    monkeypatch.setattr("utils.balance.rare_paste._CROP_CACHE_BYTES", 10_000)
    labels = [rows((1, 20, 20, 60, 60))] * 12
    loads = []
    paste = RarePaste(bank(labels, [1, 2]), ON, lambda i: loads.append(i) or red_square())
    rng = np.random.default_rng(0)
    for _ in range(60):
        paste(image(rows()), rng).load()
    assert paste._crop_bytes == sum(crop.nbytes for crop, _, _ in paste._crops.values()) <= 10_000
    assert 12 < len(loads) < 180
    assert not paste.__getstate__()["_crops"]


# In the data set ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """Eight grey pictures with a green object of class 0; a red one of class 1 in the last."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    rng = np.random.default_rng(0)
    for k in range(8):
        h, w = (96, 128) if k % 2 else (128, 100)
        im = cv2.resize(rng.integers(80, 140, (4, 4, 3)).astype(np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)
        im[10:40, 12:42] = (30, 200, 30)
        lines = [f"0 {27 / w} {25 / h} {30 / w} {30 / h}"]
        if k == 7:
            im[60:84, 70:100] = RED
            lines.append(f"1 {85 / w} {72 / h} {30 / w} {24 / h}")
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), im)
        (tmp_path / "labels" / f"{k}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "images"


def build(folder: Path, hyp, **options) -> LoadImagesAndLabels:
    return LoadImagesAndLabels(str(folder), SIZE, 4, augment=True, hyp=hyp, nc=2, **options)


def same(a, b) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2:] == b[2:]


@pytest.mark.parametrize("hyp", [OFF, MOSAIC | {"mixup": 0.5, "copy_paste": 0.3}], ids=["off", "mosaic"])
def test_off_is_the_same_bytes(folder, hyp):
    plain, off = build(folder, hyp), build(folder, hyp | ON | {"rare_paste": 0.0})
    assert off.changes is None
    assert all(same(plain[Draw(k % 8, 1, k)], off[Draw(k % 8, 1, k)]) for k in range(12))


def test_red_objects_are_where_the_labels_say(folder):
    data = build(folder, OFF | ON | {"rare_paste_scale": [0.8, 1.2]})
    count = 0
    for k in range(7):
        im, targets, _, _ = data[Draw(k, 0, k)]
        pasted = targets[targets[:, 1] == 1, 2:].numpy() * SIZE
        red = (im[0].int() - im[1].int() > 80).numpy()
        inside = np.zeros_like(red)
        for x, y, w, h in pasted:
            x1, y1, x2, y2 = (round(v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
            part = red[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3]
            assert part.size == 0 or part.mean() > 0.5
            inside[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
            count += 1
        assert not (red & ~inside).any()
    assert count >= 7


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_caches_change_nothing(folder, cache):
    plain, cached = build(folder, MOSAIC | ON), build(folder, MOSAIC | ON, cache_images=cache)
    assert all(same(plain[Draw(k % 8, 1, k)], cached[Draw(k % 8, 1, k)]) for k in range(8))


def test_any_number_of_workers_makes_the_same_batches(folder):
    hyp = MOSAIC | ON | {"mixup": 0.5, "rare_aug_p": 1.0, "album_rare": [{"RandomRotate90": 1.0}, {"Blur": 0.5}]}

    def batches(workers: int) -> list:
        loader, _ = create_dataloader(
            str(folder), SIZE, 4, 32, hyp=hyp, augment=True, workers=workers, shuffle=True, seed=3, nc=2
        )
        loader.set_epoch(1)
        found = [(images.clone(), targets.clone()) for images, targets, _, _ in loader]
        loader.close()
        return found

    alone, shared = batches(0), batches(2)
    assert len(alone) == 2
    for (images, targets), (images2, targets2) in zip(alone, shared, strict=True):
        assert torch.equal(images, images2) and torch.equal(targets, targets2)


def test_one_class_has_nothing_to_paste(folder, caplog):
    with caplog.at_level("WARNING", "yolov5"):
        data = build(folder, OFF | ON, single_cls=True)
    assert data.changes is None and "rare_paste: has no effect" in caplog.text


def test_description_names_the_bank(folder):
    line = build(folder, OFF | ON).changes.describe({0: "green", 1: "red"})[0]
    assert line == "rare_paste 1: 1-3 objects at 1-1 of their size, from red 100% (1 of 1)"


def test_background_takes_the_new_tint_and_the_object_keeps_its_own():
    """A blue object on grey goes to green ground: grey rim pixels of the crop turn green, blue ones stay blue."""
    pixels = np.full((40, 40, 3), 110, np.float32)
    pixels[14:26, 8:32] = (220, 40, 40)
    ground = np.full((40, 40, 3), (60, 170, 60), np.uint8)
    change = edge_tint(pixels, ground, (5, 5, 35, 35))
    np.testing.assert_allclose(change[6, 20], [-50, 60, -50], atol=8)
    assert np.abs(change[16:24, 10:30]).max() < 1
    assert np.abs(edge_tint(pixels, np.full_like(ground, 110), (5, 5, 35, 35))).max() < 1e-3
    assert not edge_tint(pixels, ground, (0, 0, 40, 40)).any()


def test_light_is_drawn_halfway_and_gently():
    """√(198/98) = 1.42 is held at 1.33; √(118/98) = 1.097; the object itself plays no part."""
    pixels = np.full((20, 20, 3), 90, np.uint8)
    pixels[3:17, 3:17] = 255
    bright, alike = np.full((20, 20, 3), 190, np.uint8), np.full((20, 20, 3), 110, np.uint8)
    np.testing.assert_allclose(light_gain(pixels, bright, (3, 3, 17, 17)), 1.33)
    np.testing.assert_allclose(light_gain(pixels, alike, (3, 3, 17, 17)), (118 / 98) ** 0.5, rtol=1e-6)
    np.testing.assert_allclose(light_gain(pixels, alike, (0, 0, 20, 20)), 1)
