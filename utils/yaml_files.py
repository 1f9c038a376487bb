"""Read and write YAML as plain data: no tags that build objects, no repeated keys, no alias bombs."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from utils.errors import InputError, MissingFileError, WorkError
from utils.logs import LOGGER
from utils.safe_write import write_whole

MAX_BYTES = 1024 * 1024  # of a file; the names of 40 000 classes fit
MAX_EXPANDED = MAX_BYTES  # characters with every alias written out, as a log of the settings would show them
MAX_NUMBER = 400  # characters; sums of minutes and seconds (1:30:59) take time with the square of their length
_LINE_BREAKS = frozenset("\x85\u2028\u2029")
_OTHER_TYPES = ("binary", "omap", "pairs", "set", "timestamp")  # tags of YAML's own that give no plain data
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """Plain YAML types alone, without timestamps (a class named 2024-01-01 stays text)."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _type in _OTHER_TYPES:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_type}", yaml.SafeLoader.construct_undefined)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Args:
        path: file, UTF-8 with or without byte order mark.

    Raises:
        MissingFileError: there is no such file.
        InputError: not YAML, a tag that is not plain data, a key given twice, too large, or not a mapping at the top.
    """
    path = Path(path)
    data = parse_yaml(_read_text(path), path)
    if data is None:
        raise InputError(f"{path}: the file is empty, expected 'key: value' lines")
    if not isinstance(data, dict):
        raise InputError(f"{path}: holds a {type(data).__name__} at the top, expected 'key: value' lines")
    return data


def parse_yaml(text: str, source: str | Path = "YAML") -> Any:  # noqa: ANN401  (whatever plain data the text holds)
    """Return the plain data of a YAML text; errors name ``source`` and the line.

    Raises:
        InputError: as in ``read_yaml``.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"{source}: {len(text)} characters, YAML may have at most {MAX_BYTES}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_expanded_size(node, source)
        _check_unique_keys(node, loader, source)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}" if mark else str(source)
        raise InputError(f"{where}: not valid YAML: {_one_line(error.problem or error.context)}") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: not valid YAML: {_one_line(error)}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply to be read") from None


def write_yaml(path: str | Path, data: Any, *, comment: Iterable[str] = ()) -> None:  # noqa: ANN401
    """Write plain data as YAML in the order of its keys; paths become text; ``comment`` holds lines to begin with.

    Raises:
        WorkError: it cannot be written; a file that was there is unchanged.
    """
    text = yaml.safe_dump(_plain(data), sort_keys=False, allow_unicode=True)
    if _LINE_BREAKS & set(text):  # PyYAML folds these on reading unless they are escaped
        text = yaml.safe_dump(_plain(data), sort_keys=False)
    head = "".join(f"# {_one_line(line)}\n" for line in comment)
    try:
        write_whole(path, head + text, durable=True)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({error.strerror})") from error


def _read_text(path: Path) -> str:
    if not path.exists():
        raise MissingFileError(f"{path}: no such file")
    if not path.is_file():
        raise InputError(f"{path}: is a folder, expected a YAML file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, a YAML file may have at most {MAX_BYTES}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        LOGGER.warning("WARNING %s: byte %d is not UTF-8; such bytes are read as Windows-1252", path, error.start)
        return raw.decode("utf-8-sig", errors=_AS_WINDOWS)


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    """Decode what is no UTF-8 by the table of Western Windows, so that different bytes stay different letters."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", errors="replace"), error.end


_AS_WINDOWS = "yolov5-as-windows-1252"
codecs.register_error(_AS_WINDOWS, _as_windows)


def _check_expanded_size(root: yaml.Node, source: str | Path) -> None:
    """Refuse a document that aliases blow up to more than MAX_EXPANDED characters, or that contains itself."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    stack: list[tuple[yaml.Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        key = id(node)
        children = _children(node)
        if done:
            open_nodes.discard(key)
            sizes[key] = _own_size(node, source) + sum(sizes[id(child)] for child in children)
        elif key not in sizes:
            if key in open_nodes:
                raise InputError(f"{source}, line {node.start_mark.line + 1}: an alias refers to its own content")
            open_nodes.add(key)
            stack.append((node, True))
            stack.extend((child, False) for child in children if id(child) not in sizes)
    if sizes[id(root)] > MAX_EXPANDED:
        raise InputError(
            f"{source}: its aliases expand to {sizes[id(root)]} characters; allowed are at most {MAX_EXPANDED}"
        )


def _own_size(node: yaml.Node, source: str | Path) -> int:
    """Return the characters of a node and one that sets it apart from its neighbours; refuse endless numbers."""
    if not isinstance(node, yaml.ScalarNode):
        return 1
    if node.tag in _NUMBER_TAGS and len(node.value) > MAX_NUMBER:
        line = node.start_mark.line + 1
        raise InputError(f"{source}, line {line}: a number of {len(node.value)} characters, at most {MAX_NUMBER}")
    return 1 + len(node.value)


def _check_unique_keys(root: yaml.Node, loader: _Loader, source: str | Path) -> None:
    """Refuse a mapping that gives the same key twice, at any depth."""
    seen: set[int] = set()
    stack = [root]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack.extend(_children(node))
        if isinstance(node, yaml.MappingNode):
            _check_one_mapping(node, loader, source)


def _check_one_mapping(node: yaml.MappingNode, loader: _Loader, source: str | Path) -> None:
    lines: dict[Any, int] = {}
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            continue
        key = "<<" if key_node.tag == "tag:yaml.org,2002:merge" else loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if key in lines:
            raise InputError(f"{source}, line {line}: key '{key}' is given twice (first in line {lines[key]})")
        lines[key] = line


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
