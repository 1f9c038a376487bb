"""TensorFlow's formats: each written by export.py, run again, and refused when its graph could touch files."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from models.backend_formats.tf_outputs import in_pixels
from models.backend_formats.tflite_file import append_facts, custom_operations, read_facts
from models.backend_formats.tflite_file import require_known_operations as require_known_lite
from models.backends import DetectMultiBackend
from tests.export_model import NAMES, SIZE, save_network
from utils.errors import InputError, InputErrors
from utils.exporting.formats import BY_ARGUMENT

FORMATS = ("saved_model", "pb", "tflite")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {task: save_network(folder / f"{task}.pt", task) for task in ("detect", "segment", "classify")}


@pytest.fixture
def weights(networks: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(networks["detect"], tmp_path / "net.pt"))


@pytest.fixture(scope="module")
def tf():
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs tensorflow")
    from models.tf import import_tensorflow

    return import_tensorflow()


def write(weights: Path, *include: str, **options: object) -> list[Path]:
    return [Path(p) for p in export.run(weights=weights, imgsz=[SIZE], include=list(include), **options)]


def run(path: Path, im: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        y = DetectMultiBackend(path)(im)
    return [part for part in (y if isinstance(y, (list, tuple)) else [y]) if isinstance(part, torch.Tensor)]


@pytest.mark.parametrize("task", ["detect", "segment", "classify"])
def test_every_task(tf, networks, tmp_path, task) -> None:
    file = Path(shutil.copy(networks[task], tmp_path / "net.pt"))
    paths = write(file, *FORMATS)
    assert [path.name for path in paths] == ["net_saved_model", "net.pb", "net-fp16.tflite"]
    im = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    wanted = run(file, im)[: 2 if task == "segment" else 1]
    for path in paths:
        backend = DetectMultiBackend(path)
        assert (backend.names, backend.stride, backend.task, backend.batch_size) == (NAMES, 32, task, 1)
        near = 0.2 if path.suffix == ".tflite" else 2e-3  # float16 weights; a box here is up to 250 pixels wide
        for mine, theirs in zip(run(path, im), wanted, strict=True):
            assert mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=near, rtol=5e-3), path.name


def test_keras_file_needs_no_code(tf, weights) -> None:
    """Keras reads the file in its safe mode, and the model has boxes in parts of the image."""
    import keras

    (folder,) = write(weights, "saved_model", keras=True, dynamic=True)
    model = keras.models.load_model(folder / "net.keras", safe_mode=True)
    im = torch.rand(3, 3, SIZE, SIZE)
    rows = np.array(model(im.permute(0, 2, 3, 1).numpy()))
    rows[..., :4] *= SIZE
    assert np.allclose(rows, run(weights, im)[0].numpy(), atol=2e-3)
    assert DetectMultiBackend(folder).batch_size == 0 and torch.allclose(
        run(folder, im)[0], torch.from_numpy(rows), atol=1e-3
    )


@pytest.mark.parametrize(
    "options", [{}, {"agnostic_nms": True}, {"multi_label": True}, {"topk_per_class": 2, "topk_all": 5}], ids=str
)
def test_suppression_in_the_graph(tf, weights, options) -> None:
    """The same boxes as our own suppression of the checkpoint's rows, in every format."""
    from utils.nms import non_max_suppression

    im = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    keys = {"agnostic": options.get("agnostic_nms", False), "multi_label": options.get("multi_label", False)}
    wanted = non_max_suppression(run(weights, im)[0], 0.25, 0.45, max_det=30_000, **keys)[0]
    if "topk_per_class" not in options:
        wanted = wanted[:100]
    else:
        first = [row for label in (0, 1) for row in wanted[wanted[:, 5] == label][:2]]
        wanted = torch.stack(sorted(first, key=lambda row: -row[4])[:5])
    # Where overlaps are near the limit, rounding to float16 decides otherwise.
    formats = FORMATS[:2] if keys["multi_label"] else FORMATS
    for path in write(weights, *formats, nms=True, **options):
        backend = DetectMultiBackend(path)
        assert backend.nms
        found = non_max_suppression(run(path, im)[0], 0.25, 1.0, multi_label=False)[0]
        assert len(wanted) >= 2 and found.shape == wanted.shape, path.name
        assert torch.allclose(found[:, :4], wanted[:, :4], atol=0.3), path.name
        assert torch.allclose(found[:, 4:], wanted[:, 4:], atol=5e-3), path.name


