"""What a .tflite file holds besides the network: facts in a zip archive after it, and the names of its operations."""

from __future__ import annotations

import ast
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import InputError

FACTS = "meta.txt"  # YOLOv5's name
MOST_FACTS = 16 << 20  # bytes
CUSTOM = 32  # number of the built-in operation that stands for one with a name of its own
IDENTIFIER = b"TFL3"
# Operations with names: of TensorFlow Lite, of the Edge TPU, and those of TensorFlow (Flex) without effects.
ALLOWED_CUSTOM = frozenset({"TFLite_Detection_PostProcess", "edgetpu-custom-op", "FlexCombinedNonMaxSuppression"})


def append_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Append facts to a file as a zip archive, which TensorFlow Lite passes over; clones of YOLOv5 read it too."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(FACTS, str(dict(facts)))


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts after a file; files without any have none.

    Raises:
        InputError: they cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            first = archive.infolist()[0]
            if first.file_size > MOST_FACTS:
                raise InputError(
                    f"weights {path}: {first.filename} of {first.file_size} bytes, allowed are {MOST_FACTS}"
                )
            facts = ast.literal_eval(archive.read(first).decode())
    except (zipfile.BadZipFile, ValueError, SyntaxError, IndexError, RecursionError, MemoryError) as error:
        raise InputError(f"weights {path}: its facts ({FACTS}) cannot be read ({error})") from error
    return facts if isinstance(facts, dict) else {}


def require_known_operations(path: Path) -> None:
    """Refuse a file with operations of other makers: TensorFlow's (Flex) can read and write files.

    Built-in operations have no effects outside the network.

    Raises:
        InputError: names the first, or the file is none of TensorFlow Lite's.
    """
    try:
        names = custom_operations(path.read_bytes())
    except (struct.error, ValueError, IndexError) as error:
        raise InputError(f"weights {path}: truncated or not a TensorFlow Lite file") from error
    for name in names:
        if name not in ALLOWED_CUSTOM:
            raise InputError(f"weights {path}: it uses the operation {name}; allowed are TensorFlow Lite's own")


def custom_operations(data: bytes) -> list[str]:
    """Return the names of the operations that are not built in, out of the table operator_codes.

    The file is a FlatBuffer: tables begin with an offset to a list of where their fields are.
    """
    if data[4:8] != IDENTIFIER:
        raise ValueError("no TensorFlow Lite file")
    codes = _field(data, _offset(data, 0), 1)
    names = []
    for i in range(_unsigned(data, codes) if codes else 0):
        table = _offset(data, codes + 4 + 4 * i)
        old, text, number = (_field(data, table, field, follow=field == 1) for field in (0, 1, 3))
        builtin = max(data[old] if old else 0, _unsigned(data, number) if number else 0)
        if text or builtin == CUSTOM:
            names.append(data[text + 4 : text + 4 + _unsigned(data, text)].decode() if text else "without a name")
    return names


def _unsigned(data: bytes, at: int) -> int:
    if at < 0:
        raise ValueError("an offset leads out of the file")
    return struct.unpack_from("<I", data, at)[0]


def _offset(data: bytes, at: int) -> int:
    """Return where a relative offset leads."""
    return at + _unsigned(data, at)


def _field(data: bytes, table: int, number: int, follow: bool = True) -> int:
    """Return where a table's field is, or what it refers to; 0 when it is absent."""
    fields = table - struct.unpack_from("<i", data, table)[0]
    if fields < 0 or struct.unpack_from("<H", data, fields)[0] < 6 + 2 * number:
        return 0
    place = struct.unpack_from("<H", data, fields + 4 + 2 * number)[0]
    return 0 if not place else _offset(data, table + place) if follow else table + place
