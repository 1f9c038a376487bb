"""Reading ahead and writing behind in threads, in order, so that a model seldom waits for files."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MOST_AHEAD = 2  # items that wait
_TURN_SECONDS = 0.5
MOST_BYTES = 64 << 20  # held by waiting items; a single one may be larger


class _Waiting(Generic[T]):
    """A queue of few items and few bytes, whose waits end when it is closed."""

    def __init__(self) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._changed = threading.Condition()
        self.closed = False

    def wait_for_room(self) -> bool:
        """Wait until another item may come; return False once closed."""
        with self._changed:
            self._wait(self._has_room)
            return not self.closed

    def put(self, item: T, size: int) -> None:
        """Add an item that holds ``size`` bytes."""
        with self._changed:
            self._items.append((item, size))
            self._changed.notify_all()

    def get(self) -> T | None:
        """Return the next item, waiting for it; None once closed."""
        with self._changed:
            self._wait(lambda: bool(self._items))
            if self.closed:
                return None
            item = self._items.popleft()[0]
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """End all waits."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait in short turns, between which Windows lets Ctrl-C through."""
        while not (self.closed or ready()):
            self._changed.wait(_TURN_SECONDS)

    def _has_room(self) -> bool:
        held = sum(size for _, size in self._items)
        return not self._items or (len(self._items) < MOST_AHEAD and held < MOST_BYTES)


class ReadAhead(Generic[T]):
    """Iterates over something in a thread of its own, a few items ahead; use as a context manager.

    An error of the iterator is raised in its place. The end of the context stops the thread and waits for it, so that
    what it reads can be closed.

    Args:
        source: what is iterated over, by the thread alone.
        size: item -> bytes that it holds.
    """

    def __init__(self, source: Iterator[T], size: Callable[[T], int]):
        self._source, self._size = source, size
        self._waiting: _Waiting[tuple[str, Any]] = _Waiting()
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)

    def __enter__(self) -> ReadAhead[T]:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread after the item it is at."""
        self._waiting.close()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        """Yield the items in their order."""
        while (found := self._waiting.get()) is not None:
            kind, item = found
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item

    def _read(self) -> None:
        try:
            while self._waiting.wait_for_room():
                try:
                    item = next(self._source)
                except StopIteration:
                    self._waiting.put(("end", None), 0)
                    return
                self._waiting.put(("item", item), self._size(item))
        except BaseException as error:  # whatever it is, the main thread has to end with it
            self._waiting.put(("error", error), 0)


class WriteBehind:
    """Calls functions in a thread of its own, one after the other; use as a context manager.

    After an error nothing more is called, and the error is raised at the next call or at the end. A context that ends
    by an error drops what has not begun.
    """

    def __init__(self) -> None:
        self._waiting: _Waiting[Callable[[], object] | None] = _Waiting()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def __enter__(self) -> WriteBehind:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is to be called, then raise its error."""
        if kind is None:
            self._waiting.put(_END, 0)
        else:
            self._waiting.close()
        self._thread.join()
        if kind is None:
            self._raise()

    def call(self, function: Callable[[], object], size: int = 0) -> None:
        """Have a function called that holds ``size`` bytes; wait where much is still to be done."""
        self._waiting.wait_for_room()
        self._raise()
        self._waiting.put(function, size)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while (function := self._waiting.get()) is not None and function is not _END:
                function()
        except BaseException as error:  # whatever it is, the main thread has to end with it
            self._error = error
            self._waiting.close()


def _END() -> None:  # noqa: N802 (a mark, not a function)
    """Stand for the end of the work."""
