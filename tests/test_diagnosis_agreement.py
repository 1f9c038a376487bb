"""Agreement of annotators: worked numbers, published examples, identities, reading of folders."""

from __future__ import annotations

import csv
import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from audit_data import write_set
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.diagnosis.agreement import (
    Agreement,
    Annotator,
    ambiguous_pairs,
    cluster_boxes,
    measure_agreement,
    read_annotators,
)
from utils.diagnosis.agreement_measures import (
    bootstrap_alpha,
    category_counts,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
)
from utils.errors import InputError, MissingFileError

NAMES = {0: "A", 1: "B", 2: "C"}
LEFT, RIGHT = [0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]


def coded(*coders: str) -> np.ndarray:
    """Return ratings (units, coders) from a line of marks for each coder; * is no rating."""
    return np.array([[-1 if mark == "*" else int(mark) for mark in line.split()] for line in coders]).T


def annotator(name: str, *images: list[tuple[list[float], int]]) -> Annotator:
    return Annotator(
        name,
        [np.array([box for box, _ in image], np.float64).reshape(-1, 4) for image in images],
        [np.array([cls for _, cls in image], np.int64) for image in images],
        [np.arange(1, len(image) + 1) for image in images],
        np.ones(len(images), bool),
    )


def agreement_of(*annotators: Annotator) -> Agreement:
    return measure_agreement(annotators, [f"{k}.jpg" for k in range(len(annotators[0].boxes))], NAMES)


# Measures -------------------------------------------------------------------------------------------------------------


def test_worked_example() -> None:
    """(A,A), (A,A), (B,B), (A,B): o_AB + o_BA = 2, n_A = 5, n_B = 3: alpha = 1 - 7 * 2 / 30; p_o .75, p_e .5."""
    ratings = np.array([[0, 0], [0, 0], [1, 1], [0, 1]])
    assert krippendorff_alpha(ratings) == pytest.approx(0.533333, abs=5e-7)
    assert cohen_kappa(*ratings.T) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("ratings", "alpha"),
    [
        pytest.param(
            coded(
                "* * * * * 3 4 1 2 1 1 3 3 * 3",
                "1 * 2 1 3 3 4 3 * * * * * * *",
                "* * 2 1 3 4 4 * 2 1 1 3 3 * 4",
            ), 0.691, id="the package's example: three coders with gaps",
        ),
        pytest.param(
            coded(
                "1 2 3 3 2 1 4 1 2 * * *",
                "1 2 3 3 2 2 4 1 2 5 * 3",
                "* 3 3 3 2 3 4 2 2 5 1 *",
                "1 2 3 3 2 4 4 1 2 5 1 *",
            ), 0.743, id="Krippendorff 2011, C: four observers with gaps",
        ),
        pytest.param(
            coded("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"), 0.095, id="Krippendorff 2011, A: two values",
        ),
        pytest.param(
            coded("1 1 2 2 4 3 3 3 5 4 4 1", "1 2 2 2 2 3 3 3 5 4 4 4"), 0.692, id="Krippendorff 2011, B: 5 values",
        ),
    ],
)  # fmt: skip
def test_published_values_of_krippendorffs_alpha(ratings: np.ndarray, alpha: float) -> None:
    assert krippendorff_alpha(ratings) == pytest.approx(alpha, abs=5e-4)  # printed with three decimals


