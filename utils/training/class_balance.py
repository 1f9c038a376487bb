"""Class balance of a run: which settings hold, what they resolve to on its data set, and putting them in force."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.balance import report
from utils.balance.class_weights import ClassWeights, class_weights, first_weighted_epoch
from utils.balance.image_weights import REPLACING, SamplerWeights, expected_instances, sampler_weights
from utils.balance.label_counts import class_counts, image_counts
from utils.balance.samplers import weighted_order
from utils.errors import InputErrors
from utils.hyperparameter_table import plain_number, settings_of, weights_problems
from utils.hyperparameters import Hyperparameters
from utils.logs import LOGGER

WEIGHTS_KEY = "cls_weights"


@dataclass(frozen=True)
class ClassBalance:
    """What corrects class imbalance in a run.

    Attributes:
        instances: (nc,) training boxes per class.
        images: (nc,) training images that hold the class.
        weights: of the classification loss, None when off.
        sampler: what images are drawn by, None for plain shuffling.
        label_weights: digest of the weights per label, "" when off.
        table: a line per class.
        remedies: a line per remedy at work in the loss and the order of images.
        augmentations: a line per remedy that changes images; the data set has logged them.
        warning: what is corrected twice, or shown more often in two ways; None when nothing is.
    """

    instances: np.ndarray
    images: np.ndarray
    weights: ClassWeights | None
    sampler: SamplerWeights | None
    label_weights: str
    table: str
    remedies: tuple[str, ...]
    augmentations: tuple[str, ...]
    warning: str | None

    @property
    def is_on(self) -> bool:
        """Whether there is any remedy."""
        return bool(self.remedies or self.augmentations)

    @property
    def text(self) -> str:
        """Return all of it as lines."""
        return "\n".join([self.table, *self.remedies, *self.augmentations, *([self.warning] if self.warning else [])])

    def log(self) -> None:
        """Write all of it to the run log."""
        LOGGER.info("\n".join([self.table, *self.remedies]))
        if self.warning:
            (LOGGER.warning if self.warning.startswith("WARNING") else LOGGER.info)(self.warning)

    def facts(self) -> dict[str, Any]:
        """Return what must be the same when the run is resumed."""
        values = [] if self.weights is None else self.weights.values.tolist()
        return {"class_weights": values, "label_weights": self.label_weights}

    def resolved(self, hyp: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
        """Return settings, counts, weights and times drawn for a file of the run folder."""
        classes = {}
        for c, name in names.items():
            row: dict[str, Any] = {"instances": int(self.instances[c]), "images": int(self.images[c])}
            row |= {} if self.weights is None else {"weight": float(self.weights.values[c])}
            row |= {} if self.sampler is None else {"times_drawn": float(self.sampler.classes[c])}
            classes[name] = row
        lines = [*self.remedies, *self.augmentations]
        return {"remedies": lines, "classes": classes, "hyp": {key: hyp[key] for key in hyp}}


def resolve_settings(hyp: Hyperparameters, opt: argparse.Namespace, data: Any) -> Hyperparameters:
    """Return the settings with class weights given elsewhere and with --image-weights taken in, checked together.

    Class weights are those of the hyp file, else of ``train.run(class_weights=...)``, else ``weights:`` of the data
    YAML.

    Args:
        hyp: settings as read.
        opt: options; ``class_weights`` may be missing.
        data: the run's ``utils.training.build.Data``.

    Raises:
        InputErrors: weights that do not fit the classes, samplers that exclude other options.
    """
    if len(data.names) != data.facts.get("nc", len(data.names)) and isinstance(hyp[WEIGHTS_KEY], (list, dict)):
        LOGGER.warning("WARNING cls_weights: have no effect with --single-cls, under which there is one class")
        hyp = hyp.replace(**{WEIGHTS_KEY: None})
    other_sampler = hyp["sampler"] not in (None, "none", REPLACING)
    source = opt.hyp if isinstance(opt.hyp, str) else "hyp"
    hyp.validate_for(names=data.names, rect=opt.rect, image_weights=opt.image_weights and other_sampler, source=source)
    if opt.image_weights:
        hyp = hyp.replace(sampler=REPLACING)
    if hyp["sampler"] == REPLACING and hyp["sampler_len"] == "expand":
        why = "expand cannot be combined with image_weights, which draws with replacement"
        raise InputErrors([f"{source}: sampler_len: {why}"])
    if hyp["sampler"] == REPLACING and opt.noval:
        LOGGER.warning("WARNING image_weights: with --noval no mAP is known, so that images weigh by 1/instances alone")
    hyp = _with_class_weights(hyp, opt, data)
    start = hyp["cls_weights_start"]
    if hyp[WEIGHTS_KEY] is not None and first_weighted_epoch(start, opt.epochs) >= opt.epochs:
        LOGGER.warning(
            "WARNING %s: cls_weights_start: %g is beyond the last of %d epochs: the class weights never hold",
            source, start, opt.epochs,
        )  # fmt: skip
    for line in hyp.expansions():
        LOGGER.info("%s: %s", source, line)
    for remark in hyp.remarks():
        LOGGER.warning("WARNING %s: %s", source, remark)
    return hyp


def _with_class_weights(hyp: Hyperparameters, opt: argparse.Namespace, data: Any) -> Hyperparameters:
    """Take class weights from where they may be given beside the hyp file; the first place that has them counts."""
    offers = {"class_weights": getattr(opt, "class_weights", None)}
    offers["weights (data YAML)"] = plain_number(data.facts.get("weights"))
    in_force = WEIGHTS_KEY if hyp[WEIGHTS_KEY] is not None else None
    for source, value in offers.items():
        if value is None:
            continue
        if in_force is not None:
            LOGGER.info("%s: not used, %s is given as well and comes first", source, in_force)
        elif source != "class_weights" and len(data.names) != data.facts["nc"]:
            LOGGER.info("%s: not used with --single-cls", source)
        else:
            hyp, in_force = hyp.replace(**{WEIGHTS_KEY: _checked(source, value, data)}), source
            LOGGER.info("%s: used as cls_weights", source)
    return hyp


def _checked(source: str, value: Any, data: Any) -> Any:
    """Return class weights that a hyp file would accept, too."""
    rule = settings_of(Hyperparameters)[WEIGHTS_KEY]
    if not rule.accepts(value):
        raise InputErrors([f"{source}: {value!r} is not allowed, expected {rule.allowed}"])
    names = [data.names[c] for c in sorted(data.names)]
    problems = weights_problems(source, value, names, len(names))
    if problems:
        raise InputErrors(problems)
    return value


def apply_class_balance(hyp: Hyperparameters, data: Any, loader: Any, dataset: Any) -> ClassBalance:
    """Count classes, resolve weights, sampler and label weights, and put sampler and label weights in force."""
    labels, nc = dataset.labels, data.nc
    instances, images = class_counts(labels, nc), image_counts(labels, nc)
    weights = class_weights(hyp, instances, data.names, labels)
    sampler = sampler_weights(hyp, labels, nc)
    if sampler is not None:
        draw_by(sampler, loader, dataset, hyp["sampler_len"])
    digest, label_line = apply_label_weights(hyp["label_weights"], data, dataset)
    remedies = [*report.loss_lines(hyp), *([label_line] if label_line else [])]
    remedies += [part.summary(data.names) for part in (weights, sampler) if part is not None]
    changes = dataset.changes
    augmentations = [] if changes is None else changes.describe(data.names)
    pastes = changes is not None and changes.paste is not None
    return ClassBalance(
        instances, images, weights, sampler, digest,
        report.balance_table(data.names, instances, images, weights, sampler, labels, hyp["sampler_len"]),
        tuple(remedies), tuple(augmentations),
        report.double_correction(class_factors(hyp, weights, sampler, labels, nc, pastes), data.names, hyp),
    )  # fmt: skip


def draw_by(sampler: SamplerWeights, loader: Any, dataset: Any, length: str) -> None:
    """Let the loader draw images, and partners of mosaics and mixup, by a sampler's weights."""
    if sampler.follows_maps:
        loader.set_weights(sampler.images)
        return
    seed = dataset.seed
    loader.set_order(lambda epoch: weighted_order(sampler.images, seed, epoch, length))
    dataset.partner_weights = sampler.images


