"""All pairs within groups, without a loop over groups and in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PAIRS_AT_ONCE = 500_000


def pairs_within(sizes: np.ndarray, at_once: int = PAIRS_AT_ONCE) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places (i, j), i < j, of all pairs of members of the same group; members of a group lie side by side.

    Args:
        sizes: (groups,) number of members of each group.
        at_once: about how many pairs to yield at a time (a single member may have more partners).
    """
    sizes = np.asarray(sizes, np.int64)
    ends = np.repeat(np.cumsum(sizes), sizes)
    places = np.arange(len(ends))
    partners = ends - places - 1  # every member is paired with those that follow it in its group
    total = np.cumsum(partners)
    first = 0
    while first < len(places):
        before = total[first] - partners[first]
        last = max(int(np.searchsorted(total, before + at_once, "right")), first + 1)
        count = partners[first:last]
        i = np.repeat(places[first:last], count)
        if len(i):
            yield i, i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
        first = last


def pairs_between(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of all pairs within blocks: block b pairs each of ``left[b]`` with each of ``right[b]``.

    Returns:
        Number of the member on the left, counted within its block, and that of the member on the right; with the block
        given by ``np.repeat(np.arange(len(left)), left * right)``.
    """
    left, right = np.asarray(left, np.int64), np.asarray(right, np.int64)
    count = left * right
    place = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    width = np.repeat(right, count)
    return place // np.maximum(width, 1), place % np.maximum(width, 1)
