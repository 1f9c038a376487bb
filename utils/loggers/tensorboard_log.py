"""TensorBoard events of a run."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import nn

from utils.checkpoints.model_copy import unwrapped
from utils.errors import WorkError
from utils.logs import LOGGER

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS = "events.out.tfevents."  # SECOND.HOST.PROCESS.NUMBER follows


def open_writer(save_dir: str | Path, first_epoch: int = 0) -> SummaryWriter | None:
    """Open a writer on the run's folder; events of ``first_epoch`` and later that are there become void.

    Returns:
        None, said in one line, where the tensorboard package is missing.

    Raises:
        WorkError: the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        LOGGER.warning("TensorBoard events are not written: %s (pip install tensorboard)", error)
        return None
    folder = Path(save_dir)
    earlier = list(folder.glob(f"{EVENTS}*"))
    purge = first_epoch if earlier else None
    try:
        _wait_for_a_later_name(earlier)
        return SummaryWriter(str(folder), purge_step=purge)
    except OSError as error:
        raise WorkError(f"{folder}: TensorBoard events cannot be written ({error.strerror})") from error


def _wait_for_a_later_name(earlier: Sequence[Path]) -> None:
    """Wait for the end of the second that the last file is named after: files are read in the order of their names."""
    seconds = [path.name[len(EVENTS) :].partition(".")[0] for path in earlier]
    latest = max((int(second) for second in seconds if second.isdecimal()), default=0)
    time.sleep(min(max(latest + 1 - time.time(), 0), 1))


class TensorBoardLog:
    """Write a run's scalars, pictures, texts and graph; without a writer every call does nothing.

    Args:
        writer: from ``open_writer``.
        folder: named in errors.
    """

    def __init__(self, writer: SummaryWriter | None, folder: str | Path):
        self.writer = writer
        self.folder = Path(folder)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write finite values by their tags."""
        for tag, value in values.items():
            if np.isfinite(value):
                self._write("add_scalar", tag, float(value), step)

    def layout(self, group: str, charts: Mapping[str, str]) -> None:
        """Lay out charts with several curves each (the page "Custom scalars").

        Args:
            group: the charts' heading.
            charts: title -> regular expression of the tags whose scalars the chart shows.
        """
        multiline = {title: ["Multiline", [pattern]] for title, pattern in charts.items()}
        self._write("add_custom_scalars", {group: multiline})

    def picture(self, tag: str, path: str | Path, step: int) -> None:
        """Write an image file; one that cannot be read is named in the log."""
        if self.writer is None:
            return
        path = Path(path)
        data = np.fromfile(path, np.uint8) if path.is_file() else np.zeros(0, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        if image is None:
            LOGGER.warning("%s: no readable picture, it is left out of TensorBoard", path)
            return
        self._write("add_image", tag, image[..., ::-1].copy(), step, dataformats="HWC")

    def pixels(self, tag: str, image: np.ndarray, step: int) -> None:
        """Write an image (h, w, 3) BGR uint8."""
        self._write("add_image", tag, image[..., ::-1].copy(), step, dataformats="HWC")

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Write a text (Markdown)."""
        self._write("add_text", tag, text, step)

    def graph(self, model: nn.Module, imgsz: Sequence[int]) -> None:
        """Write the model's traced graph; a model that cannot be traced is said in one line."""
        if self.writer is None:
            return
        try:
            traced = trace_copy(model, imgsz)
        except Exception as error:  # noqa: BLE001 (tracing raises whatever the model does)
            LOGGER.warning("TensorBoard graph left out: %s", str(error).strip().partition("\n")[0])
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the writer traces again, which returns what it is given
            self._write("add_graph", traced, [])

    def flush(self) -> None:
        """Write out what waits in memory, so that it survives the process."""
        self._write("flush")

    def close(self) -> None:
        """Write out what waits and close the file."""
        if self.writer is not None:
            self._write("flush")
            self._write("close")
            self.writer = None

    def _write(self, method: str, *args: Any, **kwargs: Any) -> None:
        if self.writer is None:
            return
        try:
            getattr(self.writer, method)(*args, **kwargs)
        except OSError as error:
            raise WorkError(f"{self.folder}: TensorBoard events cannot be written ({error.strerror})") from error


def trace_copy(model: nn.Module, imgsz: Sequence[int]) -> torch.jit.ScriptModule:
    """Trace a copy of the model in evaluation mode on zeros; the model and the random numbers stay as they are.

    Args:
        model: any detection model, wrapped or not.
        imgsz: (height, width) of the input.
    """
    twin = copy.deepcopy(unwrapped(model)).float().eval().requires_grad_(False)
    parameter = next(twin.parameters())
    zeros = torch.zeros(1, 3, *imgsz, device=parameter.device)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # shapes that the trace takes as constants
        return torch.jit.trace(twin, zeros, strict=False, check_trace=False)


def markdown_table(values: Mapping[str, object]) -> str:
    """Return a two-column Markdown table."""
    return "\n".join(["| key | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in values.items())])
