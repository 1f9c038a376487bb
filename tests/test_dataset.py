from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.balance.samplers import Draw
from utils.data import image_store, jpeg_top
from utils.data.image_cache import DiskCache, fits_in_memory
from utils.data.image_store import ImageStore
from utils.data.training_image import SampleRandomness
from utils.dataset import LoadImagesAndLabels
from utils.errors import InputError, WorkError
from utils.images import imread

OFF = dict.fromkeys(
    ("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic",
     "mixup", "copy_paste"), 0.0,
)  # fmt: skip
USUAL = OFF | {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "translate": 0.1, "scale": 0.5, "fliplr": 0.5, "mosaic": 1.0}
ALL = USUAL | {"degrees": 10.0, "shear": 3.0, "perspective": 0.0003, "flipud": 0.5, "mixup": 0.5, "copy_paste": 0.5,
               "mosaic": 0.7}  # fmt: skip
SHAPES = [(96, 128), (128, 96), (64, 128), (100, 100), (200, 300), (50, 40), (128, 128), (90, 128)]


def make_set(root: Path, polygons: bool = False, suffix: str = ".png") -> Path:
    """Write eight small pictures, each with a bright rectangle that is its object."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for k, (h, w) in enumerate(SHAPES):
        im = cv2.resize(rng.integers(0, 90, (4, 4, 3)).astype(np.uint8), (w, h), interpolation=cv2.INTER_CUBIC)
        x1, y1, x2, y2 = (np.array([0.2, 0.3, 0.7, 0.8]) * (w, h, w, h)).astype(int).tolist()
        im[y1:y2, x1:x2] = 255
        cv2.imwrite(str(root / "images" / f"{k}{suffix}"), im)
        box = (x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h
        corners = x1 / w, y1 / h, x2 / w, y1 / h, x2 / w, y2 / h, x1 / w, y2 / h
        values = corners if polygons else box
        (root / "labels" / f"{k}.txt").write_text(f"{k % 3} " + " ".join(f"{v:.6f}" for v in values) + "\n")
    return root / "images"


def build(folder: Path, **options) -> LoadImagesAndLabels:
    return LoadImagesAndLabels(str(folder), 128, 4, **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_set(tmp_path / "set")


def same(a, b) -> bool:
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] and a[3] == b[3]


# Facts of real data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coco128", "bccd"])
def test_rectangular_shapes_match_reference(name, golden, shared, tmp_path):
    facts, _ = golden("schedule_and_data")
    facts = facts["datasets"]["bccd_train" if name == "bccd" else name]
    split = "train" if name == "bccd" else "train2017"
    for part in ("images", "labels"):
        shutil.copytree(shared / "datasets" / name / part / split, tmp_path / part / split)
    for key, batch_size, pad in (("rect_batch16_pad0.0", 16, 0.0), ("rect_batch32_pad0.5", 32, 0.5)):
        data = LoadImagesAndLabels(str(tmp_path / "images" / split), 640, batch_size, rect=True, pad=pad)
        assert data.batch_shapes.tolist() == facts[key]["batch_shapes_hw"]
        assert [Path(f).name for f in data.im_files[:10]] == facts[key]["first10_files"]
    plain = LoadImagesAndLabels(str(tmp_path / "images" / split), 640, 16)
    boxes = np.concatenate(plain.labels)
    no_area = int(name == "bccd")  # one row of this set has width and height 0: upstream keeps it, here it is dropped
    assert [len(plain), len(boxes)] == [facts["images"], facts["labels"] - no_area]
    assert [Path(f).name for f in plain.im_files[:10]] == facts["first10_files"]
    assert plain.shapes[:10].tolist() == facts["shapes_wh_first10"]
    np.testing.assert_allclose(boxes.sum(0, dtype=np.float64), facts["label_sum"], rtol=1e-6, atol=2 * no_area)


@pytest.mark.parametrize(("size", "to_linear", "to_area"), [(320, 2.0, 1.5), (160, 7.0, 1.6)])
def test_reduced_decoding_stays_close(shared, size, to_linear, to_area):
    """JPEGs decoded at a fraction of their size against full decoding, mean difference in levels of 255 on coco128.

    At a half 1.5 from linear and 1.0 from area shrinking (these two differ by 0.6); at a quarter 5.8 and 1.1 (5.4):
    linear shrinking skips pixels there, which reduced decoding averages.
    """
    files = sorted(map(str, (shared / "datasets" / "coco128" / "images" / "train2017").glob("*.jpg")))[:48]
    shapes = np.array([imread(f).shape[1::-1] for f in files])
    fast = ImageStore(files, shapes, size, fast=True)
    differences = []
    for i in np.flatnonzero(shapes.max(1) == 640).tolist():
        quick, full = fast.load(i).astype(int), imread(files[i])
        ways = [cv2.resize(full, quick.shape[1::-1], interpolation=way) for way in (cv2.INTER_LINEAR, cv2.INTER_AREA)]
        differences.append([np.abs(quick - way).mean() for way in ways])
    assert (np.mean(differences, 0) < (to_linear, to_area)).all()


# Validation samples ---------------------------------------------------------------------------------------------------


def test_plain_sample_is_a_letterbox(folder):
    data = build(folder)
    im, targets, file, shapes = data[0]
    assert im.shape == (3, 128, 128) and im.dtype == torch.uint8 and file.endswith("0.png")
    assert shapes == ((96, 128), ((1.0, 1.0), (0.0, 16.0)))
    expected = imread(file)[..., ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(im[:, 16:112].numpy(), expected)
    assert (im[:, :16] == 114).all() and (im[:, 112:] == 114).all()
    x1, y1, x2, y2 = 25, 28, 89, 76
    np.testing.assert_allclose(
        targets[0], [0, 0, (x1 + x2) / 256, (y1 + y2 + 32) / 256, (x2 - x1) / 128, (y2 - y1) / 128], atol=1e-5
    )


def test_plain_samples_use_area_when_shrinking(folder):
    data = build(folder)
    im, (h0, w0), (h, w) = data.load_image(4)
    assert ((h0, w0), (h, w)) == ((200, 300), (86, 128))  # 200 · 128 / 300 = 85.3, rounded up
    np.testing.assert_array_equal(im, cv2.resize(imread(data.im_files[4]), (w, h), interpolation=cv2.INTER_AREA))


def test_tiles_cut_off_below_are_decoded_in_part(tmp_path, monkeypatch):
    folder = make_set(tmp_path / "set", suffix=".jpg")
    draws = [Draw(k % len(SHAPES), 0, k) for k in range(16)]
    in_part, cut = image_store.decode_top, []

    def noted(*arguments):
        top = in_part(*arguments)
        cut.append(top is not None)
        return top

    monkeypatch.setattr(image_store, "decode_top", noted)
    ours = build(folder, augment=True, hyp=USUAL, seed=3).__getitems__(draws)
    monkeypatch.setattr(image_store, "decode_top", lambda *_: None)
    whole = build(folder, augment=True, hyp=USUAL, seed=3).__getitems__(draws)
    assert all(same(a, b) for a, b in zip(ours, whole, strict=True))
    assert any(cut) or not jpeg_top._notices_missing_lines()


def test_rectangular_batches(folder):
    data = build(folder, rect=True, stride=32)
    aspects = data.shapes[:, 1] / data.shapes[:, 0]
    assert (np.diff(aspects) >= 0).all() and not data.mosaic
    images, targets, files, _ = data.collate_fn(data.__getitems__([Draw(k, 0, k) for k in range(4)]))
    assert list(images.shape) == [4, 3, *data.batch_shapes[0]]
    assert sorted(targets[:, 0].tolist()) == [0, 1, 2, 3] and len(files) == 4


def test_single_class_and_min_items(folder):
    (folder.parent / "labels" / "3.txt").write_text("")
    assert len(build(folder)) == 8
    data = build(folder, single_cls=True, min_items=1, nc=1)
    assert len(data) == 7 and not any(rows[:, 0].any() for rows in data.labels)


# Training samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polygons", [False, True], ids=["boxes", "polygons"])
@pytest.mark.parametrize("hyp", [USUAL, ALL, OFF], ids=["usual", "all", "off"])
def test_a_draw_always_gives_the_same_bytes(tmp_path, polygons, hyp):
    folder = make_set(tmp_path / "set", polygons)
    one, two = (build(folder, augment=True, hyp=hyp) for _ in range(2))
    draws = [Draw(k % 8, 2, k) for k in range(12)]
    batch = two.__getitems__(draws)
    list(map(two.__getitem__, draws[::-1]))
    for draw, sample in zip(draws, batch, strict=True):
        assert same(one[draw], sample)
        _, targets, _, _ = sample
        assert targets.shape[1] == 6
        assert (targets[:, 2:] >= 0).all() and (targets[:, 2:] <= 1).all()


def test_draws_differ(folder):
    data = build(folder, augment=True, hyp=USUAL)
    seen = [data[Draw(0, epoch, position)][0] for epoch in range(2) for position in range(2)]
    assert not any(torch.equal(a, b) for k, a in enumerate(seen) for b in seen[:k])
    assert not torch.equal(data[0][0], data[0][0])


@pytest.mark.parametrize("hyp", [USUAL | {"hsv_h": 0, "hsv_s": 0, "hsv_v": 0}, ALL | {"mixup": 0.0, "hsv_v": 0}])
def test_labels_follow_pixels(tmp_path, hyp):
    """The bright rectangle of each picture is found inside its label, and its edges lie near the label's."""
    data = build(make_set(tmp_path / "set", polygons=True), augment=True, hyp=hyp | {"copy_paste": 0.0, "degrees": 0.0,
                 "shear": 0.0})  # fmt: skip
    data.albumentations = None
    checked = 0
    for k in range(24):
        im, targets, _, _ = data[Draw(k % 8, 0, k)]
        bright = im.amin(0) > 150
        for _, _, x, y, w, h in (targets * 128).tolist():
            x1, y1, x2, y2 = (round(v) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2))
            inside = bright[max(y1 + 2, 0) : y2 - 2, max(x1 + 2, 0) : x2 - 2]
            if inside.numel():
                checked += 1
                assert inside.float().mean() > 0.9
    assert checked > 40


