"""TensorFlow.js folders, which browsers and Node.js run."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from models.backend_formats.base import Backend
from utils.errors import InputError


class TfJsBackend(Backend):
    """Say where such a folder runs."""

    folder: ClassVar[bool] = True

    def load(self) -> None:
        """Refuse it."""
        self.run()

    def run(self, *_: Any) -> NoReturn:
        """Refuse it."""
        raise InputError(
            f"weights {self.path}: TensorFlow.js runs in browsers and Node.js; run the .pb file or the SavedModel here"
        )
