"""Class balance in whole runs: weights and samplers take effect, resume bit for bit, and refuse what cannot be."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train
from utils.balance.image_weights import sampler_weights
from utils.balance.label_counts import drawn_counts
from utils.balance.samplers import EpochBatchSampler, replacement_order, weighted_order
from utils.callbacks import Callbacks
from utils.checkpoint import load_checkpoint
from utils.errors import InputError, InputErrors
from utils.logs import LOGGER
from utils.yaml_files import read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[1]
LOW = ROOT / "data/hyps/hyp.scratch-low.yaml"
TINY = {
    "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0, "epochs": 1,
    "noplots": True,
}  # fmt: skip
SAMPLERS = ("repeat_factor", "instance_repeat_factor", "class_balanced", "sqrt", "image_weights")
GREEN, BLUE = 8, 4  # training labels of tiny_data, whose odd images hold both colours


class Interrupted(Exception):
    """Stands for the end of a process at the end of an epoch."""


def hyp_with(**changes: Any) -> dict[str, Any]:
    return {**read_yaml(LOW), **changes}


def run(data: Path, folder: Path, name: str = "exp", **options: Any) -> Path:
    """Train in this process and return the run's folder."""
    return Path(train.run(data=str(data), project=str(folder / "runs"), name=name, **{**TINY, **options}).save_dir)


def table(folder: Path, column: str) -> list[float]:
    with (folder / "per_class.csv").open() as file:
        return [float(row[column]) for row in csv.DictReader(file, skipinitialspace=True)]


