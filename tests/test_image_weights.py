"""What samplers draw by: the numbers worked by hand, limits, identities, and the words of the run log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.balance import class_weights as cw
from utils.balance import image_weights as iw
from utils.balance import report
from utils.balance.label_counts import class_counts, drawn_counts, image_counts
from utils.balance.samplers import shuffled_order, weighted_order


def image(*classes: int) -> np.ndarray:
    return np.array([[c, 0.5, 0.5, 0.1, 0.1] for c in classes], dtype=np.float32).reshape(-1, 5)


TEN = [image(*[0] * 9) for _ in range(9)] + [image(*[0] * 9, *[1] * 10)]
"""10 images, class 0 in all, class 1 in image 9 alone; n = (90, 10)."""

NC = 4
LABELS = st.lists(st.lists(st.integers(0, NC - 1), max_size=5).map(lambda c: image(*c)), min_size=1, max_size=25)


# Repeat factors -------------------------------------------------------------------------------------------------------


def test_repeat_factors_by_hand() -> None:
    """f = (1, .1), t = .4: r_1 = √(.4/.1) = 2; image 9 is repeated twice, the others once."""
    r = iw.image_repeat_factors(TEN, 2, 0.4)
    assert r.classes == pytest.approx([1, 2])
    assert r.images == pytest.approx([1] * 9 + [2])
    assert r.images_with.tolist() == [10, 1]
    assert iw.image_repeat_factors(TEN, 2, 0.4, "mean").images[9] == pytest.approx(1.5)
    assert iw.image_repeat_factors(TEN, 2, 0.001).images == pytest.approx(np.ones(10))


def test_instance_repeat_factors_by_hand() -> None:
    """f_1 = √(.1 · .1) = .1, f_0 = √(1 · .9) = .949; t = .4 → r_1 = 2."""
    r = iw.image_repeat_factors(TEN, 2, 0.4, by_instances=True)
    assert r.classes == pytest.approx([1, 2], abs=1e-9)
    assert iw.image_repeat_factors(TEN, 2, 1.0, by_instances=True).classes == pytest.approx(
        [np.sqrt(1 / np.sqrt(0.9)), np.sqrt(10)]
    )


def test_instances_matter_to_instance_repeat_factors_alone() -> None:
    """Two classes in five images each, the second with a tenth of the boxes: only IRFS tells them apart."""
    labels = [image(*[0] * 10) for _ in range(5)] + [image(1) for _ in range(5)]
    plain, by_instances = (iw.image_repeat_factors(labels, 2, 0.5, by_instances=b) for b in (False, True))
    assert plain.classes == pytest.approx([1, 1])
    share = np.sqrt(0.5 * np.array([50, 5]) / 55)
    assert by_instances.classes == pytest.approx(np.maximum(1, np.sqrt(0.5 / share)))
    assert by_instances.classes[1] > 1.5


def test_threshold_auto_is_the_median_share() -> None:
    """f of the classes that occur = (1, .1) → t = .55, r_1 = √5.5; class 2 has no image and factor 1."""
    r = iw.image_repeat_factors(TEN, 3)
    assert r.threshold == pytest.approx(0.55)
    assert r.classes == pytest.approx([1, np.sqrt(5.5), 1])


def test_images_without_labels_count_once() -> None:
    r = iw.image_repeat_factors([image(), image(0), image(1), image(1)], 2, 1.0)
    assert r.images == pytest.approx([1, 2, np.sqrt(2), np.sqrt(2)])
    assert iw.image_repeat_factors([image()], 2).images.tolist() == [1]
    assert iw.image_repeat_factors([image(), image(0)], 2, "auto", "mean").images[0] == 1


# Shares ---------------------------------------------------------------------------------------------------------------


def test_class_balanced_by_hand() -> None:
    """p_9 = ½·(1/10 + 1) = .55, the others ½·1/10."""
    assert iw.class_balanced(TEN, 2) == pytest.approx([0.05] * 9 + [0.55], abs=1e-9)


def test_square_root_by_hand() -> None:
    """By images q = (√10, 1)/4.1623 = (.7597, .2403); by instances (√90, √10)/12.649 = (.75, .25)."""
    by_images = iw.square_root(TEN, 2, "images")
    assert by_images == pytest.approx([0.0759747] * 9 + [0.3162278], abs=1e-6)
    assert iw.square_root(TEN, 2) == pytest.approx([0.075] * 9 + [0.325], abs=1e-9)


def test_background_keeps_its_share() -> None:
    """Ten images as above and ten without labels: each of those keeps 1/20, the rest is halved."""
    labels = [*TEN, *[image()] * 10]
    for shares, alone in (
        (iw.class_balanced(labels, 2), iw.class_balanced(TEN, 2)),
        (iw.square_root(labels, 2), iw.square_root(TEN, 2)),
    ):
        assert shares[10:] == pytest.approx([0.05] * 10)
        assert shares[:10] == pytest.approx(alone / 2)


@given(labels=LABELS)
@settings(max_examples=60, deadline=None)
def test_shares_are_probabilities_and_classes_come_as_wanted(labels: list[np.ndarray]) -> None:
    for shares in (iw.class_balanced(labels, NC), iw.square_root(labels, NC), iw.square_root(labels, NC, "images")):
        assert (shares > 0).all() and shares.sum() == pytest.approx(1)
    single = [rows[:1] for rows in labels]  # with one class per image its drawing probability is exact
    shares, classes = iw.class_balanced(single, NC), [int(rows[0, 0]) if len(rows) else -1 for rows in single]
    per_class = [sum(p for p, c in zip(shares, classes, strict=True) if c == k) for k in range(NC)]
    occurring = image_counts(single, NC) > 0
    labelled = sum(c >= 0 for c in classes) / len(classes)
    assert per_class == pytest.approx(np.where(occurring, labelled / max(occurring.sum(), 1), 0))


# image_weights --------------------------------------------------------------------------------------------------------


def test_map_weights_by_hand() -> None:
    """mAP (.8, .2): w = (.1 · .04, .9 · .64) = (.004, .576); image 9: 9·.004 + 10·.576."""
    weights = iw.map_weights(TEN, 2, np.array([0.8, 0.2]))
    assert weights == pytest.approx([0.036] * 9 + [5.796], abs=1e-9)
    assert iw.map_weights(TEN, 2, np.zeros(2)) == pytest.approx([0.9] * 9 + [9.9], abs=1e-9)


def test_map_weights_are_upstreams() -> None:
    maps = np.array([0.3, 0.7])
    by_class = cw.labels_to_class_weights(TEN, 2).numpy() * (1 - maps) ** 2
    assert iw.map_weights(TEN, 2, maps) == pytest.approx(cw.labels_to_image_weights(TEN, 2, by_class), rel=1e-6)


def test_nothing_left_to_improve_is_uniform() -> None:
    assert iw.map_weights(TEN, 2, np.ones(2)).tolist() == [1] * 10
    assert iw.map_weights([image(), image()], 2, np.zeros(2)).tolist() == [1, 1]


def test_images_without_labels_come_back_with_sampler_bg() -> None:
    """With 1 each is as likely as in plain shuffling, with ½ half as likely, with 0 never."""
    labels = [*TEN, *[image()] * 30]
    for background in (0.0, 0.5, 1.0):
        weights = iw.map_weights(labels, 2, np.zeros(2), background)
        share = weights / weights.sum()
        assert share[10:] == pytest.approx(np.full(30, background / 40))
        assert share[9] / share[0] == pytest.approx(9.9 / 0.9)


# By settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [None, "none"])
def test_off_is_none(sampler: str | None) -> None:
    assert iw.sampler_weights({"sampler": sampler}, TEN, 2) is None
    assert iw.sampler_weights({}, TEN, 2) is None


@pytest.mark.parametrize(
    ("hyp", "images", "classes"),
    [
        ({"sampler": "repeat_factor", "sampler_t": 0.4}, [1] * 9 + [2], [1, 2]),
        ({"sampler": "repeat_factor", "sampler_t": 0.4, "sampler_reduce": "mean"}, [1] * 9 + [1.5], [1, 2]),
        ({"sampler": "instance_repeat_factor", "sampler_t": 0.4}, [1] * 9 + [2], [1, 2]),
        ({"sampler": "class_balanced"}, [0.5] * 9 + [5.5], [1, 5.5]),
        ({"sampler": "sqrt", "sampler_count": "images"}, [0.759747] * 9 + [3.162278], [1, 3.162278]),
        ({"sampler": "sqrt"}, [0.75] * 9 + [3.25], [1, 3.25]),
        ({"sampler": "image_weights"}, [0.9] * 9 + [9.9], [1, 5.5]),
    ],
    ids=lambda value: value["sampler"] if isinstance(value, dict) else "",
)
def test_every_sampler(hyp: dict[str, Any], images: list[float], classes: list[float]) -> None:
    """All images hold nine boxes of class 0, so that class is drawn as before by every sampler."""
    sampler = iw.sampler_weights(hyp, TEN, 2)
    assert sampler.images == pytest.approx(images, abs=1e-6)
    assert sampler.classes == pytest.approx(classes, abs=1e-6)
    assert sampler.follows_maps == (hyp["sampler"] == "image_weights")
    assert sampler.summary(["a", "b"]).startswith(f"sampler: {hyp['sampler']}")


def test_repeat_factors_hold_whatever_the_sampler() -> None:
    assert iw.repeat_factors({"sampler": "none", "sampler_t": 0.4}, TEN, 2).classes == pytest.approx([1, 2])
    assert iw.repeat_factors({}, TEN, 2).threshold == pytest.approx(0.55)


def test_maps_change_the_draws() -> None:
    before, after = (
        iw.sampler_weights({"sampler": "image_weights"}, TEN, 2, maps) for maps in (None, np.array([0.1, 0.9]))
    )
    assert after.images[9] / after.images[0] < before.images[9] / before.images[0]


# Counting -------------------------------------------------------------------------------------------------------------


def test_expected_instances() -> None:
    """r = nine 1 and one 2: of 10 draws image 9 takes 20/11, so 10 boxes of class 1 become 18.18."""
    r = iw.image_repeat_factors(TEN, 2, 0.4)
    assert iw.expected_instances(r.images, TEN, 2) == pytest.approx([90, 200 / 11])
    assert iw.drawing_factors(r.images, TEN, 3) == pytest.approx([1, 20 / 11, 1])


@given(labels=LABELS, seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_drawn_counts_are_those_of_the_images(labels: list[np.ndarray], seed: int) -> None:
    order = weighted_order(np.arange(1, len(labels) + 1.0), seed, 0, "expand")
    assert drawn_counts(order, labels, NC).tolist() == class_counts([labels[i] for i in order], NC).tolist()
    plain = shuffled_order(len(labels), seed, 0)
    assert drawn_counts(plain, labels, NC).tolist() == class_counts(labels, NC).tolist()


def test_drawn_counts_of_many_epochs_are_as_expected() -> None:
    sampler = iw.sampler_weights({"sampler": "class_balanced"}, TEN, 2)
    drawn = np.mean([drawn_counts(weighted_order(sampler.images, 0, e), TEN, 2) for e in range(200)], 0)
    assert drawn == pytest.approx(iw.expected_instances(sampler.images, TEN, 2), rel=0.02)


# Words ----------------------------------------------------------------------------------------------------------------


def test_table() -> None:
    counts, images = class_counts(TEN, 2), image_counts(TEN, 2)
    w = cw.class_weights({"cls_weights": "inverse"}, counts, ["screw", "coupling"])
    sampler = iw.sampler_weights({"sampler": "repeat_factor", "sampler_t": 0.4}, TEN, 2)
    table = report.balance_table({0: "screw", 1: "coupling"}, counts, images, w, sampler, TEN)
    head, screw, coupling = (line.split() for line in table.splitlines())
    assert head[:4] == ["class", "instances", "share", "images"]
    assert screw == ["screw", "90", "90.0%", "10", "0.5556", "1", "90"]
    assert coupling == ["coupling", "10", "10.0%", "1", "5", "2", "18"]
    assert report.balance_table(["a", "b"], counts, images).splitlines()[1].split()[4:6] == ["-", "-"]


def test_table_of_epochs_that_grow() -> None:
    """The image with the coupling comes twice, so that an epoch has 11 draws and not 10."""
    counts, images = class_counts(TEN, 2), image_counts(TEN, 2)
    sampler = iw.sampler_weights({"sampler": "repeat_factor", "sampler_t": 0.4}, TEN, 2)
    lines = report.balance_table(["screw", "coupling"], counts, images, None, sampler, TEN, "expand").splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["99", "20"]


def test_showing_rare_classes_more_often_in_two_ways_is_no_warning() -> None:
    two = np.array([1.0, 2.0])
    text = report.double_correction({"cls_weights": None, "sampler": two, "rare_paste": two}, ["a", "b"])
    assert text.startswith("sampler and rare_paste both show rare classes more often") and text.endswith("a 1, b 4")
    assert report.double_correction({"sampler": two, "rare_paste": two}, ["a", "b"], {"cls_loss": "seesaw"}).startswith(
        "WARNING sampler, rare_paste and cls_loss seesaw"
    )


def test_double_correction_names_the_remedies_and_their_product() -> None:
    one, two, flat = np.array([1.0, 5.0]), np.array([1.0, 2.0]), np.ones(2)
    text = report.double_correction({"cls_weights": one, "sampler": two, "rare_paste": None}, ["a", "b"])
    assert text.startswith("WARNING cls_weights and sampler") and text.endswith("a 1, b 10")
    three = report.double_correction({"cls_weights": one, "sampler": two, "rare_paste": two}, ["a", "b"])
    assert "cls_weights, sampler and rare_paste" in three and three.endswith("a 1, b 20")
    for remedies in ({"cls_weights": one, "sampler": None}, {"cls_weights": one, "sampler": flat}, {}):
        assert report.double_correction(remedies, ["a", "b"]) is None


def test_a_loss_that_corrects_by_itself_counts_as_well() -> None:
    remedies = {"cls_weights": np.array([1.0, 5.0]), "sampler": None}
    text = report.double_correction(remedies, ["a", "b"], {"cls_loss": "logit_adjust"})
    assert "cls_weights and cls_loss logit_adjust" in text and text.endswith("a 1, b 5")
    assert report.double_correction(remedies, ["a", "b"], {"cls_loss": "focal"}) is None
    assert report.double_correction({}, ["a", "b"], {"cls_loss": "seesaw"}) is None


def test_paste_factors() -> None:
    """Ten images, half of them with (1 + 3)/2 = 2 objects, all of class 1: ten added to its ten boxes."""
    hyp = {"rare_paste": 0.5, "rare_paste_max": 3, "sampler_t": 0.4}
    assert report.paste_factors(hyp, TEN, 2, np.array([90.0, 10.0])) == pytest.approx([1, 2])
    assert report.paste_factors({**hyp, "sampler_t": 0.01}, TEN, 2, np.array([90.0, 10.0])).tolist() == [1, 1]


def test_a_line_per_remedy() -> None:
    from pathlib import Path

    from utils.hyperparameters import Hyperparameters
    from utils.yaml_files import read_yaml

    plain = read_yaml(Path(__file__).parents[1] / "data/hyps/hyp.scratch-low.yaml")
    assert report.loss_lines(Hyperparameters.from_dict(plain)) == []
    hyp = Hyperparameters.from_dict({
        **plain, "cls_loss": "focal", "obj_dyn": 0.5, "hard_iou": 1.0, "cls_fl_norm": "ema",
    })  # fmt: skip
    lines = report.loss_lines(hyp)
    assert lines[0] == "class loss: focal, gamma 1.5, alpha off"
    assert [line.split(":")[0] for line in lines] == [
        "class loss", "cls_fl_norm", "obj_dyn", "hard_iou",
    ]  # fmt: skip
    assert report.loss_lines(Hyperparameters.from_dict({**plain, "fl_gamma": 1.5})) == [
        "class loss: focal by fl_gamma, gamma 1.5, alpha 0.25",
        "objectness loss: focal by fl_gamma, gamma 1.5, alpha 0.25",
    ]
