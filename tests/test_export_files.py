"""Files of other formats are data: what would run code, write files or read elsewhere is refused, and broken ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import export
from models.backend_formats.onnx import read_properties
from models.backends import DetectMultiBackend
from tests.export_model import SIZE, save_network
from utils.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    weights = save_network(tmp_path_factory.mktemp("files") / "net.pt")
    formats = ["torchscript", "onnx", "openvino"]
    return dict(
        zip(formats, map(Path, export.run(weights=weights, imgsz=[SIZE], include=formats, opset=17)), strict=True)
    )


class Reads(torch.nn.Module):
    """Maps a file of the machine into a tensor."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, im: torch.Tensor) -> torch.Tensor:
        return torch.from_file(self.path, shared=True, size=16).sum() + im


class Saves(Reads):
    """Writes a tensor to a file."""

    def forward(self, im: torch.Tensor) -> torch.Tensor:
        torch.save(im, self.path)
        return im


class Endless(Reads):
    """Never returns."""

    def forward(self, im: torch.Tensor) -> torch.Tensor:
        while bool(im.sum() == im.sum()):
            im = im + 1
        return im


class AtLoading(Reads):
    """Acts while the file is loaded."""

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), state[0])

    def forward(self, im: torch.Tensor) -> torch.Tensor:
        return im


class Hooked(torch.nn.Module):
    """Acts beside the network."""

    def __init__(self, path: str):
        super().__init__()
        self.register_forward_hook(save_beside)

    def forward(self, im: torch.Tensor) -> torch.Tensor:
        return im


def save_beside(self: Hooked, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    torch.save(output, "victim")
    return output


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Hooked, "__forward_hooks__"),
        (Reads, "aten::from_file"),
        (Saves, "aten::save"),
        (Endless, "prim::Loop"),
        (AtLoading, "__setstate__"),
    ],
)
def test_programs_that_do_more_than_a_network(tmp_path: Path, kind: type, said: str) -> None:
    victim = tmp_path / "victim"
    torch.jit.script(kind(str(victim))).save(str(tmp_path / "x.torchscript"))
    with pytest.raises(InputError, match=said):
        DetectMultiBackend(tmp_path / "x.torchscript")
    assert not victim.exists()


@pytest.mark.parametrize("name", ["checkpoint", "truncated", "empty", "text"])
@pytest.mark.parametrize("argument", ["torchscript", "onnx"])
def test_broken_files(files: dict[str, Path], tmp_path: Path, argument: str, name: str) -> None:
    path = tmp_path / f"x{files[argument].suffix}"
    whole = files[argument].read_bytes()
    content = {
        "checkpoint": files[argument].with_name("net.pt").read_bytes(), "truncated": whole[: len(whole) // 2],
        "empty": b"", "text": b"<html>not found</html>" * 9,
    }  # fmt: skip
    path.write_bytes(content[name])
    with pytest.raises(InputError) as error:
        DetectMultiBackend(path)
    assert path.name in str(error.value) and "\n" not in str(error.value)


def with_external_weights(source: Path, target: Path, location: str) -> None:
    """Write an ONNX file whose first weight is in another file."""
    import onnx

    model = onnx.load(str(source))
    weight = next(w for w in model.graph.initializer if w.raw_data)
    values = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(values)))):
        weight.external_data.add(key=key, value=value)
    target.write_bytes(model.SerializeToString())
    (target.parent / "weights.bin").write_bytes(values)


def test_onnx_weights_beside_the_file_are_read(files: dict[str, Path], tmp_path: Path) -> None:
    with_external_weights(files["onnx"], tmp_path / "x.onnx", "weights.bin")
    im = torch.rand(1, 3, SIZE, SIZE)
    assert torch.equal(DetectMultiBackend(tmp_path / "x.onnx")(im), DetectMultiBackend(files["onnx"])(im))


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "link", "absent.bin", "..\\secret"])
def test_onnx_weights_elsewhere_are_refused(files: dict[str, Path], tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(100_000))
    os.symlink(tmp_path / "secret", folder / "link")
    with_external_weights(files["onnx"], folder / "x.onnx", location)
    with pytest.raises(InputError, match=r"own folder|out of its folder|no file"):
        DetectMultiBackend(folder / "x.onnx")


