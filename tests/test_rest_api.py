"""The detection service: answers, limits, keys, and one run of the command over a real socket."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.detections import Detections
from utils.errors import InputError
from utils.flask_rest_api import example_request, restapi
from utils.flask_rest_api.service import Limits, create_app, read_key

pytest.importorskip("flask")
ROOT = Path(__file__).resolve().parents[1]
URL = "/v1/object-detection/tiny"
KEY = "0123456789abcdef-key"


class Fake:
    """A model that finds one box in every image and remembers what it saw."""

    def __init__(self, wait=None):
        self.seen, self.wait = [], wait

    def __call__(self, image, size):
        self.seen.append((image, size))
        if self.wait:
            self.wait.wait(5)
        pred = torch.tensor([[1.0, 2.0, 11.0, 22.0, 0.875, 1.0]])
        return Detections([image], [pred], ["image0.jpg"], (0, 0, 0), {0: "cat", 1: "dog"}, (1, 3, size, size))


def _png(width=40, height=30, value=(10, 20, 200)):
    return cv2.imencode(".png", np.full((height, width, 3), value, np.uint8))[1].tobytes()


def _post(client, data, url=URL, **headers):
    form = {"image": (io.BytesIO(data), "a.png")} if data is not None else {"other": "x"}
    return client.post(url, data=form, headers={k.replace("_", "-"): v for k, v in headers.items()})


@pytest.fixture
def model():
    return Fake()


@pytest.fixture
def client(model):
    return create_app({"tiny": model}, Limits(max_bytes=20_000, max_pixels=2000, size=96)).test_client()


def test_rows_as_json(client, model):
    answer = _post(client, _png())
    assert answer.status_code == 200 and answer.mimetype == "application/json"
    row = {"xmin": 1.0, "ymin": 2.0, "xmax": 11.0, "ymax": 22.0, "confidence": 0.875, "class": 1, "name": "dog"}
    assert answer.get_json() == [row]
    image, size = model.seen[0]
    assert size == 96 and image.shape == (30, 40, 3) and image[0, 0].tolist() == [200, 20, 10]  # RGB


def test_health_tells_the_models(client):
    assert client.get("/health").get_json() == {"status": "ok", "models": ["tiny"]}


@pytest.mark.parametrize(
    ("data", "url", "status", "words"),
    [
        (None, URL, 400, "form field 'image'"),
        (b"", URL, 400, "is empty"),
        (b"hello, no image", URL, 415, "not an image"),
        (_png()[:60], URL, 400, "cannot be read"),
        (_png(50, 41), URL, 413, "50 x 41 pixels found, at most 2000"),
        (b"x" * 30_000, URL, 413, "20000 bytes"),
        (_png(), "/v1/object-detection/other", 404, "known are tiny"),
        (_png(), "/v1/else", 404, "not found"),
    ],
    ids=["no field", "empty", "text", "cut off", "pixels", "bytes", "model", "address"],
)
def test_refusals_are_json(client, model, data, url, status, words):
    answer = _post(client, data, url)
    assert answer.status_code == status and set(answer.get_json()) == {"error"}
    assert words in answer.get_json()["error"] and not model.seen


def test_a_bomb_is_refused_by_its_header(client, model):
    """A PNG that claims 60000 x 60000 pixels costs nothing."""
    data = bytearray(_png())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    assert _post(client, bytes(data)).status_code in {413, 415} and not model.seen


def test_other_methods_are_refused(client):
    answer = client.get(URL)
    assert answer.status_code == 405 and "POST" in answer.headers["Allow"] and "error" in answer.get_json()


def test_keys(model, monkeypatch, tmp_path):
    client = create_app({"tiny": model}, api_key=KEY).test_client()
    for headers in ({}, {"X_API_Key": "wrong"}, {"Authorization": "Bearer "}, {"X_API_Key": KEY + "x"}):
        answer = _post(client, _png(), **headers)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer" and not model.seen
    assert client.post("/v1/object-detection/other").status_code == 401  # names of models are not told either
    assert client.get("/health").get_json() == {"status": "ok"}
    assert _post(client, _png(), X_API_Key=KEY).status_code == 200
    assert _post(client, _png(), Authorization=f"Bearer {KEY}").status_code == 200

    monkeypatch.delenv("YOLOV5_API_KEY", raising=False)
    assert read_key(None) == ""
    monkeypatch.setenv("YOLOV5_API_KEY", KEY)
    assert read_key(None) == KEY
    (tmp_path / "key").write_text(f"{KEY}-of-file\n")
    assert read_key(tmp_path / "key") == f"{KEY}-of-file"
    (tmp_path / "key").write_text("short")
    for wrong, words in ((tmp_path / "key", "5 characters"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(InputError, match=words):
            read_key(wrong)


def test_a_busy_model_is_said_after_the_wait():
    release = threading.Event()
    model = Fake(wait=release)
    app = create_app({"tiny": model}, Limits(wait_seconds=0.05))
    first = threading.Thread(target=lambda: _post(app.test_client(), _png()))
    first.start()
    while not model.seen:
        time.sleep(0.01)
    answer = _post(app.test_client(), _png())
    release.set()
    first.join()
    assert answer.status_code == 503 and "busy" in answer.get_json()["error"] and "Retry-After" in answer.headers
    assert len(model.seen) == 1


def test_defects_tell_nothing_of_the_inside(caplog):
    class Broken:
        def __call__(self, image, size):
            raise RuntimeError("secret path /home/x")

    client = create_app({"tiny": Broken()}).test_client()
    answer = _post(client, _png())
    assert answer.status_code == 500 and answer.get_json() == {"error": "internal error"}
    assert _post(client, _png()).status_code == 500  # the model is free again


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "--port is 70000"),
        (["--conf-thres", "2"], "--conf-thres is 2.0"),
        (["--timeout", "nan"], "--timeout is nan"),
        (["--model", "no/such/file.pt"], "no/such/file.pt"),
        (["--threads", "0"], "--threads is 0"),
    ],
)
def test_wrong_options_are_named(arguments, words, monkeypatch):
    monkeypatch.delenv("YOLOV5_API_KEY", raising=False)
    with pytest.raises(InputError, match=words):
        restapi.build(restapi.parse_opt(arguments))


def test_models_have_the_names_of_their_files(monkeypatch):
    """Files under their stem, others as hub knows them; two of one name would hide each other."""
    asked = []
    monkeypatch.setattr("models.backends.DetectMultiBackend", lambda weights, device: asked.append(str(weights)))
    monkeypatch.setattr("models.autoshape.AutoShape", lambda _: Fake())
    monkeypatch.delenv("YOLOV5_API_KEY", raising=False)
    options = ["--device", "cpu", "--conf-thres", "0.4", "--model"]
    app = restapi.build(restapi.parse_opt([*options, "yolov5s", "runs/best.pt"]))
    assert app.test_client().get("/health").get_json()["models"] == ["best", "yolov5s"]
    assert asked == ["yolov5s.pt", "runs/best.pt"] and not app.config["NEEDS_KEY"]
    with pytest.raises(InputError, match="called best already"):
        restapi.build(restapi.parse_opt([*options, "a/best.pt", "b/best.pt"]))


def test_the_command_over_a_socket(shared):
    """Started as users start it; the answer is that of the hub interface on the same file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    image = next((shared / "datasets" / "coco128").rglob("000000000025.jpg"))
    weights = shared / "weights" / "yolov5n.pt"
    command = [sys.executable, "utils/flask_rest_api/restapi.py", "--port", str(port), "--model", str(weights)]
    environment = os.environ | {"YOLOV5_API_KEY": KEY, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    server = subprocess.Popen(
        [*command, "--img", "320"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 90
        while server.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    assert json.load(answer) == {"status": "ok"}
                    break
            except urllib.error.URLError:
                time.sleep(0.2)
        assert server.poll() is None, server.stderr.read().decode()
        url = f"http://127.0.0.1:{port}/v1/object-detection/yolov5n"
        rows = example_request.detect(url, image.read_bytes(), KEY)
        assert [row["name"] for row in rows] == ["giraffe"] and 0.25 < rows[0]["confidence"] < 1
        assert list(rows[0]) == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            example_request.detect(url, image.read_bytes(), "")
        assert refused.value.code == 401 and "key" in json.load(refused.value)["error"]
    finally:
        server.terminate()
        server.communicate(timeout=20)
