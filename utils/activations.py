"""Activations that model files of YOLOv5 may hold beside torch's own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SiLU(nn.Module):
    """x sigmoid(x) (arXiv:1606.08415)."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Keep the shape of ``x``."""
        return x * torch.sigmoid(x)


class Hardswish(nn.Module):
    """x clip(x + 3, 0, 6) / 6 (arXiv:1905.02244), of operations that every export format has."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Keep the shape of ``x``."""
        return x * F.hardtanh(x + 3, 0.0, 6.0) / 6.0


class Mish(nn.Module):
    """x tanh(softplus(x)) (arXiv:1908.08681)."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Keep the shape of ``x``."""
        return x * F.softplus(x).tanh()


class MemoryEfficientMish(nn.Module):
    """Mish that keeps its input alone for the backward pass."""

    class F(torch.autograd.Function):
        """Mish with t = tanh(softplus(x)) and derivative t + x sigmoid(x) (1 - t²)."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            """Keep the shape of ``x``."""
            ctx.save_for_backward(x)
            return x * F.softplus(x).tanh()

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:
            """Return the gradient with respect to ``x``."""
            (x,) = ctx.saved_tensors
            t = F.softplus(x).tanh()
            return grad_output * (t + x * torch.sigmoid(x) * (1 - t * t))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of ``x``."""
        return self.F.apply(x)


class FReLU(nn.Module):
    """max(x, T(x)) where T is a depth-wise convolution with batch norm (arXiv:2007.11824)."""

    def __init__(self, c1: int, k: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(c1, c1, k, 1, 1, groups=c1, bias=False)
        self.bn = nn.BatchNorm2d(c1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of ``x``, (b, c1, h, w)."""
        return torch.max(x, self.bn(self.conv(x)))


class AconC(nn.Module):
    """(p1 - p2) x sigmoid(beta (p1 - p2) x) + p2 x with learned p1, p2 and beta per channel (arXiv:2009.04759)."""

    def __init__(self, c1: int):
        super().__init__()
        self.p1 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.beta = nn.Parameter(torch.ones(1, c1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of ``x``, (b, c1, h, w)."""
        return _acon(x, self.p1, self.p2, self.beta)


class MetaAconC(nn.Module):
    """AconC whose beta a small network computes from each channel's mean (arXiv:2009.04759)."""

    def __init__(self, c1: int, k: int = 1, s: int = 1, r: int = 16):
        super().__init__()
        hidden = max(r, c1 // r)
        self.p1 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, c1, 1, 1))
        self.fc1 = nn.Conv2d(c1, hidden, k, s, bias=True)
        self.fc2 = nn.Conv2d(hidden, c1, k, s, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of ``x``, (b, c1, h, w)."""
        beta = torch.sigmoid(self.fc2(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        return _acon(x, self.p1, self.p2, beta)


def _acon(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    steep = (p1 - p2) * x
    return steep * torch.sigmoid(beta * steep) + p2 * x