@pytest.fixture
def run_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Return caplog with the project's log in it, whatever an earlier command set up."""
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    propagates, LOGGER.propagate = LOGGER.propagate, False
    LOGGER.addHandler(caplog.handler)
    yield caplog
    LOGGER.removeHandler(caplog.handler)
    LOGGER.propagate = propagates


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect the ClassBalance of every run that begins."""
    from utils.training.run import Run

    seen: list[Any] = []
    begin = Run.begin

    def watch(self: Run) -> None:
        seen.append(self)
        begin(self)

    monkeypatch.setattr(Run, "begin", watch)
    return seen


# Samplers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_trains_and_draws_what_it_says(
    sampler: str, tiny_data: Path, tmp_path: Path, monkeypatch
) -> None:
    """The boxes that per_class.csv counts are those of the order, which follows from weights, seed and epoch alone."""
    seen = watched(monkeypatch)
    folder = run(tiny_data, tmp_path, hyp=hyp_with(sampler=sampler, sampler_t=0.9 if "repeat" in sampler else "auto"))
    labels = seen[0].dataset.labels
    weights = seen[0].balance.sampler.images
    draw = replacement_order if sampler == "image_weights" else weighted_order
    assert table(folder, "drawn") == drawn_counts(draw(weights, 0, 0), labels, 2).tolist()
    assert seen[0].dataset.partner_weights is not None
    resolved = read_yaml(folder / "class_balance.yaml")
    assert any(line.startswith(f"sampler: {sampler}") for line in resolved["remedies"])
    assert resolved["classes"]["blue"]["instances"] == BLUE


def test_a_longer_epoch(tiny_data: Path, tmp_path: Path, monkeypatch) -> None:
    """t = 1: blue is in half of the images, r = √2, so an epoch has about 4 + 4·√2 draws."""
    seen = watched(monkeypatch)
    run(tiny_data, tmp_path, hyp=hyp_with(sampler="repeat_factor", sampler_t=1.0, sampler_len="expand"))
    order = seen[0].loader.batch_sampler.indices
    assert np.array_equal(order, weighted_order(seen[0].balance.sampler.images, 0, 0, "expand"))
    counts = np.bincount(order, minlength=8)
    assert all(counts[i] == 1 if len(seen[0].dataset.labels[i]) == 1 else counts[i] in {1, 2} for i in range(8))


@pytest.mark.parametrize("options", [{"cache": "ram"}, {"quad": True}, {"image_weights": True}], ids=str)
def test_samplers_go_with(options: dict[str, Any], tiny_data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = watched(monkeypatch)
    sampler = "none" if "image_weights" in options else "class_balanced"
    run(tiny_data, tmp_path, hyp=hyp_with(sampler=sampler), **options)
    expected = "image_weights" if "image_weights" in options else sampler
    assert seen[0].balance.sampler.scheme == expected


def test_without_remedies_nothing_is_drawn_twice(tiny_data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = watched(monkeypatch)
    folder = run(tiny_data, tmp_path)
    assert table(folder, "drawn") == [GREEN, BLUE]
    assert not seen[0].balance.is_on and seen[0].dataset.partner_weights is None
    assert not (folder / "class_balance.yaml").exists()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("length", ["fixed", "expand"])
def test_processes_together_draw_what_one_draws(sampler: str, length: str) -> None:
    """23 images in batches of 8: one, two and four processes, epoch by epoch, as multisets."""
    rng = np.random.default_rng(3)
    labels = [np.c_[rng.integers(0, 3, n), np.full((n, 4), 0.5)] for n in rng.integers(0, 4, 23)]
    sampler_ = sampler_weights({"sampler": sampler, "sampler_t": 0.7}, labels, 3)
    draw = replacement_order if sampler_.follows_maps else (lambda w, s, e: weighted_order(w, s, e, length))
    for epoch in (0, 5):
        drawn = []
        for world in (1, 2, 4):
            shares: Counter = Counter()
            for rank in range(world):
                batches = EpochBatchSampler(lambda e: draw(sampler_.images, 7, e), 8, rank, world)
                batches.set_epoch(epoch)
                for number, batch in enumerate(batches):
                    shares.update(batch[: batches.real_count(number)])
            drawn.append(shares)
        assert drawn[0] == drawn[1] == drawn[2]
        assert Counter(d.index for d in drawn[0].elements()) == Counter(draw(sampler_.images, 7, epoch).tolist())


def test_image_weights_follow_the_last_validation(tiny_data: Path, tmp_path: Path, monkeypatch) -> None:
    """With an mAP of 1 for green only images with blue are drawn; all 1 is uniform again."""
    from utils.eval_result import EvalResult

    seen = watched(monkeypatch)
    maps = iter([np.array([1.0, 0.0]), np.ones(2), np.ones(2), np.ones(2)])
    monkeypatch.setattr(EvalResult, "maps", lambda self, nc=None: next(maps))
    folder = run(tiny_data, tmp_path, hyp=hyp_with(sampler="image_weights"), epochs=3)
    drawn = np.array(table(folder, "drawn")).reshape(-1, 2)
    assert drawn[1].tolist() == [8, 8]  # eight draws, each an image with one green and one blue label
    uniform = replacement_order(np.ones(8), 0, 2)
    assert drawn[2].tolist() == drawn_counts(uniform, seen[0].dataset.labels, 2).tolist()


# Weights --------------------------------------------------------------------------------------------------------------


def test_train_run_takes_class_weights_as_written(tiny_data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = watched(monkeypatch)
    folder = run(tiny_data, tmp_path, class_weights=[1.0, 2.5])
    assert seen[0].engine.criterion.class_weights.tolist() == [1.0, 2.5]
    assert table(folder, "weight") == [1.0, 2.5]
    assert read_yaml(folder / "opt.yaml")["class_weights"] == [1.0, 2.5]
    assert "cls_weights" not in read_yaml(folder / "hyp.yaml")  # which holds what was read


@pytest.mark.parametrize(
    "given", [(1, 2.5), np.array([1, 2.5], np.float32), torch.tensor([1, 2.5]), {"blue": 2.5}, "inverse"], ids=str
)
def test_class_weights_of_any_kind(given: Any, tiny_data: Path, tmp_path: Path) -> None:
    from utils.training.options import apply_keywords

    opt = apply_keywords(train.build_parser().parse_args([]), {"class_weights": given})
    write_yaml(tmp_path / "opt.yaml", {"class_weights": opt.class_weights})
    back = resolved(tiny_data, class_weights=read_yaml(tmp_path / "opt.yaml")["class_weights"])["cls_weights"]
    assert back in ([1, 2.5], {"blue": 2.5}, "inverse")


def resolved(data: Path | dict[str, Any], hyp: dict[str, Any] | None = None, **options: Any) -> Any:
    from utils.training.build import load_data, load_hyperparameters
    from utils.training.class_balance import resolve_settings
    from utils.training.options import apply_keywords

    opt = apply_keywords(train.build_parser().parse_args([]), options)
    return resolve_settings(load_hyperparameters(hyp or hyp_with()), opt, load_data(data, opt.single_cls))


def test_the_first_place_that_gives_weights_counts(tiny_data: Path, run_log: pytest.LogCaptureFixture) -> None:
    facts = {**read_yaml(tiny_data), "weights": [3, 4]}
    assert resolved(facts)["cls_weights"] == [3, 4]
    assert "weights (data YAML): used as cls_weights" in run_log.text
    assert resolved(facts, class_weights=[1, 2])["cls_weights"] == [1, 2]
    assert "weights (data YAML): not used, class_weights is given as well" in run_log.text
    hyp = resolved(facts, hyp_with(cls_weights="inverse"), class_weights=[1, 2])
    assert hyp["cls_weights"] == "inverse"
    assert "class_weights: not used, cls_weights is given as well" in run_log.text
    assert resolved(facts, single_cls=True)["cls_weights"] is None
    assert "weights (data YAML): not used with --single-cls" in run_log.text
    for given in ([1.0, 2.0, 4.0], {"bolt": 2.0}):
        hyp = hyp_with(cls_weights=given)
        assert resolved({**facts, "weights": None}, single_cls=True, hyp=hyp)["cls_weights"] is None
    assert "cls_weights: have no effect with --single-cls" in run_log.text


@pytest.mark.parametrize(
    ("facts", "options", "text"),
    [
        ({"weights": [1, 2, 3]}, {}, r"weights \(data YAML\): 3 values for 2 classes \(green, blue\)"),
        ({"weights": {"bleu": 2}}, {}, "unknown class 'bleu', did you mean 'blue'"),
        ({"weights": "heavy"}, {}, r"weights \(data YAML\): 'heavy' is not allowed"),
        ({}, {"class_weights": [1, -2]}, r"class_weights: \[1, -2\] is not allowed"),
        ({}, {"class_weights": [1.0]}, "class_weights: 1 values for 2 classes"),
        ({}, {"rect": True, "hyp": {"sampler": "sqrt"}}, "sampler: sqrt cannot be combined with --rect"),
        ({}, {"rect": True, "hyp": {"sampler": "image_weights"}}, "image_weights cannot be combined with --rect"),
        ({}, {"image_weights": True, "hyp": {"sampler": "sqrt"}}, "sqrt cannot be combined with --image-weights"),
        ({}, {"hyp": {"sampler": "image_weights", "sampler_len": "expand"}}, "expand cannot be combined"),
    ],
)
def test_what_cannot_be_is_refused(facts: dict, options: dict, text: str, tiny_data: Path) -> None:
    hyp = hyp_with(**options.get("hyp", {}))
    options = {key: value for key, value in options.items() if key != "hyp"}
    with pytest.raises(InputErrors, match=text):
        resolved({**read_yaml(tiny_data), **facts}, hyp, **options)


def test_deferred_weights_show_when_they_hold(tiny_data: Path, tmp_path: Path) -> None:
    hyp = hyp_with(cls_weights=[1, 3], cls_weights_start=1)
    assert table(run(tiny_data, tmp_path, hyp=hyp, epochs=2), "weight") == [1, 1, 1, 3]


@pytest.mark.parametrize(("start", "epochs", "is_said"), [(0.7, 3, True), (5, 5, True), (0.7, 4, False), (4, 5, False)])
def test_weights_that_never_hold_are_named(start, epochs, is_said, tiny_data: Path, run_log) -> None:
    resolved(tiny_data, hyp_with(cls_weights="inverse", cls_weights_start=start), epochs=epochs)
    assert ("the class weights never hold" in run_log.text) is is_said


def test_pastes_that_cannot_be_count_for_nothing(tiny_data: Path, tmp_path: Path, run_log) -> None:
    """With t 0.01 no class is rarer than the rest."""
    hyp = hyp_with(sampler="class_balanced", rare_paste=0.5, sampler_t=0.01)
    run(tiny_data, tmp_path, hyp=hyp)
    assert "rare_paste: has no effect" in run_log.text and "more often" not in run_log.text


def test_label_weights_reach_the_loss(tiny_data: Path, tmp_path: Path, monkeypatch) -> None:
    """Targets get a seventh column; without the file they have six."""
    from utils.loss import ComputeLoss

    widths = []
    call = ComputeLoss.__call__
    monkeypatch.setattr(
        ComputeLoss, "__call__", lambda self, p, targets: (widths.append(targets.shape[1]), call(self, p, targets))[1]
    )
    (tmp_path / "tiny" / "audit.csv").write_text("image,row,weight\n1.png,1,0\n3.png,0,0.5\n")
    run(tiny_data, tmp_path, hyp=hyp_with(label_weights="audit.csv"), noval=True)
    assert set(widths[:2]) == {7}
    widths.clear()
    run(tiny_data, tmp_path, noval=True)
    assert set(widths) == {6}


def test_two_corrections_are_named_with_their_product(tiny_data: Path, tmp_path: Path, run_log) -> None:
    """r_blue = √(1/.5) = 1.414, times weight 3."""
    hyp = hyp_with(cls_weights=[1, 3], sampler="repeat_factor", sampler_t=1.0)
    run(tiny_data, tmp_path, hyp=hyp)
    assert "WARNING cls_weights and sampler both correct the class balance" in run_log.text
    assert "green 1, blue 4.243" in run_log.text


# Resume ---------------------------------------------------------------------------------------------------------------


def resume_after_first_epoch(data: Path, folder: Path, options: dict[str, Any]) -> tuple[Path, Path]:
    """Train three epochs at a stretch, and again with an end after the first; return both folders."""
    whole = run(data, folder, "whole", epochs=3, **options)
    callbacks = Callbacks()

    def stop(*_: Any) -> None:
        raise Interrupted

    callbacks.register_action("on_model_save", callback=stop)
    from utils.training.options import apply_keywords

    cut = {**TINY, "data": str(data), "project": str(folder / "runs"), "name": "cut", "epochs": 3, **options}
    with pytest.raises(Interrupted):
        train.main(apply_keywords(train.build_parser().parse_args([]), cut), callbacks)
    train.run(resume=str(folder / "runs/cut/weights/last.pt"))
    return whole, folder / "runs" / "cut"


def assert_same(one: Path, other: Path) -> None:
    for name in ("results.csv", "per_class.csv"):
        assert (one / name).read_text() == (other / name).read_text(), name
    first, second = (load_checkpoint(folder / "weights/last.pt")["model"].state_dict() for folder in (one, other))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_resume_is_bit_for_bit_with_sampler_and_deferred_weights(tiny_data: Path, tmp_path: Path) -> None:
    hyp = hyp_with(sampler="class_balanced", cls_weights="inverse", cls_weights_start=2, mixup=0.5)
    assert_same(*resume_after_first_epoch(tiny_data, tmp_path, {"hyp": hyp}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hyp", "options"),
    [
        ({"sampler": "image_weights"}, {"class_weights": [1.0, 2.5]}),
        ({"sampler": "repeat_factor", "sampler_t": 1.0, "sampler_len": "expand"}, {"quad": True}),
        ({"sampler": "sqrt", "rare_paste": 0.5, "sampler_t": 1.0}, {"cache": "ram"}),
        ({}, {"image_weights": True}),
    ],
    ids=["image_weights", "expand", "sqrt", "option"],
)
def test_resume_is_bit_for_bit(hyp: dict, options: dict, tiny_data: Path, tmp_path: Path) -> None:
    assert_same(*resume_after_first_epoch(tiny_data, tmp_path, {"hyp": hyp_with(**hyp), **options}))


def test_resume_refuses_other_weights(tiny_data: Path, tmp_path: Path) -> None:
    """The data YAML's weights are no option of the run, so their change must be noticed."""
    text = tiny_data.read_text()
    tiny_data.write_text(f"{text}weights: [1, 2]\n")
    callbacks = Callbacks()
    callbacks.register_action("on_model_save", callback=_raise)
    from utils.training.options import apply_keywords

    options = {**TINY, "data": str(tiny_data), "project": str(tmp_path / "runs"), "epochs": 2}
    with pytest.raises(Interrupted):
        train.main(apply_keywords(train.build_parser().parse_args([]), options), callbacks)
    tiny_data.write_text(f"{text}weights: [1, 3]\n")
    with pytest.raises(InputError, match=r"class_weights was \[1.0, 2.0\] and is \[1.0, 3.0\]"):
        train.run(resume=str(tmp_path / "runs/exp/weights/last.pt"))


