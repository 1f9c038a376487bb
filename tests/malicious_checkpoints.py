"""Checkpoints that would run code, read or write elsewhere, or take memory and time without end: one function each."""

from __future__ import annotations

import builtins
import os
import pickle
import runpy
import struct
import subprocess
import tarfile
import webbrowser
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from checkpoint_files import save, tiny_model
from pickle_bytes import (
    HEAD,
    NO_ITEMS,
    NOTHING,
    Built,
    Call,
    archive,
    call,
    dictionary,
    items,
    layer,
    named,
    number,
    numbers,
    storage,
    tensor,
    text,
    whole,
    zip_bytes,
    zip_of,
)

Make = Callable[[Path, Path], Path]  # (folder, canary that code would write) -> the file
FAR = 10**12


def make_file(name: str) -> None:
    Path(name).write_text("code ran")


def _calls(canary: Path) -> dict[str, object]:
    """Return what pickles as a harmful call."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, touch),
        "subprocess": Call(subprocess.check_call, ["touch", str(canary)]),
        "eval": Call(builtins.eval, code),
        "exec": Call(builtins.exec, code),
        "compile": Call(builtins.compile, code, "x", "exec"),
        "import": Call(__import__, "this"),
        "getattr of a module": Call(getattr, Call(__import__, "os"), "system"),
        "open": Call(open, str(canary), "w"),
        "runpy": Call(runpy.run_path, str(canary)),
        "web browser": Call(webbrowser.open, "file:///"),
        "torch.load": Call(torch.load, str(canary)),
        "torch.hub": Call(torch.hub.load, str(canary), "x"),
        "torch.jit": Call(torch.jit.load, str(canary)),
        "pickle in a pickle": Call(pickle.loads, pickle.dumps(Call(os.system, touch))),
        "numpy.load": Call(np.load, str(canary)),
        "function of this file": Call(make_file, str(canary)),
        "state with a call": {"a": Built(dict, (), {"b": Call(os.system, touch)})},
        "call as a key": {Call(os.system, touch): 1},
    }


def _real(name: str, zipped: bool, protocol: int = 2) -> Make:
    def make(folder: Path, canary: Path) -> Path:
        content = {"model": tiny_model(), "x": _calls(canary)[name]}
        options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
        return save(folder / "bad.pt", content, **options)

    return make


def _pickled(*body: bytes) -> Make:
    return lambda folder, _: archive(folder / "bad.pt", whole(*body))


def _valued(*body: bytes) -> Make:
    """A dict with one value, which a reader that does not look at the value would take."""
    return _pickled(b"}", text("x"), *body, b"s")


def _touching(make: Callable[[str], bytes]) -> Make:
    """Build the pickle with the command that writes the canary."""
    return lambda folder, canary: archive(folder / "bad.pt", whole(make(f"touch {canary}")))


def _fetch(place: int) -> bytes:
    return b"h" + bytes([place])


def _store(place: int) -> bytes:
    return b"q" + bytes([place])


def _doubled(levels: int, pair: Callable[[bytes, bytes], bytes]) -> bytes:
    """A value (at memo place 0) that holds another one twice, and so on: 2 ** levels values when written out."""
    return NOTHING + _store(0) + (pair(_fetch(0), _fetch(0)) + _store(0)) * levels


def _repeated(before: bytes, again: bytes, times: int) -> bytes:
    """A list of calls that all use the one value made before (at memo place 1)."""
    return before + _store(1) + b"](" + again * times + b"e"


CONV, DETECT, MODEL = "models.common.Conv", "models.yolo.Detect", "models.yolo.DetectionModel"
SEQUENTIAL = "torch.nn.modules.container.Sequential"
ENCODE, SIZE, SET = "_codecs.encode", "torch.Size", "__builtin__.set"

NAMES: dict[str, Make] = {
    "name with dots": _touching(lambda c: call("models.common.Conv.__init__.__globals__", text(c))),
    "module within a module": _touching(lambda c: call("models.yolo.importlib.import_module", text("os"))),
    "stack global": _touching(lambda c: text("os") + text("system") + b"\x93" + items(text(c)) + b"R"),
    "stack global from memo": _touching(
        lambda c: text("system") + b"q\x00" + text("os") + b"q\x01" + b"h\x01h\x00\x93" + items(text(c)) + b"R"
    ),
    "name built by a call": _pickled(call(ENCODE, text("os"), text("latin1")), text("system"), b"\x93"),
    "function from memo": _touching(lambda c: named("os.system") + b"q\x05" + b"h\x05" + items(text(c)) + b"R"),
    "memo put by a long index": _touching(
        lambda c: named("posix.system") + b"r\xff\xff\xff\x7f" + b"j\xff\xff\xff\x7f" + items(text(c)) + b"R"
    ),
    "instance instruction": _touching(lambda c: b"(" + text(c) + b"ios\nsystem\n"),
    "object instruction": _touching(lambda c: b"(" + named("os.system") + text(c) + b"o"),
    "newobj of a function": _touching(lambda c: named("os.system") + items(text(c)) + b"\x81"),
    "newobj with keywords": _touching(lambda c: named("os.system") + items(text(c)) + b"}\x92"),
    "extension registry 1": _pickled(b"\x82\x01"),
    "extension registry 2": _pickled(b"\x83\x01\x00"),
    "extension registry 4": _pickled(b"\x84\x01\x00\x00\x00"),
    "persistent id as text": _pickled(b"P/etc/passwd\n"),
    "persistent id of a file": _pickled(items(text("file"), text("/etc/passwd")), b"Q"),
    "persistent id of a class": _pickled(items(text("module"), text("a"), text("b"), text("c")), b"Q"),
    "text pickle of protocol 0": lambda folder, canary: archive(
        folder / "bad.pt", f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    ),
    "name of several lines": _pickled(text("os\nrm"), text("x\x1b[31m"), b"\x93"),
    "call of a computed value": _pickled(call("builtins.getattr", named(DETECT), text("forward")), NO_ITEMS, b"R"),
    "getattr of __init__": _pickled(call("__builtin__.getattr", named(DETECT), text("__init__"))),
    "getattr of another class": _pickled(call("__builtin__.getattr", named(CONV), text("forward"))),
    "getattr of a layer": _pickled(call("builtins.getattr", layer(DETECT), text("forward"))),
    "getattr with a default": _pickled(call("builtins.getattr", named(DETECT), text("forward"), NOTHING)),
    "Detect.forward elsewhere": _pickled(layer(CONV, act=call("builtins.getattr", named(DETECT), text("forward")))),
}

STATES: dict[str, Make] = {
    "planted forward": _pickled(layer(CONV, forward=named(CONV))),
    "planted __call__": _pickled(layer(CONV, __call__=text("x"))),
    "planted __setstate__": _touching(lambda c: layer(CONV, __setstate__=named("os.system")) + text(c) + b"b"),
    "planted __reduce__": _pickled(layer(CONV, __reduce__=text("x"))),
    "planted text method": _pickled(layer(CONV, train=text("x"))),
    "planted property": _pickled(layer("torch.nn.modules.activation.MultiheadAttention", __class__=named(CONV))),
    "attributes for a class": _pickled(named(CONV), dictionary(forward=text("x")), b"b"),
    "attributes as slots": _pickled(named(CONV), b")\x81", NOTHING, dictionary(forward=named(CONV)), b"\x86b"),
    "attributes for a tensor": _pickled(
        tensor(numbers(4), numbers(1)), items(storage("1", 1), number(0), numbers(FAR), numbers(1)), b"b"
    ),
    "layer as attribute": _pickled(layer(CONV, extra=layer(CONV))),
    "class as attribute": _pickled(layer(CONV, act=named(CONV))),
    "function as attribute": _pickled(layer(CONV, act=named("torch._utils._rebuild_tensor_v2"))),
    "state that is text": _pickled(named(CONV), b")\x81", text("x"), b"b"),
    "no state": _pickled(named(CONV), b")\x81"),
    "constructor with arguments": _pickled(call(MODEL, text("/etc/passwd"))),
    "buffers that are text": _pickled(layer(CONV, _buffers=dictionary(x=text("x")))),
    "children that are numbers": _pickled(layer(CONV, _modules=dictionary(conv=number(1)))),
    "child named across dots": _pickled(layer(CONV, _modules=dictionary(**{"a.b": layer(CONV)}))),
    "layer within itself": _pickled(
        named(CONV), b")\x81q\x00", dictionary(_modules=dictionary(a=b"h\x00"), _parameters=b"}", _buffers=b"}"), b"b"
    ),
    "head for endless feature maps": _pickled(layer(DETECT, nl=number(FAR))),
    "attribute name of several lines": _pickled(layer(CONV, **{"__x\ny\x1b[2J": text("x")})),
    "numpy array of objects": lambda folder, canary: save(
        folder / "bad.pt", {"x": np.array([_calls(canary)["os.system"]], dtype=object)}
    ),
    "numpy type of objects": _pickled(call("numpy.dtype", text("O8"), b"\x89", b"\x88")),
    "numpy number of bytes that are none": _pickled(
        call("numpy._core.multiarray.scalar", call("numpy.dtype", text("f8"), b"\x89", b"\x88"), text("x"))
    ),
}

ARGUMENTS: dict[str, Make] = {
    "encode by another codec": _valued(call(ENCODE, text("x"), text("zlib"))),
    "encode by a codec to import": _valued(call(ENCODE, text("x"), text("os"))),
    "encode one text many times": _valued(
        _repeated(text("x" * 100_000), call(ENCODE, _fetch(1), text("latin1")), 1000)
    ),
    "set of a long range": _valued(call(SET, call("__builtin__.xrange", number(10**5)))),
    "range without end": _valued(call("builtins.range", number(FAR))),
    "range of a step of 0": _valued(call("builtins.range", number(0), number(5), number(0))),
    "one list in many sets": _valued(
        _repeated(b"](" + b"".join(number(n) for n in range(10_000)) + b"e", call(SET, _fetch(1)), 1000)
    ),
    "size of a range": _valued(call(SIZE, call("builtins.range", number(10**5)))),
    "size of text": _valued(call(SIZE, items(text("x")))),
    "device of a long name": _valued(call("torch.device", text("cuda:" + "9" * 1000))),
    "path that is a call": _touching(lambda c: call("pathlib.PosixPath", call("os.system", text(c)))),
    "path of a number": _valued(call("pathlib.PosixPath", number(1))),
    "path of one text many times": _valued(
        _repeated(text("x" * 100_000), call("pathlib.PosixPath", _fetch(1) * 100), 10)
    ),
    "ordered dict of a range": _valued(call("collections.OrderedDict", call("builtins.range", number(10**5)))),
    "parameter of text": _valued(call("torch._utils._rebuild_parameter", text("x"), b"\x88", NOTHING)),
    "old part of a storage outside it": _valued(storage(more=items(text("1"), number(2), number(4)))),
}

TENSORS: dict[str, Make] = {
    "tensor beyond its storage": _valued(tensor(numbers(5), numbers(1))),
    "strides beyond the storage": _valued(tensor(numbers(2, 2), numbers(FAR, 1))),
    "offset beyond the storage": _valued(tensor(numbers(1), numbers(1), offset=4)),
    "negative stride": _valued(tensor(numbers(4), numbers(-1))),
    "negative offset": _valued(tensor(numbers(4), numbers(1), offset=-1)),
    "one number shown a million million times": _valued(tensor(numbers(FAR), numbers(0))),
    "shape without numbers and without end": _valued(tensor(numbers(FAR, 0), numbers(1, 1))),
    "shape of other length than strides": _valued(tensor(numbers(2, 2), numbers(1))),
    "shape that is computed": _valued(tensor(b"]", b"]")),
    "shape of a hundred sides": _valued(tensor(numbers(*[1] * 100), numbers(*[1] * 100))),
    "tensor of no storage": _valued(tensor(numbers(4), numbers(1), stored=text("x"))),
    "tensor with metadata": _valued(tensor(numbers(4), numbers(1), more=dictionary(neg=b"\x88"))),
    "storage of more than the file has": _valued(storage(count=2**40)),
    "storage of a negative size": _valued(storage(count=-1)),
    "storage of a key that climbs": _valued(storage("../../../etc/passwd")),
    "storage with two descriptions": _valued(b"](", storage(count=1), storage(count=4), b"e"),
    "storage of an unknown kind": _valued(storage(kind="torch.QUInt8Storage")),
    "storage that is not in the file": _valued(storage("7")),
    "part under a key of another case": lambda folder, _: zip_of(
        folder / "bad.pt",
        ("archive/data.pkl", whole(storage())),
        ("archive/DATA/0", b"1234"),
        ("archive/data/0", bytes(16)),
    ),
}

SIZES: dict[str, Make] = {
    "text that claims 4 GB": _pickled(b"X\xff\xff\xff\xff", b"x"),
    "text that claims all bytes there are": _pickled(b"\x8d", struct.pack("<Q", 2**60), b"x"),
    "bytes that claim all bytes there are": _pickled(b"\x8e", struct.pack("<Q", 2**60), b"x"),
    "number that claims 2 GB": _pickled(b"\x8b\xff\xff\xff\x7f", b"x"),
    "frame that claims all bytes there are": _pickled(b"\x95", struct.pack("<Q", 2**62), b"N"),
    "number of many digits": _pickled(b"L" + b"9" * 100_000 + b"L\n"),
    "list within itself": _pickled(b"]q\x00h\x00a"),
    "lists nested deep": _pickled(b"]" * 50_000, b"a" * 49_999),
    "tuples nested deep as a key": _pickled(b"})", b"\x85" * 500_000, b"Ns"),
    "tuple doubled sixty times as a key": _pickled(
        _doubled(60, lambda a, b: a + b + b"\x86"), b"}", _fetch(0), NOTHING, b"s"
    ),
    "list doubled sixty times": _pickled(_doubled(60, lambda a, b: b"](" + a + b + b"e"), dictionary(names=_fetch(0))),
    "list doubled sixty times among buffer names": _pickled(
        _doubled(60, lambda a, b: b"](" + a + b + b"e"),
        layer(CONV, _non_persistent_buffers_set=b"]" + _fetch(0) + b"a", extra=_fetch(0)),
    ),
    "layer doubled sixty times": _pickled(
        _doubled(60, lambda a, b: layer(SEQUENTIAL, _modules=dictionary(**{"0": a, "1": b}))),
        dictionary(model=_fetch(0)),
    ),
}


def _changed(change: Callable[[object], None]) -> Make:
    def make(folder: Path, _: Path) -> Path:
        model = tiny_model()
        change(model)
        return save(folder / "bad.pt", {"model": model})

    return make


def _set(attribute: str, value: object, at: int | None = None) -> Make:
    """A small network with another value of one attribute, of layer ``at`` or of the whole."""
    return _changed(lambda model: vars(model if at is None else model.model[at]).__setitem__(attribute, value))


def _without_save(model: object) -> None:
    del vars(model)["save"]
    model.model[3].f = "%1000000000d"


NETWORKS: dict[str, Make] = {
    "layer that formats a gigabyte of text": _changed(_without_save),
    "layers at place 0": _set("i", -1, at=3),
    "saved layers that are text": _set("save", "0123"),
    "class scores by an unknown function": _set("cls_act", "__import__('os')", at=-1),
    "head for other feature maps than anchors": _set("nl", 3, at=-1),
    "names without end": _changed(lambda model: vars(model).update(names=None, nc=FAR)),
    "names that are code": _changed(lambda model: vars(model).update(names={"__import__('os')": "x"})),
    "head without convolutions": _changed(lambda model: model.model[-1]._modules.clear()),
    "convolution without its weights": _changed(lambda model: model.model[0].conv._parameters.clear()),
    "convolution whose settings are text": _changed(lambda model: vars(model.model[0].conv).update(stride="x")),
    "anchors of one number": _changed(lambda model: model.model[-1]._buffers.update(anchors=torch.zeros(1))),
    "stride measured in a loop of layers": _changed(lambda model: vars(model.model[3]).update(f=FAR)),
}


def _members(*members: tuple[str, bytes]) -> Make:
    return lambda folder, _: zip_of(folder / "bad.pt", *members)


def _harmful(canary: Path) -> bytes:
    return whole(call("os.system", text(f"touch {canary}")))


def _two_of_a_name(folder: Path, canary: Path) -> Path:
    return zip_of(folder / "bad.pt", ("archive/data.pkl", whole(b"}")), ("archive/data.pkl", _harmful(canary)))


def _beside_by_case(folder: Path, canary: Path) -> Path:
    """torch's reader ignores the case of names, and would find the other pickle."""
    return zip_of(folder / "bad.pt", ("archive/DATA.PKL", _harmful(canary)), ("archive/data.pkl", whole(b"}")))


