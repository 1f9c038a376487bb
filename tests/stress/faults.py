"""Inject faults into real training runs and prove that each is named and ends well.

python tests/stress/faults.py                    all, about 20 minutes on two idle cores
python tests/stress/faults.py --only disk nan    groups: disk, folders, images, labels, caches, workers, nan, memory,
                                                 checkpoints, together, ranks

For every fault: the run survives and ends like an undisturbed one, or stops (1) or refuses (2) with one line that names
the cause, and after the cause is gone a resumed run ends like an undisturbed one. Inputs stay byte for byte, no
temporary files stay, no checkpoint holds a number that is not finite. Prints a table; exit code 0 only if all held.
Mounts need root on Linux; what is not permitted is listed as not run. --keep FOLDER keeps runs and logs.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from stress import fault_data, fault_list, fault_parts  # noqa: E402
from stress.fault_case import EPOCHS, RUN, Case, Found, run_case, scene  # noqa: E402
from stress.fault_parts import Part  # noqa: E402
from stress.kills import work_folder  # noqa: E402
from stress.reference import print_table  # noqa: E402

GROUPS: dict[str, list[Case | Part]] = {}
for module in (fault_list, fault_data, fault_parts):
    for name, entries in module.GROUPS.items():
        GROUPS.setdefault(name, []).extend(entries)
COLUMNS = ("fault", "injected by", "outcome", "exit", "held", "said")


def undisturbed(folder: Path) -> Path:
    """Run three epochs undisturbed and return the run's folder."""
    place = scene(folder)
    return place.bench.whole(RUN, "--workers", "0").folder


def chosen(groups: list[str], text: str) -> list[Case | Part]:
    """Return the cases of the groups whose description holds a text."""
    cases = [case for group in groups for case in GROUPS[group]]
    found = [
        case for case in cases if text in (f"{case.name} {case.injected}" if isinstance(case, Case) else str(case))
    ]
    if not found:
        raise SystemExit(f"--match {text}: no such case in {', '.join(groups)}")
    return found


def play(cases: list[Case | Part], folder: Path, jobs: int) -> list[Found]:
    """Play the cases and return what came of them, in order."""
    whole = undisturbed(folder / "whole")

    def one(number: int) -> list[Found]:
        case, place = cases[number], folder / f"case{number}"
        try:
            found = [run_case(case, place, whole)] if isinstance(case, Case) else case(place, whole)
        except Exception as error:  # noqa: BLE001 (one case that breaks must not end the others)
            traceback.print_exc()
            found = [Found(str(getattr(case, "name", case)), "", "the test broke", "-", "", [repr(error)])]
        for item in found:
            print(f"{item.name}: {item.outcome}, exit {item.code}{', NOT HELD' * bool(item.problems)}", flush=True)
        return found

    with ThreadPoolExecutor(jobs) as pool:
        return [item for found in pool.map(one, range(len(cases))) for item in found]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--match", default="", help="only cases whose fault or injection holds this text")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--keep", help="folder to keep runs and logs in")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with work_folder(options.keep) as folder:
        found = play(chosen(options.only, options.match), folder, options.jobs)
    print_table(f"faults in runs of {EPOCHS} epochs", COLUMNS, [item.cells() for item in found])
    for item in found:
        for problem in item.problems:
            print(f"NOT HELD: {item.name}: {problem}")
    bad = sum(bool(item.problems) for item in found)
    skipped = sum(item.outcome == "not run" for item in found)
    print(f"{len(found) - bad - skipped} of {len(found)} held, {skipped} not run, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
