"""Random sets of objects and predictions, and what the tidecv package says about them, as JSON.

tidecv is no dependency of the project. Its figures for these sets lie in tidecv_figures.json and were made with

    python -m venv tide && tide/bin/pip install tidecv==1.0.1
    tide/bin/python tests/tidecv_figures.py > tests/tidecv_figures.json

Needs nothing but the standard library and tidecv. In every set all classes have objects, and some are found, so that
tidecv's way to count classes without objects does not matter.
"""

import json
import random

SETS = {  # name -> (seed, images, classes, objects, predictions, spread of the boxes)
    "one class": (1, 10, 1, 60, 200, 0.15),
    "few": (2, 30, 3, 150, 600, 0.15),
    "crowded": (3, 5, 4, 200, 450, 0.1),
    "many classes": (4, 100, 20, 900, 3000, 0.15),
    "loose boxes": (5, 60, 5, 300, 1500, 0.3),
    "long tail": (6, 80, 8, 500, 2000, 0.12),
}
MAX_DET = 100  # tidecv looks at so many predictions of an image
TYPES = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")


def random_set(seed, images, classes, objects, predictions, spread):
    """Return objects (image, class, [x, y, w, h]) and predictions (image, class, confidence, [x, y, w, h])."""
    rng = random.Random(seed)
    weights = [1 / (1 + c) if seed == 6 else 1 for c in range(classes)]
    truth = []
    for number in range(objects):
        cls = number if number < classes else rng.choices(range(classes), weights)[0]
        truth.append((rng.randrange(images), cls, _box(rng)))
    found = []
    for number in range(predictions):
        image, cls, box = truth[number % objects] if number < 2 * objects else truth[rng.randrange(objects)]
        if rng.random() < 0.2:
            box = _box(rng)
        x, y, w, h = box
        dx, dy, dw, dh = (rng.gauss(0, spread) for _ in range(4))
        box = [round(v, 3) for v in (x + dx * w, y + dy * h, max(1, w * (1 + dw)), max(1, h * (1 + dh)))]
        if rng.random() < 0.25:
            cls = rng.randrange(classes)
        found.append((image, cls, rng.random() ** 1.5, box))
    return truth, found


def _box(rng):
    w, h = rng.uniform(10, 150), rng.uniform(10, 150)
    return [round(v, 3) for v in (rng.uniform(0, 490), rng.uniform(0, 490), w, h)]


def tidecv_figures(truth, found):
    """Return tidecv's AP, gains and counts of a set."""
    from tidecv import TIDE, Data

    gt, pred = Data("gt"), Data("pred", max_dets=MAX_DET)
    for data in (gt, pred):
        for image in sorted({row[0] for row in [*truth, *found]}):
            data.add_image(image, str(image))
        for cls in sorted({row[1] for row in [*truth, *found]}):
            data.add_class(cls, str(cls))
    for image, cls, box in truth:
        gt.add_ground_truth(image, cls, box)
    for image, cls, conf, box in found:
        pred.add_detection(image, cls, conf, box)
    tide = TIDE(pos_threshold=0.5, background_threshold=0.1)
    run = tide.evaluate(gt, pred, mode=TIDE.BOX)
    main, special = tide.get_main_errors()["pred"], tide.get_special_errors()["pred"]
    return {
        "map": run.ap,
        "delta": {name: main[name] for name in TYPES},
        "special": {"FP": special["FalsePos"], "FN": special["FalseNeg"]},
        "counts": {kind.short_name: len(errors) for kind, errors in run.error_dict.items() if kind.short_name in TYPES},
    }


if __name__ == "__main__":
    from importlib.metadata import version

    figures = {name: tidecv_figures(*random_set(*values)) for name, values in SETS.items()}
    print(json.dumps({"tidecv": version("tidecv"), "sets": figures}, indent=1))
