"""Where a built-in data set comes from: archives by hand and from the network, the registry, the command."""

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.converter_sets import (
    BOX,
    convert,
    image,
    make_objects365,
    make_sku,
    make_visdrone,
    own_facts,
    state,
    text_file,
)
from utils.data.converters import obtain, stock
from utils.data.converters.job import MARK
from utils.data.converters.obtain import prepare
from utils.data.converters.stock import STOCK, names_digest, own_yaml, recognise
from utils.data.converters.xview import TYPES
from utils.dataset_yaml import check_dataset, find_images, read_names
from utils.downloads import DownloadError
from utils.errors import InputError, MissingFileError

ROOT = Path(__file__).resolve().parents[1]


# Archives, by hand and from the network


def _pack(source, archive):
    """Pack the content of a folder as zip or tar.gz, and remove the folder."""
    import shutil

    files = sorted(path for path in source.rglob("*") if path.is_file())
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as opened:
            for path in files:
                opened.write(path, path.relative_to(source))
    else:
        with tarfile.open(archive, "w:gz") as opened:
            for path in files:
                opened.add(path, path.relative_to(source))
    shutil.rmtree(source)


def _visdrone_archives(folder, at):
    for part in ("train", "val", "test-dev"):
        make_visdrone(at / "packing", [part])
        _pack(at / "packing", folder / f"VisDrone2019-DET-{part}.zip")


def test_archives_by_hand(tmp_path):
    """Archives put into the folder are unpacked, also with another suffix, and stay there."""
    root = tmp_path / "SKU-110K"
    make_sku(tmp_path / "packing", "SKU110K_fixed")
    _pack(tmp_path / "packing", root / "SKU110K_fixed.tgz")
    convert("SKU-110K", root)
    assert (root / "labels/val_0.txt").read_text() == f"0 {BOX}\n" and (root / "SKU110K_fixed.tgz").is_file()
    assert not (root / "SKU110K_fixed").exists() and not list(root.glob(".*"))


def test_objects365_patches_of_equal_names_are_told_apart(tmp_path):
    root = tmp_path / "o"
    make_objects365(root)
    for split in ("train", "val"):
        _pack(root / f"images/{split}", tmp_path / "packed.tar.gz")
        (root / f"images/{split}").mkdir()
        (tmp_path / "packed.tar.gz").rename(root / f"images/{split}/patch3.tar.gz")
    convert("Objects365", root)
    assert (root / "images/val/patch3/a.jpg").is_file() and (root / "labels/val/patch3/a.txt").is_file()


def test_labels_of_images_still_to_come(tmp_path):
    """A patch that is unpacked later finds its labels: they lie where its annotation file says."""
    make_objects365(tmp_path)
    path = tmp_path / "zhiyuan_objv2_val.json"
    facts = json.loads(path.read_text())
    facts["images"].append({"id": 6, "file_name": "images/v2/patch20/b.jpg", "width": 10, "height": 10})
    path.write_text(json.dumps(facts))
    report = convert("Objects365", tmp_path)
    assert (tmp_path / "labels/val/patch20/b.txt").read_text() == ""
    assert report.skipped["images that are listed but not there (labelled all the same)"].count == 1


