"""Pickles changed instruction by instruction: what is still a sequence of instructions reaches further than noise."""

from __future__ import annotations

import pickletools
import random
from collections.abc import Callable

from pickle_bytes import call, named, number, storage, tensor, text

HARMFUL_NAMES = (
    "os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "torch.hub.load", "pickle.loads",
    "importlib.import_module", "builtins.getattr", "builtins.__import__", "torch.load", "numpy.load", "this.x",
    "models.yolo.Detect", "models.common.Conv", "torch.Size", "builtins.set", "_codecs.encode", "builtins.range",
    "torch._utils._rebuild_tensor_v2", "torch.nn.modules.container.Sequential", "collections.OrderedDict",
)  # fmt: skip
NUMBERS = (-1, 0, 1, 2, 3, 255, 65536, 2**31 - 1, 10**12, 2**62, -(2**40))
ALPHABET = bytes(opcode.code.encode("latin-1")[0] for opcode in pickletools.opcodes)


def instructions(pickled: bytes) -> list[bytes]:
    """Cut a pickle into its instructions, each with its argument."""
    places = [at for _, _, at in pickletools.genops(pickled)]
    return [pickled[a:b] for a, b in zip(places, [*places[1:], len(pickled)], strict=True)]


class Mutator:
    """Changes pickles at random.

    Args:
        seed: of the changes.
        canary: file that the code planted here would write.
        donors: pickles of which parts are taken.
    """

    def __init__(self, seed: int, canary: str, donors: list[list[bytes]]):
        self.random = random.Random(seed)
        self.command = text(f"touch {canary}")
        self.donors = donors
        self.changes: tuple[Callable[[list[bytes], int], None], ...] = (
            self._delete, self._repeat, self._swap, self._insert, self._rename, self._renumber, self._splice,
            self._plant, self._flip, self._refetch, self._bare, self._cut,
        )  # fmt: skip

    def mutated(self, parts: list[bytes], at_most: int = 4) -> bytes:
        """Return the pickle of these instructions with one to ``at_most`` changes."""
        parts = list(parts)
        for _ in range(self.random.randint(1, at_most)):
            self.random.choice(self.changes)(parts, self.random.randrange(1, max(2, len(parts))))
        return b"".join(parts)

    def _delete(self, parts: list[bytes], at: int) -> None:
        del parts[at : at + self.random.randint(1, 3)]

    def _repeat(self, parts: list[bytes], at: int) -> None:
        parts[at:at] = parts[at : at + self.random.randint(1, 20)] * self.random.randint(1, 5)

    def _swap(self, parts: list[bytes], at: int) -> None:
        other = self.random.randrange(len(parts))
        if at < len(parts):
            parts[at], parts[other] = parts[other], parts[at]

    def _insert(self, parts: list[bytes], at: int) -> None:
        parts.insert(at, bytes([self.random.choice(ALPHABET)]) + self.random.randbytes(self.random.randint(0, 5)))

    def _bare(self, parts: list[bytes], at: int) -> None:
        parts.insert(at, bytes([self.random.choice(b"}])(NRbutae0123\x81\x85\x86\x87\x88\x93Q.")]))

    def _rename(self, parts: list[bytes], at: int) -> None:
        places = [i for i, part in enumerate(parts) if part[:1] == b"c"]
        if places:
            parts[self.random.choice(places)] = named(self.random.choice(HARMFUL_NAMES))

    def _renumber(self, parts: list[bytes], at: int) -> None:
        places = [i for i, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J", b"\x8a")]
        if places:
            parts[self.random.choice(places)] = number(self.random.choice(NUMBERS))

    def _refetch(self, parts: list[bytes], at: int) -> None:
        """Have a value fetched from another place in the memo."""
        places = [i for i, part in enumerate(parts) if part[:1] == b"h"]
        if places:
            parts[self.random.choice(places)] = b"h" + bytes([self.random.randrange(256)])

    def _splice(self, parts: list[bytes], at: int) -> None:
        donor = self.random.choice(self.donors)
        start = self.random.randrange(len(donor))
        parts[at:at] = donor[start : start + self.random.randint(1, 30)]

    def _plant(self, parts: list[bytes], at: int) -> None:
        """Insert a whole value that should not be there."""
        name, size = self.random.choice(HARMFUL_NAMES), self.random.choice(NUMBERS)
        planted = self.random.choice(
            (
                named(name) + b"(" + self.command + b"tR",
                named(name) + b"(" + self.command + b"t\x81",
                b"(" + self.command + b"ios\nsystem\n",
                text("os") + text("system") + b"\x93(" + self.command + b"tR",
                named(name),
                call("builtins.range", number(size)),
                call("builtins.getattr", named("models.yolo.Detect"), text("forward")),
                storage("0", size),
                tensor(b"(" + number(size) + b"t", b"(" + number(size) + b"t"),
                text("x" * self.random.randint(0, 3000)),
            )
        )
        parts.insert(at, planted)

    def _flip(self, parts: list[bytes], at: int) -> None:
        if at < len(parts):
            data = bytearray(parts[at])
            data[self.random.randrange(len(data))] = self.random.randrange(256)
            parts[at] = bytes(data)

    def _cut(self, parts: list[bytes], at: int) -> None:
        if self.random.random() < 0.1:
            del parts[at:]
