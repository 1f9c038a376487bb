"""The command ``python -m utils.data.converters``: convert a built-in data set that was fetched by hand."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils.data.converters.stock import STOCK, own_yaml
from utils.errors import run_command
from utils.logs import setup_logging


def parse_opt(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.data.converters",
        description="Turn a data set's own archives and annotations into YOLO labels. What is there is left alone.",
        epilog="docs/datasets.md lists the archives of each set and where they are.",
    )
    parser.add_argument("name", choices=sorted(STOCK), metavar="NAME", help=", ".join(sorted(STOCK)))
    parser.add_argument("--root", type=Path, help="the set's folder with its archives or what they hold; "
                        "default: its usual folder in the datasets folder")  # fmt: skip
    parser.add_argument("--data", default="", help="data YAML with the class names; default: data/NAME.yaml")
    parser.add_argument("--download", action="store_true", help="fetch archives that are missing")
    return parser.parse_args(arguments)


def main(opt: argparse.Namespace) -> None:
    """Convert the set; raises as ``utils.data.converters.obtain.prepare``."""
    from utils.data.converters.obtain import prepare
    from utils.dataset_yaml import read_names
    from utils.paths import datasets_dir

    names = read_names(opt.data or own_yaml(opt.name))
    root = opt.root or datasets_dir() / STOCK[opt.name].folder
    prepare(opt.name, root, names, fetch=opt.download)


if __name__ == "__main__":
    setup_logging()
    run_command(lambda: main(parse_opt()))
