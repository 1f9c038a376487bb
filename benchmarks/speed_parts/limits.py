"""What this machine can do at most: multiply-adds a second and bytes a second, measured."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Ceilings:
    """Measured ceilings.

    Attributes:
        flops: floating-point operations a second in float32 matrix products (two a multiply-add).
        bytes: a second, read and written together, by copying more than the caches hold.
    """

    flops: float
    bytes: float

    def floor_seconds(self, limits: dict[str, float]) -> float | None:
        """Return the least time that an amount of work can take, None where no amount is known."""
        floors = [limits[key] / getattr(self, key) for key in ("flops", "bytes") if key in limits]
        return max(floors, default=None)


def measure(device: str, repeats: int = 7) -> Ceilings:
    """Measure the ceilings of a device with the threads that torch takes by default."""
    where = torch.device(device)
    size = 8192 if where.type == "cuda" else 2048
    a, b = torch.randn(size, size, device=where), torch.randn(size, size, device=where)
    product = _fastest(lambda: torch.mm(a, b), where, repeats)
    source = torch.randn(1 << 26, device=where)
    target = torch.empty_like(source)
    copy = _fastest(lambda: target.copy_(source), where, repeats)
    return Ceilings(2.0 * size**3 / product, 2.0 * source.numel() * 4 / copy)


def _fastest(run: object, where: torch.device, repeats: int) -> float:
    """Return the median of the faster half of the runs."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        run()
        if where.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return median(sorted(times[1:])[: repeats // 2 + 1])
