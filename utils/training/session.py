"""A training session of any task, step by step: settings, data, model, optimizer, loaders, loss, then the epochs."""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from utils.data.device_augment import with_changes
from utils.logs import LOGGER
from utils.torch_utils import EarlyStopping, ModelEMA, init_seeds
from utils.training import build
from utils.training.compiled import compile_network
from utils.training.distributed import broadcast_from_main
from utils.training.engine import Engine, StepState
from utils.training.guard import NotFinite, RunningStatistics
from utils.training.options import fill_missing
from utils.training.preemption import Interrupted, StopSignals
from utils.training.run import Outcome, Run
from utils.training.task import Task
from utils.training.world import World


def train(
    task: Task, hyp: Any, opt: argparse.Namespace, device: torch.device, callbacks: Any, signals: Any = None
) -> tuple[float, ...]:
    """Train one model from checked options to its final validation.

    Args:
        task: what is trained.
        hyp: hyperparameter YAML path, mapping, or Hyperparameters.
        opt: options as ``utils.training.command.prepare`` leaves them; shared ones that the task's command lacks are
            added with the values that switch them off.
        device: where to train.
        callbacks: utils.callbacks.Callbacks whose hooks are run.
        signals: utils.training.preemption.StopSignals at watch, None where no signal is to stop the run.

    Returns:
        The final validation's values, in the order of ``task.result_columns``.
    """
    world = World.from_environment()
    fill_missing(opt)
    callbacks.run("on_pretrain_routine_start")
    hyp = task.load_settings(hyp, opt)
    as_read = hyp.to_dict()
    data = task.load_data(opt)
    hyp = task.resolve_settings(hyp, opt, data)
    init_seeds(opt.seed, deterministic=True)

    checkpoint = build.load_weights(str(opt.weights), opt.cfg, bool(opt.resume))
    model = task.build_model(opt, checkpoint, data, hyp, device)
    build.check_layers(model, str(opt.cfg or getattr(opt, "model", "") or opt.weights))
    model = model.to(memory_format=torch.channels_last)  # the faster layout of convolutions, on the CPU as well
    build.freeze_layers(model, opt.freeze)
    amp_dtype = task.choose_dtype(model, device)
    stride = max(int(model.stride.max()), 32)
    imgsz = task.image_size(opt.imgsz, stride)
    batch_size = build.choose_batch_size(opt, model, imgsz, amp_dtype is not None, world)
    optimizer = task.build_optimizer(model, opt, hyp, batch_size * world.size)
    build.check_space(opt, model, optimizer, world)
    ema = ModelEMA(model) if world.is_main else None

    loader, dataset, val_loader = task.build_loaders(opt, hyp, data, imgsz, stride, batch_size, world)
    balance = task.balance_classes(hyp, data, loader, dataset)
    hyp = task.fit_model(opt, hyp, data, model, dataset, imgsz, world.is_main and not opt.resume)
    statistics = RunningStatistics(model)
    criterion = task.build_criterion(model, opt, hyp, balance, world)
    if opt.compile:
        compile_network(model, (batch_size, 3, imgsz, imgsz), amp_dtype, statistics, criterion=criterion)
    parallel = build.wrap_parallel(model, opt, world, device)
    feed = with_changes(task.feed) if opt.augment_on_device else task.feed
    engine = Engine(
        parallel, criterion, optimizer,
        task.build_schedule(opt, hyp, len(loader), batch_size * world.size),
        torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16), ema, device, world, amp_dtype,
        4.0 if opt.quad else 1.0, build.resizer(opt, imgsz, stride), statistics, feed, task.losses,
    )  # fmt: skip
    run = Run(
        task=task, opt=opt, hyp=hyp, as_read=as_read, data=data, model=model, engine=engine,
        stopper=EarlyStopping(patience=opt.patience), loader=loader, dataset=dataset, val_loader=val_loader,
        balance=balance, imgsz=imgsz, callbacks=callbacks,
        state=StepState(loss_sum=torch.zeros(len(task.losses), device=device)),
        signals=signals or StopSignals(), checkpoint=checkpoint,
    )  # fmt: skip
    del checkpoint
    try:
        run.begin()
        return run.finish(run_epochs(run))
    finally:
        if run.services is not None:
            run.services.close(failed=True)  # a run that came to its end has closed them


def run_epochs(run: Run) -> Outcome:
    """Train, validate, log and save, epoch by epoch."""
    opt, first, world = run.opt, run.state.epoch, run.engine.world
    outcome = Outcome((0.0,) * len(run.task.result_columns), run.best_fitness, first - 1)
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
        final = epoch + 1 == opt.epochs or run.stopper.possible_stop or run.callbacks.stop_training
        signal_number = 0
        if world.is_main:
            try:
                stop = run.close_epoch(epoch, losses, final, outcome)
            except Interrupted as interruption:
                signal_number = interruption.number
        stop, signal_number = broadcast_from_main((stop, signal_number))
        if signal_number:
            run.leave(signal_number)
        run.share_maps()
        epoch += 1
    if world.is_main and outcome.epoch >= first:
        hours = (time.time() - start) / 3600
        LOGGER.info(f"\n{max(outcome.epoch - first + 1, 0)} epochs completed in {hours:.3f} hours.")
    return outcome
