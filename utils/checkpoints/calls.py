"""What a checkpoint may call with which arguments, judged before anything is called.

torch's loader calls whatever function is on its list with whatever arguments the file gives. Some of those functions
take memory without bound, read other codecs, or make tensors that reach beyond their storage; files that torch.save
wrote never ask for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from utils.checkpoints.complaints import Refused

MAX_DIMENSIONS = 16
MAX_EMPTY_SIDE = 1 << 20  # side of a tensor without elements
MAX_RANGE = 100_000
TEXT_CODECS = ("latin1", "latin-1")  # Python 2's pickles carry bytes as text of this codec


class _Unknown:
    """Any value that the scan does not follow."""


class _Tensor:
    """A tensor made within the pickle."""


class _Nothing:
    """Python's None."""


UNKNOWN = _Unknown()
TENSOR = _Tensor()
NONE = _Nothing()


@dataclass(frozen=True)
class TupleValue:
    """A tuple: its values, their number with those of nested tuples, and how deep these nest."""

    items: tuple[Any, ...] = ()
    size: int = 0
    depth: int = 1


@dataclass
class ListValue:
    """A list, of which the length alone is known."""

    length: int = 0


@dataclass(frozen=True)
class StorageValue:
    """A tensor storage of so many items."""

    items: int


def _is_whole(*values: Any) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


class CallRules:
    """Judges the calls of one pickle.

    Attributes:
        made: characters and items that the calls make together.
        elements: numbers in the tensors that they make.
    """

    def __init__(self) -> None:
        self.made = self.elements = 0
        sets = dict.fromkeys(("builtins.set", "__builtin__.set"), self._set)
        ranges = dict.fromkeys(("builtins.range", "__builtin__.xrange"), self._range)
        kinds = ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
        paths = {f"{place}.{kind}": self._path for place in ("pathlib", "pathlib._local") for kind in kinds}
        self._rules: dict[str, Callable[[tuple[Any, ...]], Any]] = {
            **sets,
            **ranges,
            **paths,
            "torch._utils._rebuild_tensor_v2": self._tensor_v2,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch.Size": self._size,
            "torch.device": self._device,
            "collections.OrderedDict": self._ordered_dict,
            "_codecs.encode": self._encode,
        }

    def result(self, path: str, arguments: Any) -> Any:
        """Return what is known of the value that a call makes.

        Raises:
            Refused: arguments that no checkpoint needs.
        """
        rule = self._rules.get(path)
        if rule is None:
            return UNKNOWN
        if not isinstance(arguments, TupleValue):
            raise Refused(f"{path} with computed arguments")
        return rule(arguments.items)

    def _tensor_v2(self, items: tuple[Any, ...]) -> Any:
        if len(items) != 6:
            raise Refused("a tensor with a malformed description")
        return self._tensor(items[:4])

    def _tensor(self, items: tuple[Any, ...]) -> Any:
        """Judge (storage, offset, shape, strides): the tensor must lie within its storage."""
        if len(items) != 4 or not isinstance(items[0], StorageValue) or not _is_whole(items[1]):
            raise Refused("a tensor with a malformed description")
        storage, offset, shape, strides = items[0], items[1], _numbers(items[2]), _numbers(items[3])
        if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
            raise Refused("a tensor with a malformed shape")
        elements = math.prod(shape)
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        if (elements and last >= storage.items) or (not elements and max(shape) > MAX_EMPTY_SIDE):
            raise Refused("a tensor that lies outside its storage")
        self.elements += elements
        return TENSOR

    def _parameter(self, items: tuple[Any, ...]) -> Any:
        if len(items) != 3 or items[0] is not TENSOR:
            raise Refused("a parameter that is not made of a tensor")
        return TENSOR

    def _size(self, items: tuple[Any, ...]) -> Any:
        if len(items) != 1:
            raise Refused("a malformed torch.Size")
        _numbers(items[0])
        return items[0]

    def _device(self, items: tuple[Any, ...]) -> Any:
        if not (len(items) in (1, 2) and isinstance(items[0], str) and len(items[0]) < 64 and _is_whole(*items[1:])):
            raise Refused("a malformed torch.device")
        return UNKNOWN

    def _set(self, items: tuple[Any, ...]) -> Any:
        if len(items) > 1 or (items and not isinstance(items[0], (ListValue, TupleValue))):
            raise Refused("a set of something else than a list")
        for values in items:
            self.made += values.length if isinstance(values, ListValue) else len(values.items)
        return UNKNOWN

    def _ordered_dict(self, items: tuple[Any, ...]) -> Any:
        if len(items) > 1 or (items and not isinstance(items[0], ListValue)):
            raise Refused("an OrderedDict of something else than a list")
        self.made += sum(values.length for values in items)
        return UNKNOWN

    def _encode(self, items: tuple[Any, ...]) -> Any:
        if len(items) != 2 or not isinstance(items[0], str) or items[1] not in TEXT_CODECS:
            raise Refused("_codecs.encode of another codec than latin1")
        self.made += len(items[0])
        return UNKNOWN

    def _range(self, items: tuple[Any, ...]) -> Any:
        numbers = [item for item in items if type(item) is int]
        if len(numbers) != len(items) or len(items) not in (1, 2, 3) or not _is_short_range(numbers):
            raise Refused("a range that is not of few whole numbers")
        return UNKNOWN

    def _path(self, items: tuple[Any, ...]) -> Any:
        if not all(isinstance(item, str) for item in items):
            raise Refused("a file path that is not text")
        self.made += sum(len(item) for item in items)
        return UNKNOWN


def _is_short_range(numbers: list[int]) -> bool:
    try:
        return len(range(*numbers)) <= MAX_RANGE
    except (OverflowError, ValueError):  # longer than ``len`` can say, or a step of 0
        return False


def _numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, TupleValue) or not _is_whole(*value.items):
        raise Refused("a shape that is not of whole numbers")
    return value.items
