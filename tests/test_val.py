"""Evaluation and the val command: measures on made-up predictions, outputs, refusals, reference numbers."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import val
from utils.callbacks import Callbacks
from utils.errors import InputError
from utils.eval_batch import in_original_pixels
from utils.evaluation import evaluate
from utils.helpers import coco80_to_coco91_class, save_one_txt
from utils.outputs.coco_json import image_id, save_one_json
from utils.outputs.detection_text import TextFiles
from utils.validation import collector_of

ROOT = Path(__file__).resolve().parents[1]
NAMES = {0: "cat", 1: "dog", 2: "cow"}
SIZE = 64
# Originals are 100 high and 200 wide: gain 0.32, 16 rows of padding above and below.
SHAPE = ((100, 200), ((0.32, 0.32), (0.0, 16.0)))


def _targets(*rows: tuple[float, ...]) -> torch.Tensor:
    """Rows image, class, x1, y1, x2, y2 in original pixels, as the loader gives them."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    corners = table[:, 2:] * 0.32 + torch.tensor([0.0, 16, 0, 16])
    xywh = torch.cat(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), 1) / SIZE
    return torch.cat((table[:, :2], xywh), 1)


class FakeModel(nn.Module):
    """Predicts the targets of each batch with the confidences it is given (0 leaves a box out)."""

    def __init__(self, batches: list[torch.Tensor], confidences: list[list[float]], nc: int = 3):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.batches, self.confidences, self.nc = batches, confidences, nc
        self.calls = 0
        self.was_training: list[bool] = []
        self.names = dict(list(NAMES.items())[:nc])

    def forward(self, images: torch.Tensor, augment: bool = False):
        self.was_training.append(self.training)
        targets, confidences = self.batches[self.calls], self.confidences[self.calls]
        self.calls += 1
        output = torch.zeros((len(images), max(len(targets), 1), 5 + self.nc))
        for i, (row, confidence) in enumerate(zip(targets, confidences, strict=True)):
            output[int(row[0]), i, :4] = row[2:] * SIZE
            output[int(row[0]), i, 4] = confidence
            output[int(row[0]), i, 5 + int(row[1])] = 1
        return output, [torch.zeros((len(images), 3, 2, 2, 5 + self.nc))]


def _loader(batches: list[torch.Tensor], images: int = 2) -> list[tuple]:
    return [
        (
            torch.zeros((images, 3, SIZE, SIZE), dtype=torch.uint8), targets,
            [f"images/{b}_{i}.jpg" for i in range(images)], [SHAPE] * images,
        )
        for b, targets in enumerate(batches)
    ]  # fmt: skip


BATCHES = [
    _targets((0, 0, 10, 10, 60, 60), (0, 1, 100, 20, 150, 80), (1, 0, 20, 30, 90, 90)),
    _targets((0, 2, 0, 0, 120, 100)),
]
SURE = [[0.9, 0.8, 0.7], [0.6]]


def _evaluate(confidences=SURE, batches=BATCHES, **options):
    return evaluate(FakeModel(batches, confidences), _loader(batches), names=NAMES, **options)


def test_perfect_predictions() -> None:
    result = _evaluate()
    assert result.p == pytest.approx(1, abs=1e-3)
    assert result.r == pytest.approx(1)
    assert (result.map50, result.map) == pytest.approx((0.995, 0.995), abs=1e-6)
    assert result.classes.tolist() == [0, 1, 2]
    assert result.instances.tolist() == [2, 1, 1]
    assert result.images.tolist() == [2, 1, 1]
    assert result.seen == 4
    assert result.confusion_matrix.matrix.diagonal().tolist() == [2, 1, 1, 0]
    assert len(result.speed) == 3 and all(s >= 0 for s in result.speed)
    assert result.as_tuple() == (result.p, result.r, result.map50, result.map, 0.0, 0.0, 0.0)