def _two_directories(folder: Path, canary: Path) -> Path:
    """Two archives in one file: readers that search for the end in different ways see different ones."""
    path = folder / "bad.pt"
    harmful = zip_bytes(("archive/data.pkl", _harmful(canary)), ("archive/version", b"3\n"))
    path.write_bytes(harmful + zip_bytes(("archive/data.pkl", whole(storage("7")))))
    return path


def _comment_with_an_end(folder: Path, canary: Path) -> Path:
    path = archive(folder / "bad.pt", _harmful(canary))
    with zipfile.ZipFile(path, "a") as opened:
        opened.comment = zip_bytes(("archive/data.pkl", whole(storage("7"))))
    return path


def _torchscript(folder: Path, _: Path) -> Path:
    path = folder / "bad.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), str(path))
    return path


def _tar(folder: Path, canary: Path) -> Path:
    """The format of torch's first releases."""
    (folder / "pickle").write_bytes(_harmful(canary))
    with tarfile.open(folder / "bad.pt", "w") as opened:
        for name in ("storages", "tensors", "pickle"):
            opened.add(folder / "pickle", name)
    (folder / "pickle").unlink()
    return folder / "bad.pt"


def _legacy(*body: bytes, keys: tuple[str, ...] = ()) -> Make:
    """A file of torch before 1.6 whose object is made by hand; ``keys`` of the tensor data it says will follow."""
    return lambda folder, _: _legacy_file(folder, *body, keys=keys)


