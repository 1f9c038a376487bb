"""What the doctor's advice is worth: train without remedies, diagnose, train again with the advice, for several seeds.

python benchmarks/advice.py                                  # the built-in data set parts, 3 seeds, about 35 minutes
python benchmarks/advice.py --data mydata.yaml --rare screw --seeds 0 1 -- --img 640 --epochs 100 --weights yolov5s.pt

Both trainings of a seed have the same options (those after --) and differ in the hyp file alone. The diagnosis is made
on the validation images, on which the AP is measured as well, so the improvement is somewhat optimistic. Finished
trainings in --work are not repeated, stopped ones go on where they stopped. Writes advice.csv there, prints a table.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.errors import run_command  # noqa: E402
from utils.safe_write import make_whole  # noqa: E402

OPTIONS = shlex.split("--weights '' --cfg yolov5n.yaml --img 256 --epochs 27 --optimizer AdamW --cache ram --noval")
COLUMNS = {"map50": "mAP50", "map": "mAP50-95", "ap50": "rare AP50", "ap": "rare AP50-95", "recall": "rare recall",
           "misclassified": "rare taken for others", "missed": "rare missed"}  # fmt: skip


def parse_opt() -> argparse.Namespace:
    """Return the options; those of the trainings follow after ``--``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="parts.yaml", help="data set YAML")
    parser.add_argument("--rare", default="coupling", help="the class that is watched")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "advice", help="folder of the trainings")
    parser.add_argument("training", nargs="*", default=OPTIONS, help="options of train.py, after --")
    return parser.parse_args()


def call(*words: object) -> None:
    """Run a command of the project; its output goes where ours does."""
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, check=True)


def trained(opt: argparse.Namespace, name: str, seed: int, hyp: Path | None) -> Path:
    """Train one arm, or go on with it, and return its run folder."""
    folder = opt.work / name
    last, done = folder / "weights" / "last.pt", folder / "done"
    if done.exists():
        return folder
    if last.exists() and last.with_name("last.pt.sha256").exists():
        call("train.py", "--resume", last)
    else:
        hyps = ["--hyp", hyp] if hyp else []
        where = ["--project", opt.work, "--name", name, "--exist-ok"]
        call("train.py", "--data", opt.data, *opt.training, *hyps, "--seed", seed, *where)
    done.touch()
    return folder


def diagnosed(opt: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Diagnose a trained run with its image size and return the summary."""
    folder = run.parent / f"{run.name}-diagnosis"
    if not (folder / "summary.json").exists():
        imgsz = opt.training[opt.training.index("--img") + 1] if "--img" in opt.training else 640
        where = ["--project", folder.parent, "--name", folder.name, "--exist-ok"]
        weights = run / "weights" / "best.pt"
        tasks = ["--task", "balance", "errors"]
        call("diagnose.py", "--data", opt.data, "--weights", weights, "--imgsz", imgsz, *tasks, *where)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def figures(summary: dict[str, Any], rare: str) -> dict[str, float]:
    """Return the figures of one run: AP in points, recall as a share, counts of the rare class at the threshold."""
    classes = [row for row in summary["errors"]["classes"] if row["n_val"]]
    row = next(row for row in classes if row["name"] == rare)
    whole = {key: statistics.mean(row[ap] for row in classes) for key, ap in (("map50", "ap50"), ("map", "ap"))}
    return {key: float(whole[key] if key in whole else row[key]) for key in COLUMNS}


def says(summary: dict[str, Any]) -> str:
    """Return the doctor's verdict and its lines of advice as text."""
    lines = [f"  {line['rule']} {line['title']}: {line['evidence']}" for line in summary["advice"]["lines"]]
    return "\n".join([" ".join(summary["verdict"]), *lines, f"  changes: {summary['advice']['changes']}"])


def table(rows: list[dict[str, Any]]) -> str:
    """Return one line per run, and mean and standard deviation over the seeds of plain, advice and their difference."""
    text = ["  ".join([f"{'run':<12}", *(f"{name:>21}" for name in COLUMNS.values())])]
    for row in rows:
        text.append(
            "  ".join([f"{row['arm'] + ' ' + str(row['seed']):<12}", *(f"{row[key]:21.3f}" for key in COLUMNS)])
        )
    plain, advice = ([row for row in rows if row["arm"] == arm] for arm in ("plain", "advice"))
    gain = [{key: b[key] - a[key] for key in COLUMNS} for a, b in zip(plain, advice, strict=True)]
    for name, arm in (("plain", plain), ("advice", advice), ("difference", gain)):
        cells = []
        for key in COLUMNS:
            values = [row[key] for row in arm]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{f'{statistics.mean(values):.3f} +- {spread:.3f}':>21}")
        text.append("  ".join([f"{name:<12}", *cells]))
    return "\n".join(text)


def main() -> None:
    """Train, diagnose and train again for every seed, then print the table."""
    opt = parse_opt()
    opt.work = opt.work.resolve()
    opt.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in opt.seeds:
        before = diagnosed(opt, trained(opt, f"plain{seed}", seed, None))
        print(f"seed {seed}: {says(before)}", flush=True)
        advice = opt.work / f"plain{seed}-diagnosis" / "advice.yaml"
        after = diagnosed(opt, trained(opt, f"advice{seed}", seed, advice))
        rows += [{"arm": "plain", "seed": seed, **figures(before, opt.rare)}]
        rows += [{"arm": "advice", "seed": seed, **figures(after, opt.rare)}]
    make_whole(opt.work / "advice.csv", lambda part: write_csv(part, rows))
    print(table(rows))


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows with their names on top."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run_command(main)
