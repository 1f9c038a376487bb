"""Upright views by resizing: where pixels and labels come to lie, and equality with the slow ways."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import augmentations as aug
from utils.balance.samplers import EpochBatchSampler, pool_partners, shuffled_order
from utils.data.finish import Finish, write_planes
from utils.data.mosaic import Tile, place_tiles, render
from utils.data.zoom import Cut, Span, ZoomedTiles, cut_tiles, is_upright

SIZE = 160
HYP = {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "flipud": 0.5, "fliplr": 0.5}


def smooth_image(h: int, w: int, seed: int) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 255, (h // 16 + 2, w // 16 + 2, 3)).astype(np.uint8)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


def case(seed: int) -> tuple[list[Tile], list[np.ndarray], np.ndarray]:
    """Return four tiles around a point, their images, and an upright warp of the canvas."""
    rng = np.random.default_rng(seed)
    shapes = [(160, 120), (110, 160), (160, 160), (90, 160)]
    images = [smooth_image(h, w, seed * 4 + k) for k, (h, w) in enumerate(shapes)]
    tiles = place_tiles(shapes, (int(rng.uniform(80, 240)), int(rng.uniform(80, 240))), 2 * SIZE)
    warp = aug.draw_warp(rng, (320, 320), (SIZE, SIZE), 0.0, 0.1, 0.5, 0.0, 0.0)
    return tiles, images, warp.matrix


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**6))
def test_cuts_fill_what_the_warp_fills(seed: int) -> None:
    """Each tile fills the rectangle of pixels nearest to it, and is shifted by half a pixel of the view at most."""
    tiles, images, matrix = case(seed)
    for tile, cut, image in zip(tiles, cut_tiles(tiles, matrix, (SIZE, SIZE)), images, strict=True):
        for axis, span in enumerate((cut.x, cut.y)):
            low, high = tile.canvas[axis], tile.canvas[axis + 2]
            places = matrix[axis, axis] * (np.arange(low, high)) + matrix[axis, 2]
            if span is None:
                assert not ((places > -0.5) & (places < SIZE - 0.5)).any()
                continue
            assert abs(span.shift) * matrix[axis, axis] <= 0.5 + 1e-9
            assert 0 <= span.view[0] < span.view[1] <= SIZE
            assert tile.source[axis] <= span.source[0] < span.source[1] <= image.shape[1 - axis]
            assert span.place <= span.view[0]


@pytest.mark.parametrize("seed", range(40))
def test_pixels_lie_where_the_shift_says(seed: int) -> None:
    """Each tile of the quick view equals the warp of that tile alone, moved by its shift."""
    tiles, images, matrix = case(seed)
    view = ZoomedTiles.of(tiles, matrix, (SIZE, SIZE), lambda k, _: images[k])
    out = view.render(np.empty((SIZE, SIZE, 3), np.uint8))
    for k, (cut, tile) in enumerate(zip(view.cuts, tiles, strict=True)):
        if cut.x is None or cut.y is None:
            continue
        move = np.array([[1, 0, tile.offset[0] + cut.shift[0]], [0, 1, tile.offset[1] + cut.shift[1]], [0, 0, 1]])
        expected = cv2.warpAffine(
            images[k], (matrix @ move)[:2], (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        part = slice(cut.y.view[0], cut.y.view[1] - 1), slice(cut.x.view[0], cut.x.view[1] - 1)  # the last may repeat
        difference = np.abs(out[part].astype(int) - expected[part])
        assert difference.size == 0 or (difference.mean() < 0.7 and difference.max() <= 6)


def test_a_last_row_that_rounding_leaves_out_is_repeated_where_it_alone_shows() -> None:
    """Three rows become four, and the fifth, which alone would show, is the fourth: never memory that nobody wrote."""
    rows = Span(source=(189, 192), place=-4, view=(0, 1), shift=0.0)
    columns = Span(source=(17, 200), place=-4, view=(0, 256), shift=0.0)
    image = np.full((192, 256, 3), 77, np.uint8)
    for cut, shape in ((Cut(columns, rows), (1, 256)), (Cut(rows, columns), (256, 1))):
        source = image if shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 0, 2))
        view = ZoomedTiles([cut], (1.4416, 1.4416), lambda *_, source=source: source)
        for _ in range(5):
            assert (view.render(np.empty((*shape, 3), np.uint8)) == 77).all()


@pytest.mark.parametrize("seed", range(10))
def test_quick_view_is_the_slow_view(seed: int) -> None:
    """Against ``render``, which warps: half a pixel of shift changes smooth pictures little, and grey not at all."""
    tiles, images, matrix = case(seed)
    quick = ZoomedTiles.of(tiles, matrix, (SIZE, SIZE), lambda k, _: images[k]).render(
        np.empty((SIZE, SIZE, 3), np.uint8)
    )
    slow = np.empty_like(quick)
    render(slow, tiles, images.__getitem__, matrix)
    assert ((quick == 114).all(2) == (slow == 114).all(2)).mean() > 0.995
    assert np.abs(quick.astype(int) - slow).mean() < 4


@pytest.mark.parametrize("seed", range(20))
def test_painting_is_rendering_and_finishing(seed: int) -> None:
    """To OpenCV's rounding, which varies along a row, where tiles are made smaller; else colours change first."""
    tiles, images, matrix = case(seed)
    view = ZoomedTiles.of(tiles, matrix, (SIZE, SIZE), lambda k, _: images[k])
    before = [image.copy() for image in images]
    finish = Finish.draw(HYP, None, np.random.default_rng(seed))
    painted, planes = np.empty((2, 3, SIZE, SIZE), np.uint8)
    view.paint(painted, finish)
    finish.apply(view.render(np.empty((SIZE, SIZE, 3), np.uint8)), planes)
    if matrix[0, 0] <= 1:
        difference = np.abs(painted.astype(int) - planes)
        assert difference.max() <= 1
    assert np.abs(painted.astype(int) - planes).mean() < 2
    assert all((a == b).all() for a, b in zip(before, images, strict=True))  # they belong to a cache


