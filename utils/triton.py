"""A model on a Triton inference server, called like a network."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from utils.errors import InputError, WorkError


class TritonRemoteModel:
    """Sends tensors to the first model of a Triton server and returns its answers as tensors.

    Attributes:
        model_name: of the server's first model.
        metadata: its inputs and outputs, as the server describes them.

    Args:
        url: ``http://host:port``, or any other scheme (``grpc://host:port``) for gRPC.

    Raises:
        InputError: the package tritonclient is missing, the address has no host, or the server has no model.
        WorkError: the server does not answer.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        if not parts.scheme or not parts.netloc:
            raise InputError(f"url {url!r}: expected http://host:port or grpc://host:port")
        kind = "http" if parts.scheme == "http" else "grpc"
        package = _client(kind)
        try:
            self.client = package.InferenceServerClient(parts.netloc)
            index = self.client.get_model_repository_index()
            models = [model["name"] for model in index] if kind == "http" else [model.name for model in index.models]
            if not models:
                raise InputError(f"{url}: the server has no model")
            self.model_name = models[0]
            options = {} if kind == "http" else {"as_json": True}
            self.metadata = self.client.get_model_metadata(self.model_name, **options)
        except InputError:
            raise
        except Exception as error:  # the client raises its own class and those of its transport
            raise WorkError(f"{url}: the server does not answer ({' '.join(str(error).split())})") from error

        def placeholders() -> list[Any]:
            described = self.metadata["inputs"]
            return [package.InferInput(i["name"], [int(s) for s in i["shape"]], i["datatype"]) for i in described]

        self._create_input_placeholders_fn = placeholders

    @property
    def runtime(self) -> str:
        """What the server runs the model with, such as onnxruntime_onnx."""
        return self.metadata.get("backend", self.metadata.get("platform"))

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the model.

        Args:
            args: one tensor for each of its inputs, in their order.
            kwargs: or one under each input's name.

        Returns:
            Its output; a tuple where it has several.
        """
        response = self.client.infer(model_name=self.model_name, inputs=self._create_inputs(*args, **kwargs))
        result = [torch.as_tensor(response.as_numpy(output["name"])) for output in self.metadata["outputs"]]
        return result[0] if len(result) == 1 else tuple(result)

    def _create_inputs(self, *args: Tensor, **kwargs: Tensor) -> list[Any]:
        """Fill the model's inputs with tensors.

        Raises:
            InputError: both kinds of arguments, or not one for each input.
        """
        placeholders = self._create_input_placeholders_fn()
        names = [placeholder.name() for placeholder in placeholders]
        if bool(args) == bool(kwargs):
            raise InputError(f"{self.model_name}: give its inputs ({', '.join(names)}) all by position or all by name")
        if args:
            if len(args) != len(names):
                raise InputError(f"{self.model_name}: {len(args)} inputs given, expected {len(names)}")
            values = list(args)
        else:
            if set(kwargs) != set(names):
                raise InputError(f"{self.model_name}: inputs {sorted(kwargs)} given, expected {sorted(names)}")
            values = [kwargs[name] for name in names]
        for placeholder, value in zip(placeholders, values, strict=True):
            array = value.cpu().numpy()
            placeholder.set_shape(list(array.shape))  # batches of any size, where the model has a free side
            placeholder.set_data_from_numpy(array)
        return placeholders


def _client(kind: str) -> Any:
    try:
        if kind == "http":
            return importlib.import_module("tritonclient.http")
        return importlib.import_module("tritonclient.grpc")
    except ImportError as error:
        raise InputError(f"a Triton server needs the package tritonclient: pip install tritonclient[{kind}]") from error
