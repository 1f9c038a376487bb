"""Data set descriptions: where paths lead, and which mistakes are named before anything is built."""

import os
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from utils import dataset_yaml, paths
from utils.dataset_yaml import check_dataset, find_images
from utils.errors import InputError, MissingFileError
from utils.images import imwrite
from utils.labels import img2label_paths
from utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """A valid set with data.yaml beside its images; the datasets folder is in tmp_path, too."""
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "datasets"))
    for split in ("train", "val"):
        folder = tmp_path / "set/images" / split
        folder.mkdir(parents=True)
        for i in range(3):
            imwrite(folder / f"{i}.png", np.zeros((16, 16, 3), np.uint8))
    return tmp_path / "set"


def _write(folder, **changes):
    facts = {"train": "images/train", "val": "images/val", "names": ["cat", "dog"], **changes}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in facts.items() if v is not None}))
    return path


def test_valid_set_gives_absolute_paths(data_set):
    data = check_dataset(_write(data_set))
    assert data["train"] == str(data_set / "images/train") and data["val"] == str(data_set / "images/val")
    assert data["names"] == {0: "cat", 1: "dog"} and data["nc"] == 2 and data["path"] == data_set


@pytest.mark.parametrize("names", [["a", "b"], {1: "b", 0: "a"}, ("a", "b")])
def test_names_become_an_ordered_mapping(data_set, names):
    path = _write(data_set)
    facts = {**read_yaml(path), "names": names, "path": str(data_set)}
    data = check_dataset(facts)
    assert list(data["names"].items()) == [(0, "a"), (1, "b")] and data["nc"] == 2
    assert facts["names"] == names and "nc" not in facts  # the caller's mapping stays as it was


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"names": None}, ["'names' is missing", "data.yaml"]),
        ({"train": None, "val": None}, ["'train' is missing", "'val' is missing"]),
        ({"nc": 5}, ["'nc' is 5", "2 class names"]),
        ({"names": {0: "cat", 5: "dog"}}, ["1-4"]),
        ({"names": {0: "cat", 2: "dog", 5: "x"}}, ["1, 3-4"]),
        ({"names": {"a": "cat"}}, ["'a'", "whole numbers"]),
        ({"names": []}, ["'names' is empty"]),
        ({"names": "cat"}, ["'cat'", "list of class names"]),
        ({"names": ["cat", None]}, ["class 1", "None"]),
        ({"train": 3}, ["'train' is 3"]),
        ({"val": []}, ["'val' is []"]),
    ],
    ids=str,
)
def test_mistakes_are_named(data_set, changes, shown):
    with pytest.raises(InputError) as caught:
        check_dataset(_write(data_set, **changes))
    assert all(text in str(caught.value) for text in shown), str(caught.value)


def test_all_mistakes_come_together(data_set):
    with pytest.raises(InputError) as caught:
        check_dataset(_write(data_set, train=None, nc=3))
    assert len(str(caught.value).splitlines()) == 2


def test_repeated_key_is_refused(data_set):
    path = _write(data_set)
    path.write_text(path.read_text() + "nc: 2\nnc: 3\n")
    with pytest.raises(InputError, match=r"line \d+: key 'nc' is given twice"):
        check_dataset(path)


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_folder_shows_every_place_looked_at(data_set, tmp_path, split):
    with pytest.raises(MissingFileError) as caught:
        check_dataset(_write(data_set, **{split: "images/nowhere"}))
    text = str(caught.value)
    assert str(data_set / "images/nowhere") in text and str(ROOT / "images/nowhere") in text
    assert str(tmp_path / "datasets/images/nowhere") in text and f"'{split}'" in text and "\n" not in text


def test_only_wanted_splits_must_exist(data_set):
    path = _write(data_set, train="images/nowhere", test="images/absent")
    data = check_dataset(path, splits=("val",))
    assert data["val"] == str(data_set / "images/val") and data["test"].endswith("images/absent")


@pytest.mark.parametrize("script", ["open('made', 'w').write('x')", "bash -c 'touch made'", "touch made"])
def test_download_scripts_never_run(data_set, tmp_path, monkeypatch, script):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="automatic download scripts are off"):
        check_dataset(_write(data_set, val="images/nowhere", download=script))
    assert not list(tmp_path.rglob("made"))


def test_zip_address_is_fetched_only_when_needed(data_set, tmp_path, monkeypatch):
    fetched = []

    def fake_fetch(address, path, **_):
        fetched.append(address)
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr("far/images/val/1.png", b"x")
            opened.writestr("far/images/train/1.png", b"x")
        return path

    monkeypatch.setattr("utils.downloads.fetch", fake_fetch)
    check_dataset(_write(data_set, download="https://host/far.zip"))
    assert not fetched
    path = _write(data_set, path="../datasets/far", download="https://host/far.zip")
    with pytest.raises(MissingFileError, match="automatic download is off"):
        check_dataset(path, autodownload=False)
    assert not fetched
    data = check_dataset(path)
    assert fetched == ["https://host/far.zip"] and data["val"] == str(tmp_path / "datasets/far/images/val")
    assert not (tmp_path / "datasets/far.zip").exists()


