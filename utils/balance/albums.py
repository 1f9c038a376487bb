"""Albumentations pipelines written in a hyp file: built and tried out once at the start, safe for boxes.

An item is ``Name: p`` or ``Name: {argument: value, ...}``, Name any transform of the installed Albumentations (Buslaev
et al., arXiv 1809.06839); OneOf, SomeOf, RandomOrder and Sequential take a list of items as ``transforms``.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.data.training_image import TrainingImage, fit_to
from utils.errors import InputErrors, WorkError
from utils.hyperparameter_table import nearest_name
from utils.logs import LOGGER

GROUPS = ("OneOf", "SomeOf", "RandomOrder", "Sequential")
_BASES = {"BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D"}
_LONGEST_MESSAGE = 240


class Item(NamedTuple):
    """One built transform.

    Attributes:
        transform: the Albumentations object.
        moves_boxes: whether boxes go through it (it may move pixels, or drop boxes).
        text: its name and probability.
    """

    transform: Any
    moves_boxes: bool
    text: str


class Pipeline:
    """Transforms applied in order to one image, before it is letterboxed or becomes a mosaic's tile.

    Args:
        key: the hyp key it comes from, for messages.
        items: the built transforms.
        min_visibility: boxes that keep a smaller share of their area are dropped.
    """

    def __init__(self, key: str, items: Sequence[Item], min_visibility: float):
        self.key = key
        self.items = list(items)
        self.moves_boxes = any(item.moves_boxes for item in items)
        self._compose = compose([item.transform for item in items], min_visibility, self.moves_boxes)

    def describe(self) -> str:
        """Return the key and its transforms as one line."""
        return f"{self.key}: {', '.join(item.text for item in self.items)}"

    def __call__(self, image: TrainingImage, longest: int, rng: np.random.Generator, name: str = "") -> TrainingImage:
        """Return the image as the pipeline leaves it, its longest side at ``longest`` pixels.

        Outlines follow where the transforms can move points; where one cannot, the image keeps its boxes alone. A
        pipeline of pixel effects alone waits until the pixels are loaded.

        Args:
            image: any training image.
            longest: side that cropped or enlarged images are scaled back to.
            rng: source of the seed that the transforms draw from.
            name: the image's file, for messages.

        Raises:
            WorkError: a transform cannot handle this image.
        """
        seed = int(rng.integers(2**31))
        if not self.moves_boxes:

            def load(rows: int | None = None) -> np.ndarray:
                return _bgr(self._run(name, seed, image=_rgb(image.load()))["image"])

            return image._replace(load=load)
        points, owners = _flat_points(image)
        found = self._run(
            name, seed, image=_rgb(image.load()), bboxes=image.labels[:, 1:5], rows=np.arange(len(image.labels)),
            keypoints=points, owners=owners,
        )  # fmt: skip
        pixels = fit_to(_bgr(found["image"]), longest)
        rows = np.asarray(found["rows"], dtype=np.int64).reshape(-1)
        order = np.argsort(rows, kind="stable")
        rows = rows[order]
        labels = image.labels[rows]
        labels[:, 1:5] = np.asarray(found["bboxes"], dtype=np.float32).reshape(-1, 4)[order]
        segments = _segments(image, found, rows)
        return TrainingImage(pixels.shape[:2], labels, segments, lambda rows=None: pixels, image.pasted[rows])

    def _run(self, name: str, seed: int, **data: Any) -> dict[str, Any]:
        self._compose.set_random_seed(seed)
        try:
            return self._compose(**data)
        except Exception as error:  # noqa: BLE001 (any of a hundred transforms may object, in its own way)
            raise WorkError(f"{name or 'image'}: {self.key} cannot be applied: {one_line(error)}") from error


def compose(transforms: Sequence[Any], min_visibility: float, with_boxes: bool) -> Any:
    """Return an Albumentations pipeline for images, and with ``with_boxes`` for YOLO boxes and outline points."""
    albumentations = load_albumentations()
    if not with_boxes:
        return albumentations.Compose(list(transforms))
    return albumentations.Compose(
        list(transforms),
        bbox_params=albumentations.BboxParams(
            format="yolo", label_fields=["rows"], min_visibility=min_visibility, clip=True
        ),
        keypoint_params=albumentations.KeypointParams(format="xy", label_fields=["owners"], remove_invisible=False),
    )


def load_albumentations() -> Any:
    """Import Albumentations without its question to PyPI for a newer version."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


# Building -------------------------------------------------------------------------------------------------------------


def build_pipeline(key: str, items: object, min_visibility: float, size: int) -> Pipeline:
    """Build the pipeline of one hyp key and try each of its transforms on a picture of noise.

    Args:
        key: the hyp key, for messages.
        items: list of one-key mappings.
        min_visibility: see ``Pipeline``.
        size: side of the training images.

    Raises:
        InputErrors: every unknown transform, unknown or refused argument, and transform that cannot be used.
    """
    problems: list[str] = []
    return _checked(Pipeline(key, build_items(key, items, size, problems), min_visibility), problems)


def _checked(pipeline: Pipeline, problems: list[str]) -> Pipeline:
    if problems:
        raise InputErrors(problems)
    return pipeline


def build_items(key: str, items: object, size: int, problems: list[str]) -> list[Item]:
    """Build a list of items, adding to ``problems`` what is wrong with them."""
    if not isinstance(items, (list, tuple)):
        problems.append(f"{key}: {items!r} is not a list of transforms such as [{{HorizontalFlip: 0.5}}]")
        return []
    built = []
    for number, item in enumerate(items, 1):
        where = f"{key}, item {number}"
        if isinstance(item, str):  # a bare name takes Albumentations' own defaults
            item = {item: {}}
        if not isinstance(item, Mapping) or len(item) != 1:
            problems.append(f"{where}: {item!r} is not one transform, expected Name: p or Name: {{p: 0.5, ...}}")
            continue
        ((name, arguments),) = item.items()
        found = _build_item(f"{where} ({name})", str(name), arguments, size, problems)
        if found is not None:
            built.append(found)
    return built


