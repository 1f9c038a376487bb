"""Sources of detection: which files a source stands for, frames of videos, streams, and what cannot be read."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np
import pytest

from utils.data import live_sources
from utils.data.live_sources import LoadScreenshots, LoadStreams, screen_area, stream_names
from utils.errors import InputError, MissingFileError, WorkError
from utils.paths import check_file
from utils.sources import LoadImages, check_source, is_media_url, list_media, open_source, source_kind


def picture(path, size=(40, 60), value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def video(path, frames=6, size=(48, 64), fps=10):
    """A video whose frame n (from 1) is grey of value 20 n."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size[::-1])
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no mp4v")
    for n in range(1, frames + 1):
        writer.write(np.full((*size, 3), 20 * n % 250, np.uint8))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.jpg", "sub/deep/d.bmp"):
        picture(tmp_path / name)
    video(tmp_path / "clip.mp4")
    (tmp_path / "notes.md").write_text("no picture")
    return tmp_path


def names(files):
    return [file.rsplit("/", 1)[-1] for group in files for file in group]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("0", "streams"),
        ("cams.streams", "streams"),
        ("007", "streams"),
        ("½", "files"),  # a numeric character, and no number
        ("²", "files"),
        ("rtsp://host/live", "streams"),
        ("https://host/live", "streams"),
        ("HTTP://host/a.jpg", "files"),
        ("http://host/a.jpg", "files"),
        ("http://host/a.JPG", "streams"),
        ("screen", "screen"),
        ("screen 1 0 0 10 10", "screen"),
        ("screenshots", "screen"),
        ("data/images", "files"),
        ("a.mp4", "files"),
        ("**/*.jpg", "files"),
    ],
)
def test_source_kind(source, kind):
    assert source_kind(source) == kind


def test_a_folder_called_screenshots_is_a_folder(tmp_path, monkeypatch):
    picture(tmp_path / "screenshots" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert source_kind("screenshots") == "files"
    assert source_kind(str(tmp_path / "screenshots")) == "files"


def test_media_url():
    assert is_media_url("http://x/a.mp4") and not is_media_url("http://x/a") and not is_media_url("a.mp4")


def test_folder_is_read_without_subfolders_images_first(folder):
    assert names(list_media(folder)) == ["a.PNG", "b.jpg", "clip.mp4"]


def test_patterns(folder):
    assert names(list_media(f"{folder}/*.jpg")) == ["b.jpg"]
    assert sorted(names(list_media(f"{folder}/**/*.*"))) == ["a.PNG", "b.jpg", "c.jpg", "clip.mp4", "d.bmp"]


def test_endless_sources_are_refused(folder):
    with pytest.raises(InputError, match="a pattern of [0-9]+ parts, allowed are 256"):
        LoadImages(str(folder) + "/**" * 300 + "/*.png")
    for read in (check_source, LoadImages):
        with pytest.raises(InputError, match=r"99\.\.\.: 9000 characters, allowed are 8192"):
            read("9" * 9000)


def test_endless_names_are_not_searched_for():
    with pytest.raises(MissingFileError, match=r"a/a/a.*\.\.\. \(2400 characters\): no such file"):
        check_file("a/" * 1200)


def test_list_file_takes_files_and_folders_also_relative_to_itself(folder, monkeypatch):
    text = folder / "list.txt"
    text.write_text(f"{folder}/b.jpg\n\nsub\nwith space.png\n")
    picture(folder / "with space.png")
    monkeypatch.chdir(folder.parent)
    assert sorted(names(list_media(text))) == ["b.jpg", "c.jpg", "with space.png"]


def test_python_lists_are_sorted(folder):
    assert names(list_media([folder / "b.jpg", folder / "a.PNG"])) == ["a.PNG", "b.jpg"]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("nowhere", MissingFileError, "nowhere does not exist"),
        ("nowhere.jpg", MissingFileError, "nowhere.jpg does not exist"),
        ("notes.md", InputError, "no image or video found"),
        ("*.xyz", InputError, "no image or video found"),
        ("bad.txt", MissingFileError, "line 2: "),
        ("nowhere.streams", MissingFileError, "nowhere.streams"),
        ("screen 1 2", InputError, "expected is one of"),
        ("screenplay.jpg", InputError, "no such file"),
    ],
)
def test_refused_sources(folder, monkeypatch, source, error, words):
    (folder / "bad.txt").write_text("b.jpg\ngone.jpg\n")
    monkeypatch.chdir(folder)
    with pytest.raises(error, match=words.replace(".", r"\.")) as caught:
        check_source(source)
    assert "\n" not in str(caught.value)


