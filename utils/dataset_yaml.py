"""Read a data set's YAML, find its images, and make sure they are there before anything is built."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.data.archives import is_archive, unpack
from utils.errors import InputError, InputErrors, MissingFileError
from utils.images import IMG_FORMATS
from utils.logs import LOGGER
from utils.paths import DATASETS_VARIABLE, ROOT, check_file, datasets_dir
from utils.yaml_files import read_yaml

NEEDED_KEYS = ("train", "val", "names")
SPLITS = ("train", "val", "test")
GENERATORS: dict[str, str] = {"parts": "utils.parts"}  # key `generator:` -> module with ensure_dataset(root)
_SCRIPTS_ARE_OFF = (
    "automatic download scripts are off: text under 'download:' is never run, only the http(s) address of a .zip is "
    "fetched; read it, run it yourself if you trust it, then start again"
)


def check_dataset(
    data: str | Path | dict[str, Any], autodownload: bool = True, *, splits: Sequence[str] = ("train", "val")
) -> dict[str, Any]:
    """Return a data set's facts with absolute paths; makes or fetches it when its YAML says how.

    Relative paths are tried from the project, the YAML's own folder and the datasets folder.

    Args:
        data: YAML path (also one below data/ by its name), mapping, or a zip or tar file with one inside.
        autodownload: fetch a missing set whose ``download`` is the address of a .zip.
        splits: which of train, val and test must exist.

    Returns:
        The YAML's mapping with ``path`` (Path), ``train``, ``val``, ``test`` (absolute text or list of it),
        ``names`` (dict int -> str) and ``nc``.

    Raises:
        InputErrors: keys, names or nc are wrong, all of it at once.
        MissingFileError: a path of ``splits`` does not exist; names every place looked at.
    """
    facts, source, folder = _read(data)
    facts = dict(facts)
    facts["names"] = _checked_facts(facts, source)
    facts["nc"] = len(facts["names"])
    bases = _bases(facts.get("path"), folder, unpacked=folder is not None and is_archive_source(data))
    entries = {key: _as_list(facts[key]) for key in SPLITS if facts.get(key)}
    base = _best_base(bases, entries, splits)
    if _missing(base, entries, splits):
        base = _obtain(facts, source, base, autodownload) or base
        missing = _missing(base, entries, splits)
        if missing:
            raise MissingFileError(_missing_text(source, missing, bases) + _download_hint(facts, autodownload))
    facts["path"] = base
    for key, items in entries.items():
        found = [str(_locate(base, item) or _first_place(base, item)) for item in items]
        facts[key] = found if isinstance(facts[key], (list, tuple)) else found[0]
    return facts


def is_archive_source(data: str | Path | dict[str, Any]) -> bool:
    """Return whether ``data`` names a zip or tar file."""
    return isinstance(data, (str, Path)) and is_archive(data)


def find_images(path: str | Path | Iterable[str | Path]) -> list[str]:
    """Return all images of a folder (with its sub-folders), a .txt list, or several of these, sorted.

    Lines of a list are paths: from the list's own folder when they start with ``./``, else from the working folder,
    else from the list's folder. Hidden files and folders are passed over.

    Raises:
        MissingFileError: a folder or list does not exist.
        InputError: no image among them.
    """
    sources = [path] if isinstance(path, (str, Path)) else list(path)
    found: list[str] = []
    for source in map(Path, sources):
        if source.is_dir():
            found += _images_below(source)
        elif source.is_file():
            found += _listed_images(source)
        else:
            raise MissingFileError(f"{source}: no such folder or list of images")
    found = [name.replace("/", os.sep) for name in found]  # labels are found by the system's separators
    images = sorted(name for name in found if name.rpartition(".")[2].lower() in IMG_FORMATS)
    if not images:
        where = ", ".join(map(str, sources))
        raise InputError(f"{where}: no image found; the suffixes looked for are {', '.join(IMG_FORMATS)}")
    return images


def _read(data: str | Path | dict[str, Any]) -> tuple[dict[str, Any], str, Path | None]:
    """Return the mapping, the name of its source for messages, and the folder of its YAML."""
    if isinstance(data, dict):
        return data, "data", None
    path = Path(check_file(data))
    if is_archive(path):
        path = _unpacked_yaml(path)
    elif path.suffix.lower() not in {".yaml", ".yml"}:
        raise InputError(f"--data {path}: its suffix is {path.suffix or 'missing'}, allowed: .yaml, .yml, .zip, .tar")
    return read_yaml(path), str(path), path.resolve().parent


def _unpacked_yaml(archive: Path) -> Path:
    """Unpack a data set once (a mark tells the same archive again) and return the first YAML inside."""
    target = datasets_dir() / archive.name.split(".")[0]
    state = archive.stat()
    mark, text = target / ".unpacked-from", f"{archive.resolve()} {state.st_size} {state.st_mtime_ns}\n"
    if not mark.is_file() or mark.read_text() != text:
        LOGGER.info("%s: unpacking into %s", archive, target)
        unpack(archive, target)
        mark.write_text(text)
    found = sorted(target.rglob("*.yaml"), key=lambda path: (len(path.parts), str(path)))
    if not found:
        raise InputError(f"{archive}: holds no .yaml file that describes a data set")
    return found[0]


def _checked_facts(facts: dict[str, Any], source: str) -> dict[int, str]:
    """Return names as a mapping int -> str; raises InputErrors with everything that is wrong."""
    problems = [f"{source}: key '{key}' is missing" for key in NEEDED_KEYS if facts.get(key) is None]
    for key in (key for key in (*SPLITS, "path") if facts.get(key) is not None):
        items = facts[key] if isinstance(facts[key], (list, tuple)) and key != "path" else [facts[key]]
        if not items or not all(isinstance(item, (str, Path)) and str(item) for item in items):
            problems.append(
                f"{source}: '{key}' is {facts[key]!r}, expected a path{'' if key == 'path' else ' or list of paths'}"
            )
    names: dict[int, str] = {}
    if facts.get("names") is not None:
        names, complaint = _checked_names(facts["names"])
        if complaint:
            problems.append(f"{source}: {complaint}")
        elif facts.get("nc") is not None and facts["nc"] != len(names):
            problems.append(f"{source}: 'nc' is {facts['nc']}, but 'names' lists {len(names)} class names")
    if problems:
        raise InputErrors(problems)
    return names


def _checked_names(names: Any) -> tuple[dict[int, str], str]:  # noqa: ANN401
    """Return the names and what is wrong with them."""
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        return {}, f"'names' is {names!r}, expected a list of class names or a mapping from class id to name"
    if not names:
        return {}, "'names' is empty, expected at least one class name"
    wrong = [key for key in names if not isinstance(key, int) or isinstance(key, bool) or key < 0]
    if wrong:
        return {}, f"'names' has the key {wrong[0]!r}, allowed are whole numbers from 0"
    gaps = sorted(set(range(max(names) + 1)) - set(names)) if max(names) < 10**6 else [len(names)]
    if gaps:
        return {}, f"'names' lacks the class ids {_ranges(gaps)} (its highest is {max(names)})"
    switches = [key for key, name in names.items() if isinstance(name, bool)]
    if switches:  # YAML 1.1's yes, no, on and off
        LOGGER.warning("WARNING 'names' gives class %s the name %s: text such as no or on needs quotes in YAML",
                       switches[0], names[switches[0]])  # fmt: skip
    blank = [key for key, name in names.items() if not isinstance(name, (str, int, float)) or not str(name).strip()]
    if blank:
        return {}, f"'names' gives class {blank[0]} the name {names[blank[0]]!r}, expected text"
    return {key: str(names[key]) for key in sorted(names)}, ""


def _ranges(numbers: list[int]) -> str:
    """Return sorted numbers as text such as ``1-4, 7``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def _bases(path: str | Path | None, folder: Path | None, unpacked: bool) -> list[Path]:
    """Return the folders that relative entries may start from, the likeliest first."""
    if unpacked and folder:
        return [folder]
    path = Path(path or "")
    if path.is_absolute():
        return [path]
    bases = [ROOT / path, *([folder / path] if folder else []), datasets_dir() / path]
    if path.parts[:2] == ("..", "datasets"):  # the usual place, moved by the environment variable
        bases.insert(0 if os.environ.get(DATASETS_VARIABLE) else 1, datasets_dir().joinpath(*path.parts[2:]))
    return list(dict.fromkeys(base.resolve() for base in bases))


