"""benchmarks/efficacy.py: its arms and sets, the figures and intervals by hand, and that a stopped grid goes on."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import tiny_model
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import efficacy  # noqa: E402
from efficacy_parts import again, analysis, arms, cells, figures, grid, report, results, sets  # noqa: E402

from utils.balance.loss_names import COMPOSITES, LOSS_PARAMETERS  # noqa: E402
from utils.errors import InputError, WorkError  # noqa: E402
from utils.hyperparameters import SAMPLERS, WEIGHT_SCHEMES  # noqa: E402
from utils.yaml_files import read_yaml, write_yaml  # noqa: E402

BASE = read_yaml(arms.BASE)


# Arms and sets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", arms.TABLE, ids=lambda arm: arm.name)
def test_arms_change_what_they_name_and_nothing_else(arm: arms.Arm) -> None:
    """The hyp file of an arm is valid; beside its own keys it is the file that it starts from."""
    settings, start = arm.settings(), read_yaml(arm.file)
    assert {key: settings[key] for key in settings if key not in arm.hyp} == {
        key: start[key] for key in start if key not in arm.hyp
    }
    changed = {key for key, value in settings.items() if value != BASE.get(key)}
    assert changed or arm.flags or arm.name in {arms.NONE, arms.ADVICE}


def test_arms_are_shown_in_the_order_of_the_table():
    assert arms.in_order(["advice", "mixup", "fl_gamma", "mixup"]) == ["fl_gamma", "mixup", "advice"]


def test_every_remedy_has_an_arm() -> None:
    values = [value for arm in arms.TABLE for value in arm.hyp.values() if isinstance(value, str)]
    wanted = [*LOSS_PARAMETERS, *COMPOSITES, *SAMPLERS, *WEIGHT_SCHEMES]
    assert set(wanted) - {"bce", "none", "image_weights"} <= set(values)
    assert {"fl_gamma", "cls_pw", "cls", "mixup", "rare_paste", "album_rare"} <= {
        key for a in arms.TABLE for key in a.hyp
    }
    assert {"--image-weights"} == {flag for arm in arms.TABLE for flag in arm.flags}
    assert len(arms.ARMS) == len(arms.TABLE)
    assert {"none", "advice", "hyp_focal", "hyp_balanced"} <= set(arms.GROUPS["core"])


def test_chosen_arms_come_with_none_and_core_first() -> None:
    assert [arm.name for arm in arms.chosen_arms(["seesaw", "focal"])] == ["none", "focal", "seesaw"]
    assert len(arms.chosen_arms(["all"])) == len(arms.TABLE)
    with pytest.raises(InputError, match="--arms seesav: did you mean seesaw"):
        arms.chosen_arms(["seesav"])


def test_a_set_is_copied_without_a_trace_beside_the_original(tiny_data: Path, tmp_path: Path) -> None:
    datasets = named_set(tiny_data, tmp_path)
    before = sorted(datasets.rglob("*"))
    (entry,) = sets.chosen_sets(["tiny"], datasets)
    for _ in range(2):
        yaml = sets.prepare(entry, datasets, tmp_path / "work")
    copy = tmp_path / "work" / "data" / "tiny"
    assert sets.count_images(yaml) == 8
    assert sets.count_images(yaml, "val") == 4
    assert sorted(path.name for path in (copy / "labels" / "val").iterdir()) == [f"{k}.txt" for k in range(4)]
    assert not (copy / "labels" / "val").is_symlink()
    assert (copy / "images" / "val" / "0.png").is_symlink()
    assert sorted(datasets.rglob("*")) == before
    assert [path.name for path in copy.parent.iterdir() if path.name.startswith(".")] == []


def named_set(tiny_data: Path, tmp_path: Path) -> Path:
    """Return a folder of sets that holds the drawn one as ``tiny/tiny.yaml``."""
    folder = tmp_path / "sets" / "tiny"
    folder.parent.mkdir()
    (tmp_path / "tiny").rename(folder)
    text = tiny_data.read_text().replace(str(tmp_path / "tiny"), str(folder))
    (folder / "tiny.yaml").write_text(text)
    return folder.parent


def test_sets_that_are_not_there_are_named(tmp_path: Path) -> None:
    names = [entry.name for entry in sets.chosen_sets(["parts", "parts-noisy", "parts"], tmp_path)]
    assert names == ["parts", "parts-noisy"]
    with pytest.raises(InputError, match=r"--sets aquarium: there is no .*aquarium\.yaml"):
        sets.chosen_sets(["core"], tmp_path)


def test_budgets_and_epochs() -> None:
    """4500 images of 400 a turn are 11.25 epochs, of 448 10.04, and never less than one."""
    given = efficacy.budgets(["4500", "bccd=410"])
    parts, bccd = sets.SETS["parts"], sets.SETS["bccd"]
    assert [efficacy.epochs_of(parts, n, given) for n in (400, 448, 100_000)] == [11, 10, 1]
    assert efficacy.epochs_of(bccd, 205, given) == 2
    assert efficacy.epochs_of(bccd, 205, {}) == round(bccd.budget / 205)
    for wrong in ("bccd=", "many", "bccd=0"):
        with pytest.raises(InputError, match=f"--budget {wrong}"):
            efficacy.budgets([wrong])


# Figures and their spread ---------------------------------------------------------------------------------------------


def a_class(name: str, n_train: int, n_val: int, ap: float, misclassified: int = 0, f1: float | None = 0.5) -> dict:
    rates = {"ap50": ap + 20, "ap": ap, "f1": f1, "misclassified": misclassified}
    return {"name": name, "n_train": n_train, "n_val": n_val, **rates}


CLASSES = [
    a_class("a", 900, 100, 60.0, 10),
    a_class("b", 30, 10, 10.0, 5, None),
    a_class("c", 500, 50, 40.0, 0, 1.0),
    a_class("unseen", 0, 5, 2.0),
    a_class("unlabelled", 70, 0, 99.0),
    a_class("d", 80, 20, 30.0, 5),
    a_class("e", 60, 15, 50.0),
    a_class("f", 400, 40, 20.0),
    a_class("g", 300, 10, 30.0),
]


def test_figures_by_hand() -> None:
    """Seven classes occur in both splits, so a third is two: b and e are rare, c and a frequent.

    A class without training boxes counts in the means and may be the worst. 20 of 250 objects are misclassified, 5 of
    25 of the rare ones; F1 is 0.5 for six of eight classes, 1 for one, none for one: 4 / 8.
    """
    found = figures.run_figures({"errors": {"classes": CLASSES, "conf": 0.3}})
    assert found["map"] == pytest.approx((60 + 10 + 40 + 2 + 30 + 50 + 20 + 30) / 8)
    assert found["map50"] == pytest.approx(found["map"] + 20)
    assert (found["rare"], found["frequent"]) == pytest.approx((30, 50))
    assert (found["worst"], found["worst_class"], found["rare_classes"]) == (2.0, "unseen", "b e")
    assert (found["misclassified"], found["rare_misclassified"]) == pytest.approx((8.0, 20.0))
    assert found["f1"] == pytest.approx(50)
    assert set(figures.FIGURES) <= set(found)


def test_a_third_is_at_least_one_class() -> None:
    rare, frequent = figures.thirds([CLASSES[0], CLASSES[1]])
    assert ([row["name"] for row in rare], [row["name"] for row in frequent]) == (["b"], ["a"])
    with pytest.raises(ValueError, match="1 classes"):
        figures.thirds([CLASSES[0], CLASSES[3]])


def test_intervals_by_images_are_turned_to_arm_minus_none() -> None:
    """The diagnosis of the arm counts none - arm: an interval from -3 to 1 there is one from -1 to 3 here."""
    rows = [
        {"measure": "AP50", "name": "a", "low": 0.0, "high": 0.0},
        {"measure": "AP50", "name": "b", "low": -8.0, "high": -2.0},
    ]
    summary = {
        "errors": {"classes": CLASSES},
        "comparison": [{"map50": {"low": -3.0, "high": 1.0}, "classes": rows}],
    }
    assert figures.image_intervals(summary) == {
        "map50_low": -1.0, "map50_high": 3.0, "rarest_low": 2.0, "rarest_high": 8.0,
    }  # fmt: skip
    assert set(figures.image_intervals({"comparison": None}).values()) == {None}


def test_bootstrap_over_three_seeds_is_the_range() -> None:
    """Of 27 drawings one has the smallest value three times: 3.7 % of the weight, more than 2.5 %."""
    assert analysis.seed_interval([3.0, -1.0, 7.0]) == (-1.0, 7.0)
    assert analysis.seed_interval([2.0]) == (2.0, 2.0)


def test_bootstrap_over_five_seeds_by_counting() -> None:
    """Of 0, 0, 0, 0, 1 the mean is k/5 with k binomial (5, 0.2): P(k <= 2) is 0.942, P(k <= 3) 0.9933."""
    assert analysis.seed_interval([0.0, 0.0, 1.0, 0.0, 0.0]) == pytest.approx((0.0, 0.6))


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=4), st.floats(-10, 10))
def test_bootstrap_stays_within_and_moves_along(values: list[float], shift: float) -> None:
    low, high = analysis.seed_interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = analysis.seed_interval([value + shift for value in values])
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-9)


def a_row(arm: str, seed: int, rare: float, data: str = "parts", **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(results.COLUMNS) | dict.fromkeys(figures.FIGURES, 10.0)
    numbers = {"epochs": 2, "images_seen": 800, "img": 64, "seconds": 5, "conf": 0.25}
    texts = {"set": data, "arm": arm, "settings": "abc", "rare_classes": "coupling", "worst_class": "nut"}
    return {**row, **numbers, **texts, "seed": seed, "rare": rare, "note": "", "again": "", "device": "cpu", **more}


ROWS = [
    a_row("none", 0, 10.0), a_row("none", 1, 14.0), a_row("none", 2, 12.0),
    a_row("focal", 0, 15.0, map50_low=-1.0, map50_high=3.0, rarest_low=0.0, rarest_high=4.0),
    a_row("focal", 1, 16.0, map50_low=-3.0, map50_high=1.0, rarest_low=2.0, rarest_high=6.0),
    a_row("focal", 7, 99.0), a_row("mixup", 1, 13.0, misclassified=7.0),
]  # fmt: skip


def test_differences_are_of_the_same_seed() -> None:
    """Focal has 5 and 2 more than none on seeds 0 and 1; its seed 7 has no partner, and counts in the mean alone."""
    plain, focal, mixup = analysis.arm_results(ROWS, ["parts", "bccd"], ["none", "focal", "mixup"])
    assert (plain.mean["rare"], plain.spread["rare"]) == pytest.approx((12, 2))
    assert plain.difference == {}
    assert focal.difference["rare"].values == (5, 2)
    assert focal.difference["rare"].mean == pytest.approx(3.5)
    assert focal.difference["rare"].spread == pytest.approx(np.std([5, 2], ddof=1))
    assert focal.difference["rare"].verdict == "above"
    assert focal.mean["rare"] == pytest.approx((15 + 16 + 99) / 3)
    assert focal.images == {"map50": (-2.0, 2.0), "rarest": (1.0, 5.0)}
    assert (mixup.difference["rare"].values, mixup.difference["rare"].verdict) == ((-1,), "within")
    assert np.isnan(mixup.difference["rare"].spread)


@pytest.mark.parametrize(
    ("mean", "spread", "verdict"),
    [(2.0, 1.9, "above"), (-2.0, 1.9, "below"), (2.0, 2.1, "within"), (0.0, 0.0, "within")],
)
def test_verdicts(mean: float, spread: float, verdict: str) -> None:
    assert analysis.Difference((mean,), mean, spread, mean, mean).verdict == verdict


# The CSV file ---------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.csv"
    for row in ROWS:
        results.Results(path).add(row)
    results.Results(path).add({**ROWS[0], "again": "identical"})
    found = results.read_rows(path)
    assert found == [*ROWS[1:], {**ROWS[0], "again": "identical"}]
    assert results.Results(path).find(("parts", "focal", 1, "abc"))["rare"] == 16.0
    assert results.Results(path).find(("parts", "focal", 1, "abcd")) is None
    assert [file.name for file in path.parent.iterdir()] == ["results.csv"]


def test_another_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"results\.csv: its columns"):
        results.Results(path)
    path.write_text(results.as_text([{**ROWS[0], "seed": "first"}]))
    with pytest.raises(InputError, match=r"results\.csv, line 2"):
        results.Results(path)


# One cell -------------------------------------------------------------------------------------------------------------


class Stub:
    """Stands for train.py and diagnose.py: notes the commands and leaves what they would leave."""

    def __init__(self, advice: Sequence[str] = ("sampler",)):
        self.calls: list[list[str]] = []
        self.advice = advice
        self.status = 0

    def __call__(self, words: Sequence[str], log: Path, variables: dict[str, str]) -> int:
        self.calls.append(list(words))
        assert variables["OMP_NUM_THREADS"] == "1"
        log.write_text(f"{words[0]} ...\nlast words\n\n")
        if self.status:
            return self.status
        options = dict(zip(words, words[1:], strict=False))
        if words[0] == "train.py" and "--resume" not in options:
            folder = Path(options["--project"]) / options["--name"] / "weights"
            folder.mkdir(parents=True)
            (folder / "last.pt").write_bytes(b"weights")
        if words[0] == "diagnose.py":
            folder = Path(options["--project"]) / options["--name"]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "summary.json").write_text(json.dumps(self.summary()))
            (folder / "report.html").write_text("report")
        return 0

    def summary(self) -> dict[str, Any]:
        changes = [{"key": key, "after": "repeat_factor"} for key in self.advice]
        return {"errors": {"classes": CLASSES, "conf": 0.3}, "advice": {"changes": changes}, "comparison": None}


@pytest.fixture
def stub() -> Stub:
    return Stub()


def make_cells(tmp_path: Path, run: Any, names: Sequence[str] = ("none", "advice"), **changes: Any) -> list[cells.Cell]:
    """Return the cells of some arms on parts with seed 0."""
    weights = tmp_path / "start.pt"
    weights.write_bytes(b"start")
    setup = cells.Setup(tmp_path / "work", weights, run=run)
    data = cells.PreparedSet(sets.SETS["parts"], tmp_path / "parts.yaml", 400, 11)
    if changes:
        setup = replace(setup, **{key: value for key, value in changes.items() if key != "epochs"})
        data = replace(data, epochs=changes.get("epochs", data.epochs))
    return [cells.Cell(data, arms.ARMS[name], 0, setup, arms.ARMS[name].settings()) for name in names]


def test_a_cell_is_trained_and_diagnosed_once(tmp_path: Path, stub: Stub) -> None:
    plain, late = make_cells(tmp_path, stub, ["none", "weights_late"])
    row = cells.finish(plain, "cpu")
    training, diagnosis = stub.calls
    assert {"--noval", "--noplots", "--exist-ok"} <= set(training)
    options = dict(zip(training, training[1:], strict=False))
    assert (options["--epochs"], options["--seed"], options["--img"], options["--device"]) == ("11", "0", "256", "cpu")
    assert read_yaml(options["--hyp"]) == BASE
    assert "--compare" not in diagnosis
    assert diagnosis[diagnosis.index("--weights") + 1] == str(plain.last)
    assert (row["images_seen"], row["map"], row["note"]) == (4400, pytest.approx(30.25), "")
    cells.finish(plain, "cpu")
    assert len(stub.calls) == 2
    cells.finish(late, "cpu")
    assert stub.calls[3][-2:] == ["--compare", str(plain.last)]
    hyp = read_yaml(dict(zip(stub.calls[2], stub.calls[2][1:], strict=False))["--hyp"])
    assert hyp == {**BASE, "cls_weights": "sqrt_inverse", "cls_weights_start": 0.7}


def test_image_weights_validates_every_epoch(tmp_path: Path, stub: Stub) -> None:
    (cell,) = make_cells(tmp_path, stub, ["image_weights"])
    words = cells.train_words(cell, tmp_path / "hyp.yaml", "0")
    assert "--noval" not in words
    assert "--image-weights" in words


@pytest.mark.parametrize("checkpoint", [{"epoch": 3}, {"epoch": -1, "resume": {"step": 5}}], ids=["later", "first"])
def test_a_stopped_training_goes_on(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, checkpoint: dict[str, object]
) -> None:
    (cell,) = make_cells(tmp_path, stub, ["none"])
    cell.last.parent.mkdir(parents=True)
    cell.last.write_bytes(b"half")
    monkeypatch.setattr("utils.checkpoint.load_checkpoint", lambda path: checkpoint)
    assert cells.state_of(cell) == "stopped"
    cells.finish(cell, "cpu")
    assert stub.calls[0] == ["train.py", "--resume", str(cell.last), "--device", "cpu"]
    assert cells.state_of(cell) == "trained"


def test_a_training_that_ended_before_it_was_noted_is_not_repeated(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cell,) = make_cells(tmp_path, stub, ["none"])
    cell.last.parent.mkdir(parents=True)
    cell.last.write_bytes(b"whole")
    monkeypatch.setattr("utils.checkpoint.load_checkpoint", lambda path: {"epoch": -1})
    cells.finish(cell, "cpu")
    assert [words[0] for words in stub.calls] == ["diagnose.py"]


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, stub: Stub) -> None:
    (cell,) = make_cells(tmp_path, stub, ["none"])
    cell.folder.mkdir(parents=True)
    (cell.folder / "results.csv").write_text("half a row")
    cells.finish(cell, "cpu")
    assert "--resume" not in stub.calls[0]
    assert not (cell.folder / "results.csv").exists()


def test_a_failed_command_is_one_line(tmp_path: Path, stub: Stub) -> None:
    (cell,) = make_cells(tmp_path, stub, ["none"])
    stub.status = 1
    with pytest.raises(WorkError, match=r"parts none 0: train.py ended with status 1; last words \(.*\.log\)"):
        cells.finish(cell, "cpu")


def test_advice_trains_with_what_the_doctor_wrote(tmp_path: Path, stub: Stub) -> None:
    plain, advice = make_cells(tmp_path, stub)
    with pytest.raises(WorkError, match="parts none 0: it is not trained"):
        cells.finish(advice, "cpu")
    cells.finish(plain, "cpu")
    row = cells.finish(advice, "cpu")
    training = stub.calls[2]
    assert training[training.index("--hyp") + 1] == str(plain.diagnosis / "advice.yaml")
    assert row["note"] == "sampler repeat_factor"


def test_a_cell_compared_again_is_trained_again(tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = make_cells(tmp_path, stub, ["none"])
    cells.finish(cell, "cpu")
    monkeypatch.setattr(again, "weight_difference", lambda first, second: 0.0)
    for _ in range(2):
        assert again.run_again(cell, "cpu") == again.IDENTICAL
    assert [words[0] for words in stub.calls].count("train.py") == 3


def test_advice_follows_the_present_rules(tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that changed after the run without remedy was diagnosed: it is diagnosed again, and not trained again."""
    plain, advice = make_cells(tmp_path, stub)
    cells.finish(plain, "cpu")
    (plain.diagnosis / "advice.yaml").write_text("by the old rules")
    rules = read_yaml(cells.RULES)
    for place, key, value in ((0, "title", "another text"), (1, "changes", {"cls": 3.0})):
        rules["rules"][place][key] = value
        write_yaml(tmp_path / f"{key}.yaml", rules)
        monkeypatch.setattr(cells, "RULES", tmp_path / f"{key}.yaml")
        assert cells.hyp_file(advice, "cpu")[0] == plain.diagnosis / "advice.yaml"
        assert len(stub.calls) == 2 + place, "texts decide nothing"
    cells.finish(advice, "cpu")
    assert [words[0] for words in stub.calls] == ["train.py", "diagnose.py", "diagnose.py", "train.py", "diagnose.py"]
    assert "--compare" not in stub.calls[2]
    assert stub.calls[2][stub.calls[2].index("--weights") + 1] == str(plain.last)
    assert not (plain.diagnosis / "advice.yaml").exists(), "the stub writes none: what is left were the old one"