def test_a_view_that_starts_between_pixels_has_no_grey_seam() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        matrix = aug.draw_warp(rng, (320, 320), (SIZE, SIZE), 0.0, 0.1, 0.5, 0.0, 0.0).matrix
        tiles = place_tiles([(320, 320)] * 4, (int(rng.uniform(80, 240)), int(rng.uniform(80, 240))), 320)
        view = ZoomedTiles.of(tiles, matrix, (SIZE, SIZE), lambda *_: np.full((320, 320, 3), 200, np.uint8))
        out = view.render(np.empty((SIZE, SIZE, 3), np.uint8))
        first, last = (matrix[[0, 1], [0, 1]] * edge + matrix[:2, 2] for edge in (0, 319))
        low, high = np.ceil(first).clip(0).astype(int), (np.floor(last) + 1).clip(0, SIZE).astype(int)
        assert (out[low[1] : high[1], low[0] : high[0]] == 200).all()


@pytest.mark.parametrize(
    ("change", "upright"),
    [((0, 0, 2.0), True), ((0, 1, 0.1), False), ((1, 0, 0.1), False), ((0, 0, -1.0), False), ((2, 0, 1e-4), False)],
)
def test_what_counts_as_upright(change: tuple[int, int, float], upright: bool) -> None:
    matrix = np.eye(3)
    matrix[change[0], change[1]] = change[2]
    assert is_upright(matrix) is upright


def test_colours_by_factors_are_those_of_the_table() -> None:
    """The quick way is taken only where it gives the table's numbers; a hue beyond the circle may be off by 1."""
    im = smooth_image(96, 128, 1)
    rng, quick = np.random.default_rng(0), 0
    for _ in range(60):
        change = aug.HsvChange.draw(0.015, 0.7, 0.4, rng)
        by_table, by_factors = np.empty_like(im), np.empty_like(im)
        change._replace(matrix=None).apply(im, by_table)
        change.apply(im, by_factors)
        quick += change.matrix is not None
        assert np.abs(by_table.astype(int) - by_factors).max() <= 1
        if change.matrix is not None:
            hues = cv2.transform(cv2.cvtColor(im, cv2.COLOR_BGR2HSV), change.matrix)[..., 0]
            assert (by_table == by_factors)[hues < 180].all()
    assert quick > 40
    assert aug.HsvChange.draw(1.0, 0.0, 0.0, np.random.default_rng(1)).table[0, :180, 0].max() < 180


def test_planes_are_rgb() -> None:
    im = np.dstack([np.full((4, 5), k, np.uint8) for k in (1, 2, 3)])
    out = np.zeros((3, 4, 5), np.uint8)
    write_planes(out, im)
    assert out[:, 0, 0].tolist() == [3, 2, 1]


# Groups of partners ---------------------------------------------------------------------------------------------------


def test_groups_are_neighbours_in_the_order_whatever_the_processes() -> None:
    order = shuffled_order(22, 0, 0)
    alone = [d for batch in EpochBatchSampler(lambda e: order, 6, pool=8) for d in batch]
    assert [d.index for d in alone] == order.tolist()
    for draw in alone:
        first = draw.position // 8 * 8
        group = order[first : first + 8].tolist()
        assert sorted([draw.index, *draw.pool]) == sorted(group)
    shared = [d for rank in range(3) for batch in EpochBatchSampler(lambda e: order, 6, rank, 3, pool=8) for d in batch]
    assert set(shared) == set(alone)


def test_partners_of_a_group_are_even_and_never_the_primary() -> None:
    drawn = pool_partners((3, 5, 7, 9), 3, 3000, np.random.default_rng(0))
    counts = {k: drawn.count(k) for k in (5, 7, 9)}
    assert sum(counts.values()) == 3000
    assert all(abs(count - 1000) < 120 for count in counts.values())
    assert pool_partners((3, 3), 3, 2, np.random.default_rng(0)) == [3, 3]  # nothing else is there
