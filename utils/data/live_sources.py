"""Sources without an end: live streams and the screen."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import cv2
import numpy as np

from utils.augmentations import letterbox
from utils.errors import InputError, MissingFileError, WorkError
from utils.logs import LOGGER

Size = int | Sequence[int]
Frame = tuple[str, np.ndarray, np.ndarray, Any, str]
Batch = tuple[list[str], np.ndarray, list[np.ndarray], None, str]

SCREEN = re.compile(r"screen(\s+\d{1,9})*\s*", re.IGNORECASE)
MAX_WEBCAM = 2**31 - 1  # as OpenCV numbers them
SCREEN_FORMS = "screen, screen N, screen LEFT TOP WIDTH HEIGHT, screen N LEFT TOP WIDTH HEIGHT"
YOUTUBE_HOSTS = {"www.youtube.com", "youtube.com", "m.youtube.com", "youtu.be"}
DEFAULT_FPS = 30
RETRY_SECONDS = 1.0  # before a live stream that stopped answering is opened again
RETRIES = 60


def to_network(im: np.ndarray) -> np.ndarray:
    """(h, w, 3) BGR to contiguous (3, h, w) RGB."""
    return np.ascontiguousarray(im.transpose(2, 0, 1)[::-1])


def is_webcam(source: str) -> bool:
    """Whether a source is a webcam's number: ASCII digits alone, so that ``int`` can read it."""
    return source.isascii() and source.isdigit()


class LoadStreams:
    """The newest frames of several live streams as one batch; each stream is read by a thread of its own.

    It ends when a stream ends. Streams that are files play at their own speed. A live stream that stops answering is
    black until it answers again.

    Args:
        sources: a webcam's number, a URL, or a file with one of these (or a video file) per line.
        img_size, stride, auto, transforms, vid_stride: as in LoadImages; frames of different shapes are padded to
            ``img_size``.

    Raises:
        InputError: a stream cannot be opened or gives no frame.
    """

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        sources: str | Path = "file.streams",
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Callable[[np.ndarray], Any] | None = None,
        vid_stride: int = 1,
    ):
        from utils.general import clean_str

        self.mode = "stream"
        self.img_size = img_size
        self.stride = stride
        self.vid_stride = vid_stride
        self.transforms = transforms
        self._names = names = stream_names(sources)
        self.sources = [clean_str(name) for name in names]
        self.imgs: list[np.ndarray] = [np.empty(0)] * len(names)
        self.fps = [0.0] * len(names)
        self.frames: list[float] = [0] * len(names)
        self.threads: list[threading.Thread] = []
        self.count = -1
        self._stop = threading.Event()
        self._lost: list[str] = []
        captures = []
        try:
            for i, name in enumerate(names):
                captures.append(self._open(i, name))
        except InputError:
            for capture, _ in captures:
                capture.release()
            raise
        shapes = {letterbox(im, img_size, stride=stride, auto=auto)[0].shape for im in self.imgs}
        self.rect = len(shapes) == 1
        self.auto = auto and self.rect
        if not self.rect:
            LOGGER.warning("WARNING streams of different shapes are all padded to the full image size")
        for i, (capture, address) in enumerate(captures):
            self.threads.append(threading.Thread(target=self.update, args=(i, capture, address), daemon=True))
            self.threads[i].start()

    def _open(self, i: int, name: str) -> tuple[cv2.VideoCapture, str | int]:
        """Open a stream and read its first frame."""
        address = _webcam_number(name) if is_webcam(name) else _stream_address(name)
        try:
            capture = cv2.VideoCapture(address)
        except (cv2.error, TypeError, ValueError, SystemError) as error:  # a name that OpenCV cannot even take
            raise InputError(f"{name}: this stream cannot be opened ({' '.join(str(error).split())})") from None
        ok, im = capture.read() if capture.isOpened() else (False, None)
        if not ok:
            capture.release()
            raise InputError(f"{name}: this stream cannot be opened or gives no frame (stream {i + 1})")
        self.imgs[i] = im
        fps, frames = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.fps[i] = max((fps if np.isfinite(fps) else 0) % 100, 0) or DEFAULT_FPS
        self.frames[i] = frames if np.isfinite(frames) and frames > 0 else float("inf")
        LOGGER.info(f"{i + 1}: {name}: {im.shape[1]}x{im.shape[0]} at {self.fps[i]:.2f} FPS")
        return capture, address

    def update(self, i: int, cap: cv2.VideoCapture, stream: str | int) -> None:
        """Keep ``imgs[i]`` the newest frame; a live stream that stops answering is opened again, RETRIES times."""
        live = np.isinf(self.frames[i])
        number, tries = 1, 0
        while number < self.frames[i] and not self._stop.is_set():
            number += 1
            grabbed = cap.grab()
            if number % self.vid_stride == 0 or not grabbed:
                ok, im = cap.retrieve() if grabbed else (False, None)
                if ok:
                    self.imgs[i], tries = im, 0
                elif not live:
                    break
                elif tries == RETRIES:
                    self._lost.append(self._names[i])
                    break
                else:
                    tries += 1
                    LOGGER.warning(
                        f"WARNING {self._names[i]}: the stream does not answer, opening it again ({tries}/{RETRIES})"
                    )
                    self.imgs[i] = np.zeros_like(self.imgs[i])
                    self._stop.wait(RETRY_SECONDS)
                    cap.open(stream)
            time.sleep(0 if live else 1 / self.fps[i])
        cap.release()

    def __iter__(self) -> LoadStreams:
        """Start counting batches."""
        self.count = -1
        return self

    def __next__(self) -> Batch:
        """Return the newest frame of each stream.

        Raises:
            WorkError: a live stream stopped answering and could not be opened again.
        """
        self.count += 1
        if self.count and not all(thread.is_alive() for thread in self.threads):
            self.close()
            if self._lost:
                raise WorkError(f"{self._lost[0]}: the stream stopped, and {RETRIES} times opening it again failed")
            raise StopIteration
        originals = self.imgs.copy()
        if self.transforms:
            return self.sources, np.stack([self.transforms(im) for im in originals]), originals, None, ""
        boxed = [letterbox(im, self.img_size, stride=self.stride, auto=self.auto)[0] for im in originals]
        return self.sources, np.stack([to_network(im) for im in boxed]), originals, None, ""

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self.sources)

    def close(self) -> None:
        """Stop the readers and let go of the streams."""
        self._stop.set()
        for thread in self.threads:
            thread.join(timeout=5)


