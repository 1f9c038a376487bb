"""Classification networks: cut from a detection model, taken from a checkpoint, or one of torchvision's by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.errors import InputError
from utils.logs import LOGGER

DEFAULT_CUTOFF = 10  # layers of YOLOv5's backbone
TORCHVISION_STRIDE = 32.0


def take_backbone(network: nn.Module, detector: nn.Module, nc: int, cutoff: int) -> None:
    """Give a ClassificationModel the first layers of a detection model, the last of them replaced by a Classify head.

    Args:
        network: gets ``model``, ``stride``, ``save`` and ``nc``.
        detector: a model of layers, alone or inside a DetectMultiBackend; it shares its layers with ``network``.
        nc: classes.
        cutoff: layers kept, the head among them.

    Raises:
        InputError: so many layers cannot be kept.
    """
    from models.common import Classify

    detector = getattr(detector, "model", detector) if not hasattr(detector, "save") else detector
    count = len(detector.model)
    if not 2 <= cutoff <= count:
        raise InputError(f"cutoff {cutoff}: the model has {count} layers, allowed are 2 to {count}")
    layers = detector.model[:cutoff]
    last = layers[-1]
    head = Classify(_channels_into(last, cutoff), nc)
    head.i, head.f, head.type = last.i, last.f, "models.common.Classify"
    head.np = sum(parameter.numel() for parameter in head.parameters())
    layers[-1] = head
    network.model, network.stride, network.nc = layers, detector.stride, nc
    sources = (source for layer in layers for source in (layer.f if isinstance(layer.f, list) else [layer.f]))
    network.save = sorted({source for source in sources if source != -1})


def _channels_into(layer: nn.Module, cutoff: int) -> int:
    """Return how many channels a layer takes in."""
    first = getattr(layer, "conv", None) or getattr(getattr(layer, "cv1", None), "conv", None)
    if first is None:
        kind = type(layer).__name__
        raise InputError(f"cutoff {cutoff}: ends at a {kind}, which has no convolution; allowed are Conv, C3 and SPPF")
    return first.in_channels


def initial_network(
    name: str, nc: int, *, cutoff: int | None = None, pretrained: bool = True, dropout: float | None = None
) -> nn.Module:
    """Return the network that ``--model`` names, for ``nc`` classes and ready to be trained.

    Args:
        name: checkpoint (.pt) of a classification or detection model, model YAML, or name of a torchvision model.
        nc: classes.
        cutoff: layers kept of a detection model, 10 by default.
        pretrained: keep the weights; False draws all anew.
        dropout: probability of every dropout layer; None keeps what the network has.

    Raises:
        InputError: no such model, weights that are not there and cannot be fetched, or a network that does not fit.
    """
    if name.endswith((".yaml", ".yml")):
        network: nn.Module = _from_layers(_detector_of_yaml(name), name, nc, cutoff)
    elif name.endswith(".pt") or Path(name).is_file():
        network = _from_checkpoint(name, nc, cutoff)
    else:
        network = _from_torchvision(name, pretrained)
        if cutoff is not None:
            raise InputError(f"--cutoff {cutoff}: allowed with detection models; {name} is one of torchvision's")
    _fit_output(network, nc)
    for module in network.modules():
        if not pretrained and hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if dropout is not None and isinstance(module, nn.Dropout):
            module.p = dropout
    return network.requires_grad_(True)


def _detector_of_yaml(name: str) -> nn.Module:
    from models.yolo import DetectionModel

    return DetectionModel(name)


def _from_checkpoint(name: str, nc: int, cutoff: int | None) -> nn.Module:
    from models.experimental import attempt_load

    network = attempt_load(name, fuse=False)
    if hasattr(network, "save") and type(network).__name__ != "ClassificationModel":
        LOGGER.info(f"{name}: a detection model, its first {cutoff or DEFAULT_CUTOFF} layers are taken")
        return _from_layers(network, name, nc, cutoff)
    if cutoff is not None:
        raise InputError(f"--cutoff {cutoff}: allowed with detection models; {name} is a classification model already")
    return network


def _from_layers(detector: nn.Module, name: str, nc: int, cutoff: int | None) -> nn.Module:
    from models.yolo import ClassificationModel

    try:
        return ClassificationModel(model=detector, nc=nc, cutoff=DEFAULT_CUTOFF if cutoff is None else cutoff)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _from_torchvision(name: str, pretrained: bool) -> nn.Module:
    """Build a classification network of torchvision, with ImageNet weights out of torch's cache or fetched for it."""
    models = importlib.import_module("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(
            f"--model {name}: no such model; allowed are a checkpoint (.pt), a model YAML (yolov5n.yaml) or one of "
            f"torchvision's: {', '.join(known)}"
        )
    if not pretrained:
        return models.get_model(name, weights=None)
    weights = models.get_model_weights(name).DEFAULT
    if hasattr(models.get_model_weights(name), "IMAGENET1K_V1"):
        weights = models.get_model_weights(name).IMAGENET1K_V1
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not cached.is_file():
        from utils.downloads import fetch

        try:
            fetch(weights.url, cached, sha256="", min_bytes=1e5)
        except InputError as error:
            raise InputError(
                f"--model {name}: its ImageNet weights are not in {cached.parent} and cannot be fetched ({error}); "
                "allowed without them is --pretrained False"
            ) from None
    network = models.get_model(name, weights=None)
    network.load_state_dict(torchvision_state(cached))
    return network


def torchvision_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a file of torchvision, which holds a plain state dict."""
    from utils.checkpoint import load_checkpoint

    state = load_checkpoint(path)["model"]
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds a network, expected torchvision's plain weights; delete it to fetch it anew")
    return dict(state)


def _fit_output(network: nn.Module, nc: int) -> None:
    """Give the network an output layer for ``nc`` classes; one that fits already keeps its weights."""
    from utils.torch_utils import reshape_classifier_output

    reshape_classifier_output(network, nc)
    if hasattr(network, "save"):
        network.nc = nc
    else:
        network.stride = torch.tensor([TORCHVISION_STRIDE])


def names_of(network: Any) -> dict[int, str]:
    """Return a network's class names by number."""
    names = network.names
    return dict(names) if isinstance(names, Mapping) else dict(enumerate(map(str, names)))


def require_classifier(network: Any, source: str | Path | Sequence[str | Path]) -> None:
    """Refuse detection and segmentation networks, whose outputs are boxes.

    Args:
        network: a network, or a DetectMultiBackend; of other formats than checkpoints the head is not known.
        source: the weights, for the message.

    Raises:
        InputError: it ends in a detection head, or is an ensemble.
    """
    from models.yolo import Detect

    source = " ".join(map(str, source)) if isinstance(source, (list, tuple)) else source
    network = network.model if hasattr(network, "from_numpy") else network
    if isinstance(network, nn.ModuleList):
        raise InputError(f"{source}: several checkpoints found, allowed is one classification network")
    layers = getattr(network, "model", None)
    if isinstance(layers, nn.Sequential) and isinstance(layers[-1], Detect):
        raise InputError(
            f"{source}: its network ends in {type(layers[-1]).__name__}; allowed here are classification networks, "
            "which end in Classify"
        )
