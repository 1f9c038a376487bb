"""What detection reads: images and videos from files, live streams, the screen.

Each loader yields ``(path, image, original, capture, text)``: the letterboxed image as uint8 RGB (3, h, w) (streams:
(n, 3, h, w)), the original as uint8 BGR (h, w, 3) (streams: a list of n), the cv2.VideoCapture of a video or None, and
the beginning of the log line.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.augmentations import letterbox
from utils.data.live_sources import (
    SCREEN,
    LoadScreenshots,
    LoadStreams,
    is_webcam,
    read_lines,
    screen_area,
    stream_names,
    to_network,
)
from utils.errors import InputError, MissingFileError, printable
from utils.images import IMG_FORMATS, VID_FORMATS, ImageError, imread
from utils.logs import LOGGER

Size = int | Sequence[int]
Frame = tuple[str, np.ndarray, np.ndarray, Any, str]

URL_STARTS = ("rtsp://", "rtmp://", "http://", "https://")
MAX_SOURCE = 8192  # characters; Linux takes paths of up to 4096
MAX_PATTERN_PARTS = 256  # glob descends into itself once for each


def _suffix(path: str | Path) -> str:
    return Path(path).suffix[1:].lower()


def is_media_url(source: str) -> bool:
    """Whether a source is the URL of one image or video: the suffix decides, in lower case as YOLOv5 compares it."""
    known = Path(source).suffix[1:] in IMG_FORMATS + VID_FORMATS
    return known and source.lower().startswith(URL_STARTS)


def source_kind(source: str) -> str:
    """Tell what a source is: ``streams``, ``screen`` or ``files``.

    Args:
        source: as given to detect.py's --source.
    """
    is_url = source.lower().startswith(URL_STARTS)
    if is_webcam(source) or source.endswith(".streams") or (is_url and not is_media_url(source)):
        return "streams"
    if SCREEN.fullmatch(source) or (source.lower().startswith("screen") and not os.path.exists(source)):
        return "screen"
    return "files"


def list_media(path: str | Path | Sequence[str | Path]) -> tuple[list[str], list[str]]:
    """Return the images and the videos that ``path`` stands for, each sorted within its folder or pattern.

    Args:
        path: a file, a folder (without its subfolders), a pattern with ``*`` (recursive with ``**``), a .txt file with
            one of these per line, or a list of these.

    Raises:
        MissingFileError: a file or folder does not exist.
        InputError: nothing found that is an image or a video.
    """
    if isinstance(path, (list, tuple)):
        entries = [(str(p), "") for p in sorted(map(str, path))]
    elif _suffix(path) == "txt" and os.path.isfile(path):
        entries = _list_entries(Path(path))
    else:
        entries = [(str(path), "")]
    named = [file for entry, origin in entries for file in _expand(entry, origin)]
    files = list(dict.fromkeys(named))
    if len(files) < len(named):
        LOGGER.warning(f"WARNING {path}: {len(named) - len(files)} entries repeat a file, each file is read once")
    images = [file for file in files if _suffix(file) in IMG_FORMATS]
    videos = [file for file in files if _suffix(file) in VID_FORMATS]
    if not images and not videos:
        raise InputError(
            f"{path}: no image or video found; images end in {', '.join(IMG_FORMATS)}, "
            f"videos in {', '.join(VID_FORMATS)}"
        )
    return images, videos


def _list_entries(path: Path) -> list[tuple[str, str]]:
    """Return (entry, 'file, line n: ') of a text file's lines; an entry may also lie beside the text file."""
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        entry = line.strip()
        if not entry:
            continue
        beside = os.path.join(path.parent, entry)
        if "*" not in entry and not os.path.exists(entry) and os.path.exists(beside):
            entry = beside
        entries.append((entry, f"{path}, line {number}: "))
    return sorted(entries)


def _expand(entry: str, origin: str) -> list[str]:
    """Return the absolute paths of the files that one entry names."""
    if len(entry) > MAX_SOURCE:
        raise InputError(f"{origin}{entry[:60]}...: {len(entry)} characters, allowed are {MAX_SOURCE}")
    path = os.path.abspath(entry)
    if os.path.isdir(path):
        try:
            return sorted(file.path for file in os.scandir(path) if file.is_file() or _is_broken(file.path))
        except OSError as error:
            raise InputError(f"{origin}{path}: the folder cannot be read ({error.strerror})") from None
    if os.path.isfile(path):
        return [path]
    if "*" in path and "\0" not in path:
        parts = path.count(os.sep)
        if parts > MAX_PATTERN_PARTS:
            raise InputError(f"{origin}{path[:60]}...: a pattern of {parts} parts, allowed are {MAX_PATTERN_PARTS}")
        return sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    raise MissingFileError(f"{origin}{path} does not exist")


def _is_broken(path: str) -> bool:
    """Return whether a path is a link to nothing, which is to be named among what cannot be read."""
    return os.path.islink(path) and not os.path.exists(path)


