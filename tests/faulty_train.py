"""train.py with a fault: python faulty_train.py POINT ACTION RANK TRAIN_ARGUMENTS...

At POINT (scan: the labels are about to be read; step: the third batch; val: the validation after an epoch; save: the
checkpoint after it) the process of RANK is killed, or raises an error that nobody expects. The time is printed.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import train  # noqa: E402
import utils.checkpoint  # noqa: E402
import utils.evaluation  # noqa: E402
import utils.labels  # noqa: E402
from utils.errors import run_command  # noqa: E402
from utils.training.distributed import report_failure  # noqa: E402
from utils.training.engine import Engine  # noqa: E402

POINTS = {
    "scan": (utils.labels, "scan_labels", 0),
    "step": (Engine, "_step", 2),
    "val": (utils.evaluation, "evaluate", 0),
    "save": (utils.checkpoint, "save_checkpoint", 0),
}


def plant(point: str, action: str, rank: int) -> None:
    """Replace a function by one that fails at the call with the point's number."""
    owner, name, number = POINTS[point]
    real, calls = getattr(owner, name), []

    def faulty(*args, **kwargs):
        calls.append(0)
        if len(calls) > number and int(os.environ.get("RANK", "-1")) == rank:
            print(f"struck at {time.monotonic()}", flush=True)
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(f"planted in {point}")
        return real(*args, **kwargs)

    setattr(owner, name, faulty)
    for module in list(sys.modules.values()):  # those that imported it by name
        if getattr(module, name, None) is real:
            setattr(module, name, faulty)


def main() -> None:
    """Plant the fault and train."""
    import utils.dataset  # noqa: F401  (imports scan_labels)

    plant(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    real = train.train

    def reporting(*args, **kwargs):
        try:
            return real(*args, **kwargs)
        except BaseException as error:
            report_failure(error)
            raise

    train.train = reporting
    train.main(train.build_parser().parse_args(sys.argv[4:]))


if __name__ == "__main__":
    run_command(main)
