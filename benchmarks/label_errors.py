"""How many planted label errors the model-based audit finds: 5 % of boxes given another class, 5 % left out, 5 % moved.

Errors are planted in a copy of coco128 and of aquarium's training images, always the same ones for a seed. The model's
predictions on aquarium are out of sample: k folds, trained on the labels with the errors in them. coco128's come from
yolov5n.pt, which was trained on COCO train2017, where these images are from, with their right labels: its figures are
better than those of a model that one trains oneself.

Everything that takes long is kept in --work and taken from there by the next call.

python benchmarks/label_errors.py                                     # both sets; trains 3 folds of aquarium once
python benchmarks/label_errors.py --cleanlab ../cleanlab/bin/python   # beside cleanlab's ObjectLab, in its own venv
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.diagnosis.audit_folds import make_folds, out_of_sample, train_with  # noqa: E402
from utils.diagnosis.audit_objectlab import SETTINGS, objectlab  # noqa: E402
from utils.diagnosis.data import GroundTruth, ImageInfo, Predictions, iou, sort_objects, sort_predictions  # noqa: E402
from utils.logs import LOGGER, setup_logging  # noqa: E402

SHARED = ROOT.parent / "shared"
WEIGHTS = SHARED / "weights" / "yolov5n.pt"
HYP = ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"
FOLDS, EPOCHS, IMGSZ = 3, 24, 256
SHORT = {"mosaic": 0.0, "scale": 0.3, "warmup_epochs": 2.0}  # a short training meets whole images alone
KINDS = ("swap", "drop", "shift")
CODE_OF = {"drop": "L20", "shift": "L21", "swap": "L22"}
SHIFT_IOU = (0.2, 0.65)  # a moved box overlaps its right place by this much
TRIES = 50
HIT_IOU = 0.5  # a found box is a left-out one when they overlap by this much


@dataclass(frozen=True)
class Planted:
    """A set of labels with errors.

    Attributes:
        truth: the labels after planting.
        kind: (G,) place in KINDS of each label's error, -1 for a label left as it was.
        dropped_image: (D,) images of the boxes left out.
        dropped_boxes: (D, 4) xyxy in pixels.
        dropped_cls: (D,) their classes.
    """

    truth: GroundTruth
    kind: np.ndarray
    dropped_image: np.ndarray
    dropped_boxes: np.ndarray
    dropped_cls: np.ndarray


def plant(truth: GroundTruth, share: float, seed: int) -> Planted:
    """Return labels with three times ``share`` of all boxes spoilt, one third in each way.

    A swapped box gets one of the other classes that the set has labels of, each alike; a moved one is shifted without
    leaving the image until it overlaps its old place by SHIFT_IOU.
    """
    rng = np.random.default_rng(seed)
    count = round(share * len(truth))
    chosen = rng.permutation(len(truth))[: 3 * count].reshape(3, count)
    boxes, cls = truth.boxes.copy(), truth.cls.copy()
    kind = np.full(len(truth), -1)
    for k in range(len(KINDS)):
        kind[chosen[k]] = k
    present = np.unique(truth.cls)
    for i in np.sort(chosen[0]):
        cls[i] = rng.choice(present[present != truth.cls[i]])
    for i in np.sort(chosen[2]):
        image = truth.images[truth.image[i]]
        boxes[i] = moved(truth.boxes[i], image.width, image.height, rng)
    keep = kind != KINDS.index("drop")
    spoilt = sort_objects(truth.images, truth.image[keep], boxes[keep], cls[keep], truth.names, split=truth.split)
    gone = ~keep
    return Planted(spoilt, kind[keep], truth.image[gone], truth.boxes[gone], truth.cls[gone])


def moved(box: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Return a box (4,) xyxy pushed aside within an image; a box as large as the image is made smaller instead."""
    size = np.tile(box[2:] - box[:2], 2)
    for _ in range(TRIES):
        push = np.tile(rng.uniform(-0.7, 0.7, 2), 2) * size
        trial = box + push
        inside = trial[0] >= 0 and trial[1] >= 0 and trial[2] <= width and trial[3] <= height
        if inside and SHIFT_IOU[0] <= iou(box, trial)[0, 0] <= SHIFT_IOU[1]:
            return trial
    corner = rng.integers(0, 2, 2)  # no room: keep 70 % of each side, at one corner
    low = box[:2] + corner * 0.3 * size[:2]
    return np.concatenate((low, low + 0.7 * size[:2]))


