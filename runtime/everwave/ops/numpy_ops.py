"""The reference op set, and the fallback where Numba cannot load: plain NumPy, one line per equation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..config import Config
from ..networks import NETWORKS
from . import Array, Noise
from .blocks import Blocks, same_padding

ADAIN_EPSILON = 1e-5


class NumpyOps(Blocks):
    """Computes with `parameters` (name -> float32 array); without `noise` nothing is injected."""

    def __init__(self, parameters: Mapping[str, Array], noise: Noise | None = None) -> None:
        self.parameters = parameters
        self.noise = noise

    def block(self, name: str, x: Array, width: int, *, kernel: int, stride: int = 1, padding: str = "same",
              up: bool = False, noise: bool = False, style: Array | None = None, activation: str | None = None) -> Array:  # fmt: skip
        weights = self.parameters[f"{name}/kernel"]
        y = convolve_up(x, weights) if up else convolve(x, weights, stride, padding)
        return self._epilogue(name, y + self.parameters[f"{name}/bias"], noise, style, activation)

    def styled_dense(self, name: str, x: Array, style: Array, steps: int, width: int) -> Array:
        y = x.reshape(len(x), -1) @ self.parameters[f"{name}/kernel"] + self.parameters[f"{name}/bias"]
        return self._epilogue(name, y.reshape(len(x), steps, width), True, style, "swish")

    def average_pool(self, x: Array) -> Array:
        return (x[:, 0::2] + x[:, 1::2]) * np.float32(0.5)

    def pixel_shuffle(self, x: Array) -> Array:
        """Channel c * 2 + f of step t becomes channel c of step 2 t + f."""
        batch, steps, channels = x.shape
        return x.reshape(batch, steps, channels // 2, 2).swapaxes(2, 3).reshape(batch, 2 * steps, channels // 2)

    def _epilogue(self, name: str, y: Array, noise: bool, style: Array | None, activation: str | None) -> Array:
        if noise and self.noise is not None:
            y = y + self.parameters[f"{name}/noise"] * self.noise(name, *y.shape[:2])[..., None]
        if style is not None:
            gain = style @ self.parameters[f"{name}/style_kernel"][0] + self.parameters[f"{name}/style_bias"]
            y = y / (y.std(axis=1, keepdims=True) + np.float32(ADAIN_EPSILON)) * gain
        return ACTIVATIONS[activation](y)


class NumpyNetwork:
    """The reference: computes the network called `name` with NumPy alone."""

    precision = "float32"

    def __init__(self, name: str, config: Config, parameters: Mapping[str, Array]) -> None:
        self.name, self.config = name, config
        self.parameters = {key: np.asarray(values, np.float32) for key, values in parameters.items()}

    def __call__(self, x: Array, noise: Noise | None = None) -> tuple[Array, ...]:
        result = NETWORKS[self.name](NumpyOps(self.parameters, noise), x, self.config)
        return result if isinstance(result, tuple) else (result,)


def convolve(x: Array, kernel: Array, stride: int, padding: str) -> Array:
    """(B, T, C) with kernel (k, C, N) -> (B, T', N); 'same' pads as TensorFlow does, 'valid' not at all."""
    taps = len(kernel)
    if padding == "same":
        x = np.pad(x, ((0, 0), same_padding(taps, stride, x.shape[1]), (0, 0)))
    patches = sliding_window_view(x, taps, axis=1)[:, ::stride].swapaxes(2, 3)  # (B, T', k, C)
    return patches.reshape(*patches.shape[:2], -1) @ kernel.reshape(-1, kernel.shape[-1])


def convolve_up(x: Array, kernel: Array) -> Array:
    """Transposed convolution, 4 taps, stride 2, 'same': (B, T, C) with kernel (4, C, N) -> (B, 2 T, N).

    Two 2-tap convolutions, no zero is inserted: y[2m] = x[m] K1 + x[m-1] K3, y[2m+1] = x[m] K2 + x[m+1] K0.
    """
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    even = x @ kernel[1] + padded[:, :-2] @ kernel[3]
    odd = x @ kernel[2] + padded[:, 2:] @ kernel[0]
    return np.stack([even, odd], axis=2).reshape(x.shape[0], 2 * x.shape[1], -1)


def swish(x: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        return x / (1 + np.exp(-x))


ACTIVATIONS: dict[str | None, Callable[[Array], Array]] = {
    None: lambda x: x,
    "swish": swish,
    "tanh": np.tanh,
    "clip": lambda x: np.clip(x, -1, 1),
}
