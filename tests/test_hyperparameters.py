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
    assert changed == {"mixup"}
    assert (hyp.cls_loss, hyp.cls_gamma, hyp.cls_alpha, hyp.cls_weights) == ("focal", 1.5, None, "sqrt_inverse")


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
        ("cls_alpha", 1.0, "below 1"),
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


def test_settings_without_effect_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hyp = Hyperparameters.from_dict({**GOOD, "cls_gamma": 2, "sampler_t": 0.1, "obj_loss": "bce", "obj_gamma": 1.0})
    assert [line.split(":")[0] for line in hyp.remarks()] == ["cls_gamma", "sampler_t", "obj_gamma"]
    path = tmp_path / "h.yaml"
    path.write_text((HYPS / "hyp.VOC.yaml").read_text() + "cls_gamma: 2\n")
    with caplog.at_level("WARNING", logger="yolov5"):
        Hyperparameters.load(path)
    assert "cls_gamma: 2 has no effect" in caplog.text


def test_table_is_complete() -> None:
    settings = settings_of(Hyperparameters)
    assert set(settings) == {f.name for f in dataclasses.fields(Hyperparameters)}
    for name, setting in settings.items():
        assert setting.meaning and setting.accepts(setting.default), name
        assert not setting.needs or setting.needs in settings
    for name, (scale, low, high) in evolution_bounds().items():
        assert scale >= 0 and low < high
        assert settings[name].accepts((low + high) / 2)