def test_a_missed_class_counts_in_the_mean() -> None:
    result = _evaluate([[0.9, 0.0, 0.7], [0.6]])
    assert result.class_ap.tolist() == pytest.approx([0.995, 0, 0.995], abs=1e-6)
    assert result.map == pytest.approx(0.995 * 2 / 3, abs=1e-6)
    assert result.maps(4).tolist() == pytest.approx([0.995, 0, 0.995, result.map], abs=1e-6)
    columns = result.per_class(type("Balance", (), {"weights": np.ones(3)}))
    assert set(columns) == {"images", "instances", "p", "r", "ap50", "ap", "weight"}
    assert columns["ap"] == pytest.approx({0: 0.995, 1: 0.0, 2: 0.995}, abs=1e-6)
    assert "weight" not in result.per_class()


def test_no_prediction_and_no_label() -> None:
    nothing = _evaluate([[0.0] * 3, [0.0]])
    assert nothing.is_defined
    assert nothing.map == nothing.p == nothing.r == 0
    background = [torch.zeros((0, 6))] * 2
    undefined = _evaluate([[], []], background)
    assert not undefined.is_defined
    assert np.isnan(undefined.map)
    assert undefined.as_tuple() == (0.0,) * 7
    assert undefined.maps().tolist() == [0, 0, 0]
    assert undefined.seen == 4


def test_boxes_reach_observers_in_original_pixels() -> None:
    seen = []
    _evaluate(observers=[seen.append])
    assert [b.index for b in seen] == [0, 1]
    first = seen[0]
    assert first.detections[0][:, :4].tolist() == pytest.approx(
        np.array([[10, 10, 60, 60], [100, 20, 150, 80]]), abs=1e-3
    )
    assert first.labels[1][0].tolist() == pytest.approx([0, 20, 30, 90, 90], abs=1e-3)
    assert first.targets[0, 2:].tolist() == pytest.approx([11.2, 27.2, 16, 16], abs=1e-3)


def test_boxes_are_clipped_to_the_original() -> None:
    predictions = [torch.tensor([[-5.0, 0, 70, 70, 0.9, 1]]), torch.zeros((0, 6))]
    batch = in_original_pixels(
        0, torch.zeros((2, 3, 64, 64)), torch.zeros((0, 6)), ["a", "b"], [SHAPE] * 2, predictions
    )
    assert batch.detections[0][0].tolist() == pytest.approx([0, 0, 200, 100, 0.9, 1])
    assert [len(x) for x in batch.detections + batch.labels] == [1, 0, 0, 0]


def test_single_class_forgets_the_classes() -> None:
    result = evaluate(
        FakeModel(BATCHES, SURE),
        _loader([torch.cat((t[:, :1], t[:, 1:2] * 0, t[:, 2:]), 1) for t in BATCHES]),
        names=NAMES,
        single_cls=True,
    )
    assert result.instances.tolist() == [4]
    assert result.map50 == pytest.approx(0.995, abs=1e-6)


def test_labels_may_take_part() -> None:
    result = _evaluate([[0.0] * 3, [0.0]], save_hybrid=True)
    assert result.map50 == pytest.approx(0.995, abs=1e-6)


def test_a_label_of_no_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"0_1.jpg.*class 7, allowed are 0 to 2"):
        _evaluate(batches=[_targets((1, 7, 0, 0, 50, 50))], confidences=[[0.5]])


class _WorldLoss:
    """A loss that would wait for other processes."""

    autobalance = True

    def world_sum(self, _):
        raise AssertionError("validation must not talk to other processes")

    def __call__(self, raw, targets):
        assert self.world_sum is None and not self.autobalance
        assert raw[0].dtype == torch.float32 and targets[:, 2:].max() <= 1
        return torch.ones(1), torch.tensor([1.0, 2.0, 3.0])


def test_losses_are_means_over_batches() -> None:
    loss = _WorldLoss()
    assert _evaluate(compute_loss=loss).losses == (1.0, 2.0, 3.0)
    assert loss.autobalance and callable(loss.world_sum)


def test_the_model_comes_back_as_it_was() -> None:
    model = FakeModel(BATCHES, SURE).train()
    evaluate(model, _loader(BATCHES), names=NAMES)
    assert model.training and model.was_training == [False, False]
    half = FakeModel(BATCHES, SURE).half()
    evaluate(half, _loader(BATCHES), names=NAMES)
    assert half.weight.dtype == torch.float16 and half.calls == 0


