"""Converters of data sets: worked numbers, what is skipped and said, conversions that are killed or repeated."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.converter_sets import (
    BOX,
    EXPECTED,
    MAKERS,
    contents,
    convert,
    image,
    make_coco,
    make_visdrone,
    make_voc,
    make_xview,
    own_facts,
    state,
    text_file,
    voc_object,
    voc_xml,
    xview_feature,
)
from utils.data.converters.job import MARK, Job
from utils.data.converters.obtain import prepare
from utils.data.converters.stock import own_yaml
from utils.data.converters.voc import SETS
from utils.data.label_files import read_label_file
from utils.dataset_yaml import check_dataset, find_images, read_names
from utils.errors import InputError
from utils.labels import img2label_paths

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", MAKERS)
def test_boxes_become_rows_and_the_set_loads(tmp_path, name):
    """Box in, row out; afterwards the set's own YAML finds images and a label file for each of them."""
    MAKERS[name](tmp_path)
    report = convert(name, tmp_path)
    assert report.boxes > 0
    for path, text in EXPECTED[name]:
        assert (tmp_path / path).read_text() == text
    facts = check_dataset({**own_facts(name), "path": str(tmp_path)}, autodownload=False)
    for split in ("train", "val"):
        images = find_images(facts[split])
        assert images and all(Path(image).is_file() for image in images)
        labels = [read_label_file(path, facts["nc"]) for path in img2label_paths(images)]
        assert all(label.usable and not label.problems and len(label.labels) for label in labels)
    assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / MARK).exists()


@pytest.mark.parametrize("name", MAKERS)
def test_again_changes_nothing(tmp_path, name):
    MAKERS[name](tmp_path)
    convert(name, tmp_path)
    before = state(tmp_path)
    report = convert(name, tmp_path)
    assert state(tmp_path) == before and report.images == 0 and not report.made and report.kept
    assert "nothing to convert" in report.lines()[0]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("step", [0, 1, 2, 5])
