"""Settings: every file loads, and every mistake is named together with the others."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.balance.loss_names import LOSS_PARAMETERS, base_loss, loss_parameters
from utils.errors import InputError, InputErrors, MissingFileError
from utils.hyperparameter_table import nearest_name, plain_number, settings_of
from utils.hyperparameters import Hyperparameters, evolution_bounds
from utils.logs import LOGGER

HYPS = Path(__file__).resolve().parents[1] / "data" / "hyps"
GOOD = Hyperparameters().to_dict()


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOGGER, "propagate", True)


def problems_of(changes: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> list[str]:
    mapping = {k: v for k, v in {**GOOD, **(changes or {})}.items() if k not in without}
    with pytest.raises(InputErrors) as error:
        Hyperparameters.from_dict(mapping, "h.yaml")
    return error.value.problems


def test_upstreams_files(contract: Path) -> None:
    for name, wanted in json.loads((contract / "hyps.json").read_text()).items():
        hyp = Hyperparameters.load(HYPS / name)
        assert list(hyp.to_dict().items()) == list(wanted.items())
        assert all(hyp[key] == value for key, value in wanted.items())
        assert hyp.cls_loss is None and hyp.cls_weights is None and hyp.sampler == "none"


@pytest.mark.parametrize("path", sorted(HYPS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_file_loads_and_every_line_is_explained(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Hyperparameters.load(path)
    assert not caplog.records
    for line in path.read_text().splitlines():
        assert not line or "#" in line


def test_hyp_focal() -> None:
    hyp = Hyperparameters.load(HYPS / "hyp.focal.yaml")
    low = Hyperparameters.load(HYPS / "hyp.scratch-low.yaml")
    changed = {k for k in low.to_dict() if hyp[k] != low[k]}
    assert changed == {"mixup", "cls"}
    assert (hyp.cls_loss, hyp.cls_gamma, hyp.cls_alpha, hyp.cls_weights) == ("focal", 1.5, None, None)
    assert (hyp.sampler, hyp.rare_paste) == ("repeat_factor", 0.5)


# ---- mistakes
def test_unknown_key_offers_the_near_one() -> None:
    (problem,) = problems_of({"lr_0": 0.01})
    assert problem == "h.yaml: unknown key 'lr_0': did you mean 'lr0'?"


def test_missing_key() -> None:
    (problem,) = problems_of(without=("lrf",))
    assert problem.startswith("h.yaml: lrf missing")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("lr0", -0.01, "at least 0"),
        ("lr0", "fast", "a number"),
        ("lr0", True, "a number"),
        ("lr0", None, "a number"),
        ("lr0", [0.1], "a number"),
        ("box", float("nan"), "at least 0"),
        ("obj", float("inf"), "at least 0"),
        ("cls", -1, "at least 0"),
        ("momentum", 1.0, "below 1"),
        ("mosaic", 1.5, "from 0 to 1"),
        ("fliplr", -0.1, "from 0 to 1"),
        ("cls_pw", 0, "above 0"),
        ("cls_pw", [1, -1], "above 0"),
        ("anchor_t", 1.0, "above 1"),
        ("fl_gamma", 6, "from 0 to 5"),
        ("cls_loss", "fokal", "bce | focal"),
        ("cls_gamma", -1, "from 0 to 5"),
        ("cls_alpha", 1.1, "above 0 to 1"),
        ("cls_qtarget", "box", "one | iou"),
        ("obj_gneg", 5.5, "from 0 to 5"),
        ("cls_clip", 0.31, "from 0 to 0.3"),
        ("obj_spos", 0, "above 0 to 10"),
        ("cls_vfl_weighted", 1, "true or false"),
        ("cls_efl_scale", 17, "from 0 to 16"),
        ("cls_seesaw_p", 2.5, "from 0 to 2"),
        ("cls_seesaw_q", 4.5, "from 0 to 4"),
        ("cls_tau", 3, "from 0 to 2"),
        ("cls_act", "relu", "sigmoid | softmax"),
        ("obj_loss", "efl", "bce | focal"),
        ("cls_dyn", 2, "from 0 to 1"),
        ("dyn_mode", "cubic", "linear | adaptive"),
        ("dyn_epochs", [0.1, 1.7], "two rising numbers from 0 to 1"),
        ("dyn_epochs", [0.7, 0.1], "two rising numbers from 0 to 1"),
        ("dyn_epochs", 0.5, "two rising numbers from 0 to 1"),
        ("dyn_gamma", 0.4, "from 0.5 to 3"),
        ("attn_temp", 0, "from 0.01 to 10"),
        ("bnd_sigma", 5, "from 0.25 to 4"),
        ("hard_dist_other", "yes", "true or false"),
        ("tversky_gamma", 0.9, "from 1 to 3"),
        ("cls_fl_norm", "pos", "none | ema"),
        ("obj_fl_norm", "sum", "none | ema | pos"),
        ("cls_weights_obj", 1, "true or false"),
        ("label_weights", 3, "a path"),
        ("label_weights", "", "a path"),
        ("sampler_count", "boxes", "instances | images"),
        ("sampler_bg", 2, "from 0 to 1"),
        ("rare_paste", 1.5, "from 0 to 1"),
        ("rare_paste_max", 2.5, "a whole number from 1"),
        ("rare_paste_scale", [1.5], "two rising numbers above 0"),
        ("album", {"Blur": 0.1}, "a list of augmentations"),
        ("album", [{"Blur": 1.5}], "a list of augmentations"),
        ("album_rare", [{"Blur": 0.1, "ToGray": 0.1}], "a list of augmentations"),
        ("album_class", [{"Blur": 0.1}], "a mapping of class names"),
        ("cls_weights", "inverted", "inverse | sqrt_inverse"),
        ("cls_weights", [1, 0], "above 0"),
        ("cls_weights", {"a": "x"}, "above 0"),
        ("cls_weights", [], "list"),
        ("cls_weights_beta", 1.0, "below 1"),
        ("cls_weights_power", 2, "from 0 to 1"),
        ("cls_weights_max", 0.5, "at least 1"),
        ("cls_weights_norm", "mean", "auto | instance | class | none"),
        ("cls_weights_mode", "diagonal", "row"),
        ("cls_weights_start", -1, "at least 0"),
        ("sampler", "random", "none | repeat_factor"),
        ("sampler_t", 0, "above 0"),
        ("sampler_t", "median", "auto"),
        ("sampler_reduce", "min", "max | mean"),
        ("sampler_len", "double", "fixed | expand"),
        ("label_smoothing", 1.5, "from 0 to 1"),
    ],
)
def test_type_and_range(key: str, value: Any, allowed: str) -> None:
    (problem,) = problems_of({key: value})
    assert problem.startswith(f"h.yaml: {key}: ") and allowed in problem and repr(value) in problem


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fl_gamma": 1.5, "cls_loss": "focal"}, ["fl_gamma", "cls_loss"]),
        ({"fl_gamma": 1.5, "obj_loss": "bce"}, ["fl_gamma", "obj_loss"]),
        ({"cls_loss": "focal", "cls_alpha": 0.25, "cls_pw": 2.0}, ["cls_alpha", "cls_pw"]),
        ({"cls_loss": "focal", "cls_alpha": 0.25, "cls_pw": [1, 2]}, ["cls_alpha", "cls_pw"]),
        ({"obj_loss": "focal", "obj_alpha": 0.25, "obj_pw": 2.0}, ["obj_alpha", "obj_pw"]),
        ({"sampler_len": "expand"}, ["sampler_len", "sampler is none"]),
        ({"cls_weights_start": 2.5}, ["cls_weights_start", "2.5"]),
        ({"fl_gamma": 1.5, "cls_loss": "dynamic_focal"}, ["fl_gamma", "dynamic_focal"]),
        ({"cls_loss": "boundary_focal", "cls_alpha": 0.25, "cls_pw": 2.0}, ["cls_alpha", "cls_pw"]),
        ({"obj_loss": "varifocal", "obj_alpha": 0.5, "obj_pw": 2.0}, ["obj_alpha", "obj_pw"]),
        ({"cls_loss": "focal", "cls_alpha": 1.0}, ["cls_alpha", "below 1"]),
        ({"cls_loss": "softmax_focal", "cls_pw": 2.0}, ["cls_pw", "softmax_focal"]),
        (
            {"cls_loss": "softmax_focal", "cls_weights": "inverse", "cls_weights_mode": "pos"},
            ["cls_weights_mode", "row"],
        ),
        ({"cls_loss": "softmax_focal", "cls_act": "sigmoid"}, ["cls_act", "softmax_focal"]),
        ({"cls_act": "softmax"}, ["cls_act", "sigmoid"]),
        ({"cls_dyn": 1.0, "dyn_epochs": [0.5, 0.5]}, ["dyn_epochs", "0.5"]),
    ],
)
def test_combinations(changes: dict[str, Any], words: list[str]) -> None:
    (problem,) = problems_of(changes)
    assert all(word in problem for word in words)


def test_all_problems_at_once() -> None:
    found = problems_of(
        {"lr_0": 1, "mosaic": 2, "box": float("nan"), "fl_gamma": 1.0, "cls_loss": "bce"}, without=("lrf", "hsv_h")
    )
    assert len(found) == 6
    for word in ("lr_0", "lrf missing", "hsv_h missing", "mosaic", "box", "fl_gamma"):
        assert any(word in problem for problem in found)
    assert all(problem.startswith("h.yaml: ") and "\n" not in problem for problem in found)


def test_key_of_another_type_than_text() -> None:
    assert "unknown key '3'" in problems_of({3: 1})[0]


def test_files(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        Hyperparameters.load(tmp_path / "none.yaml")
    path = tmp_path / "twice.yaml"
    path.write_text((HYPS / "hyp.VOC.yaml").read_text() + "\nlr0: 0.1\n")
    with pytest.raises(InputError, match="lr0"):
        Hyperparameters.load(path)
    path.write_text((HYPS / "hyp.VOC.yaml").read_text().replace("lr0: 0.00334", "lr0: 1e-3"))
    hyp = Hyperparameters.load(path)
    assert hyp.lr0 == hyp.to_dict()["lr0"] == 1e-3


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300, max_value=1e300))
def test_numbers_as_people_write_them(value: float) -> None:
    assert plain_number(f"{value:e}") == pytest.approx(value, rel=1e-5)
    assert plain_number([f"{value:e}", "auto"])[1] == "auto"


@given(st.text(max_size=12))
def test_other_text_stays_text(text: str) -> None:
    read = plain_number(text)
    assert read == text or isinstance(read, float)
    assert nearest_name(text, GOOD) in {None, *GOOD}


@given(st.dictionaries(st.one_of(st.sampled_from(sorted(GOOD)), st.text(max_size=5)), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.lists(st.floats(), max_size=3)),
    max_size=6))  # fmt: skip
def test_any_mapping_is_taken_or_refused_in_words(changes: dict[str, Any]) -> None:
    try:
        hyp = Hyperparameters.from_dict({**GOOD, **changes})
    except InputErrors as error:
        assert error.problems
    else:
        assert set(hyp.to_dict()) == {*GOOD, *changes}


# ---- the object
def test_frozen_and_mapping_like() -> None:
    hyp = Hyperparameters.from_dict(GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        hyp.lr0 = 1.0  # type: ignore[misc]
    assert hyp["box"] == hyp.box == hyp.get("box") == 0.05
    assert hyp.get("nothing", 7) == 7 and hyp.get("cls_loss") is None
    assert "box" in hyp and "nothing" not in hyp and "load" not in hyp
    assert dict(**hyp)["anchors"] is None
    with pytest.raises(KeyError):
        hyp["load"]
    with pytest.raises(InputErrors, match="mosaic"):
        Hyperparameters(mosaic=3)


def test_values_as_read_and_nothing_shared() -> None:
    mapping = {**GOOD, "hsv_h": 0, "anchors": 3, "cls_weights": {"a": 2}}
    hyp = Hyperparameters.from_dict(mapping)
    assert list(hyp.to_dict().items()) == list(mapping.items())
    assert type(hyp.to_dict()["hsv_h"]) is int
    hyp.to_dict()["cls_weights"]["a"] = 5
    mapping["cls_weights"]["a"] = 5
    assert hyp.cls_weights == hyp.to_dict()["cls_weights"] == {"a": 2}
    assert type(Hyperparameters.from_dict({**GOOD, "lr0": np.float64(0.1)}).to_dict()["lr0"]) is float


def test_replace_and_pickle() -> None:
    hyp = Hyperparameters.from_dict(GOOD).replace(mosaic=0.0, cls_loss="focal")
    assert hyp.mosaic == 0.0
    assert list(hyp.to_dict()) == [*GOOD, "cls_loss"]
    assert pickle.loads(pickle.dumps(hyp)).to_dict() == hyp.to_dict()
    with pytest.raises(InputErrors, match="did you mean 'mosaic'"):
        hyp.replace(mosiac=1)


def test_scaled() -> None:
    """nc 40, 4 layers, 1280: box ·3/4, cls ·40/80·3/4, obj ·4·3/4."""
    hyp = Hyperparameters.from_dict(GOOD)
    scaled = hyp.scaled(nc=40, nl=4, imgsz=1280)
    assert (scaled.box, scaled.cls, scaled.obj) == pytest.approx((0.05 * 0.75, 0.5 * 0.375, 3.0))
    assert scaled.to_dict() == {**GOOD, "box": scaled.box, "cls": scaled.cls, "obj": scaled.obj}
    assert hyp.to_dict() == GOOD
    assert hyp.scaled(80, 3, 640).to_dict() == GOOD


def test_from_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="yolov5"):
        hyp = Hyperparameters.from_dict({"box": 0.02, "giou": 3.54, "new": 1}, "old.pt", strict=False)
    assert hyp.box == 0.02 and hyp.copy_paste == 0.0
    assert hyp.to_dict() == {"box": 0.02}
    assert "old.pt" in caplog.text and "giou, new" in caplog.text


# ---- what the data set decides
def test_class_weights_against_the_names(caplog: pytest.LogCaptureFixture) -> None:
    names = {0: "screw", 1: "nut"}
    Hyperparameters.from_dict({**GOOD, "cls_weights": {"nut": 2}}).validate_for(names)
    for weights, text in (({"nuts": 2}, "did you mean 'nut'"), ([1, 2, 3], "3 values for 2 classes (screw, nut)")):
        with pytest.raises(InputErrors) as error:
            Hyperparameters.from_dict({**GOOD, "cls_weights": weights}).validate_for(names, source="h.yaml")
        assert str(error.value).startswith("h.yaml: cls_weights: ") and text in str(error.value)
    with pytest.raises(InputErrors, match="cls_pw"):
        Hyperparameters.from_dict({**GOOD, "cls_pw": [1, 2, 3]}).validate_for(names)
    with caplog.at_level("WARNING", logger="yolov5"):
        Hyperparameters.from_dict({**GOOD, "cls_loss": "focal"}).validate_for(["item"], nc=1)
    assert "cls_loss" in caplog.text


@pytest.mark.parametrize("option", [{"rect": True}, {"image_weights": True}])
def test_sampler_against_other_orders(option: dict[str, bool]) -> None:
    hyp = Hyperparameters.from_dict({**GOOD, "sampler": "repeat_factor"})
    hyp.validate_for(["a", "b"])
    with pytest.raises(InputErrors, match="sampler"):
        hyp.validate_for(["a", "b"], **option)
    Hyperparameters.from_dict(GOOD).validate_for(["a", "b"], **option)


def test_image_weights_is_its_own_sampler() -> None:
    hyp = Hyperparameters.from_dict({**GOOD, "sampler": "image_weights"})
    hyp.validate_for(["a", "b"], image_weights=True)
    with pytest.raises(InputErrors, match="--rect"):
        hyp.validate_for(["a", "b"], rect=True)


def test_settings_without_effect_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hyp = Hyperparameters.from_dict({**GOOD, "cls_gamma": 2, "sampler_t": 0.1, "obj_loss": "bce", "obj_gamma": 1.0})
    assert [line.split(":")[0] for line in hyp.remarks()] == ["cls_gamma", "obj_gamma", "sampler_t"]
    path = tmp_path / "h.yaml"
    path.write_text((HYPS / "hyp.VOC.yaml").read_text() + "cls_gamma: 2\n")
    with caplog.at_level("WARNING", logger="yolov5"):
        Hyperparameters.load(path)
    assert "cls_gamma: 2 has no effect" in caplog.text


SPECIFIED = """
    cls_loss obj_loss cls_gamma obj_gamma cls_alpha obj_alpha cls_qtarget {}_gpos {}_gneg {}_clip {}_spos {}_sneg
    {}_vfl_weighted {}_asl_detach {}_dyn {}_attn {}_bnd {}_tversky {}_fl_norm cls_efl_scale cls_seesaw_p cls_seesaw_q
    cls_tau cls_act dyn_mode dyn_epochs dyn_gamma attn_temp bnd_sigma hard_iou hard_iou_pow hard_dist hard_dist_tau
    hard_dist_other hard_dens hard_dens_max tversky_a tversky_gamma cls_weights cls_weights_beta cls_weights_power
    cls_weights_max cls_weights_norm cls_weights_mode cls_weights_start cls_weights_obj label_weights sampler sampler_t
    sampler_reduce sampler_count sampler_len sampler_bg rare_paste rare_paste_max rare_paste_scale rare_paste_ioa album
    album_rare album_class album_min_visibility rare_aug_p"""


def test_every_class_balance_key_is_there_and_off() -> None:
    keys = {key.format(head) for key in SPECIFIED.split() for head in ("cls", "obj")}
    assert keys <= set(settings_of(Hyperparameters))
    hyp = Hyperparameters()
    assert not any(setting.required for key, setting in settings_of(Hyperparameters).items() if key in keys)
    assert hyp.cls_loss is hyp.obj_loss is hyp.cls_weights is hyp.label_weights is hyp.album is hyp.album_rare is None
    gains = [hyp[f"{head}_{key}"] for head in ("cls", "obj") for key in ("dyn", "attn", "bnd", "tversky")]
    assert not any([*gains, hyp.hard_iou, hyp.hard_dist, hyp.hard_dens, hyp.rare_paste, hyp.rare_aug_p])
    assert hyp.cls_fl_norm == hyp.obj_fl_norm == hyp.sampler == "none"
    assert hyp.remarks() == hyp.expansions() == []


# ---- composite names
@pytest.mark.parametrize("head", ["cls", "obj"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dynamic_focal", {"{}_dyn": 1.0}),
        ("attention_focal", {"{}_attn": 0.5}),
        ("boundary_focal", {"{}_bnd": 1.0}),
        ("tversky_focal", {"{}_tversky": 0.3}),
        ("improved_focal", {"hard_iou": 0.5, "hard_dist": 0.5, "hard_dens": 0.5}),
    ],
)
def test_composite_names(head: str, name: str, settings: dict[str, float]) -> None:
    hyp = Hyperparameters.from_dict({**GOOD, f"{head}_loss": name})
    wanted = {key.format(head): value for key, value in settings.items()}
    assert hyp[f"{head}_loss"] == "focal"
    assert {key: hyp[key] for key in wanted} == wanted
    assert hyp.to_dict() == {**GOOD, f"{head}_loss": name}
    (line,) = hyp.expansions()
    assert line.startswith(f"{head}_loss: {name} stands for focal with ") and all(key in line for key in wanted)
    assert hyp.remarks() == []


def test_composite_names_survive_changes_and_copies() -> None:
    hyp = Hyperparameters.from_dict({**GOOD, "cls_loss": "dynamic_focal", "dyn_epochs": [0.2, 0.5]})
    for copy in (hyp.replace(mosaic=0.5), hyp.scaled(20, 3, 640), pickle.loads(pickle.dumps(hyp))):
        assert copy.cls_loss == "focal" and copy.cls_dyn == 1.0 and copy.dyn_epochs == [0.2, 0.5]
        assert copy.to_dict()["cls_loss"] == "dynamic_focal" and "cls_dyn" not in copy.to_dict()
    plain = hyp.replace(cls_loss="focal")
    assert plain.cls_loss == "focal" and plain.cls_dyn == 0.0 and plain.expansions() == []
    assert Hyperparameters(cls_loss="improved_focal").hard_dens == 0.5


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_what_the_user_writes_beats_the_expansion(value: float) -> None:
    hyp = Hyperparameters.from_dict({**GOOD, "cls_loss": "dynamic_focal", "cls_dyn": value})
    assert hyp.cls_dyn == hyp.replace(mosaic=0.5).cls_dyn == value


def test_expansion_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "h.yaml"
    path.write_text((HYPS / "hyp.VOC.yaml").read_text() + "cls_loss: improved_focal\n")
    with caplog.at_level("INFO", logger="yolov5"):
        Hyperparameters.load(path)
    assert "improved_focal stands for focal with hard_iou 0.5, hard_dist 0.5, hard_dens 0.5" in caplog.text


# ---- augmentation pipelines
def test_pipelines_keep_their_form() -> None:
    album = [
        {"RandomRotate90": 0.5},
        {"RandomBrightnessContrast": {"brightness_limit": [0.1, 0.2], "p": "1e-1"}},
        "Blur",
    ]
    hyp = Hyperparameters.from_dict({**GOOD, "album": [], "album_rare": album, "album_class": {"nut": album}})
    assert hyp.album == [] and hyp.album_rare[0] == {"RandomRotate90": 0.5}
    assert hyp.album_class["nut"][1]["RandomBrightnessContrast"]["p"] == 0.1
    with pytest.raises(InputErrors, match="album_class: unknown class 'nut', did you mean 'nuts'"):
        hyp.validate_for(["screw", "nuts"])
    assert hyp.remarks() == ["album_rare has no effect, rare_aug_p is 0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"obj_gpos": 1.0, "obj_loss": "focal"}, ["obj_gpos", "obj_loss: focal"]),
        ({"cls_alpha": 0.25, "cls_loss": "asl"}, ["cls_alpha", "cls_loss: asl"]),
        ({"cls_tau": 0.5}, ["cls_tau", "without cls_loss"]),
        ({"dyn_gamma": 2.0}, ["dyn_gamma", "cls_dyn and obj_dyn are off"]),
        ({"bnd_sigma": 2.0}, ["bnd_sigma", "cls_bnd and obj_bnd are off"]),
        ({"rare_paste_max": 2}, ["rare_paste_max", "rare_paste is off"]),
        ({"cls_loss": "logit_adjust", "cls_weights": "inverse"}, ["logit_adjust", "cls_weights"]),
        ({"sampler_t": 0.1}, ["sampler_t", "sampler and rare_paste and album_rare are off"]),
        ({"sampler": "sqrt", "sampler_t": 0.1}, ["sampler_t", "with sampler: sqrt"]),
        ({"sampler": "repeat_factor", "sampler_bg": 0.5}, ["sampler_bg", "with sampler: repeat_factor"]),
        ({"sampler": "sqrt", "sampler_len": "expand"}, ["sampler_len: expand", "no longer with sampler: sqrt"]),
        ({"cls_weights": "inverse", "cls_weights_beta": 0.9}, ["cls_weights_beta", "with cls_weights: inverse"]),
        ({"cls_fl_norm": "ema"}, ["cls_fl_norm", "with cls_loss: bce"]),
        ({"mosaic": 0.0, "mixup": 0.1}, ["mixup", "mosaic is off"]),
    ],
)
def test_remarks(changes: dict[str, Any], words: list[str]) -> None:
    (line,) = Hyperparameters.from_dict({**GOOD, **changes}).remarks()
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    "changes",
    [
        {"rare_paste": 0.5, "sampler_t": 0.1},
        {"rare_paste": 0.5, "sampler": "sqrt", "sampler_t": 0.1},
        {"album_rare": ["Blur"], "rare_aug_p": 0.5, "sampler_reduce": "mean"},
        {"sampler": "sqrt", "sampler_count": "images"},
        {"sampler": "repeat_factor", "sampler_len": "expand", "sampler_t": 0.1, "sampler_reduce": "mean"},
        {"cls_loss": "focal", "cls_fl_norm": "ema"},
        {"fl_gamma": 1.5, "cls_fl_norm": "ema"},
        {"obj_fl_norm": "pos"},
        {"cls_weights": "effective_number", "cls_weights_beta": 0.9},
    ],
)
def test_settings_that_are_read_get_no_remark(changes: dict[str, Any]) -> None:
    assert Hyperparameters.from_dict({**GOOD, **changes}).remarks() == []


@pytest.mark.parametrize("name", ["focal", "qfocal", "asl", "biscale", "varifocal", "bceblur", "tversky_focal"])
def test_parameters_that_are_read_raise_no_remark(name: str) -> None:
    parameters = LOSS_PARAMETERS[base_loss(name)]
    changes = {f"cls_{key}": value for key, value in parameters.items()}
    assert Hyperparameters.from_dict({**GOOD, "cls_loss": name, **changes}).remarks() == []
    assert loss_parameters({"cls_loss": name}, "cls") == parameters


def test_table_is_complete() -> None:
    settings = settings_of(Hyperparameters)
    assert set(settings) == {f.name for f in dataclasses.fields(Hyperparameters)}
    for name, setting in settings.items():
        assert setting.meaning and setting.accepts(setting.default), name
        assert isinstance(setting.needs, tuple) and set(setting.needs) <= set(settings), name
    for name, (scale, low, high) in evolution_bounds().items():
        assert scale >= 0 and low < high
        assert settings[name].accepts((low + high) / 2)
