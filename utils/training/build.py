"""The parts of a training run, each built by one function: data, model, optimizer, loaders, loss, anchors."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.balance.class_weights import labels_to_class_weights
from utils.checkpoints.classes import foreign_layers
from utils.errors import InputError, InputErrors
from utils.hyperparameters import Hyperparameters
from utils.logs import LOGGER, colorstr
from utils.rng import Stream, make_rng
from utils.training.class_balance import ClassBalance
from utils.training.distributed import World, broadcast_from_main


@dataclass(frozen=True)
class Data:
    """A data set as a run uses it.

    Attributes:
        facts: the checked data YAML.
        names: class id -> name; ``{0: "item"}`` with --single-cls.
        train: image folder, list file or a list of these.
        val: likewise.
        is_coco: whether val is COCO's val2017 list, which is scored at its own IoU threshold.
    """

    facts: dict[str, Any]
    names: dict[int, str]
    train: Any
    val: Any
    is_coco: bool

    @property
    def nc(self) -> int:
        """Number of classes."""
        return len(self.names)


def load_hyperparameters(hyp: Any) -> Hyperparameters:
    """Return the typed settings of a YAML path, a mapping or an object read before, as given."""
    from utils.yaml_files import read_yaml

    if isinstance(hyp, Hyperparameters):
        return hyp
    mapping, source = (hyp, "hyp") if isinstance(hyp, dict) else (read_yaml(hyp), str(hyp))
    return Hyperparameters.from_dict(mapping, source)


def with_label_smoothing(hyp: Hyperparameters, option: float) -> Hyperparameters:
    """Return the settings with ``--label-smoothing``, which wins over the hyp file's where it is given."""
    if option and hyp["label_smoothing"] not in {0.0, option}:
        LOGGER.info(f"--label-smoothing {option:g} wins over the hyp file's {hyp['label_smoothing']:g}")
    return hyp.replace(label_smoothing=option) if option else hyp


def load_data(path: str | dict, single_cls: bool) -> Data:
    """Check the data YAML and return the data set of a run."""
    from utils.dataset_yaml import check_dataset
    from utils.torch_utils import torch_distributed_zero_first

    with torch_distributed_zero_first(World.from_environment().local_rank):  # it may have to make the data first
        facts = check_dataset(path)
    names = facts["names"]
    if single_cls and len(names) != 1:
        names = {0: "item"}
    val = facts.get("val")
    is_coco = isinstance(val, str) and val.endswith("coco/val2017.txt")
    return Data(facts, dict(names), facts["train"], val, is_coco)


def load_weights(weights: str, cfg: str, resume: bool) -> dict[str, Any] | None:
    """Return the checkpoint that ``--weights`` names, fetched when it is a released one that is missing; else None."""
    from models.backend_formats.base import require_finite
    from utils.checkpoint import load_checkpoint
    from utils.downloads import attempt_download

    if not str(weights).endswith(".pt"):
        if weights:
            raise InputError(f"--weights {weights}: allowed is a .pt file, or '' with --cfg to train from scratch")
        return None
    checkpoint = load_checkpoint(attempt_download(weights))
    if not resume and not hasattr(checkpoint.get("model"), "yaml") and not cfg:
        raise InputError(f"--weights {weights}: it holds no model description; name one with --cfg")
    require_finite(checkpoint["model"], [weights])
    return checkpoint


def build_model(  # noqa: PLR0913, PLR0917 (what a network is built from)
    cfg: str,
    checkpoint: dict[str, Any] | None,
    data: Data,
    hyp: Hyperparameters,
    resume: bool,
    device: torch.device,
    network: Callable[..., nn.Module],
    head: type[nn.Module],
) -> nn.Module:
    """Build the network for the data's classes and take over every weight of the checkpoint that fits.

    Args:
        cfg: model YAML, '' for the checkpoint's.
        checkpoint: may be None with ``cfg``.
        data, hyp: of the run.
        resume: take the anchors over in any case.
        device: where to put it.
        network: the model's class.
        head: the class that its last layer must have.
    """
    from models.backends import require_head
    from utils.checkpoint import set_class_activation
    from utils.torch_utils import intersect_dicts

    anchors = hyp.get("anchors")
    source = None if checkpoint is None else checkpoint["model"]
    if not cfg and isinstance(source, nn.Module):
        require_head(source, "--weights", head)
    model = network(cfg or source.yaml, ch=3, nc=data.nc, anchors=anchors).to(device)
    require_head(model, f"--cfg {cfg}" if cfg else "--weights", head)
    set_class_activation(model.model[-1], hyp)
    if checkpoint is None:
        return model
    exclude = ["anchor"] if (cfg or anchors) and not resume else []
    weights = source.float().state_dict() if isinstance(source, nn.Module) else source
    fitting = intersect_dicts(weights, model.state_dict(), exclude=exclude)
    model.load_state_dict(fitting, strict=False)
    LOGGER.info(f"Transferred {len(fitting)}/{len(model.state_dict())} items from the weights")
    return model


