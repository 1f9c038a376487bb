"""TensorFlow.js folders, which browsers and Node.js run."""

from __future__ import annotations

from typing import ClassVar

from models.backend_formats.base import Unavailable


class TfJsBackend(Unavailable):
    """Say where such a folder runs."""

    reason: ClassVar[str] = "TensorFlow.js runs in browsers and Node.js; run the .pb file or the SavedModel here"
