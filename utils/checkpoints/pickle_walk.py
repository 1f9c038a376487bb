"""Follow a pickle without running it: what it names, which tensor storages it claims, what it calls and with what."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from utils.checkpoints.calls import NONE, TENSOR, UNKNOWN, CallRules, ListValue, StorageValue, TupleValue
from utils.checkpoints.complaints import Damaged, Refused

MODULE_TAG = "module"
STORAGE_TAG = "storage"
ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
MAX_STEPS = 4_000_000  # instructions; yolov5n.pt has 34 000, yolov5x with optimizer state 158 000
MAX_TUPLE_DEPTH = 64  # torch hashes tuples, which C does by recursion without a limit of its own
MAX_TUPLE_VALUES = 1_000_000  # with nested ones counted wherever they stand
MADE_FOR_FREE = 1 << 20  # characters and items that calls may make beyond the pickle's own length


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    path: str


@dataclass
class PickleFacts:
    """What one pickle asks for.

    Attributes:
        globals: dotted paths of every class and function it names.
        storages: (key, storage class path, number of items) of every tensor storage it claims.
        elements: numbers in all tensors together, views of one storage counted each.
        module_marks: byte ranges (position of the opening mark, position of the persistent-id opcode) where a file
            written before torch 1.6 wraps a class together with its source text.
    """

    globals: set[str] = field(default_factory=set)
    storages: list[tuple[str, str, int]] = field(default_factory=list)
    elements: int = 0
    module_marks: list[tuple[int, int]] = field(default_factory=list)


_MARK = object()
_LITERALS = {
    "UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING", "INT",
    "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4",
}  # fmt: skip
_STORE = {"PUT", "BINPUT", "LONG_BINPUT"}
_FETCH = {"GET", "BINGET", "LONG_BINGET"}
_FIXED_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_TO_MARK = {"LIST", "DICT", "FROZENSET", "OBJ"}
_DROP_TO_MARK = {"SETITEMS", "ADDITEMS", "POP_MARK"}
_EFFECT = {
    "NEWTRUE": (0, 1), "NEWFALSE": (0, 1), "EMPTY_DICT": (0, 1), "EMPTY_SET": (0, 1), "BINFLOAT": (0, 1),
    "FLOAT": (0, 1), "BINBYTES": (0, 1), "SHORT_BINBYTES": (0, 1), "BINBYTES8": (0, 1), "BYTEARRAY8": (0, 1),
    "SETITEM": (2, 0), "NEWOBJ_EX": (3, 1), "POP": (1, 0), "PROTO": (0, 0), "FRAME": (0, 0), "STOP": (1, 0),
}  # fmt: skip


class _Machine:
    """Follows the strings, numbers, classes, tuples and tensors of one pickle; everything else is opaque.

    Where it and torch's loader might read an instruction differently, torch's refuses the file: it knows fewer of them.
    """

    def __init__(self) -> None:
        self.stack: list[tuple[Any, int]] = []  # value, position where it began
        self.memo: dict[int, Any] = {}
        self.facts = PickleFacts()
        self.calls = CallRules()
        self.steps = 0
        self._claimed: dict[str, tuple[str, int]] = {}
        self._handlers: dict[str, Callable[[Any, int], None]] = {
            "MARK": lambda _, at: self.stack.append((_MARK, at)),
            "TUPLE": self._tuple,
            "NONE": lambda _, at: self.stack.append((NONE, at)),
            "EMPTY_TUPLE": lambda _, at: self.stack.append((TupleValue(), at)),
            "EMPTY_LIST": lambda _, at: self.stack.append((ListValue(), at)),
            "APPEND": lambda _, at: self._extend([self.stack.pop()[0]]),
            "APPENDS": lambda _, at: self._extend(self._pop_to_mark()[0]),
            "GLOBAL": lambda argument, at: self._global(argument.replace(" ", "."), at),
            "STACK_GLOBAL": self._stack_global,
            "INST": self._inst,
            "BINPERSID": self._persistent_id,
            "REDUCE": self._call,
            "NEWOBJ": self._call,
            "BUILD": self._build,
            "DUP": lambda _, at: self.stack.append((self.stack[-1][0], at)),
            "MEMOIZE": lambda _, at: self.memo.update({len(self.memo): self.stack[-1][0]}),
        }

    def step(self, name: str, argument: Any, at: int) -> None:
        """Follow one opcode that stands at byte ``at``."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Refused(f"more than {MAX_STEPS} pickle instructions")
        if name in self._handlers:
            self._handlers[name](argument, at)
        elif name in _LITERALS:
            self.stack.append((argument, at))
        elif name in _STORE:
            self.memo[argument] = self.stack[-1][0]
        elif name in _FETCH:
            self.stack.append((self.memo[argument], at))
        elif name in _FIXED_TUPLES:
            self._fixed_tuple(_FIXED_TUPLES[name], at)
        elif name in _TO_MARK or name in _DROP_TO_MARK:
            self._pop_to_mark()
            if name in _TO_MARK:
                self.stack.append((UNKNOWN, at))
        elif name in _EFFECT:
            self._apply(*_EFFECT[name], at)
        else:
            raise Refused(f"the pickle instruction {name}")

    def _apply(self, pops: int, pushes: int, at: int) -> None:
        for _ in range(pops):
            self.stack.pop()
        if pushes:
            self.stack.append((UNKNOWN, at))

    def _pop_to_mark(self) -> tuple[list[Any], int]:
        values: list[Any] = []
        while True:
            value, at = self.stack.pop()
            if value is _MARK:
                return values[::-1], at
            values.append(value)

    def _extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1][0], ListValue):
            self.stack[-1][0].length += len(values)

    def _tuple(self, _: Any, at: int) -> None:
        values, start = self._pop_to_mark()
        self._push_tuple(values, start)

    def _fixed_tuple(self, count: int, at: int) -> None:
        self._push_tuple([self.stack.pop()[0] for _ in range(count)][::-1], at)

    def _push_tuple(self, values: list[Any], at: int) -> None:
        nested = [value for value in values if isinstance(value, TupleValue)]
        size = len(values) + sum(value.size for value in nested)
        depth = 1 + max((value.depth for value in nested), default=0)
        if depth > MAX_TUPLE_DEPTH or size > MAX_TUPLE_VALUES:
            raise Refused(f"tuples nested {MAX_TUPLE_DEPTH} deep or more, or with over {MAX_TUPLE_VALUES} values")
        self.stack.append((TupleValue(tuple(values), size, depth), at))

    def _global(self, path: str, at: int) -> None:
        self.facts.globals.add(path)
        self.stack.append((Global(path), at))

    def _stack_global(self, _: Any, at: int) -> None:
        name, module = self.stack.pop()[0], self.stack.pop()[0]
        if not (isinstance(name, str) and isinstance(module, str)):
            raise Refused("a class whose name is computed")
        self._global(f"{module}.{name}", at)

    def _inst(self, argument: str, at: int) -> None:
        self._pop_to_mark()
        self._global(argument.replace(" ", "."), at)

    def _call(self, _: Any, at: int) -> None:
        arguments, function = self.stack.pop()[0], self.stack.pop()[0]
        if not isinstance(function, Global):
            raise Refused("a call of something that is computed")
        self.stack.append((self.calls.result(function.path, arguments), at))

    def _build(self, _: Any, at: int) -> None:
        self.stack.pop()
        if self.stack[-1][0] is TENSOR or isinstance(self.stack[-1][0], (StorageValue, Global)):
            raise Refused("attributes for a tensor or class")

    def _persistent_id(self, _: Any, at: int) -> None:
        value, start = self.stack.pop()
        parts = value.items if isinstance(value, TupleValue) else ()
        if not parts or parts[0] not in (STORAGE_TAG, MODULE_TAG):
            raise Refused("a persistent id that is not a tensor storage")
        if parts[0] == MODULE_TAG and len(parts) == 4 and isinstance(parts[1], Global):
            self.facts.module_marks.append((start, at))
            self.stack.append((parts[1], at))
            return
        self.stack.append((self._storage(parts), at))

    def _storage(self, parts: tuple[Any, ...]) -> StorageValue:
        """Note the storage that a ("storage", class, key, device, items[, view]) id claims."""
        well_formed = (
            parts[0] == STORAGE_TAG
            and len(parts) in (5, 6)
            and isinstance(parts[1], Global)
            and isinstance(parts[2], str)
            and parts[2].isascii()
            and parts[2].isdigit()
            and isinstance(parts[3], str)
            and type(parts[4]) is int
            and parts[4] >= 0
        )
        if not well_formed:
            raise Refused("a tensor storage with a malformed description")
        key, kind, items = parts[2], parts[1].path, parts[4]
        if self._claimed.setdefault(key, (kind, items)) != (kind, items):
            raise Refused("a tensor storage with two descriptions")
        self.facts.storages.append((key, kind, items))
        return StorageValue(items if len(parts) == 5 else _view_items(parts[5], items))


def _view_items(view: Any, items: int) -> int:
    """Return the items of a part (key, first item, items) of a storage, as files before torch 0.4 keep them."""
    if view is NONE:
        return items
    parts = view.items if isinstance(view, TupleValue) else ()
    if len(parts) != 3 or not all(type(n) is int and n >= 0 for n in parts[1:]) or parts[1] + parts[2] > items:
        raise Refused("a part of a tensor storage that lies outside it")
    return parts[2]


def scan_pickle(stream: BinaryIO) -> PickleFacts:
    """Follow one pickle from the stream's position to its end, importing and running nothing.

    Raises:
        Damaged: the pickle ends too early or makes no sense.
        Refused: an instruction, persistent id or call that no checkpoint needs.
    """
    machine, start = _Machine(), stream.tell()
    try:
        for opcode, argument, at in pickletools.genops(stream):
            machine.step(opcode.name, argument, at - start)
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise Damaged("truncated or damaged") from error
    if machine.calls.made > stream.tell() - start + MADE_FOR_FREE:
        raise Refused("calls that multiply its content")
    machine.facts.elements = machine.calls.elements
    return machine.facts
