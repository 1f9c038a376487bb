"""The loss of segmentation: that of detection, and a mask term over the matches that it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.balance.loss_layers import Layer
from utils.balance.losses import full_precision
from utils.boxes import bbox_iou, xywh2xyxy
from utils.loss import ComputeLoss as DetectionLoss
from utils.loss import smooth_bce
from utils.segment.general import crop_mask
from utils.torch_utils import de_parallel

__all__ = ["ComputeLoss", "bbox_iou", "smooth_bce", "xywh2xyxy"]


class ComputeLoss(DetectionLoss):
    """Total loss of a batch, times the batch size, with masks.

    Args:
        model: a segmentation model.
        autobalance: as of ``utils.loss.ComputeLoss``.
        overlap: masks come as one map of label numbers per image.
        more: the other arguments of ``utils.loss.ComputeLoss``; class weights leave the mask term alone. There is no
            static form: the mask term goes image by image.
    """

    has_static_form = False

    def __init__(self, model: Any, autobalance: bool = False, overlap: bool = False, **more: Any):
        super().__init__(model, autobalance, **more)
        self.overlap = overlap
        self.nm = de_parallel(model).model[-1].nm

    def __call__(self, preds: Sequence[Any], targets: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch.

        The mask term is YOLACT's (arXiv 1904.02689, section 3.1): binary cross-entropy over the pixels of the label's
        box by the box's share of the image, averaged over an image's matches of each layer, added over layers and
        images. Its gain is the boxes', divided by the batch size in the item and not in the total.

        Args:
            preds: per layer (bs, na, gj, gi, no) raw outputs, and prototypes (bs, nm, mh, mw).
            targets: (nt, 6) image, class, cx, cy, w, h, box 0 to 1, image by image; a seventh column as in detection.
            masks: (nt, h, w), or with ``overlap`` (bs, h, w) numbers of the labels of an image from 1.

        Returns:
            (1,) total times the batch size, and (4,) detached box, mask, obj and cls terms for one image.
        """
        p, proto = preds
        terms = self._terms(p, self._seen(targets))
        lseg = self._mask_term(terms.layers, proto, targets, masks)
        gains = self.hyp
        images = terms.batch.images if self.world_sum is not None else len(proto)
        seg = lseg * gains["box"] / images
        items = torch.cat((terms.box * gains["box"], seg, terms.obj * gains["obj"], terms.cls * gains["cls"]))
        return items.sum(0, keepdim=True) * terms.batch.images, items.detach()

    def _mask_term(self, layers: list[Layer], proto: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
        """Return the mask term of a batch without its gain, (1,)."""
        count, (height, width) = len(proto), proto.shape[2:]
        image = torch.cat([layer.match.image for layer in layers])
        total = full_precision(proto[:1, :1, :1, :1]).sum().view(1) * 0.0  # all parameters have a gradient
        if not len(image):
            return total
        layer_of = torch.cat([torch.full_like(layer.match.image, i) for i, layer in enumerate(layers)])
        target = torch.cat([layer.match.target for layer in layers])
        coefficients = torch.cat([layer.outputs[:, -self.nm :] for layer in layers])
        of_place = torch.bincount(layer_of * count + image, minlength=len(layers) * count)
        boxes = targets[target, 2:6]
        weights = 1.0 / (of_place[layer_of * count + image] * boxes[:, 2:].prod(1))
        corners = xywh2xyxy(boxes * boxes.new_tensor([width, height, width, height]))
        masks = _at_size(masks, (height, width))
        names = _numbers_in_image(targets)[target] if self.overlap else target
        order = image.argsort(stable=True)
        for i, rows in enumerate(order.split(of_place.view(-1, count).sum(0).tolist())):
            if len(rows):
                truth = masks[i] == names[rows, None, None] if self.overlap else masks[names[rows]]
                losses = self._pixel_losses(truth, coefficients[rows], proto[i], corners[rows])
                total = total + (losses * weights[rows]).sum()
        return total

    def _pixel_losses(self, gt_mask: Tensor, pred: Tensor, proto: Tensor, xyxy: Tensor) -> Tensor:
        """Return each mask's cross-entropy (n,), summed within its box and divided by all pixels."""
        logits = full_precision((pred @ proto.flatten(1)).view(-1, *proto.shape[1:]))
        losses = F.binary_cross_entropy_with_logits(logits, gt_mask.to(logits.dtype), reduction="none")
        return crop_mask(losses, xyxy).mean((1, 2))

    def single_mask_loss(self, gt_mask: Tensor, pred: Tensor, proto: Tensor, xyxy: Tensor, area: Tensor) -> Tensor:
        """Return the mean mask loss of one image's matches, ().

        Args:
            gt_mask: (n, h, w) 0 or 1.
            pred: (n, nm) coefficients.
            proto: (nm, h, w) prototypes.
            xyxy: (n, 4) boxes in pixels of the masks.
            area: (n,) of the boxes, as shares of the image.
        """
        return (self._pixel_losses(gt_mask, pred, proto, xyxy) / area).mean()

    def build_targets(self, p: Sequence[Tensor], targets: Tensor) -> tuple[list[Any], ...]:  # type: ignore[override]
        """Match targets with anchors and cells as in detection.

        Returns:
            What ``utils.loss.ComputeLoss.build_targets`` returns, and per layer the numbers of the matched labels (n,),
            with ``overlap`` from 1 within their image, else from 0 in the batch; and their boxes (n, 4) xywh 0 to 1.
        """
        found = [match.target for match in self._matches(p, targets)]
        numbers = _numbers_in_image(targets) if self.overlap else torch.arange(len(targets), device=targets.device)
        return *super().build_targets(p, targets), [numbers[t] for t in found], [targets[t, 2:6] for t in found]


def _at_size(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks (n, h, w) at another size; label numbers are kept whole."""
    if tuple(masks.shape[-2:]) == size or not len(masks):
        return masks
    return F.interpolate(masks[None].float(), size, mode="nearest")[0]


def _numbers_in_image(targets: Tensor) -> Tensor:
    """Return the number of each target (nt, 6) within its image, from 1, (nt,); targets come image by image."""
    image = targets[:, 0].contiguous()
    first = torch.searchsorted(image, image)  # of the image's targets
    return torch.arange(1, len(targets) + 1, device=targets.device) - first
