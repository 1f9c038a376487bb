"""Where files are: the project's folders, run folders, and files that users name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import InputError, MissingFileError
from utils.yaml_files import read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[1]
DATASETS_VARIABLE = "YOLOv5_DATASETS_DIR"
CONFIG_VARIABLE = "YOLOV5_CONFIG_DIR"
LAST_RUN_NUMBER = 9998
LONGEST_NAME = 1024  # characters of a name that is searched for
SEARCHED_FOLDERS = ("data", "models", "utils")
_URL_STARTS = ("http:/", "https:/")  # Path() turns '//' into '/', so that one slash has to do


def datasets_dir() -> Path:
    """Return the folder of data sets: the environment's YOLOv5_DATASETS_DIR, else ``../datasets`` by the project."""
    return Path(os.environ.get(DATASETS_VARIABLE) or ROOT.parent / "datasets")


def config_dir() -> Path:
    """Return the settings folder without making it."""
    chosen = os.environ.get(CONFIG_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".config" / "Ultralytics"


def user_config_dir(dir: str = "Ultralytics", env_var: str = CONFIG_VARIABLE) -> Path:
    """Return the settings folder, made if needed; the environment variable ``env_var`` overrides its place."""
    path = Path(os.environ.get(env_var) or Path.home() / ".config" / dir)
    path.mkdir(parents=True, exist_ok=True)
    return path


def is_writeable(dir: str | Path, test: bool = False) -> bool:
    """Return whether a folder can be written; ``test`` tries it with a file."""
    if not test:
        return os.access(dir, os.W_OK)
    probe = Path(dir) / f".write-test-{os.getpid()}"
    try:
        with open(probe, "x"):
            pass
        probe.unlink()
    except OSError:
        return False
    return True


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """Return the first free path of ``exp``, ``exp2``, ``exp3`` ...

    With ``mkdir`` the folder is made in the same step, so that each of several processes that ask at once gets its own.

    Args:
        path: wanted path; the number of a file goes before its suffix.
        exist_ok: take ``path`` itself even if it exists.
        sep: text between name and number.
        mkdir: make the folder.

    Raises:
        InputError: all numbers up to 9998 are taken, or the folder cannot be made.
    """
    path = Path(path)
    try:
        return _incremented(path, exist_ok, sep, mkdir)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be made ({error.strerror})") from error


def require_writable(folder: str | Path) -> None:
    """Refuse a folder that is there and cannot be written, or that cannot be made, without making it.

    Raises:
        InputError: it, or the lowest of its parents that is there, is a file or cannot be written.
    """
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{folder}: the folder cannot be made ({place} is a file)")
    if not is_writeable(place):
        raise InputError(f"{folder}: the folder cannot be made ({place} cannot be written)")


def _incremented(path: Path, exist_ok: bool, sep: str, mkdir: bool) -> Path:
    if exist_ok:
        if mkdir:
            path.mkdir(parents=True, exist_ok=True)
        return path
    if not mkdir:
        free = next((candidate for candidate in _numbered(path, sep) if not candidate.exists()), None)
        return free or _none_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for candidate in _numbered(path, sep):
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            continue
    return _none_free(path)


def _numbered(path: Path, sep: str) -> Iterator[Path]:
    stem, suffix = (path.with_suffix(""), path.suffix) if path.is_file() else (path, "")
    yield path
    for n in range(2, LAST_RUN_NUMBER + 1):
        yield Path(f"{stem}{sep}{n}{suffix}")


def _none_free(path: Path) -> Path:
    raise InputError(f"{path}: all names up to {path}{LAST_RUN_NUMBER} exist; choose another --name or --project")


def get_latest_run(search_dir: str | Path = ".") -> str:
    """Return the newest ``last*.pt`` below a folder, '' when there is none."""
    found = [path for path in Path(search_dir).rglob("last*.pt") if path.is_file()]
    return str(max(found, key=lambda path: path.stat().st_ctime)) if found else ""


def check_suffix(
    file: str | Path | Iterable[str | Path] = "yolov5s.pt", suffix: str | Iterable[str] = (".pt",), msg: str = ""
) -> None:
    """Check that file names end in one of the suffixes, in any case; names without a suffix pass.

    Raises:
        InputError: a name ends in something else.
    """
    if not file or not suffix:
        return
    allowed = [suffix] if isinstance(suffix, str) else list(suffix)
    for name in [file] if isinstance(file, (str, Path)) else file:
        found = Path(name).suffix.lower()
        if found and found not in allowed:
            raise InputError(f"{msg}{name}: its suffix is {found}, allowed: {', '.join(allowed)}")


def check_file(file: str | Path, suffix: str | Iterable[str] = "") -> str:
    """Return the path of an existing file.

    The file is taken as named, fetched from an http(s) address into the working folder, or found by its name below
    data/, models/ and utils/ of the project, where exactly one must fit. '' is returned as it is.

    Raises:
        MissingFileError: no such file.
        InputError: the wrong suffix, or several files of that name.
    """
    check_suffix(file, suffix)
    file = str(file)
    if not file or os.path.isfile(file):
        return file
    if file.startswith(_URL_STARTS):
        return _fetched(file)
    if os.path.isdir(file):
        raise InputError(f"{file}: is a folder, expected a file")
    found = sorted(
        {str(path) for folder in SEARCHED_FOLDERS for path in (ROOT / folder).rglob(file)} if _is_plain(file) else ()
    )
    if not found:
        raise MissingFileError(
            f"{shortened(file)}: no such file, nor one of that name below {', '.join(SEARCHED_FOLDERS)}"
        )
    if len(found) > 1:
        raise InputError(f"{file}: several files have this name, give the path of one: {', '.join(found)}")
    return found[0]


def check_yaml(file: str | Path, suffix: str | Iterable[str] = (".yaml", ".yml")) -> str:
    """Return the path of an existing YAML file; as ``check_file``."""
    return check_file(file, suffix)


def yaml_load(file: str | Path = "data.yaml") -> dict[str, Any]:
    """Return the mapping of a YAML file; errors as in ``utils.yaml_files.read_yaml``."""
    return read_yaml(file)


def yaml_save(file: str | Path = "data.yaml", data: dict[str, Any] | None = None) -> None:
    """Write a mapping as YAML, keys in their order, paths as text."""
    write_yaml(file, data or {})


def shortened(name: str) -> str:
    """Return a name for a message; of one that is longer than any file's, the beginning."""
    return name if len(name) <= LONGEST_NAME else f"{name[:60]}... ({len(name)} characters)"


def _is_plain(name: str) -> bool:
    """Whether a name can be searched for: relative, without wildcards or '..', of a sane length."""
    if len(name) > LONGEST_NAME:
        return False
    return not Path(name).is_absolute() and ".." not in Path(name).parts and not any(c in name for c in "*?[")


def _fetched(address: str) -> str:
    from utils.downloads import fetch_named

    return fetch_named(address)
