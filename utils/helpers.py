"""Small tools that many modules use: timers, decorators, sizes, texts."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from utils.logs import LOGGER, colorstr


class Profile(contextlib.ContextDecorator):
    """Timer: ``with Profile() as p: ...`` leaves the seconds of the last use in ``p.dt``, of all uses in ``p.t``."""

    def __init__(self, t: float = 0.0, device: torch.device | None = None):
        self.t = t
        self.dt = 0.0
        self.device = device
        self.start = 0.0
        self.cuda = bool(device is not None and torch.device(device).type == "cuda")

    def __enter__(self) -> Profile:
        self.start = self.time()
        return self

    def __exit__(self, *_: object) -> None:
        self.dt = self.time() - self.start
        self.t += self.dt

    def __str__(self) -> str:
        return f"Elapsed time is {self.t} s"

    def time(self) -> float:
        """Return the time in seconds after the GPU, if any, has finished."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class TryExcept(contextlib.ContextDecorator):
    """Context manager and decorator that logs an exception instead of raising it."""

    def __init__(self, msg: str = "", verbose: bool = True):
        self.msg = msg
        self.verbose = verbose

    def __enter__(self) -> TryExcept:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> bool:
        if value is None:
            return False
        if not isinstance(value, Exception):
            return False  # Ctrl-C and exits go on
        if self.verbose:
            LOGGER.warning("%s%s%s", self.msg, ": " if self.msg else "", value)
        return True


class WorkingDirectory(contextlib.ContextDecorator):
    """Context manager and decorator that works in another folder for a while."""

    def __init__(self, new_dir: str | Path):
        self.dir = new_dir
        self.cwd = Path.cwd()

    def __enter__(self) -> None:
        self.cwd = Path.cwd()
        os.chdir(self.dir)

    def __exit__(self, *_: object) -> None:
        os.chdir(self.cwd)


class Timeout(contextlib.ContextDecorator):
    """Raise TimeoutError in the main thread after some seconds, where the system has alarm signals."""

    def __init__(self, seconds: float, *, timeout_msg: str = "", suppress_timeout_errors: bool = True):
        self.seconds = seconds
        self.message = timeout_msg
        self.suppress = suppress_timeout_errors

    def __enter__(self) -> Timeout:
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._expire)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        return self.suppress and kind is TimeoutError

    def _expire(self, *_: object) -> None:
        raise TimeoutError(self.message)


def threaded(func: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function run in a daemon thread, which the call returns; ``threaded=False`` in a call runs it in place."""

    @wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if not kwargs.pop("threaded", True):
            return func(*args, **kwargs)
        thread = threading.Thread(target=func, args=args, kwargs=kwargs, daemon=True)
        thread.start()
        return thread

    return wrapper


def join_threads(verbose: bool = False) -> None:
    """Wait for all other threads that are not daemons."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            if verbose:
                LOGGER.info("waiting for %s", thread.name)
            thread.join()


def methods(instance: object) -> list[str]:
    """Return the names of the public callables of an object or class."""
    return [name for name in dir(instance) if not name.startswith("__") and callable(getattr(instance, name))]


def get_default_args(func: Callable[..., Any]) -> dict[str, Any]:
    """Return the default arguments of a function."""
    parameters = inspect.signature(func).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not inspect.Parameter.empty}


def print_args(args: dict[str, Any] | None = None, show_file: bool = True, show_func: bool = False) -> None:
    """Log the arguments of the calling function, or ``args``, in one line."""
    frame = inspect.currentframe()
    caller = frame.f_back if frame else None
    if caller is None:
        return
    if args is None:
        values = inspect.getargvalues(caller)
        args = {name: values.locals[name] for name in values.args}
    where = [Path(caller.f_code.co_filename).stem] if show_file else []
    where += [caller.f_code.co_name] if show_func else []
    LOGGER.info(
        "%s%s", colorstr(f"{': '.join(where)}: ") if where else "", ", ".join(f"{k}={v}" for k, v in args.items())
    )


