"""The general helpers under YOLOv5's names: paths, YAML, timers, environment."""

import importlib
import inspect
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import general, helpers
from utils.environment import GitRepo, version_numbers
from utils.errors import InputError, MissingFileError
from utils.yaml_files import MAX_EXPANDED, parse_yaml, read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _visible_log(monkeypatch):
    monkeypatch.setattr(logging.getLogger("yolov5"), "propagate", True)


def test_libraries_that_clones_import_from_here():
    """detect.py of v7.0 has ``from utils.general import ..., cv2, ...``, and so has what was made of it."""
    import cv2
    import pandas

    assert (general.cv2, general.np, general.torch, general.pd) == (cv2, np, torch, pandas)
    assert importlib.import_module("utils.loggers.comet.comet_utils").check_comet_resume(None) is False


@pytest.mark.parametrize("module", ["utils.general", "utils.downloads", "utils"])
def test_every_name_of_the_interface_is_there(contract, module):
    api = json.loads((contract / "api.json").read_text())[module]
    old = json.loads((contract / "api_v7.json").read_text())["modules"].get(module, {})
    groups = ("functions", "constants", "reexported", "also_importable_from_here")
    names = {name for group in groups for name in api.get(group, ())} | set(old)
    owner = importlib.import_module(module)
    assert not {name for name in names if not hasattr(owner, name)}
    for name, facts in api["functions"].items():
        wanted = [p if isinstance(p, str) else p[0] for p in facts.get("params", ())]
        found = list(inspect.signature(getattr(owner, name)).parameters)
        wanted = [p for p in wanted if not p.startswith("*")]
        assert found[: len(wanted)] == wanted, name


