"""Sequences of one item per image that are a few arrays inside, so that a million images are no million objects.

An item is made when it is asked for: a view of the arrays or a string. Processes that fork share the arrays' pages,
where a list's pages would be copied by the mere counting of references.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

_ENCODING = ("utf-8", "surrogateescape")


class _PerImage(Sequence[Any]):
    """What the sequences have in common: they index, slice (to a list), join and compare as lists do.

    Image i owns what lies between the numbers i and i + 1 of ``_offsets`` (N + 1,) int64.
    """

    _offsets: np.ndarray

    @abstractmethod
    def _item(self, i: int) -> Any:
        """Return what image i owns."""

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def _place(self, i: Any) -> int:
        n = len(self)
        place = i.__index__()
        if not -n <= place < n:
            raise IndexError(f"{type(self).__name__} index {place} out of range")
        return place % n

    @overload
    def __getitem__(self, i: int) -> Any: ...

    @overload
    def __getitem__(self, i: slice) -> list[Any]: ...

    def __getitem__(self, i: Any) -> Any:
        """Return item i, or a list of those of a slice."""
        if isinstance(i, slice):
            return [self._item(k) for k in range(*i.indices(len(self)))]
        return self._item(self._place(i))

    def __iter__(self) -> Iterator[Any]:
        return map(self._item, range(len(self)))

    def __add__(self, other: Iterable[Any]) -> list[Any]:
        return [*self, *other]

    def __radd__(self, other: Iterable[Any]) -> list[Any]:
        return [*other, *self]

    def __mul__(self, times: int) -> list[Any]:
        return [*self] * times

    __rmul__ = __mul__


class _Replaceable(_PerImage):
    """Items that may be replaced, each as a whole and by one of another length, too."""

    def __init__(self) -> None:
        self._replaced: dict[int, Any] = {}

    @abstractmethod
    def _stored(self, i: int) -> Any:
        """Return what the arrays hold of image i."""

    def _item(self, i: int) -> Any:
        if self._replaced and i in self._replaced:
            return self._replaced[i]
        return self._stored(i)

    def __setitem__(self, i: int, item: Any) -> None:
        """Put another item in the place of item i."""
        self._replaced[self._place(i)] = item

    def counts(self) -> np.ndarray:
        """Return the length of each item, (N,) int64."""
        counts = np.diff(self._offsets)
        for i, item in self._replaced.items():
            counts[i] = len(item)
        return counts


class Rows(_Replaceable):
    """The labels of each image, views (n, c) of one array; what is written into a view is written into the array.

    An item may be replaced by another array, also one with another number of rows or columns.

    Args:
        values: (M, c), the rows of all images one after the other.
        offsets: (N + 1,) int64, image i owns values[offsets[i]:offsets[i + 1]].
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray):
        super().__init__()
        self._values, self._offsets = values, offsets

    def _stored(self, i: int) -> np.ndarray:
        return self._values[self._offsets[i] : self._offsets[i + 1]]

    def flat(self) -> np.ndarray:
        """Return all rows (M, c): the array itself, or a joined copy once an item has been replaced."""
        return np.concatenate(list(self)) if self._replaced else self._values

    def take(self, order: np.ndarray) -> Rows:
        """Return the rows of the images of ``order`` (k,), in that order, in arrays of their own."""
        places, offsets = _taken(np.concatenate([[0], np.cumsum(self.counts())]), order)
        return Rows(self.flat()[places], offsets)

    def add_column(self, column: np.ndarray) -> None:
        """Append a column (M,) to the rows of all images; views taken before do not have it."""
        values, counts = self.flat(), self.counts()
        self._values = np.concatenate((values, column[:, None].astype(values.dtype)), 1)
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self._replaced.clear()


class Outlines(_Replaceable):
    """The list of polygons of each image, views (k, 2) of one array of points; [] for images with boxes alone.

    The polygons' points may be changed in place; a list may only be replaced as a whole.

    Args:
        points: (P, 2), the points of all polygons one after the other.
        point_offsets: (S + 1,) int64, polygon s owns points[point_offsets[s]:point_offsets[s + 1]].
        offsets: (N + 1,) int64, image i owns the polygons offsets[i] to offsets[i + 1].
    """

    def __init__(self, points: np.ndarray, point_offsets: np.ndarray, offsets: np.ndarray):
        super().__init__()
        self._points, self._point_offsets, self._offsets = points, point_offsets, offsets

    def _stored(self, i: int) -> list[np.ndarray]:
        first, end = self._offsets[i : i + 2].tolist()
        if first == end:
            return []
        edges = self._point_offsets[first : end + 1].tolist()
        return [self._points[a:b] for a, b in zip(edges, edges[1:], strict=False)]

    def take(self, order: np.ndarray) -> Outlines:
        """Return the polygons of the images of ``order`` (k,), in that order, in arrays of their own."""
        polygons, offsets = _taken(self._offsets, order)
        points, point_offsets = _taken(self._point_offsets, polygons)
        taken = Outlines(self._points[points], point_offsets, offsets)
        if self._replaced:
            taken._replaced = {k: self._replaced[i] for k, i in enumerate(order.tolist()) if i in self._replaced}
        return taken


class Names(_PerImage):
    """File names, kept as the bytes after their common beginning.

    Args:
        names: N paths.
    """

    def __init__(self, names: Sequence[str]):
        names = names if isinstance(names, list) else list(names)
        self._common = os.path.commonprefix([min(names), max(names)]) if names else ""
        cut = len(self._common)
        encoded = [name[cut:].encode(*_ENCODING) for name in names]
        self._bytes = b"".join(encoded)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._offsets = np.concatenate([[0], np.cumsum(lengths)])

    def _item(self, i: int) -> str:
        return self._common + self._bytes[self._offsets[i] : self._offsets[i + 1]].decode(*_ENCODING)

    def __iter__(self) -> Iterator[str]:
        edges, common, whole = self._offsets.tolist(), self._common, self._bytes
        return (common + whole[a:b].decode(*_ENCODING) for a, b in zip(edges, edges[1:], strict=False))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (list, Names)):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    def take(self, order: np.ndarray) -> Names:
        """Return the names of ``order`` (k,), in that order."""
        whole = np.frombuffer(self._bytes, np.uint8)
        places, offsets = _taken(self._offsets, order)
        taken = Names([])
        taken._common, taken._bytes, taken._offsets = self._common, whole[places].tobytes(), offsets
        return taken


def row_counts(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Return the number of labels of each image, (N,) int64; ``labels`` may be any sequence of arrays."""
    return labels.counts() if isinstance(labels, Rows) else np.fromiter(map(len, labels), np.int64, len(labels))


def flat_rows(labels: Sequence[np.ndarray], columns: int = 5) -> np.ndarray:
    """Return the first ``columns`` of all labels (M, columns), possibly a view; as ``row_counts``."""
    if isinstance(labels, Rows):
        return labels.flat()[:, :columns]
    filled = [np.asarray(rows)[:, :columns] for rows in labels if len(rows)]
    return np.concatenate(filled) if filled else np.zeros((0, columns), np.float32)


def _taken(offsets: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of all parts of the items of ``order``, (K,), and the offsets of these items among them."""
    order = np.asarray(order, np.int64)
    lengths = offsets[order + 1] - offsets[order]
    ends = np.cumsum(lengths)
    starts = offsets[order] - (ends - lengths)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts, lengths), np.concatenate([[0], ends])
