"""Time the layers of the stack, from start-up to whole commands, against another YOLOv5 in the same run.

python benchmarks/speed.py --list                                            # what can be timed
python benchmarks/speed.py loss nms --peer ../peer/bin/python                # two layers against PyPI's yolov5
python benchmarks/speed.py all --peer ../peer/bin/python --csv speed.csv     # everything, about an hour
python benchmarks/speed.py step --device 0                                   # without a peer, on a GPU
python benchmarks/speed.py step detect --beside 2 --peer ../peer/bin/python  # while two other processes compute

The peer is an environment of its own with the PyPI package yolov5 (pip install --no-deps yolov5, and what its modules
import). Both sides do equal work, which is checked first: numbers that differ by more than 0.1 % end the run. Turns
alternate, after one that is not counted; medians, the spread of the middle half, and the ratio of the medians (peer /
ours, above 1 is faster here) are printed. Memory is the process's peak for layers, the process tree's for commands.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

from speed_parts.commands import COMMANDS  # noqa: E402
from speed_parts.layers import LAYERS  # noqa: E402
from speed_parts.processes import OURS, Program, Worker, busy_cores  # noqa: E402

TOLERANCE = 1e-3


@dataclass
class Row:
    """One line of the table; times are milliseconds a unit."""

    what: str
    unit: str
    ours: float
    ours_spread: float
    peer: float
    peer_spread: float
    ratio: float
    ours_mb: float
    peer_mb: float
    floor: float
    share: float


def parse_opt() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help="layers and commands, or all")
    parser.add_argument("--list", action="store_true", help="say what can be timed")
    parser.add_argument("--peer", help="python of the peer's environment")
    parser.add_argument("--peer-prefix", default="yolov5.", help="of the peer's modules; '' for a clone in its path")
    parser.add_argument("--rounds", type=int, default=7, help="counted turns of each side")
    parser.add_argument("--datasets", type=Path, default=ROOT.parent / "shared" / "datasets", help="coco128, aquarium")
    parser.add_argument("--weights", type=Path, default=ROOT.parent / "shared" / "weights" / "yolov5n.pt")
    parser.add_argument("--imgsz", type=int, default=640, help="of samples and batches")
    parser.add_argument("--device", default="cpu", help="cpu, or a CUDA device for the model's layers and commands")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="of the commands' loaders")
    parser.add_argument("--ours", default="", help="further options of our command, such as '--weights x.onnx'")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="processes that compute beside all turns")
    parser.add_argument("--csv", type=Path, help="write the table there as well; rows of other layers stay")
    parser.add_argument("--table", type=Path, help="print the table of such a CSV in Markdown, and time nothing")
    return parser.parse_args()


def prepared(opt: argparse.Namespace, folder: Path, program: Program) -> dict[str, Any]:
    """Copy the data sets, so that each side has caches of its own, and return the settings of layers and commands."""
    from utils.yaml_files import read_yaml, write_yaml

    home = folder / program.name
    facts: dict[str, Any] = {"work": str(home), "weights": str(home / opt.weights.name), "imgsz": opt.imgsz}
    for name in ("coco128", "aquarium"):
        shutil.copytree(opt.datasets / name, home / name, ignore=shutil.ignore_patterns("*.npz", "*.cache"))
    shutil.copy(opt.weights, home)
    for key, name in (("val_data", "coco128"), ("train_data", "aquarium")):
        source = next((home / name).glob("*.yaml"))
        write_yaml(source, {**read_yaml(source), "path": str(home / name)})
        facts[key] = str(source)
    images = sorted({p.parent for p in (home / "coco128" / "images").rglob("*.jpg")})[0]
    device = "cuda:" + opt.device if opt.device.isdigit() else opt.device
    return {**facts, "images": str(images), "device": device, "workers": opt.workers}


def give_font(folder: Path) -> None:
    """Put a font where a YOLOv5 looks for its own one before it fetches that from the network, which times nothing."""
    import matplotlib

    folder.mkdir()
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", folder / "Arial.ttf")
    os.environ.setdefault("YOLOV5_CONFIG_DIR", str(folder))


def time_layer(name: str, programs: list[Program], opt: argparse.Namespace, settings: dict, folder: Path) -> Row:
    """Time a layer of all programs in alternating turns."""
    workers = {p.name: Worker(p, name, settings[p.name], folder / f"{name}-{p.name}.log") for p in programs}
    facts = {key: worker.facts for key, worker in workers.items()}
    same_work(name, {key: fact["check"] for key, fact in facts.items()})
    turns: dict[str, list[dict[str, float]]] = {key: [] for key in workers}
    for _ in range(opt.rounds + 1):
        for key, worker in workers.items():
            turns[key].append(worker.turn())
    for worker in workers.values():
        worker.close()
    times = {key: [t["seconds"] / facts[key]["units"] for t in found[1:]] for key, found in turns.items()}
    peaks = {key: max(t["peak"] for t in found) for key, found in turns.items()}
    limits = facts["ours"]["limits"]
    floor = ceilings(opt, settings).floor_seconds(limits) if limits else None
    floor = None if floor is None else floor / facts["ours"]["units"]
    return row(name + conditions(opt), LAYERS[name].unit, times, peaks, floor)


def time_command(name: str, programs: list[Program], opt: argparse.Namespace, settings: dict, folder: Path) -> Row:
    """Time a command of all programs in alternating turns; the first one, not counted, tells the memory."""
    times: dict[str, list[float]] = {p.name: [] for p in programs}
    peaks = dict.fromkeys(times, 0)
    for turn in range(opt.rounds + 1):
        checks = {}
        for program in programs:
            place = folder / f"{name}-{program.name}-{turn}"
            place.mkdir()
            words = opt.ours.split() if program is OURS and name in {"val", "detect", "epoch"} else []
            found = COMMANDS[name].run(program, settings[program.name], place, words, watch=not turn)
            checks[program.name] = found.check
            if turn:
                times[program.name] += found.seconds
            else:
                peaks[program.name] = found.peak
            shutil.rmtree(place)
        same_work(name, checks, tolerance=0.011)
    return row(name + conditions(opt, opt.ours), COMMANDS[name].unit, times, peaks, None)


def conditions(opt: argparse.Namespace, *more: str) -> str:
    """Return what a row's name says beside the layer or command."""
    stated = [*more, f"beside {opt.beside}" if opt.beside else ""]
    return "".join(f" ({text})" for text in stated if text)


