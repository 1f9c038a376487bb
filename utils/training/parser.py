"""The options of the training commands, with upstream's names, defaults and types."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def training_parser(  # noqa: PLR0915  (an option a line)
    description: str, weights: Path, data: Path, project: Path, without: Collection[str] = ()
) -> argparse.ArgumentParser:
    """Return the parser of a training command.

    Args:
        description: of the command.
        weights, data, project: defaults of these options.
        without: options that the command lacks.
    """
    parser = argparse.ArgumentParser(description=description)

    def add(*names: str, **settings: Any) -> None:
        if names[0] not in without:
            parser.add_argument(*names, **settings)

    add("--weights", type=str, default=weights, help="initial weights (.pt); '' trains from scratch")
    add("--cfg", type=str, default="", help="model YAML, such as yolov5n.yaml")
    add("--data", type=str, default=data, help="data set YAML")
    add(
        "--hyp",
        type=str,
        default=ROOT / "data/hyps/hyp.scratch-low.yaml",
        help="hyperparameter YAML, with the remedies against class errors: docs/class-balance.md",
    )
    add("--epochs", type=int, default=100, help="number of epochs")
    add("--batch-size", type=int, default=16, help="images per step over all processes; -1 fits it to the GPU's memory")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="training and validation image size in pixels")
    add("--rect", action="store_true", help="rectangular batches, sorted by aspect ratio")
    add(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        help="go on with an interrupted run: its last.pt, or the latest",
    )
    add("--nosave", action="store_true", help="save the final epoch only")
    add("--noval", action="store_true", help="validate after the final epoch only")
    add("--noautoanchor", action="store_true", help="keep the model's anchors without a check")
    add("--noplots", action="store_true", help="write no pictures")
    add(
        "--evolve",
        type=int,
        nargs="?",
        const=300,
        help="search for better hyperparameters for this many generations",
    )
    add(
        "--evolve_population",
        type=str,
        default=ROOT / "data/hyps",
        help="with --evolve: folder of hyp files that are tried after the start",
    )
    add("--resume_evolve", type=str, default=None, help="with --evolve: folder of the evolution to go on with")
    add("--bucket", type=str, default="", help="storage bucket (no effect: all files stay in the run's folder)")
    add("--cache", type=str, nargs="?", const="ram", help="keep decoded images in: ram (default) or disk")
    add("--image-weights", action="store_true", help="draw images of rare and badly found classes more often")
    add("--device", default="", help="CUDA device, such as 0 or 0,1,2,3, or cpu")
    add("--multi-scale", action="store_true", help="vary the image size by +/- 50 %% from step to step")
    add("--single-cls", action="store_true", help="train all classes as one")
    add("--optimizer", type=str, choices=["SGD", "Adam", "AdamW"], default="SGD", help="optimizer")
    add("--sync-bn", action="store_true", help="batch norm over all processes (CUDA, torchrun)")
    add("--workers", type=int, default=8, help="loader processes per training process")
    add("--project", default=project, help="folder of the runs")
    add("--name", default="exp", help="name of the run's folder; cfg names it after the model YAML")
    add("--exist-ok", action="store_true", help="use an existing run folder instead of a new number")
    add("--quad", action="store_true", help="quad loader: four images in one of double size")
    add("--cos-lr", action="store_true", help="cosine learning rate instead of linear")
    add(
        "--label-smoothing",
        type=float,
        default=0.0,
        help="label smoothing epsilon; 0 leaves the hyp file's",
    )
    add("--patience", type=int, default=100, help="epochs without improvement before stopping; 0 never stops")
    add("--freeze", nargs="+", type=int, default=[0], help="layers to freeze: 10 the first ten, 0 1 2 those three")
    add("--save-period", type=int, default=-1, help="also keep every Nth epoch's checkpoint")
    add("--save-steps", type=int, default=0, help="also write last.pt after every N batches; 0 after epochs alone")
    add("--compile", action="store_true", help="run network and loss through torch.compile; without where that fails")
    add("--augment-on-device", action="store_true", help="change colours and flip on the GPU, to relieve the loader")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--local_rank", type=int, default=-1, help="set by old launchers; torchrun needs it not")
    add("--entity", default=None, help="account that a run in Weights & Biases belongs to")
    add(
        "--upload_dataset",
        nargs="?",
        const=True,
        default=False,
        help="upload the data set to W&B; val: that part",
    )
    add("--diagnose", action="store_true", help="at the end, also write which class errors there are, and what to try")
    add("--bbox_interval", type=int, default=-1, help="log validation pictures with boxes every N epochs")
    add("--artifact_alias", type=str, default="latest", help="for command lines up to v7.0, has no effect")
    return parser
