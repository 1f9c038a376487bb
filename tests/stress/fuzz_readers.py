"""Kinds of files that the project reads: valid ones to begin with, ways to damage them, and what must hold for each.

A check reads one file. It may end in InputError or WorkError with the file's name in it; else what it read must be as
promised, or an AssertionError tells what was not.
"""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stress import fuzz_mutations as m

ROOT = Path(__file__).resolve().parents[2]
NAMES = {0: "bolt", 1: "nut"}
Check = Callable[[Any, random.Random], None]


@dataclass(frozen=True)
class Seed:
    """A valid file and its reader."""

    content: bytes
    check: Check


@dataclass
class Kind:
    """What one kind of file needs for its cases."""

    folder: Path
    suffix: str
    seeds: list[Seed]
    damage: m.Damage
    as_text: bool = False
    number: int = field(default=0)

    def make(self, dice: random.Random) -> tuple[bytes, Seed]:
        """Return the content of a case and the seed that it was made of."""
        seed = dice.choice(self.seeds)
        return self.damage(dice, seed.content, [other.content for other in self.seeds]), seed

    def write(self, content: bytes) -> Any:
        """Return the file of a case, or its text where a reader takes text."""
        if self.as_text:
            return os.fsdecode(content)
        path = self.folder / f"case{self.suffix}"
        path.write_bytes(content)
        return path


LONGEST_ARGUMENT = 1 << 17  # bytes that Linux passes to a command as one


def labels(folder: Path) -> Kind:
    """Label files: read alone and in a scan with an image."""
    from utils.data.label_files import parse_labels, read_label_file
    from utils.images import imwrite
    from utils.labels import check_image

    image = str(folder / "label.png")
    imwrite(image, np.zeros((12, 12, 3), np.uint8))

    def check(path: Path, dice: random.Random) -> None:
        parsed = read_label_file(path, nc=dice.choice((None, 2)))
        rows = parsed.labels
        assert rows.dtype == np.float32 and rows.ndim == 2 and rows.shape[1] == 5
        assert np.isfinite(rows).all() and (rows >= 0).all() and (rows[:, 1:] <= 1).all() and (rows[:, 3:] > 0).all()
        assert (rows[:, 0] == np.floor(rows[:, 0])).all()
        assert len(parsed.segments) in {0, len(rows)} and (parsed.usable or (parsed.problems and not len(rows)))
        assert all("\n" not in str(problem) and path.name in str(problem) for problem in parsed.problems)
        if parsed.usable:
            text = "\n".join(" ".join(f"{v:.9g}" for v in row) for row in rows)
            if not parsed.segments:
                assert np.array_equal(parse_labels(text.encode(), "again").labels, rows), "does not round-trip"
        item = check_image(image, str(path))
        assert item.kept == parsed.usable and item.lost == parsed.lost

    texts = [
        "0 0.5 0.5 0.1 0.1\n1 0.25 0.5 0.2 0.4\n",
        "1 0.1 0.2 0.3 0.4\r\n0 0.9 0.9 0.05 0.05\r\n",
        "0 0.2 0.2 0.6 0.4 0.4 0.8\n1 0.1 0.1 0.2 0.1 0.3 0.3 0.1 0.2\n",
        "\n".join(f"{i % 2} 0.{i + 10} 0.5 0.0{i + 10} 0.1" for i in range(40)),
        "",
    ]
    return Kind(folder, ".txt", [Seed(text.encode(), check) for text in texts],
                m.any_of(m.words_damage, m.lines_damage, m.bytes_damage))  # fmt: skip


