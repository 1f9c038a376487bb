"""Greeting of a notebook: what it runs on."""

from __future__ import annotations

import os
import platform
import shutil
from types import ModuleType

from utils.logs import LOGGER, setup_logging


def notebook_init(verbose: bool = True) -> ModuleType | None:
    """Log this machine's Python, torch, processors and disk; return IPython's display module, if any."""
    import torch

    setup_logging(rank=-1, verbose=verbose)
    disk = shutil.disk_usage("/")
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
    LOGGER.info("Python %s, torch %s, %s", platform.python_version(), torch.__version__, device)
    LOGGER.info("%s processors, %.1f of %.1f GB disk free", os.cpu_count(), disk.free / 1e9, disk.total / 1e9)
    try:
        from IPython import display
    except ImportError:
        return None
    return display
