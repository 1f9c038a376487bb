"""The losses that ``cls_loss`` and ``obj_loss`` choose from: which keys each reads, and what composite names stand for.

Plain data, so that settings can be checked without the losses themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADS = ("cls", "obj")

# loss -> what it reads beside the pos weight, with the values used when a key is absent
# (each key begins with the head's prefix: cls_gamma, obj_gamma)
LOSS_PARAMETERS: dict[str, dict[str, Any]] = {
    "bce": {},
    "focal": {"gamma": 1.5, "alpha": None},
    "qfocal": {"gamma": 2.0, "alpha": None, "qtarget": "one"},
    "varifocal": {"gamma": 2.0, "alpha": 0.75, "vfl_weighted": True, "qtarget": "iou"},
    "asl": {"gpos": 1.0, "gneg": 4.0, "clip": 0.05, "asl_detach": False},
    "biscale": {"spos": 1.0, "sneg": 1.0, "gpos": 1.0, "gneg": 2.0},
    "bceblur": {"alpha": 0.05},
    "efl": {"gamma": 2.0, "alpha": None, "efl_scale": 8.0},
    "seesaw": {"seesaw_p": 0.8, "seesaw_q": 2.0},
    "logit_adjust": {"tau": 1.0},
    "softmax_focal": {"gamma": 2.0},
}
CLASS_ONLY = ("efl", "seesaw", "logit_adjust", "softmax_focal")
SOFTMAX_LOSSES = ("softmax_focal",)
FOCAL_ALPHA = ("focal", "qfocal", "varifocal", "efl")  # whose alpha weights positives against negatives
COUNT_BASED = ("efl", "seesaw", "logit_adjust")  # which correct the classes' frequencies by themselves

# composite name -> the settings it stands for, beside the base loss `focal`; "{head}" is cls or obj
COMPOSITES: dict[str, dict[str, float]] = {
    "dynamic_focal": {"{head}_dyn": 1.0},
    "attention_focal": {"{head}_attn": 0.5},
    "boundary_focal": {"{head}_bnd": 1.0},
    "tversky_focal": {"{head}_tversky": 0.3},
    "improved_focal": {"hard_iou": 0.5, "hard_dist": 0.5, "hard_dens": 0.5},
}
COMPOSITE_BASE = "focal"

CLS_LOSSES = (*LOSS_PARAMETERS, *COMPOSITES)
OBJ_LOSSES = tuple(name for name in CLS_LOSSES if name not in CLASS_ONLY)
LOSS_KEYS = sorted({key for keys in LOSS_PARAMETERS.values() for key in keys})


def base_loss(name: str | None) -> str | None:
    """Return the base loss of a name, the name itself unless it is composite; None stays None."""
    return COMPOSITE_BASE if name in COMPOSITES else name


def expansion(name: str | None, head: str) -> dict[str, float]:
    """Return the settings that a composite name stands for on a head, {} for other names."""
    return {key.format(head=head): value for key, value in COMPOSITES.get(name or "", {}).items()}


def expanded(hyp: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the changes that turn composite names into their base loss and modifiers; {} without such names.

    Args:
        hyp: settings, a plain dict or an object read before.
        given: the settings that the user wrote, which an expansion leaves alone; ``hyp`` itself by default.
    """
    given = hyp if given is None else given
    changes: dict[str, Any] = {}
    for head in HEADS:
        name = hyp.get(f"{head}_loss")
        if name in COMPOSITES:
            changes[f"{head}_loss"] = COMPOSITE_BASE
            changes.update({key: value for key, value in expansion(name, head).items() if key not in given})
    return changes


def loss_parameters(hyp: Mapping[str, Any], head: str) -> dict[str, Any]:
    """Return the resolved parameters of a head's loss without the head's prefix, e.g. {"gamma": 1.5, "alpha": None}.

    Args:
        hyp: settings; keys that are absent or null take the loss's own values.
        head: "cls" or "obj".
    """
    defaults = LOSS_PARAMETERS[base_loss(hyp.get(f"{head}_loss")) or "bce"]
    values = {key: hyp.get(f"{head}_{key}") for key in defaults if f"{head}_{key}" != "obj_qtarget"}
    return {key: defaults[key] if value is None else value for key, value in values.items()}


def class_activation(hyp: Mapping[str, Any]) -> str:
    """Return how class logits become scores under these settings: "sigmoid" or "softmax"."""
    name = hyp.get("cls_loss")
    return "softmax" if isinstance(name, str) and base_loss(name) in SOFTMAX_LOSSES else "sigmoid"
