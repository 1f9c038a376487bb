"""Train a YOLOv5 detection model.

python train.py --data coco128.yaml --weights yolov5s.pt --img 640
python train.py --data parts.yaml --weights '' --cfg yolov5n.yaml --hyp hyp.focal.yaml
torchrun --nproc_per_node 4 train.py --data coco.yaml --batch-size 128
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FILE = Path(__file__).resolve()
ROOT = FILE.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from utils.errors import InputError, run_command  # noqa: E402
from utils.logs import LOGGER, colorstr, setup_logging  # noqa: E402
from utils.training.world import World  # noqa: E402

WORLD = World.from_environment()
LOCAL_RANK, RANK, WORLD_SIZE = WORLD.local_rank, WORLD.rank, WORLD.size

# Names that code written against YOLOv5 imports from here, and the modules that define them.
FORWARDED = {
    "get_latest_run": "utils.paths",
    "intersect_dicts": "utils.torch_utils",
    "one_cycle": "utils.helpers",
    "smart_amp_autocast": "utils.torch_utils",
    "torch_load": "utils.general",
}


def __getattr__(name: str) -> Any:
    """Fetch a forwarded name from its owner at first use, so that --help stays fast."""
    if name == "GIT_INFO":
        return importlib.import_module("utils.environment").check_git_info(ROOT)
    if name not in FORWARDED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(FORWARDED[name]), name)


def parse_opt(known: bool = False) -> argparse.Namespace:
    """Return the options of the command line; with ``known`` unknown arguments are left alone."""
    parser = build_parser()
    return parser.parse_known_args()[0] if known else parser.parse_args()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: names, defaults and types are upstream's."""
    parser = argparse.ArgumentParser(description="Train a YOLOv5 detection model.")
    add = parser.add_argument
    add("--weights", type=str, default=ROOT / "yolov5s.pt", help="initial weights (.pt); '' trains from scratch")
    add("--cfg", type=str, default="", help="model YAML, such as yolov5n.yaml")
    add("--data", type=str, default=ROOT / "data/coco128.yaml", help="data set YAML")
    add(
        "--hyp",
        type=str,
        default=ROOT / "data/hyps/hyp.scratch-low.yaml",
        help="hyperparameter YAML",
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
        help="evolve hyperparameters for this many generations (not in this version)",
    )
    add(
        "--evolve_population",
        type=str,
        default=ROOT / "data/hyps",
        help="folder of hyp files to start an evolution from",
    )
    add("--resume_evolve", type=str, default=None, help="evolution to go on with")
    add("--bucket", type=str, default="", help="storage bucket (no online service is used: no effect)")
    add("--cache", type=str, nargs="?", const="ram", help="keep decoded images in: ram (default) or disk")
    add("--image-weights", action="store_true", help="draw images of rare and badly found classes more often")
    add("--device", default="", help="CUDA device, such as 0 or 0,1,2,3, or cpu")
    add("--multi-scale", action="store_true", help="vary the image size by +/- 50 %% from step to step")
    add("--single-cls", action="store_true", help="train all classes as one")
    add("--optimizer", type=str, choices=["SGD", "Adam", "AdamW"], default="SGD", help="optimizer")
    add("--sync-bn", action="store_true", help="batch norm over all processes (CUDA, torchrun)")
    add("--workers", type=int, default=8, help="loader processes per training process")
    add("--project", default=ROOT / "runs/train", help="folder of the runs")
    add("--name", default="exp", help="name of the run's folder; cfg names it after the model YAML")
    add("--exist-ok", action="store_true", help="use an existing run folder instead of a new number")
    add("--quad", action="store_true", help="quad loader: four images in one of double size")
    add("--cos-lr", action="store_true", help="cosine learning rate instead of linear")
    add("--label-smoothing", type=float, default=0.0, help="label smoothing epsilon")
    add("--patience", type=int, default=100, help="epochs without improvement before stopping; 0 never stops")
    add("--freeze", nargs="+", type=int, default=[0], help="layers to freeze: 10 the first ten, 0 1 2 those three")
    add("--save-period", type=int, default=-1, help="also keep every Nth epoch's checkpoint")
    add("--save-steps", type=int, default=0, help="also write last.pt after every N batches; 0 after epochs alone")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--local_rank", type=int, default=-1, help="set by old launchers; torchrun needs it not")
    add("--entity", default=None, help="account of an online service (no effect)")
    add("--upload_dataset", nargs="?", const=True, default=False, help="upload the data set (no effect)")
    add("--diagnose", action="store_true", help="at the end, also write which class errors there are, and what to try")
    add("--bbox_interval", type=int, default=-1, help="log validation pictures with boxes every N epochs")
    return parser


@dataclass
class Outcome:
    """What the epochs came to: the last validation's results, the best fitness, the last epoch's number."""

    results: tuple[float, ...] = (0.0,) * 7
    best_fitness: float = 0.0
    epoch: int = 0


