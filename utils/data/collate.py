"""Samples of the data set joined into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from utils.data.device_augment import flip_now

Sample = tuple[torch.Tensor, torch.Tensor, str, Any]


class SampleList(list):
    """The samples of one batch, made together.

    Attributes:
        images: (b, 3, h, w) uint8, of which the samples' images are views, or None.
        rng: the batch's own random numbers.
        changes: what is left to the device, (b, n) uint8 of ``utils.data.device_augment``, or None.
    """

    images: torch.Tensor | None = None
    rng: np.random.Generator | None = None
    changes: torch.Tensor | None = None


def collate(batch: list[Sample]) -> tuple[Any, ...]:
    """Join samples: images (b, 3, h, w), labels (n, 6 or more) with the image number in column 0, files, shapes.

    Where changes are left to the device, they follow.
    """
    images, labels, paths, shapes = zip(*batch, strict=True)
    for k, rows in enumerate(labels):
        rows[:, 0] = k
    block, changes = getattr(batch, "images", None), getattr(batch, "changes", None)
    joined = torch.stack(images, 0) if block is None else block, torch.cat(labels, 0), paths, shapes
    return joined if changes is None else (*joined, changes)


def collate_quad(batch: list[Sample], *, rng: np.random.Generator | None = None) -> tuple[Any, ...]:
    """Join every four samples into one image of twice the side: either the first, enlarged, or all four.

    Fewer than four left over are enlarged one by one. Where changes are left to the device, those of the images'
    quarters follow, (b, 4, n).
    """
    rng = rng or getattr(batch, "rng", None) or np.random.default_rng()
    groups = [list(range(k, min(k + 4, len(batch)))) for k in range(0, len(batch), 4)]
    if len(groups[-1]) < 4:
        groups[-1:] = [[k] for k in groups[-1]]
    members = [group[:1] if rng.random() < 0.5 else group for group in groups]
    changes, samples = getattr(batch, "changes", None), list(batch)
    if changes is not None:
        samples, changes = _flipped_before_enlarging(samples, members, changes)
    joined = [_quad([samples[k] for k in group]) for group in members]
    images, labels = zip(*joined, strict=True)
    for k, rows in enumerate(labels):
        rows[:, 0] = k
    firsts = [batch[group[0]] for group in groups]
    whole = torch.stack(images, 0), torch.cat(labels, 0), tuple(s[2] for s in firsts), tuple(s[3] for s in firsts)
    return whole if changes is None else (*whole, changes)


def new_batch(count: int, h: int, w: int) -> torch.Tensor:
    """Return an uninitialised (count, 3, h, w) uint8 block; in a loader's worker, in memory that the loader shares."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty((count, 3, h, w), dtype=torch.uint8)
    size = count * 3 * h * w
    storage = torch.UntypedStorage._new_shared(size)  # what torch's own collation allocates from
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count, 3, h, w))


def _flipped_before_enlarging(
    samples: list[Sample], groups: list[list[int]], changes: torch.Tensor
) -> tuple[list[Sample], torch.Tensor]:
    """Flip images that fill four quarters, which the device flips one by one.

    Args:
        samples: of the batch.
        groups: numbers of the samples in each image, one or four.
        changes: of the samples, (n, columns).

    Returns:
        The samples, and the changes left of the quarters, (groups, 4, columns).
    """
    samples, quarters = list(samples), []
    for group in groups:
        if len(group) == 1:
            image, row = flip_now(samples[group[0]][0], changes[group[0]])
            samples[group[0]] = (image, *samples[group[0]][1:])
            quarters.append(row.expand(4, -1))
        else:
            quarters.append(changes[group])
    return samples, torch.stack(quarters)


def _quad(group: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Enlarge one sample, or tile four as (0 2 / 1 3)."""
    images, labels = [sample[0] for sample in group], [sample[1] for sample in group]
    if len(group) == 1:
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
