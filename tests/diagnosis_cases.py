"""Objects and predictions for the tests of the diagnosis: built from short lists, or drawn by hypothesis."""

import numpy as np
from hypothesis import strategies as st

from utils.diagnosis.data import ImageInfo, sort_objects, sort_predictions

NC = 3


def ground_truth(objects, images=1, nc=NC, side=1000):
    """Return GroundTruth of rows (image, class, x1, y1, x2, y2)."""
    infos = [ImageInfo(f"/set/images/{i:03d}.jpg", f"/set/labels/{i:03d}.txt", side, side) for i in range(images)]
    rows = np.array(objects, dtype=float).reshape(-1, 6)
    return sort_objects(infos, rows[:, 0], rows[:, 2:], rows[:, 1], {c: f"class {c}" for c in range(nc)})


def predictions(found):
    """Return Predictions of rows (image, class, confidence, x1, y1, x2, y2)."""
    rows = np.array(found, dtype=float).reshape(-1, 7)
    return sort_predictions(rows[:, 0], rows[:, 3:], rows[:, 2], rows[:, 1])


def worked_example():
    """The example of TIDE's types: g0 class 0, g1 class 1; p0 c0 .9 IoU(g0) .8; p1 c0 .8 IoU(g1) .7; p2 c0 .7 IoU(g0)
    .3; p3 c1 .3 beside everything."""
    gt = ground_truth([(0, 0, 0, 0, 100, 100), (0, 1, 200, 0, 300, 100)], nc=2)
    found = [
        (0, 0, 0.9, 0, 0, 100, 80),
        (0, 0, 0.8, 200, 0, 300, 70),
        (0, 0, 0.7, 0, 0, 100, 30),
        (0, 1, 0.3, 400, 400, 450, 450),
    ]
    return gt, predictions(found)


def _box(side):
    corner = st.integers(0, 12)
    return st.tuples(corner, corner, st.integers(1, side), st.integers(1, side)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    )


@st.composite
def scenes(draw, images=3, most_objects=7, most_predictions=12):
    """Draw GroundTruth and Predictions on a coarse grid: many overlaps, equal boxes and equal confidences."""
    image, cls, box = st.integers(0, images - 1), st.integers(0, NC - 1), _box(8)
    objects = draw(st.lists(st.tuples(image, cls, box), max_size=most_objects))
    near = st.sampled_from(objects).map(lambda row: (row[0], row[2])) if objects else st.tuples(image, box)
    place = st.one_of(st.tuples(image, box), near)
    conf = st.sampled_from([0.05, 0.2, 0.3, 0.5, 0.5001, 0.8, 0.9])
    found = draw(st.lists(st.tuples(place, cls, conf), max_size=most_predictions))
    gt = ground_truth([(i, c, *b) for i, c, b in objects], images)
    return gt, predictions([(i, c, s, *b) for (i, b), c, s in found])


def as_lists(gt, pred):
    """Return objects and predictions as lists of dictionaries, in their order."""
    objects = [
        {"image": int(i), "cls": int(c), "box": b} for i, c, b in zip(gt.image, gt.cls, gt.boxes.tolist(), strict=True)
    ]
    found = zip(pred.image, pred.cls, pred.conf, pred.boxes.tolist(), strict=True)
    return objects, [{"image": int(i), "cls": int(c), "conf": float(s), "box": b} for i, c, s, b in found]


def random_run(seed, images=40, nc=4, objects=200, count=500, wrong_class=0.2, shift=0.1, noise=0.15):
    """Return GroundTruth (the same for all seeds) and Predictions that differ by seed and by how wrong they are."""
    fixed, rng = np.random.default_rng(0), np.random.default_rng(seed)
    corner, size = fixed.uniform(0, 700, (objects, 2)), fixed.uniform(20, 200, (objects, 2))
    where, cls = fixed.integers(0, images, objects), fixed.integers(0, nc, objects)
    gt = ground_truth(np.column_stack((where, cls, corner, corner + size)), images, nc)
    row = rng.integers(0, objects, count)
    sides = np.tile(gt.boxes[row, 2:] - gt.boxes[row, :2], 2)
    boxes = gt.boxes[row] + rng.normal(0, shift, (count, 4)) * sides
    anywhere = rng.random(count) < noise
    boxes[anywhere, :2] = rng.uniform(0, 700, (int(anywhere.sum()), 2))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 5)
    kinds = np.where(rng.random(count) < wrong_class, rng.integers(0, nc, count), gt.cls[row])
    return gt, sort_predictions(gt.image[row], boxes, rng.random(count), kinds)
