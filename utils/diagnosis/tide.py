"""The AP view: every wrong prediction gets one type, and what AP would gain without the errors of a type.

After TIDE (Bolya et al., arXiv 2008.08115). The gains do not add up to 100 - mAP: each answers for its type alone, the
others unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.diagnosis.ap import average_precision, class_aps, mean_ap
from utils.diagnosis.data import GroundTruth, Predictions, areas, plain
from utils.diagnosis.overlaps import Overlaps, find_overlaps
from utils.errors import InputError

TYPES = ("TP", "Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")  # codes are places; predictions are never Miss
TP, CLS, LOC, BOTH, DUPE, BKG, MISS = range(len(TYPES))
PERFECT = 100.0  # mAP with nothing wrong
LEFT_OUT = -1  # code of predictions outside max_det, the area or the classes
ERRORS = TYPES[1:]
COCO_AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, float("inf"))}  # px²


@dataclass(frozen=True)
class TideSettings:
    """What counts as found, and which part of the data is looked at.

    Attributes:
        t_f: IoU from which a prediction finds an object.
        t_b: IoU up to which a prediction lies on background.
        max_det: most predictions of an image, its most confident ones; None for all.
        area: (low, high) in px², objects of low <= area < high; see COCO_AREAS. A prediction belongs to the object it
            aims at, and by its own area where it aims at none, so that the parts of a division add up to the whole.
            COCO scoring takes every wrong prediction by its own area.
        classes: class numbers that the mean and the counts are over; None for all.

    Raises:
        InputError: a threshold outside 0 to 1 or t_b above t_f, max_det below 1, an empty area.
    """

    t_f: float = 0.5
    t_b: float = 0.1
    max_det: int | None = None
    area: tuple[float, float] | None = None
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.t_b <= self.t_f <= 1:
            raise InputError(f"IoU thresholds t_b {self.t_b}, t_f {self.t_f}: allowed are 0 < t_b <= t_f <= 1")
        if self.max_det is not None and self.max_det < 1:
            raise InputError(f"max_det is {self.max_det}, allowed are whole numbers from 1")
        if self.area is not None and not 0 <= self.area[0] < self.area[1]:
            raise InputError(f"area is {self.area}, allowed is 0 <= low < high in square pixels")


@dataclass(frozen=True)
class TideResult:
    """Types of all predictions and objects, AP, and gains in points of mAP.

    Attributes:
        map_: mean AP over the classes with objects, 0 to 100; NaN without any.
        ap: (nc,) AP at t_f, 0 to 100; NaN for a class without objects.
        delta: type -> gain in mAP when its errors are mended, for the six of ERRORS.
        special: "FP", "FN" -> gain when there were no wrong predictions, no unfound objects.
        delta_cls_per_class: (nc,) gain in each class's own AP when all Cls errors are mended.
        delta_cls_pairs: (predicted, true) -> gain in mAP when the Cls errors of this pair alone are mended.
        counts: type -> number, TP included.
        types: (P,) int8 places in TYPES, LEFT_OUT where not looked at.
        target: (P,) object that a prediction found (TP) or aims at, -1 for none.
        iou: (P,) IoU with that object; for background the best IoU with any.
        miss: (G,) bool.
        found: (G,) bool, taken by a right prediction.
        used: (G,) bool, within the area and classes looked at.
        counts_per_class: type -> (nc,) by the prediction's class, for Miss by the object's.
        absent: class -> wrong predictions, for classes without objects: no AP tells of them.
        settings: what they were worked out with.
    """

    map_: float
    ap: np.ndarray
    delta: dict[str, float]
    special: dict[str, float]
    delta_cls_per_class: np.ndarray
    delta_cls_pairs: dict[tuple[int, int], float]
    counts: dict[str, int]
    types: np.ndarray
    target: np.ndarray
    iou: np.ndarray
    miss: np.ndarray
    found: np.ndarray
    used: np.ndarray
    counts_per_class: dict[str, np.ndarray]
    absent: dict[int, int]
    settings: TideSettings

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON, without the columns of single predictions and objects."""
        pairs = sorted(self.delta_cls_pairs.items(), key=lambda item: -item[1])
        settings = self.settings
        return plain(
            {
                "map": self.map_,
                "ap": self.ap,
                "delta": self.delta,
                "special": self.special,
                "delta_cls_per_class": self.delta_cls_per_class,
                "delta_cls_pairs": [{"predicted": k, "true": g, "delta": d} for (k, g), d in pairs],
                "counts": self.counts,
                "counts_per_class": self.counts_per_class,
                "absent": self.absent,
                "settings": {"t_f": settings.t_f, "t_b": settings.t_b, "max_det": settings.max_det,
                             "area": settings.area, "classes": settings.classes},
            }
        )  # fmt: skip


