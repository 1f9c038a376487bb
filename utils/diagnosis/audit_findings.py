"""One finding of the label audit, and what its codes mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "info"]
FIXABLE = ("L05", "L10", "L11")
FROM_MODEL = ("L20", "L21", "L22")
FROM_PIXELS = ("L15", "L16", "L17")

CODES: dict[str, str] = {
    "L01": "image or label file that cannot be read",
    "L02": "row that is neither a box nor a polygon",
    "L03": "value that is not finite",
    "L04": "class that the data set does not have",
    "L05": "coordinate outside 0 to 1",
    "L06": "box that reaches over the image's edge",
    "L07": "box without area",
    "L08": "box below 2 pixels at training size",
    "L09": "extreme shape: a side 20 times the other, or nearly the whole image",
    "L10": "row that repeats an earlier one",
    "L11": "two boxes of one class on one object",
    "L12": "two classes on one object",
    "L13": "images without objects",
    "L14": "class names and where the classes occur",
    "L15": "the same image in two splits",
    "L16": "nearly the same image in two splits",
    "L17": "nearly the same images with other labels",
    "L18": "box of unusual size or shape for its class",
    "L19": "class balance",
    "L20": "object that nobody labelled (by the model)",
    "L21": "badly placed box (by the model)",
    "L22": "wrong class (by the model)",
}


@dataclass(frozen=True)
class Finding:
    """Something in the labels that is wrong, doubtful, or worth knowing.

    Attributes:
        code: key of CODES.
        severity: error, warning or info.
        file: label file, image or data YAML that it is about.
        line: line of the label file from 1, 0 for the file as a whole and for objects without a label.
        cls: class number, -1 for none.
        box: x1, y1, x2, y2 in pixels of the image, None where there is none or the image's size is unknown.
        message: what was found.
        fix: what ``write_fixed_copy`` does about it, "" for nothing.
        score: how much the label is to be trusted, 0 to 1; only from a model.
        image: path of the image, "" where it is about none.
        other: path of a second image that it is about (near-duplicates).
    """

    code: str
    severity: Severity
    file: str
    line: int = 0
    cls: int = -1
    box: tuple[float, float, float, float] | None = None
    message: str = ""
    fix: str = ""
    score: float | None = None
    image: str = ""
    other: str = ""


class LabelSet(NamedTuple):
    """Which images and label files a split of a data set has."""

    split: str
    images: list[str]
    label_files: list[str]