def _raise(*_: Any) -> None:
    raise Interrupted


# Several processes ----------------------------------------------------------------------------------------------------

DRAWS_SCRIPT = """
import json, sys
sys.path.insert(0, {root!r})
import numpy as np
import train
from utils.eval_result import EvalResult
from utils.training.world import World

EvalResult.maps = lambda self, nc=None: np.array([0.99, 0.1])  # on the main process, which alone validates
from utils.balance.samplers import EpochBatchSampler

drawn, walk = [], EpochBatchSampler.__iter__

def iterate(self):
    for number, batch in enumerate(walk(self)):
        drawn.extend((d.epoch, d.index) for d in batch[: self.real_count(number)])
        yield batch

EpochBatchSampler.__iter__ = iterate
train.run(**{options!r})
json.dump(drawn, open({out!r} + str(max(World.from_environment().rank, 0)), "w"))
"""


@pytest.mark.slow
def test_image_weights_under_two_processes_draw_as_one(tiny_data: Path, tmp_path: Path) -> None:
    """Both processes take the main one's mAP, so together they draw the images that one process draws."""
    found = []
    for processes in (1, 2):
        out = tmp_path / f"draws{processes}_"
        options = {
            **TINY, "data": str(tiny_data), "project": str(tmp_path / f"runs{processes}"), "epochs": 2,
            "image_weights": True,
        }  # fmt: skip
        script = tmp_path / "script.py"
        script.write_text(DRAWS_SCRIPT.format(root=str(ROOT), options=options, out=str(out)))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if processes > 1 else []
        done = subprocess.run(
            [sys.executable, *launcher, str(script)], capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        files = sorted(tmp_path.glob(f"draws{processes}_*"))
        assert len(files) == processes
        draws = Counter(tuple(d) for file in files for d in json.loads(file.read_text()))
        found.append(draws)
    assert found[0] == found[1]
