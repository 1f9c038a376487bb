"""results.csv, per_class.csv and TensorBoard events of a run."""

import argparse
import csv
import errno
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from utils.errors import InputError, WorkError
from utils.loggers import LOGGERS, GenericLogger, Loggers, RunLogger, log_tensorboard_graph, web_project_name
from utils.loggers.csv_log import RESULT_COLUMNS, EpochCsv, aligned_row, quoted_row
from utils.loggers.run_logger import class_tags

HEADER = (
    "               epoch,      train/box_loss,      train/obj_loss,      train/cls_loss,   metrics/precision,      "
    "metrics/recall,     metrics/mAP_0.5,metrics/mAP_0.5:0.95,        val/box_loss,        val/obj_loss,        "
    "val/cls_loss,               x/lr0,               x/lr1,               x/lr2"
)
NAMES = {0: "screw", 1: "bolt, long", 2: "nut/M6"}


def _epoch(log, epoch, per_class=None):
    log.log_epoch(epoch, [0.1, 0.02, epoch], [0.5, 0.6, 0.7, 1 / 3, 1, 2, 3], [0.07, 0.01, 0.01], per_class)


def _run(folder, epochs, first=0, **options):
    log = RunLogger(folder, names=NAMES, resume_epoch=first, **{"tensorboard": False, **options})
    for epoch in epochs:
        _epoch(log, epoch)
    log.close()
    return (folder / "results.csv").read_text()


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("yolov5"), "propagate", True)
    caplog.set_level(logging.INFO, "yolov5")
    return caplog


@pytest.fixture
def events():
    """Return a reader of the events that TensorBoard would show for a folder."""
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder):
        reader = module.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
        return reader.Reload()

    return read


# results.csv -----------------------------------------------------------------------------------------------------


def test_header_and_rows_are_upstreams_byte_for_byte(tmp_path):
    lines = _run(tmp_path, [0, 1]).split("\n")
    assert lines[0] == HEADER
    assert lines[1].split(",")[0] == " " * 19 + "0"
    assert lines[2].split(",")[7] == "             0.33333"
    assert all(len(field) == 20 for line in lines[:3] for field in line.split(","))
    assert lines[3:] == [""]


def test_header_is_the_contracts(contract):
    assert f"\n{HEADER}\n" in (contract / "outputs.md").read_text()


def test_rows_of_resumed_epochs_are_cut_and_written_again(tmp_path):
    _run(tmp_path, [0, 1, 2, 3])
    assert _run(tmp_path, [2, 3, 4], first=2) == _expected(range(5))


def _expected(epochs):
    rows = [[e, 0.1, 0.02, e, 0.5, 0.6, 0.7, 1 / 3, 1, 2, 3, 0.07, 0.01, 0.01] for e in epochs]
    return "".join(f"{line}\n" for line in [HEADER, *map(aligned_row, rows)])


@pytest.mark.parametrize("cut", [1, 5, 150, 290])
def test_an_unfinished_last_line_is_repaired(tmp_path, cut, said):
    text = _run(tmp_path, [0, 1, 2])
    (tmp_path / "results.csv").write_text(text[:-cut])
    assert _run(tmp_path, [2], first=2) == _expected(range(3))
    assert "unfinished" in said.text


def test_a_line_that_only_lacks_its_end_still_counts_as_unfinished(tmp_path):
    """'0.12' may be the beginning of '0.125': without the line's end nobody knows."""
    text = _run(tmp_path, [0, 1])
    (tmp_path / "results.csv").write_text(text.rstrip("\n"))
    assert _run(tmp_path, [1], first=1) == _expected(range(2))


@pytest.mark.parametrize("kept", [0, 1, 40, len(HEADER)])
def test_an_unfinished_header_is_repaired(tmp_path, kept):
    (tmp_path / "results.csv").write_text(HEADER[:kept])
    assert _run(tmp_path, [0]) == _expected([0])


def test_an_epoch_written_twice_keeps_the_later_row(tmp_path):
    rows = _expected(range(3)).splitlines()
    changed = rows[2].replace("0.5", "0.9")
    (tmp_path / "results.csv").write_text("\n".join([*rows, changed]) + "\n")
    lines = _run(tmp_path, [], first=3).splitlines()
    assert lines == [rows[0], rows[1], changed, rows[3]]


