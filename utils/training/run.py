"""One training run: its folder, its epochs' ends, its checkpoints and its closing validation."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from utils.balance.image_weights import sampler_weights
from utils.balance.label_counts import drawn_counts
from utils.data.flat_rows import flat_rows
from utils.errors import InputError, WorkError
from utils.hyperparameters import Hyperparameters
from utils.loggers.run_services import open_for_run
from utils.logs import LOGGER, colorstr
from utils.training import build, resume
from utils.training.class_balance import ClassBalance, draw_by
from utils.training.distributed import broadcast_from_main
from utils.training.engine import Engine, StepState
from utils.training.guard import MAX_RETURNS, RATE_AFTER_RETURN, NotFinite
from utils.training.preemption import Interrupted, StopSignals
from utils.training.resume_settings import data_facts
from utils.training.task import Task

PICTURED_BATCHES = 3


@dataclass
class Outcome:
    """What the epochs came to: the last validation's results, the best fitness, the last epoch's number."""

    results: tuple[float, ...]
    best_fitness: float = 0.0
    epoch: int = 0


@dataclass
class Run:
    """Everything a run has, built by ``session.train``; the methods are the run's stages in order."""

    task: Task
    opt: argparse.Namespace
    hyp: Hyperparameters
    as_read: dict[str, Any]  # the hyperparameters as given, before any scaling
    data: build.Data
    model: nn.Module
    engine: Engine
    stopper: Any
    loader: Any
    dataset: Any
    val_loader: Any
    balance: ClassBalance
    imgsz: int
    callbacks: Any
    state: StepState
    signals: StopSignals
    checkpoint: dict[str, Any] | None
    best_fitness: float = 0.0
    maps: np.ndarray = field(default_factory=lambda: np.zeros(0))
    folder: Path = field(default_factory=Path)
    log: Any = None
    services: Any = None
    loss_share: torch.Tensor | None = None  # of the epoch, (nc,)
    beginning: tuple[dict[str, Any], dict[str, Any]] | None = None  # resume block and optimizer state, until last.pt
    save_is_due: bool = False
    digests: dict[str, str] = field(default_factory=dict)  # of images and labels

    @property
    def last(self) -> Path:
        """The checkpoint of the last epoch."""
        return self.folder / "weights" / "last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the epoch with the best fitness."""
        return self.folder / "weights" / "best.pt"

    # Beginning ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Claim the folder, restore a resumed run, write settings and label pictures."""
        self.maps = np.zeros(self.data.nc)
        self.digests = data_facts(self.dataset)
        if self.val_loader is not None:
            self.digests |= data_facts(self.val_loader.dataset, "val_")
        if self.opt.resume:
            self._restore()
        self.checkpoint = None  # it holds a copy of the model
        self.folder = build.claim_run_folder(self.opt, self.engine.world)
        self.opt.save_dir = str(self.folder)
        self.signals.begin_work()
        if not self.engine.world.is_main:
            return
        if not self.opt.resume:
            self.beginning = self._block(None), copy.deepcopy(self.engine.optimizer.state_dict())
        self.callbacks.register_action("on_val_batch_start", "stop signals", self.signals.check)
        self.services = open_for_run(self)
        self._open_log()
        if self.opt.diagnose:
            from utils.diagnosis.epoch_confusions import attach_confusions

            attach_confusions(self)
        self.balance.log()
        self.log.log_table("class_balance", self.balance.text)
        labels = flat_rows(self.dataset.labels)
        if not self.opt.noplots and not self.opt.resume:
            self.task.draw_labels(labels, self.data, self.folder)
        self.callbacks.run("on_pretrain_routine_end", labels, self.data.names)
        LOGGER.info(
            f"Image sizes {self.imgsz} train, {self.imgsz} val\nUsing {self.loader.num_workers} dataloader workers\n"
            f"Logging results to {colorstr('bold', self.folder)}\nStarting training for {self.opt.epochs} epochs..."
        )

    def _open_log(self, again: bool = False) -> None:
        from utils.loggers import RunLogger
        from utils.training.options import plain_options
        from utils.yaml_files import write_yaml

        first = self.state.epoch if self.opt.resume or again else 0
        self.log = RunLogger(
            self.folder, names=self.data.names, resume_epoch=first, plots=not self.opt.noplots,
            resumed=bool(self.opt.resume) or again, columns=self.task.columns, width=self.task.width,
            tensorboard=not self.opt.evolve, services=self.services,
        )  # fmt: skip
        if self.opt.resume or again:
            return
        write_yaml(self.folder / "hyp.yaml", self.as_read)
        write_yaml(self.folder / "opt.yaml", {**plain_options(self.opt), "hyp": self.as_read})
        if self.balance.is_on:
            note = "what the class balance settings came to; hyp: every setting in force, gains scaled to the model"
            facts = self.balance.resolved(self.hyp, self.data.names)
            write_yaml(self.folder / "class_balance.yaml", facts, comment=[note])
        self.log.log_hyp(self.as_read)

    def _facts(self) -> dict[str, Any]:
        """Return what must not change between a run and its resumption."""
        return {
            "names": dict(self.data.names), "world_size": self.engine.world.size, "batch_size": self.opt.batch_size,
            "images": self.dataset.n, "boxes": int(self.balance.instances.sum()), "imgsz": self.imgsz,
            "precision": str(self.engine.amp_dtype or torch.float32), **self.balance.facts(),
            **self.digests,
        }  # fmt: skip

    def _restore(self) -> None:
        from utils.checkpoint import is_finished
        from utils.torch_utils import load_optimizer_state, smart_resume

        path = str(self.opt.weights)
        checkpoint = self.checkpoint or {}
        if is_finished(checkpoint):
            raise InputError(
                f"--resume {path}: its run is finished; allowed is an interrupted one (or --weights {path})"
            )
        engine = self.engine
        if checkpoint.get("optimizer") is not None:
            load_optimizer_state(engine.optimizer, checkpoint["optimizer"])
        block = checkpoint.get("resume")
        if not block:
            LOGGER.warning(f"WARNING {path}: written by another YOLOv5: resumes at its epoch, not bit for bit")
            fitness, epoch, _ = smart_resume(checkpoint, engine.optimizer, engine.ema, path, self.opt.epochs, True)
            self.best_fitness, self.state.epoch = float(np.max(fitness)), epoch
            self.state.step = epoch * len(self.loader)
            self.state.last_optimizer_step = self.state.step - 1
            return
        saved = dict(block["facts"])
        resume.check_facts(path, saved, self._facts(), [*self.dataset.label_files, *self.dataset.im_files])
        self._put_back(block)
        place = f"epoch {self.state.epoch}" + (f", batch {self.state.batch}" if self.state.batch else "")
        LOGGER.info(f"Resuming {path} at {place}, {self.opt.epochs} epochs in all")

    def _put_back(self, block: dict[str, Any]) -> None:
        self.best_fitness = float(block["facts"]["best_fitness"])
        self.maps = np.asarray(block["facts"]["maps"], dtype=np.float64)
        self.state = resume.restore(block, self.model, self.engine, self.stopper)

    # Epochs ------------------------------------------------------------------------------------------------------

    def train_epoch(self, epoch: int) -> list[float]:
        """Train one epoch and return its mean losses."""
        self.callbacks.run("on_train_epoch_start")
        engine = self.engine
        self.state.start_epoch(epoch, engine.device)
        if self.balance.sampler is not None and self.balance.sampler.follows_maps:
            sampler = sampler_weights(self.hyp, self.dataset.labels, self.data.nc, self.maps)
            draw_by(sampler, self.loader, self.dataset, self.hyp["sampler_len"])
        self.loader.set_epoch(epoch, start_batch=self.state.batch)
        engine.criterion.set_epoch(epoch, self.opt.epochs)
        if self.balance.is_on and self.data.nc > 1 and not self.state.batch:
            engine.criterion.track_loss_share()
        losses = engine.train_epoch(self.loader, self.state, self.opt.epochs, self._after_batch)
        self.loss_share = engine.criterion.loss_share()
        self.callbacks.run("on_train_epoch_end", epoch=epoch)
        return losses

    def _after_batch(self, step: int, images: torch.Tensor, batch: Sequence[Any], losses: torch.Tensor) -> None:
        if self.engine.world.is_main:
            self._show_batch(step, images, batch, losses)
        self._pause_if_due()

    def _show_batch(self, step: int, images: torch.Tensor, batch: Sequence[Any], losses: torch.Tensor) -> None:
        self.callbacks.run("on_train_batch_start")
        if step < PICTURED_BATCHES and not self.opt.noplots:
            picture = self.folder / f"train_batch{step}.jpg"
            self.task.draw_batch(images.cpu(), batch, picture, self.data)
            if picture.exists():
                self.log.log_images({picture.stem: picture}, 0)
            if step == 0:
                self.log.log_graph(self.model, (self.imgsz, self.imgsz))
        self.callbacks.run("on_train_batch_end", self.model, step, images, batch[1], batch[2], losses)

    def _pause_if_due(self) -> None:
        """Save after every ``--save-steps`` batches, and save and stop after a signal.

        Between two optimizer steps each of several processes holds gradients of its own: they go on to the next.

        Raises:
            Interrupted: a signal came; the run is saved.
        """
        state, every = self.state, self.opt.save_steps
        last = state.batch == len(self.loader)
        signal_number = self.signals.agreed(last)
        self.save_is_due |= every > 0 and state.batch % every == 0 and not last
        if self.engine.world.size > 1 and state.last_optimizer_step != state.step - 1 and not last:
            return
        if signal_number:
            self.leave(signal_number)
        if self.save_is_due:
            self._save_within_epoch()

    def leave(self, signal_number: int) -> None:
        """Save where the run stands and end it; every process has to call it.

        Raises:
            Interrupted: always.
        """
        if not self.opt.evolve:  # a trial is repeated from its beginning
            self._save_within_epoch()
        if self.log is not None:
            self.log.close()
        raise Interrupted(
            signal_number,
            f"by {signal.Signals(signal_number).name} in epoch {self.state.epoch} after batch {self.state.batch} of "
            f"{len(self.loader)}; go on with: python {self.task.script} --resume {self.last}",
        )

    def _save_within_epoch(self) -> None:
        self.save_is_due = False
        rows = resume.process_rows(self.engine, self.state)
        if self.engine.world.is_main:
            self._save(self.state.epoch - 1, False, rows)

    def go_back(self, problem: NotFinite) -> None:
        """Return to the last checkpoint, or the beginning, with lower rates; every process has to call it.

        Raises:
            WorkError: it has happened too often.
        """
        from utils.torch_utils import load_optimizer_state

        if self.opt.evolve:  # rates that the hyperparameters do not name would count for them
            raise WorkError(str(problem))
        state, has_file = self.state, broadcast_from_main(self.beginning is None)
        place = str(self.last) if has_file else "the beginning"
        if state.returns >= MAX_RETURNS:
            kept = f"the last good checkpoint is {self.last}" if has_file else "no checkpoint was written before it"
            raise WorkError(
                f"{problem}, also after {MAX_RETURNS} returns with lower learning rates; {kept}. Allowed are finite "
                f"losses: a lower lr0, or labels and images without what broke it, may help"
            )
        block, optimizer_state = broadcast_from_main(self._last_good() if self.engine.world.is_main else None)
        kept = {"returns": state.returns + 1, "skipped": state.skipped, "pieces": state.pieces}
        factor = state.rate_factor * RATE_AFTER_RETURN
        self._put_back(block)
        load_optimizer_state(self.engine.optimizer, optimizer_state)
        self.state = dataclasses.replace(self.state, **kept, rate_factor=factor, in_a_row=0)
        LOGGER.warning(
            f"WARNING {problem}: back to {place}, epoch {self.state.epoch}, with {factor:g} times the learning rate "
            f"(return {self.state.returns} of at most {MAX_RETURNS})"
        )
        if self.log is not None:
            self.log.close()
            self._open_log(again=True)

    def _last_good(self) -> tuple[dict[str, Any], dict[str, Any]]:
        from utils.checkpoint import load_checkpoint

        if self.beginning is not None:
            return self.beginning
        checkpoint = load_checkpoint(self.last)
        return checkpoint["resume"], checkpoint["optimizer"]

    def close_epoch(self, epoch: int, losses: list[float], final: bool, outcome: Any) -> bool:
        """Validate, log and save after an epoch (main process only); return whether training should stop."""
        engine, opt = self.engine, self.opt
        rates = [group["lr"] for group in engine.optimizer.param_groups][: len(self.task.rate_columns)]
        engine.ema.update_attr(self.model, include=["yaml", "nc", "hyp", "names", "stride", "class_weights"])
        per_class = self._training_stats() if self.balance.is_on else None
        if not opt.noval or final:
            outcome.results, self.maps, per_class = self._validate(epoch)
        fitness = self.task.fitness(outcome.results)
        stop = self.stopper(epoch=epoch, fitness=fitness) or self.callbacks.stop_training
        is_best = fitness >= self.best_fitness  # a tie goes to the later epoch, as in upstream
        self.best_fitness = outcome.best_fitness = max(self.best_fitness, fitness)  # the best first: NaN is no better
        self.state.epoch, self.state.batch = epoch + 1, 0
        self.log.log_epoch(epoch, losses, list(outcome.results), rates, per_class)
        self.callbacks.run("on_fit_epoch_end", [*losses, *outcome.results, *rates], epoch, self.best_fitness, fitness)
        if not opt.evolve and (not opt.nosave or final or stop):
            self._save(epoch, is_best)
            self.callbacks.run("on_model_save", self.last, epoch, final, self.best_fitness, fitness)
        return stop

    def _validate(self, epoch: int) -> tuple[tuple[float, ...], np.ndarray, Any]:
        pictured = not self.opt.noplots and self.opt.bbox_interval > 0 and epoch % self.opt.bbox_interval == 0
        result = self.task.evaluate(self, pictured)
        if pictured:
            self.log.log_images({p.stem: p for p in sorted(self.folder.glob("val_batch*_pred.jpg"))}, epoch)
        return result.as_tuple(), result.maps(self.data.nc), result.per_class(training_stats=self._training_stats())

    def _training_stats(self) -> dict[str, Any]:
        """Return what this epoch's training did per class, (nc,) each: weights, boxes drawn, share of the class loss.

        Drawn are the boxes of the images of the epoch's order; mosaics and mixup add partners that follow the same
        weights.
        """
        criterion, labels = self.engine.criterion, self.dataset.labels
        stats: dict[str, Any] = {"drawn": drawn_counts(self.loader.batch_sampler.indices, labels, self.data.nc)}
        if self.balance.weights is not None:
            values = self.balance.weights.values
            stats["weight"] = values if criterion.weights_in_force else np.ones_like(values)
        if self.loss_share is not None:
            stats["loss_share"] = self.loss_share
        return stats

    def _block(self, rows: dict[str, Any] | None) -> dict[str, Any]:
        facts = {**self._facts(), "best_fitness": self.best_fitness, "maps": self.maps.tolist()}
        return resume.capture(self.model, self.engine, self.stopper, self.state, facts, rows)

    def _save(self, epoch: int, is_best: bool, rows: dict[str, Any] | None = None) -> None:
        """Write last.pt, and after an epoch (``rows`` is None) best.pt and the epoch's own where they are due."""
        from utils.checkpoint import build_checkpoint, save_checkpoint
        from utils.training.options import plain_options

        engine, block = self.engine, self._block(rows)
        contents = build_checkpoint(
            model=self.model, ema=engine.ema.ema, updates=engine.ema.updates,
            optimizer_state=engine.optimizer.state_dict(), epoch=epoch, best_fitness=self.best_fitness,
            opt={**plain_options(self.opt), "hyp": self.as_read}, resume=block,
        )  # fmt: skip
        if is_best:
            save_checkpoint(self.best, contents)
        if rows is None and self.opt.save_period > 0 and epoch % self.opt.save_period == 0:
            save_checkpoint(self.folder / "weights" / f"epoch{epoch}.pt", contents)
        save_checkpoint(self.last, contents, keep_previous=True)  # at the end: a run stopped before repeats the epoch
        self.beginning = None

    def share_maps(self) -> None:
        """Give every process the main one's mAP per class and its decision state."""
        self.maps = np.asarray(broadcast_from_main(self.maps.tolist()), dtype=np.float64)
        self.stopper.possible_stop = broadcast_from_main(bool(self.stopper.possible_stop))

    # End ---------------------------------------------------------------------------------------------------------

    def finish(self, outcome: Any) -> tuple[float, ...]:
        """Validate best.pt with pictures, strip the checkpoints, close the log; return the final results.

        last.pt is stripped at the very end: until then a killed run can be resumed and is closed as it would have been.
        """
        if not self.engine.world.is_main:
            return outcome.results
        from utils.checkpoint import strip_optimizer, tidy_weights

        results = outcome.results
        if self.best.exists():
            LOGGER.info(f"\nValidating {self.best}...")
            results = self._validate_best()
        closing = f" while the run was being closed; go on with: python {self.task.script} --resume {self.last}"
        self.signals.check(message=closing)
        if not self.opt.noplots:
            self._final_pictures()
        self.signals.check(message=closing)  # from here on the end is a moment away
        for path in (self.best, self.last):
            if path.exists():
                strip_optimizer(path)
        tidy_weights(self.last.parent)  # the file before last.pt served as long as the run could be resumed
        self.log.close()
        self.callbacks.run("on_train_end", self.last, self.best, outcome.epoch, results)
        return results

    def _validate_best(self) -> tuple[float, ...]:
        return self.task.evaluate_best(self)

    def _final_pictures(self) -> None:
        stems = self.task.draw_results(self.folder)
        found = {stem: self.folder / f"{stem}.png" for stem in stems if (self.folder / f"{stem}.png").exists()}
        self.log.log_images(found, self.opt.epochs - 1)
