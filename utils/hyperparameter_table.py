"""What one hyperparameter may hold: its meaning, type, range and choices, and the check of a value against them."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np

SETTING = "setting"  # key of a dataclass field's metadata
EXPONENT_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")  # YAML 1.1 reads 1e-3 as text
PIPELINE_ITEM = "augmentations, each 'Name: probability' or 'Name: {argument: value}'"
NEAR = 0.6  # similarity from which a known name is offered for an unknown one

# names that other versions and tools use, with what they are called here
RENAMED = {
    "giou": "box",
    "class_weights": "cls_weights",
    "cls_loss_weight": "cls_weights",
    "pos_weight": "cls_pw",
    "sampling": "sampler",
    "oversample": "sampler",
    "oversampling": "sampler",
    "class_balanced": "sampler",
    "image_weights": "--image-weights (an option of train.py), or sampler: image_weights",
    "focal": "cls_loss: focal",
    "focal_loss": "cls_loss: focal",
    "weights": "cls_weights",
    "cls_weight": "cls_weights",
    "focal_gamma": "fl_gamma",
    "gamma": "cls_gamma",
    "alpha": "cls_alpha",
    "rect": "--rect (an option of train.py)",
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """The rule for one key of a hyperparameter file.

    Args:
        meaning: one line for the reader.
        default: value when the key is absent.
        required: a training file must hold the key.
        low, high: bounds of numbers, inclusive unless ``open_low`` / ``open_high``.
        numeric: numbers are allowed.
        whole: numbers must be whole.
        words: strings that are allowed.
        null: null is allowed.
        listed: a list of such numbers is allowed (one per class).
        mapped: a mapping from class name to such a number is allowed.
        pair: a list of two such numbers is allowed, the first not above the second.
        flag: true and false are allowed.
        text: any text is allowed, described by this word, e.g. "a path".
        pipeline: a list of augmentations is allowed, each a name with a probability or a mapping of arguments.
        pipelines: a mapping from class name to such a list is allowed.
        needs: keys of which one must be on for this one to have any effect.
        evolution: (mutation scale, low, high) for hyperparameter evolution; None keeps the value.
    """

    meaning: str
    default: Any = None
    required: bool = False
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    numeric: bool = True
    whole: bool = False
    words: tuple[str, ...] = ()
    null: bool = False
    listed: bool = False
    mapped: bool = False
    pair: bool = False
    flag: bool = False
    text: str = ""
    pipeline: bool = False
    pipelines: bool = False
    needs: tuple[str, ...] = ()
    evolution: tuple[float, float, float] | None = None

    @property
    def allowed(self) -> str:
        """Return what the key accepts, in words."""
        kind = "a whole number" if self.whole else "a number"
        forms = {
            f"{kind} {self.range_text}": self.numeric,
            f"a list of one number {self.range_text} per class": self.listed,
            f"a mapping of class names to numbers {self.range_text}": self.mapped,
            f"two rising numbers {self.range_text}": self.pair,
            "true or false": self.flag,
            self.text: bool(self.text),
            " | ".join(self.words): bool(self.words),
            f"a list of {PIPELINE_ITEM}": self.pipeline,
            f"a mapping of class names to lists of {PIPELINE_ITEM}": self.pipelines,
            "null": self.null,
        }
        parts = [text for text, allowed in forms.items() if allowed]
        return " or ".join(parts)

    @property
    def range_text(self) -> str:
        """Return the range of numbers in words."""
        low = f"{'above' if self.open_low else 'from'} {self.low:g}" if self.low > -math.inf else ""
        high = f"{'below' if self.open_high else 'to'} {self.high:g}" if self.high < math.inf else ""
        if low and not high and not self.open_low:
            return f"of at least {self.low:g}"
        return " ".join(filter(None, (low, high)))

    def accepts_number(self, value: object) -> bool:
        """Return whether ``value`` is a finite number in range; booleans are not numbers."""
        if isinstance(value, bool) or not isinstance(value, Real) or not is_finite(value):
            return False
        if self.whole and value != int(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def accepts(self, value: object) -> bool:
        """Return whether ``value`` is of an allowed type and in range."""
        if value is None:
            return self.null
        if isinstance(value, bool):
            return self.flag
        if isinstance(value, str):
            return value in self.words or bool(self.text and value.strip())
        if isinstance(value, Mapping):
            return self._accepts_mapping(value)
        if isinstance(value, (list, tuple)):
            return self._accepts_list(value)
        return self.numeric and self.accepts_number(value)

    def _accepts_mapping(self, value: Mapping) -> bool:
        if self.pipelines:
            return bool(value) and all(map(is_pipeline, value.values()))
        return self.mapped and bool(value) and all(map(self.accepts_number, value.values()))

    def _accepts_list(self, value: list | tuple) -> bool:
        if self.pipeline:
            return is_pipeline(value)
        if not value or not all(map(self.accepts_number, value)):
            return False
        return self.listed or (self.pair and len(value) == 2 and value[0] <= value[1])


def is_pipeline(value: object) -> bool:
    """Return whether ``value`` is a list of {name: probability or {argument: value}}, or of bare names."""
    return isinstance(value, (list, tuple)) and all(map(_is_pipeline_item, value))


def _is_pipeline_item(item: object) -> bool:
    if isinstance(item, str):
        return bool(item)
    if not isinstance(item, Mapping) or len(item) != 1:
        return False
    ((name, setting),) = item.items()
    probability = isinstance(setting, Real) and not isinstance(setting, bool) and 0 <= setting <= 1
    arguments = isinstance(setting, Mapping) and all(isinstance(key, str) for key in setting)
    return isinstance(name, str) and (probability or arguments)


def number(default: float | None, meaning: str, **rule: Any) -> Any:  # noqa: ANN401
    """Return a dataclass field for a number; ``rule`` holds further fields of Setting."""
    return _field(Setting(meaning, default, **{"null": default is None, **rule}))


def gain(default: float, meaning: str, **rule: Any) -> Any:  # noqa: ANN401
    """Return a dataclass field for a number of at least 0."""
    return number(default, meaning, low=0.0, **rule)


def fraction(default: float, meaning: str, **rule: Any) -> Any:  # noqa: ANN401
    """Return a dataclass field for a probability or another number from 0 to 1."""
    return number(default, meaning, low=0.0, high=1.0, **rule)


def choice(default: str | None, meaning: str, *words: str, **rule: Any) -> Any:  # noqa: ANN401
    """Return a dataclass field for one of the words (or null, when that is the default)."""
    rule = {"numeric": False, "null": default is None, **rule}
    return _field(Setting(meaning, default, words=words, **rule))


def switch(default: bool | None, meaning: str, **rule: Any) -> Any:  # noqa: ANN401, FBT001
    """Return a dataclass field for true or false."""
    return _field(Setting(meaning, default, numeric=False, flag=True, null=default is None, **rule))


def other(default: object, meaning: str, **rule: Any) -> Any:  # noqa: ANN401
    """Return a dataclass field whose ``rule`` says everything; no single numbers."""
    return _field(Setting(meaning, default, numeric=False, null=default is None, **rule))


def _field(setting: Setting) -> Any:  # noqa: ANN401
    default = setting.default
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata={SETTING: setting})
    return dataclasses.field(default=default, metadata={SETTING: setting})


@functools.cache
def settings_of(cls: type) -> dict[str, Setting]:
    """Return the rules of a dataclass's fields, in order; the mapping is shared, do not change it."""
    return {f.name: f.metadata[SETTING] for f in dataclasses.fields(cls) if SETTING in f.metadata}


