"""Networks as earlier YOLOv5 releases pickled them, brought up to today's attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from utils.balance.loss_names import class_activation
from utils.checkpoints.complaints import Refused
from utils.model_ops import meta_forward

CLASS_ACTIVATIONS = ("sigmoid", "softmax")
PROBE_SIZE = 256  # side of the image that measures strides a file does not tell; upstream measures at the same size
DEFAULT_CHANNELS = 3
MAX_CLASSES = 100_000  # that names are made up for


def adapt_model(model: nn.Module) -> nn.Module:
    """Give a network read from a file every attribute that today's code uses; weights and precision stay.

    Handles lists of class names, a missing ``yaml`` (or its first name ``md``), ``stride``, ``inplace``, ``save`` or
    ``names``, and Detect heads that keep their anchors in pixels or ``anchor_grid`` as a buffer (releases up to v5.0).

    Raises:
        Refused: the network is not one that can run.
    """
    attributes = vars(model)
    if not isinstance(getattr(model, "model", None), nn.Sequential):
        return model
    head = model.model[-1]
    _check_layers(model)
    is_detector = "anchors" in head._buffers
    if is_detector:
        _adapt_head(head, attributes)
    attributes.setdefault("inplace", True)
    attributes.setdefault("yaml", attributes.pop("md", None) or _describe(head))
    attributes.setdefault("save", _saved_layers(model.model))
    attributes.setdefault("nc", getattr(head, "nc", None))
    attributes["names"] = _class_names(attributes.get("names"), attributes["nc"])
    if is_detector:
        _adapt_strides(model, head)
        set_class_activation(head, attributes.get("hyp"))
    return model


def set_class_activation(head: nn.Module, hyp: Any) -> None:
    """Have a head score classes as its training did; it keeps an attribute of its own for softmax alone.

    Args:
        head: a Detect or Segment layer, which may carry ``cls_act`` already.
        hyp: settings that it was trained with; anything but a mapping tells nothing.

    Raises:
        Refused: the head names an activation that is not known.
    """
    learned = class_activation(hyp) if isinstance(hyp, Mapping) or hasattr(hyp, "keys") else "sigmoid"
    found = vars(head).pop("cls_act", "sigmoid")
    if found not in CLASS_ACTIVATIONS:
        raise Refused(f"class scores by {str(found)[:80]!r}, known are {' and '.join(CLASS_ACTIVATIONS)}")
    if "softmax" in (learned, found):
        head.cls_act = "softmax"


def _check_layers(model: nn.Module) -> None:
    """Refuse networks whose layers or ``save`` list do not name other layers by their numbers."""
    for number, layer in enumerate(model.model):
        place, source = getattr(layer, "i", None), getattr(layer, "f", None)
        sources = source if isinstance(source, (list, tuple)) else [source]
        if type(place) is not int or place < 0 or not all(type(n) is int for n in sources):
            raise Refused(f"a network whose layer {number} does not say where its input comes from")
    saved = vars(model).get("save", [])
    if not isinstance(saved, (list, tuple, set)) or not all(type(n) is int for n in saved):
        raise Refused("a network whose list of saved layers is not one of numbers")


def _saved_layers(layers: nn.Sequential) -> list[int]:
    """Return the numbers of the layers whose output a later layer uses."""
    wanted = set()
    for layer in layers[1:]:
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        wanted |= {source % layer.i for source in sources if source != -1 and layer.i}
    return sorted(wanted)


def _class_names(names: Any, nc: int | None) -> dict[int, str]:
    if isinstance(names, dict):
        return {int(key): str(name) for key, name in names.items()}
    if isinstance(names, (list, tuple)):
        return {key: str(name) for key, name in enumerate(names)}
    if nc is not None and not (type(nc) is int and 0 <= nc <= MAX_CLASSES):
        raise Refused(f"a network for {nc} classes (0 to {MAX_CLASSES} are read)")
    return {key: f"class{key}" for key in range(nc or 0)}


def _describe(head: nn.Module) -> dict[str, Any]:
    """Return what a missing model YAML can still be known to have said."""
    return {"nc": getattr(head, "nc", None), "ch": DEFAULT_CHANNELS}


def _adapt_head(head: nn.Module, model_attributes: dict[str, Any]) -> None:
    """Reset a Detect head's caches and bring its anchors to grid units (fractions of each layer's stride)."""
    attributes = vars(head)
    if head.anchors is None or head.anchors.dim() != 3 or not head.anchors.numel() or head.anchors.shape[2] != 2:
        raise Refused("a detection head whose anchors are not widths and heights per feature map")
    levels, anchors_per_level = head.anchors.shape[:2]
    if attributes.get("nl", levels) != levels:
        raise Refused(f"a detection head for {attributes['nl']} feature maps with anchors for {levels}")
    pixels = head._buffers.pop("anchor_grid", None)
    head._non_persistent_buffers_set.discard("anchor_grid")
    attributes.update(anchor_grid=[torch.empty(0)] * levels, grid=[torch.empty(0)] * levels)
    attributes.setdefault("nl", levels)
    attributes.setdefault("na", anchors_per_level)
    attributes.setdefault("inplace", model_attributes.get("inplace", True))
    for switch in ("export", "dynamic"):
        attributes.pop(switch, None)  # how it was last exported is no property of the network
    if _in_pixels(head.anchors, pixels, model_attributes):
        attributes["anchors_in_pixels"] = True


def _in_pixels(anchors: torch.Tensor, grid: torch.Tensor | None, model_attributes: dict[str, Any]) -> bool:
    """Tell whether anchors (nl, na, 2) equal the pixel sizes that the file holds beside them."""
    if grid is not None:
        return bool(torch.allclose(anchors.float(), grid.float().reshape(anchors.shape), rtol=1e-2))
    listed = (model_attributes.get("yaml") or {}).get("anchors")
    if not isinstance(listed, list):
        return False
    try:
        listed = torch.tensor(listed, dtype=torch.float32).reshape(anchors.shape)
    except (ValueError, TypeError, RuntimeError):
        return False
    return bool(torch.allclose(anchors.float(), listed, rtol=1e-2))


def _adapt_strides(model: nn.Module, head: nn.Module) -> None:
    """Give model and head their strides; measured ones where the file tells none.

    Measuring also shows that the layers fit each other, so that a file of layers that do not is refused here.
    """
    attributes = vars(model)
    stride = vars(head).get("stride", attributes.get("stride"))
    measured = measure_strides(model)
    if len(measured) != head.nl:
        raise Refused(f"a detection head for {head.nl} feature maps that gets {len(measured)}")
    if not isinstance(stride, torch.Tensor) or stride.numel() != head.nl:
        stride = measured
    stride = stride.float()
    if vars(head).pop("anchors_in_pixels", False):
        head.anchors = head.anchors / stride.view(-1, 1, 1).to(head.anchors)
    head.stride = stride
    attributes["stride"] = stride


def measure_strides(model: nn.Module) -> torch.Tensor:
    """Return (nl,) pixels per grid cell of each output, measured on shapes alone."""
    channels = (vars(model).get("yaml") or {}).get("ch", DEFAULT_CHANNELS)
    try:
        maps = meta_forward(model, (1, channels, PROBE_SIZE, PROBE_SIZE))
        maps = maps[0] if isinstance(maps, tuple) else maps
        return torch.tensor([PROBE_SIZE / level.shape[2] for level in maps])
    except Exception as error:  # whatever a layer with attributes from elsewhere raises
        reason = str(error).splitlines() or [type(error).__name__]
        raise Refused(f"a network that cannot run: {reason[0]}") from error
