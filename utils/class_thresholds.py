"""A confidence threshold for each class: read from an option, found from an evaluation, kept in thresholds.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import InputError, InputErrors, MissingFileError
from utils.hyperparameter_table import nearest_name, plain_number
from utils.yaml_files import parse_yaml, read_yaml, write_yaml

OPTION = "--class-thres"
FORMS = "a list like 0.3,0.5, a mapping like coupling=0.2,bolt=0.4, or a thresholds.yaml"
FILE_ENDINGS = (".yaml", ".yml")
SHOWN_NAMES = 20
DECIMALS = range(3, 11)  # of a found threshold: as few as tell it from its neighbours

ClassThres = str | Path | Sequence[float] | Mapping[Any, float] | None

# From the option ---------------------------------------------------------------------------------------------------


def class_thresholds(value: ClassThres, names: Mapping[int, str], conf_thres: float) -> torch.Tensor | None:
    """Return the smallest confidence of each class, float32 (nc,), or None when ``value`` is None or ''.

    Args:
        value: one number per class in the order of ``names``; or a mapping from class names (or numbers that are no
            name) to numbers; as such, as text, or in a YAML file that holds a mapping.
        names: class number -> name.
        conf_thres: for the classes that a mapping does not name.

    Raises:
        MissingFileError: no such file.
        InputErrors: every problem of the value, one line each.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    given, source = _parse(value)
    order = sorted(names)
    if isinstance(given, Mapping):
        numbers, problems = _numbers_of(given, names, source)
    elif len(given) == len(order):
        numbers, problems = dict(zip(order, given, strict=True)), []
    else:
        hint = "; --conf-thres is for all classes" if len(given) == 1 else ""
        problems = [f"{source}: {len(given)} values for {len(order)} classes ({_listed(names)}){hint}"]
        numbers = {}
    problems += [
        f"{source}: {names[c]} is {threshold!r}, allowed are 0.0 to 1.0"
        for c, threshold in numbers.items()
        if not _is_threshold(threshold)
    ]
    if problems:
        raise InputErrors(problems)
    return torch.tensor([float(numbers.get(c, conf_thres)) for c in order], dtype=torch.float32)


def _parse(value: Any) -> tuple[Mapping[Any, Any] | list[Any], str]:
    """Return the thresholds as given, and what error messages name."""
    if isinstance(value, Path) or (isinstance(value, str) and value.lower().endswith(FILE_ENDINGS)):
        if not Path(value).exists():
            raise MissingFileError(f"{OPTION} {value}: no such file")
        return plain_number(read_yaml(value)), f"{OPTION} {value}"
    if isinstance(value, str):
        value = _from_text(value.strip())
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, (Mapping, list, tuple)) or not value:
        raise InputError(f"{OPTION} {value!r}: allowed is {FORMS}")
    return plain_number(value), OPTION


def _from_text(text: str) -> Any:
    """Return the list or mapping that a command line's text holds."""
    if text[0] in "{[":
        return parse_yaml(text, OPTION)
    if "=" not in text:
        numbers = [_number(part) for part in text.split(",")]
        if not all(isinstance(number, float) for number in numbers):
            raise InputError(f"{OPTION} {text}: allowed is {FORMS}")
        return numbers
    pairs = [part.rpartition("=") for part in text.split(",")]
    thresholds = {name.strip(): _number(number) for name, _, number in pairs}
    if "" in thresholds or len(thresholds) < len(pairs):
        raise InputError(f"{OPTION} {text}: allowed is name=number for each class once, separated by commas")
    return thresholds


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()  # refused later, by the name of its class