def test_without_advice_nothing_is_trained(tmp_path: Path) -> None:
    stub = Stub(advice=())
    plain, advice = make_cells(tmp_path, stub)
    cells.finish(plain, "cpu")
    row = cells.finish(advice, "cpu")
    assert len(stub.calls) == 2
    assert (row["arm"], row["map"]) == ("advice", pytest.approx(30.25))
    assert "nothing advised" in row["note"]


def test_what_figures_depend_on_tells_runs_apart(tmp_path: Path, stub: Stub) -> None:
    base, advice = (cell.settings() for cell in make_cells(tmp_path, stub))
    assert base != advice
    for change in ({"epochs": 12}, {"img": 128}, {"batch": 8}, {"training": ("--cos-lr",)}):
        other, other_advice = (cell.settings() for cell in make_cells(tmp_path, stub, **change))
        assert other != base, change
        assert other_advice != advice, change
    same = make_cells(tmp_path, stub, work=tmp_path / "elsewhere", threads=2, workers=3)
    assert [cell.settings() for cell in same] == [base, advice]


# The grid -------------------------------------------------------------------------------------------------------------


def whole_grid(tmp_path: Path) -> list[cells.Cell]:
    (cell,) = make_cells(tmp_path, None, ["none"])
    others = replace(cell.data, entry=sets.SETS["bccd"])
    return grid.ordered_cells([cell.data, others], arms.chosen_arms(["focal", "seesaw"]), [0, 1], cell.setup)


