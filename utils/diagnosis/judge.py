"""Both views of one run's predictions, joined: types and gains, counts at the operating point, classes, matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.diagnosis.class_table import ClassTable, class_table
from utils.diagnosis.data import GroundTruth
from utils.diagnosis.inputs import Views
from utils.diagnosis.matrix import Confusion, confusion
from utils.diagnosis.operating import OperatingResult, operate
from utils.diagnosis.tide import TideResult, TideSettings, tide

SMALL_AREA = 32.0**2  # px², COCO's small
CONF_REASONS = {
    "best": "Chosen here: the confidence with the best mean F1.",
    "given": "As given.",
    "classes": "A threshold for each class, as given.",
}


@dataclass(frozen=True)
class Judged:
    """One run's predictions, judged.

    Attributes:
        gt: the labelled objects.
        views: the predictions.
        ap_view: types and gains over all predictions (view A).
        operating: counts at the operating point (view B).
        table: a row for each class.
        matrix: of the operating view.
        conf_source: key of CONF_REASONS.
    """

    gt: GroundTruth
    views: Views
    ap_view: TideResult
    operating: OperatingResult
    table: ClassTable
    matrix: Confusion
    conf_source: str

    @property
    def conf(self) -> float:
        """The operating threshold, the mean where it differs by class."""
        return float(np.mean(self.operating.conf))

    def missed_small_share(self) -> float | None:
        """Return the share of the missed objects that are small, None when none is missed."""
        missed = self.operating.gt_state == 3
        sizes = (self.gt.boxes[:, 2:] - self.gt.boxes[:, :2]).clip(0).prod(1)[missed]
        return float((sizes < SMALL_AREA).mean()) if len(sizes) else None


def judge(
    gt: GroundTruth,
    views: Views,
    conf: float | np.ndarray | None = None,
    n_train: np.ndarray | None = None,
    settings: TideSettings | None = None,
) -> Judged:
    """Judge predictions in both views.

    Args:
        gt: the labelled objects.
        views: predictions on the same images.
        conf: operating threshold, one or (nc,); None takes that of the best mean F1.
        n_train: (nc,) training boxes, for the table of classes.
        settings: IoU thresholds and filters of the AP view; the former hold for the operating view as well.
    """
    settings = settings or TideSettings()
    ap_view = tide(gt, views.a, settings)
    operating = operate(gt, views.b, conf, settings.t_f, settings.t_b)
    table = class_table(gt, ap_view, operating, views.a, views.b, n_train)
    source = "best" if conf is None else "classes" if np.ndim(conf) else "given"
    return Judged(gt, views, ap_view, operating, table, confusion(gt, operating), source)
