"""Tools of earlier releases that people still call: they work, repeatably, and destroy nothing."""

import json
import random
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from utils.boxes import bbox_ioa, box_iou
from utils.data import folder_tools, hub_stats
from utils.dataloaders import (
    HUBDatasetStats,
    _RepeatSampler,
    autosplit,
    exif_transpose,
    extract_boxes,
    flatten_recursive,
)
from utils.errors import InputError, WorkError
from utils.general import apply_classifier
from utils.plots import profile_idetection
from utils.triton import TritonRemoteModel


# Splits ---------------------------------------------------------------------------------------------------------------
def _images(folder, count):
    (folder / "images" / "sub").mkdir(parents=True)
    for i in range(count):
        (folder / "images" / ("sub" if i % 3 == 0 else "") / f"{i:03d}.JPG").write_bytes(b"x")
    (folder / "images" / "notes.txt").write_text("no image")
    return folder / "images"


def test_autosplit_is_the_same_every_time_and_yolov5s(tmp_path):
    folder = _images(tmp_path, 40)
    autosplit(folder, weights=(0.6, 0.3, 0.1))
    first = {name: (tmp_path / name).read_text() for name in folder_tools.SPLIT_FILES}
    random.seed(123)
    autosplit(str(folder), weights=(0.6, 0.3, 0.1))
    assert first == {name: (tmp_path / name).read_text() for name in folder_tools.SPLIT_FILES}
    random.seed(0)  # what YOLOv5 draws
    order = random.choices([0, 1, 2], weights=(0.6, 0.3, 0.1), k=40)
    files = sorted(folder.rglob("*.JPG"))
    for number, name in enumerate(folder_tools.SPLIT_FILES):
        wanted = [f"./{f.relative_to(tmp_path).as_posix()}" for f, s in zip(files, order, strict=True) if s == number]
        assert first[name].splitlines() == wanted
    assert sum(len(text.splitlines()) for text in first.values()) == 40


