"""One process of tests/test_distributed.py: gradients and loss state after a batch, batch norm in evaluation mode.

python distributed_worker.py DATA_YAML BATCH_NUMBER OUT.pt [HYP_YAML [FIRST_BATCH]]      (alone, or under torchrun)

Without FIRST_BATCH only the one batch is done, else all from there on; weights never move.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.yolo import Model  # noqa: E402
from utils.dataloaders import create_dataloader  # noqa: E402
from utils.dataset_yaml import check_dataset  # noqa: E402
from utils.hyperparameters import Hyperparameters  # noqa: E402
from utils.loss import ComputeLoss  # noqa: E402
from utils.torch_utils import smart_DDP  # noqa: E402
from utils.training.distributed import World, join_group, leave_group, world_sum  # noqa: E402
from utils.training.engine import Engine, StepState  # noqa: E402
from utils.training.schedule import Schedule, linear_lr  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
GLOBAL_BATCH = 4


def main(data: str, number: int, out: str, hyp_file: str = "", first: str = "") -> None:
    """Save the gradients of batch ``number``, and the loss's state after it, from the main process."""
    world = World.from_environment()
    device = join_group(world, torch.device("cpu"))
    torch.manual_seed(0)
    hyp = Hyperparameters.load(hyp_file or ROOT / "data/hyps/hyp.scratch-low.yaml")
    facts = check_dataset(data)
    loader, _ = create_dataloader(
        facts["train"],
        64,
        GLOBAL_BATCH // world.size,
        32,
        hyp=hyp,
        augment=True,
        rank=world.rank,
        workers=0,
        shuffle=True,
    )
    model = Model(ROOT / "models/yolov5n.yaml", ch=3, nc=2)
    nn.init.normal_(model.model[-1].m[0].bias, std=0.1)
    scaled = hyp.scaled(nc=2, nl=3, imgsz=64)
    model.hyp = scaled.to_dict()
    criterion = ComputeLoss(model, hyp=scaled, world_sum=world_sum if world.is_distributed else None)
    parallel = smart_DDP(model) if world.is_distributed else model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.0}], lr=0.0)
    schedule = Schedule(linear_lr(10, 1.0), -1, 0.0, 0.0, 0.0, GLOBAL_BATCH)
    engine = Engine(
        parallel, criterion, optimizer, schedule, torch.amp.GradScaler("cpu", enabled=False), None, device, world
    )
    engine.schedule = Schedule(linear_lr(10, 1.0), -1, 0.0, 0.0, 0.0, 1)  # accumulate: gradients stay
    begin = int(first or number)
    loader.set_epoch(0, start_batch=begin)
    engine.schedule = _Exchanging(engine.schedule)
    engine._optimizer_step = lambda: None
    for batch, (images, targets, _, _) in zip(range(begin, number + 1), loader, strict=False):
        optimizer.zero_grad()
        engine._step(images.float() / 255, (targets,), batch, StepState(step=batch, batch=batch), loader)
    if world.is_main:
        gradients = {name: p.grad for name, p in model.named_parameters()}
        torch.save({"gradients": gradients, "loss": criterion.state_dict()}, out)
    leave_group()


class _Exchanging:
    """A schedule under which every batch ends in an exchange of gradients."""

    def __init__(self, schedule):
        self.schedule = schedule

    def apply(self, optimizer, step, epoch):
        return 1


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