def test_fleiss_published_example() -> None:
    """Fleiss 1971 by way of the usual textbook table: 10 subjects, 14 raters, 5 categories, kappa 0.210."""
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1), (7, 7, 0, 0, 0),
        (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    assert fleiss_kappa(np.array(table)) == pytest.approx(0.210, abs=5e-4)


def test_undefined_measures_are_none() -> None:
    same = np.zeros((5, 2), int)
    assert krippendorff_alpha(same) is None and cohen_kappa(*same.T) is None
    assert fleiss_kappa(category_counts(same)) is None
    assert krippendorff_alpha(np.array([[0, -1], [-1, 1]])) is None
    assert krippendorff_alpha(np.zeros((0, 2), int)) is None and cohen_kappa(np.zeros(0), np.zeros(0)) is None
    assert fleiss_kappa(category_counts(np.array([[0, 1, 1], [0, 0, -1]]))) is None
    assert bootstrap_alpha(same, np.arange(5), 5, 0, 100) is None


def alpha_by_loops(ratings: np.ndarray) -> float | None:
    """Return alpha by its definition: the matrix of coincidences, pair by pair."""
    coincidences: Counter[tuple[int, int]] = Counter()
    for unit in ratings:
        values = [v for v in unit.tolist() if v >= 0]
        if len(values) >= 2:
            for i, a in enumerate(values):
                for j, b in enumerate(values):
                    if i != j:
                        coincidences[a, b] += 1 / (len(values) - 1)
    marginals: Counter[int] = Counter()
    for (a, _), count in coincidences.items():
        marginals[a] += count
    n = sum(marginals.values())
    observed = sum(count for (a, b), count in coincidences.items() if a != b)
    expected = sum(marginals[a] * marginals[b] for a in marginals for b in marginals if a != b)
    return None if not expected else 1 - (n - 1) * observed / expected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 4).flatmap(lambda w: st.lists(st.lists(st.integers(-1, 3), min_size=w, max_size=w), max_size=9)))
def test_alpha_equals_its_definition(units: list[list[int]]) -> None:
    width = len(units[0]) if units else 2
    ratings = np.array(units, int).reshape(-1, width)
    expected = alpha_by_loops(ratings)
    found = krippendorff_alpha(ratings)
    assert (found is None) == (expected is None)
    assert found is None or found == pytest.approx(expected)


def test_bootstrap_is_seeded_and_draws_images() -> None:
    """One hundred units of one image always come together: there is nothing to vary."""
    rng = np.random.default_rng(0)
    ratings = np.stack((rng.integers(0, 3, 100), rng.integers(0, 3, 100)), 1)
    ratings[:60, 1] = ratings[:60, 0]
    alpha = krippendorff_alpha(ratings)
    one = bootstrap_alpha(ratings, np.zeros(100, int), 1, 0, 200)
    low, high = bootstrap_alpha(ratings, np.arange(100), 100, 0, 1000)
    # with one image drawn once alpha is the same at every draw
    assert one == pytest.approx((alpha, alpha))
    assert low < alpha < high and 0.1 < high - low < 0.4
    assert bootstrap_alpha(ratings, np.arange(100), 100, 0, 1000) == (low, high)
    assert bootstrap_alpha(ratings, np.arange(100), 100, 1, 1000) != (low, high)


def test_bootstrap_interval_covers_what_it_should() -> None:
    """Of 60 samples of 150 units the 95 % interval holds the long-run value in about 57."""
    rng = np.random.default_rng(1)

    def sample(n: int) -> np.ndarray:
        truth = rng.integers(0, 3, n)
        raters = [np.where(rng.random(n) < 0.85, truth, rng.integers(0, 3, n)) for _ in range(2)]
        return np.stack(raters, 1)

    true = krippendorff_alpha(sample(200_000))
    inside = 0
    for k in range(60):
        low, high = bootstrap_alpha(sample(150), np.arange(150), 150, k, 300)
        inside += low <= true <= high
    assert 51 <= inside <= 60


# Objects --------------------------------------------------------------------------------------------------------------


def test_boxes_join_by_falling_iou_one_per_annotator() -> None:
    """a0 overlaps b0 (IoU .6) and b1 (.8): it joins b1; b0 stays alone; c0 overlaps b1 and so joins a0 and b1."""
    a, b = np.array([[0, 0, 10, 10.0]]), np.array([[0, 0, 6, 10], [0, 0, 8, 10.0]])
    c = np.array([[0, 0, 7, 10.0]])
    assert cluster_boxes([a, b]) == [{0: 0, 1: 1}, {1: 0}]
    found = cluster_boxes([a, b, c])
    assert sorted(map(sorted, (objects.items() for objects in found))) == [[(0, 0), (1, 1), (2, 0)], [(1, 0)]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4))