def yaml(folder: Path) -> Kind:
    """Data sets, hyperparameters, thresholds per class, plain mappings."""
    from utils.class_thresholds import class_thresholds
    from utils.dataset_yaml import check_dataset
    from utils.hyperparameters import Hyperparameters
    from utils.yaml_files import read_yaml, write_yaml

    for part in ("images/train", "images/val"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    again = folder / "again.yaml"

    def plain(path: Path, _: random.Random) -> None:
        data = read_yaml(path)
        assert isinstance(data, dict)
        write_yaml(again, data)
        assert _same(read_yaml(again), data), "does not round-trip"

    def data_set(path: Path, dice: random.Random) -> None:
        facts = check_dataset(str(path), autodownload=False, splits=dice.choice(((), ("train", "val"))))
        assert facts["nc"] == len(facts["names"]) and list(facts["names"]) == list(range(facts["nc"])) and facts["nc"]
        assert all(isinstance(name, str) for name in facts["names"].values())

    def hyp(path: Path, _: random.Random) -> None:
        settings = Hyperparameters.load(path)
        settings.validate_for(NAMES, source=str(path))
        numbers = [settings[key] for key in settings if isinstance(settings[key], float)]
        assert np.isfinite(numbers).all()

    def thresholds(path: Path, _: random.Random) -> None:
        found = class_thresholds(path, NAMES, 0.25)
        assert found.shape == (2,) and ((found >= 0) & (found <= 1)).all()

    data = f"path: {folder}\ntrain: images/train\nval:\n  - images/val\nnc: 2\nnames:\n  0: bolt\n  1: nut\n"
    hyps = [(ROOT / "data/hyps" / name).read_bytes() for name in ("hyp.scratch-low.yaml", "hyp.focal.yaml")]
    seeds = [
        Seed(data.encode(), data_set),
        Seed(f"train: {folder}/images/train\nval: images/val\nnames: [bolt, nut]\npath: {folder}\n".encode(), data_set),
        *(Seed(content, hyp) for content in hyps),
        Seed(b"bolt: 0.3\nnut: 0.25\n", thresholds),
        Seed(b"a: &x [1, 2.5, null]\nb: {c: *x, d: 'e'}\nf: |\n  text\n", plain),
    ]
    return Kind(folder, ".yaml", seeds, m.any_of(m.yaml_damage, m.yaml_damage, m.words_damage, m.lines_damage,
                                                 m.bytes_damage))  # fmt: skip


def images(folder: Path) -> Kind:
    """Pictures of every format, most with an orientation."""
    import cv2

    from utils.errors import InputError
    from utils.images import image_size, imread
    from utils.labels import check_image

    def check(path: Path, dice: random.Random) -> None:
        reduce = dice.choice((1, 1, 2, 8))
        checked = check_image(str(path), str(folder / "none.txt"))
        assert checked.kept != bool([p for p in checked.problems if "left out" in p.text])
        try:
            im = imread(path, reduce=reduce, whole=True)
        except InputError:
            assert not checked.kept, "a scan takes it and reading it fails"
            raise
        assert im.dtype == np.uint8 and im.ndim == 3 and im.shape[2] == 3 and im.flags.c_contiguous and im.size
        grey = imread(path, cv2.IMREAD_GRAYSCALE)
        assert grey.ndim == 2 and grey.dtype == np.uint8 and grey.flags.c_contiguous
        shape = tuple(-(-side // reduce) for side in grey.shape)
        assert im.shape[:2] == shape, f"{im.shape} at 1/{reduce} of {grey.shape}"
        width, height = image_size(path)
        if checked.kept:
            assert checked.shape == grey.shape[::-1], f"scan {checked.shape}, pixels {grey.shape[::-1]}"
            assert (width, height) == grey.shape[::-1], f"header {width}x{height}, pixels {grey.shape[::-1]}"

    return Kind(folder, ".jpg", [Seed(content, check) for content in _pictures()],
                m.any_of(m.bytes_damage, m.number_damage, m.png_damage))  # fmt: skip


def _pictures() -> list[bytes]:
    import cv2
    from PIL import Image

    y, x = np.mgrid[:20, :31]
    rgb = np.stack([8 * x, 12 * y, 4 * (x + y)], -1).astype(np.uint8)
    image, exif = Image.fromarray(rgb), Image.Exif()
    exif[274] = 6
    found = []
    for kind, mode, options in (
        ("JPEG", "RGB", {"exif": exif}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {"exif": exif}), ("PNG", "P", {}), ("PNG", "LA", {}), ("PNG", "1", {}),
        ("WEBP", "RGB", {"exif": exif, "lossless": True}), ("WEBP", "RGBA", {}), ("BMP", "RGB", {}), ("BMP", "P", {}),
        ("TIFF", "RGB", {"exif": exif}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "CMYK", {}),
        ("TIFF", "L", {"compression": "tiff_adobe_deflate"}), 
        ("MPO", "RGB", {"save_all": True, "append_images": [image]}),
    ):  # fmt: skip
        stream = io.BytesIO()
        image.convert(mode).save(stream, kind, **options)
        found.append(stream.getvalue())
    wide = rgb.astype(np.uint16) * 257
    for suffix, array in ((".png", wide), (".tiff", wide), (".tiff", rgb[..., 0].astype(np.float32) / 255),
                          (".pfm", rgb.astype(np.float32))):  # fmt: skip
        found.append(cv2.imencode(suffix, array)[1].tobytes())
    return found


def checkpoints(folder: Path) -> Kind:
    """Checkpoints of both of torch's layouts, with damaged pickles whose checksums are right."""
    import torch
    from checkpoint_files import tiny_model

    from utils import checkpoint as ck

    def check(path: Path, dice: random.Random) -> None:
        found = ck.load_checkpoint(path)
        assert isinstance(found, dict)
        assert all(isinstance(name, str) for name in ck.pickled_globals(path))
        if dice.random() < 0.5:
            network = ck.load_model(path)
            assert not any(parameter.requires_grad for parameter in network.parameters())

    model = tiny_model()
    whole = ck.build_checkpoint(
        model=model, ema=tiny_model(1), updates=3, optimizer_state=None, epoch=4, best_fitness=0.5, opt={"imgsz": 64},
        resume={"rng": torch.arange(5), "step": 7},
    )  # fmt: skip
    contents = [whole, {"model": model.half(), "epoch": -1}]
    seeds = []
    for content, zipped in ((contents[0], True), (contents[1], True), (contents[1], False)):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=zipped)
        seeds.append(Seed(stream.getvalue(), check))
    return Kind(folder, ".pt", seeds, m.any_of(m.zip_damage(m.pickle_damage), m.zip_damage(m.pickle_damage),
                                               _legacy_damage, m.bytes_damage))  # fmt: skip


def _legacy_damage(dice: random.Random, data: bytes, others: Any) -> bytes:
    """Put a call somewhere among the pickles of torch's older layout."""
    at = dice.randrange(len(data)) if data else 0
    return (
        data[:at] + m.evil_call(dice) + data[at:] if not data.startswith(b"PK") else m.bytes_damage(dice, data, others)
    )


def csv(folder: Path) -> Kind:
    """Weights per label, and results.csv of a run that goes on."""
    from utils.data.label_weights import join_label_weights, read_label_weights
    from utils.loggers.csv_log import RESULT_COLUMNS, EpochCsv, aligned_row

    label = folder / "label.txt"
    label.write_text("0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.2 0.2\n0 0.7 0.7 0.2 0.2\n")
    files, rows = [f"/data/{name}.jpg" for name in ("a", "b", "c")], [np.zeros((3, 5), np.float32)] * 3

    def weights(path: Path, _: random.Random) -> None:
        found = read_label_weights(path)
        assert all(0 <= item.weight <= 1 and item.row >= 0 and item.image for item in found)
        joined = join_label_weights(path, found, files, [str(label)] * 3, rows)
        assert [w.shape for w in joined] == [(3,)] * 3 and all(((w >= 0) & (w <= 1)).all() for w in joined)

    def results(path: Path, dice: random.Random) -> None:
        EpochCsv(path, RESULT_COLUMNS, dice.choice((0, 2))).append([[9, *[0.5] * 13]])
        lines = path.read_text().split("\n")  # as the reader does: other breaks are characters of a field
        epochs = [int(float(line.split(",")[0])) for line in lines[1:-1]]
        assert epochs == sorted(epochs), epochs

    head = aligned_row(RESULT_COLUMNS)
    body = "\n".join([head, *(aligned_row([epoch, *[0.1] * 13]) for epoch in range(3))]) + "\n"
    seeds = [
        Seed(b"image,row,weight\na.jpg,0,0.5\nb.jpg,2,1\n/data/c.jpg,1,0\n", weights),
        Seed('\ufeffweight, note, row, image\n0.25,"x, y",1,c.jpg\n'.encode(), weights),
        Seed(body.encode(), results),
    ]
    return Kind(folder, ".csv", seeds, m.any_of(m.words_damage, m.lines_damage, m.bytes_damage))


def sources(folder: Path) -> Kind:
    """What --source and the entries of a data set can be: text."""
    from utils.dataset_yaml import find_images
    from utils.images import imwrite
    from utils.sources import check_source, source_kind

    (folder / "media/sub").mkdir(parents=True, exist_ok=True)
    for name in ("media/a.jpg", "media/sub/b.png"):
        imwrite(folder / name, np.zeros((12, 12, 3), np.uint8))

    def is_far(text: str) -> bool:
        """Whether it would search the whole disk."""
        return not os.path.abspath(text).startswith(str(folder))

    def source(text: str, _: random.Random) -> None:
        text = text[:LONGEST_ARGUMENT]
        kind = source_kind(text)
        assert kind in {"streams", "screen", "files"}
        if not ("*" in text and is_far(text)) and not text.lower().startswith(
            ("http:", "https:")
        ):  # those of one file are fetched
            assert check_source(text) == text

    def images_of(text: str, _: random.Random) -> None:
        text = text[:LONGEST_ARGUMENT]
        assert is_far(text) or find_images(text)

    texts = ["0", "media", "media/*.jpg", "media/**/*.png", "screen 0 1 2 30 40", "rtsp://host:554/live?x=1",
             "http://host/a.jpg", "https://user@host/live", str(folder / "media/a.jpg")]  # fmt: skip
    seeds = [*(Seed(text.encode(), source) for text in texts), Seed(b"media", images_of)]
    return Kind(folder, "", seeds, m.any_of(m.words_damage, m.bytes_damage), as_text=True)


def lists(folder: Path) -> Kind:
    """Lists of images, of sources and of streams, and the detection of what they name."""
    from utils.data.live_sources import stream_names
    from utils.dataset_yaml import find_images
    from utils.images import imwrite
    from utils.sources import LoadImages, list_media

    (folder / "media").mkdir(exist_ok=True)
    for name in ("a.jpg", "b.png"):
        imwrite(folder / "media" / name, np.zeros((12, 12, 3), np.uint8))

    def media(path: Path, _: random.Random) -> None:
        pictures, _ = list_media(str(path))
        names = [name for name, *_ in LoadImages(str(path), img_size=32)]
        assert set(names) <= {*pictures} and len(set(names)) == len(names)

    def images_of(path: Path, _: random.Random) -> None:
        assert find_images(str(path))

    def streams(path: Path, _: random.Random) -> None:
        assert all(stream_names(path))

    text = f"{folder}/media/a.jpg\n./media/b.png\nmedia/a.jpg\n".encode()
    seeds = [Seed(text, media), Seed(text, images_of), Seed(b"rtsp://a/b\n0\nhttps://c/d\n", streams)]
    return Kind(folder, ".txt", seeds, m.any_of(m.words_damage, m.lines_damage, m.bytes_damage))


def caches(folder: Path) -> Kind:
    """Label caches: as they were written, or not used."""
    from utils.data.label_cache import load_cache
    from utils.images import imwrite
    from utils.labels import scan_labels

    files, texts = [], []
    for number in range(3):
        files.append(str(folder / f"{number}.png"))
        texts.append(str(folder / f"{number}.txt"))
        imwrite(files[-1], np.zeros((12, 16, 3), np.uint8))
        Path(texts[-1]).write_text("0 0.5 0.5 0.1 0.1\n" if number else "1 0.1 0.1 0.2 0.2 0.3 0.1 0.2 0.1\n")
    cache = folder / "case.npz"
    truth = scan_labels(files, texts, cache)

    def check(path: Path, _: random.Random) -> None:
        table = load_cache(path, files, texts)
        if table is not None:
            assert len(table.labels) == len(table.segments) == len(table) <= len(truth)
            assert all(rows.shape[1] == 5 and np.isfinite(rows).all() for rows in table.labels)
            str(table.report.lost_text(NAMES)), [str(problem) for problem in table.report.problems]

    return Kind(folder, ".npz", [Seed(cache.read_bytes(), check)],
                m.any_of(m.zip_damage(lambda dice, _, data: _array_damage(dice, data)), m.bytes_damage))  # fmt: skip


def _array_damage(dice: random.Random, data: bytes) -> bytes:
    return dice.choice((m.bytes_damage, m.number_damage, m.words_damage))(dice, data, [data])


def planted(folder: Path) -> Kind:
    """Readers that do what no reader may: proof that findings are found."""
    import socket
    import time

    wrongs: dict[bytes, Callable[[], object]] = {
        b"k": lambda: {}["missing"],
        b"c": os.abort,
        b"s": lambda: time.sleep(60),
        b"m": lambda: bytearray(b"\1") * (300 << 20),
        b"w": lambda: (ROOT / "tests" / "stress" / "no folder" / "x").open("w"),
        b"n": lambda: socket.socket().connect(("127.0.0.1", 9)),
        b"i": lambda: __import__("this_is_no_module"),
        b"a": lambda: np.zeros(1) / np.zeros(1),
        b"o": lambda: None,
    }

    def check(path: Path, _: random.Random) -> None:
        wrongs[path.read_bytes()]()

    def damage(dice: random.Random, _data: bytes, _others: Any) -> bytes:
        return dice.choice(sorted(wrongs))

    return Kind(folder, ".bin", [Seed(b"o", check)], damage)


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal, NaN included, and of one type."""
    if isinstance(one, dict) and isinstance(other, dict):
        return len(one) == len(other) and all(
            _same(a, b) and _same(one[a], other[b]) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and (one == other or (str(one), str(other)) == ("nan", "nan"))


KINDS: dict[str, Callable[[Path], Kind]] = {
    "labels": labels,
    "yaml": yaml,
    "images": images,
    "checkpoints": checkpoints,
    "csv": csv,
    "sources": sources,
    "lists": lists,
    "caches": caches,
    "planted": planted,
}
