"""Ways to run a network: one callable per network, whatever computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..config import Config

Network = Callable[..., tuple[np.ndarray, ...]]  # (x, noise=None) -> outputs


def numpy_network(name: str, config: Config, parameters: Mapping[str, np.ndarray]) -> Network:
    """The reference: `run(x, noise)` computes the network called `name` with NumPy alone."""
    from ..networks import NETWORKS
    from .numpy_ops import Noise, NumpyOps

    def run(x: np.ndarray, noise: Noise | None = None) -> tuple[np.ndarray, ...]:
        result = NETWORKS[name](NumpyOps(parameters, noise), x, config)
        return result if isinstance(result, tuple) else (result,)

    return run
