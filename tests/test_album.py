from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.balance.albums import build_items, build_pipeline, transform_names
from utils.balance.image_changes import Albums, ImageChanges, build_albums, rare_album_chances
from utils.balance.samplers import Draw
from utils.boxes import xywhn2xyxy
from utils.data.training_image import SampleRandomness, TrainingImage, fit_to
from utils.dataset import LoadImagesAndLabels
from utils.errors import InputErrors, WorkError

OFF = dict.fromkeys(
    ("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic",
     "mixup", "copy_paste"), 0.0,
)  # fmt: skip
NAMES = {0: "bolt", 1: "nut"}


def image(pixels: np.ndarray, labels, segments=()) -> TrainingImage:
    labels = np.array(labels, np.float32).reshape(-1, np.shape(labels)[-1] if np.size(labels) else 5)
    return TrainingImage(pixels.shape[:2], labels, list(segments), lambda: pixels, np.zeros(len(labels), bool))


def pipeline(*items, visibility: float = 0.1, size: int = 64):
    return build_pipeline("album", list(items), visibility, size)


def painted(h: int = 90, w: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture with a white rectangle, and its label."""
    im = np.full((h, w, 3), 90, np.uint8)
    x1, y1, x2, y2 = w // 4, h // 3, w // 2, h * 3 // 4
    im[y1:y2, x1:x2] = 255
    return im, np.array([[1, (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h]], np.float32)


def white_box(im: np.ndarray) -> list[int]:
    white = im.min(2) > 180
    y, x = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    return [x[0], y[0], x[-1] + 1, y[-1] + 1]


# Boxes by hand --------------------------------------------------------------------------------------------------------


def test_boxes_of_a_2x1_image_after_each_quarter_turn():
    """Two pixels, A on the left with a box around it. Counter-clockwise turns bring A down, right, up:

    0: (.25 .5 .5 1) of 2x1, 1: (.5 .75 1 .5) of 1x2, 2: (.75 .5 .5 1) of 2x1, 3: (.5 .25 1 .5) of 1x2.
    """
    expected = {  # by shape and what the pixels hold: A is 10
        ((1, 2), (10, 200)): (0.25, 0.5, 0.5, 1),
        ((2, 1), (200, 10)): (0.5, 0.75, 1, 0.5),
        ((1, 2), (200, 10)): (0.75, 0.5, 0.5, 1),
        ((2, 1), (10, 200)): (0.5, 0.25, 1, 0.5),
    }
    pixels = np.zeros((1, 2, 3), np.uint8)
    pixels[0, 0], pixels[0, 1] = 10, 200
    turn, seen = pipeline({"RandomRotate90": 1.0}), set()
    for seed in range(40):
        out = turn(image(pixels, [[1, 0.25, 0.5, 0.5, 1]]), 2, np.random.default_rng(seed))
        values = tuple(int(v) for v in out.load()[..., 0].ravel())
        assert out.load().shape[:2] == out.hw
        np.testing.assert_allclose(out.labels, [[1, *expected[out.hw, values]]], atol=1e-6)
        seen.add((out.hw, values))
    assert seen == set(expected)


def test_horizontal_flip_turns_x_and_keeps_the_rest():
    labels = np.array(
        [[3, 0.2, 0.3, 0.1, 0.2, 0.5], [1, 0.7, 0.6, 0.2, 0.4, 1.0], [2, 0.5, 0.5, 0.1, 0.1, 0.0]], np.float32
    )
    pixels = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
    out = pipeline({"HorizontalFlip": 1})(image(pixels, labels), 80, np.random.default_rng(0))
    expected = labels.copy()
    expected[:, 1] = 1 - labels[:, 1]
    np.testing.assert_allclose(out.labels, expected, atol=1e-6)
    assert out.labels.dtype == np.float32
    np.testing.assert_array_equal(out.load(), pixels[:, ::-1])


@pytest.mark.parametrize(
    "items",
    [
        [{"RandomRotate90": 1.0}, {"HorizontalFlip": 0.5}, {"RandomBrightnessContrast": 0.2}],
        [{"Transpose": 1.0}],
        [{"Affine": {"translate_percent": [-0.2, 0.2], "scale": [0.8, 1.2], "p": 1.0}}],
        [{"RandomCrop": {"height": 70, "width": 80, "p": 1.0}}],
        [{"OneOf": {"transforms": [{"VerticalFlip": 1.0}, {"D4": 1.0}], "p": 1.0}}],
        [{"LongestMaxSize": {"max_size": 200, "p": 1.0}}],
    ],
    ids=["recipe", "transpose", "affine", "crop", "oneof", "enlarged"],
)
def test_a_painted_square_is_found_in_its_box(items):
    pixels, labels = painted()
    apply = pipeline(*items, size=120)
    for seed in range(12):
        out = apply(image(pixels, labels), 120, np.random.default_rng(seed))
        im = out.load()
        assert max(im.shape[:2]) == 120 and im.shape[:2] == out.hw and im.dtype == np.uint8
        if len(out.labels):
            assert out.labels[0, 0] == 1
            np.testing.assert_allclose(
                white_box(im), xywhn2xyxy(out.labels[:, 1:], *im.shape[1::-1])[0], atol=1.6, err_msg=str(seed)
            )


def test_boxes_are_clipped_and_dropped_by_visibility():
    """Keep the left half: a box with 30 % of it there stays at 0.1 and goes at 0.5; one beyond goes anyway."""
    pixels = np.zeros((100, 100, 3), np.uint8)
    labels = [[7, 0.55, 0.5, 0.25, 0.2], [8, 0.8, 0.5, 0.2, 0.2], [9, 0.2, 0.5, 0.2, 0.2]]
    left = {"Crop": {"x_min": 0, "y_min": 0, "x_max": 50, "y_max": 100, "p": 1.0}}
    out = pipeline(left, size=134)(image(pixels, labels), 100, np.random.default_rng(0))
    assert out.labels[:, 0].tolist() == [7, 9] and out.hw == (100, 50)
    np.testing.assert_allclose(out.labels[0, 1:], [0.925, 0.5, 0.15, 0.2], atol=1e-6)
    strict = pipeline(left, visibility=0.5, size=134)(image(pixels, labels), 100, np.random.default_rng(0))
    assert strict.labels[:, 0].tolist() == [9] and strict.pasted.tolist() == [False]
    beyond = image(pixels, [[1, 0.01, 0.01, 0.021, 0.021]])  # reaches a hair over the edge
    assert len(pipeline({"HorizontalFlip": 1.0})(beyond, 100, np.random.default_rng(0)).labels) == 1


def test_images_without_labels_pass():
    out = pipeline({"RandomRotate90": 1.0})(image(np.zeros((20, 30, 3), np.uint8), []), 30, np.random.default_rng(0))
    assert out.labels.shape == (0, 5) and out.segments == []


def test_outlines_follow():
    outline = np.array([[0.1, 0.2], [0.4, 0.2], [0.4, 0.6]], np.float32)
    other = np.array([[0.5, 0.5], [0.9, 0.5], [0.9, 0.9], [0.5, 0.9]], np.float32)
    labels = [[0, 0.25, 0.4, 0.3, 0.4], [1, 0.7, 0.7, 0.4, 0.4]]
    source = image(np.zeros((100, 100, 3), np.uint8), labels, [outline, other])
    out = pipeline({"HorizontalFlip": 1.0})(source, 100, np.random.default_rng(0))
    assert [len(s) for s in out.segments] == [3, 4]
    np.testing.assert_allclose(out.segments[0][:, 1], outline[:, 1], atol=1e-6)
    np.testing.assert_allclose(out.segments[0][:, 0], 1 - outline[:, 0], atol=1e-6)
    cut = pipeline({"Crop": {"x_min": 0, "y_min": 0, "x_max": 45, "y_max": 100, "p": 1.0}}, size=134)
    out = cut(source, 100, np.random.default_rng(0))
    assert len(out.segments) == len(out.labels) == 1 and len(out.segments[0]) == 3


def test_images_whose_points_are_lost_keep_their_boxes(monkeypatch):
    outline = np.array([[0.1, 0.2], [0.4, 0.2], [0.4, 0.6]], np.float32)
    source = image(np.zeros((100, 100, 3), np.uint8), [[0, 0.25, 0.4, 0.3, 0.4]], [outline])
    apply = pipeline({"HorizontalFlip": 1.0})
    run = apply._run

    def lossy(name, seed, **data):
        found = run(name, seed, **data)
        return found | {"keypoints": found["keypoints"][:2], "owners": found["owners"][:2]}

    monkeypatch.setattr(apply, "_run", lossy)
    out = apply(source, 100, np.random.default_rng(0))
    assert out.segments == [] and len(out.labels) == 1


def test_pixel_effects_wait_and_leave_labels_alone():
    pixels, labels = painted()
    source = image(pixels, labels)
    apply = pipeline({"ToGray": 1.0}, {"RandomBrightnessContrast": 1.0})
    assert not apply.moves_boxes
    out = apply(source, 120, np.random.default_rng(0))
    assert out.labels is source.labels and not np.array_equal(out.load(), pixels)
    np.testing.assert_array_equal(out.load(), out.load())
    assert (pixels == painted()[0]).all()


def test_colours_reach_transforms_as_rgb():
    """ChannelDropout of channel 0 takes red away, which is the last of BGR."""
    pixels = np.full((8, 8, 3), (10, 20, 30), np.uint8)
    only_red = {"ToSepia": 1.0}
    out = pipeline(only_red)(image(pixels, []), 8, np.random.default_rng(0)).load()
    assert out[0, 0, 2] >= out[0, 0, 1] >= out[0, 0, 0]  # sepia: more red than blue


def test_seed_decides():
    pixels, labels = painted()
    apply = pipeline({"RandomRotate90": 1.0}, {"GaussNoise": 1.0})

    def run(seed: int) -> np.ndarray:
        return apply(image(pixels, labels), 120, np.random.default_rng(seed)).load()

    first = run(5)
    run(6)
    np.testing.assert_array_equal(first, run(5))
    assert any(not np.array_equal(first, run(seed)) for seed in (6, 7))


# Which images ---------------------------------------------------------------------------------------------------------


def test_rare_chance_by_repeat_factor():
    """Chance 0.8·(1 - 1/r): r = 1 → 0, 2 → 0.4, 4 → 0.6, ∞ → 0.8."""
    np.testing.assert_allclose(rare_album_chances(np.array([1, 2, 4, 1e9]), 0.8), [0, 0.4, 0.6, 0.8], atol=1e-6)


def test_pipelines_are_chosen_by_image():
    hyp = {"album": [{"NoOp": 1.0}], "album_rare": [{"Blur": 1.0}], "rare_aug_p": 0.5,
           "album_class": {"nut": [{"ToGray": 1.0}]}}  # fmt: skip
    albums = build_albums(hyp, NAMES, 32)
    changes = ImageChanges(None, albums, rare_album_chances(np.array([1, 2, 1e9]), 0.5), 32, ["a", "b", "c"])

    def chosen(i: int, held: set[int], position: int) -> list[str]:
        return [p.key for p in changes._chosen(i, held, SampleRandomness(0, 0, position))]

    assert chosen(0, {0}, 0) == ["album"] and chosen(0, {0, 1}, 0) == ["album", "album_class, nut"]
    shares = [np.mean(["album_rare" in chosen(i, set(), k) for k in range(1500)]) for i in range(3)]
    np.testing.assert_allclose(shares, [0, 0.25, 0.5], atol=0.04)
    assert len(changes.describe(NAMES)) == 3 and "2 of 3 images" in changes.describe(NAMES)[-1]


def test_class_numbers_without_names():
    assert list(build_albums({"album_class": {"1": [{"NoOp": 1.0}]}}, None, 32).by_class) == [1]
    assert Albums(None, None, {}, 0).pipelines() == []


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hyp", "words"),
    [
        ({"album": [{"HorizontalFlp": 0.5}]}, ["album, item 1", "HorizontalFlp", "did you mean 'HorizontalFlip'"]),
        ({"album_rare": [{"NoOp": 1}, {"Rotate": {"limits": 10}}]}, ["album_rare, item 2", "'limits'", "'limit'"]),
        ({"album": [{"HorizontalFlip": {"q": 1}}]}, ["unknown argument 'q'", "allowed are p"]),
        ({"album": [{"Blur": 1.5}]}, ["Blur", "p: 1.5", "0 to 1"]),
        ({"album": [{"Blur": True}]}, ["Blur", "p: True"]),
        ({"album": [{"RandomBrightnessContrast": {"brightness_limit": "much"}}]}, ["brightness_limit", "much"]),
        ({"album": [{"RandomCrop": {"height": 8}}]}, ["RandomCrop", "width", "required"]),
        ({"album": [{"RandomCrop": {"height": 800, "width": 8}}]}, ["RandomCrop", "800"]),
        ({"album": [{"Normalize": 1.0}]}, ["Normalize", "float32", "8-bit"]),
        ({"album": [{"ToTensorV2": 1.0}]}, ["ToTensorV2", "8-bit"]),
        ({"album": [{"MaskDropout": 1.0}]}, ["MaskDropout", "mask"]),
        ({"album": [{"HorizontalFlip": 1.0, "Blur": 1.0}]}, ["item 1", "not one transform"]),
        ({"album": [3]}, ["item 1: 3", "not one transform"]),
        ({"album": {"Blur": 0.5}}, ["album", "not a list"]),
        ({"album": [{"OneOf": {"transforms": [{"Blurr": 1}], "p": 1}}]}, ["OneOf", "Blurr", "'Blur'"]),
        ({"album": [{"OneOf": 1.0}]}, ["OneOf", "not a list"]),
        ({"album_class": {"nuts": [{"Blur": 0.5}]}}, ["album_class", "'nuts'", "did you mean 'nut'"]),
        ({"album_class": {"nut": [{"Blurs": 0.5}]}}, ["album_class, nut, item 1", "'Blur'"]),
    ],
)  # fmt: skip
def test_bad_pipelines_are_refused_in_one_line_each(hyp, words):
    with pytest.raises(InputErrors) as error:
        build_albums(hyp, NAMES, 64)
    assert len(error.value.problems) == 1 and "\n" not in error.value.problems[0]
    for word in words:
        assert word in str(error.value)


def test_all_problems_come_together():
    hyp = {"album": [{"Blurx": 1}, {"Blur": 2}], "album_rare": [{"Nothing": 1}], "album_class": {"x": []}}
    with pytest.raises(InputErrors) as error:
        build_albums(hyp, NAMES, 64)
    assert len(error.value.problems) == 4


def test_a_transform_that_fails_on_an_image_names_both():
    apply = pipeline({"RandomCrop": {"height": 40, "width": 60, "p": 1.0}})
    with pytest.raises(WorkError, match="thin.png: album") as error:
        apply(image(np.zeros((20, 64, 3), np.uint8), []), 64, np.random.default_rng(0), "thin.png")
    assert "\n" not in str(error.value)


def test_bare_names_and_groups():
    problems: list[str] = []
    items = build_items("album", ["HorizontalFlip", {"SomeOf": {"transforms": ["Blur", {"ToGray": 0.2}], "n": 1}}], 64,
                        problems)  # fmt: skip
    assert not problems and [item.moves_boxes for item in items] == [True, False]
    assert items[1].text == "SomeOf(1: Blur(0.5), ToGray(0.2))"


def test_every_transform_is_accepted_or_refused_in_one_line():
    needed = {"CenterCrop": {"height": 20, "width": 20}, "RandomCrop": {"height": 20, "width": 20},
              "Resize": {"height": 20, "width": 20}, "RandomResizedCrop": {"size": [20, 20]},
              "PiecewiseAffine": {"nb_rows": 2, "nb_cols": 2}}  # fmt: skip
    names = sorted(set(transform_names()) - {"OneOf", "SomeOf", "Sequential", "RandomOrder"})
    refused = []
    for name in names:
        problems: list[str] = []
        items = build_items("album", [{name: {"p": 0.5, **needed.get(name, {})}}], 64, problems)
        assert len(items) + len(problems) == 1 and all("\n" not in text for text in problems)
        refused += [name] * len(problems)
    assert len(names) > 110 and len(refused) < 35
    assert not {"RandomRotate90", "HorizontalFlip", "Affine", "CLAHE", "CoarseDropout", "RandomFog"} & set(refused)


# In the data set ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six pictures with a white object of class 0; a second one of class 1 in the last."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for k in range(6):
        im, labels = painted(96, 128) if k % 2 else painted(128, 80)
        labels[:, 0] = k == 5
        cv2.imwrite(str(tmp_path / "images" / f"{k}.png"), im)
        (tmp_path / "labels" / f"{k}.txt").write_text(" ".join(f"{v:.6f}" for v in labels[0]).replace(".000000", "", 1))
    return tmp_path / "images"


def build(folder: Path, hyp, **options) -> LoadImagesAndLabels:
    return LoadImagesAndLabels(str(folder), 128, 4, augment=True, hyp=hyp, nc=2, names=NAMES, **options)


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
@pytest.mark.parametrize("rect", [False, True])
def test_turned_images_keep_their_boxes_in_samples(folder, mosaic, rect):
    data = build(folder, OFF | {"mosaic": mosaic, "album": [{"RandomRotate90": 1.0}]}, rect=rect)
    checked = 0
    for k in range(18):
        im, targets, _, _ = data[Draw(k % 6, 0, k)]
        white = (im.amin(0) > 180).numpy()
        inside = np.zeros_like(white)
        for x, y, w, h in targets[:, 2:].numpy() * np.tile(im.shape[:0:-1], 2):
            x1, y1, x2, y2 = (round(v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
            part = white[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
            assert part.size == 0 or part.mean() > 0.97
            inside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
            checked += 1
        if not mosaic:
            assert not (white & ~inside).any()
    assert checked >= 18


def test_album_takes_the_place_of_the_default_effects(folder):
    assert build(folder, OFF).albumentations is not None and build(folder, OFF).changes is None
    empty = build(folder, OFF | {"album": []})
    assert empty.albumentations is None and empty.changes is None
    assert build(folder, OFF | {"album_rare": [{"Blur": 1.0}], "rare_aug_p": 1.0}).albumentations is not None


def test_off_is_the_same_bytes(folder):
    hyp = OFF | {"mosaic": 1.0, "mixup": 0.5, "scale": 0.5, "hsv_v": 0.4}
    keys = {"album": None, "album_rare": None, "album_class": None, "rare_aug_p": 0.0, "album_min_visibility": 0.1}
    plain, off = build(folder, hyp), build(folder, hyp | keys)
    for k in range(12):
        one, two = plain[Draw(k % 6, 0, k)], off[Draw(k % 6, 0, k)]
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_an_unused_rare_pipeline_leaves_the_sample_alone(folder, caplog):
    hyp = OFF | {"mosaic": 1.0, "scale": 0.5}
    with caplog.at_level("WARNING", "yolov5"):
        off = build(folder, hyp | {"album_rare": [{"ToGray": 1.0}]})
    assert "album_rare: has no effect, rare_aug_p is 0" in caplog.text
    plain = build(folder, hyp)
    assert all(torch.equal(plain[Draw(k, 0, k)][0], off[Draw(k, 0, k)][0]) for k in range(6))


def test_class_pipelines_reach_their_class_alone(folder):
    data = build(folder, OFF | {"album": [], "album_class": {"nut": [{"InvertImg": 1.0}]}})
    for i in range(6):
        middle = data.training_image(i, SampleRandomness(0, 0, i)).load()[0, 0, 0]
        assert middle == (165 if i == 5 else 90)


def test_bad_pipelines_are_refused_before_labels_are_read(tmp_path):
    with pytest.raises(InputErrors, match="Blurr"):
        LoadImagesAndLabels(str(tmp_path / "nowhere"), 128, 4, augment=True, hyp=OFF | {"album": [{"Blurr": 1}]})


def test_fit_to_scales_the_longest_side():
    assert fit_to(np.zeros((50, 30, 3), np.uint8), 100).shape == (100, 60, 3)
    same = np.zeros((50, 100, 3), np.uint8)
    assert fit_to(same, 100) is same
