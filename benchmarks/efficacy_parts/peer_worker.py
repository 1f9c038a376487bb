"""Trains Ultralytics' yolov5nu and writes its predictions; runs in an environment of its own, without this project.

    PYTHON peer_worker.py JOB.json

efficacy_parts/peer.py writes the job and starts this.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ultralytics import YOLO, settings

NETWORK, HEAD = "yolov5n.yaml", "model.24."  # Ultralytics' name of yolov5nu's layers, and the head among them
SERVICES = ("clearml", "comet", "dvc", "hub", "mlflow", "neptune", "raytune", "tensorboard", "wandb")


def beginning(state: dict[str, torch.Tensor]) -> Any:
    """Return the network with backbone and neck as given; its head, which is of another kind, is random.

    Raises:
        SystemExit: a tensor before the head does not fit.
    """
    model = YOLO(NETWORK)
    own = model.model.state_dict()
    body = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    wanted = {name: value.shape for name, value in own.items() if not name.startswith(HEAD)}
    if {name: value.shape for name, value in body.items()} != wanted:
        sys.exit(f"the weights are not those of {NETWORK} before its head; expected is a yolov5n.pt")
    model.model.load_state_dict(body, strict=False)
    return model


def main() -> None:
    """Train and predict as the job says."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    settings.update({name: False for name in SERVICES if name in settings})
    if job["device"] == "cpu":
        torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "begun.pt"
    with np.load(job["state"]) as arrays:
        beginning({name: torch.from_numpy(arrays[name]) for name in arrays.files}).save(begun)
    shared = {"data": job["data"], "imgsz": job["img"], "batch": job["batch"], "device": job["device"],
              "workers": job["workers"], "plots": False, "exist_ok": True, "verbose": False}  # fmt: skip
    YOLO(begun).train(
        **shared, **job["hyp"], epochs=job["epochs"], patience=0, seed=job["seed"], deterministic=True, cache="ram",
        val=False, project=str(folder.parent), name=folder.name,
    )  # fmt: skip
    YOLO(folder / "weights" / "last.pt").val(
        **shared, **job["inference"], split="val", save_txt=True, save_conf=True, project=str(folder.parent),
        name=f"{folder.name}-val",
    )  # fmt: skip


if __name__ == "__main__":
    main()
