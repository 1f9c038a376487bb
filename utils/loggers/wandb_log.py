"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.loggers.service import Service, Start

PACKAGE = "wandb"
HOSTS = ("api.wandb.ai",)


def is_configured() -> bool:
    """Tell whether the user has set Weights & Biases up: a key, a mode, or a login."""
    if is_off():
        return False
    return bool(os.environ.get("WANDB_MODE")) or _has_key()


def is_off() -> bool:
    """Tell whether the user has switched it off."""
    switched_off = os.environ.get("WANDB_DISABLED", "").lower() in {"1", "true", "yes"}
    return switched_off or os.environ.get("WANDB_MODE", "").lower() in {"disabled", "dryrun-disabled"}


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "").partition("://")[2].strip("/")
    import netrc

    for name in (os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc"):
        try:
            hosts = netrc.netrc(os.path.expanduser(name)).hosts if name else {}
        except (OSError, netrc.NetrcParseError):
            continue
        if any(known in hosts for known in (*HOSTS, host) if known):
            return True
    return False


def open_service(start: Start) -> Service:
    """Begin or go on with a run; without a key and a mode it is recorded offline in the run's folder."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports of crashes to the makers
    import wandb

    mode = None if os.environ.get("WANDB_MODE") or _has_key() else "offline"
    run = wandb.init(
        project=start.project, entity=start.entity, name=start.name, id=start.identity, job_type="Training",
        resume="allow" if start.identity else None, dir=str(start.folder), mode=mode,
        config={**start.options, "hyp": dict(start.hyp)},
    )  # fmt: skip
    return Wandb(run)


class Wandb(Service):
    """A run of Weights & Biases."""

    name = "wandb"

    def __init__(self, run: Any):
        self.run = run
        self.identity = run.id

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Put settings into the run's config."""
        self.run.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Log by name; the step is the epoch."""
        self.run.log(dict(values), step=epoch)

    def pictures(self, group: str, files: Mapping[str, Path], epoch: int) -> None:
        """Log as a list of images named after the group."""
        import wandb

        self.run.log({group: [wandb.Image(str(path), caption=title) for title, path in files.items()]}, step=epoch)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], epoch: int) -> None:
        """Log as a table."""
        import wandb

        data = [["" if value is None else str(value) for value in row] for row in rows]
        self.run.log({title: wandb.Table(columns=list(columns), data=data)}, step=epoch)

    def confusion(self, matrix: np.ndarray, names: Sequence[str], epoch: int) -> None:
        """Log as a table with a row for each pair that occurs."""
        pairs = [(names[i], names[j], int(matrix[i, j])) for i, j in np.argwhere(matrix > 0).tolist()]
        self.table("confusion_matrix", ("predicted", "true", "count"), pairs, epoch)

    def checkpoint(self, path: Path, aliases: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Upload as a version of the artifact run_<id>_model."""
        import wandb

        artifact = wandb.Artifact(f"run_{self.run.id}_model", type="model", metadata=dict(facts))
        artifact.add_file(str(path), name=path.name)
        self.run.log_artifact(artifact, aliases=list(aliases))

    def detections(
        self, image: np.ndarray, boxes: np.ndarray, names: Mapping[int, str], title: str, epoch: int
    ) -> None:
        """Log an image whose boxes can be switched on and off by class."""
        import wandb

        data = [
            {
                "position": {"minX": x1, "minY": y1, "maxX": x2, "maxY": y2}, "domain": "pixel", "class_id": int(cls),
                "box_caption": f"{names[int(cls)]} {conf:.3f}", "scores": {"class_score": conf},
            }
            for x1, y1, x2, y2, conf, cls in boxes.tolist()
        ]  # fmt: skip
        drawn = {"predictions": {"box_data": data, "class_labels": dict(names)}}
        self.run.log({f"Bounding Box Debugger/{title}": wandb.Image(image, boxes=drawn, caption=title)}, step=epoch)

    def data_set(self, files: Mapping[str, Path]) -> bool:
        """Upload the files as the artifact "dataset"."""
        import wandb

        artifact = wandb.Artifact("dataset", type="dataset")
        for name, path in files.items():
            artifact.add_file(str(path), name=name, policy="immutable")
        self.run.log_artifact(artifact)
        return True

    def summary(self, values: Mapping[str, float]) -> None:
        """Put the values into the run's summary."""
        self.run.summary.update(dict(values))

    def close(self, failed: bool) -> None:
        """Finish the run."""
        self.run.finish(exit_code=int(failed))
