"""Post-hoc logit adjustment: class scores of a trained model corrected for how often it saw each class.

Menon et al., https://arxiv.org/abs/2007.07314, section 4.1: z'_j = z_j − τ·a_j with a_j = ln π_j − max_k ln π_k ≤ 0,
where π are the shares of the classes among the training boxes. The most frequent class stays as it is, rare ones rise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import InputError
from utils.logs import LOGGER

OPTION = "--cls-tau"
MAX_TAU = 2.0
BOX_COLUMNS = 5  # x, y, w, h, objectness


@dataclass(frozen=True)
class LogitAdjustment:
    """Corrects decoded class scores as if their logits had been corrected.

    Attributes:
        shift: (nc,) float32, −τ·a_j ≥ 0, what is added to the logits.
        softmax: the scores come from a softmax over the classes, not from a sigmoid for each.
    """

    shift: Tensor
    softmax: bool = False

    def scores(self, p: Tensor) -> Tensor:
        """Return the corrected scores (..., nc), float32, of scores p in 0 to 1.

        sigmoid(logit(p) + s) = p / (p + (1 − p)·e^−s); softmax(ln p + s) = p·e^s / Σ p·e^s.
        """
        p = p.float()
        shift = self.shift.to(p.device)
        if self.softmax:
            weighted = p * (shift - shift.max()).exp()
            return weighted / weighted.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return p / (p + (1 - p) * (-shift).exp())

    def __call__(self, output: Any) -> Any:
        """Return a model's output with its decoded predictions corrected.

        Args:
            output: (b, n, 5 + nc + nm) decoded predictions, or a tuple or list that begins with them.
        """
        if isinstance(output, (tuple, list)):
            return type(output)((self(output[0]), *output[1:]))
        end = BOX_COLUMNS + len(self.shift)
        scores = self.scores(output[..., BOX_COLUMNS:end]).to(output.dtype)
        return torch.cat((output[..., :BOX_COLUMNS], scores, output[..., end:]), -1)


def log_prior_offsets(counts: np.ndarray) -> np.ndarray:
    """Return a_j = ln n_j − max_k ln n_k (nc,) of training boxes n, of which a class counts at least one."""
    logs = np.log(np.maximum(np.asarray(counts, dtype=np.float64), 1.0))
    return logs - logs.max()


@contextlib.contextmanager
def adjusted(model: nn.Module, tau: float, data: Any = None) -> Iterator[None]:
    """Let a model give corrected predictions within the block; with τ = 0 it is left alone.

    Args:
        model: a detection model, or a backend that holds one or several.
        tau: τ, 0 to 2.
        data: data set YAML or mapping whose training labels are counted where the model does not tell its own.

    Raises:
        InputError: τ out of range, no class counts to be had, or a model that was trained with the adjustment.
    """
    adjustment = build_adjustment(model, tau, data)
    if adjustment is None:
        yield
        return
    handle = model.register_forward_hook(lambda _module, _arguments, output: adjustment(output))
    try:
        yield
    finally:
        handle.remove()


def build_adjustment(model: nn.Module, tau: float, data: Any = None) -> LogitAdjustment | None:
    """Return the adjustment of a model, None for τ = 0; arguments and errors as for ``adjusted``."""
    check_tau(tau)
    if tau == 0:
        return None
    members = _members(model)
    for member in members:
        _refuse_trained_adjustment(member, tau)
    known = [offsets for offsets in map(_stored_offsets, members) if offsets is not None]
    if len(known) == len(members):
        if any(not np.allclose(offsets, known[0], atol=1e-5) for offsets in known[1:]):
            raise InputError(f"{OPTION} {tau}: the models of the ensemble were trained on different class counts")
        offsets, source = known[0], "the checkpoint's training labels"
    else:
        offsets, source = _offsets_of_data(tau, data, dict(model.names)), f"the train labels of {_title(data)}"
    shifts = -tau * offsets + 0.0  # without negative zeros
    text = ", ".join(f"{name} {shift:+.3g}" for name, shift in zip(_ordered(model.names), shifts, strict=True))
    LOGGER.info(f"{OPTION} {tau:g}: class logits are shifted by the shares in {source}: {text}")
    return LogitAdjustment(torch.as_tensor(shifts, dtype=torch.float32), softmax=any(map(_is_softmax, members)))


def check_tau(tau: float) -> None:
    """Refuse a τ that is not from 0 to 2."""
    if not 0 <= tau <= MAX_TAU:
        raise InputError(f"{OPTION} {tau}: allowed is a number from 0 (off) to {MAX_TAU:g}")


# Facts of a model ----------------------------------------------------------------------------------------------------


def _members(model: nn.Module) -> list[nn.Module]:
    """Return the detection models within a model, backend or ensemble."""
    inner = model.model if hasattr(model, "fp16") else model
    return list(inner) if isinstance(inner, nn.ModuleList) else [inner]


def _refuse_trained_adjustment(member: nn.Module, tau: float) -> None:
    """Refuse a model whose training corrected the logits, and warn of one whose training favoured rare classes."""
    hyp = getattr(member, "hyp", None)
    hyp = hyp if isinstance(hyp, Mapping) else {}
    if hyp.get("cls_loss") == "logit_adjust" and hyp.get("cls_tau") != 0:
        raise InputError(
            f"{OPTION} {tau}: the model was trained with cls_loss: logit_adjust, which corrects the same; allowed is 0"
        )
    others = [key for key in ("cls_weights", "sampler") if hyp.get(key) not in (None, "none")]
    if others:
        LOGGER.warning(f"{OPTION} {tau}: the model was trained with {' and '.join(others)}, rare classes rise twice")


def _stored_offsets(member: nn.Module) -> np.ndarray | None:
    """Return a_j (nc,) by a checkpoint's ``class_weights``, which are proportional to 1/n, or None without them."""
    weights = getattr(member, "class_weights", None)
    if not isinstance(weights, Tensor) or weights.ndim != 1 or len(weights) != len(member.names):
        return None
    weights = weights.double().cpu().numpy()
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        return None
    return np.log(weights.min()) - np.log(weights)


def _is_softmax(member: nn.Module) -> bool:
    layers = getattr(member, "model", None)
    return isinstance(layers, nn.Sequential) and getattr(layers[-1], "cls_act", "sigmoid") == "softmax"


def _offsets_of_data(tau: float, data: Any, names: Mapping[int, str]) -> np.ndarray:
    """Return a_j (nc,) by the training labels of a data set with the model's classes."""
    from utils.balance.class_weights import class_counts
    from utils.dataset_yaml import check_dataset, find_images
    from utils.labels import scan_labels

    start = f"{OPTION} {tau}: the model does not tell the class counts of its training"
    if not data:
        raise InputError(f"{start}; name its data set with --data")
    try:
        facts = check_dataset(data, autodownload=False, splits=("train",))
    except InputError as error:
        raise InputError(f"{start}, and --data cannot be used: {str(error).splitlines()[0]}") from error
    if _ordered(facts["names"]) != _ordered(names):
        raise InputError(f"{start}, and --data {_title(data)} has other classes than the model; name its own data set")
    table = scan_labels(find_images(facts["train"]), nc=len(names), require_labels=True)
    return log_prior_offsets(class_counts(table.labels, len(names)))


def _ordered(names: Mapping[int, str]) -> list[str]:
    return [str(names[c]) for c in sorted(names)]


def _title(data: Any) -> str:
    return str(data) if isinstance(data, (str, Path)) else "the data set"
