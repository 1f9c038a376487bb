"""Samples of the data set joined into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Sample = tuple[torch.Tensor, torch.Tensor, str, Any]


class SampleList(list):
    """The samples of one batch, made together.

    Attributes:
        images: (b, 3, h, w) uint8, of which the samples' images are views, or None.
        rng: the batch's own random numbers.
    """

    images: torch.Tensor | None = None
    rng: np.random.Generator | None = None


def collate(batch: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], tuple[Any, ...]]:
    """Join samples: images (b, 3, h, w), labels (n, 6 or more) with the image number in column 0, files, shapes."""
    images, labels, paths, shapes = zip(*batch, strict=True)
    for k, rows in enumerate(labels):
        rows[:, 0] = k
    block = getattr(batch, "images", None)
    return torch.stack(images, 0) if block is None else block, torch.cat(labels, 0), paths, shapes


def collate_quad(
    batch: list[Sample], *, rng: np.random.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...], tuple[Any, ...]]:
    """Join every four samples into one image of twice the side: either the first, enlarged, or all four.

    Fewer than four left over are enlarged one by one.
    """
    rng = rng or getattr(batch, "rng", None) or np.random.default_rng()
    groups = [batch[k : k + 4] for k in range(0, len(batch), 4)]
    if len(groups[-1]) < 4:
        groups[-1:] = [[sample] for sample in groups[-1]]
    joined = [_quad(group, rng) for group in groups]
    images, labels = zip(*joined, strict=True)
    for k, rows in enumerate(labels):
        rows[:, 0] = k
    firsts = [group[0] for group in groups]
    return torch.stack(images, 0), torch.cat(labels, 0), tuple(s[2] for s in firsts), tuple(s[3] for s in firsts)


def new_batch(count: int, h: int, w: int) -> torch.Tensor:
    """Return an uninitialised (count, 3, h, w) uint8 block; in a loader's worker, in memory that the loader shares."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty((count, 3, h, w), dtype=torch.uint8)
    size = count * 3 * h * w
    storage = torch.UntypedStorage._new_shared(size)  # what torch's own collation allocates from
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count, 3, h, w))


def _quad(group: list[Sample], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Enlarge the first sample, or tile four as (0 2 / 1 3)."""
    images, labels = [sample[0] for sample in group], [sample[1] for sample in group]
    if rng.random() < 0.5 or len(group) < 4:
        twice = torch.nn.functional.interpolate(
            images[0][None].float(), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        return twice[0].type(images[0].dtype), labels[0]
    shifts = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0]])
    moved = torch.cat(labels, 0)
    moved[:, :6] += torch.cat([shift.expand(len(rows), 6) for rows, shift in zip(labels, shifts, strict=True)], 0)
    moved[:, 2:6] *= 0.5
    left, right = torch.cat(images[:2], 1), torch.cat(images[2:], 1)
    return torch.cat((left, right), 2), moved