def test_properties_are_those_that_onnx_reads(files: dict[str, Path]) -> None:
    import onnx

    told = {entry.key: entry.value for entry in onnx.load(str(files["onnx"])).metadata_props}
    assert read_properties(files["onnx"]) == (told, [])


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), cut=st.integers(0, 4000), flips=st.lists(st.integers(0, 3999), max_size=5))
def test_any_bytes_are_read_or_refused(files: dict[str, Path], data: bytes, cut: int, flips: list[int]) -> None:
    start = bytearray(files["onnx"].read_bytes()[:cut])
    for at in flips:
        if at < len(start):
            start[at] ^= 255
    path = files["onnx"].with_name("random.onnx")
    path.write_bytes(bytes(start) + data)
    try:
        properties, places = read_properties(path)
    except InputError as error:
        assert "not an ONNX file" in str(error)
    else:
        assert isinstance(properties, dict) and isinstance(places, list)


def test_an_openvino_folder_reads_its_own_files(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "x_openvino_model"
    shutil.copytree(files["openvino"], folder)
    (folder / "net.bin").rename(tmp_path / "elsewhere.bin")
    with pytest.raises(InputError, match=r"no file net\.bin"):
        DetectMultiBackend(folder)
    os.symlink(tmp_path / "elsewhere.bin", folder / "net.bin")
    with pytest.raises(InputError, match="leads out of its folder"):
        DetectMultiBackend(folder)
    shutil.copy(folder / "net.xml", folder / "second.xml")
    with pytest.raises(InputError, match=r"net\.xml, second\.xml found, expected one"):
        DetectMultiBackend(folder)
    for file in folder.glob("*.xml"):
        file.write_text("<net>")
    (folder / "second.xml").unlink()
    with pytest.raises(InputError):
        DetectMultiBackend(folder)


def test_missing_files_and_several(files: dict[str, Path], tmp_path: Path) -> None:
    for name, what in (("a.onnx", "file"), ("a_openvino_model", "folder"), ("a.torchscript", "file")):
        with pytest.raises(InputError, match=f"no such {what}"):
            DetectMultiBackend(tmp_path / name)
    with pytest.raises(InputError, match="an ensemble is made of checkpoints"):
        DetectMultiBackend([files["onnx"], files["onnx"]])


def test_a_missing_package_is_named(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxruntime" else find(name, *a))
    with pytest.raises(InputError, match="needs onnxruntime: pip install onnxruntime"):
        DetectMultiBackend(files["onnx"])


@pytest.mark.parametrize("argument", ["torchscript", "onnx", "openvino"])
def test_images_of_another_size_are_refused(files: dict[str, Path], argument: str) -> None:
    backend = DetectMultiBackend(files[argument])
    with pytest.raises(InputError, match=r"made for images of 64x64, 96x64 found; pass --imgsz 64, or export"):
        backend.warmup((1, 3, 96, 64))
    with pytest.raises(InputError, match="made for images of 64x64"):
        backend(torch.zeros(1, 3, 96, 64))


def test_a_wrong_size_makes_no_run_folder(files: dict[str, Path], tiny_data: Path, tmp_path: Path) -> None:
    import detect
    import val

    with pytest.raises(InputError, match="made for images"):
        detect.run(
            files["onnx"], tiny_data.with_suffix("") / "images" / "val", imgsz=(96, 96), project=tmp_path / "runs"
        )
    with pytest.raises(InputError, match="made for images"):
        val.run(tiny_data, files["onnx"], imgsz=96, workers=0, project=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_files_of_yolov5_itself(files: dict[str, Path], tmp_path: Path) -> None:
    """Its ONNX files tell stride and names as text of Python values, no more."""
    import onnx

    model = onnx.load(str(files["onnx"]))
    del model.metadata_props[:]
    for key, value in (("stride", "32"), ("names", "{0: 'bolt', 1: \"nut's\"}")):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, str(tmp_path / "x.onnx"))
    backend = DetectMultiBackend(tmp_path / "x.onnx")
    assert backend.names == {0: "bolt", 1: "nut's"} and backend.stride == 32 and backend.task == "" and not backend.nms
    model.metadata_props[1].value = "__import__('os').system('false')"
    onnx.save(model, str(tmp_path / "x.onnx"))
    with pytest.raises(InputError, match="expected a list or mapping"):
        DetectMultiBackend(tmp_path / "x.onnx")


def test_float32_files_agree_to_rounding(files: dict[str, Path]) -> None:
    im = torch.from_numpy(np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32))
    with torch.no_grad():
        wanted = DetectMultiBackend(files["onnx"].with_name("net.pt"))(im)[0]
    for argument in ("torchscript", "onnx", "openvino"):  # the checkpoint alone is laid out channels-last
        difference = (DetectMultiBackend(files[argument])(im) - wanted).abs().max()
        assert difference < 5e-4, json.dumps({argument: float(difference)})
