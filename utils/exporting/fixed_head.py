"""A head for one image size, in operations that every format has: three dimensions, no shapes taken at run time.

It gives the rows of Detect and Segment in the same order. Converters of phones and small chips trip over the head as it
is trained: five dimensions, and grids that follow the image.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.exporting.base import Job
from utils.exporting.prepare import Flat


def with_fixed_head(network: nn.Module, imgsz: tuple[int, int], batch: int = -1, parts: bool = False) -> nn.Module:
    """Return a copy of a network in export mode whose detection head is a FixedHead; other heads stay.

    Args:
        network: as ``for_export`` leaves it.
        imgsz: (height, width) in pixels of all its images.
        batch: images at a time; -1 where the format can leave it open.
        parts: boxes in parts of the image's width and height instead of pixels.
    """
    from models.yolo import Detect

    network = copy.deepcopy(network).eval()
    head = network.model[-1] if isinstance(getattr(network, "model", None), nn.Sequential) else None
    if isinstance(head, Detect):
        network.model[-1] = FixedHead(head, imgsz, batch, parts).eval()
    return network


def traced_fixed(
    job: Job, around: Callable[[nn.Module], nn.Module] = lambda network: network
) -> torch.jit.ScriptModule:
    """Return a job's network with a fixed head as TorchScript on the CPU, for the converters that read it.

    Args:
        job: whose image tells the shape.
        around: makes the module that is traced out of the network; its outputs become a tuple.
    """
    im = job.im.float().cpu()
    network = with_fixed_head(job.network, job.options.imgsz, len(im)).float().cpu()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of each shape that it takes as fixed
        return torch.jit.trace(Flat(around(network)).eval(), im, strict=False, check_trace=False)


class FixedHead(nn.Module):
    """Feature maps (b, c, ny, nx) of all levels to (b, n, 5 + nc + masks), then prototypes where the head has them.

    Args:
        head: Detect or Segment.
        imgsz: (height, width) of the images in pixels.
        batch: images at a time, or -1.
        parts: boxes in parts of the image instead of pixels.
    """

    def __init__(self, head: nn.Module, imgsz: tuple[int, int], batch: int = -1, parts: bool = False):
        super().__init__()
        self.i, self.f, self.type = head.i, head.f, "FixedHead"
        self.m, self.proto = head.m, getattr(head, "proto", None)
        self.na, self.no, self.nc = head.na, head.no, head.nc
        self.softmax, self.batch = head.cls_act != "sigmoid", batch
        height, width = imgsz
        unit = torch.tensor([1 / width, 1 / height] if parts else [1.0, 1.0])
        self.cells: list[int] = []
        for level in range(head.nl):
            stride = float(head.stride[level])
            ny, nx = int(height / stride), int(width / stride)
            self.cells.append(ny * nx)
            y, x = torch.meshgrid(torch.arange(ny).float(), torch.arange(nx).float(), indexing="ij")
            corner = (torch.stack((x, y), 2).view(1, ny * nx, 2) - 0.5) * stride * unit
            self.register_buffer(f"corner{level}", corner)
            self.register_buffer(f"step{level}", (2 * stride * unit).view(1, 1, 2))
            anchors = (head.anchors[level].cpu().float() * stride * unit).view(self.na, 1, 1, 2)
            self.register_buffer(f"anchor{level}", anchors)
        self.to(head.anchors.device)

    def forward(self, x: list[Tensor]) -> tuple[Tensor, ...]:
        """Return rows, and prototypes."""
        rows = []
        for level, cells in enumerate(self.cells):
            y = self.m[level](x[level]).permute(0, 2, 3, 1).reshape(self.batch, cells, self.na * self.no)
            rows += [self._decode(part, level, i) for i, part in enumerate(y.split(self.no, 2))]
        decoded = torch.cat(rows, 1)
        return (decoded,) if self.proto is None else (decoded, self.proto(x[0]))

    def _decode(self, logits: Tensor, level: int, anchor: int) -> Tensor:
        """Logits (b, cells, no) of one anchor to rows: centre, size, objectness, classes, mask columns."""
        sizes = (2, 2, 1 + self.nc, self.no - self.nc - 5)
        xy, wh, scores, *masks = logits.split([size for size in sizes if size], 2)
        corner, step = getattr(self, f"corner{level}"), getattr(self, f"step{level}")
        size = wh.sigmoid() * 2
        rows = [xy.sigmoid() * step + corner, size * size * getattr(self, f"anchor{level}")[anchor]]
        if self.softmax:
            objectness, classes = scores.split((1, self.nc), 2)
            rows += [objectness.sigmoid(), classes.softmax(2)]
        else:
            rows.append(scores.sigmoid())
        return torch.cat((*rows, *masks), 2)
