"""The detection service as a Flask app: one image in, the rows of pandas().xyxy[0] out as JSON."""

from __future__ import annotations

import hmac
import io
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from utils.data.image_headers import read_header
from utils.errors import InputError
from utils.images import decode
from utils.logs import LOGGER

if TYPE_CHECKING:
    from flask import Flask, Response

DETECTION_URL = "/v1/object-detection/<model>"
HEALTH_URL = "/health"
KEY_VARIABLE = "YOLOV5_API_KEY"
LEAST_KEY = 16  # characters


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_bytes: of the whole upload.
        max_pixels: of the image, by its header, before it is decoded.
        wait_seconds: for the model while other requests use it.
        size: pixels of the longer side that the model sees.
    """

    max_bytes: int = 16 << 20
    max_pixels: int = 50_000_000
    wait_seconds: float = 30.0
    size: int = 640


class ServiceError(Exception):
    """A request that is refused.

    Args:
        status: of HTTP.
        message: what was found and what is allowed, for the client.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Served:
    """A model that answers one request after the other: its head keeps grids between calls.

    Args:
        model: takes (h, w, 3) RGB uint8 and ``size``, and returns Detections.
    """

    def __init__(self, model: Any):
        self._model = model
        self._lock = threading.Lock()

    def records(self, image: np.ndarray, limits: Limits) -> str:
        """Return the detections as a JSON list: xmin, ymin, xmax, ymax, confidence, class, name."""
        if not self._lock.acquire(timeout=limits.wait_seconds):
            raise ServiceError(503, f"the model was busy for {limits.wait_seconds:g} s; try again later")
        try:
            results = self._model(image, size=limits.size)
        finally:
            self._lock.release()
        return results.pandas().xyxy[0].to_json(orient="records")


def create_app(models: Mapping[str, Any], limits: Limits | None = None, api_key: str = "") -> Flask:
    """Return the service as a WSGI app.

    ``POST /v1/object-detection/<model>`` takes the form field ``image`` with a file. ``GET /health`` tells that the
    service runs. Errors are JSON as well: ``{"error": "..."}`` with the status that fits.

    Args:
        models: by the names that requests give.
        limits: of a request.
        api_key: what requests must send as ``Authorization: Bearer <key>`` or ``X-API-Key: <key>``; '' for none.
    """
    flask = require_flask()
    limits = limits or Limits()
    served = {name: Served(model) for name, model in models.items()}
    app = flask.Flask("yolov5", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.max_bytes
    app.config["MAX_FORM_PARTS"] = 16
    app.config["NEEDS_KEY"] = bool(api_key)
    _handle_errors(app, limits)

    @app.before_request
    def check_key() -> None:
        if api_key and flask.request.path != HEALTH_URL and not _has_key(flask.request.headers, api_key):
            raise ServiceError(401, "a valid key is needed, as Authorization: Bearer <key> or X-API-Key: <key>")

    @app.get(HEALTH_URL)
    def health() -> Response:
        known = not api_key or _has_key(flask.request.headers, api_key)
        return flask.jsonify(status="ok", **({"models": sorted(served)} if known else {}))

    @app.post(DETECTION_URL)
    def predict(model: str) -> Response:
        if model not in served:
            raise ServiceError(404, f"no model {model!r}; known are {', '.join(sorted(served))}")
        upload = flask.request.files.get("image")
        if upload is None:
            raise ServiceError(400, "no file in the form field 'image' (multipart/form-data)")
        text = served[model].records(_read_image(upload.read(), limits), limits)
        return flask.Response(text, mimetype="application/json")

    return app


def require_flask() -> Any:
    """Return the package flask.

    Raises:
        InputError: it is not installed.
    """
    try:
        import flask
    except ImportError as error:
        raise InputError("the service needs the package flask: pip install flask waitress") from error
    return flask


def read_key(file: str | Path | None) -> str:
    """Return the key that requests must send: that of a file, else the environment's YOLOV5_API_KEY, else ''.

    Raises:
        InputError: a file that cannot be read, or a key of fewer than 16 characters.
    """
    source, key = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "")
    if file:
        try:
            source, key = str(file), Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--api-key-file {file}: cannot be read ({error})") from None
    if (file or key) and len(key) < LEAST_KEY:
        raise InputError(f"{source}: the key has {len(key)} characters, at least {LEAST_KEY} are needed")
    return key


def _has_key(headers: Mapping[str, str], api_key: str) -> bool:
    sent = headers.get("X-API-Key", "") or headers.get("Authorization", "").removeprefix("Bearer ")
    return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), api_key.encode())


def _read_image(data: bytes, limits: Limits) -> np.ndarray:
    """Return an uploaded image as RGB uint8 (h, w, 3), upright."""
    if not data:
        raise ServiceError(400, "the file in the form field 'image' is empty")
    try:
        header = read_header(io.BytesIO(data))
    except ValueError as error:
        raise ServiceError(415, f"image: {error}") from None
    if header.width * header.height > limits.max_pixels:
        size = f"{header.width} x {header.height} pixels"
        raise ServiceError(413, f"image: {size} found, at most {limits.max_pixels} in all are allowed")
    try:
        return np.ascontiguousarray(decode(data)[..., ::-1])
    except (ValueError, MemoryError) as error:
        raise ServiceError(400, f"image: cannot be read: {error or 'out of memory'}") from None


def _handle_errors(app: Flask, limits: Limits) -> None:
    """Have every error answered as JSON, without anything of the inside."""
    from werkzeug.exceptions import HTTPException

    def answer(status: int, message: str) -> tuple[dict[str, str], int, dict[str, str]]:
        headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": f"{limits.wait_seconds:.0f}"}}
        return {"error": message}, status, headers.get(status, {})

    @app.errorhandler(ServiceError)
    def refused(error: ServiceError) -> Any:
        return answer(error.status, str(error))

    @app.errorhandler(HTTPException)
    def other(error: HTTPException) -> Any:
        if error.code == 413:
            return answer(413, f"the upload has more than the {limits.max_bytes} bytes or 16 parts that are allowed")
        body, status, headers = answer(error.code or 500, str(error.description))
        methods = getattr(error, "valid_methods", None)
        return body, status, headers | ({"Allow": ", ".join(methods)} if methods else {})

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Any:
        LOGGER.exception("a request failed")
        if isinstance(error, torch.OutOfMemoryError):
            return answer(503, "out of memory; try again later or send a smaller image")
        return answer(500, "internal error")
