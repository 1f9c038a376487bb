"""Measures of boxes and masks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.metrics import ap_per_class
from utils.metrics import fitness as box_fitness

_MEASURES = ("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95")
_LOSSES = ("box_loss", "seg_loss", "obj_loss", "cls_loss")
KEYS = [
    *(f"train/{name}" for name in _LOSSES),
    *(f"{name}({kind})" for kind in "BM" for name in _MEASURES),
    *(f"val/{name}" for name in _LOSSES),
    "x/lr0",
    "x/lr1",
    "x/lr2",
]  # columns of results.csv behind the epoch
BEST_KEYS = ["best/epoch", *(key.replace("metrics", "best") for key in KEYS[4:12])]


def fitness(x: np.ndarray) -> np.ndarray:
    """Return the sum of both fitness values (n,) of rows (n, >= 8): P, R, mAP50, mAP50-95 of boxes, then of masks."""
    return box_fitness(x[:, :4]) + box_fitness(x[:, 4:8])


def fitness_of(results: Sequence[float]) -> float:
    """Return the fitness of one row of values."""
    return float(fitness(np.asarray(results, dtype=np.float64).reshape(1, -1))[0])


def ap_per_class_box_and_mask(  # noqa: PLR0913, PLR0917 (inherited signature)
    tp_m: np.ndarray,
    tp_b: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    target_cls: np.ndarray,
    plot: bool = False,
    save_dir: str | Path = ".",
    names: Mapping[int, str] | Sequence[str] = (),
) -> dict[str, dict[str, np.ndarray]]:
    """Return p, r, f1, ap and ap_class of every class that has labels, for ``boxes`` and for ``masks``.

    Args:
        tp_m: bool (n, t), which masks are right at each IoU threshold, 0.5 first.
        tp_b: the same of the boxes.
        conf, pred_cls, target_cls, plot, save_dir, names: as of ``utils.metrics.ap_per_class``; the curves' names begin
            with Box and Mask.
    """
    found = {}
    for kind, tp, prefix in (("boxes", tp_b, "Box"), ("masks", tp_m, "Mask")):
        values = ap_per_class(tp, conf, pred_cls, target_cls, plot, save_dir, names, prefix=prefix)
        found[kind] = dict(zip(("p", "r", "f1", "ap", "ap_class"), values[2:], strict=True))
    return found


class Metric:
    """Precision, recall, F1 and AP of the classes that have labels.

    Attributes:
        p, r, f1: (k,) of each class.
        all_ap: (k, t) AP at each IoU threshold, 0.5 first.
        ap_class_index: (k,) class numbers.
    """

    def __init__(self) -> None:
        self.p: Any = []
        self.r: Any = []
        self.f1: Any = []
        self.all_ap: Any = []
        self.ap_class_index: Any = []

    @property
    def ap50(self) -> Any:
        """AP at IoU 0.5 of each class, (k,)."""
        return self.all_ap[:, 0] if len(self.all_ap) else []

    @property
    def ap(self) -> Any:
        """AP over all IoU thresholds of each class, (k,)."""
        return self.all_ap.mean(1) if len(self.all_ap) else []

    @property
    def mp(self) -> float:
        """Mean precision; 0 without classes, like the three following."""
        return _mean(self.p)

    @property
    def mr(self) -> float:
        """Mean recall."""
        return _mean(self.r)

    @property
    def map50(self) -> float:
        """Mean AP at IoU 0.5."""
        return _mean(self.ap50)

    @property
    def map(self) -> float:
        """Mean AP over all IoU thresholds."""
        return _mean(self.ap)

    def mean_results(self) -> tuple[float, float, float, float]:
        """Return mean P, R, AP50 and AP."""
        return self.mp, self.mr, self.map50, self.map

    def class_result(self, i: int) -> tuple[float, float, float, float]:
        """Return P, R, AP50 and AP of the i-th class that has labels."""
        return self.p[i], self.r[i], self.ap50[i], self.ap[i]

    def get_maps(self, nc: int) -> np.ndarray:
        """Return the AP of every class (nc,); a class without labels gets the mean."""
        maps = np.zeros(nc) + self.map
        maps[np.asarray(self.ap_class_index, dtype=int)] = self.ap
        return maps

    def update(self, results: Sequence[Any]) -> None:
        """Take over p, r, all_ap, f1 and ap_class_index, in this order."""
        self.p, self.r, self.all_ap, self.f1, self.ap_class_index = results


class Metrics:
    """The measures of boxes and of masks."""

    def __init__(self) -> None:
        self.metric_box = Metric()
        self.metric_mask = Metric()

    def update(self, results: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what ``ap_per_class_box_and_mask`` returned."""
        for metric, kind in ((self.metric_box, "boxes"), (self.metric_mask, "masks")):
            metric.update([results[kind][key] for key in ("p", "r", "ap", "f1", "ap_class")])

    def mean_results(self) -> tuple[float, ...]:
        """Return mean P, R, AP50 and AP of boxes, then of masks."""
        return self.metric_box.mean_results() + self.metric_mask.mean_results()

    def class_result(self, i: int) -> tuple[float, ...]:
        """Return P, R, AP50 and AP of the i-th class that has labels, of its boxes, then of its masks."""
        return self.metric_box.class_result(i) + self.metric_mask.class_result(i)

    def get_maps(self, nc: int) -> np.ndarray:
        """Return the sum of the APs of boxes and masks of every class, (nc,)."""
        return self.metric_box.get_maps(nc) + self.metric_mask.get_maps(nc)

    @property
    def ap_class_index(self) -> Any:
        """Numbers of the classes that have labels."""
        return self.metric_box.ap_class_index


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
