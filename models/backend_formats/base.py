"""The interface of what runs a model file, and the reading of what such files tell about themselves."""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from utils.errors import InputError, MissingFileError


@dataclass(frozen=True)
class Request:
    """What DetectMultiBackend was asked for.

    Attributes:
        device: where to run.
        fp16: half precision is wanted.
        dnn: OpenCV's DNN module is to run ONNX files.
        fuse: merge batch norms (checkpoints).
    """

    device: torch.device
    fp16: bool = False
    dnn: bool = False
    fuse: bool = True


class Backend(ABC):
    """A loaded model file. Subclasses set ``packages`` and ``folder`` and write ``load`` and ``run``.

    Attributes:
        packages: what running needs, import name -> name to install.
        folder: whether the format is a folder.
        gpu: whether it runs on CUDA; where not, the images are taken to the CPU and the device is the CPU.
        facts: what the file tells: names, stride, task, batch, imgsz, dynamic, nms and more, as far as it does.
        shape: (b, 3, h, w) where the file takes images of that shape alone; 0 stands for any number.
        model: the format's own object, which becomes DetectMultiBackend.model.
        half_inputs: images are to come in float16; others take float32 and convert on their own.
    """

    packages: ClassVar[Mapping[str, str]] = {}
    folder: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    def __init__(self, files: Sequence[str | Path], request: Request):
        self.files, self.path, self.request = list(files), Path(files[0]), request
        self.half_inputs = False
        self.device = request.device if self.gpu else torch.device("cpu")
        self.facts: dict[str, Any] = {}
        self.shape: tuple[int, int, int, int] = (0, 3, 0, 0)
        self.model: Any = None
        self._require()
        self.load()

    @abstractmethod
    def load(self) -> None:
        """Load ``path`` and set ``model``, ``facts`` and ``shape``.

        Raises:
            InputError: the file cannot be read; names it and what is wrong.
        """

    @abstractmethod
    def run(self, im: Tensor) -> Any:
        """Map float32 or float16 images (b, 3, h, w) in 0-1 on ``device`` to an output or several, tensors or arrays.

        The batch and size are those of ``shape`` where it has numbers. Outputs come in the order of the exported
        model, boxes in pixels.
        """

    def _require(self) -> None:
        """Refuse several files, a missing file and a missing package in one line."""
        if len(self.files) > 1:
            raise InputError(f"weights {self.path}: an ensemble is made of checkpoints; allowed are .pt files")
        found = self.path.is_dir() if self.folder else self.path.is_file()
        if not found:
            raise MissingFileError(f"weights {self.path}: no such {'folder' if self.folder else 'file'}")
        self.require_packages(self.packages)

    def require_packages(self, packages: Mapping[str, str]) -> None:
        """Refuse in one line when a package is missing: import name -> name to install."""
        absent = [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
        if absent:
            raise InputError(
                f"weights {self.path}: running it needs {' '.join(absent)}: pip install {' '.join(absent)}"
            )

    def only_file(self, pattern: str) -> Path:
        """Return the one file of the folder that a pattern finds, which lies in it and is no link out of it.

        Raises:
            InputError: none, several, or one elsewhere.
        """
        found = sorted(self.path.glob(pattern))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise InputError(f"weights {self.path}: {names} found, expected one {pattern} file")
        return inside(found[0], self.path)


class Unavailable(Backend):
    """A format that this version knows by name and cannot run."""

    reason: ClassVar[str] = "this format is not available in this version"

    def _require(self) -> None:
        raise InputError(f"weights {self.path}: {self.reason}")


def inside(file: Path, folder: Path) -> Path:
    """Return a file that lies in a folder, links followed.

    Raises:
        InputError: it is missing or lies elsewhere.
    """
    if not file.is_file():
        raise MissingFileError(f"weights {folder}: no file {file.name} in it")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"weights {file}: leads out of its folder to {file.resolve()}; allowed are files in it")
    return file


def facts_from_text(values: Mapping[str, str], source: Path) -> dict[str, Any]:
    """Return the facts that a file keeps as text: numbers and mappings as JSON or as Python literals, else as they are.

    YOLOv5 writes names as Python's own text of a dict, this project as JSON; ast.literal_eval reads data alone.

    Raises:
        InputError: names or stride cannot be read.
    """
    import ast

    facts: dict[str, Any] = {}
    for key, text in values.items():
        for read in (json.loads, ast.literal_eval):
            try:
                facts[key] = read(text)
                break
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        else:
            facts[key] = text
    if not isinstance(facts.get("names", {}), (dict, list)):
        raise InputError(f"weights {source}: its names are {str(facts['names'])[:60]!r}, expected a list or mapping")
    return facts


def as_outputs(y: Any) -> list[Any]:
    """Return an output or several as a list."""
    if isinstance(y, Mapping):
        return list(y.values())
    return list(y) if isinstance(y, Sequence) and not isinstance(y, str) else [y]


def require_finite(model: nn.Module | Mapping[str, Tensor], files: Sequence[str | Path]) -> None:
    """Refuse a network or its state with NaN or infinity: they detect nothing, or boxes that are no numbers."""
    tensors = model.state_dict() if isinstance(model, nn.Module) else model
    state = {name: value for name, value in tensors.items() if value.is_floating_point()}
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
        raise InputError(
            f"weights {' '.join(map(str, files))}: {len(wrong)} of {len(state)} tensors hold NaN or infinity as "
            f"{dtype}, the first is {wrong[0]}; allowed are finite numbers"
        )
