"""The table of losses: what a hyp file's names build for each head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from utils.balance.base_losses import (
    asymmetric_loss,
    balance_factor,
    bce,
    bce_blur_loss,
    biscale_focal_loss,
    full_precision,
    power,
    probability_missed,
    quality_focal_loss,
    sigmoid_focal_loss,
    varifocal_loss,
)
from utils.balance.head_loss import BCELoss, HeadContext, HeadLoss, LogitAdjustedLoss, SoftmaxFocalLoss, VarifocalLoss
from utils.balance.loss_names import CLS_LOSSES, OBJ_LOSSES, base_loss, loss_parameters
from utils.balance.running_losses import EqualizedFocalLoss, SeesawLoss, WorldSum

__all__ = [
    "BASE_LOSSES", "BCELoss", "HeadContext", "HeadLoss", "balance_factor", "bce", "build_head_loss", "full_precision",
    "power", "probability_missed", "sigmoid_focal_loss",
]  # fmt: skip

UPSTREAM_FOCAL_ALPHA = 0.25  # what fl_gamma > 0 uses on both heads


class Setup(NamedTuple):
    """What a builder has to go by.

    parameters: of the loss, as ``loss_parameters`` gives them. pos_weight: of the head. class_counts: (nc,) float32
    training instances, or None. world_sum: sums a small tensor over all processes, or None.
    """

    parameters: Mapping[str, Any]
    pos_weight: float | Sequence[float] | None
    class_counts: Tensor | None
    world_sum: WorldSum | None


def build_bce(setup: Setup) -> HeadLoss:
    """Return binary cross-entropy."""
    return BCELoss(setup.pos_weight)


def build_focal(setup: Setup) -> HeadLoss:
    """Return the focal loss."""
    alpha, gamma = setup.parameters["alpha"], setup.parameters["gamma"]
    return HeadLoss(partial(sigmoid_focal_loss, alpha=alpha, gamma=gamma), setup.pos_weight)


def build_qfocal(setup: Setup) -> HeadLoss:
    """Return the quality focal loss."""
    alpha, gamma = setup.parameters["alpha"], setup.parameters["gamma"]
    function = partial(quality_focal_loss, alpha=alpha, gamma=gamma)
    return HeadLoss(function, setup.pos_weight, setup.parameters.get("qtarget") == "iou")


def build_varifocal(setup: Setup) -> HeadLoss:
    """Return the varifocal loss."""
    parameters = setup.parameters
    function = partial(
        varifocal_loss, alpha=parameters["alpha"], gamma=parameters["gamma"], weighted=parameters["vfl_weighted"]
    )
    return VarifocalLoss(function, setup.pos_weight, parameters.get("qtarget") == "iou")


def build_asl(setup: Setup) -> HeadLoss:
    """Return the asymmetric loss."""
    parameters = setup.parameters
    function = partial(
        asymmetric_loss,
        gamma_pos=parameters["gpos"],
        gamma_neg=parameters["gneg"],
        clip=parameters["clip"],
        detach=parameters["asl_detach"],
    )
    return HeadLoss(function, setup.pos_weight)


def build_biscale(setup: Setup) -> HeadLoss:
    """Return the bi-scale focal loss."""
    parameters = setup.parameters
    function = partial(
        biscale_focal_loss,
        scale_pos=parameters["spos"],
        scale_neg=parameters["sneg"],
        gamma_pos=parameters["gpos"],
        gamma_neg=parameters["gneg"],
    )
    return HeadLoss(function, setup.pos_weight)


def build_bceblur(setup: Setup) -> HeadLoss:
    """Return the blurred cross-entropy."""
    return HeadLoss(partial(bce_blur_loss, alpha=setup.parameters["alpha"]), setup.pos_weight)


def build_efl(setup: Setup) -> HeadLoss:
    """Return the equalized focal loss."""
    return EqualizedFocalLoss(len(_counts(setup)), setup.world_sum, setup.pos_weight, setup.parameters)


def build_seesaw(setup: Setup) -> HeadLoss:
    """Return the seesaw loss, which counts on from the training set's instances."""
    return SeesawLoss(_counts(setup), setup.world_sum, setup.pos_weight, setup.parameters)