def read_clean(name: str) -> GroundTruth:
    """Return the labels of a shared data set's training images; nothing is written beside them."""
    from utils.dataset_yaml import check_dataset, find_images
    from utils.labels import img2label_paths, scan_labels

    facts = check_dataset({**_facts(name), "path": str(SHARED / "datasets" / name)})
    files = find_images(facts["train"])
    table = scan_labels(files, img2label_paths(files), None, f"{name}: ", facts["nc"])
    sizes = np.repeat(table.shapes, np.diff(table.box_offsets), 0).astype(np.float64)
    image = np.repeat(np.arange(len(table)), np.diff(table.box_offsets))
    centre, half = table.boxes[:, 1:3] * sizes, table.boxes[:, 3:5] * sizes / 2
    infos = [
        ImageInfo(file, label, int(w), int(h))
        for file, label, (w, h) in zip(table.im_files, table.label_files, table.shapes.tolist(), strict=True)
    ]
    boxes = np.concatenate((centre - half, centre + half), 1)
    return sort_objects(infos, image, boxes, table.boxes[:, 0].astype(int), facts["names"], split="train")


def write_copy(planted: Planted, folder: Path) -> GroundTruth:
    """Write the labels below a folder, beside links to the images; return them with their new paths."""
    truth = planted.truth
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    infos = []
    for i, info in enumerate(truth.images):
        image = folder / "images" / Path(info.path).name
        label = folder / "labels" / f"{image.stem}.txt"
        if not image.exists():
            _link(Path(info.path).resolve(), image)
        own = truth.of_image(i)
        size = np.array([info.width, info.height, info.width, info.height])
        corners = truth.boxes[own] / size
        rows = np.column_stack(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2])).clip(0, 1)
        lines = [f"{c} {' '.join(f'{v:.6f}' for v in row)}\n" for c, row in zip(truth.cls[own], rows, strict=True)]
        label.write_text("".join(lines), encoding="utf-8")
        infos.append(ImageInfo(str(image), str(label), info.width, info.height))
    return sort_objects(infos, truth.image, truth.boxes, truth.cls, truth.names, truth.line, truth.split)


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source, target)
    except OSError:  # Windows without the right to make links
        shutil.copy2(source, target)


def _facts(name: str) -> dict:
    from utils.yaml_files import read_yaml

    return read_yaml(SHARED / "datasets" / name / f"{name}.yaml")


# Predictions ----------------------------------------------------------------------------------------------------------


def predict(weights: Path, images: list[ImageInfo], truth: GroundTruth, imgsz: int, folder: Path) -> Predictions:
    """Return a model's predictions on some images of a set, as val makes them, numbered by place among them."""
    from utils.diagnosis.model_predictions import predict_views

    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "images.txt"
    listed.write_text("".join(f"{info.path}\n" for info in images), encoding="utf-8")
    nothing = np.zeros(0, int)
    part = sort_objects(images, nothing, np.zeros((0, 4)), nothing, truth.names)
    data = {"path": str(folder), "train": str(listed), "val": str(listed), "names": dict(truth.names)}
    views, _ = predict_views(str(weights), data, part, imgsz=imgsz, batch_size=16, device="cpu", workers=0)
    return views.a


