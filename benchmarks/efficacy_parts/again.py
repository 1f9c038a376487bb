"""A cell run a second time, in another folder: are the weights and the figures the same, bit for bit?"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from efficacy_parts.cells import Cell, diagnose, hyp_file, train
from efficacy_parts.figures import FIGURES, run_figures
from utils.errors import InputError

IDENTICAL = "weights and figures identical, bit for bit"
LATER = "trained anew for later arms: "  # how the note begins of a run whose weights were gone


def run_again(cell: Cell, device: str) -> str:
    """Run a finished cell again and return what differs in words, IDENTICAL when nothing does.

    Raises:
        InputError: the cell is not finished, or its run folder is gone.
        WorkError: a command failed.
    """
    first = cell.summary()
    if first is None or not cell.last.exists():
        raise InputError(f"--again {cell.title}: it has no finished run in {cell.folder}")
    hyp, _ = hyp_file(cell, device)
    twin = replace(cell, setup=replace(cell.setup, work=cell.setup.work / "again"))
    if twin.summary() is not None:  # of an earlier comparison
        for folder in filter(Path.exists, (twin.folder, twin.diagnosis)):
            shutil.rmtree(folder)
    train(twin, hyp, device)
    second = diagnose(twin, device, cell.last)
    apart = weight_difference(cell.last, twin.last)
    ours, theirs = run_figures(first), run_figures(second)
    changed = [f"{name} {ours[name]:.4f} and {theirs[name]:.4f}" for name in FIGURES if ours[name] != theirs[name]]
    if not apart and not changed:
        return IDENTICAL
    return "; ".join([f"weights differ by up to {apart:.3g}", *(changed or ["figures identical"])])


def with_second(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a run that was trained again because its weights were gone, with a note on what came out.

    Its figures stay: the arms beside it were compared with them. Others come out on another kind of processor, or where
    the program has changed what it trains since; then the old row and the arms beside it are to be run again.
    """
    apart = [name for name in FIGURES if f"{first[name]:.4f}" != f"{second[name]:.4f}"]
    told = LATER + (", ".join(f"{name} {first[name]:.1f} and {second[name]:.1f}" for name in apart) or "same figures")
    notes = [note for note in (first["again"] or "").split("; ") if note and not note.startswith(LATER)]
    return {**first, "again": "; ".join([*notes, told])}


def weight_difference(first: Path, second: Path) -> float:
    """Return the largest difference of any parameter or buffer of two checkpoints' networks.

    Raises:
        InputError: they hold other layers.
    """
    from utils.checkpoint import load_checkpoint

    ours, theirs = (load_checkpoint(path)["model"].state_dict() for path in (first, second))
    if {name: value.shape for name, value in ours.items()} != {name: value.shape for name, value in theirs.items()}:
        raise InputError(f"{first} and {second} hold different layers")
    return max(float((value.double() - theirs[name].double()).abs().max()) for name, value in ours.items())
