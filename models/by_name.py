"""Models by the names that hub knows: hubconf.py and utils.torch_utils.smart_hub_load hand them out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from utils.errors import InputError
from utils.general import torch_load
from utils.logs import LOGGER, setup_logging
from utils.paths import ROOT

RELEASED = tuple(f"yolov5{size}{kind}" for kind in ("", "6") for size in "nsmlx")
COCO_CLASSES = 80
Device = str | torch.device | None


def create(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    name: str | Path,
    pretrained: bool = True,
    channels: int = 3,
    classes: int = COCO_CLASSES,
    autoshape: bool = True,
    verbose: bool = True,
    device: Device = None,
) -> nn.Module:
    """Return a model by the name of its architecture, or by the path of its weights.

    Args:
        name: yolov5s and the like, or a file that DetectMultiBackend reads.
        pretrained: take the weights of ``<name>.pt``, fetched where they are released and missing.
        channels: of the images.
        classes: of the model. With other channels or classes than the weights have, those weights that fit are taken.
        autoshape: wrap the model so that it takes images in any form.
        verbose: log what happens.
        device: where to put it: '', 'cpu', a GPU's number; by default the first GPU, else the CPU.

    Returns:
        AutoShape around a DetectMultiBackend; without ``autoshape`` the latter, not fused; for masks and whole images
        the latter in any case. A DetectionModel ready to train when not pretrained or not of 3 channels and 80 classes.

    Raises:
        InputError: unknown name, weights that cannot be read; DownloadError: cannot be fetched.
    """
    from utils.torch_utils import select_device

    setup_logging()
    if not verbose:
        LOGGER.setLevel(max(LOGGER.level, logging.WARNING))
    place = select_device("" if device is None else device)
    path = Path(name)
    path = path.with_suffix(".pt") if not path.suffix and not path.is_dir() else path
    if pretrained and channels == 3 and classes == COCO_CLASSES:
        return _ready(str(name) if "://" in str(name) else path, autoshape, place)
    return _trainable(path, pretrained, channels, classes).to(place)


def _ready(path: str | Path, autoshape: bool, device: torch.device) -> nn.Module:
    """Return a model to predict with."""
    from models.autoshape import AutoShape
    from models.backends import DetectMultiBackend
    from models.yolo import ClassificationModel, SegmentationModel

    model = DetectMultiBackend(path, device=device, fuse=autoshape)
    if autoshape and model.pt and isinstance(model.model, (ClassificationModel, SegmentationModel)):
        shape = "(1, 3, 224, 224)" if isinstance(model.model, ClassificationModel) else "(1, 3, 640, 640)"
        LOGGER.warning(
            "WARNING %s is a %s, which AutoShape does not take: give it tensors (b, 3, h, w) in 0-1, such as %s",
            path, type(model.model).__name__, shape
        )  # fmt: skip
    elif autoshape:
        model = AutoShape(model)
    return model.to(device)


def _trainable(path: Path, pretrained: bool, channels: int, classes: int) -> nn.Module:
    """Return a model of an architecture with other channels or classes, with those weights that fit if wanted."""
    from models.yolo import DetectionModel
    from utils.downloads import attempt_download
    from utils.torch_utils import intersect_dicts

    architectures = sorted((ROOT / "models").rglob(f"{path.stem}.yaml"))
    if not architectures:
        raise InputError(f"{path.stem}: no architecture of this name; models/ has {', '.join(_architectures())}")
    model = DetectionModel(architectures[0], channels, classes)
    if pretrained:
        checkpoint = torch_load(attempt_download(path), map_location="cpu")
        source = checkpoint.get("ema") or checkpoint["model"]
        weights = intersect_dicts(source.float().state_dict(), model.state_dict(), exclude=["anchors"])
        model.load_state_dict(weights, strict=False)
        LOGGER.info("%s: %d of %d weights taken", path, len(weights), len(model.state_dict()))
        if len(source.names) == classes:
            model.names = source.names
    return model


def _architectures() -> list[str]:
    return sorted(path.stem for path in (ROOT / "models").rglob("yolov*.yaml"))


def custom(
    path: str | Path = "path/to/model.pt", autoshape: bool = True, _verbose: bool = True, device: Device = None
) -> nn.Module:
    """Return a model from a file: a checkpoint or any exported format; see create."""
    return create(path, autoshape=autoshape, verbose=_verbose, device=device)


def entry(name: str) -> Callable[..., nn.Module]:
    """Return the function that hub finds under the name of a released model."""

    def load(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
        pretrained: bool = True,
        channels: int = 3,
        classes: int = COCO_CLASSES,
        autoshape: bool = True,
        _verbose: bool = True,
        device: Device = None,
    ) -> nn.Module:
        return create(name, pretrained, channels, classes, autoshape, _verbose, device)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"Return {name}; see create for the parameters."
    return load


ENTRIES = {"custom": custom, **{name: entry(name) for name in RELEASED}}
