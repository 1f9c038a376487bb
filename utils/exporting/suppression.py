"""Non-maximum suppression as part of an exported graph, by ONNX's NonMaxSuppression."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from utils.exporting.base import Job


class _Suppress(torch.autograd.Function):
    """Boxes (b, n, 4) corners and scores (b, c, n) to what stays, (k, 3) int64: image, class, box.

    In each class a box goes when a better one overlaps it by more than ``iou``; scores up to ``conf`` do not count, and
    ``most`` boxes of a class stay. Outside an export it is computed by torchvision.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, most: int, iou: float, conf: float) -> Tensor:
        """Compute it."""
        from torchvision.ops import nms

        kept = []
        for image in range(len(boxes)):
            for label in (scores[image] > conf).any(1).nonzero()[:, 0].tolist():
                above = (scores[image, label] > conf).nonzero()[:, 0]
                chosen = above[nms(boxes[image, above], scores[image, label, above], iou)[:most]]
                kept += [(image, label, number) for number in chosen.tolist()]
        return torch.tensor(kept, dtype=torch.int64, device=boxes.device).view(-1, 3)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, most: int, iou: float, conf: float) -> Any:
        """Write the operation into an ONNX graph."""
        constants = (torch.tensor([most]), torch.tensor([iou]), torch.tensor([conf]))
        return g.op("NonMaxSuppression", boxes, scores, *(g.op("Constant", value_t=value) for value in constants))


class Suppressing(nn.Module):
    """A detection or segmentation model that returns detections.

    The first output becomes (b, topk_all, 6 + masks) float32: x1, y1, x2, y2 in pixels, confidence, class, mask
    columns, the most confident first; rows that are not needed are 0. Further outputs stay.

    Args:
        model: returns decoded predictions (b, n, 5 + nc + masks), alone or first of a tuple.
        nc: classes.
        iou_thres: a box goes when a better one of its class overlaps it by more.
        conf_thres: least objectness times class score.
        topk_per_class: most boxes of a class.
        topk_all: most boxes of an image.
        agnostic: boxes of different classes suppress each other too.
        multi_label: a box may have several classes, as val.py counts; else it has its best one, as detect.py does.
    """

    def __init__(  # noqa: PLR0913, PLR0917  (all that suppression depends on)
        self, model: nn.Module, nc: int, iou_thres: float, conf_thres: float, topk_per_class: int, topk_all: int,
        agnostic: bool = False, multi_label: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.model, self.nc = model, nc
        self.limits = (int(topk_per_class), float(iou_thres), float(conf_thres))
        self.topk_all, self.agnostic = int(topk_all), agnostic
        self.multi_label = multi_label and nc > 1 and not agnostic  # a box always suppresses itself across classes

    @classmethod
    def around(cls, model: nn.Module, job: Job) -> Suppressing:
        """Return the job's model with the suppression of its options."""
        opt = job.options
        return cls(
            model, len(job.facts.names), opt.iou_thres, opt.conf_thres, opt.topk_per_class, opt.topk_all,
            opt.agnostic_nms, opt.multi_label,
        ).eval()  # fmt: skip

    def forward(self, im: Tensor) -> tuple[Tensor, ...]:
        """Map images (b, 3, h, w) to detections and the model's further outputs."""
        y = self.model(im)
        first, *others = y if isinstance(y, (tuple, list)) else (y,)
        return (self.suppress(first.float()), *others)

    def suppress(self, prediction: Tensor) -> Tensor:
        """Predictions (b, n, 5 + nc + masks) to detections, see the class."""
        centre, half_size = prediction[..., :2], prediction[..., 2:4] / 2
        boxes = torch.cat((centre - half_size, centre + half_size), 2)
        scores, best = self._scores(prediction)
        count = prediction.shape[1]
        per_image = scores.shape[1] * count
        kept = _Suppress.apply(boxes, scores, *self.limits)
        place = kept[:, 0] * per_image + kept[:, 1] * count + kept[:, 2]
        flat = scores.reshape(-1)
        alone = (flat * 0).scatter(0, place, flat[place])  # zeros_like would be stored as a constant of that size
        alone = alone.reshape(-1, per_image)
        confidence, where = alone.topk(min(self.topk_all, per_image), 1)
        row = where % count
        label = torch.div(where, count, rounding_mode="floor") if best is None else best.gather(1, row)
        masks = prediction[..., 5 + self.nc :] * prediction[..., 4:5]  # as suppression outside gives them
        columns = torch.cat((boxes, masks), 2)
        columns = columns.gather(1, row[..., None].expand(-1, -1, columns.shape[2]))
        found = torch.cat((columns[..., :4], confidence[..., None], label[..., None].float(), columns[..., 4:]), 2)
        return found * (confidence > 0)[..., None].float()

    def _scores(self, prediction: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (b, classes or 1, n) scores to suppress by, and each row's class (b, n) unless it may have several."""
        scores = (prediction[..., 4:5] * prediction[..., 5 : 5 + self.nc]).transpose(1, 2)
        if self.multi_label:
            return scores, None
        confidence, best = scores.max(1)
        if self.agnostic:
            return confidence[:, None], best
        own = torch.arange(self.nc, device=scores.device)[None, :, None] == best[:, None]
        return confidence[:, None] * own.float(), best