def test_import_is_light():
    code = (
        "import sys, utils.general; print([m for m in ('cv2', 'PIL', 'matplotlib', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Run folders ----------------------------------------------------------------------------------------------------------
def test_increment_path_counts_from_two(tmp_path):
    exp = tmp_path / "exp"
    made = [general.increment_path(exp, mkdir=True).name for _ in range(3)]
    assert made == ["exp", "exp2", "exp3"]
    assert general.increment_path(exp).name == "exp4" and not (tmp_path / "exp4").exists()
    assert general.increment_path(exp, exist_ok=True, mkdir=True) == exp
    assert general.increment_path(exp, sep="_").name == "exp_2"
    (tmp_path / "a.txt").write_text("")
    assert general.increment_path(tmp_path / "a.txt").name == "a2.txt"
    (tmp_path / "exp2").rmdir()
    assert general.increment_path(exp, mkdir=True).name == "exp2"


def _claim(path, start, results):
    start.wait()
    results.put(general.increment_path(path, mkdir=True).name)


def test_processes_at_once_get_a_folder_each(tmp_path):
    """32 claims from 8 processes, started together, give 32 folders."""
    context = multiprocessing.get_context("fork")
    for batch in range(4):
        start, results = context.Event(), context.Queue()
        workers = [context.Process(target=_claim, args=(tmp_path / "exp", start, results)) for _ in range(8)]
        for worker in workers:
            worker.start()
        start.set()
        for worker in workers:
            worker.join()
        assert len({results.get() for _ in workers}) == 8
        assert len(list(tmp_path.iterdir())) == 8 * (batch + 1)
    assert {path.name for path in tmp_path.iterdir()} == {"exp", *(f"exp{n}" for n in range(2, 33))}


def test_all_names_taken_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.paths.LAST_RUN_NUMBER", 3)
    for name in ("exp", "exp2", "exp3"):
        (tmp_path / name).mkdir()
    for mkdir in (True, False):
        with pytest.raises(InputError, match="exp3 exist"):
            general.increment_path(tmp_path / "exp", mkdir=mkdir)


def test_latest_run_is_the_newest(tmp_path):
    assert general.get_latest_run(tmp_path) == ""
    for name in ("a/last.pt", "b/c/last_1.pt", "b/best.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        time.sleep(0.02)
    assert general.get_latest_run(str(tmp_path)) == str(tmp_path / "b/c/last_1.pt")


def test_check_file_and_suffix(tmp_path, monkeypatch):
    path = tmp_path / "x.yaml"
    path.write_text("a: 1")
    assert general.check_yaml(path) == str(path) and general.check_file("") == ""
    assert general.check_yaml("coco128.yaml") == str(ROOT / "data/coco128.yaml")
    with pytest.raises(MissingFileError, match="no-such.yaml"):
        general.check_yaml("no-such.yaml")
    with pytest.raises(InputError, match=r"\.txt, allowed: .*\.yaml"):
        general.check_yaml(tmp_path / "x.txt")
    for good in ("", "a.PT", ["a.pt", "b"], Path("c.pt")):
        general.check_suffix(good, [".pt"])
    with pytest.raises(InputError, match="weights: a.onnx"):
        general.check_suffix(["b.pt", "a.onnx"], ".pt", "weights: ")
    monkeypatch.setattr("utils.paths.ROOT", tmp_path)
    for folder in ("data", "models"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice.yaml").write_text("a: 1")
    with pytest.raises(InputError, match="several files"):
        general.check_file("twice.yaml")
    for odd in ("*.yaml", "../x.yaml", str(tmp_path / "none.yaml")):
        with pytest.raises(MissingFileError):
            general.check_file(odd)


def test_writeable(tmp_path):
    assert general.is_writeable(tmp_path) and general.is_writeable(tmp_path, test=True)
    assert not general.is_writeable(tmp_path / "none", test=True) and not list(tmp_path.iterdir())


def test_settings_folder_is_made_on_request_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("YOLOV5_CONFIG_DIR", str(tmp_path / "settings"))
    assert general.config_dir() == tmp_path / "settings" and not (tmp_path / "settings").exists()
    assert general.user_config_dir().is_dir()


# YAML -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' is given twice (first in line 1)"),
        ("a:\n  b: 1\n  b: 2", "line 3: key 'b'"),
        ("a: !!python/object/apply:os.system ['true']", "line 1"),
        ("a: [1, 2", "line 1"),
        ("a: &x [*x]", "refers to its own content"),
        ("[" * 700, "nested too deeply"),
        ("a: \x00", "not valid YAML"),
        ("- 1\n- 2", "holds a list"),
        ("", "empty"),
        ("a: &a [" + "x," * 9 + "x]\n" + "\n".join(f"k{i}: &k{i} [{f'*k{i - 1},' * 10}]" for i in range(1, 8)).replace(
            "*k0", "*a"), f"at most {MAX_EXPANDED}"),
    ],
    ids=lambda v: v[:20],
)  # fmt: skip
def test_yaml_mistakes_name_file_and_line(tmp_path, text, shown):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert shown in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_yaml_without_file_or_with_odd_bytes(tmp_path):
    with pytest.raises(MissingFileError, match="none.yaml: no such file"):
        general.yaml_load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="is a folder"):
        read_yaml(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1 # caf\xe9\nb: &x {c: 1}\nd: {<<: *x, e: 2}\nf: 2024-01-01")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1, "b": {"c": 1}, "d": {"c": 1, "e": 2}, "f": "2024-01-01"}


def test_bytes_of_another_encoding_leave_the_yaml_readable(tmp_path, caplog):
    (tmp_path / "a.yaml").write_bytes(b"names: [R\xe9, WBC]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"names": ["Ré", "WBC"]}
    assert "byte 9 is not UTF-8" in caplog.text
    (tmp_path / "b.yaml").write_bytes("names: [größe, ½]\n".encode() + b"a: 1\xb75  # \x81\n")
    assert read_yaml(tmp_path / "b.yaml") == {"names": ["größe", "½"], "a": "1·5"}
    (tmp_path / "c.yaml").write_text("names: [größe]\n", encoding="utf-16")
    assert read_yaml(tmp_path / "c.yaml") == {"names": ["größe"]}


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), _plain, min_size=1, max_size=4))
def test_yaml_round_trip(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    write_yaml(path, data)
    assert read_yaml(path) == data


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        parse_yaml(text)
    except InputError as error:
        assert "\n" not in str(error)


def test_yaml_save_keeps_order_and_turns_paths_into_text(tmp_path):
    general.yaml_save(
        tmp_path / "a.yaml", {"z": Path("x/y"), "a": None, "s": "", "n": np.float32(0.5), "l": [Path("q")]}
    )
    assert (tmp_path / "a.yaml").read_text().splitlines()[:4] == ["z: x/y", "a: null", "s: ''", "n: 0.5"]
    assert list(general.yaml_load(tmp_path / "a.yaml")) == ["z", "a", "s", "n", "l"]


# Numbers and texts ----------------------------------------------------------------------------------------------------
def test_golden_sizes_and_texts(golden):
    ops = golden("ops")[0]
    for case in ops["check_img_size"]:
        assert general.check_img_size(case["imgsz"], case["s"], case["floor"]) == case["out"]
    for case in ops["clean_str"]:
        assert general.clean_str(case["in"]) == case["out"]
    for case in ops["url2file"]:
        assert general.url2file(case["in"]) == case["out"]


def test_one_cycle_is_half_a_cosine(golden):
    curve = general.one_cycle(1.0, 0.2, 10)
    assert curve(0) == 1.0 and curve(10) == pytest.approx(0.2) and curve(5) == pytest.approx(0.6)
    for case in golden("schedule_and_data")[0]["lr_factor"]:
        if case["cos"]:
            curve = general.one_cycle(1, case["lrf"], case["epochs"])
            assert [curve(x) for x in range(case["epochs"] + 1)] == pytest.approx(case["factor_per_epoch"], rel=1e-6)


def test_coco_category_ids():
    ids = general.coco80_to_coco91_class()
    assert len(ids) == 80 == len(set(ids)) and (ids[0], ids[11], ids[79]) == (1, 13, 90)


def test_save_one_txt_appends_normalised_rows(tmp_path):
    """Box (10, 20)-(30, 60) in 100 wide, 200 high: centre (.2, .2), size (.2, .2)."""
    rows = torch.tensor([[10.0, 20, 30, 60, 0.875, 2]])
    general.save_one_txt(rows, False, (200, 100), tmp_path / "a.txt")
    general.save_one_txt(rows, True, (200, 100), tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "2 0.2 0.2 0.2 0.2\n2 0.2 0.2 0.2 0.2 0.875\n"


@pytest.mark.parametrize(
    ("current", "minimum", "pinned", "fits"),
    [("2.6.0", "2.6", False, True), ("2.10.1+cu1", "2.9", False, True), ("1.9", "1.10", False, False),
     ("2.0", "2.0.0", True, True), ("2.1", "2.0", True, False), ("2.6.0a1", "2.6", False, True)],
)  # fmt: skip
def test_check_version(current, minimum, pinned, fits):
    assert general.check_version(current, minimum, pinned=pinned) == fits
    if not fits:
        with pytest.raises(InputError, match=f"torch {current} is installed"):
            general.check_version(current, minimum, "torch ", pinned, hard=True)
    assert version_numbers("v1.2.0") == (1, 2)


def test_requirements_are_only_looked_at(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert general.check_requirements(["torch>=2.0", "numpy"])
    assert not general.check_requirements("no-such-package-at-all>=1")
    assert "pip install" in caplog.text
    (tmp_path / "requirements.txt").write_text("# note\ntorch>=99  # why\n-r other.txt\nnumpy; python_version < '3'\n")
    assert not general.check_requirements(tmp_path / "requirements.txt")
    assert general.check_requirements(tmp_path / "requirements.txt", exclude=["torch"])


# Helpers --------------------------------------------------------------------------------------------------------------
def test_profile_adds_up():
    timer = general.Profile()
    for _ in range(2):
        with timer:
            time.sleep(0.01)
    assert 0.01 <= timer.dt < 1 and timer.t >= 0.02


def test_try_except_logs_and_goes_on(caplog):
    with general.TryExcept("note"):
        raise ValueError("broken")
    assert "note: broken" in caplog.text

    @general.TryExcept(verbose=False)
    def fails():
        raise KeyError("x")

    assert fails() is None
    with pytest.raises(KeyboardInterrupt), general.TryExcept():
        raise KeyboardInterrupt


def test_working_directory_comes_back(tmp_path):
    before = os.getcwd()
    with pytest.raises(ValueError, match="x"), general.WorkingDirectory(tmp_path):
        assert Path.cwd() == tmp_path
        raise ValueError("x")
    assert os.getcwd() == before


def test_threaded_and_in_place():
    @helpers.threaded
    def double(values):
        values.append(2)
        return values

    values = []
    double(values).join()
    assert values == [2] and double([], threaded=False) == [2]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs alarm signals")
def test_timeout():
    with general.Timeout(0.02):
        time.sleep(5)
    with (
        pytest.raises(TimeoutError, match="late"),
        general.Timeout(0.02, timeout_msg="late", suppress_timeout_errors=False),
    ):
        time.sleep(5)


def test_print_args_shows_the_callers(caplog):
    def caller(weights, size=3):
        general.print_args()
        general.print_args({"a": 1}, show_func=True)

    with caplog.at_level("INFO", logger="yolov5"):
        caller("x.pt")
    assert "weights=x.pt, size=3" in caplog.text and "caller" in caplog.text and "a=1" in caplog.text
    assert general.get_default_args(caller) == {"size": 3}


def test_file_facts(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    assert general.file_size(tmp_path / "a") == 1.0 == general.file_size(tmp_path)
    assert general.file_size(tmp_path / "none") == 0.0 and general.file_age(tmp_path / "a") == 0
    assert general.is_ascii("abc") and not general.is_ascii("é") and general.is_chinese("螺丝")


def test_seeds_repeat():
    def draw():
        general.init_seeds(3)
        return float(torch.rand(1)), np.random.rand()  # noqa: NPY002

    assert draw() == draw()


def test_git_facts_without_running_git(tmp_path, monkeypatch):
    assert (
        general.check_git_info(tmp_path) == {"remote": None, "branch": None, "commit": None} or GitRepo(tmp_path).root
    )
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs/heads/main").write_text("abc123\n")
    (git / "config").write_text('[remote "origin"]\n\turl = https://user:secret@host/x.git\n')
    (tmp_path / "sub").mkdir()
    found = {"remote": "https://host/x.git", "branch": "main", "commit": "abc123"}
    assert general.check_git_info(tmp_path / "sub") == found
    (git / "refs/heads/main").unlink()
    (git / "packed-refs").write_text("# pack\ndef456 refs/heads/main\n")
    assert GitRepo(tmp_path).commit == "def456"
    (git / "HEAD").write_text("fff\n")
    assert GitRepo(tmp_path).branch is None and GitRepo(tmp_path).commit == "fff"
    assert general.git_describe(tmp_path / "sub") == ""


def test_nothing_connects(monkeypatch, caplog):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    general.check_git_status()
    general.check_font("Arial.ttf")
    assert not caplog.records

    def refuse(*_, **__):
        raise OSError

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert general.check_online() is False


def test_imread_gives_none_where_the_reader_raises(tmp_path):
    assert general.imread(tmp_path / "none.jpg") is None
    assert general.imwrite(tmp_path / "a.png", np.zeros((4, 5, 3), np.uint8))
    assert general.imread(tmp_path / "a.png").shape == (4, 5, 3)


def test_evolution_keeps_the_best_generation(tmp_path):
    keys = ("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "val/box_loss")
    for ap, lr in ((0.2, 0.01), (0.5, 0.02), (0.3, 0.03)):
        general.print_mutation(keys, (0, 0, ap, ap, 9), {"lr0": lr, "box": 0.05}, tmp_path, "")
    assert general.yaml_load(tmp_path / "hyp_evolve.yaml") == {"lr0": 0.02, "box": 0.05}
    lines = (tmp_path / "evolve.csv").read_text().splitlines()
    assert len(lines) == 4 and all(len(line) == 7 * 20 + 6 for line in lines)