def freeze_layers(model: nn.Module, freeze: list[int]) -> list[str]:
    """Freeze layers by number: ``[10]`` the first ten, ``[0, 1, 2]`` those named. Returns the frozen parameters.

    Raises:
        InputError: layers that the model lacks, or nothing would be left to train.
    """
    layers = freeze if len(freeze) > 1 or freeze[0] < 0 else range(freeze[0])
    count = len(model.model) if layers else 0  # networks of torchvision have no numbered layers
    beyond = [layer for layer in layers if not 0 <= layer < count]
    if beyond:
        raise InputError(
            f"--freeze {' '.join(map(str, freeze))}: layer {beyond[0]} is not in the model; allowed 0-{count - 1}"
        )
    prefixes = tuple(f"model.{layer}." for layer in layers)
    frozen = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not (prefixes and name.startswith(prefixes))
        if not parameter.requires_grad:
            frozen.append(name)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"--freeze {' '.join(map(str, freeze))}: all {count} layers; allowed is to leave one to train")
    if frozen:
        LOGGER.info(f"{colorstr('freeze: ')}{len(frozen)} parameter tensors of layers {sorted(layers)}")
    return frozen


def check_layers(model: nn.Module, source: str) -> None:
    """Refuse layers that a checkpoint may not hold, before anything is trained that could not be read again.

    Args:
        model: the network.
        source: what it was built from, for the message.

    Raises:
        InputError: a layer's class is not in the list of utils/checkpoints/classes.py.
    """
    if foreign := foreign_layers(model):
        listed = "the list in utils/checkpoints/classes.py, to which names can be added"
        raise InputError(f"{source}: found the layer {', '.join(foreign)}; checkpoints may hold those of {listed}")


def build_optimizer(model: nn.Module, name: str, hyp: Hyperparameters, batch_size: int) -> torch.optim.Optimizer:
    """Build the optimizer with weight decay scaled to the batch (biases, decayed weights, normalisation weights)."""
    from utils.torch_utils import smart_optimizer
    from utils.training.schedule import scaled_weight_decay

    decay = scaled_weight_decay(hyp["weight_decay"], batch_size)
    optimizer = smart_optimizer(model, name, hyp["lr0"], hyp["momentum"], decay)
    for group in optimizer.param_groups:
        group["initial_lr"] = hyp["lr0"]
    return optimizer


