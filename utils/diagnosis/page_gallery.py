"""The report's crops: pictures with their boxes, captions and alternative texts, and the filters over them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from utils.diagnosis.gallery import Box, Crop
from utils.diagnosis.page_parts import Markup, chip, join, number, section, tag

KIND_NAMES = {  # types of errors as readers see them, in the order of the filter
    "misclassified": "wrong class",
    "extra class": "second class on a found object",
    "background": "background",
    "duplicate": "duplicate",
    "location": "badly placed",
    "other": "wrong class and badly placed",
    "missed": "missed object",
    "badly located": "badly placed object",
}
KEYS = (
    ("n / →", "next crop"), ("p / ←", "previous"), ("Enter", "enlarge"), ("Esc", "close"),
    ("] [", "next, previous pair"), ("f", "filters"), ("r", "reset"),
)  # fmt: skip
ORDERS = (
    ("given", "pairs, most confident first"), ("high", "most confident first"), ("low", "least confident first"),
    ("iou", "best overlap first"), ("image", "file name"),
)  # fmt: skip

Names = Mapping[int, str]


def gallery_section(crops: Sequence[Crop], names: Names) -> Markup:
    """Return the crops of errors with their filters, order and keys."""
    figures = [figure(crop, names, place) for place, crop in enumerate(crops)]
    linked = sum(1 for crop in crops if crop.link)
    note = f" {linked} of them are files in crops/, for the page's size." if linked else ""
    keys = [tag("span", tag("kbd", key), f" {text}") for key, text in KEYS]
    switch = tag("label", tag("input", type="checkbox", id="shortcuts", checked=True), " letters as shortcuts")
    return section(
        "gallery", "The errors in pictures", _filters(crops, names), tag("p", *keys, switch, class_="keys"),
        tag("p", id="shown", role="status", class_="soft"), tag("div", *figures, id="crops", class_="crops"), _dialog(),
        lead=join([
            "What is labelled has a ", tag("b", "green solid"), " box, what was predicted a ", tag("b", "red dashed"),
            f" one; thin green boxes are labelled neighbours.{note}",
        ]),
    )  # fmt: skip


def figure(crop: Crop, names: Names, place: int) -> Markup:
    """Return one crop as a figure that the filters and keys know by its data."""
    true, predicted = _name(crop.true, names), _name(crop.predicted, names)
    conf = None if crop.conf is None else f"{crop.conf:.4f}"
    return tag(
        "figure", _picture(crop, alternative(crop, names)), _caption(crop, true, predicted), class_="crop",
        tabindex=-1, data_place=place, data_type=crop.kind, data_true=crop.true, data_pred=crop.predicted,
        data_conf=conf, data_iou=None if crop.iou is None else f"{crop.iou:.4f}", data_image=PurePath(crop.image).name,
    )  # fmt: skip


def alternative(crop: Crop, names: Names) -> str:
    """Return the text that stands for a crop."""
    true, predicted, file = _name(crop.true, names), _name(crop.predicted, names), PurePath(crop.image).name
    conf = "" if crop.conf is None else f" with confidence {crop.conf:.2f}"
    if crop.group == "labels":
        about = f"labelled {true}" if crop.true >= 0 else f"predicted {predicted}"
        return f"{crop.kind}: {about} in {file}. {crop.note}"
    texts = {
        "misclassified": f"{true} taken for {predicted}{conf}",
        "extra class": f"{predicted} predicted{conf} on a {true} that is found already",
        "background": f"{predicted} predicted{conf} where nothing is labelled",
        "duplicate": f"second {predicted} predicted{conf} on one object",
        "location": f"{predicted} predicted{conf}, badly placed on {true}",
        "other": f"{predicted} predicted{conf}, badly placed on {true}",
        "missed": f"{true} missed",
        "badly located": f"{true} found only by a badly placed box{conf}",
    }
    return f"{texts.get(crop.kind, crop.kind)}, in {file}"


def _picture(crop: Crop, text: str) -> Markup:
    if crop.link:
        return tag("div", tag("div", tag("a", text, href=crop.link), class_="linked"), class_="pic")
    source = f"data:image/jpeg;base64,{base64.b64encode(crop.jpeg).decode()}"
    width, height = crop.size
    image = tag("img", src=source, alt=text, width=width, height=height, decoding="async")
    shapes = [
        *(_rect(box, "beside") for box in crop.others),
        *(shape for box, kind in ((crop.truth, "gt"), (crop.found, "pred")) if box
          for shape in (_rect(box, "halo"), _rect(box, kind))),
    ]  # fmt: skip
    inner = tag("svg", *shapes, width=width, height=height)  # cuts off what reaches over the crop
    overlay = tag("svg", inner, viewBox=f"0 0 {width} {height}", aria_hidden="true")
    return tag("div", image, overlay, class_="pic")


def _rect(box: Box, kind: str) -> Markup:
    x1, y1, x2, y2 = box
    size = {"width": f"{max(x2 - x1, 0):.1f}", "height": f"{max(y2 - y1, 0):.1f}"}
    return tag("rect", x=f"{x1:.1f}", y=f"{y1:.1f}", class_=kind, **size)


def _caption(crop: Crop, true: str, predicted: str) -> Markup:
    file = PurePath(crop.image).name + (f", label row {crop.line}" if crop.line else "")
    if crop.group == "labels":
        who = _who("gt", true) if crop.true >= 0 else _who("pred", predicted)
        score = None if crop.conf is None else tag("span", f"score {number(crop.conf, 3)}", class_="file")
        return tag("figcaption", tag("span", chip(crop.kind)), who, tag("span", crop.note), score,
                   tag("span", file, class_="file"))  # fmt: skip
    conf = "" if crop.conf is None else f" {crop.conf:.2f}"
    label = _who("gt", true) if crop.true >= 0 else _who("none", "nothing labelled")
    found = _who("pred", f"{predicted}{conf}") if crop.predicted >= 0 else _who("none", "nothing predicted")
    overlap = chip(f"IoU {crop.iou:.2f}") if crop.iou is not None and crop.truth else None
    kind = tag("span", chip(KIND_NAMES.get(crop.kind, crop.kind)), " ", overlap)
    return tag("figcaption", label, found, kind, tag("span", file, class_="file"))


def _who(kind: str, text: str) -> Markup:
    hidden = {"gt": "labelled ", "pred": "predicted ", "none": ""}[kind]
    return tag("span", tag("span", class_=f"key {kind}"), tag("span", tag("span", hidden, class_="unseen"), text),
               class_="who")  # fmt: skip


def _name(number_: int, names: Names) -> str:
    return str(names.get(number_, number_)) if number_ >= 0 else ""


def _filters(crops: Sequence[Crop], names: Names) -> Markup:
    kinds = {crop.kind for crop in crops}
    pairs: dict[tuple[int, int], int] = {}
    for crop in crops:
        if crop.kind == "misclassified":
            pairs[crop.true, crop.predicted] = pairs.get((crop.true, crop.predicted), 0) + 1
    pair_options = [(f"{g}>{k}", f"{_name(g, names)} taken for {_name(k, names)}") for g, k in pairs]
    return tag(
        "form",
        _select("type", "type", [("", "all"), *((k, name) for k, name in KIND_NAMES.items() if k in kinds)]),
        _select("pair", "pair", [("", "all"), *pair_options]),
        _select("true", "labelled as", _classes((crop.true for crop in crops), names)),
        _select("pred", "predicted as", _classes((crop.predicted for crop in crops), names)),
        _number_input("min", "confidence from"), _number_input("max", "to"), _select("sort", "order", ORDERS),
        tag("button", "Reset", type="reset"), id="filters", class_="tools", aria_label="Filter the crops",
    )  # fmt: skip


def _classes(numbers: Iterable[int], names: Names) -> list[tuple[str, str]]:
    known = sorted({c for c in numbers if c >= 0})
    return [("", "all"), *((str(c), _name(c, names)) for c in known)]


def _select(name: str, title: str, options: Iterable[tuple[str, str]]) -> Markup:
    chosen = [tag("option", text, value=value) for value, text in options]
    return tag("label", title, tag("select", *chosen, name=name))


def _number_input(name: str, title: str) -> Markup:
    return tag(
        "label", title, tag("input", type="number", name=name, min="0", max="1", step="0.05", inputmode="decimal")
    )


def _dialog() -> Markup:
    buttons = [
        tag("button", "← previous", type="button", value="previous"), tag("span", id="place", class_="soft"),
        tag("button", "next →", type="button", value="next"),
        tag("button", "Close", type="button", value="close"),
    ]  # fmt: skip
    inner = join([tag("figure", class_="large"), tag("div", *buttons, class_="row")])
    return tag("dialog", inner, id="view", aria_label="Crop, enlarged")
