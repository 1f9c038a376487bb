"""Archives, YAMLs and caches that would write elsewhere, run code, or take memory and time without end."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from malicious_checkpoints import Make
from pickle_bytes import Call, zip_bytes, zip_of

FILE, LINK, DEVICE = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o666
ZEROS = bytes(5 << 20)


# Archives -------------------------------------------------------------------------------------------------------------
def _zip(*members: tuple[str, bytes], mode: int = FILE) -> Make:
    def make(folder: Path, _: Path) -> Path:
        with zipfile.ZipFile(folder / "bad.zip", "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in members:
                info = zipfile.ZipInfo(name)
                info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
                opened.writestr(info, content)
        return folder / "bad.zip"

    return make


def _patched(make: Make, change: Callable[[bytearray], None]) -> Make:
    def patch(folder: Path, canary: Path) -> Path:
        path = make(folder, canary)
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return path

    return patch


def _smaller_in_the_list(data: bytearray) -> None:
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")


def _encrypted(data: bytearray) -> None:
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1


def _other_local_name(data: bytearray) -> None:
    data[30] = ord("b")


def _cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


def _broken_stream(data: bytearray) -> None:
    data[60] ^= 0xFF


def _overlapping(folder: Path, _: Path) -> Path:
    """A small file whose list names one compressed member a thousand times, each by its own name."""
    packed = zlib.compress(bytes(100_000), 9)[2:-4]
    checksum = zlib.crc32(bytes(100_000))
    sizes = checksum.to_bytes(4, "little") + len(packed).to_bytes(4, "little") + (100_000).to_bytes(4, "little")
    local = b"PK\x03\x04\x14\0\0\0\x08\0\0\0\0\0" + sizes + b"\x03\0\0\0" + b"000" + packed
    entry = b"PK\x01\x02\x14\0\x14\0\0\0\x08\0\0\0\0\0" + sizes + b"\x03\0" + bytes(16)
    listed = b"".join(entry + b"%03d" % n for n in range(1000))
    end = b"PK\x05\x06\0\0\0\0\xe8\x03\xe8\x03" + len(listed).to_bytes(4, "little") + len(local).to_bytes(4, "little")
    (folder / "bad.zip").write_bytes(local + listed + end + b"\0\0")
    return folder / "bad.zip"


def _tar(*members: tuple[str, bytes, dict], suffix: str = ".tar", pax: dict[str, str] | None = None) -> Make:
    def make(folder: Path, _: Path) -> Path:
        path = folder / f"bad{suffix}"
        with tarfile.open(path, "w" + suffix.removeprefix(".tar").replace(".", ":"), pax_headers=pax) as opened:
            for name, content, options in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                for key, value in options.items():
                    setattr(info, key, value)
                opened.addfile(info, io.BytesIO(content))
        return path

    return make


def _tar_header(size: int, kind: bytes = b"0") -> bytes:
    """A tar member whose size is written as a number of base 256, which can be negative."""
    info = tarfile.TarInfo("x")
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[124:136] = size.to_bytes(12, "big", signed=True)
    head[156:157] = kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def _raw_tar(*parts: bytes) -> Make:
    def make(folder: Path, _: Path) -> Path:
        (folder / "bad.tar").write_bytes(b"".join(parts) + bytes(1024))
        return folder / "bad.tar"

    return make


def _pax_size(folder: Path, _: Path) -> Path:
    """A member whose extended header gives it a negative size."""
    record = b"15 size=-10240\n"
    head = _tar_header(len(record), b"x")
    (folder / "bad.tar").write_bytes(head + record.ljust(512, b"\0") + _tar_header(0) + bytes(1024))
    return folder / "bad.tar"


def _many_empty_members(folder: Path, _: Path) -> Path:
    one = tarfile.TarInfo("x").tobuf()
    (folder / "bad.tar.gz").write_bytes(gzip.compress(one * 40_000 + bytes(1024)))
    return folder / "bad.tar.gz"


def _link(kind: bytes, to: str) -> dict:
    return {"type": kind, "linkname": to}


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
ARCHIVES: dict[str, Make] = {
    "zip: climbs": _zip(("good.txt", b"x"), ("../../canary", b"x")),
    "zip: climbs from inside": _zip(("a/../../canary", b"x")),
    "zip: climbs by backslashes": _zip(("..\\canary", b"x")),
    "zip: absolute": _zip(("/tmp/canary-of-a-zip", b"x")),
    "zip: drive letter": _zip(("C:/canary", b"x")),
    "zip: network drive": _zip(("\\\\host\\share\\canary", b"x")),
    "zip: zero byte in a name": _patched(
        _zip(("a#../canary", b"x")), lambda data: data.__setitem__(slice(None), data.replace(b"a#..", b"a\0.."))
    ),
    "zip: no name": _zip((".", b"x")),
    "zip: link": _zip(("l", b"/etc"), mode=LINK),
    "zip: device": _zip(("d", b""), mode=DEVICE),
    "zip: zeros without end": _zip(("big", ZEROS)),
    "zip: one member a thousand times": _overlapping,
    "zip: the same member twice": _zip(("a.txt", b"1"), ("./a.txt", b"2")),
    "zip: file and folder of one name": _zip(("a", b"1"), ("a/canary", b"2")),
    "zip: larger than it says": _patched(_zip(("a", b"x" * 1000)), _smaller_in_the_list),
    "zip: encrypted": _patched(_zip(("a", b"x" * 1000)), _encrypted),
    "zip: two names for one member": _patched(_zip(("a", b"x" * 1000)), _other_local_name),
    "zip: damaged after a good member": _patched(
        _zip(("a", os.urandom(2000)), ("good", b"x")), _broken_stream
    ),
    "tar: climbs": _tar(("good.txt", b"x", {}), ("../canary", b"x", {})),
    "tar: absolute": _tar(("/tmp/canary-of-a-tar", b"x", {})),
    "tar: link out and a file through it": _tar(("l", b"", _link(SYM, "/tmp")), ("l/canary-of-a-tar", b"x", {})),
    "tar: link inside": _tar(("a", b"x", {}), ("l", b"", _link(SYM, "a"))),
    "tar: hard link out": _tar(("l", b"", _link(HARD, "../canary"))),
    "tar: device": _tar(("d", b"", {"type": tarfile.CHRTYPE})),
    "tar: pipe": _tar(("d", b"", {"type": tarfile.FIFOTYPE})),
    "tar: the same member twice": _tar(("a", b"1", {}), ("a", b"2", {})),
    "tar: climbs by an extended header": _tar(("a", b"x", {"pax_headers": {"path": "../canary"}})),
    "tar: zeros without end": _tar(("big", ZEROS, {}), suffix=".tar.gz"),
    "tar: zeros without end, xz": _tar(("big", ZEROS, {}), suffix=".tar.xz"),
    "tar: members without end": _many_empty_members,
    "tar: negative size": _raw_tar(_tar_header(-1024)),
    "tar: negative size of a long name": _raw_tar(_tar_header(-1024, b"L")),
    "tar: negative size in an extended header": _pax_size,
    "tar: cut off": _patched(_tar(("a", os.urandom(5000), {}), suffix=".tar.gz"), _cut),
    "neither zip nor tar": lambda folder, _: _written(folder / "bad.zip", b"7z\xbc\xaf\x27\x1c" + bytes(100)),
    "zip of a pickle under another name": lambda folder, canary: _written(
        folder / "bad.zip", pickle.dumps(Call(os.system, f"touch {canary}"))
    ),
}  # fmt: skip


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# YAMLs ----------------------------------------------------------------------------------------------------------------
def _yaml(content: str) -> Make:
    return lambda folder, canary: _written(
        folder / "bad.yaml",
        content.replace("CODE", f"open('{canary}','w').close()").replace("CANARY", str(canary)).encode(),
    )


def _levels(first: str, times: int, levels: int) -> str:
    lines = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * times)}]" for i in range(1, levels)]
    return "\n".join([f"k0: &k0 [{first}]", *lines])


def _merges(times: int, levels: int) -> str:
    lines = [f"k{i}: &k{i} {{<<: [{', '.join([f'*k{i - 1}'] * times)}]}}" for i in range(1, levels)]
    return "\n".join(["k0: &k0 {a: 1, b: 2}", *lines])


YAMLS: dict[str, Make] = {
    "yaml: call": _yaml('a: !!python/object/apply:os.system ["touch CANARY"]'),
    "yaml: new object": _yaml('a: !!python/object/new:subprocess.Popen [["touch", "CANARY"]]'),
    "yaml: object with a state": _yaml("a: !!python/object:argparse.Namespace {x: 1}"),
    "yaml: name of a function": _yaml("a: !!python/name:os.system"),
    "yaml: module": _yaml("a: !!python/module:this"),
    "yaml: evaluated state": _yaml(
        '!!python/object/new:type\nargs: ["z", [], {extend: !!python/name:exec }]\nlistitems: "CODE"'
    ),
    "yaml: tuple": _yaml("a: !!python/tuple [1, 2]"),
    "yaml: tag of its own": _yaml(
        "%TAG !p! tag:yaml.org,2002:python/object/apply:\n---\na: !p!os.system ['touch CANARY']"
    ),
    "yaml: unknown tag": _yaml("a: !include /etc/passwd"),
    "yaml: aliases without end": _yaml(_levels("x, x, x, x, x, x, x, x, x, x", 10, 12)),
    "yaml: aliases of nothing without end": _yaml(_levels("'', '', '', '', '', '', '', '', '', ''", 10, 12)),
    "yaml: aliases that write a megabyte": _yaml("a: &a " + "x" * 1000 + "\nb: [" + "*a, " * 1100 + "*a]"),
    "yaml: merges without end": _yaml(_merges(9, 9)),
    "yaml: refers to itself": _yaml("a: &a {b: *a}"),
    "yaml: key twice": _yaml("lr0: 0.01\nlr0: 0.1"),
    "yaml: key twice deep inside": _yaml("a: {b: [{c: 1, c: 2}]}"),
    "yaml: merge twice": _yaml("x: &x {a: 1}\nb: {<<: *x, <<: *x}"),
    "yaml: key twice in two spellings": _yaml("1: a\n0x1: b"),
    "yaml: key that is a list": _yaml("? [a, b]\n: 1"),
    "yaml: nested deep": _yaml("a: " + "[" * 5000),
    "yaml: two megabytes": _yaml("names: [" + "x, " * 700_000 + "x]"),
    "yaml: number of many digits": _yaml("a: " + "9" * 5000),
    "yaml: number of many minutes": _yaml("a: 1" + ":1" * 200_000),
    "yaml: broken number": _yaml("a: !!int 1:2:x"),
    "yaml: broken date": _yaml("a: !!timestamp x"),
    "yaml: broken truth": _yaml("a: !!bool x"),
    "yaml: two documents": _yaml("a: 1\n---\nb: 2"),
    "yaml: control characters": _yaml("a: \x00\x1b[2J"),
}  # fmt: skip

BACKBONE = "backbone: [[-1, 1, {layer}, [{arguments}]]]\nhead: [[[0], 1, Detect, [nc, anchors]]]\n"
MODEL = "nc: 2\ndepth_multiple: 1.0\nwidth_multiple: 1.0\nanchors: [[10, 13, 16, 30, 33, 23]]\n"


def _model(layer: str = "Conv", arguments: str = "8, 3, 2", more: str = "", head: str = MODEL) -> Make:
    return _yaml(head + BACKBONE.format(layer=layer, arguments=arguments) + more)


MODEL_YAMLS: dict[str, Make] = {
    "model: activation that is code": _model(more='activation: "CODE"'),
    "model: activation that imports": _model(more="activation: \"__import__('os').system('touch CANARY')\""),
    "model: activation with code inside": _model(more='activation: "nn.LeakyReLU(CODE)"'),
    "model: activation of another module": _model(more='activation: "nn.Module.__subclasses__()"'),
    "model: layer that is code": _model(layer='"CODE"'),
    "model: layer that is a function": _model(layer="os.system", arguments="touch CANARY"),
    "model: layer of a module of torch": _model(layer="nn.modules.module.torch.hub.load", arguments="x"),
    "model: layer that is a function of torch": _model(layer="nn.functional.relu"),
    "model: argument that is code": _model(arguments='"CODE", 3, 2'),
    "model: argument nested deep": _model(arguments='"' + "(" * 300 + '", 3, 2'),
    "model: classes that are code": _model(head=MODEL.replace("nc: 2", 'nc: "CODE"')),
    "model: anchors that are code": _model(head=MODEL.replace("[[10, 13, 16, 30, 33, 23]]", '"CODE"')),
}


# Label caches: a scan of eight images wrote the good one --------------------------------------------------------------
Change = Callable[[Path, Path], None]  # (cache file of ours, canary) -> replaces it


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as data:
        return {name: data[name] for name in data.files}


def _with(**changed: np.ndarray | None) -> Change:
    def change(path: Path, _: Path) -> None:
        kept = {name: array for name, array in {**_arrays(path), **changed}.items() if array is not None}
        np.savez(path, **kept)

    return change


def _facts(**changed: object) -> Change:
    def change(path: Path, _: Path) -> None:
        facts = {**json.loads(_arrays(path)["facts"].tobytes()), **changed}
        _with(facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))(path, path)

    return change


def _value(name: str, number: float) -> Change:
    def change(path: Path, _: Path) -> None:
        array = _arrays(path)[name]
        array.flat[0] = number
        _with(**{name: array})(path, path)

    return change


def _objects(path: Path, canary: Path) -> None:
    arrays = {**_arrays(path), "boxes": np.array([Call(os.system, f"touch {canary}")], dtype=object)}
    np.savez(path, **arrays)


def _header(claim: str) -> bytes:
    head = f"{{'descr': {claim}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


def _claim(claim: str, compression: int = zipfile.ZIP_STORED) -> Change:
    """Give the boxes another header."""

    def change(path: Path, _: Path) -> None:
        with zipfile.ZipFile(path) as opened:
            members = [(name, opened.read(name)) for name in opened.namelist() if name != "boxes.npy"]
        zip_of(path, *members, ("boxes.npy", _header(claim) + bytes(64)), compression=compression)

    return change


def _bomb(path: Path, _: Path) -> None:
    np.savez_compressed(path, **{**_arrays(path), "boxes": np.zeros((4_000_000, 5), np.float32)})


def _bytes(make: Callable[[Path], bytes]) -> Change:
    return lambda path, canary: path.write_bytes(make(canary)) and None


def _upstreams(path: Path, canary: Path) -> None:
    """YOLOv5's own cache beside ours, which is gone."""
    path.unlink()
    path.with_suffix("").write_bytes(pickle.dumps(Call(os.system, f"touch {canary}")))


