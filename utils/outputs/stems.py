"""Names of results: one for each input, so that no two inputs write to one file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.images import VID_FORMATS
from utils.logs import LOGGER

_FRAME_NUMBER = re.compile(r"_\d+$")


def output_stems(paths: Sequence[str]) -> list[Path]:
    """Return, for each input, the path below the run folder that its results are named after, without a suffix.

    That is the input's stem. Inputs that share a stem keep their folders relative to the one they have in common, and
    their suffixes where even that is not enough. The frames of a video ``v.mp4`` have the stems v_1, v_2 ...: beside an
    image ``v_1.jpg`` the video keeps its suffix, too. An input that is named twice has one stem.
    """
    files = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_same(file.stem), []).append(file)
    folders = {file: folder for group in groups.values() for file, folder in _folders(group).items()}
    forms: list[Callable[[Path], Path]] = [
        lambda file: Path(file.stem),
        lambda file: folders[file] / file.stem,
        lambda file: folders[file] / file.name,
    ]
    stems = dict.fromkeys(files, Path())
    chosen = dict.fromkeys(files, 0)
    for level in range(len(forms)):
        for file in (file for file in files if chosen[file] == level):
            stems[file] = forms[level](file)
        for file in _in_conflict(stems):
            chosen[file] = max(chosen[file], min(level + 1, len(forms) - 1))
    number = 0
    while left := _in_conflict(stems):
        for file in left:
            number += 1
            stems[file] = folders[file] / f"{file.name}~{number}"
    moved = [file for file in files if chosen[file]]
    if moved:
        names = ", ".join(sorted({file.stem for file in moved})[:5])
        LOGGER.info(f"Inputs with one name ({names}): results are kept apart by folder or suffix")
    return [stems[Path(os.path.abspath(path))] for path in paths]


def _same(name: str | Path) -> str:
    """Return what a file system that ignores case makes of a name."""
    return str(name).casefold()


def _folders(group: list[Path]) -> dict[Path, Path]:
    """Return each file's folder, relative to the one that all of a group have in common."""
    try:
        top = os.path.commonpath([file.parent for file in group])
        return {file: file.parent.relative_to(top) for file in group}
    except ValueError:  # on different drives
        return {
            file: Path(file.drive.strip(":\\/") or "_", *file.parent.relative_to(file.anchor).parts) for file in group
        }


def _in_conflict(stems: dict[Path, Path]) -> list[Path]:
    """Return the inputs whose results would share a file with another's."""
    owners: dict[str, list[Path]] = {}
    for file, stem in stems.items():
        owners.setdefault(_same(stem), []).append(file)
    found: dict[Path, None] = {}
    for key, files in owners.items():
        if len(files) > 1:
            found.update(dict.fromkeys(files))
        family = owners.get(_FRAME_NUMBER.sub("", key), []) if _FRAME_NUMBER.search(key) else []
        if not all(map(_is_video, files)):
            found.update(dict.fromkeys(video for video in family if _is_video(video)))
    return list(found)


def _is_video(file: Path) -> bool:
    return file.suffix[1:].lower() in VID_FORMATS
