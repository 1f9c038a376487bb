"""Files about errors in the run folder: tables, matrices, thresholds, and crops of detections on background."""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.diagnosis import gallery, tables
from utils.diagnosis.class_table import save_class_thresholds, write_csv
from utils.diagnosis.judge import Judged
from utils.diagnosis.matrix import save_upstream_confusion
from utils.errors import WorkError

HARD_NEGATIVES = 100


def write_errors(folder: Path, judged: Judged, origin: str, opt: argparse.Namespace) -> dict[str, str]:
    """Write everything about the errors of a run and return file name -> what it holds.

    Args:
        folder: the run folder.
        judged: both views.
        origin: which run and data, for the comment of thresholds.yaml.
        opt: options of the diagnosis: ``noplots`` and ``confusion``.

    Raises:
        WorkError: a file cannot be written.
    """
    tables.write_errors(folder / "errors.csv", judged.gt, judged.operating)
    tables.write_ap_errors(folder / "errors_ap.csv", judged.gt, judged.views.a, judged.ap_view)
    judged.table.save(folder / "per_class.csv")
    save_class_thresholds(folder / "thresholds.yaml", judged.table, judged.gt.names, origin)
    files = {
        "errors.csv": "a row for each error at the operating point (view B)",
        "errors_ap.csv": "a row for each error of the AP view (view A)",
        "per_class.csv": "the table of classes",
        "thresholds.yaml": "confidence with the best F1 of each class, for --class-thres",
    }
    files |= {path.name: "confusion matrix" for path in judged.matrix.save(folder, pictures=not opt.noplots)}
    if opt.confusion == "upstream":
        written = save_upstream_confusion(folder, judged.gt, judged.views.a)
        files |= {path.name: "confusion matrix as YOLOv5 makes it" for path in written}
    return files


def write_hard_negatives(folder: Path, judged: Judged) -> dict[str, str]:
    """Write crops of the most confident detections on background and a list of them.

    Raises:
        WorkError: a file cannot be written.
    """
    limits = gallery.Limits(0, HARD_NEGATIVES, 0, None)
    wanted = [crop for crop in gallery.error_crops(judged.gt, judged.operating, limits) if crop.kind == "background"]
    place = folder / "hard_negatives"
    rows = []
    try:
        place.mkdir(exist_ok=True)
        for number, crop in enumerate(gallery.cut_crops(wanted), 1):
            name = f"{number:03d}.jpg"
            (place / name).write_bytes(crop.jpeg)
            x1, y1, x2, y2 = crop.native or (None,) * 4
            rows.append({"crop": name, "image": crop.image, "class": judged.gt.names[crop.predicted],
                         "conf": crop.conf, "x1": x1, "y1": y1, "x2": x2, "y2": y2})  # fmt: skip
    except OSError as error:
        raise WorkError(f"{place}: cannot be written ({error.strerror})") from error
    write_csv(place / "list.csv", list(rows[0]) if rows else ["crop"], rows)
    return {"hard_negatives/list.csv": "the most confident detections on background, with crops"}
