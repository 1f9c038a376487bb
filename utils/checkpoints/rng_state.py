"""The state of every global random generator as plain numbers, text and int64 tensors, for exact resume."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from utils.errors import InputError


def capture_rng() -> dict[str, Any]:
    """Return the state of Python's, NumPy's (legacy) and torch's global generators, CUDA's of this process included.

    Tensors are int64 because checkpoints hold no byte storages.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  (the global one is what is kept)
    devices = [_widen(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "name": str(name),
            "keys": torch.from_numpy(keys.astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": _widen(torch.get_rng_state()),
        "cuda": devices,
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Put back what ``capture_rng`` returned; CUDA's part only where as many devices are there.

    Raises:
        InputError: the state is not one that ``capture_rng`` made.
    """
    try:
        python, legacy = state["python"], state["numpy"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        keys = legacy["keys"].cpu().numpy().astype(np.uint32)
        np.random.set_state((legacy["name"], keys, legacy["position"], legacy["has_gauss"], legacy["cached"]))  # noqa: NPY002
        torch.set_rng_state(_narrow(state["torch"]))
        devices = [_narrow(item) for item in state["cuda"]]
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"the saved state of the random generators is damaged ({error})") from error
    if devices and torch.cuda.is_available() and len(devices) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(devices)


def _widen(state: torch.Tensor) -> torch.Tensor:
    """Return a generator's bytes as int64 words, eight bytes each; the last word is filled up with zeros.

    The first word is the number of bytes.
    """
    data = state.cpu().numpy()
    padded = np.zeros(-(-data.size // 8) * 8, dtype=np.uint8)
    padded[: data.size] = data
    words = padded.view("<i8").astype(np.int64)
    return torch.from_numpy(np.concatenate([np.array([data.size], dtype=np.int64), words]))


def _narrow(words: torch.Tensor) -> torch.Tensor:
    numbers = words.cpu().numpy()
    return torch.from_numpy(numbers[1:].astype("<i8").view(np.uint8)[: int(numbers[0])].copy())
