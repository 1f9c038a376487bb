"""ClearML."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.loggers.service import Service, Start

PACKAGE = "clearml"
_OFFLINE, _CACHE = "CLEARML_OFFLINE_MODE", "CLEARML_CACHE_DIR"
_caches: dict[str, str] = {}  # "own": what this module set the variable to


def is_configured() -> bool:
    """Tell whether the user has set ClearML up: its configuration file, keys, or its offline mode."""
    if is_off():
        return False
    return os.environ.get(_OFFLINE, "").lower() in {"1", "true"} or _has_key()


def is_off() -> bool:
    """Return False: ClearML knows no switch."""
    return False


def _has_key() -> bool:
    named = os.environ.get("CLEARML_CONFIG_FILE") or os.environ.get("TRAINS_CONFIG_FILE")
    file = Path(named or "~/clearml.conf").expanduser()
    keys = ("CLEARML_API_ACCESS_KEY", "CLEARML_API_SECRET_KEY")
    return file.is_file() or all(os.environ.get(key) for key in keys)


def open_service(start: Start) -> Service:
    """Begin or go on with a task; without a server configured it is recorded offline."""
    offline = not _has_key() or os.environ.get(_OFFLINE, "").lower() in {"1", "true"}
    if offline and os.environ.get(_CACHE) in {None, _caches.get("own")}:
        _caches["own"] = os.environ[_CACHE] = str(start.folder / "clearml")
    from clearml import Task
    from clearml.utilities.check_updates import CheckPackageUpdates

    CheckPackageUpdates._package_version_checked = True  # so that nobody asks for newer versions
    # Reports go by a thread: a fork beside ClearML's own search for a repository can stop both for ever, and a process
    # that uses CUDA must not be forked.
    Task._report_subprocess_enabled = False
    Task.set_offline(offline)
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    task = Task.init(
        project_name=start.project, task_name=start.name or "Training", tags=["YOLOv5"], output_uri=True,
        reuse_last_task_id=False, continue_last_task=False if offline else start.identity or False,
        auto_connect_arg_parser=False, auto_connect_frameworks=False, auto_resource_monitoring=False,
        auto_connect_streams=False,
    )  # fmt: skip
    if threading.current_thread() is threading.main_thread():  # ClearML handles signals itself, which would end a run
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
    service = ClearML(task)
    service.parameters({"options": dict(start.options), "hyp": dict(start.hyp)})
    return service


class ClearML(Service):
    """A task of ClearML."""

    name = "clearml"

    def __init__(self, task: Any):
        self.run = task
        self.identity = task.id
        self.log = task.get_logger()
        self.is_offline = task.is_offline()

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Connect the settings to the task, a section for each mapping."""
        loose = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
        for title, part in {**{k: v for k, v in values.items() if k not in loose}, "General": loose}.items():
            if part:
                self.run.connect({str(key): _plain(value) for key, value in part.items()}, name=title)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Report each as title/series, split at the first slash."""
        for name, value in values.items():
            title, _, series = name.partition("/")
            self.log.report_scalar(title, series or title, value, epoch)

    def pictures(self, group: str, files: Mapping[str, Path], epoch: int) -> None:
        """Report as debug samples of the group."""
        for title, path in files.items():
            self.log.report_image(group, title, epoch, local_path=str(path))

    def text(self, title: str, text: str) -> None:
        """Report as a line of the console."""
        self.log.report_text(f"{title}\n{text}", print_console=False)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], epoch: int) -> None:
        """Report as a table."""
        data = [list(columns), *(["" if value is None else str(value) for value in row] for row in rows)]
        self.log.report_table(title, title, epoch, table_plot=data)

    def confusion(self, matrix: np.ndarray, names: Sequence[str], epoch: int) -> None:
        """Report as a confusion matrix."""
        self.log.report_confusion_matrix(
            "confusion_matrix", "best", matrix, epoch, xaxis="True", yaxis="Predicted", xlabels=list(names),
            ylabels=list(names),
        )  # fmt: skip

    def checkpoint(self, path: Path, aliases: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Register as an output model: the best or the latest one."""
        title = "Best Model" if "stripped" in aliases else "Latest Model"
        if self.is_offline:  # models are registered by a server
            self.run.upload_artifact(title, str(path), metadata=dict(facts))
            return
        self.run.update_output_model(model_path=str(path), model_name=title, auto_delete_file=False)

    def summary(self, values: Mapping[str, float]) -> None:
        """Report single values."""
        for name, value in values.items():
            self.log.report_single_value(name, value)

    def close(self, failed: bool) -> None:
        """Close the task."""
        if failed and not self.is_offline:
            self.run.mark_failed(ignore_errors=True)
        self.run.close()


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) or value is None else str(value)
