"""What can be wrong with a checkpoint file, said on one line whatever characters the file holds."""

from __future__ import annotations

import pickle

from utils.errors import printable

LONGEST = 300


def one_line(text: object) -> str:
    """Return a text without line breaks, terminal controls and invisible characters, shortened where it is long."""
    shown = printable(str(text)[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."


def reason_of(error: BaseException) -> str:
    """Return what an error of torch's loader says, without its advice to load the file unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return "its pickle holds what no checkpoint of YOLOv5 does, or was written with pickle_protocol above 2"
    lines = str(error).strip().splitlines()
    return one_line(lines[0]) if lines else type(error).__name__


class Damaged(Exception):
    """The file is not a whole checkpoint; the message says what it is instead."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class Refused(Exception):
    """The file asks for something that is not allowed; the message names it."""

    def __init__(self, message: str):
        super().__init__(one_line(message))