def test_no_change_when_everything_is_off(folder):
    train, plain = build(folder, augment=True, hyp=OFF), build(folder)
    train.albumentations = None
    for k in (0, 1, 2, 3, 6):  # the images that need no scaling
        a, b = train[Draw(k, 0, k)], plain[k]
        assert torch.equal(a[0], b[0]) and a[3] == b[3]
        torch.testing.assert_close(a[1], b[1])


def test_flips_turn_labels(folder):
    still = build(folder, augment=True, hyp=OFF)[Draw(0, 0, 0)]
    turned = build(folder, augment=True, hyp=OFF | {"flipud": 1.0, "fliplr": 1.0})[Draw(0, 0, 0)]
    assert torch.equal(turned[0], still[0].flip(1, 2))
    torch.testing.assert_close(turned[1][:, 2:4], 1 - still[1][:, 2:4])


def test_partner_weights_choose_the_partners(folder):
    data = build(folder, augment=True, hyp=USUAL)
    data.partner_weights = np.r_[np.zeros(6), 1.0, 1.0]
    randomness = SampleRandomness(0, 0, 0)
    assert {k for _ in range(50) for k in data._partners(0, 3, randomness)} == {6, 7}
    assert set(data._partners(6, 30, randomness)) == {7}
    data.partner_weights = None
    assert {k for _ in range(50) for k in data._partners(0, 3, randomness)} == set(range(8))
    with pytest.raises(InputError, match="8 images"):
        data.partner_weights = np.ones(3)


