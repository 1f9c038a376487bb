"""Two or more runs over the same images: what got better, what worse, and what cannot be told apart.

Differences come with a 95 % interval of a paired bootstrap over images: images are drawn with replacement, the same
for all runs, and everything is counted again on them. Where the interval holds 0 no difference was measured. Of many
intervals about one in twenty misses by chance, so single classes ask for caution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.diagnosis.ap import LEVELS, mean_ap
from utils.diagnosis.class_table import FEW_OBJECTS, TOO_FEW, write_csv
from utils.diagnosis.data import GroundTruth, Predictions, plain
from utils.diagnosis.operating import FALSE_TYPES, GT_STATES, PRED_TYPES, OperatingResult
from utils.diagnosis.tide import ERRORS, LEFT_OUT, TP, TideResult
from utils.errors import InputError

RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles
SAME = "no measurable difference"
LISTED = 8  # classes named in a sentence
CELLS_AT_ONCE = 8_000_000  # predictions of a class x resamples; bounds the memory at about 200 MB
COUNTED = ("TP", "misclassified", *FALSE_TYPES, "badly located", "missed")
OF_OBJECTS = {"TP", "misclassified", "badly located", "missed"}
COLUMNS = ["run", "measure", "type", "class", "name", "first", "other", "difference", "low", "high", "verdict", "few"]


@dataclass(frozen=True)
class Run:
    """One run: its name, the images with their objects, and both views of its predictions.

    Attributes:
        name: for reports.
        gt: the labelled objects.
        a: all predictions, those of the AP view.
        ap_view: the AP view.
        operating: the operating view.
    """

    name: str
    gt: GroundTruth
    a: Predictions
    ap_view: TideResult
    operating: OperatingResult


@dataclass(frozen=True)
class Comparison:
    """Every run against the first.

    Attributes:
        first: the first run's name.
        others: names of the others.
        table: one dictionary for each run and measure with the keys of COLUMNS: measure is "mAP50" or "AP50" (points)
            or "count" (objects and predictions at the operating point); type is one of COUNTED; class -1 stands for
            all; first and other are the measured values, low and high the interval of other - first; verdict is
            "better", "worse", SAME, or TOO_FEW for objects of a class that has fewer than FEW_OBJECTS.
        costs: run -> type of the AP view -> gain in mAP when mended, values without intervals.
        resamples: how often images were drawn.
        seed: of the drawing.
        images: number of images.
    """

    first: str
    others: list[str]
    table: list[dict[str, Any]]
    costs: dict[str, dict[str, float]]
    resamples: int
    seed: int
    images: int

    def rows(self) -> list[dict[str, Any]]:
        """Return the table with plain values, None for what is undefined."""
        return [plain(row) for row in self.table]

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        facts = ("first", "others", "costs", "resamples", "seed", "images")
        return {**{key: plain(getattr(self, key)) for key in facts}, "rows": self.rows(), "lines": self.lines()}

    def save(self, path: str | Path) -> None:
        """Write the table as CSV.

        Raises:
            WorkError: the file cannot be written.
        """
        write_csv(path, COLUMNS, self.rows())

    def overall(self, run: str) -> dict[str, Any]:
        """Return the row of mAP50 of a run that is compared with the first."""
        return next(row for row in self.table if row["run"] == run and row["measure"] == "mAP50")

    def lines(self) -> list[str]:
        """Return the verdict in sentences: mAP50 of each run, then what measurably differs."""
        lines = []
        for run in self.others:
            row = self.overall(run)
            lines.append(
                f"{run} against {self.first}: mAP50 {row['other']:.2f} and {row['first']:.2f}, {row['verdict']} "
                f"({_interval(row)})"
            )
            told = [row for row in self.table if row["run"] == run and (row["class"] < 0 or row["measure"] == "AP50")]
            for word in ("better", "worse"):
                found = [row for row in told if row["verdict"] == word and row["measure"] != "mAP50"]
                if found:
                    lines.append(f"{run} is {word} in: {_listed(found)}")
        return lines


def compare(runs: Sequence[Run], resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare every run with the first.

    Args:
        runs: two or more over the same images and labels.
        resamples: how often images are drawn.
        seed: of the drawing.

    Raises:
        InputError: fewer than two runs, equal names, or runs over other images, labels or classes, by name.
    """
    _check(runs, resamples)
    gt = runs[0].gt
    drawn = _draw(len(gt.images), resamples, seed)
    first, *others = (_Sampled(run, drawn) for run in runs)
    table = [row for other in others for row in _rows(first, other)]
    costs = {run.name: {name: run.ap_view.delta[name] for name in ERRORS} for run in runs}
    return Comparison(runs[0].name, [r.name for r in runs[1:]], table, costs, resamples, seed, len(gt.images))


