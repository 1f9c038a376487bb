"""What Ultralytics' own remedy, cls_pw, is worth on its yolov5nu, measured as efficacy.py measures ours.

python benchmarks/efficacy_peer.py --weights ../shared/weights/yolov5n.pt --peer ../peer/bin/python --jobs 2
python benchmarks/efficacy_peer.py --report                                        # the page alone, from the CSV file

The peer is an environment of its own with the PyPI package ultralytics, of a release that knows cls_pw (8.4.190 does).
Its yolov5nu has the layers of yolov5n but for the head. Its released weights are not needed: both arms begin with the
backbone and neck of --weights and a random head. Data, images seen, image size, batch and seeds are efficacy.py's, all
other settings the peer's. It writes its predictions, and diagnose.py measures them. Finished runs have a row in the CSV
file and are not repeated.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
from typing import Any

import efficacy  # finds the project, too
from efficacy_parts import peer, report, sets
from efficacy_parts.analysis import arm_results
from efficacy_parts.grid import Children, Grid
from efficacy_parts.results import Results

from utils.errors import InputError, run_command


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: the options of efficacy.py that hold here as well, and the peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="python of the peer's environment")
    efficacy.add_shared_options(parser)
    parser.set_defaults(
        work=efficacy.ROOT / "runs" / "efficacy-peer", csv=efficacy.ROOT / "docs" / "evidence-peer.csv", training=[]
    )
    return parser


def make_setup(opt: argparse.Namespace, children: Children) -> peer.PeerSetup:
    """Return what all runs share.

    Raises:
        InputError: there is no Ultralytics in the peer's environment.
    """
    if not opt.peer:
        raise InputError("--peer: missing; expected the python of an environment with ultralytics")
    python = os.path.abspath(shutil.which(opt.peer) or opt.peer)  # no link is followed: an environment's python is one
    shared = vars(efficacy.make_setup(opt, children))
    theirs = functools.partial(children.run, python=python)
    return peer.PeerSetup(**shared, version=peer.version_of(python), run_peer=theirs)


def make_cells(opt: argparse.Namespace, setup: peer.PeerSetup) -> list[peer.PeerCell]:
    """Return all runs, seed after seed, with the peer's copies of the sets laid out."""
    prepared = efficacy.prepared_sets(opt, setup)
    for data in prepared:
        peer.prepare_for_peer(data, opt.datasets, setup)
    return [
        peer.PeerCell(data, arm, seed, setup, arm.hyp)
        for seed in opt.seeds
        for data in prepared
        for arm in peer.ARMS.values()
    ]


def write_report(opt: argparse.Namespace, results: Results) -> None:
    """Write the page's section from the latest row of each set, arm and seed."""
    latest: dict[Any, dict[str, Any]] = {(row["set"], row["arm"], row["seed"]): row for row in results.rows}
    rows = list(latest.values())
    if not rows:
        efficacy.say(f"{opt.csv} has no rows, {opt.page} stays as it is")
        return
    names = [*sets.SETS, *sorted({row["set"] for row in rows} - set(sets.SETS))]
    report.write_peer_section(opt.page, arm_results(rows, names, list(peer.ARMS)), rows)
    efficacy.say(f"{len(rows)} runs are in {opt.page}")


def main() -> None:
    """Carry out what the options ask for."""
    opt = build_parser().parse_args()
    results = Results(opt.csv)
    if opt.report:
        write_report(opt, results)
        return
    efficacy.check_options(opt)
    children = Children()
    setup = make_setup(opt, children)
    efficacy.hold_work(setup.work)
    peer.write_state(setup.weights, setup.state)
    cells = make_cells(opt, setup)
    grid = Grid(cells, results, peer.finish, efficacy.say, lambda: children.stopping)
    efficacy.run_cells(opt, grid, children, lambda: write_report(opt, results))


if __name__ == "__main__":
    run_command(main)