def _as_list(value: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]


def _first_place(base: Path, entry: str) -> Path:
    return (base / entry).resolve()


def _locate(base: Path, entry: str) -> Path | None:
    """Return an entry's existing path; one that starts with ../ is tried once more without."""
    places = [_first_place(base, entry)]
    if entry.startswith("../"):
        places.append(_first_place(base, entry[3:]))
    return next((place for place in places if place.exists()), None)


def _missing(base: Path, entries: dict[str, list[str]], splits: Sequence[str]) -> list[tuple[str, str]]:
    """Return (split, entry) of every wanted entry that does not exist."""
    return [(key, item) for key in splits for item in entries.get(key, []) if _locate(base, item) is None]


def _best_base(bases: list[Path], entries: dict[str, list[str]], splits: Sequence[str]) -> Path:
    """Return the first base with the fewest missing entries."""
    return min(bases, key=lambda base: len(_missing(base, entries, splits)))


def _missing_text(source: str, missing: list[tuple[str, str]], bases: list[Path]) -> str:
    key, entry = missing[0]
    places = list(dict.fromkeys(str(_first_place(base, entry)) for base in bases))
    more = f" ({len(missing) - 1} more entries are missing)" if len(missing) > 1 else ""
    return f"{source}: '{key}' not found, looked for {' and '.join(places)}{more}"


