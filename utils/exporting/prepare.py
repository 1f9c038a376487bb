"""From weights to a Job: the network made ready, an image to run it on, and what it gives for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.exporting.base import ExportOptions, Job, ModelFacts

PROJECT = Path(__file__).resolve().parents[2]
TASKS = {"Segment": "segment", "Classify": "classify"}  # class of the last layer -> task; others detect


class Flat(nn.Module):
    """A network whose outputs are a tuple of tensors, as graphs have them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, im: Tensor) -> tuple[Tensor, ...]:
        """Run the network."""
        y = self.network(im)
        return tuple(part for part in y if isinstance(part, Tensor)) if isinstance(y, (tuple, list)) else (y,)


def load_network(weights: str | Path, device: torch.device, inplace: bool = False, dynamic: bool = False) -> nn.Module:
    """Load one checkpoint for export.

    Raises:
        InputError: the file is no checkpoint.
    """
    from models.experimental import attempt_load

    return for_export(attempt_load(weights, device, inplace=True, fuse=True), inplace, dynamic)


def for_export(network: nn.Module, inplace: bool = False, dynamic: bool = False) -> nn.Module:
    """Put a network into evaluation and its head into export mode, and return it."""
    network.eval()
    for module in network.modules():
        if hasattr(module, "anchors") and hasattr(module, "nl"):
            module.inplace, module.dynamic, module.export = inplace, dynamic, True
    return network


def facts_of(network: nn.Module) -> ModelFacts:
    """Return names, stride, task and mask columns of a network."""
    last = network.model[-1] if hasattr(network, "model") and isinstance(network.model, nn.Sequential) else None
    task = TASKS.get(type(last).__name__, "detect" if last is not None else "classify")
    count = int(getattr(last, "nc", 0) or getattr(network, "nc", 0))
    names = getattr(network, "names", None) or {i: f"class{i}" for i in range(count)}
    names = names if isinstance(names, Mapping) else dict(enumerate(names))
    stride = getattr(network, "stride", None)
    largest = 32 if stride is None else max(int(torch.as_tensor(stride).max()), 32)
    return ModelFacts({int(k): str(v) for k, v in names.items()}, largest, task, int(getattr(last, "nm", 0)))


def make_job(network: nn.Module, im: Tensor, file: Path, options: ExportOptions) -> Job:
    """Return the job of a network that ``for_export`` has prepared.

    Args:
        network: float32.
        im: (b, 3, h, w) float32 image in 0-1 on the network's device.
        file: the weights, beside which files are written.
        options: of the run.
    """
    model = Flat(network).eval()
    with torch.no_grad():
        for _ in range(2):  # grids are made in the first
            expected = model(im)
    return Job(model, network, im, tuple(y.float() for y in expected), file, options, facts_of(network))


def example_batch(imgsz: tuple[int, int], batch: int, device: torch.device) -> Tensor:
    """Return one of the project's own pictures (b, 3, h, w) float32 in 0-1, the same in each place of the batch.

    Where data/images holds none, a drawn one: colour ramps with two boxes.
    """
    files = sorted((PROJECT / "data" / "images").glob("*.jpg"))
    im = read_batch(files[0], imgsz) if files else _drawn(imgsz)
    return im.repeat(batch, 1, 1, 1).to(device)


def read_batch(file: str | Path, imgsz: tuple[int, int]) -> Tensor:
    """Return an image file as (1, 3, h, w) float32 RGB in 0-1, letterboxed.

    Raises:
        InputError: it cannot be read.
    """
    from utils.augmentations import letterbox
    from utils.images import imread

    im = letterbox(imread(file), imgsz, auto=False)[0]
    return torch.from_numpy(im[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


def _drawn(imgsz: tuple[int, int]) -> Tensor:
    height, width = imgsz
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    im = torch.stack((rows.expand(height, width), columns.expand(height, width), rows * columns))[None].clone()
    im[..., height // 4 : height // 2, width // 4 : width // 2] = torch.tensor([0.9, 0.2, 0.1]).view(1, 3, 1, 1)
    im[..., height // 2 :, width * 2 // 3 : width * 5 // 6] = torch.tensor([0.1, 0.3, 0.8]).view(1, 3, 1, 1)
    return im


def options_from(**values: Any) -> ExportOptions:
    """Return options with lists as tuples, one image side as both, and nms where a kind of it is wanted.

    Args:
        values: of export.py's run(), but its weights.
    """
    size = values.get("imgsz", (640, 640))
    sides = [size] if isinstance(size, int) else list(size)
    values["imgsz"] = tuple(sides * 2 if len(sides) == 1 else sides)
    include = values.get("include", ())
    values["include"] = tuple(name.lower() for name in ([include] if isinstance(include, str) else include))
    values["device"] = str(values.get("device", "cpu"))
    values["nms"] = bool(values.get("nms") or values.get("agnostic_nms") or values.get("multi_label"))
    return ExportOptions(**values)
