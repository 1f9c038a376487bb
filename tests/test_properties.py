"""Whatever stands in a label file, a YAML, a CSV or a source: it is read as it stands, or refused in one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from utils.class_thresholds import class_thresholds
from utils.data.label_files import parse_labels
from utils.data.label_weights import LabelWeight, join_label_weights, read_label_weights
from utils.data.live_sources import screen_area, stream_names
from utils.dataset_yaml import check_dataset
from utils.errors import InputError, InputErrors, WorkError
from utils.hyperparameters import Hyperparameters
from utils.sources import check_source, list_media, source_kind
from utils.yaml_files import parse_yaml, read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[1]
LOW_HYP = read_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml")
NAMES = {0: "bolt", 1: "nut"}
many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_refused(read: Callable[[], object], named: str) -> object:
    """Return what ``read`` gives, or None when it refuses in lines that hold ``named`` (and nothing else happens)."""
    try:
        return read()
    except (InputError, WorkError) as error:
        lines = error.problems if isinstance(error, InputErrors) else [str(error)]
        assert lines and all(named in line and line.strip() for line in lines), lines
        return None


def plain_text() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def _is_key(value: object) -> bool:
    return str(value) != "nan"  # which could not be found again


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**300, 10**320), st.floats(), plain_text(),
    st.sampled_from(["nan", ".nan", "1e-3", "1_0", "0x10", "yes", "~", "!!x", "*a", "&a b", "%", "2024-01-01", "\0"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars.filter(_is_key), inner, max_size=4),
    max_leaves=8,
)


# Labels ---------------------------------------------------------------------------------------------------------------

_row = st.tuples(st.integers(0, 2**24 - 1), *[st.floats(0, 1, width=32)] * 2, *[st.floats(2**-13, 1, width=32)] * 2)


@many
@given(st.lists(_row, max_size=8, unique=True), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_written_labels_come_back(rows: list[tuple[float, ...]], ending: str, padded: bool) -> None:
    text = ending.join(" ".join(map(repr, row)) for row in rows) + (ending * 2 if padded else "")
    parsed = parse_labels(text.encode(), "x.txt")
    assert parsed.usable and not parsed.problems and not parsed.lost
    assert np.array_equal(parsed.labels, np.array(rows, np.float32).reshape(-1, 5))


@many
@given(st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_label_file_is_used_or_explained(data: bytes) -> None:
    parsed = parse_labels(data, "x.txt")
    assert parsed.usable or (parsed.problems and not len(parsed.labels))
    assert all(str(problem).startswith("x.txt") and str(problem).isprintable() for problem in parsed.problems)


# YAML -----------------------------------------------------------------------------------------------------------------


@many
@given(st.dictionaries(plain_text(), values, min_size=1, max_size=5))
def test_written_yaml_comes_back(tmp_path: Path, data: dict[str, object]) -> None:
    path = tmp_path / "a.yaml"
    try:
        write_yaml(path, data)
    except ValueError as error:  # an integer of more digits than Python writes
        assert "digits" in str(error)
        return
    assert repr(read_yaml(path)) == repr(data)


@many
@given(st.text(max_size=60) | st.binary(max_size=60))
@example("a: 1\na: 2\n")
@example("x: &x [*x]")
@example("{" * 4000)
@example("a: !!python/object/apply:os.system [true]")
def test_any_yaml_is_read_or_refused(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    data = read_or_refused(lambda: read_yaml(path), "a.yaml")
    assert data is None or isinstance(data, dict)


@pytest.mark.parametrize("value", ["!!set {a, b}", "!!binary aGk=", "!!timestamp 2024-01-01", "!!omap [a: 1]"])
def test_tags_of_other_types_are_refused(tmp_path: Path, value: str) -> None:
    """A set, bytes or a date would reach places that take text and numbers alone."""
    (tmp_path / "a.yaml").write_text(f"a: 1\nb: {value}\n")
    with pytest.raises(InputError, match=r"a\.yaml, line 2: not valid YAML: could not determine a constructor"):
        read_yaml(tmp_path / "a.yaml")


@many
@given(st.dictionaries(
    st.sampled_from(["train", "val", "test", "path", "nc", "names", "download", "converter", "sha256", "x"]), values,
    max_size=6), st.booleans())  # fmt: skip
@example({"names": ["a"], "train": "a" * 300, "val": "b"}, True)
@example({"val": "b\0c"}, True)
@example({"names": {0: "a"}, "train": "images", "val": "images", "nc": 10**310}, True)
def test_any_data_set_is_read_or_refused(tmp_path: Path, entries: dict[str, object], complete: bool) -> None:
    (tmp_path / "images").mkdir(exist_ok=True)
    usual = {"path": str(tmp_path), "train": "images", "val": "images", "names": ["a", "b"]}
    path = tmp_path / "data.yaml"
    try:
        write_yaml(path, {**usual, **entries} if complete else entries)
    except ValueError:
        return
    facts = read_or_refused(lambda: check_dataset(str(path), autodownload=False), "data.yaml")
    if isinstance(facts, dict):
        assert list(facts["names"]) == list(range(facts["nc"])) and facts["nc"] >= 1
        assert all(Path(place).exists() for key in ("train", "val") for place in _listed(facts[key]))


def _listed(entry: str | list[str]) -> list[str]:
    return [entry] if isinstance(entry, str) else entry


@many
@given(st.dictionaries(st.sampled_from([*Hyperparameters.from_dict(LOW_HYP).keys(), "x"]), values, max_size=4))
@example({"lr0": 10**310})
@example({"cls_weights": {"bolt": 10**310}})
def test_any_settings_are_read_or_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "hyp.yaml"
    try:
        write_yaml(path, {**LOW_HYP, **changes})
    except ValueError:
        return
    hyp = read_or_refused(lambda: Hyperparameters.load(path), "hyp.yaml")
    if isinstance(hyp, Hyperparameters):
        assert all(np.isfinite(hyp[key]) for key in hyp if isinstance(hyp[key], float))
        again = Hyperparameters.from_dict({key: hyp[key] for key in LOW_HYP})
        assert all(again[key] == hyp[key] for key in LOW_HYP)


@many
@given(
    st.text(max_size=20) | st.dictionaries(plain_text() | st.sampled_from(["bolt", "nut", "0"]), scalars, max_size=3)
)
@example({"bolt": 10**310})
@example("bolt=0.1,nut=1e400")
def test_any_thresholds_per_class_are_read_or_refused(value: object) -> None:
    if isinstance(value, str) and value.lower().endswith((".yaml", ".yml")):
        return
    found = read_or_refused(lambda: class_thresholds(value, NAMES, 0.25), "--class-thres")
    if found is not None:
        assert found.shape == (2,) and ((found >= 0) & (found <= 1)).all()


# CSV ------------------------------------------------------------------------------------------------------------------

_images = [f"/data/images/{name}.jpg" for name in ("a", "b", "c d", "e,f", 'g"h', "ü")]


@many
@given(st.dictionaries(st.tuples(st.sampled_from(_images), st.integers(0, 2)), st.floats(0, 1), max_size=8))
def test_written_label_weights_come_back(tmp_path: Path, weights: dict[tuple[str, int], float]) -> None:
    import csv

    path, label = tmp_path / "w.csv", tmp_path / "label.txt"
    label.write_text("0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.2 0.2\n0 0.7 0.7 0.2 0.2\n")
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("image", "row", "weight"), *((i, r, repr(w)) for (i, r), w in weights.items())])
    lines = read_label_weights(path)
    assert [(item.image, item.row, item.weight) for item in lines] == [(i, r, w) for (i, r), w in weights.items()]
    rows = [np.zeros((3, 5), np.float32)] * len(_images)
    joined = join_label_weights(path, lines, _images, [str(label)] * len(_images), rows)
    for (image, row), weight in weights.items():
        assert joined[_images.index(image)][row] == np.float32(weight)


@many
@given(st.text(max_size=60) | st.binary(max_size=60), st.booleans())
@example(f"a.jpg,{'9' * 5000},1", True)
@example("a\0/a.jpg,0,1", True)
@example("image,row,weight,weight\na.jpg,0,1,0.5", False)
@example('"' + "a" * 200_000, True)
def test_any_label_weights_are_read_or_refused(tmp_path: Path, content: str | bytes, with_header: bool) -> None:
    path = tmp_path / "w.csv"
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(b"image,row,weight\n" + data if with_header else data)
    lines = read_or_refused(lambda: read_label_weights(path), "w.csv")
    if lines:
        assert all(isinstance(item, LabelWeight) and 0 <= item.weight <= 1 for item in lines)
        rows = [np.zeros((0, 5), np.float32)]
        read_or_refused(lambda: join_label_weights(path, lines, ["/d/a.jpg"], ["/d/a.txt"], rows), "w.csv")


def test_a_column_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("image,row,weight,weight\na.jpg,0,1,0.5\n")
    with pytest.raises(InputErrors, match=r"w\.csv: its header 'image,row,weight,weight' has weight twice"):
        read_label_weights(tmp_path / "w.csv")


# Sources --------------------------------------------------------------------------------------------------------------

_pieces = st.sampled_from(
    ["media", "/", "*", "**", "a.jpg", "a", ".", "..", "~", "0", "007", "½", "²", "٣", "-1", "1e3", "screen", " ", "1",
     "rtsp://", "http://[::1", "rtmp://host", "list.txt", "cams.streams", ".streams", ".txt", "[", "?", "\\", "C:",
     "\0", "\n", "'", "$(x)", ";", "x" * 300, "9" * 30, ".mp4", "ü", "\udcff"]
)  # fmt: skip


@pytest.fixture
def media(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import cv2

    def no_network(*_: object) -> None:
        raise OSError("no network")

    (tmp_path / "media").mkdir()
    cv2.imwrite(str(tmp_path / "media" / "a.jpg"), np.zeros((12, 12, 3), np.uint8))
    (tmp_path / "list.txt").write_text("media\nmedia/a.jpg\n")
    (tmp_path / "cams.streams").write_text("rtsp://a\n0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    return tmp_path


@many
@given(st.lists(_pieces, min_size=1, max_size=4).map("".join) | st.text(max_size=20))
@example("media/**/*.jpg")
@example("9" * 5000)
@example("screen " + "9" * 5000)
@example("a" * 5000 + ".txt")
def test_any_source_is_one_of_the_kinds_or_refused(media: Path, source: str) -> None:
    kind = source_kind(source)
    assert kind in {"files", "streams", "screen"}
    if "*" in source and not os.path.abspath(source).startswith(str(media)):
        return  # a search of the whole disk
    taken = read_or_refused(lambda: check_source(source), "")
    assert taken in {None, source}
    if taken and kind == "files":
        images, videos = list_media(source)
        assert images + videos == [str(media / "media" / "a.jpg")]
    elif taken and kind == "screen":
        number, area = screen_area(source)
        assert number >= 0 and (area is None or min(area[2:]) >= 1)
    elif taken:
        assert all(stream_names(source))


@pytest.mark.parametrize(
    ("source", "kind"),
    [("0", "streams"), ("007", "streams"), ("½", "files"), ("²", "files"), ("٣", "files"), ("-1", "files"),
     ("1e3", "files"), ("cams.streams", "streams"), ("http://host/x", "streams"), ("http://host/x.jpg", "files"),
     ("", "files")],
)  # fmt: skip
def test_numbers_and_addresses(source: str, kind: str) -> None:
    """A webcam has ASCII digits; other characters that count as digits elsewhere name files."""
    assert source_kind(source) == kind


@many
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\xff\xfe")
@example(b"a\0b.jpg\n")
@example(b"x" * 5000)
def test_any_list_of_sources_is_read_or_refused(media: Path, content: bytes) -> None:
    if b"*" in content:
        return
    for name, read in (("any.txt", list_media), ("any.streams", stream_names)):
        (media / name).write_bytes(content)
        read_or_refused(lambda read=read, name=name: read(media / name), name)


def test_parse_yaml_names_its_source() -> None:
    with pytest.raises(InputError, match=r"^--class-thres, line 1: not valid YAML"):
        parse_yaml("{a: [}", "--class-thres")
