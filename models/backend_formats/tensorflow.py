"""TensorFlow SavedModel folders and frozen graphs (.pb).

Both hold a program. TensorFlow has operations that read and write files, start Python functions or open connections, so
the graph is looked at before TensorFlow runs any of it: only the operations of networks pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from models.backend_formats.base import Backend, inside
from models.backend_formats.tf_outputs import SUPPRESSED, channels_last, in_pixels
from models.tf import import_tensorflow
from utils.errors import InputError
from utils.yaml_files import read_yaml

FACTS = "_yolov5"  # attribute of a frozen graph's input, as utils/exporting/tensorflow.py writes it
MOST_BYTES = 2 << 30  # what a protocol buffer can have
# Operations without effects outside the graph. Variables are read here and never written.
ALLOWED_OPERATIONS = frozenset(
    """
    Placeholder PlaceholderWithDefault Const Identity IdentityN NoOp Snapshot StopGradient PreventGradient
    PartitionedCall StatefulPartitionedCall StatelessIf If StatelessWhile While Merge Switch
    TensorListReserve TensorListFromTensor TensorListStack TensorListGetItem TensorListSetItem TensorListLength
    VarHandleOp ReadVariableOp VarIsInitializedOp
    Conv2D DepthwiseConv2dNative Conv2DBackpropInput _FusedConv2D FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
    BiasAdd BiasAddV1 MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum _FusedMatMul
    MaxPool MaxPoolV2 AvgPool Mean Sum Max Min Prod All Any ArgMax ArgMin Cumsum
    Relu Relu6 LeakyRelu Elu Selu Softplus Softsign Sigmoid Tanh Softmax LogSoftmax Erf Erfc
    Add AddV2 AddN Sub Mul MulNoNan Div DivNoNan RealDiv FloorDiv FloorMod Mod Neg Abs Sign Square Sqrt Rsqrt Pow Exp
    Log Log1p Maximum Minimum SquaredDifference Floor Ceil Round Rint Reciprocal Inv ClipByValue IsNan IsInf IsFinite
    Equal NotEqual Less LessEqual Greater GreaterEqual LogicalAnd LogicalOr LogicalNot Select SelectV2 Where
    Reshape Transpose ExpandDims Squeeze Concat ConcatV2 Split SplitV Slice StridedSlice Pack Unpack Tile BroadcastTo
    BroadcastArgs Pad PadV2 MirrorPad Gather GatherV2 GatherNd ScatterNd TensorScatterUpdate ReverseV2 Range Fill
    ZerosLike OnesLike OneHot Shape ShapeN Size Rank Cast Bitcast TopK TopKV2 UniqueV2 Unique
    SpaceToDepth DepthToSpace SpaceToBatchND BatchToSpaceND
    ResizeNearestNeighbor ResizeBilinear NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4
    NonMaxSuppressionV5 CombinedNonMaxSuppression
    FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel FakeQuantWithMinMaxArgs QuantizeAndDequantizeV2
    """.split()  # noqa: SIM905  (a table to read)
)
# Kinds of objects that TensorFlow makes out of a SavedModel without running anything of it.
ALLOWED_OBJECTS = frozenset(
    {"user_object", "function", "bare_concrete_function", "constant", "captured_tensor", "variable"}
)


class SavedModelBackend(Backend):
    """Run the signature serving_default of a SavedModel."""

    packages: ClassVar = {"tensorflow": "tensorflow"}
    folder: ClassVar[bool] = True
    gpu: ClassVar[bool] = False

    def load(self) -> None:
        """Look at the graph, load it, and pick the signature."""
        source = inside(self.path / "saved_model.pb", self.path)
        for other in ("saved_model.pbtxt", "saved_model.cpb"):
            if (self.path / other).exists():
                raise InputError(f"weights {self.path}: {other} found; allowed is one saved_model.pb")
        for part in (self.path / "variables").glob("*"):
            inside(part, self.path)
        settings = sorted(self.path.glob("*.yaml"))
        if settings:
            self.facts = dict(read_yaml(inside(settings[0], self.path)))
        tf = import_tensorflow()
        require_known_saved_model(source)
        try:
            loaded = tf.saved_model.load(str(self.path))
            self._function = loaded.signatures["serving_default"]
        except Exception as error:  # of many classes
            raise InputError(f"weights {self.path}: TensorFlow cannot read it: {_first_line(error)}") from error
        self.model, self._tf = loaded, tf
        self._names = sorted(self._function.structured_outputs)
        if set(self._names) >= {"boxes", "scores", "classes", "valid"}:
            self._names = [
                n for n in ("boxes", "scores", "classes", "valid", "masks", "prototypes") if n in self._names
            ]
        self._input, spec = next(iter(self._function.structured_input_signature[1].items()))
        self.facts.setdefault("nms", len(self._names) >= SUPPRESSED)
        self.shape = from_last(spec.shape.as_list())

    def run(self, im: Tensor) -> Any:
        """Return rows in pixels, and prototypes."""
        found = self._function(**{self._input: self._tf.constant(channels_last(im))})
        return in_pixels([found[name].numpy() for name in self._names], im.shape, self.facts)


class GraphDefBackend(Backend):
    """Run a frozen graph from its one placeholder to its last operations."""

    packages: ClassVar = {"tensorflow": "tensorflow"}
    gpu: ClassVar[bool] = False

    def load(self) -> None:
        """Look at the graph and wrap it as a function."""
        self.model = self._function = self.function_of(read_graph_def(self.path))

    def function_of(self, definition: Any) -> Any:
        """Return a GraphDef as a function of an image batch; set facts and shape."""
        tf = import_tensorflow()
        require_known_operations(definition.node, self.path)
        for function in definition.library.function:
            require_known_operations(function.node_def, self.path)
        images = [node for node in definition.node if node.op == "Placeholder"]
        if len(images) != 1:
            raise InputError(f"weights {self.path}: takes {len(images)} inputs, expected one batch of images")
        self.facts = facts_of(images[0], self.path)
        used = {name.split(":")[0].lstrip("^") for node in definition.node for name in node.input}
        last = [n.name for n in definition.node if n.name not in used and n.op not in {"NoOp", "Const"}]
        self.facts.setdefault("nms", len(last) >= SUPPRESSED)
        sides = [side.size for side in images[0].attr["shape"].shape.dim]
        self.shape = from_last([None if side < 1 else side for side in sides])

        def imported() -> None:
            tf.compat.v1.import_graph_def(definition, name="")

        try:
            wrapped = tf.compat.v1.wrap_function(imported, [])
            ends = [wrapped.graph.as_graph_element(f"{name}:0") for name in sorted(last)]
            function = wrapped.prune(wrapped.graph.as_graph_element(f"{images[0].name}:0"), ends)
        except Exception as error:  # of many classes
            raise InputError(f"weights {self.path}: TensorFlow cannot read it: {_first_line(error)}") from error
        self._tf = tf
        return function

    def run(self, im: Tensor) -> Any:
        """Return rows in pixels, and prototypes."""
        found = self._function(self._tf.constant(channels_last(im)))
        return in_pixels([y.numpy() for y in found], im.shape, self.facts)


def read_graph_def(path: Path) -> Any:
    """Return a file's GraphDef.

    Raises:
        InputError: it is none.
    """
    import_tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework.graph_pb2 import GraphDef

    if path.stat().st_size >= MOST_BYTES:
        raise InputError(f"weights {path}: {path.stat().st_size} bytes, a graph may have {MOST_BYTES}")
    definition = GraphDef()
    try:
        definition.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"weights {path}: truncated or not a TensorFlow graph") from error
    return definition


def from_last(shape: list[int | None] | None) -> tuple[int, int, int, int]:
    """Return a graph's (b, h, w, 3) as (b, 3, h, w), 0 for any number."""
    if shape is None or len(shape) != 4:
        return 0, 3, 0, 0
    batch, height, width = (shape[i] or 0 for i in range(3))
    return batch, 3, height, width


