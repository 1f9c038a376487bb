"""The layers that model YAMLs name and released checkpoints pickle (by this module's path).

Instances hold exactly the attributes of YOLOv5's own, so that files travel both ways. Unless a docstring says
otherwise, a layer maps (b, c1, h, w) to (b, c2, h / s, w / s).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.logs import LOGGER, colorstr  # noqa: F401  (importable from here, as in YOLOv5)
from utils.model_ops import copy_attr, make_divisible  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]

# Names that YOLOv5 users import from here, and the modules that define them.
FORWARDED = {
    "DetectMultiBackend": "models.backends",
    "AutoShape": "models.autoshape",
    "Detections": "models.detections",
    "_request_ssrf_url": "utils.downloads",
    "_validate_ssrf_url": "utils.downloads",
    "Annotator": "utils.annotator",
    "colors": "utils.annotator",
    "save_one_box": "utils.annotator",
    "letterbox": "utils.augmentations",
    "non_max_suppression": "utils.nms",
    "scale_boxes": "utils.boxes",
    "xywh2xyxy": "utils.boxes",
    "xyxy2xywh": "utils.boxes",
    "smart_amp_autocast": "utils.torch_utils",
    "smart_inference_mode": "utils.torch_utils",
    "Profile": "utils.general",
    "TryExcept": "utils.general",
    "check_requirements": "utils.general",
    "check_suffix": "utils.general",
    "check_version": "utils.general",
    "increment_path": "utils.general",
    "is_jupyter": "utils.general",
    "yaml_load": "utils.general",
}


def __getattr__(name: str) -> Any:
    """Fetch a forwarded name from its owner at first use, so that importing layers stays light."""
    if name not in FORWARDED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(FORWARDED[name]), name)


def autopad(
    k: int | Sequence[int], p: int | Sequence[int] | None = None, d: int | Sequence[int] = 1
) -> int | list[int]:
    """Return ``p`` if given, else the padding that keeps the size at stride 1 for kernel ``k`` and dilation ``d``."""
    if p is not None:
        return p
    if isinstance(k, int):
        return d * (k - 1) // 2 if isinstance(d, int) else [x * (k - 1) // 2 for x in d]
    dilations = [d] * len(k) if isinstance(d, int) else d
    return [x * (y - 1) // 2 for x, y in zip(dilations, k, strict=True)]


class Conv(nn.Module):
    """Convolution without bias, batch norm and activation.

    Args:
        c1: input channels.
        c2: output channels.
        k: kernel size.
        s: stride.
        p: padding, by default the one that keeps the size at stride 1.
        g: groups.
        d: dilation.
        act: True for ``default_act``, a module for another activation, else none.
    """

    default_act = nn.SiLU()  # one object for all layers of all models

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        c1: int,
        c2: int,
        k: int | tuple[int, int] = 1,
        s: int | tuple[int, int] = 1,
        p: int | None = None,
        g: int = 1,
        d: int = 1,
        act: bool | nn.Module = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, autopad(k, p, d), groups=g, dilation=d, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = self.default_act if act is True else act if isinstance(act, nn.Module) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise (unless the norm was fused into the convolution) and activate."""
        bn = self._modules.get("bn")
        x = self.conv(x)
        return self.act(x if bn is None else bn(x))

    def forward_fuse(self, x: Tensor) -> Tensor:
        """Convolve and activate, without the norm."""
        return self.act(self.conv(x))


class DWConv(Conv):
    """Depth-wise convolution: as many groups as both channel counts allow."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, d: int = 1, act: bool | nn.Module = True):
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), d=d, act=act)


class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depth-wise transposed convolution with input padding ``p1`` and output padding ``p2``."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0):
        super().__init__(c1, c2, k, s, p1, p2, groups=math.gcd(c1, c2))


class TransformerLayer(nn.Module):
    """Self-attention and two linear maps on (tokens, b, c), residual and without norms (after arXiv:2010.11929)."""

    def __init__(self, c: int, num_heads: int):
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        self.ma = nn.MultiheadAttention(embed_dim=c, num_heads=num_heads)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform."""
        x = self.ma(self.q(x), self.k(x), self.v(x))[0] + x
        return self.fc2(self.fc1(x)) + x


