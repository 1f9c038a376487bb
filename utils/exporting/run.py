"""One export: options checked, the model loaded once, each format written, run again, compared, and put in place."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.errors import InputError, InputErrors, WorkError
from utils.exporting.base import Exporter, ExportOptions, Job
from utils.exporting.formats import BY_ARGUMENT, Format, exportable
from utils.helpers import file_size
from utils.logs import LOGGER, colorstr
from utils.safe_write import part_beside

PER_FORMAT = ("half", "int8", "dynamic", "nms", "optimize", "keras", "per_tensor", "simplify", "mlmodel")


def export_all(weights: str | Path, options: ExportOptions) -> list[Path]:
    """Write every format of the options beside the weights and return the paths.

    Raises:
        InputError: an option, a missing package, or weights that do not fit; nothing was written.
        WorkError: a format could not be written or gives other results than PyTorch; its file is absent or as it was,
            and the other formats are there.
    """
    from utils.downloads import attempt_download
    from utils.exporting.prepare import example_batch, load_network, make_job
    from utils.general import check_img_size
    from utils.torch_utils import select_device

    rows = check_options(options)
    device = select_device(options.device)
    file = Path(attempt_download(weights))
    if file.suffix != ".pt":
        raise InputError(f"--weights {file}: exports are made from checkpoints; allowed are .pt files")
    network = load_network(file, device, options.inplace, options.dynamic)
    stride = int(getattr(network, "stride", None).max()) if getattr(network, "stride", None) is not None else 32
    options = replace(options, imgsz=tuple(check_img_size(list(options.imgsz), s=stride)))
    job = make_job(network, example_batch(options.imgsz, options.batch_size, device), file, options)
    check_model(job, rows)
    shapes = ", ".join(str(tuple(y.shape)) for y in job.expected)
    LOGGER.info(f"\n{colorstr('PyTorch:')} starting from {file} with output shape {shapes} ({file_size(file):.1f} MB)")
    return _write_formats(job, rows)


def _write_formats(job: Job, rows: list[Format]) -> list[Path]:
    """Write the formats one after the other; one that fails does not keep the others from being written."""
    paths, failed = [], []
    for row in rows:
        try:
            paths.append(write_format(job, row)[0])
            job.made[row.argument] = paths[-1]
        except WorkError as error:
            LOGGER.error(f"{colorstr('red', row.title)}: {error}")
            failed.append(f"{row.argument}: {error}")
    if failed:
        raise WorkError(
            f"{len(failed)} of {len(rows)} formats could not be exported from {job.file}: {'; '.join(failed)}"
        )
    return paths


def write_format(job: Job, row: Format) -> tuple[Path, Any]:
    """Write one format, check it against PyTorch, put it in place, and return its path and the format's own model.

    It is made in a folder of its own beside the weights and takes its name when it is whole and right.

    Raises:
        WorkError: it could not be written, or differs from PyTorch; what was there before is unchanged.
    """
    exporter: Exporter = row.load_exporter()
    job = replace(job, options=_taken(job.options, exporter))
    name = exporter.target_name(job.file.stem, row.suffix, job.options)
    final, started = job.file.with_name(name), time.perf_counter()
    LOGGER.info(f"\n{colorstr(f'{row.title}:')} starting export...")
    with _workshop(final) as folder:
        try:
            model = exporter.write(job, folder / name)
        except OSError as error:
            raise WorkError(f"{final} cannot be written: {error.strerror or error}") from error
        said = exporter.check(job, folder / name)
        try:
            put_in_place(folder / name, final)
        except OSError as error:
            raise WorkError(f"{final} cannot be written: {error.strerror or error}") from error
    seconds = time.perf_counter() - started
    LOGGER.info(f"{colorstr(f'{row.title}:')} {said}")
    LOGGER.info(f"{colorstr(f'{row.title}:')} {seconds:.1f}s, saved as {final} ({file_size(final):.1f} MB)")
    return final, model


def _taken(options: ExportOptions, exporter: Exporter) -> ExportOptions:
    """Return the options with those off that have no effect on a format, so that its file does not claim them."""
    return replace(options, **{key: False for key in PER_FORMAT if key not in exporter.takes})


@contextlib.contextmanager
def _workshop(final: Path) -> Iterator[Path]:
    """Give an empty folder beside the file to be, removed at the end with what is left in it."""
    folder = part_beside(final)
    try:
        folder.mkdir()
    except OSError as error:
        raise WorkError(f"{final} cannot be written: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(made: Path, final: Path) -> None:
    """Move a whole file or folder to its name; an older one of that name goes last, and comes back on failure."""
    if not final.is_dir() and made.is_file():
        os.replace(made, final)
        return
    old = part_beside(final)
    if final.exists():
        os.replace(final, old)
    try:
        os.replace(made, final)
    except BaseException:
        if old.exists():
            os.replace(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)


# Checks ---------------------------------------------------------------------------------------------------------------


def check_options(options: ExportOptions) -> list[Format]:
    """Refuse options that do not go together, all of them at once, and return the formats in the table's order.

    Raises:
        InputErrors: one line per problem.
    """
    allowed = ", ".join(row.argument for row in exportable())
    problems = [
        f"--include {name}: unknown format; allowed are {allowed}"
        for name in options.include
        if name not in BY_ARGUMENT
    ]
    if not options.include:
        problems.append(f"--include: no format given; allowed are {allowed}")
    problems += _number_problems(options) + _pair_problems(options)
    rows = [row for row in exportable() if row.argument in options.include]
    exporters = [row.load_exporter() for row in rows]
    for row, exporter in zip(rows, exporters, strict=True):
        missing = exporter.missing()
        problems += [f"--include {row.argument}: {missing}"] if missing else exporter.problems(options)
    problems += _without_effect(options, rows, exporters)
    if problems:
        raise InputErrors(dict.fromkeys(problems))
    return rows


def check_model(job: Job, rows: list[Format]) -> None:
    """Refuse a model that does not suit the options or a format.

    Raises:
        InputErrors: one line per problem.
    """
    problems = [problem for row in rows for problem in row.load_exporter().check_model(job)]
    if job.options.nms and job.facts.task == "classify":
        problems.append(f"--nms: {job.file} tells classes of whole images, which have no boxes; export without --nms")
    if problems:
        raise InputErrors(problems)


def _number_problems(options: ExportOptions) -> list[str]:
    problems = []
    for key in ("batch_size", "topk_per_class", "topk_all"):
        if getattr(options, key) < 1:
            problems.append(f"--{key.replace('_', '-')} {getattr(options, key)}: expected a whole number from 1")
    for key in ("iou_thres", "conf_thres"):
        if not 0 <= getattr(options, key) <= 1:
            problems.append(f"--{key.replace('_', '-')} {getattr(options, key)}: expected a number from 0 to 1")
    if len(options.imgsz) != 2 or min(options.imgsz) < 1:
        shown = " ".join(map(str, options.imgsz))
        problems.append(f"--imgsz {shown}: expected one side, or height and width, of at least 1 pixel")
    return problems


def _pair_problems(options: ExportOptions) -> list[str]:
    problems = []
    if options.half and options.dynamic:
        problems.append("--half with --dynamic: allowed is one of them")
    if options.half and options.int8:
        problems.append("--half with --int8: allowed is one of them")
    return problems


def _without_effect(options: ExportOptions, rows: list[Format], exporters: list[Exporter]) -> list[str]:
    """Return a problem for each option that none of the formats takes; log those that only some take."""
    problems = []
    for key in PER_FORMAT:
        if not getattr(options, key) or not rows:
            continue
        without = [row.argument for row, exporter in zip(rows, exporters, strict=True) if key not in exporter.takes]
        flag = f"--{key.replace('_', '-')}"
        if len(without) == len(rows):
            problems.append(f"{flag} has no effect on {', '.join(without)}; {_takers(key)}")
        elif without:
            LOGGER.warning(f"WARNING {flag} has no effect on {', '.join(without)}")
    return problems


def _takers(key: str) -> str:
    takers = [row.argument for row in exportable() if key in row.load_exporter().takes]
    return f"formats that take it: {', '.join(takers)}" if takers else "no format of this version takes it"
