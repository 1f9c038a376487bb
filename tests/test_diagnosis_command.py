"""diagnose.py end to end: files, identities between them, refusals, exit codes, and use from other commands."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diagnosis_sample import NAMES, make_sample

import diagnose
from utils.diagnosis import tensorboard
from utils.diagnosis.command import diagnose_run
from utils.diagnosis.data import sort_predictions
from utils.diagnosis.inputs import Views, load_ground_truth
from utils.diagnosis.summary import KEYS, SCHEMA, VERSION
from utils.errors import InputError, InputErrors, WorkError
from utils.hyperparameters import Hyperparameters
from utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
DIAGNOSE = [sys.executable, str(ROOT / "diagnose.py")]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def folder(sample: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a diagnosis with errors and labels."""
    return diagnose.run(
        data=str(sample[0]), pred=str(sample[1]), project=str(tmp_path_factory.mktemp("runs")), conf=0.25,
        task=["labels", "errors"], confusion="upstream",
    )  # fmt: skip


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def fingerprint(root: Path) -> dict[str, str]:
    files = [p for kind in ("images", "labels", "predictions") for p in (root / kind).rglob("*") if p.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.suffix in {".png", ".txt"}}


# Files ----------------------------------------------------------------------------------------------------------------


def test_folder_holds_what_the_specification_lists(folder: Path) -> None:
    expected = {
        "summary.json", "errors.csv", "errors_ap.csv", "per_class.csv", "audit.json", "audit.csv", "thresholds.yaml",
        "advice.yaml", "advice.csv", "report.html", "types.csv", "pairs.csv", "balance.csv",
        *(f"confusion_{form}.{ending}" for form in ("counts", "col", "row", "upstream") for ending in ("csv", "png")),
    }  # fmt: skip
    assert {p.name for p in folder.iterdir()} == expected
    assert (folder / "report.html").stat().st_size < 20 * 1024 * 1024


