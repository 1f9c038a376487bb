"""The hub wrapper: figures of YOLOv5 itself, every form of image, and what Detections offers."""

import io
import logging
import pickle
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from models.autoshape import AutoShape
from models.backends import DetectMultiBackend
from models.common import Detections
from models.detections import SAVE_DIR
from models.yolo import ClassificationModel, DetectionModel
from utils.data.any_image import to_rgb
from utils.errors import InputError

BOXES, CONFIDENCES, SHARES = 5e-3, 1e-4, 1e-5  # pixels; and of a pixel's share in 640


@pytest.fixture(scope="module")
def model(shared):
    return AutoShape(DetectMultiBackend(shared / "weights" / "yolov5n.pt"))


@pytest.fixture(autouse=True)
def _defaults(request):
    """Give the shared model its class's attributes back."""
    yield
    if "model" in request.fixturenames:
        wrapper = request.getfixturevalue("model")
        for name in ("conf", "iou", "agnostic", "multi_label", "classes", "max_det", "amp"):
            vars(wrapper).pop(name, None)


@pytest.fixture(scope="module")
def pictures(shared, golden):
    folder = next((shared / "datasets" / "coco128").rglob("000000000025.jpg")).parent
    return [str(folder / item["name"]) for item in golden("autoshape")[0]["images"]]


def _case(name, model, pictures):
    first, second = pictures
    if name == "attributes_conf0.1_classes_max5":
        model.conf, model.classes, model.max_det = 0.1, [0, 65], 5
    return {
        "paths_640": [first, second],
        "path_320": first,
        "pil_640": Image.open(first),
        "numpy_rgb_640": cv2.imread(second)[..., ::-1],
        "grey_480": cv2.imread(second, cv2.IMREAD_GRAYSCALE),
        "augment_640": first,
        "attributes_conf0.1_classes_max5": second,
    }[name]