def train(
    hyp: Any, opt: argparse.Namespace, device: torch.device, callbacks: Any, signals: Any = None
) -> tuple[float, ...]:
    """Train one model from checked options to its final validation.

    Args:
        hyp: hyperparameter YAML path, mapping, or Hyperparameters.
        opt: options as ``main`` leaves them.
        device: where to train.
        callbacks: utils.callbacks.Callbacks whose hooks are run.
        signals: utils.training.preemption.StopSignals at watch, None where no signal is to stop the run.

    Returns:
        P, R, mAP50, mAP50-95 and the box, objectness and classification losses of the final validation.
    """
    import torch

    from utils.helpers import one_cycle
    from utils.torch_utils import EarlyStopping, ModelEMA, init_seeds
    from utils.training import build, class_balance
    from utils.training.amp import choose_dtype
    from utils.training.engine import Engine, StepState
    from utils.training.guard import RunningStatistics
    from utils.training.preemption import StopSignals
    from utils.training.run import Run
    from utils.training.schedule import Schedule, linear_lr

    callbacks.run("on_pretrain_routine_start")
    hyp = build.load_hyperparameters(hyp)
    as_read = hyp.to_dict()
    hyp = build.with_label_smoothing(hyp, opt.label_smoothing)
    data = build.load_data(opt.data, opt.single_cls)
    hyp = class_balance.resolve_settings(hyp, opt, data)
    init_seeds(opt.seed, deterministic=True)

    checkpoint = build.load_weights(str(opt.weights), opt.cfg, bool(opt.resume))
    model = build.build_model(opt.cfg, checkpoint, data, hyp, bool(opt.resume), device)
    model = model.to(memory_format=torch.channels_last)  # the faster layout of convolutions, on the CPU as well
    build.freeze_layers(model, opt.freeze)
    amp_dtype = choose_dtype(model, device)
    stride = max(int(model.stride.max()), 32)
    imgsz = build.check_image_size(opt.imgsz, stride)
    batch_size = build.choose_batch_size(opt, model, imgsz, amp_dtype is not None, WORLD)
    optimizer = build.build_optimizer(model, opt.optimizer, hyp, batch_size * WORLD.size)
    build.check_space(opt, model, optimizer, WORLD)
    ema = ModelEMA(model) if WORLD.is_main else None

    loader, dataset, val_loader = build.build_loaders(opt, hyp, data, imgsz, stride, batch_size, WORLD)
    balance = class_balance.apply_class_balance(hyp, data, loader, dataset)
    hyp = hyp.scaled(nc=data.nc, nl=model.model[-1].nl, imgsz=imgsz)
    if not opt.resume and WORLD.is_main:
        build.fit_anchors(opt, hyp, model, dataset, imgsz)
    build.attach_facts(model, hyp, data, dataset, device)
    statistics = RunningStatistics(model)
    parallel = build.wrap_parallel(model, opt, WORLD, device)
    criterion = build.build_criterion(model, hyp, balance, WORLD)
    schedule = Schedule(
        one_cycle(1, hyp["lrf"], opt.epochs) if opt.cos_lr else linear_lr(opt.epochs, hyp["lrf"]),
        Schedule.count_warmup_steps(hyp["warmup_epochs"], len(loader)),
        hyp["warmup_bias_lr"], hyp["warmup_momentum"], hyp["momentum"], batch_size * WORLD.size,
    )  # fmt: skip
    engine = Engine(
        parallel, criterion, optimizer, schedule,
        torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16), ema, device, WORLD, amp_dtype,
        4.0 if opt.quad else 1.0, build.resizer(opt, imgsz, stride), statistics,
    )  # fmt: skip
    run = Run(
        opt=opt, hyp=hyp, as_read=as_read, data=data, model=model, engine=engine,
        stopper=EarlyStopping(patience=opt.patience), loader=loader, dataset=dataset, val_loader=val_loader,
        balance=balance, imgsz=imgsz, callbacks=callbacks, state=StepState(loss_sum=torch.zeros(3, device=device)),
        signals=signals or StopSignals(), checkpoint=checkpoint,
    )  # fmt: skip
    del checkpoint
    run.begin()
    outcome = run_epochs(run)
    return run.finish(outcome)