def test_int8(tf, weights, tiny_data) -> None:
    """256 steps: the file takes and gives uint8, and scores are near."""
    (path,) = write(weights, "tflite", int8=True, data=tiny_data)
    assert path.name == "net-int8.tflite" and read_facts(path)["int8"] is True
    backend = DetectMultiBackend(path)
    kinds = {x["dtype"] for x in (*backend.model.get_input_details(), *backend.model.get_output_details())}
    assert kinds == {np.uint8}
    by_channel = path.stat().st_size
    (path,) = write(weights, "tflite", int8=True, per_tensor=True, data=tiny_data)
    assert path.stat().st_size < by_channel  # one scale a layer


def test_options_that_do_not_fit(tf, weights, tiny_data) -> None:
    for include, options, message in (
        ("pb", {"nms": True, "dynamic": True}, "--nms with --dynamic"),
        ("tflite", {"int8": True, "nms": True, "data": tiny_data}, "--int8 with --nms"),
        ("tflite", {"per_tensor": True}, "--per-tensor without --int8"),
        ("edgetpu", {}, "edgetpu_compiler"),
        ("tfjs", {}, "tensorflowjs"),
    ):
        with pytest.raises(InputError, match=message):
            write(weights, include, **options)
    assert not [path for path in weights.parent.iterdir() if path.name not in {"net.pt", "tiny", "tiny.yaml"}]


def test_graphs_that_read_or_write_files_are_refused(tf, tmp_path) -> None:
    """ReadFile, WriteFile and Python functions, at the top and within called functions, before any of it runs."""
    target, spec = tmp_path / "written", [tf.TensorSpec((1, 64, 64, 3), tf.float32)]

    def writes(x):
        tf.io.write_file(str(target), "evil")
        return tf.reshape(x, (1, -1, 8))

    def reads(x):
        return tf.reshape(x, (1, -1, 8)) + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32)

    def python(x):
        return tf.py_function(lambda y: y, [x], tf.float32)

    def hidden(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: writes(x), lambda: tf.reshape(x, (1, -1, 8)))

    for number, (function, name) in enumerate(
        ((writes, "WriteFile"), (reads, "ReadFile"), (python, "EagerPyFunc"), (hidden, "WriteFile"))
    ):
        made = tf.function(function).get_concrete_function(*spec)
        graph = tmp_path / f"{number}.pb"
        graph.write_bytes(made.graph.as_graph_def().SerializeToString())
        with pytest.raises(InputError, match=rf"{number}\.pb: its graph uses {name}"):
            DetectMultiBackend(graph)
        module = tf.Module()
        module.__call__ = tf.function(function, input_signature=spec)
        folder = tmp_path / f"{number}_saved_model"
        tf.saved_model.save(module, str(folder))
        with pytest.raises(InputError, match=f"its graph uses {name}"):
            DetectMultiBackend(folder)
    assert not target.exists()


