"""TensorFlow.js: not written by this version; Google's converter makes it out of the frozen graph."""

from __future__ import annotations

from utils.exporting.base import Exporter


class TfJsExporter(Exporter):
    """Says how to get there."""

    def missing(self) -> str | None:
        """The converter's package needs JAX, tf-keras and a TensorFlow that goes with them, so it is not called."""
        return (
            "not written by this version; use --include pb, then tensorflowjs_converter --input_format tf_frozen_model "
            "--output_node_names Identity of the package tensorflowjs, in an environment of its own"
        )
