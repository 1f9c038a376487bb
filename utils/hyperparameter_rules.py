"""How hyperparameters depend on each other: contradictions, and settings that have no effect beside the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from utils.balance.loss_names import (
    COUNT_BASED,
    FOCAL_ALPHA,
    HEADS,
    LOSS_KEYS,
    LOSS_PARAMETERS,
    SOFTMAX_LOSSES,
    base_loss,
    class_activation,
    expansion,
)
from utils.hyperparameter_table import Setting

DRAWING = ("sampler", "rare_paste")  # remedies that show rare classes more often
REPEATING = ("repeat_factor", "instance_repeat_factor")
READ_BY: dict[str, tuple[str, ...]] = {  # setting -> the samplers that read it
    "sampler_t": REPEATING,
    "sampler_reduce": REPEATING,
    "sampler_count": ("sqrt",),
    "sampler_bg": ("image_weights",),
}


def is_on(value: object) -> bool:
    """Return whether a setting's value switches something on."""
    return value not in (None, "none", 0, False)


def combination_problems(values: Mapping[str, Any]) -> list[str]:
    """Return a message per pair of settings that contradict each other; ``values`` holds every key, in range."""
    problems = [problem for head in HEADS for problem in _head_problems(values, head)]
    problems += _softmax_problems(values)
    start = values["cls_weights_start"]
    if start > 1 and start != int(start):
        problems.append(f"cls_weights_start: {start} is neither a whole epoch nor a fraction below 1")
    if values["sampler_len"] == "expand" and not is_on(values["sampler"]):
        problems.append("sampler_len: expand needs a sampler, sampler is none")
    begin, end = values["dyn_epochs"]
    if begin == end:
        problems.append(f"dyn_epochs: {values['dyn_epochs']} leaves no time to grow, expected two different fractions")
    return problems


def combination_problems_of_valid(values: Mapping[str, Any], known: Mapping[str, Setting]) -> list[str]:
    """Return combination problems beside other problems: values out of range count as their defaults."""
    usable = {key: values[key] if key in values and rule.accepts(values[key]) else rule.default
              for key, rule in known.items()}  # fmt: skip
    return combination_problems(usable)


def _head_problems(values: Mapping[str, Any], head: str) -> list[str]:
    name, alpha, weight = values[f"{head}_loss"], values[f"{head}_alpha"], values[f"{head}_pw"]
    problems = []
    if values["fl_gamma"] and name is not None:
        problems.append(
            f"fl_gamma: {values['fl_gamma']} and {head}_loss: {name} both choose the loss, set fl_gamma to 0"
        )
    base = base_loss(name)
    if base in FOCAL_ALPHA and alpha is not None and has_weight(weight):
        problems.append(f"{head}_alpha: {alpha} and {head}_pw: {weight} both weight positives, use only one")
    if base in FOCAL_ALPHA and base != "varifocal" and alpha == 1:
        problems.append(f"{head}_alpha: {alpha} gives {name} no negatives, allowed is below 1 (1 with varifocal alone)")
    return problems


def has_weight(weight: float | list[float]) -> bool:
    """Return whether a pos weight, one number or one per class, weights anything."""
    return any(value != 1 for value in (weight if isinstance(weight, (list, tuple)) else [weight]))


def _softmax_problems(values: Mapping[str, Any]) -> list[str]:
    name, wanted = values["cls_loss"], class_activation(values)
    problems = []
    if values["cls_act"] not in (None, wanted):
        problems.append(f"cls_act: {values['cls_act']} contradicts cls_loss: {name}, whose scores are {wanted}")
    if base_loss(name) in SOFTMAX_LOSSES:
        if has_weight(values["cls_pw"]):
            problems.append(f"cls_pw: {values['cls_pw']} has no meaning with cls_loss: {name}, allowed is 1")
        mode = values["cls_weights_mode"]
        if mode != "row":
            problems.append(f"cls_weights_mode: {mode} has no meaning with cls_loss: {name}, allowed is row")
    return problems