def check_img_size(imgsz: int | Sequence[int], s: int = 32, floor: int = 0) -> int | list[int]:
    """Return image sizes rounded up to a multiple of the stride ``s``, at least ``floor``; a change is logged."""
    sizes = [imgsz] if isinstance(imgsz, int) else list(imgsz)
    rounded = [max(math.ceil(size / int(s)) * int(s), floor) for size in sizes]
    if rounded != sizes:
        LOGGER.warning("WARNING --img-size %s must be a multiple of the stride %s: using %s", imgsz, s, rounded)
    return rounded[0] if isinstance(imgsz, int) else rounded


def one_cycle(y1: float = 0.0, y2: float = 1.0, steps: int = 100) -> Callable[[float], float]:
    """Return a function of the epoch: half a cosine from ``y1`` at 0 to ``y2`` at ``steps`` (arXiv:1812.01187)."""
    return lambda x: (1 - math.cos(x * math.pi / steps)) / 2 * (y2 - y1) + y1


def clean_str(s: str) -> str:
    """Return a text fit for a file name or window title: special characters become underscores."""
    return re.sub(r"[|@#!¡·$€%&()=?¿^*;:,¨´><+]", "_", s)


def emojis(string: str = "") -> str:
    """Return a text that the terminal can show: on Windows without non-ASCII characters."""
    return string.encode().decode("ascii", "ignore") if platform.system() == "Windows" else string


def is_ascii(s: object = "") -> bool:
    """Return whether a text, or the text of an object, is pure ASCII."""
    return str(s).isascii()


def is_chinese(s: object = "人工智能") -> bool:
    """Return whether a text holds a CJK unified ideograph."""
    return bool(re.search("[\u4e00-\u9fff]", str(s)))


def file_date(path: str | Path = __file__) -> str:
    """Return a file's modification date as ``year-month-day``."""
    when = datetime.fromtimestamp(Path(path).stat().st_mtime)
    return f"{when.year}-{when.month}-{when.day}"


def file_age(path: str | Path = __file__) -> int:
    """Return the days since a file was changed."""
    return (datetime.now() - datetime.fromtimestamp(Path(path).stat().st_mtime)).days


def file_size(path: str | Path) -> float:
    """Return the size of a file or folder in MB (2**20 bytes), 0.0 when there is none."""
    path = Path(path)
    if path.is_dir():
        return sum(found.stat().st_size for found in path.rglob("*") if found.is_file()) / (1 << 20)
    return path.stat().st_size / (1 << 20) if path.is_file() else 0.0


def set_logging(name: str | None = None, verbose: bool = True) -> logging.Logger:
    """Set up the project's logger and return it (kept for code written for YOLOv5; ``name`` is not used)."""
    from utils.logs import setup_logging

    setup_logging(verbose=verbose)
    return LOGGER


def coco80_to_coco91_class() -> list[int]:
    """Return COCO's category id (1 to 90) of each of the 80 classes in use."""
    unused = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    return [category for category in range(1, 91) if category not in unused]


def save_one_txt(predn: Iterable[torch.Tensor], save_conf: bool, shape: Sequence[int], file: str | Path) -> None:
    """Append one line per detection to a text file: class cx cy w h [conf], normalised.

    Args:
        predn: (n, 6) rows x1, y1, x2, y2 in pixels, confidence, class.
        save_conf: write the confidence as sixth value.
        shape: (height, width) of the image.
        file: text file.
    """
    height, width = shape[:2]
    lines = []
    for x1, y1, x2, y2, conf, cls in (row[:6].tolist() for row in predn):
        box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        values = (cls, *box, conf) if save_conf else (cls, *box)
        lines.append(" ".join(f"{value:g}" for value in values) + "\n")
    with open(file, "a", encoding="utf-8") as stream:
        stream.writelines(lines)
