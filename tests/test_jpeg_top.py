"""The upper part of a JPEG decoded without the rest: the same pixels, no warning, or nothing."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.data import image_store, jpeg_top
from utils.data.image_store import ImageStore
from utils.data.jpeg_top import decode_top
from utils.errors import WorkError
from utils.images import decode

SAMPLING = {"4:2:0": 0x221111, "4:2:2": 0x211111, "4:4:0": 0x121111, "4:1:1": 0x411111, "4:4:4": 0x111111}


IN_PART = jpeg_top._notices_missing_lines()
in_part = pytest.mark.skipif(not IN_PART, reason=f"OpenCV {cv2.__version__} makes pixels of data that are missing")


def picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 1.5)


def jpeg(im, sampling="4:2:0", restarts=0, quality=90):
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_RST_INTERVAL, restarts]
    if sampling:
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling]]
    return cv2.imencode(".jpg", im, options)[1].tobytes()


def by_pillow(height=120, width=90, mode="RGB", **options):
    stream = io.BytesIO()
    Image.fromarray(picture(height, width)).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(40, 200),
    width=st.integers(1, 150),
    share=st.floats(0, 1),
    sampling=st.sampled_from([*SAMPLING, ""]),
    restarts=st.sampled_from([0, 0, 1, 3, 7, 50]),
    reduce=st.sampled_from([1, 1, 2, 4, 8]),
    quality=st.sampled_from([5, 60, 98]),
)
def test_rows_are_those_of_the_whole(height, width, share, sampling, restarts, reduce, quality):
    im = picture(height, width)
    data = jpeg(im if sampling else im[..., 0], sampling, restarts, quality)
    whole = decode(data, reduce=reduce)
    rows = max(round(share * len(whole)), 1)
    top = decode_top(data, (height, width), rows, reduce)
    if rows * reduce + 16 > height * 7 / 8:
        assert top is None
    else:
        assert top is not None or restarts or not IN_PART, "a plain JPEG must not be decoded as a whole"
        if top is not None:
            np.testing.assert_array_equal(top, whole[:rows])


@in_part
@pytest.mark.parametrize("restarts", [0, 1, 4])
def test_libjpeg_does_not_warn(restarts, capfd):
    data = jpeg(picture(400, 300), restarts=restarts)
    for rows in (1, 8, 100, 250, 330):
        assert decode_top(data, (400, 300), rows) is not None
    out, err = capfd.readouterr()
    assert not out and not err


@in_part
def test_the_picture_behind_the_first_is_not_met(capfd):
    first, second = jpeg(picture(200, 100)), jpeg(picture(200, 100, seed=1))
    np.testing.assert_array_equal(decode_top(first + second, (200, 100), 50), decode(first)[:50])
    assert capfd.readouterr().err == ""


@in_part
def test_kinds_of_pillow_and_notes():
    for data in (by_pillow(comment=b"x" * 70), by_pillow(exif=exif(1)), by_pillow(mode="L"), by_pillow(mode="CMYK")):
        np.testing.assert_array_equal(decode_top(data, (120, 90), 40), decode(data)[:40])


@in_part
def test_what_takes_the_whole():
    plain = by_pillow()
    assert decode_top(plain, (120, 90), 40) is not None
    assert decode_top(plain, (121, 90), 40) is None, "another height than expected"
    assert decode_top(plain, (120, 91), 40) is None, "another width than expected"
    assert decode_top(plain, (120, 90), 100) is None, "hardly less than the whole"
    assert decode_top(plain[:-2], (120, 90), 40) is None, "no end marker"
    assert decode_top(by_pillow(progressive=True), (120, 90), 40) is None
    for orientation in range(2, 9):
        assert decode_top(by_pillow(exif=exif(orientation)), (120, 90), 40) is None
    assert decode_top(b"", (120, 90), 40) is None
    assert decode_top(cv2.imencode(".png", picture(120, 90))[1].tobytes(), (120, 90), 40) is None


@in_part
@pytest.mark.parametrize("rows", [1, 16, 40, 80])
def test_data_that_end_early_give_nothing_or_the_same_rows(rows):
    data = by_pillow()
    start = data.index(b"\xff\xda") + 14
    found = set()
    for cut in range(start, len(data) - 2, 211):
        damaged = data[:cut].rstrip(b"\xff") + b"\xff\xd9"
        top = decode_top(damaged, (120, 90), rows)
        found.add(top is None)
        if top is not None:
            np.testing.assert_array_equal(top, decode(damaged)[:rows])
    assert found == {True, False}


@settings(max_examples=150, deadline=None)
@given(junk=st.binary(max_size=40), at=st.integers(0, 700), rows=st.integers(1, 80), restarts=st.sampled_from([0, 2]))
def test_no_bytes_are_too_odd(junk, at, rows, restarts):
    data = bytearray(jpeg(picture(120, 90), restarts=restarts))
    data[at : at + len(junk)] = junk
    top = decode_top(bytes(data), (120, 90), rows)
    assert top is None or top.shape == (rows, 90, 3)


def test_a_frame_without_sampling_factors_takes_the_whole():
    data = bytearray(jpeg(picture(120, 90), restarts=2))
    frame = data.index(b"\xff\xc0")
    data[frame + 11 : frame + 19 : 3] = bytes(3)
    assert decode_top(bytes(data), (120, 90), 20) is None


# The store ----------------------------------------------------------------------------------------------------------


def store(folder, hw, size, **options):
    file = folder / "a.jpg"
    file.write_bytes(jpeg(picture(*hw), **options))
    return ImageStore([str(file)], np.array([hw[::-1]]), size, fast=True)


@in_part
@pytest.mark.parametrize("size", [320, 300, 150, 111, 97, 640])
@pytest.mark.parametrize("hw", [(320, 240), (240, 320), (317, 211), (600, 450)])
def test_scaled_rows_are_those_of_the_whole(tmp_path, hw, size):
    images = store(tmp_path, hw, size)
    whole = images.load(0)
    assert whole.shape[:2] == tuple(images.hw[0])
    shorter = 0
    for rows in range(1, len(whole) + 1, 7):
        top = images.load(0, rows)
        assert len(top) >= rows
        shorter += len(top) < len(whole)
        np.testing.assert_array_equal(top[:rows], whole[: len(top)][:rows])
    assert shorter


@in_part
def test_the_store_decodes_rows_alone_only_for_training(tmp_path, monkeypatch):
    images = store(tmp_path, (320, 240), 320)
    assert len(images.load(0, 40)) == 40
    images.fast = False
    assert len(images.load(0, 40)) == 320
    images.fast = True
    monkeypatch.setattr(image_store, "decode_top", lambda *_: None)
    assert len(images.load(0, 40)) == 320


def test_a_file_that_has_changed_is_named(tmp_path):
    images = store(tmp_path, (320, 240), 320)
    (tmp_path / "a.jpg").write_bytes(jpeg(picture(320, 200)))
    with pytest.raises(WorkError, match=r"a\.jpg: has 200x320 pixels where 240x320 were found before"):
        images.load(0, 40)