class TransformerBlock(nn.Module):
    """Transformer layers over the cells of a feature map, with a learned linear map as position code."""

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int):
        super().__init__()
        self.conv = Conv(c1, c2) if c1 != c2 else None
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, num_heads) for _ in range(num_layers)))
        self.c2 = c2

    def forward(self, x: Tensor) -> Tensor:
        """Turn cells into tokens, (b, c, h, w) -> (h * w, b, c), and back."""
        if self.conv is not None:
            x = self.conv(x)
        b, _, h, w = x.shape
        tokens = x.flatten(2).permute(2, 0, 1)
        return self.tr(tokens + self.linear(tokens)).permute(1, 2, 0).reshape(b, self.c2, h, w)


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution over ``e`` times the channels; adds its input where shapes agree."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = Conv(hidden, c2, 3, 1, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions and the residual path."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class BottleneckCSP(nn.Module):
    """Cross-stage partial block with plain convolutions on two paths and one norm (arXiv:1911.11929)."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = nn.Conv2d(c1, hidden, 1, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c2, 1, 1)
        self.bn = nn.BatchNorm2d(2 * hidden)
        self.act = nn.SiLU()
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """Join the path through the bottlenecks with the direct one."""
        return self.cv4(self.act(self.bn(torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1))))


class CrossConv(nn.Module):
    """1 x k then k x 1 convolution, with an optional residual path."""

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False
    ):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s))
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions and the residual path."""
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    """Cross-stage partial block of three 1x1 convolutions around ``n`` bottlenecks."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = Conv(c1, hidden, 1, 1)
        self.cv3 = Conv(2 * hidden, c2, 1)
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """Join the path through ``m`` with the direct one."""
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3x(C3):
    """C3 around cross convolutions."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        hidden = int(c2 * e)
        self.m = nn.Sequential(*(CrossConv(hidden, hidden, 3, 1, g, 1.0, shortcut) for _ in range(n)))


class C3TR(C3):
    """C3 around a transformer of four heads and ``n`` layers."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        hidden = int(c2 * e)
        self.m = TransformerBlock(hidden, hidden, 4, n)


class C3SPP(C3):
    """C3 around spatial pyramid pooling."""

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ):
        super().__init__(c1, c2, n, shortcut, g, e)
        hidden = int(c2 * e)
        self.m = SPP(hidden, hidden, k)


class C3Ghost(C3):
    """C3 around ghost bottlenecks."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__(c1, c2, n, shortcut, g, e)
        hidden = int(c2 * e)
        self.m = nn.Sequential(*(GhostBottleneck(hidden, hidden) for _ in range(n)))


