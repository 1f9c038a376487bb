"""What a diagnosis reads: ground truth, COCO JSON files, label folders, models; and what it refuses, by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diagnosis_cases import ground_truth, random_run

import val
from utils.dataset_yaml import check_dataset
from utils.diagnosis.data import GroundTruth, ImageInfo, Predictions, iou, plain, sort_objects, sort_predictions
from utils.diagnosis.inputs import load_ground_truth, load_predictions
from utils.diagnosis.model_predictions import ViewCollector, predict_views
from utils.diagnosis.operating import operate
from utils.diagnosis.tide import tide
from utils.errors import InputError, MissingFileError
from utils.helpers import coco80_to_coco91_class

COUNT = 8  # images of the small set


# Arrays ---------------------------------------------------------------------------------------------------------------


def test_predictions_come_by_image_and_falling_confidence():
    pred = sort_predictions([1, 0, 1, 1], np.arange(16).reshape(4, 4), [0.2, 0.5, 0.9, 0.2], [0, 1, 2, 1])
    assert pred.image.tolist() == [0, 1, 1, 1] and pred.conf.tolist() == [0.5, 0.9, 0.2, 0.2]
    assert pred.cls.tolist() == [1, 2, 0, 1]  # equal ones keep their order
    assert [pred.of_image(i) for i in range(3)] == [slice(0, 1), slice(1, 4), slice(4, 4)]
    assert pred.above(0.2).conf.tolist() == [0.5, 0.9]
    assert pred.above(np.array([0.1, 0.3, 0.95])).cls.tolist() == [1, 0]
    assert pred.best_of_image(2).conf.tolist() == [0.5, 0.9, 0.2]


def test_iou_by_hand_and_without_area():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5], [20, 20, 10, 10]], float)
    assert iou(a, np.array([[0, 0, 10, 5], [5, 5, 15, 15], [5, 5, 5, 5]], float)).tolist() == [
        [0.5, 25 / 175, 0], [0, 0, 0], [0, 0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Predictions(np.array([1, 0]), np.zeros((2, 4)), np.ones(2), np.zeros(2, int)), "by image"),
        (lambda: Predictions(np.zeros(2, int), np.zeros((2, 4)), np.array([0.1, 0.2]), np.zeros(2, int)), "falling"),
        (lambda: Predictions(np.zeros(2, int), np.zeros((2, 4)), np.ones(1), np.zeros(2, int)), "one length"),
        (lambda: GroundTruth([], *(np.zeros(1, int), np.zeros((1, 4)), *np.ones((2, 1), int)), {0: "a"}), "0 to 0"),
        (lambda: tide(ground_truth([]), sort_predictions([3], [[0, 0, 1, 1]], [1], [0])), "images 3 to 3, there are 1"),
        (lambda: tide(ground_truth([]), sort_predictions([0], [[0, 0, 1, 1]], [1], [9])), "0 to 2"),
    ],
    ids=["order", "confidence", "length", "class", "unknown image", "unknown class"],
)  # fmt: skip
def test_arrays_that_do_not_fit(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_plain_values_for_json():
    value = plain({(0, 1): np.float32(0.5), "x": np.array([1.0, np.nan]), 3: [np.int64(2), float("inf"), "text"]})
    assert json.dumps(value) == '{"0,1": 0.5, "x": [1.0, null], "3": [2, null, "text"]}'


# Ground truth ---------------------------------------------------------------------------------------------------------


def test_ground_truth_of_a_data_set(tiny_data):
    gt = load_ground_truth(tiny_data)
    assert len(gt.images) == 4 and gt.names == {0: "green", 1: "blue"} and gt.split == "val"
    assert (gt.images[0].width, gt.images[0].height) == (96, 64)
    assert gt.counts().tolist() == [4, 2]
    cls, cx, cy, w, h = map(float, Path(gt.images[1].label_path).read_text().splitlines()[1].split())
    row = gt.of_image(1).start + 1
    expected = [(cx - w / 2) * 96, (cy - h / 2) * 64, (cx + w / 2) * 96, (cy + h / 2) * 64]
    assert gt.boxes[row] == pytest.approx(expected, abs=1e-4)
    assert (gt.cls[row], gt.line[row]) == (cls, 2)
    assert len(load_ground_truth(check_dataset(str(tiny_data)), "train").images) == 8


def test_lines_are_those_of_the_file_where_cleaning_dropped_and_sorted_rows(tiny_data):
    file = Path(load_ground_truth(tiny_data).images[0].label_path)
    file.write_text("1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n\n0 0.2 0.2 0.1 0.1\n0 0.9 0.9 0 0.1\n0 0.1 0.3 0.1 0.1\n")
    gt = load_ground_truth(tiny_data)
    rows = gt.of_image(0)
    found = dict(zip(gt.line[rows].tolist(), gt.boxes[rows, 0].round(1).tolist(), strict=True))
    assert found == {1: 38.4, 3: 14.4, 5: 4.8}  # row 2 repeats row 1, row 4 has no area; the empty line is no row


@pytest.mark.parametrize(
    ("split", "words"), [("tst", "--split is 'tst'"), ("test", "has no 'test' entry")], ids=["unknown", "absent"]
)
def test_splits_that_are_not_there(tiny_data, split, words):
    with pytest.raises(InputError, match=words):
        load_ground_truth(tiny_data, split)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path):
    """Ground truth and predictions, with a writer of COCO JSON and label folders."""
    gt, pred = random_run(1, images=6, objects=30, count=60)
    return gt, pred, tmp_path


def _json(path, pred, image_of=lambda i: i, category_of=int, **extra):
    rows = []
    for i, (x1, y1, x2, y2), conf, c in zip(pred.image.tolist(), pred.boxes, pred.conf, pred.cls, strict=True):
        rows.append({"image_id": image_of(i), "category_id": category_of(c), "bbox": [x1, y1, x2 - x1, y2 - y1],
                     "score": conf, **extra})  # fmt: skip
    path.write_text(json.dumps(rows))
    return path


def _annotations(path, gt, names, first=100, folder=""):
    images = [{"id": first + i, "file_name": folder + Path(info.path).name} for i, info in enumerate(gt.images)]
    categories = [{"id": 7 * c + 3, "name": name} for c, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": []}))
    return path


def _same(a, b, digits=9):
    assert a.image.tolist() == b.image.tolist() and a.cls.tolist() == b.cls.tolist()
    np.testing.assert_allclose(a.boxes, b.boxes, atol=10.0**-digits)
    np.testing.assert_allclose(a.conf, b.conf, atol=10.0**-digits)


def test_json_by_stems_and_class_numbers(scene):
    gt, pred, folder = scene
    views = load_predictions(_json(folder / "p.json", pred, segmentation=[]), gt)
    _same(views.a, pred)
    assert not views.b_exact and views.images_with == len(np.unique(pred.image))


@pytest.mark.parametrize("image_of", [lambda i: f"{i:03d}", lambda i: f"{i:03d}.jpg", lambda i: f"images/{i:03d}.jpg"])
def test_json_with_stems_or_file_names_as_ids(scene, image_of):
    gt, pred, folder = scene
    _same(load_predictions(_json(folder / "p.json", pred, image_of), gt).a, pred)


def test_json_of_another_detector_by_its_annotations(scene):
    """Its images count from 100, its categories are 3, 10, 17 ... and one name is spelled differently."""
    gt, pred, folder = scene
    names = ["Class_0", "class 1", "class 2", "class 3", "never predicted"]
    file = _annotations(folder / "instances.json", gt, names)
    results = _json(folder / "p.json", pred, lambda i: 100 + i, lambda c: int(7 * c + 3))
    _same(load_predictions(results, gt, file).a, pred)


def test_coco_s_own_numbers_on_coco(tmp_path):
    numbers = coco80_to_coco91_class()
    gt, pred = random_run(1, images=3, nc=80, objects=20, count=200)
    images = [ImageInfo(f"/d/coco/images/val2017/{i:012d}.jpg", "", 640, 480) for i in range(3)]
    coco = sort_objects(images, gt.image, gt.boxes, gt.cls, gt.names)
    low = pred.select(pred.cls < 60)  # nothing above 79 in sight: the images' place decides
    for known in (pred, low):
        file = _json(tmp_path / "p.json", known, category_of=lambda c: numbers[c])
        _same(load_predictions(file, coco).a, known)
    _same(load_predictions(_json(tmp_path / "p.json", pred, category_of=lambda c: numbers[c]), gt).a, pred)
    _same(load_predictions(_json(tmp_path / "p.json", pred), gt).a, pred)  # with a 0 they are class numbers


def test_an_empty_list_is_a_run_that_found_nothing(scene):
    gt, _, folder = scene
    (folder / "p.json").write_text("[]")
    views = load_predictions(folder / "p.json", gt)
    assert len(views.a) == len(views.b) == 0
    assert tide(gt, views.a).map_ == 0 and operate(gt, views.b).counts["missed"] == len(gt)


def _changed(**change):
    return lambda rows: [*rows[:2], {**rows[2], **change}, *rows[3:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_changed(image_id=77), ["image_id 77 (1 entries, first entry 2)", "no image of the val split", "6"]),
        (_changed(image_id="nine"), ["image_id 'nine'"]),
        (_changed(image_id=1.5), ["entry 2: image_id is 1.5"]),
        (_changed(category_id=9), ["category_id 9 (1 entries)", "0 class 0, 1 class 1"]),
        (_changed(category_id="dog"), ["entry 2: category_id is 'dog'"]),
        (_changed(bbox=[0, 0, 5]), ["entry 2", "[x, y, width, height]"]),
        (_changed(bbox="box"), ["entry 2", "bbox box"]),
        (_changed(bbox=[0, 0, -5, 5]), ["entry 2", "at least 0"]),
        (_changed(score=87.5), ["entry 2", "score 87.5", "from 0 to 1"]),
        (_changed(score=None), ["entry 2", "score None"]),
        (lambda rows: [{k: v for k, v in row.items() if k != "score"} for row in rows], ["entry 0: lacks score"]),
        (lambda rows: {"annotations": rows}, ["holds a dict", "expected a list"]),
        (lambda rows: [*rows, 5], ["entry 60: is '5'"]),
    ],
    ids=["image", "stem", "image kind", "category", "category kind", "box length", "box kind", "box size", "score",
         "no number", "missing key", "no list", "no entry"],
)  # fmt: skip
def test_json_that_does_not_fit_is_refused_by_name(scene, change, words):
    gt, pred, folder = scene
    file = _json(folder / "p.json", pred)
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(InputError) as caught:
        load_predictions(file, gt)
    for word in [*words, "p.json"]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_categories_are_told_by_their_names(scene):
    gt, pred, folder = scene
    names = ["class 0", "class 1", "drone", "class 3"]
    file = _annotations(folder / "instances.json", gt, names)
    results = _json(folder / "p.json", pred, lambda i: 100 + i, lambda c: int(7 * c + 3))
    with pytest.raises(InputError, match=r"category_id 17 \(drone\)"):
        load_predictions(results, gt, file)


def test_numbers_from_one_are_not_taken_for_numbers_from_zero(scene):
    gt, pred, folder = scene
    with pytest.raises(InputError, match="seem to begin at 1; pass the annotation file"):
        load_predictions(_json(folder / "p.json", pred, category_of=lambda c: int(c) + 1), gt)


def test_images_that_share_a_stem_need_annotations(scene):
    gt, pred, folder = scene
    images = [ImageInfo(f"/set/images/{i // 3}/{i % 3}.jpg", "", 1000, 1000) for i in range(6)]
    shared = sort_objects(images, gt.image, gt.boxes, gt.cls, gt.names)
    with pytest.raises(InputError, match="image_id 0 could mean /set/images/0/0.jpg or /set/images/1/0.jpg"):
        load_predictions(_json(folder / "p.json", pred), shared)
    truth = {"images": [{"id": i, "file_name": f"{i // 3}/{i % 3}.jpg"} for i in range(6)],
             "categories": [{"id": c, "name": n} for c, n in gt.names.items()]}  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(truth))
    _same(load_predictions(folder / "p.json", shared, folder / "instances.json").a, pred)


@pytest.mark.parametrize(
    ("content", "words"),
    [("[{", "cannot be read as JSON"), (b"\xff\xfe", "cannot be read as JSON"), (None, "no such file")],
    ids=["cut off", "no text", "missing"],
)
def test_files_that_are_no_json(scene, content, words):
    gt, _, folder = scene
    file = folder / "p.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(MissingFileError if content is None else InputError, match=words):
        load_predictions(file, gt)
    with pytest.raises(InputError, match="allowed are a .json file"):
        (folder / "p.csv").write_text("")
        load_predictions(folder / "p.csv", gt)


# Label folders --------------------------------------------------------------------------------------------------------


def _write_labels(folder, gt, pred, name_of=lambda info: Path(info.path).stem):
    for i, info in enumerate(gt.images):
        rows = pred.of_image(i)
        if rows.stop > rows.start:
            x1, y1, x2, y2 = pred.boxes[rows].T / info.width
            table = np.column_stack((pred.cls[rows], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, pred.conf[rows]))
            file = folder / f"{name_of(info)}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{int(row[0])} {' '.join(f'{v:.9f}' for v in row[1:])}\n" for row in table))
    return folder


def test_label_folders(scene):
    gt, pred, folder = scene
    few = pred.select(pred.image != 3)  # an image without a file has no predictions
    _same(load_predictions(_write_labels(folder / "labels", gt, few), gt).a, few, digits=5)


def test_label_folders_with_shared_stems_as_val_and_detect_write_them(scene):
    gt, pred, folder = scene
    images = [ImageInfo(f"/set/images/{i // 3}/{i % 3}.jpg", "", 1000, 1000) for i in range(6)]
    shared = sort_objects(images, gt.image, gt.boxes, gt.cls, gt.names)

    def by_val(info):
        path = Path(info.path)
        return path.stem if path.parent.name == "0" else f"{path.parent.name}/{path.name}"

    def by_detect(info):
        return f"{Path(info.path).parent.name}/{Path(info.path).stem}"

    for number, name_of in enumerate((by_val, by_detect)):
        written = _write_labels(folder / str(number), shared, pred, name_of)
        _same(load_predictions(written, shared).a, pred, digits=5)
    alone = _write_labels(folder / "alone", shared, pred, lambda info: Path(info.path).stem)
    with pytest.raises(InputError, match=r"0.txt: could belong to /set/images/0/0.jpg or /set/images/1/0.jpg"):
        load_predictions(alone, shared)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nine.txt", "0 .5 .5 .1 .1 .9", "no image of the val split is named nine"),
        ("000.txt", "0 .5 .5 .1 .1 .9\n0 .5 .5 .1 .1", "000.txt, line 2: 5 values found, 6 needed"),
        ("000.txt", "0 .5 .5 .1 .1", "--save-conf"),
        ("000.txt", "\n0 .5 .5 .1 .1 .9 .1", "line 2: 7 values"),
        ("000.txt", "0 .5 .5 .1 x .9", "no number"),
        ("000.txt", "4 .5 .5 .1 .1 .9", "class 4, allowed are 0 to 3"),
        ("000.txt", "0.5 .5 .5 .1 .1 .9", "class 0.5"),
        ("000.txt", "0 .5 .5 .1 .1 1.5", "confidence 1.5, allowed are 0 to 1"),
        ("000.txt", "0 .5 nan .1 .1 .5", "finite"),
        ("000.txt", b"\xff\xfe", "cannot be read as text"),
        (None, "", "holds no .txt file"),
    ],
    ids=["unknown", "one without", "no confidence", "too many", "text", "class", "half class", "confidence", "nan",
         "bytes", "none"],
)  # fmt: skip
def test_label_folders_that_do_not_fit_are_refused_by_name(scene, name, text, words):
    gt, _, folder = scene
    labels = folder / "labels"
    labels.mkdir()
    if name:
        (labels / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as caught:
        load_predictions(labels, gt)
    assert words in str(caught.value)


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_coco(shared, tmp_path_factory):
    """A copy of a few images of coco128, and yolov5n's weights."""
    root = tmp_path_factory.mktemp("small")
    source = shared / "datasets" / "coco128"
    for file in sorted((source / "images" / "train2017").iterdir())[:COUNT]:
        label = source / "labels" / "train2017" / f"{file.stem}.txt"
        for path, kind in ((file, "images"), (label, "labels")):
            if path.exists():
                (root / kind).mkdir(exist_ok=True)
                shutil.copyfile(path, root / kind / path.name)
    names = check_dataset(source / "coco128.yaml")["names"]
    data = root / "data.yaml"
    data.write_text(json.dumps({"path": str(root), "train": "images", "val": "images", "names": list(names.values())}))
    return data, shared / "weights" / "yolov5n.pt"