def test_hooks() -> None:
    calls: list[tuple] = []
    callbacks = Callbacks()
    for hook in ("start", "batch_start", "image_end", "batch_end", "end"):
        callbacks.register_action(f"on_val_{hook}", callback=lambda *a, hook=hook: calls.append((hook, a)))
    _evaluate([[0.9, 0.8, 0.0], [0.6]], callbacks=callbacks)
    assert [c[0] for c in calls] == [
        "start", "batch_start", "image_end", "batch_end", "batch_start", "image_end", "batch_end", "end",
    ]  # fmt: skip
    pred, predn, path, names, image = calls[2][1]
    assert pred.shape == predn.shape == (2, 6) and path == Path("images/0_0.jpg") and names == NAMES
    assert image.shape == (3, SIZE, SIZE)
    assert len(calls[-1][1]) == 10


def test_text_files(tmp_path) -> None:
    rows = torch.tensor([[10.0, 20, 30, 60, 0.91234567, 3], [0, 0, 100, 50, 0.5, 0]])
    save_one_txt(rows, True, (100, 200), tmp_path / "a.txt")
    save_one_txt(rows[1:], False, (100, 200), tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text().splitlines() == [
        "3 0.1 0.4 0.1 0.4 0.912346", "0 0.25 0.25 0.5 0.5 0.5", "0 0.25 0.25 0.5 0.5",
    ]  # fmt: skip


def test_images_of_one_stem_get_a_file_each(tmp_path) -> None:
    writer = TextFiles(tmp_path, save_conf=False)
    files = [writer._file_for(path) for path in ("x/a.jpg", "y/a.jpg", "x/a.png", "x/a.jpg")]
    assert [str(f.relative_to(tmp_path)) for f in files] == ["a.txt", "y/a.jpg.txt", "x/a.png.txt", "a.txt"]


def test_coco_rows() -> None:
    rows: list[dict] = []
    categories = coco80_to_coco91_class()
    save_one_json(torch.tensor([[10.0, 20, 30.12345, 60, 0.9123456, 79]]), rows, Path("000042.jpg"), categories)
    assert rows == [{"image_id": 42, "category_id": 90, "bbox": [10.0, 20.0, 20.123, 40.0], "score": 0.91235}]
    assert len(categories) == 80 and categories[0] == 1 and categories[11] == 13
    assert image_id("d/½.jpg") == "½" and image_id("d/a b.jpg") == "a b"


def test_coco_score_agrees_with_ours() -> None:
    pytest.importorskip("faster_coco_eval")
    from utils.outputs.coco_json import CocoJson

    coco = CocoJson(range(1000), NAMES)
    ours = _evaluate([[0.9, 0.0, 0.7], [0.6]], observers=[coco])
    map_all, map50 = coco.score_against_labels()
    assert map50 == pytest.approx(2 / 3, abs=1e-6)
    assert map_all == pytest.approx(ours.map, abs=0.005)
    assert [row["id"] for row in coco._annotations] == [1, 2, 3, 4]


# The command ----------------------------------------------------------------------------------------------------------


def _run(data: Path, weights: Path, **options):
    options = {"imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0, "project": data.parent / "runs", **options}
    return val.run(str(data), weights=str(weights), **options)


def test_all_outputs(tiny_data, tiny_weights) -> None:
    results, maps, speed = _run(
        tiny_data, tiny_weights, save_txt=True, save_conf=True, save_json=True, conf_thres=0.0001, augment=True
    )
    assert len(results) == 7 and maps.shape == (2,) and len(speed) == 3
    folder = tiny_data.parent / "runs" / "exp"
    expected = {f"{name}_curve.png" for name in ("F1", "P", "R", "PR")} | {
        "confusion_matrix.png", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "labels", "tiny_predictions.json",
        "thresholds.yaml",
    }  # fmt: skip
    assert {p.name for p in folder.iterdir()} == expected
    rows = json.loads((folder / "tiny_predictions.json").read_text())
    lines = [line.split() for file in (folder / "labels").glob("*.txt") for line in file.read_text().splitlines()]
    assert len(rows) == len(lines) > 0
    assert {len(line) for line in lines} == {6}
    assert {row["category_id"] for row in rows} <= {0, 1}


def test_run_folders_count_up_and_can_be_without_pictures(tiny_data, tiny_weights) -> None:
    for _ in range(2):
        _run(tiny_data, tiny_weights, plots=False)
    _run(tiny_data, tiny_weights, plots=False, task="train", name="t")
    _run(tiny_data, tiny_weights, plots=False, task="speed", name="t", exist_ok=True)
    assert sorted(p.name for p in (tiny_data.parent / "runs").iterdir()) == ["exp", "exp2", "t"]
    assert [p.name for p in (tiny_data.parent / "runs" / "exp2").iterdir()] == ["thresholds.yaml"]


def test_only_background(tiny_data, tiny_weights, caplog, monkeypatch) -> None:
    monkeypatch.setattr(val.LOGGER, "propagate", True)
    for file in (tiny_data.parent / "tiny" / "labels" / "val").glob("*.txt"):
        file.write_text("")
    with caplog.at_level("INFO", "yolov5"):
        results, *_ = _run(tiny_data, tiny_weights)
    assert results == (0.0,) * 7
    assert "undefined" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, ["batch-size", "0"]),
        ({"conf_thres": 1.5, "imgsz": -1}, ["conf-thres", "1.5", "imgsz", "-1"]),
        ({"task": "vel"}, ["task", "vel", "study"]),
        ({"task": "test"}, ["test"]),
        ({"weights": "nowhere.pt"}, ["nowhere.pt"]),
        ({"data": Path("nowhere.yaml")}, ["nowhere.yaml"]),
    ],
    ids=["batch", "two at once", "task", "split", "weights", "data"],
)
def test_refusals_leave_no_folder(tiny_data, tiny_weights, change, words, monkeypatch) -> None:
    options = {"data": tiny_data, "weights": tiny_weights, "project": tiny_data.parent / "runs", **change}
    with pytest.raises(InputError) as caught:
        _run(**options)
    assert all(word in str(caught.value) for word in words)
    assert not (tiny_data.parent / "runs").exists()