def test_every_box_is_in_one_object(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(count):
        low = rng.integers(0, 4, (rng.integers(0, 5), 2)).astype(float)
        boxes.append(np.concatenate((low, low + rng.integers(2, 5, low.shape)), 1))
    members = [item for found in cluster_boxes(boxes) for item in found.items()]
    assert sorted(members) == [(a, k) for a in range(count) for k in range(len(boxes[a]))]


def test_annotators_who_agree() -> None:
    images = ([(LEFT, 0), (RIGHT, 1)], [(LEFT, 1)])
    result = agreement_of(annotator("x", *images), annotator("y", *images), annotator("z", *images))
    assert (result.alpha, result.alpha_detect, result.seen_by_all, result.mean_iou) == (1, 1, 1, 1)
    assert (result.fleiss, result.reading, result.disagreements, result.objects) == (1, "good", {}, 3)
    assert all(pair["kappa"] == pair["precision"] == pair["recall"] == 1 for pair in result.pairs)
    assert result.alpha_interval == (1, 1)


def test_class_is_not_used_for_matching_and_missing_counts_as_a_rating() -> None:
    """x and y draw four objects each with the classes of the worked example; y draws a fifth alone."""
    x = annotator("x", [(LEFT, 0), (RIGHT, 0)], [(LEFT, 1), (RIGHT, 0)], [])
    y = annotator("y", [(LEFT, 0), (RIGHT, 0)], [(LEFT, 1), (RIGHT, 1)], [(LEFT, 2)])
    result = agreement_of(x, y)
    assert result.alpha == pytest.approx(0.533333, abs=5e-7)
    (pair,) = result.pairs
    assert (pair["kappa"], pair["matched"]) == (pytest.approx(0.5), 4)
    assert (pair["precision"], pair["recall"]) == (pytest.approx(4 / 5), 1)
    assert result.seen_by_all == pytest.approx(4 / 5)
    with_absent = np.array([[0, 0], [0, 0], [1, 1], [0, 1], [3, 2]])
    assert result.alpha_detect == pytest.approx(krippendorff_alpha(with_absent))
    assert result.disagreements == {(0, 1): 1} and result.reading == "low"
    assert result.fleiss == pytest.approx(fleiss_kappa(category_counts(with_absent[:4])))


def test_images_that_one_annotator_did_not_see_are_left_out() -> None:
    x = annotator("x", [(LEFT, 0)], [(LEFT, 1)], [(LEFT, 1)])
    y = annotator("y", [(LEFT, 0)], [(LEFT, 1)], [])
    y.seen[2] = False
    result = agreement_of(x, y)
    assert (result.images, result.images_left_out, result.objects, result.alpha) == (2, 1, 2, 1)
    assert result.pairs[0]["boxes_a"] == 2
    z = annotator("z", [(LEFT, 0)], [], [(LEFT, 1)])
    z.seen[1] = False
    three = agreement_of(x, y, z)
    assert (three.images, three.objects, three.alpha_detect, three.seen_by_all) == (3, 3, 1, 1)


def test_ambiguous_pairs_are_those_of_both() -> None:
    x = annotator("x", [(LEFT, 0), (RIGHT, 1)])
    y = annotator("y", [(LEFT, 1), (RIGHT, 2)])
    confusions = {(0, 1): 3, (1, 0): 4, (0, 2): 9}
    assert ambiguous_pairs(agreement_of(x, y), confusions) == [{"a": 0, "b": 1, "annotators": 1, "model": 7}]


def test_too_few() -> None:
    x = annotator("x", [(LEFT, 0)])
    with pytest.raises(InputError, match="two or more annotators, found 1"):
        agreement_of(x)
    y = annotator("y", [(LEFT, 0)])
    y.seen[0] = False
    with pytest.raises(InputError, match="x, y have none in common"):
        agreement_of(x, y)
    nothing = agreement_of(annotator("x", []), annotator("y", []))
    assert (nothing.objects, nothing.alpha, nothing.mean_iou, nothing.reading) == (0, None, None, "undefined")


# Reading --------------------------------------------------------------------------------------------------------------

ROWS = "0 0.2 0.2 0.2 0.2\n1 0.7 0.7 0.2 0.2\n"


def second_folder(tmp_path: Path, layout: str, files: dict[str, str]) -> Path:
    folder = tmp_path / "labels_b"
    for stem, rows in files.items():
        path = folder / layout / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rows)
    return folder


