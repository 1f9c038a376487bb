"""Export a model in every format that can be written here, and measure each file on a data set.

    python benchmarks.py --weights yolov5s.pt --imgsz 640 --data coco128.yaml

The table has a row per format: size in MB, mAP50-95, milliseconds per image of inference alone. Images are letterboxed
to squares for all formats, PyTorch among them, so that every row sees the same pixels. Files are written beside the
weights. --test exports alone; --hard-fail makes failures, or an mAP50-95 not above a floor, end with status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import InputError, WorkError, run_command
from utils.logs import LOGGER, colorstr, setup_logging

if TYPE_CHECKING:
    import pandas as pd

    from utils.exporting.formats import Format

FILE = Path(__file__).resolve()
ROOT = FILE.parent
COLUMNS = ["Format", "Size (MB)", "mAP50-95", "Inference time (ms)"]
# Names that code written against YOLOv5 imports from here, and the modules that define them.
FORWARDED = {
    "DetectionModel": "models.yolo",
    "SegmentationModel": "models.yolo",
    "attempt_load": "models.experimental",
    "check_yaml": "utils.general",
    "file_size": "utils.general",
    "notebook_init": "utils",
    "print_args": "utils.general",
    "select_device": "utils.torch_utils",
}


def __getattr__(name: str) -> Any:
    """Fetch a forwarded name from its owner at first use, so that --help stays fast."""
    if name not in FORWARDED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(FORWARDED[name]), name)


def run(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    weights: str | Path = ROOT / "yolov5s.pt",
    imgsz: int = 640,
    batch_size: int = 1,
    data: str | Path = ROOT / "data/coco128.yaml",
    device: str = "",
    half: bool = False,
    test: bool = False,
    pt_only: bool = False,
    hard_fail: bool | str | float = False,
    *,
    int8: bool = False,
) -> pd.DataFrame:
    """Export, measure, and return a table with the columns of COLUMNS; formats that cannot run here have NaN.

    Args:
        weights: a checkpoint for detection or segmentation.
        imgsz: side of the images in pixels.
        batch_size: images at a time, also of the exported files.
        data: data set YAML.
        device: 'cpu' or a GPU's number; a GPU where there is one by default.
        half: float16, in the formats that have it.
        test: not used; ``test()`` exports alone.
        pt_only: measure PyTorch alone.
        hard_fail: True: a format that fails ends the run; a number: so does an mAP50-95 that is not above it.
        int8: add a row for each format that can be quantised.

    Raises:
        InputError: an option, the data set or the weights do not fit.
        WorkError: with hard_fail, a format failed or measured too low.
    """
    floor = _floor(hard_fail)
    device, chosen = _device(device)
    rows, started = [], time.perf_counter()
    measure = _measure_of(weights, data, imgsz, batch_size, device, half)
    for row, quantised in _jobs(pt_only, int8):
        title = f"{row.title} int8" if quantised else row.title
        try:
            file = _export(row, weights, imgsz, batch_size, data, device, half, quantised)
            rows.append([title, *measure(file)])
            LOGGER.info(f"{title}: mAP50-95 {rows[-1][2]:.4f}, {rows[-1][3]:.1f} ms")
        except _Unsuitable as reason:
            LOGGER.info(f"{title}: skipped, {reason}")
            rows.append([title, math.nan, math.nan, math.nan])
        except (InputError, WorkError) as error:
            if hard_fail or row.key == "pt":
                raise WorkError(f"{title}: {error}") from error
            LOGGER.warning(f"WARNING {title}: {error}")
            rows.append([title, math.nan, math.nan, math.nan])
    table = _table(rows, COLUMNS)
    _show(table, f"Benchmarks of {weights} on {chosen} at {imgsz} pixels", time.perf_counter() - started)
    _require_floor(table, floor)
    return table


def test(  # noqa: PLR0913, PLR0917  (YOLOv5's signature)
    weights: str | Path = ROOT / "yolov5s.pt",
    imgsz: int = 640,
    batch_size: int = 1,
    data: str | Path = ROOT / "data/coco128.yaml",
    device: str = "",
    half: bool = False,
    test: bool = False,
    pt_only: bool = False,
    hard_fail: bool | str | float = False,
    *,
    int8: bool = False,
) -> pd.DataFrame:
    """Export alone and return a table Format, Export (whether it worked); arguments as of ``run``.

    Raises:
        WorkError: with hard_fail, a format failed.
    """
    device, chosen = _device(device)
    rows, started = [], time.perf_counter()
    for row, quantised in _jobs(pt_only, int8):
        title, worked = f"{row.title} int8" if quantised else row.title, True
        try:
            _export(row, weights, imgsz, batch_size, data, device, half, quantised)
        except _Unsuitable as reason:
            LOGGER.info(f"{title}: skipped, {reason}")
            worked = False
        except (InputError, WorkError) as error:
            if hard_fail:
                raise WorkError(f"{title}: {error}") from error
            LOGGER.warning(f"WARNING {title}: {error}")
            worked = False
        rows.append([title, worked])
    table = _table(rows, ["Format", "Export"])
    _show(table, f"Exports of {weights} on {chosen} at {imgsz} pixels", time.perf_counter() - started)
    return table


class _Unsuitable(Exception):  # noqa: N818  (no error: a reason to leave a format out)
    """A format cannot be written or run on this machine."""


def _jobs(pt_only: bool, int8: bool) -> Iterator[tuple[Format, bool]]:
    """Yield the formats to go through, and whether quantised."""
    from utils.exporting.formats import FORMATS

    for row in FORMATS:
        if row.key == "pt":
            yield row, False
        elif not pt_only:
            yield row, False
            if int8 and "int8" in row.load_exporter().takes:
                yield row, True


def _export(  # noqa: PLR0913, PLR0917  (what one file depends on)
    row: Format, weights: str | Path, imgsz: int, batch_size: int, data: Any, device: str, half: bool, int8: bool
) -> str:
    """Write one format and return its path; the weights themselves for PyTorch.

    Raises:
        _Unsuitable: this machine cannot write or run it.
    """
    if not (row.cpu if device == "cpu" else row.gpu):
        raise _Unsuitable(f"it does not run on {'CPUs' if device == 'cpu' else 'GPUs'} here")
    if row.key == "pt":
        return str(weights)
    exporter = row.load_exporter()
    if missing := exporter.missing():
        raise _Unsuitable(missing)
    import export

    settings = {"half": half and not int8 and "half" in exporter.takes, "int8": int8}
    with _quiet():
        return export.run(
            data=data, weights=weights, imgsz=[imgsz], batch_size=batch_size, device=device, include=[row.argument],
            opset=17, **settings,
        )[-1]  # fmt: skip


def _measure_of(  # noqa: PLR0913, PLR0917  (what a measurement depends on)
    weights: str | Path, data: Any, imgsz: int, batch_size: int, device: str, half: bool
) -> Any:
    """Return a function from a file to (MB, mAP50-95, milliseconds), by the validation of the model's task.

    Raises:
        InputError: the weights are not for detection or segmentation.
    """
    from models.experimental import attempt_load
    from utils.exporting.prepare import facts_of
    from utils.general import file_size

    with _quiet():
        task = facts_of(attempt_load(weights, fuse=False)).task
    if task == "detect":
        from val import run as validate
    elif task == "segment":
        from segment.val import run as validate
    else:
        raise InputError(f"{weights}: made for the task {task}; allowed here are detect and segment")
    place = 3 if task == "detect" else 7

    def measure(file: str) -> tuple[float, float, float]:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            results, _, speed = validate(
                data, file, batch_size=batch_size, imgsz=imgsz, plots=False, device=device, task="speed", half=half,
                project=folder,
            )  # fmt: skip
        return file_size(file), float(results[place]), float(speed[1])

    return measure


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log to warnings for the time of a block."""
    level = LOGGER.level
    LOGGER.setLevel(logging.WARNING)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def _device(device: str) -> tuple[str, str]:
    """Return a device as export.py takes it, 'cpu' or a number, and for people."""
    from utils.torch_utils import select_device

    found = select_device(str(device))
    return ("cpu", "the CPU") if found.type == "cpu" else (str(found.index or 0), f"GPU {found.index or 0}")