def coco128_predictions(truth: GroundTruth, folder: Path, _: argparse.Namespace) -> Predictions:
    """Return yolov5n.pt's predictions at 640 pixels, kept in a file for all seeds: they depend on no label."""
    kept = folder.parent / "coco128_predictions.npz"
    if not kept.exists():
        pred = predict(WEIGHTS, truth.images, truth, 640, folder / "lists")
        np.savez_compressed(kept, image=pred.image, boxes=pred.boxes, conf=pred.conf, cls=pred.cls)
    with np.load(kept) as data:
        return sort_predictions(data["image"], data["boxes"], data["conf"], data["cls"], "yolov5n.pt")


def fold_predictions(truth: GroundTruth, folder: Path, opt: argparse.Namespace) -> Predictions:
    """Return out-of-sample predictions by k folds of yolov5n, trained on the labels with the errors."""
    import train
    from utils.yaml_files import read_yaml

    trainer = train_with(
        train.run, weights=str(WEIGHTS), imgsz=opt.imgsz, epochs=opt.epochs, batch_size=16, workers=1, cache="ram",
        hyp={**read_yaml(HYP), **SHORT}, seed=0, device=opt.device,
    )  # fmt: skip
    return out_of_sample(
        truth, make_folds(truth, opt.folds, 0), trainer,
        lambda weights, images: predict(weights, images, truth, opt.imgsz, folder / "lists"), folder / "folds",
        f"{opt.epochs} epochs at {opt.imgsz}, {SHORT}",
    )  # fmt: skip


SETS = {"coco128": coco128_predictions, "aquarium": fold_predictions}


# Scoring --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """What a method says about labels and predictions, low for suspicious; limits of findings by code, (nc,) each.

    ``images`` tells which images it would have looked at.
    """

    overlooked: np.ndarray
    badly_located: np.ndarray
    swapped: np.ndarray
    limits: dict[str, np.ndarray]
    images: np.ndarray


def our_scores(truth: GroundTruth, pred: Predictions, settings: object) -> Scores:
    """Return the audit's scores."""
    result = objectlab(truth, pred, settings)
    found = result.flagged(truth, pred)
    images = np.zeros(len(truth.images), bool)
    images[pred.image[found["L20"]]] = True
    images[truth.image[np.concatenate((found["L21"], found["L22"]))]] = True
    return Scores(result.overlooked, result.badly_located, result.swapped, result.limits, images)


def cleanlab_scores(
    python: str, truth: GroundTruth, pred: Predictions, limits: dict[str, np.ndarray], folder: Path
) -> Scores:
    """Return the cleanlab package's scores; its findings at the limits that the audit uses."""
    arrays, scores = folder / "for_cleanlab.npz", folder / "cleanlab.npz"
    np.savez(
        arrays, images=len(truth.images), nc=truth.nc, label_image=truth.image, label_boxes=truth.boxes,
        label_cls=truth.cls, pred_image=pred.image, pred_boxes=pred.boxes, pred_conf=pred.conf, pred_cls=pred.cls,
    )  # fmt: skip
    script = Path(__file__).with_name("label_errors_cleanlab.py")
    subprocess.run([python, str(script), str(arrays), str(scores)], check=True)
    with np.load(scores) as data:
        return Scores(data["overlooked"], data["badly_located"], data["swapped"], limits, data["flagged"])