def check_space(opt: argparse.Namespace, model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Refuse a run whose checkpoints would not fit on the disk that its folder is on (main process).

    Raises:
        InputError: too little free space; names the folder, what is free and what is needed.
    """
    from utils.checkpoint import check_free_space, estimated_size

    if world.is_main:
        folder = Path(opt.project) / opt.name if opt.resume or opt.exist_ok else Path(opt.project)
        others = math.ceil(opt.epochs / opt.save_period) if opt.save_period > 0 else 0
        check_free_space(folder, estimated_size(model, optimizer), others)


def build_loaders(  # noqa: PLR0913, PLR0917 (what the loaders are built from)
    opt: argparse.Namespace,
    hyp: Hyperparameters,
    data: Data,
    imgsz: int,
    stride: int,
    batch_size: int,
    world: World,
    create: Callable[..., tuple[Any, Any]],
    **more: Any,
) -> tuple[Any, Any, Any]:
    """Return the training loader, its data set, and the validation loader (None but on the main process).

    ``batch_size`` is the size per process; ``create`` is ``create_dataloader`` of the task, ``more`` its own options.
    """
    from utils.torch_utils import torch_distributed_zero_first

    with torch_distributed_zero_first(world.local_rank):  # the first process of a machine scans and caches the labels
        loader, dataset = create(
            data.train, imgsz, batch_size, stride, opt.single_cls, hyp=hyp, augment=True,
            cache=None if opt.cache == "val" else opt.cache, rect=opt.rect, rank=world.rank, workers=opt.workers,
            image_weights=opt.image_weights, quad=opt.quad, prefix=colorstr("train: "), shuffle=not opt.rect,
            seed=opt.seed, nc=data.nc, require_labels=True, names=data.names, **more,
        )  # fmt: skip
    dataset.leave_changes = opt.augment_on_device
    if not world.is_main:
        return loader, dataset, None
    val_loader, _ = create(
        data.val, imgsz, batch_size * 2, stride, opt.single_cls, hyp=hyp,
        cache=None if opt.noval else opt.cache, rect=True, rank=-1, workers=opt.workers * 2, pad=0.5,
        prefix=colorstr("val: "), nc=data.nc, **more,
    )  # fmt: skip
    if not opt.noval:
        val_loader.start()  # before training takes its memory
    return loader, dataset, val_loader


def fit_anchors(opt: argparse.Namespace, hyp: Hyperparameters, model: nn.Module, dataset: Any, imgsz: int) -> None:
    """Check that the anchors fit the labels, and replace them when better ones are found."""
    from utils.autoanchor import check_anchors

    if not opt.noautoanchor:
        check_anchors(
            dataset, model=model, thr=hyp["anchor_t"], imgsz=imgsz, rng=make_rng(opt.seed, stream=Stream.ANCHORS)
        )
    model.half().float()  # as checkpoints store them, so that a run starts from what it would save


def attach_facts(model: nn.Module, hyp: Hyperparameters, data: Data, dataset: Any, device: torch.device) -> None:
    """Give the model what its checkpoints carry: classes, scaled settings, upstream's class weights."""
    model.nc = data.nc
    model.hyp = {key: copy.deepcopy(value) for key, value in hyp.to_dict().items()}
    model.hyp["label_smoothing"] = hyp["label_smoothing"]
    weights = labels_to_class_weights(dataset.labels, data.nc) * data.nc
    model.class_weights = torch.as_tensor(weights).to(device)
    model.names = data.names


def claim_run_folder(opt: argparse.Namespace, world: World) -> Path:
    """Make the run's folder on the main process and return it on all.

    No other run can work in it until this one ends, and what a killed one left unfinished there is removed.

    Raises:
        InputErrors: the folder cannot be made, or another run is at work in it.
    """
    from utils.paths import increment_path
    from utils.safe_write import sweep_leftovers
    from utils.training.folder_lock import hold_folder

    problem, folder = None, None
    if world.is_main:
        try:
            folder = str(increment_path(Path(opt.project) / opt.name, exist_ok=opt.exist_ok, mkdir=True))
            (Path(folder) / "weights").mkdir(parents=True, exist_ok=True)
            hold_folder(folder)
            sweep_leftovers(Path(folder))
        except InputError as error:
            problem = str(error)
        except OSError as error:
            problem = f"--project {opt.project} --name {opt.name}: cannot make the run folder: {error.strerror}"
    folder, problem = broadcast_from_main((folder, problem))
    if problem:
        raise InputErrors([problem])
    return Path(folder)


def check_image_size(imgsz: int, stride: int) -> int:
    """Return ``imgsz`` rounded up to a multiple of the stride, at least two strides."""
    from utils.general import check_img_size

    return check_img_size(imgsz, stride, floor=stride * 2)


def choose_batch_size(opt: argparse.Namespace, model: nn.Module, imgsz: int, amp: bool, world: World) -> int:
    """Return the images per process and step; ``--batch-size -1`` measures what fits the GPU (kept in ``opt``)."""
    if opt.batch_size == -1:
        from utils.autobatch import check_train_batch_size

        opt.batch_size = check_train_batch_size(model, imgsz, amp)
    return opt.batch_size // world.size


def wrap_parallel(model: nn.Module, opt: argparse.Namespace, world: World, device: torch.device) -> nn.Module:
    """Wrap the model for distributed training; with --sync-bn batch norm spans all processes.

    Raises:
        InputError: --sync-bn without CUDA.
    """
    from utils.torch_utils import smart_DDP

    if opt.sync_bn and world.is_distributed:
        if device.type != "cuda":
            raise InputError("--sync-bn: allowed with CUDA devices alone")
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return smart_DDP(model) if world.is_distributed else model


def build_criterion(
    loss: Callable[..., Any], model: nn.Module, hyp: Hyperparameters, balance: ClassBalance, world: World, **more: Any
) -> Any:
    """Build a loss of ComputeLoss's kind; with several processes it divides by the matches of all of them."""
    from utils.training.distributed import world_sum

    weights = None if balance.weights is None else balance.weights.values.tolist()
    return loss(
        model,
        hyp=hyp,
        class_weights=weights,
        class_counts=balance.instances.tolist(),
        world_sum=world_sum if world.is_distributed else None,
        **more,
    )


def resizer(opt: argparse.Namespace, imgsz: int, stride: int) -> Any:
    """Return multi-scale's resizing of (images, step), None when it is off."""
    from utils.training.engine import multi_scale

    if not opt.multi_scale:
        return None
    return lambda images, step: multi_scale(images, imgsz, stride, opt.seed, step)
