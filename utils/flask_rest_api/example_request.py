"""Ask the service for the objects in an image: ``python utils/flask_rest_api/example_request.py --image a.jpg``."""

from __future__ import annotations

import argparse
import json
import os
import pprint
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DETECTION_URL = "http://localhost:5000/v1/object-detection/yolov5s"


def detect(url: str, image: bytes, key: str = "", seconds: float = 60) -> list[dict]:
    """Return the service's rows for the bytes of an image file.

    Args:
        url: of the service, with the model's name at its end.
        image: bytes of the file.
        key: that the service asks for, '' for none.
        seconds: to wait at most.

    Raises:
        urllib.error.HTTPError: refused; its body is JSON with the key ``error``.
        OSError: not reached.
    """
    mark = uuid.uuid4().hex
    head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
    body = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + image + f"\r\n--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"} | ({"X-API-Key": key} if key else {})
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=seconds) as response:
        return json.load(response)


def main() -> int:
    """Send one image and print the rows."""
    parser = argparse.ArgumentParser(description="Ask the detection service for the objects in an image")
    parser.add_argument("--url", default=DETECTION_URL, help="address of the service and model")
    parser.add_argument("--image", default=str(ROOT / "data/images/workbench1.jpg"), help="image file")
    opt = parser.parse_args()
    try:
        pprint.pp(detect(opt.url, Path(opt.image).read_bytes(), os.environ.get("YOLOV5_API_KEY", "")))
    except urllib.error.HTTPError as error:
        print(f"error: {opt.url}: {error.code}: {error.read().decode(errors='replace')}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {opt.image} or {opt.url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
