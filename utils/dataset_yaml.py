"""Read a data set's YAML, find its images, and make sure they are there before anything is built."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from utils.data.archives import is_archive, unpack
from utils.data.converters.job import MARK, unfinished
from utils.data.converters.stock import STOCK, recognise
from utils.errors import InputError, InputErrors, MissingFileError
from utils.images import IMG_FORMATS
from utils.logs import LOGGER
from utils.paths import DATASETS_VARIABLE, ROOT, check_file, datasets_dir
from utils.yaml_files import read_yaml

NEEDED_KEYS = ("train", "val", "names")
SPLITS = ("train", "val", "test")
# key `generator:` -> module with ensure_dataset(root)
GENERATORS: dict[str, str] = {"parts": "utils.parts", "parts-outlines": "utils.parts_outlines"}
_SCRIPTS_ARE_OFF = (
    "automatic download scripts are off: text under 'download:' is never run, only the http(s) address of a .zip is "
    "fetched; read it, run it yourself if you trust it, then start again; "
    f"the key 'converter:' names a built-in converter ({', '.join(STOCK)}), docs/datasets.md shows how to add one"
)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def check_dataset(
    data: str | Path | dict[str, Any], autodownload: bool = True, *, splits: Sequence[str] = ("train", "val")
) -> dict[str, Any]:
    """Return a data set's facts with absolute paths; makes, fetches or converts it when its YAML says how.

    Relative paths are tried from the project, the YAML's own folder and the datasets folder. Text of a script below
    ``download`` is never run; the stock YAMLs of YOLOv5 are recognised and served by our own converters instead.

    Args:
        data: YAML path (also one below data/ by its name), mapping, or a zip or tar file with one inside.
        autodownload: fetch a missing set whose ``download`` is the address of a .zip, or the archives that its
            converter lacks.
        splits: which of train, val and test must exist.

    Returns:
        The YAML's mapping with ``path`` (Path), ``train``, ``val``, ``test`` (absolute text or list of it),
        ``names`` (dict int -> str) and ``nc``.

    Raises:
        InputErrors: keys, names or nc are wrong, all of it at once.
        MissingFileError: a path of ``splits`` does not exist; names every place looked at.
        InputError: a download or conversion that failed or was not finished.
    """
    facts, source, folder = _read(data)
    facts = dict(facts)
    facts["names"] = _checked_facts(facts, source)
    facts["nc"] = len(facts["names"])
    unpacked = folder is not None and is_archive_source(data)
    bases = _bases(facts.get("path"), folder, unpacked)
    entries = {key: _as_list(facts[key]) for key in SPLITS if facts.get(key)}
    base = _completed(facts, source, bases, entries, splits, autodownload and not unpacked)
    facts["path"] = base
    for key, items in entries.items():
        found = [str(_locate(base, item) or _first_place(base, item)) for item in items]
        facts[key] = found if isinstance(facts[key], (list, tuple)) else found[0]
    return facts


def is_archive_source(data: str | Path | dict[str, Any]) -> bool:
    """Return whether ``data`` names a zip or tar file."""
    return isinstance(data, (str, Path)) and is_archive(data)


def read_names(path: str | Path) -> dict[int, str]:
    """Return the class names of a data YAML, class id -> name.

    Raises:
        InputErrors: the YAML lacks them or is wrong.
    """
    facts, source, _ = _read(path)
    return _checked_facts(facts, source)


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
        if os.path.isdir(source):
            found += _images_below(source)
        elif os.path.isfile(source):
            found += _listed_images(source)
        else:
            raise MissingFileError(f"{source}: no such folder or list of images")
    if os.sep != "/":
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
        if not items or not all(map(_is_path, items)):
            problems.append(
                f"{source}: '{key}' is {facts[key]!r}, expected a path{'' if key == 'path' else ' or list of paths'}"
            )
    problems += [f"{source}: {complaint}" for complaint in _source_complaints(facts, source)]
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


def _is_path(item: Any) -> bool:  # noqa: ANN401
    return isinstance(item, (str, Path)) and bool(str(item)) and "\0" not in str(item)


def _source_complaints(facts: dict[str, Any], source: str) -> list[str]:
    """Return what is wrong with the keys that say where a missing set comes from."""
    found = []
    converter, sums = facts.get("converter"), facts.get("sha256")
    if converter is not None and (not isinstance(converter, str) or converter not in STOCK):
        found.append(f"'converter' is {converter!r}, allowed: {', '.join(STOCK)}")
    if converter is not None and not facts.get("path"):
        found.append("'converter' needs the key 'path', the folder of the data set")
    if converter is not None and facts.get("generator") is not None:
        found.append("'converter' and 'generator' are both given, a data set has one source")
    listed = sums.values() if isinstance(sums, dict) else [] if sums is None else [sums]
    wrong = [text for text in listed if not isinstance(text, str) or not _SHA256.fullmatch(text)]
    if wrong:
        found.append(f"'sha256' has {wrong[0]!r}, expected 64 hexadecimal digits (in quotes)")
    elif sums is not None and isinstance(sums, dict) != bool(_converter(facts, source)):
        found.append(
            "'sha256' is one checksum beside the address of a .zip, a mapping from file names beside a converter"
        )
    return found


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
    return next((place for place in places if os.path.exists(place)), None)  # False for a name that is too long


def _missing(base: Path, entries: dict[str, list[str]], splits: Sequence[str]) -> list[tuple[str, str]]:
    """Return (split, entry) of every wanted entry that does not exist."""
    return [(key, item) for key in splits for item in entries.get(key, []) if _locate(base, item) is None]


def _best_base(bases: list[Path], entries: dict[str, list[str]], splits: Sequence[str]) -> Path:
    """Return the first base with the fewest missing entries."""
    return min(bases, key=lambda base: len(_missing(base, entries, splits)))


def _completed(  # noqa: PLR0913  (facts of one data set)
    facts: dict[str, Any],
    source: str,
    bases: list[Path],
    entries: dict[str, list[str]],
    splits: Sequence[str],
    autodownload: bool,
) -> Path:
    """Return the base of a data set that has every wanted entry, made, fetched or converted now if need be."""
    base, converter = _best_base(bases, entries, splits), _converter(facts, source)
    lacking = _missing(base, entries, splits)
    if converter:
        try:
            _convert(converter, facts, base, splits, lacking, autodownload)
        except MissingFileError as error:
            raise MissingFileError(f"{_missing_text(source, lacking, bases)}; {error}" if lacking else error) from None
    elif lacking:
        base = _obtain(facts, source, base, autodownload) or base
    missing = _missing(base, entries, splits)
    if missing:
        raise MissingFileError(_missing_text(source, missing, bases) + _download_hint(facts, autodownload))
    mark = unfinished(base)
    if mark and not converter:
        raise InputError(
            f"{source}: the conversion of {base} was not finished; end it by: python -m utils.data.converters "
            f"{mark.get('converter')} --root {base} (or delete {MARK} there to use it as it is)"
        )
    return base


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
    from utils.data.converters.obtain import claim, unpack_whole
    from utils.downloads import fetch, url2file

    folder = datasets_dir()
    archive = fetch(address, folder / url2file(address), sha256=facts.get("sha256") or "")
    LOGGER.info("%s: unpacking into %s", archive, folder)
    with claim(folder, f".{glob.escape(archive.name)}.*"):
        unpack_whole(archive, folder)
    archive.unlink()
    return None


def _converter(facts: dict[str, Any], source: str) -> str:
    """Return the built-in converter of a data set: the one named, or that of a stock YAML with a script; else ''."""
    if facts.get("converter"):
        return str(facts["converter"])
    script = str(facts.get("download") or "").strip()
    if not script or facts.get("generator") or _is_zip_address(script):
        return ""
    names, complaint = _checked_names(facts.get("names"))
    return "" if complaint else recognise(facts, names, source)


def _convert(  # noqa: PLR0913  (facts of one data set)
    converter: str,
    facts: dict[str, Any],
    base: Path,
    splits: Sequence[str],
    lacking: list[tuple[str, str]],
    autodownload: bool,
) -> None:
    """Fetch and convert what a set with a built-in converter lacks; a set without work to do is left untouched."""
    from utils.data.converters.obtain import needs_conversion, prepare

    wanted = dict.fromkeys([split for split, _ in lacking] + needs_conversion(converter, base, splits))
    if not wanted:
        return
    if not facts.get("converter"):
        LOGGER.info("the text under 'download:' is not run; this is the set %s, which has a converter here", converter)
    prepare(converter, base, facts["names"], splits=list(wanted), fetch=autodownload, sha256=facts.get("sha256"))


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
    """Return every file with a suffix below a folder; links to folders are followed, each folder once.

    Raises:
        InputError: a folder that cannot be read, whose images would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: the folder cannot be read ({error.strerror})") from None

    found, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        begin = os.path.join(place, "")
        found += [begin + name for name in files if "." in name and not name.startswith(".")]
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
