"""Ways to run a network: one callable per network, whatever computes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from ..config import Config
from ..errors import UsageError

Array = np.ndarray
Noise = Callable[[str, int, int], Array]  # (layer, batch, steps) -> standard normal numbers (batch, steps)


class Network(Protocol):
    """What runs one network: x (batch, time, channels) float32 -> its outputs, each (batch, time, channels) float32.

    Without `noise` nothing is injected. `precision`, of its products: "float32" or "bfloat16".
    """

    precision: str

    def __call__(self, x: Array, noise: Noise | None = None) -> tuple[Array, ...]: ...


def make_network(
    name: str, config: Config, parameters: Mapping[str, Array], backend: str = "auto", precision: str = "auto"
) -> Network:
    """The network called `name` on `backend`: "numba", "numpy", or "auto" for Numba where it loads.

    precision: "float32", "bfloat16" or "auto" (bfloat16 where the CPU multiplies it). EVERWAVE_PATH=numpy turns the
    engine off. UsageError for an unknown name or a path or precision that this machine lacks.
    """
    if backend not in ("auto", "numba", "numpy"):
        raise UsageError(f"backend={backend!r}; it must be auto, numba or numpy")
    if uses_numpy(backend):
        if precision == "bfloat16":
            raise UsageError("precision='bfloat16' needs the Numba engine; use float32 or auto")
        from .numpy_ops import NumpyNetwork

        return NumpyNetwork(name, config, parameters)
    from .numba_ops import numba_network

    return numba_network(name, config, parameters, precision)


def uses_numpy(backend: str) -> bool:
    """Whether networks on `backend` are NumPy's, and so use its BLAS."""
    return backend == "numpy" or (
        backend == "auto" and (os.environ.get("EVERWAVE_PATH") == "numpy" or not _numba_loads())
    )


def _numba_loads() -> bool:
    try:
        import numba  # noqa: F401

        from .. import kernels  # noqa: F401 - says whether it may compile
    except (ImportError, OSError):
        return False
    return True
