"""Serve detection models over HTTP: ``python utils/flask_rest_api/restapi.py --port 5000 --model yolov5s``."""

# ruff: noqa: E402  (run by path, the command must first make the project importable)

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from utils.errors import InputError, WorkError, run_command
from utils.logs import LOGGER, setup_logging

if TYPE_CHECKING:
    from flask import Flask

MEGABYTE = 1 << 20


def parse_opt(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line.

    Args:
        arguments: instead of the process's own.
    """
    parser = argparse.ArgumentParser(
        description="Serve detection models over HTTP", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--port", type=int, default=5000, help="port to listen on")
    add("--model", nargs="+", default=["yolov5s"], help="models to serve: names of released ones, or files of weights")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all of this machine's")
    add("--device", default="", help="cpu, or a GPU's number; by default the first GPU, else the CPU")
    add("--img", "--imgsz", dest="imgsz", type=int, default=640, help="pixels of the longer side that models see")
    add("--conf-thres", type=float, default=0.25, help="least confidence")
    add("--iou-thres", type=float, default=0.45, help="overlap above which the less confident box of a class goes")
    add("--max-mb", type=float, default=16, help="largest upload in megabytes")
    add("--max-pixels", type=int, default=50_000_000, help="largest image in pixels")
    add("--timeout", type=float, default=30, help="longest wait in seconds, for a client's bytes and for a busy model")
    add("--threads", type=int, default=4, help="requests read and answered at once")
    add("--api-key-file", help="file with the key that requests must send; else that of YOLOV5_API_KEY, else none")
    return parser.parse_args(arguments)


def load_models(names: list[str], opt: argparse.Namespace) -> dict[str, Any]:
    """Return the models to serve: those of files under the file's stem, the others under their name.

    Raises:
        InputError: two have one name, or one cannot be loaded.
    """
    from models.autoshape import AutoShape
    from models.backends import DetectMultiBackend
    from utils.torch_utils import select_device

    device = select_device(opt.device)
    models: dict[str, Any] = {}
    for name in names:
        path = Path(name)
        if path.stem in models:
            raise InputError(f"--model {name}: another model is called {path.stem} already; rename one of the files")
        model = AutoShape(DetectMultiBackend(path if path.suffix else f"{name}.pt", device=device))
        model.conf, model.iou = opt.conf_thres, opt.iou_thres
        models[path.stem] = model
    return models


def build(opt: argparse.Namespace) -> Flask:
    """Return the app that the options ask for.

    Raises:
        InputError: an option is wrong, flask is missing, or a model cannot be loaded.
    """
    from utils.flask_rest_api.service import Limits, create_app, read_key, require_flask

    for name, least in (("imgsz", 32), ("max_mb", 0.001), ("max_pixels", 100), ("timeout", 0.001), ("threads", 1)):
        if not getattr(opt, name) >= least:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(opt, name)}, allowed is {least} or more")
    for name in ("conf_thres", "iou_thres"):
        if not 0 <= getattr(opt, name) <= 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(opt, name)}, allowed are 0.0 to 1.0")
    if not 0 <= opt.port < 65536:
        raise InputError(f"--port is {opt.port}, allowed are 0 to 65535")
    require_flask()
    key = read_key(opt.api_key_file)
    limits = Limits(int(opt.max_mb * MEGABYTE), opt.max_pixels, opt.timeout, opt.imgsz)
    return create_app(load_models(opt.model, opt), limits, key)


def main(opt: argparse.Namespace) -> None:
    """Load the models and serve until the process is stopped."""
    setup_logging()
    app = build(opt)
    if opt.host not in {"127.0.0.1", "localhost", "::1"}:
        LOGGER.warning(
            "WARNING listening on %s: whoever reaches this machine can use the service%s. It speaks plain HTTP; "
            "outside a trusted network put it behind a proxy with TLS",
            opt.host, "" if app.config["NEEDS_KEY"] else " without a key",
        )  # fmt: skip
    LOGGER.info("Serving %s on http://%s:%d", " ".join(opt.model), opt.host, opt.port)
    try:
        serve(app, opt)
    except OSError as error:
        raise WorkError(f"--host {opt.host} --port {opt.port}: cannot listen there ({error.strerror})") from error


def serve(app: Flask, opt: argparse.Namespace) -> None:
    """Answer requests with waitress; where it is missing with Flask's own server, which is for trying out alone."""
    try:
        import waitress
    except ImportError:
        LOGGER.warning("WARNING Flask's own server is for trying out alone: pip install waitress")
        app.run(host=opt.host, port=opt.port, threaded=True)
        return
    waitress.serve(
        app,
        host=opt.host,
        port=opt.port,
        threads=opt.threads,
        ident="yolov5",
        channel_timeout=max(int(opt.timeout), 1),
        cleanup_interval=5,
        connection_limit=100,
        max_request_body_size=int(opt.max_mb * MEGABYTE),
        _quiet=True,
    )


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
