"""How large the content of a checkpoint becomes when everything shared in it is written out at each place.

A few hundred bytes of lists that hold one another twice, forty levels deep, would keep whatever walks through them
(text of settings, a network moved to a device) busy for years.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from torch import nn

from utils.checkpoints.complaints import Refused

MAX_EXPANDED = 1 << 24
MODULE_SIZE = 128  # what one layer counts for: visiting it costs that much more than visiting a number


def check_expansion(content: Any) -> None:
    """Refuse content of more than MAX_EXPANDED values and characters, shared ones counted wherever they stand.

    Args:
        content: plain data and modules without cycles.

    Raises:
        Refused: it is larger.
    """
    sizes: dict[int, int] = {}
    stack = [(content, False)]
    while stack:
        value, done = stack.pop()
        if id(value) in sizes:
            continue
        parts = _parts(value)
        if done or not parts:
            sizes[id(value)] = _own_size(value) + sum(sizes[id(part)] for part in parts)
        else:
            stack.append((value, True))
            stack.extend((part, False) for part in parts if id(part) not in sizes)
    if sizes[id(content)] > MAX_EXPANDED:
        raise Refused(f"{sizes[id(content)]} values, most of them shared (at most {MAX_EXPANDED} are read)")


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set)):
        return list(value)
    return list(vars(value).values()) if isinstance(value, nn.Module) else []


def _own_size(value: Any) -> int:
    if isinstance(value, (str, bytes, range)):
        return 1 + len(value)
    if isinstance(value, PurePath):
        return 1 + len(str(value))
    return MODULE_SIZE if isinstance(value, nn.Module) else 1
