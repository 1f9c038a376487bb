"""detect.py: its options, what it writes, and reference detections."""

import csv
import errno
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import detect
from models.backends import DetectMultiBackend
from models.yolo import DetectionModel
from tests.image_files import FORMATS, STORED, in_format
from tests.test_sources import picture, video
from utils.boxes import scale_boxes
from utils.checkpoint import save_checkpoint
from utils.detection import describe
from utils.errors import InputError, WorkError, run_command
from utils.nms import non_max_suppression
from utils.outputs.detection_output import DetectionWriter, OutputOptions, output_stems, safe_name, text_line
from utils.sources import LoadImages, open_source

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A model that finds class 1 ('b/c') almost everywhere."""
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=2)
    model.names = {0: "a", 1: "b/c"}
    for conv in model.model[-1].m:
        bias = conv.bias.detach().view(3, -1)
        bias[:, 4], bias[:, 5], bias[:, 6] = 2.0, -4.0, 4.0
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    save_checkpoint(path, {"epoch": -1, "model": model.half(), "ema": None, "optimizer": None})
    return path


@pytest.fixture
def run(weights, tmp_path):
    """Call detect.run on a small scale and return the run folder."""

    def call(source, **options):
        settings = {"imgsz": 64, "max_det": 3, "device": "cpu", "project": tmp_path / "runs", "name": "exp"}
        detect.run(weights=weights, source=source, **{**settings, **options})
        made = sorted((tmp_path / "runs").iterdir(), key=lambda p: (len(p.name), p.name))
        return made[0] if options.get("exist_ok") else made[-1]

    return call


def written(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_options_and_defaults(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["detect.py", "--imgsz", "320", "--weights", "a.pt", "b.pt", "--classes", "0", "2"]
    )
    opt = detect.parse_opt()
    assert opt.imgsz == [320, 320] and opt.weights == ["a.pt", "b.pt"] and opt.classes == [0, 2]


def test_help_imports_neither_torch_nor_opencv():
    code = "import sys, detect; assert not {'torch', 'cv2', 'numpy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_forwarded_names_resolve():
    for name in detect.FORWARDED:
        assert getattr(detect, name) is not None


def test_pictures_are_written_under_their_own_names(run, tmp_path):
    image = picture(tmp_path / "in" / "x.jpg", (48, 64))
    folder = run(image)
    assert folder.name == "exp" and written(folder) == ["x.jpg"]
    drawn = cv2.imread(str(folder / "x.jpg"))
    assert drawn.shape == (48, 64, 3) and drawn.std() > 1  # boxes on a plain picture
    assert run(image).name == "exp2"
    assert run(image, exist_ok=True).name == "exp"


def test_pictures_of_a_format_without_encoder_become_png(run, tmp_path, caplog):
    picture(tmp_path / "in" / "x.jpg", (48, 64)).rename(tmp_path / "in" / "x.mpo")
    assert written(run(tmp_path / "in")) == ["x.mpo.png"]
    assert "x.mpo: pictures of this format cannot be written, x.mpo.png takes its place" in caplog.text


def test_a_full_disk_is_not_taken_for_an_unknown_format(run, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("utils.images.write_whole", full)
    with pytest.raises(WorkError, match=r"x\.jpg: the picture cannot be written \(No space left on device\)"):
        run(picture(tmp_path / "in" / "x.jpg", (48, 64)))
    assert "takes its place" not in caplog.text


def test_text_csv_and_crops(run, tmp_path):
    picture(tmp_path / "in" / "x.jpg", (48, 64))
    folder = run(tmp_path / "in", save_txt=True, save_conf=True, save_csv=True, save_crop=True, nosave=True)
    crops = [f"crops/b_c/x{n}.jpg" for n in ("-2", "-3", "")]
    assert written(folder) == [*crops, "labels/x.txt", "predictions.csv"]
    rows = [[float(v) for v in line.split()] for line in (folder / "labels/x.txt").read_text().splitlines()]
    assert len(rows) == 3 and all(len(row) == 6 and row[0] == 1 for row in rows)
    assert [row[5] for row in rows] == sorted(row[5] for row in rows)  # least confident first
    assert (folder / "labels/x.txt").read_text().startswith("1 ")
    for row in rows:  # whole pixels
        x1 = (row[1] - row[3] / 2) * 64
        assert x1 == pytest.approx(round(x1), abs=1e-3)
    with (folder / "predictions.csv").open() as stream:
        table = list(csv.reader(stream))
    assert table[0] == ["Image Name", "Prediction", "Confidence"] and len(table) == 4
    assert table[1] == ["x.jpg", "b/c", f"{rows[0][5]:.2f}"]
    run(tmp_path / "in", save_txt=True, nosave=True, exist_ok=True)
    assert len((folder / "labels/x.txt").read_text().splitlines()) == 6  # added to


def test_corner_format_agrees_with_centres(run, tmp_path):
    image = picture(tmp_path / "in" / "x.jpg", (48, 64))
    centres = np.loadtxt(run(image, save_txt=True) / "labels/x.txt")
    corners = np.loadtxt(run(image, save_txt=True, save_format=1) / "labels/x.txt")
    np.testing.assert_allclose(corners[:, 1:3], centres[:, 1:3] - centres[:, 3:] / 2, atol=1e-5)
    np.testing.assert_allclose(corners[:, 3:], centres[:, 1:3] + centres[:, 3:] / 2, atol=1e-5)


def test_text_line_by_hand():
    """Box (10, 20)-(30, 60) in a 100 x 200 image: centre .2 .2, size .2 .2; corners .1 .1 .3 .3."""
    box = torch.tensor([10.0, 20, 30, 60])
    assert text_line(3.0, box, 0.51234567, (200, 100, 3), OutputOptions()) == "3 0.2 0.2 0.2 0.2"
    assert text_line(3.0, box, 0.51234567, (200, 100), OutputOptions(conf=True)) == "3 0.2 0.2 0.2 0.2 0.512346"
    assert text_line(3.0, box, 0.5, (200, 100), OutputOptions(txt_corners=True)) == "3 0.1 0.1 0.3 0.3"


def test_list_sources_write_no_pictures(run, tmp_path):
    picture(tmp_path / "in" / "x.jpg")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/in/x.jpg\n")
    assert written(run(tmp_path / "list.txt", save_txt=True)) == ["labels/x.txt"]


def test_videos(run, tmp_path):
    video(tmp_path / "in" / "v.mp4", frames=3)
    folder = run(tmp_path / "in", save_txt=True)
    assert written(folder) == ["labels/v_1.txt", "labels/v_2.txt", "labels/v_3.txt", "v.mp4"]
    assert sum(1 for _ in LoadImages(folder / "v.mp4")) == 3
    assert written(run(tmp_path / "in", save_txt=True, vid_stride=3)) == ["labels/v_1.txt", "v.mp4"]


def test_streams(run, tmp_path):
    video(tmp_path / "in" / "cam.mp4", frames=4, fps=20)
    video(tmp_path / "other" / "cam.mp4", frames=4, fps=20)
    (tmp_path / "a.streams").write_text(f"{tmp_path}/in/cam.mp4\n{tmp_path}/other/cam.mp4")
    files = written(run(tmp_path / "a.streams", save_txt=True))
    assert {"in/cam.mp4", "other/cam.mp4", "labels/in/cam_0.txt", "labels/other/cam_0.txt"} <= set(files)


def test_inputs_of_one_name_keep_their_results_apart(run, tmp_path):
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "b/y.jpg"):
        picture(tmp_path / "in" / name)
    folder = run(f"{tmp_path}/in/**/*.*", save_txt=True)
    labels = ["labels/a/x.txt", "labels/b/x.jpg.txt", "labels/b/x.png.txt", "labels/y.txt"]
    assert written(folder) == ["a/x.jpg", "b/x.jpg", "b/x.png", *labels, "y.jpg"]
    assert all(len((folder / label).read_text().splitlines()) == 3 for label in labels)


def test_output_stems():
    assert output_stems(["/d/a.jpg", "/d/b.mp4"]) == [Path("a"), Path("b")]
    assert output_stems(["/d/1/a.jpg", "/d/2/a.jpg"]) == [Path("1/a"), Path("2/a")]
    assert output_stems(["/d/a.jpg", "/d/a.png"]) == [Path("a.jpg"), Path("a.png")]
    assert output_stems(["/d/a.jpg", "/d/a.jpg"]) == [Path("a"), Path("a")]


def test_frames_of_a_video_and_images_keep_apart():
    """Frame 3 of v.mp4 has the stem v_3, which is that of v_3.jpg."""
    assert output_stems(["/d/v.mp4", "/d/v_3.jpg"]) == [Path("v.mp4"), Path("v_3")]
    assert output_stems(["/d/v.jpg", "/d/v_3.jpg"]) == [Path("v"), Path("v_3")]
    assert output_stems(["/d/v.mp4", "/d/v_3.avi"]) == [Path("v"), Path("v_3")]
    assert output_stems(["/d/v.mp4", "/d/v.jpg", "/d/v_3.png"]) == [Path("v.mp4"), Path("v.jpg"), Path("v_3")]


_media = st.builds(
    lambda folders, stem, suffix: "/".join(["/d", *folders, f"{stem}.{suffix}"]),
    st.lists(st.sampled_from(["a", "b", "A"]), max_size=2),
    st.sampled_from(["x", "X", "x_1", "x_2", "x.jpg", "x.mp4", "x.jpg_1", "x~1", "a", "x.mp4_1"]),
    st.sampled_from(["jpg", "png", "JPG", "mp4", "avi"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_media, min_size=1, max_size=12))
def test_no_two_inputs_have_one_text_file(paths):
    """Not even on a file system that ignores case, and whatever frames a video has."""
    stems = output_stems(paths)
    assert len(stems) == len(paths)
    owners = {}
    for path, stem in zip(paths, stems, strict=True):
        frames = [f"{stem}_{n}" for n in range(4)] if path.endswith(("mp4", "avi")) else [str(stem)]
        for name in frames:
            assert owners.setdefault(name.lower(), path) == path, (path, owners[name.lower()])
        assert not stem.is_absolute() and ".." not in stem.parts


def test_inputs_on_different_drives_keep_apart(monkeypatch):
    def no_common_path(paths):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("utils.outputs.stems.os.path.commonpath", no_common_path)
    assert output_stems(["/c/x.jpg", "/d/x.jpg"]) == [Path("_/c/x"), Path("_/d/x")]


def test_an_input_named_twice_is_read_once(run, tmp_path, caplog):
    detect.LOGGER.propagate = True
    image = picture(tmp_path / "in" / "x.jpg", (48, 64))
    (tmp_path / "list.txt").write_text(f"{image}\n{tmp_path}/in\n{image}\n")
    with caplog.at_level("WARNING", logger="yolov5"):
        folder = run(tmp_path / "list.txt", save_txt=True)
    assert len((folder / "labels/x.txt").read_text().splitlines()) == 3
    assert "2 entries repeat a file" in caplog.text


def test_predictions_that_are_no_numbers_are_named(run, tmp_path, caplog, monkeypatch):
    """Sound weights can give NaN, in half precision for one: the image is named; when all are so, the run fails."""
    detect.LOGGER.propagate = True
    for name in ("a", "b"):
        picture(tmp_path / "in" / f"{name}.jpg")
    forward = DetectMultiBackend.forward
    calls = []

    def broken(self, im, augment=False):
        calls.append(1)
        output = forward(self, im, augment)
        if len(calls) in sick:
            (output[0] if isinstance(output, list) else output)[..., 7, 2] = float("nan")
        return output

    monkeypatch.setattr(DetectMultiBackend, "forward", broken)
    monkeypatch.setattr("utils.nms._stated", set())
    sick = {2}
    with caplog.at_level("WARNING", logger="yolov5"):
        run(tmp_path / "in", save_txt=True)
    assert "1 of 2 images have predictions that are not finite numbers, the first is " in caplog.text
    assert "b.jpg" in caplog.text and caplog.text.count("NMS: 1 of 1 images") == 1
    calls.clear()
    sick = {1, 2}
    with pytest.raises(WorkError, match=r"2 of 2 images.*not finite numbers.*a\.jpg"):
        run(tmp_path / "in")


@pytest.mark.parametrize(
    ("name", "wanted"), [("cat", "cat"), ("../x", ".._x"), ("..", "_"), ("", "_"), ("a/b\\c", "a_b_c")]
)
def test_safe_name(name, wanted):
    assert safe_name(name) == wanted


def test_class_filter_and_agnostic(run, tmp_path):
    image = picture(tmp_path / "in" / "x.jpg")
    assert written(run(image, save_txt=True, nosave=True, classes=[0])) == []
    assert written(run(image, save_txt=True, nosave=True, classes=[1], agnostic_nms=True)) == ["labels/x.txt"]


def test_class_thresholds_leave_out_a_class(run, tmp_path):
    image = picture(tmp_path / "in" / "x.jpg")
    assert written(run(image, save_txt=True, nosave=True, class_thres="b/c=1")) == []
    assert written(run(image, save_txt=True, nosave=True, class_thres=[1, 0.1])) == ["labels/x.txt"]
    assert written(run(image, save_txt=True, nosave=True, conf_thres=1, class_thres={"b/c": 0.1})) == ["labels/x.txt"]


def test_class_thresholds_on_a_photograph_equal_filtering_the_output(shared, tmp_path):
    """yolov5n.pt on people and a bus: what is found with thresholds by class is what is found at 0.1 and above them."""
    path = shared / "datasets/coco128/images/train2017/000000000471.jpg"
    if not path.exists():
        path = sorted(path.parent.iterdir())[20]
    settings = {"weights": shared / "weights/yolov5n.pt", "source": path, "project": tmp_path, "device": "cpu"}
    settings.update(imgsz=320, nosave=True, save_txt=True, save_conf=True)
    detect.run(**settings, name="all", conf_thres=0.1)
    every = np.loadtxt(next((tmp_path / "all/labels").iterdir()))
    classes, counts = np.unique(every[:, 0], return_counts=True)
    names = DetectMultiBackend(shared / "weights/yolov5n.pt").names
    often = int(classes[counts.argmax()])
    middle = float(np.median(every[every[:, 0] == often, 5])) + 1e-4
    (tmp_path / "thresholds.yaml").write_text(f"{names[often]}: {middle}\n")
    detect.run(**settings, name="some", conf_thres=0.1, class_thres=tmp_path / "thresholds.yaml")
    found = np.loadtxt(next((tmp_path / "some/labels").iterdir()), ndmin=2)
    wanted = every[every[:, 5] > np.where(every[:, 0] == often, middle, 0.1)]
    assert 0 < len(wanted) < len(every)
    np.testing.assert_array_equal(found, wanted)


def test_logit_adjustment_raises_the_rare_class(tmp_path, weights):
    """The logits are about -4 and 4; class 0 was 1e5 times rarer, so at tau 1 its logit rises by 11.5, above 4."""
    from utils.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(weights)
    checkpoint["model"].class_weights = torch.tensor([1.0, 1e-5])
    save_checkpoint(tmp_path / "counted.pt", checkpoint)
    image = picture(tmp_path / "in" / "x.jpg")
    settings = {"imgsz": 64, "device": "cpu", "save_txt": True, "nosave": True, "project": tmp_path}
    for tau, wanted in ((0.0, {1.0}), (1.0, {0.0})):
        detect.run(tmp_path / "counted.pt", image, **settings, cls_tau=tau, name=f"tau{tau}")
        assert set(np.loadtxt(tmp_path / f"tau{tau}/labels/x.txt")[:, 0]) == wanted


def test_hidden_labels_change_the_picture(run, tmp_path):
    image = picture(tmp_path / "in" / "x.png", (64, 64))
    pictures = [
        cv2.imread(str(run(image, line_thickness=1, **options) / "x.png"))
        for options in ({}, {"hide_conf": True}, {"hide_labels": True})
    ]
    assert not np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[1], pictures[2])


def test_ensemble_and_augmentation(run, tmp_path, weights):
    image = picture(tmp_path / "in" / "x.jpg")
    detect.run(
        weights=[weights, weights], source=image, imgsz=64, device="cpu", augment=True, project=tmp_path, name="both"
    )
    assert written(tmp_path / "both") == ["x.jpg"]


def test_feature_maps_are_taken_once_per_layer(run, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr("utils.plots.feature_visualization", lambda x, kind, i, save_dir: taken.append((i, save_dir)))
    folder = run(picture(tmp_path / "in" / "x.jpg"), visualize=True, augment=True, nosave=True)
    assert taken == [(i, folder / "x") for i in range(25)]


@pytest.mark.slow
def test_feature_map_pictures(run, tmp_path):
    folder = run(picture(tmp_path / "in" / "x.jpg"), visualize=True, nosave=True)
    assert "x/stage0_Conv_features.png" in written(folder)


def test_update_strips_the_checkpoint(run, tmp_path, weights):
    copied = tmp_path / "copy.pt"
    copied.write_bytes(weights.read_bytes())
    detect.run(copied, picture(tmp_path / "in" / "x.jpg"), imgsz=64, device="cpu", update=True, project=tmp_path / "r")
    assert DetectMultiBackend(copied).names == {0: "a", 1: "b/c"}


def test_junk_file_is_named_and_the_rest_is_done(run, tmp_path, caplog):
    """Three good images and one junk file: three results, the file named, one skipped."""
    detect.LOGGER.propagate = True
    for i in range(3):
        picture(tmp_path / "in" / f"{i}.jpg")
    (tmp_path / "in" / "junk.png").write_bytes(b"\x89PNG not really")
    with caplog.at_level("WARNING", logger="yolov5"):
        folder = run(tmp_path / "in")
    assert written(folder) == ["0.jpg", "1.jpg", "2.jpg"]
    assert "1 of 4 inputs skipped" in caplog.text and "junk.png" in caplog.text


def test_nothing_readable_is_a_failure_without_a_folder(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "junk.png").write_bytes(b"junk")
    with pytest.raises(WorkError, match=r"none of the 1 inputs.*junk\.png"):
        run(tmp_path / "in", save_txt=True)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_turned_photographs_give_the_boxes_of_upright_pixels(run, tmp_path, orientation):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (48, 96, 3), np.uint8)
    turn = {1: None, 3: 3, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # PIL's way back to the stored pixels
    stored = Image.fromarray(pixels) if turn is None else Image.fromarray(pixels).transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "in").mkdir()
    stored.save(tmp_path / "in" / "tagged.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "in" / "upright.png")
    folder = run(tmp_path / "in", save_txt=True, nosave=True)
    tagged, upright = ((folder / f"labels/{name}.txt").read_text() for name in ("tagged", "upright"))
    assert tagged == upright


@pytest.mark.parametrize("orientation", [o if o == 6 else pytest.param(o, marks=pytest.mark.slow) for o in STORED])
def test_formats_and_orientations_give_the_boxes_of_upright_rgb_copies(shared, tmp_path, orientation):
    """yolov5n.pt on a photograph in 12 formats, each under a wrong suffix: every box within half a pixel."""
    photo = cv2.imread(str(shared / "datasets/coco128/images/train2017/000000000074.jpg"))
    photo = cv2.resize(photo, (320, 213), interpolation=cv2.INTER_AREA)[..., ::-1]
    (tmp_path / "in").mkdir()
    for name in FORMATS:
        data, upright = in_format(name, photo, orientation)
        (tmp_path / "in" / f"{name}.tif").write_bytes(data)
        cv2.imwrite(str(tmp_path / "in" / f"{name} upright.png"), upright[..., ::-1])
    settings = {"imgsz": 320, "nosave": True, "device": "cpu", "project": tmp_path / "runs"}
    boxes: dict[str, np.ndarray] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DetectionWriter, "write", lambda self, item, found: boxes.update({item.path.stem: found.numpy()}))
        patch.setattr("utils.detection.scale_boxes", lambda *args: _Unrounded(scale_boxes(*args)))
        detect.run(weights=shared / "weights/yolov5n.pt", source=tmp_path / "in", **settings)
    assert len(boxes) == 2 * len(FORMATS)
    for name in FORMATS:
        found, wanted = boxes[name], boxes[f"{name} upright"]
        for these, those in ((found, wanted), (wanted, found)):
            these = these[these[:, 4] > 0.3]  # one just above the threshold may be just below it in the other
            far = np.abs(these[:, None, :4] - those[None, :, :4]).max(2) + 1000 * (
                these[:, None, 5] != those[None, :, 5]
            )
            assert len(these) and far.min(1).max() <= 0.5, name


class _Unrounded:
    """Boxes in pixels that detection does not round."""

    def __init__(self, boxes):
        self.boxes = boxes

    def round(self):
        return self.boxes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conf_thres": 1.5}, "--conf-thres 1.5"),
        ({"iou_thres": float("nan")}, "--iou-thres nan"),
        ({"max_det": 0}, "--max-det 0"),
        ({"vid_stride": 0}, "--vid-stride 0"),
        ({"line_thickness": -1}, "--line-thickness -1"),
        ({"imgsz": (0, 64)}, "--imgsz 0 64"),
        ({"save_format": 2}, "--save-format 2"),
        ({"classes": [7]}, "--classes 7"),
        ({"class_thres": "0.3"}, "--class-thres: 1 values for 2 classes (a, b/c)"),
        ({"class_thres": {"B/c": 0.3}}, "unknown class 'B/c', did you mean 'b/c'?"),
        ({"cls_tau": 3}, "--cls-tau 3: expected a number from 0 to 2"),
        ({"cls_tau": 1.0, "data": "gone.yaml"}, "--cls-tau 1.0: the model does not tell the class counts"),
        ({"source": "nowhere.jpg"}, "nowhere.jpg does not exist"),
    ],
)
def test_refused_runs_leave_nothing(run, tmp_path, options, words):
    source = options.pop("source", picture(tmp_path / "in" / "x.jpg"))
    with pytest.raises(InputError) as error:
        run(source, **options)
    assert words in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_wrong_options_are_reported_together(run, tmp_path):
    with pytest.raises(InputError) as error:
        run(tmp_path, conf_thres=-1, max_det=0)
    assert len(str(error.value).splitlines()) == 2


def test_describe():
    rows = torch.tensor([[0, 0, 1, 1, 0.9, 1.0], [0, 0, 1, 1, 0.8, 0.0], [0, 0, 1, 1, 0.7, 1.0]])
    assert describe(rows, {0: "dog", 1: "cat"}) == "1 dog, 2 cats, "
    assert describe(rows[:0], {}) == "(no detections), "


def test_command(tmp_path, weights):
    image = picture(tmp_path / "x.jpg")
    options = ["--weights", weights, "--imgsz", "64", "--device", "cpu", "--source", image, "--project", tmp_path / "r"]
    command = [sys.executable, ROOT / "detect.py", *options]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"image 1/1 {image}: 64x64" in done.stderr and "Speed:" in done.stderr
    assert written(tmp_path / "r") == ["exp/x.jpg"]


def test_refusal_is_one_line_with_status_2(run, capsys):
    with pytest.raises(SystemExit) as end:
        run_command(lambda: run("no.jpg"))
    assert end.value.code == 2
    assert capsys.readouterr().err == f"error: {Path.cwd()}/no.jpg does not exist\n"


def test_reference_detections(shared, golden, tmp_path):
    """yolov5n.pt on three images at 640: boxes in original pixels as measured, and rounded in the text files."""
    facts, arrays = golden("yolov5n_pt")
    folder = shared / "datasets/coco128/images/train2017"
    model = DetectMultiBackend(shared / "weights/yolov5n.pt")
    for name, image in facts["images"].items():
        wanted = arrays[f"{name}/nms/detect_original_pixels"]
        path = folder / image["image"]
        with torch.inference_mode():
            (_, im, im0, _, _) = next(iter(open_source(str(path), [640, 640], model.stride, True, 1)))
            found = non_max_suppression(model(torch.from_numpy(im)[None].float() / 255), 0.25, 0.45, max_det=1000)[0]
            found[:, :4] = scale_boxes(im.shape[1:], found[:, :4], im0.shape)
        np.testing.assert_allclose(found.numpy(), wanted, atol=5e-3)
        detect.run(
            shared / "weights/yolov5n.pt", path, project=tmp_path, name=name, save_txt=True, nosave=True, device="cpu"
        )
        lines = np.loadtxt(tmp_path / name / f"labels/{path.stem}.txt").reshape(-1, 5)
        height, width = im0.shape[:2]
        boxes = wanted[::-1, :4].round()
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / [width, height]
        np.testing.assert_allclose(lines[:, 0], wanted[::-1, 5])
        np.testing.assert_allclose(lines[:, 1:3], centres, atol=1e-5)


def test_view_img_without_a_screen_ends_in_a_warning_not_an_abort():
    """OpenCV's window toolkit ends the whole process where it finds no display."""
    code = "import detect; print(detect.can_show())"
    environment = {key: value for key, value in os.environ.items() if key not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_the_first_images_time_holds_no_import(weights, tmp_path):
    """The speed line of one image says what detecting takes, not what loading torchvision's library takes."""
    picture(tmp_path / "a.jpg")
    code = """
import sys, detect, torch
from utils import detection
predict = detection.predict
detection.predict = lambda *args: (print(hasattr(torch.ops.torchvision, "nms")), predict(*args))[1]
detect.run(weights=sys.argv[1], source=sys.argv[2], imgsz=64, device="cpu", project=sys.argv[3], nosave=True)
"""
    command = [sys.executable, "-c", code, str(weights), str(tmp_path / "a.jpg"), str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True"], done.stderr
