"""Models as torch.hub gives them, always from this folder: no code is fetched from the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError
from utils.paths import ROOT

if TYPE_CHECKING:
    from torch import nn

OWN_NAMES = frozenset({"ultralytics/yolov5", "yolov5", ""})
_OPTIONS_OF_HUB = ("force_reload", "skip_validation", "trust_repo", "verbose", "source")


def smart_hub_load(repo: str | Path = "ultralytics/yolov5", model: str = "yolov5s", **kwargs: Any) -> nn.Module:
    """Return a model as ``torch.hub.load`` of this folder would.

    Args:
        repo: ``ultralytics/yolov5``, with or without a tag, for which this folder stands; or this folder.
        model: yolov5s and the like, or custom.
        kwargs: arguments of that function (docs/hub.md). Those of torch.hub.load about downloads have no effect.

    Raises:
        InputError: any other repository, whose code would come from elsewhere; or a name that is not there.
    """
    from models.by_name import ENTRIES

    if str(repo).partition(":")[0] not in OWN_NAMES and Path(repo).resolve() != ROOT:
        raise InputError(
            f"repo {repo}: allowed are ultralytics/yolov5, which means this folder, and {ROOT}; no code is fetched"
        )
    if model not in ENTRIES:
        raise InputError(f"model {model!r}: allowed are {', '.join(ENTRIES)}; a file is loaded by custom and path=...")
    return ENTRIES[model](**{key: value for key, value in kwargs.items() if key not in _OPTIONS_OF_HUB})
