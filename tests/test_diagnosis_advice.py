"""Advice: the rules table is checked on reading, rules fire on their evidence alone, advice.yaml always loads."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from train import build_parser
from utils.diagnosis.advice import Facts, advise, write_advice
from utils.diagnosis.fact_table import FACTS, fill
from utils.diagnosis.fail_on import check_tests, read_tests
from utils.diagnosis.rules import DEFAULT_RULES, Condition, read_rules
from utils.diagnosis.runs import BaseHyp, base_hyp, class_gains, train_options, with_image_weights
from utils.errors import InputErrors, WorkError
from utils.hyperparameters import Hyperparameters
from utils.training.options import plain_options
from utils.yaml_files import read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[1]
BASE = read_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml")
RULES = read_rules()
PAIR = {
    "predicted": "bolt", "true": "coupling", "pair_count": 58, "pair_share": 0.72, "pair_delta": 1.4,
    "reverse_count": 0, "reverse_share": 0.0, "symmetry": 0.0, "n_true": 66, "n_pred": 1000, "frequency_ratio": 0.066,
    "image_share": 0.135, "together": 0.9, "repeat_factor": 2.3, "annotators_disagree": None,
}  # fmt: skip
CLASS = {
    "name": "coupling", "n_train": 900, "n_val": 80, "n_median": 1000.0, "n_lacking": 100, "frequency_ratio": 0.9,
    "image_share": 0.5, "repeat_factor": 1.0, "class_ap50": 50.0, "ap50_median": 50.0, "ap50_ratio": 1.0,
    "best_conf": 0.3, "best_conf_median": 0.3, "conf_ratio": 1.0, "class_recall": 0.5, "class_missed_share": 0.1,
}  # fmt: skip
COMPARISON = {"compare_name": "b", "compare_map50": 50.0, "compare_difference": 0.4, "compare_low": -0.5,
              "compare_high": 1.2}  # fmt: skip


def ids(facts: Facts, rules: Any = RULES) -> list[str]:
    return list(dict.fromkeys(line.rule for line in advise(rules, facts, BASE).lines))


def test_every_rule_is_there_with_its_evidence() -> None:
    """R1 to R12, and R13, which the grid of docs/evidence.md brought."""
    numbers = {rule.id.rstrip("abcdef") for rule in RULES}
    assert numbers == {f"R{number}" for number in range(1, 14)}
    for rule in RULES:
        assert "{" in rule.evidence, f"{rule.id} names no measured value"
        assert rule.suggestion and rule.title


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(), []),
        (Facts({"wrong_label_share": 0.011, "wrong_labels": 11, "labels_checked": 1000}), ["R1a"]),
        (Facts({"wrong_label_share": 0.01, "wrong_labels": 10, "labels_checked": 1000}), []),
        (Facts({"alpha": 0.66}), ["R1b"]),
        (Facts({"alpha": 0.667}), []),
        (Facts({"leaked_images": 0, "near_leaked_images": 1}), ["R2"]),
        (Facts({"largest_error": "Cls", "delta_cls": 9.0, "symmetric_share": 0.7, "top_pairs": "a taken for b (3)"}),
         ["R3a"]),
        (Facts(pairs=[{**PAIR, "annotators_disagree": 5, "frequency_ratio": 1.0}]), ["R3b"]),
        (Facts({"largest_error": "Cls"}, pairs=[{**PAIR, "pair_share": 0.05}]), ["R4a"]),
        (Facts({"largest_error": "Bkg", "delta_bkg": 1.0, "background_errors": 5}, pairs=[PAIR]), ["R4a", "R6"]),
        (Facts({"largest_error": "Cls"}, pairs=[{**PAIR, "repeat_factor": 1.1}]), ["R4b"]),
        (Facts({"largest_error": "Cls"}, pairs=[{**PAIR, "frequency_ratio": 0.2}]), []),
        (Facts({"largest_error": "Cls"}, pairs=[{**PAIR, "symmetry": 0.5}]), []),
        (Facts(classes=[{**CLASS, "best_conf": 0.14, "conf_ratio": 0.47}]), ["R5"]),
        (Facts(classes=[{**CLASS, "conf_ratio": 0.47, "ap50_ratio": 0.7}]), []),
        (Facts({"largest_error": "Miss", "delta_miss": 9.0, "overlooked": 30, "overlooked_share": 0.03,
                "missed_small_share": 0.1, "missed": 10}), ["R7a"]),
        (Facts({"largest_error": "Miss", "delta_miss": 9.0, "missed_small_share": 0.6, "missed": 10}), ["R7b"]),
        (Facts({"largest_error": "Miss", "delta_miss": 9.0, "missed_small_share": 0.9, "missed": 10},
               [{**CLASS, "class_missed_share": 0.5, "frequency_ratio": 0.1, "repeat_factor": 1.3}]), ["R7b", "R7c"]),
        (Facts({"largest_error": "Miss", "delta_miss": 9.0, "missed_small_share": 0.9, "missed": 10},
               [{**CLASS, "class_missed_share": 0.5, "frequency_ratio": 0.1}]), ["R7b", "R7e"]),
        (Facts({"largest_error": "Miss", "delta_miss": 99.0, "missed_small_share": 0.1, "missed": 99,
                "missed_share": 0.99, "map50": 0.4}), ["R7f"]),
        (Facts({"missed_share": 0.9, "missed": 90, "map50": 10.0}), []),  # a high threshold alone
        (Facts({"largest_error": "Miss", "delta_miss": 9.0, "missed_small_share": 0.4, "missed": 9}), ["R7d"]),
        (Facts({"largest_error": "Loc", "delta_loc": 7.0}), ["R8"]),
        (Facts({"largest_error": "Dupe", "delta_dupe": 7.0, "duplicates": 9}), ["R9a"]),
        (Facts({"extra_share": 0.051}), ["R9b"]),
        (Facts({"map_gap": 20.5, "map50": 50.0, "map50_train": 70.5}), ["R10"]),
        (Facts({"map_gap": 20.0, "map50": 50.0, "map50_train": 70.0}), []),
        (Facts(classes=[{**CLASS, "n_train": 49}]), ["R11"]),
        (Facts(comparisons=[COMPARISON]), ["R12"]),
        (Facts(comparisons=[{**COMPARISON, "compare_low": 0.1}]), []),
        (Facts({"largest_error": "none"}), []),
        (Facts({"largest_error": "Cls", "class_gain": 0.034, "cls": 0.5}), ["R13a"]),
        (Facts({"largest_error": "Cls", "class_gain": 0.034, "cls": 0.5, "cls_loss": "asl"}), ["R13c"]),
        (Facts({"largest_error": "Cls", "class_gain": 0.035, "cls": 0.5, "cls_loss": "asl"}), ["R13b"]),
        (Facts({"largest_error": "Cls", "class_gain": 0.035, "cls": 0.5}), ["R13b"]),
        (Facts({"largest_error": "Cls", "class_gain": 0.049, "cls": 0.99}), ["R13b"]),
        (Facts({"largest_error": "Cls", "class_gain": 0.045, "cls": 1.2}), []),  # 1.0 would lower it
        (Facts({"largest_error": "Cls", "class_gain": 0.05, "cls": 0.5}), []),
        (Facts({"largest_error": "Bkg", "delta_bkg": 1.0, "class_gain": 0.02, "cls": 0.5, "largest_pair_share": 0.15}),
         ["R13a", "R6"]),
        (Facts({"largest_error": "Loc", "delta_loc": 1.0, "class_gain": 0.02, "cls": 0.5, "largest_pair_share": 0.14}),
         ["R8"]),
        (Facts({"largest_error": "Cls", "largest_pair_share": 0.9}), []),
    ],
)  # fmt: skip
def test_rules_fire_on_their_evidence(facts: Facts, expected: list[str]) -> None:
    assert ids(facts) == expected


def test_wrong_labels_hold_changes_of_the_loss_back() -> None:
    """R1: no loss change is suggested above the line; it is listed as held back, not dropped."""
    run = {"largest_error": "Cls", "delta_cls": 9.0, "symmetric_share": 0.7, "top_pairs": "a taken for b (3)"}
    assert "cls_loss" in {change.key for change in advise(RULES, Facts(run), BASE).changes}
    wrong = {"wrong_label_share": 0.02, "wrong_labels": 20, "labels_checked": 1000}
    advice = advise(RULES, Facts(run | wrong), BASE)
    assert [line.rule for line in advice.lines] == ["R1a"]
    assert [(line.rule, line.held_back_by) for line in advice.held_back] == [("R3a", "R1a")]
    assert not advice.changes and advice.hyp == BASE


def test_a_large_class_gain_comes_with_a_focal_loss_but_not_in_the_place_of_a_chosen_one() -> None:
    run = {"largest_error": "Cls", "class_gain": 0.019, "cls": 0.5}
    focal = {"cls": 2.0, "cls_loss": "focal", "cls_gamma": 1.5, "cls_fl_norm": "ema"}
    for base, own, expected in (
        (BASE, None, focal),
        (BASE | {"fl_gamma": 1.5}, None, focal | {"fl_gamma": 0.0}),
        (BASE | {"cls_loss": "asl"}, "asl", {"cls": 2.0}),
    ):
        advice = advise(RULES, Facts({**run, "cls_loss": own}), base)
        assert {change.key: change.after for change in advice.changes} == expected
        Hyperparameters.from_dict(advice.hyp, source="advice")
    assert advice.lines[0].title == "The class loss, asl, weighs very little"


def test_class_gain_comes_before_other_changes_of_the_loss() -> None:
    """R13: class weights are held back while the whole class loss is small, samplers are not."""
    run = {"largest_error": "Cls", "class_gain": 0.04, "cls": 0.5}
    both, few = {**PAIR, "repeat_factor": 1.1}, {**PAIR, "true": "nut"}
    advice = advise(RULES, Facts(run, [], [both, few]), BASE)
    assert [line.rule for line in advice.lines] == ["R13b", "R4a"]
    assert [(line.rule, line.held_back_by) for line in advice.held_back] == [("R4b", "R13b")]
    assert (advice.hyp["cls"], advice.hyp["sampler"], "cls_weights" in advice.hyp) == (1.0, "repeat_factor", False)


FEW, BESIDE = {**PAIR, "true": "nut"}, {**PAIR, "repeat_factor": 1.1}


@pytest.mark.parametrize(
    ("base", "pairs", "corrections", "left_out"),
    [
        ({}, [FEW], {"sampler": "repeat_factor", "rare_paste": 0.5}, ""),
        ({}, [BESIDE], {"cls_weights": "sqrt_inverse"}, ""),
        ({}, [FEW, BESIDE], {"sampler": "repeat_factor", "rare_paste": 0.5}, "R4b: cls_weights, cls_weights_start"),
        ({"rare_paste": 0.3}, [BESIDE], {"rare_paste": 0.3}, "rare_paste 0.3 corrects the balance already"),
        ({"cls_weights": "inverse"}, [FEW], {"cls_weights": "inverse"}, "R4a: sampler, rare_paste left out"),
        ({"cls_loss": "seesaw"}, [BESIDE], {"cls_loss": "seesaw"}, "cls_loss seesaw corrects"),
        ({"cls_pw": [1.0] * 4 + [3.0]}, [FEW], {}, "cls_pw"),
    ],
)
def test_advice_never_corrects_the_balance_twice(
    base: dict[str, Any], pairs: list[dict[str, Any]], corrections: dict[str, Any], left_out: str
) -> None:
    advice = advise(RULES, Facts({"largest_error": "Cls"}, [], pairs), {**BASE, **base})
    keys = ("sampler", "rare_paste", "cls_weights", "cls_loss")
    assert {key: advice.hyp[key] for key in keys if advice.hyp.get(key) not in (None, "none", 0.0)} == corrections
    assert advice.hyp["mixup"] == 0.1  # blending corrects nothing
    assert any(left_out in note for note in advice.notes) or not left_out


@pytest.mark.parametrize(
    ("base", "after"),
    [
        ({"mixup": 0.3, "rare_paste": 0.9, "sampler": "class_balanced"}, (0.3, 0.9, "class_balanced")),
        ({"mixup": 0.05, "rare_paste": 0.1, "sampler": "none"}, (0.1, 0.5, "repeat_factor")),
    ],
)
def test_advice_never_weakens_what_is_there(base: dict[str, Any], after: tuple[Any, ...]) -> None:
    advice = advise(RULES, Facts({"largest_error": "Cls"}, [], [FEW]), {**BASE, **base})
    assert (advice.hyp["mixup"], advice.hyp["rare_paste"], advice.hyp["sampler"]) == after
    missed = Facts({"largest_error": "Miss", "delta_miss": 9.0, "missed_small_share": 0.4, "missed": 9})
    assert advise(RULES, missed, {**BASE, "obj_pw": 3.0}).hyp["obj_pw"] == 3.0
    assert advise(RULES, missed, BASE).hyp["obj_pw"] == 1.5


def test_a_model_that_finds_nothing_gets_no_change_of_its_settings() -> None:
    run = {"largest_error": "Cls", "class_gain": 0.02, "cls": 0.5, "missed_share": 0.95, "missed": 95, "map50": 1.0}
    advice = advise(RULES, Facts(run, [], [PAIR]), BASE)
    assert [line.rule for line in advice.lines] == ["R7f"] and not advice.changes
    assert {line.rule for line in advice.held_back} == {"R13a", "R4a"}


def test_texts_carry_the_measured_values() -> None:
    facts = Facts(
        {"largest_error": "Cls", "data": "my set.yaml", "advice_file": "runs/a.yaml", "imgsz": 320}, [], [PAIR]
    )
    line = advise(RULES, facts, BASE).lines[0]
    assert "58 objects of coupling (72 %) are taken for bolt, 0 (0 %)" in line.evidence
    assert line.about == "coupling taken for bolt"
    command = "python train.py --data 'my set.yaml' --hyp runs/a.yaml --img 320"
    assert line.command == f"{command} # and the other options of your run"
    known = replace(facts, run={**facts.run, "train_options": "--weights '' --epochs 30"})
    assert advise(RULES, known, BASE).lines[0].command == f"{command} --weights '' --epochs 30"
    usual = replace(facts, run={**facts.run, "train_options": ""})
    assert advise(RULES, usual, BASE).lines[0].command == command


def saved_run(folder: Path, *words: str) -> tuple[str, argparse.Namespace]:
    """Weights in a run folder that train.py was given these words for, and its options."""
    opt = build_parser().parse_args(list(words))
    (folder / "weights").mkdir(parents=True)
    write_yaml(folder / "opt.yaml", {**plain_options(opt), "hyp": BASE, "save_dir": str(folder)})
    write_yaml(folder / "hyp.yaml", BASE)
    return str(folder / "weights/best.pt"), opt


def test_advised_commands_repeat_the_options_of_the_run(tmp_path: Path) -> None:
    words = [
        "--weights", "", "--cfg", "yolov5n.yaml", "--epochs", "30", "--batch-size", "8", "--rect", "--cache",
        "--freeze", "0", "1", "2", "--device", "0,1", "--optimizer", "AdamW", "--label-smoothing", "0.1", "--seed", "3",
    ]  # fmt: skip
    named = ["--data", "my set.yaml", "--img", "320", "--name", "first", "--hyp", "hyp.focal.yaml"]
    weights, opt = saved_run(tmp_path / "first", *words, *named)
    found = train_options([weights])
    again = build_parser().parse_args([*found, *named])
    assert vars(again) == vars(opt) and "--data" not in found
    assert train_options([saved_run(tmp_path / "second")[0]]) == []


def test_options_of_a_run_are_unknown_without_its_folder(tmp_path: Path) -> None:
    weights, _ = saved_run(tmp_path / "run")
    assert train_options(None) is None and train_options([weights, weights]) is None
    assert train_options([str(tmp_path / "elsewhere/weights/best.pt")]) is None


def test_image_weights_of_the_run_stay_as_its_sampler(tmp_path: Path) -> None:
    weights, _ = saved_run(tmp_path / "run", "--image-weights")
    base = with_image_weights(base_hyp(argparse.Namespace(hyp=None, weights=[weights])), [weights])
    assert base.settings == {**BASE, "sampler": "image_weights"} and base.of_run and "--image-weights" in base.source
    assert train_options([weights]) == []
    given = BaseHyp({"cls": 1.0, "sampler": "sqrt"}, "this run")
    assert with_image_weights(given, [weights]) is given and with_image_weights(base, None) is base
    of_run = with_image_weights(BaseHyp(BASE, "this run"), [weights])  # as train.py --diagnose gives it
    assert of_run.settings == base.settings and of_run.source == "this run with --image-weights"
    advice = advise(RULES, Facts({"largest_error": "Cls"}, [], [FEW]), base.settings)
    assert advice.hyp["sampler"] == "image_weights"
    assert Hyperparameters.from_dict(advice.hyp)["sampler"] == "image_weights"


def test_command_with_an_unknown_value_is_left_out_and_names_are_quoted() -> None:
    facts = Facts({"extra_share": 0.5, "weights": "a; rm -rf $(b).pt", "imgsz": 64})
    line = advise(RULES, facts, BASE).lines[0]
    assert line.command == "python detect.py --weights 'a; rm -rf $(b).pt' --img 64 --agnostic-nms"
    assert advise(RULES, Facts({"extra_share": 0.5}), BASE).lines[0].command == ""


@pytest.mark.parametrize(
    ("condition", "values", "holds"),
    [
        (Condition("a", "above", 1), {"a": 1}, False),
        (Condition("a", "at_least", 1), {"a": 1}, True),
        (Condition("a", "below", 1), {"a": 0.9}, True),
        (Condition("a", "at_most", 1), {"a": 1.1}, False),
        (Condition("a", "is", ("x", "y")), {"a": "y"}, True),
        (Condition("a", "above", 1), {}, False),
        (Condition("a", "below", 1), {"a": None}, False),
        (Condition("a", "known", False), {}, True),
        (Condition("a", "known", True), {"a": 0}, True),
    ],
)
def test_conditions(condition: Condition, values: dict[str, Any], holds: bool) -> None:
    assert condition.holds(values) is holds


def test_fill_reads_values_and_nothing_of_them() -> None:
    """No attributes, no indices: a text of the table cannot reach into Python."""
    assert fill("{a:.1%} of {b}, {c}", {"a": 0.123, "b": "x", "c": None}) == "12.3 % of x, not measured"
    assert fill("{a:,} {b:d}", {"a": 12345, "b": 2.6}) == "12,345 3"
    assert fill("{a.__class__} {a[0]}", {"a": 1}) == "not measured not measured"


@pytest.mark.parametrize(
    ("base", "nc", "layers", "gain"),
    [
        (BaseHyp({"cls": 0.5}, "runs/train/exp/hyp.yaml"), 80, 3, 0.5),  # COCO: as the file says
        (BaseHyp({"cls": 2.0}, "this run"), 3, 3, 0.075),
        (BaseHyp({"cls": 2.0}, "this run"), 3, 4, 0.05625),
        (BaseHyp({"cls": 2.0}, "this run"), 3, None, 0.075),
        (BaseHyp({"lr0": 0.1}, "this run"), 3, 3, None),
        (BaseHyp(BASE, "hyp.scratch-low.yaml"), 3, 3, 0.01875),  # named by the user
        (BaseHyp(BASE, "hyp.scratch-low.yaml", of_run=False), 3, 3, None),
    ],
)
def test_gain_of_the_class_loss(base: BaseHyp, nc: int, layers: int | None, gain: float | None) -> None:
    """cls · nc/80 · 3/nl, as training scales it."""
    found = class_gains(base, nc, layers)
    assert found["class_gain"] == (None if gain is None else pytest.approx(gain))
    assert found["cls"] == (None if gain is None else base.settings["cls"])
    assert found["cls_loss"] is None


def test_the_class_loss_that_a_run_chose() -> None:
    chosen = {"cls": 0.5, "cls_loss": "asl"}
    assert class_gains(BaseHyp(chosen, "this run"), 3, 3)["cls_loss"] == "asl"
    assert class_gains(BaseHyp(chosen, "asl.yaml", of_run=False), 3, 3)["cls_loss"] is None


# The table ------------------------------------------------------------------------------------------------------------

RULE = {
    "id": "X1", "title": "t", "scope": "run", "kind": "loss", "when": {"map50": {"below": 50}},
    "evidence": "{map50:.1f}", "suggestion": "s", "changes": {"cls_loss": "focal"},
}  # fmt: skip


def write_rules(path: Path, *rules: Any, **top: Any) -> Path:
    path.write_text(yaml.safe_dump({"version": 1, "rules": list(rules), **top}))
    return path


def test_edited_thresholds_count(tmp_path: Path) -> None:
    table = yaml.safe_load(DEFAULT_RULES.read_text())
    for rule in table["rules"]:
        if rule["id"] == "R11":
            rule["when"]["n_train"]["below"] = 5
    rules = read_rules(write_rules(tmp_path / "rules.yaml", *table["rules"]))
    assert ids(Facts(classes=[{**CLASS, "n_train": 49}]), rules) == []
    assert ids(Facts(classes=[{**CLASS, "n_train": 4}]), rules) == ["R11"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": "image"}, "scope is 'image', allowed are run, class, pair, comparison"),
        ({"kind": "magic"}, "kind is 'magic', allowed are labels"),
        ({"evidense": "x"}, "unknown key 'evidense', did you mean 'evidence'?"),
        ({"suggestion": None}, "'suggestion' is missing"),
        ({"when": {"map51": {"below": 5}}}, "when: unknown fact 'map51', did you mean 'map50'?"),
        ({"when": {"map50": {"under": 5}}}, "when map50: unknown comparison 'under'"),
        ({"when": {"map50": 5}}, "when map50: 5, expected for example {above: 0.5}"),
        ({"when": {"map50": {"below": "five"}}}, "when map50: below is 'five', expected a number"),
        ({"when": {"map50": {"below": True}}}, "when map50: below is True, expected a number"),
        ({"when": {"map50": {"is": "x"}}}, "when map50: is compares words"),
        ({"when": {"largest_error": {"is": "Class"}}}, "when largest_error: is 'Class', allowed are Cls, Loc"),
        ({"when": {"largest_error": {"above": 1}}}, "above compares numbers, this fact is text"),
        ({"when": {"map50": {"known": 1}}}, "known is 1, allowed are true and false"),
        ({"when": []}, "when is [], expected"),
        ({"when": {"n_train": {"below": 5}}}, "when: unknown fact 'n_train'"),
        ({"evidence": "{map51}"}, "evidence: unknown fact 'map51', did you mean 'map50'?"),
        ({"evidence": "{map50:>99999999}"}, "evidence: '{map50:>99999999}' has the format '>99999999'"),
        ({"evidence": "{rarest:.1f}"}, "has the format '.1f', allowed for numbers"),
        ({"changes": {"cls_los": "focal"}}, "changes: unknown hyp key 'cls_los', did you mean 'cls_loss'?"),
        ({"changes": {"mixup": 7}}, "changes: mixup is 7, expected a number from 0 to 1"),
        ({"changes": ["mixup"]}, "changes is ['mixup'], expected"),
        ({"blocks": ["losses"]}, "blocks is ['losses'], expected a list of"),
        ({"at_most": 0}, "at_most is 0, allowed are whole numbers from 1"),
    ],
)  # fmt: skip
def test_mistakes_of_the_table_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write_rules(tmp_path / "rules.yaml", {**RULE, **change})
    with pytest.raises(InputErrors) as caught:
        read_rules(path)
    lines = caught.value.problems
    assert any(message in line for line in lines), lines
    assert all(line.startswith(f"{path}: rule X1: ") and "\n" not in line for line in lines)


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    path = write_rules(tmp_path / "rules.yaml", {**RULE, "kind": "x"}, "text", RULE, RULE, version=2, more=1)
    with pytest.raises(InputErrors) as caught:
        read_rules(path)
    text = "\n".join(caught.value.problems)
    for part in ("version is 2", "unknown key 'more'", "rule X1: kind is 'x'", "rule 2 is 'text'", "given twice"):
        assert part in text
    path.write_text("version: 1\nrules: []\n")
    with pytest.raises(InputErrors, match="'rules' is missing or empty"):
        read_rules(path)


# advice.yaml ----------------------------------------------------------------------------------------------------------


def write_and_load(tmp_path: Path, advice: Any) -> Hyperparameters:
    path = tmp_path / "advice.yaml"
    write_advice(path, advice, base="hyp.scratch-low.yaml", run="runs/diagnose/exp")
    return Hyperparameters.load(path)


def test_advice_file_is_a_whole_hyp_file_with_reasons(tmp_path: Path) -> None:
    advice = advise(RULES, Facts({"largest_error": "Cls"}, [], [PAIR]), BASE)
    hyp = write_and_load(tmp_path, advice)
    assert (hyp.sampler, hyp.rare_paste, hyp.mixup, hyp.lr0) == ("repeat_factor", 0.5, 0.1, BASE["lr0"])
    text = (tmp_path / "advice.yaml").read_text()
    reason, change = text.index("# R4a: A rare class"), text.index("\nsampler: repeat_factor")
    assert reason < change and "was none" in text and "58 objects of coupling" in text.replace("\n# ", " ")
    assert {key: value for key, value in hyp.to_dict().items() if key in BASE and key != "mixup"} == {
        key: value for key, value in BASE.items() if key != "mixup"
    }


def test_advice_of_every_rule_that_changes_settings_loads(tmp_path: Path) -> None:
    for rule in RULES:
        if not rule.changes:
            continue
        facts = {"run": Facts(), "class": Facts(classes=[CLASS]), "pair": Facts(pairs=[PAIR])}[rule.scope]
        changed = replace(rule, when=((Condition("images", "known", False),),))
        advice = advise([changed], facts, BASE)
        assert {change.key for change in advice.changes} <= set(rule.changes) and advice.changes
        hyp = write_and_load(tmp_path, advice)
        assert all(hyp[key] == value for key, value in rule.changes.items()), rule.id


def test_first_rule_wins_and_the_rest_is_said(tmp_path: Path) -> None:
    rules = read_rules(
        write_rules(
            tmp_path / "rules.yaml", RULE, {**RULE, "id": "X2", "changes": {"cls_loss": "seesaw", "mixup": 0.2}},
            {**RULE, "id": "X3", "changes": {"mosaic": 1.0, "fl_gamma": 0.0}},
        )
    )  # fmt: skip
    advice = advise(rules, Facts({"map50": 10.0}), BASE)
    assert advice.hyp["cls_loss"] == "focal" and advice.hyp["mixup"] == 0.2
    assert "X2: cls_loss seesaw left out, X1 sets it to focal" in advice.notes
    assert "X3: mosaic 1.0 is in use already" in advice.notes
    assert not any("fl_gamma" in note for note in advice.notes), "off before and after"


def test_contradicting_changes_are_left_out_as_a_whole(tmp_path: Path) -> None:
    """fl_gamma and cls_loss both choose the loss: a base with the former cannot take a rule with the latter alone."""
    rules = read_rules(write_rules(tmp_path / "rules.yaml", RULE))
    advice = advise(rules, Facts({"map50": 10.0}), {**BASE, "fl_gamma": 1.5})
    assert not advice.changes and advice.hyp["fl_gamma"] == 1.5
    assert len(advice.notes) == 1 and advice.notes[0].startswith("X1: cls_loss left out: advice: fl_gamma")
    write_and_load(tmp_path, advice)


def test_old_checkpoints_lack_keys_and_know_others(tmp_path: Path) -> None:
    old = {key: value for key, value in BASE.items() if key not in {"copy_paste", "mixup"}} | {"giou": 0.05}
    hyp = write_and_load(tmp_path, advise(RULES, Facts(), old))
    assert hyp.copy_paste == 0.0 and hyp.mixup == 0.0


@given(names=st.lists(st.text(min_size=1, max_size=30), min_size=2, max_size=2))
@settings(max_examples=60, deadline=None)
def test_any_class_names_leave_the_file_loadable(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    pair = {**PAIR, "true": names[0], "predicted": names[1]}
    advice = advise(RULES, Facts({"largest_error": "Cls"}, [], [pair]), BASE)
    hyp = write_and_load(tmp_path_factory.mktemp("advice"), advice)
    assert hyp.sampler == "repeat_factor"


def test_advice_that_cannot_be_written_is_a_work_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="cannot be written"):
        write_advice(tmp_path / "file" / "advice.yaml", advise(RULES, Facts(), BASE), base="b", run="r")


# --fail-on ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "facts", "codes", "line"),
    [
        ("map50<60", {"map50": 59.9}, None, "map50 is 59.9"),
        ("map50<60", {"map50": 60.0}, None, ""),
        ("label_errors", {"label_errors": 1}, {}, "label_errors is 1"),
        ("L12", {}, {"L12": 3}, "L12 is 3"),
        ("L12 >= 4", {}, {"L12": 3}, ""),
        ("L12", {}, {"L12": 0}, ""),
        ("L12", {}, {}, "L12 was not measured by these tasks"),
        ("L12", {}, None, "L12 was not measured by these tasks"),
        ("alpha<0.8", {}, None, "alpha was not measured by these tasks"),
    ],
)
def test_fail_on(text: str, facts: dict[str, Any], codes: dict[str, int] | None, line: str) -> None:
    tests = read_tests([text])
    if not line:
        check_tests(tests, facts, codes)
        return
    with pytest.raises(WorkError) as caught:
        check_tests(tests, facts, codes)
    assert str(caught.value) == f"--fail-on {text}: {line}"


@pytest.mark.parametrize(
    "text", ["map51<3", "map50=3", "map50<", "<3", "map50<3<4", "rarest>1", "__class__", "L23", "L91"]
)
def test_tests_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputErrors, match="--fail-on"):
        read_tests([text])


def test_facts_of_all_scopes_are_described() -> None:
    for facts in FACTS.values():
        for name, fact in facts.items():
            assert fact.meaning and fact.kind in {"number", "text", "word"}, name


def test_document_lists_every_fact_rule_scope_and_code() -> None:
    from utils.diagnosis.audit_findings import CODES

    text = (ROOT / "docs/diagnosis.md").read_text(encoding="utf-8")
    for facts in FACTS.values():
        for name, fact in facts.items():
            assert f"| `{name}` | {fact.meaning}" in text, name
    for code, meaning in CODES.items():
        assert f"| {code} | {meaning} |" in text