F4 = "'<f4', 'fortran_order': False, 'shape': "
LABEL_CACHES: dict[str, Change] = {
    "label cache: YOLOv5's pickle": _upstreams,
    "label cache: pickle under our name": _bytes(lambda c: pickle.dumps(Call(os.system, f"touch {c}"))),
    "label cache: arrays of objects": _objects,
    "label cache: single array": _bytes(lambda _: _header(F4 + "(2,)") + bytes(8)),
    "label cache: claims all memory": _claim(F4 + "(1000000000000, 5)"),
    "label cache: claims a negative shape": _claim(F4 + "(-1, 5)"),
    "label cache: code in a header": _claim("open('x','w'), 'fortran_order': False, 'shape': ()"),
    "label cache: header nested deep": _claim("(" * 100 + "'<f4'"),
    "label cache: records of objects": _claim("[('a', '|O')], 'fortran_order': False, 'shape': (1,)"),
    "label cache: zeros without end": _bomb,
    "label cache: another array": _with(more=np.zeros(1)),
    "label cache: missing array": _with(boxes=None),
    "label cache: other shape": _with(boxes=np.zeros((16, 4), np.float32)),
    "label cache: other type": _with(boxes=np.zeros((16, 5), np.float64)),
    "label cache: offsets beyond the end": _value("box_offsets", -1),
    "label cache: coordinates out of range": _value("boxes", -3),
    "label cache: endless class": _value("boxes", np.inf),
    "label cache: image without size": _value("shapes", 0),
    "label cache: facts nested deep": _with(facts=np.frombuffer(b"[" * 100_000, np.uint8)),
    "label cache: facts that are a list": _with(facts=np.frombuffer(b"[]", np.uint8)),
    "label cache: endless counts": _facts(counts=[float("inf")] * 5),
    "label cache: problems that are a number": _facts(problems=3),
    "label cache: damaged": _bytes(lambda _: b"PK\x03\x04" + bytes(100)),
    "label cache: empty": _bytes(lambda _: b""),
    "label cache: zip of something else": _bytes(lambda _: zip_bytes(("x", b"y"))),
}