def test_missing_sources_are_file_not_found_errors():
    with pytest.raises(FileNotFoundError):
        LoadImages("nowhere.jpg")


def test_items_of_images(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :, 0] = 200  # blue in BGR
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), image)
    loader = LoadImages(path, img_size=64, stride=32)
    assert len(loader) == 1 and loader.mode == "image"
    name, im, im0, cap, text = next(iter(loader))
    assert name == str(path) and cap is None and text == f"image 1/1 {path}: "
    assert np.array_equal(im0, image)
    assert im.shape == (3, 64, 64) and im.dtype == np.uint8 and im.flags.c_contiguous
    assert im[2, 32, 32] == 200 and im[0, 32, 32] == 0  # RGB


def test_automatic_padding_and_transforms(tmp_path):
    path = picture(tmp_path / "x.png", (40, 120))
    assert next(iter(LoadImages(path, img_size=128, auto=True)))[1].shape == (3, 64, 128)
    assert next(iter(LoadImages(path, img_size=128, auto=False)))[1].shape == (3, 128, 128)
    assert next(iter(LoadImages(path, transforms=lambda im: im.shape)))[1] == (40, 120, 3)


def test_videos_count_frames_from_one(tmp_path):
    path = video(tmp_path / "v.mp4")
    picture(tmp_path / "x.jpg")
    loader = LoadImages(tmp_path, img_size=64)
    items = [(p, im0.mean(), loader.frame, loader.mode, text) for p, _, im0, _, text in loader]
    assert [i[3] for i in items] == ["image", *["video"] * 6]
    assert [i[2] for i in items[1:]] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([i[1] for i in items[1:]], [20, 40, 60, 80, 100, 120], atol=4)
    assert items[3][4] == f"video 2/2 (3/6) {path}: "
    assert sum(1 for _ in loader) == 7  # a second pass


def test_video_stride_takes_the_last_of_each_group(tmp_path):
    loader = LoadImages(video(tmp_path / "v.mp4"), img_size=64, vid_stride=2)
    values = [im0.mean() for _, _, im0, _, _ in loader]
    np.testing.assert_allclose(values, [40, 80, 120], atol=4)
    assert loader.frames == 3


def test_junk_is_skipped_and_reported(tmp_path, caplog):
    for i in range(3):
        picture(tmp_path / f"{i}.jpg")
    (tmp_path / "1a.png").write_bytes(b"junk" * 20)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    picture(tmp_path / "thin.png", (1, 5000))
    loader = LoadImages(tmp_path, img_size=64)
    assert [p.rsplit("/", 1)[-1] for p, *_ in loader if "thin" not in p] == ["0.jpg", "1.jpg", "2.jpg"]
    skipped = {path.rsplit("/", 1)[-1] for path, _ in loader.problems}
    assert {"1a.png", "empty.jpg", "broken.mp4"} <= skipped
    assert all(reason and "\n" not in reason and path not in reason for path, reason in loader.problems)


def test_inputs_stay_as_they_are(tmp_path):
    path = tmp_path / "cut.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    content = path.read_bytes()[:-2]
    path.write_bytes(content)
    list(LoadImages(path))
    assert path.read_bytes() == content


def test_streams_from_files_play_until_one_ends(tmp_path):
    video(tmp_path / "a.mp4", frames=8, fps=25)
    video(tmp_path / "b.mp4", frames=30, fps=25)
    (tmp_path / "all.streams").write_text(f"{tmp_path}/a.mp4\n{tmp_path}/b.mp4\n")
    before = threading.active_count()
    loader = LoadStreams(tmp_path / "all.streams", img_size=64)
    assert len(loader) == 2 and loader.mode == "stream" and loader.rect
    seen = 0
    for paths, im, im0s, cap, text in loader:
        assert im.shape == (2, 3, 64, 64) and len(im0s) == 2 and cap is None and text == ""
        assert paths == loader.sources
        seen += 1
    assert seen >= 1
    assert threading.active_count() == before


