"""MLflow, with the package mlflow or mlflow-skinny."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.loggers.csv_log import quoted_row
from utils.loggers.service import Service, Start

PACKAGE = "mlflow"
LONGEST_VALUE = 500  # characters of a parameter
MOST_AT_ONCE = 100  # parameters of a call


def is_configured() -> bool:
    """Tell whether the user has set MLflow up: the address or folder of its store."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def is_off() -> bool:
    """Return False: MLflow knows no switch."""
    return False


def open_service(start: Start) -> Service:
    """Begin or go on with a run; without a store named, in the folder mlruns beside the runs."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    local = "MLFLOW_TRACKING_URI" not in os.environ
    if local:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    store = (start.folder.parent / "mlruns").resolve().as_uri() if local else os.environ["MLFLOW_TRACKING_URI"]
    client = MlflowClient(tracking_uri=store)
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME") or start.project
    if start.identity:
        client.update_run(start.identity, status="RUNNING")
        return MLflow(client, start.identity)
    experiment = client.get_experiment_by_name(title)
    number = experiment.experiment_id if experiment else client.create_experiment(title)
    run = client.create_run(number, run_name=start.name or start.folder.name)
    service = MLflow(client, run.info.run_id)
    service.parameters({**{f"opt/{key}": value for key, value in start.options.items()}, **start.hyp})
    return service


class MLflow(Service):
    """A run of MLflow."""

    name = "mlflow"

    def __init__(self, client: Any, identity: str):
        self.run = client
        self.identity = identity

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log as parameters, cut to the length that MLflow takes."""
        from mlflow.entities import Param

        known = self.run.get_run(self.identity).data.params  # a parameter cannot be changed
        new = [Param(key, str(value)[:LONGEST_VALUE]) for key, value in values.items() if key not in known]
        for first in range(0, len(new), MOST_AT_ONCE):
            self.run.log_batch(self.identity, params=new[first : first + MOST_AT_ONCE])

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Log as metrics; a colon, which MLflow does not take on Windows, becomes a dash there."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_allowed(name), value, now, epoch) for name, value in values.items()]
        for first in range(0, len(metrics), MOST_AT_ONCE):
            self.run.log_batch(self.identity, metrics=metrics[first : first + MOST_AT_ONCE])

    def pictures(self, group: str, files: Mapping[str, Path], epoch: int) -> None:
        """Log the files in a folder named after the group."""
        for path in files.values():
            self.run.log_artifact(self.identity, str(path), group)

    def text(self, title: str, text: str) -> None:
        """Log as a text file."""
        self.run.log_text(self.identity, text, f"{title}.txt")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], epoch: int) -> None:
        """Log as a CSV file."""
        lines = [quoted_row(columns), *map(quoted_row, rows)]
        self.run.log_text(self.identity, "\n".join(lines) + "\n", f"{title}.csv")

    def confusion(self, matrix: np.ndarray, names: Sequence[str], epoch: int) -> None:
        """Log as a JSON file: names, and counts predicted by true."""
        facts = {"names": list(names), "predicted_by_true": matrix.astype(int).tolist()}
        self.run.log_dict(self.identity, facts, "confusion_matrix.json")

    def checkpoint(self, path: Path, aliases: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Log the file in the folder weights."""
        self.run.log_artifact(self.identity, str(path), "weights")

    def summary(self, values: Mapping[str, float]) -> None:
        """Log as tags."""
        for name, value in values.items():
            self.run.set_tag(self.identity, _allowed(name), value)

    def close(self, failed: bool) -> None:
        """Set the run's status."""
        self.run.set_terminated(self.identity, "FAILED" if failed else "FINISHED")


def _allowed(name: str) -> str:
    allowed = "_-. /" if os.name == "nt" else "_-. /:"
    return "".join(c if c.isalnum() or c in allowed else "-" for c in name)