def test_autosplit_options(tmp_path):
    folder = _images(tmp_path, 12)
    (tmp_path / "autosplit_test.txt").write_text("old")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "001.txt").write_text("0 .5 .5 .1 .1")
    autosplit(folder, weights=(1, 0, 0), annotated_only=True)
    assert (tmp_path / "autosplit_train.txt").read_text() == "./images/001.JPG\n"
    assert not (tmp_path / "autosplit_test.txt").exists()
    for weights in ((1, 1), (-1, 2, 0), (0, 0, 0), (float("nan"), 1, 1)):
        with pytest.raises(InputError, match="weights are"):
            autosplit(folder, weights)
    with pytest.raises(InputError, match="no such folder"):
        autosplit(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image found"):
        autosplit(tmp_path / "empty")


# Folders --------------------------------------------------------------------------------------------------------------
def test_flatten_copies_everything_once(tmp_path):
    folder = _images(tmp_path / "set", 6)
    flatten_recursive(folder)
    flat = folder.with_name("images_flat")
    assert sorted(p.name for p in flat.iterdir()) == sorted(p.name for p in folder.rglob("*.*"))
    with pytest.raises(InputError, match="images_flat: exists already"):
        flatten_recursive(folder)
    (folder / "sub" / "NOTES.txt").write_text("another")
    for file in flat.iterdir():
        file.unlink()
    with pytest.raises(InputError, match="both would become"):
        flatten_recursive(folder)
    assert not list(flat.iterdir())


def test_boxes_become_images_of_their_class(tiny_data, tmp_path):
    """The cut-outs are 1.2 times their boxes and 3 pixels, and show the object's colour at their centre."""
    root = tmp_path / "tiny"
    extract_boxes(root)
    rows = [line.split() for file in (root / "labels").rglob("*.txt") for line in file.read_text().splitlines()]
    files = sorted((root / "classification").rglob("*.jpg"))
    assert {p.parent.name for p in files} == {"0", "1"}
    assert len(files) == len(rows) and (root / "classification/0/tiny_0_0-2.jpg").is_file()  # of train and of val
    colours = {"0": (30, 240, 30), "1": (240, 30, 30)}
    for file in files:
        number = int(file.stem.split("_")[1])
        im = cv2.imread(str(file))
        centre = im[im.shape[0] // 2, im.shape[1] // 2]
        if file.parent.name == "1" or number % 2 == 0:  # the blue object may cover a green one's centre
            assert np.abs(centre.astype(int) - colours[file.parent.name]).max() < 60, file
    with pytest.raises(InputError, match="classification: exists already"):
        extract_boxes(root)


def test_cut_outs_keep_within_the_image():
    assert folder_tools._grown((0.5, 0.5, 0.5, 0.5), 100, 40) == (18, 6, 81, 33)
    assert folder_tools._grown((0.0, 1.0, 0.5, 0.5), 100, 40) == (0, 26, 31, 40)


# Statistics -----------------------------------------------------------------------------------------------------------
def test_statistics_of_a_set(tiny_data, tmp_path, capsys):
    """The drawn set: images 1, 3, 5, 7 have both classes, the others the first alone."""
    stats = HUBDatasetStats(tiny_data)
    found = stats.get_json()
    assert (found["nc"], found["names"], found["test"]) == (2, ["green", "blue"], None)
    assert found["train"]["instance_stats"] == {"total": 12, "per_class": [8, 4]}
    assert found["train"]["image_stats"] == {"total": 8, "unlabelled": 0, "per_class": [8, 4]}
    assert found["val"]["image_stats"] == {"total": 4, "unlabelled": 0, "per_class": [4, 2]}
    first = found["train"]["labels"][0]
    line = (tmp_path / "tiny/labels/train/0.txt").read_text().split()
    assert first == {"0.png": [[0, *(round(float(x), 4) for x in line[1:])]]}
    assert not stats.hub_dir.exists()  # nothing is written unasked

    (tmp_path / "tiny/labels/val/1.txt").write_text("")
    again = HUBDatasetStats(str(tiny_data)).get_json(save=True, verbose=True)
    assert again["val"]["image_stats"] == {"total": 4, "unlabelled": 1, "per_class": [3, 1]}
    assert json.loads((stats.hub_dir / "stats.json").read_text()) == again == json.loads(capsys.readouterr().out)


def test_images_for_viewing(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_stats, "THREADS", 2)
    big = np.full((30, 2400, 3), 99, np.uint8)
    cv2.imwrite(str(tmp_path / "tiny/images/train/big.png"), big)
    stats = HUBDatasetStats(tiny_data)
    folder = stats.process_images()
    assert folder == stats.im_dir == tmp_path / "tiny-hub/images"
    assert Image.open(folder / "big.png").size == (1920, 24) and Image.open(folder / "0.png").size == (96, 64)
    with pytest.raises(InputError):
        HUBDatasetStats(tmp_path / "none.yaml")


# Pixels, boxes, samplers ----------------------------------------------------------------------------------------------
def test_exif_transpose():
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    image.getexif()[274] = 8
    assert (np.asarray(exif_transpose(image)) == np.rot90(np.asarray(image))).all()
    assert 274 not in exif_transpose(image).getexif()


def test_bbox_ioa_with_iou():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 10, (12, 2, 2)), 1).reshape(12, 4)
    found = bbox_ioa(boxes[:5], boxes[5:], iou=True)
    wanted = box_iou(torch.from_numpy(boxes[:5]), torch.from_numpy(boxes[5:])).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_repeat_sampler_goes_on():
    drawn = iter(_RepeatSampler([3, 1, 2]))
    assert [next(drawn) for _ in range(7)] == [3, 1, 2, 3, 1, 2, 3]


# Second stage ---------------------------------------------------------------------------------------------------------
class Brightness(torch.nn.Module):
    """Says class 1 for squares that are red in the middle, else 0; remembers what it was given."""

    def forward(self, x):
        self.seen = x
        red = x[:, 0, 100:124, 100:124].mean((1, 2)) - x[:, 2, 100:124, 100:124].mean((1, 2))
        return torch.stack((torch.zeros_like(red), red - 0.5), 1)