CASES = (
    "paths_640", "path_320", "pil_640", "numpy_rgb_640", "grey_480", "augment_640", "attributes_conf0.1_classes_max5",
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_figures_of_yolov5(name, model, pictures, golden):
    facts, arrays = golden("autoshape")
    case = facts["cases"][name]
    results = model(_case(name, model, pictures), **case["call"])
    assert (results.n, len(results), list(results.s), results.files) == (
        case["n"], case["n"], case["s"], case["files"]
    )  # fmt: skip
    assert [len(x) for x in results.xyxy] == case["counts"]
    for i in range(case["n"]):
        wanted, found = arrays[f"{name}/xyxy/{i}"], results.xyxy[i].numpy()
        np.testing.assert_allclose(found[:, :4], wanted[:, :4], rtol=0, atol=BOXES)
        np.testing.assert_allclose(found[:, 4], wanted[:, 4], rtol=0, atol=CONFIDENCES)
        assert (found[:, 5] == wanted[:, 5]).all()
        shares = results.xywhn[i].numpy()
        np.testing.assert_allclose(shares[:, :4], arrays[f"{name}/xywhn/{i}"][:, :4], rtol=0, atol=SHARES)
    lines = str(results).splitlines()
    assert lines[:-1] == case["str_first_lines"]
    assert re.fullmatch(
        r"Speed: [\d.]+ms pre-process, [\d.]+ms inference, [\d.]+ms NMS per image at shape \(.*\)", lines[-1]
    )
    frame = results.pandas().xyxy[0]
    assert list(frame.columns) == case["pandas_columns_xyxy"]
    assert list(results.pandas().xywhn[0].columns) == case["pandas_columns_xywhn"]
    numbers = {key: dtype for key, dtype in case["pandas_dtypes"].items() if key != "name"}
    assert {key: str(frame[key].dtype) for key in numbers} == numbers
    assert all(isinstance(text, str) for text in frame["name"])
    kinds = {key: type(getattr(results, key)).__name__ for key in case["result_types"]}
    assert kinds == case["result_types"]


def test_defaults_and_attributes(model, golden):
    facts = golden("autoshape")[0]
    assert {key: getattr(model, key) for key in facts["defaults"]} == facts["defaults"]
    expected = facts["model_attributes"]
    assert type(model.names).__name__ == expected["names_type"] and model.stride == expected["stride"]
    assert type(model.model).__name__ == expected["model_type"]
    assert model.pt and model.dmb and not model.training
    assert f"{type(model).__module__}.{type(model).__name__}" == "models.common.AutoShape"


def test_a_tensor_goes_straight_to_the_model(model, golden):
    expected = golden("autoshape")[0]["tensor_input"]
    out = model(torch.zeros(1, 3, 128, 128))
    assert type(out).__name__ == expected["returns"] and list(out.shape) == expected["elements"]


def test_crops_files_and_pictures(model, pictures, golden, tmp_path):
    facts = golden("autoshape")[0]
    results = model(pictures)
    crops = results.crop(save=False)
    assert list(crops[0]) == facts["crop_save_false"]["keys"]
    assert [list(crop["im"].shape) for crop in crops] == facts["crop_save_false"]["im_shapes"]
    assert not list(tmp_path.iterdir())
    for _ in range(2):
        results.save(save_dir=tmp_path / "exp")
    results.crop(save_dir=tmp_path / "crops")
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert written == facts["files_after_save_twice_and_crop"]
    results.save(save_dir=tmp_path / "exp", exist_ok=True)
    assert not (tmp_path / "exp3").exists()
    before = results.ims[0].copy()
    drawn = results.render()
    assert drawn is results.ims and [list(im.shape) for im in drawn] == facts["render"]["shapes"]
    assert (drawn[0] != before).any()
    saved = cv2.imread(str(tmp_path / "exp" / results.files[0]))[..., ::-1]
    assert np.abs(saved.mean((0, 1)) - drawn[0].mean((0, 1))).max() < 0.5  # the same but for JPEG, in RGB order


# Forms of images ------------------------------------------------------------------------------------------------------
RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def _jpeg_with_turn():
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[274] = 6  # a quarter turn clockwise
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    return Image.open(stream)


FORMS = {
    "array": (RGB, RGB),
    "reversed view": (RGB[..., ::-1], RGB[..., ::-1]),
    "channels first": (RGB.transpose(2, 0, 1), RGB),
    "tensor": (torch.from_numpy(RGB), RGB),
    "tensor, channels first": (torch.from_numpy(RGB).permute(2, 0, 1), RGB),
    "alpha": (np.dstack((RGB, RGB[..., :1])), RGB),
    "grey": (RGB[..., 0], np.repeat(RGB[..., :1], 3, 2)),
    "one channel": (RGB[..., :1], np.repeat(RGB[..., :1], 3, 2)),
    "one channel first": (RGB[None, ..., 0], np.repeat(RGB[..., :1], 3, 2)),
    "floats": (RGB.astype(np.float32) + 0.25, RGB),
    "wide integers": (RGB.astype(np.int64), RGB),
    "mask": (RGB[..., 0] > 99, np.repeat((RGB[..., :1] > 99) * np.uint8(255), 3, 2)),
    "PIL": (Image.fromarray(RGB), RGB),
    "PIL grey": (Image.fromarray(RGB[..., 0]), np.repeat(RGB[..., :1], 3, 2)),
    "PIL alpha": (Image.fromarray(np.dstack((RGB, RGB[..., :1]))), RGB),
    "PIL 16 bits": (Image.fromarray(RGB[..., 0].astype(np.uint16) << 8), np.repeat(RGB[..., :1], 3, 2)),
    "PIL turned": (_jpeg_with_turn(), np.rot90(RGB, -1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_image(form):
    given, wanted = FORMS[form]
    found, name = to_rgb(given, 3)
    assert found.dtype == np.uint8 and found.flags["C_CONTIGUOUS"] and name == "image3.jpg"
    np.testing.assert_array_equal(found, wanted)


def test_palettes_show_their_colours():
    image = Image.fromarray(RGB).quantize(256)
    assert np.abs(to_rgb(image)[0].astype(int) - np.asarray(image.convert("RGB"))).max() == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros((8, 9, 2), np.uint8), r"shape \(8, 9, 2\)"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"shape \(2, 8, 9, 3\)"),
        (np.full((8, 9), 300.0), "values from 300 to 300"),
        (np.full((8, 9), np.nan), "values from nan"),
        (np.full((8, 9), -1), "values from -1"),
        (None, "type object"),
        ({"a": 1}, "type object"),
        (["a", ["b"]], "no image|type"),
        ("no/such/file.jpg", "no/such/file.jpg"),
    ],
    ids=str,
)
def test_what_is_no_image_is_named(given, words):
    with pytest.raises(InputError, match=words) as caught:
        to_rgb(given, 1)
    assert "\n" not in str(caught.value)


def test_images_in_0_to_1_are_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("yolov5"), "propagate", True)
    to_rgb(np.full((8, 9), 0.5), 2)
    assert "image 2" in caplog.text and "255" in caplog.text