def _obtain(facts: dict[str, Any], source: str, base: Path, autodownload: bool) -> Path | None:
    """Make or fetch a missing data set as its YAML says; returns the base it then has."""
    generator, address = facts.get("generator"), str(facts.get("download") or "").strip()
    if generator:
        _registered_generator(str(generator), source)(base)
        return base
    if not autodownload or not _is_zip_address(address):
        return None
    from utils.downloads import fetch, url2file

    folder = datasets_dir()
    archive = fetch(address, folder / url2file(address))
    LOGGER.info("%s: unpacking into %s", archive, folder)
    unpack(archive, folder)
    archive.unlink()
    return None


def _download_hint(facts: dict[str, Any], autodownload: bool) -> str:
    """Return why a missing set was not fetched, '' when its YAML names no source."""
    address = str(facts.get("download") or "").strip()
    if not address:
        return ""
    if not _is_zip_address(address):
        return f"; {_SCRIPTS_ARE_OFF}"
    return "" if autodownload else f"; automatic download is off, fetch {address} yourself"


def _registered_generator(name: str, source: str) -> Callable[[Path], None]:
    import importlib

    if name not in GENERATORS:
        raise InputError(f"{source}: 'generator' is '{name}', allowed: {', '.join(GENERATORS)}")
    return importlib.import_module(GENERATORS[name]).ensure_dataset


def _is_zip_address(text: str) -> bool:
    return text.startswith(("http://", "https://")) and text.endswith(".zip") and len(text.split()) == 1


def _images_below(folder: Path) -> list[str]:
    """Return every file with a suffix below a folder; links to folders are followed, each folder once."""
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(place, name) for name in files if "." in name and not name.startswith(".")]
    return found


def _listed_images(path: Path) -> list[str]:
    """Return the paths that a text file lists."""
    try:
        lines = path.read_text(encoding="utf-8-sig").strip().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text file with one image path per line") from None
    lines = [line.strip() for line in lines if line.strip()]
    here = str(path.parent)
    relative = [line for line in lines if not line.startswith("./") and not os.path.isabs(line)]
    beside = bool(relative) and not os.path.exists(relative[0]) and os.path.exists(os.path.join(here, relative[0]))
    return [_listed_path(line, here, beside) for line in lines]


def _listed_path(line: str, here: str, beside: bool) -> str:
    if line.startswith("./"):
        line, beside = line[2:], True
    return os.path.join(here, line) if beside and not os.path.isabs(line) else line