def test_other_number_of_classes_is_refused(tiny_data, tiny_weights) -> None:
    tiny_data.write_text(tiny_data.read_text().replace("[green, blue]", "[green, blue, red]"))
    with pytest.raises(InputError, match=r"tiny.pt knows 2 classes, .*tiny.yaml has 3"):
        _run(tiny_data, tiny_weights)


def test_label_beyond_the_classes_is_refused(tiny_data, tiny_weights) -> None:
    file = tiny_data.parent / "tiny" / "labels" / "val" / "0.txt"
    file.write_text(file.read_text() + "7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError) as caught:
        _run(tiny_data, tiny_weights)
    assert "0.txt" in str(caught.value) and "7" in str(caught.value) and "0-1" in str(caught.value)
    assert not (tiny_data.parent / "runs").exists()


def test_during_training_the_given_model_and_loader_are_used(tmp_path) -> None:
    facts = {"nc": 3, "names": NAMES}
    results, maps, _ = val.run(
        facts, model=FakeModel(BATCHES, SURE), dataloader=_loader(BATCHES), plots=False, half=True, save_dir=tmp_path,
        compute_loss=_WorldLoss(),
    )  # fmt: skip
    assert results[2:] == pytest.approx((0.995, 0.995, 1, 2, 3), abs=1e-6)
    assert maps == pytest.approx(0.995, abs=1e-6)
    assert not any(tmp_path.iterdir())


def test_names_that_others_import_from_here() -> None:
    for name in ("Profile", "coco80_to_coco91_class", "plot_images", "process_batch", "save_one_json", "save_one_txt"):
        assert callable(getattr(val, name))


def test_help_imports_no_heavy_package() -> None:
    code = "import sys, val; print(sorted({'torch', 'cv2', 'numpy', 'matplotlib', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("size", [320, pytest.param(640, marks=pytest.mark.slow)])
def test_golden_coco128(size, shared, golden, tmp_path) -> None:
    """Means within 0.002; classes within 0.003, and those with fewer than 10 labels within 0.02."""
    from utils.dataset_yaml import check_dataset

    shutil.copytree(shared / "datasets" / "coco128", tmp_path / "coco128")
    source = next((shared / "datasets" / "coco128").glob("*.yaml")).read_text()
    lines = [f"path: {tmp_path / 'coco128'}" if line.startswith("path:") else line for line in source.splitlines()]
    data = tmp_path / "coco128.yaml"
    data.write_text("\n".join(lines))
    facts = golden("val_coco128")[0][str(size)]

    from models.backends import DetectMultiBackend
    from utils.dataloaders import create_dataloader

    model = DetectMultiBackend(shared / "weights" / "yolov5n.pt")
    loader, _ = create_dataloader(check_dataset(data)["val"], size, 32, model.stride, pad=0.5, rect=True, workers=0)
    result = evaluate(model, loader, names=model.names)
    assert result.seen == facts["images"]
    assert result.instances.sum() == facts["instances"]
    wanted = facts["all"]
    assert (result.p, result.r, result.map50, result.map) == pytest.approx(
        [wanted[k] for k in ("P", "R", "mAP50", "mAP50_95")], abs=0.002
    )
    assert result.classes.tolist() == [c["class"] for c in facts["per_class"]]
    for i, c in enumerate(facts["per_class"]):
        got = (result.class_p[i], result.class_r[i], result.class_ap50[i], result.class_ap[i])
        tolerance = 0.003 if c["instances"] >= 10 else 0.02
        assert got == pytest.approx([c[k] for k in ("P", "R", "mAP50", "mAP50_95")], abs=tolerance), c["name"]
        assert result.instances[c["class"]] == c["instances"]
    assert result.curves.ap[:, 5].mean() == pytest.approx(facts["mAP75"], abs=0.003)


# Thresholds by class --------------------------------------------------------------------------------------------------


def test_thresholds_are_those_of_the_best_f1() -> None:
    """Class 0 is found right at .9 and .7, class 1 at .8; class 2 never."""
    result = _evaluate([[0.9, 0.8, 0.7], [0.0]])
    assert result.classes.tolist() == [0, 1, 2]
    assert result.class_thres.tolist()[:2] == [0.699, 0.799]
    assert np.isnan(result.class_thres[2])


def test_class_thresholds_drop_detections() -> None:
    """Class 0 keeps one of its two: precision 1 up to recall .5, then falling to 0 at 1, area .75."""
    thresholds = torch.tensor([0.8, 0.9, 0.5])
    result = _evaluate([[0.9, 0.8, 0.7], [0.6]], class_thres=thresholds, conf_thres=0.95)
    assert result.class_ap50.tolist() == pytest.approx([0.75, 0, 0.995], abs=1e-3)


def test_statistics_of_training_join_the_columns() -> None:
    balance = type("Balance", (), {"weights": np.ones(3)})
    stats = {"weight": np.array([1, 2, 3]), "drawn": np.array([5, 6, 7]), "loss_share": torch.tensor([0.5, 0.3, 0.2])}
    columns = _evaluate().per_class(balance, stats)
    assert list(columns["weight"]) == [1, 2, 3] and list(columns["drawn"]) == [5, 6, 7]
    assert set(columns) == {"images", "instances", "p", "r", "ap50", "ap", "weight", "drawn", "loss_share"}


def test_classes_of_other_names_are_told(tiny_data, tiny_weights, tmp_path, caplog) -> None:
    swapped = tmp_path / "swapped.yaml"
    swapped.write_text(tiny_data.read_text().replace("[green, blue]", "[blue, green]"))
    for data, is_other in ((tiny_data, False), (swapped, True)):
        caplog.clear()
        val.run(
            data=str(data), weights=str(tiny_weights), imgsz=64, project=str(tmp_path / "runs"), device="cpu",
            workers=0,
        )  # fmt: skip
        told = "2 of 2 classes have another name: class 0 is 'green' in" in caplog.text
        assert told is is_other and ("and 'blue' in" in caplog.text) is is_other


def test_thresholds_file_of_a_run_goes_back_in(tiny_data, tiny_weights) -> None:
    _run(tiny_data, tiny_weights, plots=False, conf_thres=0.0)
    path = tiny_data.parent / "runs" / "exp" / "thresholds.yaml"
    head = path.read_text().splitlines()[1]
    for part in (str(path.parent), f"weights {tiny_weights}", f"data {tiny_data} (val)", "4 images"):
        assert part in head
    _run(tiny_data, tiny_weights, plots=False, class_thres=str(path))
    _run(tiny_data, tiny_weights, plots=False, task="speed", name="speed")
    assert not any((tiny_data.parent / "runs" / "speed").iterdir())
    _run(tiny_data, tiny_weights, plots=False, single_cls=True, name="single")
    assert not any((tiny_data.parent / "runs" / "single").iterdir())


def test_training_names_its_thresholds_file(tmp_path) -> None:
    facts = {"nc": 3, "names": NAMES, "path": "data/parts"}
    val.run(
        facts, model=FakeModel(BATCHES, SURE), dataloader=_loader(BATCHES), plots=False, save_dir=tmp_path / "run",
        thresholds_file=tmp_path / "thresholds.yaml",
    )  # fmt: skip
    lines = (tmp_path / "thresholds.yaml").read_text().splitlines()
    assert f"From {tmp_path}/run, data data/parts (val), 4 images" in lines[1]
    assert lines[2:] == ["cat: 0.699", "dog: 0.799", "cow: 0.599"]


def test_class_thresholds_and_adjustment_of_a_given_model() -> None:
    facts = {"nc": 3, "names": NAMES}
    model = FakeModel(BATCHES, SURE)
    model.class_weights = torch.tensor([1.0, 2.0, 3.0])
    results, *_ = val.run(
        facts, model=model, dataloader=_loader(BATCHES), plots=False, class_thres={"cow": 0.9}, cls_tau=1.0
    )
    assert results[2] == pytest.approx(0.995 * 2 / 3, abs=1e-6)
    assert not model._forward_hooks


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"class_thres": "green=2"}, "--class-thres: green is 2.0, allowed are 0.0 to 1.0"),
        ({"class_thres": "grren=0.2"}, "unknown class 'grren', did you mean 'green'?"),
        ({"cls_tau": -1.0}, "--cls-tau is -1.0, allowed are numbers from 0 (off) to 2"),
    ],
)
def test_refused_before_the_run_folder(options, words, tiny_data, tiny_weights) -> None:
    with pytest.raises(InputError) as error:
        _run(tiny_data, tiny_weights, **options)
    assert words in str(error.value)
    assert not (tiny_data.parent / "runs").exists()


