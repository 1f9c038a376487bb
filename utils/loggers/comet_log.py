"""Comet."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.loggers.service import Service, Start

PACKAGE = "comet_ml"
QUIET = {
    "auto_metric_logging": False, "auto_param_logging": False, "auto_output_logging": False, "log_code": False,
    "log_graph": False, "parse_args": False, "log_git_metadata": False, "log_git_patch": False,
    "auto_histogram_weight_logging": False, "auto_histogram_gradient_logging": False,
    "auto_histogram_activation_logging": False, "display_summary_level": 0,
}  # fmt: skip


def is_configured() -> bool:
    """Tell whether the user has set Comet up: a key, a configuration file, or its offline mode."""
    return not is_off() and (os.environ.get("COMET_MODE", "").lower() in {"online", "offline"} or _has_key())


def is_off() -> bool:
    """Tell whether the user has switched it off."""
    return os.environ.get("COMET_MODE", "").lower() == "disabled"


def _has_key() -> bool:
    if os.environ.get("COMET_API_KEY"):
        return True
    file = Path(os.environ.get("COMET_CONFIG") or "~/.comet.config").expanduser()
    try:
        return "api_key" in file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def open_service(start: Start) -> Service:
    """Begin or go on with an experiment; without a key it is recorded in the run's folder."""
    os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")
    os.environ.setdefault("COMET_ERROR_TRACKING_ENABLE", "false")  # reports of crashes to the makers
    import comet_ml

    online = _has_key() and os.environ.get("COMET_MODE", "").lower() != "offline"
    shared = {"project_name": os.environ.get("COMET_PROJECT_NAME") or start.project, **QUIET, "log_env_details": online}
    if start.entity:
        shared["workspace"] = start.entity
    if start.identity:
        shared["previous_experiment"] = start.identity
    if online:
        run = (comet_ml.ExistingExperiment if start.identity else comet_ml.Experiment)(**shared)
    else:
        kind = comet_ml.ExistingOfflineExperiment if start.identity else comet_ml.OfflineExperiment
        run = kind(offline_directory=str(start.folder / "comet"), **shared)
    if start.name:
        run.set_name(start.name)
    service = Comet(run)
    run.log_parameters({key: str(value) for key, value in start.options.items()})
    service.parameters(start.hyp)
    return service


class Comet(Service):
    """An experiment of Comet."""

    name = "comet"

    def __init__(self, run: Any):
        self.run = run
        self.identity = run.get_key()

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log as parameters."""
        self.run.log_parameters(dict(values))

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Log as metrics."""
        self.run.log_metrics(dict(values), epoch=epoch, step=epoch)

    def pictures(self, group: str, files: Mapping[str, Path], epoch: int) -> None:
        """Log by title."""
        for title, path in files.items():
            self.run.log_image(str(path), name=title, step=epoch, metadata={"group": group})

    def text(self, title: str, text: str) -> None:
        """Log as a text."""
        self.run.log_text(text, metadata={"title": title})

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], epoch: int) -> None:
        """Log as a CSV asset."""
        data = [["" if value is None else value for value in row] for row in rows]
        self.run.log_table(f"{title}.csv", tabular_data=data, headers=list(columns))

    def confusion(self, matrix: np.ndarray, names: Sequence[str], epoch: int) -> None:
        """Log as a confusion matrix."""
        self.run.log_confusion_matrix(
            matrix=matrix.astype(int).tolist(), labels=list(names), row_label="Predicted", column_label="True",
            epoch=epoch, max_categories=len(names),
        )  # fmt: skip

    def checkpoint(self, path: Path, aliases: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Log as the model YOLOv5."""
        self.run.log_model("YOLOv5", str(path), file_name=path.name, overwrite=True, metadata=dict(facts))

    def summary(self, values: Mapping[str, float]) -> None:
        """Log as single values."""
        for name, value in values.items():
            self.run.log_other(name, value)

    def close(self, failed: bool) -> None:
        """End the experiment."""
        self.run.log_other("status", "failed" if failed else "finished")
        self.run.end()
