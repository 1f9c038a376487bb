"""Statistics of a data set as one mapping, and its images in a size for viewing; all of it stays on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import cv2

from utils.balance.label_counts import class_counts, image_counts
from utils.data.label_table import LabelTable
from utils.dataset_yaml import SPLITS, check_dataset, find_images
from utils.errors import WorkError
from utils.images import imread
from utils.labels import scan_labels
from utils.logs import LOGGER
from utils.safe_write import write_whole

JPEG_QUALITY = 50
THREADS = 4


class HUBDatasetStats:
    """Counts of a data set's images, boxes and classes, in the layout that YOLOv5 gives them.

    Attributes:
        hub_dir: ``<data set>-hub``, made when something is written there.
        im_dir: its images.
        stats: ``nc``, ``names``, and after get_json each of train, val and test.
        data: the data set's facts, as check_dataset returns them.

    Args:
        path: data YAML, or a zip or tar with one inside.
        autodownload: fetch a missing set that its YAML names the source of.

    Raises:
        InputError: the YAML is wrong, or its images are missing.
    """

    def __init__(self, path: str | Path = "coco128.yaml", autodownload: bool = False):
        self.data = check_dataset(path, autodownload)
        folder = Path(self.data["path"])
        self.hub_dir = folder.with_name(f"{folder.name}-hub")
        self.im_dir = self.hub_dir / "images"
        self.stats: dict[str, Any] = {"nc": self.data["nc"], "names": list(self.data["names"].values())}

    def get_json(self, save: bool = False, verbose: bool = False) -> dict[str, Any]:
        """Count, and return ``stats``.

        Each split holds ``instance_stats`` (total, per_class), ``image_stats`` (total, unlabelled, per_class) and
        ``labels``: per image {file name: rows of class, cx, cy, w, h, normalised, four digits}. A split that the YAML
        lacks is None.

        Args:
            save: write them to ``hub_dir/stats.json``.
            verbose: print them.

        Raises:
            InputError: labels that cannot be used.
            WorkError: the file cannot be written.
        """
        self.stats.update({split: None for split in SPLITS})
        for split, table in self._tables():
            self.stats[split] = self._counted(table)
        text = json.dumps(self.stats, indent=2)
        if save:
            try:
                self.hub_dir.mkdir(parents=True, exist_ok=True)
                write_whole(self.hub_dir / "stats.json", text)
            except OSError as error:
                raise WorkError(f"{self.hub_dir / 'stats.json'}: cannot be written ({error.strerror})") from error
        if verbose:
            print(text)
        return self.stats

    def process_images(self) -> Path:
        """Write each image, its longer side at most 1920 pixels, as a small JPEG to ``im_dir``, and return that folder.

        Raises:
            WorkError: an image cannot be written.
        """
        self.im_dir.mkdir(parents=True, exist_ok=True)
        files = [file for _, table in self._tables() for file in table.im_files]
        with ThreadPool(THREADS) as pool:
            for _ in pool.imap_unordered(self._hub_ops, files):
                pass
        LOGGER.info("%d images saved to %s", len(files), self.im_dir)
        return self.im_dir

    def _tables(self) -> Iterator[tuple[str, LabelTable]]:
        for split in SPLITS:
            if self.data.get(split):
                images = find_images(self.data[split])
                yield split, scan_labels(images, prefix=f"{split}: ", nc=self.data["nc"], names=self.data["names"])

    def _counted(self, table: LabelTable) -> dict[str, Any]:
        """Return the statistics of one split."""
        nc = self.data["nc"]
        counts = class_counts(table.labels, nc)
        return {
            "instance_stats": {"total": int(counts.sum()), "per_class": counts.tolist()},
            "image_stats": {
                "total": len(table),
                "unlabelled": int((table.labels.counts() == 0).sum()),
                "per_class": image_counts(table.labels, nc).tolist(),
            },
            "labels": [
                {Path(file).name: [[int(c), *(round(x, 4) for x in box)] for c, *box in labels.tolist()]}
                for file, labels in zip(table.im_files, table.labels, strict=True)
            ],
        }

    def _hub_ops(self, f: str | Path, max_dim: int = 1920) -> None:
        """Write one image to ``im_dir`` under its name, its longer side at most ``max_dim`` pixels."""
        im = imread(f)
        ratio = max_dim / max(im.shape[:2])
        if ratio < 1:
            size = max(round(im.shape[1] * ratio), 1), max(round(im.shape[0] * ratio), 1)
            im = cv2.resize(im, size, interpolation=cv2.INTER_AREA)
        target = self.im_dir / Path(f).name  # the suffix stays, as in YOLOv5; the content is JPEG
        try:
            write_whole(target, cv2.imencode(".jpg", im, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].data)
        except OSError as error:
            raise WorkError(f"{target}: cannot be written ({error.strerror})") from error
