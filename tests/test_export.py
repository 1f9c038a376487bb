"""export.py: files that compute the same and are whole or absent, what they tell, and which options are refused."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from models.backends import DetectMultiBackend, as_predictions
from tests.export_model import NAMES, SIZE, save_network
from utils.errors import InputError, InputErrors, WorkError
from utils.exporting import run as runs
from utils.exporting.base import Exporter, ExportOptions, ModelFacts
from utils.exporting.formats import BY_ARGUMENT, FORMATS, format_of
from utils.exporting.prepare import example_batch, for_export
from utils.exporting.suppression import Suppressing
from utils.nms import non_max_suppression

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {task: save_network(folder / f"{task}.pt", task) for task in ("detect", "segment", "classify")}


@pytest.fixture
def weights(networks: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(networks["detect"], tmp_path / "net.pt"))


def write(weights: Path, *include: str, **options: object) -> list[Path]:
    """Export at the tests' size."""
    return [Path(p) for p in export.run(weights=weights, imgsz=[SIZE], include=list(include), opset=17, **options)]


def outputs(path: Path, im: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        y = DetectMultiBackend(path)(im)
    return list(y) if isinstance(y, (list, tuple)) else [y]


def test_signatures_of_the_contract(contract: Path) -> None:
    facts = json.loads((contract / "api.json").read_text())["export"]
    for name in (*facts["functions"], *facts["classes"]):
        assert callable(getattr(export, name)), name
    found = list(inspect.signature(export.run).parameters.values())[: len(facts["functions"]["run"]["params"])]
    assert [p.name for p in found] == [name for name, _ in facts["functions"]["run"]["params"]]
    table = export.export_formats()
    assert list(table.columns) == ["Format", "Argument", "Suffix", "CPU", "GPU"] and len(table) == 12
    assert list(table["Argument"])[:4] == ["-", "torchscript", "onnx", "openvino"]


@pytest.mark.parametrize("task", ["detect", "segment", "classify"])
def test_every_task_in_every_format(networks: dict[str, Path], tmp_path: Path, task: str) -> None:
    file = Path(shutil.copy(networks[task], tmp_path / "net.pt"))
    paths = write(file, "torchscript", "onnx", "openvino")
    assert [path.name for path in paths] == ["net.torchscript", "net.onnx", "net_openvino_model"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["net.pt", *(path.name for path in paths)])
    im = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))  # a batch in a file for one image
    with torch.no_grad():
        found = DetectMultiBackend(file)(im)
    found = found if isinstance(found, (list, tuple)) else [found]
    wanted = [y for y in found if isinstance(y, torch.Tensor)]
    for path in paths:
        backend = DetectMultiBackend(path)
        assert backend.names == NAMES and backend.stride == 32 and backend.task == task and not backend.pt
        for mine, theirs in zip(outputs(path, im), wanted, strict=True):
            assert torch.allclose(mine, theirs, atol=2e-3, rtol=1e-4), path.name


def test_what_the_files_tell(weights: Path) -> None:
    import onnx

    script, graph, folder = write(weights, "torchscript", "onnx", "openvino")
    extra = {"config.txt": ""}
    torch.jit.load(str(script), _extra_files=extra)
    config = json.loads(extra["config.txt"])
    assert (
        config["shape"] == [1, 3, SIZE, SIZE]
        and config["stride"] == 32
        and list(config["names"].values()) == ["bolt", "nut's"]
    )
    model = onnx.load(str(graph))
    assert model.opset_import[0].version == 17
    assert [x.name for x in model.graph.input] == ["images"] and [x.name for x in model.graph.output] == ["output0"]
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["names"] == str(NAMES) and told["stride"] == "32" and told["task"] == "detect"
    assert sorted(p.name for p in folder.iterdir()) == ["net.bin", "net.xml", "net.yaml"]
    assert DetectMultiBackend._load_metadata(folder / "net.yaml") == (32, NAMES)


def test_any_shape_with_dynamic(weights: Path) -> None:
    im = torch.rand(3, 3, 96, 32)
    with torch.no_grad():
        wanted = DetectMultiBackend(weights)(im)[0]
    for path in write(weights, "torchscript", "onnx", "openvino", dynamic=True, simplify=True):
        assert torch.allclose(outputs(path, im)[0], wanted, atol=2e-3, rtol=1e-4), path.name
        assert DetectMultiBackend(path).batch_size == 0


