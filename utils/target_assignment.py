"""Which anchors and cells of the output grids learn a labelled box: YOLOv5's matching rule."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FEWEST_ROWS = 64  # of padded targets
NEIGHBOUR_BIAS = 0.5  # a centre in this part of a cell also matches the neighbour on that side


class LayerMatches(NamedTuple):
    """The n matches of one output layer, ordered by neighbour cell, then anchor, then target.

    image, anchor, row, column: (n,) int64, a cell each. classes: (n,) int64.
    boxes: (n, 4) dx dy w h in grid units, dx dy from the cell's corner. anchors: (n, 2) w h in grid units.
    target: (n,) int64, the number of the target. valid: (n,) bool, which rows are matches; None when all are. The other
    rows hold indices within bounds and boxes of no meaning.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    classes: Tensor
    boxes: Tensor
    anchors: Tensor
    target: Tensor
    valid: Tensor | None = None


def match_layer(
    targets: Tensor, anchors: Tensor, grid: tuple[int, int], anchor_t: float, is_static: bool = False
) -> LayerMatches:
    """Match targets with the anchors and cells of one output layer.

    A target matches an anchor when neither side differs by ``anchor_t`` or more times, in the cell that holds its
    centre and in the two neighbouring cells nearest to it.

    The number of matches decides the shapes that follow, and the host waits for a CUDA device to count them. The static
    form keeps all 5·na·nt candidates instead and says which of them are matches: shapes depend on shapes alone, and
    nothing waits. Constants are computed on the device in both, not copied to it.

    Args:
        targets: (nt, 6) image, class, cx, cy, w, h, box 0 to 1.
        anchors: (na, 2) w h in grid units.
        grid: rows and columns of the layer.
        anchor_t: largest side ratio, exclusive.
        is_static: return all candidates, in the order of the matches, with ``valid``.
    """
    rows, columns = grid
    size = (columns, rows)
    centres, sides = (torch.stack((targets[:, i] * columns, targets[:, i + 1] * rows), 1) for i in (2, 4))
    fits = _fitting_anchors(sides, anchors, anchor_t)  # (na, nt)
    near = _near_cells(centres, size)  # (5, nt)
    found = near[:, None] & fits[None]  # (5, na, nt)
    neighbour, anchor, target = _all_indices(found) if is_static else found.nonzero(as_tuple=True)

    centre = centres[target]
    cell = (centre - _offsets(neighbour).to(centre.dtype)).long()
    column, row = cell[:, 0].clamp(0, columns - 1), cell[:, 1].clamp(0, rows - 1)
    corner = torch.stack((column, row), 1)
    return LayerMatches(
        image=targets[:, 0].long()[target],
        anchor=anchor,
        row=row,
        column=column,
        classes=targets[:, 1].long()[target],
        boxes=torch.cat((centre - corner, sides[target]), 1),
        anchors=anchors[anchor],
        target=target,
        valid=found.flatten() if is_static else None,
    )


def padded_targets(targets: Tensor) -> Tensor:
    """Return targets (nt, k) with rows of zeros at the end, which match nothing: a side of 0 fits no anchor.

    There are 64, 128, 256 ... rows then, so that few shapes occur. The host knows how many are added.
    """
    rows = max(FEWEST_ROWS, 1 << (len(targets) - 1).bit_length())
    return F.pad(targets, (0, 0, 0, rows - len(targets)))


def last_match_of_cell(cells: Tensor, cell_count: int) -> Tensor:
    """Return for each match the number of the last match in its cell.

    Values gathered with it are equal for all matches of a cell, so writing them to the cells gives the same result in
    any order of writing.

    Args:
        cells: (n,) int64 flat cell numbers.
        cell_count: cells in total.

    Returns:
        (n,) int64.
    """
    numbers = torch.arange(len(cells), device=cells.device)
    last = torch.zeros(cell_count, dtype=torch.int64, device=cells.device)
    return last.scatter_reduce_(0, cells, numbers, reduce="amax")[cells]


def owners_of_cells(cells: Tensor, cell_count: int, rank: Tensor | None = None) -> Tensor:
    """Return for each match the number of the match whose values count in its cell: the last one.

    Args:
        cells: (n,) int64 flat cell numbers.
        cell_count: cells in total.
        rank: (n,) the order of the matches, ascending; their numbers by default.

    Returns:
        (n,) int64.
    """
    if rank is None:
        return last_match_of_cell(cells, cell_count)
    order = rank.argsort()
    owners = torch.empty_like(order)
    owners[order] = order[last_match_of_cell(cells[order], cell_count)]
    return owners


def _all_indices(found: Tensor) -> list[Tensor]:
    """Return the indices of all elements of ``found`` in their order, (n,) int64 for each of its dimensions."""
    ranges = [torch.arange(size, device=found.device) for size in found.shape]
    return [index.flatten() for index in torch.meshgrid(*ranges, indexing="ij")]


def _fitting_anchors(sides: Tensor, anchors: Tensor, anchor_t: float) -> Tensor:
    """Return (na, nt) bool for sides (nt, 2) and anchors (na, 2): no side differs by ``anchor_t`` or more times."""
    ratio = sides[None] / anchors[:, None]
    return torch.maximum(ratio, 1 / ratio).amax(2) < anchor_t


def _near_cells(centres: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (5, nt) bool: the own cell, then the left, upper, right and lower neighbour.

    Args:
        centres: (nt, 2) in grid units.
        size: columns and rows.
    """
    before = (centres % 1 < NEIGHBOUR_BIAS) & (centres > 1)
    from_end = torch.stack((size[0] - centres[:, 0], size[1] - centres[:, 1]), 1)
    after = (from_end % 1 < NEIGHBOUR_BIAS) & (from_end > 1)
    own = torch.ones_like(before[:, :1])
    return torch.cat((own, before, after), 1).T


def _offsets(neighbour: Tensor) -> Tensor:
    """Return x y (n, 2) to subtract from a centre so that it falls into its neighbour (n,), numbered as above."""
    x = (neighbour == 1).int() - (neighbour == 3).int()
    y = (neighbour == 2).int() - (neighbour == 4).int()
    return torch.stack((x, y), 1) * NEIGHBOUR_BIAS
