"""Detection and segmentation heads, the models around them, and the parser of model YAMLs.

As a command: ``python models/yolo.py --cfg yolov5s.yaml`` builds a model and prints its layers and size.

Checkpoints pickle these classes by this module's path, which is why they stay together in one long file.
"""

# ruff: noqa: E402  (run by path, the command must first make the project importable)

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # run by path: the project's folder takes the place of models/

import torch
from torch import Tensor, nn

from models.common import (  # noqa: F401  (layers are importable from here, as in YOLOv5)
    C3,
    C3SPP,
    C3TR,
    SPP,
    SPPF,
    Bottleneck,
    BottleneckCSP,
    C3Ghost,
    C3x,
    Classify,
    Concat,
    Contract,
    Conv,
    CrossConv,
    DWConv,
    DWConvTranspose2d,
    Expand,
    Focus,
    GhostBottleneck,
    GhostConv,
    Proto,
)
from models.experimental import MixConv2d  # noqa: F401
from models.parsing import ModelSpec, build_row, default_activation, find_model_yaml
from utils.autoanchor import check_anchor_order
from utils.errors import InputError, run_command
from utils.logs import LOGGER, colorstr  # noqa: F401
from utils.model_ops import (  # noqa: F401
    fuse_conv_and_bn,
    initialize_weights,
    make_divisible,
    meta_forward,
    model_info,
    scale_img,
)
from utils.yaml_files import read_yaml

STRIDE_PROBE = 256  # pixels; twice the largest stride in use
AUGMENT_SCALES = (1, 0.83, 0.67)
AUGMENT_FLIPS = (None, 3, None)  # dimension to flip: 2 up-down, 3 left-right

# Names that YOLOv5 users import from here, and the modules that define them.
FORWARDED = {
    "DetectMultiBackend": "models.common",
    "profile": "utils.torch_utils",
    "select_device": "utils.torch_utils",
    "time_sync": "utils.torch_utils",
    "check_version": "utils.general",
    "check_yaml": "utils.general",
    "print_args": "utils.general",
}


def __getattr__(name: str) -> Any:
    """Fetch a forwarded name from its owner at first use."""
    if name not in FORWARDED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(FORWARDED[name]), name)


