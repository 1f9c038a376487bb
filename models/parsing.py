"""Read a model YAML: which layer each row names, its arguments, and how many channels it gives."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from models import common, experimental
from utils.errors import InputError, MissingFileError
from utils.logs import LOGGER
from utils.model_ops import make_divisible

MODELS_FOLDER = Path(__file__).resolve().parent
REQUIRED_KEYS = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
CHANNEL_STEP = 8

# Layers whose first argument is the width before scaling by width_multiple; the input width is put before it.
SCALED_LAYERS: frozenset[type[nn.Module]] = frozenset(
    {
        common.Conv,
        common.GhostConv,
        common.Bottleneck,
        common.GhostBottleneck,
        common.SPP,
        common.SPPF,
        common.DWConv,
        experimental.MixConv2d,
        common.Focus,
        common.CrossConv,
        common.BottleneckCSP,
        common.C3,
        common.C3TR,
        common.C3SPP,
        common.C3Ghost,
        common.C3x,
        nn.ConvTranspose2d,
        common.DWConvTranspose2d,
    }
)
# Of those, the layers that repeat inside; the others are repeated as a whole.
REPEATING_LAYERS: frozenset[type[nn.Module]] = frozenset(
    {common.BottleneckCSP, common.C3, common.C3TR, common.C3Ghost, common.C3x}
)
OTHER_LAYERS: frozenset[type[nn.Module]] = frozenset(
    {common.Concat, common.Contract, common.Expand, common.Proto, common.Classify, experimental.Sum}
)

Source = int | list[int]


def layer_table(*heads: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """Return the layers that a YAML can name without ``nn.``, by name, with the given detection heads."""
    return {layer.__name__: layer for layer in (*SCALED_LAYERS, *OTHER_LAYERS, *heads)}


def resolve_layer(name: str, table: Mapping[str, type[nn.Module]]) -> type[nn.Module]:
    """Return the class a row names: an entry of ``table``, or ``nn.X`` for one of torch's modules.

    Raises:
        InputError: no such layer; the message offers the nearest name.
    """
    name = str(name)
    if name.startswith("nn."):
        layer = getattr(nn, name[3:], None)
        if isinstance(layer, type) and issubclass(layer, nn.Module):
            return layer
        known = [f"nn.{x}" for x, y in vars(nn).items() if isinstance(y, type) and issubclass(y, nn.Module)]
    else:
        if name in table:
            return table[name]
        known = list(table)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = (
        f"did you mean '{near[0]}'?"
        if near
        else f"allowed are {', '.join(sorted(table))} and layers of torch.nn, as nn.Upsample"
    )
    raise InputError(f"unknown layer '{name}', {hint}")


def resolve_argument(value: Any, names: Mapping[str, Any]) -> Any:  # noqa: ANN401  (plain YAML data)
    """Return an argument's value: a name of the YAML such as ``nc``, a Python literal, or the text itself."""
    if not isinstance(value, str):
        return value
    if value in names:
        return names[value]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def parse_activation(text: str) -> nn.Module:
    """Build the activation that a YAML's ``activation:`` names, as ``nn.SiLU()`` or ``nn.LeakyReLU(0.1)``.

    Raises:
        InputError: anything but one of torch's activations called with plain values.
    """
    allowed = "expected one of torch's activations with plain values, as nn.LeakyReLU(0.1)"
    try:
        call = ast.parse(str(text).strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("not a call")
        name = _dotted_name(call.func).removeprefix("torch.").removeprefix("nn.")
        activation = vars(nn.modules.activation).get(name) or (nn.Identity if name == "Identity" else None)
        if not (isinstance(activation, type) and issubclass(activation, nn.Module)):
            raise ValueError("not an activation")
        args = [ast.literal_eval(arg) for arg in call.args]
        return activation(*args, **{str(k.arg): ast.literal_eval(k.value) for k in call.keywords})
    except (ValueError, SyntaxError, TypeError) as error:
        raise InputError(f"activation: {text!r} cannot be used ({error}), {allowed}") from None


@contextmanager
def default_activation(text: str | None) -> Iterator[None]:
    """Let new Conv layers use the YAML's activation, and only those built within this context."""
    if not text:
        yield
        return
    before = common.Conv.default_act
    common.Conv.default_act = parse_activation(text)
    try:
        yield
    finally:
        common.Conv.default_act = before


def find_model_yaml(cfg: str | Path) -> Path:
    """Return the file ``cfg`` names: as given, or by its name in models/, models/hub/ or models/segment/.

    Raises:
        MissingFileError: not found.
    """
    path = Path(cfg)
    folders = [MODELS_FOLDER.parent, MODELS_FOLDER, MODELS_FOLDER / "hub", MODELS_FOLDER / "segment"]
    for candidate in (path, *(folder / path for folder in folders)):
        if candidate.is_file():
            return candidate
    raise MissingFileError(f"{cfg}: no such model YAML, here or in {MODELS_FOLDER} (hub/, segment/)")


@dataclass(frozen=True)
class ModelSpec:
    """The settings of a model YAML that its rows refer to."""

    nc: int
    anchors: int | list[Any]
    depth: float
    width: float
    channel_step: int
    rows: list[tuple[Source, int, str, list[Any]]]

    @classmethod
    def from_yaml(cls, d: Mapping[str, Any]) -> ModelSpec:
        """Check a YAML's keys and rows.

        Raises:
            InputError: a key is missing or a row is not [from, number, module, arguments].
        """
        missing = [key for key in REQUIRED_KEYS if key not in d]
        if missing:
            raise InputError(f"missing key{'s' * (len(missing) > 1)} {', '.join(missing)} of a model YAML")
        if not isinstance(d["nc"], int) or d["nc"] < 1:
            raise InputError(f"nc: {d['nc']!r} found, expected a whole number of at least 1")
        rows = [*d["backbone"], *d["head"]]
        for i, row in enumerate(rows):
            if not (isinstance(row, (list, tuple)) and len(row) == 4 and isinstance(row[3], (list, tuple))):
                raise InputError(f"row {i}: {row!r} found, expected [from, number, module, [arguments]]")
        return cls(
            nc=d["nc"],
            anchors=d["anchors"],
            depth=d["depth_multiple"],
            width=d["width_multiple"],
            channel_step=d.get("channel_multiple") or CHANNEL_STEP,
            rows=[(f, n, m, list(args)) for f, n, m, args in rows],
        )

    @property
    def anchors_per_layer(self) -> int:
        """The number of anchors at each position of one layer."""
        return len(self.anchors[0]) // 2 if isinstance(self.anchors, (list, tuple)) else self.anchors

    @property
    def head_channels(self) -> int:
        """The channels of a detection layer, which are never scaled."""
        return self.anchors_per_layer * (self.nc + 5)

    def repeats(self, n: int) -> int:
        """Scale a row's number by depth_multiple; 1 stays 1."""
        return max(round(n * self.depth), 1) if n > 1 else n

    def scaled(self, channels: float) -> int:
        """Scale a row's channels by width_multiple and round up to a multiple of 8."""
        return make_divisible(channels * self.width, self.channel_step)

    def names(self) -> dict[str, Any]:
        """Return the names that a row's arguments may use."""
        return {"nc": self.nc, "anchors": self.anchors, "None": None, "False": False, "True": True}


def source_channels(ch: Sequence[int], f: Source, row: int) -> list[int]:
    """Return the channels of each source of a row.

    Args:
        ch: channels of the input, then of each layer before the row.
        f: index or indices of layers, -1 the one before.
        row: the row's number.

    Raises:
        InputError: a source that is not an earlier layer.
    """
    sources = f if isinstance(f, (list, tuple)) else [f]
    for x in sources:
        if not isinstance(x, int) or x >= row or x < -row - (row == 0):
            raise InputError(f"from {x!r} found, expected the number of a layer before this one")
    layers = ch[1:]
    return [layers[x] if layers else ch[x] for x in sources]


def layer_arguments(
    layer: type[nn.Module], args: list[Any], repeats: int, inputs: list[int], spec: ModelSpec
) -> tuple[list[Any], int, int]:
    """Return (constructor arguments, number of copies, output channels) of a layer that is not a detection head."""
    c1 = inputs[0]
    if layer in SCALED_LAYERS:
        c2 = args[0] if args[0] == spec.head_channels else spec.scaled(args[0])
        args = [c1, c2, *args[1:]]
        if layer in REPEATING_LAYERS:
            return [*args[:2], repeats, *args[2:]], 1, c2
        return args, repeats, c2
    if layer is nn.BatchNorm2d:
        return [c1], repeats, c1
    if layer is common.Classify:
        return [sum(inputs), *args], repeats, args[0]
    if layer is common.Proto:
        return [c1, *args], repeats, args[1] if len(args) > 1 else 32
    outputs = {
        common.Concat: lambda: sum(inputs),
        common.Contract: lambda: c1 * args[0] ** 2,
        common.Expand: lambda: c1 // args[0] ** 2,
    }
    return args, repeats, outputs[layer]() if layer in outputs else c1


def head_arguments(args: list[Any], inputs: list[int], spec: ModelSpec) -> list[Any]:
    """Return a detection head's arguments: [nc, anchors, (masks, prototypes,) input channels]."""
    args = [*args, inputs]
    if isinstance(args[1], int):
        args[1] = [list(range(args[1] * 2))] * len(inputs)  # placeholders, until anchors are fitted to data
    if len(args) > 4:
        args[3] = spec.scaled(args[3])
    return args


def build_row(
    spec: ModelSpec, row: tuple[Source, int, str, list[Any]], ch: list[int], i: int, heads: tuple[type[nn.Module], ...]
) -> tuple[nn.Module, int]:
    """Build the layer of one row.

    Args:
        spec: the model's settings.
        row: from, repeats, layer name, arguments.
        ch: channels of the input, then of each layer before the row.
        i: the row's number.
        heads: the detection heads that a row can name.

    Returns:
        The layer, with the attributes i (row), f (sources), type (class path) and np (parameters), and its channels.
    """
    f, n, name, args = row
    layer = resolve_layer(name, layer_table(*heads))
    names = spec.names()
    args = [resolve_argument(a, names) for a in args]
    inputs = source_channels(ch, f, i)
    if layer in heads:
        args, copies, c2 = head_arguments(args, inputs, spec), 1, spec.head_channels
    else:
        args, copies, c2 = layer_arguments(layer, args, spec.repeats(n), inputs, spec)
    module = nn.Sequential(*(layer(*args) for _ in range(copies))) if copies > 1 else layer(*args)
    module.i, module.f = i, f
    module.type = f"{layer.__module__}.{layer.__qualname__}".replace("__main__.", "")
    module.np = sum(p.numel() for p in module.parameters())
    LOGGER.info(f"{i:>3}{f!s:>18}{spec.repeats(n):>3}{module.np:10.0f}  {module.type:<40}{args!s:<30}")
    return module, c2
