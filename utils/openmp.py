"""How long the threads of torch's CPU kernels wait awake for each other; settled before torch is imported."""

from __future__ import annotations

import os

SPINS = "GOMP_SPINCOUNT"
SHORT = 10_000  # turns of the waiting loop, a few tenths of a millisecond; libgomp's own 300,000 are several
ASKED = (SPINS, "OMP_WAIT_POLICY")  # set by the user, these decide


def limit_spinning() -> None:
    """Let a thread that waits for another one sleep soon, unless the environment says how it should wait.

    The threads of a kernel wait for the slowest of them. Where other processes, such as loader workers, hold its core,
    waiting awake takes time from the very thread that is waited for. GNU's library, which PyPI's torch for Linux
    brings, reads the variable once, as it is loaded; others ignore it. Processes started later inherit it.
    """
    if not any(name in os.environ for name in ASKED):
        os.environ[SPINS] = str(SHORT)
