"""The built-in data set with outlines in place of boxes, for segmentation (``generator: parts-outlines``)."""

from __future__ import annotations

from pathlib import Path

from utils import parts


def ensure_dataset(root: Path) -> None:
    """Draw the default data set with outlines at ``root`` unless a complete parts data set of any recipe is there.

    Raises:
        InputError, WorkError: as ``utils.parts.ensure_dataset``.
    """
    parts.ensure_dataset(root, outlines=True)