class SPP(nn.Module):
    """Spatial pyramid pooling: max pools of sizes ``k`` beside the input (arXiv:1406.4729)."""

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)):
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = Conv(hidden * (len(k) + 1), c2, 1, 1)
        self.m = nn.ModuleList([nn.MaxPool2d(kernel_size=x, stride=1, padding=x // 2) for x in k])

    def forward(self, x: Tensor) -> Tensor:
        """Join the input with each pool of it."""
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    """Three chained max pools: the result of SPP with (k, 2k - 1, 3k - 2), in less time."""

    def __init__(self, c1: int, c2: int, k: int = 5):
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = Conv(hidden * 4, c2, 1, 1)
        self.m = nn.MaxPool2d(kernel_size=k, stride=1, padding=k // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Join the input with one, two and three poolings of it."""
        x = self.cv1(x)
        once = self.m(x)
        twice = self.m(once)
        return self.cv2(torch.cat((x, once, twice, self.m(twice)), 1))


class Focus(nn.Module):
    """Stack the four pixel phases on channels, (b, c1, h, w) -> (b, 4 * c1, h / 2, w / 2), then convolve."""

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        act: bool | nn.Module = True,
    ):
        super().__init__()
        self.conv = Conv(c1 * 4, c2, k, s, p, g, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Take the phases (row, column) in the order (0, 0), (1, 0), (0, 1), (1, 1)."""
        phases = (x[..., row::2, column::2] for column in (0, 1) for row in (0, 1))
        return self.conv(torch.cat(tuple(phases), 1))


class GhostConv(nn.Module):
    """Half the channels by a convolution, half by a cheap 5x5 depth-wise one of those (arXiv:1911.11907)."""

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool | nn.Module = True
    ):
        super().__init__()
        hidden = c2 // 2
        self.cv1 = Conv(c1, hidden, k, s, None, g, act=act)
        self.cv2 = Conv(hidden, hidden, 5, 1, None, hidden, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Join both halves."""
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


class GhostBottleneck(nn.Module):
    """Two ghost convolutions, a depth-wise one between them at stride 2, and a residual path."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__()
        hidden = c2 // 2
        halves = s == 2
        self.conv = nn.Sequential(
            GhostConv(c1, hidden, 1, 1),
            DWConv(hidden, hidden, k, s, act=False) if halves else nn.Identity(),
            GhostConv(hidden, c2, 1, 1, act=False),
        )
        down = (DWConv(c1, c1, k, s, act=False), Conv(c1, c2, 1, 1, act=False)) if halves else ()
        self.shortcut = nn.Sequential(*down) if halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Add both paths."""
        return self.conv(x) + self.shortcut(x)


class Contract(nn.Module):
    """Move space to channels: (b, c, h, w) -> (b, c * gain², h / gain, w / gain)."""

    def __init__(self, gain: int = 2):
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Stack the phases on channels, phase-major."""
        b, c, h, w = x.shape
        s = self.gain
        return x.view(b, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4).reshape(b, c * s * s, h // s, w // s)


class Expand(nn.Module):
    """Move channels to space, the inverse of Contract: (b, c, h, w) -> (b, c / gain², h * gain, w * gain)."""

    def __init__(self, gain: int = 2):
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """Spread the phases over rows and columns."""
        b, c, h, w = x.shape
        s = self.gain
        return x.view(b, s, s, c // s**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // s**2, h * s, w * s)


class Concat(nn.Module):
    """Join a list of tensors along one dimension."""

    def __init__(self, dimension: int = 1):
        super().__init__()
        self.d = dimension

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """Join them."""
        return torch.cat(tuple(x), self.d)


class Proto(nn.Module):
    """Mask prototypes of a segmentation model: (b, c1, h, w) -> (b, c2, 2h, 2w)."""

    def __init__(self, c1: int, c_: int = 256, c2: int = 32):
        super().__init__()
        self.cv1 = Conv(c1, c_, k=3)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.cv2 = Conv(c_, c_, k=3)
        self.cv3 = Conv(c_, c2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, double the size, convolve twice."""
        return self.cv3(self.cv2(self.upsample(self.cv1(x))))


class Classify(nn.Module):
    """Classification head: (b, c1, h, w), or a list of such to join on channels, -> (b, c2) logits."""

    def __init__(  # noqa: PLR0913  (YOLOv5's signature)
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        dropout_p: float = 0.0,
    ):
        super().__init__()
        hidden = 1280  # width of EfficientNet-B0's last layer
        self.conv = Conv(c1, hidden, k, s, autopad(k, p), g)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(p=dropout_p, inplace=True)
        self.linear = nn.Linear(hidden, c2)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Convolve, average over the image, map to classes."""
        if not isinstance(x, Tensor):
            x = torch.cat(tuple(x), 1)
        return self.linear(self.drop(self.pool(self.conv(x)).flatten(1)))
