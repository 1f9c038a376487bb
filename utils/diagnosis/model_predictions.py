"""Predictions of a model in both views from one pass over the images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.diagnosis.data import GroundTruth, Predictions, sort_predictions
from utils.diagnosis.inputs import Views
from utils.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from utils.eval_batch import BatchResult
    from utils.eval_result import EvalResult

LEAST_CONF = 0.001  # of both views; what lies above a higher threshold is the same as with that threshold in NMS
DETECT_IOU = 0.45  # detect's suppression
DETECT_MAX = 1000


class ViewCollector:
    """Listens to an evaluation and keeps the predictions of both views.

    View a is what the evaluation itself counts. View b is suppressed again from the same network outputs, as detect
    does it: one label a box, its own IoU threshold. Suppression only ever drops the less confident box, so that cutting
    b at a threshold later gives what NMS at that threshold would have given. What remains different from detect: the
    images are padded to the shape of their validation batch.

        collector = ViewCollector(gt)
        with collector.attached(model):
            evaluate(model, loader, observers=[collector], ...)
        views = collector.views()

    Args:
        gt: ground truth of the evaluated images.
        iou_thres: IoU above which NMS of view b drops a box.
        max_det: most detections of an image in view b.
        agnostic: whether in view b boxes of different classes suppress each other.
        source: where the predictions come from, for reports.
    """

    def __init__(
        self,
        gt: GroundTruth,
        iou_thres: float = DETECT_IOU,
        max_det: int = DETECT_MAX,
        agnostic: bool = False,
        source: str = "",
    ):
        self.nms = {"conf_thres": LEAST_CONF, "iou_thres": iou_thres, "max_det": max_det, "agnostic": agnostic}
        self.gt, self.source = gt, source
        self._place = {info.path: number for number, info in enumerate(gt.images)}
        self._output: Any = None
        self._rows: dict[str, list[np.ndarray]] = {"a": [], "b": []}
        self._images: dict[str, list[np.ndarray]] = {"a": [], "b": []}

    @contextlib.contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Take note of a model's outputs for the time of an evaluation."""

        def keep(_: Any, __: Any, output: Any) -> None:  # noqa: ANN401
            self._output = output

        hook = model.register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()
            self._output = None

    def __call__(self, batch: BatchResult) -> None:
        """Take in one evaluated batch.

        Raises:
            InputError: an image is not among those of the ground truth.
        """
        from utils.eval_batch import scale_rows
        from utils.nms import non_max_suppression

        unknown = [path for path in batch.paths if str(path) not in self._place]
        if unknown:
            raise InputError(f"{unknown[0]}: evaluated, but no image of the split that is diagnosed")
        places = np.array([self._place[str(path)] for path in batch.paths])
        self._keep("a", places, [detections.numpy() for detections in batch.detections])
        single = non_max_suppression(self._output, **self.nms)
        counts = [len(detections) for detections in single]
        rows = np.concatenate([detections.cpu().numpy() for detections in single])
        scale_rows(rows[:, :4], np.repeat(np.arange(len(counts)), counts), batch.shapes)
        self._keep("b", places, np.split(rows, np.cumsum(counts)[:-1]))

    def _keep(self, view: str, places: np.ndarray, detections: list[np.ndarray]) -> None:
        """Add the detections (n, 6) xyxy, conf, class of a batch's images."""
        self._images[view].append(np.repeat(places, [len(rows) for rows in detections]))
        self._rows[view] += [rows[:, :6].astype(np.float64) for rows in detections]

    def views(self) -> Views:
        """Return what was collected."""
        return Views(self._view("a"), self._view("b"), b_exact=True)

    def _view(self, view: str) -> Predictions:
        rows = np.concatenate([np.zeros((0, 6)), *self._rows[view]])
        image = np.concatenate([np.zeros(0, np.int64), *self._images[view]])
        return sort_predictions(image, rows[:, :4], rows[:, 4], rows[:, 5], self.source)


def predict_views(  # noqa: PLR0913  (val's options, by name)
    weights: str | Path | list[str],
    data: str | Path | dict[str, Any],
    gt: GroundTruth,
    *,
    imgsz: int = 640,
    batch_size: int = 32,
    device: str = "",
    workers: int = 8,
    half: bool = False,
    augment: bool = False,
    iou_thres: float = 0.6,
    max_det: int = 300,
    detect_iou: float = DETECT_IOU,
    detect_max: int = DETECT_MAX,
    agnostic: bool = False,
) -> tuple[Views, EvalResult]:
    """Run a model over the images of a split as val does; return its predictions and val's measures.

    Args:
        weights: model file, or several for an ensemble.
        data: data set YAML, or its facts from ``check_dataset``.
        gt: ground truth of the split.
        imgsz: longest side of the images, pixels.
        batch_size: images per batch.
        device: CUDA device like "0", or "cpu".
        workers: most loader processes.
        half: float16 where the device is CUDA.
        augment: test-time augmentation.
        iou_thres: NMS threshold of view a, as --iou-thres of val; max_det likewise.
        max_det: most detections of an image in view a.
        detect_iou: NMS threshold of view b; detect_max and agnostic likewise.
        detect_max: most detections of an image in view b.
        agnostic: whether in view b boxes of different classes suppress each other.

    Raises:
        InputError: the weights cannot be used, or know other classes than the data set.
    """
    from models.backends import DetectMultiBackend, require_detector
    from utils.dataloaders import create_dataloader
    from utils.dataset_yaml import check_dataset
    from utils.evaluation import evaluate
    from utils.general import check_img_size
    from utils.torch_utils import select_device

    chosen = select_device(device, batch_size=batch_size)
    facts = check_dataset(data, splits=(gt.split,))
    yaml = None if isinstance(data, dict) else data
    model = DetectMultiBackend(weights, device=chosen, data=yaml, fp16=half and chosen.type == "cuda")
    require_detector(model, weights)
    named = ", ".join(map(str, weights)) if isinstance(weights, (list, tuple)) else str(weights)
    if model.pt and len(model.names) != gt.nc:
        raise InputError(f"{named} knows {len(model.names)} classes, the data set has {gt.nc}")
    imgsz = check_img_size(imgsz, s=model.stride)
    loader, _ = create_dataloader(
        facts[gt.split], imgsz, batch_size if model.pt or model.jit else 1, model.stride, pad=0.5, rect=model.pt,
        workers=workers, prefix=f"{gt.split}: ", nc=gt.nc,
    )  # fmt: skip
    collector = ViewCollector(gt, detect_iou, detect_max, agnostic, source=named)
    with collector.attached(model):
        result = evaluate(
            model, loader, names=gt.names, nc=gt.nc, conf_thres=LEAST_CONF, iou_thres=iou_thres, max_det=max_det,
            half=half, augment=augment, observers=[collector],
        )  # fmt: skip
    return collector.views(), result