def ranked(kind: str, scores: Scores, planted: Planted, pred: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each candidate, the most suspicious first, is a planted error of this kind, and is a finding."""
    truth = planted.truth
    if kind == "drop":
        places = np.flatnonzero(~np.isnan(scores.overlooked))
        places = places[np.lexsort((-pred.conf[places], scores.overlooked[places]))]
        return hits_of(places, planted, pred), scores.overlooked[places] <= scores.limits["L20"][pred.cls[places]]
    values = scores.swapped if kind == "swap" else scores.badly_located
    places = np.argsort(values, kind="stable")
    right = planted.kind[places] == KINDS.index(kind)
    return right, values[places] <= scores.limits[CODE_OF[kind]][truth.cls[places]]


def hits_of(places: np.ndarray, planted: Planted, pred: Predictions) -> np.ndarray:
    """Return which predictions, in this order, are the first to show a left-out box; others of it count as wrong."""
    taken = np.zeros(len(planted.dropped_image), bool)
    hits = np.zeros(len(places), bool)
    for k, p in enumerate(places.tolist()):
        own = np.flatnonzero((planted.dropped_image == pred.image[p]) & ~taken)
        overlap = iou(pred.boxes[p], planted.dropped_boxes[own])[0]
        if len(own) and overlap.max() >= HIT_IOU:
            taken[own[overlap.argmax()]] = hits[k] = True
    return hits


def figures(right: np.ndarray, finding: np.ndarray, planted: int) -> dict[str, float]:
    """Return precision and recall of the findings, and of the ranking its average precision and recall at its top."""
    place = np.flatnonzero(right)
    precision = np.arange(1, len(place) + 1) / (place + 1)
    found = int((right & finding).sum())
    return {
        "findings": int(finding.sum()), "right": found, "precision": found / max(int(finding.sum()), 1),
        "recall": found / planted, "ap": precision.sum() / planted, "top": right[:planted].sum() / planted,
    }  # fmt: skip


def report(name: str, planted: Planted, pred: Predictions, methods: dict[str, Scores]) -> list[dict]:
    """Log a table of all methods, and return its rows."""
    LOGGER.info(f"\n{name}: {len(planted.truth.images)} images, {len(planted.truth)} labels, {len(pred)} predictions")
    LOGGER.info(
        f"{'kind':<7}{'method':<10}{'planted':>8}{'findings':>10}{'right':>7}{'precision':>11}{'recall':>8}"
        f"{'AP of ranking':>15}{'recall at top':>15}"
    )
    rows = []
    for kind in KINDS:
        count = len(planted.dropped_image) if kind == "drop" else int((planted.kind == KINDS.index(kind)).sum())
        for method, scores in methods.items():
            row = figures(*ranked(kind, scores, planted, pred), count)
            rows.append({"set": name, "kind": kind, "method": method, "planted": count, **row})
            LOGGER.info(
                f"{kind:<7}{method:<10}{count:>8}{row['findings']:>10}{row['right']:>7}{row['precision']:>11.3f}"
                f"{row['recall']:>8.3f}{row['ap']:>15.3f}{row['top']:>15.3f}"
            )
    spoilt = np.zeros(len(planted.truth.images), bool)
    spoilt[planted.truth.image[planted.kind >= 0]] = True
    spoilt[planted.dropped_image] = True
    for method, scores in methods.items():
        both = int((scores.images & spoilt).sum())
        LOGGER.info(
            f"images {method:<10}{int(spoilt.sum()):>8}{int(scores.images.sum()):>10}{both:>7}"
            f"{both / max(int(scores.images.sum()), 1):>11.3f}{both / int(spoilt.sum()):>8.3f}"
        )
    return rows


def main() -> None:
    """Plant errors, predict, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "label_errors", help="folder of what is kept")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--share", type=float, default=0.05, help="share of boxes spoilt in each way")
    parser.add_argument("--seed", type=int, default=0, help="of the planted errors")
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--imgsz", type=int, default=IMGSZ)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cleanlab", metavar="PYTHON", help="interpreter that has the cleanlab package")
    opt = parser.parse_args()
    setup_logging(-1)
    rows = []
    for name in opt.sets:
        folder = opt.work.resolve() / f"{name}_{opt.seed}"
        planted = plant(read_clean(name), opt.share, opt.seed)
        planted = replace(planted, truth=write_copy(planted, folder))
        pred = SETS[name](planted.truth, folder, opt)
        methods = {method: our_scores(planted.truth, pred, settings) for method, settings in SETTINGS.items()}
        if opt.cleanlab:
            limits = methods["paper"].limits
            methods["cleanlab"] = cleanlab_scores(opt.cleanlab, planted.truth, pred, limits, folder)
        rows += report(name, planted, pred, methods)
    (opt.work / "results.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
