"""ObjectLab's scores by the cleanlab package, for benchmarks/label_errors.py; run by an interpreter that has it.

python -m venv ../cleanlab && ../cleanlab/bin/pip install "cleanlab==2.9.0" "numpy<2.4"
../cleanlab/bin/python benchmarks/label_errors_cleanlab.py labels_and_predictions.npz scores.npz
"""

from __future__ import annotations

import contextlib
import io
import sys

import numpy as np
from cleanlab.object_detection.filter import find_label_issues
from cleanlab.object_detection.rank import (
    compute_badloc_box_scores,
    compute_overlooked_box_scores,
    compute_swap_box_scores,
    get_label_quality_scores,
)


def main() -> None:
    """Read arrays, score them with the package's defaults, write the scores in the order of the arrays."""
    data = np.load(sys.argv[1])
    images, nc = int(data["images"]), int(data["nc"])
    labels, predictions, order = [], [], []
    for i in range(images):
        own = data["label_image"] == i
        labels.append({"bboxes": data["label_boxes"][own], "labels": data["label_cls"][own]})
        rows = [np.flatnonzero((data["pred_image"] == i) & (data["pred_cls"] == k)) for k in range(nc)]
        order += [row for found in rows for row in found]
        tables = [np.column_stack((data["pred_boxes"][found], data["pred_conf"][found])) for found in rows]
        predictions.append(np.array([*tables, None], dtype=object)[:-1])
    with contextlib.redirect_stdout(io.StringIO()):
        both = {"labels": labels, "predictions": predictions}
        overlooked = compute_overlooked_box_scores(**both)
        badly, swapped = compute_badloc_box_scores(**both), compute_swap_box_scores(**both)
        flagged = find_label_issues(labels, predictions)
        quality = get_label_quality_scores(labels, predictions, verbose=False)
    over = np.full(len(data["pred_image"]), np.nan)
    over[np.array(order, int)] = np.concatenate(overlooked)
    np.savez(
        sys.argv[2], overlooked=over, badly_located=np.concatenate(badly), swapped=np.concatenate(swapped),
        flagged=flagged, images=quality,
    )  # fmt: skip


if __name__ == "__main__":
    main()
