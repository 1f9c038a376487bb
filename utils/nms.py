"""Non-maximum suppression: decoded predictions to detections. The result never depends on the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from utils.boxes import xywh2xyxy
from utils.errors import InputError
from utils.logs import LOGGER
from utils.quick_nms import greedy_nms

MAX_NMS = 30_000  # candidates an image may bring into suppression, the best by confidence
CLASS_OFFSET = 7680.0  # pixels between the classes' copies of the plane, so that they never meet
GROUP_ROWS = 200_000  # candidate rows scored together; bounds the memory of a batch whose every anchor fires
CROWD = 128  # boxes of a class that are worth a suppression of their own
FIRST_PREFIX = 6  # the first attempt looks at this many times max_det candidates
_ONE = 0x3F800000  # the bits of 1.0 in float32

_stated: set[str] = set()


@dataclass(frozen=True)
class _Options:
    """What the steps of one call share."""

    conf_thres: float
    class_thres: torch.Tensor | None
    iou_thres: float
    classes: list[int] | None
    agnostic: bool
    multi_label: bool
    max_det: int
    nc: int


def class_list(classes: Iterable[int] | int | None) -> list[int] | None:
    """Return class numbers as a list; a single number stands for itself, None for all classes.

    Raises:
        InputError: anything but numbers, such as a class name.
    """
    if classes is None:
        return None
    try:
        return [classes] if isinstance(classes, int) else [int(c) for c in classes]
    except (TypeError, ValueError):
        raise InputError(f"classes: {classes!r} found, allowed are class numbers such as 0 or [0, 2]") from None


def non_max_suppression(  # noqa: PLR0913, PLR0917 (inherited signature)
    prediction: torch.Tensor | Sequence[torch.Tensor],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | int | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[torch.Tensor | Sequence[Sequence[float]]] = (),
    max_det: int = 300,
    nm: int = 0,
    *,
    class_thres: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """Return each image's detections, most confident first: (n, 6 + nm) x1, y1, x2, y2, conf, class, mask columns.

    A row whose box is not finite is dropped, said once. At most MAX_NMS candidates of an image, its most confident
    ones, are looked at; the log says once when an image has more. No other limit exists: a slow machine gives the same
    result.

    Args:
        prediction: (batch, rows, 5 + nc + nm) centre x, y, w, h, objectness, class scores, mask columns; or a sequence
            that starts with it.
        conf_thres: smallest objectness and smallest objectness x class score, 0 to 1.
        iou_thres: a box that overlaps a better one of its class by more is dropped, 0 to 1.
        classes: keep only these class numbers, or this one.
        agnostic: boxes of different classes suppress each other too.
        multi_label: one row may give a detection for each class above the threshold.
        labels: per image (k, 5) class, centre x, y, w, h in pixels, added as certain candidates.
        max_det: most detections an image may have.
        nm: number of mask columns at the end of a row.
        class_thres: (nc,) smallest confidence of each class, in place of conf_thres. What stays below it suppresses
            nothing.

    Raises:
        InputError: a threshold outside 0 to 1, not one for each class, or max_det below 1.
    """
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} is {value}, allowed are 0.0 to 1.0")
    if max_det < 1:
        raise InputError(f"max_det is {max_det}, allowed are whole numbers from 1")
    if not isinstance(prediction, torch.Tensor):
        prediction = prediction[0]
    nc = prediction.shape[2] - nm - 5
    wanted = class_list(classes)
    if class_thres is not None:
        class_thres = _checked_thresholds(class_thres, nc).to(prediction.device)
        conf_thres = float(class_thres.min())
    options = _Options(conf_thres, class_thres, iou_thres, wanted, agnostic, multi_label and nc > 1, max_det, nc)

    objectness = prediction[..., 4].clone()  # one pass over the rows for all that follows
    chosen = objectness > conf_thres
    output: list[torch.Tensor] = []
    sound = bool(objectness.sum(dtype=torch.float32).isfinite())
    for first, last in _groups(chosen.sum(1).tolist()):
        rows, image = _rows_of(prediction[first:last], chosen[first:last], labels[first:last], nc)
        if not bool(rows[:, :4].sum().isfinite()):  # where the sum is, each of its terms is
            sound = False
            finite = rows[:, :4].isfinite().all(1)
            rows, image = rows[finite], image[finite]
        table, image = _candidates(rows, image, options)
        counts = torch.bincount(image, minlength=last - first).tolist()
        output += [_suppress(part, options) for part in table.split(counts)]
    if not sound:
        _state_unsound_rows(prediction)
    return output


def _checked_thresholds(class_thres: torch.Tensor, nc: int) -> torch.Tensor:
    """Return the thresholds as float32 (nc,)."""
    class_thres = torch.as_tensor(class_thres, dtype=torch.float32)
    if class_thres.shape != (nc,):
        raise InputError(
            f"class_thres has the shape {tuple(class_thres.shape)}, allowed is one threshold per class: ({nc},)"
        )
    if not ((class_thres >= 0) & (class_thres <= 1)).all():
        raise InputError(f"class_thres is {class_thres.tolist()}, allowed are 0.0 to 1.0")
    return class_thres


def _groups(rows_per_image: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) runs of images that hold at most GROUP_ROWS candidate rows, or one image."""
    first = total = 0
    for i, rows in enumerate(rows_per_image):
        if total and total + rows > GROUP_ROWS:
            yield first, i
            first, total = i, 0
        total += rows
    if first < len(rows_per_image):
        yield first, len(rows_per_image)


