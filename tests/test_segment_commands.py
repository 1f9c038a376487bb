"""segment/train.py, val.py and predict.py: what they write, refuse and resume."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from segment_data import draw_shapes

from segment import predict, val
from segment import train as segment_train
from utils.checkpoint import load_checkpoint
from utils.errors import InputError
from utils.segment.metrics import KEYS, fitness_of
from utils.segment.output import MaskWriter, masks_finisher

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "weights": "", "cfg": "yolov5n-seg.yaml", "imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0, "epochs": 1,
}  # fmt: skip

STOP_SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
from segment import train
from utils.callbacks import Callbacks

callbacks = Callbacks()
callbacks.register_action(
    "on_train_batch_end", callback=lambda model, step, *_: step == 3 and os.kill(os.getpid(), signal.{signal})
)
from utils.errors import run_command
run_command(lambda: train.main(train.build_parser().parse_args({arguments!r}), callbacks))
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """Return the YAML of a drawn set with outlines."""
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "set")


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory) -> Path:
    """Return the folder of a run of two epochs with every balance key that is quick at work."""
    hyp = (ROOT / "data/hyps/hyp.scratch-low.yaml").read_text() + "\ncls_loss: focal\ncls_weights: inverse\n"
    file = tmp_path_factory.mktemp("hyp") / "hyp.yaml"
    file.write_text(hyp)
    project = tmp_path_factory.mktemp("runs")
    opt = segment_train.run(data=str(shapes), project=str(project), hyp=str(file), **{**TINY, "epochs": 2})
    return Path(opt.save_dir)


def _rows(folder: Path) -> list[list[str]]:
    with (folder / "results.csv").open() as file:
        return [[cell.strip() for cell in row] for row in csv.reader(file)]


def test_a_run_writes_boxes_and_masks(run):
    found = {path.name for path in run.iterdir()}
    curves = {f"{kind}{name}_curve.png" for kind in ("Box", "Mask") for name in ("F1", "PR", "P", "R")}
    expected = {
        "opt.yaml", "hyp.yaml", "results.csv", "results.png", "labels.jpg", "train_batch0.jpg", "val_batch0_labels.jpg",
        "val_batch0_pred.jpg", "confusion_matrix.png", "class_balance.yaml", "per_class.csv", *curves,
    }  # fmt: skip
    assert expected <= found, expected - found
    rows = _rows(run)
    assert rows[0] == ["epoch", *KEYS] and [row[0] for row in rows[1:]] == ["0", "1"]
    first = (run / "results.csv").read_text().splitlines()[0]
    assert [len(cell) for cell in first.split(",")] == [max(23, len(key)) for key in rows[0]]
    assert all(float(value) > 0 for value in rows[2][1:5] + rows[2][13:17])
    checkpoint = load_checkpoint(run / "weights/best.pt")
    assert type(checkpoint["model"]).__name__ == "SegmentationModel"
    assert checkpoint["model"].names == {0: "disc", 1: "triangle"} and checkpoint["opt"]["mask_ratio"] == 4


def test_the_best_epoch_is_that_of_boxes_and_masks_together():
    assert fitness_of([0, 0, 0.5, 0.5, 0, 0, 1.0, 1.0, 9, 9, 9, 9]) == pytest.approx(1.5)


@pytest.mark.parametrize("signal", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_stopped_and_resumed_ends_with_the_same_bits(signal, shapes, tmp_path):
    """Two steps an epoch: the signal comes in the second epoch, with two forms of masks."""
    arguments = [
        "--data",
        str(shapes),
        "--weights",
        "",
        "--cfg",
        "yolov5n-seg.yaml",
        "--imgsz",
        "64",
        "--device",
        "cpu",
    ]
    arguments += ["--batch-size", "4", "--workers", "0", "--epochs", "3", "--noplots", "--project", str(tmp_path)]
    arguments += ["--no-overlap", "--mask-ratio", "2"] if signal == "SIGTERM" else []
    whole = segment_train.build_parser().parse_args([*arguments, "--name", "whole"])
    segment_train.main(whole, given={})
    script = STOP_SCRIPT.format(root=str(ROOT), signal=signal, arguments=[*arguments, "--name", "cut"])
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}
    stopped = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert stopped.returncode == (-9 if signal == "SIGKILL" else 143), stopped.stderr[-2000:]
    if signal == "SIGTERM":
        assert "python segment/train.py --resume" in stopped.stderr
    segment_train.run(resume=str(tmp_path / "cut/weights/last.pt"))
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "whole")
    ours, theirs = (
        load_checkpoint(tmp_path / name / "weights/last.pt")["model"].float().state_dict() for name in ("cut", "whole")
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_moved_outline_is_refused_on_resume_though_its_box_is_the_same(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    data = draw_shapes(tmp_path / "set", 4)
    label = data.parent / "labels/train/0.txt"
    label.write_text("0 0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8\n")
    with monkeypatch.context() as patch:
        patch.setattr("utils.training.run.Run.finish", kill)
        with pytest.raises(Killed):
            segment_train.run(data=str(data), project=str(tmp_path / "runs"), noplots=True, **{**TINY, "epochs": 2})
    label.write_text("0 0.2 0.2 0.8 0.2 0.8 0.8 0.5 0.5 0.2 0.8\n")
    with pytest.raises(InputError, match="outlines of the training labels are not the same"):
        segment_train.run(resume=str(tmp_path / "runs/exp/weights/last.pt"))


def test_validation_writes_run_lengths_that_are_scored(run, shapes, tmp_path):
    results, maps, speed = val.run(
        str(shapes), weights=str(run / "weights/best.pt"), imgsz=64, batch_size=4, device="cpu", workers=0, plots=False,
        save_json=True, save_txt=True, conf_thres=0.0001, project=tmp_path, name="v",
    )  # fmt: skip
    assert len(results) == 12 and maps.shape == (2,) and len(speed) == 3
    rows = json.loads((tmp_path / "v/best_predictions.json").read_text())
    assert rows and all(row["segmentation"]["size"] == [64, 64] for row in rows)
    assert all(isinstance(row["segmentation"]["counts"], str) for row in rows)
    assert sorted(path.name for path in (tmp_path / "v/labels").iterdir()) == [f"{i}.txt" for i in range(4)]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("full_size", [False, True])
def test_masks_of_the_labels_themselves_have_map50_1(overlap, full_size, shapes):
    """A network that answers with the labels: prototypes are the masks, each box picks its own.

    At higher IoU the rims count, which boxes cut between the prototypes' pixels.
    """
    from utils.evaluation import evaluate
    from utils.segment.dataloaders import create_dataloader
    from utils.segment.evaluation import mask_parts

    folder = str(shapes.parent / "images/val")
    loader, _ = create_dataloader(folder, 64, 1, 32, workers=0, mask_downsample_ratio=4, overlap_mask=overlap)
    answers = iter([_Answer.of(batch[1], batch[4], overlap) for batch in loader])
    result = evaluate(
        _Oracle(answers), loader, names=["disc", "triangle"], parts=mask_parts(overlap, full_size), conf_thres=0.1
    )
    assert result.box.map50 == pytest.approx(0.995, abs=2e-3)
    assert result.mask.map50 == pytest.approx(0.995, abs=2e-3)


class _Answer:
    @staticmethod
    def of(targets: torch.Tensor, masks: torch.Tensor, overlap: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return decoded rows (1, n, 7 + 8) and prototypes (1, 8, 16, 16) of one image."""
        count = len(targets)
        separate = masks[0] == torch.arange(1, count + 1)[:, None, None] if overlap else masks.bool()
        proto = torch.full((1, 8, 16, 16), -10.0)
        proto[0, :count][separate] = 10.0
        rows = torch.zeros(1, count, 7 + 8)
        rows[0, :, :4] = targets[:, 2:6] * 64
        rows[0, :, 4] = 0.9
        rows[0, torch.arange(count), 5 + targets[:, 1].long()] = 1.0
        rows[0, torch.arange(count), 7 + torch.arange(count)] = 1.0
        return rows, proto


