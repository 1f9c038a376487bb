"""What each loss, modifier and weighting costs: time and memory of the loss step on one real batch, relative to BCE.

A loss step is the whole of ComputeLoss, target assignment included, and its gradient down to the network's outputs. A
training step is the network forward, that loss with BCE, backward and an SGD step. Cases take turns, so that a slower
minute of the machine meets all of them alike.

python benchmarks/loss_cost.py   # yolov5n, 16 x 640 x 640; on the CPU, and on CUDA where there is one
python benchmarks/loss_cost.py --repeat 3 --imgsz 128 --batch-size 2 --only focal cls_dyn
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import itertools
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.balance.class_weights import class_weights  # noqa: E402
from utils.balance.label_counts import class_counts  # noqa: E402
from utils.balance.loss_names import COMPOSITES  # noqa: E402
from utils.hyperparameters import CLS_LOSSES, OBJ_LOSSES, Hyperparameters  # noqa: E402
from utils.logs import LOGGER, setup_logging  # noqa: E402
from utils.loss import ComputeLoss  # noqa: E402

Settings = Mapping[str, Any]
SHARED_SET = ROOT.parent / "shared" / "datasets" / "coco128"
HYP = ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"
REFERENCE = "bce"
FOCAL: Settings = {"cls_loss": "focal"}
OBJ_FOCAL: Settings = {"obj_loss": "focal"}
MODIFIERS: dict[str, Settings] = {
    "cls_dyn 1": {"cls_dyn": 1.0},
    "obj_dyn 1": {"obj_dyn": 1.0},
    "obj_dyn 1 adaptive": {"obj_dyn": 1.0, "dyn_mode": "adaptive"},
    "cls_attn 0.5": {"cls_attn": 0.5},
    "obj_attn 0.5": {"obj_attn": 0.5},
    "cls_bnd 1": {"cls_bnd": 1.0},
    "obj_bnd 1": {"obj_bnd": 1.0},
    "hard_iou 0.5": {"hard_iou": 0.5},
    "hard_dist 0.5": {"hard_dist": 0.5},
    "hard_dens 0.5": {"hard_dens": 0.5},
    "cls_tversky 0.3": {"cls_tversky": 0.3},
    "obj_tversky 0.3": {"obj_tversky": 0.3},
    "cls_fl_norm ema, focal": {**FOCAL, "cls_fl_norm": "ema"},
    "obj_fl_norm ema, focal": {**OBJ_FOCAL, "obj_fl_norm": "ema"},
    "obj_fl_norm pos, focal": {**OBJ_FOCAL, "obj_fl_norm": "pos"},
    "cls_weights row": {"cls_weights": "sqrt_inverse"},
    "cls_weights pos": {"cls_weights": "sqrt_inverse", "cls_weights_mode": "pos"},
    "cls_weights column": {"cls_weights": "sqrt_inverse", "cls_weights_mode": "column"},
    "cls_weights row, obj": {"cls_weights": "sqrt_inverse", "cls_weights_obj": True},
}


@dataclasses.dataclass
class Cost:
    """What was measured of a case: milliseconds of each turn, peak bytes."""

    milliseconds: list[float] = dataclasses.field(default_factory=list)
    peak: int = 0

    @property
    def median(self) -> float:
        """Median milliseconds."""
        return float(np.median(self.milliseconds))


@dataclasses.dataclass(frozen=True)
class Batch:
    """A real batch: images (b, 3, h, w) uint8, targets (n, 6), and the whole set's labels and names."""

    images: Tensor
    targets: Tensor
    labels: list[np.ndarray]
    names: dict[int, str]


def cases() -> dict[str, Settings]:
    """Return every case: base losses of both heads, modifiers, weights and composite names."""
    composites = set(COMPOSITES)
    base = {f"cls_loss {name}": {"cls_loss": name} for name in CLS_LOSSES if name not in composites | {"bce"}}
    base |= {f"obj_loss {name}": {"obj_loss": name} for name in OBJ_LOSSES if name not in composites | {"bce"}}
    named = {f"both heads {name}": {"cls_loss": name, "obj_loss": name} for name in COMPOSITES if name in OBJ_LOSSES}
    return {REFERENCE: {}, "fl_gamma 1.5": {"fl_gamma": 1.5}, **base, **MODIFIERS, **named}


def load_batch(data: str | None, imgsz: int, batch_size: int) -> Batch:
    """Return the first training batch, mosaics as training sees them, of coco128 beside the project, else of parts."""
    from utils.yaml_files import read_yaml

    if data or not SHARED_SET.exists():
        return first_batch(data or str(ROOT / "data" / "parts.yaml"), imgsz, batch_size)
    with tempfile.TemporaryDirectory() as folder:  # so that no label cache is written beside the original
        copied = Path(folder) / SHARED_SET.name
        shutil.copytree(SHARED_SET, copied)
        facts = read_yaml(copied / f"{SHARED_SET.name}.yaml")
        return first_batch({**facts, "path": str(copied)}, imgsz, batch_size)


def first_batch(data: str | dict[str, Any], imgsz: int, batch_size: int) -> Batch:
    """Return the first training batch of a data YAML, or of what it holds."""
    from utils.balance.samplers import Draw
    from utils.dataset import LoadImagesAndLabels
    from utils.dataset_yaml import check_dataset

    facts = check_dataset(data)
    dataset = LoadImagesAndLabels(facts["train"], imgsz, batch_size, augment=True, hyp=Hyperparameters.load(HYP))
    samples = [dataset[Draw(k % len(dataset), 0, k)] for k in range(batch_size)]
    images, targets, *_ = dataset.collate_fn(samples)
    return Batch(images, targets, dataset.labels, dict(facts["names"]))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the log to warnings within the block."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def build_model(cfg: str, nc: int, device: torch.device) -> nn.Module:
    """Return an untrained network in training mode."""
    from models.yolo import Model

    torch.manual_seed(0)
    return Model(cfg, ch=3, nc=nc).to(device).train()


