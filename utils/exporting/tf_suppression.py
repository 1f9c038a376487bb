"""Suppression as part of a TensorFlow graph, by NonMaxSuppressionV4, which TensorFlow Lite has too."""

from __future__ import annotations

from typing import Any

from utils.exporting.base import ExportOptions

CLASS_OFFSET = 16.0  # image sides between the classes' copies of the plane, so that boxes of two classes never meet
LIMITED = 1000  # boxes that a limit per class is applied to, the most confident ones


def suppress(tf: Any, rows: Any, nc: int, options: ExportOptions) -> dict[str, Any]:
    """Return the detections of rows whose boxes are in parts of the image.

    Args:
        tf: the module.
        rows: (b, n, 5 + nc + masks) with a known batch.
        nc: classes.
        options: thresholds and limits.

    Returns:
        boxes (b, k, 4) x1, y1, x2, y2 in parts of the image, scores (b, k), classes (b, k), valid (b) how many of the k
        rows count, the rest are 0; masks (b, k, masks) where rows have them. All float32 but ``valid``.
    """
    found = [_one_image(tf, rows[i], nc, options) for i in range(rows.shape[0])]
    return {name: tf.stack([image[name] for image in found]) for name in found[0]}


def _one_image(tf: Any, rows: Any, nc: int, options: ExportOptions) -> dict[str, Any]:
    """Suppress the rows (n, 5 + nc + masks) of one image."""
    count = int(rows.shape[0])
    half = rows[:, 2:4] * 0.5
    boxes = tf.concat((rows[:, :2] - half, rows[:, :2] + half), 1)
    confidence = rows[:, 4:5] * rows[:, 5 : 5 + nc]
    several = options.multi_label and nc > 1 and not options.agnostic_nms
    if several:
        scores = tf.reshape(tf.transpose(confidence), [-1])  # all rows for class 0, then for class 1 ...
        labels = tf.constant([i for i in range(nc) for _ in range(count)], tf.float32)
        planes = tf.tile(boxes, [nc, 1])
    else:
        scores, labels, planes = tf.reduce_max(confidence, 1), tf.cast(tf.argmax(confidence, 1), tf.float32), boxes
    if not options.agnostic_nms:
        planes += labels[:, None] * CLASS_OFFSET
    limited = options.topk_per_class < options.topk_all and not options.agnostic_nms
    kept, valid = tf.raw_ops.NonMaxSuppressionV4(
        boxes=planes, scores=scores, max_output_size=LIMITED if limited else options.topk_all,
        iou_threshold=options.iou_thres, score_threshold=options.conf_thres, pad_to_max_output_size=True,
    )  # fmt: skip
    counts = tf.cast(tf.range(kept.shape[0] or (LIMITED if limited else options.topk_all)) < valid, tf.float32)
    scores, labels = tf.gather(scores, kept) * counts, tf.gather(labels, kept)
    if limited:
        scores, labels, kept = _limit_classes(tf, scores, labels, kept, options)
        counts = tf.cast(scores > 0, tf.float32)
    row = kept % count if several else kept
    masks = {"masks": tf.gather(rows[:, 5 + nc :], row) * counts[:, None]} if rows.shape[1] > 5 + nc else {}
    return {
        "boxes": tf.gather(boxes, row) * counts[:, None], "scores": scores, "classes": labels * counts,
        "valid": tf.cast(tf.reduce_sum(counts), tf.int32), **masks,
    }  # fmt: skip


def _limit_classes(tf: Any, scores: Any, labels: Any, kept: Any, options: ExportOptions) -> tuple[Any, Any, Any]:
    """Drop a class's boxes beyond its limit, those that are most confident first, and keep topk_all of the rest."""
    places = tf.range(LIMITED)
    before = tf.cast(places[None] < places[:, None], tf.float32) * tf.cast(labels[None] == labels[:, None], tf.float32)
    scores *= tf.cast(tf.reduce_sum(before, 1) < options.topk_per_class, tf.float32)
    scores, best = tf.math.top_k(scores, min(options.topk_all, LIMITED))
    return scores, tf.gather(labels, best), tf.gather(kept, best)
