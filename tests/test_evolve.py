"""Hyperparameter search: the space, the study that several processes share, its files, and train.py --evolve."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import train
from utils.callbacks import Callbacks
from utils.errors import InputError, InputErrors, WorkError
from utils.evolution import command, options, records
from utils.evolution.locks import Worker
from utils.evolution.space import BALANCE_RANGES, build_space
from utils.evolution.study import JOURNAL, STARTUP, Study
from utils.hyperparameters import Hyperparameters, evolution_bounds
from utils.training.preemption import Interrupted, StopSignals
from utils.training.tasks.detection import Detection

pytest.importorskip("optuna")
ROOT = Path(__file__).resolve().parents[1]
LOW = yaml.safe_load((ROOT / "data/hyps/hyp.scratch-low.yaml").read_text())
COLUMNS = Detection.result_columns
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Wait for no disk, and leave memory alone where nothing is trained."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    if "narrow_model" not in request.fixturenames:
        monkeypatch.setattr(command, "_set_memory_free", lambda: None)


def fake_fitness(hyp):
    """A smooth hill whose top is not at the start."""
    return float(np.exp(-((np.log10(hyp["lr0"]) + 2.5) ** 2) - (hyp["mosaic"] - 0.6) ** 2 - (hyp["scale"] - 0.3) ** 2))


def fake_train(hyp, opt, device, callbacks, signals):
    value = fake_fitness(hyp)
    return (0.5, 0.5, value, value, 0.1, 0.2, 0.3)


def namespace(folder, generations, **more):
    values = {
        "evolve": generations, "project": str(folder), "name": "exp", "exist_ok": True, "resume": False, "seed": 3,
        "resume_evolve": None, "evolve_population": str(folder / "no-hyps"), "hyp": dict(LOW), "noplots": True,
        "epochs": 1, "batch_size": 4, "imgsz": 64, "bucket": "", "weights": "", "cfg": "yolov5n.yaml",
    }  # fmt: skip
    (folder / "no-hyps").mkdir(exist_ok=True)
    return argparse.Namespace(**{**values, **more})


def search(folder, generations, trainer=fake_train, signals=None, given_options=None, **more):
    opt = namespace(folder, generations, **more)
    fitness = Detection().fitness
    results = command.evolve(
        trainer, opt, "cpu", Callbacks(), signals or StopSignals(), columns=COLUMNS, fitness=fitness,
        given=given_options,
    )  # fmt: skip
    return results, Path(opt.save_dir)


def table(folder):
    lines = (folder / "evolve.csv").read_text().splitlines()
    header = [name.strip() for name in lines[0].split(",")]
    return header, np.array([[float(value) for value in line.split(",")] for line in lines[1:]])


# The space --------------------------------------------------------------------------------------------------------


def test_the_space_holds_upstreams_keys_and_ranges():
    space = build_space(Hyperparameters.from_dict(LOW))
    known = {key: bounds for key, (scale, *bounds) in evolution_bounds().items() if scale and key in LOW}
    assert set(space.ranges) == set(known)
    for key, (low, high) in space.ranges.items():
        assert low <= LOW[key] <= high and (low, high) == tuple(map(float, known[key])), key
    assert not {"iou_t", "fl_gamma", "perspective", "fliplr"} & set(space.ranges)


def test_balance_keys_take_part_where_they_have_an_effect():
    more = {"cls_loss": "focal", "cls_gamma": 1.5, "obj_gamma": 1.0, "rare_paste": 0.5, "sampler_t": "auto",
            "tversky_a": 0.7, "album_rare": [{"HorizontalFlip": 0.5}], "rare_aug_p": 0.2}  # fmt: skip
    space = build_space(Hyperparameters.from_dict({**LOW, **more}))
    assert {"cls_gamma", "rare_paste", "rare_aug_p"} <= set(space.ranges)
    assert not {"obj_gamma", "sampler_t", "tversky_a", "album_rare", "cls_loss"} & set(space.ranges)
    assert space.start["album_rare"] == more["album_rare"] and space.start["cls_loss"] == "focal"


def test_a_key_that_may_not_change_beside_the_others_stays():
    hyp = Hyperparameters.from_dict({**LOW, "cls_loss": "focal", "cls_gamma": 2.0, "cls_alpha": 0.25})
    assert "cls_pw" not in build_space(hyp).ranges
    assert "cls_pw" in build_space(Hyperparameters.from_dict(LOW)).ranges


def test_a_range_is_widened_to_hold_the_start():
    space = build_space(Hyperparameters.from_dict({**LOW, "lr0": 0.5, "anchors": 3}))
    assert space.ranges["lr0"] == (1e-5, 0.5) and space.point(space.start)["lr0"] == 0.5
    assert space.ranges["anchors"] == (2.0, 10.0)
    assert "anchors" not in build_space(Hyperparameters.from_dict({**LOW, "anchors": 0})).ranges


def test_every_range_of_a_balance_key_is_allowed():
    rules = Hyperparameters.__dataclass_fields__
    for key, (low, high) in BALANCE_RANGES.items():
        setting = rules[key].metadata["setting"]
        assert setting.accepts_number(low) and setting.accepts_number(high) and low < high, key


@given(st.integers(0, 2**31), st.sampled_from(sorted((ROOT / "data/hyps").glob("*.yaml"))))
@settings(max_examples=60, deadline=None)
def test_mutations_stay_in_range_and_are_valid(seed, file):
    space = build_space(Hyperparameters.from_dict(yaml.safe_load(file.read_text())))
    start = space.point(space.start)
    point = space.mutated(start, np.random.default_rng(seed))
    assert all(low <= point[key] <= high for key, (low, high) in space.ranges.items())
    assert set(point) == set(start) and point != start
    Hyperparameters.from_dict(space.hyp(point))


# The search -------------------------------------------------------------------------------------------------------


def test_a_search_begins_with_its_start_and_improves_on_it(tmp_path):
    results, folder = search(tmp_path, 30)
    header, rows = table(folder)
    assert header == [*COLUMNS, *LOW] and len(rows) == 30
    assert rows[0, 7:] == pytest.approx(list(LOW.values()), rel=1e-4)
    assert rows[0, 3] == pytest.approx(fake_fitness(LOW), rel=1e-4)
    assert results[3] == pytest.approx(rows[:, 3].max(), rel=1e-4) and results[3] > fake_fitness(LOW) + 0.1
    best = Hyperparameters.load(folder / "hyp_evolve.yaml").to_dict()
    assert fake_fitness(best) == pytest.approx(results[3]) and list(best) == list(LOW)
    population = yaml.safe_load((folder / "evolve_population.yaml").read_text())
    assert len(population) == 30 and next(iter(population.values())) == best
    assert all(
        len(field) == 20 for line in (folder / "evolve.csv").read_text().splitlines() for field in line.split(",")
    )
    assert rows[STARTUP:, 3].max() > rows[:STARTUP, 3].max() - 1e-9 or rows[:STARTUP, 3].max() > 0.95


def test_the_same_seed_gives_the_same_search_also_when_it_was_stopped(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    _, whole = search(tmp_path / "one", 16)
    for generations in (3, 12, 16):
        _, parts = search(tmp_path / "two", generations)
    assert (parts / "evolve.csv").read_text() == (whole / "evolve.csv").read_text()
    _, other = search(tmp_path / "three", 4, seed=4)
    assert table(other)[1][1:].tolist() != table(whole)[1][1:4].tolist()
    assert table(other)[1][0].tolist() == table(whole)[1][0].tolist()


def test_a_trial_at_work_when_a_search_is_stopped_is_repeated(tmp_path):
    """Every trial is interrupted once: nothing is lost, nothing counts twice, the search is the undisturbed one."""
    (tmp_path / "whole").mkdir()
    _, whole = search(tmp_path / "whole", 12)
    seen = []

    def trainer(hyp, *rest):
        if hyp not in seen:
            seen.append(hyp)
            raise KeyboardInterrupt
        return fake_train(hyp, *rest)

    for _ in range(12):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, 12, trainer)
    _, folder = search(tmp_path, 12, trainer)
    assert (folder / "evolve.csv").read_text() == (whole / "evolve.csv").read_text()
    study = Study(folder)
    assert [trial.generation for trial in study.finished()] == list(range(12)) and not study.failed()
    assert not (folder / "workers").exists()


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tmp_path):
    calls = []

    def trainer(hyp, *rest):
        calls.append(hyp)
        if len(calls) == 2:
            raise WorkError("20 batches in a row had a loss that is not finite")
        if len(calls) == 3:
            raise RuntimeError("CUDA out of memory")
        result = fake_train(hyp, *rest)
        return (*result[:3], float("nan"), *result[4:]) if len(calls) == 4 else result

    _, folder = search(tmp_path, 6, trainer)
    failed = yaml.safe_load((folder / "evolve_failed.yaml").read_text())["failed"]
    assert [entry["generation"] for entry in failed] == [1, 2, 3]
    assert [entry["hyp"] for entry in failed] == calls[1:4]
    assert failed[0]["reason"].startswith("20 batches") and failed[1]["reason"].startswith("RuntimeError: CUDA")
    assert "not finite" in failed[2]["reason"]
    assert len(table(folder)[1]) == 3 and len(calls) == 6


def test_trials_that_all_fail_end_the_search(tmp_path):
    def trainer(*_):
        raise WorkError("no space left")

    with pytest.raises(WorkError, match="5 trials in a row failed, the last one: no space left"):
        search(tmp_path, 20, trainer)
    with pytest.raises(WorkError, match="5 trials in a row failed"):
        search(tmp_path, 20, trainer)


def test_bad_input_within_a_trial_is_the_users_and_no_trial_is_lost(tmp_path):
    def trainer(*_):
        raise InputError("data.yaml: no such file")

    with pytest.raises(InputError, match="no such file"):
        search(tmp_path, 3, trainer)
    _, folder = search(tmp_path, 3)
    assert len(table(folder)[1]) == 3


def test_a_signal_stops_the_search_and_says_how_it_goes_on(tmp_path):
    signals = StopSignals()

    def trainer(*arguments):
        signals.number = signal.SIGTERM
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"by SIGTERM in the evolution .*; go on with: .*--resume_evolve") as caught:
        search(tmp_path, 3, trainer, signals)
    assert caught.value.exit_status == 143
    _, folder = search(tmp_path, 3)
    assert [trial.generation for trial in Study(folder).finished()] == [0, 1, 2]


def test_hooks_of_the_user_are_there_in_each_trial_and_those_of_a_trial_are_not(tmp_path):
    counts = []

    def trainer(hyp, opt, device, callbacks, signals):
        counts.append(len(callbacks.get_registered_actions("on_val_batch_start")))
        callbacks.register_action("on_val_batch_start", "own", print)
        return fake_train(hyp, opt, device, callbacks, signals)

    callbacks = Callbacks()
    callbacks.register_action("on_val_batch_start", "user", print)
    opt = namespace(tmp_path, 3)
    command.evolve(trainer, opt, "cpu", callbacks, StopSignals(), columns=COLUMNS, fitness=Detection().fitness)
    assert counts == [1, 1, 1]


# Population, folders, options -------------------------------------------------------------------------------------


def test_a_population_is_tried_after_the_start(tmp_path):
    hyps = tmp_path / "mine"
    hyps.mkdir()
    (hyps / "b.yaml").write_text(yaml.safe_dump({**LOW, "lr0": 0.003}))
    (hyps / "a.yaml").write_text(yaml.safe_dump({**LOW, "lr0": 0.002, "mosaic": 5.0}))
    (hyps / "c.yaml").write_text(yaml.safe_dump(LOW))  # the start once more
    _, folder = search(tmp_path, 4, evolve_population=str(hyps))
    header, rows = table(folder)
    assert rows[:3, header.index("lr0")].tolist() == [0.01, 0.002, 0.003]
    assert rows[1, header.index("mosaic")] == 1.0 and rows[3, header.index("lr0")] not in {0.01, 0.002, 0.003}


def test_of_the_default_folder_half_of_the_generations_are_used(tmp_path):
    opt = namespace(tmp_path, 4, evolve_population=str(options.POPULATION_FOLDER))
    assert len(options.population(opt)) == 2
    opt.evolve = 300
    assert len(options.population(opt)) == len(list(options.POPULATION_FOLDER.glob("*.yaml")))


def test_another_evolutions_population_begins_a_new_one(tmp_path):
    _, first = search(tmp_path, 5)
    (first / JOURNAL).unlink()
    _, second = search(tmp_path, 6, resume_evolve=str(first / "evolve_population.yaml"), name="next")
    assert second != first
    ours = {tuple(np.round(row[7:], 4)) for row in table(first)[1]}
    assert len(ours & {tuple(np.round(row[7:], 4)) for row in table(second)[1]}) == 5
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([dict(LOW), {**LOW, "lr0": 0.02}]))
    assert [hyp["lr0"] for hyp in records.read_population(tmp_path / "list.yaml")] == [0.01, 0.02]
    (tmp_path / "bad.yaml").write_text("lr0: 0.1\n")
    with pytest.raises(InputError, match=r"bad.yaml: expected a list"):
        records.read_population(tmp_path / "bad.yaml")


def test_folders_are_numbered_unless_one_is_named_again(tmp_path):
    _, first = search(tmp_path, 1, exist_ok=False)
    _, second = search(tmp_path, 1, exist_ok=False)
    assert (first.name, second.name) == ("exp", "exp2")
    _, again = search(tmp_path, 2, exist_ok=False, resume=True)  # --resume stands for --exist-ok here
    assert again == first and len(table(again)[1]) == 2
    for named in (first, first / "evolve_population.yaml", first / JOURNAL):
        _, again = search(tmp_path, 3, exist_ok=False, resume_evolve=str(named))
        assert again == first and len(table(again)[1]) == 3
    with pytest.raises(InputError, match="--resume_evolve .*: no such evolution"):
        search(tmp_path, 3, resume_evolve=str(tmp_path / "nowhere"))


def test_a_joined_study_keeps_its_settings(tmp_path, capsys):
    _, folder = search(tmp_path, 1, imgsz=96)
    opt = namespace(tmp_path, 2)
    study = command.open_study(folder, opt, {"evolve": 2})
    assert opt.imgsz == 96 and study.facts["settings"]["imgsz"] == 96
    with pytest.raises(InputErrors, match=r"--imgsz 64: the evolution in .* was started with 96"):
        command.open_study(folder, namespace(tmp_path, 2), {"imgsz": 64})
    with pytest.raises(InputErrors, match=r"--hyp: the evolution in .* has another start: lr0 was 0.01 and is 0.5"):
        command.open_study(folder, namespace(tmp_path, 2, imgsz=96, hyp={**LOW, "lr0": 0.5}), {"hyp": 1})


@pytest.mark.parametrize(
    ("changes", "processes", "problem"),
    [
        ({"evolve": -1}, 1, "--evolve -1: allowed is at least 1"),
        ({"evolve": 5}, 2, "--evolve with torchrun"),
        ({"evolve": None, "resume_evolve": "x"}, 1, "--resume_evolve x: needs --evolve N"),
    ],
)
def test_options_that_cannot_be(changes, processes, problem):
    opt = argparse.Namespace(**{"resume_evolve": None, **changes})
    problems = options.evolution_problems(opt, processes)
    assert len(problems) == 1 and problems[0].startswith(problem)


def test_a_folder_without_a_study_and_a_damaged_journal_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no study.journal"):
        Study(tmp_path)
    (tmp_path / JOURNAL).write_text("{}\n[1]\nx\n")
    with pytest.raises(InputError, match="not a journal of an evolution"):
        Study(tmp_path)


# Processes --------------------------------------------------------------------------------------------------------


def _slow_train(hyp, *rest):
    time.sleep(0.02)
    return fake_train(hyp, *rest)


def _search_in_process(folder, generations):
    search(Path(folder), generations, _slow_train)


def test_processes_share_a_study_and_each_generation_counts_once(tmp_path):
    context = multiprocessing.get_context("fork")
    namespace(tmp_path, 1)
    workers = [context.Process(target=_search_in_process, args=(str(tmp_path), 24)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    study = Study(tmp_path / "exp")
    assert [trial.generation for trial in study.finished()] == list(range(24))
    owners = {trial.user_attrs["process"] for trial in study._trials()}
    assert len(owners) >= 2 and len(table(tmp_path / "exp")[1]) == 24
    assert not (tmp_path / "exp" / "workers").exists()


@POSIX
def test_killed_at_any_moment_a_search_goes_on_with_whole_files(tmp_path):
    """Eight kills at odd moments: files are whole at each, and the end is that of an undisturbed search."""
    (tmp_path / "whole").mkdir()
    _, whole = search(tmp_path / "whole", 20)
    context = multiprocessing.get_context("fork")
    namespace(tmp_path, 1)
    folder, rng = tmp_path / "exp", np.random.default_rng(1)
    for _ in range(8):
        worker = context.Process(target=_search_in_process, args=(str(tmp_path), 20))
        worker.start()
        time.sleep(float(rng.uniform(0.05, 0.4)))
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        if (folder / "evolve.csv").exists():
            header, rows = table(folder)
            assert len(set(map(tuple, rows[:, 7:].tolist()))) == len(rows)
            assert rows.shape[1] == len(header)
        if (folder / "hyp_evolve.yaml").exists():
            Hyperparameters.load(folder / "hyp_evolve.yaml")
            yaml.safe_load((folder / "evolve_population.yaml").read_text())
    search(tmp_path, 20)
    assert (folder / "evolve.csv").read_text() == (whole / "evolve.csv").read_text()


def test_an_unfinished_line_of_the_journal_is_cut(tmp_path):
    _, folder = search(tmp_path, 2)
    with (folder / JOURNAL).open("a") as file:
        file.write('{"op_code": 4, "worker')
    _, folder = search(tmp_path, 4)
    assert len(table(folder)[1]) == 4 and (folder / JOURNAL).read_text().count('"worker\n') == 0
    assert len(Study(folder).finished()) == 4


def test_signs_of_life(tmp_path):
    first, second = Worker(tmp_path), Worker(tmp_path)
    assert first.is_alive(first.name) and first.is_alive(second.name) and second.is_alive(first.name)
    assert not first.is_alive("gone")
    (tmp_path / "elsewhere-1-aa").touch()
    assert first.is_alive("elsewhere-1-aa")
    os.utime(tmp_path / "elsewhere-1-aa", (1, 1))
    assert not first.is_alive("elsewhere-1-aa")
    second.end()
    assert not first.is_alive(second.name)
    first.end()


# The command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow_model(tmp_path):
    facts = yaml.safe_load((ROOT / "models" / "yolov5n.yaml").read_text())
    path = tmp_path / "narrow.yaml"
    path.write_text(yaml.safe_dump({**facts, "width_multiple": 0.0625, "depth_multiple": 0.33}))
    return path


def small(data, model, tmp_path):
    return {
        "weights": "", "cfg": str(model), "imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0, "epochs": 1,
        "noplots": True, "data": str(data), "project": str(tmp_path / "runs"),
    }  # fmt: skip


def test_training_through_a_search_keeps_nothing_in_memory_and_writes_its_files(
    tiny_data, narrow_model, tmp_path, monkeypatch
):
    from utils.training.run import Run

    models, begin = [], Run.begin
    monkeypatch.setattr(Run, "begin", lambda run: (models.append(weakref.ref(run.model)), begin(run))[1])
    (tmp_path / "none").mkdir()
    options = {**small(tiny_data, narrow_model, tmp_path), "evolve_population": str(tmp_path / "none")}
    opt = train.run(evolve=3, **options)
    folder = Path(opt.save_dir)
    gc.collect()
    assert len(models) == 3 and not [model for model in models if model() is not None]
    header, rows = table(folder)
    assert header[:7] == list(COLUMNS) and len(rows) == 3 and (rows[:, 4] > 0).all()
    files = {path.name for path in folder.iterdir()}
    assert {"evolve.csv", "hyp_evolve.yaml", "evolve_population.yaml", JOURNAL, "trials"} <= files
    assert not {"hyp.yaml", "opt.yaml", "weights", "results.csv"} & files
    assert not [path for path in folder.rglob("*") if path.suffix in {".pt", ".png", ".jpg"}]
    assert not list(folder.rglob("events.out*"))
    again = train.run(**{**small(tiny_data, narrow_model, tmp_path), "hyp": str(folder / "hyp_evolve.yaml")})
    assert (Path(again.save_dir) / "weights" / "best.pt").is_file()


@POSIX
@pytest.mark.slow
def test_the_command_killed_continued_and_run_twice_at_once(tiny_data, tmp_path):
    """SIGKILL and SIGTERM in the middle of trials; then two processes finish the study together."""
    (tmp_path / "none").mkdir()
    arguments = [
        sys.executable, str(ROOT / "train.py"), "--data", str(tiny_data), "--weights", "", "--cfg", "yolov5n.yaml",
        "--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--epochs", "2", "--evolve", "6",
        "--project", str(tmp_path / "runs"), "--exist-ok", "--evolve_population", str(tmp_path / "none"),
    ]  # fmt: skip
    folder = tmp_path / "runs" / "exp"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start():
        return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for_trial(number):
        end = time.monotonic() + 120
        while not (folder / "trials" / str(number) / "opt.yaml").exists():
            assert time.monotonic() < end
            time.sleep(0.05)

    process = start()
    wait_for_trial(1)
    process.kill()
    process.communicate()
    finished = len(table(folder)[1])
    process = start()
    wait_for_trial(2)
    process.terminate()
    said, _ = process.communicate()
    assert process.returncode == 143 and "--resume_evolve" in said
    both = [start(), start()]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    header, rows = table(folder)
    assert finished >= 1 and len(rows) == 6
    assert rows[:, 3].max() >= rows[0, 3]
    assert (folder / "evolve.png").stat().st_size > 1000
    assert "another process" not in said[0] + said[1]
