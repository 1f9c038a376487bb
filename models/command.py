"""The command ``python models/yolo.py``: build a model from its YAML, show its layers and size, and time it."""

from __future__ import annotations

import argparse

import torch

from models.parsing import MODELS_FOLDER
from models.yolo import DetectionModel
from utils.errors import InputError
from utils.logs import LOGGER, setup_logging


def parse_opt() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Build a model from its YAML and show its layers and size.")
    parser.add_argument("--cfg", type=str, default="yolov5s.yaml", help="model YAML")
    parser.add_argument("--batch-size", type=int, default=1, help="images in the batch that is timed")
    parser.add_argument("--device", default="", help="cpu, or a GPU's number")
    parser.add_argument("--profile", action="store_true", help="time the model forward and backward")
    parser.add_argument("--line-profile", action="store_true", help="time it layer by layer")
    parser.add_argument("--test", action="store_true", help="build every YAML of models/ in turn")
    return parser.parse_args()


def build_all() -> list[str]:
    """Build every YAML below models/; return a line for each that cannot be built."""
    problems = []
    for path in sorted(MODELS_FOLDER.rglob("yolo*.yaml")):
        try:
            DetectionModel(path)
        except InputError as error:
            LOGGER.warning(f"WARNING {error}")
            problems.append(str(error))
    return problems


def main(opt: argparse.Namespace) -> None:
    """Build, and time where asked."""
    from utils.torch_utils import profile, select_device

    setup_logging()
    if opt.batch_size < 1:
        raise InputError(f"--batch-size {opt.batch_size}: expected a whole number of at least 1")
    device = select_device(opt.device)
    model = DetectionModel(opt.cfg).to(device)
    image = torch.rand(opt.batch_size, model.yaml["ch"], 640, 640, device=device)
    if opt.line_profile:
        model(image, profile=True)
    elif opt.profile:
        profile(input=image, ops=[model], n=3)
    elif opt.test:
        build_all()
    else:
        model.fuse()