def class_factors(
    hyp: Hyperparameters,
    weights: ClassWeights | None,
    sampler: SamplerWeights | None,
    labels: Any,
    nc: int,
    pastes: bool,
) -> dict[str, np.ndarray | None]:
    """Return by what factor each remedy raises each class (nc,), None for those that are off."""
    pos_weights = hyp["cls_pw"]
    plain = np.ones(len(labels)) if sampler is None else sampler.images
    drawn = expected_instances(plain, labels, nc)
    return {
        WEIGHTS_KEY: None if weights is None else weights.values,
        "cls_pw": np.asarray(pos_weights, dtype=np.float64) if isinstance(pos_weights, list) else None,
        "sampler": None if sampler is None else sampler.classes,
        "rare_paste": report.paste_factors(hyp, labels, nc, drawn) if pastes else None,
    }


def apply_label_weights(path: str | None, data: Any, dataset: Any) -> tuple[str, str]:
    """Read the weights per label and hand them to the data set; return their digest and a line for the log."""
    if not path:
        return "", ""
    from utils.data.label_weights import find_label_weights, join_label_weights, read_label_weights

    folder = data.facts.get("path")
    file = find_label_weights(path, Path(folder) if folder else None)
    lines = read_label_weights(file)
    weights = join_label_weights(file, lines, dataset.im_files, dataset.label_files, dataset.labels)
    values = weights.flat()
    dataset.labels.add_column(values)  # a sixth column, which goes along to the loss
    line = f"label_weights: {file}, {len(lines)} of {len(values)} labels, mean weight of all {values.mean():.4g}"
    return hashlib.sha256(values.tobytes()).hexdigest(), line
