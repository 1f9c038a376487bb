"""Sequences over flat arrays: they behave as the lists that they stand for, and their items are views."""

import hashlib
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.balance.class_weights import labels_to_class_weights, labels_to_image_weights, median_frequency
from utils.balance.image_weights import image_repeat_factors, map_weights
from utils.balance.label_counts import class_counts, image_counts
from utils.data.flat_rows import Names, Outlines, Rows, flat_rows, row_counts
from utils.training.resume_settings import data_facts

COUNTS = [2, 0, 3, 1, 0]


def make_rows(counts=COUNTS, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.random((sum(counts), 5)).astype(np.float32)
    values[:, 0] = rng.integers(0, classes, len(values))
    return Rows(values, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def make_outlines():
    points = np.arange(22, dtype=np.float32).reshape(11, 2)
    return Outlines(points, np.array([0, 3, 7, 11]), np.array([0, 2, 2, 3]))


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_rows_are_indexed_sliced_and_joined_as_a_list():
    rows = make_rows()
    plain = list(rows)
    assert len(rows) == 5 and [len(r) for r in rows] == COUNTS and rows.counts().tolist() == COUNTS
    assert same([rows[i] for i in range(-5, 5)], plain + plain)
    assert isinstance(rows[1:3], list) and same(rows[1:3], plain[1:3]) and same(rows[::-2], plain[::-2])
    assert np.array_equal(np.concatenate(rows), np.concatenate(plain)) and same(rows[np.int64(2)], plain[2])
    assert same(rows * 2, plain * 2) and same(rows + plain, plain * 2) and same(plain + rows, plain * 2)
    assert same(list(reversed(rows)), plain[::-1]) and bool(rows) and not make_rows([])
    for i in (5, -6):
        with pytest.raises(IndexError):
            rows[i]
    with pytest.raises(AttributeError):
        rows["1"]


def test_what_is_written_into_an_item_stays():
    rows = make_rows()
    rows[2][:, 0] = 7
    assert (rows[2][:, 0] == 7).all() and (rows.flat()[2:5, 0] == 7).all()
    for item in rows:
        item[:, 0] = 0
    assert not np.concatenate(rows)[:, 0].any()


def test_an_item_may_be_replaced_by_one_of_another_shape():
    rows = make_rows()
    new = np.ones((4, 5), np.float32)
    rows[-5] = new
    assert rows[0] is new and row_counts(rows).tolist() == [4, 0, 3, 1, 0]
    assert np.array_equal(flat_rows(rows), np.concatenate(list(rows)))
    taken = rows.take(np.array([3, 0]))
    assert same(taken, [rows[3], new])
    rows.add_column(np.arange(8))
    assert [r.shape[1] for r in rows] == [6] * 5 and rows[0][:, 5].tolist() == [0, 1, 2, 3] and rows[3][0, 5] == 7
    wide = make_rows()
    for i, item in enumerate(wide):
        wide[i] = np.concatenate((item, item[:, :1]), 1)
    assert flat_rows(wide).shape == (6, 5) and wide.flat().shape == (6, 6)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_taken_images_are_those_asked_for(counts, data):
    rows = make_rows(counts)
    order = np.array(data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=10)), np.int64)
    taken = rows.take(order)
    assert same(taken, [rows[i] for i in order.tolist()])
    assert not len(taken.flat()) or not np.shares_memory(taken.flat(), rows.flat())
    names = Names([f"/data/images/{i}-ü\udcff.jpg" for i in range(len(counts))])
    assert names.take(order) == [names[i] for i in order.tolist()]


def test_outlines_are_lists_of_views():
    outlines = make_outlines()
    assert [len(found) for found in outlines] == [2, 0, 1] == outlines.counts().tolist()
    assert outlines[1] == [] and outlines[0][1].tolist() == [[6, 7], [8, 9], [10, 11], [12, 13]]
    outlines[2][0][:] = 0
    assert not outlines[-1][0].any()
    outlines[1] = [np.ones((4, 2), np.float32)]
    assert outlines.counts().tolist() == [2, 1, 1] and len(outlines[1][0]) == 4
    taken = outlines.take(np.array([2, 1, 1, 0]))
    assert [len(found) for found in taken] == [1, 1, 1, 2] and same(taken[3], outlines[0]) and taken[1] is outlines[1]


def test_names_are_strings():
    plain = ["/data/images/a b.jpg", "/data/images/c/d.png", "/data/images/é.jpg", "/data/images/\udcff.jpg"]
    names = Names(plain)
    assert list(names) == plain == [names[i] for i in range(4)] and names == plain and names != plain[:3]
    assert names[-1] == plain[-1] and names[1:] == plain[1:] and names.index(plain[1]) == 1 and plain[2] in names
    assert (
        names + ["x"] == [*plain, "x"] and [*names] == plain and list(Names([])) == [] and list(Names(["x"])) == ["x"]
    )


def test_digest_of_the_data_is_that_of_lists():
    rows, files = make_rows(), [f"/data/images/{part}/{i}.jpg" for i, part in enumerate("aabbc")]
    facts = SimpleNamespace(labels=rows, im_files=Names(files), shapes=np.ones((5, 2)))
    plain = SimpleNamespace(labels=list(rows), im_files=files, shapes=np.ones((5, 2)))
    untidy = SimpleNamespace(
        labels=list(rows), im_files=[f"/data/./images//{f[13:]}" for f in files], shapes=plain.shapes
    )
    assert data_facts(facts) == data_facts(plain) == data_facts(untidy)
    by_hand = b"".join(len(r).to_bytes(8, "little") + r.tobytes() for r in rows)
    assert data_facts(facts)["labels"] == hashlib.sha256(by_hand).hexdigest()[:16]
    names = "".join(f"{part}/{i}.jpg\0" for i, part in enumerate("aabbc")).encode() + np.ones((5, 2), "<i8").tobytes()
    assert data_facts(facts)["image_files"] == hashlib.sha256(names).hexdigest()[:16]
    rows.add_column(np.arange(6))
    assert data_facts(facts)["labels"] == data_facts(SimpleNamespace(**{**vars(plain), "labels": list(rows)}))["labels"]


def test_sequences_travel_to_other_processes():
    rows, outlines, names = make_rows(), make_outlines(), Names(["a/b", "a/c"])
    rows[1] = np.ones((1, 5), np.float32)
    assert same(pickle.loads(pickle.dumps(rows)), rows) and pickle.loads(pickle.dumps(names)) == names
    assert same(pickle.loads(pickle.dumps(outlines))[0], outlines[0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 99))
def test_counts_and_weights_of_rows_equal_those_of_a_list(counts, seed):
    rows = make_rows(counts, seed=seed)
    plain = [item.copy() for item in rows]
    for function in (class_counts, image_counts, labels_to_class_weights, labels_to_image_weights, median_frequency):
        assert np.array_equal(function(rows, 4), function(plain, 4)), function.__name__
    assert np.array_equal(image_repeat_factors(rows, 4).images, image_repeat_factors(plain, 4).images)
    maps = np.linspace(0, 1, 4)
    assert np.array_equal(map_weights(rows, 4, maps, 0.5), map_weights(plain, 4, maps, 0.5))