def test_generator_makes_a_missing_set(data_set, tmp_path, monkeypatch):
    made = []

    def ensure_dataset(root):
        made.append(root)
        for split in ("train", "val"):
            (root / "images" / split).mkdir(parents=True)

    module = types.ModuleType("made_up_generator")
    module.ensure_dataset = ensure_dataset
    monkeypatch.setitem(sys.modules, "made_up_generator", module)
    monkeypatch.setitem(dataset_yaml.GENERATORS, "parts", "made_up_generator")
    path = _write(data_set, path="../datasets/drawn", generator="parts")
    data = check_dataset(path)
    check_dataset(path)
    assert made == [tmp_path / "datasets/drawn"] and data["train"] == str(tmp_path / "datasets/drawn/images/train")
    with pytest.raises(InputError, match="'generator' is 'os', allowed: parts"):
        check_dataset(_write(data_set, path="../datasets/other", generator="os"))


def test_paths_from_project_yaml_folder_and_datasets(data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_yaml, "ROOT", tmp_path / "project")
    (tmp_path / "project").mkdir()
    assert check_dataset(_write(data_set, path="../set"))["path"] == data_set  # from the project (or the YAML's folder)
    assert check_dataset(_write(data_set, path="."))["path"] == data_set
    (tmp_path / "datasets").mkdir()
    data_set.rename(tmp_path / "datasets/set")
    (tmp_path / "yamls").mkdir()
    assert check_dataset(_write(tmp_path / "yamls", path="set"))["path"] == tmp_path / "datasets/set"
    assert check_dataset(_write(tmp_path / "yamls", path=str(tmp_path / "datasets/set")))["nc"] == 2
    data = check_dataset(_write(tmp_path / "yamls", path="set", train="../images/train", val=["images/val"]))
    assert data["train"].endswith("set/images/train") and data["val"] == [str(tmp_path / "datasets/set/images/val")]


def test_shared_sets_are_found(shared):
    for name, nc in (("bccd", 3), ("aquarium", 7), ("coco128", 80)):
        data = check_dataset(shared / f"datasets/{name}/{name}.yaml")
        assert data["nc"] == nc and len(find_images(data["train"])) in {205, 448, 128}


def test_own_yamls_are_well_formed():
    for path in (ROOT / "data").glob("*.yaml"):
        facts = read_yaml(path)
        if path.stem == "diagnosis_rules":  # no data set
            continue
        names, complaint = dataset_yaml._checked_names(facts["names"])
        assert names and not complaint and {"train", "val"} <= set(facts), path
    assert len(read_yaml(ROOT / "data/coco.yaml")["names"]) == 80
    assert read_yaml(ROOT / "data/coco.yaml")["names"] == read_yaml(ROOT / "data/coco128.yaml")["names"]


def test_archive_as_data(data_set, tmp_path, monkeypatch):
    _write(data_set, path="anything")
    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in data_set.rglob("*"):
            opened.write(path, path.relative_to(tmp_path))
    data = check_dataset(archive)
    inside = tmp_path / "datasets/packed/set"
    assert data["train"] == str(inside / "images/train")
    monkeypatch.setattr(dataset_yaml, "unpack", lambda *_: pytest.fail("unpacked again"))
    assert check_dataset(archive)["path"] == inside


def test_find_images_in_folders_and_lists(data_set, tmp_path, monkeypatch):
    folder = data_set / "images"
    (folder / "train/deep").mkdir()
    imwrite(folder / "train/deep/Z.PNG", np.zeros((16, 16, 3), np.uint8))
    (folder / "train/note.txt").write_text("x")
    (folder / "train/.hidden.png").write_bytes(b"x")
    images = find_images(folder)
    assert len(images) == 7 and images == sorted(images) and images[3].endswith("deep/Z.PNG")
    listed = data_set / "train.txt"
    listed.write_text("./images/val/1.png\r\n\n./images/val/0.png\n")
    assert find_images(listed) == [str(folder / "val/0.png"), str(folder / "val/1.png")]
    listed.write_text("images/val/1.png\n" + str(folder / "val/2.png"))
    assert find_images([listed, folder / "train/deep"])[-2:] == [str(folder / "val/1.png"), str(folder / "val/2.png")]
    monkeypatch.chdir(data_set)
    assert "images/val/1.png" in find_images(listed)
    with pytest.raises(MissingFileError, match="nowhere"):
        find_images(folder / "nowhere")
    (folder / "none").mkdir()
    with pytest.raises(InputError, match=r"none: no image found.*jpg"):
        find_images(folder / "none")