def _build_item(where: str, name: str, arguments: object, size: int, problems: list[str]) -> Item | None:
    """Build one item, or add to ``problems`` and return None."""
    before = len(problems)
    known = transform_names()
    if name not in known:
        offer = nearest_name(name, known)
        hint = f"did you mean '{offer}'?" if offer else "allowed are Albumentations' transforms"
        problems.append(f"{where}: no such transform, {hint}")
        return None
    if not isinstance(arguments, Mapping):
        arguments = {"p": arguments}
    arguments = dict(arguments)
    problems += [f"{where}: {text}" for text in _argument_problems(known[name], arguments)]
    children: list[Item] = []
    if name in GROUPS and len(problems) == before:
        children = build_items(where, arguments.get("transforms"), size, problems)
        arguments["transforms"] = [child.transform for child in children]
    if len(problems) > before:
        return None
    try:
        return _construct(where, name, arguments, children, size)
    except Exception as error:  # noqa: BLE001 (each transform checks its arguments in its own way)
        problems.append(f"{where}: {one_line(error)}")
        return None


def _construct(where: str, name: str, arguments: dict[str, Any], children: list[Item], size: int) -> Item:
    """Construct a transform and, unless it groups others, try it."""
    cls = transform_names()[name]
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        transform = cls(**arguments)
        if name not in GROUPS:
            _try_out(cls(**{**arguments, "p": 1.0}), size)
    for remark in {one_line(remark.message) for remark in remarks}:
        LOGGER.warning(f"WARNING {where}: {remark}")
    if name in GROUPS:
        text = f"{name}({transform.p:g}: {', '.join(child.text for child in children)})"
        return Item(transform, any(child.moves_boxes for child in children), text)
    moves = issubclass(cls, load_albumentations().DualTransform)
    return Item(transform, moves, f"{name}({transform.p:g})")


def transform_names() -> dict[str, type]:
    """Return every transform of the installed Albumentations, and the groups, by name."""
    albumentations = load_albumentations()
    found = {}
    for name in dir(albumentations):
        value = getattr(albumentations, name)
        if inspect.isclass(value) and issubclass(value, albumentations.BasicTransform) and name not in _BASES:
            found[name] = value
    return found | {name: getattr(albumentations, name) for name in GROUPS}


def _argument_problems(cls: type, arguments: Mapping[str, Any]) -> list[str]:
    """Return a message per argument that the transform does not have; it would only warn of them."""
    known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    problems = []
    for name in arguments:
        if name not in known:
            offer = nearest_name(name, known)
            hint = f"did you mean '{offer}'?" if offer else f"allowed are {', '.join(known)}"
            problems.append(f"unknown argument '{name}', {hint}")
    p = arguments.get("p", 0.5)
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        problems.append(f"p: {p!r} is not allowed, expected a number from 0 to 1")
    return problems


def _try_out(transform: Any, size: int) -> None:
    """Apply a transform to a picture of noise with two boxes; ValueError when it is of no use for training."""
    with_boxes = isinstance(transform, load_albumentations().DualTransform)
    pipeline = compose([transform], 0.0, with_boxes)
    pipeline.set_random_seed(0)
    im = np.random.default_rng(0).integers(0, 256, (max(size * 3 // 4, 1), size, 3), dtype=np.uint8)
    labels = {"bboxes": np.array([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.2]], np.float32), "rows": np.arange(2),
              "keypoints": np.zeros((0, 2), np.float32), "owners": np.zeros(0, np.int64)}  # fmt: skip
    out = pipeline(image=im, **(labels if with_boxes else {}))["image"]
    if not isinstance(out, np.ndarray) or out.dtype != np.uint8 or out.ndim != 3 or out.shape[2] != 3:
        kind = f"{getattr(out, 'dtype', type(out).__name__)} {tuple(getattr(out, 'shape', ()))}"
        raise ValueError(f"gives {kind}, training images are 8-bit colour (height, width, 3)")


def one_line(error: object) -> str:
    """Return an error's text as one line without the addresses that pydantic adds."""
    lines = [line.strip() for line in str(error).splitlines() if "For further information" not in line]
    text = " ".join(filter(None, lines)) or type(error).__name__
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[: _LONGEST_MESSAGE - 3]}..."


# Outlines -------------------------------------------------------------------------------------------------------------


def _rgb(im: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(im, cv2.COLOR_BGR2RGB)


def _bgr(im: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(im), cv2.COLOR_RGB2BGR)


def _flat_points(image: TrainingImage) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (n, 2) of all outlines in pixels, their centres at whole numbers, and each one's label."""
    if not image.segments:
        return np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    h, w = image.hw
    points = np.concatenate(image.segments).astype(np.float32) * np.array([w, h], np.float32) - np.float32(0.5)
    return points, np.repeat(np.arange(len(image.segments)), [len(outline) for outline in image.segments])


def _segments(image: TrainingImage, found: dict[str, Any], rows: np.ndarray) -> list[np.ndarray]:
    """Return the outlines of the labels ``rows``, normalised; [] where there are none or some point was lost."""
    count = sum(map(len, image.segments))
    if not count or len(found["keypoints"]) != count:
        return []
    h, w = found["image"].shape[:2]
    points = (np.asarray(found["keypoints"], dtype=np.float32)[:, :2] + np.float32(0.5)) / np.array([w, h], np.float32)
    owners = np.asarray(found["owners"], dtype=np.int64)
    return [points[owners == row].clip(0, 1) for row in rows.tolist()]