def test_windows_line_ends_are_read(tmp_path):
    (tmp_path / "results.csv").write_bytes(_expected(range(3)).replace("\n", "\r\n").encode())
    assert _run(tmp_path, [2], first=2) == _expected(range(3))


@pytest.mark.parametrize("damage", ["1, 2, \0 garbage", ",".join(["1.0001"] + ["0.1"] * 13)])
def test_a_damaged_line_in_the_middle_is_cut_and_named(tmp_path, said, damage):
    lines = _expected(range(3)).splitlines()
    lines.insert(2, damage)
    (tmp_path / "results.csv").write_text("\n".join(lines) + "\n")
    assert _run(tmp_path, [], first=3) == _expected(range(3))
    assert "line 3" in said.text


@given(
    killed_at=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 400)), max_size=4),
    total=st.integers(1, 6),
)
@settings(max_examples=40, deadline=None)
def test_any_chain_of_kills_gives_the_file_of_an_undisturbed_run(tmp_path_factory, killed_at, total):
    """A kill leaves some epochs after the checkpoint, or the beginning of a line; resuming must hide it."""
    folder = tmp_path_factory.mktemp("run")
    first = 0
    for epochs, torn in killed_at:
        _run(folder, range(first, min(first + epochs, total)), first)
        text = (folder / "results.csv").read_bytes()
        saved = max(min(first + epochs, total) - 1, first)  # the last epoch's checkpoint was not saved
        rows_end = len(_expected(range(saved)))
        (folder / "results.csv").write_bytes(text[: rows_end + torn])
        first = saved
    assert _run(folder, range(first, total), first) == _expected(range(total))


TABLE = {"images": [9, 4, 0], "ap50": [0.9, 0.25, 0.5]}


def _with_classes(folder, epochs, first=0):
    log = RunLogger(folder, names=NAMES, resume_epoch=first, resumed=True, tensorboard=False)
    for epoch in epochs:
        _epoch(log, epoch, TABLE)
    return {name: (folder / name).read_bytes() for name in ("results.csv", "per_class.csv")}


