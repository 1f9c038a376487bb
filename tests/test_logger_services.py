"""Online services behind one interface: chosen as the user configured them, read back from their offline stores."""

from __future__ import annotations

import argparse
import json
import logging
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import train
from utils.checkpoint import load_checkpoint
from utils.errors import InputErrors
from utils.loggers import GenericLogger, Loggers, run_services, services
from utils.loggers.run_services import RunHooks, open_for_run, web_project_name
from utils.loggers.service import Service, Start
from utils.loggers.services import SERVICES, Services, open_services, wanted

ROOT = Path(__file__).resolve().parents[1]
CONFIGURED = (
    "WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "WANDB_BASE_URL", "NETRC", "COMET_API_KEY", "COMET_MODE",
    "COMET_CONFIG", "CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY", "CLEARML_CONFIG_FILE", "CLEARML_OFFLINE_MODE",
    "CLEARML_CACHE_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "YOLOV5_LOGGERS",
)  # fmt: skip


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Nothing is configured on this machine."""
    for name in CONFIGURED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("yolov5"), "propagate", True)
    caplog.set_level(logging.INFO, "yolov5")
    return caplog


class Recorder(Service):
    """A service that notes what it is told."""

    name = "wandb"

    def __init__(self):
        self.told = []

    def __getattribute__(self, name):
        if name in {"parameters", "scalars", "pictures", "text", "table", "confusion", "checkpoint", "detections",
                    "data_set", "summary", "close"}:  # fmt: skip
            return lambda *facts: self.told.append((name, *facts))
        return super().__getattribute__(name)

    def of(self, what):
        return [facts[1:] for facts in self.told if facts[0] == what]


# Which services ---------------------------------------------------------------------------------------------------


def test_without_configuration_none_is_used(monkeypatch):
    monkeypatch.setattr(services, "is_installed", lambda name: True)
    assert wanted() == []


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        ({"WANDB_API_KEY": "x"}, ["wandb"]),
        ({"WANDB_MODE": "offline"}, ["wandb"]),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "x"}, []),
        ({"WANDB_DISABLED": "true", "WANDB_API_KEY": "x"}, []),
        ({"COMET_API_KEY": "x", "MLFLOW_TRACKING_URI": "sqlite:///x.db"}, ["comet", "mlflow"]),
        ({"COMET_API_KEY": "x", "COMET_MODE": "disabled"}, []),
        ({"CLEARML_API_ACCESS_KEY": "x"}, []),
        ({"CLEARML_API_ACCESS_KEY": "x", "CLEARML_API_SECRET_KEY": "y"}, ["clearml"]),
        ({"CLEARML_OFFLINE_MODE": "1"}, ["clearml"]),
        ({"WANDB_API_KEY": "x", "YOLOV5_LOGGERS": "none"}, []),
        ({"WANDB_API_KEY": "x", "YOLOV5_LOGGERS": ""}, []),
        ({"YOLOV5_LOGGERS": "MLflow, wandb"}, ["wandb", "mlflow"]),
    ],
)
def test_the_environment_chooses(monkeypatch, environment, chosen):
    monkeypatch.setattr(services, "is_installed", lambda name: True)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wanted() == chosen


def test_logins_and_configuration_files_count(monkeypatch, tmp_path):
    monkeypatch.setattr(services, "is_installed", lambda name: True)
    home = tmp_path / "home"
    (home / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password key\n")
    (home / ".netrc").chmod(0o600)
    (home / "clearml.conf").write_text("api {}\n")
    (home / ".comet.config").write_text("[comet]\napi_key=abc\n")
    assert wanted() == ["wandb", "clearml", "comet"]


def test_unknown_and_missing_services_are_said(monkeypatch, said):
    monkeypatch.setenv("YOLOV5_LOGGERS", "wandb,tensorboard")
    with pytest.raises(
        InputErrors, match="YOLOV5_LOGGERS: 'tensorboard' is unknown, allowed are none or some of wandb"
    ):
        wanted()
    monkeypatch.setenv("YOLOV5_LOGGERS", "comet")
    monkeypatch.setattr(services, "is_installed", lambda name: False)
    assert wanted() == []
    assert "comet is not installed (pip install comet-ml)" in said.text


def test_no_package_of_a_service_is_imported_unless_it_is_used(tiny_data, tmp_path):
    code = (
        "import sys, train\n"
        "from utils.loggers import Loggers, services\n"
        f"services.open_services(services.Start(__import__('pathlib').Path({str(tmp_path)!r})))\n"
        "print(sorted({'wandb', 'clearml', 'comet_ml', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Failures ---------------------------------------------------------------------------------------------------------


def test_a_service_that_fails_is_said_once_and_left_out(said, tmp_path):
    class Broken(Service):
        name = "comet"

        def scalars(self, values, epoch):
            raise ConnectionError("no route to host")

    good = Recorder()
    both = Services([Broken(), good], tmp_path)
    for epoch in range(3):
        both.scalars({"a": 1.0, "b": float("nan")}, epoch)
    assert good.of("scalars") == [({"a": 1.0}, epoch) for epoch in range(3)]
    assert said.text.count("comet is left out from here on: no route to host") == 1 and both.find("comet") is None


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_cannot_begin_is_said_and_left_out(name, monkeypatch, said, tmp_path):
    monkeypatch.setenv("YOLOV5_LOGGERS", name)
    monkeypatch.setattr(services, "is_installed", lambda name: True)

    def refuse(start):
        raise RuntimeError("bad key\nin two lines")

    monkeypatch.setattr(services.adapter(name), "open_service", refuse)
    assert not open_services(Start(tmp_path))
    assert f"WARNING {name} is left out from here on: bad key in two lines" in said.text


# A training run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow_model(tmp_path):
    facts = yaml.safe_load((ROOT / "models" / "yolov5n.yaml").read_text())
    path = tmp_path / "narrow.yaml"
    path.write_text(yaml.safe_dump({**facts, "width_multiple": 0.0625}))
    return path


@pytest.fixture
def run(tiny_data, narrow_model, tmp_path):
    """Train for two epochs; keywords as for train.run."""

    def call(**more):
        small = {
            "weights": "", "cfg": str(narrow_model), "imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0,
            "epochs": 2, "noplots": True, "data": str(tiny_data), "project": str(tmp_path / "runs"),
        }  # fmt: skip
        return Path(train.run(**{**small, **more}).save_dir)

    return call


def test_what_a_run_tells_and_that_its_numbers_stay(run, monkeypatch, tmp_path):
    recorder = Recorder()
    plain = run()
    monkeypatch.setattr(run_services, "open_services", lambda *_, **__: Services([recorder], tmp_path))
    folder = run(save_period=1, upload_dataset="val", epochs=2)
    assert (folder / "results.csv").read_text() == (plain / "results.csv").read_text()
    ours, theirs = (load_checkpoint(place / "weights" / "last.pt")["model"].state_dict() for place in (folder, plain))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

    names = (folder / "results.csv").read_text().splitlines()[0].replace(" ", "").split(",")[1:]
    assert [set(names) <= set(values) for values, _ in recorder.of("scalars")] == [True, True]
    assert [epoch for _, epoch in recorder.of("scalars")] == [0, 1]
    assert {"per_class/AP50/green", "per_class/AP50/blue"} <= set(recorder.of("scalars")[0][0])
    (uploads,) = recorder.of("data_set")[0]
    assert len(uploads) == 8 and all(name.startswith(("images/val/", "labels/val/")) for name in uploads)
    checkpoints = recorder.of("checkpoint")
    assert [path.name for path, _, _ in checkpoints] == ["last.pt", "best.pt"]
    assert checkpoints[0][1][:2] == ["latest", "epoch 0"] and checkpoints[1][1] == ["latest", "best", "stripped"]
    (title, columns, rows, _), *_ = recorder.of("table")
    assert title == "per_class" and [row[0] for row in rows] == ["green", "blue"] and len(columns) == len(rows[0])
    matrix, labels, _ = recorder.of("confusion")[0]
    assert matrix.shape == (3, 3) and labels == ["green", "blue", "background"]
    assert set(recorder.of("summary")[0][0]) == {
        "best/precision", "best/recall", "best/mAP_0.5", "best/mAP_0.5:0.95"
    }  # fmt: skip
    assert recorder.of("close") == [(False,)] and recorder.told[-1] == ("close", False)
    assert not recorder.of("pictures") and not recorder.of("detections")  # --noplots


def test_a_run_that_breaks_ends_as_failed(run, monkeypatch, tmp_path):
    from utils.training.run import Run

    recorder = Recorder()
    monkeypatch.setattr(run_services, "open_services", lambda *_, **__: Services([recorder], tmp_path))
    monkeypatch.setattr(Run, "train_epoch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()
    assert recorder.of("close") == [(True,)]


def test_options_of_wandb_without_it_are_said_and_trials_tell_nothing(monkeypatch, said, tmp_path):
    opt = argparse.Namespace(
        evolve=None, entity="me", upload_dataset=True, resume=False, project="runs/train", name="exp"
    )
    assert not open_for_run(argparse.Namespace(opt=opt, folder=tmp_path, as_read={}))
    assert "--entity me: has no effect without wandb or comet" in said.text
    assert "--upload_dataset True: has no effect without wandb" in said.text
    opt.evolve = 3
    monkeypatch.setattr(run_services, "open_services", lambda *_: pytest.fail("a trial opened a service"))
    assert not open_for_run(argparse.Namespace(opt=opt, folder=tmp_path, as_read={}))


def test_boxes_are_shown_for_some_images_every_few_epochs(tmp_path):
    recorder = Recorder()
    hooks = RunHooks(Services([recorder], tmp_path), tmp_path, 30, -1, -1, {0: "a"})
    pred = torch.tensor([[1.0, 2, 8, 9, 0.9, 0], [1, 2, 8, 9, 0.1, 0]])
    for epoch in range(4):  # by default every tenth of 30 epochs
        hooks.begin_validation(epoch)
        for number in range(20):
            hooks.show_boxes(pred, pred, Path(f"{number}.png"), {0: "a"}, torch.ones(3, 10, 12))
    shown = recorder.of("detections")
    assert [epoch for *_, epoch in shown] == [0] * 16 + [3] * 16
    assert shown[0][0].shape == (10, 12, 3) and shown[0][0].max() == 255 and shown[0][1].shape == (1, 6)


def test_clones_loggers_pass_on_the_same(monkeypatch, tmp_path):
    recorder = Recorder()
    monkeypatch.setattr("utils.loggers.compat.open_services", lambda *_, **__: Services([recorder], tmp_path))
    log = GenericLogger(argparse.Namespace(save_dir=tmp_path), logging.getLogger("yolov5"), include=("wandb",))
    log.log_metrics({"train/loss": 0.5}, 0)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    log.log_images(tmp_path / "a.png", "Test", 1)
    (tmp_path / "best.pt").write_bytes(b"x")
    log.log_model(tmp_path / "best.pt", 2)
    log.update_params({"a": 1})
    log.close()
    assert recorder.of("scalars") == [({"train/loss": 0.5}, 0)] and recorder.of("parameters") == [({"a": 1},)]
    assert recorder.of("pictures") == [("Test", {"a": tmp_path / "a.png"}, 1)] and recorder.of("close") == [(False,)]
    assert recorder.of("checkpoint")[0][0].name == "best.pt"

    recorder.told.clear()
    opt = argparse.Namespace(noplots=True, epochs=1, save_period=-1)
    loggers = Loggers(tmp_path, "w.pt", opt, {"lr0": 1}, include=("wandb",))
    assert loggers.wandb is recorder
    loggers.on_fit_epoch_end([1.0] * 13, 0, 0.5, 0.5)
    loggers.on_train_end(tmp_path / "last.pt", tmp_path / "best.pt", 0, (0.1, 0.2, 0.3, 0.4, 0, 0, 0))
    assert set(recorder.of("scalars")[0][0]) == set(loggers.keys)
    assert recorder.of("summary")[0][0]["best/mAP_0.5"] == 0.3 and recorder.told[-1] == ("close", False)


@pytest.mark.parametrize(
    ("project", "expected"), [("runs/train", "YOLOv5"), ("runs/train-seg", "YOLOv5-Segment"), ("screws", "screws")]
)
def test_projects_keep_upstreams_names(project, expected):
    assert web_project_name(project) == expected


# Each service in its offline mode: what was logged is read back, and nothing was connected to ------------------------

WORKER = Path(__file__).with_name("logger_worker.py")


def _report(name, folder, **environment):
    """Report a small made-up run in a process of its own; return the attempts to reach a network."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(WORKER), name, str(folder)], env={**os.environ, **environment, "YOLOV5_LOGGERS": name},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    attempts = (folder / "attempts.txt").read_text()
    assert attempts == "", attempts
    return yaml.safe_load((folder / "services.yaml").read_text())