def test_killed_conversion_is_seen_and_completed(tmp_path, name, step):
    """A process that dies at any renaming leaves a set that says so; the next run completes it."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for root in (whole, broken):
        MAKERS[name](root)
    convert(name, whole)
    script = (
        "import os, sys\n"
        "from utils.data.converters import job\n"
        "real, left = os.replace, [int(sys.argv[3])]\n"
        "def replace(a, b):\n"
        "    if not left[0]: os._exit(9)\n"
        "    left[0] -= 1\n"
        "    real(a, b)\n"
        "os.replace = replace\n"
        "from utils.data.converters.__main__ import main, parse_opt\n"
        "main(parse_opt([sys.argv[1], '--root', sys.argv[2]]))\n"
    )
    command = [sys.executable, "-c", script, name, str(broken), str(step)]
    end = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert end.returncode in {0, 9}, end.stderr.decode()
    assert end.returncode == 0 or list(broken.glob(".*.partial"))
    if end.returncode and step:
        assert (broken / MARK).is_file()
        with pytest.raises(InputError, match=f"not finished.*{name} --root"):
            check_dataset({"path": str(broken), "train": ".", "val": ".", "names": ["a"]})
    facts = check_dataset({**own_facts(name), "path": str(broken)}, autodownload=False)
    assert find_images(facts["val"]) and contents(broken) == contents(whole)
    assert not list(broken.glob(".*"))


def test_processes_at_once_convert_once(tmp_path):
    make_visdrone(tmp_path)
    reports, names = [], read_names(own_yaml("VisDrone"))
    threads = [threading.Thread(target=lambda: reports.append(prepare("VisDrone", tmp_path, names))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(report.images for report in reports) == [0, 0, 0, 3]


@pytest.mark.parametrize("name", MAKERS)
def test_empty_folders_count_as_missing(tmp_path, name):
    """Other tools make the label folders first: an empty one is no conversion."""
    MAKERS[name](tmp_path)
    nested = {"Argoverse": "Argoverse-1.1/labels/val", "Objects365": "labels/train"}
    (tmp_path / nested.get(name, Path(EXPECTED[name][0][0]).parent)).mkdir(parents=True)
    assert convert(name, tmp_path).boxes > 0
    assert all((tmp_path / path).read_text() == text for path, text in EXPECTED[name])


# What is skipped and said


def test_voc_skips_difficult_and_unknown_objects(tmp_path):
    make_voc(tmp_path, SETS[2:])
    xml = tmp_path / "VOCdevkit/VOC2007/Annotations/2007_val.xml"
    objects = [
        voc_object("dog", (11, 6, 31, 26), difficult=1),
        voc_object("unicorn", (11, 6, 31, 26)),
        voc_object("unicorn", (12, 6, 31, 26)),
        voc_object("cat", (11, 6, 11, 26)),
        voc_object("person", (1, 1, 101.5, 51)),
        "<object><name>person</name><bndbox><xmin>51</xmin><ymin>26</ymin><xmax>101</xmax><ymax>51</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>",
    ]
    xml.write_text(voc_xml(*objects, size=""))  # the size is then the image's own
    report = convert("VOC", tmp_path)
    rows = (tmp_path / "labels/val2007/2007_val.txt").read_text().splitlines()
    assert rows == ["14 0.500000 0.500000 1.000000 1.000000", "14 0.750000 0.750000 0.500000 0.500000"]
    counts = {reason: noted.count for reason, noted in report.skipped.items()}
    assert counts == {
        "objects marked difficult": 1,
        "boxes of the class 'unicorn', which the names lack": 2,
        "boxes without area in the image": 1,
    }
    assert report.skipped["boxes of the class 'unicorn', which the names lack"].first == f"{xml}, object 2"
    assert report.notes["boxes cut at the image's edge"].count == 1
    text = "\n".join(report.lines())
    assert "2 boxes of the class 'unicorn'" in text and "2007_val.xml, object 1" in text


def test_voc_images_stay_and_take_no_second_place(tmp_path):
    make_voc(tmp_path)
    convert("VOC", tmp_path)
    old, new = tmp_path / "VOCdevkit/VOC2012/JPEGImages/2012_val.jpg", tmp_path / "images/val2012/2012_val.jpg"
    assert old.stat().st_ino == new.stat().st_ino


def test_visdrone_skips_ignored_regions_and_others(tmp_path):
    make_visdrone(tmp_path, ["val"])
    path = tmp_path / "VisDrone2019-DET-val/annotations/val_1.txt"
    path.write_text("10,5,20,20,1,1,0,0\n1,1,5,5,0,0,0,0\n1,1,5,5,1,11,0,0\n1,1,5,5,0,4,0,0\n1,1,0,5,1,10,0,0\n")
    report = convert("VisDrone", tmp_path)
    assert (tmp_path / "VisDrone2019-DET-val/labels/val_1.txt").read_text() == f"0 {BOX}\n"
    assert {reason: noted.count for reason, noted in report.skipped.items()} == {
        "boxes of category 0 (ignored regions)": 1,
        "boxes of category 11 (others)": 1,
        "boxes of score 0, which VisDrone does not count": 1,
        "boxes without area in the image": 1,
    }


def test_xview_skips_what_it_rejects(tmp_path):
    make_xview(tmp_path, 3)
    boxes = [("0.tif", 11, "10,5,30,25"), ("0.tif", 94, "10,5,30,25"), ("0.tif", 75, "1,1,5,5"), ("1.tif", 18, "")]
    boxes += [("0.tif", 82, "1,1,5,5"), ("1395.tif", 18, "1,1,5,5"), ("1.tif", 18, "-10,5,30,25")]
    features = [xview_feature(*box) for box in boxes]
    (tmp_path / "xView_train.geojson").write_text(json.dumps({"features": features}))
    report = convert("xView", tmp_path)
    assert (tmp_path / "labels/train/0.txt").read_text() == f"0 {BOX}\n59 {BOX}\n"
    assert (tmp_path / "labels/train/1.txt").read_text() == "5 0.150000 0.300000 0.300000 0.400000\n"
    assert (tmp_path / "labels/train/2.txt").read_text() == ""
    reasons = {reason: noted.count for reason, noted in report.skipped.items()}
    assert reasons == {
        "boxes of type 75, which xView does not define": 1,
        "boxes of type 82, which xView does not define": 1,
        "boxes of images that are not there": 1,
        "features without a box in pixels": 1,
    }
    assert report.notes["boxes cut at the image's edge"].count == 1


def test_xview_split_is_the_same_each_time(tmp_path):
    make_xview(tmp_path, 40)
    convert("xView", tmp_path)
    lists = [(tmp_path / f"images/autosplit_{s}.txt").read_text().splitlines() for s in ("train", "val")]
    assert len(lists[0]) + len(lists[1]) == 40 and 1 <= len(lists[1]) <= 10
    # random.seed(0); random.choices([0, 1, 2], [0.9, 0.1, 0.0], k=40) over the sorted names, as YOLOv5's autosplit
    import random

    names = sorted(f"./train/{i}.tif" for i in range(40))
    random.seed(0)
    drawn = random.choices([0, 1, 2], [0.9, 0.1, 0.0], k=40)
    assert lists[1] == [name for name, split in zip(names, drawn, strict=True) if split == 1]
    assert (tmp_path / "images/val/900.tif").is_file() and not (tmp_path / "train_images").exists()


def test_coco_groups_rows_and_skips_crowds(tmp_path):
    make_coco(tmp_path, ["val"])
    path = tmp_path / "annotations/instances_val2017.json"
    facts = json.loads(path.read_text())
    facts["images"] += [{"id": "b", "file_name": "b.jpg", "width": 10, "height": 10}]
    facts["categories"] += [{"id": 91, "name": "hair brush"}]
    facts["annotations"] = [
        {"image_id": "b", "category_id": 1, "bbox": [0, 0, 5, 5]},
        {"image_id": 9, "category_id": 90, "bbox": [10, 5, 20, 20]},
        {"image_id": "b", "category_id": 90, "bbox": [5.0, 5.0, 5.0, 5.0]},
        {"image_id": 9, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 1},
        {"image_id": 9, "category_id": 91, "bbox": [0, 0, 5, 5]},
    ]
    path.write_text(json.dumps(facts, indent=1))
    report = convert("coco", tmp_path)
    labels = tmp_path / "labels/val2017"
    assert (labels / "b.txt").read_text() == "0 0.250000 0.250000 0.500000 0.500000\n" + (
        "79 0.750000 0.750000 0.500000 0.500000\n"
    )
    assert (labels / "000000000009.txt").read_text() == f"79 {BOX}\n"
    assert [noted.count for noted in report.skipped.values()] == [1, 1, 1] and "hair brush" in str(report.skipped)
    assert (tmp_path / "val2017.txt").read_text() == "./images/val2017/000000000009.jpg\n"  # b.jpg is not there


def test_own_names_choose_classes_by_name(tmp_path):
    """A data YAML with fewer or other classes decides the numbers; case does not count, the rest is skipped."""
    make_voc(tmp_path, SETS[4:])
    report = prepare("VOC", tmp_path, {0: "zebra", 1: "Dog"})
    assert (tmp_path / "labels/test2007/2007_test.txt").read_text() == f"1 {BOX}\n" and not report.skipped


def test_names_that_fit_no_box_are_refused(tmp_path):
    make_voc(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"the names fit no box: 5 boxes of the class 'dog'"):
        prepare("VOC", tmp_path, {0: "zebra"})
    assert contents(tmp_path) == before


def test_globalwheat_moves_the_official_folders(tmp_path):
    for domain in ("ethz_1", "usask_1"):
        image(tmp_path / f"global-wheat-codalab-official/{domain}/a.png")
        text_file(tmp_path / f"labels/{domain}/a.txt", f"0 {BOX}\n")
    image(tmp_path / "global-wheat-codalab-official/nau_1/a.png")
    report = convert("GlobalWheat2020", tmp_path)
    assert report.made == ["images/ethz_1", "images/usask_1"] and (tmp_path / "images/ethz_1/a.png").is_file()
    assert next(iter(report.skipped)) == "site folders without labels, left where they are"
    assert not (tmp_path / "images/nau_1").exists()


def test_globalwheat_reads_a_line_per_image(tmp_path):
    image(tmp_path / "images_all/a.png", (100, 50))
    image(tmp_path / "images_all/b.png", (100, 50))
    text_file(tmp_path / "all.csv", "image_name,BoxesString,domain\na.png,10 5 30 25;0 0 50 25,S_1\nb.png,no_box,S_1\n")
    convert("GlobalWheat2020", tmp_path)
    assert (tmp_path / "labels/S_1/a.txt").read_text() == f"0 {BOX}\n0 0.250000 0.250000 0.500000 0.500000\n"
    assert (tmp_path / "labels/S_1/b.txt").read_text() == "" and (tmp_path / "images/S_1/b.png").is_file()


@given(
    st.integers(1, 5000), st.integers(1, 5000),
    st.lists(st.floats(-6000, 6000, allow_nan=False), min_size=4, max_size=4),
)  # fmt: skip
def test_rows_are_the_box_within_the_image(width, height, box):
    """Any box gives a row inside the unit square that is the box cut at the image, or is counted as without area."""
    job = Job("x", Path(), {0: "a"})
    row = job.row("a", box, (width, height), "here")
    left, right = np.clip([box[0], box[2]], 0, width)
    top, bottom = np.clip([box[1], box[3]], 0, height)
    if row is None:
        assert (right - left) / width < 1e-6 or (bottom - top) / height < 1e-6
        assert job.report.skipped["boxes without area in the image"].count == 1
    else:
        _, cx, cy, w, h = row
        found = np.array([(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height])
        assert np.allclose(found, [left, top, right, bottom], atol=1e-6)
        assert min(row[1:]) >= 0 and max(row[1:]) <= 1


def test_many_kinds_of_skips_are_bounded(tmp_path):
    job = Job("x", tmp_path, {0: "a"})
    for i in range(500):
        job.row(f"class {i}", (0, 0, 1, 1), (10, 10), "here")
    assert len(job.report.skipped) == 101 and sum(n.count for n in job.report.skipped.values()) == 500
