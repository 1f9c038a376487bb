"""A tiny model and small checkpoint files that several tests use."""

from __future__ import annotations

import copy
import io
import zipfile
from pathlib import Path

import torch
from torch import nn

from models.yolo import DetectionModel

TINY_YAML = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]],
    "backbone": [
        [-1, 1, "Conv", [8, 6, 4, 2]],
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "C3", [8]],
        [-1, 1, "SPPF", [8, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 0], 1, "Concat", [1]],
        [-1, 1, "Conv", [8, 3, 2]],
        [[4, 6], 1, "Detect", ["nc", "anchors"]],
    ],
}
IMAGE = torch.linspace(0, 1, 3 * 64 * 64).view(1, 3, 64, 64)


def tiny_model(seed: int = 0, cfg: dict | None = None) -> DetectionModel:
    torch.manual_seed(seed)
    model = DetectionModel(cfg or TINY_YAML)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    model.names = {0: "bolt", 1: "nut"}
    return copy.deepcopy(model)  # layers share one activation with the class Conv, which tests must not change


def decoded(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.float().eval()(IMAGE)[0]


def save(path: Path, content: object, **options: object) -> Path:
    torch.save(content, path, **options)
    return path


def rename_in_pickle(archive: bytes, old: bytes, new: bytes) -> bytes:
    """Return a torch zip archive whose data.pkl has ``old`` replaced."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(result, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            target.writestr(entry.filename, data.replace(old, new) if entry.filename.endswith("data.pkl") else data)
    return result.getvalue()
