"""The names that YOLOv5 users import from here, each forwarded to the module that owns it.

Importing this module imports only light ones; the owner of any other name is imported at the name's first use.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.environment import (
    GitRepo,
    check_font,
    check_git_info,
    check_git_status,
    check_imshow,
    check_online,
    check_python,
    check_requirements,
    check_version,
    git_describe,
    imshow,
    is_colab,
    is_docker,
    is_jupyter,
    is_kaggle,
    is_notebook,
)
from utils.helpers import (
    Profile,
    Timeout,
    TryExcept,
    WorkingDirectory,
    check_img_size,
    clean_str,
    coco80_to_coco91_class,
    emojis,
    file_age,
    file_date,
    file_size,
    get_default_args,
    is_ascii,
    is_chinese,
    methods,
    one_cycle,
    print_args,
    save_one_txt,
    set_logging,
)
from utils.logs import LOGGER, LOGGING_NAME, TQDM_BAR_FORMAT, colorstr
from utils.paths import (
    ROOT,
    check_file,
    check_suffix,
    check_yaml,
    config_dir,
    datasets_dir,
    get_latest_run,
    increment_path,
    is_writeable,
    user_config_dir,
    yaml_load,
    yaml_save,
)

if TYPE_CHECKING:
    import numpy as np

FILE = Path(__file__).resolve()
RANK = int(os.getenv("RANK", "-1"))
NUM_THREADS = min(8, max(1, (os.cpu_count() or 2) - 1))
DATASETS_DIR = datasets_dir()
CONFIG_DIR = config_dir()
AUTOINSTALL = False  # nothing is ever installed; the name stays for code that reads it
FONT = "Arial.ttf"
VERBOSE = True
NCOLS = 80

_FORWARDED = {
    "utils.training.amp": ("check_amp",),
    "utils.augmentations": ("letterbox",),
    "utils.balance.class_weights": ("labels_to_class_weights", "labels_to_image_weights"),
    "utils.boxes": (
        "box_iou", "clip_boxes", "clip_segments", "resample_segments", "scale_boxes", "scale_segments", "segment2box",
        "segments2boxes", "xyn2xy", "xywh2xyxy", "xywhn2xyxy", "xyxy2xywh", "xyxy2xywhn",
    ),
    "utils.checkpoint": ("strip_optimizer",),
    "utils.dataset_yaml": ("check_dataset",),
    "utils.downloads": ("curl_download", "download", "gsutil_getsize", "unzip_file", "url2file"),
    "utils.images": ("imwrite",),
    "utils.metrics": ("fitness",),
    "utils.model_ops": ("make_divisible",),
    "utils.nms": ("non_max_suppression",),
    "utils.second_stage": ("apply_classifier",),
    "utils.torch_utils": ("init_seeds", "intersect_dicts"),
}  # fmt: skip
_LIBRARIES = {
    "cv2": "cv2",
    "np": "numpy",
    "pd": "pandas",
    "torch": "torch",
    "torchvision": "torchvision",
    "yaml": "yaml",
}
_OWNERS = {name: module for module, names in _FORWARDED.items() for name in names}

__all__ = [
    "AUTOINSTALL", "CONFIG_DIR", "DATASETS_DIR", "FILE", "FONT", "LOGGER", "LOGGING_NAME", "NCOLS", "NUM_THREADS",
    "RANK", "ROOT", "TQDM_BAR_FORMAT", "VERBOSE", "GitRepo", "Profile", "Timeout", "TryExcept", "WorkingDirectory",
    "check_file", "check_font", "check_git_info", "check_git_status", "check_img_size", "check_imshow", "check_online",
    "check_python", "check_requirements", "check_suffix", "check_version", "check_yaml", "clean_str",
    "coco80_to_coco91_class", "colorstr", "emojis", "file_age", "file_date", "file_size", "get_default_args",
    "get_latest_run", "git_describe", "imread", "imshow", "increment_path", "is_ascii", "is_chinese",
    "is_colab", "is_docker", "is_jupyter", "is_kaggle", "is_notebook", "is_writeable", "methods", "one_cycle",
    "print_args", "print_mutation", "save_one_txt", "set_logging", "torch_load", "user_config_dir", "yaml_load",
    "yaml_save",
]  # fmt: skip


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import the owner of a forwarded name, or a library that clones' code imports from here, at its first use."""
    if name in _LIBRARIES:
        value = importlib.import_module(_LIBRARIES[name])
    elif name in _OWNERS:
        value = getattr(importlib.import_module(_OWNERS[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_OWNERS})


def imread(filename: str | Path, flags: int = 1) -> np.ndarray | None:
    """Return an image as BGR uint8 (h, w, 3), None when it cannot be read (``utils.images.imread`` says why)."""
    from utils.images import ImageError
    from utils.images import imread as read

    try:
        return read(filename, flags)
    except ImageError:
        return None


def torch_load(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Read a checkpoint with the restricted loader; ``weights_only`` is accepted and always counts as True."""
    from utils.checkpoint import load_checkpoint

    kwargs.pop("weights_only", None)
    return load_checkpoint(*args, **kwargs)


def print_mutation(  # noqa: PLR0913  (inherited signature)
    keys: tuple[str, ...],
    results: tuple[float, ...],
    hyp: dict[str, float],
    save_dir: str | Path,
    bucket: str = "",
    prefix: str = colorstr("evolve: "),
) -> None:
    """Append one generation to ``evolve.csv`` and write the best one so far to ``hyp_evolve.yaml``.

    Args:
        keys: names of the results, the four metrics of the fitness first.
        results: their values.
        hyp: the generation's hyperparameters.
        save_dir: folder of both files.
        bucket: not used (kept for code written for YOLOv5).
        prefix: start of the log lines.
    """
    from utils.evolve_log import append_generation

    append_generation(keys, results, hyp, Path(save_dir), prefix)
