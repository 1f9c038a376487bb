"""TensorFlow: a SavedModel folder or a frozen graph (.pb), made of the Keras twin of the network."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from models.tf import FIRST_KERAS, import_tensorflow, keras_twin
from utils.exporting.base import Exporter, ExportOptions, Job
from utils.exporting.tf_suppression import suppress

FACTS = "_yolov5"  # attribute of a frozen graph's input that holds the facts as JSON; TensorFlow passes over it


class TensorFlowExporter(Exporter):
    """What the formats made of the Keras twin share."""

    packages: ClassVar = {"tensorflow": "tensorflow"}
    takes: ClassVar = frozenset({"nms", "dynamic"})

    def missing(self) -> str | None:
        """TensorFlow with Keras 3 is needed."""
        missing = super().missing()
        if missing is not None:
            return missing
        try:
            keras = int(importlib.metadata.version("keras").split(".")[0])
        except importlib.metadata.PackageNotFoundError:
            keras = 0
        if keras < FIRST_KERAS:
            return f"needs TensorFlow 2.16 or later with Keras 3, Keras {keras} is installed: pip install -U tensorflow"
        return None

    def problems(self, options: ExportOptions) -> list[str]:
        """Suppression is written out image by image, so the batch must be known."""
        problems = []
        if options.nms and options.dynamic:
            problems.append("--nms with --dynamic: allowed is one of them for TensorFlow formats")
        if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
            problems.append(f"KERAS_BACKEND={os.environ['KERAS_BACKEND']}: TensorFlow formats need tensorflow there")
        return problems


class SavedModelExporter(TensorFlowExporter):
    """Writes SavedModel folders; with --keras, a .keras file of the same model lies in it."""

    takes: ClassVar = frozenset({"nms", "dynamic", "keras"})

    def write(self, job: Job, target: Path) -> Any:
        """Write the folder and return the Keras model."""
        from utils.yaml_files import write_yaml

        tf = import_tensorflow()
        model = twin_of(job)
        graph = frozen(tf, concrete(tf, model, job))
        module = tf.Module()
        module.__call__ = tf.function(lambda x: _outputs(graph, x), graph_inputs(tf, job))
        signature = tf.function(lambda images: _named(graph, images, job), graph_inputs(tf, job, "images"))
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, str(target), {"serving_default": signature.get_concrete_function()}, options)
        if job.options.keras:
            model.save(target / f"{job.file.stem}.keras")
        write_yaml(target / f"{job.file.stem}.yaml", job.metadata())
        return model


class GraphDefExporter(TensorFlowExporter):
    """Writes frozen graphs with the input x and the outputs Identity, Identity_1 and so on."""

    def write(self, job: Job, target: Path) -> Any:
        """Write the graph."""
        tf = import_tensorflow()
        target.write_bytes(frozen_graph_def(tf, job).SerializeToString(deterministic=True))


def twin_of(job: Job) -> Any:
    """Return the Keras model of a job, with a free batch where --dynamic is given."""
    return keras_twin(job.network, job.options.imgsz, None if job.options.dynamic else job.options.batch_size)


def graph_inputs(tf: Any, job: Job, name: str = "x") -> list[Any]:
    """Return the specification of the images that a graph takes: (b, h, w, 3) in 0-1."""
    batch = None if job.options.dynamic else job.options.batch_size
    return [tf.TensorSpec((batch, *job.options.imgsz, 3), tf.float32, name=name)]


def concrete(tf: Any, model: Any, job: Job) -> Any:
    """Return the function of a Keras model, with suppression where --nms is given; outputs in the order of _NAMES."""
    options, nc = job.options, len(job.facts.names)

    def run(x: Any) -> tuple[Any, ...]:
        y = model(x, training=False)
        rows, *others = y if isinstance(y, (list, tuple)) else (y,)
        if not options.nms:
            return (rows, *others)
        return (*suppress(tf, rows, nc, options).values(), *others)

    return tf.function(run).get_concrete_function(*graph_inputs(tf, job))


def frozen(tf: Any, function: Callable[..., Any]) -> Any:
    """Return a function with its variables turned into constants."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)


def frozen_graph_def(tf: Any, job: Job) -> Any:
    """Return the frozen graph of a job, its facts in an attribute of the input."""
    definition = frozen(tf, concrete(tf, twin_of(job), job)).graph.as_graph_def()
    image = next(node for node in definition.node if node.op == "Placeholder")
    image.attr[FACTS].s = json.dumps(job.metadata()).encode()
    return definition


def output_names(job: Job) -> list[str]:
    """Return the names of a graph's outputs in their order."""
    if not job.options.nms:
        return [f"output{i}" for i in range(len(job.expected))]
    names = ["boxes", "scores", "classes", "valid"]
    return [*names, "masks", "prototypes"] if len(job.expected) > 1 else names


def _outputs(graph: Any, x: Any) -> Any:
    found = list(graph(x))
    return found[0] if len(found) == 1 else found


def _named(graph: Any, images: Any, job: Job) -> dict[str, Any]:
    return dict(zip(output_names(job), list(graph(images)), strict=True))