def test_linked_folders_are_followed_once(data_set):
    (data_set / "images/train/again").symlink_to(data_set / "images")
    assert len({Path(name).resolve() for name in find_images(data_set / "images/train")}) == 6


def test_lists_with_slashes_work_where_the_separator_is_another(tmp_path, monkeypatch):
    """Label files are found by the folder between the system's separators, on Windows by \\images\\."""
    listed = tmp_path / "list.txt"
    listed.write_text("D:/set/images/train/a.jpg\n")
    monkeypatch.setattr(os, "sep", "\\")
    monkeypatch.setattr(os.path, "isabs", lambda path: path[1:2] == ":")
    images = find_images(listed)
    assert images == ["D:\\set\\images\\train\\a.jpg"]
    assert img2label_paths(images) == ["D:\\set\\labels\\train\\a.txt"]


def test_a_name_that_yaml_reads_as_a_switch_is_said(data_set, caplog):
    file = _write(data_set)
    file.write_text(file.read_text().replace("cat", "no"))
    with caplog.at_level("WARNING", logger="yolov5"):
        assert check_dataset(file)["names"][0] == "False"
    assert "class 0 the name False" in caplog.text and "quotes" in caplog.text


def test_wrong_kind_of_file_is_refused(tmp_path):
    (tmp_path / "data.csv").write_text("x")
    with pytest.raises(InputError, match="allowed: .yaml"):
        check_dataset(tmp_path / "data.csv")
    with pytest.raises(MissingFileError, match="nothing.yaml"):
        check_dataset("nothing.yaml")
    assert paths.check_yaml("coco128.yaml") == str(ROOT / "data/coco128.yaml")


# Scripts below `download:`, and the converters that serve stock files instead

PYTHON = "import pathlib\npathlib.Path({canary!r}).write_text('x')\nyaml['path']\n"
SCRIPTS = {
    "python block": PYTHON,
    "python line": "open({canary!r}, 'w').write('x')",
    "import": "__import__('os').system('touch {canary}')",
    "bash": "bash -c 'touch {canary}'",
    "bash block": "bash data/scripts/get.sh\ntouch {canary}\n",
    "shell": "touch {canary}",
    "address and script": "https://host/a.zip\nopen({canary!r}, 'w')",
    "address and command": "https://host/a.zip; touch {canary}.zip",
    "file address": "file:///etc/a.zip",
    "python with an address": "from utils.downloads import *\ndownload('https://host/a.zip')\nopen({canary!r}, 'w')",
}


@pytest.fixture
def no_network(monkeypatch):
    """Record what is asked of the network and answer as a machine without one."""
    from utils.downloads import DownloadError

    asked = []

    def fetch(url, path, **_):
        asked.append(url)
        raise DownloadError(f"{url}: cannot be fetched: no network")

    monkeypatch.setattr("utils.downloads.fetch", fetch)
    return asked


@pytest.mark.parametrize("case", SCRIPTS)
@pytest.mark.parametrize("autodownload", [True, False])
def test_embedded_scripts_never_run(data_set, tmp_path, monkeypatch, no_network, case, autodownload):
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "canary"
    script = SCRIPTS[case].replace("{canary!r}", repr(str(canary))).replace("{canary}", str(canary))
    path = _write(data_set, val="images/nowhere")
    path.write_text(path.read_text() + "download: |\n" + "".join(f"  {line}\n" for line in script.splitlines()))
    assert read_yaml(path)["download"].strip() == script.strip()
    with pytest.raises(InputError, match=r"scripts are off.*'converter:'.*VOC.*docs/datasets.md") as caught:
        check_dataset(path, autodownload)
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("canary*")) and not no_network


def _stock_text(name, canary, names="mapping"):
    """Return a YAML as YOLOv5 ships it: the set's keys and a script below download."""
    own = read_yaml(ROOT / f"data/{name}.yaml")
    own.pop("converter")
    if names == "list":
        own["names"] = list(own["names"].values())
    script = PYTHON.replace("{canary!r}", repr(str(canary)))
    indented = "".join(f"  {line}\n" for line in script.splitlines())
    return yaml.safe_dump(own, sort_keys=False) + f"\n# Download script/URL\ndownload: |\n{indented}"