def test_summary_follows_its_schema(folder: Path) -> None:
    text = (folder / "summary.json").read_text(encoding="utf-8")
    summary = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert list(summary) == list(KEYS) and (summary["schema"], summary["version"]) == (SCHEMA, VERSION)
    assert summary["tasks"] == ["labels", "errors"] and len(summary["verdict"]) == 3
    assert summary["data"]["names"] == {str(c): name for c, name in enumerate(NAMES)}
    assert summary["comparison"] is summary["capacity"] is summary["agreement"] is None
    assert set(summary["files"]) <= {p.name for p in folder.iterdir()}
    documented = (ROOT / "docs/diagnosis.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in documented for key in KEYS)


def test_errors_csv_has_a_row_for_each_error_that_was_counted(folder: Path) -> None:
    """Rows by type equal the operating view's counts: what is missing to all objects and predictions is right."""
    counts = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["errors"]["operating"]["counts"]
    rows = read_csv(folder / "errors.csv")
    kinds = Counter(row["type"] for row in rows)
    names = ("misclassified", "location", "extra class", "duplicate", "background", "other", "badly located", "missed")
    assert kinds == Counter({name: counts[name] for name in names if counts[name]})
    lost = kinds["badly located"] + kinds["missed"]
    assert counts["objects"] == counts["TP"] + kinds["misclassified"] + lost
    assert counts["predictions"] == counts["TP"] + sum(kinds.values()) - lost
    assert kinds["misclassified"] == 4 and kinds["missed"] >= 3
    confused = [row for row in rows if row["type"] == "misclassified"]
    assert {(row["true_class"], row["pred_class"]) for row in confused} == {(NAMES[0], NAMES[1])}
    for row in confused:
        assert 0.25 < float(row["conf"]) <= 1 and 0.5 <= float(row["iou"]) <= 1
        assert float(row["pred_x1"]) < float(row["pred_x2"]) and float(row["true_y1"]) < float(row["true_y2"])
    missed = [row for row in rows if row["type"] == "missed"]
    assert all(row["pred_class"] == row["conf"] == row["pred_x1"] == "" for row in missed)


def test_ap_errors_csv_has_the_types_of_the_ap_view(folder: Path) -> None:
    counts = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["errors"]["tide"]["counts"]
    kinds = Counter(row["type"] for row in read_csv(folder / "errors_ap.csv"))
    assert kinds == Counter({kind: count for kind, count in counts.items() if count and kind != "TP"})


def test_thresholds_and_advice_are_taken_by_the_other_commands(folder: Path) -> None:
    from utils.class_thresholds import class_thresholds

    found = class_thresholds(str(folder / "thresholds.yaml"), dict(enumerate(NAMES)), 0.25)
    assert found is not None and found.shape == (len(NAMES),)
    hyp = Hyperparameters.load(folder / "advice.yaml")
    assert set(read_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml")) <= set(hyp.to_dict())


def test_numbers_agree_between_csv_and_json(folder: Path) -> None:
    errors = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["errors"]
    types = {(row["view"], row["type"]): row for row in read_csv(folder / "types.csv")}
    for kind, value in errors["tide"]["delta"].items():
        assert float(types["A", kind]["delta_map50"]) == pytest.approx(value, rel=1e-5)
    assert [row["true_name"] for row in read_csv(folder / "pairs.csv")] == [p["true_name"] for p in errors["pairs"]]
    per_class = read_csv(folder / "per_class.csv")
    assert [int(row["n_val"]) for row in per_class] == [row["n_val"] for row in errors["classes"]]
    assert [int(row["n_train"]) for row in per_class] == [row["n_train"] for row in errors["classes"]]


def test_inputs_stay_as_they_are(tmp_path: Path) -> None:
    data, predictions = make_sample(tmp_path, images=6)
    before = fingerprint(tmp_path)
    diagnose.run(data=str(data), pred=str(predictions), project=str(tmp_path / "runs"), task=["labels", "errors"],
                 fix=str(tmp_path / "fixed"))  # fmt: skip
    assert fingerprint(tmp_path) == before
    assert (tmp_path / "fixed" / "data.yaml").is_file()


# Tasks ----------------------------------------------------------------------------------------------------------------


def test_data_without_training_images_are_diagnosed_all_the_same(tmp_path: Path, caplog) -> None:
    data, predictions = make_sample(tmp_path, images=4)
    data.write_text(data.read_text().replace("train: images/train", "train: images/nowhere"))
    assert "nowhere" in data.read_text()
    done = diagnose.run(data=str(data), pred=str(predictions), project=str(tmp_path / "runs"), noplots=True)
    assert "training labels are not there" in caplog.text and (done / "report.html").is_file()
    balance = diagnose.run(data=str(data), task=["balance"], project=str(tmp_path / "runs"), noplots=True)
    assert (balance / "balance.csv").is_file()


def test_default_tasks_follow_from_the_inputs(sample: tuple[Path, Path], tmp_path: Path) -> None:
    def tasks(**options: Any) -> list[str]:
        done = diagnose.run(data=str(sample[0]), project=str(tmp_path), noplots=True, **options)
        return json.loads((done / "summary.json").read_text(encoding="utf-8"))["tasks"]

    labels = str(sample[0].parent / "labels" / "val")
    assert tasks() == ["balance", "labels"]
    assert tasks(pred=str(sample[1])) == ["errors"]
    assert tasks(labels_b=[labels]) == ["agreement"]
    assert {p.name for p in tmp_path.iterdir()} == {"exp", "exp2", "exp3"}


def test_agreement_names_what_the_model_confuses_too(sample: tuple[Path, Path], tmp_path: Path) -> None:
    """A second annotator who takes class 0 for 1 as the model does: the pair is ambiguous, and the advice says so."""
    other = tmp_path / "other"
    other.mkdir()
    for path in (sample[0].parent / "labels" / "val").glob("*.txt"):
        rows = path.read_text(encoding="utf-8").splitlines()
        changed = [f"1{row[1:]}" if row.startswith("0 ") else row for row in rows]
        (other / path.name).write_text("\n".join(changed) + "\n", encoding="utf-8")
    done = diagnose.run(data=str(sample[0]), pred=str(sample[1]), labels_b=[str(other)], project=str(tmp_path / "r"),
                        conf=0.25, noplots=True)  # fmt: skip
    summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    assert summary["tasks"] == ["errors", "agreement"]
    first = summary["agreement"]["disagreements"][0]
    assert (first["a"], first["b"], first["objects"], first["model"]) == (0, 1, 8, 4)
    assert summary["errors"]["pairs"][0]["annotators_disagree"] == 8
    assert "R3b" in [line["rule"] for line in summary["advice"]["lines"]]
    assert {"agreement.csv", "disagreements.csv"} <= {p.name for p in done.iterdir()}


def test_comparison_with_itself_measures_no_difference(sample: tuple[Path, Path], tmp_path: Path) -> None:
    better = tmp_path / "better"
    better.mkdir()
    for path in (sample[0].parent / "labels" / "val").glob("*.txt"):
        rows = [f"{row} 0.9" for row in path.read_text(encoding="utf-8").splitlines()]
        (better / path.name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = diagnose.run(data=str(sample[0]), pred=str(sample[1]), compare=[str(sample[1]), str(better)], resamples=100,
                        project=str(tmp_path / "runs"), conf=0.25, noplots=True)  # fmt: skip
    summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    same, perfect = summary["comparison"]
    assert same["map50"]["difference"] == 0 and same["map50"]["verdict"] == "no measurable difference"
    assert perfect["map50"]["verdict"] == "better" and perfect["map50"]["other"] > 99
    noted = [line["about"] for line in summary["advice"]["lines"] if line["rule"] == "R12"]
    assert noted == [same["name"]] and same["name"] != perfect["name"]


def test_fail_on_ends_with_status_1_after_everything_is_written(sample: tuple[Path, Path], tmp_path: Path) -> None:
    command = [*DIAGNOSE, "--data", str(sample[0]), "--pred", str(sample[1]), "--project", str(tmp_path), "--noplots"]
    done = subprocess.run(
        [*command, "--fail-on", "map50<99", "missed>1000"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and errors[0].startswith("error: --fail-on map50<99: map50 is ")
    assert (tmp_path / "exp" / "report.html").is_file()


def test_codes_that_were_not_looked_for_do_not_pass(sample: tuple[Path, Path], tmp_path: Path) -> None:
    common = {"data": str(sample[0]), "project": str(tmp_path), "task": ["labels"], "noplots": True}
    with pytest.raises(WorkError) as caught:
        diagnose.run(**common, look="headers", fail_on=["L16", "leaked_images", "L22", "L03"])
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        f"{name} was not measured by these tasks" for name in ("L16", "leaked_images", "L22")
    ]
    diagnose.run(**common, fail_on=["L15>1000", "leaked_images>1000", "L03"])


def test_an_nc_that_contradicts_the_names_is_a_finding(tmp_path: Path) -> None:
    data, predictions = make_sample(tmp_path, images=4)
    data.write_text(f"{data.read_text()}nc: {len(NAMES) + 1}\n")
    done = diagnose.run(data=str(data), project=str(tmp_path / "runs"), noplots=True)
    found = [row for row in read_csv(done / "audit.csv") if row["code"] == "L14"]
    assert any("nc" in row["message"] for row in found)
    with pytest.raises(InputError, match="nc"):
        diagnose.run(data=str(data), pred=str(predictions), project=str(tmp_path / "runs"))


def test_help_is_light() -> None:
    before = os.times()
    done = subprocess.run([*DIAGNOSE, "--help"], capture_output=True, text=True, check=True)
    after = os.times()  # processor time: that of the clock depends on what else runs
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.2
    assert "--fail-on" in done.stdout
    script = "import sys, diagnose; print([m for m in ('torch', 'numpy', 'cv2', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": ["errors"]}, "--task errors: needs predictions"),
        ({"task": ["agreement"]}, "--task agreement: needs --labels-b"),
        ({"weights": "a.pt", "pred": "b.json"}, "--weights with --pred"),
        ({"pred": "nowhere.json"}, "--pred nowhere.json: no such file or folder"),
        ({"compare": ["x.pt"]}, "--compare: needs --task errors"),
        ({"folds": 3, "task": ["balance"]}, "--folds: is for --task labels"),
        ({"fix": "."}, "--fix .: exists already"),
        ({"conf": 1.5}, "--conf 1.5: allowed is 0 to 1"),
        ({"conf": float("nan")}, "--conf nan: allowed is 0 to 1"),
        ({"imgsz": 8, "workers": -1}, "--workers -1: allowed is at least 0"),
        ({"split": "valid"}, "--split is 'valid', allowed are train, val, test"),
        ({"iou_background": 0.7}, "--iou-background 0.7: allowed is at most --iou-found 0.5"),
        ({"rules": "nowhere.yaml"}, "--rules nowhere.yaml: no such file"),
        ({"fail_on": ["map51<3"]}, "--fail-on map51<3: unknown number 'map51', did you mean 'map50'?"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml"),
        ({"split": "test"}, "no 'test' entry"),
        ({"labelsb": "a.pt"}, "labelsb: no such option"),
    ],
)
def test_bad_options_are_refused_before_a_folder_is_made(
    sample: tuple[Path, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        diagnose.run(**{"data": str(sample[0]), "project": str(tmp_path / "runs"), **options})
    assert message in str(caught.value) and not (tmp_path / "runs").exists()


def test_bad_rules_hyp_and_predictions_are_refused(sample: tuple[Path, Path], tmp_path: Path) -> None:
    common = {"data": str(sample[0]), "pred": str(sample[1]), "project": str(tmp_path / "runs")}
    (tmp_path / "rules.yaml").write_text("version: 1\nrules:\n- {id: R1, scope: run}\n")
    with pytest.raises(InputErrors, match=r"rules.yaml: rule R1: 'kind' is missing"):
        diagnose.run(**common, rules=str(tmp_path / "rules.yaml"))
    (tmp_path / "hyp.yaml").write_text("lr0: much\n")
    with pytest.raises(InputErrors, match="lr0"):
        diagnose.run(**common, hyp=str(tmp_path / "hyp.yaml"))
    (tmp_path / "pred.json").write_text("[{}")
    with pytest.raises(InputError, match="pred.json"):
        diagnose.run(**{**common, "pred": str(tmp_path / "pred.json")})
    with pytest.raises(InputError, match="--classes 9"):
        diagnose.run(**common, classes=[9])
    with pytest.raises(InputError, match="unknown class"):
        diagnose.run(**common, class_thres="nobody=0.3")
    other = tmp_path / "other.json"
    other.write_text('[{"image_id": "elsewhere", "category_id": 0, "bbox": [0, 0, 9, 9], "score": 0.5}]')
    with pytest.raises(InputError, match="other.json"):
        diagnose.run(**common, compare=[str(other)])
    weights = tmp_path / "exp" / "weights"
    weights.mkdir(parents=True)
    (weights / "best.pt").write_bytes(b"")
    with pytest.raises(InputError, match=r"--weights \S+exp: is a run folder, its weights are \S+best.pt"):
        diagnose.run(**{**common, "pred": None, "weights": str(tmp_path / "exp")})
    assert not (tmp_path / "runs").exists()


def test_command_line_refusal_is_one_line_with_status_2(tmp_path: Path) -> None:
    command = [*DIAGNOSE, "--data", "nowhere.yaml", "--project", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] and not (tmp_path / "runs").exists()


def test_unwritable_project_is_refused_before_any_work(sample: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        diagnose.run(data=str(sample[0]), task=["balance"], project=str(tmp_path / "file"))


# From other commands --------------------------------------------------------------------------------------------------


def perfect_views(data: Path) -> tuple[Any, Views]:
    gt = load_ground_truth(str(data))
    conf = np.linspace(0.5, 0.9, len(gt))
    pred = sort_predictions(gt.image, gt.boxes, conf, gt.cls, "perfect.pt")
    return gt, Views(pred, pred, b_exact=True)


def test_diagnose_run_takes_predictions_and_a_log(sample: tuple[Path, Path], tmp_path: Path) -> None:
    """val.py and train.py call this with what an evaluation has collected."""
    written: dict[str, list[tuple[str, int]]] = {"scalars": [], "images": []}

    class Log:
        writer = "open"

        def scalars(self, values: dict[str, float], step: int) -> None:
            written["scalars"] += [(tag, step) for tag in values]

        def pixels(self, tag: str, image: np.ndarray, step: int) -> None:
            assert image.dtype == np.uint8 and image.ndim == 3
            written["images"].append((tag, step))

    gt, views = perfect_views(sample[0])
    wrong = views.a.cls.copy()
    wrong[wrong == 0] = 1
    pred = sort_predictions(views.a.image, views.a.boxes, views.a.conf, wrong)
    summary = diagnose_run(
        str(sample[0]), tmp_path / "run" / "diagnosis", views=Views(pred, pred, b_exact=True), gt=gt, conf=0.25,
        hyp={"lr0": 0.02, "lrf": 0.1, "cls": 0.5}, log=Log(), step=7, noplots=True,
    )  # fmt: skip
    assert summary["errors"]["pairs"][0]["true"] == 0 and summary["errors"]["operating"]["counts"]["misclassified"] == 8
    assert (tmp_path / "run" / "diagnosis" / "report.html").is_file()
    advised = Hyperparameters.load(tmp_path / "run" / "diagnosis" / "advice.yaml")
    assert (advised.lr0, advised.cls) == (0.02, 2.0)  # R13: every object of class 0 misnamed, and a small class loss
    assert summary["run"]["class_gain"] == pytest.approx(0.5 * len(gt.names) / 80)
    assert ("errors/Cls/count", 7) in written["scalars"] and ("errors/Cls/delta_map50", 7) in written["scalars"]
    assert [step for _, step in written["images"]] == [7]
    assert written["images"][0][0].startswith("confusions/_script_alert_1___script__taken_for_")


def test_perfect_predictions_leave_nothing_to_say(sample: tuple[Path, Path], tmp_path: Path) -> None:
    gt, views = perfect_views(sample[0])
    summary = diagnose_run(str(sample[0]), tmp_path / "d", views=views, gt=gt, noplots=True)
    assert summary["errors"]["tide"]["map"] == pytest.approx(100)
    assert set(summary["errors"]["tide"]["delta"].values()) == {0.0}
    assert "No type of error" in summary["verdict"][1]
    assert {line["rule"] for line in summary["advice"]["lines"]} == {"R11"}


def test_no_predictions_at_all(sample: tuple[Path, Path], tmp_path: Path) -> None:
    gt = load_ground_truth(str(sample[0]))
    none = sort_predictions([], np.zeros((0, 4)), [], [])
    summary = diagnose_run(str(sample[0]), tmp_path / "d", views=Views(none, none, True), gt=gt, noplots=True)
    assert summary["errors"]["operating"]["counts"]["missed"] == len(gt)
    assert summary["errors"]["tide"]["map"] == 0 and (tmp_path / "d" / "report.html").is_file()
    assert summary["errors"]["tide"]["delta"]["Miss"] == 100
    assert "shows nothing" in summary["verdict"][0] and "missed objects (100.0 points" in summary["verdict"][1]
    assert "R7f" in [line["rule"] for line in summary["advice"]["lines"]]
    assert not {"R7d", "R13a"} & {line["rule"] for line in summary["advice"]["lines"]}


def test_a_split_without_labels_is_no_perfect_one(sample: tuple[Path, Path], tmp_path: Path, caplog) -> None:
    data, predictions = make_sample(tmp_path, images=4)
    for path in (data.parent / "labels" / "val").glob("*.txt"):
        path.write_text("")
    done = diagnose.run(data=str(data), pred=str(predictions), project=str(tmp_path / "runs"), noplots=True)
    summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    assert summary["errors"]["tide"]["delta"]["Miss"] is None
    assert summary["verdict"][1].startswith("No object is labelled in this split")
    assert "no object is labelled in the val images" in caplog.text
    with pytest.raises(WorkError, match="delta_miss was not measured"):
        diagnose.run(data=str(data), pred=str(predictions), project=str(tmp_path / "runs"), fail_on=["delta_miss>5"])


def test_tensorboard_events_can_be_read_back(sample: tuple[Path, Path], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = diagnose.run(data=str(sample[0]), pred=str(sample[1]), conf=0.25, tensorboard=True, project=str(tmp_path),
                        noplots=True)  # fmt: skip
    events = EventAccumulator(str(done), size_guidance={"images": 0}).Reload()
    counts = json.loads((done / "summary.json").read_text(encoding="utf-8"))["errors"]
    assert events.Scalars("errors/Miss/count")[0].value == counts["tide"]["counts"]["Miss"]
    assert events.Scalars("operating/misclassified")[0].value == 4
    tags = events.Tags()["images"]
    assert len(tags) == 1 and tags[0].startswith("confusions/")


def test_grid_shows_boxes_in_their_colours(sample: tuple[Path, Path], folder: Path) -> None:
    from utils.diagnosis.gallery import Crop

    import cv2  # isort: skip

    jpeg = cv2.imencode(".jpg", np.full((100, 100, 3), 128, np.uint8))[1].tobytes()
    crop = Crop("errors", "misclassified", "a.png", 0, 1, 0.5, 0.8, truth=(10, 10, 60, 60), found=(30, 30, 90, 90),
                size=(100, 100), jpeg=jpeg)  # fmt: skip
    grid = tensorboard.draw_grid([crop] * 5)
    side = tensorboard.CELL + tensorboard.GAP
    assert grid.shape == (2 * side + tensorboard.GAP, 4 * side + tensorboard.GAP, 3)
    green = (grid == tensorboard.GREEN).all(2).sum()
    red = (grid == tensorboard.RED).all(2).sum()
    solid = green / 5 / 400 * 480  # pixels of the red box if it were solid: sides of 120 instead of 100
    assert green > 5 * 700 and 0.4 * solid < red / 5 < 0.8 * solid
    assert tensorboard.top_pairs([crop]) == {(0, 1): [crop]}


# Models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 6 photographs of coco128 to judge and 6 others to train on."""
    source = ROOT.parent / "shared/datasets/coco128"
    if not source.exists():
        pytest.skip(f"needs {source}, which is not part of this repository")
    root = tmp_path_factory.mktemp("photos")
    facts = read_yaml(source / "coco128.yaml")
    images = sorted((source / "images/train2017").glob("*.jpg"))
    for split, chosen in (("train", images[:6]), ("val", images[6:12])):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for image in chosen:
            (root / "images" / split / image.name).write_bytes(image.read_bytes())
            label = source / "labels/train2017" / f"{image.stem}.txt"
            if label.exists():
                (root / "labels" / split / label.name).write_text(label.read_text())
    path = root / "photos.yaml"
    path.write_text(yaml.safe_dump({"path": str(root), "train": "images/train", "val": "images/val",
                                    "names": facts["names"]}))  # fmt: skip
    return path


def test_model_is_judged_as_val_and_detect_would(shared: Path, few_photos: Path, tmp_path: Path) -> None:
    done = diagnose.run(data=str(few_photos), weights=str(shared / "weights/yolov5n.pt"), imgsz=160, device="cpu",
                        workers=0, project=str(tmp_path), noplots=True)  # fmt: skip
    summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    assert summary["run"]["model"] == "yolov5n" and summary["run"]["parameters"] > 1_800_000
    assert summary["run"]["map50_train"] is not None and summary["errors"]["exact_view_b"] is True
    assert summary["errors"]["tide"]["map"] > 5 and summary["data"]["images"] == 6
    assert json.loads((done / "summary.json").read_text(encoding="utf-8"))["settings"]["imgsz"] == 160


def test_folds_judge_training_labels_by_models_that_have_not_seen_them(
    shared: Path, few_photos: Path, tmp_path: Path
) -> None:
    """A trainer is asked for each fold; its weights predict the images that were kept from it."""
    from utils.diagnosis.command import diagnose as run
    from utils.diagnosis.options import default_options

    asked: list[list[str]] = []

    def trainer(**options: Any) -> argparse.Namespace:
        listed = Path(options["data"]["train"]).read_text().splitlines()
        asked.append([Path(line).name for line in listed])
        weights = Path(options["project"]) / options["name"] / "weights"
        weights.mkdir(parents=True)
        (weights / "last.pt").write_bytes((shared / "weights/yolov5n.pt").read_bytes())
        return argparse.Namespace(save_dir=str(weights.parent))

    opt = default_options(data=str(few_photos), task=["labels"], folds=2, imgsz=160, workers=0, device="cpu",
                          project=str(tmp_path))  # fmt: skip
    done = run(opt, trainer)
    names = sorted(path.name for path in (few_photos.parent / "images/train").glob("*.jpg"))
    assert len(asked) == 2 and sorted(asked[0] + asked[1]) == names
    assert json.loads((done / "audit.json").read_text())["objectlab"]["optimistic"] is False
    weights = read_csv(done / "label_weights.csv")
    assert {Path(row["image"]).name for row in weights} <= set(names)
    with pytest.raises(InputError, match="--folds: trains models"):
        diagnose_run(str(few_photos), tmp_path / "x", task=["labels"], folds=2)


def test_audit_tells_of_labels_that_nothing_can_be_measured_with(tmp_path: Path) -> None:
    """A class that the data set lacks stops every other command; the audit names it."""
    data, predictions = make_sample(tmp_path, images=4)
    label = next((tmp_path / "labels" / "val").glob("*.txt"))
    label.write_text("9 0.5 0.5 0.1 0.1\n", encoding="utf-8")
    done = diagnose.run(data=str(data), project=str(tmp_path / "runs"), noplots=True)
    summary = json.loads((done / "summary.json").read_text(encoding="utf-8"))
    found = [f for f in summary["audit"]["findings"] if f["code"] == "L04"]
    assert len(found) == 1 and Path(found[0]["file"]).name == label.name and found[0]["line"] == 1
    assert summary["data"]["images"] == 4 and summary["data"]["objects"] == 9
    with pytest.raises(InputError, match="class 9|'9'"):
        diagnose.run(data=str(data), pred=str(predictions), project=str(tmp_path / "runs"))