# Image caches: .npy files beside images, with the key of the image kept -----------------------------------------------
def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def _image(make: Callable[[Path, bytes], bytes]) -> Change:
    """Replace what comes before the key: (canary, the good bytes) -> bytes."""
    return lambda path, canary: path.write_bytes(make(canary, path.read_bytes())) and None


def _in_place_of(make: Callable[[Path], None]) -> Change:
    def change(path: Path, _: Path) -> None:
        path.unlink()
        make(path)

    return change


U1 = "'|u1', 'fortran_order': False, 'shape': "
IMAGE_CACHES: dict[str, Change] = {
    "image cache: objects": _image(
        lambda c, good: _npy(np.array([Call(os.system, f"touch {c}")], dtype=object)) + good[-200:]
    ),
    "image cache: pickle": _image(lambda c, good: pickle.dumps(Call(os.system, f"touch {c}")) + good[-200:]),
    "image cache: other image": _image(lambda _, good: _npy(np.zeros((64, 96, 3), np.uint8)) + good[-200:]),
    "image cache: other shape": _image(lambda _, good: _npy(np.zeros((9, 9, 3), np.uint8)) + good[-200:]),
    "image cache: other type": _image(lambda _, good: _npy(np.zeros((64, 96, 3), np.float64)) + good[-200:]),
    "image cache: claims all memory": _image(lambda _, good: _header(U1 + "(1000000000000, 96, 3)") + good[-200:]),
    "image cache: header nested deep": _image(lambda _, good: _header("(" * 100) + good[-200:]),
    "image cache: header of another version": _image(lambda _, good: good[:6] + b"\x09" + good[7:]),
    "image cache: archive": _image(lambda _, good: zip_bytes(("x.npy", good)) + good[-200:]),
    "image cache: another key": _image(lambda _, good: good[:-40] + bytes(40)),
    "image cache: no key": _image(lambda _, good: good[:-200]),
    "image cache: empty": _image(lambda _, good: b""),
    "image cache: folder": _in_place_of(Path.mkdir),
    "image cache: pipe": _in_place_of(os.mkfifo),
    "image cache: endless device": _in_place_of(lambda path: path.symlink_to("/dev/zero")),
}