def tide(gt: GroundTruth, pred: Predictions, settings: TideSettings | None = None) -> TideResult:
    """Give every wrong prediction its type and work out the gains.

    Args:
        gt: the labelled objects.
        pred: all predictions of a run as val makes them.
        settings: thresholds and filters.
    """
    settings = settings or TideSettings()
    rank = np.arange(len(pred)) - np.searchsorted(pred.image, pred.image)
    within = np.ones(len(pred), bool) if settings.max_det is None else rank < settings.max_det
    overlaps = find_overlaps(gt, pred)
    overlaps = overlaps.select(within[overlaps.pred])
    types, target, iou = assign_types(overlaps, settings.t_f, settings.t_b)
    found = np.zeros(len(gt), bool)
    found[target[types == TP]] = True
    miss = _missed(types, target, found)
    used = _in_area(areas(gt.boxes), settings.area)
    aims = target >= 0
    within &= np.where(aims, used[target], _in_area(areas(pred.boxes), settings.area)) if len(gt) else True
    types = np.where(within, types, LEFT_OUT).astype(np.int8)
    book = _Book(gt, pred, types, target, found, miss, used, settings)
    base = book.aps()
    return TideResult(
        book.mean(base), base,
        {name: _gain(book.mean(base), book.mean(book.aps(name))) for name in ERRORS},
        {name: _gain(book.mean(base), book.mean(book.aps(name))) for name in ("FP", "FN")},
        np.maximum(book.aps("Cls") - base, 0), book.pair_gains(base), book.counts(), types, target, iou,
        miss & book.used, found, book.used, book.counts_per_class(), book.absent(), settings,
    )  # fmt: skip