# The runs fit together ------------------------------------------------------------------------------------------------


def _check(runs: Sequence[Run], resamples: int) -> None:
    if len(runs) < 2:
        raise InputError(f"--compare: {len(runs)} run given, at least 2 are needed")
    if resamples < 1:
        raise InputError(f"resamples is {resamples}, allowed are whole numbers from 1")
    names = [run.name for run in runs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"--compare: two runs are named {sorted(twice)[0]}; give each its own name")
    for run in runs[1:]:
        problem = _difference(runs[0], run)
        if any(r.ap_view.settings.area or r.ap_view.settings.classes for r in (runs[0], run)):
            raise ValueError("runs are compared over all areas and classes")
        if problem:
            raise InputError(f"--compare: {runs[0].name} and {run.name} cannot be compared: {problem}")


def _difference(first: Run, other: Run) -> str:
    """Return what two runs' ground truth differs in, '' when it is the same."""
    a, b = first.gt, other.gt
    if a.names != b.names:
        c = next(c for c in sorted({*a.names, *b.names}) if a.names.get(c) != b.names.get(c))
        return f"class {c} is {a.names.get(c, 'missing')} in one and {b.names.get(c, 'missing')} in the other"
    ours, theirs = ([_file_key(info.path) for info in gt.images] for gt in (a, b))
    if ours != theirs:
        for here, there, run in ((ours, theirs, other), (theirs, ours, first)):
            missing = sorted(set(here) - set(there))
            if missing:
                return f"{run.name} lacks the image {missing[0]} ({len(missing)} images in all)"
        return "they hold the same images in another order"
    same = len(a) == len(b) and (a.image == b.image).all() and (a.cls == b.cls).all()
    if same and np.allclose(a.boxes, b.boxes, rtol=0, atol=1e-3) and a.split == b.split:
        return ""
    changed = next((i for i in range(len(a.images)) if not _same_labels(a, b, i)), 0)
    return f"the labels of {a.images[changed].path} differ"


def _file_key(path: str) -> str:
    """Return the end of a path by which an image is known in copies of a data set: its folder and file name."""
    return "/".join(Path(path).parts[-2:])


def _same_labels(a: GroundTruth, b: GroundTruth, i: int) -> bool:
    x, y = a.of_image(i), b.of_image(i)
    if x.stop - x.start != y.stop - y.start:
        return False
    return bool((a.cls[x] == b.cls[y]).all() and np.allclose(a.boxes[x], b.boxes[y], rtol=0, atol=1e-3))


# Bootstrap ------------------------------------------------------------------------------------------------------------


