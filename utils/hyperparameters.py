"""Hyperparameters: read once from YAML, checked as a whole, frozen afterwards.

The dataclass below is the one table of every key: default, meaning, range. A key that nothing here declares is an
error. `Hyperparameters` also reads like a mapping (``hyp["box"]``), so code that takes upstream's plain dict takes
it too.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.errors import InputErrors
from utils.hyperparameter_table import (
    choice,
    class_names,
    combination_problems,
    combination_problems_of_valid,
    fraction,
    gain,
    number,
    plain_number,
    settings_of,
    unknown_key_problem,
    value_problems,
    weights_problems,
)
from utils.logs import LOGGER
from utils.yaml_files import read_yaml

NOMINAL_CLASSES, NOMINAL_LAYERS, NOMINAL_SIZE = 80, 3, 640  # what the gains of a file are meant for
WEIGHT_SCHEMES = ("inverse", "sqrt_inverse", "effective_number", "median_frequency")
BASE_LOSSES = ("bce", "focal")
POSITIVE = {"low": 0.0, "open_low": True}
INSIDE = {"low": 0.0, "high": 1.0, "open_low": True, "open_high": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Every setting of a hyp file, in range and consistent; see the module's first lines."""

    # fmt: off
    # optimisation
    lr0: float = gain(0.01, "learning rate after warm-up", required=True, evolution=(1, 1e-5, 1e-1))
    lrf: float = gain(0.01, "last learning rate as a fraction of lr0", required=True, evolution=(1, 0.01, 1.0))
    momentum: float = number(0.937, "SGD momentum, Adam's beta1", required=True, **INSIDE, evolution=(0.3, 0.6, 0.98))
    weight_decay: float = gain(0.0005, "weight decay at batch 64", required=True, evolution=(1, 0.0, 0.001))
    warmup_epochs: float = gain(3.0, "length of the warm-up in epochs", required=True, evolution=(1, 0.0, 5.0))
    warmup_momentum: float = gain(
        0.8, "momentum at the first step", high=1.0, open_high=True, required=True, evolution=(1, 0.0, 0.95))
    warmup_bias_lr: float = gain(0.1, "learning rate of biases at the first step", required=True, evolution=(1, 0, 0.2))

    # loss
    box: float = gain(0.05, "gain of the box loss", required=True, evolution=(1, 0.02, 0.2))
    cls: float = gain(0.5, "gain of the class loss", required=True, evolution=(1, 0.2, 4.0))
    cls_pw: float | list[float] = number(
        1.0, "weight of positives in the class loss", required=True, listed=True, **POSITIVE, evolution=(1, 0.5, 2.0))
    obj: float = gain(1.0, "gain of the objectness loss", required=True, evolution=(1, 0.2, 4.0))
    obj_pw: float = number(
        1.0, "weight of positives in the objectness loss", required=True, **POSITIVE, evolution=(1, 0.5, 2.0))
    iou_t: float = fraction(0.2, "IoU threshold, kept for old files, unused", required=True, evolution=(0, 0.1, 0.7))
    anchor_t: float = number(
        4.0, "largest ratio of box and anchor sides that still match", low=1.0, open_low=True, required=True,
        evolution=(1, 2.0, 8.0))
    anchors: float | None = number(
        None, "anchors per output layer, found anew; absent or 0 keeps the model's", low=0.0, evolution=(2, 2.0, 10.0))
    fl_gamma: float = gain(
        0.0, "focal gamma on both heads (alpha 0.25), 0 is off", high=5.0, required=True, evolution=(0, 0.0, 2.0))
    label_smoothing: float = fraction(0.0, "label smoothing of the class targets")

    # augmentation
    hsv_h: float = fraction(0.015, "hue change, fraction", required=True, evolution=(1, 0.0, 0.1))
    hsv_s: float = fraction(0.7, "saturation change, fraction", required=True, evolution=(1, 0.0, 0.9))
    hsv_v: float = fraction(0.4, "brightness change, fraction", required=True, evolution=(1, 0.0, 0.9))
    degrees: float = gain(0.0, "rotation, +- degrees", high=180.0, required=True, evolution=(1, 0.0, 45.0))
    translate: float = fraction(0.1, "shift, +- fraction of the image", required=True, evolution=(1, 0.0, 0.9))
    scale: float = fraction(0.5, "zoom, +- factor", required=True, evolution=(1, 0.0, 0.9))
    shear: float = gain(0.0, "shear, +- degrees", high=90.0, open_high=True, required=True, evolution=(1, 0.0, 10.0))
    perspective: float = gain(
        0.0, "perspective, +- fraction; 0.001 is strong", high=0.1, required=True, evolution=(0, 0.0, 0.001))
    flipud: float = fraction(0.0, "probability of an upside-down flip", required=True, evolution=(1, 0.0, 1.0))
    fliplr: float = fraction(0.5, "probability of a left-right flip", required=True, evolution=(0, 0.0, 1.0))
    mosaic: float = fraction(1.0, "probability of a four-image mosaic", required=True, evolution=(1, 0.0, 1.0))
    mixup: float = fraction(0.0, "probability of blending two mosaics", required=True, evolution=(1, 0.0, 1.0))
    copy_paste: float = fraction(0.0, "share of polygons pasted again", required=True, evolution=(1, 0.0, 1.0))

    # class balance: base losses
    cls_loss: str | None = choice(None, "class loss; null leaves it to fl_gamma", *BASE_LOSSES)
    cls_gamma: float = gain(1.5, "focal gamma of the class head", high=5.0, needs="cls_loss")
    cls_alpha: float | None = number(None, "focal alpha of the class head, null is off", **INSIDE, needs="cls_loss")
    obj_loss: str | None = choice(None, "objectness loss; null leaves it to fl_gamma", *BASE_LOSSES)
    obj_gamma: float = gain(1.5, "focal gamma of the objectness head", high=5.0, needs="obj_loss")
    obj_alpha: float | None = number(
        None, "focal alpha of the objectness head, null is off", **INSIDE, needs="obj_loss")

    # class balance: weights
    cls_weights: str | list[float] | dict[str, float] | None = choice(
        None, "weights per class", *WEIGHT_SCHEMES, listed=True, mapped=True, **POSITIVE)
    cls_weights_beta: float = fraction(0.999, "beta of effective_number", open_high=True, needs="cls_weights")
    cls_weights_power: float = fraction(1.0, "power applied to the weights", needs="cls_weights")
    cls_weights_max: float | None = number(
        10.0, "largest weight, in units of the smallest; null is no limit", low=1.0, null=True, needs="cls_weights")
    cls_weights_norm: str = choice(
        "auto", "what is kept: the expected loss or the mean", "auto", "instance", "class", "none", needs="cls_weights")
    cls_weights_mode: str = choice("row", "which terms of a matched anchor are weighted", "row", needs="cls_weights")
    cls_weights_start: float = gain(
        0.0, "epoch (1 and above) or fraction of the run from which they hold", needs="cls_weights")

    # class balance: which images are drawn
    sampler: str = choice("none", "how training images are drawn", "none", "repeat_factor", null=True)
    sampler_t: float | str = choice(
        "auto", "image share below which a class is repeated", "auto", numeric=True, **POSITIVE, high=1.0,
        needs="sampler")
    sampler_reduce: str = choice("max", "factor of an image with several classes", "max", "mean", needs="sampler")
    sampler_len: str = choice("fixed", "draws per epoch: number of images, or more", "fixed", "expand", needs="sampler")
    # fmt: on

    def __post_init__(self) -> None:
        """Check everything; a setting that a caller leaves at its default counts as not given unless required."""
        object.__setattr__(self, "_given", self._values_beyond_defaults())
        problems = self._problems()
        if problems:
            raise InputErrors(problems)

    @classmethod
    def load(cls, path: str | Path) -> Hyperparameters:
        """Return the hyperparameters of a YAML file and log settings that have no effect.

        Raises:
            InputError: the file is missing or not plain YAML.
            InputErrors: unknown or missing keys, wrong types, ranges or combinations, all together.
        """
        hyp = cls.from_dict(read_yaml(path), source=str(path))
        for remark in hyp.remarks():
            LOGGER.warning("WARNING %s: %s", path, remark)
        return hyp

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], source: str = "hyp", strict: bool = True) -> Hyperparameters:
        """Return the hyperparameters of a mapping.

        Args:
            mapping: key → value; text such as '1e-3' counts as a number.
            source: what the error messages name, e.g. the file.
            strict: False is for checkpoints of any age: missing keys take defaults, unknown keys are logged and left.

        Raises:
            InputErrors: every problem of the mapping, one line each.
        """
        known = settings_of(cls)
        values = {key: plain_number(value) for key, value in mapping.items() if key in known}
        unknown = [key for key in mapping if key not in known]
        problems = []
        if strict:
            problems += [unknown_key_problem(key, known) for key in unknown]
            missing = [key for key, setting in known.items() if setting.required and key not in values]
            problems += [f"{key} missing: {known[key].meaning}, {known[key].allowed}" for key in missing]
        elif unknown:
            LOGGER.info("%s: settings unknown here are left out: %s", source, ", ".join(map(str, unknown)))
        problems += value_problems(values, known)
        if problems:
            problems += combination_problems_of_valid(values, known)
            raise InputErrors(f"{source}: {problem}" for problem in problems)
        return cls._build(values, source)

    @classmethod
    def _build(cls, values: Mapping[str, Any], source: str) -> Hyperparameters:
        try:
            hyp = cls(**copy.deepcopy(dict(values)))
        except InputErrors as error:
            raise InputErrors(f"{source}: {problem}" for problem in error.problems) from None
        object.__setattr__(hyp, "_given", copy.deepcopy(dict(values)))
        return hyp

    def to_dict(self) -> dict[str, Any]:
        """Return the keys that were given, in their order and with their values as read."""
        return copy.deepcopy(self._given)

    def replace(self, **changes: Any) -> Hyperparameters:  # noqa: ANN401
        """Return a copy with changed values, checked again.

        Raises:
            InputErrors: an unknown key or a value that is not allowed.
        """
        return self.from_dict({**self._all_values(), **changes})._with_given({**self._given, **changes})

    def scaled(self, nc: int, nl: int, imgsz: int) -> Hyperparameters:
        """Return a copy whose gains fit the number of classes, of output layers and the image size.

        ``box · 3/nl``, ``cls · nc/80 · 3/nl``, ``obj · (imgsz/640)² · 3/nl``.

        Args:
            nc: classes.
            nl: output layers of the model.
            imgsz: training image size in pixels.
        """
        per_layer = NOMINAL_LAYERS / nl
        return self.replace(
            box=self.box * per_layer,
            cls=self.cls * nc / NOMINAL_CLASSES * per_layer,
            obj=self.obj * (imgsz / NOMINAL_SIZE) ** 2 * per_layer,
        )

    def remarks(self) -> list[str]:
        """Return a line per setting that was changed but has no effect because the one it belongs to is off."""
        lines = []
        for name, setting in settings_of(type(self)).items():
            value = getattr(self, name)
            if name in self._given and setting.needs and value != setting.default and not self._is_on(setting.needs):
                lines.append(f"{name}: {value} has no effect, {setting.needs} is off")
        for head in ("cls", "obj"):
            if self[f"{head}_loss"] == "bce" and f"{head}_gamma" in self._given and self[f"{head}_gamma"]:
                lines.append(f"{head}_gamma: {self[f'{head}_gamma']} has no effect with {head}_loss: bce")
        return lines

    def validate_for(
        self,
        names: Mapping[int, str] | Iterable[str],
        *,
        rect: bool = False,
        nc: int | None = None,
        image_weights: bool = False,
        source: str = "hyp",
    ) -> None:
        """Check what only the data set and the command line decide.

        Args:
            names: class names, as a list or {id: name}.
            rect: rectangular training batches (``--rect``).
            nc: classes when not all of ``names`` are trained (``--single-cls``).
            image_weights: ``--image-weights`` is on.
            source: what the error messages name.

        Raises:
            InputErrors: every problem, one line each.
        """
        names = class_names(names)
        nc = len(names) if nc is None else nc
        problems = weights_problems("cls_weights", self.cls_weights, names, nc)
        problems += weights_problems("cls_pw", self.cls_pw, names, nc)
        if self._is_on("sampler") and rect:
            problems.append(f"sampler: {self.sampler} cannot be combined with --rect, whose order is fixed by shape")
        if self._is_on("sampler") and image_weights:
            problems.append(f"sampler: {self.sampler} cannot be combined with --image-weights, both draw the images")
        if problems:
            raise InputErrors(f"{source}: {problem}" for problem in problems)
        if nc == 1:
            self._warn_one_class(source)

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Return the value of a key (its default when it was not given), or ``default`` for an unknown one."""
        return getattr(self, key) if key in self else default

    def keys(self) -> list[str]:
        """Return every key, given or not."""
        return list(settings_of(type(self)))

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        if key not in self:
            raise KeyError(key)
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in settings_of(type(self))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def _all_values(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.keys()}

    def _values_beyond_defaults(self) -> dict[str, Any]:
        settings = settings_of(type(self))
        return {k: v for k, v in self._all_values().items() if settings[k].required or v != settings[k].default}

    def _with_given(self, given: Mapping[str, Any]) -> Hyperparameters:
        object.__setattr__(self, "_given", {key: self[key] for key in given})
        return self

    def _is_on(self, key: str) -> bool:
        return self[key] not in (None, "none")

    def _problems(self) -> list[str]:
        values = self._all_values()
        return value_problems(values, settings_of(type(self))) or combination_problems(values)

    def _warn_one_class(self, source: str) -> None:
        without_effect = [k for k in self._given if k.startswith("cls_") and self[k] != _default(k)]
        if without_effect:
            LOGGER.warning(
                "WARNING %s: one class has no class loss, without effect: %s", source, ", ".join(without_effect)
            )


def evolution_bounds() -> dict[str, tuple[float, float, float]]:
    """Return (mutation scale, low, high) of each setting that hyperparameter evolution may change."""
    return {k: s.evolution for k, s in settings_of(Hyperparameters).items() if s.evolution is not None}


def _default(key: str) -> Any:  # noqa: ANN401
    return settings_of(Hyperparameters)[key].default