def assign_types(overlaps: Overlaps, t_f: float, t_b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the type (P,) of each prediction, its target (P,) or -1, and its IoU (P,) with the target.

    Without a target the IoU is the best with any object.
    """
    matched = overlaps.select(overlaps.same & (overlaps.iou >= t_f)).match()
    types, target, iou = wrong_types(overlaps, t_f, t_b)
    right = matched >= 0
    types[right], target[right] = TP, matched[right]
    pair = overlaps.select(matched[overlaps.pred] == overlaps.gt)
    iou[pair.pred] = pair.iou
    return types, target, iou


def wrong_types(overlaps: Overlaps, t_f: float, t_b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the type that each prediction has if it is wrong, its target and IoU; first rule that fits counts."""
    same_iou, same = overlaps.select(overlaps.same).best()
    other_iou, other = overlaps.select(~overlaps.same).best()
    any_iou, nearest = overlaps.best()
    rules = [
        (t_b <= same_iou) & (same_iou < t_f),
        other_iou >= t_f,
        same_iou >= t_f,
        any_iou <= t_b,
    ]
    none = np.full(overlaps.n_pred, -1)
    types = np.select(rules, [LOC, CLS, DUPE, BKG], BOTH).astype(np.int8)
    target = np.select(rules, [same, other, same, none], nearest)
    return types, target, np.select(rules, [same_iou, other_iou, same_iou, any_iou], any_iou)


def _missed(types: np.ndarray, target: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return which objects nothing found and no Cls or Loc error aims at."""
    aimed = np.zeros(len(found), bool)
    aimed[target[(types == CLS) | (types == LOC)]] = True
    return ~found & ~aimed


def _in_area(sizes: np.ndarray, area: tuple[float, float] | None) -> np.ndarray:
    return np.ones(len(sizes), bool) if area is None else (area[0] <= sizes) & (sizes < area[1])


def _gain(before: float, after: float) -> float:
    """Return what the mean AP gains; never below 0, which sampling at 101 levels could give.

    NaN without a mean to begin with. Where the mending leaves no class with objects, nothing is left to find, and all
    that was missing is gained.
    """
    if np.isnan(before):
        return before
    return PERFECT - before if np.isnan(after) else max(0.0, after - before)


class _Book:
    """Typed predictions and objects, and the APs that follow when the errors of a type are mended."""

    def __init__(  # noqa: PLR0913  (the columns of both sides)
        self,
        gt: GroundTruth,
        pred: Predictions,
        types: np.ndarray,
        target: np.ndarray,
        found: np.ndarray,
        miss: np.ndarray,
        in_area: np.ndarray,
        settings: TideSettings,
    ):
        self.gt, self.nc = gt, gt.nc
        chosen = np.ones(self.nc, bool)
        if settings.classes is not None:
            chosen = np.isin(np.arange(self.nc), settings.classes)
        self.chosen = chosen
        self.in_area, self.used = in_area, in_area & chosen[gt.cls]
        self.miss, self.found = miss & in_area, found & in_area
        order = np.argsort(-pred.conf, kind="stable")
        order = order[types[order] != LEFT_OUT]
        self.cls, self.types, self.target = pred.cls[order], types[order], target[order]
        self.mendable = self._mendable(found)

    def _mendable(self, found: np.ndarray) -> np.ndarray:
        """Return which Cls and Loc errors become right: the best one aimed at an object that nothing found."""
        mendable = np.zeros(len(self.types), bool)
        aims = np.flatnonzero((self.types == CLS) | (self.types == LOC))
        _, first = np.unique(self.target[aims], return_index=True)  # by falling confidence, so the first is the best
        best = aims[first]
        mendable[best] = ~found[self.target[best]]
        return mendable

    def _n_gt(self, without: np.ndarray | None = None) -> np.ndarray:
        """Return the objects of each class (nc,), some left out."""
        counted = self.in_area if without is None else self.in_area & ~without
        return np.bincount(self.gt.cls[counted], minlength=self.nc)

    def aps(self, mended: str = "") -> np.ndarray:
        """Return the AP of each class (nc,) with the errors of one type of ERRORS, "FP" or "FN" mended."""
        right, cls, keep = self.types == TP, self.cls, np.ones(len(self.cls), bool)
        n_gt = self._n_gt()
        if mended == "Miss":
            n_gt = self._n_gt(self.miss)
        elif mended == "FN":
            n_gt = self._n_gt(~self.found)
        elif mended == "FP":
            keep = right
        elif mended:
            wrong = self.types == TYPES.index(mended)
            repaired = wrong & self.mendable
            keep, right = ~wrong | repaired, right | repaired
            if mended == "Cls":
                cls = cls.copy()
                cls[repaired] = self.gt.cls[self.target[repaired]]
        return class_aps(cls[keep], right[keep], n_gt)

    def mean(self, aps: np.ndarray) -> float:
        """Return the mean over the chosen classes."""
        return mean_ap(aps[self.chosen])

    def pair_gains(self, base: np.ndarray) -> dict[tuple[int, int], float]:
        """Return what mAP gains by mending the Cls errors of each pair (predicted, true) alone."""
        wrong = np.flatnonzero(self.types == CLS)
        true = self.gt.cls[self.target[wrong]]
        code = self.cls[wrong] * self.nc + true
        members = {c: np.flatnonzero(self.cls == c) for c in np.unique(np.concatenate((self.cls[wrong], true)))}
        n_gt, right = self._n_gt(), self.types == TP
        known = int((~np.isnan(base[self.chosen])).sum())
        gains = {}
        for pair in np.unique(code).tolist():
            k, g = divmod(pair, self.nc)
            rows = wrong[code == pair]
            left = members[k][~np.isin(members[k], rows, assume_unique=True)]
            repaired = rows[self.mendable[rows]]
            joined = np.sort(np.concatenate((members[g], repaired)))
            gain = 0.0
            for c, part, extra in ((k, left, rows[:0]), (g, joined, repaired)):
                if self.chosen[c] and n_gt[c]:
                    hits = right[part] | np.isin(part, extra, assume_unique=True)
                    gain += average_precision(hits, int(n_gt[c])) - float(base[c])
            gains[k, g] = max(0.0, gain / known) if known else float("nan")
        return gains

    def counts_per_class(self) -> dict[str, np.ndarray]:
        """Return the number of each type for each class (nc,)."""
        counts = {
            name: np.bincount(self.cls[self.types == code], minlength=self.nc) * self.chosen
            for code, name in enumerate(TYPES[:MISS])
        }
        counts["Miss"] = np.bincount(self.gt.cls[self.miss & self.used], minlength=self.nc)
        return counts

    def counts(self) -> dict[str, int]:
        """Return the number of each type."""
        return {name: int(numbers.sum()) for name, numbers in self.counts_per_class().items()}

    def absent(self) -> dict[int, int]:
        """Return the wrong predictions of the classes that have no objects."""
        numbers = np.bincount(self.cls, minlength=self.nc) * self.chosen
        return {int(c): int(numbers[c]) for c in np.flatnonzero((numbers > 0) & (self._n_gt() == 0))}
