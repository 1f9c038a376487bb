"""The facts that rules of advice may name: one table of every measured value, its kind and its meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCOPES = ("run", "class", "pair", "comparison")
ERROR_WORDS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "none")
UNKNOWN_TEXT = "not measured"
FORMAT = re.compile(r"(,|,?\.[0-9][f%]|d)?")
PLACE = re.compile(r"\{([^{}:]*)(?::([^{}]*))?\}")

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Fact:
    """One measured value: kind is "number", "text" or "word" (then ``words`` lists what it may be)."""

    meaning: str
    kind: str = "number"
    words: tuple[str, ...] = ()


def _text(meaning: str) -> Fact:
    return Fact(meaning, "text")


RUN_FACTS: dict[str, Fact] = {
    "images": Fact("images judged"),
    "objects": Fact("labelled objects in them"),
    "map50": Fact("mAP at IoU 0.5, 0 to 100"),
    "delta_cls": Fact("mAP50 points that correct classes would bring"),
    "delta_loc": Fact("mAP50 points that well placed boxes would bring"),
    "delta_both": Fact("mAP50 points without errors of class and place together"),
    "delta_dupe": Fact("mAP50 points without second boxes on one object"),
    "delta_bkg": Fact("mAP50 points without detections on background"),
    "delta_miss": Fact("mAP50 points if missed objects were not asked for"),
    "largest_error": Fact("the type that costs most mAP50, none when all cost under 0.1", "word", ERROR_WORDS),
    "largest_delta": Fact("what that type costs in mAP50 points"),
    "symmetric_share": Fact("share of class errors between classes that are confused about equally both ways"),
    "rare_share": Fact("share of class errors that take a class for one at least five times as frequent"),
    "top_pairs": _text("the most frequent confusions in words"),
    "largest_pair_share": Fact("largest share of a class's objects taken for one other class, two of them or more"),
    "background_errors": Fact("detections on background at the operating point"),
    "missed": Fact("objects missed at the operating point"),
    "missed_share": Fact("share of objects missed at the operating point"),
    "missed_small_share": Fact("share of the missed objects that are small by COCO's measure (area below 32² px)"),
    "duplicates": Fact("second boxes on one object at the operating point"),
    "extra_share": Fact("share of detections that put another class on an object already found"),
    "background_images": Fact("training images without objects"),
    "background_share": Fact("share of training images without objects"),
    "wrong_labels": Fact("findings L12, L15, L17 and L22 of the label audit"),
    "wrong_label_share": Fact("the same per label checked"),
    "label_errors": Fact("findings of the label audit that are errors"),
    "label_warnings": Fact("findings of the label audit that are warnings"),
    "labels_checked": Fact("labels that the audit checked"),
    "leaked_images": Fact("images in two splits (L15)"),
    "near_leaked_images": Fact("near-duplicates across splits (L16)"),
    "overlooked": Fact("objects that the labels seem to lack (L20)"),
    "overlooked_share": Fact("the same per label checked"),
    "loose_labels": Fact("labels whose box fits badly (L21)"),
    "loose_share": Fact("the same per label checked"),
    "alpha": Fact("annotators' Krippendorff alpha on classes"),
    "alpha_detect": Fact("annotators' Krippendorff alpha on classes and presence"),
    "map50_train": Fact("mAP50 on training images, 0 to 100"),
    "map_gap": Fact("mAP50 on training images less that on the judged split, points"),
    "imbalance": Fact("training boxes of the most frequent class per box of the rarest"),
    "rarest": _text("the rarest class of the training set"),
    "most_frequent": _text("the most frequent class of the training set"),
    "conf": Fact("confidence of the operating point (the mean where it differs by class)"),
    "cls": Fact("gain of the class loss in the run's hyp file"),
    "class_gain": Fact("gain of the class loss as trained: that times classes / 80 (and 3 / output layers)"),
    "cls_loss": _text("the class loss that the run's hyp file chose, if it did"),
    "imgsz": Fact("image size of the run"),
    "larger_imgsz": Fact("half as large again, a multiple of 32"),
    "model": _text("the model's name"),
    "larger_model": _text("the next larger model's YAML"),
    "data": _text("data YAML as given"),
    "weights": _text("weights as given"),
    "advice_file": _text("path of the advice.yaml of this run"),
    "thresholds_file": _text("path of the thresholds.yaml of this run"),
    "train_options": _text("options of train.py with which the weights were trained, last in a command"),
    "folder": _text("folder of this run"),
}
CLASS_FACTS: dict[str, Fact] = {
    "name": _text("the class"),
    "n_train": Fact("its training boxes"),
    "n_val": Fact("its objects in the judged split"),
    "n_median": Fact("training boxes of the median class"),
    "n_lacking": Fact("training boxes that it lacks to the median class"),
    "frequency_ratio": Fact("its training boxes per box of the median class"),
    "image_share": Fact("share of training images that hold it"),
    "repeat_factor": Fact("how often sampler: repeat_factor (t auto) would draw its images"),
    "class_ap50": Fact("its AP at IoU 0.5, 0 to 100"),
    "ap50_median": Fact("AP50 of the median class"),
    "ap50_ratio": Fact("its AP50 divided by that"),
    "best_conf": Fact("its confidence with the best F1"),
    "best_conf_median": Fact("that of the median class"),
    "conf_ratio": Fact("its best confidence divided by that"),
    "class_recall": Fact("its recall at the operating point"),
    "class_missed_share": Fact("share of its objects missed at the operating point"),
}
PAIR_FACTS: dict[str, Fact] = {
    "predicted": _text("the class that was predicted"),
    "true": _text("the class that was there"),
    "pair_count": Fact("objects of the true class taken for the predicted one at the operating point"),
    "pair_share": Fact("the same as a share of the true class's objects"),
    "pair_delta": Fact("AP50 points of the true class that this confusion costs"),
    "reverse_count": Fact("confusions the other way round"),
    "reverse_share": Fact("the same as a share of the predicted class's objects"),
    "symmetry": Fact("the smaller of the two shares divided by the larger, 0 to 1"),
    "n_true": Fact("training boxes of the true class"),
    "n_pred": Fact("training boxes of the predicted class"),
    "frequency_ratio": Fact("training boxes of the true class per box of the predicted one"),
    "image_share": Fact("share of training images that hold the true class"),
    "together": Fact("share of the true class's training images that also hold the predicted class"),
    "repeat_factor": Fact("how often sampler: repeat_factor (t auto) would draw the true class's images"),
    "annotators_disagree": Fact("objects to which annotators gave both classes"),
}
COMPARISON_FACTS: dict[str, Fact] = {
    "compare_name": _text("the other run"),
    "compare_map50": Fact("its mAP50, 0 to 100"),
    "compare_difference": Fact("its mAP50 less this run's, points"),
    "compare_low": Fact("lower end of that difference's 95 % interval"),
    "compare_high": Fact("upper end of that difference's 95 % interval"),
}
FACTS: dict[str, dict[str, Fact]] = {
    "run": RUN_FACTS,
    "class": {**RUN_FACTS, **CLASS_FACTS},
    "pair": {**RUN_FACTS, **PAIR_FACTS},
    "comparison": {**RUN_FACTS, **COMPARISON_FACTS},
}


def places_of(text: str) -> list[tuple[str, str]]:
    """Return (fact, format) of every {fact} or {fact:format} in a text."""
    return [(name, spec or "") for name, spec in PLACE.findall(text)]


def fill(text: str, values: Values, quote: Any = str) -> str:
    """Return a text with each {fact} replaced by its value; unknown values say so.

    Args:
        text: places like {n_train} or {delta_cls:.1f}; formats are ``,`` ``.2f`` ``.1%`` ``d``.
        values: fact -> value or None.
        quote: applied to text values.
    """

    def shown(name: str, spec: str | None) -> str:
        value = values.get(name)
        if value is None:
            return UNKNOWN_TEXT
        if isinstance(value, str):
            return quote(value)
        text = format(round(value) if spec == "d" else value, spec or ("" if isinstance(value, int) else ".3g"))
        return text.replace("%", " %")

    return PLACE.sub(lambda found: shown(found[1], found[2]), text)
