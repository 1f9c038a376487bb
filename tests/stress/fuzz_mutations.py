"""Ways to damage valid files: of bytes, of words and lines, of the parts that a format is made of."""

from __future__ import annotations

import io
import pickletools
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

Damage = Callable[[random.Random, bytes, Sequence[bytes]], bytes]  # (dice, content, other valid contents) -> content

NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63, -1)
WORDS = (
    "nan", "-nan", "inf", "-inf", "NaN", ".nan", ".inf", "-1", "0", "-0", "+1", "1e999", "1e-999", "1_0", "0x1F",
    "0o7", "1.0001", "1.7", "١", "½", "²", "９", "", "''", '""', "null", "~", "true", "no", "x", "\ufeff", "\0",
    "\x1b[31m", "\u2028", "\x0b", "\x0c", "\x85", "\u202e", "é", "😀", "9" * 400, "9" * 5000, "-" * 50, "[]", "{}", "[",
    "]", "{", "}", ":", ",", ";", "#", "&a", "*a", "!!str", "!!python/object/apply:os.system", "<<", "|", ">", "%",
    "@", "`", "..", "../..", "/", "//", "\\", "C:\\x", "*", "**", "?", "[a-", "~user", "$HOME", "a" * 300, "a" * 5000,
    "1e5", "0.5", "1", "2147483648", "99999999999999999999", "2024-01-01", "12:30:00", "0.1,0.2", "a=b", "http://[::1",
    "file:///etc/x", "rtsp://h", "screen", "screen 1", "screen 0 0 0 0 0", "007", "None", "images/train", "train",
    "names", "nc", "val",
)  # fmt: skip
BREAKS = ("\n", "\r\n", "\r", "\n\n", "\t", " ", "\u2028", "\x0c")
EVIL = (
    "os.system", "posix.system", "builtins.eval", "builtins.exec", "builtins.open", "builtins.getattr",
    "subprocess.Popen", "torch.load", "torch.jit.load", "numpy.load", "pickle.loads", "codecs.decode",
    "importlib.import_module", "webbrowser.open", "socket.create_connection", "shutil.rmtree", "antigravity.x",
    "models.yolo.Model", "models.common.Conv", "torch.nn.modules.conv.Conv2d", "collections.OrderedDict",
)  # fmt: skip


