"""TorchScript: the network traced, with its facts as JSON in the extra file config.txt."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, ClassVar

from utils.exporting.base import Exporter, ExportOptions, Job

CONFIG = "config.txt"


class TorchScriptExporter(Exporter):
    """Writes .torchscript files; with --optimize for phones."""

    takes: ClassVar = frozenset({"half", "dynamic", "optimize"})

    def problems(self, options: ExportOptions) -> list[str]:
        """--optimize packs weights for the CPU's XNNPACK."""
        import torch

        if options.optimize and options.device.lower() not in {"", "cpu"}:
            return [f"--optimize with --device {options.device}: allowed is --device cpu"]
        if options.optimize and options.half:
            return ["--optimize with --half: allowed is one of them"]
        if options.optimize and not torch._C._is_xnnpack_enabled():
            return [f"--optimize needs XNNPACK, which this build of PyTorch ({torch.__version__}) lacks"]
        return []

    def write(self, job: Job, target: Path) -> Any:
        """Trace the network and save it."""
        import torch

        model, im = job.in_precision(job.options.half)
        facts = {"shape": list(im.shape), **job.metadata()}
        extra = {CONFIG: json.dumps(facts)}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of each shape that it takes as fixed
            traced = torch.jit.trace(model, im, strict=False, check_trace=False)
            if job.options.optimize:
                from torch.utils.mobile_optimizer import optimize_for_mobile

                optimize_for_mobile(traced)._save_for_lite_interpreter(str(target), _extra_files=extra)
            else:
                traced.save(str(target), _extra_files=extra)
