"""One process of tests/test_balance_sweep.py: the training command, killed at a step or writing down what it draws.

python balance_worker.py STEP DRAWS_FOLDER [options of train.py]     (alone, or under torchrun)

STEP is the optimizer step at which SIGKILL strikes, -1 for never. DRAWS_FOLDER, unless "-", gets one JSON of draw
counts per epoch from each process: how often every image was drawn, fillers left out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train  # noqa: E402
from utils.balance.samplers import EpochBatchSampler  # noqa: E402
from utils.callbacks import Callbacks  # noqa: E402
from utils.training.engine import Engine  # noqa: E402


def note_draws(folder: Path) -> None:
    """Have the training loader's batch sampler write what it dealt at the end of an epoch."""
    rank = os.environ.get("RANK", "0")
    deal, train_epoch = EpochBatchSampler.__iter__, Engine.train_epoch
    training: list[EpochBatchSampler] = []

    def noted(self: EpochBatchSampler) -> Iterator[list[Any]]:
        counts: Counter = Counter()
        for number, batch in enumerate(deal(self)):
            counts.update(draw.index for draw in batch[: self.real_count(number)])
            yield batch
        if self in training:
            (folder / f"epoch{self.epoch}_rank{rank}.json").write_text(json.dumps(counts))

    def begin(self: Engine, loader: Any, *rest: Any, **named: Any) -> list[float]:
        training[:] = [loader.batch_sampler]
        return train_epoch(self, loader, *rest, **named)

    EpochBatchSampler.__iter__, Engine.train_epoch = noted, begin


def main(step: int, draws: str, arguments: list[str]) -> None:
    """Run train.py's command."""
    callbacks = Callbacks()
    if step >= 0:

        def strike(model: Any, number: int, *rest: Any) -> None:
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)

        callbacks.register_action("on_train_batch_end", callback=strike)
    if draws != "-":
        note_draws(Path(draws))
    train.main(train.build_parser().parse_args(arguments), callbacks)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
