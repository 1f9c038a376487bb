"""What the loss knows of one output layer, of one head on it, and of a batch's labels; small helpers around them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import functional as F

from utils.balance.attention import cell_attention, match_attention
from utils.balance.head_modifiers import HardObjects, HeadModifiers, View
from utils.balance.losses import HeadContext, HeadLoss, bce, full_precision
from utils.balance.target_geometry import edge_distances
from utils.boxes import bbox_iou
from utils.target_assignment import LayerMatches

OBJECTNESS = 4  # its column in a row of outputs


class Batch(NamedTuple):
    """How much of a batch this process holds.

    images: batch size, over all processes. part: this process's share of the images, None without ``world_sum``. rows:
    per layer, the number of matches over all processes, at least 1; None where the shapes say it.
    """

    images: int | Tensor
    part: Tensor | None
    rows: Tensor | Sequence[None]


class _Taken(torch.autograd.Function):
    """The parts of a layer's outputs that the loss reads; their gradients are added up in one array."""

    @staticmethod
    def forward(raw: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return objectness (bs, na, ny, nx) and rows (n, no) of raw (bs, na, ny, nx, no)."""
        return raw[..., OBJECTNESS].contiguous(), raw.reshape(-1, raw.shape[-1])[cells]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
        """Remember the cells and the shape of the outputs."""
        raw, cells = inputs
        ctx.save_for_backward(cells)
        ctx.shape = raw.shape

    @staticmethod
    def backward(ctx: Any, of_objectness: Tensor, of_rows: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        """Return the gradient of raw."""
        (cells,) = ctx.saved_tensors
        gradient = _zeros(of_rows, ctx.shape)
        gradient[..., OBJECTNESS] = of_objectness
        gradient.view(-1, ctx.shape[-1]).index_put_((cells,), of_rows, accumulate=True)
        return gradient, None


def _zeros(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """Return zeros of a shape, on the device and of the type of ``rows``.

    On the CPU, uncompiled, NumPy takes pages from the system that are zero already, and large ones where it can:
    a third of the time for the hundred megabytes that a batch's gradient has.
    """
    if type(rows) is Tensor and rows.device.type == "cpu" and rows.dtype == torch.float32 and not is_compiling():
        return torch.from_numpy(np.zeros(shape, np.float32))
    return rows.new_zeros(shape)


def taken(raw: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return objectness logits (bs, na, ny, nx) and the outputs (n, no) of some cells, in full precision.

    Args:
        raw: (bs, na, ny, nx, no) outputs.
        cells: (n,) int64 flat positions, each any number of times.
    """
    objectness, rows = _Taken.apply(raw, cells)
    return full_precision(objectness), full_precision(rows)


class Layer(NamedTuple):
    """One output layer and its n matches.

    raw: (bs, na, ny, nx, no) outputs. objectness: (bs, na, ny, nx) float32 logits. match: see LayerMatches. cells: (n,)
    flat positions, one behind the last cell for rows that are no match. owners: (n,) the match whose values count in
    the cell. outputs: (n, no) float32 outputs of the matches, 0 and without gradient in rows that are none. iou: (n,)
    of their boxes. tobj: (bs, na, ny, nx) objectness targets. label_weights: (n,) or None.
    """

    raw: Tensor
    objectness: Tensor
    match: LayerMatches
    cells: Tensor
    owners: Tensor
    outputs: Tensor
    iou: Tensor
    tobj: Tensor
    label_weights: Tensor | None

    def on_cells(self, values: Tensor) -> Tensor:
        """Return the values (n,) of matches in their cells, 1 in cells without an object, (bs, na, ny, nx)."""
        grid = self.tobj.new_ones(self.tobj.numel() + has_spare(self.match))
        grid[self.cells] = values[self.owners].to(grid.dtype)
        return torch.where(self.tobj > 0, grid[: self.tobj.numel()].view(self.tobj.shape), 1.0)

    def counted(self, values: Tensor) -> Tensor:
        """Return values (n, ...) of the matches, with 0 and no gradient in rows that are none."""
        return only_valid(values, self.match.valid)


class Terms(NamedTuple):
    """The box, objectness and class terms of a batch, (1,) each and without gains, with the layers they come from."""

    box: Tensor
    obj: Tensor
    cls: Tensor
    layers: list[Layer]
    batch: Batch


class Scene(NamedTuple):
    """What modifiers ask of a batch's labels.

    edges: per layer, squared distances (bs, ny, nx) to box edges. hard: (nt,) weights by distance and density.
    """

    edges: list[Tensor] | None
    hard: Tensor | None

    @classmethod
    def of(cls, targets: Tensor, p: Sequence[Tensor], asks_edges: bool, hard: HardObjects) -> Scene:
        """Measure what is asked for.

        Args:
            targets: (nt, 6 or more) image, class, cx, cy, w, h, box 0 to 1.
            p: per layer (bs, na, ny, nx, no); only the shapes are used.
            asks_edges: whether a modifier needs them.
            hard: settings of the weights.
        """
        images, grids = p[0].shape[0], [(raw.shape[2], raw.shape[3]) for raw in p]
        edges = [edge_distances(targets, images, grid) for grid in grids] if asks_edges else None
        return cls(edges, hard.of_targets(targets, images, grids[0]))


class HeadLayer(NamedTuple):
    """One head on one layer, before the sums of all processes are known.

    logits, targets: of the elements. context: of the rows. elements: unreduced loss, None when nothing modifies it.
    positive: bool, the elements' shape. weights: product of the modifiers. overlap: sums of the Tversky term.
    """

    logits: Tensor
    targets: Tensor
    context: HeadContext | None = None
    elements: Tensor | None = None
    positive: Tensor | None = None
    weights: Tensor | None = None
    overlap: Tensor | None = None


def has_spare(match: LayerMatches) -> bool:
    """Return whether a layer has one cell more than its grid, which takes what rows write that are no match."""
    return match.valid is not None


def only_valid(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return values (n, ...) with 0 and no gradient, whatever they are, where ``valid`` (n,) is false."""
    return values if valid is None else torch.where(valid.view(-1, *[1] * (values.ndim - 1)), values, 0.0)


def class_view(
    layer: Layer, head: HeadLayer, loss: HeadLoss, modifiers: HeadModifiers, edges: Tensor | None, hard: Tensor | None
) -> View:
    """Return what the class modifiers see of a layer; in attention an anchor is as hard as its columns on average.

    Args:
        layer, head: its parts.
        loss: of the class head.
        modifiers: of the class head.
        edges: (bs, ny, nx) squared edge distances.
        hard: (n,) weights of hard objects.
    """
    match = layer.match
    hardness = loss.hardness(head.logits, head.targets, head.context) if modifiers.asks_hardness else None

    def attend(strength: float, temperature: float) -> Tensor:
        tokens, images = layer.outputs.detach(), layer.raw.shape[0]
        return match_attention(tokens, hardness.mean(1), match.image, images, strength, temperature)[:, None]

    return View(
        hardness,
        head.positive,
        attend,
        edges[match.image, match.row, match.column][:, None] if modifiers.boundary else None,
        None if hard is None else hard[:, None],
    )


def cell_view(
    layer: Layer, head: HeadLayer, loss: HeadLoss, modifiers: HeadModifiers, edges: Tensor | None, hard: Tensor | None
) -> View:
    """Return what the objectness modifiers see of a layer; arguments as for ``class_view``."""
    hardness = loss.hardness(head.logits, head.targets) if modifiers.asks_hardness else None

    def attend(strength: float, temperature: float) -> Tensor:
        return cell_attention(layer.raw.detach(), hardness, head.positive, strength, temperature)

    return View(
        hardness,
        head.positive,
        attend,
        edges[:, None] if modifiers.boundary else None,
        None if hard is None else layer.on_cells(hard),
    )


def plain_loss(head: HeadLayer, loss: HeadLoss) -> Tensor:
    """Return the loss that a focused one starts from: BCE with its pos weight, or cross-entropy for whole rows."""
    if head.elements.shape == head.logits.shape:
        return bce(head.logits, head.targets, loss.pos_weight)
    return F.cross_entropy(full_precision(head.logits), head.targets, reduction="none")[:, None]


def box_ciou(raw: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Return the complete IoU of predicted and target boxes, (n,).

    Args:
        raw: (n, 4) outputs: centre 2·sigmoid − 0.5 from the cell's corner, sides (2·sigmoid)² anchors.
        anchors: (n, 2) w h in grid units.
        boxes: (n, 4) dx dy w h in grid units.
    """
    activated = raw.sigmoid() * 2
    predicted = torch.cat((activated[:, :2] - 0.5, activated[:, 2:] ** 2 * anchors), 1)
    return bbox_iou(predicted, boxes, CIoU=True).squeeze(-1)


def read_cells(cells: Tensor, valid: Tensor | None, cell_count: int) -> Tensor:
    """Return from where matches read the outputs, (n,): rows that are no match from cells that differ.

    The gradient of a cell that many rows read is added up row by row; zeros of thousands of rows would take long.

    Args:
        cells: (n,) int64 flat positions.
        valid: (n,) bool, which rows are matches; None when all are.
        cell_count: cells in total.
    """
    if valid is None:
        return cells
    return torch.where(valid, cells, torch.arange(len(cells), device=cells.device) % cell_count)


def written_cells(cells: Tensor, valid: Tensor | None, cell_count: int) -> Tensor:
    """Return where matches write, (n,): rows that are no match behind the last cell; arguments as above."""
    return cells if valid is None else torch.where(valid, cells, cell_count)


def flat_cells(indices: tuple[Tensor, Tensor, Tensor, Tensor], shape: Sequence[int]) -> Tensor:
    """Return positions (n,) of (b, a, gj, gi) in a flattened layer of shape (bs, na, ny, nx, ...)."""
    b, a, gj, gi = indices
    return ((b * shape[1] + a) * shape[2] + gj) * shape[3] + gi


def mean_over(values: Tensor, rows: Tensor | None) -> Tensor:
    """Return the mean of all elements, or this process's part of the mean over all processes.

    Args:
        values: (n, ...), n above 0.
        rows: number of matches to divide by, (), where n is not it; None where it is.
    """
    if rows is None:
        return values.mean()
    return values.sum() / (rows * (values.numel() // len(values)))


def part_of(value: Tensor, part: Tensor | None) -> Tensor:
    """Return this process's part of a value that every process has as a whole, with the gradient as it is.

    Args:
        value: ().
        part: this process's share, None for all.
    """
    return value if part is None else value + value.detach() * (part - 1.0)


def product(factors: Iterable[Tensor | None]) -> Tensor | None:
    """Return the product of the factors that are there, None when none is."""
    result = None
    for factor in factors:
        if factor is not None:
            result = factor if result is None else result * factor
    return result


@contextlib.contextmanager
def weighing(like: Tensor) -> Iterator[None]:
    """Compute weights: without gradient, and in float32 also inside autocast, on the device of ``like``."""
    with torch.no_grad(), torch.autocast(like.device.type, enabled=False):
        yield