def _legacy_file(folder: Path, *body: bytes, keys: tuple[str, ...] = ()) -> Path:
    path = save(folder / "bad.pt", {}, _use_new_zipfile_serialization=False)
    data, empty, no_keys = path.read_bytes(), HEAD + b"}q\x00.", HEAD + b"]q\x00."
    assert data.count(empty) == 1 and data.endswith(no_keys)
    listed = whole(b"](", *map(text, keys), b"e")
    path.write_bytes(data.removesuffix(no_keys).replace(empty, whole(*body)) + listed + bytes(8 + 16) * len(keys))
    return path


def _source_of_a_class(name: str) -> bytes:
    return items(text("module"), named(name), text("/etc/passwd"), text("import os"))


def _encrypted(folder: Path, _: Path) -> Path:
    path = archive(folder / "bad.pt", whole(b"}"))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    data[6] |= 1
    path.write_bytes(data)
    return path


def _endless_device(folder: Path, _: Path) -> Path:
    (folder / "bad.pt").symlink_to("/dev/zero")
    return folder / "bad.pt"


def _pipe(folder: Path, _: Path) -> Path:
    os.mkfifo(folder / "bad.pt")
    return folder / "bad.pt"


CONTAINERS: dict[str, Make] = {
    "zip within the pickle's place": lambda folder, canary: archive(
        folder / "bad.pt", zip_bytes(("archive/data.pkl", _harmful(canary)))
    ),
    "two pickles of one name": _two_of_a_name,
    "two pickles that differ in case": _beside_by_case,
    "two archives in one file": _two_directories,
    "an archive in the archive's comment": _comment_with_an_end,
    "second pickle in a folder": _members(("archive/data.pkl", whole(b"}")), ("archive/x/data.pkl", whole(b"}"))),
    "second pickle in another archive folder": _members(("a/data.pkl", whole(b"}")), ("b/data.pkl", whole(b"}"))),
    "pickle that climbs": _members(("../data.pkl", whole(b"}")), ("../version", b"3")),
    "pickle at the top": _members(("data.pkl", whole(b"}"))),
    "pickle of an absolute path": _members(("/data.pkl", whole(b"}")), ("/x/version", b"3")),
    "byte order that is code": _members(("a/data.pkl", whole(b"}")), ("a/byteorder", b"import os")),
    "compressed zeros": lambda folder, _: zip_of(
        folder / "bad.pt",
        ("a/data.pkl", whole(b"}")),
        ("a/data/0", bytes(10_000_000)),
        compression=zipfile.ZIP_DEFLATED,
    ),
    "encrypted": _encrypted,
    "TorchScript": _torchscript,
    "tar of torch's first releases": _tar,
    "legacy class whose source is compared": _legacy(_source_of_a_class("os.system") + b"Q"),
    "legacy call by a class with its source": lambda folder, canary: _legacy_file(
        folder, _source_of_a_class("os.system"), b"Q", items(text(f"touch {canary}")), b"R"
    ),
    "legacy tensor beyond its storage": _legacy(tensor(numbers(FAR), numbers(1), stored=storage(more=NOTHING))),
    "legacy storage of more than the file": _legacy(storage(count=2**40, more=NOTHING), keys=("0",)),
    "legacy storages of more than the file together": _legacy(
        b"](", *(storage(str(key), 150, more=NOTHING) for key in range(9)), b"e", keys=tuple("012345678")
    ),
    "legacy tensor data of another size": _legacy(
        tensor(numbers(4), numbers(1), stored=storage(more=NOTHING)), keys=("0",)
    ),
    "legacy tensor whose data never comes": _legacy(tensor(numbers(4), numbers(1), stored=storage(more=NOTHING))),
    "endless device": _endless_device,
    "pipe": _pipe,
}


CHECKPOINTS: dict[str, Make] = {
    **{f"call: {name}": _real(name, zipped=True) for name in _calls(Path("x"))},
    **{f"legacy call: {name}": _real(name, zipped=False) for name in _calls(Path("x"))},
    **{f"protocol {n} call": _real("os.system", zipped=True, protocol=n) for n in (3, 4, 5)},
    **NAMES,
    **STATES,
    **ARGUMENTS,
    **TENSORS,
    **SIZES,
    **NETWORKS,
    **CONTAINERS,
}