def run_epochs(run: Any) -> Outcome:
    """Train, validate, log and save, epoch by epoch."""
    from utils.training.distributed import broadcast_from_main
    from utils.training.guard import NotFinite
    from utils.training.preemption import Interrupted

    opt, first = run.opt, run.state.epoch
    outcome = Outcome(best_fitness=run.best_fitness, epoch=first - 1)
    start = time.time()
    epoch, stop = first, run.stopper.stop  # a run killed after it had stopped early has only to be closed
    run.callbacks.run("on_train_start")
    while epoch < opt.epochs and not stop:
        outcome.epoch = epoch
        try:
            losses = run.train_epoch(epoch)
        except NotFinite as problem:
            run.go_back(problem)
            epoch = run.state.epoch
            continue
        final = epoch + 1 == opt.epochs or run.stopper.possible_stop
        signal_number = 0
        if WORLD.is_main:
            try:
                stop = run.close_epoch(epoch, losses, final, outcome)
            except Interrupted as interruption:
                signal_number = interruption.number
        stop, signal_number = broadcast_from_main((stop, signal_number))
        if signal_number:
            run.leave(signal_number)
        run.share_maps()
        epoch += 1
    if WORLD.is_main and outcome.epoch >= first:
        hours = (time.time() - start) / 3600
        LOGGER.info(f"\n{max(outcome.epoch - first + 1, 0)} epochs completed in {hours:.3f} hours.")
    return outcome


def prepare(opt: argparse.Namespace, given: dict[str, Any] | None = None) -> tuple[argparse.Namespace, torch.device]:
    """Check the options, take those of a resumed run, find files, and join the process group."""
    from utils.paths import check_file, check_yaml
    from utils.torch_utils import select_device
    from utils.training import options
    from utils.training.distributed import join_group

    if opt.resume and not opt.evolve:
        opt = resume_options(opt, given)
    opt.weights = str(opt.weights).strip("'\"")  # Windows' command line passes '' on with its quotes
    options.check_options(opt, WORLD.size)
    options.warn_unused(opt)
    if not isinstance(opt.data, dict):
        opt.data = str(check_file(opt.data))  # a YAML, or a zip or tar with one inside
    if not isinstance(opt.hyp, dict):
        opt.hyp = str(check_yaml(opt.hyp))
    opt.cfg = str(check_yaml(opt.cfg)) if opt.cfg else ""
    opt.project = str(opt.project)
    if opt.name == "cfg":
        opt.name = Path(opt.cfg).stem
    device = select_device(opt.device, batch_size=opt.batch_size)
    return opt, join_group(WORLD, device)


def resume_options(opt: argparse.Namespace, given: dict[str, Any] | None = None) -> argparse.Namespace:
    """Return the options of the run to resume: the named last.pt, or the latest below the working folder or runs/.

    Args:
        opt: the options as parsed.
        given: those that the user named, by default on the command line; they must not contradict the saved run.
    """
    from utils.paths import get_latest_run
    from utils.training import options

    named = isinstance(opt.resume, (str, Path))
    latest = opt.resume if named else get_latest_run() or get_latest_run(ROOT / "runs")
    if not latest:
        raise InputError(f"--resume: no last.pt below {Path.cwd()} or runs/; allowed is --resume path/to/last.pt")
    checkpoint = Path(latest)
    if given is None:
        given = options.explicit_options(build_parser(), sys.argv[1:]) if Path(sys.argv[0]).name == FILE.name else {}
    resumed = options.resumed_options(opt, checkpoint, options.saved_options(checkpoint), given)
    resumed.save_dir = str(checkpoint.parent.parent)
    resumed.project, resumed.name = str(checkpoint.parent.parent.parent), checkpoint.parent.parent.name
    return resumed


def main(opt: argparse.Namespace, callbacks: Any = None, *, given: dict[str, Any] | None = None) -> tuple[float, ...]:
    """Resolve the options and train; ``given`` as for ``resume_options``."""
    from utils.callbacks import Callbacks
    from utils.cv import require_cv2
    from utils.training.distributed import leave_group, report_failure, watch_group
    from utils.training.folder_lock import release_folders
    from utils.training.preemption import StopSignals

    require_cv2()
    setup_logging(WORLD.rank)
    begun = datetime.datetime.now()
    with StopSignals().watched() as signals:
        try:
            watch_group(WORLD)
            prepared, device = prepare(opt, given)
            vars(opt).update(vars(prepared))
            LOGGER.info(colorstr("train: ") + ", ".join(f"{name}={value}" for name, value in vars(opt).items()))
            results = train(opt.hyp, opt, device, callbacks or Callbacks(), signals)
        except BaseException as error:
            report_failure(error)
            raise
        finally:
            leave_group()
            release_folders()
    LOGGER.info(f"Started {begun:%Y-%m-%d %H:%M:%S}, results in {colorstr('bold', opt.save_dir)}")
    return results


def run(**kwargs: Any) -> argparse.Namespace:
    """Train from Python: every option by name, as in ``train.run(data="coco128.yaml", imgsz=320, epochs=3)``.

    Returns:
        The options, with ``save_dir`` set to the run's folder.
    """
    from utils.training.options import ALIASES, apply_keywords

    opt = apply_keywords(build_parser().parse_args([]), kwargs)
    main(opt, given={ALIASES.get(name, name): value for name, value in kwargs.items()})
    return opt


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
