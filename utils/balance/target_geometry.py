"""Where the labelled boxes of a batch lie to cells and to each other: what boundary, distance and density ask."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**21  # of the distance maps held at a time
MOST_OTHERS = 300  # objects of an image that are compared with each one; of more, so many are drawn
NEARBY = 2.0  # radius of a neighbourhood in object sizes √(w·h)


def edge_distances(targets: Tensor, images: int, grid: tuple[int, int]) -> Tensor:
    """Return the squared distance of each cell's centre to the nearest edge of any box of its image, in cells².

    Args:
        targets: (nt, 6 or more) image, class, cx, cy, w, h, box 0 to 1.
        images: batch size.
        grid: rows and columns of the layer.

    Returns:
        (images, rows, columns), infinite in images without boxes.
    """
    rows, columns = grid
    nearest = torch.full((images, rows * columns), torch.inf, device=targets.device)
    image = targets[:, 0].long()
    x = _beyond_edges(targets[:, 2], targets[:, 4], columns)  # (nt, columns)
    y = _beyond_edges(targets[:, 3], targets[:, 5], rows)  # (nt, rows)
    step = max(1, CHUNK_ELEMENTS // (rows * columns))
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        squared = _outline_distance(x[part, None, :], y[part, :, None]).flatten(1)
        nearest.scatter_reduce_(0, image[part, None].expand_as(squared), squared, reduce="amin")
    return nearest.view(images, rows, columns)


def _beyond_edges(centre: Tensor, side: Tensor, cells: int) -> Tensor:
    """Return how far each cell's centre lies outside a box along one axis, in cells, (nt, cells); negative inside."""
    middle = torch.arange(cells, device=centre.device) + 0.5
    return (middle - centre[:, None] * cells).abs_() - side[:, None] * (cells / 2)


def _outline_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared distance to a box's outline from how far a point lies outside of it along x and y.

    Outside: max(x, 0)² + max(y, 0)². Inside: max(x, y)², the nearest of the four edges.
    """
    squared = torch.maximum(x, y).clamp_(max=0).square_()
    return squared.add_(x.clamp(min=0).square_()).add_(y.clamp(min=0).square_())


def neighbours(
    targets: Tensor, images: int, shape: tuple[int, int], other_class: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance to the nearest other object, number of others nearby, and size √(w·h) of every object.

    In an image with more than 300 objects each is compared with 300 of them, drawn by a hash of their boxes: the same
    in every process, on every device and after a resume.

    Args:
        targets: (nt, 6 or more) image, class, cx, cy, w, h, box 0 to 1.
        images: batch size.
        shape: height and width of the image, in the unit of the results.
        other_class: the nearest object must be of another class.

    Returns:
        (nt,) distance between centres, infinite without another object; (nt,) float others whose centre lies within
        twice the size; (nt,) size.
    """
    height, width = shape
    x, y = targets[:, 2] * width, targets[:, 3] * height
    size = (targets[:, 4] * width * targets[:, 5] * height).clamp(min=0).sqrt()
    image, classes = targets[:, 0].long(), targets[:, 1]
    if not len(targets):
        return torch.full_like(size, torch.inf), torch.zeros_like(size), size
    others = _compared(targets, image, images)[image]  # (nt, k)
    absent = (others < 0) | (others == torch.arange(len(targets), device=image.device)[:, None])
    distance = torch.hypot(x[:, None] - x[others], y[:, None] - y[others]).masked_fill_(absent, torch.inf)
    near = (distance <= NEARBY * size[:, None]).sum(1).to(size.dtype)
    if other_class:
        distance = distance.masked_fill_(classes[:, None] == classes[others], torch.inf)
    return distance.amin(1), near, size


def _compared(targets: Tensor, image: Tensor, images: int) -> Tensor:
    """Return per image the numbers of up to 300 of its objects, (images, k) int64, filled up with -1.

    Args:
        targets: (nt, 6 or more), nt above 0.
        image: (nt,) int64.
        images: batch size.
    """
    count = len(targets)
    order = _hashed(targets[:, 2:6]).argsort(stable=True)
    order = order[image[order].argsort(stable=True)]
    owner = image[order]
    rank = torch.arange(count, device=image.device) - torch.searchsorted(owner, owner)
    most = min(count, MOST_OTHERS)
    slot = torch.where(rank < most, owner * most + rank, images * most)  # the last slot takes the rest
    table = torch.full((images * most + 1,), -1, device=image.device).scatter_(0, slot, order)
    return table[:-1].view(images, most)


def _hashed(boxes: Tensor) -> Tensor:
    """Return a number (n,) int64 per box (n, 4) that varies without order from box to box."""
    mixed = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    for part in boxes.float().contiguous().view(torch.int32).unbind(1):
        mixed = ((mixed ^ (part.long() & 0x7FFFFFFF)) * 0x5BD1E995) & 0x7FFFFFFF
        mixed = mixed ^ (mixed >> 15)
    return mixed
