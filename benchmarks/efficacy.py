"""What each remedy against class errors is worth: arms x data sets x seeds, trained on equally many images.

python benchmarks/efficacy.py --weights ../shared/weights/yolov5n.pt --dry-run     # how many runs, and how long
python benchmarks/efficacy.py --weights ../shared/weights/yolov5n.pt --jobs 2      # the core arms on three sets
python benchmarks/efficacy.py --arms all --sets all --devices 0 --jobs 8 --img 640 --workers 2 --work runs/large
python benchmarks/efficacy.py --weights ../shared/weights/yolov5n.pt --report      # the page alone, from the CSV file
python benchmarks/efficacy.py --weights ../shared/weights/yolov5n.pt --again focal parts 0

Each run is a train.py and a diagnose.py. Finished runs have a row in the CSV file and are not repeated; a run that was
stopped by a signal or a power cut goes on by --resume when the command is given again. Runs that differ in anything but
the arm's settings (budget, image size, weights, other options) are told apart and never compared. The page's tables are
written between its markers when the grid is through.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from efficacy_parts import report, sets  # noqa: E402
from efficacy_parts.analysis import arm_results  # noqa: E402
from efficacy_parts.arms import ARMS, chosen_arms  # noqa: E402
from efficacy_parts.cells import Cell, PreparedSet, Setup, finish  # noqa: E402
from efficacy_parts.grid import Children, Grid, Stopped, key, ordered_cells  # noqa: E402
from efficacy_parts.results import Results  # noqa: E402

from utils.errors import InputError, MissingFileError, WorkError, run_command  # noqa: E402


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; further options of train.py follow after ``--``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--arms", nargs="+", default=["core"], help="core, all, or names of arms; none is always among them")
    add("--dry-run", action="store_true", help="only say how many runs there are, and measure how long they take")
    add("--again", nargs=3, metavar=("ARM", "SET", "SEED"), help="run a finished cell again and compare bit for bit")
    add_shared_options(parser)
    add("training", nargs="*", help="further options of train.py for every run, after --")
    return parser


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that efficacy_peer.py has, too."""
    add = parser.add_argument
    add("--sets", nargs="+", default=["core"], help="core, all, or names of sets, also others below --datasets")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--weights", type=Path, default=Path("yolov5n.pt"), help="initial weights of every run")
    add("--img", type=int, default=256, help="image size in pixels")
    add("--batch-size", type=int, default=16, help="images a step")
    add("--budget", nargs="+", default=[], metavar="N", help="images that a run sees, for all sets, or SET=N")
    add("--datasets", type=Path, default=ROOT.parent / "shared" / "datasets", help="folder of the sets not drawn here")
    add("--work", type=Path, default=ROOT / "runs" / "efficacy", help="folder of data, runs and logs")
    add("--csv", type=Path, default=ROOT / "docs" / "evidence.csv", help="finished runs, a row each")
    add("--page", type=Path, default=ROOT / "docs" / "evidence.md", help="page with the markers; its .png lies beside")
    add("--jobs", type=int, default=1, help="runs at a time")
    add("--devices", default="cpu", help="cpu, or CUDA devices such as 0 or 0,1, which the runs share evenly")
    add("--threads", type=int, default=1, help="threads of each run on the CPU")
    add("--workers", type=int, default=0, help="loader processes of each training")
    add("--report", action="store_true", help="only write the page and its picture from the CSV file")


