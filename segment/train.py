"""Train a YOLOv5 segmentation model: boxes and masks.

python segment/train.py --data coco128-seg.yaml --weights yolov5s-seg.pt --img 640
python segment/train.py --data data.yaml --weights '' --cfg yolov5n-seg.yaml --hyp hyp.focal.yaml
torchrun --nproc_per_node 4 segment/train.py --data coco.yaml --batch-size 128
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # run by path: the project's folder takes the place of segment/
elif str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from utils.errors import run_command  # noqa: E402
from utils.forwarding import forwarding, owner_function  # noqa: E402
from utils.logs import LOGGER, colorstr  # noqa: E402, F401  (importable from here, as in YOLOv5)
from utils.training.command import Script, find_detection_files, from_keywords, run_training  # noqa: E402
from utils.training.parser import training_parser  # noqa: E402
from utils.training.world import World  # noqa: E402

WORLD = World.from_environment()
LOCAL_RANK, RANK, WORLD_SIZE = WORLD.local_rank, WORLD.rank, WORLD.size

# Names that code written against YOLOv5 imports from here, and the modules that define them.
FORWARDED = {
    "GIT_INFO": owner_function("utils.environment", "check_git_info", ROOT),
    "KEYS": "utils.segment.metrics",
    "get_latest_run": "utils.paths",
    "intersect_dicts": "utils.torch_utils",
    "one_cycle": "utils.helpers",
    "plot_images_and_masks": "utils.segment.plots",
    "smart_amp_autocast": "utils.torch_utils",
    "torch_load": "utils.general",
}
__getattr__ = forwarding(__name__, FORWARDED)


def parse_opt(known: bool = False) -> argparse.Namespace:
    """Return the options of the command line; with ``known`` unknown arguments are left alone."""
    parser = build_parser()
    return parser.parse_known_args()[0] if known else parser.parse_args()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: names, defaults and types are upstream's."""
    without = ("--upload_dataset", "--diagnose")
    parser = training_parser(
        "Train a YOLOv5 segmentation model.", ROOT / "yolov5s-seg.pt", ROOT / "data/coco128-seg.yaml",
        ROOT / "runs/train-seg", without,
    )  # fmt: skip
    parser.add_argument("--mask-ratio", type=int, default=4, help="sides of an image by those of its training masks")
    parser.add_argument("--no-overlap", action="store_true", help="a mask of its own for each object")
    return parser


def train(
    hyp: Any, opt: argparse.Namespace, device: torch.device, callbacks: Any = None, signals: Any = None
) -> tuple[float, ...]:
    """Train one model from checked options to its final validation; arguments as of ``train.train``.

    Returns:
        P, R, mAP50 and mAP50-95 of boxes, the same of masks, and the box, mask, objectness and classification losses.
    """
    from utils.callbacks import Callbacks
    from utils.training import session

    return session.train(make_task(), hyp, opt, device, callbacks or Callbacks(), signals)


def make_task() -> Any:
    """Return what is trained."""
    from utils.training.tasks.segmentation import Segmentation

    return Segmentation()


def main(opt: argparse.Namespace, callbacks: Any = None, *, given: dict[str, Any] | None = None) -> tuple[float, ...]:
    """Resolve the options and train; ``given`` as for ``utils.training.command.resume_options``."""
    return run_training(Script(FILE, build_parser, find_detection_files, make_task), train, opt, callbacks, given)


def run(**kwargs: Any) -> argparse.Namespace:
    """Train from Python: every option by name, as in ``segment.train.run(data="coco128-seg.yaml", epochs=3)``.

    Returns:
        The options, with ``save_dir`` set to the run's folder.
    """
    return from_keywords(build_parser(), main, kwargs)


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