def test_archive_that_climbs_is_refused(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    with zipfile.ZipFile(root / "VisDrone2019-DET-val.zip", "w") as opened:
        opened.writestr("VisDrone2019-DET-val/images/1.jpg", b"x")
        opened.writestr("../../escaped", b"x")
    with pytest.raises(InputError, match="would leave the target folder"):
        convert("VisDrone", root)
    assert not list(tmp_path.rglob("escaped"))
    assert {p.name for p in root.iterdir()} <= {"VisDrone2019-DET-val.zip", MARK}


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Serve archives of a folder instead of the network; returns (folder, addresses asked for)."""
    import shutil

    served, asked = tmp_path / "served", []
    served.mkdir()

    def fetch(url, path, *, sha256="", max_bytes=0, **_):
        asked.append((url, sha256, max_bytes))
        source = served / url.rpartition("/")[2]
        if not source.is_file():
            raise DownloadError(f"{url}: cannot be fetched: no network")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
        return path

    monkeypatch.setattr("utils.downloads.fetch", fetch)
    return served, asked


def test_missing_archives_are_fetched_unpacked_and_removed(tmp_path, network):
    served, asked = network
    _visdrone_archives(served, tmp_path)
    root = tmp_path / "VisDrone"
    data = {**own_facts("VisDrone"), "path": str(root), "sha256": {"VisDrone2019-DET-val.zip": "a" * 64}}
    check_dataset(data, splits=("val",))
    address = "https://github.com/ultralytics/assets/releases/download/v0.0.0/VisDrone2019-DET-val.zip"
    assert asked == [(address, "a" * 64, 10**9)] and sorted(p.name for p in root.iterdir()) == ["VisDrone2019-DET-val"]
    check_dataset(data)
    assert len(asked) == 2 and (root / "VisDrone2019-DET-train/labels/train_1.txt").is_file()
    check_dataset(data)
    assert len(asked) == 2
    assert not list(root.glob(".*")) and not list(root.glob("*.zip"))


def test_without_network_one_line_and_nothing_left(tmp_path, network):
    root = tmp_path / "VisDrone"
    with pytest.raises(InputError, match=r"no network; put VisDrone2019-DET-train.zip into .* by hand") as caught:
        check_dataset({**own_facts("VisDrone"), "path": str(root)})
    assert "\n" not in str(caught.value) and not root.exists()
    with pytest.raises(MissingFileError, match="'val' not found.*put VisDrone2019-DET-val.zip"):
        check_dataset({**own_facts("VisDrone"), "path": str(root)}, autodownload=False, splits=("val",))
    assert not root.exists() and len(network[1]) == 1


def test_download_that_stops_goes_on_where_it_was(tmp_path, network):
    served, asked = network
    _visdrone_archives(served, tmp_path)
    (served / "VisDrone2019-DET-val.zip").rename(tmp_path / "later.zip")
    root = tmp_path / "VisDrone"
    data = {**own_facts("VisDrone"), "path": str(root)}
    with pytest.raises(InputError, match="no network"):
        check_dataset(data)
    assert (root / MARK).is_file() and (root / "VisDrone2019-DET-train/images").is_dir()
    with pytest.raises(MissingFileError, match="a download was not finished, 1 files are missing"):
        check_dataset(data, autodownload=False)
    (tmp_path / "later.zip").rename(served / "VisDrone2019-DET-val.zip")
    check_dataset(data)
    assert [url.rpartition("-")[2] for url, *_ in asked] == ["train.zip", "val.zip", "val.zip"]
    assert not (root / MARK).exists() and (root / "VisDrone2019-DET-train/labels").is_dir()


def test_unpacking_that_was_cut_short_is_done_again(tmp_path):
    """A killed unpacking left half of the images in place: the mark says which archive."""
    root = tmp_path / "VisDrone"
    make_visdrone(tmp_path / "packing", ["val"])
    image(tmp_path / "packing/VisDrone2019-DET-val/images/val_2.jpg")
    text_file(tmp_path / "packing/VisDrone2019-DET-val/annotations/val_2.txt", "10,5,20,20,1,4,0,0\n")
    _pack(tmp_path / "packing", root / "VisDrone2019-DET-val.zip")
    make_visdrone(root, ["val"])
    obtain.mark_unfinished(root, "VisDrone", unpacking="VisDrone2019-DET-val.zip", unpacked=[], fetched=[])
    data = check_dataset({**own_facts("VisDrone"), "path": str(root)}, splits=("val",), autodownload=False)
    assert len(find_images(data["val"])) == 2 and (root / "VisDrone2019-DET-val/labels/val_2.txt").is_file()


def test_images_without_their_labels_are_converted(tmp_path):
    """Archives unpacked by hand have images in place: the missing labels are noticed, for the wanted splits alone."""
    make_visdrone(tmp_path)
    check_dataset({**own_facts("VisDrone"), "path": str(tmp_path)}, splits=("val",), autodownload=False)
    assert (tmp_path / "VisDrone2019-DET-val/labels/val_1.txt").is_file()
    before = state(tmp_path)
    check_dataset({**own_facts("VisDrone"), "path": str(tmp_path)}, splits=("val",), autodownload=False)
    assert state(tmp_path) == before


def test_checksums(tmp_path):
    import hashlib

    root = tmp_path / "VisDrone"
    _visdrone_archives(root, tmp_path)
    name = "VisDrone2019-DET-val.zip"
    with pytest.raises(InputError, match=f"{name}: its SHA-256 is .*'sha256' expects {'0' * 64}"):
        convert("VisDrone", root, sha256={name: "0" * 64})
    with pytest.raises(InputError, match="'sha256' names 'other.zip', which is none of its files"):
        convert("VisDrone", root, sha256={"other.zip": "0" * 64})
    right = hashlib.sha256((root / name).read_bytes()).hexdigest()
    assert convert("VisDrone", root, sha256={name: right.upper()}).images == 3


def test_full_disk_is_seen_before_fetching(tmp_path, network, monkeypatch):
    monkeypatch.setattr(obtain.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9})())
    with pytest.raises(InputError, match=r"VisDrone: about 1.51 GB to fetch need 3.17 GB.* has 1 GB free"):
        check_dataset({**own_facts("VisDrone"), "path": str(tmp_path / "VisDrone")})
    assert not network[1]


def test_xview_is_only_fetched_by_hand(tmp_path, network):
    with pytest.raises(MissingFileError, match=r"put train_labels.zip, train_images.zip from .*registration"):
        check_dataset({**own_facts("xView"), "path": str(tmp_path / "xView")})
    assert not network[1] and not (tmp_path / "xView").exists()


def test_damaged_marks_are_survived(tmp_path):
    make_visdrone(tmp_path)
    for text in ("", "[]", '{"unpacked": 5, "fetched": "x"}', "{" * 100000):
        (tmp_path / MARK).write_text(text)
        check_dataset({**own_facts("VisDrone"), "path": str(tmp_path)}, autodownload=False)
        assert not (tmp_path / MARK).exists()


# Facts


def test_registry_fits_the_yamls():
    for name, entry in STOCK.items():
        names = read_names(own_yaml(name))
        assert names_digest(names) == entry.digest and len(names) == entry.count, name
        facts = own_facts(name)
        assert facts["converter"] == name and Path(facts["path"]).name == entry.folder
        assert all(archive.url.startswith(("http://", "https://", "")) for archive in entry.archives)
        assert len({archive.key for archive in entry.archives}) == len(entry.archives)
        for split in ("train", "val"):
            assert any(split in archive.serves for archive in entry.archives)
    assert list(TYPES.values()) == list(read_names(own_yaml("xView")).values()) and list(TYPES) == sorted(TYPES)
    assert len(STOCK["Objects365"].archives) == 2 + 51 + 44 and len(STOCK) == 8


@pytest.mark.parametrize("name", STOCK)
def test_own_yaml_is_recognised_by_its_facts(name):
    facts, names = {"path": f"../datasets/{STOCK[name].folder}/"}, read_names(own_yaml(name))
    renamed = dict.fromkeys(names, "x")
    assert recognise(facts, names, "other.yaml") == name
    assert recognise(facts, renamed, f"some/{name}.yaml") == name
    assert recognise(facts, renamed, "other.yaml") == ""
    assert recognise({"path": "../datasets/mine"}, names, f"{name}.yaml") == ""
    assert recognise({}, names, f"{name}.yaml") == ""
    assert recognise(facts, {0: "cat", 1: "dog"}, f"{name}.yaml") == ""


# The command


def _run(*arguments):
    command = [sys.executable, "-m", "utils.data.converters", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_command(tmp_path):
    make_visdrone(tmp_path)
    end = _run("VisDrone", "--root", tmp_path)
    assert end.returncode == 0 and "3 label files with 3 boxes" in end.stderr and "ignored regions" in end.stderr
    assert "nothing to convert" in _run("VisDrone", "--root", tmp_path).stderr
    own = tmp_path / "own.yaml"
    own.write_text("train: a\nval: a\nnames: [car]\n")
    make_visdrone(tmp_path / "b")
    assert _run("VisDrone", "--root", tmp_path / "b", "--data", own).returncode == 0
    assert (tmp_path / "b/VisDrone2019-DET-val/labels/val_1.txt").read_text() == f"0 {BOX}\n"


def test_command_errors(tmp_path):
    end = _run("VisDrone", "--root", tmp_path / "none")
    assert end.returncode == 2 and len(end.stderr.splitlines()) == 1 and end.stderr.startswith("error: VisDrone: ")
    assert _run("nothing").returncode == 2
    make_visdrone(tmp_path)
    (tmp_path / "VisDrone2019-DET-val/annotations/val_1.txt").write_text("1,2\n")
    end = _run("VisDrone", "--root", tmp_path)
    assert end.returncode == 2 and end.stderr.startswith("error: ") and "val_1.txt, line 1" in end.stderr


def test_help_is_light():
    code = (
        "import sys, runpy\nsys.argv = ['x', '--help']\n"
        "try: runpy.run_module('utils.data.converters', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'cv2', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)))"
    )
    end = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert end.stdout.splitlines()[-1] == "[]" and "--download" in end.stdout


def test_converter_of_ones_own(tmp_path, monkeypatch):
    """The example of docs/datasets.md, run as it stands there."""
    text = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[1].split("```")[0]
    (tmp_path / "my_set.py").write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(stock.STOCK, "mine", stock.StockSet("my_set", "mine"))
    root = tmp_path / "mine"
    image(root / "images/train/a.png")
    text_file(root / "boxes-train.csv", "a.png,car,10,5,30,25\n")
    image(root / "images/val/b.png")
    text_file(root / "boxes-val.csv", "b.png,truck,10,5,30,25\nb.png,car,10,5,30,25\n")
    data = {"path": str(root), "train": "images/train", "val": "images/val", "names": ["bus", "car"]}
    report = prepare("mine", root, dict(enumerate(data["names"])))
    assert (root / "labels/val/b.txt").read_text() == f"1 {BOX}\n" == (root / "labels/train/a.txt").read_text()
    assert report.boxes == 2 and "truck" in str(report.skipped)
    assert check_dataset({**data, "converter": "mine"})["nc"] == 2
