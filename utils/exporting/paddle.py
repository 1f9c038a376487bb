"""PaddlePaddle: a folder with the program (.json), its weights (.pdiparams) and its facts (.yaml).

The program is the network's twin, built with PaddlePaddle's own operations; X2Paddle, which YOLOv5 calls, stopped
before PaddlePaddle 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from utils.exporting.base import Exporter, ExportOptions, Job

TENSORFLOW = ("saved_model", "pb", "tflite", "edgetpu", "tfjs")  # formats that TensorFlow writes


class PaddleExporter(Exporter):
    """Writes PaddlePaddle folders."""

    packages: ClassVar = {"paddle": "paddlepaddle"}
    takes: ClassVar = frozenset({"dynamic"})

    def problems(self, options: ExportOptions) -> list[str]:
        """TensorFlow and PaddlePaddle do not go into one process."""
        others = [name for name in options.include if name in TENSORFLOW]
        if others:
            return [f"--include paddle with {' '.join(others)}: TensorFlow and PaddlePaddle need a run each"]
        return []

    def write(self, job: Job, target: Path) -> Any:
        """Write the folder."""
        from models.paddle_twin import write_twin
        from utils.yaml_files import write_yaml

        target.mkdir()
        batch = None if job.options.dynamic else job.options.batch_size
        write_twin(job.network, job.options.imgsz, batch, target / "model")
        write_yaml(target / f"{job.file.stem}.yaml", job.metadata())
