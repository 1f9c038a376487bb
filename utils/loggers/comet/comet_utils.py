"""What copies of YOLOv5's train.py import from here."""

from __future__ import annotations

import argparse

from utils.errors import InputError

COMET_PREFIX = "comet://"


def check_comet_resume(opt: argparse.Namespace) -> bool:
    """Return False: no run is resumed from Comet, ``--resume`` takes a checkpoint of this machine.

    Raises:
        InputError: ``opt.resume`` names a run at Comet.
    """
    resume = getattr(opt, "resume", False)
    if isinstance(resume, str) and resume.startswith(COMET_PREFIX):
        raise InputError(f"--resume {resume}: runs are not fetched from Comet, allowed is a last.pt on this machine")
    return False
