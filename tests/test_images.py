"""Reading images: every format upright, as BGR uint8."""

import io
import os
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import FORMATS, STORED, encoded, exif_of, in_format
from PIL import Image

from utils import cv as cv_module
from utils import images
from utils.data.image_headers import MAX_PIXELS, exif_orientation, read_header
from utils.errors import InputError
from utils.images import (
    IMG_FORMATS,
    VID_FORMATS,
    ImageError,
    decode,
    exif_size,
    image_size,
    imread,
    imwrite,
    write_image,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def _smooth(height=40, width=60):
    """A picture whose corners differ, so that a wrong turn shows: (h, w, 3) RGB."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)], -1).astype(np.uint8)


def test_a_tiff_orientation_of_another_count_counts_for_nothing(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((20, 31, 3), np.uint8)).save(path, tiffinfo={274: 6})
    data = path.read_bytes()
    assert image_size(path) == (20, 31) and imread(path).shape == (31, 20, 3)
    at = data.index(struct.pack("<HHI", 274, 3, 1))
    path.write_bytes(data[: at + 4] + struct.pack("<I", 0x7FFFFFFF) + data[at + 8 :])
    assert image_size(path) == (31, 20) and imread(path).shape == (20, 31, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied_once(tmp_path, kind, orientation):
    upright = _smooth()
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(kind, {})
    path = tmp_path / "a.img"
    path.write_bytes(encoded(stored, kind, exif=exif_of(orientation), **options))
    im = imread(path)
    assert im.shape == (40, 60, 3) and im.flags.c_contiguous and im.dtype == np.uint8
    assert np.abs(im[..., ::-1].astype(int) - upright).max() <= (6 if kind == "JPEG" else 0)
    assert image_size(path) == (60, 40)
    with Image.open(path) as img:
        assert exif_size(img) == (60, 40)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("orientation", STORED)
def test_every_format_in_every_orientation(tmp_path, name, orientation):
    """Each under the suffix of another format; the pixels are those of the upright 8-bit RGB copy."""
    data, upright = in_format(name, _smooth(), orientation)
    path = tmp_path / "a.bmp"
    path.write_bytes(data)
    im = imread(path)
    assert im.shape == (40, 60, 3) and im.dtype == np.uint8 and im.flags.c_contiguous and image_size(path) == (60, 40)
    far = {"CMYK": 2, "WebP": 0}.get(name, 1)
    assert np.abs(im[..., ::-1].astype(int) - upright).max() <= far
    assert imread(path, reduce=2).shape == (20, 30, 3)


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
    im = decode(encoded(img, kind))
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


def test_colour_pfm():
    ramp = np.linspace(0, 1, 180, dtype=np.float32).reshape(6, 10, 3)
    im = decode(cv2.imencode(".pfm", ramp)[1].tobytes())
    assert im.shape == (6, 10, 3) and np.abs(im - ramp * 255).max() <= 0.51


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
        (encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=98), 8),
        (encoded(Image.fromarray(rgb), "MPO", save_all=True, append_images=[Image.fromarray(rgb)], quality=98), 8),
        (encoded(Image.fromarray(rgb), "BMP"), 0),
        (encoded(Image.fromarray(rgb), "WEBP", lossless=True), 0),
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


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "JPEG"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_reduced_size_is_rounded_up_for_every_format(kind, factor):
    """As the content decides the format, a PNG under the name x.jpg is asked for a reduced size in training, too."""
    picture = _smooth(203, 309)
    im = decode(encoded(Image.fromarray(picture), kind), reduce=factor)
    height, width = -(-203 // factor), -(-309 // factor)
    padded = np.pad(picture, ((0, height * factor - 203), (0, width * factor - 309), (0, 0)), "edge")
    wanted = padded.reshape(height, factor, width, factor, 3).mean((1, 3))
    assert im.shape == wanted.shape
    assert np.abs(im[..., ::-1] - wanted).max() <= (8 if kind in {"JPEG", "WEBP"} else 1)


def test_what_pillow_has_to_decode_is_reduced_as_well(monkeypatch):
    monkeypatch.setattr(images, "_cv2_decode", lambda buffer, flags: None)
    whole = decode(encoded(Image.fromarray(_smooth(41, 61)), "JPEG"))
    half = decode(encoded(Image.fromarray(_smooth(41, 61)), "JPEG"), reduce=2)
    assert whole.shape == (41, 61, 3) and half.shape == (21, 31, 3)
    assert np.abs(half[:20, :30].astype(float) - whole[:40, :60].reshape(20, 2, 30, 2, 3).mean((1, 3))).max() <= 1


def test_training_reads_a_png_that_is_named_jpg(tmp_path):
    """Of odd size and shrinking to a half or less, where a JPEG is decoded at reduced size."""
    from utils.data.image_store import ImageStore

    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(Image.fromarray(_smooth(203, 309)), "PNG"))
    store = ImageStore([str(path)], np.array([[309, 203]]), 64, fast=True)
    assert store.load(0).shape == (43, 64, 3)


def test_odd_names_and_wrong_suffix(tmp_path):
    name = os.fsdecode(b"b\xff.jpg")
    (tmp_path / name).write_bytes(encoded(Image.fromarray(_smooth()), "PNG"))
    assert imread(tmp_path / name).shape == (40, 60, 3)


def test_failures_name_the_file(tmp_path):
    empty, junk, cut, folder = (tmp_path / name for name in ("empty.jpg", "junk.png", "cut.png", "folder.png"))
    empty.write_bytes(b"")
    junk.write_text("no image")
    cut.write_bytes(encoded(Image.fromarray(_smooth()), "PNG")[:20])
    folder.mkdir()
    for path, reason in (
        (empty, "0 bytes"),
        (junk, "not an image"),
        (cut, "cut off"),
        (folder, "is a folder"),
        (tmp_path / "no.jpg", "No such file"),
    ):
        for read in (imread, image_size):
            with pytest.raises(ImageError, match=reason) as caught:
                read(path)
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def _claiming(kind, side):
    """The head of a file that claims side x side pixels."""
    if kind in {"PFM", "BigTIFF"}:
        if kind == "PFM":
            return f"PF\n{side} {side}\n-1.0\n".encode()
        entries = b"".join(struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in ((256, side), (257, side)))
        return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2) + entries + bytes(8)
    data = bytearray(
        encoded(Image.fromarray(_smooth()), kind.split()[0], **{"exif": exif_of(1)} if kind == "WEBP X" else {})
    )
    if kind == "PNG":
        data[16:24] = struct.pack(">II", side, side)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, -side)
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    elif kind == "TIFF":
        for tag in (256, 257):
            at = data.index(struct.pack("<HH", tag, 4))
            data[at + 8 : at + 12] = struct.pack("<I", side)
    elif kind == "WEBP X":
        data[24:30] = (side - 1).to_bytes(3, "little") * 2
    else:
        data[26:30] = struct.pack("<HH", side, side)  # 14 bits each: below the limit of pixels
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "JPEG", "TIFF", "BigTIFF", "PFM", "WEBP X"])
def test_huge_images_are_refused_before_decoding(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    path = tmp_path / "huge.jpg"
    path.write_bytes(_claiming(kind, 30000))
    for read in (imread, image_size):
        with pytest.raises(ImageError, match=f"huge.jpg.*30000 x 30000 pixels, at most {MAX_PIXELS}"):
            read(path)


def test_sizes_in_headers_are_read_without_pixels():
    for kind in ("PNG", "BMP", "JPEG", "TIFF", "BigTIFF", "PFM", "WEBP X", "WEBP"):
        assert read_header(io.BytesIO(_claiming(kind, 1234))).upright_size == (1234, 1234), kind


def test_wide_samples_are_refused_where_they_would_not_fit(monkeypatch):
    monkeypatch.setattr(images, "MAX_SAMPLE_BYTES", 3000)
    small, large = (cv2.imencode(".pfm", np.ones((side, 10, 3), np.float32))[1].tobytes() for side in (25, 26))
    assert decode(small).shape == (25, 10, 3)
    with pytest.raises(ValueError, match=r"10 x 26 pixels of 12 bytes, at most 3000 bytes"):
        decode(large)


def test_huge_files_are_refused_unread(tmp_path):
    path = tmp_path / "sparse.png"
    with path.open("wb") as stream:
        stream.write(encoded(Image.fromarray(_smooth()), "PNG"))
        stream.truncate(images.MAX_FILE_BYTES + 1)
    for read in (imread, image_size):
        with pytest.raises(ImageError, match=rf"sparse.png: {images.MAX_FILE_BYTES + 1} bytes, an image file may have"):
            read(path)


def test_pipes_and_devices_are_refused_unread(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "device.jpg"):
        for read in (imread, image_size):
            with pytest.raises(ImageError, match=f"{name}: is a pipe or device"):
                read(tmp_path / name)


def test_postscript_is_not_run(tmp_path, monkeypatch):
    """Pillow reads PostScript by starting the program gs on it: code in a picture."""
    canary, program = tmp_path / "canary", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 40\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ImageError, match="not an image"):
        imread(path)
    with pytest.raises(ImageError, match="not an image"):
        image_size(path)
    assert not canary.exists()
    kinds = {name for names in images._PIL_FORMATS.values() for name in names}
    assert kinds == {"JPEG", "MPO", "PNG", "BMP", "DIB", "TIFF", "WEBP", "PPM"}  # none starts a program


def test_long_garbage_in_a_jpeg_is_not_searched_for_ever():
    start = time.monotonic()
    for garbage in (bytes(1 << 22), b"\xff" * (1 << 22), b"\xff\xd0" * (1 << 21)):
        with pytest.raises(ValueError, match="JPEG data"):
            read_header(io.BytesIO(b"\xff\xd8\xff\xe0\0\2" + garbage))
    assert time.monotonic() - start < 5


def test_cut_jpegs_are_refused_whatever_opencv_makes_of_them(tmp_path, monkeypatch):
    """Before release 5, OpenCV filled the missing part with grey."""
    data = encoded(Image.fromarray(_smooth(400, 600)), "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    monkeypatch.setattr(images, "_cv2_decode", lambda buffer, flags: np.zeros((400, 600, 3), np.uint8))
    with pytest.raises(ImageError, match=r"cut\.jpg.*damaged JPEG.*truncated"):
        imread(path, whole=True)
    path.write_bytes(data + b"\0\0")
    assert imread(path, whole=True).shape == (400, 600, 3)
    assert "used as it is" in images.check_jpeg_end(data + b"\0\0") and not images.check_jpeg_end(data)


MEMORY_SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import utils.images as images
try:
    print(images.imread({path!r}, whole=True).shape, end=" ")
except images.ImageError as error:
    print("refused", error, end=" ")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def _large_files(folder):
    """Files just within the limits: (name, shape it is read with)."""
    side = 13300  # 177 million pixels
    black = Image.new("L", (side, side))
    for name, mode, options in (
        ("grey.png", "L", {"compress_level": 1, "exif": exif_of(6)}), ("rgb.bmp", "RGB", {}), ("rgb.jpg", "RGB", {}),
        ("progressive.jpg", "RGB", {"progressive": True, "exif": exif_of(5)}), ("cmyk.jpg", "CMYK", {}),
        ("rgba.tiff", "RGBA", {"compression": "tiff_adobe_deflate"}),
    ):  # fmt: skip
        black.convert(mode).save(folder / name, **options)
        yield name, (side, side, 3)
    for name, size, depth in (
        ("float.tiff", 11500, np.float32),
        ("float.pfm", 11500, np.float32),
        ("16.png", side, np.uint16),
    ):
        cv2.imwrite(str(folder / name), np.zeros((size, size), depth))
        yield name, (size, size, 3)


@pytest.mark.slow
def test_no_file_takes_more_than_2_gb(tmp_path):
    for name, shape in _large_files(tmp_path):
        code = MEMORY_SCRIPT.format(root=str(Path(__file__).parents[1]), path=str(tmp_path / name))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        shown, _, peak = done.stdout.strip().rpartition(" ")
        assert shown == str(shape), (name, done.stdout)
        assert int(peak) < 2_000_000_000 // 1024, (name, peak)
        (tmp_path / name).unlink()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "BMP"]), st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_damaged_data_is_decoded_or_refused(kind, at, garbage):
    data = bytearray(encoded(Image.fromarray(_smooth()), kind, exif=exif_of(6)) if kind != "BMP" else b"BM" + bytes(60))
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
    data = encoded(Image.fromarray(_smooth()), "JPEG", exif=exif_of(8))
    comment = b"\xff\xe2" + struct.pack(">H", 70000 % 65536) + bytes(70000 % 65536 - 2)
    header = read_header(io.BytesIO(data[:2] + comment + b"\xff" + data[2:]))
    assert header.upright_size == (40, 60) and header.orientation == 8


def test_write_image_says_why_not(tmp_path):
    with pytest.raises(ValueError, match=r"format \(\.nothing\) cannot be written"):
        write_image(tmp_path / "a.nothing", _smooth())
    with pytest.raises(ValueError, match=r"format \(no suffix\) cannot be written"):
        write_image(tmp_path / "a", _smooth())
    with pytest.raises(ValueError, match="cannot be written"):
        write_image(tmp_path / "a.png", np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(FileNotFoundError):
        write_image(tmp_path / "no" / "a.png", _smooth())


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


def test_the_first_header_chunk_counts():
    """A second one with a smaller size would hide how much is decoded."""
    data = bytearray(encoded(Image.fromarray(_smooth()), "PNG"))
    honest = bytes(data[8:33])
    data[16:24] = struct.pack(">II", 30000, 30000)
    with pytest.raises(ValueError, match="30000 x 30000"):
        read_header(io.BytesIO(bytes(data[:33]) + honest + bytes(data[33:])))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_that_claims_gigabytes_is_not_reserved(tmp_path, kind):
    data = encoded(Image.fromarray(_smooth()), kind, exif=exif_of(6))
    name, order = (b"eXIf", ">I") if kind == "PNG" else (b"EXIF", "<I")
    at = data.index(name)
    path = tmp_path / "a.png"
    start = at - 4 if kind == "PNG" else at + 4
    path.write_bytes(data[:start] + struct.pack(order, 2**32 - 1) + data[start + 4 :])
    tracemalloc.start()
    try:
        assert image_size(path) == (40, 60)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
