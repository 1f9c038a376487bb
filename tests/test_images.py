"""Reading images: every format upright, as BGR uint8."""

import io
import os
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import cv as cv_module
from utils.data.image_headers import MAX_PIXELS, exif_orientation, read_header
from utils.errors import InputError
from utils.images import IMG_FORMATS, VID_FORMATS, ImageError, decode, exif_size, image_size, imread, imwrite


def _smooth(height=40, width=60):
    """A picture whose corners differ, so that a wrong turn shows: (h, w, 3) RGB."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)], -1).astype(np.uint8)


def _encoded(img, kind, **options):
    stream = io.BytesIO()
    img.save(stream, kind, **options)
    return stream.getvalue()


def _exif(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


STORED = {  # orientation -> how a camera stores an upright picture under it
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied_once(tmp_path, kind, orientation):
    upright = _smooth()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(kind, {})
    path = tmp_path / "a.img"
    path.write_bytes(_encoded(stored, kind, exif=_exif(orientation), **options))
    im = imread(path)
    assert im.shape == (40, 60, 3) and im.flags.c_contiguous and im.dtype == np.uint8
    assert np.abs(im[..., ::-1].astype(int) - upright).max() <= (6 if kind == "JPEG" else 0)
    assert image_size(path) == (60, 40)
    with Image.open(path) as img:
        assert exif_size(img) == (60, 40)


def test_jpegs_equal_opencvs(shared):
    for path in sorted((shared / "datasets/coco128/images/train2017").glob("*.jpg"))[:40]:
        im = cv2.imread(str(path))
        assert np.array_equal(imread(path), im)
        assert image_size(path) == (im.shape[1], im.shape[0])


def test_checked_images_have_the_golden_content(golden, shared):
    for facts in golden("yolov5n_pt")[0].values():
        for case in facts.values() if isinstance(facts, dict) else ():
            if isinstance(case, dict) and "image_mean_bgr" in case:
                im = imread(shared / "datasets/coco128/images/train2017" / case["image"])
                assert list(im.shape) == case["image_shape"]
                np.testing.assert_allclose(im.mean((0, 1)), case["image_mean_bgr"], atol=0.5)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_modes_become_three_channels(mode, kind):
    img = Image.fromarray(_smooth()).convert(mode)
    im = decode(_encoded(img, kind))
    assert im.shape == (40, 60, 3)
    assert np.abs(im[..., ::-1].astype(int) - np.asarray(img.convert("RGB"))).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_keeps_the_high_byte(suffix, channels):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    values[..., 3:] = 65535
    im = decode(cv2.imencode(suffix, values)[1].tobytes())
    expected = np.broadcast_to(values[..., :3] >> 8, (20, 30, 3))
    assert im.dtype == np.uint8 and np.abs(im.astype(int) - expected).max() <= 1  # colour TIFF is rounded


@pytest.mark.parametrize("suffix", [".pfm", ".tiff"])
def test_floating_point_samples(suffix):
    """0 to 1 is stretched to 0 to 255; larger ranges are clipped."""
    ramp = np.linspace(0, 1, 60, dtype=np.float32).reshape(6, 10)
    for values, expected in ((ramp, ramp * 255), (ramp * 300, np.clip(ramp * 300, 0, 255))):
        im = decode(cv2.imencode(suffix, values)[1].tobytes())
        assert im.shape == (6, 10, 3) and np.abs(im[..., 0] - expected).max() <= 0.51


def test_cmyk_mpo_and_bmp():
    rgb = _smooth()
    for data, far in (
        (_encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=98), 8),
        (_encoded(Image.fromarray(rgb), "MPO", save_all=True, append_images=[Image.fromarray(rgb)], quality=98), 8),
        (_encoded(Image.fromarray(rgb), "BMP"), 0),
        (_encoded(Image.fromarray(rgb), "WEBP", lossless=True), 0),
    ):
        assert np.abs(decode(data)[..., ::-1].astype(int) - rgb).max() <= far


def test_grey_flag_and_reduced_size(tmp_path):
    assert imwrite(tmp_path / "Bild-ü-图.jpg", _smooth(401, 603))
    path = tmp_path / "Bild-ü-图.jpg"
    assert imread(path, cv2.IMREAD_GRAYSCALE).shape == (401, 603)
    for factor in (1, 2, 4, 8):
        im = imread(path, reduce=factor)
        assert im.shape == (-(-401 // factor), -(-603 // factor), 3)
        assert np.abs(im.astype(float).mean((0, 1)) - _smooth(401, 603).mean((0, 1))).max() < 3


def test_odd_names_and_wrong_suffix(tmp_path):
    name = os.fsdecode(b"b\xff.jpg")
    (tmp_path / name).write_bytes(_encoded(Image.fromarray(_smooth()), "PNG"))
    assert imread(tmp_path / name).shape == (40, 60, 3)


def test_failures_name_the_file(tmp_path):
    empty, junk, cut, folder = (tmp_path / name for name in ("empty.jpg", "junk.png", "cut.png", "folder.png"))
    empty.write_bytes(b"")
    junk.write_text("no image")
    cut.write_bytes(_encoded(Image.fromarray(_smooth()), "PNG")[:20])
    folder.mkdir()
    for path, reason in (
        (empty, "0 bytes"),
        (junk, "not an image"),
        (cut, ""),
        (folder, ""),
        (tmp_path / "no.jpg", ""),
    ):
        for read in (imread, image_size):
            with pytest.raises(ImageError, match=reason) as caught:
                read(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_huge_images_are_refused_before_decoding(tmp_path):
    data = bytearray(_encoded(Image.fromarray(_smooth()), "PNG"))
    data[16:24] = struct.pack(">II", 30000, 30000)
    with pytest.raises(ValueError, match=str(MAX_PIXELS)):
        decode(bytes(data))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP"]), st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damaged_data_is_decoded_or_refused(kind, at, garbage):
    data = bytearray(_encoded(Image.fromarray(_smooth()), kind, exif=_exif(6)) if kind != "BMP" else b"BM" + bytes(60))
    data[at : at + len(garbage)] = garbage
    try:
        im = decode(bytes(data))
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert im.dtype == np.uint8 and im.ndim == 3


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_exif_block_gives_an_orientation(block):
    assert exif_orientation(b"II" + block) in range(1, 9)


def test_header_finds_exif_behind_other_segments():
    data = _encoded(Image.fromarray(_smooth()), "JPEG", exif=_exif(8))
    comment = b"\xff\xe2" + struct.pack(">H", 70000 % 65536) + bytes(70000 % 65536 - 2)
    header = read_header(io.BytesIO(data[:2] + comment + b"\xff" + data[2:]))
    assert header.upright_size == (40, 60) and header.orientation == 8


def test_imwrite_says_whether_it_worked(tmp_path):
    assert not imwrite(tmp_path / "a.nothing", _smooth()) and not imwrite(tmp_path / "no/a.png", _smooth())
    assert "jpg" in IMG_FORMATS and len(IMG_FORMATS) == 10 and len(VID_FORMATS) == 11


def test_missing_system_library_is_explained(monkeypatch):
    import builtins

    original = builtins.__import__

    def refuse(name, *args, **options):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"libGL.*pip uninstall.*pip install opencv-python-headless") as caught:
        cv_module.require_cv2()
    assert "\n" not in str(caught.value)
