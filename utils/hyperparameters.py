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

from utils.balance.loss_names import CLS_LOSSES, HEADS, OBJ_LOSSES, expanded
from utils.errors import InputErrors
from utils.hyperparameter_rules import (
    class_remarks,
    combination_problems,
    combination_problems_of_valid,
    effect_remarks,
    expansion_lines,
    is_on,
)
from utils.hyperparameter_table import (
    choice,
    class_names,
    fraction,
    gain,
    number,
    other,
    plain_number,
    settings_of,
    switch,
    unknown_key_problem,
    value_problems,
    weights_problems,
)
from utils.logs import LOGGER
from utils.yaml_files import read_yaml

NOMINAL_CLASSES, NOMINAL_LAYERS, NOMINAL_SIZE = 80, 3, 640  # what the gains of a file are meant for
WEIGHT_SCHEMES = ("inverse", "sqrt_inverse", "effective_number", "median_frequency")
SAMPLERS = ("none", "repeat_factor", "instance_repeat_factor", "class_balanced", "sqrt", "image_weights")
DYN, TVERSKY, WEIGHTS = ("cls_dyn", "obj_dyn"), ("cls_tversky", "obj_tversky"), ("cls_weights",)
SAMPLER, PASTE, ALBUMS = ("sampler",), ("rare_paste",), ("album", "album_rare", "album_class")
RARENESS = "sampler", "rare_paste", "album_rare"  # which ask how rare a class is
POSITIVE = {"low": 0.0, "open_low": True}
SHARE = {"low": 0.0, "high": 1.0, "open_low": True}
SCALE = {"low": 0.0, "high": 10.0, "open_low": True}
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
    mixup: float = fraction(
        0.0, "probability of blending two mosaics", required=True, evolution=(1, 0.0, 1.0), needs=("mosaic",))
    copy_paste: float = fraction(
        0.0, "share of polygons pasted again", required=True, evolution=(1, 0.0, 1.0), needs=("mosaic",))

    # class balance: base losses (null: the loss's own value, see utils/balance/loss_names.py)
    cls_loss: str | None = choice(None, "class loss; null leaves it to fl_gamma", *CLS_LOSSES)
    obj_loss: str | None = choice(None, "objectness loss; null leaves it to fl_gamma", *OBJ_LOSSES)
    cls_gamma: float | None = gain(None, "focusing strength, class head", high=5.0)
    obj_gamma: float | None = gain(None, "focusing strength, objectness", high=5.0)
    cls_alpha: float | None = number(None, "class head: weight of positives; see the losses", **SHARE)
    obj_alpha: float | None = number(None, "objectness: weight of positives; see the losses", **SHARE)
    cls_qtarget: str | None = choice(None, "target of the true class (qfocal, varifocal)", "one", "iou")
    cls_gpos: float | None = gain(None, "focusing strength of positives, class head", high=5.0)
    obj_gpos: float | None = gain(None, "focusing strength of positives, objectness", high=5.0)
    cls_gneg: float | None = gain(None, "focusing strength of negatives, class head", high=5.0)
    obj_gneg: float | None = gain(None, "focusing strength of negatives, objectness", high=5.0)
    cls_clip: float | None = gain(None, "asl: probability below which negatives do not count, class head", high=0.3)
    obj_clip: float | None = gain(None, "asl: probability below which negatives do not count, objectness", high=0.3)
    cls_spos: float | None = number(None, "biscale: scale of positives, class head", **SCALE)
    obj_spos: float | None = number(None, "biscale: scale of positives, objectness", **SCALE)
    cls_sneg: float | None = number(None, "biscale: scale of negatives, class head", **SCALE)
    obj_sneg: float | None = number(None, "biscale: scale of negatives, objectness", **SCALE)
    cls_vfl_weighted: bool | None = switch(None, "varifocal: positives count by their target, class head")
    obj_vfl_weighted: bool | None = switch(None, "varifocal: positives count by their target, objectness")
    cls_asl_detach: bool | None = switch(None, "asl: no gradient through the focusing factors, class head")
    obj_asl_detach: bool | None = switch(None, "asl: no gradient through the focusing factors, objectness")
    cls_efl_scale: float | None = gain(None, "efl: largest extra focus of a class", high=16.0)
    cls_seesaw_p: float | None = gain(None, "seesaw: mitigation by class counts", high=2.0)
    cls_seesaw_q: float | None = gain(None, "seesaw: compensation of wrong scores", high=4.0)
    cls_tau: float | None = gain(None, "logit_adjust: strength of the prior", high=2.0)
    cls_act: str | None = choice(None, "scores of classes, follows from cls_loss", "sigmoid", "softmax")

    # class balance: modifiers, 0 is off
    cls_dyn: float = fraction(0.0, "dynamic weights by hardness, class head")
    obj_dyn: float = fraction(0.0, "dynamic weights by hardness, objectness")
    dyn_mode: str = choice("linear", "how dynamic weights grow", "linear", "adaptive", needs=DYN)
    dyn_epochs: list[float] = other(
        [0.1, 0.7], "fractions of the run between which they grow", pair=True, low=0.0, high=1.0, needs=DYN)
    dyn_gamma: float = number(1.0, "power of the hardness", low=0.5, high=3.0, needs=DYN)
    cls_attn: float = fraction(0.0, "attention-guided weights, class head")
    obj_attn: float = fraction(0.0, "attention-guided weights, objectness")
    attn_temp: float = number(0.1, "temperature of the attention", low=0.01, high=10.0, needs=("cls_attn", "obj_attn"))
    cls_bnd: float = gain(0.0, "weights of cells near box edges, class head", high=4.0)
    obj_bnd: float = gain(0.0, "weights of cells near box edges, objectness", high=4.0)
    bnd_sigma: float = number(1.0, "width of such an edge in cells", low=0.25, high=4.0, needs=("cls_bnd", "obj_bnd"))
    hard_iou: float = gain(0.0, "weight of matches with a low IoU", high=4.0)
    hard_iou_pow: float = number(1.0, "power of 1 - IoU", **POSITIVE, high=4.0, needs=("hard_iou",))
    hard_dist: float = gain(0.0, "weight of matches whose object is near another", high=4.0)
    hard_dist_tau: float = number(1.0, "that distance in object sizes", **POSITIVE, high=10.0, needs=("hard_dist",))
    hard_dist_other: bool = switch(True, "only objects of another class are near", needs=("hard_dist",))
    hard_dens: float = gain(0.0, "weight of matches in crowded places", high=4.0)
    hard_dens_max: float = number(
        10.0, "neighbours from which a place is most crowded", low=1.0, high=300.0, needs=("hard_dens",))
    cls_tversky: float = fraction(0.0, "share of the Tversky term, class head")
    obj_tversky: float = fraction(0.0, "share of the Tversky term, objectness")
    tversky_a: float = fraction(0.7, "weight of misses; false alarms take the rest", needs=TVERSKY)
    tversky_gamma: float = number(4 / 3, "focus of the Tversky term", low=1.0, high=3.0, needs=TVERSKY)
    cls_fl_norm: str = choice("none", "keep the class loss's scale", "none", "ema", null=True)
    obj_fl_norm: str = choice("none", "keep the objectness loss's scale", "none", "ema", "pos", null=True)

    # class balance: weights
    cls_weights: str | list[float] | dict[str, float] | None = choice(
        None, "weights per class", *WEIGHT_SCHEMES, listed=True, mapped=True, **POSITIVE)
    cls_weights_beta: float = fraction(0.999, "beta of effective_number", open_high=True, needs=WEIGHTS)
    cls_weights_power: float = fraction(1.0, "power applied to the weights", needs=WEIGHTS)
    cls_weights_max: float | None = number(
        10.0, "largest weight, in units of the smallest; null is no limit", low=1.0, null=True, needs=WEIGHTS)
    cls_weights_norm: str = choice(
        "auto", "what is kept: the expected loss or the mean", "auto", "instance", "class", "none", needs=WEIGHTS)
    cls_weights_mode: str = choice(
        "row", "which terms of a matched anchor are weighted", "row", "pos", "column", needs=WEIGHTS)
    cls_weights_start: float = gain(
        0.0, "epoch (1 and above) or fraction of the run from which they hold", needs=WEIGHTS)
    cls_weights_obj: bool = switch(False, "the weights hold for objectness, too", needs=WEIGHTS)
    label_weights: str | None = other(None, "CSV file image,row,weight with a weight per label", text="a path")

    # class balance: which images are drawn
    sampler: str = choice("none", "how training images are drawn", *SAMPLERS, null=True)
    sampler_t: float | str = choice(
        "auto", "image share below which a class is repeated", "auto", numeric=True, **POSITIVE, high=1.0,
        needs=RARENESS)
    sampler_reduce: str = choice(
        "max", "factor of an image with several classes", "max", "mean", needs=("sampler", "album_rare"))
    sampler_count: str = choice("instances", "what the sampler sqrt counts", "instances", "images", needs=SAMPLER)
    sampler_len: str = choice("fixed", "draws per epoch: number of images, or more", "fixed", "expand", needs=SAMPLER)
    sampler_bg: float = gain(0.0, "image_weights: weight of images without labels", high=1.0, needs=SAMPLER)

    # speed
    mosaic_pool: int = number(
        0, "mosaic partners from groups of so many neighbours in the epoch's order; 0 is all images", low=0, high=1024,
        whole=True, needs=("mosaic",))

    # class balance: augmentation of rare classes
    rare_paste: float = fraction(0.0, "probability of pasting rare objects into an image")
    rare_paste_max: int = number(3, "most objects pasted into an image", low=1, high=100, whole=True, needs=PASTE)
    rare_paste_scale: list[float] = other(
        [0.5, 1.5], "zoom of pasted objects", pair=True, **POSITIVE, high=10.0, needs=PASTE)
    rare_paste_ioa: float = fraction(0.3, "share of another object that may be covered", needs=PASTE)
    album: list | None = other(None, "Albumentations of every image; absent is the built-in four", pipeline=True)
    album_rare: list | None = other(None, "Albumentations of images with rare classes", pipeline=True)
    album_class: dict | None = other(None, "Albumentations of images with a class", pipelines=True)
    album_min_visibility: float = fraction(0.1, "share of a box that must stay in the image", needs=ALBUMS)
    rare_aug_p: float = fraction(0.0, "largest probability of album_rare", needs=("album_rare",))
    # fmt: on

    def __post_init__(self) -> None:
        """Check everything; a setting that a caller leaves at its default counts as not given unless required."""
        problems = self._problems()
        if problems:
            raise InputErrors(problems)
        self._expand(self._values_beyond_defaults())

    @classmethod
    def load(cls, path: str | Path) -> Hyperparameters:
        """Return the hyperparameters of a YAML file and log settings that have no effect.

        Raises:
            InputError: the file is missing or not plain YAML.
            InputErrors: unknown or missing keys, wrong types, ranges or combinations, all together.
        """
        hyp = cls.from_dict(read_yaml(path), source=str(path))
        for line in hyp.expansions():
            LOGGER.info("%s: %s", path, line)
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
        hyp._expand(copy.deepcopy(dict(values)))
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
        """Return a line per setting that was changed but has no effect, or that doubles another one's."""
        return effect_remarks(self, self._given, settings_of(type(self)))

    def expansions(self) -> list[str]:
        """Return a line per composite loss name with the settings it stands for."""
        return expansion_lines({head: self._unexpanded.get(f"{head}_loss") for head in HEADS})

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
        problems += weights_problems("album_class", self.album_class, names, nc)
        if self._is_on("sampler") and rect:
            problems.append(f"sampler: {self.sampler} cannot be combined with --rect, whose order is fixed by shape")
        if self._is_on("sampler") and self.sampler != "image_weights" and image_weights:
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
        """Return every value as written, composite names included."""
        return {**{key: getattr(self, key) for key in self.keys()}, **vars(self).get("_unexpanded", {})}

    def _expand(self, given: dict[str, Any]) -> None:
        """Note what the user wrote and put base losses and modifiers in the place of composite names."""
        written = self._all_values()
        changes = expanded(written, given)
        for key in {**vars(self).get("_unexpanded", {}), **changes}:
            object.__setattr__(self, key, changes.get(key, written[key]))
        object.__setattr__(self, "_unexpanded", {key: written[key] for key in changes})
        object.__setattr__(self, "_given", given)

    def _values_beyond_defaults(self) -> dict[str, Any]:
        settings = settings_of(type(self))
        return {k: v for k, v in self._all_values().items() if settings[k].required or v != settings[k].default}

    def _with_given(self, given: Mapping[str, Any]) -> Hyperparameters:
        written = self._all_values()
        self._expand({key: written[key] for key in given})
        return self

    def _is_on(self, key: str) -> bool:
        return is_on(self[key])

    def _problems(self) -> list[str]:
        values = self._all_values()
        return value_problems(values, settings_of(type(self))) or combination_problems(values)

    def _warn_one_class(self, source: str) -> None:
        without_effect = class_remarks(self._given, self, settings_of(type(self)))
        if without_effect:
            LOGGER.warning(
                "WARNING %s: one class has no class loss, without effect: %s", source, ", ".join(without_effect)
            )


def evolution_bounds() -> dict[str, tuple[float, float, float]]:
    """Return (mutation scale, low, high) of each setting that hyperparameter evolution may change."""
    return {k: s.evolution for k, s in settings_of(Hyperparameters).items() if s.evolution is not None}