def _table(rows: list[list[Any]], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=columns)


def _show(table: pd.DataFrame, title: str, seconds: float) -> None:
    text = table.to_string(index=False, na_rep="-", formatters={c: _shown(c) for c in COLUMNS[1:] if c in table})
    LOGGER.info(f"\n{colorstr('bold', title)} ({seconds:.0f}s)\n{text}")


def _shown(column: str) -> Any:
    digits = {"Size (MB)": 1, "mAP50-95": 4}.get(column, 1)
    return lambda value: f"{value:.{digits}f}"


def _floor(hard_fail: Any) -> float | None:
    """Return the least mAP50-95 that --hard-fail names, None without a number.

    Raises:
        InputError: neither a switch nor a number from 0 to 1.
    """
    if isinstance(hard_fail, bool) or hard_fail is None:
        return None
    try:
        floor = float(hard_fail)
    except ValueError:
        floor = math.nan
    if not 0 <= floor <= 1:
        raise InputError(f"--hard-fail {hard_fail}: expected nothing, or an mAP50-95 from 0 to 1")
    return floor


def _require_floor(table: pd.DataFrame, floor: float | None) -> None:
    """Raise WorkError when a measured mAP50-95 is not above the floor."""
    if floor is None:
        return
    low = table[table["mAP50-95"] <= floor]
    if len(low):
        found = ", ".join(f"{row['Format']} {row['mAP50-95']:.4f}" for _, row in low.iterrows())
        raise WorkError(f"--hard-fail {floor:g}: mAP50-95 is not above it: {found}")


def parse_opt() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=str, default=ROOT / "yolov5s.pt", help="checkpoint")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="side of the images, pixels")
    add("--batch-size", type=int, default=1, help="images at a time")
    add("--data", type=str, default=ROOT / "data/coco128.yaml", help="data set YAML")
    add("--device", default="", help="cpu, or a GPU's number")
    add("--half", action="store_true", help="float16, in the formats that have it")
    add("--test", action="store_true", help="export alone")
    add("--pt-only", action="store_true", help="measure PyTorch alone")
    add("--hard-fail", nargs="?", const=True, default=False, help="fail on errors; a number: also below that mAP50-95")
    add("--int8", action="store_true", help="add a row for each format that can be quantised")
    return parser.parse_args()


def main(opt: argparse.Namespace) -> None:
    """Test the exports, or measure them."""
    from utils.paths import check_file

    setup_logging()
    LOGGER.info(colorstr("benchmarks: ") + ", ".join(f"{key}={value}" for key, value in vars(opt).items()))
    opt.data = check_file(opt.data)
    (test if opt.test else run)(**vars(opt))


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