def test_the_order_lets_early_results_be_compared(tmp_path: Path) -> None:
    """Seeds of core arms first, each beginning with the runs that the others are compared with."""
    titles = [cell.title for cell in whole_grid(tmp_path)]
    core = [f"{data} {arm} {seed}" for seed in (0, 1) for arm in ("none", "focal") for data in ("parts", "bccd")]
    assert titles == [*core, *(f"{data} seesaw {seed}" for seed in (0, 1) for data in ("parts", "bccd"))]


class Finisher:
    """Stands for the work on a cell: notes what was begun and ended."""

    def __init__(self, failing: Sequence[str] = ()):
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.failing = failing

    def __call__(self, cell: cells.Cell, device: str) -> dict[str, Any]:
        self.begun.append(cell.title)
        if cell.arm.name != "none":
            assert cell.plain().title in [*self.ended, *self.known]
        if cell.title in self.failing:
            raise WorkError(f"{cell.title}: broken")
        self.ended.append(cell.title)
        return a_row(cell.arm.name, cell.seed, 1.0, cell.data.entry.name, settings=cell.settings())

    known: tuple[str, ...] = ()


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_grid_runs_every_cell_once_and_goes_on_after_a_stop(tmp_path: Path, jobs: int) -> None:
    todo, path = whole_grid(tmp_path), tmp_path / "results.csv"
    first = Finisher()
    stopped = grid.Grid(todo, results.Results(path), first, lambda _: None, lambda: len(first.ended) >= 5)
    stopped.start(["cpu"] * jobs)
    assert stopped.wait() == {}
    done = [row["set"] + row["arm"] + str(row["seed"]) for row in results.read_rows(path)]
    assert 5 <= len(done) < 12 and len(set(done)) == len(done)
    second = Finisher()
    second.known = tuple(first.ended)
    second_grid = grid.Grid(todo, results.Results(path), second, lambda _: None)
    second_grid.start(["cpu"] * jobs)
    assert second_grid.wait() == {}
    repeated = set(first.ended) & set(second.ended)
    assert all(" none " in title for title in repeated)  # their weights are gone, and are needed
    assert set(first.ended) | set(second.ended) == {cell.title for cell in todo}
    last = grid.Grid(todo, results.Results(path), second, lambda _: None)
    assert last.total == 0