@pytest.fixture(scope="module")
def measured(small_coco):
    data, weights = small_coco
    gt = load_ground_truth(data)
    views, result = predict_views(str(weights), str(data), gt, imgsz=320, batch_size=3, workers=0, device="cpu")
    return gt, views, result


def test_view_a_is_what_val_writes(small_coco, measured, tmp_path):
    """By all three ways: the model, its JSON and its label files."""
    data, weights = small_coco
    gt, views, result = measured
    val.run(
        str(data), weights=str(weights), imgsz=320, batch_size=3, workers=0, device="cpu", save_json=True,
        save_txt=True, save_conf=True, plots=False, project=tmp_path, name="v",
    )  # fmt: skip
    from_json = load_predictions(tmp_path / "v" / "yolov5n_predictions.json", gt)
    from_text = load_predictions(tmp_path / "v" / "labels", gt)
    own = tide(gt, views.a)
    assert len(views.a) > 500 and views.b_exact
    assert result.seen == COUNT and own.map_ == pytest.approx(100 * result.map50, abs=2)  # other interpolation
    for other in (from_json, from_text):
        assert len(other.a) == len(views.a)
        np.testing.assert_allclose(np.sort(other.a.conf), np.sort(views.a.conf), atol=2e-5)
        again = tide(gt, other.a)
        assert again.counts == own.counts and again.map_ == pytest.approx(own.map_, abs=0.2)