class _Oracle(torch.nn.Module):
    def __init__(self, answers):
        super().__init__()
        self.answers, self.weight = answers, torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [*next(self.answers), []]


def test_prediction_writes_pictures_and_outlines(run, shapes, tmp_path):
    image = shapes.parent / "images/val/0.png"
    predict.run(
        str(run / "weights/best.pt"), str(image), imgsz=64, device="cpu", conf_thres=0.0001, max_det=5, save_txt=True,
        save_conf=True, project=tmp_path, name="p",
    )  # fmt: skip
    assert cv2.imread(str(tmp_path / "p/0.png")).shape == (64, 64, 3)
    for line in (tmp_path / "p/labels/0.txt").read_text().splitlines():
        values = [float(value) for value in line.split()]
        assert values[0] in {0, 1} and len(values) % 2 == 0 and all(0 <= v <= 1 for v in values[1:])


@pytest.mark.parametrize("retina", [False, True])
def test_outlines_and_colours_lie_where_the_mask_is(retina, tmp_path):
    """A picture of 40 x 80, letterboxed to 64 x 64 (scale 0.8, 16 rows of padding): its left half is the object."""
    from utils.outputs.detection_output import Item, OutputOptions

    protos = torch.full((1, 1, 16, 16), -10.0)
    protos[:, :, 4:12, :8] = 10.0
    detections = torch.tensor([[0.0, 16, 32, 48, 0.9, 1, 1]])
    outputs = [torch.zeros(1, 1, 8), protos]
    found, masks = masks_finisher(retina)(detections, 0, outputs, (64, 64), (40, 80, 3))
    assert found.tolist() == [[0, 0, 40, 40, pytest.approx(0.9), 1]]
    assert masks.shape[1:] == ((40, 80) if retina else (64, 64))
    image = np.zeros((40, 80, 3), np.uint8)
    with MaskWriter(tmp_path, {0: "a", 1: "b"}, OutputOptions(txt=True, line_thickness=1, hide_labels=True)) as writer:
        drawn = writer.write(Item(Path("x.png"), Path("x"), image), found, masks)
        writer.write(Item(Path("y.png"), Path("y"), image.copy()), found[:0], masks[:0])
    assert drawn[5:35, 5:35].any(2).all() and not drawn[5:35, 45:].any()
    values = [float(v) for v in (tmp_path / "labels/x.txt").read_text().split()]
    points = np.array(values[1:]).reshape(-1, 2)
    assert values[0] == 1 and points.min() == pytest.approx(0, abs=0.02)
    assert points.max(0).tolist() == pytest.approx([0.5, 1.0], abs=0.06)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data, w: segment_train.run(data=data, **{**TINY, "cfg": "yolov5n.yaml"}), ["Detect", "segmentation"]),
        (lambda data, w: segment_train.run(data=data, **TINY, quad=True), ["--quad"]),
        (lambda data, w: segment_train.run(data=data, **TINY, mask_ratio=0), ["mask ratio 0"]),
        (lambda data, w: val.run(data, weights=w, augment=True), ["--augment"]),
        (lambda data, w: predict.run(w, "x.png", augment=True), ["--augment"]),
        (lambda data, w: val.run(data, weights=[w, w]), ["several checkpoints", "one segmentation network"]),
        (lambda data, w: predict.run([w, w], str(ROOT / "data/images")), ["several checkpoints", "one segmentation"]),
    ],
    ids=["head", "quad", "ratio", "val augment", "predict augment", "val ensemble", "predict ensemble"],
)
def test_what_does_not_fit_masks_is_refused(call, words, shapes, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        call(str(shapes), str(run / "weights/best.pt"))
    assert all(word in str(caught.value) for word in words)


def test_detection_refuses_segmentation_weights(run, shapes):
    import val as val_boxes

    with pytest.raises(InputError, match="Segment; allowed here are detection networks"):
        val_boxes.run(str(shapes), weights=str(run / "weights/best.pt"), device="cpu")