# Caches ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ram", "disk", True])
@pytest.mark.parametrize("augment", [False, True])
def test_cached_images_are_the_same_images(tmp_path, kind, augment):
    folder = make_set(tmp_path / "set", suffix=".jpg")
    plain = build(folder, augment=augment, hyp=USUAL)
    cached = build(folder, augment=augment, hyp=USUAL, cache_images=kind)
    for k in range(8):
        assert same(plain[Draw(k, 1, k)], cached[Draw(k, 1, k)])
    assert len(list(folder.glob("*.npy"))) == (8 if kind == "disk" else 0)
    assert (cached.ims[0] is None) == (kind == "disk")


def test_stale_and_foreign_cache_files_are_not_trusted(folder, caplog):
    first = build(folder, cache_images="disk")
    stale, foreign = first.npy_files[0], first.npy_files[1]
    before = first.images.load(2).copy()
    im = imread(folder / "0.png")
    cv2.imwrite(str(folder / "0.png"), 255 - im)
    np.save(foreign, np.zeros((128, 96, 3), np.uint8))
    data = build(folder, cache_images="disk")
    np.testing.assert_array_equal(data.images.load(0), 255 - im)
    np.testing.assert_array_equal(np.load(stale), 255 - im)
    np.testing.assert_array_equal(data.images.load(1), imread(folder / "1.png"))
    np.testing.assert_array_equal(data.images.load(2), before)
    assert not np.load(foreign).any()