def build_logit_adjust(setup: Setup) -> HeadLoss:
    """Return the logit-adjusted loss."""
    return LogitAdjustedLoss(_counts(setup), setup.parameters["tau"], setup.pos_weight)


def build_softmax_focal(setup: Setup) -> HeadLoss:
    """Return the focal loss over softmax scores, which knows no pos weight."""
    return SoftmaxFocalLoss(setup.parameters["gamma"])


def _counts(setup: Setup) -> Tensor:
    if setup.class_counts is None:
        raise ValueError("class_counts, the training instances of each class, are missing; this class loss needs them")
    return setup.class_counts


BASE_LOSSES: dict[str, Callable[[Setup], HeadLoss]] = {
    "bce": build_bce,
    "focal": build_focal,
    "qfocal": build_qfocal,
    "varifocal": build_varifocal,
    "asl": build_asl,
    "biscale": build_biscale,
    "bceblur": build_bceblur,
    "efl": build_efl,
    "seesaw": build_seesaw,
    "logit_adjust": build_logit_adjust,
    "softmax_focal": build_softmax_focal,
}

RUNNING_LOSSES = ("efl", "seesaw")

# settings under which a loss is binary cross-entropy itself; the pos weight stays
NEUTRAL: dict[str, dict[str, Any]] = {
    "bce": {},
    "focal": {"gamma": 0, "alpha": None},
    "qfocal": {"gamma": 0, "alpha": None, "qtarget": "one"},
    "varifocal": {"gamma": 0, "alpha": 1, "vfl_weighted": False, "qtarget": "one"},
    "asl": {"gpos": 0, "gneg": 0, "clip": 0},
    "biscale": {"gpos": 0, "gneg": 0, "spos": 1, "sneg": 1},
    "efl": {"gamma": 0, "efl_scale": 0, "alpha": None},
    "seesaw": {"seesaw_p": 0, "seesaw_q": 0},
    "logit_adjust": {"tau": 0},
}


def is_neutral(name: str, parameters: Mapping[str, Any]) -> bool:
    """Return whether a loss with these parameters is binary cross-entropy."""
    neutral = NEUTRAL.get(name)
    return neutral is not None and all(parameters.get(key, value) == value for key, value in neutral.items())


def build_head_loss(
    hyp: Mapping[str, Any],
    head: str,
    class_counts: Tensor | Sequence[float] | None = None,
    world_sum: WorldSum | None = None,
    *,
    nc: int | None = None,
) -> HeadLoss:
    """Return the loss of a head as the hyperparameters choose it; with neutral settings BCE itself.

    ``<head>_loss`` picks from BASE_LOSSES (a composite name its base loss); without it ``fl_gamma`` decides: 0 is BCE,
    above 0 focal with alpha 0.25.

    Args:
        hyp: hyperparameters, an object or a plain dict.
        head: "cls" or "obj".
        class_counts: (nc,) training instances, which logit_adjust needs and seesaw counts on from.
        world_sum: sums a small tensor over all processes, for losses with running state; None for one process.
        nc: classes, which efl and seesaw need when there are no ``class_counts``.

    Raises:
        ValueError: an unknown loss name (plain dicts are not checked earlier), or ``class_counts`` is missing.
    """
    name, fl_gamma = hyp.get(f"{head}_loss"), hyp.get("fl_gamma") or 0.0
    pos_weight = hyp.get(f"{head}_pw")
    if name is None and fl_gamma > 0:
        return HeadLoss(partial(sigmoid_focal_loss, alpha=UPSTREAM_FOCAL_ALPHA, gamma=fl_gamma), pos_weight)
    allowed = CLS_LOSSES if head == "cls" else OBJ_LOSSES
    if name is not None and name not in allowed:
        raise ValueError(f"{head}_loss: {name!r} is not one of {', '.join(allowed)}")
    name, parameters = base_loss(name) or "bce", loss_parameters(hyp, head)
    if is_neutral(name, parameters):
        return BCELoss(pos_weight)
    counts = None if class_counts is None else torch.as_tensor(class_counts, dtype=torch.float32).cpu()
    if counts is None and nc is not None and name in RUNNING_LOSSES:
        counts = torch.zeros(nc)
    return BASE_LOSSES[name](Setup(parameters, pos_weight, counts, world_sum))