def test_addresses_keep_to_the_rules_of_downloads(monkeypatch):
    """Also as a Path, in which // has become /; nothing inside a private network is asked for."""
    for address in ("http://127.0.0.1:9/a.jpg", "https:/10.0.0.1/a.jpg", "http://[::1]/a.jpg"):
        with pytest.raises(InputError, match="private network"):
            to_rgb(address)


def test_an_address_is_read_like_a_file(monkeypatch, tmp_path):
    def fetch(url, path, **options):
        assert options["named_by_user"] and options["max_bytes"]
        path.write_bytes(cv2.imencode(".png", RGB[..., ::-1])[1].tobytes())

    monkeypatch.setattr("utils.downloads.fetch", fetch)
    found, name = to_rgb("https://example.org/a%20b.png?x=1")
    assert name == "a b.jpg" and (found == RGB).all()


# The wrapper around other models --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def small():
    return DetectionModel("yolov5n.yaml", nc=2).eval()


def test_a_bare_network(small):
    wrapper = AutoShape(small, verbose=False)
    wrapper.conf = 0.0001
    results = wrapper([RGB, RGB[:, ::2]], size=64)
    assert not wrapper.dmb and wrapper.pt and len(results) == 2 and results.s == (2, 3, 64, 64)
    assert all(x.isfinite().all() and x.shape[1] == 6 for x in results.xyxy) and len(results.xyxy[0])
    assert results.xyxy[0][:, [0, 2]].max() <= 32 and results.xyxy[0][:, [1, 3]].max() <= 24
    results.xyxy[0] += 1  # results are ordinary tensors
    assert wrapper.double().float() is wrapper and wrapper.to("cpu").stride.device.type == "cpu"


@pytest.mark.parametrize("size", [0, -1, 1.5, "a", []])
def test_sizes_are_checked(small, size):
    with pytest.raises(InputError, match="size is"):
        AutoShape(small, verbose=False)(RGB, size=size)


def test_no_images_and_no_detector(small):
    with pytest.raises(InputError, match="empty list"):
        AutoShape(small, verbose=False)([])
    classifier = ClassificationModel(model=DetectionModel("yolov5n.yaml", nc=2), nc=3)
    with pytest.raises(InputError, match="ends in Classify"):
        AutoShape(classifier, verbose=False)


# Detections -----------------------------------------------------------------------------------------------------------
def _two():
    pred = [torch.tensor([[2.0, 4, 12, 14, 0.9, 1], [0, 0, 8, 6, 0.5, 0]]), torch.zeros(0, 6)]
    names = {0: "cat", 1: "a/b"}
    return Detections([RGB.copy(), RGB.copy()], pred, ["x.jpg", "x.jpg"], (0.01, 0.02, 0.04), names, (2, 3, 64, 64))


