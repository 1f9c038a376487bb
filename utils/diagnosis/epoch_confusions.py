"""While a run trains: pictures of each epoch's most frequent class confusions, in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from utils.data.flat_rows import flat_rows, row_counts
from utils.diagnosis.data import GroundTruth, ImageInfo, sort_objects, sort_predictions
from utils.diagnosis.gallery import Crop, Limits, cut_crops, error_crops
from utils.diagnosis.inputs import to_pixels
from utils.diagnosis.operating import MISCLASSIFIED, PRED_TYPES, operate, single_label
from utils.diagnosis.tensorboard import COLUMNS, ROWS, TOP_PAIRS, draw_grid, top_pairs

CONFIDENCE = 0.25  # from which a detection is looked at, as in the confusion matrix


class EpochConfusions:
    """Gathers the detections of a run's validations and draws what they confuse; nothing is predicted for it.

    Args:
        run: utils.training.run.Run on its main process.
    """

    def __init__(self, run: Any):
        self.run = run
        dataset = run.val_loader.dataset
        self.places = {str(Path(file)): place for place, file in enumerate(dataset.im_files)}
        self._gt: GroundTruth | None = None
        self._epoch: int | None = None
        self._found: dict[int, np.ndarray] = {}

    def attach(self) -> None:
        """Attach to the run's hooks."""
        hooks = {"on_train_epoch_end": self.begin, "on_val_image_end": self.gather, "on_val_end": self.draw}
        for hook, action in hooks.items():
            self.run.callbacks.register_action(hook, "epoch confusions", action)

    def begin(self, epoch: int) -> None:
        """Note which epoch is validated next; the closing validation of the best weights is no epoch's."""
        self._epoch = epoch
        self._found.clear()

    def gather(self, pred: Any, predn: Any, path: Path, names: Any, im: Any) -> None:
        """Keep an image's confident detections (k, 6+) in its own pixels."""
        place = self.places.get(str(path))
        if self._epoch is not None and place is not None:
            rows = predn[:, :6].cpu().numpy()
            self._found[place] = rows[rows[:, 4] > CONFIDENCE]

    def draw(self, *_: Any) -> None:
        """Write a picture for each of the epoch's most frequent confusions."""
        epoch, self._epoch = self._epoch, None
        if epoch is None or not self._found:
            return
        from utils.loggers.run_logger import class_tags

        tags = class_tags(self.run.data.names)
        for (true, predicted), crops in top_pairs(cut_crops(self._chosen())).items():
            tag = f"epoch_confusions/{tags[true]}_taken_for_{tags[predicted]}"
            self.run.log.tensorboard.pixels(tag, draw_grid(crops), epoch)
        self._found.clear()

    def _chosen(self) -> list[Crop]:
        """Return the crops to draw, without pixels: some of each of the most frequent pairs."""
        image = np.repeat([*self._found], [len(rows) for rows in self._found.values()])
        rows = np.concatenate([*self._found.values()])
        found = single_label(sort_predictions(image, rows[:, :4], rows[:, 4], rows[:, 5]))
        limits = Limits(per_pair=COLUMNS * ROWS, per_type=0, total=None)
        gt = self._ground_truth()
        wrong = [
            crop for crop in error_crops(gt, operate(gt, found, 0.0), limits)
            if crop.kind == PRED_TYPES[MISCLASSIFIED]
        ]  # fmt: skip
        pairs = list(dict.fromkeys((crop.true, crop.predicted) for crop in wrong))[:TOP_PAIRS]
        return [crop for crop in wrong if (crop.true, crop.predicted) in pairs]

    def _ground_truth(self) -> GroundTruth:
        if self._gt is None:
            dataset = self.run.val_loader.dataset
            sizes = np.asarray(dataset.shapes, np.float64).reshape(-1, 2)  # width, height
            images = [
                ImageInfo(str(file), str(label_file), int(width), int(height))
                for file, label_file, (width, height) in zip(
                    dataset.im_files, dataset.label_files, sizes.tolist(), strict=True
                )
            ]
            image = np.repeat(np.arange(len(images)), row_counts(dataset.labels))
            rows = flat_rows(dataset.labels).astype(np.float64)
            boxes = to_pixels(rows[:, 1:], sizes[image])
            self._gt = sort_objects(images, image, boxes, rows[:, 0], dict(self.run.data.names))
        return self._gt


def attach_confusions(run: Any) -> None:
    """Let a run with --diagnose show each epoch's confusions, where there are several classes and pictures are made."""
    if run.opt.diagnose and not run.opt.noplots and not run.opt.evolve and run.data.nc > 1:
        EpochConfusions(run).attach()