def _rows_of(
    prediction: torch.Tensor, chosen: torch.Tensor, labels: Sequence, nc: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the chosen rows (n, columns) as float32 and their image numbers (n,), labels appended as certain rows."""
    place = _true_places(chosen)
    image = place.div(chosen.shape[1], rounding_mode="floor")
    rows = prediction.flatten(0, 1).index_select(0, place).float()  # four times as fast as [image, row]
    for i, known in enumerate(labels):
        if len(known):
            known = torch.as_tensor(known, dtype=torch.float32, device=rows.device)
            extra = rows.new_zeros((len(known), rows.shape[1]))
            extra[:, :4] = known[:, 1:5]
            extra[:, 4] = 1.0
            extra[torch.arange(len(known), device=rows.device), known[:, 0].long() + 5] = 1.0
            rows = torch.cat((rows, extra))
            image = torch.cat((image, image.new_full((len(known),), i)))
    return rows, image


def _true_places(mask: torch.Tensor) -> torch.Tensor:
    """Return where a mask is true, rising (n,), its elements numbered row by row; in main memory numpy looks faster."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def _candidates(rows: torch.Tensor, image: torch.Tensor, options: _Options) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn rows into candidates, by image and then by falling confidence.

    Returns:
        (n, 6 + nm) x1, y1, x2, y2, conf, class, mask columns, and the image numbers (n,).
    """
    end = 5 + options.nc
    rows[:, 5:] *= rows[:, 4:5]
    scores = rows[:, 5:end]
    if options.multi_label:
        limit = options.conf_thres if options.class_thres is None else options.class_thres
        place = _true_places(scores > limit)
        row, best = place.div(options.nc, rounding_mode="floor"), place % options.nc
        confidence = scores[row, best]
    else:
        confidence, best = scores.max(1)
        limit = options.conf_thres if options.class_thres is None else options.class_thres[best]
        row = _true_places(confidence > limit)
        confidence, best = confidence[row], best[row]
    if options.classes is not None:
        keep = torch.isin(best, torch.tensor(options.classes, dtype=best.dtype, device=best.device))
        row, best, confidence = row[keep], best[keep], confidence[keep]

    image = image[row]
    order = _order(image, confidence)
    row = row[order]
    boxes = xywh2xyxy(rows[:, :4])
    columns = (boxes[row], confidence[order, None], best[order, None].float(), rows[row, end:])
    return torch.cat(columns, 1), image[order]


def _order(image: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
    """Return what sorts candidates by image and then by falling confidence, of equal ones the later first.

    In main memory the three become one number, which numpy sorts several times as fast as torch sorts twice.
    """
    n = len(confidence)
    fits = confidence.device.type == "cpu" and 0 < n < 1 << 24 and int(image.max()) < 1 << 9
    if not fits or not 0 <= float(confidence.min()) <= float(confidence.max()) <= 1:
        order = confidence.argsort(stable=True).flip(0)
        return order[image[order].argsort(stable=True)]
    bits = (confidence + 0.0).numpy().view(np.int32).astype(np.int64)  # of numbers from 0 to 1 they rise with them
    keys = (image.numpy().astype(np.int64) << 54) + ((_ONE - bits) << 24) + np.arange(n - 1, -1, -1)
    keys.sort()
    return torch.from_numpy(n - 1 - (keys & ((1 << 24) - 1)))


def _suppress(candidates: torch.Tensor, options: _Options) -> torch.Tensor:
    """Return what greedy suppression keeps of one image's candidates, which come by falling confidence.

    A box is only ever suppressed by a more confident one, so the survivors among the best k candidates begin the
    survivors among all: the search ends as soon as a prefix gives max_det of them.
    """
    nms = greedy_nms()
    if len(candidates) > MAX_NMS:
        _state_once(len(candidates))
        candidates = candidates[:MAX_NMS]
    if not len(candidates):
        return candidates
    boxes, scores, groups = candidates[:, :4], candidates[:, 4], None
    if not options.agnostic:
        offset = max(CLASS_OFFSET, float(boxes.max() - boxes.min()))
        boxes = boxes + candidates[:, 5:6] * offset
        groups = candidates[:, 5].long() if boxes.device.type == "cpu" else None
    size = step = max(FIRST_PREFIX * options.max_det, 256)
    suppress = partial(_survivors, lambda boxes, scores: nms(boxes, scores, options.iou_thres))
    kept = suppress(boxes[:size], scores[:size], groups)
    while len(kept) < options.max_det and size < len(candidates):
        coming = torch.arange(size, min(size + step, len(candidates)), device=kept.device)
        looked = torch.cat((kept, coming))  # what was suppressed suppresses nothing
        mine = groups if groups is None else groups[looked]
        kept = looked[suppress(boxes[looked], scores[looked], mine)]
        size, step = size + step, 2 * step
    return candidates[kept[: options.max_det]]


def _survivors(
    nms: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    boxes: torch.Tensor,
    scores: torch.Tensor,
    groups: torch.Tensor | None,
) -> torch.Tensor:
    """Return the places of the boxes (n, 4) that suppression keeps, rising; scores (n,) fall.

    On the CPU, where each pair costs time, boxes of classes with many of them meet their own class alone: those of
    other classes lie elsewhere in the plane anyway.
    """
    if groups is None or len(boxes) < 2 * CROWD:
        return nms(boxes, scores)
    classes = groups[: len(boxes)].numpy()
    is_crowd = np.bincount(classes) >= CROWD
    if not is_crowd.any():
        return nms(boxes, scores)
    party = np.where(is_crowd[classes], classes, len(is_crowd)).astype(np.int16)  # all other classes are one
    order = torch.from_numpy(party.argsort(kind="stable"))
    sizes = np.bincount(party)
    boxes, scores = boxes[order], scores[order]
    parts = (part.split(sizes[sizes > 0].tolist()) for part in (order, boxes, scores))
    return torch.cat([places[nms(*mine)] for places, *mine in zip(*parts, strict=True)]).sort()[0]


def unsound_images(prediction: torch.Tensor | Sequence[torch.Tensor]) -> list[int]:
    """Return the numbers of the images that have a row whose box or objectness is no finite number."""
    prediction = prediction if isinstance(prediction, torch.Tensor) else prediction[0]
    sums = prediction[..., :5].sum((1, 2), dtype=torch.float32)  # as finite as all of its terms, and quickly had
    return (~sums.isfinite()).nonzero()[:, 0].tolist()


def _state_unsound_rows(prediction: torch.Tensor) -> None:
    """Log, once a process, that a model gave boxes that are no numbers."""
    if "unsound" not in _stated and (images := unsound_images(prediction)):
        _stated.add("unsound")
        LOGGER.warning(
            f"WARNING NMS: {len(images)} of {len(prediction)} images have predictions that are not finite numbers, "
            "which are dropped: the weights or the precision do not suit (said once)"
        )


def _state_once(count: int) -> None:
    """Log, once a process, that an image had more candidates than are looked at."""
    if "cap" not in _stated:
        _stated.add("cap")
        LOGGER.warning(
            f"NMS: an image has {count} candidate boxes, the {MAX_NMS} most confident are used; "
            "a higher confidence threshold gives fewer (said once)"
        )