def test_diagnose_writes_the_class_errors_of_the_evaluation(tiny_data, tmp_path):
    """val.py --diagnose and train.py --diagnose: a page, its numbers and a hyp file that can be trained with."""
    import train
    from utils.hyperparameters import Hyperparameters

    opt = train.run(
        data=str(tiny_data), weights="", cfg="yolov5n.yaml", imgsz=64, batch_size=4, epochs=1, workers=0, device="cpu",
        noplots=True, diagnose=True, project=str(tmp_path / "train"),
    )  # fmt: skip
    results, _, _ = val.run(
        str(tiny_data), str(tmp_path / "train/exp/weights/best.pt"), imgsz=64, batch_size=4, workers=0, plots=False,
        diagnose=True, project=str(tmp_path / "val"),
    )  # fmt: skip
    assert len(results) == 7
    for folder in (Path(opt.save_dir) / "diagnosis", tmp_path / "val/exp/diagnosis"):
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["data"]["images"] == 4
        assert (folder / "report.html").stat().st_size > 1000
        Hyperparameters.load(folder / "advice.yaml")


def test_diagnose_needs_classes_and_labels(tiny_data, tmp_path):
    weights = tmp_path / "w.pt"
    weights.touch()
    with pytest.raises(InputError, match="--diagnose with --task speed"):
        collector_of(argparse.Namespace(single_cls=False, task="speed", weights="w.pt"), {})