@pytest.mark.parametrize("name", sorted(dataset_yaml.STOCK))
@pytest.mark.parametrize("file", ["stock", "other"])
def test_stock_yaml_with_a_script_is_served_by_its_converter(tmp_path, monkeypatch, no_network, caplog, name, file):
    from tests.converter_sets import EXPECTED, MAKERS
    from utils.data.converters import obtain

    monkeypatch.setattr(obtain.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10**13))
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "datasets"))
    path, canary = tmp_path / f"{name if file == 'stock' else 'renamed'}.yaml", tmp_path / "canary"
    path.write_text(_stock_text(name, canary, "list" if file == "other" else "mapping"))
    root = tmp_path / "datasets" / dataset_yaml.STOCK[name].folder
    with pytest.raises(InputError, match=r"by hand|registration") as caught:
        check_dataset(path)
    assert "\n" not in str(caught.value) and len(no_network) == (name != "xView")
    MAKERS[name](root)
    with caplog.at_level("INFO", logger="yolov5"):
        data = check_dataset(path, autodownload=False)
    assert data["path"] == root and f"this is the set {name}, which has a converter here" in caplog.text
    for label, text in EXPECTED[name]:
        assert (root / label).read_text() == text
    assert find_images(data["val"]) and not canary.exists()


def test_copy_of_a_stock_yaml_with_other_classes_is_refused(tmp_path, monkeypatch, no_network):
    """Own classes or an own folder under a stock file's name: the script is refused, nothing else is guessed."""
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path / "datasets"))
    for changes in ({"names": ["cat", "dog"]}, {"path": "../datasets/mine"}):
        facts = {**yaml.safe_load(_stock_text("VOC", tmp_path / "canary")), **changes}
        path = tmp_path / "VOC.yaml"
        path.write_text(yaml.safe_dump(facts))
        with pytest.raises(InputError, match="scripts are off"):
            check_dataset(path)
    assert not no_network and not (tmp_path / "canary").exists() and not (tmp_path / "datasets").exists()


def test_present_stock_set_is_left_untouched(data_set, no_network):
    facts = {**yaml.safe_load(_stock_text("coco", "canary")), "path": str(data_set), "train": "images/train",
             "val": "images/val"}  # fmt: skip
    before = sorted(data_set.rglob("*"))
    assert check_dataset(facts)["nc"] == 80 and sorted(data_set.rglob("*")) == before and not no_network


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"converter": "os"}, "'converter' is 'os', allowed: VOC"),
        ({"converter": ["VOC"]}, r"'converter' is \['VOC'\], allowed: VOC"),
        ({"converter": "VOC"}, "'converter' needs the key 'path'"),
        ({"converter": "VOC", "path": "a", "generator": "parts"}, "'converter' and 'generator' are both given"),
        ({"sha256": "abc", "download": "https://h/a.zip"}, "'sha256' has 'abc', expected 64 hexadecimal digits"),
        ({"sha256": 5, "download": "https://h/a.zip"}, "'sha256' has 5"),
        ({"sha256": {"a.zip": "0" * 64}, "download": "https://h/a.zip"}, "'sha256' is one checksum beside"),
        ({"sha256": "0" * 64, "converter": "VOC", "path": "a"}, "'sha256' is one checksum beside"),
        ({"sha256": {"a.zip": "x"}, "converter": "VOC", "path": "a"}, "'sha256' has 'x'"),
    ],
    ids=str,
)
def test_wrong_sources_are_named(data_set, no_network, changes, shown):
    with pytest.raises(InputError, match=shown) as caught:
        check_dataset(_write(data_set, **changes))
    assert "data.yaml: " in str(caught.value) and not no_network


def test_checksum_of_a_zip_is_passed_on(data_set, tmp_path, monkeypatch):
    asked = []

    def fetch(url, path, *, sha256="", **_):
        asked.append((url, sha256))
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as opened:
            for split in ("train", "val"):
                opened.writestr(f"far/images/{split}/1.png", b"x")
        return path

    monkeypatch.setattr("utils.downloads.fetch", fetch)
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/.far.zip.old.partial").mkdir()  # left by a killed run
    check_dataset(_write(data_set, path="../datasets/far", download="https://h/far.zip", sha256="0" * 64))
    assert asked == [("https://h/far.zip", "0" * 64)] and not list((tmp_path / "datasets").glob(".*"))


def test_archive_as_data_is_never_downloaded_for(data_set, tmp_path, no_network):
    """A data YAML inside an archive fetches nothing and runs nothing."""
    canary = tmp_path / "canary"
    for name, text in (
        ("a", _stock_text("VOC", canary)),
        ("b", "train: x\nval: y\nnames: [a]\ndownload: https://host/b.zip\n"),
        ("c", "path: VOC\ntrain: x\nval: y\nnames: [a]\nconverter: VOC\n"),
    ):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as opened:
            opened.writestr(f"{name}/VOC.yaml", text)
        with pytest.raises(InputError, match="not found"):
            check_dataset(tmp_path / f"{name}.zip")
    assert not no_network and not canary.exists()
