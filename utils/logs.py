"""The project's logger, set up once by each command."""

from __future__ import annotations

import logging
import os
import sys

LOGGING_NAME = "yolov5"
LOGGER = logging.getLogger(LOGGING_NAME)
TQDM_BAR_FORMAT = "{l_bar}{bar:10}{r_bar}"


def setup_logging(rank: int | None = None, verbose: bool = True) -> None:
    """Send the project's log to stderr: INFO on the main process, errors alone on the others.

    Args:
        rank: this process's rank, -1 without distribution; by default the environment's RANK.
        verbose: False keeps the main process to errors as well.
    """
    rank = int(os.environ.get("RANK", "-1")) if rank is None else rank
    LOGGER.setLevel(logging.INFO if verbose and rank in {-1, 0} else logging.ERROR)
    LOGGER.propagate = False
    if not LOGGER.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(handler)


def colorstr(*values: object) -> str:
    """Wrap text in ANSI codes: ``colorstr("blue", "bold", "text")``; a lone argument is blue and bold."""
    codes = {
        "black": 30, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "white": 37,
        "bright_black": 90, "bright_red": 91, "bright_green": 92, "bright_yellow": 93, "bright_blue": 94,
        "bright_magenta": 95, "bright_cyan": 96, "bright_white": 97, "end": 0, "bold": 1, "underline": 4,
    }  # fmt: skip
    *styles, text = values if len(values) > 1 else ("blue", "bold", values[0])
    return "".join(f"\033[{codes[str(style)]}m" for style in styles) + f"{text}\033[0m"