@pytest.mark.parametrize("kind", [None, "ram", "disk"])
def test_an_array_beside_an_image_takes_its_place(tmp_path, caplog, kind):
    """As YOLOv5 caches: NAME.npy in the image's own size, read with or without --cache unless it does not fit."""
    folder = make_set(tmp_path / "set", suffix=".jpg")
    plain = build(folder, augment=True, hyp=USUAL)
    other = [255 - imread(folder / f"{k}.jpg") for k in range(2)]
    np.save(folder / "0.npy", other[0])
    np.save(folder / "1.npy", other[1][:-1])
    np.save(folder / "2.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "nobody.npy", other[0])
    with caplog.at_level("INFO", "yolov5"):
        data = build(folder, augment=True, hyp=USUAL, cache_images=kind)
        wanted = cv2.resize(other[0], data.images.hw[0][::-1].tolist(), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(data.images.load(0), wanted)
        for k in (1, 2, 3):
            np.testing.assert_array_equal(data.images.load(k), plain.images.load(k))
    assert "1 of 8 images are read from the .npy files beside them" in caplog.text
    assert "2 .npy files beside images do not hold their pixels" in caplog.text
    assert "1.npy holds uint8 (127, 96, 3), not uint8 (128, 96, 3)" in caplog.text
    np.save(folder / "0.npy", other[1])
    data.images.ram = None
    with caplog.at_level("WARNING", "yolov5"):
        np.testing.assert_array_equal(data.images._decode(0), plain.images.load(0))
    assert "0.npy holds uint8 (128, 96, 3), not uint8 (96, 128, 3); the image is decoded instead" in caplog.text


@pytest.mark.parametrize("where", ["pixel", "header", "cut"])
def test_damaged_cache_files_give_way_to_their_images(folder, caplog, where):
    files = build(folder, cache_images="disk").npy_files
    data = bytearray(files[0].read_bytes())
    if where == "cut":
        del data[len(data) // 2 :]
    else:
        data[2000 if where == "pixel" else 7] ^= 1
    files[0].write_bytes(data)
    with caplog.at_level("WARNING", "yolov5"):
        found = build(folder, cache_images="disk").images.load(0)
    np.testing.assert_array_equal(found, imread(folder / "0.png"))
    assert str(files[0]) in caplog.text


def test_what_a_killed_process_left_of_its_caches_goes_away(folder):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    others = {"dead": int(ended.stdout), "own": os.getpid(), "alive": os.getppid()}
    for kind, pid in others.items():
        (folder / f".0.png.128v.npy.{pid}-{kind == 'own':d}.part").write_bytes(b"half")
        (folder.parent / f".labels.cache.npz.{pid}-{kind == 'own':d}.part").write_bytes(b"half")
    build(folder, cache_images="disk")
    left = sorted(path.name for path in folder.parent.rglob("*.part"))
    expected = [".0.png.128v.npy", ".labels.cache.npz"] if os.name == "posix" else []
    assert left == [f"{name}.{os.getppid()}-0.part" for name in expected]


def test_images_that_cannot_be_cached_on_disk_are_decoded(folder, caplog, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with caplog.at_level("WARNING", "yolov5"):
        data = build(folder, cache_images="disk")
    np.testing.assert_array_equal(data.images.load(0), imread(folder / "0.png"))
    assert "8 images are not cached" in caplog.text and "No space left" in caplog.text
    assert not list(folder.glob("*.npy")) and not list(folder.glob(".*"))


def test_a_jpeg_cut_off_during_a_run_is_an_error(tmp_path):
    """Some OpenCV releases decode the part that is there."""
    folder = make_set(tmp_path / "set", suffix=".jpg")
    data = build(folder)
    os.truncate(folder / "3.jpg", (folder / "3.jpg").stat().st_size * 3 // 4)
    with pytest.raises(WorkError, match=r"3\.jpg"):
        data.images.load(3)


def test_pickled_cache_file_is_never_unpickled(folder):
    cache = DiskCache([str(folder / "0.png")], np.array([[96, 128]]), "128v")
    np.save(cache.path(0), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    cache._ready[0] = True
    assert cache[0] is None


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_disk_cache_of_a_read_only_folder_goes_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder.chmod(0o555)
    try:
        data = build(folder, cache_images="disk")
    finally:
        folder.chmod(0o755)
    assert data.npy_files[0].is_file() and (tmp_path / "cache") in data.npy_files[0].parents


def test_disk_cache_stand_in_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("utils.data.image_cache.os.access", lambda *_: False)
    data = build(folder, cache_images="disk")
    assert data.npy_files[0].is_file() and (tmp_path / "cache") in data.npy_files[0].parents
    assert not list(folder.glob("*.npy"))


def test_memory_is_checked_first(folder, monkeypatch, caplog):
    monkeypatch.setattr("utils.data.image_cache.available_memory", lambda: 1000)
    with caplog.at_level("WARNING", "yolov5"):
        data = build(folder, cache_images="ram")
    assert data.images.ram is None and data.ims[0] is None
    assert fits_in_memory(900, 0.1, "") and not fits_in_memory(1000, 0.1, "")


# Errors ---------------------------------------------------------------------------------------------------------------


def test_unreadable_image_names_its_file(folder):
    data = build(folder, augment=True, hyp=USUAL)
    (folder / "5.png").write_bytes(b"junk")
    with pytest.raises(WorkError, match=r"5\.png") as error:
        data.images.load(5)
    assert "\n" not in str(error.value)
    cv2.imwrite(str(folder / "6.png"), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(WorkError, match=r"6\.png: has 30x20 pixels where 128x128"):
        data.images.load(6)


def test_training_needs_labels(folder):
    for file in (folder.parent / "labels").glob("*.txt"):
        file.write_text("")
    with pytest.raises(InputError, match="no labelled object"):
        build(folder, augment=True, hyp=USUAL)
    assert len(build(folder)) == 8


# Quad -----------------------------------------------------------------------------------------------------------------


def test_quad_tiles_or_enlarges(folder):
    data = build(folder)
    batch = data.__getitems__([Draw(k, 0, k) for k in range(8)])
    seen = set()
    for seed in range(12):
        images, targets, files, shapes = data.collate_fn4(batch, rng=np.random.default_rng(seed))
        assert list(images.shape) == [2, 3, 256, 256] and len(files) == len(shapes) == 2
        count = int((targets[:, 0] == 0).sum())
        seen.add(count)
        if count == 4:
            assert torch.equal(images[0, :, :128, :128], batch[0][0])
            assert torch.equal(images[0, :, 128:, :128], batch[1][0])
            assert torch.equal(images[0, :, :128, 128:], batch[2][0])
            torch.testing.assert_close(targets[1, 2:], (batch[1][1][0, 2:] + torch.tensor([0, 1, 0, 0])) / 2)
            torch.testing.assert_close(targets[2, 2:], (batch[2][1][0, 2:] + torch.tensor([1, 0, 0, 0])) / 2)
    assert seen == {1, 4}
