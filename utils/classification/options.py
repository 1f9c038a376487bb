"""Options of the classification commands: checked together, before work."""

from __future__ import annotations

import argparse
from typing import Any

from utils.errors import InputError, InputErrors

_SWITCHES = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def as_switch(option: str, value: Any) -> bool:
    """Return the meaning of an option that is given as ``--option``, ``--option True`` or ``--option False``.

    Raises:
        InputError: another word.
    """
    meaning = value if isinstance(value, bool) else _SWITCHES.get(str(value).lower())
    if meaning is None:
        raise InputError(f"--{option} {value}: allowed are True and False")
    return meaning


def check_options(opt: argparse.Namespace) -> None:
    """Check the options of classify/train.py that other commands do not have.

    Raises:
        InputErrors: all problems together, one line each.
    """
    problems = []
    for name, low, high in (("lr0", 0, 10), ("decay", 0, 1), ("dropout", 0, 1)):
        value = getattr(opt, name)
        if value is not None and not low <= value <= high:
            problems.append(f"--{name} {value}: allowed are {low} to {high}")
    if opt.cutoff is not None and opt.cutoff < 2:
        problems.append(f"--cutoff {opt.cutoff}: allowed are 2 and more layers")
    if opt.cache not in {None, False, "ram", "disk"}:
        problems.append(f"--cache {opt.cache}: allowed are ram and disk")
    if opt.batch_size < 1:
        problems.append(f"--batch-size {opt.batch_size}: allowed are whole numbers of at least 1")
    if not str(opt.model):
        problems.append("--model '': allowed are a checkpoint (.pt), a model YAML or a model of torchvision")
    if problems:
        raise InputErrors(problems)
