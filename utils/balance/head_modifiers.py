"""The modifiers of one head as the hyperparameters choose them: their weights, sums and running state.

A step goes: ``weights`` of every layer, ``observe`` its sums, exchange the sums, ``factor`` of every layer, ``absorb``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from utils.balance import modifiers
from utils.balance.exchange import Sums
from utils.balance.target_geometry import neighbours

NORMS = {"cls": ("none", "ema"), "obj": ("none", "ema", "pos")}


class View(NamedTuple):
    """What the modifiers of a head see of one layer; without gradient, shapes broadcast to that of the elements.

    hardness: |t − p|, None when no modifier asks. positive: bool. attend: (strength, temperature) → attention weights.
    edges: squared distance to the nearest box edge in cells², None when no modifier asks. hard: weights by IoU,
    distance and density, or None.
    """

    hardness: Tensor | None
    positive: Tensor
    attend: Callable[[float, float], Tensor]
    edges: Tensor | None = None
    hard: Tensor | None = None


@dataclass(frozen=True)
class HardObjects:
    """Weights of hard objects, shared by both heads: badly placed boxes, objects close to another, crowds.

    Attributes:
        iou, distance, density: strengths λ, 0 is off.
        iou_power: κ.
        tau: τ, the distance in object sizes.
        other_class: only objects of another class are close.
        most: ρmax, the density that counts fully.
    """

    iou: float
    iou_power: float
    distance: float
    tau: float
    other_class: bool
    density: float
    most: float

    @property
    def is_on(self) -> bool:
        """Whether any strength is above 0."""
        return bool(self.iou or self.distance or self.density)

    @classmethod
    def from_hyp(cls, hyp: Mapping[str, Any]) -> HardObjects:
        """Read the keys ``hard_*``."""
        return cls(
            hyp.get("hard_iou", 0.0), hyp.get("hard_iou_pow", 1.0), hyp.get("hard_dist", 0.0),
            hyp.get("hard_dist_tau", 1.0), hyp.get("hard_dist_other", True), hyp.get("hard_dens", 0.0),
            hyp.get("hard_dens_max", 10.0),
        )  # fmt: skip

    def of_targets(self, targets: Tensor, images: int, shape: tuple[int, int]) -> Tensor | None:
        """Return the weights of all labelled objects by distance and density, (nt,), None when both are off.

        Args:
            targets: (nt, 6 or more) image, class, cx, cy, w, h, box 0 to 1.
            images: batch size.
            shape: height and width of the image in any unit.
        """
        if not (self.distance or self.density):
            return None
        distance, near, size = neighbours(targets, images, shape, self.other_class)
        weights = torch.ones_like(size)
        if self.distance:
            weights = weights * modifiers.distance_weights(distance, size, self.distance, self.tau)
        if self.density:
            weights = weights * modifiers.density_weights(near, self.density, self.most)
        return weights

    def of_matches(self, of_targets: Tensor | None, target: Tensor, iou: Tensor) -> Tensor | None:
        """Return the weights of matched anchors, (n,), None when all three are off.

        Args:
            of_targets: (nt,) weights of the objects.
            target: (n,) int64, the object of each match.
            iou: (n,) detached, from 0.
        """
        weights = None if of_targets is None else of_targets[target]
        if not self.iou:
            return weights
        by_iou = modifiers.iou_weights(iou, self.iou, self.iou_power)
        return by_iou if weights is None else weights * by_iou


class Dynamic(nn.Module):
    """Weights by hardness that grow with the training; state: running means of positives and negatives.

    The running means are those of the steps before, so the first step counts all elements alike.

    Args:
        largest: β_max.
        mode: "linear" in the epochs or "adaptive" to the mean hardness.
        epochs: shares of the run between which β grows; "adaptive" compares with the first.
        gamma: γ, power of the hardness.
    """

    def __init__(self, largest: float, mode: str, epochs: tuple[float, float], gamma: float):
        super().__init__()
        self.largest, self.mode, self.epochs, self.gamma = float(largest), mode, epochs, gamma
        self.progress = 0.0
        for name in ("expected", "hardness", "reference"):  # of negatives and positives; 0 is not known yet
            self.register_buffer(name, torch.zeros(2))

    @property
    def has_begun(self) -> bool:
        """Whether the first of the two epochs has come."""
        return self.progress >= self.epochs[0]

    def strength(self) -> Tensor | float:
        """Return β, for negatives and positives alike () or (2,) each."""
        if self.mode == "linear":
            return modifiers.linear_strength(self.largest, self.progress, self.epochs)
        return modifiers.adaptive_strength(self.largest, self.hardness, self.reference) if self.has_begun else 0.0

    def weights(self, hardness: Tensor, positive: Tensor) -> Tensor | None:
        """Return ω, the shape of ``hardness``, None while β is 0."""
        beta = self.strength()
        if isinstance(beta, float):
            if not beta:
                return None
            beta = torch.full_like(self.expected, beta)
        powered = self.power(hardness)
        of_negatives, of_positives = (
            modifiers.dynamic_weights(powered, expected, strength)
            for expected, strength in zip(self.expected, beta, strict=True)
        )
        return torch.where(positive, of_positives, of_negatives)

    def power(self, hardness: Tensor) -> Tensor:
        """Return h^γ."""
        return hardness if self.gamma == 1 else hardness**self.gamma

    def sums(self, hardness: Tensor, positive: Tensor) -> Tensor:
        """Return Σh^γ, Σh and the number of negatives and positives, (3, 2)."""
        focused = _split_sums(self.power(hardness), positive)
        plain = focused if self.gamma == 1 else _split_sums(hardness, positive)
        return torch.stack((focused, plain, _split_counts(positive)))

    def absorb(self, sums: Tensor) -> None:
        """Take over the sums (3, 2) of all layers and processes of a step."""
        count = sums[2]
        means, known = sums[:2] / count.clamp(min=1), count > 0
        self.expected = modifiers.running_mean(self.expected, means[0], known)
        self.hardness = modifiers.running_mean(self.hardness, means[1], known)
        if self.mode == "adaptive" and self.has_begun:
            self.reference = torch.where(self.reference > 0, self.reference, self.hardness)


class ScaleKeeping(nn.Module):
    """A factor per layer that keeps a focused loss as large as the plain one; state: running means of both.

    Args:
        layers: output layers.
    """

    def __init__(self, layers: int):
        super().__init__()
        self.register_buffer("means", torch.zeros(2, layers))  # of the plain loss and of the focused one

    def next_means(self, sums: Tensor) -> Tensor:
        """Return the running means (2, nl) with a step's sums (3, nl): plain loss, focused loss, elements."""
        return modifiers.running_mean(self.means, sums[:2] / sums[2].clamp(min=1), sums[2] > 0)