class Detect(nn.Module):
    """Detection head: one 1x1 convolution per feature map.

    Training: a list with (b, na, ny, nx, no) logits per layer. Evaluation: ``(decoded, that list)`` where decoded is
    (b, n, no), rows cx, cy, w, h in pixels, objectness and classes as probabilities. Export: ``(decoded,)``.

    Args:
        nc: classes.
        anchors: per layer a flat list w, h, w, h, ... in pixels of the input image.
        ch: channels of each feature map.
        inplace: kept for files of YOLOv5; both settings decode alike.
    """

    stride: Tensor | None = None  # (nl,) pixels per cell, set when the model is built
    dynamic = False  # export with free image sizes: grids are rebuilt on each call
    export = False
    cls_act = "sigmoid"  # how class logits become scores; networks of a softmax loss carry "softmax" themselves

    def __init__(self, nc: int = 80, anchors: Any = (), ch: Any = (), inplace: bool = True):
        super().__init__()
        self.nc = nc
        self.no = nc + 5
        self.nl = len(anchors)
        self.na = len(anchors[0]) // 2
        self.grid = [torch.empty(0) for _ in range(self.nl)]
        self.anchor_grid = [torch.empty(0) for _ in range(self.nl)]
        self.register_buffer("anchors", torch.tensor(anchors).float().view(self.nl, -1, 2))
        self.m = nn.ModuleList(nn.Conv2d(x, self.no * self.na, 1) for x in ch)
        self.inplace = inplace

    def __getstate__(self) -> dict[str, Any]:
        """Leave the grids of the last image shape out of copies and files."""
        state = vars(self).copy()
        state["grid"] = [torch.empty(0) for _ in range(self.nl)]
        state["anchor_grid"] = [torch.empty(0) for _ in range(self.nl)]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes of a file, also of releases before 6.0, which kept the grids of anchors as a buffer."""
        super().__setstate__(state)
        self._buffers.pop("anchor_grid", None)
        vars(self).pop("export", None)
        vars(self).setdefault("inplace", True)
        if not isinstance(vars(self).get("anchor_grid"), list):
            self.grid = [torch.empty(0) for _ in range(self.nl)]
            self.anchor_grid = [torch.empty(0) for _ in range(self.nl)]

    def forward(self, x: list[Tensor]) -> list[Tensor] | tuple[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return logits, or decoded predictions beside them; see the class."""
        raw = self._raw(x)
        if self.training:
            return raw
        decoded = self._decode_all(raw)
        return (decoded,) if self.export else (decoded, raw)

    def _raw(self, x: list[Tensor]) -> list[Tensor]:
        """(b, c, ny, nx) feature maps to (b, na, ny, nx, no) logits."""
        raw = []
        for i in range(self.nl):
            y = self.m[i](x[i])
            b, _, ny, nx = y.shape
            raw.append(y.view(b, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous())
        return raw

    def _decode_all(self, raw: list[Tensor]) -> Tensor:
        """Logits of all layers to (b, n, no), the layers one after the other."""
        decoded = []
        for i, logits in enumerate(raw):
            b, _, ny, nx, _ = logits.shape
            self._prepare_grid(i, nx, ny, logits)
            decoded.append(self._decode(logits, i).view(b, self.na * nx * ny, self.no))
        return torch.cat(decoded, 1)

    def _decode(self, logits: Tensor, i: int) -> Tensor:
        """Logits of one layer to boxes in pixels and probabilities, same shape.

        centre = (2 sigmoid(t) - 0.5 + cell) * stride; size = (2 sigmoid(t))² * anchor.
        """
        xy, wh, scores = logits.sigmoid().split((2, 2, self.nc + 1), 4)
        return torch.cat((*self._boxes(xy, wh, i), self._scores(scores, logits)), 4)

    def _scores(self, scores: Tensor, logits: Tensor) -> Tensor:
        """Objectness and classes (..., 1 + nc) from their sigmoids, or from the layer's logits (..., no) by softmax."""
        if self.cls_act == "sigmoid":
            return scores
        return torch.cat((scores[..., :1], logits[..., 5 : 5 + self.nc].softmax(-1)), -1)

    def _boxes(self, xy: Tensor, wh: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """Centres and sizes in pixels from their sigmoids."""
        return (xy * 2 + self.grid[i]) * self.stride[i], (wh * 2) ** 2 * self.anchor_grid[i]

    def _prepare_grid(self, i: int, nx: int, ny: int, like: Tensor) -> None:
        """Have the layer's grids ready for this shape and device; they are kept until either changes."""
        grid = self.grid[i]
        if self.dynamic or grid.shape[2:4] != like.shape[2:4] or grid.device != like.device:
            with torch.inference_mode(False):  # grids made within inference_mode would be useless outside it
                self.grid[i], self.anchor_grid[i] = self._make_grid(nx, ny, i)

    def _make_grid(self, nx: int = 20, ny: int = 20, i: int = 0, torch_1_10: bool = True) -> tuple[Tensor, Tensor]:
        """Return the corner cells minus 0.5 and the anchors in pixels, both (1, na, ny, nx, 2).

        ``torch_1_10`` is part of YOLOv5's signature and has no effect.
        """
        device, dtype = self.anchors.device, self.anchors.dtype
        shape = 1, self.na, ny, nx, 2
        y, x = torch.arange(ny, device=device, dtype=dtype), torch.arange(nx, device=device, dtype=dtype)
        yv, xv = torch.meshgrid(y, x, indexing="ij")
        grid = torch.stack((xv, yv), 2).expand(shape) - 0.5
        anchor_grid = (self.anchors[i] * self.stride[i]).view((1, self.na, 1, 1, 2)).expand(shape)
        return grid, anchor_grid

    def _apply(self, fn: Any, recurse: bool = True) -> Detect:
        """Move strides and grids along with the parameters."""
        super()._apply(fn, recurse)
        if self.stride is not None:
            self.stride = fn(self.stride)
        self.grid = [fn(x) for x in self.grid]
        self.anchor_grid = [fn(x) for x in self.anchor_grid]
        return self


class Segment(Detect):
    """Detect with mask coefficients and prototypes.

    Training: (list, proto). Evaluation: (decoded, proto, list). Export: (decoded, proto). Decoded rows end with ``nm``
    mask coefficients; proto is (b, nm, h, w) at a quarter of the image size.

    Args:
        nc: classes.
        anchors: as in Detect.
        nm: masks.
        npr: channels of the prototype layers.
        ch: channels of each feature map.
        inplace: as in Detect.
    """

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self, nc: int = 80, anchors: Any = (), nm: int = 32, npr: int = 256, ch: Any = (), inplace: bool = True
    ):
        super().__init__(nc, anchors, ch, inplace)
        self.nm = nm
        self.npr = npr
        self.no = 5 + nc + self.nm
        self.m = nn.ModuleList(nn.Conv2d(x, self.no * self.na, 1) for x in ch)
        self.proto = Proto(ch[0], self.npr, self.nm)
        self.detect = Detect.forward  # YOLOv5 clones that load the file call it

    def forward(self, x: list[Tensor]) -> tuple[Any, ...]:
        """Return predictions and prototypes; see the class."""
        proto = self.proto(x[0])
        raw = self._raw(x)
        if self.training:
            return raw, proto
        decoded = self._decode_all(raw)
        return (decoded, proto) if self.export else (decoded, proto, raw)

    def _decode(self, logits: Tensor, i: int) -> Tensor:
        """As Detect's; mask coefficients stay as they are."""
        xy, wh, scores, masks = logits.split((2, 2, self.nc + 1, self.no - self.nc - 5), 4)
        return torch.cat(
            (*self._boxes(xy.sigmoid(), wh.sigmoid(), i), self._scores(scores.sigmoid(), logits), masks), 4
        )


class BaseModel(nn.Module):
    """What all models share: the pass through the layers, fusing, and a line about their size."""

    def forward(self, x: Tensor, profile: bool = False, visualize: str | Path | bool = False) -> Any:
        """Run the layers on (b, c, h, w) images.

        Args:
            x: images.
            profile: log the time of each layer.
            visualize: folder for the first image's feature maps of each layer; False saves none.
        """
        if visualize:
            with self._saving(visualize):
                return self.forward(x, profile)
        return self._forward_once(x, profile)

    def _saving(self, folder: str | Path | bool) -> contextlib.AbstractContextManager[None]:
        """Return a context in which what each layer gives on its first call is saved."""
        from utils.plots import saved_feature_maps

        return saved_feature_maps(self.model, Path("." if folder is True else folder))

    def _forward_once(self, x: Tensor, profile: bool = False) -> Any:
        """Run each layer on its sources ``m.f``, keeping the outputs named in ``save``."""
        outputs: list[Any] = []
        times: list[float] = []
        for m in self.model:
            if m.f != -1:
                x = outputs[m.f] if isinstance(m.f, int) else [x if j == -1 else outputs[j] for j in m.f]
            if profile:
                self._profile_one_layer(m, x, times)
            x = m(x)
            outputs.append(x if m.i in self.save else None)
        return x

    def _profile_one_layer(self, m: nn.Module, x: Any, dt: list[float]) -> None:
        """Time ten calls of a layer, add the milliseconds to ``dt`` and log a line."""
        from utils.torch_utils import time_sync

        last = m is self.model[-1]
        if not dt:
            LOGGER.info(f"{'time (ms)':>10s} {'params':>10s}  module")
        start = time_sync()
        for _ in range(10):
            m(x.copy() if last and isinstance(x, list) else x)
        dt.append((time_sync() - start) * 100)
        LOGGER.info(f"{dt[-1]:10.2f} {m.np:10.0f}  {m.type}")
        if last:
            LOGGER.info(f"{sum(dt):10.2f} {'-':>10s}  total")

    def fuse(self) -> BaseModel:
        """Merge batch norms into the convolutions before them, for inference; log the new size."""
        LOGGER.info("Fusing layers... ")
        for m in self.model.modules():
            if isinstance(m, Conv) and "bn" in m._modules:
                m.conv = fuse_conv_and_bn(m.conv, m.bn)
                del m.bn
        self.info()
        return self

    def info(self, verbose: bool = False, img_size: int = 640) -> None:
        """Log layers, parameters, gradients and GFLOPs at ``img_size``; ``verbose`` adds a line per parameter."""
        model_info(self, detailed=verbose, imgsz=img_size)

    def _apply(self, fn: Any, recurse: bool = True) -> BaseModel:
        """Move all tensors, the head's strides and grids among them (Detect moves its own)."""
        super()._apply(fn, recurse)
        return self


class DetectionModel(BaseModel):
    """A YOLOv5 detection model.

    Attributes: ``yaml`` (the settings), ``model`` (layers), ``save`` (indices of outputs that later layers read),
    ``names`` (class names by index), ``stride`` (nl,), ``inplace``.

    Args:
        cfg: model YAML (a path, or a file name within models/) or its content.
        ch: image channels, unless the YAML has its own ``ch``.
        nc: classes, instead of the YAML's.
        anchors: anchors instead of the YAML's: a number per layer, or a list of w, h per layer in pixels.

    Raises:
        InputError: the YAML cannot be built; the message names the file and the row or key.
    """

    def __init__(
        self,
        cfg: str | Path | dict[str, Any] = "yolov5s.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: int | float | list[Any] | None = None,
    ):
        super().__init__()
        if isinstance(cfg, dict):
            self.yaml = copy.deepcopy(cfg)
        else:
            path = find_model_yaml(cfg)
            self.yaml_file = path.name
            self.yaml = read_yaml(path)
        self._override(ch, nc, anchors)
        try:
            self.model, self.save = parse_model(self.yaml, ch=[self.yaml["ch"]])
        except InputError as error:
            raise InputError(f"{getattr(self, 'yaml_file', 'model settings')}: {error}") from None
        self.names = [str(i) for i in range(self.yaml["nc"])]
        self.inplace = self.yaml.get("inplace", True)
        if isinstance(self.model[-1], Detect):
            self._set_strides(self.model[-1])
            self._initialize_biases()
        initialize_weights(self)
        self.info()
        LOGGER.info("")

    def _override(self, ch: int, nc: int | None, anchors: int | float | list[Any] | None) -> None:
        """Put the constructor's arguments in the place of the YAML's values."""
        self.yaml["ch"] = self.yaml.get("ch", ch)
        if nc and nc != self.yaml.get("nc"):
            LOGGER.info(f"Overriding model.yaml nc={self.yaml.get('nc')} with nc={nc}")
            self.yaml["nc"] = nc
        if anchors:
            LOGGER.info(f"Overriding model.yaml anchors with anchors={anchors}")
            self.yaml["anchors"] = round(anchors) if isinstance(anchors, (int, float)) else anchors

    def _set_strides(self, head: Detect) -> None:
        """Measure each layer's stride on shapes alone, and turn anchors from pixels to cells."""
        head.inplace = self.inplace
        raw = meta_forward(self, (1, self.yaml["ch"], STRIDE_PROBE, STRIDE_PROBE))
        raw = raw[0] if isinstance(head, Segment) else raw
        head.stride = torch.tensor([STRIDE_PROBE / x.shape[2] for x in raw])
        check_anchor_order(head)
        head.anchors /= head.stride.view(-1, 1, 1)
        self.stride = head.stride

    def forward(
        self, x: Tensor, augment: bool = False, profile: bool = False, visualize: str | Path | bool = False
    ) -> Any:
        """Run (b, c, h, w) images in 0-1 through the model; the head's class says what comes back.

        Args:
            x: images.
            augment: test-time augmentation: three scales, one of them mirrored; returns (decoded, None).
            profile: log the time of each layer.
            visualize: folder for the first image's feature maps of each layer; False saves none.
        """
        if visualize:
            with self._saving(visualize):
                return self.forward(x, augment, profile)
        return self._forward_augment(x) if augment else self._forward_once(x, profile)

    def _forward_augment(self, x: Tensor) -> tuple[Tensor, None]:
        """Predict at three scales and return all boxes in pixels of ``x``: (b, n, no), None."""
        img_size = tuple(x.shape[-2:])
        grid = int(self.stride.max())
        predictions = []
        for scale, flip in zip(AUGMENT_SCALES, AUGMENT_FLIPS, strict=True):
            image = scale_img(x.flip(flip) if flip else x, scale, gs=grid)
            predictions.append(self._descale_pred(self._forward_once(image)[0], flip, scale, img_size))
        return torch.cat(self._clip_augmented(predictions), 1), None

    def _descale_pred(self, p: Tensor, flips: int | None, scale: float, img_size: tuple[int, ...]) -> Tensor:
        """Bring predictions (b, n, no) of a scaled, mirrored image back to the image's own pixels."""
        x, y, wh = p[..., 0:1] / scale, p[..., 1:2] / scale, p[..., 2:4] / scale
        if flips == 2:
            y = img_size[0] - y
        elif flips == 3:
            x = img_size[1] - x
        return torch.cat((x, y, wh, p[..., 4:]), -1)

    def _clip_augmented(self, y: list[Tensor]) -> list[Tensor]:
        """Drop the coarsest layer's rows of the largest image and the finest layer's of the smallest.

        Layer sizes are in the ratio 4^(nl-1) : ... : 4 : 1, from the finest on.
        """
        nl = self.model[-1].nl
        parts = sum(4**i for i in range(nl))
        coarsest = y[0].shape[1] // parts
        finest = (y[-1].shape[1] // parts) * 4 ** (nl - 1)
        return [y[0][:, :-coarsest], *y[1:-1], y[-1][:, finest:]]

    def _initialize_biases(self, cf: Tensor | None = None) -> None:
        """Start the head where few objects and even classes are expected (arXiv:1708.02002, section 3.3).

        Objectness: 8 objects per image of 640 pixels. Classes: 0.6 / nc each, or in proportion to ``cf``.

        Args:
            cf: (nc,) instances of each class.
        """
        head = self.model[-1]
        cell_counts = [(640 / s) ** 2 for s in head.stride.tolist()]
        for conv, cells in zip(head.m, cell_counts, strict=True):
            bias = conv.bias.detach().view(head.na, -1)
            bias[:, 4] += math.log(8 / cells)
            bias[:, 5 : 5 + head.nc] += math.log(0.6 / (head.nc - 0.99999)) if cf is None else torch.log(cf / cf.sum())


Model = DetectionModel  # the class's name up to release 6.1, which its checkpoints carry


class SegmentationModel(DetectionModel):
    """A detection model with a Segment head."""

    def __init__(
        self,
        cfg: str | Path | dict[str, Any] = "yolov5s-seg.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: int | float | list[Any] | None = None,
    ):
        super().__init__(cfg, ch, nc, anchors)


class ClassificationModel(BaseModel):
    """The first ``cutoff`` layers of a detection model, the last of them replaced by a Classify head.

    Args:
        cfg: YAML of the detection model, built with random weights.
        model: detection model to start from; it is changed.
        nc: classes.
        cutoff: layers kept.
    """

    def __init__(
        self,
        cfg: str | Path | None = None,
        model: nn.Module | None = None,
        nc: int = 1000,
        cutoff: int = 10,
    ):
        super().__init__()
        self._from_detection_model(self._from_yaml(cfg) if model is None else model, nc, cutoff)

    def _from_detection_model(self, model: nn.Module, nc: int = 1000, cutoff: int = 10) -> None:
        """Take over a detection model's backbone."""
        from utils.classification.networks import take_backbone

        take_backbone(self, model, nc, cutoff)
        self.names = {i: str(i) for i in range(nc)}

    def _from_yaml(self, cfg: str | Path | None) -> DetectionModel:
        """Return the detection model of a YAML."""
        if cfg is None:
            raise InputError("cfg: None found, a classification model is built from a model YAML or model=...")
        return DetectionModel(cfg)


HEADS = (Detect, Segment)


def parse_model(d: dict[str, Any], ch: list[int]) -> tuple[nn.Sequential, list[int]]:
    """Build the layers of a model YAML.

    Args:
        d: the YAML's content; its rows are [from, number, module, arguments].
        ch: [image channels].

    Returns:
        Layers, each with ``i`` (index), ``f`` (sources), ``type`` and ``np`` (parameters), and the sorted indices of
        layers whose outputs later layers read.

    Raises:
        InputError: names the row and what is wrong with it.
    """
    spec = ModelSpec.from_yaml(d)
    channels = list(ch)
    layers: list[nn.Module] = []
    save: list[int] = []
    LOGGER.info(f"\n{'':>3}{'from':>18}{'n':>3}{'params':>10}  {'module':<40}{'arguments':<30}")
    with default_activation(d.get("activation")):
        for i, (f, n, name, args) in enumerate(spec.rows):
            try:
                layer, c2 = build_row(spec, (f, n, name, args), channels, i, HEADS)
            except (InputError, TypeError, ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
                raise InputError(f"row {i} {[f, n, name, args]}: {error}") from None
            layers.append(layer)
            channels.append(c2)
            save.extend(x % i for x in (f if isinstance(f, (list, tuple)) else [f]) if x != -1)
    return nn.Sequential(*layers), sorted(save)


if __name__ == "__main__":
    command = importlib.import_module("models.command")  # which uses models.yolo, not this __main__
    run_command(lambda: command.main(command.parse_opt()))
