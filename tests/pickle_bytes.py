"""Pickles written by hand, instruction by instruction, torch archives around them, and objects that pickle as calls."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

HEAD = b"\x80\x02"
NO_ITEMS, NOTHING = b")", b"N"
KEYS_OF_A_LAYER = ("_parameters", "_buffers", "_modules")


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(path: str) -> bytes:
    """A class or function by its path: the last dot parts module and name."""
    return b"c" + "\n".join(path.rsplit(".", 1)).encode() + b"\n"


def items(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def numbers(*values: int) -> bytes:
    return items(*(number(value) for value in values))


def call(function: str, *arguments: bytes) -> bytes:
    return named(function) + items(*arguments) + b"R"


def dictionary(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def layer(path: str, **attributes: bytes) -> bytes:
    """A layer without parameters and with attributes of one's choice."""
    return named(path) + b")\x81" + dictionary(**{**dict.fromkeys(KEYS_OF_A_LAYER, b"}"), **attributes}) + b"b"


def storage(key: str = "0", count: int = 4, kind: str = "torch.FloatStorage", *, more: bytes = b"") -> bytes:
    return items(text("storage"), named(kind), text(key), text("cpu"), number(count), more) + b"Q"


def tensor(shape: bytes, strides: bytes, offset: int = 0, stored: bytes = b"", more: bytes = b"") -> bytes:
    place = [stored or storage(), number(offset), shape, strides, b"\x89", call("collections.OrderedDict"), more]
    return call("torch._utils._rebuild_tensor_v2", *place)


def parameter(shape: tuple[int, ...], key: str) -> bytes:
    """A whole parameter of its own storage."""
    count, strides = 1, []
    for side in reversed(shape):
        strides.insert(0, count)
        count *= side
    made = tensor(numbers(*shape), numbers(*strides), stored=storage(key, count))
    return call("torch._utils._rebuild_parameter", made, b"\x88", call("collections.OrderedDict"))


def whole(*body: bytes) -> bytes:
    return HEAD + b"".join(body) + b"."


def archive(path: Path, pickled: bytes, **parts: bytes) -> Path:
    """Write a torch archive around a pickle; storages are four float32 under key 0 unless given as data_<key>."""
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("archive/data.pkl", pickled)
        opened.writestr("archive/version", b"3\n")
        for name, data in {"data_0": bytes(16), **parts}.items():
            opened.writestr(f"archive/data/{name.removeprefix('data_')}", data)
    return path


def zip_of(path: Path, *members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip file of members, also of several by one name."""
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, data in members:
            opened.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def zip_bytes(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        for name, data in members:
            opened.writestr(name, data)
    return stream.getvalue()


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: object, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


class Built:
    """Pickles as a call, with a state for its result."""

    def __init__(self, function: object, arguments: tuple, state: object):
        self.parts = function, arguments, state

    def __reduce__(self) -> tuple:
        return self.parts
