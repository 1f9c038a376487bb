"""What the exporters share: the options of a run, the model as it is exported, and the interface of a format."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn

    from utils.exporting.verify import Tolerance


@dataclass(frozen=True)
class ExportOptions:
    """The options of export.py, by the names of its run().

    ``imgsz`` is (height, width), a multiple of the model's stride once a Job holds the options.
    """

    data: str | Path | dict[str, Any] = "data/coco128.yaml"
    imgsz: tuple[int, int] = (640, 640)
    batch_size: int = 1
    device: str = "cpu"
    include: tuple[str, ...] = ("torchscript", "onnx")
    half: bool = False
    inplace: bool = False
    keras: bool = False
    optimize: bool = False
    int8: bool = False
    per_tensor: bool = False
    dynamic: bool = False
    cache: str = ""
    simplify: bool = False
    mlmodel: bool = False
    opset: int = 17
    verbose: bool = False
    workspace: int = 4
    nms: bool = False
    agnostic_nms: bool = False
    topk_per_class: int = 100
    topk_all: int = 100
    iou_thres: float = 0.45
    conf_thres: float = 0.25
    multi_label: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """What a file should tell about its model.

    Attributes:
        names: class names by number.
        stride: image sides are multiples of it.
        task: detect, segment or classify.
        masks: mask columns at the end of a row; 0 unless the task is segment.
    """

    names: Mapping[int, str]
    stride: int
    task: str
    masks: int = 0


@dataclass
class Job:
    """One model on its way to several formats.

    Attributes:
        model: in evaluation mode, fused, float32; maps ``im`` to a tuple of tensors: decoded predictions
            (b, n, 5 + nc + masks) in pixels, then prototypes for segmentation; (b, nc) logits for classification.
        network: the same without the wrapper that makes tuples, for formats that rebuild its layers.
        im: (b, 3, h, w) an image in 0-1, float32, on the model's device.
        expected: float32 outputs of the model for ``im``.
        file: the weights.
        options: as given, image size rounded.
        facts: what the file should tell.
        made: formats written so far in this run -> their file or folder.
    """

    model: nn.Module
    network: nn.Module
    im: Tensor
    expected: tuple[Tensor, ...]
    file: Path
    options: ExportOptions
    facts: ModelFacts
    made: dict[str, Path] = field(default_factory=dict)

    def in_precision(self, half: bool) -> tuple[nn.Module, Tensor]:
        """Return model and image as they are, or copies in float16."""
        if not half:
            return self.model, self.im
        model, im = copy.deepcopy(self.model).half(), self.im.half()
        model(im)  # a copy has no grids yet, and making them should not become part of the graph
        return model, im

    def metadata(self) -> dict[str, Any]:
        """Return what every format stores: plain numbers, text, lists and a mapping of names.

        ``nms`` says that the graph suppresses: rows are x1, y1, x2, y2, confidence, class, mask columns.
        """
        opt = self.options
        facts = {
            "description": f"YOLOv5 {self.facts.task} model {self.file.stem}",
            "task": self.facts.task,
            "stride": self.facts.stride,
            "names": dict(self.facts.names),
            "batch": opt.batch_size,
            "imgsz": list(opt.imgsz),
            "dynamic": opt.dynamic,
            "half": opt.half,
            "int8": opt.int8,
            "masks": self.facts.masks,
            "nms": opt.nms,
        }
        if opt.nms:
            facts |= {key: getattr(opt, key) for key in ("conf_thres", "iou_thres", "topk_per_class", "topk_all")}
            facts |= {"agnostic_nms": opt.agnostic_nms, "multi_label": opt.multi_label}
        return facts


class Exporter:
    """Writes one format. The table in utils/exporting/formats.py names the class; nothing else needs to know it.

    Attributes:
        packages: what the format needs, import name -> name to install.
        takes: options with an effect on it, of half, int8, dynamic, nms, optimize, keras, per_tensor, simplify,
            mlmodel, cache, verbose. Others that are given are reported as without effect.
    """

    packages: ClassVar[Mapping[str, str]] = {}
    takes: ClassVar[frozenset[str]] = frozenset()

    def missing(self) -> str | None:
        """Return in one line which package or platform this machine lacks, or None when the format can be written."""
        absent = [name for module, name in self.packages.items() if importlib.util.find_spec(module) is None]
        return f"needs the package {' and '.join(absent)}: pip install {' '.join(absent)}" if absent else None

    def problems(self, options: ExportOptions) -> list[str]:
        """Return what about the options does not suit the format, one line each; called before any work."""
        return []

    def check_model(self, job: Job) -> list[str]:
        """Return what about the model does not suit the format, one line each; called before any file is written."""
        return []

    def target_name(self, stem: str, suffix: str, options: ExportOptions) -> str:
        """Return the name of the file or folder to write, beside the weights.

        Args:
            stem: the weights' name without .pt.
            suffix: the format's, from the table.
            options: of this run.
        """
        return f"{stem}{suffix}"

    def write(self, job: Job, target: Path) -> Any:
        """Write the file or folder ``target``, which does not exist, and return the format's own model or None.

        The caller runs the result through DetectMultiBackend, compares it with ``job.expected``, and only then moves
        it to its name; an exception leaves nothing behind.

        Raises:
            WorkError: the model cannot be written in this format.
        """
        raise NotImplementedError

    def check(self, job: Job, path: Path) -> str:
        """Run what was written, compare it with PyTorch, and return the differences as text.

        Raises:
            WorkError: it cannot be run, or differs by more than ``tolerance`` allows.
        """
        from utils.exporting.verify import check_written

        return check_written(job, path, self.tolerance(job.options))

    def tolerance(self, options: ExportOptions) -> Tolerance:
        """Return how far outputs may be from PyTorch's in float32."""
        from utils.exporting.verify import TOLERANCES

        return TOLERANCES["int8" if options.int8 else "half" if options.half else "float"]


class Unavailable(Exporter):
    """A format that this version lists and cannot write yet."""

    reason: ClassVar[str] = "not available in this version"

    def missing(self) -> str | None:
        """Say so."""
        return super().missing() or self.reason
