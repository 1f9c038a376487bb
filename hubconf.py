"""Models by name for Python: ``torch.hub.load("path/to/this/folder", "yolov5s", source="local")``.

As a command: ``python hubconf.py --model yolov5s`` runs a model over images in every form that it takes.
"""

# ruff: noqa: E402  (the check on packages of other projects must come before our own imports)

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))


def _require_own_packages() -> None:
    """Refuse to go on with another project's ``models`` or ``utils``, which Python would import in place of ours."""
    import models
    import utils

    for package in (models, utils):
        found = getattr(package, "__file__", None)
        if found is None or Path(found).resolve().parent != ROOT / package.__name__:
            raise ImportError(
                f"{ROOT}: the package {package.__name__!r} is already imported from {found or 'another folder'}; "
                "load the model before your own package of that name, or rename yours"
            )


_require_own_packages()

from models.by_name import ENTRIES, custom  # noqa: F401  (found here by torch.hub)
from models.by_name import create as _create
from utils.errors import run_command
from utils.general import torch_load  # noqa: F401  (importable from here, as in YOLOv5)

dependencies = ["torch", "torchvision", "numpy", "cv2", "PIL", "pandas", "yaml", "tqdm"]  # torch.hub asks for them

yolov5n, yolov5s, yolov5m, yolov5l, yolov5x = (ENTRIES[f"yolov5{size}"] for size in "nsmlx")
yolov5n6, yolov5s6, yolov5m6, yolov5l6, yolov5x6 = (ENTRIES[f"yolov5{size}6"] for size in "nsmlx")


def main(opt: argparse.Namespace) -> None:
    """Run a model over images in every form that it takes; print and save the results."""
    import cv2
    import numpy as np
    from PIL import Image

    model = _create(opt.model)
    files = sorted((ROOT / "data" / "images").glob("*.jpg"))
    images = [
        str(files[0]),
        files[1],
        cv2.imread(str(files[2]))[..., ::-1],
        Image.open(files[3]),
        np.zeros((320, 640, 3), np.uint8),
    ]
    results = model(images, size=320)
    results.print()
    results.save()


def parse_opt() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=str, default="yolov5s", help="model name, or path of its weights")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