def _draw(images: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each image is drawn, float32 (images, resamples); columns add up to ``images``."""
    if not images:
        return np.zeros((0, resamples), np.float32)
    rng = np.random.default_rng(seed)
    return np.ascontiguousarray(rng.multinomial(images, np.full(images, 1 / images), resamples).T, dtype=np.float32)


class _Sampled:
    """A run's measures as they are, and on every drawing.

    Attributes:
        ap: (nc,) AP50; ap_drawn: (nc, resamples).
        counts: (1 + nc, types) with all classes first; counts_drawn: the same with resamples at the end.
    """

    def __init__(self, run: Run, drawn: np.ndarray):
        self.name, self.gt = run.name, run.gt
        self.ap = run.ap_view.ap
        self.ap_drawn = drawn_aps(run, drawn)
        per_image = _counts_per_image(run)
        self.counts = per_image.sum(0).reshape(-1, len(COUNTED))
        used = np.flatnonzero(per_image.any(0))
        self.counts_drawn = np.zeros((per_image.shape[1], drawn.shape[1]), np.float32)
        self.counts_drawn[used] = per_image[:, used].T @ drawn
        self.counts_drawn = self.counts_drawn.reshape(*self.counts.shape, -1)

    @property
    def map_drawn(self) -> np.ndarray:
        """Return the mean AP50 (resamples,) over the classes that have objects in each drawing; NaN without any."""
        known = ~np.isnan(self.ap_drawn)
        total = np.where(known, self.ap_drawn, 0).sum(0)
        return np.divide(total, known.sum(0), out=np.full(total.shape, np.nan), where=known.any(0))


def drawn_aps(run: Run, drawn: np.ndarray) -> np.ndarray:
    """Return the AP50 (nc, resamples), 0 to 100, of each class on drawn images; NaN where no object was drawn.

    Args:
        run: the run, its AP view without area or class filters.
        drawn: (images, resamples) how often each image counts.
    """
    right = run.ap_view.types == TP
    looked_at = run.ap_view.types != LEFT_OUT
    order = np.argsort(-run.a.conf, kind="stable")
    order = order[looked_at[order]]
    order = order[np.argsort(run.a.cls[order], kind="stable")]
    edges = np.searchsorted(run.a.cls[order], np.arange(run.gt.nc + 1))
    classes = np.flatnonzero(run.gt.counts()).tolist()
    objects = np.zeros((run.gt.nc, len(drawn)), np.float32)
    np.add.at(objects, (run.gt.cls, run.gt.image), 1)
    aps = np.full((run.gt.nc, drawn.shape[1]), np.nan)
    step = max(1, CELLS_AT_ONCE // max(int(np.diff(edges).max(initial=1)), 1))
    for at in range(0, drawn.shape[1], step):
        part = np.ascontiguousarray(drawn[:, at : at + step])
        n_gt = objects @ part
        for c in classes:
            rows = order[edges[c] : edges[c + 1]]
            aps[c, at : at + step] = weighted_ap(right[rows], run.a.image[rows], n_gt[c], part)
    return aps


def weighted_ap(right: np.ndarray, image: np.ndarray, n_gt: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Return the AP (b,), 0 to 100, of one class when each image counts as often as it was drawn.

    The same as ``ap.average_precision`` on the repeated predictions. Between two right predictions precision only
    falls, so that the right ones' precision and how many recall levels each reaches say everything.

    Args:
        right: bool (n,), by falling confidence.
        image: (n,) their images.
        n_gt: (b,) objects of the class in each drawing; NaN results from 0.
        drawn: float32 (images, b) how often each image counts.
    """
    at = np.flatnonzero(right)
    known = n_gt > 0
    if not len(at):
        return np.where(known, 0.0, np.nan)
    hits = _accumulate(np.add, drawn[image[at]]).astype(np.float64)
    seen = _accumulate(np.add, drawn[image])[at].astype(np.float64)
    precision = np.divide(hits, seen, out=seen, where=seen > 0)
    envelope = _accumulate(np.maximum, precision[::-1])[::-1]
    reached = np.floor(100 * hits / np.where(known, n_gt, 1)) + 1  # levels 0, 0.01 ... up to the recall; exact
    gained = np.diff(reached, axis=0, prepend=0)
    ap = 100 / len(LEVELS) * np.einsum("ij,ij->j", envelope, gained)
    return np.where(known, ap, np.nan)


def _accumulate(combine: np.ufunc, table: np.ndarray) -> np.ndarray:
    """Combine each row of a table (n, b) with the one before, in place; ``ufunc.accumulate`` takes ten times as long.

    Sums of float32 are exact up to 16 million, far beyond the predictions of a class.
    """
    for before, row in zip(table, table[1:], strict=False):
        combine(before, row, out=row)
    return table


def _counts_per_image(run: Run) -> np.ndarray:
    """Return float32 (images, (1 + nc) * types): how often each of COUNTED occurs, over all classes and in each."""
    gt, view = run.gt, run.operating
    counts = np.zeros((len(gt.images), 1 + gt.nc, len(COUNTED)), np.float32)
    for place, name in enumerate(COUNTED):
        if name in OF_OBJECTS:
            rows = view.gt_state == GT_STATES.index(name)
            image, cls = gt.image[rows], gt.cls[rows]
        else:
            rows = view.pred_type == PRED_TYPES.index(name)
            image, cls = view.predictions.image[rows], view.predictions.cls[rows]
        np.add.at(counts, (image, 1 + cls, place), 1)
    counts[:, 0] = counts[:, 1:].sum(1)
    return counts.reshape(len(gt.images), -1)


# The table ------------------------------------------------------------------------------------------------------------


def _rows(first: _Sampled, other: _Sampled) -> Iterable[dict[str, Any]]:
    """Yield the rows of one run: mAP50, counts over all classes, then AP50 and counts of each class."""
    gt, n_gt = first.gt, first.gt.counts()
    yield _row(other.name, "mAP50", "", -1, "all", (mean_ap(first.ap), mean_ap(other.ap)),
               other.map_drawn - first.map_drawn, few=False)  # fmt: skip
    for c in range(-1, gt.nc):
        name, few = ("all", False) if c < 0 else (gt.names[c], bool(n_gt[c] < FEW_OBJECTS))
        if c >= 0 and n_gt[c]:
            drawn = other.ap_drawn[c] - first.ap_drawn[c]
            yield _row(other.name, "AP50", "", c, name, (first.ap[c], other.ap[c]), drawn, few)
        for place, kind in enumerate(COUNTED):
            values = (first.counts[1 + c, place], other.counts[1 + c, place])
            if any(values):
                drawn = other.counts_drawn[1 + c, place] - first.counts_drawn[1 + c, place]
                yield _row(other.name, "count", kind, c, name, values, drawn, few)


def _row(  # noqa: PLR0913  (the columns of one row)
    run: str, measure: str, kind: str, c: int, name: str, values: tuple[float, float], drawn: np.ndarray, few: bool
) -> dict[str, Any]:
    known = drawn[~np.isnan(drawn)]
    low, high = np.percentile(known, INTERVAL).tolist() if len(known) else (float("nan"), float("nan"))
    first, other = (float(value) for value in values)
    rises = low > 0
    better = rises if measure != "count" or kind == "TP" else not rises
    verdict = SAME if not (low > 0 or high < 0) else "better" if better else "worse"
    if few and (measure == "AP50" or kind in OF_OBJECTS):
        verdict = TOO_FEW  # a bootstrap over the few images of such a class seems surer than it is
    return dict(zip(COLUMNS, (run, measure, kind, c, name, first, other, other - first, low, high, verdict, few),
                    strict=True))  # fmt: skip


def _listed(rows: list[dict[str, Any]]) -> str:
    """Return rows in words: those over all classes, then the classes that differ most."""
    classes = sorted((row for row in rows if row["class"] >= 0), key=lambda row: -abs(row["difference"]))
    shown = [row for row in rows if row["class"] < 0] + classes[:LISTED]
    texts = [f"{_title(row)} {row['first']:.4g} -> {row['other']:.4g} ({_interval(row)})" for row in shown]
    rest = len(rows) - len(shown)
    return "; ".join([*texts, *([f"and {rest} more classes"] if rest else [])])


def _interval(row: dict[str, Any]) -> str:
    return f"{row['difference']:+.4g}, 95 % interval {row['low']:+.4g} to {row['high']:+.4g}"


def _title(row: dict[str, Any]) -> str:
    what = row["type"] or row["measure"]
    return what if row["class"] < 0 else f"{what} of {row['name']}"
