"""Minimal filtering (Toom, Cook, Winograd): several outputs of a short convolution for fewer products.

For m outputs y_i = sum_j k_j x_(i+j) of r taps, m + r - 1 products are enough instead of m r (Winograd, "Arithmetic
Complexity of Computations", 1980). It is the transpose of multiplying polynomials by their values at points: with V
the Vandermonde matrix of m + r - 2 numbers and infinity, and V_k its first k columns (for infinity the last one),

    y = V_m^T [ (V_r k) * (V^-T x) ].

Additions grow only with rows and columns, products with their product, so on wide layers nearly all of it is saved.
The points are small, so float32 loses one or two bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Array = np.ndarray
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)


@dataclass(frozen=True)
class Filter:
    """outputs = mix @ (kernel[shared] @ taps * transform @ inputs), for `span` consecutive inputs."""

    mix: Array  # (outputs, products)
    kernel: Array  # (distinct, taps); the last one serves all further products
    transform: Array  # (products, span)

    @property
    def outputs(self) -> int:
        return len(self.mix)

    @property
    def products(self) -> int:
        return len(self.transform)


@lru_cache(maxsize=16)
def minimal_filter(outputs: int, taps: int, stride: int = 1) -> Filter:
    """The scheme for `outputs` results of a convolution of 2 or 3 taps, stride 1, or of 3 taps, stride 2.

    Stride 2: the outer taps are a 2-tap convolution of every second input; the middle one is applied as it is.
    """
    if stride == 2:
        outer = minimal_filter(outputs, 2)
        transform = np.zeros((outer.products + outputs, 2 * outputs + 1))
        transform[: outer.products, 0::2] = outer.transform
        transform[np.arange(outer.products, len(transform)), np.arange(1, 2 * outputs, 2)] = 1
        kernel = np.zeros((outer.products + 1, 3))
        kernel[:-1, [0, 2]] = outer.kernel
        kernel[-1, 1] = 1
        return Filter(np.hstack([outer.mix, np.eye(outputs)]), kernel, transform)
    products = outputs + taps - 1
    values = np.vander(POINTS[: products - 1], products, increasing=True)

    def vandermonde(columns: int) -> Array:
        return np.vstack([values[:, :columns], np.eye(columns)[-1]])

    transform = np.linalg.inv(vandermonde(products)).T
    sizes = np.where(np.abs(transform) > 1e-9, np.abs(transform), np.inf)
    scale = 1 / sizes.min(axis=1, keepdims=True)  # small whole factors for the inputs
    return Filter(vandermonde(outputs).T, vandermonde(taps) / scale, np.round(transform * scale, 9))
