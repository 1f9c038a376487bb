"""A detection model whose outputs suit CoreML's own suppression."""

from __future__ import annotations

from torch import Tensor, nn


class iOSModel(nn.Module):  # noqa: N801  (YOLOv5's name)
    """Give class confidences and boxes in parts of the image.

    Args:
        model: returns (b, n, 5 + nc) decoded predictions, alone or first of a tuple; has ``nc``.
        im: (b, 3, h, w) an image of the size in use.
    """

    def __init__(self, model: nn.Module, im: Tensor):
        super().__init__()
        _, _, height, width = im.shape
        self.model = model
        self.nc = model.nc if hasattr(model, "nc") else len(model.names)
        self.normalize = 1.0 / width if width == height else im.new_tensor([1 / width, 1 / height] * 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map one image (1, 3, h, w) to (n, nc) class confidences and (n, 4) centre and size in parts of the image."""
        y = self.model(x)
        first = y if isinstance(y, Tensor) else y[0]
        xywh, conf, cls = first[0].split((4, 1, self.nc), 1)
        return cls * conf, xywh * self.normalize