def test_a_run_trained_anew_keeps_its_figures_and_tells_the_new_ones(tmp_path: Path) -> None:
    """Its weights are gone: what comes out the second time is noted, in place of an earlier such note."""
    (plain, seesaw), path = make_cells(tmp_path, None, ["none", "seesaw"]), tmp_path / "results.csv"
    old = a_row("none", 0, 2.5, "parts", settings=plain.settings(), again="identical; trained anew for later arms: x")
    results.Results(path).add(old)
    said: list[str] = []
    run = grid.Grid([plain, seesaw], results.Results(path), Finisher(), said.append)
    run.start(["cpu"])
    assert run.wait() == {}
    assert said[0] == "parts none 0: identical; trained anew for later arms: rare 2.5 and 1.0"
    kept = results.Results(path).find(grid.key(plain))
    assert kept["rare"] == 2.5 and kept["again"] == "identical; trained anew for later arms: rare 2.5 and 1.0"
    assert again.with_second(kept, kept)["again"] == "identical; trained anew for later arms: same figures"


def test_a_failure_stops_what_needs_it_alone(tmp_path: Path) -> None:
    todo, said = whole_grid(tmp_path), []
    work = Finisher(failing=("parts none 0", "bccd seesaw 1"))
    run = grid.Grid(todo, results.Results(tmp_path / "results.csv"), work, said.append)
    run.start(["cpu"])
    failed = run.wait()
    assert sorted(f"{name} {arm} {seed}" for name, arm, seed, _ in failed) == [
        "bccd seesaw 1", "parts focal 0", "parts none 0", "parts seesaw 0",
    ]  # fmt: skip
    assert "parts focal 0" not in work.begun
    assert len(results.read_rows(tmp_path / "results.csv")) == 8
    assert any("parts none 0: broken" in line for line in said)


