"""The class balance settings of a hyp file as classification uses them: which count, and which have no meaning here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.errors import InputErrors
from utils.hyperparameter_table import settings_of, unknown_key_problem
from utils.hyperparameters import Hyperparameters
from utils.logs import LOGGER

# cls_loss -> its form over softmax scores
LOSSES = {None: "cross_entropy", "bce": "cross_entropy", "focal": "focal", "softmax_focal": "focal",
          "logit_adjust": "logit_adjust"}  # fmt: skip
USED = frozenset({
    "cls_loss", "cls_gamma", "cls_tau", "cls_weights", "cls_weights_beta", "cls_weights_power", "cls_weights_max",
    "cls_weights_norm", "cls_weights_start", "sampler", "sampler_t", "sampler_count", "sampler_len",
})  # fmt: skip
NOT_HERE = {"cls_weights_mode": ("row",), "sampler": (
    "none", None, "repeat_factor", "instance_repeat_factor", "class_balanced", "sqrt", "image_weights")}  # fmt: skip


def balance_settings(hyp: str | Path | dict[str, Any] | None) -> Hyperparameters:
    """Return the settings of ``--hyp``: a whole hyp file of detection, or its class balance keys alone.

    Keys without meaning for whole images (boxes, objectness, mosaics, augmentation) are named in the log when they
    differ from their default.

    Raises:
        InputErrors: unknown keys, values out of range, or a loss that has no form over softmax scores.
    """
    from utils.yaml_files import read_yaml

    mapping = {} if hyp is None else hyp if isinstance(hyp, dict) else read_yaml(hyp)
    source = str(hyp) if isinstance(hyp, (str, Path)) else "hyp"
    known = settings_of(Hyperparameters)
    problems = [f"{source}: {unknown_key_problem(key, known)}" for key in mapping if key not in known]
    if problems:
        raise InputErrors(problems)
    settings = Hyperparameters.from_dict(mapping, source, strict=False)
    if settings["cls_loss"] not in LOSSES:
        allowed = ", ".join(name for name in LOSSES if name)
        problems.append(f"{source}: cls_loss {settings['cls_loss']}: allowed with classification are {allowed}")
    for key, values in NOT_HERE.items():
        if settings[key] not in values:
            problems.append(f"{source}: {key} {settings[key]}: allowed with classification is {values[0]}")
    if problems:
        raise InputErrors(problems)
    unused = [
        key for key in mapping
        if key not in USED and not known[key].required and settings[key] not in (known[key].default, None)
    ]  # fmt: skip
    if unused:
        LOGGER.warning(f"WARNING {source}: without effect on classification: {', '.join(unused)}")
    if hyp is not None and any(known[key].required for key in mapping):
        LOGGER.info(f"{source}: the class balance keys alone are used; rates, loss gains and augmentation are not")
    return Hyperparameters.from_dict({key: mapping[key] for key in mapping if key in USED}, source, strict=False)


def is_balanced(settings: Hyperparameters) -> bool:
    """Whether any class balance setting is on."""
    return (
        LOSSES[settings["cls_loss"]] != "cross_entropy"
        or settings["cls_weights"] is not None
        or settings["sampler"] not in {None, "none"}
    )