def check_options(opt: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        InputError: one is out of range, or a file is missing.
    """
    for name, least in (("img", 32), ("batch_size", 1), ("jobs", 1), ("threads", 1), ("workers", 0)):
        if getattr(opt, name) < least:
            raise InputError(f"--{name.replace('_', '-')} {getattr(opt, name)}: allowed is at least {least}")
    if not opt.weights.is_file():
        raise MissingFileError(f"--weights {opt.weights}: no such file; a released yolov5n.pt is meant")
    devices = opt.devices.split(",")
    if devices != ["cpu"] and not all(one.strip().isdigit() for one in devices):
        raise InputError(f"--devices {opt.devices}: allowed are cpu, or numbers of CUDA devices such as 0,1")
    if min(opt.seeds) < 0 or len(set(opt.seeds)) < len(opt.seeds):
        raise InputError(f"--seeds {' '.join(map(str, opt.seeds))}: allowed are different numbers from 0")


def budgets(words: Sequence[str]) -> dict[str, int]:
    """Return images by set name; the key '' holds for all sets without their own.

    Raises:
        InputError: a word is neither N nor SET=N, N a whole number from 1.
    """
    found = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if not number.isdigit() or int(number) < 1:
            raise InputError(f"--budget {word}: allowed are N and SET=N, N a whole number of images from 1")
        found[name] = int(number)
    return found


def epochs_of(entry: sets.DataSet, images: int, given: dict[str, int]) -> int:
    """Return the epochs in which a training on ``images`` sees the set's budget as nearly as can be."""
    return max(1, round(given.get(entry.name, given.get("", entry.budget)) / images))


def make_setup(opt: argparse.Namespace, children: Children) -> Setup:
    """Return what all runs share."""
    work, weights = opt.work.resolve(), opt.weights.resolve()
    return Setup(work, weights, opt.img, opt.batch_size, opt.threads, opt.workers, tuple(opt.training), children.run)


def hold_work(folder: Path) -> None:
    """Make the work folder, and refuse one that another comparison is using."""
    from utils.logs import setup_logging
    from utils.training.folder_lock import hold_folder

    setup_logging(-1)
    folder.mkdir(parents=True, exist_ok=True)
    hold_folder(folder)


def prepared_sets(opt: argparse.Namespace, setup: Setup) -> list[PreparedSet]:
    """Lay out the chosen sets and return them with their epochs."""
    given, found = budgets(opt.budget), []
    for entry in sets.chosen_sets(opt.sets, opt.datasets):
        yaml = sets.prepare(entry, opt.datasets, setup.work)
        images = sets.count_images(yaml)
        found.append(PreparedSet(entry, yaml, images, epochs_of(entry, images, given)))
    return found


def slots(opt: argparse.Namespace) -> list[str]:
    """Return the device of each run at a time."""
    devices = [one.strip() for one in opt.devices.split(",")]
    return [devices[number % len(devices)] for number in range(opt.jobs)]


# What the command does ------------------------------------------------------------------------------------------------


def run_cells(opt: argparse.Namespace, grid: Grid, children: Children, write: Callable[[], None]) -> None:
    """Work through the grid, then write the page.

    Raises:
        WorkError: runs failed; the others are finished.
    """
    say(f"{grid.asked} runs, {grid.total} of them to do; rows go to {opt.csv}, logs to {opt.work}/runs")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        grid.start(slots(opt))
        failed = grid.wait()
    except (KeyboardInterrupt, Stopped):
        say("stopping; the command given again goes on")
        children.stop()
        grid.wait()
        raise
    write()
    if failed:
        raise WorkError(f"{len(failed)} of {grid.total} runs failed, one of them: {next(iter(failed.values()))}")


def _interrupt(*_: object) -> None:
    raise Stopped("by SIGTERM; give the command again to go on")


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def dry_run(cells: Sequence[Cell], results: Results, devices: Sequence[str]) -> None:
    """Print how many runs there are and how long they will take."""
    from efficacy_parts.estimate import measure

    left = [cell for cell in cells if results.find(key(cell)) is None]
    for data in {cell.data.entry.name: cell.data for cell in cells}.values():
        say(
            f"{data.entry.name}: {data.images} images x {data.epochs} epochs = {data.images * data.epochs} images a run"
        )
    say(f"{len(cells)} runs, {len(left)} of them to do; measuring {len(devices)} at a time ...")
    if left:
        for what, cost in zip(("by the clock", "in CPU time"), measure(left[0], devices), strict=True):
            say(
                f"{what}: {1000 * cost.image:.0f} ms an image and {cost.run:.0f} s beside, "
                f"{cost.seconds(left) / len(left):.0f} s a run, {cost.seconds(left) / len(devices) / 3600:.1f} hours"
            )


def write_report(opt: argparse.Namespace, setup: Setup, results: Results) -> None:
    """Write the page's tables and the picture from the rows whose settings are the present ones."""
    rows = current_rows(results.rows, setup, budgets(opt.budget))
    names = [*sets.SETS, *sorted({row["set"] for row in rows} - set(sets.SETS))]
    order = {name: place for place, name in enumerate([*names, *ARMS])}
    rows.sort(key=lambda row: (order[row["set"]], order[row["arm"]], row["seed"]))
    found = arm_results(rows, names, list(ARMS))
    report.write_page(opt.page, found, rows, len(results.rows) - len(rows), opt.page.with_suffix(".png"))
    say(f"{len(rows)} runs are in {opt.page} and {opt.page.with_suffix('.png')}")


def current_rows(rows: Sequence[dict[str, Any]], setup: Setup, given: dict[str, int]) -> list[dict[str, Any]]:
    """Return the rows that were run with the present settings; no data set is needed to tell."""
    kept = []
    for row in rows:
        if row["arm"] in ARMS:
            entry = sets.SETS.get(row["set"], sets.DataSet(row["set"], ""))
            images = row["images_seen"] // row["epochs"]
            data = PreparedSet(entry, Path(), images, epochs_of(entry, images, given))
            arm = ARMS[row["arm"]]
            if Cell(data, arm, row["seed"], setup, arm.settings()).settings() == row["settings"]:
                kept.append(row)
    return kept


def run_again(opt: argparse.Namespace, setup: Setup, results: Results) -> None:
    """Run one finished cell again, print what differs, and note it in its row.

    Raises:
        InputError: there is no such finished cell.
    """
    from efficacy_parts.again import run_again as compare

    arm, data, seed = opt.again
    if arm not in ARMS or not seed.isdigit():
        raise InputError(f"--again {' '.join(opt.again)}: expected an arm, a set and a seed")
    (prepared,) = prepared_sets(argparse.Namespace(**{**vars(opt), "sets": [data]}), setup)
    cell = Cell(prepared, ARMS[arm], int(seed), setup, ARMS[arm].settings())
    row = results.find(key(cell))
    if row is None:
        raise InputError(f"--again {cell.title}: {opt.csv} has no row of it with these settings")
    told = compare(cell, slots(opt)[0])
    results.add({**row, "again": told})
    say(f"{cell.title}: {told}")


def main() -> None:
    """Carry out what the options ask for."""
    opt = build_parser().parse_args()
    check_options(opt)
    children, results = Children(), Results(opt.csv)
    setup = make_setup(opt, children)
    if opt.report:
        write_report(opt, setup, results)
        return
    hold_work(setup.work)
    if opt.again:
        run_again(opt, setup, results)
        return
    arms = chosen_arms(opt.arms)
    cells = ordered_cells(prepared_sets(opt, setup), arms, opt.seeds, setup)
    if opt.dry_run:
        dry_run(cells, results, slots(opt))
    else:
        grid = Grid(cells, results, finish, say, lambda: children.stopping)
        run_cells(opt, grid, children, lambda: write_report(opt, setup, results))


if __name__ == "__main__":
    run_command(main)
