"""How numbers lie in memory: weights in the order that products read them, activations and weights by their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..kernels import steps as E
from ..kernels.paths import Path

Array = np.ndarray


def stored_as(parameters: Mapping[str, Array], path: Path) -> type:
    """How weights are kept: float16 where the CPU reads it and nothing is lost, else float32, or pairs of bfloat16."""
    if path.precision == "bfloat16":
        return np.uint32
    kernels = (values for name, values in parameters.items() if name.endswith("kernel"))
    exact = path.halves and all(values.dtype == np.float16 or is_half(values) for values in kernels)
    return np.float16 if exact else np.float32


def is_half(values: Array) -> bool:
    """Whether float16 holds these float32 numbers exactly."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16), values))


def pack(kernels: Array, path: Path, stored: type | None = None, factors: Array | None = None) -> Iterator[Array]:
    """(P, K, N) as panels of `path.vectors` vectors of columns or, at the end, of one fewer (never of one), each (P, K, columns), in the order `engine._product` reads; a flat panel at a time.

    bfloat16 (K even): panels are (P, K / 2, columns) of uint32, so that a lane holds two neighbours in K.
    `stored` float16: their bits in int16. `factors` (Q, P): Q mixtures of the P are packed in their place.
    """
    lanes, column, halves = path.lanes, 0, stored == np.float16
    factors = None if factors is None else factors.astype(np.float32)
    for size in panel_widths(kernels.shape[2], path):
        part = kernels[:, :, column : column + size * lanes]
        if factors is not None:
            part = np.tensordot(factors, part.astype(np.float32), 1)
        count, depth, width = part.shape
        panel = np.zeros((count, depth, size * lanes), np.float16 if halves else np.float32)
        panel[:, :, :width] = part
        if path.unit:  # (steps, halves, 16 pairs, 16 columns): every tile of weights lies in one piece
            panel = panel.reshape(-1, E.LINE * 2, size, lanes).swapaxes(1, 2).reshape(1, -1, lanes)
        if path.precision == "bfloat16":
            panel = to_bfloat16(panel.reshape(count, -1, 2, panel.shape[2]).swapaxes(2, 3)).view(np.uint32)
        yield panel.ravel().view(np.int16) if halves else panel.ravel()
        column += size * lanes


def panel_widths(width: int, path: Path) -> Iterator[int]:
    """Vectors of every panel of `width` columns: all wide, or narrow ones at the end, as `engine._product` takes them."""
    left = -(-width // path.lanes)
    while left > 0:
        size = path.vectors - (path.vectors > 2 and left != path.vectors and left <= path.vectors + 1)
        yield size
        left -= size


def panels(path: Path) -> tuple[Any, Any]:
    """What the kernels take for the widths of panels: wide and narrow ones. Panels of one vector do not pay."""
    return (0,) * path.vectors, (0,) * (path.vectors - 1) if path.vectors > 2 else None


def to_bfloat16(x: Array) -> Array:
    """Float32 numbers as the upper halves of their bits, rounded to nearest even, in uint16."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def element(path: Path) -> type:
    """The type of activations; weights are as wide, or pairs of bfloat16 in uint32."""
    return np.uint16 if path.precision == "bfloat16" else np.float32


def aligned(size: int, dtype: DTypeLike) -> Array:
    """Zeros that start on a cache line."""
    itemsize = np.dtype(dtype).itemsize
    array: Array = np.zeros(size + 64 // itemsize, dtype)
    start = -array.ctypes.data % 64 // itemsize
    return array[start : start + size]
