"""Wrong hyperparameters, data keys and options of the class balance: one clear line and status 2 before any work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_bench import LOW_HYP, Bench, check_done, check_refused, opened_bench

import train
from utils.errors import InputError

WEIGHTS = "cls_weights"


@pytest.fixture
def bench(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Bench]:
    with opened_bench(tiny_data, tmp_path, monkeypatch, capsys) as bench:
        yield bench


# case: (lines of the hyp file, further options, what the one line of error holds)
HYP_CASES: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    # losses
    "loss typo": ({"cls_loss": "fokal"}, [], ["cls_loss", "'fokal'", "focal"]),
    "class loss on objectness": ({"obj_loss": "seesaw"}, [], ["obj_loss", "'seesaw'", "qfocal"]),
    "two choices of a loss": ({"fl_gamma": "1.5", "cls_loss": "focal"}, [], ["fl_gamma", "1.5", "cls_loss"]),
    "negative gamma": ({"cls_loss": "focal", "cls_gamma": "-1"}, [], ["cls_gamma", "-1", "0 to 5"]),
    "gamma nan": ({"cls_loss": "focal", "cls_gamma": ".nan"}, [], ["cls_gamma", "nan", "0 to 5"]),
    "gamma as a word": ({"cls_loss": "focal", "cls_gamma": "high"}, [], ["cls_gamma", "'high'", "a number"]),
    "gamma as a list": ({"cls_loss": "focal", "cls_gamma": "[1, 2]"}, [], ["cls_gamma", "[1, 2]", "a number"]),
    "gamma true": ({"cls_loss": "focal", "cls_gamma": "true"}, [], ["cls_gamma", "True", "a number"]),
    "alpha above 1": ({"cls_loss": "focal", "cls_alpha": "1.5"}, [], ["cls_alpha", "1.5"]),
    "alpha 1": ({"cls_loss": "focal", "cls_alpha": "1.0"}, [], ["cls_alpha", "1.0"]),
    "alpha and pos weight": (
        {"cls_loss": "focal", "cls_alpha": "0.25", "cls_pw": "2.0"}, [], ["cls_alpha", "0.25", "cls_pw", "2.0"]),
    "asl clip": ({"obj_loss": "asl", "obj_clip": "0.5"}, [], ["obj_clip", "0.5", "0.3"]),
    "softmax for a sigmoid loss": ({"cls_loss": "focal", "cls_act": "softmax"}, [], ["cls_act", "softmax", "sigmoid"]),
    "pos weight for softmax": ({"cls_loss": "softmax_focal", "cls_pw": "2.0"}, [], ["cls_pw", "2.0", "softmax_focal"]),
    "pos weight list": ({"cls_pw": "[1, 2, 3]"}, [], ["cls_pw", "3 values for 2 classes", "green, blue"]),
    "prior too strong": ({"cls_loss": "logit_adjust", "cls_tau": "3"}, [], ["cls_tau", "3", "0 to 2"]),
    # modifiers
    "dynamic mode typo": ({"cls_dyn": "0.5", "dyn_mode": "linaer"}, [], ["dyn_mode", "'linaer'", "linear | adaptive"]),
    "dynamic epochs fall": ({"cls_dyn": "0.5", "dyn_epochs": "[0.7, 0.1]"}, [], ["dyn_epochs", "[0.7, 0.1]", "rising"]),
    "attention above 1": ({"cls_attn": "2"}, [], ["cls_attn", "2", "0 to 1"]),
    "edge width 0": ({"obj_bnd": "1", "bnd_sigma": "0"}, [], ["bnd_sigma", "0", "0.25"]),
    "Tversky share": ({"cls_tversky": "1.2"}, [], ["cls_tversky", "1.2", "0 to 1"]),
    "pos on the class head": ({"cls_loss": "focal", "cls_fl_norm": "pos"}, [], ["cls_fl_norm", "'pos'", "ema"]),
    # weights
    "weights of wrong length": ({WEIGHTS: "[1, 2, 3]"}, [], [WEIGHTS, "3 values for 2 classes", "green, blue"]),
    "weights of unknown class": ({WEIGHTS: "{gren: 2.0}"}, [], [WEIGHTS, "'gren'", "'green'"]),
    "weight 0": ({WEIGHTS: "[1, 0]"}, [], [WEIGHTS, "[1, 0]", "above 0"]),
    "weight as a word": ({WEIGHTS: "{green: heavy}"}, [], [WEIGHTS, "heavy", "above 0"]),
    "scheme typo": ({WEIGHTS: "inverse_sqrt"}, [], [WEIGHTS, "'inverse_sqrt'", "sqrt_inverse"]),
    "start below 0": ({WEIGHTS: "inverse", "cls_weights_start": "-1"}, [], ["cls_weights_start", "-1", "at least 0"]),
    "start 2.5": ({WEIGHTS: "inverse", "cls_weights_start": "2.5"}, [], ["cls_weights_start", "2.5", "whole epoch"]),
    "beta 1": (
        {WEIGHTS: "effective_number", "cls_weights_beta": "1"}, [], ["cls_weights_beta", "1", "below 1"]),
    "weights under another name": ({"class_weights": "[1, 2]"}, [], ["'class_weights'", "'cls_weights'"]),
    "label weights nowhere": ({"label_weights": "nowhere.csv"}, [], ["label_weights", "nowhere.csv"]),
    # samplers
    "sampler typo": ({"sampler": "repeat_factors"}, [], ["sampler", "'repeat_factors'", "repeat_factor"]),
    "sampler with --rect": ({"sampler": "repeat_factor"}, ["--rect"], ["sampler", "repeat_factor", "--rect"]),
    "two samplers": (
        {"sampler": "repeat_factor"}, ["--image-weights"], ["sampler", "repeat_factor", "image-weights"]),
    "threshold 0": ({"sampler": "repeat_factor", "sampler_t": "0"}, [], ["sampler_t", "0", "above 0"]),
    "expand without sampler": ({"sampler_len": "expand"}, [], ["sampler_len", "sampler is none"]),
    # augmentation
    "rare_paste 2": ({"rare_paste": "2"}, [], ["rare_paste", "2", "0 to 1"]),
    "rare_paste_max 1.5": ({"rare_paste": "0.5", "rare_paste_max": "1.5"}, [], ["rare_paste_max", "1.5", "whole"]),
    "zoom of one number": (
        {"rare_paste": "0.5", "rare_paste_scale": "[1.0]"}, [], ["rare_paste_scale", "[1.0]", "two"]),
    "unknown transform": ({"album": "[{RandomRotat90: 0.5}]"}, [], ["album", "RandomRotat90", "RandomRotate90"]),
    "unknown argument": (
        {"album": "[{RandomBrightnessContrast: {p: 0.5, brightnes: 3}}]"}, [],
        ["album", "RandomBrightnessContrast", "brightnes"]),
    "probability of a transform": ({"album": "[{HorizontalFlip: 1.5}]"}, [], ["album", "HorizontalFlip", "1.5"]),
    "pipeline of an unknown class": (
        {"album_class": "{red: [{HorizontalFlip: 0.5}]}"}, [], ["album_class", "'red'", "green, blue"]),
    # the file itself
    "unknown key": ({"cls_losses": "focal"}, [], ["'cls_losses'", "'cls_loss'"]),
    "gain -1": ({"box": "-1"}, [], ["box", "-1", "at least 0"]),
    "rate infinite": ({"lr0": ".inf"}, [], ["lr0", "inf"]),
}  # fmt: skip


@pytest.mark.parametrize("case", HYP_CASES)
def test_bad_hyperparameters(bench: Bench, case: str) -> None:
    changes, more, words = HYP_CASES[case]
    options = [*bench.hyp(changes), *more]
    before = bench.inputs()
    check_refused(bench.run("train", *options), before, bench, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LOW_HYP.read_text() + "\nlr0: 0.1\n", ["h.yaml, line", "'lr0'", "twice"]),
        (LOW_HYP.read_text() + "\ncls_loss: [focal\n", ["h.yaml, line", "not valid YAML"]),
        ("- lr0: 0.01\n", ["h.yaml", "list", "key: value"]),
        ("", ["h.yaml", "empty"]),
        (LOW_HYP.read_text() + "\ncls_loss: !!python/name:os.system\n", ["h.yaml, line", "not valid YAML"]),
    ],
    ids=["key twice", "broken", "list", "empty", "tag"],
)
def test_bad_hyp_files(bench: Bench, text: str, words: list[str]) -> None:
    path = bench.root / "h.yaml"
    path.write_text(text)
    before = bench.inputs()
    check_refused(bench.run("train", "--hyp", str(path)), before, bench, words)


def test_all_mistakes_of_a_file_come_together(bench: Bench) -> None:
    more = bench.hyp({"lr_0": "1", "rare_paste": "2", "cls_loss": "fokal", "sampler": "random"}, without=("lrf",))
    outcome = bench.run("train", *more)
    assert outcome.status == 2 and not outcome.trained
    assert len(outcome.errors) == 5
    for word in ("'lr_0'", "lrf missing", "rare_paste", "'fokal'", "'random'"):
        assert sum(word in line for line in outcome.errors) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("weights: [1, 2, 3]", ["weights", "3 values for 2 classes", "green, blue"]),
        ("weights: {gren: 2.0}", ["weights", "'gren'", "'green'"]),
        ("weights: [1, -2]", ["weights", "-2"]),
        ("weights: heavy", ["weights", "heavy"]),
        ("weights: {green: .nan}", ["weights", "nan"]),
    ],
)
def test_bad_weights_of_the_data_set(bench: Bench, line: str, words: list[str]) -> None:
    bench.data.write_text(bench.data.read_text() + line + "\n")
    before = bench.inputs()
    check_refused(bench.run("train"), before, bench, words)


@pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0], {"gren": 2.0}, [1.0, -1.0], "heavy", 3.0], ids=str)
def test_bad_class_weights_from_python(bench: Bench, weights: object) -> None:
    usual = {
        "data": str(bench.data), "weights": "", "cfg": "yolov5n.yaml", "imgsz": 64, "batch_size": 4, "device": "cpu",
        "workers": 0, "epochs": 1, "project": str(bench.root / "runs"),
    }  # fmt: skip
    with pytest.raises(InputError, match="weights"):
        train.run(**usual, class_weights=weights)
    assert not bench.trained and not (bench.root / "runs").exists()


@pytest.mark.parametrize("command", ["val", "detect"])
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--class-thres", "0.5,0.5,0.5"], ["class-thres", "3 values for 2 classes", "green, blue"]),
        (["--class-thres", "gren=0.5"], ["class-thres", "'gren'", "'green'"]),
        (["--class-thres", "green=1.5"], ["class-thres", "green", "1.5", "0.0 to 1.0"]),
        (["--class-thres", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["--cls-tau", "-1"], ["cls-tau", "-1", " to 2"]),
        (["--cls-tau", "nan"], ["cls-tau", "nan", " to 2"]),
    ],
    ids=["length", "name", "range", "file", "tau below 0", "tau nan"],
)
def test_bad_options_of_inference(bench: Bench, command: str, more: list[str], words: list[str]) -> None:
    before = bench.inputs()
    check_refused(bench.run(command, *more), before, bench, words)


def test_a_bad_setting_as_a_process(bench: Bench) -> None:
    options = bench.hyp({"cls_loss": "focal", "cls_gamma": "-1"})
    before = bench.inputs()
    check_refused(bench.run_apart("train", *options), before, bench, ["cls_gamma", "-1", "0 to 5"])


@pytest.mark.parametrize(("name", "told"), [("hyp.focal.yaml", 1), ("hyp.balanced.yaml", 1)])
def test_the_files_to_start_from_train(bench: Bench, name: str, told: int) -> None:
    """The one warning says what sampler and rare_paste come to together."""
    before = bench.inputs()
    outcome = bench.run("train", "--hyp", name)
    check_done(outcome, before, bench, ["class", "instances", "images", "weight", "repeat"])
    warnings = [line for line in outcome.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) <= told and all("sampler and rare_paste" in line for line in warnings)
