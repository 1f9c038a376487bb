"""Stop runs by force at random moments and prove that nothing is lost and nothing differs.

python tests/stress/kills.py saves --count 200     SIGKILL while checkpoints are written: each stays readable
python tests/stress/kills.py chains --count 50     1-4 SIGKILLs a run, --resume each time: the end is bit-identical
python tests/stress/kills.py terms --count 30      SIGTERM, SIGINT, two signals: exit code, time, steps lost, same end
python tests/stress/kills.py folders --rounds 20   32 processes at once claim 32 folders, numbered from exp

Each prints a table and ends with 0 only if everything held. About 12, 25, 12 and 1 minutes on two idle cores;
--jobs 2 runs two chains at a time. --seed chooses other moments, --keep FOLDER keeps the runs and logs.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from stress import save_loop  # noqa: E402
from stress.reference import (  # noqa: E402
    Bench,
    Process,
    Whole,
    checkpoint_step,
    differences,
    draw_data,
    is_finished,
    print_table,
    temporary_files,
    write_hyp,
)

MOST_KILLS = 4
EXIT_LIMIT = 10.0  # seconds from a signal to the end
AT_ONCE = 2.0  # seconds from a second signal to the end
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
Variant = tuple[str, ...]


@dataclass
class Row:
    """One line of a table: its cells, and what did not hold."""

    cells: list[object]
    problems: list[str] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)


def variants(bench: Bench) -> dict[str, Variant]:
    """Return the settings that chains go through in turn: name -> options."""
    still = write_hyp(bench.folder / "hyp.still.yaml", mosaic=0.0)
    return {
        "workers 2": ("--workers", "2"),
        "workers 0": ("--workers", "0"),
        "cos-lr": ("--workers", "2", "--cos-lr"),
        "multi-scale": ("--workers", "2", "--multi-scale"),
        "image-weights": ("--workers", "2", "--image-weights"),
        "mosaic 0": ("--workers", "2", "--hyp", str(still)),
        "Adam": ("--workers", "0", "--optimizer", "Adam"),
        "save-steps 3": ("--workers", "2", "--save-steps", "3"),
    }


# saves ---------------------------------------------------------------------------------------------------------------


def saves(bench: Bench, count: int, rng: random.Random, jobs: int = 1) -> list[Row]:
    """Kill ``count`` times while checkpoints are written: a fifth in real runs, the rest in a loop of saves."""
    real = max(1, count // 5)
    rows = [_killed_saves_of_runs(bench, real, rng)]
    last = bench.folder / "sample.pt"
    rows.append(save_loop.killed_loops(last, bench.folder / "loop", count - real, rng))
    return [Row([kind, *cells], problems) for (kind, cells, problems) in rows]


def _killed_saves_of_runs(bench: Bench, count: int, rng: random.Random) -> save_loop.Result:
    """Kill train.py --save-steps 1 while it saves, three times in four, or at any time; resume each time."""
    tally, problems, number, kills = Counter(), [], 0, 0
    stands: int | None = None
    while kills < count:
        name = f"saves{number}"
        weights = bench.run_folder(name) / "weights"
        listing = bench.folder / "listing.txt"
        listing.unlink(missing_ok=True)
        listed = {"do": "list", "at": "on_train_start", "folder": str(weights.parent), "out": str(listing)}
        process = bench.start_or_resume(name, "--workers", "0", "--save-steps", "1", faults=[listed])
        if rng.random() < 0.75:
            inside = _wait_for_save(process, weights, rng.randint(1, 6))
            time.sleep(rng.uniform(0, 0.2))
        else:
            inside = False
            process.sleep(rng.uniform(0.5, 12))
        ended = process.popen.poll() is not None
        process.end_group()
        if ended:
            problems += [f"exit {process.popen.returncode}: {process.tail()}"] * bool(process.popen.returncode)
            number, stands = number + 1, None
            continue
        kills += 1
        tally["while saving"] += bool(inside and temporary_files(weights.parent))
        stray = listing.read_text().split() if listing.exists() else []
        problems += [f"kill {kills}: {name} outlived the next start" for name in stray]
        stands = _check_after_kill(process, weights, stands, f"kill {kills}", problems)
        if (weights / "last.pt").exists() and not (bench.folder / "sample.pt").exists() and stands:
            (bench.folder / "sample.pt").write_bytes((weights / "last.pt").read_bytes())
    return "train.py --save-steps 1", [kills, tally["while saving"], len(problems)], problems


def _wait_for_save(process: Process, weights: Path, windows: int) -> bool:
    """Wait for the beginning of the ``windows``-th save; return whether it came before the process ended."""
    open_before = False
    while process.popen.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            is_open = any(name.startswith(".") for name in os.listdir(weights))
            windows -= is_open and not open_before
            open_before = is_open
        if windows <= 0:
            return True
        time.sleep(0.001)
    return False


def _check_after_kill(
    process: Process, weights: Path, before: int | None, where: str, problems: list[str]
) -> int | None:
    """Load both checkpoints; return the step at which last.pt stands, which may lack one save at most."""
    from utils.checkpoint import load_checkpoint
    from utils.errors import InputError

    stands = None
    for name in ("best.pt", "last.pt"):
        path = weights / name
        try:
            if path.exists():
                content = load_checkpoint(path)
                stands = content["resume"]["step"] if content.get("resume") else None
        except InputError as error:
            problems.append(f"{where}: {error}")
    done = process.steps_done()
    least = max(before or 0, (done or 1) - 1)  # the step before the last one that was marked had been saved
    if not (weights / "last.pt").exists():
        if least > 0:
            problems.append(f"{where}: no last.pt after {done} steps")
        return None
    if stands is not None and stands < least:
        problems.append(f"{where}: last.pt stands at step {stands}, {done} were done")
    return stands


# chains --------------------------------------------------------------------------------------------------------------


def undisturbed(bench: Bench, chosen: dict[str, Variant]) -> None:
    """Run each variant once to its end, unless that was done before; ``bench.wholes`` holds them."""
    for name in [name for name in chosen if name not in bench.wholes]:
        bench.wholes[name] = bench.whole(f"whole {name}".replace(" ", "-"), *chosen[name])
        print(f"undisturbed, {name}: {bench.wholes[name].seconds:.1f} s", flush=True)


def chains(bench: Bench, count: int, rng: random.Random, jobs: int = 1) -> list[Row]:
    """Kill ``count`` runs one to four times each and resume them to their end."""
    chosen = dict(list(variants(bench).items())[:count])
    undisturbed(bench, chosen)
    names = [list(chosen)[k % len(chosen)] for k in range(count)]
    seeds = [rng.getrandbits(32) for _ in names]

    def one(k: int) -> Row:
        return _chain(bench, f"chain{k}", names[k], chosen[names[k]], bench.wholes[names[k]], random.Random(seeds[k]))

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, range(count)))


def _chain(bench: Bench, name: str, label: str, options: Variant, whole: Whole, rng: random.Random) -> Row:
    """Kill one run at random moments, resume each time, and compare its end."""
    wanted, killed, share = rng.randint(1, MOST_KILLS), Counter(), 1.0
    folder = bench.run_folder(name)
    while sum(killed.values()) < wanted:
        process = bench.start_or_resume(name, *options)
        if not process.sleep(rng.uniform(0.02, share) * _seconds_left(folder, whole, bench.epochs)):
            if killed:
                break
            shutil.rmtree(folder)  # it was over before the first kill: once more, with an earlier one
            share *= 0.8
            continue
        killed[process.stage(bench.epochs - 1)] += 1
        if rng.random() < 0.5:
            process.popen.kill()  # its workers find themselves alone
            process.popen.wait()
            time.sleep(0.2)
        process.end_group()
    problems = [f"{name} ({label}): {text}" for text in _finish(bench, name, options, whole)]
    stages = ", ".join(f"{stage} {n}" for stage, n in killed.items())
    verdict = "identical" if not problems else f"{len(problems)} differences"
    return Row([name, label, sum(killed.values()), stages, verdict], problems, killed)


def _finish(bench: Bench, name: str, options: Variant, whole: Whole) -> list[str]:
    """Resume a run to its end unless it is over, and return how it differs from the undisturbed one."""
    folder = bench.run_folder(name)
    if not _is_over(folder):
        process = bench.resume_to_end(name, *options)
        if process.popen.returncode:
            return [f"resumed: exit {process.popen.returncode}: {process.tail()}"]
    return differences(folder, whole.folder, bench.epochs)


def _seconds_left(folder: Path, whole: Whole, epochs: int) -> float:
    """Return about how long the rest of a run takes; half of the whole is start and end, whatever was done before."""
    table = folder / "results.csv"
    done = max(0, table.read_text().count("\n") - 1) if table.exists() else 0
    return whole.seconds * (1 - 0.5 * min(done, epochs) / epochs)


def _is_over(folder: Path) -> bool:
    last = folder / "weights" / "last.pt"
    return last.exists() and is_finished(last)


# terms ---------------------------------------------------------------------------------------------------------------


def terms(bench: Bench, count: int, rng: random.Random, jobs: int = 1) -> list[Row]:
    """Send signals to ``count`` runs: SIGTERM, every fifth SIGINT, every sixth two of one kind; resume to the end."""
    chosen = {"workers 2": ("--workers", "2"), "workers 0": ("--workers", "0"), "save-steps 3": ("--save-steps", "3")}
    chosen = dict(list(chosen.items())[:count])
    undisturbed(bench, chosen)
    names = [list(chosen)[k % len(chosen)] for k in range(count)]
    seeds = [rng.getrandbits(32) for _ in names]

    def one(k: int) -> Row:
        kind = signal.SIGINT if k % 5 == 4 else signal.SIGTERM
        return _term(
            bench,
            f"term{k}",
            names[k],
            chosen[names[k]],
            bench.wholes[names[k]],
            random.Random(seeds[k]),
            kind,
            k % 6 == 5,
        )

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, range(count)))


def _term(  # noqa: PLR0917
    bench: Bench, name: str, label: str, options: Variant, whole: Whole, rng: random.Random,
    kind: signal.Signals, twice: bool,
) -> Row:  # fmt: skip
    """Signal one run at a random moment, look at what it leaves, and resume it to its end."""
    folder = bench.run_folder(name)
    last = folder / "weights" / "last.pt"
    share = 1.0
    while True:  # a run that ends before the signal is started over, for an earlier one
        last.unlink(missing_ok=True)
        process = bench.start(bench.options(name, *options))
        if process.sleep(rng.uniform(0.05, share) * whole.seconds):
            break
        share *= 0.8
    stage, sent = process.stage(bench.epochs - 1), time.monotonic()
    python_alone = not _takes_signals(process.popen.pid)
    os.kill(process.popen.pid, kind) if rng.random() < 0.5 else os.killpg(process.popen.pid, kind)
    if twice:
        time.sleep(rng.uniform(0.02, 0.3))
        sent = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            process.popen.send_signal(kind)
    code = process.wait(60)
    seconds = time.monotonic() - sent
    complete = stage == "closing" and last.exists() and is_finished(last)  # too late to stop anything
    also = ({-kind} if python_alone else set()) | ({0} if complete else set())
    problems = _check_signalled(code, seconds, kind, twice, also)
    done, lost = process.steps_done() or 0, 0
    if not last.exists():
        lost = done
    elif not is_finished(last):
        lost = done - checkpoint_step(last)
    allowed = bench.epochs * 8 if twice else 1  # a second signal gives up what was not saved
    problems += [f"{lost} steps of {done} lost"] * (lost > allowed)
    problems += _finish(bench, name, options, whole)
    what = f"{kind.name}{' twice' if twice else ''}"
    cells = [name, label, what, stage, code, f"{seconds:.1f} s", lost, "identical" if not problems else "see below"]
    return Row(cells, [f"{name} ({label}, {what} at {stage}): {text}" for text in problems], Counter([stage]))


def _takes_signals(pid: int) -> bool:
    """Say whether train.py has the signals: while Python starts and ends, they are its own.

    A shell sees 143 and 130 in both cases.
    """
    if not Path("/proc/self/status").exists():
        return True
    with contextlib.suppress(OSError):  # it has just ended
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return True


def _check_signalled(code: int, seconds: float, kind: signal.Signals, twice: bool, also: set[int]) -> list[str]:
    allowed = {CODES[kind]} | also
    problems = [] if code in allowed else [f"exit {code}, expected {CODES[kind]}"]
    limit = AT_ONCE if twice and code else EXIT_LIMIT  # 0: the run was complete and was let end
    return problems + [f"{seconds:.1f} s to the end, allowed {limit:g}"] * (seconds > limit)


# folders -------------------------------------------------------------------------------------------------------------


def folders(bench: Bench, rounds: int, rng: random.Random, jobs: int = 1) -> list[Row]:
    """Let 32 processes claim their run folder at the same moment, ``rounds`` times."""
    from utils.training import build  # noqa: F401  (loaded before the fork, so that all claim at once)

    rows = []
    for number in range(rounds):
        project = bench.folder / f"round{number}"
        claimed = _claim_together(project, 32)
        expected = {str(project / f"exp{k if k > 1 else ''}") for k in range(1, 33)}
        wrong = sorted(set(claimed) ^ expected)
        problems = [f"round {number}: not claimed once each: {', '.join(wrong)}"] * bool(wrong)
        cells = [number, len(claimed), len(set(claimed)), "no" if wrong else "exp, exp2 ... exp32"]
        rows.append(Row(cells, problems))
    return rows


def _claim_together(project: Path, count: int) -> list[str]:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(count), context.Queue()
    workers = [context.Process(target=_claim, args=(project, barrier, results)) for _ in range(count)]
    for worker in workers:
        worker.start()
    claimed = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    return claimed


def _claim(project: Path, barrier: object, results: object) -> None:
    """Claim a folder as a run does, once all processes are there."""
    from utils.training.build import claim_run_folder
    from utils.training.world import World

    opt = argparse.Namespace(project=str(project), name="exp", exist_ok=False)
    barrier.wait()
    results.put(str(claim_run_folder(opt, World())))


# command -------------------------------------------------------------------------------------------------------------

COMMANDS: dict[str, tuple[Callable[[Bench, int, random.Random, int], list[Row]], tuple[str, ...]]] = {
    "saves": (saves, ("where", "kills", "inside a save", "problems")),
    "chains": (chains, ("run", "settings", "kills", "killed in", "end")),
    "terms": (terms, ("run", "settings", "signal", "while", "exit", "ended in", "steps lost", "resumed")),
    "folders": (folders, ("round", "processes", "folders", "numbered")),
}


@contextlib.contextmanager
def work_folder(keep: str | None) -> Iterator[Path]:
    """Give a folder for the runs, removed afterwards unless one is named."""
    if keep:
        Path(keep).mkdir(parents=True, exist_ok=True)
        yield Path(keep).resolve()
        return
    with tempfile.TemporaryDirectory(prefix="stress-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--count", "--rounds", type=int, default=None, help="how often; 200, 50, 30 and 20 by default")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (chains, terms)")
    parser.add_argument("--keep", help="folder to keep runs and logs in")
    options = parser.parse_args(arguments)
    function, columns = COMMANDS[options.command]
    count = options.count or {"saves": 200, "chains": 50, "terms": 30, "folders": 20}[options.command]
    began = time.monotonic()
    with work_folder(options.keep) as folder:
        bench = Bench(folder, draw_data(folder))
        rows = function(bench, count, random.Random(options.seed), options.jobs)
    print_table(f"{options.command}, seed {options.seed}", columns, [row.cells for row in rows])
    problems = [problem for row in rows for problem in row.problems]
    for problem in problems:
        print(f"NOT HELD: {problem}")
    stages = sum((row.tally for row in rows), Counter())
    if stages:
        print("struck in: " + ", ".join(f"{stage} {n}" for stage, n in stages.most_common()))
    bad = sum(bool(row.problems) for row in rows)
    print(f"{len(rows) - bad} of {len(rows)} rows held, {time.monotonic() - began:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