def facts_of(node: Any, path: Path) -> dict[str, Any]:
    """Return the facts that export.py keeps at a graph's input; graphs of others have none."""
    text = node.attr[FACTS].s if FACTS in node.attr else b""
    try:
        facts = json.loads(text) if text else {}
    except ValueError as error:
        raise InputError(f"weights {path}: its facts are not JSON ({error})") from error
    return facts if isinstance(facts, dict) else {}


def require_known_operations(nodes: Iterable[Any], path: Path) -> None:
    """Refuse operations that a network does not need, such as those that read or write files.

    Raises:
        InputError: names the first.
    """
    for node in nodes:
        if node.op not in ALLOWED_OPERATIONS:
            raise InputError(
                f"weights {path}: its graph uses {node.op} ({node.name}); allowed are the operations of a network"
            )


def require_known_saved_model(path: Path) -> None:
    """Refuse a SavedModel in which anything that can run has operations a network does not need.

    What can run are the functions among its objects and what these call. Functions that save and restore variables
    read and write files; they are part of each SavedModel, belong to no object, and nothing calls them here.

    Raises:
        InputError: names the operation or object.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    content = SavedModel()
    try:
        content.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise InputError(f"weights {path}: truncated or not a TensorFlow model") from error
    for graph in content.meta_graphs:
        nodes = graph.object_graph_def.nodes
        if len(content.meta_graphs) != 1 or not nodes:
            raise InputError(
                f"weights {path}: of TensorFlow 1 or with several graphs; allowed are models of TensorFlow 2"
            )
        for node in nodes:
            kind = node.WhichOneof("kind")
            if kind not in ALLOWED_OBJECTS or node.saveable_objects or node.registered_name:
                what = node.registered_name or kind or "with ways of its own to be saved"
                raise InputError(
                    f"weights {path}: it holds an object {what}; allowed are functions and their constants"
                )
        library = {function.signature.name: function for function in graph.graph_def.library.function}
        for name in _reachable(nodes, library):
            require_known_operations(library[name].node_def, path)


def _reachable(nodes: Iterable[Any], library: dict[str, Any]) -> Iterator[str]:
    """Yield the functions of a SavedModel's objects and all that these call."""
    waiting: list[str] = []
    for node in nodes:
        waiting += list(node.function.concrete_functions)
        if node.HasField("bare_concrete_function"):
            waiting.append(node.bare_concrete_function.concrete_function_name)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        yield name
        for inner in library[name].node_def:
            waiting.append(inner.op)
            for value in inner.attr.values():
                waiting += [value.func.name, *(function.name for function in value.list.func)]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