def stream_names(sources: str | Path) -> list[str]:
    """Return the streams of a .streams file (one per line), or the one stream given.

    Raises:
        MissingFileError: a .streams file that does not exist.
        InputError: an empty one.
    """
    path = Path(sources)
    if not os.path.isfile(path):
        if path.suffix == ".streams":
            raise MissingFileError(f"{sources} does not exist; expected a file with one stream per line")
        if is_webcam(str(sources)):
            _webcam_number(str(sources))
        return [str(sources)]
    names = [name for line in read_lines(path) for name in line.split()]
    if not names:
        raise InputError(f"{sources}: the file is empty, expected one stream per line")
    return names


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list of sources.

    Raises:
        InputError: it cannot be read, or not as UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise InputError(f"{path}: {byte} is not UTF-8 text; expected one source per line") from None


def _webcam_number(name: str) -> int:
    number = int(name) if len(name) <= 20 else MAX_WEBCAM + 1
    if number > MAX_WEBCAM:
        raise InputError(f"--source {name[:40]}: webcams have numbers from 0 to {MAX_WEBCAM}")
    return number


def _stream_address(name: str) -> str:
    """Return what OpenCV can open; a YouTube page's video address is found by an extra package."""
    try:
        host = urlparse(name).hostname
    except ValueError as error:
        raise InputError(f"{name}: this stream's address cannot be read ({error})") from None
    if host not in YOUTUBE_HOSTS:
        return name
    try:
        import yt_dlp
    except ImportError:
        raise InputError(f"{name}: pages of YouTube need the package yt-dlp (pip install yt-dlp)") from None
    with yt_dlp.YoutubeDL({"format": "best[ext=mp4]/best", "quiet": True}) as reader:
        return reader.extract_info(name, download=False)["url"]


def screen_area(source: str) -> tuple[int, tuple[int, int, int, int] | None]:
    """Return (screen number, (left, top, width, height) or None) of a ``screen ...`` source.

    Raises:
        InputError: not one of its four forms.
    """
    words = source.split()[1:]
    if not SCREEN.fullmatch(source) or len(words) not in {0, 1, 4, 5}:
        raise InputError(f"--source {source}: no such file, and as a screen grab expected is one of: {SCREEN_FORMS}")
    numbers = [int(word) for word in words]
    screen = numbers[0] if len(numbers) in {1, 5} else 0
    area = tuple(numbers[-4:]) if len(numbers) >= 4 else None
    if area and 0 in area[2:]:
        raise InputError(f"--source {source}: width and height are {area[2]} and {area[3]}, allowed are numbers from 1")
    return screen, area


class LoadScreenshots:
    """Grabs of the screen, without end.

    Args:
        source: ``screen [number] [left top width height]`` in pixels; by default the whole of screen 0 (all of them).
        img_size, stride, auto, transforms: as in LoadImages.

    Raises:
        InputError: another form, no such screen, or the package mss is missing.
    """

    def __init__(
        self,
        source: str,
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Callable[[np.ndarray], Any] | None = None,
    ):
        self.screen, area = screen_area(source)
        self.sct = _open_screen()
        if self.screen >= len(self.sct.monitors):
            raise InputError(f"--source {source}: found screens 0 to {len(self.sct.monitors) - 1}")
        whole = self.sct.monitors[self.screen]
        left, top, width, height = area or (0, 0, whole["width"], whole["height"])
        self.left, self.top, self.width, self.height = whole["left"] + left, whole["top"] + top, width, height
        self.monitor = {"left": self.left, "top": self.top, "width": width, "height": height}
        self.img_size = img_size
        self.stride = stride
        self.auto = auto
        self.transforms = transforms
        self.mode = "stream"
        self.frame = 0

    def __iter__(self) -> Iterator[Frame]:
        """Return itself."""
        return self

    def __next__(self) -> Frame:
        """Grab the screen once."""
        try:
            grab = self.sct.grab(self.monitor)
        except Exception as error:  # mss raises its own and the window system's errors
            raise WorkError(f"--source screen: the screen cannot be grabbed ({' '.join(str(error).split())})") from None
        im0 = np.ascontiguousarray(np.asarray(grab)[:, :, :3])
        text = f"screen {self.screen} (LTWH): {self.left},{self.top},{self.width},{self.height}: "
        self.frame += 1
        if self.transforms:
            return str(self.screen), self.transforms(im0), im0, None, text
        boxed = letterbox(im0, self.img_size, stride=self.stride, auto=self.auto)[0]
        return str(self.screen), to_network(boxed), im0, None, text


def _open_screen() -> Any:
    """Return the screen grabber of the optional package mss."""
    try:
        import mss
    except ImportError:
        raise InputError("--source screen: grabbing the screen needs the package mss (pip install mss)") from None
    try:
        return mss.mss()
    except Exception as error:  # mss raises its own and the window system's errors
        raise InputError(f"--source screen: the screen cannot be grabbed here ({error})") from None
