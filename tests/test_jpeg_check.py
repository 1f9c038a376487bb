"""JPEGs that are said to decode without being decoded: they do, and to the size that was told."""

import io
import random
import struct
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from utils.data.image_headers import read_header
from utils.data.jpeg_check import quick_jpeg_size
from utils.images import check_jpeg_end, decode

WIDTH, HEIGHT = 130, 90
PLAIN = {
    "baseline": [],
    "grey": None,
    "optimised": [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
    "restarts": [cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
    "4:4:4": [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111],
    "low quality": [cv2.IMWRITE_JPEG_QUALITY, 20],
}


def pixels():
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8), (9, 9), 3)


def jpeg(options=None):
    im = pixels() if options is not None else pixels()[..., 0]
    return cv2.imencode(".jpg", im, options or [])[1].tobytes()


def by_pillow(mode="RGB", **options):
    stream = io.BytesIO()
    Image.fromarray(pixels()).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


def exif(orientation):
    block = Image.Exif()
    block[274] = orientation
    return block


@pytest.mark.parametrize("kind", PLAIN)
def test_ordinary_jpegs_need_no_decoding(kind):
    assert quick_jpeg_size(jpeg(PLAIN[kind])) == (WIDTH, HEIGHT)


def test_orientation_colours_and_notes():
    assert quick_jpeg_size(by_pillow(exif=exif(6))) == (HEIGHT, WIDTH)
    assert quick_jpeg_size(by_pillow(exif=exif(3), comment=b"x" * 1000)) == (WIDTH, HEIGHT)
    assert quick_jpeg_size(by_pillow("CMYK")) == (WIDTH, HEIGHT)


def test_what_is_unusual_is_left_to_the_decoder():
    data = jpeg([])
    scan = data.index(b"\xff\xda")
    assert quick_jpeg_size(jpeg([cv2.IMWRITE_JPEG_PROGRESSIVE, 1])) is None
    assert quick_jpeg_size(data + b"\0") is None  # bytes after the end
    assert quick_jpeg_size(data[:-2]) is None and quick_jpeg_size(data[:-400]) is None
    assert quick_jpeg_size(data[:20] + b"\0" + data[20:]) is None  # a stray byte between segments
    assert quick_jpeg_size(data[: scan + 200] + b"\xff\xc4\0\x04\x99\0" + data[scan + 200 :]) is None
    assert quick_jpeg_size(data[: scan + 200] + data[: scan + 200] + data[scan + 200 :]) is None
    for part in (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xd9", data[:scan] + b"\xff\xd9"):
        assert quick_jpeg_size(part) is None


def test_tables_that_libjpeg_refuses_are_noticed():
    data = bytearray(jpeg([]))
    at = data.index(b"\xff\xc4")
    data[at + 5 : at + 21] = b"\xff" * 16  # more codes than there are
    assert quick_jpeg_size(bytes(data)) is None
    without = bytearray(jpeg([]))
    at = without.index(b"\xff\xdb")
    without[at + 1] = 0xFE  # a comment where a table should be
    assert (quick_jpeg_size(bytes(without)) is None) == _fails(bytes(without))


@pytest.mark.parametrize(("height", "width"), [(0, 8), (8, 0), (65501, 8), (20000, 20000)])
def test_sizes_out_of_range(height, width):
    data = bytearray(jpeg([]))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    assert quick_jpeg_size(bytes(data)) is None


def test_whatever_is_passed_decodes(capfd):
    """Mutations of files of every kind: those that are passed decode, at an eighth and in full, with no note."""
    passed = check_mutations(seed=0, rounds=1500)
    capfd.readouterr()  # libjpeg's own warnings
    assert passed > 300


@pytest.mark.slow
def test_whatever_is_passed_decodes_of_60000(capfd):
    assert check_mutations(seed=1, rounds=60_000) > 10_000
    capfd.readouterr()


def check_mutations(seed, rounds):
    """Return how many mutated JPEGs are passed."""
    sources = [*(jpeg(options) for options in PLAIN.values()), jpeg([cv2.IMWRITE_JPEG_PROGRESSIVE, 1])]
    sources += [by_pillow(exif=exif(8)), by_pillow("CMYK")]
    rng, passed = random.Random(seed), 0
    for _ in range(rounds):
        data = mutated(rng.choice(sources), rng)
        size = quick_jpeg_size(data)
        if size is None or size[0] * size[1] > 2_000_000:
            continue
        passed += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert check_jpeg_end(data) == "" and read_header(io.BytesIO(data)).upright_size == size
            for reduce in (1, 8):
                found = decode(data, reduce=reduce, whole=True)
                assert found.shape[:2] == (-(-size[1] // reduce), -(-size[0] // reduce))
    return passed


def mutated(data, rng):
    data = bytearray(data)
    head = data.index(b"\xff\xda") + 20
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(2, head) if rng.random() < 0.7 else rng.randrange(2, len(data) - 2)
        kind = rng.random()
        if kind < 0.5:
            data[at] = rng.randrange(256)
        elif kind < 0.65:
            del data[at : at + rng.randint(1, 40)]
        elif kind < 0.8:
            data[at:at] = bytes(
                rng.choices([0xFF, 0xD9, 0xD8, 0xC4, 0xDA, 0, 1, 0xC0, 0xC2, 0xDD], k=rng.randint(1, 6))
            )
        else:
            data[at:at] = data[at : at + rng.randint(1, 80)]
        head = min(head, len(data) - 3)
    return bytes(data)


def _fails(data):
    try:
        decode(data)
    except ValueError:
        return True
    return False