def any_of(*ways: Damage) -> Damage:
    """Return a damage that is one of several, one to three times."""

    def damage(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            data = dice.choice(ways)(dice, data, others)
        return data

    return damage


# Bytes ---------------------------------------------------------------------------------------------------------------


def bytes_damage(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Flip, overwrite, cut, insert, repeat or splice bytes."""
    data = bytearray(data or b"\0")
    at = dice.randrange(len(data))
    length = min(dice.choice((1, 2, 4, 8, 32, 200)), len(data) - at)
    match dice.randrange(8):
        case 0:
            for _ in range(dice.choice((1, 1, 3, 20))):
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        case 1:
            data[at : at + length] = dice.randbytes(length)
        case 2:
            del data[at : at + length]
        case 3:
            del data[at:]
        case 4:
            data[at:at] = bytes(data[at : at + length]) * dice.choice((1, 2, 50))
        case 5:
            data[at:at] = dice.choice((b"\0", b"\xff", b"\r\n", dice.randbytes(length)))
        case 6:
            other = dice.choice(others)
            data[at:] = other[dice.randrange(len(other) + 1) :]
        case _:
            return number_damage(dice, bytes(data), others)
    return bytes(data)


def number_damage(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Overwrite a whole number of 1 to 8 bytes, mostly in the head of the file."""
    size = dice.choice((1, 2, 2, 4, 4, 8))
    if len(data) < size:
        return data
    at = dice.randrange(min(len(data) - size + 1, dice.choice((32, 128, 1 << 30))))
    number = (dice.choice(NUMBERS) + dice.choice((0, 0, 1, -1))) % (1 << 8 * size)
    return data[:at] + number.to_bytes(size, dice.choice(("little", "big"))) + data[at + size :]


# Text ----------------------------------------------------------------------------------------------------------------


def words_damage(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Replace, insert, drop or repeat words, with those that parsers stumble over among them."""
    parts = re.split(r"(\s+|[,:=\[\]{}])", data.decode("utf-8", "surrogateescape"))
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(len(parts))
        match dice.randrange(5):
            case 0 | 1:
                parts[at] = dice.choice(WORDS)
            case 2:
                parts.insert(at, dice.choice(WORDS))
            case 3:
                parts[at] = ""
            case _:
                parts[at] = parts[at] * 2 if dice.random() < 0.9 else (parts[at] + " ") * 300
    return "".join(parts).encode("utf-8", "surrogateescape")


def lines_damage(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Drop, repeat, swap, indent or borrow lines, or end them otherwise."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    at, to = dice.randrange(len(lines)), dice.randrange(len(lines))
    ending = "\n"
    match dice.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(to, lines[at])
        case 2:
            lines[at], lines[to] = lines[to], lines[at]
        case 3:
            lines[at] = dice.choice(("  ", "\t", "- ", "? ", "#", "\ufeff")) + lines[at]
        case 4:
            lines.insert(to, dice.choice(dice.choice(others).decode("utf-8", "surrogateescape").split("\n")))
        case _:
            ending = dice.choice(BREAKS)
    return ending.join(lines).encode("utf-8", "surrogateescape")


def yaml_damage(dice: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """Give a key another value: of another type, nested deeply, an alias, code."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    keyed = [i for i, line in enumerate(lines) if re.match(r"\w+:", line)]
    depth = dice.choice((3, 50, 3000))
    values = (
        *WORDS, "[1, [2, [3]]]", "{a: {b: c}}", "[" * depth + "]" * depth, "{a: " * depth + "}" * depth, "&x [*x]",
        "&a [1]\nother: *a", "!!binary aGk=", "!!set {a, b}", "!!timestamp 2024-01-01", "!<tag:x> y", "? a", "'", '"',
        "{0: a, 5: b}", "{a: 1, a: 2}", "[a, a]", "[[a]]", "{-1: a}", "{1.5: a}", "{null: a}", "[null]", "{true: a}",
        "|\n  import os", "1e1000000", "0b2", "1__2", "- a", "0.1.2", ".5", "5.", "[nan, .nan]", "{[1, 2]: 3}",
    )  # fmt: skip
    if keyed:
        i = dice.choice(keyed)
        key = lines[i].split(":")[0]
        lines[i] = f"{dice.choice((key, key, key, dice.choice(WORDS)))}: {dice.choice(values)}"
    return "\n".join(lines).encode("utf-8", "surrogateescape")


# Pictures ------------------------------------------------------------------------------------------------------------


def png_damage(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change, drop, repeat or swap the chunks of a PNG, with right checksums."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return number_damage(dice, data, others)
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return data
    i, j = dice.randrange(len(chunks)), dice.randrange(len(chunks))
    match dice.randrange(4):
        case 0:
            chunks[i] = (chunks[i][0], bytes_damage(dice, chunks[i][1], others))
        case 1:
            chunks[i], chunks[j] = chunks[j], chunks[i]
        case 2:
            chunks.insert(j, chunks[i])
        case _:
            chunks[i] = (dice.choice((b"eXIf", b"IDAT", b"PLTE", b"tRNS", b"acTL", b"iCCP")), chunks[i][1])
    body = b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return data[:8] + body


# Archives and pickles ------------------------------------------------------------------------------------------------


def zip_damage(inside: Callable[[random.Random, str, bytes], bytes]) -> Damage:
    """Return a damage of one member of a zip file, whose checksums are right again afterwards."""

    def damage(dice: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        except Exception:  # damaged before
            return bytes_damage(dice, data, others)
        if not members:
            return data
        i = dice.randrange(len(members))
        name, content = members[i]
        match dice.randrange(8):
            case 0:
                del members[i]
            case 1:
                members.append(members[i])
            case 2:
                members[i] = (dice.choice(("../x", "/x", "a/../b", "x" * 300, name + "x", "data.pkl")), content)
            case _:
                members[i] = (name, inside(dice, name, content))
        out = io.BytesIO()
        method = dice.choice((zipfile.ZIP_STORED,) * 9 + (zipfile.ZIP_DEFLATED,))
        with zipfile.ZipFile(out, "w", method) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content, method)
        return out.getvalue()

    return damage


def pickle_damage(dice: random.Random, name: str, data: bytes) -> bytes:
    """Change the instructions of a pickle: other classes, calls of functions, numbers, order."""
    if not name.endswith(".pkl"):
        return bytes_damage(dice, data, [data])
    try:
        ends = [at for _, _, at in pickletools.genops(data)] + [len(data)]
    except Exception:  # damaged before
        return bytes_damage(dice, data, [data])
    i, j = dice.randrange(len(ends) - 1), dice.randrange(len(ends) - 1)
    at, end = ends[i], ends[i + 1]
    match dice.randrange(6):
        case 0:
            middle = b""
        case 1:
            middle = data[ends[j] : ends[j + 1]] + data[at:end]
        case 2 | 3:
            middle = evil_call(dice) + dice.choice((b"", b"0", b"R", b"b", b"\x81")) + data[at:end]
        case 4:
            module, _, attribute = dice.choice(EVIL).rpartition(".")
            return re.sub(rb"c[\w.]+\n\w+\n", f"c{module}\n{attribute}\n".encode(), data, count=dice.choice((1, 3)))
        case _:
            middle = bytes_damage(dice, data[at:end], [data])
    return data[:at] + middle + data[end:]


def evil_call(dice: random.Random) -> bytes:
    """Return instructions that call a function which no checkpoint needs, or build an object of a class."""
    module, _, attribute = dice.choice(EVIL).rpartition(".")
    argument = dice.choice(("touch CANARY", "CANARY", "open('CANARY', 'w')", "os"))
    text = b"X" + struct.pack("<I", len(argument)) + argument.encode()
    named = f"c{module}\n{attribute}\n".encode()
    both = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, attribute))
    return dice.choice(
        (
            named + text + b"\x85R",
            both + b"\x93" + text + b"\x85R",
            b"(" + text + f"i{module}\n{attribute}\n".encode(),
            b"(" + named + text + b"o",
            named + b")\x81}b",
            text + b"Q",
            b"\x82\x01",
            named + b"(" + text + text + b"t\x92",
        )
    )