class LoadImages:
    """Images and videos of files, folders, patterns and lists, one frame at a time.

    A file that cannot be read is passed over: ``problems`` holds (path, reason) and the log a warning.

    Args:
        path: see ``list_media``.
        img_size: side, or (height, width), to letterbox into.
        stride: of the model, for ``auto``.
        auto: pad to a multiple of the stride instead of to the whole of ``img_size``.
        transforms: replaces letterboxing: original in, network's image out.
        vid_stride: use each n-th frame of a video.

    Raises:
        MissingFileError, InputError: nothing to read, see ``list_media``.
    """

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        path: str | Path | Sequence[str | Path],
        img_size: Size = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Callable[[np.ndarray], Any] | None = None,
        vid_stride: int = 1,
    ):
        images, videos = list_media(path)
        self.files = images + videos
        self.nf = len(self.files)
        self.video_flag = [False] * len(images) + [True] * len(videos)
        self.img_size = img_size
        self.stride = stride
        self.auto = auto
        self.transforms = transforms
        self.vid_stride = vid_stride
        self.mode = "image"
        self.cap: cv2.VideoCapture | None = None
        self.problems: list[tuple[str, str]] = []
        self.warn: Callable[[str], object] = LOGGER.warning
        self.count = 0
        self.frame = self.frames = 0
        if videos:
            self._new_video(videos[0])

    def __len__(self) -> int:
        """Return the number of files."""
        return self.nf

    def __iter__(self) -> LoadImages:
        """Start with the first file."""
        self.count = 0
        self.problems = []
        self.close()
        return self

    def __next__(self) -> Frame:
        """Return the next readable image or frame."""
        while self.count < self.nf:
            item = self._next_frame() if self.video_flag[self.count] else self._next_image()
            if item is not None:
                return item
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Let go of the open video."""
        if self.cap is not None:
            self.cap.release()
        self.cap = None

    def _next_image(self) -> Frame | None:
        path = self.files[self.count]
        self.count += 1
        self.mode = "image"
        try:
            im0 = imread(path, whole=True)
            im = self._prepare(im0)
        except (ImageError, cv2.error, MemoryError) as error:
            self._skip(path, error)
            return None
        return path, im, im0, None, f"image {self.count}/{self.nf} {path}: "

    def _next_frame(self) -> Frame | None:
        path = self.files[self.count]
        self.mode = "video"
        if self.cap is None:
            self._new_video(path)
        grabbed = all(self.cap.grab() for _ in range(self.vid_stride))
        ok, im0 = self.cap.retrieve() if grabbed else (False, None)
        if not ok:
            self._end_video(path)
            return None
        self.frame += 1
        text = f"video {self.count + 1}/{self.nf} ({self.frame}/{self.frames}) {path}: "
        return path, self._prepare(im0), im0, self.cap, text

    def _prepare(self, im0: np.ndarray) -> Any:
        """Turn an original into the network's image."""
        if self.transforms:
            return self.transforms(im0)
        return to_network(letterbox(im0, self.img_size, stride=self.stride, auto=self.auto)[0])

    def _new_video(self, path: str) -> None:
        """Open a video; frames count from 1 once read."""
        self.frame = 0
        self.cap = cv2.VideoCapture(path)
        frames = self.cap.get(cv2.CAP_PROP_FRAME_COUNT) / self.vid_stride
        self.frames = max(int(frames), 0) if math.isfinite(frames) else 0
        self.orientation = int(self.cap.get(cv2.CAP_PROP_ORIENTATION_META))

    def _end_video(self, path: str) -> None:
        """Go on to the next file; a video that gave nothing is a problem, one that ended early is mentioned."""
        if self.frame == 0:
            stride = f" with --vid-stride {self.vid_stride}" if self.vid_stride > 1 else ""
            self._skip(path, f"{path}: no frame can be read as a video{stride}")
        elif self.frame < self.frames - 1:
            self.warn(f"WARNING {path}: ended after {self.frame} of about {self.frames} frames")
        self.close()
        self.count += 1

    def _skip(self, path: str, error: object) -> None:
        reason = " ".join(str(error).removeprefix(f"{path}: ").split()) or "out of memory"
        self.problems.append((path, reason))
        self.warn(f"WARNING skipped: {printable(path)}: {reason}")

    def _cv2_rotate(self, im: np.ndarray) -> np.ndarray:
        """Turn a frame upright by the video's orientation tag, for OpenCV builds that do not do so themselves."""
        turns = {0: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_90_COUNTERCLOCKWISE, 90: cv2.ROTATE_180}
        return cv2.rotate(im, turns[self.orientation]) if self.orientation in turns else im


def check_source(source: str) -> str:
    """Make sure a source can be read before anything else is done, and fetch it if it is the URL of a file.

    Returns:
        The source to open.

    Raises:
        InputError: nothing there; see the loaders.
    """
    if len(source) > MAX_SOURCE:
        raise InputError(f"source {source[:60]}...: {len(source)} characters, allowed are {MAX_SOURCE}")
    if is_media_url(source):
        from utils.general import check_file

        source = str(check_file(source))
    kind = source_kind(source)
    if kind == "files":
        list_media(source)
    elif kind == "streams":
        stream_names(source)
    else:
        screen_area(source)
    return source


def open_source(  # noqa: PLR0913, PLR0917  (arguments of LoadImages)
    source: str,
    img_size: Size,
    stride: int,
    auto: bool,
    vid_stride: int,
    transforms: Callable[[np.ndarray], Any] | None = None,
) -> LoadImages | LoadStreams | LoadScreenshots:
    """Return the loader for a source that ``check_source`` accepted; arguments as in LoadImages."""
    kind = source_kind(source)
    common = {"img_size": img_size, "stride": stride, "auto": auto, "transforms": transforms}
    if kind == "streams":
        return LoadStreams(source, **common, vid_stride=vid_stride)
    if kind == "screen":
        return LoadScreenshots(source, **common)
    return LoadImages(source, **common, vid_stride=vid_stride)