@pytest.mark.parametrize("layout", ["", "val"])
def test_folders_are_read(tmp_path: Path, layout: str) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"t": ROWS}, "val": {"a": ROWS, "b": "", "c": ROWS}}, list("ABC"))
    folder = second_folder(tmp_path, layout, {"a": "\n0 0.2 0.2 0.2 0.2\n\n2 0.7 0.7 0.2 0.2\n", "b": ""})
    annotators, images, names = read_annotators(yaml, "val", [folder])
    result = measure_agreement(annotators, images, names)
    assert (result.images, result.images_left_out, result.objects) == (2, 1, 2)
    assert result.disagreements == {(1, 2): 1} and result.names[2] == "C"
    counted, _, _ = read_annotators(yaml, "val", [folder], "background")
    assert measure_agreement(counted, images, names).objects == 4
    result.write_csv(tmp_path / "agreement.csv")
    with (tmp_path / "agreement.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["class the data set"], row[f"class {folder}"], row[f"row {folder}"]) for row in rows] == [
        ("A", "A", "1"), ("B", "C", "2"),
    ]  # fmt: skip
    stored = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert stored["disagreements"] == [{"a": 1, "b": 2, "name_a": "B", "name_b": "C", "objects": 1}]
    assert {"alpha", "alpha_low", "alpha_high", "alpha_detect", "fleiss", "pairs", "reading"} <= set(stored)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    yaml = write_set(tmp_path / "set", {"train": {"t": ROWS}, "val": {"a": ROWS}}, list("ABC"))
    with pytest.raises(MissingFileError, match="none: no such folder"):
        read_annotators(yaml, "val", [tmp_path / "none"])
    folder = second_folder(tmp_path, "", {"other": ROWS})
    with pytest.raises(InputError, match="holds no label file of the 1 images of val"):
        read_annotators(yaml, "val", [folder])
    second_folder(tmp_path, "", {"a": "3 0.5 0.5 0.1 0.1\n"})
    with pytest.raises(InputError, match=r"a\.txt, line 1: class 3"):
        read_annotators(yaml, "val", [folder])
    second_folder(tmp_path, "", {"a": "0 0.5 0.5 0.1\n"})
    with pytest.raises(InputError, match=r"a\.txt, line 1: 4 values"):
        read_annotators(yaml, "val", [folder])
    with pytest.raises(InputError, match="has no split 'test'"):
        read_annotators(yaml, "test", [folder])


def test_rows_count_in_the_file_when_cleaning_reorders(tmp_path: Path) -> None:
    """A repeated row is dropped and the others sorted by their values: rows are still those of the file."""
    rows = "1 0.7 0.7 0.2 0.2\n0 0.2 0.2 0.2 0.2\n1 0.7 0.7 0.2 0.2\n"
    yaml = write_set(tmp_path / "set", {"train": {"t": ROWS}, "val": {"a": rows}}, list("ABC"))
    folder = second_folder(tmp_path, "", {"a": ROWS})
    (own, _), _, _ = read_annotators(yaml, "val", [folder])
    assert sorted(zip(own.cls[0].tolist(), own.line[0].tolist(), strict=True)) == [(0, 2), (1, 1)]


def test_many_annotators_pair_up(tmp_path: Path) -> None:
    everyone = [annotator(name, [(LEFT, 0), (RIGHT, 1)]) for name in "wxyz"]
    result = agreement_of(*everyone)
    assert [(p["a"], p["b"]) for p in result.pairs] == list(combinations("wxyz", 2))