def test_objects_that_run_when_loaded_are_refused(tf, tmp_path) -> None:
    """A table's initializer reads a file while the model is loaded."""
    words = tmp_path / "words.txt"
    words.write_text("a\n")
    kinds = tf.lookup.TextFileIndex
    lines = (str(words), tf.string, kinds.WHOLE_LINE, tf.int64, kinds.LINE_NUMBER)
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(tf.lookup.TextFileInitializer(*lines), 1)
    module.__call__ = tf.function(lambda x: x, [tf.TensorSpec((1, 64, 64, 3), tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "t_saved_model"))
    with pytest.raises(InputError, match="it holds an object (asset|resource)"):
        DetectMultiBackend(tmp_path / "t_saved_model")


def test_variables_of_other_exports_are_read(tf, tmp_path) -> None:
    """A SavedModel with variables, as Keras writes it, holds SaveV2 and RestoreV2; nothing of the model calls them."""
    import keras

    image = keras.Input((64, 64, 3), batch_size=1)
    rows = keras.layers.Reshape((-1, 7))(keras.layers.Conv2D(7, 8, 8)(image))
    keras.Model(image, rows).export(str(tmp_path / "k_saved_model"), verbose=False)
    assert run(tmp_path / "k_saved_model", torch.rand(1, 3, 64, 64))[0].shape == (1, 64, 7)


def test_flex_operations_are_refused(tf, tmp_path) -> None:
    function = tf.function(lambda x: x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), tf.float32))
    made = function.get_concrete_function(tf.TensorSpec((1, 64, 64, 3), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([made])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    path = tmp_path / "flex.tflite"
    path.write_bytes(converter.convert())
    assert "FlexReadFile" in custom_operations(path.read_bytes())
    with pytest.raises(InputError, match=r"flex\.tflite: it uses the operation Flex"):
        DetectMultiBackend(path)


# Without TensorFlow ---------------------------------------------------------------------------------------------------


def test_damaged_lite_files_are_refused(tmp_path) -> None:
    path = tmp_path / "bad.tflite"
    for content in (b"", b"not a file", b"\0" * 64, struct.pack("<I", 2**31) + b"TFL3" + b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.tflite: truncated or not a TensorFlow Lite file"):
            require_known_lite(path)


def test_facts_after_a_lite_file(tmp_path) -> None:
    path = tmp_path / "a.tflite"
    path.write_bytes(b"network")
    assert read_facts(path) == {}
    append_facts(path, {"stride": 32, "names": NAMES})
    assert read_facts(path) == {"stride": 32, "names": NAMES} and path.read_bytes().startswith(b"network")
    with zipfile.ZipFile(path) as archive:  # as YOLOv5 reads it
        assert archive.namelist() == ["meta.txt"]
    path.write_bytes(b"network")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("meta.txt", "__import__('os').system('true')")
    with pytest.raises(InputError, match="its facts"):
        read_facts(path)


def test_outputs_of_yolov5s_own_exports() -> None:
    """Boxes in parts of the image, prototypes first or last, and the four outputs of a graph that suppresses."""
    rows, masks = np.full((1, 6, 7), 0.5, np.float32), np.ones((1, 4, 16, 32), np.float32)
    for outputs in ([rows, masks], [masks, rows]):
        found = in_pixels(outputs, (1, 3, 64, 128), {})
        assert found[0][0, 0].tolist() == [64, 32, 64, 32, 0.5, 0.5, 0.5] and found[1].shape == masks.shape
    boxes, scores, labels = np.full((1, 3, 4), 0.5), np.array([[0.9, 0.8, 0.7]]), np.array([[1.0, 0, 1]])
    found = in_pixels([boxes, scores, labels, np.array([2])], (1, 3, 64, 128), {"nms": True})[0]
    assert np.allclose(found[0, 0], [64, 32, 64, 32, 0.9, 1]) and not found[0, 2].any()
    with pytest.raises(InputError, match="expected predictions"):
        in_pixels([rows, rows], (1, 3, 64, 64), {})


def test_missing_packages_in_one_line(weights, monkeypatch) -> None:
    find = importlib.util.find_spec
    absent = {"tensorflow", "keras", "ai_edge_litert", "tflite_runtime"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else find(name, *a))
    for name in ("saved_model", "pb", "tflite", "edgetpu"):
        with pytest.raises(InputErrors, match=f"--include {name}: needs the package tensorflow"):
            write(weights, name)
    assert BY_ARGUMENT["tfjs"].load_exporter().missing()
    (weights.parent / "a.pb").write_bytes(b"x")
    with pytest.raises(InputError, match="running it needs tensorflow: pip install tensorflow"):
        DetectMultiBackend(weights.parent / "a.pb")
