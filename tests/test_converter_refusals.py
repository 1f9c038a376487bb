"""Converters and malformed input: one line that names file and place, and nothing made."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.converter_sets import (
    MAKERS,
    contents,
    convert,
    make_argoverse,
    make_coco,
    make_globalwheat,
    make_sku,
    make_visdrone,
    make_voc,
    make_xview,
    voc_object,
    voc_xml,
    xview_feature,
)
from utils.data.converters.job import Job
from utils.data.converters.readers import plain_path, read_json_items, read_xml
from utils.data.converters.voc import SETS
from utils.errors import InputError, MissingFileError, WorkError

ROOT = Path(__file__).resolve().parents[1]


# Malformed input: one line that names the file, nothing made


def _break_voc(text):
    def change(root):
        make_voc(root, SETS[4:])
        (root / "VOCdevkit/VOC2007/Annotations/2007_test.xml").write_text(text)

    return change


def _break(maker, path, text):
    def change(root):
        maker(root)
        (root / path).write_text(text)

    return change


def _coco(**changes):
    facts = {
        "images": [{"id": 9, "file_name": "000000000009.jpg", "width": 100, "height": 50}],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    return _break(make_coco, "annotations/instances_val2017.json", json.dumps({**facts, **changes}))


BOMB = '<!DOCTYPE a [<!ENTITY x "xxxxxxxx"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>'
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'
VISDRONE, SKU = "VisDrone2019-DET-val/annotations/val_1.txt", "annotations/annotations_val.csv"
MALFORMED = {
    "xml cut off": ("VOC", _break_voc("<annotation><object>"), "2007_test.xml, line 1: not valid XML"),
    "xml bomb": ("VOC", _break_voc(BOMB), "2007_test.xml, line 1: document types and entities"),
    "xml entity file": ("VOC", _break_voc(OUTSIDE), "document types and entities"),
    "xml deep": ("VOC", _break_voc("<a>" * 5000), "nested deeper than 100"),
    "xml encoding": ("VOC", _break_voc('<?xml version="1.0" encoding="no-such"?><a/>'), "not valid XML"),
    "xml no box": ("VOC", _break_voc(voc_xml("<object><name>dog</name></object>")), "object 1: lacks bndbox"),
    "xml bad number": ("VOC", _break_voc(voc_xml(voc_object("dog", ("a", 1, 2, 3)))), "bndbox is .*'a'"),
    "xml nan": ("VOC", _break_voc(voc_xml(voc_object("dog", ("nan", 1, 2, 3)))), "4 finite numbers"),
    "voc list climbs": (
        "VOC",
        _break(make_voc, "VOCdevkit/VOC2007/ImageSets/Main/val.txt", "../../../x\n"),
        "not a path below the data set",
    ),
    "visdrone short": ("VisDrone", _break(make_visdrone, VISDRONE, "1,2,3\n"), "val_1.txt, line 1.*3 values"),
    "visdrone text": ("VisDrone", _break(make_visdrone, VISDRONE, "1,2,3,4,1,car\n"), "line 1: the line is .*car"),
    "visdrone category": ("VisDrone", _break(make_visdrone, VISDRONE, "1,2,3,4,1,12\n"), "category 12, allowed"),
    "visdrone image": (
        "VisDrone",
        _break(make_visdrone, "VisDrone2019-DET-val/images/val_1.jpg", "text"),
        "val_1.jpg: not an image",
    ),
    "sku short": ("SKU-110K", _break(make_sku, SKU, "a.jpg,1,2\n"), "annotations_val.csv, line 1: 3 fields"),
    "sku size": ("SKU-110K", _break(make_sku, SKU, "a.jpg,1,2,3,4,object,0,9\n"), "image's size is 0.0 x 9.0"),
    "sku climbs": ("SKU-110K", _break(make_sku, SKU, "../a.jpg,1,2,3,4,object,9,9\n"), "not a path below"),
    "sku absolute": ("SKU-110K", _break(make_sku, SKU, "C:\\a.jpg,1,2,3,4,object,9,9\n"), "not a path below"),
    "coco cut off": ("coco", _break(make_coco, "annotations/instances_val2017.json", '{"images": [{"id": 1'), "JSON"),
    "coco list": ("coco", _break(make_coco, "annotations/instances_val2017.json", "[]"), r"found '\['"),
    "coco deep": (
        "coco",
        _break(make_coco, "annotations/instances_val2017.json", '{"images":[' + "[" * 200000),
        "not valid JSON",
    ),
    "coco number": ("coco", _coco(annotations=[3]), "annotation 0: is 3, expected an object"),
    "coco image": (
        "coco",
        _coco(annotations=[{"image_id": 7, "category_id": 1, "bbox": [1, 1, 1, 1]}]),
        "'image_id' is 7, which the file does not describe",
    ),
    "coco box": (
        "coco",
        _coco(annotations=[{"image_id": 9, "category_id": 1, "bbox": [1, 1, None, 1]}]),
        "annotation 0: 'bbox' is",
    ),
    "coco box text": (
        "coco",
        _coco(annotations=[{"image_id": 9, "category_id": 1, "bbox": "1111"}]),
        "'bbox' is '1111', expected 4",
    ),
    "coco twice": (
        "coco",
        _coco(images=[{"id": 9, "file_name": "000000000009.jpg", "width": 9, "height": 9}] * 2),
        "given twice",
    ),
    "coco climbs": ("coco", _coco(images=[{"id": 1, "file_name": "../../a.jpg"}]), "not a path below"),
    "argoverse climbs": (
        "Argoverse",
        _break(
            make_argoverse,
            "Argoverse-HD/annotations/val.json",
            json.dumps({"images": [{"id": 0, "sid": 0, "name": "f1.jpg"}], "seq_dirs": ["val/../../../x"]}),
        ),
        "not a path below the data set",
    ),
    "argoverse sid": (
        "Argoverse",
        _break(
            make_argoverse,
            "Argoverse-HD/annotations/val.json",
            json.dumps({"images": [{"id": 0, "sid": 4, "name": "f1.jpg"}], "seq_dirs": ["val/log"]}),
        ),
        "'sid' is 4, allowed are 0-0",
    ),
    "wheat box": (
        "GlobalWheat2020",
        _break(make_globalwheat, "train.csv", 'image_id,width,height,bbox,source\na,9,9,"[1,2",s\n'),
        "train.csv, line 2: 'bbox' is",
    ),
    "wheat site": (
        "GlobalWheat2020",
        _break(make_globalwheat, "train.csv", 'image_id,width,height,bbox,source\na,9,9,"[1,2,3,4]",../s\n'),
        "not a path below",
    ),
    "xview box": (
        "xView",
        _break(make_xview, "xView_train.geojson", json.dumps({"features": [xview_feature("0.tif", 18, "1,2,3")]})),
        "feature 0: 'bounds_imcoords' is 3 values",
    ),
    "xview properties": ("xView", _break(make_xview, "xView_train.geojson", '{"features": [{}]}'), "no properties"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_input_is_named_and_makes_nothing(tmp_path, case):
    name, change, message = MALFORMED[case]
    root = tmp_path / "set"
    change(root)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        convert(name, root)
    assert "\n" not in str(caught.value) and contents(tmp_path) == before


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_to_convert_says_what_to_fetch(tmp_path, name):
    with pytest.raises(MissingFileError, match=rf"{name}: nothing to convert below .*; put ") as caught:
        convert(name, tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_two_images_with_one_label_file_are_refused(tmp_path):
    job = Job("x", tmp_path, {0: "a"})
    job.write_labels("labels", "a", [])
    with pytest.raises(InputError, match=r"two images would get the labels a.txt"):
        job.write_labels("labels", "a", [])
    job.close()
    assert not list(tmp_path.iterdir())


def test_links_that_lead_out_are_not_followed_for_writing(tmp_path):
    root, outside = tmp_path / "set", tmp_path / "outside"
    make_visdrone(root, ["val"])
    outside.mkdir()
    (root / "VisDrone2019-DET-val").rename(outside / "val")
    (root / "VisDrone2019-DET-val").symlink_to(outside / "val")
    before = contents(outside)
    with pytest.raises(InputError, match="a link leads out of"):
        convert("VisDrone", root)
    assert contents(outside) == before


def test_full_disk_is_one_line(tmp_path, monkeypatch):
    make_visdrone(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device", "labels/x.txt")

    monkeypatch.setattr(Job, "write_labels", full)
    with pytest.raises(WorkError, match=r"VisDrone: labels/x.txt: No space left on device"):
        convert("VisDrone", tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("text", ["a/b.jpg", "a\\b.jpg", "./b.jpg"])
def test_plain_paths_stay_below(text):
    assert plain_path(text, "x").name == "b.jpg" and not plain_path(text, "x").is_absolute()


@pytest.mark.parametrize("text", ["../a", "/a", "C:/a", "\\a", "a/..\\..", "", ".", "a\0b", None, 3, ["a"]])
def test_other_paths_are_refused(text):
    with pytest.raises(InputError, match="not a path below"):
        plain_path(text, "x")


UTF8 = st.characters(codec="utf-8")


@given(
    st.dictionaries(
        st.text(UTF8, max_size=4),
        st.one_of(st.lists(st.recursive(st.one_of(st.integers(), st.floats(allow_nan=False), st.text(UTF8), st.none()),
                                        lambda inner: st.dictionaries(st.text(UTF8, max_size=3), inner), max_leaves=4)),
                  st.integers(), st.text(UTF8)),
        max_size=5,
    ),
    st.sampled_from([None, 1]),
    st.integers(1, 9),
)  # fmt: skip
def test_json_is_read_element_by_element(tmp_path_factory, data, indent, chunk):
    """However the window falls, the elements of all lists come out as json.loads gives them."""
    from utils.data.converters import readers

    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(data, indent=indent, ensure_ascii=False), encoding="utf-8")
    before, readers._CHUNK = readers._CHUNK, chunk
    try:
        found = list(read_json_items(path, data.keys()))
    finally:
        readers._CHUNK = before
    assert found == [(key, item) for key, value in data.items() if isinstance(value, list) for item in value]


def test_xml_is_read(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<?xml version='1.0' encoding='utf-8'?><a><b x='1'>t\u00e4xt</b></a>", encoding="utf-8")
    assert read_xml(path).findtext("b") == "t\u00e4xt"
    with pytest.raises(MissingFileError, match="b.xml: no such file"):
        read_xml(tmp_path / "b.xml")