def test_a_second_network_confirms_or_drops():
    im0 = np.zeros((200, 400, 3), np.uint8)
    im0[40:80, 40:80] = (0, 0, 255)  # red, in BGR
    shape = torch.zeros(1, 3, 160, 320)  # the detector saw 0.8 of the size
    red, black = [32, 32, 64, 64], [240, 80, 280, 120]
    rows = [[*red, 0.9, 1], [*red, 0.8, 0], [*black, 0.7, 0], [*black, 0.6, 1]]
    found = [torch.tensor(rows), None, torch.zeros(0, 6)]
    model = Brightness()
    kept = apply_classifier(found, model, shape, [im0, im0, im0])
    assert kept is found and kept[0][:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert kept[0][0, :4].tolist() == [32, 32, 64, 64]  # boxes stay in the pixels that the detector saw
    assert kept[1] is None and kept[2].shape == (0, 6)
    assert model.seen.shape == (4, 3, 224, 224) and model.seen.min() >= 0 and model.seen.max() <= 1


# Logs of the phone app ------------------------------------------------------------------------------------------------
def test_logs_of_the_phone_app(tmp_path):
    rng = np.random.default_rng(0)
    table = np.column_stack((np.arange(200) * 0.1, rng.uniform(0, 9, (200, 6))))
    np.savetxt(tmp_path / "frames_phone.txt", table)
    profile_idetection(save_dir=tmp_path, labels=["one"])
    assert Image.open(tmp_path / "idetection_profile.png").size == (2400, 1200)
    with pytest.raises(InputError, match="200 rows"):
        profile_idetection(start=90, save_dir=tmp_path)
    (tmp_path / "frames_bad.txt").write_text("a b c")
    with pytest.raises(InputError, match=r"frames_bad\.txt: is no table"):
        profile_idetection(save_dir=tmp_path)
    with pytest.raises(InputError, match="no log"):
        profile_idetection(save_dir=tmp_path / "none")


# Triton ---------------------------------------------------------------------------------------------------------------
class FakeInput:
    def __init__(self, name, shape, datatype):
        self._name, self.shape, self.datatype, self.data = name, shape, datatype, None

    def name(self):
        return self._name

    def set_shape(self, shape):
        self.shape = shape

    def set_data_from_numpy(self, data):
        self.data = data


class FakeClient:
    """Answers with the sum and the difference of its two inputs, as both transports of tritonclient would."""

    def __init__(self, address):
        self.address = address

    def get_model_repository_index(self):
        return self.index

    def get_model_metadata(self, name, **options):
        assert options == self.options
        sides = [{"name": key, "shape": ["-1", "2"], "datatype": "FP32"} for key in ("a", "b")]
        return {"name": name, "platform": "onnx", "inputs": sides, "outputs": [{"name": "sum"}, {"name": "difference"}]}

    def infer(self, model_name, inputs):
        a, b = (i.data for i in inputs)
        return types.SimpleNamespace(as_numpy={"sum": a + b, "difference": a - b}.__getitem__)


@pytest.fixture(params=["http", "grpc"])
def triton(request, monkeypatch):
    client = type("Client", (FakeClient,), {})
    models = [{"name": "yolo"}]
    as_objects = types.SimpleNamespace(models=[types.SimpleNamespace(**model) for model in models])
    client.index = models if request.param == "http" else as_objects
    client.options = {} if request.param == "http" else {"as_json": True}
    package = types.SimpleNamespace(InferenceServerClient=client, InferInput=FakeInput)
    monkeypatch.setitem(sys.modules, "tritonclient", types.ModuleType("tritonclient"))
    monkeypatch.setitem(sys.modules, f"tritonclient.{request.param}", package)
    return TritonRemoteModel(f"{request.param}://localhost:8001")


def test_a_server_is_called_like_a_network(triton):
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]])
    assert (triton.model_name, triton.runtime, triton.client.address) == ("yolo", "onnx", "localhost:8001")
    for total, difference in (triton(a, b), triton(b=b, a=a)):
        assert total.tolist() == [[4, 6]] and difference.tolist() == [[2, 2]]
    assert [i.shape for i in triton._create_inputs(a, b)] == [[1, 2]] * 2
    for arguments, names in (((a,), {}), ((a,), {"b": b}), ((), {}), ((), {"a": a}), ((), {"a": a, "c": b})):
        with pytest.raises(InputError, match="yolo: "):
            triton(*arguments, **names)


def test_servers_that_are_not_there(triton, monkeypatch):
    with pytest.raises(InputError, match="expected http://host:port"):
        TritonRemoteModel("localhost")
    monkeypatch.setattr(type(triton.client), "get_model_repository_index", lambda self: 1 / 0)
    kind = "http" if not triton.client.options else "grpc"
    with pytest.raises(WorkError, match="does not answer"):
        TritonRemoteModel(f"{kind}://localhost:1")
    monkeypatch.setitem(sys.modules, f"tritonclient.{kind}", None)
    with pytest.raises(InputError, match="pip install tritonclient"):
        TritonRemoteModel(f"{kind}://localhost:1")


def test_old_modules_are_light():
    """utils.datasets and utils.google_utils hold nothing of their own."""
    for name in ("datasets", "google_utils"):
        source = Path(folder_tools.__file__).parents[1] / f"{name}.py"
        assert len(source.read_text().splitlines()) < 20