def _wandb_records(path):
    """Yield the records of a .wandb file: LevelDB's log format after a header of seven bytes, blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, parts = 7, []
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last of several
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    identity = _report("wandb", tmp_path / "run")["wandb"]
    (file,) = (tmp_path / "run").rglob("*.wandb")
    history, config, artifacts = {}, {}, []
    for record in _wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            row = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            history.setdefault(record.history.step.num, {}).update(row)
        elif record.WhichOneof("record_type") == "run":
            assert record.run.run_id == identity and record.run.project == "screws"
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif record.WhichOneof("record_type") == "artifact":
            artifacts.append((record.artifact.name, record.artifact.type, list(record.artifact.aliases)))
        elif record.WhichOneof("record_type") == "request" and record.request.HasField("log_artifact"):
            found = record.request.log_artifact.artifact
            artifacts.append((found.name, found.type, list(found.aliases)))
    assert history[0]["train/box_loss"] == 0.5 and history[1]["metrics/mAP_0.5:0.95"] == 0.25
    assert config["hyp"]["lr0"] == 0.01 and config["epochs"] == 2
    media = tmp_path / "run"
    assert list(media.rglob("Mosaics_*.jpg")) and list(media.rglob("Bounding Box Debugger/*.png"))
    (confusion,) = media.rglob("confusion_matrix_*.table.json")
    assert ["bolt", "bolt", "3"] in json.loads(confusion.read_text())["data"]
    by_name = {name: (kind, set(aliases)) for name, kind, aliases in artifacts}
    assert by_name[f"run_{identity}_model"] == ("model", {"latest", "best", "stripped"})
    assert by_name["dataset"][0] == "dataset"


def test_mlflow_in_a_local_store(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    identity = _report("mlflow", tmp_path / "run")["mlflow"]
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    found = client.get_run(identity)
    history = client.get_metric_history(identity, "train/box_loss")
    assert [(entry.step, entry.value) for entry in history] == [(0, 0.5), (1, 0.5)]
    colon = "metrics/mAP_0.5-0.95" if os.name == "nt" else "metrics/mAP_0.5:0.95"
    assert found.data.metrics[colon] == 0.25 and found.info.status == "FINISHED"
    assert found.data.params["lr0"] == "0.01" and found.data.params["opt/epochs"] == "2"
    assert client.get_experiment(found.info.experiment_id).name == "screws"
    paths = {item.path for part in ("", "Mosaics", "weights") for item in client.list_artifacts(identity, part)}
    assert {"Mosaics/train_batch0.jpg", "weights/best.pt", "confusion_matrix.json", "per_class.csv"} <= paths
    _report("mlflow", tmp_path / "run", RESUMED="1")
    assert len(client.get_metric_history(identity, "train/box_loss")) == 4
    assert len(client.search_runs([found.info.experiment_id])) == 1


def test_comet_offline(tmp_path):
    pytest.importorskip("comet_ml")
    identity = _report("comet", tmp_path / "run")["comet"]
    (archive,) = (tmp_path / "run" / "comet").glob("*.zip")
    assert identity in archive.name
    with zipfile.ZipFile(archive) as packed:
        lines = packed.read("messages.json").decode().splitlines()
        contents = {packed.read(name)[:1] for name in packed.namelist()}
    messages = [json.loads(line) for line in lines]
    text = "\n".join(lines)
    metrics = [m["payload"]["metric"] for m in messages if m["type"] == "metric_msg"]
    found = {(metric["metricName"], float(metric["metricValue"]), metric["epoch"]) for metric in metrics}
    assert {("train/box_loss", 0.5, 0), ("metrics/mAP_0.5:0.95", 0.25, 1)} <= found
    assert '"lr0"' in text and "train_batch0" in text and "confusion-matrix" in text and "best.pt" in text
    assert contents


def test_clearml_offline(tmp_path):
    pytest.importorskip("clearml")
    identity = _report("clearml", tmp_path / "run")["clearml"]
    (archive,) = (tmp_path / "run" / "clearml").rglob("*.zip")
    assert identity.removeprefix("offline-") in archive.name
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        task = json.loads(packed.read("task.json"))
        metrics = "".join(packed.read(name).decode() for name in names if "metrics" in name and name.endswith(".jsonl"))
    events = [event for line in metrics.splitlines() for event in json.loads(line)]
    scalars = {
        (event["metric"], event["variant"], event["iter"]): event["value"] for event in events if "value" in event
    }
    assert scalars["train", "box_loss", 0] == 0.5 and scalars["metrics", "mAP_0.5:0.95", 1] == 0.25
    assert task["project_name"] == "screws"
    assert any("train_batch0" in name for name in names) and any("best.pt" in name for name in names)
    assert "lr0" in json.dumps(task) and any(event["metric"] == "confusion_matrix" for event in events)