@pytest.mark.parametrize("name", ["results.csv", "per_class.csv"])
def test_a_file_cut_at_any_byte_of_its_last_two_lines_is_mended(tmp_path, name, monkeypatch):
    """Epoch 2 was being written, or epoch 1 was lost with it: the run goes on from the last checkpoint."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the test waits for no disk
    whole = _with_classes(tmp_path, range(3))
    lines = whole[name].splitlines(keepends=True)
    last_two = len(lines[-1]) + len(lines[-2])
    for cut in range(last_two + 1):
        (tmp_path / name).write_bytes(whole[name][: len(whole[name]) - cut])
        text = (tmp_path / name).read_bytes()
        first = 2 if text.startswith(b"".join(lines[: 3 if name == "results.csv" else 7])) else 1
        assert _with_classes(tmp_path, range(first, 3), first) == whole, cut


def test_another_header_is_refused_and_left_alone(tmp_path):
    text = "epoch,train/loss\n0,1\n"
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(InputError, match=r"results.csv: its header lacks train/box_loss.*has train/loss, expected ep"):
        _run(tmp_path, [], first=1)
    assert (tmp_path / "results.csv").read_text() == text


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        _run(tmp_path, [], first=1)


@pytest.mark.parametrize("old", [3, "epoch,train/loss\n0,1\n", "\0"], ids=["rows", "other", "no text"])
def test_a_new_run_in_an_old_folder_keeps_the_earlier_file_apart(tmp_path, old, said):
    text = _expected(range(old)) if isinstance(old, int) else old
    for number in (1, 2):
        (tmp_path / "results.csv").write_text(text)
        (tmp_path / "per_class.csv").write_text(text)
        assert _run(tmp_path, [0]) == _expected([0])
        for name in ("results.csv", "per_class.csv"):
            assert (tmp_path / f"{name}.{number}").read_text() == text
            assert f"{name}: an earlier run's file, kept as {name}.{number}" in said.text


def test_a_run_that_goes_on_from_its_first_epoch_is_no_new_one(tmp_path):
    _run(tmp_path, [0])
    RunLogger(tmp_path, names=NAMES, tensorboard=False, resumed=True)
    assert (tmp_path / "results.csv").read_text() == _expected([])
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_resuming_without_the_file_says_so(tmp_path, said):
    assert _run(tmp_path, [4], first=4) == _expected([4])
    assert "no rows of the epochs before 4" in said.text


def test_the_wrong_number_of_values_is_refused(tmp_path):
    log = RunLogger(tmp_path, names=NAMES, tensorboard=False)
    with pytest.raises(ValueError, match="12 values for the 13 columns"):
        log.log_epoch(0, [1, 2, 3], [1, 2, 3, 4, 5, 6], [1, 2, 3])


def test_not_a_number_and_tensors_are_written(tmp_path):
    log = RunLogger(tmp_path, names=NAMES, tensorboard=False)
    log.log_epoch(0, torch.tensor([0.5, 1, 2]), [float("nan")] * 7, np.ones(3, np.float32))
    row = (tmp_path / "results.csv").read_text().splitlines()[1].split(",")
    assert [field.strip() for field in row[:5]] == ["0", "0.5", "1", "2", "nan"]


# Failures of the disk --------------------------------------------------------------------------------------------


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(WorkError) as caught:
        RunLogger(tmp_path / "nowhere", names=NAMES, tensorboard=False)
    assert "results.csv: cannot be written" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(WorkError, match="cannot be written"):
        RunLogger(tmp_path, names=NAMES)


def test_a_full_disk_keeps_the_rows_before(tmp_path, monkeypatch):
    log = RunLogger(tmp_path, names=NAMES, tensorboard=False)
    _epoch(log, 0)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkError, match=r"results.csv: cannot be written \(No space left on device\)"):
        _epoch(log, 1)
    assert (tmp_path / "results.csv").read_text() == _expected([0])
    with pytest.raises(WorkError, match="No space left"):
        EpochCsv(tmp_path / "results.csv", RESULT_COLUMNS, 0, resumed=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.csv"], "no temporary file stays"


# per_class.csv ---------------------------------------------------------------------------------------------------


def test_per_class_rows_follow_the_same_rules(tmp_path):
    table = {"images": [9, 4, 0], "instances": np.array([20, 5, 0]), "ap50": {0: 0.9, 1: 0.25}, "ap": [0.5, 1 / 8]}
    log = RunLogger(tmp_path, names=NAMES, tensorboard=False)
    for epoch in range(3):
        _epoch(log, epoch, table)
    log = RunLogger(tmp_path, names=NAMES, tensorboard=False, resume_epoch=1)
    _epoch(log, 1, {**table, "ap": [float("nan"), 0.5, 0.5]})
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    columns = ["epoch", "class", "images", "instances", "P", "R", "AP50", "AP", "weight", "drawn", "loss_share"]
    assert rows[0] == columns
    assert [row[0] for row in rows[1:]] == ["0", "0", "0", "1", "1", "1"]
    assert rows[2] == ["0", "bolt, long", "4", "5", "", "", "0.25", "0.125", "", "", ""]
    assert rows[4][6:] == ["0.9", "", "", "", ""]
    assert rows[6] == ["1", "nut/M6", "0", "0", "", "", "", "0.5", "", "", ""]


def test_what_training_did_per_class_is_written(tmp_path, events):
    table = {"ap": {0: 0.5}, "p": {0: 0.25}, "drawn": np.array([7, 3, 1]), "weight": torch.tensor([1.0, 2.5, 1.0])}
    log = RunLogger(tmp_path, names=NAMES)
    _epoch(log, 0, {**table, "loss_share": torch.tensor([0.75, 0.25, float("nan")])})
    _epoch(log, 1, {"drawn": [7, 3, 1]})  # an epoch without validation
    log.close()
    with (tmp_path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["drawn"] for row in rows] == ["7", "3", "1"] * 2
    assert [row["weight"] for row in rows] == ["1", "2.5", "1", "", "", ""]
    assert [row["loss_share"] for row in rows[:3]] == ["0.75", "0.25", ""]
    shown = events(tmp_path)
    tags = {tag for tag in shown.Tags()["scalars"] if tag.startswith("per_class")}
    kinds = {kind: {tag.rpartition("/")[2] for tag in tags if f"/{kind}/" in tag} for kind in ("P", "weight", "drawn")}
    assert kinds == {
        "P": {"screw"},
        "weight": set(class_tags(NAMES).values()),
        "drawn": set(class_tags(NAMES).values()),
    }
    assert [e.value for e in shown.Scalars("per_class/drawn/screw")] == [7, 7]
    layout = shown.Tensors("custom_scalars__config__")  # all classes of a measure in one chart
    assert len(layout) == 1 and b"per_class/AP50/.*" in layout[0].tensor_proto.string_val[0]


def test_an_unknown_column_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="unknown wieght, known are images, "):
        _epoch(RunLogger(tmp_path, names=NAMES, tensorboard=False), 0, {"wieght": [1, 1, 1]})


def test_a_per_class_file_of_an_older_version_is_refused_and_kept(tmp_path):
    text = "epoch,class,images,instances,P,R,AP50,AP,weight\n0,screw,1,1,0,0,0,0,\n"
    (tmp_path / "per_class.csv").write_text(text)
    with pytest.raises(
        InputError, match=r"per_class.csv: its header lacks drawn, loss_share, expected epoch.*rename it"
    ):
        RunLogger(tmp_path, names=NAMES, tensorboard=False, resume_epoch=1)
    assert (tmp_path / "per_class.csv").read_text() == text


def test_an_old_per_class_file_is_cut_even_when_no_class_follows(tmp_path):
    log = RunLogger(tmp_path, names=NAMES, tensorboard=False)
    _epoch(log, 0, {"ap": [0.1, 0.2, 0.3]})
    _epoch(log, 1, {"ap": [0.1, 0.2, 0.3]})
    _run(tmp_path, [], first=1)
    assert len((tmp_path / "per_class.csv").read_text().splitlines()) == 4


@given(st.lists(st.one_of(st.none(), st.text(), st.integers(-99999, 99999)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_quoted_rows_are_one_line_and_read_back(values):
    line = quoted_row(values)
    assert len(f"{line}\n".splitlines()) == 1 or any("\x1c" <= c <= "\x1e" or c in "\x85\u2028\u2029" for c in line)
    expected = ["" if v is None else " ".join(v.split()) if isinstance(v, str) else f"{v:.5g}" for v in values]
    if "\0" not in line:
        assert next(csv.reader([line]), [""]) == expected or expected == [""]


# TensorBoard -----------------------------------------------------------------------------------------------------


def test_scalars_have_the_names_of_the_csv(tmp_path, events):
    log = RunLogger(tmp_path, names=NAMES)
    _epoch(log, 0, {"ap50": [0.9, 0.8, float("nan")], "ap": [0.5, 0.4, float("nan")]})
    _epoch(log, 1)
    log.close()
    shown = events(tmp_path)
    classes = {f"per_class/{kind}/{name}" for kind in ("AP50", "AP") for name in ("screw", "bolt__long")}
    assert set(shown.Tags()["scalars"]) == set(RESULT_COLUMNS[1:]) | classes
    assert [(e.step, round(e.value, 4)) for e in shown.Scalars("train/cls_loss")] == [(0, 0.0), (1, 1.0)]


def test_resuming_voids_the_later_events(tmp_path, events):
    _run(tmp_path, [0, 1, 2, 3], tensorboard=True)
    _run(tmp_path, [2, 3, 4], first=2, tensorboard=True)
    assert [e.step for e in events(tmp_path).Scalars("x/lr0")] == [0, 1, 2, 3, 4]


def test_what_a_killed_run_showed_is_in_the_file(tmp_path, events):
    """An epoch whose checkpoint is written is not repeated, so its events must not be lost with the process."""
    code = (
        "import os, sys; from pathlib import Path; sys.path[:0] = [sys.argv[2], sys.argv[2] + '/tests']\n"
        "from test_loggers import NAMES, _epoch; from utils.loggers import RunLogger\n"
        "log = RunLogger(Path(sys.argv[1]), names=NAMES)\nfor epoch in range(3): _epoch(log, epoch)\nos._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path, Path(__file__).parents[1]], check=False)
    assert done.returncode == 9
    assert [e.step for e in events(tmp_path).Scalars("x/lr0")] == [0, 1, 2]
    _run(tmp_path, [2, 3], first=2, tensorboard=True)
    assert [e.step for e in events(tmp_path).Scalars("x/lr0")] == [0, 1, 2, 3]


def test_a_new_run_in_an_old_folder_voids_the_earlier_events(tmp_path, events):
    _run(tmp_path, range(4), tensorboard=True)
    _run(tmp_path, range(2), tensorboard=True)
    assert [e.step for e in events(tmp_path).Scalars("x/lr0")] == [0, 1]


def test_all_six_final_pictures_reach_the_file(tmp_path, events):
    names = ["results", "confusion_matrix", "F1_curve", "PR_curve", "P_curve", "R_curve"]
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[..., 2] = 255
    for name in names:
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
    log = RunLogger(tmp_path, names=NAMES)
    log.log_images({name: tmp_path / f"{name}.png" for name in names}, 7)
    log.close()
    shown = events(tmp_path)
    assert shown.Tags()["images"] == names
    image = shown.Images("R_curve")[0]
    assert (image.step, image.width, image.height) == (7, 40, 30)
    decoded = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert decoded[0, 0].tolist() == [0, 0, 255], "colours are not swapped"


def test_a_picture_that_is_missing_is_named(tmp_path, said):
    log = RunLogger(tmp_path, names=NAMES)
    log.log_images({"gone": tmp_path / "gone.png"}, 0)
    (tmp_path / "empty.png").touch()
    log.log_images({"empty": tmp_path / "empty.png"}, 0)
    log.close()
    assert "gone.png" in said.text and "empty.png" in said.text


def test_texts_are_written(tmp_path, events):
    log = RunLogger(tmp_path, names=NAMES)
    log.log_hyp({"lr0": 0.01, "cls_loss": "focal"})
    log.log_table("class_balance", "class  weight\nscrew  1.0")
    log.close()
    shown = events(tmp_path)
    assert shown.Tags()["tensors"] == ["hyp/text_summary", "class_balance/text_summary"]
    text = shown.Tensors("hyp/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| lr0 | 0.01 |" in text and "| cls_loss | focal |" in text


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return [self.drop(self.bn(self.conv(x)))]


def _random_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def test_the_graph_is_written_and_nothing_else_changes(tmp_path, events):
    model = _Net().train()
    model.conv.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    random_before = _random_states()
    log = RunLogger(tmp_path, names=NAMES)
    log.log_graph(model, 64)
    log.close()
    assert _random_states() == random_before
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert events(tmp_path).Tags()["graph"] is True


def test_a_model_that_cannot_be_traced_is_said_in_one_line(tmp_path, said):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            raise RuntimeError("no way\nsecond line")

    log = RunLogger(tmp_path, names=NAMES)
    log.log_graph(Broken(), 32)
    log.close()
    assert "TensorBoard graph left out" in said.text
    assert "second line" not in said.text


def test_without_the_package_the_csv_goes_on(tmp_path, monkeypatch, said):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = RunLogger(tmp_path, names=NAMES)
    _epoch(log, 0)
    log.log_hyp({"a": 1})
    log.log_graph(_Net())
    log.close()
    assert (tmp_path / "results.csv").read_text() == _expected([0])
    assert [r.getMessage().startswith("TensorBoard events are not written") for r in said.records] == [True]
    assert not list(tmp_path.glob("events*"))


def test_without_plots_neither_pictures_nor_graph_are_recorded(tmp_path, events):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    log = RunLogger(tmp_path, names=NAMES, plots=False)
    log.log_images({"a": tmp_path / "a.png"}, 0)
    log.log_graph(_Net(), 32)
    _epoch(log, 0)
    log.close()
    tags = events(tmp_path).Tags()
    assert tags["images"] == [] and tags["graph"] is False


def test_a_failing_event_file_is_one_line(tmp_path, monkeypatch):
    log = RunLogger(tmp_path, names=NAMES)

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log.tensorboard.writer, "add_scalar", full)
    with pytest.raises(WorkError, match="TensorBoard events cannot be written"):
        _epoch(log, 0)


def test_class_tags_are_distinct():
    assert class_tags({0: "a b", 1: "a_b", 2: "x/y", 3: "螺栓", 4: ""}) == {
        0: "a_b_0", 1: "a_b_1", 2: "x_y", 3: "螺栓", 4: "_"
    }  # fmt: skip


# YOLOv5's logger classes -----------------------------------------------------------------------------------------


def test_loggers_records_a_run_through_its_hooks(tmp_path, events):
    opt = argparse.Namespace(noplots=False)
    logger = Loggers(tmp_path, "yolov5n.pt", opt, {"lr0": 0.01}, None)
    images, targets = torch.zeros(2, 3, 32, 32), torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5]])
    logger.on_pretrain_routine_start()
    logger.on_pretrain_routine_end([np.array([[0, 0.5, 0.5, 0.2, 0.2]]), np.zeros((0, 5))], NAMES)
    logger.on_train_start()
    for step in range(4):
        logger.on_train_batch_end(_Net(), step, images, targets, ["a.jpg", "b.jpg"], [0.1, 0.2, 0.3])
    for epoch in range(2):
        logger.on_fit_epoch_end([0.1, 0.02, epoch, 0.5, 0.6, 0.7, 1 / 3, 1, 2, 3, 0.07, 0.01, 0.01], epoch, 0.4, 0.4)
    logger.on_train_end(Path("last.pt"), Path("best.pt"), 1, [])
    assert (tmp_path / "results.csv").read_text() == _expected(range(2))
    pictures = {p.name for p in tmp_path.glob("*.jpg")} | {p.name for p in tmp_path.glob("*.png")}
    batches = {f"train_batch{i}.jpg" for i in range(3)}
    assert pictures == batches | {"labels.jpg", "labels_correlogram.jpg", "results.png"}
    tags = events(tmp_path).Tags()
    assert set(tags["images"]) == {"train_batch0", "train_batch1", "train_batch2", "results"}
    assert tags["graph"] is True
    assert logger.best_keys[0] == "best/epoch" and len(logger.keys) == 13
    assert logger.remote_dataset is None


def test_generic_logger_records_any_metrics(tmp_path, events):
    log = GenericLogger(argparse.Namespace(save_dir=tmp_path), logging.getLogger("yolov5"), include=("tb",))
    for epoch in range(2):
        log.log_metrics({"train/loss": 0.5, "metrics/accuracy_top1": 0.25, "lr/0": 0.01}, epoch)
    cv2.imwrite(str(tmp_path / "test_images.jpg"), np.zeros((9, 9, 3), np.uint8))
    log.log_images([tmp_path / "test_images.jpg", tmp_path / "none.jpg"], "Test", 1)
    log.log_model(tmp_path / "best.pt")
    log.update_params({"a": 1})
    log.tb.close()
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[0] == ",".join(f"{n:>23}" for n in ("epoch", "train/loss", "metrics/accuracy_top1", "lr/0"))
    assert lines[2] == ",".join(f"{v:>23}" for v in ("1", "0.5", "0.25", "0.01"))
    assert events(tmp_path).Tags()["images"] == ["test_images"]


def test_graph_of_any_writer(tmp_path, events):
    module = pytest.importorskip("torch.utils.tensorboard")
    with module.SummaryWriter(str(tmp_path)) as writer:
        log_tensorboard_graph(writer, _Net(), imgsz=(64, 64))
    assert events(tmp_path).Tags()["graph"] is True


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        ("runs/train", "YOLOv5"),
        ("runs/train-cls", "YOLOv5-Classify"),
        ("runs/train-seg", "YOLOv5-Segment"),
        ("screws", "screws"),
    ],
)
def test_project_names(project, expected):
    assert web_project_name(project) == expected


def test_interface_matches_the_contract(contract):
    import inspect
    import json

    facts = json.loads((contract / "api.json").read_text())["utils.loggers"]
    assert list(LOGGERS) == facts["constants"]["LOGGERS"]
    for owner in (Loggers, GenericLogger):
        described = facts["classes"][owner.__name__]
        for name, params in {**described["methods"], "__init__": described["init"]}.items():
            if params == "property":
                assert isinstance(getattr(owner, name), property)
                continue
            expected = [p if isinstance(p, str) else p[0] for p in params]
            assert list(inspect.signature(getattr(owner, name)).parameters)[1:] == expected, name
