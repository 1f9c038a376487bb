"""Detections as COCO JSON, and their score by COCO's rules."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.boxes import xyxy2xywh
from utils.confusion import to_array
from utils.errors import WorkError
from utils.eval_batch import BatchResult
from utils.logs import LOGGER
from utils.safe_write import write_whole


def image_id(path: str | Path) -> int | str:
    """Return COCO's id of an image: its stem as a number where it is one, else the stem."""
    stem = Path(path).stem
    return int(stem) if stem.isdecimal() else stem


def save_one_json(
    predn: torch.Tensor | np.ndarray, jdict: list[dict[str, Any]], path: str | Path, class_map: Sequence[int]
) -> None:
    """Append an image's detections to a list of COCO results.

    Args:
        predn: (n, 6) x1, y1, x2, y2, conf, class in pixels of the original image.
        jdict: the list.
        path: the image, whose stem gives the id.
        class_map: category id of each class.
    """
    jdict.extend(_results(to_array(predn), image_id(path), class_map))


def _results(detections: np.ndarray, image: int | str, class_map: Sequence[int]) -> list[dict[str, Any]]:
    """Return COCO results of detections (n, 6): box [x, y, width, height] of the top-left corner in pixels."""
    boxes = xyxy2xywh(detections[:, :4])
    boxes[:, :2] -= boxes[:, 2:] / 2
    return [
        {
            "image_id": image,
            "category_id": class_map[int(c)],
            "bbox": [round(value, 3) for value in box],
            "score": round(conf, 5),
        }
        for box, conf, c in zip(boxes.tolist(), detections[:, 4].tolist(), detections[:, 5].tolist(), strict=True)
    ]


class CocoJson:
    """Collects the detections of an evaluation, and its labels as annotations, as it goes along.

    Args:
        class_map: category id of each class.
        names: class names by number.

    Attributes:
        measures: what is scored, by COCO's names.
    """

    measures: tuple[str, ...] = ("bbox",)

    def __init__(self, class_map: Sequence[int], names: Mapping[int, str]):
        self.class_map = class_map
        self.names = names
        self.results: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self._per_image: list[int] = []
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def __call__(self, batch: BatchResult) -> None:
        """Take in one batch."""
        for i, path in enumerate(batch.paths):
            before, first = len(self.results), len(self._annotations)
            save_one_json(batch.detections[i], self.results, path, self.class_map)
            self._per_image.append(len(self.results) - before)
            self.paths.append(str(path))
            height, width = batch.shapes[i][0]
            number = len(self.paths)
            self._images.append({"id": number, "width": int(width), "height": int(height), "file_name": str(path)})
            self._annotate(batch.labels[i], number)
            self._add_more(batch, i, self.results[before:], self._annotations[first:])

    def _add_more(self, batch: Any, i: int, results: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
        """Add what is known beside the boxes to image i's results and annotations: nothing."""

    def _annotate(self, labels: np.ndarray, image: int) -> None:
        """Add labels (m, 5) class, xyxy as annotations; ids begin at 1, as 0 means no match to the scoring code."""
        for c, x1, y1, x2, y2 in labels.tolist():
            width, height = x2 - x1, y2 - y1
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image,
                    "category_id": self.class_map[int(c)],
                    "bbox": [x1, y1, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )

    def save(self, path: Path) -> None:
        """Write the results.

        Raises:
            WorkError: the file cannot be written.
        """
        LOGGER.info(f"Saving {len(self.results)} detections to {path}...")
        shared = len(self.paths) - len({image_id(image) for image in self.paths})
        if shared:
            LOGGER.warning(
                f"WARNING {path}: {shared} images have the id (the stem) of another: their results mix there"
            )
        try:
            write_whole(path, json.dumps(self.results))
        except OSError as error:
            raise WorkError(f"{path}: cannot be written ({error.strerror})") from error

    def score_against(self, annotations: Path) -> tuple[float, float]:
        """Return (mAP50-95, mAP50) against an annotation file, over the evaluated images alone."""
        return self.scores_against(annotations)[0]

    def scores_against(self, annotations: Path) -> list[tuple[float, float]]:
        """Return (mAP50-95, mAP50) of each of ``measures`` against an annotation file."""
        images = [image_id(path) for path in self.paths]
        return [coco_score(str(annotations), self.results, images, measure) for measure in self.measures]

    def score_against_labels(self) -> tuple[float, float]:
        """Return (mAP50-95, mAP50) against the data set's own labels, images numbered in order of evaluation."""
        categories = [{"id": self.class_map[c], "name": name} for c, name in self.names.items()]
        truth = {"info": {}, "images": self._images, "annotations": self._annotations, "categories": categories}
        numbers = np.repeat(np.arange(1, len(self.paths) + 1), self._per_image).tolist()
        results = [{**row, "image_id": number} for row, number in zip(self.results, numbers, strict=True)]
        images = [image["id"] for image in self._images]
        return [coco_score(truth, results, images, measure) for measure in self.measures][0]


def coco_score(
    annotations: str | dict[str, Any],
    results: list[dict[str, Any]],
    image_ids: Sequence[int | str],
    measure: str = "bbox",
) -> tuple[float, float]:
    """Return (mAP50-95, mAP50) of results by pycocotools' rules and log its summary; ``measure`` bbox or segm.

    Raises:
        WorkError: nothing was detected, or the scoring package is missing or refuses the input.
    """
    if not results:
        raise WorkError("no detection to score")
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise WorkError(f"the package faster-coco-eval cannot be imported ({error})") from error
    try:
        with redirect_stdout(StringIO()):
            truth = COCO(annotations)
            evaluation = COCOeval_faster(truth, truth.loadRes(results), measure, print_function=LOGGER.info)
            evaluation.params.imgIds = list(image_ids)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise WorkError(f"{type(error).__name__}: {error}") from error
    return float(evaluation.stats[0]), float(evaluation.stats[1])
