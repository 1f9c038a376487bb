"""Timed layers behind the network: suppression, matching, average precision, the confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from speed_parts.data_layers import BATCH
from speed_parts.model_layers import load
from speed_parts.work import Side, Work

PREDICTIONS, CLASSES, LABELS = 300_000, 80, 36_000


def nms(side: Side, settings: dict[str, Any]) -> Work:
    """Suppress the network's own predictions on real images."""
    import torch

    create = side.module("utils.dataloaders").create_dataloader
    loader, _ = create(settings["images"], 640, BATCH, 32, workers=0, rect=True, pad=0.5)
    model = load(side, settings, fuse=True)
    images = next(iter(loader))[0].to(settings["device"]).float() / 255
    with torch.no_grad():
        out = model(images)
    decoded = (out[0] if isinstance(out, (list, tuple)) else out).clone()
    suppress = side.module("utils.general").non_max_suppression

    fresh: list[Any] = []

    def before() -> None:
        fresh[:] = [decoded.clone()]  # some suppressions write into what they are given

    def run() -> Any:
        with torch.no_grad():
            return suppress(fresh[0], 0.001, 0.6, multi_label=True, max_det=300)

    before()
    found = torch.cat(run()).double()
    check = {"detections": len(found), "coordinates": float(found[:, :4].sum()), "confidence": float(found[:, 4].sum())}
    return Work(run, len(images), check, before=before)


def average_precision(side: Side, settings: dict[str, Any]) -> Work:
    """Work out the AP of made predictions, as many as 1,000 images at 300 each give."""
    rng = np.random.default_rng(0)
    conf = rng.random(PREDICTIONS) ** 3
    right = rng.random((PREDICTIONS, 1)) < 0.4 * conf[:, None] ** 0.5 * np.linspace(1, 0.3, 10)
    pred, target = rng.integers(0, CLASSES, PREDICTIONS), rng.integers(0, CLASSES, LABELS)
    compute, names = side.module("utils.metrics").ap_per_class, {i: str(i) for i in range(CLASSES)}

    def run() -> Any:
        return compute(right, conf, pred, target, names=names)

    tp, _, p, r, f1, ap, _ = run()
    check = {"ap": float(ap.mean()), "p": float(p.mean()), "r": float(r.mean()), "f1": float(f1.mean()),
             "tp": float(tp.sum())}  # fmt: skip
    return Work(run, PREDICTIONS, check, {"bytes": right.size + 2 * conf.nbytes})


def match(side: Side, settings: dict[str, Any]) -> Work:
    """Match the detections of 16 images with their labels at ten thresholds."""
    import torch

    pairs = _made_detections()
    if side.is_ours:
        evaluation = side.module("utils.evaluation")
        matching, iou = side.module("utils.metrics").match_predictions, side.module("utils.boxes").iou_matrix
        arrays = [(d.numpy(), t.numpy()) for d, t in pairs]

        def run() -> Any:
            return [
                matching(iou(t[:, 1:5], d[:, :4]) * (t[:, 0:1] == d[:, 5]), evaluation.IOU_THRESHOLDS)
                for d, t in arrays
            ]
    else:
        process_batch = side.module("val").process_batch
        iouv = torch.linspace(0.5, 0.95, 10)

        def run() -> Any:
            return [process_batch(d, t, iouv) for d, t in pairs]

    return Work(run, len(pairs), {"right": float(sum(np.asarray(c).sum() for c in run()))})


def confusion(side: Side, settings: dict[str, Any]) -> Work:
    """Add the detections of 16 images to a confusion matrix."""
    pairs = _made_detections()
    matrix_of = side.module("utils.metrics").ConfusionMatrix
    matrix = matrix_of(CLASSES)

    def run() -> None:
        for detections, labels in pairs:
            matrix.process_batch(detections, labels)

    run()
    total = float(np.asarray(matrix.matrix).sum())
    return Work(run, len(pairs), {"counted": total})


def _made_detections() -> list[tuple[Any, Any]]:
    """Return 16 pairs of detections (300, 6), by falling confidence, and labels (12, 5), many of them near a label."""
    import torch

    generator = torch.Generator().manual_seed(4)
    pairs = []
    for _ in range(16):
        corner = torch.rand((12, 2), generator=generator) * 500
        labels = torch.cat((corner, corner + 20 + torch.rand((12, 2), generator=generator) * 120), 1)
        classes = torch.randint(0, CLASSES, (12, 1), generator=generator).float()
        boxes = labels.repeat(25, 1) + torch.randn((300, 4), generator=generator) * 12
        guessed = torch.where(
            torch.rand((300, 1), generator=generator) < 0.7, classes.repeat(25, 1),
            torch.randint(0, CLASSES, (300, 1), generator=generator).float(),
        )  # fmt: skip
        conf = torch.rand((300, 1), generator=generator).sort(0, descending=True)[0]
        pairs.append((torch.cat((boxes, conf, guessed), 1), torch.cat((classes, labels), 1)))
    return pairs