class HeadModifiers(nn.Module):
    """The modifiers of one head.

    Args:
        hyp: hyperparameters.
        head: "cls" or "obj".
        layers: output layers.
        is_focused: whether the head's loss differs from plain BCE, so that its scale needs keeping.
    """

    def __init__(self, hyp: Mapping[str, Any], head: str, layers: int, is_focused: bool):
        super().__init__()
        self.head, self.layers = head, layers
        self.by_sign = head == "obj"  # positives and negatives of objectness are brought to mean 1 on their own
        gain = hyp.get(f"{head}_dyn") or 0.0
        self.dynamic = None
        if gain:
            epochs = tuple(hyp.get("dyn_epochs", (0.1, 0.7)))
            self.dynamic = Dynamic(gain, hyp.get("dyn_mode", "linear"), epochs, hyp.get("dyn_gamma", 1.0))
        self.attention, self.temperature = hyp.get(f"{head}_attn") or 0.0, hyp.get("attn_temp", 0.1)
        self.boundary, self.sigma = hyp.get(f"{head}_bnd") or 0.0, hyp.get("bnd_sigma", 1.0)
        self.tversky, self.misses = hyp.get(f"{head}_tversky") or 0.0, hyp.get("tversky_a", 0.7)
        self.tversky_gamma = hyp.get("tversky_gamma", 4 / 3)
        self.norm = hyp.get(f"{head}_fl_norm") or "none"
        if self.norm not in NORMS[head]:
            raise ValueError(f"{head}_fl_norm: {self.norm!r} is not one of {', '.join(NORMS[head])}")
        self.scale = ScaleKeeping(layers) if self.norm == "ema" and is_focused else None

    @property
    def asks_hardness(self) -> bool:
        """Whether a modifier reads ``View.hardness``."""
        return self.dynamic is not None or bool(self.attention)

    @property
    def is_on(self) -> bool:
        """Whether anything of this head is modified, hard objects apart."""
        return self.asks_hardness or bool(self.boundary or self.tversky) or self.norm == "pos" or self.scale is not None

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Say which epoch begins, from 0, of how many."""
        if self.dynamic is not None:
            self.dynamic.progress = epoch / max(epochs, 1)

    def weights(self, view: View) -> Tensor | None:
        """Return the product of all weights of a layer's elements, not yet at mean 1; None when all are off."""
        factors = [
            None if self.dynamic is None else self.dynamic.weights(view.hardness, view.positive),
            view.attend(self.attention, self.temperature) if self.attention else None,
            modifiers.boundary_weights(view.edges, self.boundary, self.sigma) if self.boundary else None,
            view.hard,
        ]
        product = None
        for factor in factors:
            if factor is not None:
                product = factor if product is None else product * factor
        return product

    def observe(self, sums: Sums, layer: int, view: View, weights: Tensor | None) -> None:
        """Add the sums of a layer that ``absorb`` and ``apply`` need."""
        if weights is not None:
            sums.add(self._name(layer, "weights"), self._weight_sums(weights, view.positive))
        if self.dynamic is not None:
            sums.add(self._name("dynamic"), self.dynamic.sums(view.hardness, view.positive))
        if self.norm == "pos":
            sums.add(self._name(layer, "positives"), view.positive.sum(dtype=torch.float32))

    def positives(self, layer: int, sums: Sums) -> Tensor:
        """Return the positives of a layer over all processes, at least 1, for the norm "pos"."""
        return sums[self._name(layer, "positives")].clamp(min=1)

    def overlap(self, sums: Sums, layer: int | str, probabilities: Tensor, positive: Tensor) -> Tensor:
        """Add and return this process's overlap sums (3, k) of probabilities and positives, (n, k), for Tversky."""
        found = modifiers.overlap_sums(probabilities, positive.to(probabilities.dtype))
        sums.add(self._name(layer, "overlap"), found)
        return found

    def tversky_term(self, layer: int | str, local: Tensor, sums: Sums) -> Tensor:
        """Return the Tversky term (), columns without positives left out.

        Its value is that of all processes; its gradient is this process's part of theirs.

        Args:
            layer: number, or "all" when the sums are over all layers.
            local: this process's overlap sums, (3, k).
            sums: exchanged.
        """
        total = sums[self._name(layer, "overlap")]
        joined = total + (local - local.detach()) if sums.counts else total
        present = total[0] + total[1] > 0
        return modifiers.mean_over_present(modifiers.focal_tversky(joined, self.misses, self.tversky_gamma), present)

    def observe_scale(self, sums: Sums, layer: int, plain: Tensor, focused: Tensor) -> None:
        """Add the elements of a layer's plain and focused loss to the sums for scale keeping."""
        found = torch.zeros(3, self.layers, device=plain.device)
        found[0, layer], found[1, layer], found[2, layer] = plain.sum(), focused.detach().sum(), float(plain.numel())
        sums.add(self._name("scale"), found)

    def absorb(self, sums: Sums) -> None:
        """Take a step's sums into the running state."""
        if self.dynamic is not None:
            self.dynamic.absorb(sums[self._name("dynamic")])
        if self.scale is not None:
            self.scale.means = self.scale.next_means(sums[self._name("scale")])

    def scale_factors(self, sums: Sums) -> Tensor | None:
        """Return what each layer's loss is multiplied by, (nl,), None when its scale is not kept.

        They count the step's own sums, whether ``absorb`` is called before, after or not at all.
        """
        if self.scale is None:
            return None
        return modifiers.scale_ratio(*self.scale.next_means(sums[self._name("scale")]))

    def factor(self, layer: int, positive: Tensor, weights: Tensor | None, sums: Sums) -> Tensor | None:
        """Return a layer's weights brought to mean 1 over all processes, between 0.1 and 10; None when all are off."""
        if weights is None:
            return None
        found = sums[self._name(layer, "weights")]  # (2, k) sums and counts
        mean = found[0] / found[1].clamp(min=1)
        return modifiers.normalised(weights, torch.where(positive, mean[1], mean[0]) if self.by_sign else mean)

    def _weight_sums(self, weights: Tensor, positive: Tensor) -> Tensor:
        """Return sums and counts, (2, 2) for negatives and positives or (2, 1) for all."""
        if self.by_sign:
            weights = weights.expand(positive.shape)
            return torch.stack((_split_sums(weights, positive), _split_counts(positive)))
        return torch.stack((weights.sum(), torch.full_like(weights, 1.0).sum()))[:, None]

    def _name(self, *parts: object) -> str:
        return ".".join(map(str, (self.head, *parts)))


def _split_sums(values: Tensor, positive: Tensor) -> Tensor:
    """Return the sums of negatives and positives, (2,)."""
    of_positives = (values * positive).sum()
    return torch.stack((values.sum() - of_positives, of_positives))


def _split_counts(positive: Tensor) -> Tensor:
    """Return the number of negatives and positives, (2,) float."""
    positives = positive.sum(dtype=torch.float32)
    return torch.stack((positive.numel() - positives, positives))
