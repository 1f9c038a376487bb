"""Train a classification network on a folder of images per class.

    python classify/train.py --model yolov5s-cls.pt --data imagenette160 --epochs 5 --img 224
    python classify/train.py --model yolov5n.yaml --data ../datasets/parts-cls --img 64
    torchrun --nproc_per_node 4 classify/train.py --model resnet50 --data imagenet --batch-size 256

--data holds train/ and test/ or val/, each with a folder per class. Results go to runs/train-cls/exp, exp2, ...
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
    sys.path[0] = str(ROOT)  # run by path: the project's folder takes the place of classify/
elif str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from utils.classification.options import as_switch, check_options  # noqa: E402
from utils.errors import run_command  # noqa: E402
from utils.forwarding import forwarding, owner_function  # noqa: E402
from utils.logs import LOGGER, colorstr  # noqa: E402, F401  (importable from here, as in YOLOv5)
from utils.training.command import Script, from_keywords, run_training  # noqa: E402
from utils.training.world import World  # noqa: E402

WORLD = World.from_environment()
LOCAL_RANK, RANK, WORLD_SIZE = WORLD.local_rank, WORLD.rank, WORLD.size

# Names that code written against YOLOv5 imports from here.
__getattr__ = forwarding(__name__, {
    "DATASETS_DIR": owner_function("utils.paths", "datasets_dir"),
    "GIT_INFO": owner_function("utils.environment", "check_git_info", ROOT),
    "WorkingDirectory": "utils.helpers",
    "model_info": "utils.model_ops",
    "smart_amp_autocast": "utils.torch_utils",
})  # fmt: skip


def parse_opt(known: bool = False) -> argparse.Namespace:
    """Return the options of the command line; with ``known`` unknown arguments are left alone."""
    parser = build_parser()
    return parser.parse_known_args()[0] if known else parser.parse_args()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: names, defaults and types are upstream's; the last group is this project's."""
    parser = argparse.ArgumentParser(description="Train a classification network.")
    add = parser.add_argument
    add("--model", type=str, default="yolov5s-cls.pt", help="checkpoint, model YAML, or a model of torchvision")
    add("--data", type=str, default="imagenette160", help="folder with train/ and test/ or val/, or a stock set's name")
    add("--epochs", type=int, default=10, help="number of epochs")
    add("--batch-size", type=int, default=64, help="images per step over all processes")
    add("--imgsz", "--img", "--img-size", type=int, default=224, help="side of the images in pixels")
    add("--nosave", action="store_true", help="save the final epoch only")
    add("--cache", type=str, nargs="?", const="ram", help="keep decoded images in: ram (default) or disk")
    add("--device", default="", help="CUDA device, such as 0 or 0,1,2,3, or cpu")
    add("--workers", type=int, default=8, help="loader processes per training process")
    add("--project", default=ROOT / "runs/train-cls", help="folder of the runs")
    add("--name", default="exp", help="name of the run's folder")
    add("--exist-ok", action="store_true", help="use an existing run folder instead of a new number")
    add("--pretrained", nargs="?", const=True, default=True, help="keep the model's weights; False draws new ones")
    add("--optimizer", choices=["SGD", "Adam", "AdamW", "RMSProp"], default="Adam", help="optimizer")
    add("--lr0", type=float, default=0.001, help="learning rate of the first epoch; the last has a hundredth")
    add("--decay", type=float, default=5e-5, help="weight decay")
    add("--label-smoothing", type=float, default=0.1, help="label smoothing epsilon")
    add("--cutoff", type=int, default=None, help="layers kept of a detection model, the head among them; default 10")
    add("--dropout", type=float, default=None, help="dropout probability; default the model's")
    add("--verbose", action="store_true", help="log the network's layers, and every class after each epoch")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--local_rank", type=int, default=-1, help="set by old launchers; torchrun needs it not")
    add("--hyp", type=str, default="", help="YAML with class balance keys, such as hyp.focal.yaml; default none")
    add("--resume", nargs="?", const=True, default=False, help="go on with an interrupted run: its last.pt")
    add("--patience", type=int, default=0, help="epochs without improvement before stopping; 0 never stops")
    add("--noplots", action="store_true", help="write no pictures")
    return parser


def find_files(opt: argparse.Namespace) -> None:
    """Check the options of classification; replace the data set's name and the hyp file's by paths."""
    from utils.classification.folders import find_data
    from utils.paths import check_yaml

    check_options(opt)
    opt.data = str(find_data(opt.data).resolve())
    if isinstance(opt.hyp, (str, Path)):
        opt.hyp = str(check_yaml(opt.hyp)) if opt.hyp else {}


SCRIPT = Script(FILE, build_parser, find_files)


def train(
    opt: argparse.Namespace, device: torch.device, callbacks: Any = None, signals: Any = None
) -> tuple[float, ...]:
    """Train one network from checked options to its final validation.

    Args:
        opt: options as ``main`` leaves them.
        device: where to train.
        callbacks: utils.callbacks.Callbacks whose hooks are run.
        signals: utils.training.preemption.StopSignals at watch, None where no signal is to stop the run.

    Returns:
        Loss, top-1 and top-5 accuracy of the final validation.
    """
    from utils.callbacks import Callbacks
    from utils.training import session
    from utils.training.tasks.classification import Classification

    return session.train(Classification(), opt.hyp, opt, device, callbacks or Callbacks(), signals)


def main(opt: argparse.Namespace, callbacks: Any = None, *, given: dict[str, Any] | None = None) -> tuple[float, ...]:
    """Resolve the options and train.

    Args:
        opt: options as parsed.
        callbacks: hooks of the run.
        given: the options that the user named, by default those of the command line.
    """
    opt.pretrained = as_switch("pretrained", opt.pretrained)
    opt.weights, opt.cfg = "", str(opt.model)  # what a session starts from, by the names of the other commands
    if opt.resume:
        given = _with_whole_path(given)

    def start(hyp: Any, opt: argparse.Namespace, device: torch.device, callbacks: Any, signals: Any) -> Any:
        return train(opt, device, callbacks, signals)

    return run_training(SCRIPT, start, opt, callbacks, given)


def _with_whole_path(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the named options with the data set's folder as the saved run has it, whatever it is called now."""
    from utils.classification.folders import find_data
    from utils.training.options import explicit_options

    if given is None and Path(sys.argv[0]).resolve() == FILE:
        given = explicit_options(build_parser(), sys.argv[1:])
    if given and "data" in given:
        return {**given, "data": str(find_data(given["data"]).resolve())}
    return given


def run(**kwargs: Any) -> argparse.Namespace:
    """Train from Python: every option by name, as in ``train.run(data="mnist", imgsz=320, model="yolov5m-cls.pt")``.

    Returns:
        The options, with ``save_dir`` set to the run's folder.
    """
    return from_keywords(build_parser(), main, kwargs)


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