def same_work(name: str, checks: dict[str, dict[str, float]], tolerance: float = TOLERANCE) -> None:
    """End the run where the sides' check numbers differ."""
    ours = checks["ours"]
    for key, theirs in checks.items():
        for fact in ours.keys() | theirs.keys():
            a, b = ours.get(fact, math.nan), theirs.get(fact, math.nan)
            if not abs(a - b) <= tolerance * max(abs(a), abs(b), 1e-9):
                raise SystemExit(f"{name}: unequal work: {fact} is {a:g} here and {b:g} for {key}")


_ceilings: list[Any] = []


def ceilings(opt: argparse.Namespace, settings: dict) -> Any:
    """Measure the machine once."""
    if not _ceilings:
        from speed_parts.limits import measure

        _ceilings.append(measure(settings["ours"]["device"]))
    return _ceilings[0]


def row(what: str, unit: str, times: dict[str, list[float]], peaks: dict[str, int], floor: float | None) -> Row:
    """Sum up one layer or command."""
    nan = math.nan
    middle = {key: 1e3 * median(found) for key, found in times.items()}
    spread = {key: 1e3 * _spread(found) for key, found in times.items()}
    peer = next((key for key in times if key != "ours"), None)
    floor_ms = nan if floor is None else 1e3 * floor
    return Row(
        what, unit, middle["ours"], spread["ours"], middle.get(peer, nan), spread.get(peer, nan),
        middle[peer] / middle["ours"] if peer else nan, peaks["ours"] / 1e6, peaks.get(peer, nan) / 1e6,
        floor_ms, floor_ms / middle["ours"],
    )  # fmt: skip


