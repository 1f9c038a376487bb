"""torchvision's suppression kernel without the rest of torchvision, whose import takes a second and 200 MB."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import torch

STEMS = ("_C", "_C_stable")  # the library's name in older and in newer releases
Suppression = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


@functools.cache
def greedy_nms() -> Suppression:
    """Return ``torchvision.ops.nms``: boxes (n, 4) xyxy, scores (n,), IoU threshold -> places kept, best first.

    The package is imported where its library alone cannot be loaded.
    """
    library = _library()
    if library is not None:
        try:
            torch.ops.load_library(str(library))
            return torch.ops.torchvision.nms
        except (OSError, RuntimeError, AttributeError):
            pass
    from torchvision.ops import nms

    return nms


def _library() -> Path | None:
    """Return torchvision's compiled library, None where it is not in the usual place."""
    spec = find_spec("torchvision")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    names = [f"{stem}{suffix}" for stem in STEMS for suffix in (*EXTENSION_SUFFIXES, ".dll")]
    places = [folder / name for name in names] if folder else []
    return next((place for place in places if place.is_file()), None)