def build_loss(model: nn.Module, settings: Settings, batch: Batch, imgsz: int) -> ComputeLoss:
    """Return the loss of a case, in the middle of a run, where everything that starts late is at work."""
    nc = len(batch.names)
    hyp = Hyperparameters.load(HYP).replace(**settings)
    counts = class_counts(batch.labels, nc)
    weights = class_weights(hyp, counts, batch.names, batch.labels)
    scaled = hyp.scaled(nc=nc, nl=model.model[-1].nl, imgsz=imgsz)
    loss = ComputeLoss(
        model, hyp=scaled, class_weights=None if weights is None else weights.values, class_counts=counts
    )
    loss.set_epoch(50, 100)
    return loss


def loss_step(loss: ComputeLoss, outputs: list[Tensor], targets: Tensor) -> None:
    """Compute the loss and its gradient by the outputs."""
    for output in outputs:
        output.grad = None
    loss(outputs, targets)[0].backward()


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Return the milliseconds that ``work`` takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) * 1e3


def peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Return the most bytes of tensors that ``work`` holds at a time beyond those that were there."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    found = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [e.nbytes() for e in sorted(found, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(sizes, initial=0))


def measure_losses(
    losses: Mapping[str, ComputeLoss], outputs: list[Tensor], targets: Tensor, repeat: int
) -> dict[str, Cost]:
    """Return the cost of every case; they take turns, forwards and backwards, after two unmeasured rounds."""
    device = targets.device
    costs = {name: Cost() for name in losses}
    for turn in range(-2, repeat):
        names = list(losses) if turn % 2 else list(reversed(losses))
        for name in names:
            took = timed(lambda name=name: loss_step(losses[name], outputs, targets), device)
            if turn >= 0:
                costs[name].milliseconds.append(took)
    for name, loss in losses.items():
        for output in outputs:
            output.grad = None  # each case makes its own, so that all count them
        costs[name].peak = peak_bytes(lambda loss=loss: loss_step(loss, outputs, targets), device)
    return costs


def measure_step(model: nn.Module, loss: ComputeLoss, images: Tensor, targets: Tensor, repeat: int) -> Cost:
    """Return the cost of a training step, with fp16 autocast on CUDA as in training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.937, nesterov=True)
    device = images.device

    def work() -> None:
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            total = loss(model(images.float() / 255), targets)[0]
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    work()
    times = [timed(work, device) for _ in range(repeat)]
    return Cost(times, peak_bytes(work, device))


def table(costs: Mapping[str, Cost], step: Cost) -> Iterator[str]:
    """Yield the lines of a table.

    Time is the median of turns; × is the median over turns of the case's time by BCE's of the same turn; the share is
    what the case adds to BCE in percent of a training step.
    """
    reference = costs[REFERENCE]
    yield f"training step {step.median:.1f} ms, peak {step.peak / 2**20:.0f} MiB"
    yield f"{'loss step':<28}{'ms':>9}{'x bce':>8}{'+ % of step':>13}{'peak MiB':>10}{'x bce':>8}"
    for name, cost in costs.items():
        pairs = zip(cost.milliseconds, reference.milliseconds, strict=True)
        ratios = np.array([(mine / other, mine - other) for mine, other in pairs])
        ratio, extra = np.median(ratios, axis=0)
        yield (
            f"{name:<28}{cost.median:>9.2f}{ratio:>8.2f}{100 * extra / step.median:>13.2f}"
            f"{cost.peak / 2**20:>10.1f}{cost.peak / max(reference.peak, 1):>8.2f}"
        )


def run(opt: argparse.Namespace, batch: Batch, device: torch.device) -> None:
    """Measure on one device and log the table."""
    chosen = {
        name: settings
        for name, settings in cases().items()
        if name == REFERENCE or not opt.only or any(word in name.split() for word in opt.only)
    }
    with quiet():
        model = build_model(opt.cfg, len(batch.names), device)
    images, targets = batch.images.to(device), batch.targets.to(device)
    with torch.no_grad():
        outputs = [p.detach().clone().requires_grad_() for p in model(images.float() / 255)]
    losses = {name: build_loss(model, settings, batch, opt.imgsz) for name, settings in chosen.items()}
    costs = measure_losses(losses, outputs, targets, opt.repeat)
    gc.collect()
    step = measure_step(model, losses[REFERENCE], images, targets, max(3, opt.repeat // 4))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    LOGGER.info(
        f"\n{where}; {tuple(images.shape)}, {len(targets)} boxes, {len(batch.names)} classes; median of {opt.repeat}"
    )
    for line in table(costs, step):
        LOGGER.info(line)


def main() -> None:
    """Run the benchmark on the CPU, and on CUDA where there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data set YAML; by default coco128 beside the project, else parts.yaml")
    parser.add_argument("--cfg", default="yolov5n.yaml", help="model YAML")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=20, help="turns of each case")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="one device alone")
    parser.add_argument("--only", nargs="+", help="cases with one of these words, such as focal or obj_attn")
    opt = parser.parse_args()
    setup_logging(-1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    if opt.threads:
        torch.set_num_threads(opt.threads)
    devices = [opt.device] if opt.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    batch = load_batch(opt.data, opt.imgsz, opt.batch_size)
    for name in devices:
        run(opt, batch, torch.device(name))


if __name__ == "__main__":
    main()