def _numbers_of(given: Mapping[Any, Any], names: Mapping[int, str], source: str) -> tuple[dict[int, Any], list[str]]:
    """Return thresholds by class number, and a problem per key that is no class or a class named before."""
    by_name: dict[str, list[int]] = {}
    for number, name in names.items():
        by_name.setdefault(str(name), []).append(number)
    numbers: dict[int, Any] = {}
    problems = []
    for key, threshold in given.items():
        found = by_name.get(str(key)) or [c for c in names if str(c) == str(key)]
        if not found:
            near = nearest_name(key, by_name)
            hint = f"did you mean '{near}'?" if near else f"classes: {_listed(names)}"
            problems.append(f"{source}: unknown class '{key}', {hint}")
        for c in found:
            if c in numbers:
                problems.append(f"{source}: class '{names[c]}' is given twice, by name and by number")
            numbers[c] = threshold
    return numbers, problems


def _is_threshold(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 <= value <= 1  # false for NaN


def _listed(names: Mapping[int, str]) -> str:
    shown = [str(names[c]) for c in sorted(names)]
    return ", ".join(shown[:SHOWN_NAMES]) + (", ..." if len(shown) > SHOWN_NAMES else "")


# From an evaluation ------------------------------------------------------------------------------------------------


def best_thresholds(
    correct: np.ndarray, conf: np.ndarray, pred_cls: np.ndarray, classes: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return the threshold (k,) at which F1 = 2 tp / (detections + labels) of each class is best.

    F1 changes at the detections' confidences only. Of equally good thresholds the highest counts: just below the least
    confident detection that is kept, since detections must lie above their threshold.

    Args:
        correct: bool (n,), which detections are right at IoU 0.5.
        conf: (n,) confidences.
        pred_cls: (n,) classes.
        classes: (k,) the classes to look at.
        labels: (k,) labels of each.

    Returns:
        float64 (k,); NaN for a class of which no detection is right.
    """
    order = np.lexsort((-conf, pred_cls))
    correct, conf, pred_cls = correct[order], conf[order], pred_cls[order]
    starts, ends = (np.searchsorted(pred_cls, classes, side) for side in ("left", "right"))
    runs = zip(starts, ends, labels, strict=True)
    return np.array([_best_threshold(correct[a:b], conf[a:b], count) for a, b, count in runs], dtype=np.float64)


def _best_threshold(correct: np.ndarray, conf: np.ndarray, labels: int) -> float:
    """Return the best threshold of one class, its detections (n,) by falling confidence."""
    if not correct.any():
        return math.nan
    last = np.flatnonzero(np.append(conf[1:] < conf[:-1], True))  # equal ones are kept or dropped together
    f1 = 2 * correct.cumsum()[last] / (last + 1 + labels)
    best = int(f1.argmax())
    below = conf[last[best] + 1] if best + 1 < len(last) else 0.0
    return _short_number(np.float32(below), np.float32(conf[last[best]]))


def _short_number(low: np.float32, high: np.float32) -> float:
    """Return the number of fewest decimals in [low, high), as float32 compares, and for that many the greatest."""
    for decimals in DECIMALS:
        steps = math.ceil(float(high) * 10**decimals)
        for number in (steps / 10**decimals, (steps - 1) / 10**decimals, (steps - 2) / 10**decimals):
            if low <= np.float32(number) < high:
                return number
    return float(np.nextafter(high, np.float32(0)))


def save_thresholds(path: str | Path, thresholds: Mapping[int, float], names: Mapping[int, str], origin: str) -> None:
    """Write a thresholds.yaml that --class-thres reads.

    Args:
        path: the file.
        thresholds: class number -> threshold; NaN or missing where none could be found.
        names: class number -> name.
        origin: run and data that the thresholds are from, for the comment.

    Raises:
        WorkError: it cannot be written.
    """
    found = {c: float(t) for c, t in sorted(thresholds.items()) if c in names and not math.isnan(t)}
    unique = len(set(names.values())) == len(names)
    left_out = [str(names[c]) for c in sorted(names) if c not in found]
    comment = [f"Confidence threshold with the best F1 at IoU 0.5 of each class, for {OPTION}.", f"From {origin}"]
    if left_out:
        comment.append(f"Without a right detection, --conf-thres holds: {', '.join(left_out)}")
    write_yaml(path, {str(names[c]) if unique else c: t for c, t in found.items()}, comment=comment)
