"""Say what a detector gets wrong, why, and what to change.

python diagnose.py --data mydata.yaml --weights runs/train/exp/weights/best.pt    # errors, advice, report.html
python diagnose.py --data mydata.yaml --task balance labels                       # no model needed
python diagnose.py --data mydata.yaml --pred predictions.json                     # another detector's results
python diagnose.py --data mydata.yaml --weights a.pt --compare b.pt               # what got better, what worse
python diagnose.py --data mydata.yaml --task agreement --labels-b other/labels    # annotators against each other
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve()
ROOT = FILE.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from utils.diagnosis.options import build_parser, default_options  # noqa: E402
from utils.errors import run_command  # noqa: E402


def main(opt: Any) -> Path:
    """Diagnose as the options say and return the run folder.

    Raises:
        InputError: an option or input does not fit; nothing was written.
        WorkError: an output cannot be written, or a test of --fail-on holds.
    """
    from utils.diagnosis.command import diagnose
    from utils.logs import setup_logging

    setup_logging()
    return diagnose(opt, trainer=_train)


def run(**kwargs: Any) -> Path:
    """Diagnose from Python: every option by name, as in ``diagnose.run(data="my.yaml", weights="best.pt")``."""
    return main(default_options(**kwargs))


def _train(**options: Any) -> Any:
    """Train a model for --folds."""
    import train

    return train.run(**options)


if __name__ == "__main__":
    run_command(lambda: main(build_parser().parse_args()))