def test_boxes_in_four_formats():
    d = _two()
    assert d.xywh[0][0].tolist() == pytest.approx([7, 9, 10, 10, 0.9, 1])
    assert d.xyxyn[0][0].tolist() == pytest.approx([2 / 32, 4 / 24, 12 / 32, 14 / 24, 0.9, 1])
    assert d.xywhn[0][0].tolist() == pytest.approx([7 / 32, 9 / 24, 10 / 32, 10 / 24, 0.9, 1])
    assert d.t == pytest.approx((5, 10, 20)) and d.xywhn[1].shape == (0, 6)
    assert d.pandas().xyxy[1].shape == (0, 7) and d.pandas().xyxy[0]["name"].tolist() == ["a/b", "cat"]
    assert torch.is_tensor(d.xyxy[0])  # pandas() leaves the original as it is


def test_text(capsys):
    d = _two()
    text = (
        "image 1/2: 24x32 1 cat, 1 a/b\nimage 2/2: 24x32 (no detections)\n"
        "Speed: 5.0ms pre-process, 10.0ms inference, 20.0ms NMS per image at shape (2, 3, 64, 64)"
    )
    assert str(d) == text and repr(d).endswith(text)
    d.print()
    assert capsys.readouterr().out == text + "\n"


def test_one_for_each_image_keeps_the_times():
    each = _two().tolist()
    assert [len(d) for d in each] == [1, 1] and [len(d.pred[0]) for d in each] == [2, 0]
    assert all(d.t == pytest.approx((5, 10, 20)) for d in each) and each[0].s == (2, 3, 64, 64)


def test_images_of_one_name_are_both_kept(tmp_path):
    """And a class name with a slash makes no folder elsewhere."""
    d = _two()
    d.save(save_dir=tmp_path / "a")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["x-2.jpg", "x.jpg"]
    d.crop(save_dir=tmp_path / "b")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("crops/**/*.jpg")) == [
        "b/crops/a_b/x.jpg", "b/crops/cat/x.jpg"
    ]  # fmt: skip


def test_nothing_is_drawn_into_the_images_before_render():
    d = _two()
    given = d.ims[0]
    d.crop(save=False)
    assert (given == RGB).all()
    assert (d.render(labels=False)[0] != RGB).any() and (given == RGB).all() and (d.ims[1] == RGB).all()


def test_show(monkeypatch):
    shown = []
    monkeypatch.setattr("utils.environment.is_jupyter", lambda: False)
    monkeypatch.setattr(Image.Image, "show", lambda self, title=None: shown.append((self.size, title)))
    _two().show()
    assert shown == [((32, 24), "x.jpg")] * 2


def test_names_may_be_a_list_or_missing():
    pred = [torch.tensor([[0.0, 0, 4, 4, 0.5, 1]])]
    assert "1 b\n" in str(Detections([RGB], pred, ["a.jpg"], (0, 0, 0), ["a", "b"], (1,)))
    assert "1 1\n" in str(Detections([RGB], pred, ["a.jpg"], (0, 0, 0)))


def test_results_travel_under_yolov5s_path():
    data = pickle.dumps(_two())
    assert b"models.common" in data and str(pickle.loads(data)) == str(_two())
    assert SAVE_DIR == "runs/detect/exp"


def test_an_exported_network(small, tmp_path):
    """TorchScript takes the place of the checkpoint; the boxes are the same."""
    import copy

    wrapper = AutoShape(copy.deepcopy(small), verbose=False)
    traced = torch.jit.trace(wrapper.model, torch.zeros(1, 3, 64, 64), check_trace=False)
    file = tmp_path / "small.torchscript"
    traced.save(str(file), _extra_files={"config.txt": '{"stride": 32, "names": {"0": "a", "1": "b"}}'})
    exported = AutoShape(DetectMultiBackend(file), verbose=False)
    wrapper.conf = exported.conf = 0.0001
    square = RGB[:, :24]
    first, second = wrapper(square, size=64), exported(square, size=64)
    assert not exported.pt and exported.names == {0: "a", 1: "b"} and len(first.xyxy[0])
    assert torch.allclose(first.xyxy[0], second.xyxy[0], atol=1e-4) and first.s == second.s == (1, 3, 64, 64)