def plain_number(value: Any) -> Any:  # noqa: ANN401
    """Return text such as '1e-3' and numpy numbers as plain numbers, also inside lists and mappings."""
    if isinstance(value, str) and EXPONENT_NUMBER.fullmatch(value.strip()):
        return float(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain_number(v) for v in value]
    if isinstance(value, Mapping):
        return {k: plain_number(v) for k, v in value.items()}
    return value


def is_finite(value: Real) -> bool:
    """Return whether a number is finite and not beyond what a float holds."""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def nearest_name(name: object, known: Iterable[object]) -> str | None:
    """Return the known name that ``name`` most likely means, or None when nothing is close."""
    by_text = {str(k).lower(): str(k) for k in known}
    matches = difflib.get_close_matches(str(name).lower(), by_text, n=1, cutoff=NEAR)
    return by_text[matches[0]] if matches else None


def unknown_key_problem(name: object, known: Iterable[str]) -> str:
    """Return the message for a key that nothing reads, with the likely meaning."""
    offer = RENAMED.get(str(name)) or nearest_name(name, known)
    hint = f"did you mean '{offer}'?" if offer else "docs/class-balance.md lists every key that is allowed"
    return f"unknown key '{name}': {hint}"


def value_problems(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> list[str]:
    """Return one message per value of a wrong type or out of range."""
    return [
        f"{name}: {_shown(value)} is not allowed, expected {settings[name].allowed}"
        for name, value in values.items()
        if not settings[name].accepts(value)
    ]


def class_names(names: Mapping[int, str] | Iterable[str]) -> list[str]:
    """Return class names ordered by class number."""
    return [str(names[i]) for i in sorted(names)] if isinstance(names, Mapping) else [str(name) for name in names]


def weights_problems(key: str, weights: object, names: list[str], nc: int) -> list[str]:
    """Return a message per class name that the data set lacks, or one for a list of the wrong length."""
    if isinstance(weights, Mapping):
        offers = {name: nearest_name(name, names) for name in weights if str(name) not in names}
        return [
            f"{key}: unknown class '{name}', " + (f"did you mean '{offer}'?" if offer else f"classes: {_listed(names)}")
            for name, offer in offers.items()
        ]
    if isinstance(weights, (list, tuple)) and len(weights) != nc:
        return [f"{key}: {len(weights)} values for {nc} classes ({_listed(names)})"]
    return []


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
