"""What is compared: each arm is a few keys of the hyp file, or a hyp file, or an option of train.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.hyperparameter_table import nearest_name
from utils.hyperparameters import Hyperparameters
from utils.yaml_files import read_yaml

HYPS = Path(__file__).resolve().parents[2] / "data" / "hyps"
BASE = HYPS / "hyp.scratch-low.yaml"
NONE, ADVICE = "none", "advice"


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: in tables and folders.
        about: what it is, for the table of arms.
        hyp: keys that differ from the base file.
        core: belongs to the set that is run first.
        file: hyp file in place of the base file.
        flags: options of train.py.
        validates: every epoch is validated, because what is drawn depends on it.
    """

    name: str
    about: str
    hyp: dict[str, Any] = field(default_factory=dict)
    core: bool = False
    file: Path = BASE
    flags: tuple[str, ...] = ()
    validates: bool = False

    def settings(self) -> dict[str, Any]:
        """Return every key of the arm's hyp file, checked.

        Raises:
            InputErrors: the file or the keys do not fit.
        """
        return Hyperparameters.from_dict({**read_yaml(self.file), **self.hyp}, source=f"arm {self.name}").to_dict()


TURNS = [{"RandomRotate90": 0.5}, {"HorizontalFlip": 0.5}, {"RandomBrightnessContrast": 0.2}]
FOCAL = {"cls_fl_norm": "ema"}  # so that what is compared is the focus, not a smaller class loss

