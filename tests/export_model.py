"""A small network for the tests of exports, with detections to compare."""

from __future__ import annotations

from pathlib import Path

import torch

from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from utils.checkpoint import save_checkpoint

NAMES = {0: "bolt", 1: "nut's"}
SIZE = 64


LAYERS = [
    [-1, 1, "Conv", [16, 6, 2, 2]],
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "C3", [16]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "SPPF", [32, 5]],
    [-1, 1, "Conv", [32, 3, 2]],
]
NECK = [[-1, 1, "nn.Upsample", [None, 2, "nearest"]], [[-1, 4], 1, "Concat", [1]], [-1, 1, "C3", [32, False]]]
ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 39]]


def settings(head: list) -> dict:
    """Return a model of two scales and few layers, which traces quickly."""
    shared = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": ANCHORS, "backbone": LAYERS}
    return {**shared, "head": [*NECK, [[8, 5], 1, *head]]}


def save_network(path: Path, task: str = "detect") -> Path:
    """Save a small network of two classes with drawn weights; its head is biased so that some boxes are confident."""
    torch.manual_seed(0)
    detect = DetectionModel(settings(["Detect", ["nc", "anchors"]]))
    if task == "classify":
        model = ClassificationModel(model=detect, nc=2, cutoff=6)
    else:
        masks = settings(["Segment", ["nc", "anchors", 8, 16]])
        model = SegmentationModel(masks) if task == "segment" else detect
        with torch.no_grad():
            for _ in range(20):  # norms take the statistics of noise, or all boxes would be alike
                model.train()(torch.rand(4, 3, SIZE, SIZE))
        for conv in model.model[-1].m:
            torch.nn.init.normal_(conv.weight, std=0.5)
            conv.bias.data.view(3, -1)[:, 4:7] = torch.tensor([0.5, 0.2, 0.1])
    model.names = dict(NAMES)
    save_checkpoint(path, {"epoch": -1, "model": model.eval().half(), "ema": None})
    return path
