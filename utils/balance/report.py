"""What a run does for class balance, in words: a table per class, a line per remedy, and what is corrected twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from utils.balance.class_weights import ClassWeights, Names
from utils.balance.image_weights import SamplerWeights, expected_instances, repeat_factors
from utils.balance.label_counts import Labels
from utils.balance.loss_names import COUNT_BASED, HEADS, base_loss, loss_parameters
from utils.hyperparameter_rules import DRAWING
from utils.hyperparameter_table import class_names

HEAD_TITLES = {"cls": "class loss", "obj": "objectness loss"}
# modifier -> the keys that belong to it; "{head}" is cls or obj
HEAD_MODIFIERS: dict[str, tuple[str, ...]] = {
    "{head}_dyn": ("dyn_mode", "dyn_epochs", "dyn_gamma"),
    "{head}_attn": ("attn_temp",),
    "{head}_bnd": ("bnd_sigma",),
    "{head}_tversky": ("tversky_a", "tversky_gamma"),
    "{head}_fl_norm": (),
}
SHARED_MODIFIERS: dict[str, tuple[str, ...]] = {
    "hard_iou": ("hard_iou_pow",),
    "hard_dist": ("hard_dist_tau", "hard_dist_other"),
    "hard_dens": ("hard_dens_max",),
}


def balance_table(
    names: Names,
    counts: np.ndarray,
    images: np.ndarray,
    weights: ClassWeights | None = None,
    sampler: SamplerWeights | None = None,
    labels: Labels | None = None,
    length: str = "fixed",
) -> str:
    """Return a table with a line per class: instances, images, class weight, times drawn ('-' where off), and with a
    sampler the boxes of the class that an epoch holds on average.

    Args:
        names: class names, as a list or {id: name}.
        counts: (nc,) training instances.
        images: (nc,) training images that hold the class.
        weights: of the class loss.
        sampler: what images are drawn by.
        labels: per image, for the last column.
        length: of an epoch, fixed or expand.
    """
    names = class_names(names)
    drawn = np.asarray(counts)
    if sampler is not None and labels is not None:
        drawn = expected_instances(sampler.images, labels, len(names), expand=length == "expand")
    width = max(len("class"), *map(len, names))
    total = max(int(np.sum(counts)), 1)
    head = f"{'class':<{width}}{'instances':>11}{'share':>8}{'images':>9}{'weight':>9}{'repeat':>9}{'per epoch':>11}"
    lines = [head]
    for c, name in enumerate(names):
        weight = "-" if weights is None else f"{weights.values[c]:.4g}"
        factor = "-" if sampler is None else f"{sampler.classes[c]:.4g}"
        share = f"{100 * counts[c] / total:.1f}%"
        lines.append(f"{name:<{width}}{counts[c]:>11}{share:>8}{images[c]:>9}{weight:>9}{factor:>9}{drawn[c]:>11.0f}")
    return "\n".join(lines)


def loss_lines(hyp: Mapping[str, Any]) -> list[str]:
    """Return a line per head whose loss is chosen and one per modifier at work, with resolved values; [] with all off.

    Args:
        hyp: hyperparameters, composite names replaced by what they stand for.
    """
    lines = []
    for head in HEADS:
        line = _loss_line(hyp, head)
        lines += [line] if line else []
        for key, companions in HEAD_MODIFIERS.items():
            lines += _modifier_line(hyp, key.format(head=head), companions)
    for key, companions in SHARED_MODIFIERS.items():
        lines += _modifier_line(hyp, key, companions)
    return lines


def paste_factors(hyp: Mapping[str, Any], labels: Labels, nc: int, drawn: np.ndarray) -> np.ndarray:
    """Return (nc,): how many times the boxes of a class pasted ones make it at most, 1 for classes that are not rare.

    An image takes ``rare_paste`` · (1 + ``rare_paste_max``)/2 objects on average when all find a place, class c in
    proportion to r_c − 1.

    Args:
        hyp: hyperparameters.
        labels: per image.
        nc: classes.
        drawn: (nc,) boxes per class among as many draws as there are images.
    """
    excess = np.where(drawn > 0, repeat_factors(hyp, labels, nc).classes - 1, 0.0)
    if not excess.any():
        return np.ones(nc)
    pasted = len(labels) * hyp["rare_paste"] * (1 + hyp["rare_paste_max"]) / 2 * excess / excess.sum()
    return 1 + pasted / np.where(drawn > 0, drawn, 1.0)


def double_correction(
    remedies: Mapping[str, np.ndarray | None], names: Names, losses: Mapping[str, Any] | None = None
) -> str | None:
    """Return a line when several remedies favour rare classes, with the product of their factors, else None.

    It is a warning unless all of them do nothing but show rare classes more often, as the hyp files that come with
    this program do: then their factors are meant to go together.

    Args:
        remedies: name → (nc,) factor by which it raises each class; None, or the same for all classes, is off.
        names: class names, as a list or {id: name}.
        losses: hyperparameters, of which a ``cls_loss`` that corrects class counts by itself is a remedy as well,
            without a factor of its own.
    """
    at_work = {key: np.asarray(f) for key, f in remedies.items() if f is not None and np.ptp(f) > 1e-6}
    loss = base_loss((losses or {}).get("cls_loss"))
    by_itself = [f"cls_loss {loss}"] if loss in COUNT_BASED else []
    if len(at_work) + len(by_itself) < 2:
        return None
    who = [*at_work, *by_itself]
    together = f"{', '.join(who[:-1])} and {who[-1]}"
    product = np.prod(list(at_work.values()), axis=0)
    text = ", ".join(f"{name} {value:.4g}" for name, value in zip(class_names(names), product, strict=True))
    factors = " × ".join(at_work)
    how_many = "both" if len(who) == 2 else "all"
    if set(who) <= set(DRAWING):
        return f"{together} {how_many} show rare classes more often, {factors} per class: {text}"
    return (
        f"WARNING {together} {how_many} correct the class balance (usually one is enough), {factors} per class: {text}"
    )


def _loss_line(hyp: Mapping[str, Any], head: str) -> str:
    name, title = hyp.get(f"{head}_loss"), HEAD_TITLES[head]
    if name is None:
        return f"{title}: focal by fl_gamma, gamma {hyp['fl_gamma']:g}, alpha 0.25" if hyp["fl_gamma"] else ""
    parameters = "".join(f", {key} {_text(value)}" for key, value in loss_parameters(hyp, head).items())
    return f"{title}: {name}{parameters}"


def _modifier_line(hyp: Mapping[str, Any], key: str, companions: tuple[str, ...]) -> list[str]:
    if hyp.get(key) in (None, 0, "none"):
        return []
    settings = "".join(f", {name} {_text(hyp.get(name))}" for name in companions)
    return [f"{key}: {_text(hyp[key])}{settings}"]


def _text(value: object) -> str:
    if value is None:
        return "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