def test_half_is_half_the_size(weights: Path) -> None:
    def weight_bytes(path: Path) -> int:
        return (path / "net.bin" if path.is_dir() else path).stat().st_size

    whole = [weight_bytes(path) for path in write(weights, "torchscript", "onnx", "openvino")]
    for path, bytes_before in zip(write(weights, "torchscript", "onnx", "openvino", half=True), whole, strict=True):
        assert weight_bytes(path) < 0.8 * bytes_before, path.name
        assert outputs(path, example_batch((SIZE, SIZE), 1, torch.device("cpu")))[0].dtype == torch.float32


def test_int8_with_images_of_the_data(weights: Path, tiny_data: Path) -> None:
    before = sys.modules.get("openvino_telemetry")
    (folder,) = write(weights, "openvino", int8=True, data=tiny_data)
    assert folder.name == "net_int8_openvino_model"
    assert 'type="FakeQuantize"' in (folder / "net.xml").read_text()
    assert sys.modules.get("openvino_telemetry") is before  # neither loaded nor left blocked


def detections(path: Path, im: torch.Tensor, **options: object) -> list[torch.Tensor]:
    with torch.no_grad():
        return non_max_suppression(DetectMultiBackend(path)(im), **options)


@pytest.mark.parametrize("kind", ["one class a box", "agnostic", "several classes"])
def test_suppression_within_the_graph(weights: Path, kind: str) -> None:
    """The file gives what suppression outside gives, for each of several images."""
    kinds = {"agnostic": {"agnostic_nms": True}, "several classes": {"multi_label": True}}.get(kind, {})
    graph, folder = write(weights, "onnx", "openvino", nms=True, topk_all=300, topk_per_class=300, **kinds)
    im = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    options = {"agnostic": kind == "agnostic", "multi_label": kind == "several classes"}
    wanted = detections(weights, im, **options)
    assert min(map(len, wanted)) > 10
    for path in (graph, folder):
        found = detections(path, im, **options)
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.shape == theirs.shape and mine[:, 4].diff().max() <= 0
            apart = torch.cdist(mine, theirs, p=float("inf"))  # near ties may change places
            assert (apart.amin(0) < 2e-3).all() and (apart.amin(1) < 2e-3).all()


def test_limits_of_the_suppression() -> None:
    boxes = torch.zeros(1, 40, 7)
    boxes[0, :, 0], boxes[0, :, 1:4], boxes[0, :, 4] = torch.arange(40) * 20, 10, torch.linspace(0.9, 0.5, 40)
    boxes[0, :30, 5], boxes[0, 30:, 6] = 1, 1
    graph = Suppressing(torch.nn.Identity(), 2, 0.45, 0.25, topk_per_class=5, topk_all=8)
    found = graph.suppress(boxes)
    assert found.shape == (1, 8, 6) and found[0, :, 5].tolist() == [0] * 5 + [1] * 3
    assert torch.allclose(found[0, :5, 4], boxes[0, :5, 4])
    few = Suppressing(torch.nn.Identity(), 2, 0.45, 0.89, 5, 8).suppress(boxes)
    assert (few[0, :, 4] > 0).sum() == 1 and not few[0, 1:].any()
    again = as_predictions(found, 2)
    assert again.shape == (1, 8, 7) and torch.equal(non_max_suppression(again)[0][:, 5], found[0, :, 5])


def test_mask_columns_stay_with_their_boxes(networks: dict[str, Path], tmp_path: Path) -> None:
    file = Path(shutil.copy(networks["segment"], tmp_path / "net.pt"))
    (path,) = write(file, "onnx", nms=True)
    im = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    mine, theirs = (detections(p, im, nm=8, max_det=20)[0] for p in (path, file))
    assert mine.shape == theirs.shape and mine.shape[1] == 14 and torch.allclose(mine, theirs, atol=2e-3)