def _spread(times: list[float]) -> float:
    """Return the width of the middle half."""
    if len(times) < 2:
        return math.nan
    quarter = quantiles(times, n=4, method="inclusive")
    return quarter[2] - quarter[0]


def header() -> str:
    """Return the table's heading."""
    return (
        f"{'':<28}{'unit':>11}{'ours ms':>11}{'+-':>8}{'peer ms':>11}{'+-':>8}{'ratio':>7}{'ours MB':>9}{'peer MB':>9}"
        f"{'floor ms':>10}{'share':>7}"
    )


def line(r: Row) -> str:
    """Return one line of the table."""
    return (
        f"{r.what[:28]:<28}{r.unit:>11}{r.ours:11.4g}{r.ours_spread:8.2g}{r.peer:11.4g}{r.peer_spread:8.2g}"
        f"{r.ratio:7.2f}{r.ours_mb:9.0f}{r.peer_mb:9.0f}{r.floor:10.3g}{r.share:7.0%}"
    )


def keep(path: Path, rows: list[Row]) -> None:
    """Write rows into a CSV, in the place of older ones of the same name."""
    from utils.safe_write import write_whole

    old = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    new = {r.what: {k: (f"{v:.6g}" if isinstance(v, float) else v) for k, v in asdict(r).items()} for r in rows}
    merged = {r["what"]: r for r in old} | new
    columns = list(Row.__dataclass_fields__)
    text = [",".join(columns), *(",".join(str(r[c]) for c in columns) for r in merged.values())]
    write_whole(path, ("\n".join(text) + "\n").encode())


def markdown(path: Path) -> str:
    """Return the table of a CSV in Markdown."""
    known = LAYERS | COMMANDS
    lines = [
        "| what | unit | ours ms | peer ms | ratio | ours MB | peer MB | floor ms | share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in csv.DictReader(path.open(encoding="utf-8")):
        ours, peer = (f"{float(r[k]):.4g} ± {float(r[k + '_spread']):.2g}" for k in ("ours", "peer"))
        has_floor = r["floor"] != "nan"
        floor, share = (f"{float(r['floor']):.3g}", f"{float(r['share']):.0%}") if has_floor else ("", "")
        about = known[r["what"].split(" ")[0]].about
        lines.append(
            f"| `{r['what']}`: {about} | {r['unit']} | {ours} | {peer} | {float(r['ratio']):.2f} | "
            f"{float(r['ours_mb']):.0f} | {float(r['peer_mb']):.0f} | {floor} | {share} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Time what was asked for and print the table."""
    opt = parse_opt()
    if opt.table:
        print(markdown(opt.table))
        return
    known = [*LAYERS, *COMMANDS]
    if opt.list or not opt.what:
        for name, item in (LAYERS | COMMANDS).items():
            print(f"{name:<16}{item.about}, per {item.unit}")
        return
    chosen = known if opt.what == ["all"] else opt.what
    if unknown := [name for name in chosen if name not in known]:
        raise SystemExit(f"{', '.join(unknown)}: unknown, allowed are all, {', '.join(known)}")
    programs = [OURS] + ([Program("yolov5", opt.peer, opt.peer_prefix)] if opt.peer else [])
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="speed-"))
        folder = Path(temporary)
        settings = {program.name: prepared(opt, folder, program) for program in programs}
        give_font(folder / "config")
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, device {opt.device}")
        print(header(), flush=True)
        stack.enter_context(busy_cores(opt.beside))
        for name in chosen:
            time_it = time_layer if name in LAYERS else time_command
            rows.append(time_it(name, programs, opt, settings, folder))
            print(line(rows[-1]), flush=True)
            if opt.csv:
                keep(opt.csv, rows)
    if _ceilings:
        print(
            f"ceilings: {_ceilings[0].flops / 1e9:.0f} Gflop/s in float32, {_ceilings[0].bytes / 1e9:.1f} GB/s copied"
        )


if __name__ == "__main__":
    main()