TABLE = (
    Arm(NONE, "hyp.scratch-low.yaml as it is", core=True),
    # YOLOv5's own
    Arm("image_weights", "YOLOv5's `--image-weights`, validating every epoch", {}, True, flags=("--image-weights",),
        validates=True),
    Arm("fl_gamma", "YOLOv5's focal loss on both heads", {"fl_gamma": 1.5}, True),
    Arm("cls_pw", "YOLOv5's weight of positives, one for all classes", {"cls_pw": 2.0}, True),
    # the share of the class loss
    Arm("cls_1", "gain of the class loss doubled", {"cls": 1.0}),
    Arm("cls_2", "gain of the class loss times four", {"cls": 2.0}, True),
    # class losses
    Arm("focal", "focal class loss, its scale kept", {"cls_loss": "focal", **FOCAL}, True),
    Arm("focal_plain", "focal class loss as published", {"cls_loss": "focal"}),
    Arm("qfocal", "quality focal class loss", {"cls_loss": "qfocal", **FOCAL}),
    Arm("varifocal", "varifocal class loss", {"cls_loss": "varifocal", **FOCAL}),
    Arm("asl", "asymmetric class loss", {"cls_loss": "asl"}),
    Arm("biscale", "bi-scale class loss", {"cls_loss": "biscale"}),
    Arm("bceblur", "blurred cross-entropy on the class head", {"cls_loss": "bceblur"}),
    Arm("efl", "equalized focal class loss, scale 4 as for small models", {"cls_loss": "efl", "cls_efl_scale": 4.0}),
    Arm("seesaw", "seesaw class loss", {"cls_loss": "seesaw"}),
    Arm("logit_adjust", "logit-adjusted class loss", {"cls_loss": "logit_adjust"}, True),
    Arm("softmax_focal", "softmax focal class loss", {"cls_loss": "softmax_focal"}),
    Arm("dynamic_focal", "focal with weights by hardness", {"cls_loss": "dynamic_focal", **FOCAL}),
    Arm("attention_focal", "focal, attention-guided", {"cls_loss": "attention_focal", **FOCAL}),
    Arm("boundary_focal", "focal, more at the borders of objects", {"cls_loss": "boundary_focal", **FOCAL}),
    Arm("tversky_focal", "focal with a Tversky term", {"cls_loss": "tversky_focal", **FOCAL}),
    Arm("improved_focal", "focal with factors of IoU, distance, density", {"cls_loss": "improved_focal", **FOCAL}),
    Arm("smoothing", "label smoothing", {"label_smoothing": 0.05}),
    # class weights
    Arm("inverse", "class weights 1/n", {"cls_weights": "inverse"}),
    Arm("sqrt_inverse", "class weights 1/sqrt(n)", {"cls_weights": "sqrt_inverse"}),
    Arm("weights_late", "class weights 1/sqrt(n) in the last 30 % of the epochs",
        {"cls_weights": "sqrt_inverse", "cls_weights_start": 0.7}, True),
    Arm("effective_number", "class weights by effective number", {"cls_weights": "effective_number"}),
    Arm("median_frequency", "class weights by median frequency", {"cls_weights": "median_frequency"}),
    Arm("weights_pos", "class weights 1/sqrt(n) on positives alone",
        {"cls_weights": "sqrt_inverse", "cls_weights_mode": "pos"}),
    # samplers
    Arm("repeat_factor", "sampler: images of rare classes repeated", {"sampler": "repeat_factor"}, True),
    Arm("instance_repeat_factor", "sampler: the same by images and boxes", {"sampler": "instance_repeat_factor"}),
    Arm("class_balanced", "sampler: every class equally often", {"sampler": "class_balanced"}),
    Arm("sqrt", "sampler: classes by the root of their boxes", {"sampler": "sqrt"}),
    # augmentation
    Arm("rare_paste", "rare objects pasted into other images", {"rare_paste": 0.5}, True),
    Arm("album_rare", "turns, flips and light for images of rare classes", {"album_rare": TURNS, "rare_aug_p": 0.5}),
    Arm("mixup", "a tenth of the mosaics blended", {"mixup": 0.1}, True),
    # together
    Arm("hyp_focal", "hyp.focal.yaml as shipped", {}, True, HYPS / "hyp.focal.yaml"),
    Arm("hyp_balanced", "hyp.balanced.yaml as shipped", {}, True, HYPS / "hyp.balanced.yaml"),
    Arm("cls_1_weights", "gain of the class loss doubled, and class weights 1/sqrt(n)",
        {"cls": 1.0, "cls_weights": "sqrt_inverse"}),
    Arm("cls_1_focal", "gain of the class loss doubled, and the focal class loss, its scale kept",
        {"cls": 1.0, "cls_loss": "focal", "cls_fl_norm": "ema"}),
    Arm("cls_1_repeat", "gain of the class loss doubled, and images of rare classes repeated",
        {"cls": 1.0, "sampler": "repeat_factor", "sampler_t": "auto"}),
    Arm("balanced_cls_05", "the same with YOLOv5's cls, 0.5", {"cls": 0.5}, file=HYPS / "hyp.balanced.yaml"),
    Arm("balanced_cls_1", "the same with cls 1", {"cls": 1.0}, file=HYPS / "hyp.balanced.yaml"),
    Arm("balanced_cls_2", "the same with cls 2", {"cls": 2.0}, file=HYPS / "hyp.balanced.yaml"),
    Arm(ADVICE, "advice.yaml of the doctor, from the run without remedy of the same seed", core=True),
)  # fmt: skip
ARMS = {arm.name: arm for arm in TABLE}
GROUPS = {"core": tuple(a.name for a in TABLE if a.core), "all": tuple(a.name for a in TABLE)}


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of arms, each once, in the order of the table."""
    named = set(names)
    return [name for name in ARMS if name in named]


def chosen_arms(names: Sequence[str]) -> list[Arm]:
    """Return the arms that names and groups stand for, core ones first, with ``none``, which all are compared with.

    Raises:
        InputError: a name is neither.
    """
    wanted = {NONE}
    for name in names:
        if name not in ARMS and name not in GROUPS:
            near = nearest_name(name, [*ARMS, *GROUPS])
            raise InputError(f"--arms {name}: " + (f"did you mean {near}?" if near else f"allowed: {', '.join(ARMS)}"))
        wanted.update(GROUPS.get(name, (name,)))
    return sorted((arm for arm in TABLE if arm.name in wanted), key=lambda arm: not arm.core)
