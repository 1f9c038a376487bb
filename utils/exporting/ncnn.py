"""NCNN: a folder with the network (model.ncnn.param), its weights (model.ncnn.bin) and its facts (metadata.yaml).

pnnx converts a TorchScript file; it is a program of its own that its package brings along.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from utils.errors import WorkError
from utils.exporting.base import Exporter, ExportOptions, Job
from utils.exporting.fixed_head import traced_fixed

PARAM, BIN, FACTS = "model.ncnn.param", "model.ncnn.bin", "metadata.yaml"
SECONDS = 1800  # longer than the largest network takes on a slow machine


class NcnnExporter(Exporter):
    """Writes NCNN folders; with --half float16 weights."""

    packages: ClassVar = {"pnnx": "pnnx", "ncnn": "ncnn"}
    takes: ClassVar = frozenset({"half"})

    def problems(self, options: ExportOptions) -> list[str]:
        """NCNN takes images one by one."""
        if options.batch_size > 1:
            return [
                f"--include ncnn with --batch-size {options.batch_size}: allowed is 1; any number can be run one by one"
            ]
        return []

    def write(self, job: Job, target: Path) -> Any:
        """Trace the network with a fixed head, convert it, and keep the two files of NCNN."""
        from utils.yaml_files import write_yaml

        target.mkdir()
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            source = Path(folder) / "model.torchscript"
            traced_fixed(job).save(str(source))
            _convert(source, (1, *job.im.shape[1:]), job.options.half)
            for name in (PARAM, BIN):
                made = source.with_name(name)
                if not made.is_file():
                    raise WorkError(f"pnnx made no {name}: it cannot convert this model")
                made.replace(target / name)
        write_yaml(target / FACTS, job.metadata())


def _convert(source: Path, shape: tuple[int, ...], half: bool) -> None:
    """Run pnnx on a TorchScript file.

    Raises:
        WorkError: it failed.
    """
    import pnnx

    words = [str(pnnx.EXEC_PATH), source.name, f"inputshape=[{','.join(map(str, shape))}]", f"fp16={int(half)}"]
    try:
        done = subprocess.run(words, cwd=source.parent, capture_output=True, text=True, check=False, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkError(f"pnnx could not be run: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise WorkError(f"pnnx failed with status {done.returncode}: {last}")
