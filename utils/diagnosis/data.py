"""What every diagnosis works on: labelled images and predictions on them, as flat arrays in native image pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class ImageInfo:
    """One image: its file, its label file (which need not exist), and its upright size in pixels."""

    path: str
    label_path: str
    width: int
    height: int


@dataclass(frozen=True)
class GroundTruth:
    """The labelled objects of a set of images, by image.

    Attributes:
        images: the images, those without objects too.
        image: (G,) int64, place in ``images`` of each object, never falling.
        boxes: (G, 4) float64 x1, y1, x2, y2 in pixels of the image.
        cls: (G,) int64 class numbers.
        line: (G,) int64 row in the label file, from 1; empty lines do not count.
        names: class number -> name.
        split: which part of the data set this is.

    Raises:
        ValueError: lengths differ, the images are not in order, or a class has no name.
    """

    images: list[ImageInfo]
    image: np.ndarray
    boxes: np.ndarray
    cls: np.ndarray
    line: np.ndarray
    names: dict[int, str]
    split: str = "val"

    def __post_init__(self) -> None:
        _check_lengths(self.image, self.boxes, self.cls, self.line)
        check_classes(self.cls, self.nc)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.searchsorted(self.image, np.arange(len(self.images) + 1))

    def of_image(self, i: int) -> slice:
        """Return where the objects of image ``i`` lie."""
        return slice(int(self._offsets[i]), int(self._offsets[i + 1]))

    def counts(self) -> np.ndarray:
        """Return the number of objects of each class, int64 (nc,)."""
        return np.bincount(self.cls, minlength=self.nc)


@dataclass(frozen=True)
class Predictions:
    """What a detector found, by image and then by falling confidence; ``sort_predictions`` brings them in order.

    Attributes:
        image: (P,) int64, place of the image in ``GroundTruth.images``.
        boxes: (P, 4) float64 x1, y1, x2, y2 in pixels of the image.
        conf: (P,) float64 confidences, 0 to 1.
        cls: (P,) int64 class numbers.
        source: where they come from, for reports.

    Raises:
        ValueError: lengths differ, or the order is another.
    """

    image: np.ndarray
    boxes: np.ndarray
    conf: np.ndarray
    cls: np.ndarray
    source: str = ""

    def __post_init__(self) -> None:
        _check_lengths(self.image, self.boxes, self.cls, self.conf)
        if (np.diff(self.conf) > 0)[np.diff(self.image) == 0].any():
            raise ValueError("predictions of an image must come by falling confidence: use sort_predictions")

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def _offsets(self) -> np.ndarray:
        last = int(self.image[-1]) if len(self.image) else -1
        return np.searchsorted(self.image, np.arange(last + 2))

    def of_image(self, i: int) -> slice:
        """Return where the predictions on image ``i`` lie."""
        known = len(self._offsets) - 1
        return slice(int(self._offsets[min(i, known)]), int(self._offsets[min(i + 1, known)]))

    def select(self, keep: np.ndarray) -> Predictions:
        """Return those that ``keep`` names, bool (P,) or rising places."""
        return Predictions(self.image[keep], self.boxes[keep], self.conf[keep], self.cls[keep], self.source)

    def above(self, conf: float | np.ndarray) -> Predictions:
        """Return those more confident than ``conf``: one number, or one for each class (nc,)."""
        limit = np.asarray(conf, dtype=np.float64)
        return self.select(self.conf > (limit[self.cls] if limit.ndim else limit))

    def best_of_image(self, count: int) -> Predictions:
        """Return the ``count`` most confident of each image."""
        first = np.searchsorted(self.image, self.image)
        return self.select(np.arange(len(self)) - first < count)


def sort_predictions(
    image: np.ndarray, boxes: np.ndarray, conf: np.ndarray, cls: np.ndarray, source: str = ""
) -> Predictions:
    """Return predictions in any order as Predictions; equally confident ones of an image keep their order."""
    image = np.asarray(image, dtype=np.int64).reshape(-1)
    conf = np.asarray(conf, dtype=np.float64).reshape(-1)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    cls = np.asarray(cls, dtype=np.int64).reshape(-1)
    order = np.lexsort((-conf, image))
    return Predictions(image[order], boxes[order], conf[order], cls[order], source)


def sort_objects(  # noqa: PLR0913  (the parts of one set of labels)
    images: list[ImageInfo],
    image: np.ndarray,
    boxes: np.ndarray,
    cls: np.ndarray,
    names: dict[int, str],
    line: np.ndarray | None = None,
    split: str = "val",
) -> GroundTruth:
    """Return labelled objects in any order as GroundTruth; without ``line`` they count from 1 in each image."""
    image = np.asarray(image, dtype=np.int64).reshape(-1)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    cls = np.asarray(cls, dtype=np.int64).reshape(-1)
    order = np.argsort(image, kind="stable")
    image = image[order]
    if line is None:
        line = np.arange(len(image)) - np.searchsorted(image, image) + 1
    else:
        line = np.asarray(line, dtype=np.int64).reshape(-1)[order]
    return GroundTruth(list(images), image, boxes[order], cls[order], line, dict(names), split)


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas (n,) of boxes (n, 4) xyxy; 0 where a side is not positive."""
    return (boxes[:, 2] - boxes[:, 0]).clip(0) * (boxes[:, 3] - boxes[:, 1]).clip(0)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU (n, m) of boxes (n, 4) and (m, 4) xyxy, without the small constant of the training code.

    A pair of boxes without area has 0.
    """
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    return _ratio(_shared(a[:, None], b[None]), areas(a)[:, None] + areas(b)[None])


def paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU (n,) of boxes (n, 4) with boxes (n, 4) xyxy, row by row."""
    return _ratio(_shared(a, b), areas(a) + areas(b))


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the area that boxes share, broadcast over all axes but the last."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    return width.clip(0) * height.clip(0)


def _ratio(shared: np.ndarray, both: np.ndarray) -> np.ndarray:
    union = both - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def check_classes(cls: np.ndarray, nc: int) -> None:
    """Raise ValueError for a class number outside 0 to nc - 1."""
    if len(cls) and not 0 <= cls.min() <= cls.max() < nc:
        raise ValueError(f"class numbers {cls.min()} to {cls.max()}, allowed are 0 to {nc - 1}")


def _check_lengths(image: np.ndarray, boxes: np.ndarray, *columns: np.ndarray) -> None:
    lengths = [len(image), len(boxes), *map(len, columns)]
    if len(set(lengths)) != 1 or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"columns of lengths {lengths} with boxes {boxes.shape}: expected one length and boxes (n, 4)")
    if (np.diff(image) < 0).any():
        raise ValueError("objects must come by image: use sort_objects or sort_predictions")


def plain(value: object) -> object:
    """Return a value for JSON: arrays and numpy numbers made plain, NaN and infinity None, keys (a, b) the text a,b."""
    if isinstance(value, dict):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _key(key: object) -> str:
    return ",".join(map(str, key)) if isinstance(key, tuple) else str(key)