def test_detect_and_val_run_every_file(weights: Path, tiny_data: Path, tmp_path: Path) -> None:
    import detect
    import val

    measured, texts = {}, {}
    for path in [weights, *write(weights, "torchscript", "onnx", "openvino")]:
        shared = {"imgsz": SIZE, "device": "cpu", "project": tmp_path / "runs", "name": path.name}
        source = tiny_data.with_suffix("") / "images" / "val"
        results, _, _ = val.run(tiny_data, path, batch_size=1, task="speed", workers=0, plots=False, **shared)
        measured[path.name] = results[:4]
        detect.run(
            path,
            source,
            conf_thres=0.3,
            save_txt=True,
            nosave=True,
            **{**shared, "name": f"d-{path.name}", "imgsz": (SIZE, SIZE)},
        )
        labels = sorted((tmp_path / "runs" / f"d-{path.name}" / "labels").glob("*.txt"))
        assert labels
        texts[path.name] = labels
    assert len(measured) == 4
    for name, results in measured.items():
        assert np.allclose(results, measured["net.pt"], atol=1e-3), name
    names = {name: [p.name for p in labels] for name, labels in texts.items()}
    assert names["net.torchscript"] == names["net.onnx"] == names["net_openvino_model"]


def test_opencv_runs_onnx_files(weights: Path) -> None:
    (path,) = write(weights, "onnx", simplify=True)
    im = example_batch((SIZE, SIZE), 1, torch.device("cpu"))
    backend = DetectMultiBackend(path, dnn=True)
    assert type(backend.model).__module__.startswith("cv2") and backend.names == NAMES
    assert torch.allclose(backend(im), outputs(path, im)[0], atol=1e-2)


def test_opencv_refuses_files_with_the_suppression_inside(weights: Path) -> None:
    """OpenCV 5.0 gives no more boxes than an earlier image had."""
    (path,) = write(weights, "onnx", nms=True)
    assert DetectMultiBackend(path).nms
    with pytest.raises(InputError, match="holds the suppression.*allowed with --dnn are files exported without --nms"):
        DetectMultiBackend(path, dnn=True)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"include": ["onnx", "xyz"]}, "--include xyz: unknown format; allowed are torchscript, onnx"),
        ({"include": []}, "no format given"),
        ({"half": True, "dynamic": True}, "--half with --dynamic"),
        ({"half": True, "int8": True, "include": ["openvino"]}, "--half with --int8"),
        ({"opset": 5}, "--opset 5: allowed are 11 to 20"),
        ({"imgsz": [64, 64, 64]}, "--imgsz 64 64 64"),
        ({"conf_thres": 2.0}, "--conf-thres 2.0: expected a number from 0 to 1"),
        ({"topk_all": 0}, "--topk-all 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        (
            {"int8": True, "include": ["torchscript"]},
            "--int8 has no effect on torchscript; formats that take it: openvino",
        ),
        ({"optimize": True, "include": ["onnx"]}, "--optimize has no effect on onnx"),
        ({"int8": True, "include": ["openvino"], "data": "absent.yaml"}, "absent.yaml"),
        ({"int8": True, "include": ["openvino"], "data": ""}, "--int8 needs --data"),
        ({"weights": "absent.pt"}, "absent.pt"),
        ({"weights": "absent.onnx"}, "allowed are .pt files"),
    ],
)
def test_options_are_refused_before_work(weights: Path, options: dict[str, object], said: str) -> None:
    settings = {"weights": weights, "imgsz": [SIZE], "include": ["onnx"], "opset": 17, **options}
    with pytest.raises(InputError) as error:
        export.run(**settings)
    assert said in str(error.value) and [p.name for p in weights.parent.iterdir()] == ["net.pt"]


def test_problems_come_together_and_end_with_status_2(weights: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "export.py"),
        "--weights",
        str(weights),
        "--half",
        "--dynamic",
        "--opset",
        "3",
        "--include",
        "onnx",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(lines) == 2 and "Traceback" not in done.stderr


def test_an_option_for_some_formats_is_told(
    weights: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.LOGGER, "propagate", True)
    options = ExportOptions(include=("torchscript", "onnx"), nms=True)
    with caplog.at_level("WARNING", logger="yolov5"):
        assert [row.argument for row in runs.check_options(options)] == ["torchscript", "onnx"]
    assert "--nms has no effect on torchscript" in caplog.text