def test_streams_of_different_shapes_are_padded_to_the_full_size(tmp_path):
    video(tmp_path / "a.mp4", size=(48, 96))
    video(tmp_path / "b.mp4", size=(96, 48))
    (tmp_path / "all.streams").write_text(f"{tmp_path}/a.mp4 {tmp_path}/b.mp4")
    loader = LoadStreams(tmp_path / "all.streams", img_size=96)
    assert not loader.rect and next(iter(loader))[1].shape == (2, 3, 96, 96)
    loader.close()


class Camera:
    """A live stream that answers a number of times, is gone for a number of tries, and answers again."""

    def __init__(self, answers: int, gone: float):
        self.answers, self.gone, self.opened = answers, gone, 0

    def __call__(self, address: str | int) -> Camera:
        return self

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's names)
        return True

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.full((32, 64, 3), 200, np.uint8)

    def get(self, what: int) -> float:
        return 30.0 if what == cv2.CAP_PROP_FPS else 0.0

    def grab(self) -> bool:
        time.sleep(0.001)  # as a camera waits for its next frame
        self.answers -= 1
        return self.answers >= 0

    def retrieve(self) -> tuple[bool, np.ndarray]:
        return self.read()

    def open(self, address: str | int) -> bool:
        self.opened += 1
        self.answers = 10**9 if self.opened > self.gone else 0
        return self.answers > 0

    def release(self) -> None:
        self.answers = 0


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(live_sources, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(live_sources, "RETRIES", 5)


def test_a_camera_that_stays_away_ends_the_run_with_its_name(impatient, monkeypatch):
    camera = Camera(answers=3, gone=np.inf)
    monkeypatch.setattr(cv2, "VideoCapture", camera)
    with pytest.raises(WorkError, match=r"rtsp://hall/1: the stream stopped, and 5 times opening it again failed"):
        for _ in LoadStreams("rtsp://hall/1", img_size=64):
            time.sleep(0.001)
    assert camera.opened == 5


def test_a_camera_that_comes_back_is_read_on(impatient, monkeypatch):
    camera = Camera(answers=3, gone=3)
    monkeypatch.setattr(cv2, "VideoCapture", camera)
    loader, levels = LoadStreams("rtsp://hall/1", img_size=64), []
    for _, _, (im,), _, _ in loader:
        levels.append(int(im.max()))
        if camera.opened == 4 and levels[-1]:
            break
        time.sleep(0.0005)
    loader.close()
    assert camera.opened == 4 and levels[-1] == 200 and set(levels) <= {0, 200}


def test_streams_that_cannot_be_opened_are_named(tmp_path):
    (tmp_path / "all.streams").write_text(f"{tmp_path}/nowhere.mp4\n")
    with pytest.raises(InputError, match=r"nowhere\.mp4.*cannot be opened"):
        LoadStreams(tmp_path / "all.streams")
    (tmp_path / "all.streams").write_text("\n")
    with pytest.raises(InputError, match="empty"):
        stream_names(tmp_path / "all.streams")


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("screen", (0, None)),
        ("screen 2", (2, None)),
        ("screen 1 2 3 4", (0, (1, 2, 3, 4))),
        ("screen 5 1 2 3 4", (5, (1, 2, 3, 4))),
    ],
)
def test_screen_area(source, wanted):
    assert screen_area(source) == wanted


class FakeScreen:
    """Two screens; a grab is a ramp of the asked size."""

    monitors = (
        {"left": 0, "top": 0, "width": 64, "height": 32},
        {"left": 64, "top": 8, "width": 32, "height": 32},
    )

    def grab(self, monitor):
        shape = (monitor["height"], monitor["width"], 4)
        return np.arange(np.prod(shape), dtype=np.int64).reshape(shape).astype(np.uint8)


def test_screen_grabs(monkeypatch):
    monkeypatch.setattr("utils.data.live_sources._open_screen", FakeScreen)
    loader = LoadScreenshots("screen 1 2 3 16 8", img_size=32)
    assert loader.monitor == {"left": 66, "top": 11, "width": 16, "height": 8}
    path, im, im0, cap, text = next(iter(loader))
    assert path == "1" and im0.shape == (8, 16, 3) and im.shape == (3, 32, 32) and cap is None
    assert text == "screen 1 (LTWH): 66,11,16,8: "
    with pytest.raises(InputError, match="screens 0 to 1"):
        LoadScreenshots("screen 7")
    assert isinstance(open_source("screen", 32, 32, True, 1), LoadScreenshots)
