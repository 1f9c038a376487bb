"""Attention-guided weights: anchors count by how hard those are that the network sees alike.

Defined in this project, without parameters, so checkpoints stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_MATCHES = 1024  # matched anchors of an image and layer that attend to each other, the hardest
HARDEST_CELLS = 256  # cells of an image and layer that do, beside those with an object
CHUNK_ELEMENTS = 2**22  # of the similarity matrices held at a time
NEVER = -1e9  # similarity of padding


def attention_weights(
    tokens: Tensor, hardness: Tensor, valid: Tensor, strength: float, temperature: float = 0.1
) -> Tensor:
    """Return ω = (1 − λ) + λ·a with a = A·h / mean(A·h) and A = row-softmax(X·Xᵀ/T), (b, k); 1 where not valid.

    Args:
        tokens: (b, k, c), one set per image; each token is brought to length 1.
        hardness: h, (b, k), from 0.
        valid: (b, k) bool, false for padding.
        strength: λ.
        temperature: T; large values make all weights 1, small ones h / mean(h).
    """
    count = tokens.shape[1]
    if not count:
        return torch.ones_like(hardness)
    unit = F.normalize(tokens, dim=2)
    columns = torch.zeros_like(hardness).masked_fill_(~valid, NEVER)
    step = max(1, CHUNK_ELEMENTS // count**2)
    attended = torch.cat(
        [
            _attended(*part, temperature)
            for part in zip(unit.split(step), hardness.split(step), columns.split(step), strict=True)
        ]
    )
    attended = attended * valid
    mean = attended.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
    weights = (1.0 - strength) + strength * attended / mean.clamp(min=1e-30)
    return torch.where(valid & (mean > 0), weights, 1.0)


def _attended(unit: Tensor, hardness: Tensor, columns: Tensor, temperature: float) -> Tensor:
    """Return A·h, (b, k), for unit tokens (b, k, c), h (b, k) and what is added to each column of X·Xᵀ/T (b, k)."""
    scores = torch.baddbmm(columns[:, None], unit, unit.transpose(1, 2), alpha=1.0 / temperature)
    return torch.bmm(scores.softmax(2), hardness[:, :, None])[:, :, 0]


def match_attention(
    tokens: Tensor, hardness: Tensor, image: Tensor, images: int, strength: float, temperature: float
) -> Tensor:
    """Return the weights of matched anchors, (n,); those of one image attend to each other, at most 1024, the hardest.

    Args:
        tokens: (n, c) outputs.
        hardness: (n,).
        image: (n,) int64.
        images: batch size.
        strength, temperature: as in ``attention_weights``.
    """
    count = len(tokens)
    if not count:
        return torch.ones_like(hardness)
    order = hardness.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    owner = image[order]
    rank = torch.arange(count, device=owner.device) - torch.searchsorted(owner, owner)
    width = _width(rank, min(count, MOST_MATCHES))
    slot = torch.where(rank < width, owner * width + rank, images * width)  # the last slot takes the rest
    index = torch.full((images * width + 1,), count, device=slot.device).scatter_(0, slot, order)[:-1]
    padded_tokens = torch.cat((tokens, tokens.new_zeros(1, tokens.shape[1])))
    padded_hardness = torch.cat((hardness, hardness.new_zeros(1)))
    sets = index.view(images, width)
    weights = attention_weights(padded_tokens[sets], padded_hardness[sets], sets < count, strength, temperature)
    result = torch.ones_like(padded_hardness)
    result[index] = torch.where(sets < count, weights, 1.0).flatten()
    return result[:-1]


def cell_attention(raw: Tensor, hardness: Tensor, positive: Tensor, strength: float, temperature: float) -> Tensor:
    """Return the weights of all cells of a layer: the 256 hardest of each image and all positives attend, others get 1.

    An image with more than 1024 positives lets the hardest of them attend.

    Args:
        raw: (bs, na, ny, nx, no) outputs.
        hardness: (bs, na, ny, nx).
        positive: (bs, na, ny, nx) bool.
        strength, temperature: as in ``attention_weights``.
    """
    images, cells = len(raw), positive[0].numel()
    hard = hardness.reshape(images, cells)
    chosen = positive.reshape(images, cells).clone()
    chosen.scatter_(1, hard.topk(min(HARDEST_CELLS, cells), dim=1).indices, True)
    width = _width(chosen.sum(1) - 1, min(HARDEST_CELLS + MOST_MATCHES, cells))
    slots = (hard + 2.0 * chosen).topk(width, dim=1).indices  # h is at most 1, so the chosen come first
    rows = torch.arange(images, device=slots.device)[:, None]
    tokens = raw.detach().reshape(images, cells, -1)[rows, slots].float()
    weights = attention_weights(tokens, hard.gather(1, slots), chosen.gather(1, slots), strength, temperature)
    return torch.ones_like(hard).scatter_(1, slots, weights).view_as(hardness)


def _width(rank: Tensor, bound: int) -> int:
    """Return how many slots an image needs, up to ``bound``, for the largest number (...) that a slot may get.

    A CUDA device would have to be waited for, so there it is the bound; what is left over is padding.
    """
    return min(int(rank.max()) + 1, bound) if rank.device.type == "cpu" else bound