@pytest.mark.parametrize("conf", [0.25, 0.6])
def test_view_b_above_a_threshold_is_nms_at_that_threshold(small_coco, measured, conf):
    """Every image suppressed anew from the network's output, with one label a box, as detect does."""
    from models.backends import DetectMultiBackend
    from utils.boxes import scale_boxes
    from utils.dataloaders import create_dataloader
    from utils.nms import non_max_suppression

    data, weights = small_coco
    gt, views, _ = measured
    model = DetectMultiBackend(str(weights)).eval()
    loader, _ = create_dataloader(check_dataset(str(data))["val"], 320, 3, 32, pad=0.5, rect=True, workers=0)
    place = {info.path: i for i, info in enumerate(gt.images)}
    cut = views.b.above(conf)
    seen = 0
    with torch.no_grad():
        for images, _, paths, shapes in loader:
            found = non_max_suppression(model(images.float() / 255), conf, 0.45, max_det=1000)
            for detections, path, (size, ratio_pad) in zip(found, paths, shapes, strict=True):
                boxes = scale_boxes(images.shape[2:], detections[:, :4], size, ratio_pad).numpy()
                rows = cut.of_image(place[str(path)])
                np.testing.assert_allclose(cut.boxes[rows], boxes, atol=1e-2)
                assert cut.cls[rows].tolist() == detections[:, 5].tolist()
                seen += len(detections)
    assert seen == len(cut) > 0


def test_the_model_is_left_without_a_listener(measured):
    gt, *_ = measured
    collector, model = ViewCollector(gt), torch.nn.Identity()
    with collector.attached(model):
        assert len(model._forward_hooks) == 1
    assert not model._forward_hooks and len(collector.views().a) == 0


def test_weights_of_other_classes_are_refused(small_coco, tiny_data):
    _, weights = small_coco
    with pytest.raises(InputError, match="knows 80 classes, the data set has 2"):
        predict_views(str(weights), str(tiny_data), load_ground_truth(tiny_data), device="cpu")