def test_commands_are_stopped_together_and_no_new_ones_begin(tmp_path: Path) -> None:
    children = grid.Children()
    assert children.run(["-c", "print('hello')"], tmp_path / "log", {}) == 0
    assert (tmp_path / "log").read_text() == "hello\n"
    import threading

    status: list[int] = []
    words = ["-c", "import time; print('begun', flush=True); time.sleep(60)"]
    thread = threading.Thread(target=lambda: status.append(children.run(words, tmp_path / "log", {})))
    thread.start()
    while "begun" not in (tmp_path / "log").read_text():
        thread.join(0.05)
    children.stop()
    thread.join(20)
    assert status and status[0] != 0
    assert children.run(words, tmp_path / "log", {}) == 143


# The page -------------------------------------------------------------------------------------------------------------


def test_the_page_has_every_marker_once_and_keeps_its_text(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs" / "evidence.md").read_text())
    found = analysis.arm_results(ROWS, ["parts"], ["none", "focal", "mixup"])
    rows = [*ROWS, a_row("advice", 0, 1.0, note="sampler repeat_factor", again="identical")]
    report.write_page(page, found, rows, 2, tmp_path / "page.png")
    text = page.read_text()
    assert "| focal | +3.5 ± 2.1 **+** | +0.0 ± 0.0 |" in text
    assert "| mixup | −1.0 | +0.0 |" in text
    assert "| mixup | −3.0 | +0.0 |" in text  # misclassified, F1
    assert "parts, seed 0, the doctor: sampler repeat_factor." in text
    assert "parts, advice, seed 0, run again: identical." in text
    assert "2 rows of the CSV file have other settings" in text
    assert "+2.0 to +5.0 | −2.0 to +2.0 | +1.0 to +5.0 |" in text
    assert (tmp_path / "page.png").read_bytes()[1:4] == b"PNG"
    prose = re.compile(r"(<!-- (\w+): written.*?-->).*?(<!-- end of \2 -->)", re.DOTALL)
    assert prose.sub(r"\1\3", text) == prose.sub(r"\1\3", (ROOT / "docs" / "evidence.md").read_text())
    with pytest.raises(InputError, match="once each"):
        report.updated(text, {"unknown": []})


def test_the_page_tells_every_arm() -> None:
    lines = report.arm_table()
    assert len(lines) == 2 + len(arms.TABLE)
    assert "| weights_late (core) | class weights 1/sqrt(n) in the last 30 % of the epochs | " in "\n".join(lines)


def test_rows_of_other_settings_are_left_out(tmp_path: Path) -> None:
    (cell,) = make_cells(tmp_path, None, ["focal"])
    settings = cell.settings()
    mine = a_row("focal", 0, 1.0, settings=settings, epochs=11, images_seen=4400)
    rows = [mine, {**mine, "settings": "other"}, {**mine, "arm": "gone"}]
    assert efficacy.current_rows(rows, cell.setup, {"": 4500}) == [mine]
    assert efficacy.current_rows(rows, cell.setup, {"": 5000}) == []


# The command ----------------------------------------------------------------------------------------------------------


def command(*words: object) -> subprocess.CompletedProcess[str]:
    script = ROOT / "benchmarks" / "efficacy.py"
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_wrong_options_are_one_line(tmp_path: Path) -> None:
    done = command("--weights", tmp_path / "missing.pt")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "missing.pt: no such file" in done.stderr


def test_a_tiny_grid_end_to_end(tiny_data: Path, tmp_path: Path) -> None:
    """Two arms of one seed on eight images: rows, page and picture; given again, nothing is run; the cell repeats."""
    from utils.checkpoint import save_checkpoint

    datasets = named_set(tiny_data, tmp_path)
    weights, page = tmp_path / "start.pt", tmp_path / "page.md"
    save_checkpoint(weights, {"model": tiny_model(), "epoch": -1})
    page.write_text((ROOT / "docs" / "evidence.md").read_text())
    options = [
        "--arms", "mixup", "--sets", "tiny", "--seeds", 3, "--weights", weights, "--img", 64, "--batch-size", 4,
        "--budget", 16, "--datasets", datasets, "--work", tmp_path / "work", "--csv", tmp_path / "out.csv",
        "--page", page,
    ]  # fmt: skip
    done = command(*options, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["arm"], row["seed"], row["epochs"], row["images_seen"]) for row in rows] == [
        ("none", "3", "2", "16"), ("mixup", "3", "2", "16"),
    ]  # fmt: skip
    assert rows[1]["map50_low"] and not rows[0]["map50_low"]
    assert "| mixup |" in page.read_text()
    assert page.with_suffix(".png").exists()
    assert not list((tmp_path / "sets").rglob("*.cache*"))
    before = (tmp_path / "out.csv").read_bytes()
    done = command(*options)
    assert "2 runs, 0 of them to do" in done.stdout, done.stderr
    assert (tmp_path / "out.csv").read_bytes() == before
    done = command(*options, "--again", "none", "tiny", 3)
    assert "weights and figures identical, bit for bit" in done.stdout, done.stderr + done.stdout
