"""Checkpoints: the only place that reads and writes them.

Files are read with torch's weights-only loader and an allow-list of exact classes, and written in the layout of YOLOv5
clones, which load them. What exact resume needs travels in the extra key ``resume`` as plain numbers, text and tensors.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import struct
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.checkpoints import records
from utils.checkpoints.classes import Builder, refused_paths, safe_globals
from utils.checkpoints.complaints import reason_of
from utils.checkpoints.disk_space import check_free_space, estimated_size
from utils.checkpoints.layouts import adapt_model, set_class_activation
from utils.checkpoints.model_copy import half_copy, plain_copy
from utils.checkpoints.rng_state import capture_rng, restore_rng
from utils.checkpoints.scan import PASS_CLASS, Damaged, Refused, scan_file
from utils.errors import InputError, MissingFileError, WorkError
from utils.logs import LOGGER
from utils.safe_write import sweep_leftovers, sync_folder

__all__ = [
    "build_checkpoint", "capture_rng", "check_free_space", "estimated_size", "is_finished", "load_checkpoint",
    "load_model", "load_resume", "pickled_globals", "restore_rng", "save_checkpoint", "set_class_activation",
    "strip_optimizer", "tidy_weights",
]  # fmt: skip

MODEL_KEYS = ("model", "ema")
STRIPPED_KEYS = ("optimizer", "best_fitness", "ema", "updates")
FINISHED_EPOCH = -1
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, TypeError, ValueError, AttributeError, LookupError, EOFError, MemoryError,
    ArithmeticError, AssertionError, struct.error,
)  # fmt: skip


def previous_path(path: str | Path) -> Path:
    """Return where ``save_checkpoint(..., keep_previous=True)`` keeps the file it replaces: ``last.pt.prev``."""
    return Path(f"{path}{records.PREVIOUS_SUFFIX}")


def pickled_globals(path: str | Path) -> set[str]:
    """Return the dotted paths of all classes and functions that a checkpoint names, without loading it.

    Raises:
        InputError: no such file, or not a whole checkpoint.
    """
    path = _existing(path)
    with _one_line_errors(path):
        return scan_file(path).globals - {PASS_CLASS}


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of any YOLOv5 release or of this project.

    A file that holds a bare network or bare state dict comes back as ``{"model": ...}``. Networks keep the precision
    they have in the file; old attribute layouts are brought up to date.

    Args:
        path: the file.
        map_location: device of its tensors, as for torch.load.

    Raises:
        MissingFileError: no such file.
        InputError: truncated, damaged, not a checkpoint, or not what the record beside it says was written; or it
            names a class or function that no checkpoint needs, of which nothing is imported or run.
    """
    path = _existing(path)
    with _one_line_errors(path):
        records.check(path)
        scan = scan_file(path)
        refused = refused_paths(scan.globals)
        if refused:
            raise Refused(_listed(refused))
        with torch.serialization.safe_globals(safe_globals()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw = torch.load(scan.source, map_location=map_location, weights_only=True)
        return _as_checkpoint(Builder().root(raw))


def _listed(names: list[str], most: int = 3) -> str:
    """Return names out of a file on one line, whatever characters they hold."""
    shown = ", ".join(ascii(name[:80])[1:-1] for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise MissingFileError(f"{path}: {found}; expected a checkpoint file (.pt)")
    return path


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turn whatever a bad file causes into one line that names it."""
    try:
        yield
    except Damaged as error:
        raise InputError(f"{path}: {error}{_offer_previous(path)}") from error
    except Refused as error:
        raise InputError(
            f"{path}: refused, nothing was run: it asks for {error}; allowed are tensors, plain data, YOLOv5's layers"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _UNREADABLE as error:
        raise InputError(f"{path}: damaged or not a checkpoint ({reason_of(error)}){_offer_previous(path)}") from error


def _offer_previous(path: Path) -> str:
    """Name what to use in place of a damaged checkpoint: the file saved before it, its run's best.pt, or nothing."""
    previous, best = previous_path(path), path.with_name("best.pt")
    if _is_whole(previous):
        return f"; the checkpoint saved before it is whole: rename {previous} to {path.name}"
    if path.name != best.name and _is_whole(best):
        return f"; {best} is whole"
    record = records.record_path(path)
    return f"; if it was replaced on purpose, delete {record}" if record.is_file() else ""


def _is_whole(path: Path) -> bool:
    try:
        records.check(path)
        scan_file(path)
    except (Damaged, Refused, OSError, *_UNREADABLE):
        return False
    return True


def _as_checkpoint(content: Any) -> dict[str, Any]:
    """Return the content as a dict with ``model``, its networks adapted."""
    if isinstance(content, nn.Module):
        content = {"model": content}
    if not isinstance(content, dict):
        raise Damaged(f"not a checkpoint: it holds a {type(content).__name__}")
    if content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return {"model": dict(content)}
    for key, value in content.items():
        if isinstance(value, nn.Module):
            content[key] = adapt_model(value)
    return content


def load_model(
    path: str | Path, device: torch.device | str | None = None, fuse: bool = True, *, cfg: str | dict | None = None
) -> nn.Module:
    """Return a checkpoint's network ready for inference: float32, eval, the averaged weights where there are any.

    Args:
        path: the checkpoint.
        device: where to put it; the CPU by default.
        fuse: merge each convolution with its batch norm.
        cfg: model YAML (path or dict) for files that hold a state dict without one.

    Raises:
        InputError: the file cannot be read, or holds no network and ``cfg`` is missing or does not fit.
    """
    checkpoint = load_checkpoint(path)
    network = checkpoint.get("ema") or checkpoint.get("model")
    if isinstance(network, dict):
        network = _network_from_state(Path(path), network, checkpoint, cfg)
    if not isinstance(network, nn.Module):
        raise InputError(f"{path}: holds no network; expected one under the key ema or model")
    return _ready_for_inference(Path(path), network, device or "cpu", fuse)


def _ready_for_inference(path: Path, network: nn.Module, device: torch.device | str, fuse: bool) -> nn.Module:
    """Return the network on its device; one whose layers do not fit their own settings is damaged."""
    try:
        network = network.to(device).float().requires_grad_(False).eval()
        return network.fuse().eval() if fuse and hasattr(network, "fuse") else network
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise InputError(f"{path}: damaged: its network cannot be prepared: {reason_of(error)}") from error


def _network_from_state(
    path: Path, state: dict[str, Any], checkpoint: dict[str, Any], cfg: str | dict | None
) -> nn.Module:
    """Build the network of a plain state dict from its model YAML."""
    from models.yolo import DetectionModel

    options = checkpoint.get("opt")
    options = options if isinstance(options, dict) else {}
    cfg = cfg or checkpoint.get("yaml") or checkpoint.get("cfg") or options.get("cfg")
    if not cfg:
        raise InputError(f"{path}: holds weights without their network; name its model YAML with --cfg")
    names = checkpoint.get("names")
    network = DetectionModel(cfg, ch=3, nc=len(names) if names else None)
    expected = network.state_dict()
    differing = [key for key in sorted({*expected, *state}) if _shape(expected.get(key)) != _shape(state.get(key))]
    if differing:
        raise InputError(
            f"{path}: {len(differing)} of {len(state)} weights do not fit the model YAML, the first is {differing[0]} "
            f"{_shape(state.get(differing[0]))}, expected {_shape(expected.get(differing[0]))}"
        )
    network.load_state_dict(state)
    set_class_activation(network.model[-1], checkpoint.get("hyp") or options.get("hyp"))
    if names:
        network.names = dict(names) if isinstance(names, dict) else dict(enumerate(names))
    return network


def _shape(tensor: Any) -> tuple[int, ...] | None:
    return tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else None


def is_finished(checkpoint: dict[str, Any]) -> bool:
    """Return whether a checkpoint is of a run that ended, so that nothing is left to resume.

    The epoch alone does not tell: a run that was stopped within its first epoch has ended none, which is written as
    -1 like the mark of a stripped file. It has a resume block, which stripping removes.
    """
    epoch = checkpoint.get("epoch")
    return not checkpoint.get("resume") and (not isinstance(epoch, int) or epoch < 0)


def load_resume(path: str | Path, checkpoint: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Return the exact-resume block of an interrupted run's checkpoint.

    Args:
        path: the file, named in errors.
        checkpoint: its content when it was loaded already.

    Returns:
        The block, or None (said in the log) for a file that another YOLOv5 wrote: such a run resumes from its float16
        weights and optimizer state, which is not exact.

    Raises:
        InputError: the run that wrote it is finished, or the file holds no optimizer state.
    """
    checkpoint = load_checkpoint(path) if checkpoint is None else checkpoint
    if is_finished(checkpoint):
        raise InputError(
            f"{path}: nothing to resume, its run is finished (optimizer stripped); start a new run with --weights"
        )
    block = checkpoint.get("resume")
    if isinstance(block, dict):
        return block
    if not checkpoint.get("optimizer"):
        raise InputError(f"{path}: holds no optimizer state; start a new run with --weights")
    LOGGER.warning(f"{path}: written by another YOLOv5, so it resumes from float16 weights and not bit for bit")
    return None


def build_checkpoint(  # noqa: PLR0913  (one argument per part of upstream's layout)
    *,
    model: nn.Module,
    ema: nn.Module | None,
    updates: int | None,
    optimizer_state: dict[str, Any] | None,
    epoch: int,
    best_fitness: float | np.ndarray | None,
    opt: dict[str, Any],
    git: dict[str, Any] | None = None,
    resume: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of a checkpoint in upstream's layout; the live model and EMA are not touched.

    Args:
        model: the network in training, with or without a parallel wrapper; stored as a float16 copy.
        ema: the averaged network (not the ModelEMA object); stored as a float16 copy without gradients.
        updates: number of EMA updates so far.
        optimizer_state: optimizer.state_dict(); stored as it is, float32.
        epoch: number of the epoch that ended, from 0.
        best_fitness: best weighted mAP so far.
        opt: all options; paths become text.
        git: remote, branch and commit.
        resume: exact-resume state of numbers, text, tensors, and dicts and lists of these.

    Raises:
        WorkError: a weight is not finite.
        TypeError: something that cannot be plain data.
    """
    fitness = None if best_fitness is None else np.array(best_fitness, dtype=np.float64).reshape(1)
    checkpoint = {
        "epoch": int(epoch),
        "best_fitness": fitness,
        "model": half_copy(model),
        "ema": None if ema is None else half_copy(ema).requires_grad_(False),
        "updates": updates,
        "optimizer": None if optimizer_state is None else plain_copy(_portable(optimizer_state), "optimizer"),
        "opt": plain_copy(opt, "opt"),
        "git": plain_copy(git or {"remote": None, "branch": None, "commit": None}, "git"),
        "date": datetime.now().isoformat(),
    }
    return checkpoint if resume is None else {**checkpoint, "resume": plain_copy(resume, "resume")}


def _portable(optimizer_state: dict[str, Any]) -> dict[str, Any]:
    """Return the state without the choice of kernel, which belongs to the device that reads it."""
    kernels = {"fused": None, "foreach": None}
    groups = [
        {key: kernels.get(key, value) for key, value in group.items()} for group in optimizer_state["param_groups"]
    ]
    return {**optimizer_state, "param_groups": groups}


def save_checkpoint(
    path: str | Path, contents: dict[str, Any], keep_previous: bool = False, record: bool = True
) -> None:
    """Write a checkpoint so that at every moment the path holds a whole file: the one before or this one.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and take the path's name in one step.
    Their size and sha256 go to ``<path>.sha256``, against which ``load_checkpoint`` compares them.

    Args:
        path: the file to write or replace.
        contents: what ``build_checkpoint`` or ``load_checkpoint`` returned.
        keep_previous: keep the file that was there as ``<path>.prev``.
        record: False writes no ``<path>.sha256`` and removes one that is there.

    Raises:
        WorkError: a tensor is not finite, or the file cannot be written (disk full, read-only ...); the old file stays.
    """
    path = Path(path)
    _check_finite(path, contents)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        digest = _write_hashed(temporary, contents)
        before = records.announce(path, digest) if record else records.drop(path)
        if keep_previous and path.exists():
            _keep_previous(path)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or _cause_of(error)
        kept = "the file saved before is unchanged" if path.exists() else "nothing was written"
        raise WorkError(f"{path}: the checkpoint cannot be written ({reason}); {kept}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if record:
        records.settle(path, digest, before if keep_previous else None)


def _write_hashed(path: Path, contents: dict[str, Any]) -> records.Digest:
    """Write a file, flushed to the disk, and return its size and sha256."""
    with path.open("wb") as file:
        hashing = records.HashingFile(file)
        torch.save(contents, hashing)
        file.flush()
        os.fsync(file.fileno())
    return hashing.digest()


def _cause_of(error: BaseException) -> str:
    """Return the system's reason behind an error of torch's archive writer."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        link = link.__cause__ or link.__context__
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _keep_previous(path: Path) -> None:
    """Give the present file a second name; it never loses its first."""
    staged = path.with_name(f".{path.name}{records.PREVIOUS_SUFFIX}.tmp")
    staged.unlink(missing_ok=True)
    try:
        try:
            os.link(path, staged)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, staged)
        os.replace(staged, previous_path(path))
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


def _check_finite(path: Path, contents: dict[str, Any]) -> None:
    for name, tensor in _tensors(contents, ""):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WorkError(f"{path}: not written, because {name} holds numbers that are not finite")


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor in nested containers and networks with a name that leads to it."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, nn.Module):
        for key, tensor in value.state_dict().items():
            yield f"{name}.{key}", tensor
    elif isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _tensors(item, f"{name}.{key}" if name else str(key))


def strip_optimizer(f: str | Path = "best.pt", s: str | Path = "") -> None:
    """Turn a training checkpoint into a finished one, about a quarter of its size, for inference and fine-tuning.

    Keeps the averaged network alone (float16, no gradients) as ``model``, drops optimizer and resume state, and sets
    ``epoch`` to -1. A file that is stripped already stays as it is in content.

    Args:
        f: the checkpoint.
        s: where to write the result; over ``f`` by default.

    Raises:
        InputError: ``f`` is not a checkpoint with a network.
        WorkError: the result cannot be written.
    """
    checkpoint = load_checkpoint(f)
    network = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(network, nn.Module):
        raise InputError(f"{f}: holds no network to keep; expected one under the key ema or model")
    checkpoint.pop("resume", None)
    others = {key: plain_copy(value, key) for key, value in checkpoint.items() if key not in MODEL_KEYS}
    content = {**others, "model": half_copy(network).requires_grad_(False), **dict.fromkeys(STRIPPED_KEYS)}
    content["epoch"] = FINISHED_EPOCH
    save_checkpoint(s or f, content, record=False)
    size = Path(s or f).stat().st_size / 1e6
    LOGGER.info(f"Optimizer stripped from {f}{f', saved as {s}' if s else ''}, {size:.1f}MB")


def tidy_weights(folder: str | Path) -> None:
    """Leave in a finished run's weights folder what YOLOv5 leaves there: no .prev, no records, no temporary files."""
    folder = Path(folder)
    for previous in folder.glob(f"*.pt{records.PREVIOUS_SUFFIX}"):
        previous.unlink(missing_ok=True)
    records.drop_all(folder)
    sweep_leftovers(folder)