@pytest.mark.parametrize("argument", [row.argument for row in FORMATS if row.argument != "-"])
def test_every_row_says_what_it_needs(argument: str) -> None:
    exporter = BY_ARGUMENT[argument].load_exporter()
    missing = exporter.missing()
    assert isinstance(exporter, Exporter) and (missing is None or (missing and "\n" not in missing))


def test_engines_need_a_gpu(weights: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputErrors, match="--include engine: needs an NVIDIA GPU"):
        write(weights, "engine")


def test_a_whole_image_has_no_boxes_to_suppress(networks: dict[str, Path], tmp_path: Path) -> None:
    file = Path(shutil.copy(networks["classify"], tmp_path / "net.pt"))
    with pytest.raises(InputErrors, match="--nms: .* whole images"):
        write(file, "onnx", nms=True)
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt"]


# Whole or absent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["scores", "boxes", "nan", "rows"])
def test_a_file_that_computes_something_else_is_not_kept(
    weights: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    exporter = type(BY_ARGUMENT["onnx"].load_exporter())
    write_right = exporter.write

    def write_wrong(self: Exporter, job, target: Path) -> object:
        class Wrong(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = job.model

            def forward(self, im: torch.Tensor) -> tuple[torch.Tensor]:
                y = self.inner(im)[0]
                shift = torch.zeros(7)
                shift[{"scores": 5, "boxes": 0}.get(change, 6)] = {"scores": 0.01, "boxes": 1.0}.get(change, 0)
                y = y + shift if change != "nan" else y / 0 * 0
                return (y[:, 1:] if change == "rows" else y,)

        wrong = runs.replace(job, model=Wrong())
        return write_right(self, wrong, target)

    (weights.parent / "net.onnx").write_bytes(b"older")
    monkeypatch.setattr(exporter, "write", write_wrong)
    with pytest.raises(WorkError, match="1 of 2 formats could not be exported.*PyTorch"):
        write(weights, "torchscript", "onnx")
    assert (weights.parent / "net.onnx").read_bytes() == b"older"
    assert sorted(p.name for p in weights.parent.iterdir()) == ["net.onnx", "net.pt", "net.torchscript"]


def test_a_disk_that_fails_leaves_nothing(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Exporter, job: object, target: Path) -> None:
        target.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(BY_ARGUMENT["torchscript"].load_exporter()), "write", full)
    with pytest.raises(WorkError, match=r"net\.torchscript cannot be written: No space left"):
        write(weights, "torchscript")
    assert [p.name for p in weights.parent.iterdir()] == ["net.pt"]


def test_folders_are_replaced_as_a_whole(tmp_path: Path) -> None:
    for name, text in (("new", "b"), ("final", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / text).write_text(text)
    runs.put_in_place(tmp_path / "new", tmp_path / "final")
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["final", "final/b"]


def test_functions_of_yolov5(weights: Path) -> None:
    from models.experimental import attempt_load

    model = for_export(attempt_load(weights))
    im = torch.rand(1, 3, SIZE, SIZE)
    path, made = export.export_onnx(model, im, weights, 17, False, False)
    assert Path(path).is_file() and made.graph.output[0].name == "output0"
    path, made = export.export_torchscript(model, im, weights, False)
    assert Path(path).is_file() and made is None
    assert export.export_onnx(model, im, weights, 3, False, False) == (None, None)
    confidence, boxes = export.iOSModel(model, im)(im)
    assert confidence.shape == (240, 2) and torch.allclose(boxes * SIZE, model(im)[0][0, :, :4], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("a/b.pt", "-"), ("b.torchscript", "torchscript"), ("b_int8_openvino_model", "openvino"),
        ("b-fp16.tflite", "tflite"),
        ("b_edgetpu.tflite", "edgetpu"), ("b.mlmodel", "coreml"), ("b_ncnn_model/", "ncnn"),
    ],
)  # fmt: skip
def test_formats_by_name(name: str, argument: str) -> None:
    assert format_of(name).argument == argument


def test_metadata_is_plain(weights: Path) -> None:
    facts = ModelFacts({0: "a"}, 32, "detect")
    job = runs.Job(None, None, torch.zeros(1), (), weights, ExportOptions(nms=True), facts)
    assert json.loads(json.dumps(job.metadata()))["topk_all"] == 100