def effect_remarks(hyp: Mapping[str, Any], given: Mapping[str, Any], rules: Mapping[str, Setting]) -> list[str]:
    """Return a line per setting that was changed but has no effect, or corrects what another corrects already.

    Args:
        hyp: every setting.
        given: those that the user wrote.
        rules: the table of settings.
    """
    lines = []
    for key, rule in rules.items():
        if key not in given or hyp[key] == rule.default:
            continue
        if rule.needs and not any(is_on(hyp[need]) for need in rule.needs):
            lines.append(f"{key}: {hyp[key]} has no effect, {' and '.join(rule.needs)} {_are_off(rule.needs)}")
        elif (reason := _unread_by_loss(hyp, key) or _unread(hyp, key)) is not None:
            lines.append(f"{key}: {hyp[key]} has no effect {reason}")
    if is_on(hyp["album_rare"]) and not hyp["rare_aug_p"]:
        lines.append("album_rare has no effect, rare_aug_p is 0")
    if hyp["sampler_len"] == "expand" and hyp["sampler"] in ("class_balanced", "sqrt"):
        lines.append(
            f"sampler_len: expand makes epochs no longer with sampler: {hyp['sampler']}, whose weights are 1 on average"
        )
    loss = base_loss(hyp["cls_loss"])
    if loss in COUNT_BASED and is_on(hyp["cls_weights"]):
        lines.append(f"cls_loss: {loss} and cls_weights both correct the classes' frequencies")
    return lines


def _are_off(keys: tuple[str, ...]) -> str:
    return "are off" if len(keys) > 1 else "is off"


def _unread_by_loss(hyp: Mapping[str, Any], key: str) -> str | None:
    """Return why the parameter of a loss is not read, None when it is or when ``key`` is none."""
    head, _, suffix = key.partition("_")
    if head not in HEADS or suffix not in LOSS_KEYS:
        return None
    name = hyp[f"{head}_loss"]
    if name is None:
        return f"without {head}_loss"
    return None if suffix in LOSS_PARAMETERS[base_loss(name)] else f"with {head}_loss: {name}"


def _unread(hyp: Mapping[str, Any], key: str) -> str | None:
    """Return why a sampler, the class weights or a loss take no notice of a setting, None when they do."""
    sampler = hyp["sampler"]
    if key in READ_BY and is_on(sampler) and sampler not in READ_BY[key]:
        by_others = {"sampler_t": ("rare_paste", "album_rare"), "sampler_reduce": ("album_rare",)}.get(key, ())
        return None if any(is_on(hyp[other]) for other in by_others) else f"with sampler: {sampler}"
    if key == "cls_weights_beta" and hyp["cls_weights"] != "effective_number":
        return f"with cls_weights: {hyp['cls_weights']}"
    head, _, suffix = key.partition("_")
    if suffix == "fl_norm" and hyp[key] == "ema" and not hyp["fl_gamma"]:
        loss = base_loss(hyp[f"{head}_loss"]) or "bce"
        return f"with {head}_loss: {loss}, which keeps its scale by itself" if loss == "bce" else None
    return None


def class_remarks(given: Mapping[str, Any], hyp: Mapping[str, Any], rules: Mapping[str, Setting]) -> list[str]:
    """Return the settings of the class loss that were changed, which a single class leaves without effect."""
    of_class_loss = [key for key in given if key.startswith("cls_") or key == "label_weights"]
    return [key for key in of_class_loss if hyp[key] != rules[key].default]


def expansion_lines(names: Mapping[str, str]) -> list[str]:
    """Return a line per head whose loss has a composite name, with what it stands for.

    Args:
        names: head → loss as the user wrote it.
    """
    lines = []
    for head, name in names.items():
        parts = [f"{key} {value:g}" for key, value in expansion(name, head).items()]
        if parts:
            lines.append(f"{head}_loss: {name} stands for {base_loss(name)} with {', '.join(parts)}")
    return lines
