"""Decoded images kept in memory or in files, so that an epoch need not decode them again."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.data.forked import cpu_count
from utils.data.leftovers import remove_leftovers
from utils.data.shared_memory import SharedMemory, shared_memory
from utils.errors import WorkError
from utils.logs import LOGGER, TQDM_BAR_FORMAT
from utils.safe_write import part_beside

GIB = 1 << 30
_MAX_THREADS = 32
_FAMILY = b"yolov5-image-"
_MARK = _FAMILY + b"2\0"
_SUM = 4  # bytes of a CRC-32
_TAIL = len(_MARK) + hashlib.sha256().digest_size + _SUM

Load = Callable[[int], np.ndarray]


def available_memory() -> int | None:
    """Return the bytes that this process may still take: the smaller of machine and container, None if unknown."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    if not found and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


class RamCache:
    """All images in one buffer of memory, which forked workers share, and the processes of a run where it is given.

    Args:
        shapes: (N, 2) height and width of each image as ``load`` returns it.
        memory: shared by several processes, of which one fills it; else the buffer is this process's own.

    Raises:
        OSError: the shared memory is not there.
    """

    def __init__(self, shapes: np.ndarray, memory: SharedMemory | None = None):
        self.shapes = np.asarray(shapes, dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum(self.shapes.prod(1) * 3)
        self._memory = memory
        self._buffer = np.empty(self.nbytes, np.uint8) if memory is None else memory.buffer()
        self._filled = np.zeros(len(self.shapes), bool)

    @property
    def is_shared(self) -> bool:
        """Whether other processes use the same memory."""
        return self._memory is not None

    @property
    def nbytes(self) -> int:
        """Return the size of the buffer."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __len__(self) -> int:
        """Return the number of images, cached or not."""
        return len(self.shapes)

    def _view(self, i: int) -> np.ndarray:
        h, w = self.shapes[i].tolist()
        end = int(self._ends[i])
        return self._buffer[end - h * w * 3 : end].reshape(h, w, 3)

    def __getitem__(self, i: int) -> np.ndarray | None:
        """Return image i (h, w, 3), not to be changed, or None."""
        if not self._filled[i]:
            return None
        view = self._view(i)
        view.flags.writeable = False
        return view

    def fill(self, load: Load, workers: int, description: str, show: bool = True) -> None:
        """Load every image, in threads; of shared memory that another process has filled none.

        Args:
            load: image number → (h, w, 3) uint8.
            workers: threads.
            description: words before the progress bar.
            show: draw the progress bar.
        """

        def keep(i: int) -> int:
            im = load(i)
            if self._memory is not None:
                self._memory.reserve(int(self._ends[i]) - im.nbytes, int(self._ends[i]))
            np.copyto(self._view(i), im)
            self._filled[i] = True
            return self._view(i).nbytes

        try:
            if self._memory is None or self._memory.to_fill:
                _with_progress(keep, range(len(self)), workers, description, show)
        except BaseException:
            if self._memory is not None:
                self._memory.abandon()
            raise
        if self._memory is not None:
            self._memory.finish()
            self._filled[:] = True


def fill_ram(  # noqa: PLR0913, PLR0917
    shapes: np.ndarray, load: Load, workers: int, prefix: str, show: bool, key: bytes | None
) -> RamCache | None:
    """Return a filled cache in memory, None (with a line in the log) where it does not fit.

    Args:
        shapes, load, workers, show: as for ``RamCache`` and its ``fill``.
        prefix: words before log lines.
        key: tells what the cache holds, for the processes of a run on this machine to share it; None keeps it alone.
    """
    nbytes = int(np.asarray(shapes, np.int64).prod(1).sum() * 3)
    memory = shared_memory(key, nbytes) if key is not None and nbytes else None
    if (memory is None or memory.to_fill) and not fits_in_memory(nbytes, 0.1, prefix):
        if memory is not None:
            memory.abandon()
        return None
    try:
        ram = RamCache(shapes, memory)
    except OSError as error:
        LOGGER.info(f"{prefix}Images in memory are not shared ({error.strerror or error}): each process keeps its own")
        memory.abandon()
        ram = RamCache(shapes)
    if ram.is_shared:
        workers = max(workers, min(cpu_count(), _MAX_THREADS))  # the other processes wait
    ram.fill(load, workers, f"{prefix}Caching images in memory", show)
    return ram


def cache_key(files: Iterable[str], shapes: np.ndarray, kind: str) -> bytes:
    """Return what tells a cache of these images (N, 2) height and width from others."""
    names = "\0".join([kind, *map(os.path.abspath, files)]).encode("utf-8", "surrogateescape")
    return hashlib.sha256(names + b"\0" + np.ascontiguousarray(shapes, "<i8").tobytes()).digest()


class DiskCache:
    """All images in .npy files beside the images, or in a cache folder where that cannot be written.

    A file carries a key made of its source's path, size and time of change, and a checksum of its pixels; a file with
    another key is replaced, one with other pixels is not used, and one that is not ours is left alone and not read.

    Args:
        files: the image files.
        shapes: (N, 2) height and width of each image as ``load`` returns it.
        kind: what was done to the pixels; images of another kind have other files.
    """

    def __init__(self, files: list[str], shapes: np.ndarray, kind: str):
        self.shapes = np.asarray(shapes, dtype=np.int64).reshape(-1, 2)
        self.kind = kind
        self._files = files
        self._folders: dict[str, Path] = {}
        self._ready = np.zeros(len(files), bool)
        self._sums = np.zeros(len(files), np.uint32)
        self._checked = np.zeros(len(files), bool)  # by this process

    def __len__(self) -> int:
        """Return the number of images, cached or not."""
        return len(self._files)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all files together."""
        return int(self.shapes.prod(1).sum() * 3)

    def path(self, i: int) -> Path:
        """Return the .npy file of image i."""
        source = Path(self._files[i])
        parent = str(source.parent)
        if parent not in self._folders:
            self._folders[parent] = _writable_folder(source.parent)
        return self._folders[parent] / f"{source.name}.{self.kind}.npy"

    def __getitem__(self, i: int) -> np.ndarray | None:
        """Return image i (h, w, 3), mapped from its file, or None."""
        if not self._ready[i]:
            return None
        path = self.path(i)
        try:
            im = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # whatever NumPy's reader meets in a file that changed since it was written
            return self._give_up(i, f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")
        if im.dtype != np.uint8 or im.shape != (*self.shapes[i].tolist(), 3):
            return self._give_up(i, f"{path}: holds another image than was put there")
        if not self._checked[i]:
            if zlib.crc32(np.ascontiguousarray(im)) != self._sums[i]:
                return self._give_up(i, f"{path}: its pixels are not those that were put there")
            self._checked[i] = True
        return im

    def _give_up(self, i: int, problem: str) -> None:
        """Say why a file is not used, which its image is decoded instead of."""
        self._ready[i] = False
        LOGGER.warning("WARNING %s; the image is decoded instead, delete the file to have it cached anew", problem)

    def fill(
        self, load: Load, workers: int, description: str, show: bool = True, numbers: Iterable[int] | None = None
    ) -> None:
        """Write the files that are missing or stale, of all images or of ``numbers``; else as ``RamCache.fill``."""
        foreign: list[Path] = []
        unwritten: list[str] = []
        for folder in {self.path(i).parent for i in range(len(self))}:
            remove_leftovers(folder, f".{self.kind}.npy")

        def keep(i: int) -> int:
            try:
                self._ready[i] = self._write(i, load, foreign)
            except OSError as error:
                unwritten.append(f"{self.path(i)}: {error.strerror or error}")
            return int(self.shapes[i].prod() * 3)

        chosen = range(len(self)) if numbers is None else list(numbers)
        _with_progress(keep, chosen, workers, description, show)
        if foreign:
            LOGGER.warning(f"{description}: {len(foreign)} files are not ours and stay unused, first {foreign[0]}")
        if unwritten:
            LOGGER.warning(f"{description}: {len(unwritten)} images are not cached, first {unwritten[0]}")

    def _write(self, i: int, load: Load, foreign: list[Path]) -> bool:
        """Bring the file of image i up to date; return whether it can be used."""
        path, key = self.path(i), _source_key(self._files[i])
        tail = _read_tail(path)
        if tail is not None and tail[:-_SUM] == _MARK + key:
            self._sums[i] = int.from_bytes(tail[-_SUM:], "little")
            return True
        if tail is not None and _FAMILY not in tail:
            foreign.append(path)
            return False
        pixels = np.ascontiguousarray(load(i))
        self._sums[i], self._checked[i] = zlib.crc32(pixels), False
        part = part_beside(path)
        try:
            with part.open("wb") as stream:
                np.lib.format.write_array(stream, pixels, allow_pickle=False)
                stream.write(_MARK + key + int(self._sums[i]).to_bytes(_SUM, "little"))
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return True


def fits_in_memory(nbytes: int, margin: float, prefix: str) -> bool:
    """Say whether a cache of ``nbytes`` fits with ``margin`` (a share of it) to spare; log why not."""
    needed, free = int(nbytes * (1 + margin)), available_memory()
    if free is None or needed <= free:
        return True
    LOGGER.warning(
        f"{prefix}{needed / GIB:.1f} GB of memory needed to cache the images with {margin:.0%} to spare, "
        f"{free / GIB:.1f} GB available: images are not cached"
    )
    return False


def _source_key(file: str) -> bytes:
    try:
        stat = os.stat(file)
    except OSError as error:
        raise WorkError(f"{file}: {error.strerror or error}") from None
    return hashlib.sha256(f"{os.path.abspath(file)}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).digest()


def _read_tail(path: Path) -> bytes | None:
    """Return the last bytes of a file, b"" for what is no plain file, None if there is nothing."""
    if path.exists() and not path.is_file():
        return b""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
            return stream.read()
    except FileNotFoundError:
        return None
    except OSError:  # a folder, or a file of another user
        return b""


def _writable_folder(folder: Path) -> Path:
    """Return the folder itself, or its stand-in below the user's cache folder when it cannot be written."""
    if os.access(folder, os.W_OK):
        return folder
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    stand_in = root / "yolov5-images" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    stand_in.mkdir(parents=True, exist_ok=True)
    return stand_in


def _with_progress(
    keep: Callable[[int], int], numbers: Sequence[int], workers: int, description: str, show: bool
) -> None:
    """Call ``keep`` for each number in threads and show the bytes it returns."""
    total = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        done: Iterator[int] = pool.map(keep, numbers)
        bar = tqdm(done, total=len(numbers), bar_format=TQDM_BAR_FORMAT, disable=not show)
        for nbytes in bar:
            total += nbytes
            bar.desc = f"{description} ({total / GIB:.1f}GB)"
        bar.close()
