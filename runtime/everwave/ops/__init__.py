"""Ways to run a network: one callable per network, whatever computes it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol

import numpy as np

from .. import kernels
from ..config import Config
from ..errors import UsageError

log = logging.getLogger(__name__)
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


@cache
def _numba_loads() -> bool:
    """Whether there are kernels; if not, a warning says why, once."""
    if why := kernels.trouble():
        log.warning("NumPy does the work of kernels, slowly: %s; if that is meant, set EVERWAVE_PATH=numpy", why)
    return not why
